//! Subscriptions: one log of events, the same from every node, without gap or duplicate, whatever the subscriber or the node does.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_types::StatusExt as _;

use brama_core::cursor;
use brama_proto::v1;
use common::{Cluster, Refused, Subscriber, fragile, ms, name, never, next, scoped, within};
use v1::subscribe_request::From;
use v1::subscribe_response::Message;
use v1::watch_response::Message as Watched;

/// Progress as often as a node may be told to send it.
const OFTEN: (&str, &str) = ("events.progress_interval", "100ms");

#[tokio::test(flavor = "multi_thread")]
async fn from_now_from_the_oldest_and_after_a_cursor_of_any_node() {
    let cluster = Cluster::start_with(&[OFTEN]).await;
    let name = name("positions");
    cluster.register(0, &name, tough()).await;
    cluster.fail(1, &name).await;

    // Nobody missed anything: each node has applied what came before.
    for i in 0..3 {
        assert_eq!(cluster.revision(i).await, 2);
    }
    let mut now = subscribe(&cluster, 0, v1::SubscribeRequest::default()).await;
    assert_eq!(now.revision, 2);
    let begin = now.cursor.clone();
    for n in 0..20 {
        cluster.fail(n % 3, &name).await;
    }
    let seen = now.take(20).await;
    assert_eq!(revisions(&seen), (3..=22).collect::<Vec<_>>());

    let mut oldest = subscribe(&cluster, 1, oldest()).await;
    assert_eq!(oldest.revision, 0);
    let all = oldest.take(22).await;
    assert_eq!(all[0].r#type(), v1::EventType::Registration);
    assert_eq!(all[2..], seen, "the same events from every node");

    // After any message of one node, on any node.
    for (i, cursor, after) in [(1, &begin, 2), (2, &now.cursor, 22), (0, &oldest.cursor, 22)] {
        let mut resumed = subscribe(&cluster, i, after_cursor(cursor)).await;
        assert_eq!(resumed.revision, after);
        if after == 2 {
            assert_eq!(resumed.take(20).await, seen);
        }
        resumed.silent_for(Duration::from_millis(150)).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_scope_and_filter_selects_what_it_says() {
    let cluster = Cluster::start_with(&[OFTEN]).await;
    everything_happens(&cluster).await;
    let newest = cluster.revision(0).await;
    let all = collect(&cluster, 0, oldest(), newest).await;
    assert_eq!(revisions(&all), (1..=newest).collect::<Vec<_>>());
    for i in 1..3 {
        assert_eq!(
            collect(&cluster, i, oldest(), newest).await,
            all,
            "node {}",
            i + 1
        );
    }

    // Every kind happened, so that no selection below is empty by accident.
    use v1::EventType as T;
    let changes = |e: &v1::Event| {
        e.previous_state() != v1::State::Unspecified
            && e.new_state() != v1::State::Unspecified
            && e.previous_state() != e.new_state()
    };
    let kinds = [
        ("registration", T::Registration),
        ("connection_registered", T::Registration),
        ("connection_unregistered", T::ConnectionUnregistered),
        ("connection_removed", T::ConnectionRemoved),
        ("cleanup", T::ConnectionRemoved),
        ("configured", T::Configured),
        ("success", T::Success),
        ("failure", T::Failure),
        ("circuit_opened", T::CircuitOpened),
        ("circuit_half_opened", T::CircuitHalfOpened),
        ("expiry", T::CircuitHalfOpened),
        ("circuit_closed", T::CircuitClosed),
        ("circuit_reset", T::CircuitReset),
        ("probe_granted", T::ProbeGranted),
        ("probe_expired", T::ProbeExpired),
    ];
    for (n, (event, kind)) in kinds.into_iter().enumerate() {
        let request = v1::SubscribeRequest {
            events: vec![event.to_owned()],
            ..oldest()
        };
        selects(&cluster, n % 3, request, &all, event, |e| e.r#type() == kind).await;
    }
    let request = v1::SubscribeRequest {
        events: vec!["state_change".to_owned()],
        ..oldest()
    };
    selects(&cluster, 0, request, &all, "state_change", changes).await;
    let request = v1::SubscribeRequest {
        events: vec!["expiry".to_owned(), "failure".to_owned()],
        ..oldest()
    };
    let either = |e: &v1::Event| matches!(e.r#type(), T::CircuitHalfOpened | T::Failure);
    selects(&cluster, 1, request, &all, "two names", either).await;

    let scope = |e: &v1::Event| e.name.as_ref().map(|name| name.scope.clone());
    for (scopes, wanted) in [(["s"], Some("s".to_owned())), ([""], None)] {
        let request = v1::SubscribeRequest {
            scopes: scopes.map(str::to_owned).to_vec(),
            ..oldest()
        };
        selects(&cluster, 2, request, &all, "a scope", |e| {
            scope(e) == Some(wanted.clone())
        })
        .await;
    }
    let request = v1::SubscribeRequest {
        names: vec![scoped("s", "x"), name("nobody")],
        ..oldest()
    };
    selects(&cluster, 0, request, &all, "a name", |e| {
        e.name == Some(scoped("s", "x"))
    })
    .await;

    type Selects = fn(&v1::Event) -> bool;
    let filters: [(&str, Selects); 9] = [
        ("event.type == 'circuit_opened'", |e| {
            e.r#type() == T::CircuitOpened
        }),
        ("event.cause == \"manual\" || event.cause == \"probe\"", |e| {
            matches!(e.cause(), v1::Cause::Manual | v1::Cause::Probe)
        }),
        ("event.scope == null", |e| {
            e.name.as_ref().is_none_or(|name| name.scope.is_none())
        }),
        ("event.metadata['team'] == 'pay'", |e| {
            e.metadata.get("team").is_some_and(|team| team == "pay")
        }),
        ("has(event.metadata.call) && event.count > 1", |e| {
            e.metadata.contains_key("call") && e.count > 1
        }),
        ("event.failure_count >= 1 && event.new_state == 'open'", |e| {
            e.failure_count >= 1 && e.new_state() == v1::State::Open
        }),
        ("event.reason != null && event.reason.startsWith('time')", |e| {
            e.reason.as_ref().is_some_and(|reason| reason.starts_with("time"))
        }),
        (
            "event.identifier.matches('^[xy]$') && event.openings_in_a_row == 1",
            |e| {
                e.name
                    .as_ref()
                    .is_some_and(|name| ["x", "y"].contains(&&*name.identifier))
                    && e.openings_in_a_row == 1
            },
        ),
        (
            "event.revision % 2 == 0 && event.time > timestamp('2020-01-01T00:00:00Z')",
            |e| e.revision % 2 == 0,
        ),
    ];
    for (n, (filter, wanted)) in filters.into_iter().enumerate() {
        let request = v1::SubscribeRequest {
            filter: filter.to_owned(),
            ..oldest()
        };
        selects(&cluster, n % 3, request, &all, filter, wanted).await;
    }
    // All that is said must hold.
    let request = v1::SubscribeRequest {
        names: vec![scoped("s", "x")],
        scopes: vec!["s".to_owned()],
        events: vec!["state_change".to_owned()],
        filter: "event.new_state == 'closed'".to_owned(),
        ..oldest()
    };
    let mixed =
        |e: &v1::Event| e.name == Some(scoped("s", "x")) && changes(e) && e.new_state() == v1::State::Closed;
    selects(&cluster, 1, request, &all, "a mix", mixed).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_moves_a_quiet_subscriber_and_is_never_ahead_of_an_event() {
    let mut cluster = Cluster::start_with(&[OFTEN]).await;
    let (rare, loud) = (name("rare"), name("loud"));
    cluster.register(0, &rare, tough()).await;
    cluster.register(0, &loud, tough()).await;
    let request = v1::SubscribeRequest {
        names: vec![rare.clone()],
        ..Default::default()
    };
    let leader = cluster.leader().await;
    let mut subscriber = subscribe(&cluster, leader, request).await;
    // Subscriber::message refuses an event that is not after all progress before it.
    let write = async {
        for n in 0..150 {
            cluster
                .fail(n % 3, if n % 15 == 14 { &rare } else { &loud })
                .await;
        }
    };
    let read = async {
        let (mut events, mut progress) = (0, 0);
        while events < 10 {
            match subscriber.message().await.unwrap() {
                Message::Event(event) => {
                    assert_eq!(event.name.as_ref(), Some(&rare));
                    events += 1;
                    assert_eq!(event.failure_count, events, "none is missing");
                }
                Message::Progress(_) => progress += 1,
            }
        }
        progress
    };
    let ((), progress) = join(write, read).await;
    eprintln!("{progress} progress messages while events came");

    // The cursor moves over what was not selected, and resuming from it brings nothing back.
    for _ in 0..20 {
        cluster.fail(0, &loud).await;
    }
    let newest = cluster.revision(leader).await;
    within("progress to the newest revision", async {
        while subscriber.revision < newest {
            match subscriber.message().await.unwrap() {
                Message::Progress(progress) => assert!(progress.has_quorum && progress.time.is_some()),
                Message::Event(event) => panic!("{event:?}"),
            }
        }
    })
    .await;
    assert_eq!(subscriber.revision, newest);
    let mut resumed = subscribe(&cluster, leader, after_cursor(&subscriber.cursor)).await;
    resumed.silent_for(Duration::from_millis(150)).await;

    // Without the others there is no majority, and a subscriber learns of it.
    for i in (0..3).filter(|i| *i != leader) {
        cluster.down(i).await;
    }
    within("progress without a quorum", async {
        loop {
            if let Message::Progress(progress) = subscriber.message().await.unwrap()
                && !progress.has_quorum
            {
                break;
            }
        }
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_compacted_is_told_at_once_and_in_mid_stream() {
    let cluster = Cluster::start_with(&[OFTEN, ("limits.max_events", "20")]).await;
    let name = name("compacted");
    cluster.register(0, &name, tough()).await;
    let begin = subscribe(&cluster, 0, oldest()).await.cursor;
    // Each event is large, so that what an unread connection holds is soon full; this client takes little.
    let slow_channel = Endpoint::from_shared(format!("http://{}", cluster.node(1).client_address()))
        .unwrap()
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(64 * 1024)
        .connect_lazy();
    let slow_client = v1::events_client::EventsClient::new(slow_channel);
    let mut slow = Subscriber::new(slow_client, oldest()).await.unwrap();
    let metadata: std::collections::BTreeMap<_, _> =
        (0..32).map(|n| (format!("k{n}"), "v".repeat(1024))).collect();
    for n in 0..200 {
        let request = v1::FailureRequest {
            name: Some(name.clone()),
            metadata: metadata.clone(),
            ..Default::default()
        };
        cluster.circuits(n % 3).failure(request).await.unwrap();
    }
    let newest = cluster.revision(1).await;
    assert_eq!(newest, 201);

    // In mid-stream: without a gap up to the point where it is told.
    let mut expected = 1;
    let ended = loop {
        match slow.event().await {
            Ok(event) => {
                assert_eq!(event.revision, expected, "a silent gap");
                expected += 1;
            }
            Err(status) => break status,
        }
    };
    assert!(expected > 1 && expected < newest - 20, "it stopped at {expected}");
    let compacted = Refused::new(Code::OutOfRange, "EVENTS_COMPACTED", None);
    assert_eq!(Refused::of(&ended), compacted);
    let oldest_cursor = ended.get_details_error_info().unwrap().metadata["oldest_cursor"].clone();

    // At once, on every node, and all agree on what is the oldest.
    for i in 0..3 {
        cluster.revision(i).await;
        let status = Subscriber::new(cluster.events(i), after_cursor(&begin))
            .await
            .err()
            .unwrap();
        assert_eq!(Refused::of(&status), compacted);
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.metadata["oldest_cursor"], oldest_cursor, "node {}", i + 1);
        let mut resumed = subscribe(&cluster, i, after_cursor(&oldest_cursor)).await;
        let events = resumed.take(20).await;
        assert_eq!(revisions(&events), (newest - 19..=newest).collect::<Vec<_>>());
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_ahead_of_the_node_waits() {
    let cluster = Cluster::start_with(&[OFTEN]).await;
    let name = name("ahead");
    cluster.register(0, &name, tough()).await;
    let newest = cluster.revision(1).await;
    let id = cluster.node(1).replica().cluster_id().unwrap();
    let mut subscriber = subscribe(&cluster, 1, after_cursor(&cursor::encode(id, newest + 3))).await;
    for n in 0..3 {
        cluster.fail(n, &name).await;
    }
    subscriber.silent_for(Duration::from_millis(300)).await;
    cluster.fail(0, &name).await;
    let event = subscriber.event().await.unwrap();
    assert_eq!((event.revision, event.failure_count), (newest + 4, 4));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_of_a_stopping_node_goes_on_elsewhere_without_gap_or_duplicate() {
    let mut cluster = Cluster::start().await;
    let name = name("resumed");
    cluster.register(0, &name, tough()).await;
    let leader = cluster.leader().await;
    let mut subscriber = subscribe(&cluster, leader, oldest()).await;
    for n in 0..30 {
        cluster.fail(n % 3, &name).await;
    }
    let mut events = subscriber.take(20).await;
    cluster.down(leader).await;
    let ended = loop {
        match subscriber.event().await {
            Ok(event) => events.push(event),
            Err(status) => break status,
        }
    };
    assert_eq!(
        Refused::of(&ended),
        Refused::new(Code::Unavailable, "RESUME_ELSEWHERE", None)
    );

    let other = (leader + 1) % 3;
    for _ in 0..10 {
        cluster.fail(other, &name).await;
    }
    let mut resumed = subscribe(&cluster, other, after_cursor(&subscriber.cursor)).await;
    events.extend(resumed.take(41 - events.len()).await);
    assert_eq!(revisions(&events), (1..=41).collect::<Vec<_>>());
    // The node that comes back takes the cursor too.
    cluster.up(leader).await;
    cluster.ready().await;
    cluster.fail(other, &name).await;
    let mut back = subscribe(&cluster, leader, after_cursor(&resumed.cursor)).await;
    assert_eq!(back.event().await.unwrap().revision, 42);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_takes_so_many_subscribers_and_places_come_back() {
    let cluster = Cluster::start_with(&[OFTEN, ("limits.max_subscribers", "2")]).await;
    let request = v1::SubscribeRequest::default;
    let first = subscribe(&cluster, 0, request()).await;
    let mut watching = cluster
        .events(0)
        .watch(v1::WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    next(&mut watching).await.unwrap();
    let full = Refused::new(Code::ResourceExhausted, "TOO_MANY_SUBSCRIBERS", None);
    let status = Subscriber::new(cluster.events(0), request()).await.err().unwrap();
    assert_eq!(Refused::of(&status), full);
    let status = cluster
        .events(0)
        .watch(v1::WatchRequest::default())
        .await
        .unwrap_err();
    assert_eq!(Refused::of(&status), full);
    // It is this node's limit.
    let _other = subscribe(&cluster, 1, request()).await;

    let subscribers = async || {
        let status = cluster
            .cluster(0)
            .status(v1::ClusterStatusRequest {})
            .await
            .unwrap();
        status.into_inner().subscribers
    };
    assert_eq!(subscribers().await, 2);
    drop((first, watching));
    within("the places come back", async {
        while subscribers().await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let _first = subscribe(&cluster, 0, request()).await;
    let _second = subscribe(&cluster, 0, request()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_a_snapshot_and_every_event_after_it() {
    const CIRCUITS: usize = 250;
    let cluster = Cluster::start_with(&[OFTEN]).await;
    let names: Vec<_> = (0..CIRCUITS).map(|n| name(&format!("w{n:03}"))).collect();
    futures::future::join_all(
        names
            .iter()
            .enumerate()
            .map(|(n, name)| cluster.register(n % 3, name, tough())),
    )
    .await;

    let stop = AtomicBool::new(false);
    let write = async {
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            let reports = (0..8).map(|k| cluster.fail(k % 3, &names[(n * 8 + k) * 7 % CIRCUITS]));
            futures::future::join_all(reports).await;
            n += 1;
        }
    };
    let watch = async {
        // Several, begun while reports come in.
        for i in 0..3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let mut stream = cluster
                .events(i)
                .watch(v1::WatchRequest::default())
                .await
                .unwrap()
                .into_inner();
            let (mut seen, at) = snapshot(&mut stream).await;
            assert_eq!(seen.len(), CIRCUITS);
            assert!(
                seen.values().all(|circuit| circuit.revision <= at),
                "newer than the snapshot"
            );
            assert!(
                seen.values().any(|circuit| circuit.failure_count > 0),
                "nothing was written yet"
            );
            let mut revision = at;
            while revision < at + 100 {
                if let Some(Watched::Event(event)) = next(&mut stream).await.unwrap().message {
                    revision += 1;
                    assert_eq!(event.revision, revision, "a gap after the snapshot");
                    let circuit = seen.get_mut(&event.name.unwrap().identifier).unwrap();
                    circuit.failure_count += u32::try_from(event.count).unwrap();
                    assert_eq!(
                        circuit.failure_count, event.failure_count,
                        "what the snapshot had was another moment"
                    );
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    };
    join(write, watch).await;

    // By name: those that are not there yet are watched too. The snapshot alone ends.
    let request = v1::WatchRequest {
        names: vec![names[0].clone(), name("later")],
        snapshot_only: false,
        changes_only: false,
    };
    let mut stream = cluster.events(1).watch(request).await.unwrap().into_inner();
    let (seen, _) = snapshot(&mut stream).await;
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["w000"]);
    cluster.fail(0, &names[1]).await;
    cluster.register(0, &name("later"), tough()).await;
    let event = loop {
        if let Some(Watched::Event(event)) = next(&mut stream).await.unwrap().message {
            break event;
        }
    };
    assert_eq!(
        (event.name.as_ref(), event.r#type()),
        (Some(&name("later")), v1::EventType::Registration)
    );

    let newest = cluster.revision(2).await;
    let request = v1::WatchRequest {
        names: Vec::new(),
        snapshot_only: true,
        changes_only: false,
    };
    let mut stream = cluster.events(2).watch(request).await.unwrap().into_inner();
    let mut cursor = String::new();
    while let Some(message) = within("the snapshot", stream.message()).await.unwrap() {
        cursor = message.cursor;
    }
    let mut resumed = subscribe(&cluster, 0, after_cursor(&cursor)).await;
    assert_eq!(resumed.revision, newest);
    cluster.fail(1, &names[2]).await;
    assert_eq!(resumed.event().await.unwrap().revision, newest + 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_changes_is_told_only_what_changes_a_decision() {
    use v1::EventType::{CircuitOpened, Failure, Registration, Success};
    let cluster = Cluster::start_with(&[OFTEN]).await;
    let (quiet, failing) = (name("quiet"), name("failing"));
    for name in [&quiet, &failing] {
        cluster.register(0, name, tough()).await;
    }
    cluster.fail(0, &failing).await;
    let request = v1::WatchRequest {
        names: vec![quiet.clone(), failing.clone(), name("later")],
        snapshot_only: false,
        changes_only: true,
    };
    let before = cluster.revision(1).await;
    let mut stream = cluster.events(1).watch(request).await.unwrap().into_inner();
    let (seen, at) = snapshot(&mut stream).await;
    assert_eq!((seen.len(), at), (2, before));
    assert_eq!(seen["failing"].failure_count, 1);

    // It was told that one holds failures and the other does not; only what is otherwise is news.
    cluster.succeed(0, &quiet).await;
    cluster.fail(0, &failing).await;
    cluster.fail(0, &quiet).await;
    cluster.fail(0, &quiet).await;
    cluster.fail(0, &quiet).await;
    cluster.succeed(0, &quiet).await;
    cluster.succeed(0, &quiet).await;
    cluster.succeed(0, &failing).await;
    cluster.fail(0, &failing).await;
    cluster.open(0, &quiet).await;
    // Late, for an open circuit: counted, and nothing else.
    cluster.succeed(0, &quiet).await;
    cluster.register(0, &name("later"), tough()).await;
    cluster.succeed(0, &name("later")).await;

    let newest = cluster.revision(1).await;
    let (mut events, mut upto) = (Vec::new(), 0);
    while upto < newest {
        match next(&mut stream).await.unwrap().message {
            Some(Watched::Event(event)) => {
                assert!(event.revision > upto, "the cursor was ahead of an event");
                upto = event.revision;
                events.push((event.name.clone().unwrap().identifier, event.r#type()));
            }
            // Also past what it was not sent.
            Some(Watched::Progress(progress)) => upto = progress.revision,
            other => panic!("{other:?}"),
        }
    }
    let expected = [
        ("quiet", Failure),
        ("quiet", Success),
        ("failing", Success),
        ("failing", Failure),
        ("quiet", CircuitOpened),
        ("later", Registration),
    ];
    let events: Vec<_> = events.iter().map(|(name, kind)| (&**name, *kind)).collect();
    assert_eq!(events, expected);
    cluster.stop().await;
}

/// Reads a snapshot; returns its circuits by identifier, and its revision.
async fn snapshot(stream: &mut tonic::Streaming<v1::WatchResponse>) -> (HashMap<String, v1::Circuit>, u64) {
    let mut seen = HashMap::new();
    loop {
        let message = next(stream).await.unwrap();
        match message.message.unwrap() {
            Watched::Snapshot(part) => {
                assert!(
                    message.cursor.is_empty(),
                    "a cursor before the snapshot is complete"
                );
                for circuit in part.circuits {
                    let identifier = circuit.name.clone().unwrap().identifier;
                    assert!(
                        seen.insert(identifier, circuit).is_none(),
                        "twice in the snapshot"
                    );
                }
            }
            Watched::Synced(synced) => {
                assert_eq!(synced.circuits, seen.len() as u64);
                assert!(!message.cursor.is_empty());
                return (seen, synced.revision);
            }
            other => panic!("{other:?} before the snapshot was complete"),
        }
    }
}

/// Makes every kind of event happen at least once.
async fn everything_happens(cluster: &Cluster) {
    let x = scoped("s", "x");
    let request = v1::RegisterRequest {
        name: Some(x.clone()),
        policy: Some(v1::Policy {
            probe_timeout_ms: Some(50),
            ..fragile(ms(20))
        }),
        metadata: [("team".to_owned(), "pay".to_owned())].into(),
        ..Default::default()
    };
    cluster.circuits(0).register(request).await.unwrap();
    cluster.register(1, &name("y"), tough()).await;
    cluster.register(2, &scoped("t", "idle"), tough()).await;
    cluster.succeed(0, &x).await;
    let request = v1::ReportRequest {
        session: None,
        items: vec![v1::ReportItem {
            name: Some(name("y")),
            outcomes: vec![v1::Outcome::Failure.into(); 3],
            reason: Some("timeout".to_owned()),
            metadata: [("call".to_owned(), "get".to_owned())].into(),
            ..Default::default()
        }],
    };
    cluster.circuits(1).report(request).await.unwrap();
    cluster.fail(2, &x).await;
    cluster.until(0, &x, v1::State::HalfOpen).await;
    let lost = cluster.acquire(1, &x).await;
    assert!(lost.admitted);
    within("the permit runs out", async {
        while cluster.status(2, &x).await.probes_in_flight > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    cluster.succeed(0, &x).await;
    cluster.open(1, &name("y")).await;
    let request = v1::ResetCircuitRequest {
        name: Some(name("y")),
        reason: Some("time to go on".to_owned()),
    };
    cluster.circuits(2).reset_circuit(request).await.unwrap();
    let request = v1::CloseCircuitRequest {
        name: Some(x.clone()),
        reason: None,
    };
    cluster.circuits(0).close_circuit(request).await.unwrap();
    let request = v1::UnregisterRequest {
        name: Some(name("y")),
        reason: None,
    };
    cluster.circuits(1).unregister(request).await.unwrap();
    // What holds failures stays, so that only the idle one goes.
    cluster.open(1, &x).await;
    let request = v1::ConfigureRequest {
        name: Some(x.clone()),
        policy: Some(fragile(never())),
        ..Default::default()
    };
    cluster.circuits(1).configure(request).await.unwrap();
    cluster.open(2, &x).await;
    let request = v1::ConfigureRequest {
        global: Some(v1::GlobalOptions {
            inactive_threshold_ms: Some(100),
            cleanup_interval_ms: Some(20),
        }),
        ..Default::default()
    };
    cluster.circuits(2).configure(request).await.unwrap();
    within("the idle circuit is removed", async {
        loop {
            let request = v1::ListRequest::default();
            let circuits = cluster
                .circuits(0)
                .list(request)
                .await
                .unwrap()
                .into_inner()
                .circuits;
            if circuits.len() == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// That a subscription from the oldest event gets exactly those of `all` that are `wanted`, and that these are some and not all.
async fn selects(
    cluster: &Cluster,
    i: usize,
    request: v1::SubscribeRequest,
    all: &[v1::Event],
    what: &str,
    wanted: impl Fn(&v1::Event) -> bool,
) {
    let expected: Vec<_> = all.iter().filter(|event| wanted(event)).cloned().collect();
    assert!(
        !expected.is_empty() && expected.len() < all.len(),
        "{what} says nothing"
    );
    let newest = all.last().unwrap().revision;
    assert_eq!(collect(cluster, i, request, newest).await, expected, "{what}");
}

/// What a subscription delivers up to a revision.
async fn collect(cluster: &Cluster, i: usize, request: v1::SubscribeRequest, newest: u64) -> Vec<v1::Event> {
    let mut subscriber = subscribe(cluster, i, request).await;
    let mut events = Vec::new();
    while subscriber.revision < newest {
        if let Message::Event(event) = subscriber.message().await.unwrap() {
            events.push(event);
        }
    }
    events
}

async fn subscribe(cluster: &Cluster, i: usize, request: v1::SubscribeRequest) -> Subscriber {
    Subscriber::new(cluster.events(i), request).await.unwrap()
}

fn oldest() -> v1::SubscribeRequest {
    v1::SubscribeRequest {
        from: Some(From::Oldest(true)),
        ..Default::default()
    }
}

fn after_cursor(cursor: &str) -> v1::SubscribeRequest {
    v1::SubscribeRequest {
        from: Some(From::After(cursor.to_owned())),
        ..Default::default()
    }
}

/// A policy that no test opens by accident.
fn tough() -> v1::Policy {
    v1::Policy {
        max_attempts: Some(1_000_000),
        ..Default::default()
    }
}

fn revisions(events: &[v1::Event]) -> Vec<u64> {
    events.iter().map(|event| event.revision).collect()
}
