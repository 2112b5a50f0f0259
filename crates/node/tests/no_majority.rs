//! A node that is cut off from the others says so, changes nothing, and goes on when they are back.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use brama_proto::v1;
use common::{Cluster, Refused, Subscriber, local, name, within};
use v1::subscribe_response::Message;

const TIMEOUT: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_node_says_what_it_can_and_cannot_do() {
    // No progress message comes by itself.
    let mut cluster = Cluster::start_with(&[("events.progress_interval", "5m")]).await;
    cluster.register(0, &name("known"), v1::Policy::default()).await;
    let lone = cluster.leader().await;
    let mut subscriber = Subscriber::new(cluster.events(lone), v1::SubscribeRequest::default())
        .await
        .unwrap();
    for i in (0..3).filter(|i| *i != lone) {
        cluster.down(i).await;
    }

    // A subscriber hears of it without waiting for the next progress message.
    assert!(!within("the quorum is lost", quorum(&mut subscriber, false)).await);

    // Whatever would have to be agreed on is refused in time, with the advice to try again; nothing was changed.
    let no_leader = Refused::new(Code::Unavailable, "NO_LEADER", None);
    let known = || Some(name("known"));
    let mut client = cluster.circuits(lone);
    let read = client.status(soon(v1::StatusRequest {
        name: known(),
        consistency: None,
    }));
    let refused = refused_in_time(read.await.unwrap_err());
    assert_eq!(refused, no_leader);
    let acquire = client.acquire(soon(v1::AcquireRequest {
        name: known(),
        permit_id: Vec::new(),
    }));
    assert_eq!(refused_in_time(acquire.await.unwrap_err()), no_leader);
    let write = client.register(soon(v1::RegisterRequest {
        name: Some(name("other")),
        ..Default::default()
    }));
    assert_eq!(refused_in_time(write.await.unwrap_err()), no_leader);

    // A stream of reports goes on after such an answer.
    let reports = |n: u64| {
        (1..=n).map(|sequence| v1::ReportRequest {
            session: Some(v1::Session {
                id: vec![7; 16],
                sequence,
            }),
            items: Vec::new(),
        })
    };
    let requests = futures::stream::iter(reports(3).collect::<Vec<_>>());
    let mut answers = client.report_stream(requests).await.unwrap().into_inner();
    for expected in 1..=3 {
        let answer = common::next(&mut answers).await.unwrap();
        assert_eq!(answer.sequence, expected);
    }

    // What it knows, it tells.
    let asked = v1::AvailableRequest {
        name: known(),
        consistency: None,
    };
    assert!(
        client
            .available(soon(asked))
            .await
            .unwrap()
            .into_inner()
            .available
    );
    let asked = v1::ListRequest {
        consistency: Some(local()),
        ..Default::default()
    };
    let listed = client.list(soon(asked)).await.unwrap().into_inner();
    assert_eq!(
        listed.circuits.len(),
        1,
        "the write that was refused has left nothing"
    );
    let status = cluster.cluster(lone).status(v1::ClusterStatusRequest {}).await;
    assert!(!status.unwrap().into_inner().has_quorum);

    // With one more node there is a majority again.
    let other = (lone + 1) % 3;
    cluster.up(other).await;
    assert!(within("the quorum is back", quorum(&mut subscriber, true)).await);
    cluster.ready().await;
    cluster
        .register(lone, &name("other"), v1::Policy::default())
        .await;
    let event = subscriber.event().await.unwrap();
    assert_eq!(event.name, Some(name("other")), "nothing else has happened");
    cluster.stop().await;
}

/// What the next progress message with another answer than before says of the quorum.
async fn quorum(subscriber: &mut Subscriber, wanted: bool) -> bool {
    loop {
        match subscriber.message().await.unwrap() {
            Message::Progress(progress) if progress.has_quorum == wanted => return progress.has_quorum,
            Message::Progress(_) => {}
            Message::Event(event) => panic!("unexpected {event:?}"),
        }
    }
}

fn soon<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(TIMEOUT);
    request
}

fn refused_in_time(status: Status) -> Refused {
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
    Refused::of(&status)
}

/// A caller that stops waiting learns less than one that is answered in time: so it is answered before.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_comes_before_the_deadline() {
    let mut cluster = Cluster::start().await;
    for i in 1..3 {
        cluster.down(i).await;
    }
    for millis in [200, 1000] {
        let mut request = Request::new(v1::RegisterRequest {
            name: Some(name("other")),
            ..Default::default()
        });
        request.set_timeout(Duration::from_millis(millis));
        let began = Instant::now();
        let status = cluster.circuits(0).register(request).await.unwrap_err();
        let reason = Refused::of(&status).reason;
        assert!(["NO_LEADER", "OUTCOME_UNKNOWN"].contains(&&*reason), "{status:?}");
        assert!(began.elapsed() < Duration::from_millis(millis + 500));
    }
    cluster.stop().await;
}
