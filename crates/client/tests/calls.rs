//! Calls through a circuit that clients of several nodes share.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::future::pending;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use brama_client::{CallError, Circuit, Classified, Policy, StateName, Totals};
use support::{Cluster, fragile, within};

async fn fails() -> Result<(), String> {
    Err("boom".to_owned())
}

async fn works() -> Result<(), String> {
    Ok(())
}

async fn until(circuit: &Circuit, state: StateName) {
    within(&format!("{state:?}"), async {
        while circuit.status().await.unwrap().state != state {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// What happened at the cluster is told to each client, a moment later.
async fn knows(circuit: &Circuit, state: StateName) {
    within(&format!("it knows {state:?}"), async {
        while circuit.known_state() != Some(state) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_client_learns_all_know() {
    let cluster = Cluster::start().await;
    let clients = [cluster.client(0), cluster.client(1), cluster.client(2)];
    let [here, there, _] = [0, 1, 2].map(|i| clients[i].circuit("payment_api"));
    here.register(fragile(Duration::from_millis(300))).await.unwrap();
    // As a fleet does at start-up: everybody registers, the first one's policy stays.
    assert!(!there.register(Policy::default()).await.unwrap().created);

    here.call(works()).await.unwrap();
    let error = here.call(fails()).await.unwrap_err();
    assert!(matches!(error, CallError::Inner(inner) if inner == "boom"));
    clients[0].flush().await.unwrap();
    assert_eq!(
        here.known_state(),
        Some(StateName::Open),
        "who opened it knows at once"
    );
    knows(&there, StateName::Open).await;

    let made = AtomicU32::new(0);
    let count = async || -> Result<(), String> {
        made.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    match there.call(count()).await.unwrap_err() {
        CallError::Rejected {
            state,
            reason,
            retry_after,
            opened_at,
            generation,
            ..
        } => {
            assert_eq!((state, generation), (StateName::Open, 2));
            assert_eq!(reason.as_deref(), Some("boom"));
            assert!(retry_after.unwrap() <= Duration::from_millis(300));
            assert!(opened_at.is_some());
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(made.load(Ordering::SeqCst), 0, "a rejected call is not made");

    // Half-open: one probe passes, of all that ask at once, through whatever node.
    let probe = clients[2].circuit("payment_api");
    for circuit in [&here, &there, &probe] {
        knows(circuit, StateName::HalfOpen).await;
    }
    let (begun, is_begun) = tokio::sync::oneshot::channel();
    let (finish, may_finish) = tokio::sync::oneshot::channel::<()>();
    let probing = tokio::spawn(async move {
        probe
            .call(async {
                begun.send(()).unwrap();
                may_finish.await.unwrap();
                Ok::<_, String>(())
            })
            .await
    });
    within("the probe is admitted", is_begun).await.unwrap();
    for circuit in [&here, &there] {
        let error = circuit.call(count()).await.unwrap_err();
        assert!(
            matches!(
                &error,
                CallError::Rejected {
                    state: StateName::HalfOpen,
                    ..
                }
            ),
            "{error:?}"
        );
    }
    assert_eq!(made.load(Ordering::SeqCst), 0);
    finish.send(()).unwrap();
    within("the probe ends", probing).await.unwrap().unwrap();
    clients[2].flush().await.unwrap();
    knows(&there, StateName::Closed).await;

    there.call(count()).await.unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 1);
    for client in &clients {
        client.flush().await.unwrap();
        let stats = client.report_stats();
        let lost = (stats.waiting, stats.dropped, stats.unknown, stats.refused);
        assert_eq!(stats.not_found, 0);
        assert_eq!(lost, (0, 0, 0, 0));
    }
    let totals = here.status().await.unwrap().totals;
    assert_eq!((totals.successes, totals.failures, totals.rejected), (3, 1, 3));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_classifier_has_the_last_word() {
    let cluster = Cluster::start().await;
    let client = cluster.client(0);
    let circuit = client.scoped("shop", "search");
    circuit.register(fragile(Duration::from_secs(60))).await.unwrap();
    let told = async |classified: Classified| {
        let result = circuit.call_with(fails(), |_| classified).await;
        client.flush().await.unwrap();
        (result, circuit.status().await.unwrap())
    };
    // "Not found" is an answer, and a caller's own mistake is neither good nor bad news.
    let (result, status) = told(Classified::Ignore).await;
    assert!(matches!(result, Err(CallError::Inner(_))));
    assert_eq!((status.state, status.totals.ignored), (StateName::Closed, 1));
    let (_, status) = told(Classified::Success).await;
    assert_eq!((status.state, status.totals.successes), (StateName::Closed, 1));
    // A success that is too good to be true; its reason is as long as it likes.
    let result = circuit
        .call_with(works(), |_| Classified::Failure("ü".repeat(1000)))
        .await;
    assert!(result.is_ok(), "the caller gets what the call gave");
    client.flush().await.unwrap();
    let status = circuit.status().await.unwrap();
    assert_eq!((status.state, status.totals.failures), (StateName::Open, 1));
    assert_eq!(status.last_reason.as_deref(), Some(&*"ü".repeat(512)));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_is_dropped_or_panics_gives_its_place_back() {
    let cluster = Cluster::start().await;
    let client = cluster.client(0);
    let circuit = client.circuit("payment_api");
    // A probe's timeout is 30 s: longer than this test waits.
    circuit
        .register(fragile(Duration::from_millis(50)))
        .await
        .unwrap();
    circuit.failure("boom").await.unwrap();
    until(&circuit, StateName::HalfOpen).await;

    for panics in [false, true] {
        let (begun, is_begun) = tokio::sync::oneshot::channel();
        let probe = circuit.clone();
        let call = tokio::spawn(async move {
            let work = async {
                begun.send(()).unwrap();
                if panics {
                    panic!("on purpose");
                }
                pending::<Result<(), String>>().await
            };
            probe.call(work).await
        });
        within("the probe is admitted", is_begun).await.unwrap();
        if !panics {
            assert_eq!(circuit.status().await.unwrap().probes_in_flight, 1);
            call.abort();
        }
        assert!(within("the call ends", call).await.is_err());
        within("the place is free", async {
            while circuit.status().await.unwrap().probes_in_flight > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert_eq!(circuit.status().await.unwrap().state, StateName::HalfOpen);
    }
    circuit.call(works()).await.unwrap();
    client.flush().await.unwrap();
    until(&circuit, StateName::Closed).await;
    cluster.stop().await;
}

/// A call has a scope, tells of every end that it can come to, and asks once.
#[tokio::test(flavor = "multi_thread")]
async fn defect_27_a_call_knows_its_scope_and_tells_of_every_end() {
    let cluster = Cluster::start().await;
    let client = cluster.client(1);
    let (mine, other) = (client.scoped("shop", "search"), client.scoped("blog", "search"));
    for circuit in [&mine, &other] {
        circuit.register(Policy::default()).await.unwrap();
    }
    mine.call(works()).await.unwrap();
    mine.call(fails()).await.unwrap_err();
    // A timeout around the call drops it; a panic unwinds it.
    let dropped = mine.call(pending::<Result<(), String>>());
    assert!(
        tokio::time::timeout(Duration::from_millis(200), dropped)
            .await
            .is_err()
    );
    let panicking = mine.clone();
    let panicked = tokio::spawn(async move {
        panicking
            .call(async { panic!("on purpose") as Result<(), String> })
            .await
    });
    assert!(within("the panic", panicked).await.unwrap_err().is_panic());
    client.flush().await.unwrap();
    let totals = mine.status().await.unwrap().totals;
    assert_eq!((totals.successes, totals.failures, totals.ignored), (1, 1, 2));
    assert_eq!(other.status().await.unwrap().totals, Totals::default());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_circuit_or_with_a_bad_name_no_call_is_made() {
    let cluster = Cluster::start().await;
    let client = cluster.client(0);
    let made = AtomicU32::new(0);
    for name in ["nobody", "", "a\nb"] {
        let work = async {
            made.fetch_add(1, Ordering::SeqCst);
            works().await
        };
        let error = client.circuit(name).call(work).await.unwrap_err();
        let CallError::Cluster(error) = error else {
            panic!("{error:?}")
        };
        let expected = match name {
            "nobody" => matches!(error, brama_client::Error::NotFound { .. }),
            _ => {
                matches!(&error, brama_client::Error::InvalidArgument { field, .. } if field == "identifier")
            }
        };
        assert!(expected, "{name:?}: {error:?}");
    }
    assert_eq!(made.load(Ordering::SeqCst), 0);
    cluster.stop().await;
}
