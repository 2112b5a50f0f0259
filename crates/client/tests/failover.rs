//! What a client does when connections break and nodes go.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use brama_client::{
    Client, ClientEvent, Error, EventKind, From, Item, Outcome, Policy, ReportError, StateName, Subscription,
    WatchItem,
};
use futures::StreamExt;
use support::{Cluster, fragile, within};

/// A client of node 1. Its circuit is registered through node 2, so that there is no watch whose messages could be lost instead of an answer.
async fn that_does_not_watch(cluster: &Cluster) -> Client {
    let other = cluster.client(1);
    other.circuit("payment_api").register(patient()).await.unwrap();
    cluster.client(0)
}

fn patient() -> Policy {
    Policy {
        max_attempts: Some(1_000_000),
        ..Policy::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_got_lost_is_asked_for_again_and_counts_once() {
    let cluster = Cluster::start().await;
    let client = that_does_not_watch(&cluster).await;
    let circuit = client.circuit("payment_api");
    let mut session = client.session();
    let mut lost = 0;
    for round in 1..=30_u32 {
        for i in 0..3 {
            cluster.link(i).lose_an_answer();
        }
        let item = Item::of(circuit.name().clone(), Outcome::Failure);
        let reply = session.report(vec![item]).await.unwrap();
        let brama_client::ItemReply::Counted {
            failure_count, late, ..
        } = reply.items[0]
        else {
            panic!("{reply:?}");
        };
        assert_eq!(
            (failure_count, late),
            (round, false),
            "the first answer, not another one"
        );
        lost += (0..3).filter(|i| cluster.link(*i).has_lost_it()).count();
    }
    assert!(lost >= 30, "only {lost} answers were lost");
    assert_eq!(circuit.status().await.unwrap().totals.failures, 30);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_repeated_is_told_to_be_unknown() {
    let cluster = Cluster::start().await;
    let client = that_does_not_watch(&cluster).await;
    let circuit = client.circuit("payment_api");
    circuit.status().await.unwrap();
    cluster.link(0).lose_an_answer();
    let error = circuit.open(None, Some("maintenance")).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
    // It was applied, once.
    let status = circuit.status().await.unwrap();
    assert_eq!((status.state, status.generation), (StateName::Open, 2));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_it_says_so_in_time_and_keeps_what_it_was_told() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client(0).with_timeout(Duration::from_millis(800));
    let circuit = client.circuit("payment_api");
    circuit.register(patient()).await.unwrap();
    cluster.down(1).await;
    cluster.down(2).await;

    let began = Instant::now();
    let error = circuit.status().await.unwrap_err();
    assert!(
        matches!(error, Error::NoLeader { .. } | Error::Unreachable { .. }),
        "{error:?}"
    );
    let mut made = false;
    let work = async {
        made = true;
        Ok::<_, String>(())
    };
    circuit.call(work).await.unwrap();
    assert!(made, "decisions go on");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());

    let mut session = client.session();
    let item = || Item::of(circuit.name().clone(), Outcome::Failure);
    let error = session.report(vec![item()]).await.unwrap_err();
    assert!(matches!(error, ReportError::Pending(_)), "{error:?}");
    let error = session.report(vec![item(), item()]).await.unwrap_err();
    let ReportError::NotTaken { items, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(items.len(), 2, "they come back");
    circuit.failure("boom").await.unwrap_err();
    // And the call that was made meanwhile.
    assert_eq!(client.report_stats().waiting, 2);

    cluster.up(1).await;
    within("the session's batch is acknowledged", async {
        while session.flush().await.is_err() {}
    })
    .await;
    within("the queue is empty", async {
        while client.report_stats().waiting > 0 {
            let _ = client.flush().await;
        }
    })
    .await;
    let status = within("status", async {
        loop {
            if let Ok(status) = circuit.status().await {
                return status;
            }
        }
    })
    .await;
    let stats = client.report_stats();
    assert_eq!(stats.unknown + stats.refused, 0, "{stats:?}");
    // All is there, but for what was given up before the majority was back; and of that it says so.
    let totals = status.totals;
    assert_eq!(
        totals.failures + totals.successes + stats.dropped,
        3,
        "{totals:?} {stats:?}"
    );
    assert!(totals.failures >= 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_and_a_watcher_miss_nothing_and_get_nothing_twice() {
    const FAILURES: u32 = 400;
    let mut cluster = Cluster::start().await;
    let client = cluster.client(0);
    let circuit = client.circuit("payment_api");
    circuit.register(patient()).await.unwrap();
    client
        .circuit("other")
        .register(fragile(Duration::from_secs(60)))
        .await
        .unwrap();

    let mut events = client
        .subscribe(Subscription::new().from(From::Oldest))
        .await
        .unwrap();
    let mut watch = client.watch([circuit.name().clone()]).await.unwrap();
    let first = within("the snapshot", watch.next()).await.unwrap().unwrap();
    let WatchItem::Snapshot { circuits, revision } = first else {
        panic!("{first:?}")
    };
    assert_eq!((circuits.len(), circuits[0].failure_count, revision), (1, 0, 2));

    let subscriber = tokio::spawn(async move {
        let mut revisions = Vec::new();
        let mut last = None;
        while revisions.len() < 2 + FAILURES as usize {
            let ClientEvent::Event { event, cursor } = events.next().await.unwrap().unwrap() else {
                panic!("progress was not asked for");
            };
            revisions.push(event.revision);
            last = Some(cursor);
        }
        (revisions, last.unwrap())
    });
    let watcher = tokio::spawn(async move {
        let mut counts = Vec::new();
        while counts.len() < FAILURES as usize {
            match watch.next().await.unwrap().unwrap() {
                WatchItem::Event(event) => {
                    assert_eq!(event.kind, EventKind::Failure);
                    counts.push(event.failure_count);
                }
                other => panic!("{other:?}"),
            }
        }
        counts
    });

    // Meanwhile connections break, and the node that they began with goes.
    let mut session = client.session();
    for round in 0..FAILURES {
        if round % 40 == 20 {
            cluster.link((round as usize / 40) % 3).cut();
        }
        match round {
            100 => cluster.down(0).await,
            250 => cluster.up(0).await,
            300 => cluster.down(1).await,
            _ => {}
        }
        let item = Item::of(circuit.name().clone(), Outcome::Failure);
        session.report(vec![item]).await.unwrap();
    }
    let (revisions, cursor) = within("all events", subscriber).await.unwrap();
    assert_eq!(revisions, (1..=u64::from(FAILURES) + 2).collect::<Vec<_>>());
    let counts = within("all changes", watcher).await.unwrap();
    assert_eq!(counts, (1..=FAILURES).collect::<Vec<_>>());

    // A cursor is good on another node, in another client.
    circuit.success().await.unwrap();
    let mut rest = cluster
        .client(2)
        .subscribe(Subscription::new().from(From::After(cursor)))
        .await
        .unwrap();
    let next = within("the next event", rest.next()).await.unwrap().unwrap();
    let ClientEvent::Event { event, .. } = next else {
        panic!("{next:?}")
    };
    assert_eq!(
        (event.kind, event.revision),
        (EventKind::Success, u64::from(FAILURES) + 3)
    );
    cluster.stop().await;
}
