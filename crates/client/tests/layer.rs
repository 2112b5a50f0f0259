//! The same story by each way of guarding a call: the cluster sees the same.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use brama_client::{
    CallError, Circuit, Client, ClientEvent, Event, From, GrpcStatus, HttpStatus, NotMade, Policy, StateName,
    Subscription, circuit_breaker,
};
use futures::StreamExt;
use support::{Cluster, fragile, within};
use tower::{Layer, Service, ServiceExt, service_fn};

/// What the calls of the story came to: `Ok`, the error's own text, or `rejected`.
type Told = Vec<Result<u32, String>>;

fn two_failures() -> Policy {
    Policy {
        max_attempts: Some(2),
        ..fragile(Duration::from_millis(150))
    }
}

fn shown(result: Result<u32, CallError<String>>) -> Result<u32, String> {
    result.map_err(|error| match error {
        CallError::Inner(error) => error,
        CallError::Rejected { .. } => "rejected".to_owned(),
        CallError::Cluster(error) => panic!("{error:?}"),
    })
}

/// Good, bad, bad (it opens), rejected, then a probe that fails, rejected, a probe that succeeds, good.
async fn story(
    client: &Client,
    circuit: &Circuit,
    mut call: impl AsyncFnMut(bool) -> Result<u32, CallError<String>>,
) -> Told {
    circuit.register_with(two_failures()).await.unwrap();
    let mut told = Vec::new();
    for works in [true, false, false, true] {
        told.push(shown(call(works).await));
        client.flush().await.unwrap();
    }
    for works in [false, true] {
        knows(circuit, StateName::HalfOpen).await;
        told.push(shown(call(works).await));
        client.flush().await.unwrap();
        told.push(shown(call(true).await));
        client.flush().await.unwrap();
    }
    told
}

async fn knows(circuit: &Circuit, state: StateName) {
    within(&format!("it knows {state:?}"), async {
        while circuit.known_state() != Some(state) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// The circuit's events, without what tells one run from another.
async fn events(client: &Client, circuit: &Circuit) -> Vec<String> {
    let name = circuit.name().clone();
    let wanted = move |event: &Event| event.name.as_ref() == Some(&name);
    let newest = circuit.status().await.unwrap().revision;
    let subscription = Subscription::new().from(From::Oldest).filter_with(wanted);
    let mut stream = client.subscribe(subscription).await.unwrap();
    let mut shown = Vec::new();
    loop {
        let Some(Ok(ClientEvent::Event { event, .. })) = within("an event", stream.next()).await else {
            panic!("an event")
        };
        shown.push(format!(
            "{} {:?}->{:?} failures {} generation {} count {} {:?}",
            event.kind.name(),
            event.previous_state,
            event.new_state,
            event.failure_count,
            event.generation,
            event.count,
            event.reason
        ));
        if event.revision == newest {
            return shown;
        }
    }
}

async fn answer(works: bool) -> Result<u32, String> {
    if works { Ok(7) } else { Err("boom".to_owned()) }
}

/// The error of a function behind the attribute.
#[derive(Debug)]
enum Failed {
    NotMade(NotMade),
    Itself(String),
}

impl std::convert::From<NotMade> for Failed {
    fn from(not_made: NotMade) -> Self {
        Self::NotMade(not_made)
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotMade(error) => error.fmt(f),
            Self::Itself(error) => f.write_str(error),
        }
    }
}

impl Failed {
    fn told(self) -> CallError<String> {
        match self {
            Self::NotMade(error) => error.widen(),
            Self::Itself(error) => CallError::Inner(error),
        }
    }
}

#[circuit_breaker("by_macro", scope = "macros", client = client, policy = two_failures())]
async fn guarded(client: &Client, works: bool) -> Result<u32, Failed> {
    let answer = answer(works).await.map_err(Failed::Itself)?;
    Ok(answer)
}

#[circuit_breaker("by_blocking_macro", client = client, policy = two_failures())]
fn guarded_blocking(client: &Client, works: bool) -> Result<u32, Failed> {
    if works {
        Ok(7)
    } else {
        Err(Failed::Itself("boom".to_owned()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_hand_by_call_by_layer_and_by_macro_the_cluster_sees_the_same() {
    let cluster = Cluster::start().await;
    let client = cluster.client(0);

    let by_hand = client.circuit("by_hand");
    let first = story(&client, &by_hand, async |works| {
        let permit = by_hand.try_acquire().await.map_err(CallError::widen)?;
        let result = answer(works).await;
        match &result {
            Ok(_) => permit.success(),
            Err(reason) => permit.failure(reason),
        }
        result.map_err(CallError::Inner)
    })
    .await;
    let rejected = || Err("rejected".to_owned());
    let boom = || Err("boom".to_owned());
    assert_eq!(
        first,
        [
            Ok(7),
            boom(),
            boom(),
            rejected(),
            boom(),
            rejected(),
            Ok(7),
            Ok(7)
        ]
    );

    let by_call = client.circuit("by_call");
    let second = story(&client, &by_call, async |works| by_call.call(answer(works)).await).await;
    assert_eq!(second, first);

    let by_layer = client.circuit("by_layer").scope("layers");
    let mut service = by_layer.layer().layer(service_fn(answer));
    let third = story(&client, &by_layer, async |works| {
        service.ready().await?.call(works).await
    })
    .await;
    assert_eq!(third, first);

    let by_macro = client.circuit("by_macro").scope("macros");
    let fourth = story(&client, &by_macro, async |works| {
        guarded(&client, works).await.map_err(Failed::told)
    })
    .await;
    assert_eq!(fourth, first);

    let by_blocking_macro = client.circuit("by_blocking_macro");
    let fifth = story(&client, &by_blocking_macro, async |works| {
        guarded_blocking(&client, works).map_err(Failed::told)
    })
    .await;
    assert_eq!(fifth, first);

    let expected = events(&client, &by_hand).await;
    assert!(expected.len() > 10, "{expected:#?}");
    assert_eq!(events(&client, &by_call).await, expected);
    assert_eq!(events(&client, &by_layer).await, expected);
    assert_eq!(events(&client, &by_macro).await, expected);
    assert_eq!(events(&client, &by_blocking_macro).await, expected);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn classifiers_know_http_and_grpc() {
    let cluster = Cluster::start().await;
    let client = cluster.client(0);
    let http = client.circuit("http");
    http.register_with(two_failures()).await.unwrap();
    let respond = |status: u16| async move { http::Response::builder().status(status).body(()) };
    let service = http.wrap(service_fn(respond)).classify(HttpStatus);
    for status in [200, 404, 503, 200, 429] {
        let response = service.clone().oneshot(status).await.unwrap();
        assert_eq!(response.status(), status);
    }
    let grpc = client.circuit("grpc");
    grpc.register_with(two_failures()).await.unwrap();
    let respond = |code: tonic::Code| async move { Err::<(), _>(tonic::Status::new(code, "why")) };
    let service = grpc.wrap(service_fn(respond)).classify(GrpcStatus);
    for code in [
        tonic::Code::NotFound,
        tonic::Code::Unavailable,
        tonic::Code::Cancelled,
    ] {
        let error = service.clone().oneshot(code).await.unwrap_err();
        assert!(matches!(error, CallError::Inner(status) if status.code() == code));
    }
    client.flush().await.unwrap();
    let totals = http.status().await.unwrap().totals;
    assert_eq!((totals.successes, totals.failures), (3, 2));
    let totals = grpc.status().await.unwrap().totals;
    assert_eq!((totals.successes, totals.failures, totals.ignored), (1, 1, 1));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_gives_its_probe_back() {
    let cluster = Cluster::start().await;
    let client = cluster.client(0);
    let circuit = client.circuit("dropped");
    circuit
        .register_with(fragile(Duration::from_millis(50)))
        .await
        .unwrap();
    circuit.failure("boom").await.unwrap();
    knows(&circuit, StateName::HalfOpen).await;
    let begun = Arc::new(AtomicBool::new(false));
    let hangs = {
        let begun = begun.clone();
        service_fn(move |(): ()| {
            begun.store(true, Ordering::SeqCst);
            std::future::pending::<Result<(), String>>()
        })
    };
    let call = circuit.wrap(hangs).oneshot(());
    assert!(
        tokio::time::timeout(Duration::from_millis(500), call)
            .await
            .is_err()
    );
    assert!(begun.load(Ordering::SeqCst), "it was admitted");
    within("the place is free", async {
        while circuit.status().await.unwrap().probes_in_flight > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    cluster.stop().await;
}
