//! The way that each call of a closed circuit takes allocates nothing.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use brama_client::{Decision, Policy};
use futures::FutureExt;
use support::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn a_call_through_a_closed_circuit_allocates_nothing() {
    let cluster = Cluster::start().await;
    let client = cluster.client(0);
    let circuit = client.circuit("payment_api");
    circuit.register(Policy::default()).await.unwrap();
    // The first call of a thread takes a number for it.
    circuit.try_acquire().await.unwrap().success();

    let decided = allocation_counter::measure(|| {
        for _ in 0..1000 {
            match circuit.decide() {
                Decision::Pass(permit) => permit.success(),
                other => panic!("{other:?}"),
            }
        }
    });
    assert_eq!(decided.count_total, 0, "{decided:?}");

    let acquired = allocation_counter::measure(|| {
        for _ in 0..1000 {
            let permit = circuit.try_acquire().now_or_never().expect("at the first poll");
            permit.unwrap().success();
        }
    });
    assert_eq!(acquired.count_total, 0, "{acquired:?}");

    let named = allocation_counter::measure(|| {
        for _ in 0..1000 {
            let permit = client.try_acquire_named("payment_api").now_or_never();
            permit.expect("at the first poll").unwrap().success();
        }
    });
    assert_eq!(named.count_total, 0, "{named:?}");

    client.flush().await.unwrap();
    assert_eq!(circuit.status().await.unwrap().totals.successes, 3001);
    cluster.stop().await;
}
