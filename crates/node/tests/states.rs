//! The state table and every option of a policy, through gRPC, each step at another node than the one before.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use brama_proto::v1;
use common::{Cluster, fragile, micros, ms, name, never, within};
use v1::State::{Closed, HalfOpen, Open};

/// Long enough for a busy machine to look at an open circuit, short enough to wait for.
const SHORT_MS: u64 = 150;

#[tokio::test(flavor = "multi_thread")]
async fn closed_counts_failures_in_a_row_and_opens_at_max_attempts() {
    let cluster = Cluster::start().await;
    let name = name("closed");
    let policy = v1::Policy {
        max_attempts: Some(3),
        expiry: Some(never()),
        ..Default::default()
    };
    let circuit = cluster.register(0, &name, policy).await;
    assert_eq!((circuit.state(), circuit.failure_count), (Closed, 0));

    assert_eq!(cluster.fail(1, &name).await.failure_count, 1);
    assert_eq!(cluster.fail(2, &name).await.failure_count, 2);
    // A success ends the run.
    assert_eq!(cluster.succeed(0, &name).await.failure_count, 0);
    assert_eq!(cluster.fail(1, &name).await.failure_count, 1);
    assert_eq!(cluster.fail(2, &name).await.failure_count, 2);
    assert!(available(&cluster, 0, &name).await.available);
    let admission = cluster.acquire(0, &name).await;
    assert!(admission.admitted && admission.permit_id.is_empty());

    let opened = cluster.fail(0, &name).await;
    assert_eq!((opened.state(), opened.failure_count), (Open, 3));
    assert_eq!(opened.generation, circuit.generation + 1);
    for i in 0..3 {
        let now = cluster.status(i, &name).await;
        assert_eq!(
            (now.state(), now.failure_count, now.openings_in_a_row),
            (Open, 3, 1)
        );
        assert_eq!(now.opened_at, Some(now.changed_at.unwrap()));
        assert_eq!(now.expires_at, None, "it never half-opens by itself");
        let totals = now.totals.unwrap();
        assert_eq!((totals.failures, totals.successes), (5, 1));
        let answer = available(&cluster, i, &name).await;
        assert_eq!((answer.available, answer.retry_after_ms), (false, None));
        let admission = cluster.acquire(i, &name).await;
        assert!(!admission.admitted && admission.permit_id.is_empty());
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_counts_late_answers_in_the_totals_only_and_half_opens_when_due() {
    let cluster = Cluster::start().await;
    let name = name("open");
    cluster.register(0, &name, fragile(ms(600))).await;
    let opened = cluster.fail(1, &name).await;
    let before = cluster.status(2, &name).await;
    assert_eq!(before.state(), Open);
    let retry_after = available(&cluster, 0, &name).await.retry_after_ms.unwrap();
    assert!((1..=600).contains(&retry_after), "{retry_after}");

    // Late answers: they neither close it nor prolong its opening.
    for i in 0..3 {
        let answer = cluster.fail(i, &name).await;
        assert_eq!((answer.state(), answer.generation), (Open, opened.generation));
        cluster.succeed(i, &name).await;
    }
    let now = cluster.status(0, &name).await;
    assert_eq!(now.state(), Open);
    assert_eq!(
        (now.opened_at, now.expires_at),
        (before.opened_at, before.expires_at)
    );
    assert_eq!(
        (now.failure_count, now.generation),
        (before.failure_count, before.generation)
    );
    let totals = now.totals.unwrap();
    assert_eq!((totals.failures, totals.successes), (4, 3));

    let half = cluster.until(1, &name, HalfOpen).await;
    assert_eq!(half.generation, before.generation + 1);
    assert_eq!(half.opened_at, before.opened_at, "the opening that led here");
    assert_eq!(half.expires_at, None);
    let late = micros(&half.changed_at.unwrap()) - micros(&before.expires_at.unwrap());
    assert!(late >= 0, "half-opened {late} us before it was due");
    assert!(late < 1_000_000, "half-opened {late} us late");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_gives_permits_and_lets_probes_decide() {
    let cluster = Cluster::start().await;
    let name = name("half");
    let policy = v1::Policy {
        half_open_max_probes: Some(2),
        half_open_successes: Some(3),
        ..fragile(ms(SHORT_MS))
    };
    cluster.register(0, &name, policy).await;
    cluster.fail(1, &name).await;
    cluster.until(2, &name, HalfOpen).await;

    // Two places in the whole cluster.
    let answer = available(&cluster, 0, &name).await;
    assert!(answer.available && answer.state() == HalfOpen);
    let first = cluster.acquire(0, &name).await;
    let second = cluster.acquire(1, &name).await;
    for permit in [&first, &second] {
        assert!(permit.admitted && permit.permit_id.len() == 16);
        assert!(permit.permit_expires_at.is_some());
    }
    assert_ne!(first.permit_id, second.permit_id);
    let third = cluster.acquire(2, &name).await;
    assert!(!third.admitted && third.permit_id.is_empty());
    assert!(
        third.retry_after_ms.is_some_and(|ms| (1..=30_000).contains(&ms)),
        "{third:?}"
    );
    // The node that answers locally may be a little behind.
    let revision = third.header.unwrap().revision;
    let request = v1::AvailableRequest {
        name: Some(name.clone()),
        consistency: Some(common::at_least(revision)),
    };
    assert!(
        !cluster
            .circuits(1)
            .available(request)
            .await
            .unwrap()
            .into_inner()
            .available
    );
    // A retry with the same id gets the same permit, and takes no second place.
    let again = v1::AcquireRequest {
        name: Some(name.clone()),
        permit_id: first.permit_id.clone(),
    };
    let again = cluster.circuits(2).acquire(again).await.unwrap().into_inner();
    assert_eq!(
        (&again.permit_id, again.permit_expires_at),
        (&first.permit_id, first.permit_expires_at)
    );

    // Successes one and two give their places back; the third closes it.
    assert_eq!(probe(&cluster, 1, &name, &first, true).await.state(), HalfOpen);
    assert_eq!(probe(&cluster, 0, &name, &second, true).await.state(), HalfOpen);
    let now = cluster.status(2, &name).await;
    assert_eq!((now.probes_in_flight, now.probe_successes), (0, 2));
    let last = cluster.acquire(2, &name).await;
    let closed = probe(&cluster, 0, &name, &last, true).await;
    assert_eq!((closed.state(), closed.failure_count), (Closed, 0));
    let now = cluster.status(1, &name).await;
    assert_eq!((now.openings_in_a_row, now.opened_at), (0, None));
    // The same answer again decides nothing.
    assert_eq!(
        probe(&cluster, 2, &name, &last, false).await.result(),
        v1::ItemResult::Late
    );
    assert_eq!(cluster.status(1, &name).await.state(), Closed);

    // A probe that fails opens it again, and its generation makes the other probe's success late.
    cluster.fail(0, &name).await;
    cluster.until(1, &name, HalfOpen).await;
    let (bad, good) = (cluster.acquire(1, &name).await, cluster.acquire(2, &name).await);
    assert_eq!(probe(&cluster, 0, &name, &bad, false).await.state(), Open);
    let now = cluster.status(0, &name).await;
    assert_eq!(now.openings_in_a_row, 2);
    let late = probe(&cluster, 1, &name, &good, true).await;
    assert_eq!(late.result(), v1::ItemResult::Late);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_without_an_answer_gives_its_place_back() {
    let cluster = Cluster::start().await;
    let name = name("timeout");
    let policy = v1::Policy {
        probe_timeout_ms: Some(SHORT_MS),
        ..fragile(ms(20))
    };
    cluster.register(0, &name, policy).await;
    cluster.fail(1, &name).await;
    cluster.until(2, &name, HalfOpen).await;
    let lost = cluster.acquire(0, &name).await;
    assert!(lost.admitted);
    let refused = cluster.acquire(1, &name).await;
    assert!(refused.retry_after_ms.is_none_or(|ms| ms <= SHORT_MS));

    let next = within("the place comes back", async {
        loop {
            let next = cluster.acquire(2, &name).await;
            if next.admitted {
                return next;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_ne!(next.permit_id, lost.permit_id);
    assert_eq!(next.generation, lost.generation, "neither success nor failure");
    // The lost one is late, whatever it says.
    let answer = probe(&cluster, 0, &name, &lost, false).await;
    assert_eq!(
        (answer.result(), answer.state()),
        (v1::ItemResult::Late, HalfOpen)
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_open_close_reset_and_unregister_from_any_state() {
    let cluster = Cluster::start().await;
    let name = name("manual");
    let policy = v1::Policy {
        max_attempts: Some(3),
        expiry: Some(ms(60_000)),
        ..Default::default()
    };
    cluster.register(0, &name, policy).await;
    cluster.fail(1, &name).await;
    cluster.fail(2, &name).await;

    // Open, with a reason and a time of its own.
    let request = v1::OpenCircuitRequest {
        name: Some(name.clone()),
        expiry: Some(ms(5_000)),
        reason: Some("maintenance".to_owned()),
    };
    let open = cluster
        .circuits(0)
        .open_circuit(request)
        .await
        .unwrap()
        .into_inner()
        .circuit
        .unwrap();
    assert_eq!((open.state(), open.failure_count), (Open, 2));
    assert_eq!(lasts_us(&open), 5_000_000);
    assert_eq!(open.last_reason.as_deref(), Some("maintenance"));
    assert_eq!(
        open.policy.as_ref().unwrap().expiry,
        Some(ms(60_000)),
        "the policy stays"
    );
    let answer = available(&cluster, 0, &name).await;
    assert_eq!(answer.reason.as_deref(), Some("maintenance"));
    // Again, for as long as somebody wants: the same opening begun anew.
    let request = v1::OpenCircuitRequest {
        name: Some(name.clone()),
        expiry: Some(never()),
        reason: None,
    };
    let longer = cluster
        .circuits(1)
        .open_circuit(request)
        .await
        .unwrap()
        .into_inner()
        .circuit
        .unwrap();
    assert_eq!(
        (longer.state(), longer.expires_at, longer.openings_in_a_row),
        (Open, None, 1)
    );
    assert_eq!(longer.generation, open.generation + 1);

    // Close keeps the failures: the next one opens it, for the policy's time.
    let request = v1::CloseCircuitRequest {
        name: Some(name.clone()),
        reason: Some("done".to_owned()),
    };
    let closed = cluster
        .circuits(2)
        .close_circuit(request)
        .await
        .unwrap()
        .into_inner()
        .circuit
        .unwrap();
    assert_eq!((closed.state(), closed.failure_count), (Closed, 2));
    let reopened = cluster.fail(0, &name).await;
    assert_eq!((reopened.state(), reopened.failure_count), (Open, 3));
    assert_eq!(
        lasts_us(&cluster.status(1, &name).await),
        60_000_000,
        "the time by hand was for once"
    );

    // Reset forgets them.
    let request = v1::ResetCircuitRequest {
        name: Some(name.clone()),
        reason: None,
    };
    let reset = cluster
        .circuits(1)
        .reset_circuit(request)
        .await
        .unwrap()
        .into_inner()
        .circuit
        .unwrap();
    assert_eq!(
        (reset.state(), reset.failure_count, reset.openings_in_a_row),
        (Closed, 0, 0)
    );
    assert_eq!(cluster.fail(2, &name).await.failure_count, 1);

    // From half-open, each of the three.
    let half = async || {
        let request = v1::OpenCircuitRequest {
            name: Some(name.clone()),
            expiry: Some(ms(20)),
            reason: None,
        };
        cluster.circuits(2).open_circuit(request).await.unwrap();
        cluster.until(0, &name, HalfOpen).await
    };
    let before = half().await;
    let now = cluster.open(0, &name).await;
    assert_eq!((now.state(), now.generation), (Open, before.generation + 1));
    half().await;
    let request = v1::CloseCircuitRequest {
        name: Some(name.clone()),
        reason: None,
    };
    let now = cluster
        .circuits(1)
        .close_circuit(request)
        .await
        .unwrap()
        .into_inner()
        .circuit
        .unwrap();
    assert_eq!((now.state(), now.failure_count), (Closed, 1));
    half().await;
    let request = v1::ResetCircuitRequest {
        name: Some(name.clone()),
        reason: None,
    };
    let now = cluster
        .circuits(2)
        .reset_circuit(request)
        .await
        .unwrap()
        .into_inner()
        .circuit
        .unwrap();
    assert_eq!((now.state(), now.failure_count), (Closed, 0));

    // Gone, and gone already.
    let last = half().await;
    for (i, existed) in [(0, true), (1, false), (2, false)] {
        let request = v1::UnregisterRequest {
            name: Some(name.clone()),
            reason: None,
        };
        let answer = cluster
            .circuits(i)
            .unregister(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answer.existed, existed, "node {}", i + 1);
    }
    // Its successor of the same name takes no answers that were meant for it.
    let anew = cluster.register(1, &name, fragile(never())).await;
    assert!(anew.generation > last.generation);
    let request = v1::FailureRequest {
        name: Some(name.clone()),
        generation: Some(last.generation),
        ..Default::default()
    };
    let answer = cluster.circuits(2).failure(request).await.unwrap().into_inner();
    assert_eq!((answer.result(), answer.state()), (v1::ItemResult::Late, Closed));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progressive_openings_grow_to_their_maximum_and_begin_anew_after_closing() {
    let cluster = Cluster::start().await;
    let name = name("progressive");
    let policy = v1::Policy {
        expiry_strategy: Some(v1::ExpiryStrategy::Progressive.into()),
        initial_expiry_ms: Some(20),
        max_expiry_ms: Some(100),
        backoff_factor: Some(3.0),
        ..fragile(ms(60_000))
    };
    cluster.register(0, &name, policy).await;
    for (i, (n, expected_ms)) in [(1, 20), (2, 60), (3, 100), (4, 100)].into_iter().enumerate() {
        cluster.fail(i % 3, &name).await;
        let events = opened_events(&cluster, &name).await;
        let opened = events.last().unwrap();
        let lasts = micros(opened.expires_at.as_ref().unwrap()) - micros(opened.time.as_ref().unwrap());
        assert_eq!((opened.openings_in_a_row, lasts), (n, expected_ms * 1000));
        cluster.until((i + 1) % 3, &name, HalfOpen).await;
    }
    cluster.succeed(2, &name).await;
    assert_eq!(cluster.status(0, &name).await.state(), Closed);
    cluster.fail(1, &name).await;
    let events = opened_events(&cluster, &name).await;
    let opened = events.last().unwrap();
    let lasts = micros(opened.expires_at.as_ref().unwrap()) - micros(opened.time.as_ref().unwrap());
    assert_eq!((opened.openings_in_a_row, lasts), (1, 20_000));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_are_inherited_shown_changed_and_cleared_while_the_state_stays() {
    let cluster = Cluster::start().await;
    let name = name("options");
    let circuit = cluster.register(0, &name, v1::Policy::default()).await;
    let built_in = v1::EffectivePolicy {
        max_attempts: 5,
        expiry: Some(ms(60_000)),
        expiry_strategy: v1::ExpiryStrategy::Fixed.into(),
        initial_expiry_ms: Some(60_000),
        max_expiry_ms: Some(600_000),
        backoff_factor: 2.0,
        half_open_max_probes: 1,
        half_open_successes: 1,
        probe_timeout_ms: 30_000,
        own: Vec::new(),
    };
    assert_eq!(circuit.policy.as_ref(), Some(&built_in));
    cluster.fail(1, &name).await;
    cluster.fail(2, &name).await;

    // All of them, on the circuit, one after the other: none touches another.
    let default = v1::Policy::default;
    type Change = fn(&mut v1::EffectivePolicy);
    let sets: [(v1::Policy, &str, Change); 9] = [
        (
            v1::Policy {
                max_attempts: Some(9),
                ..default()
            },
            "max_attempts",
            |p| p.max_attempts = 9,
        ),
        (
            v1::Policy {
                expiry: Some(ms(40_000)),
                ..default()
            },
            "expiry",
            |p| {
                p.expiry = Some(ms(40_000));
                // What is derived from it follows.
                p.initial_expiry_ms = Some(40_000);
                p.max_expiry_ms = Some(400_000);
            },
        ),
        (
            v1::Policy {
                expiry_strategy: Some(v1::ExpiryStrategy::Progressive.into()),
                ..default()
            },
            "expiry_strategy",
            |p| p.expiry_strategy = v1::ExpiryStrategy::Progressive.into(),
        ),
        (
            v1::Policy {
                initial_expiry_ms: Some(1_000),
                ..default()
            },
            "initial_expiry",
            |p| {
                p.initial_expiry_ms = Some(1_000);
            },
        ),
        (
            v1::Policy {
                max_expiry_ms: Some(9_000),
                ..default()
            },
            "max_expiry",
            |p| p.max_expiry_ms = Some(9_000),
        ),
        (
            v1::Policy {
                backoff_factor: Some(1.5),
                ..default()
            },
            "backoff_factor",
            |p| p.backoff_factor = 1.5,
        ),
        (
            v1::Policy {
                half_open_max_probes: Some(4),
                ..default()
            },
            "half_open_max_probes",
            |p| {
                p.half_open_max_probes = 4;
            },
        ),
        (
            v1::Policy {
                half_open_successes: Some(5),
                ..default()
            },
            "half_open_successes",
            |p| {
                p.half_open_successes = 5;
            },
        ),
        (
            v1::Policy {
                probe_timeout_ms: Some(7_000),
                ..default()
            },
            "probe_timeout",
            |p| p.probe_timeout_ms = 7_000,
        ),
    ];
    let mut expected = built_in.clone();
    let mut options = Vec::new();
    for (i, (policy, option, change)) in sets.into_iter().enumerate() {
        change(&mut expected);
        expected.own.push(option.to_owned());
        options.push(option.to_owned());
        for changed in [true, false] {
            let request = v1::ConfigureRequest {
                name: Some(name.clone()),
                policy: Some(policy),
                ..Default::default()
            };
            let answer = cluster
                .circuits(i % 3)
                .configure(request)
                .await
                .unwrap()
                .into_inner();
            assert_eq!(
                (answer.policy.as_ref(), answer.changed),
                (Some(&expected), changed),
                "{option}"
            );
        }
        let now = cluster.status((i + 1) % 3, &name).await;
        assert_eq!(now.policy.as_ref(), Some(&expected), "{option}");
        assert_eq!(
            (now.state(), now.failure_count, now.generation),
            (Closed, 2, circuit.generation)
        );
    }
    let request = v1::ConfigureRequest {
        name: Some(name.clone()),
        clear: options,
        ..Default::default()
    };
    let answer = cluster.circuits(0).configure(request).await.unwrap().into_inner();
    assert_eq!((answer.policy, answer.changed), (Some(built_in.clone()), true));

    // For all circuits, also those that are there already; a circuit's own goes before.
    let own = common::name("own");
    cluster
        .register(
            1,
            &own,
            v1::Policy {
                max_attempts: Some(2),
                ..default()
            },
        )
        .await;
    let request = v1::ConfigureRequest {
        policy: Some(v1::Policy {
            max_attempts: Some(3),
            half_open_successes: Some(2),
            ..default()
        }),
        global: Some(v1::GlobalOptions {
            inactive_threshold_ms: Some(3_600_000),
            cleanup_interval_ms: None,
        }),
        ..Default::default()
    };
    cluster.circuits(2).configure(request).await.unwrap();
    for i in 0..3 {
        let policy = cluster.status(i, &name).await.policy.unwrap();
        assert_eq!((policy.max_attempts, policy.half_open_successes), (3, 2));
        let policy = cluster.status(i, &own).await.policy.unwrap();
        assert_eq!((policy.max_attempts, policy.half_open_successes), (2, 2));
        let request = v1::GetConfigRequest::default();
        let all = cluster
            .circuits(i)
            .get_config(request)
            .await
            .unwrap()
            .into_inner();
        let global = all.global.unwrap();
        assert_eq!(
            (global.inactive_threshold_ms, global.cleanup_interval_ms),
            (Some(3_600_000), Some(10_000))
        );
        assert_eq!(all.own.unwrap().max_attempts, Some(3));
        assert_eq!(all.limits.unwrap().max_circuits, 100_000);
    }
    // Two failures were there: the third is enough now.
    assert_eq!(cluster.fail(0, &name).await.state(), Open);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_again_keeps_or_updates_and_lists_come_in_pages() {
    let cluster = Cluster::start().await;
    let again = name("again");
    cluster.register(0, &again, fragile(never())).await;
    cluster.fail(1, &again).await;
    let before = cluster.status(2, &again).await;
    let request = |if_exists: v1::IfExists| v1::RegisterRequest {
        name: Some(again.clone()),
        policy: Some(v1::Policy {
            max_attempts: Some(8),
            ..Default::default()
        }),
        metadata: [("team".to_owned(), "pay".to_owned())].into(),
        if_exists: if_exists.into(),
    };
    let kept = cluster
        .circuits(0)
        .register(request(v1::IfExists::Keep))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((kept.created, kept.circuit.as_ref()), (false, Some(&before)));
    let updated = cluster
        .circuits(1)
        .register(request(v1::IfExists::Update))
        .await
        .unwrap()
        .into_inner();
    let circuit = updated.circuit.unwrap();
    assert!(!updated.created);
    assert_eq!(
        (circuit.state(), circuit.generation, circuit.failure_count),
        (Open, before.generation, 1)
    );
    assert_eq!(circuit.metadata["team"], "pay");
    let policy = circuit.policy.unwrap();
    assert_eq!(
        (policy.max_attempts, policy.own),
        (8, vec!["max_attempts".to_owned()]),
        "exactly this policy"
    );

    for i in 0..7 {
        cluster
            .register(i % 3, &name(&format!("a{i}")), v1::Policy::default())
            .await;
        cluster
            .register(
                i % 3,
                &common::scoped("s", &format!("a{i}")),
                v1::Policy::default(),
            )
            .await;
    }
    let list = async |i: usize, request: v1::ListRequest| {
        let answer = cluster.circuits(i).list(request).await.unwrap().into_inner();
        let names: Vec<_> = answer
            .circuits
            .into_iter()
            .map(|circuit| circuit.name.unwrap())
            .collect();
        (names, answer.next_page_token)
    };
    // Page by page, each from another node.
    let (mut names, mut token) = (Vec::new(), String::new());
    for page in 0.. {
        let request = v1::ListRequest {
            page_size: 4,
            page_token: token,
            ..Default::default()
        };
        let (page, next) = list(page % 3, request).await;
        assert!(page.len() == 4 || next.is_empty());
        names.extend(page);
        token = next;
        if token.is_empty() {
            break;
        }
    }
    let mut expected: Vec<_> = (0..7).map(|i| name(&format!("a{i}"))).collect();
    expected.push(again);
    expected.extend((0..7).map(|i| common::scoped("s", &format!("a{i}"))));
    assert_eq!(names, expected);
    let (names, _) = list(
        1,
        v1::ListRequest {
            scope: Some("s".to_owned()),
            identifier_prefix: "a1".to_owned(),
            ..Default::default()
        },
    )
    .await;
    assert_eq!(names, [common::scoped("s", "a1")]);
    let (names, _) = list(
        2,
        v1::ListRequest {
            states: vec![Open.into(), HalfOpen.into()],
            ..Default::default()
        },
    )
    .await;
    assert_eq!(names, [name("again")]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cleanup_removes_what_is_idle_and_healthy_only() {
    let cluster = Cluster::start().await;
    let (idle, failing, open) = (name("idle"), name("failing"), name("open"));
    for (i, name) in [&idle, &failing, &open].into_iter().enumerate() {
        cluster.register(i, name, v1::Policy::default()).await;
    }
    cluster.fail(0, &failing).await;
    cluster.open(1, &open).await;
    let request = v1::ConfigureRequest {
        global: Some(v1::GlobalOptions {
            inactive_threshold_ms: Some(200),
            cleanup_interval_ms: Some(50),
        }),
        ..Default::default()
    };
    cluster.circuits(2).configure(request).await.unwrap();
    within("the idle circuit is removed", async {
        loop {
            let request = v1::ListRequest::default();
            let names: Vec<_> = cluster
                .circuits(0)
                .list(request)
                .await
                .unwrap()
                .into_inner()
                .circuits;
            if names.len() == 2 {
                let names: Vec<_> = names.into_iter().map(|circuit| circuit.name.unwrap()).collect();
                assert_eq!(names, [failing.clone(), open.clone()]);
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    for name in [&failing, &open] {
        cluster.status(1, name).await;
    }
    cluster.stop().await;
}

async fn available(cluster: &Cluster, i: usize, name: &v1::CircuitName) -> v1::AvailableResponse {
    let request = v1::AvailableRequest {
        name: Some(name.clone()),
        consistency: Some(v1::Consistency {
            level: Some(v1::consistency::Level::Linearizable(true)),
        }),
    };
    cluster.circuits(i).available(request).await.unwrap().into_inner()
}

/// A probe's answer, through node `i`.
async fn probe(
    cluster: &Cluster,
    i: usize,
    name: &v1::CircuitName,
    permit: &v1::AcquireResponse,
    good: bool,
) -> v1::OutcomeResponse {
    assert!(permit.admitted, "{permit:?}");
    let (name, generation) = (Some(name.clone()), Some(permit.generation));
    let permit_id = permit.permit_id.clone();
    let mut client = cluster.circuits(i);
    let answer = if good {
        let request = v1::SuccessRequest {
            name,
            generation,
            permit_id,
            ..Default::default()
        };
        client.success(request).await
    } else {
        let request = v1::FailureRequest {
            name,
            generation,
            permit_id,
            ..Default::default()
        };
        client.failure(request).await
    };
    answer.unwrap().into_inner()
}

/// How long an opening lasts, in microseconds.
fn lasts_us(circuit: &v1::Circuit) -> i64 {
    micros(circuit.expires_at.as_ref().unwrap()) - micros(circuit.opened_at.as_ref().unwrap())
}

/// All openings of a circuit up to now.
async fn opened_events(cluster: &Cluster, name: &v1::CircuitName) -> Vec<v1::Event> {
    let newest = cluster.revision(0).await;
    let request = v1::SubscribeRequest {
        names: vec![name.clone()],
        from: Some(v1::subscribe_request::From::Oldest(true)),
        ..Default::default()
    };
    let mut subscriber = common::Subscriber::new(cluster.events(0), request).await.unwrap();
    let mut opened = Vec::new();
    while subscriber.revision < newest {
        if let v1::subscribe_response::Message::Event(event) = subscriber.message().await.unwrap()
            && event.r#type() == v1::EventType::CircuitOpened
        {
            opened.push(event);
        }
    }
    opened
}
