//! The fake cluster does what the real one does, when the test says so.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use brama_client::testing::FakeCluster;
use brama_client::{
    CallError, Client, EventKind, ExpiryStrategy, HealthEvent, Mode, Policy, StateName, Subscription,
};
use futures::StreamExt;

fn policy() -> Policy {
    Policy {
        max_attempts: Some(3),
        expiry_strategy: Some(ExpiryStrategy::Progressive),
        initial_expiry_ms: Some(10_000),
        half_open_successes: Some(2),
        ..Policy::default()
    }
}

#[tokio::test]
async fn hours_pass_in_a_moment_and_every_client_knows() {
    let cluster = FakeCluster::start().await.unwrap();
    let (one, other) = (cluster.client().unwrap(), cluster.client().unwrap());
    let (here, there) = (one.circuit("payment_api"), other.circuit("payment_api"));
    here.register_with(policy()).await.unwrap();
    there.try_acquire().await.unwrap().success();

    cluster.add_failures(&here, 0).await.unwrap();
    cluster.add_failures(&here, 2).await.unwrap();
    assert_eq!(here.known_state(), Some(StateName::Closed));
    here.call(async { Err::<(), _>("boom") }).await.unwrap_err();
    cluster.settle().await;
    let CallError::Rejected {
        reason, retry_after, ..
    } = there.try_acquire().await.unwrap_err()
    else {
        panic!("it is open")
    };
    assert_eq!(reason.as_deref(), Some("boom"));
    assert!(retry_after.unwrap() <= Duration::from_secs(10));

    cluster.advance(Duration::from_millis(9_999)).await;
    assert_eq!(there.known_state(), Some(StateName::Open));
    cluster.advance(Duration::from_millis(1)).await;
    assert_eq!(there.known_state(), Some(StateName::HalfOpen));
    let probe = there.try_acquire().await.unwrap();
    assert!(probe.is_probe());
    assert!(here.try_acquire().await.unwrap_err().is_rejected());
    probe.failure("still broken");
    // The second opening in a row is twice as long.
    cluster.advance(Duration::from_millis(19_999)).await;
    assert_eq!(here.known_state(), Some(StateName::Open));
    cluster.simulate_recovery(&here).await.unwrap();
    for circuit in [&here, &there] {
        assert_eq!(circuit.known_state(), Some(StateName::Closed));
    }
    let kinds: Vec<_> = cluster.events().iter().map(|event| event.kind).collect();
    assert_eq!(kinds.first(), Some(&EventKind::Registration));
    let opened = kinds
        .iter()
        .filter(|kind| **kind == EventKind::CircuitOpened)
        .count();
    assert_eq!(
        opened, 3,
        "by failures, by the probe, and by the recovery, which ends an opening early"
    );
}

#[tokio::test]
async fn who_registered_a_circuit_that_was_cleaned_up_registers_it_again() {
    let cluster = FakeCluster::start().await.unwrap();
    let (client, other) = (cluster.client().unwrap(), cluster.client().unwrap());
    let (mine, theirs) = (client.circuit("rare"), other.circuit("rare"));
    mine.register_with(policy()).await.unwrap();
    theirs.try_acquire().await.unwrap().success();
    // Nobody called for two days.
    cluster.advance(Duration::from_secs(2 * 24 * 3600)).await;
    assert_eq!(mine.known_state(), None);
    assert!(matches!(theirs.try_acquire().await, Err(CallError::Cluster(_))));
    mine.try_acquire().await.unwrap().success();
    assert_eq!(cluster.status(mine.name()).unwrap().policy.max_attempts, 3);
    // But what somebody takes away on purpose stays away.
    theirs.unregister(None).await.unwrap();
    cluster.settle().await;
    assert!(matches!(mine.try_acquire().await, Err(CallError::Cluster(_))));
}

#[tokio::test]
async fn every_state_can_be_set_and_seen_by_a_subscriber() {
    let cluster = FakeCluster::start().await.unwrap();
    let client = cluster.client().unwrap();
    let circuit = client.circuit("payment_api").scope("billing");
    circuit.register_with(policy()).await.unwrap();
    let wanted = Subscription::new()
        .event("state_change")
        .filter_with(|event| event.generation > 2);
    let mut events = client.subscribe(wanted).await.unwrap();
    for state in [
        StateName::Open,
        StateName::HalfOpen,
        StateName::Closed,
        StateName::Open,
    ] {
        cluster.set_state(&circuit, state).await.unwrap();
        assert_eq!(circuit.known_state(), Some(state));
        assert_eq!(cluster.status(circuit.name()).unwrap().state, state);
    }
    let first = events.next().await.unwrap().unwrap();
    let brama_client::ClientEvent::Event { event, .. } = first else {
        panic!("{first:?}")
    };
    assert!(event.generation > 2, "the closure has the last word");
    assert!(
        cluster
            .set_state(&client.circuit("nobody"), StateName::Open)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_cluster_that_is_cut_off_is_done_without() {
    let cluster = FakeCluster::start().await.unwrap();
    let settings = Client::builder().unreachable_after(Duration::from_millis(150));
    let client = cluster.client_with(settings).unwrap();
    let circuit = client.circuit("payment_api");
    circuit.register_with(policy()).await.unwrap();
    cluster.settle().await;
    assert_eq!(client.health().mode, Mode::Connected);
    let mut health = client.health_events();
    cluster.cut_off();
    assert_eq!(health.next().await, Some(HealthEvent::Degraded));
    for _ in 0..3 {
        circuit.try_acquire().await.unwrap().failure("alone");
    }
    assert!(circuit.try_acquire().await.unwrap_err().is_rejected());
    cluster.reconnect();
    assert!(matches!(health.next().await, Some(HealthEvent::Recovered { .. })));
    cluster.settle().await;
    // What the replica has learnt alone opens the circuit for all.
    assert_eq!(cluster.status(circuit.name()).unwrap().state, StateName::Open);
}
