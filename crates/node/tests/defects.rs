//! Defects of the Elixir library of the same name that show only on a running node, by their number in the list of what was found there:
//! each test fails on what that library does.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use futures::future::join_all;
use tonic::Code;

use brama_proto::v1;
use common::{Cluster, Refused, Subscriber, fragile, micros, ms, name, never, scoped};
use v1::State::{Closed, HalfOpen, Open};
use v1::subscribe_request::From;

/// There, what the configuration said was never read: children started without options.
#[tokio::test(flavor = "multi_thread")]
async fn defect_01_defaults_of_the_file_are_applied() {
    let file = "[defaults]\nmax_attempts = 2\nexpiry = \"300ms\"\nhalf_open_successes = 2\ncleanup_interval = \"7s\"\n";
    let cluster = Cluster::start_from(file, &[]).await;
    let (plain, own) = (name("plain"), name("own"));
    cluster.register(0, &plain, v1::Policy::default()).await;
    let policy = v1::Policy {
        max_attempts: Some(3),
        ..Default::default()
    };
    cluster.register(1, &own, policy).await;
    for i in 0..3 {
        let policy = cluster.status(i, &plain).await.policy.unwrap();
        assert_eq!((policy.max_attempts, policy.expiry), (2, Some(ms(300))));
        assert!(policy.own.is_empty(), "they are inherited, not copied");
        let answer = cluster
            .circuits(i)
            .get_config(v1::GetConfigRequest::default())
            .await
            .unwrap();
        assert_eq!(
            answer.into_inner().global.unwrap().cleanup_interval_ms,
            Some(7_000)
        );
    }
    // And they decide.
    assert_eq!(cluster.fail(0, &plain).await.state(), Closed);
    assert_eq!(cluster.fail(1, &plain).await.state(), Open);
    cluster.until(2, &plain, HalfOpen).await;
    assert_eq!(cluster.succeed(0, &plain).await.state(), HalfOpen);
    assert_eq!(cluster.succeed(1, &plain).await.state(), Closed);
    for (i, state) in [Closed, Closed, Open].into_iter().enumerate() {
        assert_eq!(cluster.fail(i, &own).await.state(), state);
    }
    cluster.stop().await;
}

/// There is one name for it, and it does what it says. (What is misspelt is refused where it can be seen: in files and on the command line.)
#[tokio::test(flavor = "multi_thread")]
async fn defect_09_the_expiry_of_an_opening_by_hand_is_honoured() {
    let cluster = Cluster::start().await;
    let name = name("by_hand");
    cluster.register(0, &name, v1::Policy::default()).await;
    for (i, expiry, lasts_ms) in [
        (0, Some(ms(1234)), Some(1234)),
        (1, None, Some(60_000)),
        (2, Some(never()), None),
    ] {
        let request = v1::OpenCircuitRequest {
            name: Some(name.clone()),
            expiry,
            ..Default::default()
        };
        let answer = cluster
            .circuits(i)
            .open_circuit(request)
            .await
            .unwrap()
            .into_inner();
        let circuit = answer.circuit.unwrap();
        let opened = micros(&circuit.opened_at.unwrap());
        let lasts = circuit.expires_at.map(|at| (micros(&at) - opened) / 1000);
        assert_eq!(lasts, lasts_ms);
    }
    cluster.stop().await;
}

/// There, `max_attempts: -3, expiry: "soon"` answered `:ok`, and the circuit never half-opened.
#[tokio::test(flavor = "multi_thread")]
async fn defect_12_a_bad_value_is_refused_and_the_good_one_beside_it_is_not_set() {
    let cluster = Cluster::start().await;
    let name = name("checked");
    cluster.register(0, &name, fragile(ms(200))).await;
    let before = cluster.status(0, &name).await;
    let bad = [
        (
            v1::Policy {
                max_attempts: Some(0),
                ..fragile(ms(1))
            },
            "policy.max_attempts",
        ),
        (
            v1::Policy {
                expiry: Some(v1::Expiry { kind: None }),
                ..fragile(ms(1))
            },
            "policy.expiry",
        ),
        (
            v1::Policy {
                expiry_strategy: Some(7),
                half_open_successes: Some(4),
                ..fragile(ms(1))
            },
            "policy.expiry_strategy",
        ),
    ];
    for (i, (policy, field)) in bad.into_iter().enumerate() {
        let request = v1::ConfigureRequest {
            name: Some(name.clone()),
            policy: Some(policy),
            ..Default::default()
        };
        let status = cluster.circuits(i).configure(request).await.unwrap_err();
        assert_eq!(Refused::of(&status), Refused::invalid(field));
        assert_eq!(cluster.status(i, &name).await, before);
    }
    cluster.fail(1, &name).await;
    cluster.until(2, &name, HalfOpen).await;
    cluster.stop().await;
}

/// There, an atom as a scope or an unknown strategy killed the only process, and with it every circuit.
#[tokio::test(flavor = "multi_thread")]
async fn defect_13_one_bad_call_hurts_nothing() {
    let cluster = Cluster::start().await;
    let names: Vec<_> = (0..10).map(|n| scoped("many", &format!("c{n}"))).collect();
    for (n, name) in names.iter().enumerate() {
        cluster.register(n % 3, name, fragile(never())).await;
    }
    cluster.fail(0, &names[0]).await;
    // A linearizable read: this node has applied all of it, so that "from now" is after it.
    cluster.revision(1).await;
    let subscriber = Subscriber::new(cluster.events(1), v1::SubscribeRequest::default());
    let mut subscriber = subscriber.await.unwrap();
    let nodes: Vec<_> = (0..3).map(|i| cluster.node(i).replica().status().term).collect();

    // Whatever is wrong, from many at once, beside good calls.
    let bad = |n: usize| {
        let (i, cluster) = (n % 3, &cluster);
        async move {
            let policy = v1::Policy {
                expiry_strategy: Some(n as i32 + 2),
                backoff_factor: Some(f64::NAN),
                ..Default::default()
            };
            let request = v1::RegisterRequest {
                name: Some(scoped("\u{0}", "")),
                policy: Some(policy),
                if_exists: -1,
                ..Default::default()
            };
            cluster.circuits(i).register(request).await.unwrap_err();
            let item = v1::ReportItem {
                summary: Some(v1::Summary {
                    failures: u64::MAX,
                    longest_failures: u64::MAX,
                    trailing_failures: u64::MAX,
                    leading_failures: u64::MAX,
                    successes: u64::MAX,
                    leading_successes: u64::MAX,
                    ignored: u64::MAX,
                    rejected: u64::MAX,
                }),
                name: Some(name("x")),
                permit_id: vec![0; n % 40],
                ..Default::default()
            };
            let request = v1::ReportRequest {
                session: Some(v1::Session {
                    id: vec![1; n % 20],
                    sequence: u64::MAX,
                }),
                items: vec![item],
            };
            cluster.circuits(i).report(request).await.unwrap_err();
            let request = v1::SubscribeRequest {
                filter: "[".repeat(n * 10 + 1),
                ..Default::default()
            };
            Subscriber::new(cluster.events(i), request).await.err().unwrap();
            cluster
                .circuits(i)
                .open_circuit(v1::OpenCircuitRequest::default())
                .await
                .unwrap_err();
        }
    };
    join_all((0..90).map(bad)).await;

    // Every circuit is there, nobody had to elect a leader, and the stream goes on with what was asked for.
    for (n, name) in names.iter().enumerate() {
        let state = if n == 0 { Open } else { Closed };
        assert_eq!(cluster.status(n % 3, name).await.state(), state);
    }
    let after: Vec<_> = (0..3).map(|i| cluster.node(i).replica().status().term).collect();
    assert_eq!(after, nodes, "a node or its leader was lost");
    cluster.succeed(2, &names[5]).await;
    let event = subscriber.event().await.unwrap();
    assert_eq!(
        (event.name.as_ref(), event.r#type()),
        (Some(&names[5]), v1::EventType::Success)
    );
    cluster.stop().await;
}

/// There, `:state_change`, `:expiry` and `:connection_registered` were documented and never emitted, and no event had `new_state`.
#[tokio::test(flavor = "multi_thread")]
async fn defect_21_documented_event_names_select_events_that_say_their_states() {
    let cluster = Cluster::start().await;
    let mut subscribers = Vec::new();
    for (i, event) in ["state_change", "expiry", "connection_registered"]
        .into_iter()
        .enumerate()
    {
        cluster.revision(i).await;
        let request = v1::SubscribeRequest {
            events: vec![event.to_owned()],
            ..Default::default()
        };
        subscribers.push(Subscriber::new(cluster.events(i), request).await.unwrap());
    }
    let name = name("told");
    cluster.register(0, &name, fragile(ms(50))).await;
    cluster.fail(1, &name).await;
    cluster.until(2, &name, HalfOpen).await;
    cluster.succeed(0, &name).await;

    let changes: Vec<_> = subscribers[0]
        .take(3)
        .await
        .iter()
        .map(|event| (event.previous_state(), event.new_state(), event.cause()))
        .collect();
    use v1::Cause::{Expiry, Probe, Threshold};
    assert_eq!(
        changes,
        [
            (Closed, Open, Threshold),
            (Open, HalfOpen, Expiry),
            (HalfOpen, Closed, Probe)
        ]
    );
    let expiry = subscribers[1].event().await.unwrap();
    assert_eq!(expiry.r#type(), v1::EventType::CircuitHalfOpened);
    let registered = subscribers[2].event().await.unwrap();
    assert_eq!(
        (registered.r#type(), registered.new_state()),
        (v1::EventType::Registration, Closed)
    );
    cluster.stop().await;
}

/// There, a filter that returned false got everything.
#[tokio::test(flavor = "multi_thread")]
async fn defect_22_a_filter_is_honoured() {
    let cluster = Cluster::start_with(&[("events.progress_interval", "100ms")]).await;
    let name = name("filtered");
    let policy = v1::Policy {
        max_attempts: Some(100),
        ..Default::default()
    };
    cluster.register(0, &name, policy).await;
    let request = |filter: &str| v1::SubscribeRequest {
        filter: filter.to_owned(),
        from: Some(From::Oldest(true)),
        ..Default::default()
    };
    let mut nothing = Subscriber::new(cluster.events(0), request("event.revision < 0"))
        .await
        .unwrap();
    let mut fifth = Subscriber::new(cluster.events(1), request("event.failure_count == 5"))
        .await
        .unwrap();
    for n in 0..10 {
        cluster.fail(n % 3, &name).await;
    }
    assert_eq!(fifth.event().await.unwrap().failure_count, 5);
    fifth.silent_for(Duration::from_millis(200)).await;
    nothing.silent_for(Duration::from_millis(200)).await;
    assert_eq!(
        nothing.revision, 11,
        "it was not deaf: it passed over what does not match"
    );
    cluster.stop().await;
}

/// There, two subscriptions of one process got each event twice, and ending one ended both.
#[tokio::test(flavor = "multi_thread")]
async fn defect_23_two_subscriptions_of_one_client_are_independent() {
    let cluster = Cluster::start().await;
    let (a, b) = (name("a"), name("b"));
    for name in [&a, &b] {
        cluster.register(0, name, fragile(never())).await;
    }
    cluster.revision(0).await;
    // One connection.
    let client = cluster.events(0);
    let request = |names: Vec<v1::CircuitName>| v1::SubscribeRequest {
        names,
        ..Default::default()
    };
    let mut only_a = Subscriber::new(client.clone(), request(vec![a.clone()]))
        .await
        .unwrap();
    let mut all = Subscriber::new(client.clone(), request(Vec::new()))
        .await
        .unwrap();
    let mut same = Subscriber::new(client, request(Vec::new())).await.unwrap();
    cluster.succeed(1, &a).await;
    cluster.succeed(2, &b).await;
    let both = all.take(2).await;
    assert_eq!(same.take(2).await, both, "each subscription gets each event");
    assert_eq!(only_a.event().await.unwrap(), both[0]);

    drop(all);
    cluster.succeed(1, &b).await;
    cluster.succeed(2, &a).await;
    let next = same.take(2).await;
    assert_eq!(next[0].revision, both[1].revision + 1, "once each");
    assert_eq!(only_a.event().await.unwrap(), next[1]);
    cluster.stop().await;
}

/// There, events had the monotonic time of one VM, no number and no log: no order across nodes or restarts, and no replay.
#[tokio::test(flavor = "multi_thread")]
async fn defect_24_events_have_one_order_and_can_be_replayed_after_a_restart() {
    let mut cluster = Cluster::start().await;
    let name = name("ordered");
    let policy = v1::Policy {
        max_attempts: Some(1000),
        ..Default::default()
    };
    cluster.register(0, &name, policy).await;
    join_all((0..60).map(|n| cluster.fail(n % 3, &name))).await;
    let oldest = || v1::SubscribeRequest {
        from: Some(From::Oldest(true)),
        ..Default::default()
    };
    let mut first = Subscriber::new(cluster.events(0), oldest()).await.unwrap();
    let before = first.take(61).await;
    for pair in before.windows(2) {
        assert_eq!(pair[1].revision, pair[0].revision + 1);
        let times = [&pair[0], &pair[1]].map(|event| micros(event.time.as_ref().unwrap()));
        assert!(times[0] <= times[1], "{times:?}");
    }

    // Every node ends and comes back.
    for i in 0..3 {
        cluster.down(i).await;
    }
    for i in 0..3 {
        cluster.up(i).await;
    }
    cluster.ready().await;
    cluster.fail(0, &name).await;
    for i in 0..3 {
        let mut subscriber = Subscriber::new(cluster.events(i), oldest()).await.unwrap();
        let events = subscriber.take(62).await;
        assert_eq!(events[..61], before, "node {}", i + 1);
        let last = &events[61];
        assert_eq!((last.revision, last.failure_count), (62, 61));
        let times = [&events[60], last].map(|event| micros(event.time.as_ref().unwrap()));
        assert!(times[0] <= times[1], "time went back over the restart: {times:?}");
        // And from where a subscriber was before.
        let request = v1::SubscribeRequest {
            from: Some(From::After(first.cursor.clone())),
            ..Default::default()
        };
        let mut resumed = Subscriber::new(cluster.events(i), request).await.unwrap();
        assert_eq!(&resumed.event().await.unwrap(), last);
    }
    cluster.stop().await;
}

/// There, everything was in one process: nothing persisted, nothing shared.
#[tokio::test(flavor = "multi_thread")]
async fn defect_30_circuits_survive_restarts_and_are_shared_by_all_nodes() {
    let mut cluster = Cluster::start().await;
    let (open, counting) = (scoped("shop", "open"), name("counting"));
    let request = v1::RegisterRequest {
        name: Some(open.clone()),
        policy: Some(fragile(never())),
        metadata: [("team".to_owned(), "pay".to_owned())].into(),
        ..Default::default()
    };
    cluster.circuits(0).register(request).await.unwrap();
    let request = v1::FailureRequest {
        name: Some(open.clone()),
        reason: Some("timeout".to_owned()),
        ..Default::default()
    };
    cluster.circuits(1).failure(request).await.unwrap();
    let default = v1::Policy::default();
    assert_eq!(
        cluster
            .register(2, &counting, default)
            .await
            .policy
            .unwrap()
            .max_attempts,
        5,
        "as documented"
    );
    let report = v1::ReportRequest {
        session: Some(v1::Session {
            id: vec![3; 16],
            sequence: 1,
        }),
        items: vec![v1::ReportItem {
            name: Some(counting.clone()),
            outcomes: vec![v1::Outcome::Failure.into(); 4],
            ..Default::default()
        }],
    };
    cluster.circuits(0).report(report.clone()).await.unwrap();
    let before = [cluster.status(1, &open).await, cluster.status(2, &counting).await];
    for i in 0..3 {
        assert_eq!(
            [cluster.status(i, &open).await, cluster.status(i, &counting).await],
            before
        );
    }

    // One node after the other, and then all at once.
    for i in 0..3 {
        cluster.down(i).await;
        assert_eq!(
            cluster.status((i + 1) % 3, &open).await,
            before[0],
            "without node {}",
            i + 1
        );
        cluster.up(i).await;
        cluster.ready().await;
        assert_eq!(cluster.status(i, &open).await, before[0]);
    }
    for i in 0..3 {
        cluster.down(i).await;
    }
    for i in 0..3 {
        cluster.up(i).await;
    }
    cluster.ready().await;
    for i in 0..3 {
        assert_eq!(
            [cluster.status(i, &open).await, cluster.status(i, &counting).await],
            before
        );
    }
    // Sessions too: a retry that comes after the restart is not counted again.
    let answer = cluster.circuits(2).report(report).await.unwrap().into_inner();
    assert_eq!(answer.items[0].failure_count, 4);
    assert_eq!(cluster.status(0, &counting).await, before[1]);
    assert_eq!(cluster.fail(1, &counting).await.state(), Open);
    let request = v1::RegisterRequest {
        name: Some(open),
        ..Default::default()
    };
    let status = cluster.circuits(0).register(request).await.unwrap_err();
    assert_eq!(
        Refused::of(&status),
        Refused::new(Code::AlreadyExists, "ALREADY_REGISTERED", None)
    );
    cluster.stop().await;
}
