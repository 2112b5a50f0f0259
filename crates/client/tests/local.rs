//! Circuits that a client keeps itself: what it counts, whom it lets pass, and what it does alone.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brama_client::{
    CallError, Circuit, Client, Decision, Error, Expiry, HealthEvent, Mode, OnUnreachable, Policy, StateName,
};
use futures::StreamExt;
use support::{Cluster, fragile, within};

fn patient() -> Policy {
    Policy {
        max_attempts: Some(1_000_000),
        ..Policy::default()
    }
}

async fn knows(circuit: &Circuit, state: StateName) {
    within(&format!("it knows {state:?}"), async {
        while circuit.known_state() != Some(state) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Everything counted was told, whatever happens meanwhile.
async fn flushed(client: &Client) {
    within("everything is told", async {
        while client.flush().await.is_err() || client.report_stats().waiting > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_are_right_to_the_last_one_though_the_leader_goes_twice() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client(0);
    let circuits: Vec<_> = (0..3).map(|n| client.circuit(format!("c{n}"))).collect();
    for circuit in &circuits {
        circuit.register(patient()).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..2_u64)
        .map(|thread| {
            let (circuits, stop) = (circuits.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut told = [[0_u64; 3]; 3];
                let mut n = thread;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let which = (n % 3) as usize;
                    let Decision::Pass(permit) = circuits[which].decide() else {
                        panic!("it is closed")
                    };
                    let outcome = match n % 1000 {
                        0..10 => 1,
                        10..20 => 2,
                        _ => 0,
                    };
                    told[which][outcome] += 1;
                    match outcome {
                        0 => permit.success(),
                        1 => permit.failure("boom"),
                        _ => permit.ignore(),
                    }
                    if n % 512 == 0 {
                        std::thread::sleep(Duration::from_micros(500));
                    }
                }
                told
            })
        })
        .collect();
    let began = Instant::now();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let leader = cluster.leader().await;
        cluster.down(leader).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cluster.up(leader).await;
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    stop.store(true, Ordering::Relaxed);
    let lasted = began.elapsed();
    let mut expected = [[0; 3]; 3];
    for thread in threads {
        let told = thread.join().unwrap();
        for (sum, more) in expected.iter_mut().flatten().zip(told.iter().flatten()) {
            *sum += more;
        }
    }
    flushed(&client).await;
    let stats = client.report_stats();
    assert_eq!(
        (stats.dropped, stats.unknown, stats.refused, stats.not_found),
        (0, 0, 0, 0)
    );
    let all: u64 = expected.iter().flatten().sum();
    assert_eq!(stats.acknowledged, all);
    assert!(
        (stats.batches as f64) < 100.0 * lasted.as_secs_f64(),
        "{} batches in {lasted:?}",
        stats.batches
    );
    for (circuit, expected) in circuits.iter().zip(expected) {
        let totals = circuit.status().await.unwrap().totals;
        assert_eq!([totals.successes, totals.failures, totals.ignored], expected);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_calls_pass_half_open_as_there_are_probes_in_the_whole_fleet() {
    const CLIENTS: usize = 12;
    const PROBES: u32 = 3;
    let cluster = Cluster::start().await;
    let clients: Vec<_> = (0..CLIENTS).map(|i| cluster.client(i % 3)).collect();
    let circuits: Vec<_> = clients.iter().map(|client| client.circuit("shared")).collect();
    let policy = Policy {
        half_open_max_probes: Some(PROBES),
        half_open_successes: Some(PROBES),
        ..fragile(Duration::from_millis(100))
    };
    circuits[0].register(policy).await.unwrap();
    for circuit in &circuits {
        knows(circuit, StateName::Closed).await;
    }
    circuits[0].try_acquire().await.unwrap().failure("boom");
    for circuit in &circuits {
        knows(circuit, StateName::HalfOpen).await;
    }
    let calls = circuits
        .iter()
        .flat_map(|circuit| (0..20).map(move |_| async move { circuit.try_acquire().await }));
    let results = within("every call is decided", futures::future::join_all(calls)).await;
    let (passed, rejected): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(passed.len(), PROBES as usize);
    for result in rejected {
        let error = result.unwrap_err();
        assert!(
            matches!(
                error,
                CallError::Rejected {
                    state: StateName::HalfOpen,
                    ..
                }
            ),
            "{error:?}"
        );
    }
    for permit in passed {
        let permit = permit.unwrap();
        assert!(permit.is_probe());
        permit.success();
    }
    for circuit in &circuits {
        knows(circuit, StateName::Closed).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_are_followed_from_their_first_use_and_as_long_as_they_are_there() {
    let cluster = Cluster::start().await;
    let (client, admin) = (cluster.client(0), cluster.client(1));
    let first = client.circuit("first");
    admin.circuit("first").register(patient()).await.unwrap();
    first.try_acquire().await.unwrap().success();
    // One after the other: each is there at its first call, or its absence is.
    for n in 0..20 {
        let (mine, theirs) = (client.circuit(format!("c{n}")), admin.circuit(format!("c{n}")));
        let error = mine.try_acquire().await.unwrap_err();
        assert!(
            matches!(error, CallError::Cluster(Error::NotFound { .. })),
            "{error:?}"
        );
        theirs.register(fragile(Duration::from_secs(60))).await.unwrap();
        knows(&mine, StateName::Closed).await;
        theirs.open(Some(Expiry::Never), Some("by hand")).await.unwrap();
        knows(&mine, StateName::Open).await;
        let CallError::Rejected {
            reason, retry_after, ..
        } = mine.try_acquire().await.unwrap_err()
        else {
            panic!("it is open")
        };
        assert_eq!((reason.as_deref(), retry_after), (Some("by hand"), None));
    }
    let last = client.circuit("c19");
    admin.circuit("c19").unregister(None).await.unwrap();
    within("it is gone", async {
        while last.known_state().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let error = client.try_acquire_named("c19").await.unwrap_err();
    assert!(
        matches!(error, CallError::Cluster(Error::NotFound { .. })),
        "{error:?}"
    );
    assert!(client.try_acquire_scoped("scope", "first").await.is_err());
    client.try_acquire_named("first").await.unwrap().success();
    assert_eq!(client.health().mode, Mode::Connected);
    flushed(&client).await;
    assert_eq!(first.status().await.unwrap().totals.successes, 2);
    cluster.stop().await;
}

/// As when every node gets SIGSTOP: connections stay, and nothing comes.
#[tokio::test(flavor = "multi_thread")]
async fn while_every_node_hangs_decisions_go_on_and_what_was_learnt_is_told_later() {
    const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(400);
    let cluster = Cluster::start().await;
    let settings = cluster.settings(0).acquire_timeout(ACQUIRE_TIMEOUT);
    let client = settings
        .unreachable_after(Duration::from_millis(600))
        .connect_lazy()
        .unwrap();
    let mut edges = client.health_events();
    let steady = client.circuit("steady");
    let flaky = client.circuit("flaky");
    let half = client.circuit("half");
    steady.register(patient()).await.unwrap();
    flaky.register(fragile(Duration::from_millis(200))).await.unwrap();
    half.register(fragile(Duration::from_millis(1))).await.unwrap();
    half.open(Some(Expiry::Ms(1)), None).await.unwrap();
    knows(&half, StateName::HalfOpen).await;
    within("it is connected", async {
        while client.health().mode != Mode::Connected {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;

    (0..3).for_each(|i| cluster.link(i).freeze());
    let worst = AtomicU64::new(0);
    let made = AtomicU64::new(0);
    let began = Instant::now();
    // Calls go on, of all three.
    while began.elapsed() < Duration::from_secs(3) {
        for circuit in [&steady, &half] {
            let asked = Instant::now();
            if let Ok(permit) = circuit.try_acquire().await
                && circuit.name() == steady.name()
            {
                permit.success();
                made.fetch_add(1, Ordering::Relaxed);
            }
            worst.fetch_max(asked.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let worst = worst.into_inner();
    assert!(
        worst <= ACQUIRE_TIMEOUT.as_millis() as u64 + 150,
        "a call waited for {worst} ms"
    );
    let health = client.health();
    assert_eq!(health.mode, Mode::Degraded);
    assert!(health.staleness.unwrap() > Duration::from_secs(2), "{health:?}");
    assert_eq!(within("an edge", edges.next()).await, Some(HealthEvent::Degraded));

    // This replica's own breaker, with the same policy: it opens, half-opens and closes by itself.
    flaky.try_acquire().await.unwrap().failure("alone");
    let error = flaky.try_acquire().await.unwrap_err();
    assert!(
        matches!(&error, CallError::Rejected { state: StateName::Open, reason, .. } if reason.as_deref() == Some("alone")),
        "{error:?}"
    );
    tokio::time::sleep(Duration::from_millis(250)).await;
    let probe = flaky.try_acquire().await.unwrap();
    assert!(probe.is_probe());
    assert!(flaky.try_acquire().await.is_err());
    probe.success();
    flaky.try_acquire().await.unwrap().success();

    (0..3).for_each(|i| cluster.link(i).thaw());
    let edge = within("the other edge", edges.next()).await;
    assert!(matches!(edge, Some(HealthEvent::Recovered { .. })), "{edge:?}");
    flushed(&client).await;
    let stats = client.report_stats();
    assert_eq!(
        (stats.dropped, stats.unknown, stats.refused),
        (0, 0, 0),
        "{stats:?}"
    );
    let totals = steady.status().await.unwrap().totals;
    assert_eq!(totals.successes, made.into_inner());
    // What it learnt counts. But its dependency had healed, so it does not open the circuit of the fleet.
    let status = flaky.status().await.unwrap();
    assert_eq!((status.totals.successes, status.totals.failures), (2, 1));
    assert_eq!(status.state, StateName::Closed);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_decided_without_any_node_is_what_was_chosen() {
    for choice in [
        OnUnreachable::LocalBreaker,
        OnUnreachable::Allow,
        OnUnreachable::Reject,
    ] {
        let client = Client::builder()
            .endpoints(["127.0.0.1:1"])
            .on_unreachable(choice)
            .acquire_timeout(Duration::from_millis(100))
            .unreachable_after(Duration::from_millis(300))
            .connect_lazy()
            .unwrap();
        let circuit = client.circuit("payment_api");
        for _ in 0..2 {
            let asked = Instant::now();
            let mut rejected = 0;
            for _ in 0..8 {
                match circuit.try_acquire().await {
                    Ok(permit) => permit.failure("boom"),
                    Err(error) => {
                        assert!(error.is_rejected(), "{error:?}");
                        rejected += 1;
                    }
                }
            }
            match choice {
                // The built-in policy: it opens at the fifth.
                OnUnreachable::LocalBreaker => assert!(rejected >= 3, "{rejected}"),
                OnUnreachable::Allow => assert_eq!(rejected, 0),
                _ => assert_eq!(rejected, 8),
            }
            assert!(asked.elapsed() < Duration::from_secs(2));
            tokio::time::sleep(Duration::from_millis(400)).await;
            assert_eq!(client.health().mode, Mode::Degraded);
        }
    }
}
