//! What a call of a closed circuit costs, beside other circuit breakers of this ecosystem.
//!
//! `cargo bench -p brama-client`. The cluster is stopped before anything is measured: what is measured needs none.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may panic")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use brama_client::{Circuit, Client, Decision, Policy};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use failsafe::backoff;
use failsafe::failure_policy::consecutive_failures;
use recloser::Recloser;
use support::Cluster;
use tower::{Layer, Service, service_fn};
use tower_resilience_circuitbreaker::CircuitBreakerLayer;

/// As many circuits as a large service has.
const CIRCUITS: usize = 1000;

struct Ours {
    runtime: tokio::runtime::Runtime,
    client: Client,
    circuit: Circuit,
}

/// A client that knows a thousand closed circuits, and no cluster any more.
fn ours() -> Ours {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (client, circuit) = runtime.block_on(async {
        let cluster = Cluster::start().await;
        let settings = cluster.settings(0).unreachable_after(Duration::from_secs(3600));
        let client = settings
            .report_interval(Duration::from_secs(60))
            .connect_lazy()
            .unwrap();
        let circuits: Vec<_> = (0..CIRCUITS)
            .map(|n| client.circuit(format!("service-{n}")))
            .collect();
        let registered = circuits.iter().map(|circuit| circuit.register(Policy::default()));
        futures::future::try_join_all(registered).await.unwrap();
        for circuit in &circuits {
            circuit.try_acquire().await.unwrap().success();
        }
        cluster.stop().await;
        (client, circuits[CIRCUITS / 2].clone())
    });
    Ours {
        runtime,
        client,
        circuit,
    }
}

/// Measures so many calls on one thread, and as many on each of two that share what is called.
fn alone_and_shared(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, calls: impl Fn(u64) + Sync) {
    let measure = |iterations| {
        let began = Instant::now();
        calls(iterations);
        began.elapsed()
    };
    group.bench_function(format!("{name}/alone"), |bencher| bencher.iter_custom(measure));
    group.bench_function(format!("{name}/two threads"), |bencher| {
        bencher.iter_custom(|iterations| {
            let barrier = Barrier::new(2);
            let measure = || {
                barrier.wait();
                measure(iterations)
            };
            std::thread::scope(|scope| {
                let other = scope.spawn(measure);
                let here = measure();
                here.max(other.join().unwrap())
            })
        });
    });
}

/// One call after the other.
fn each(call: impl Fn() + Sync) -> impl Fn(u64) + Sync {
    move |iterations| {
        for _ in 0..iterations {
            call();
        }
    }
}

fn closed(criterion: &mut Criterion) {
    let ours = ours();
    let mut group = criterion.benchmark_group("closed");

    let decide = each(|| match ours.circuit.decide() {
        Decision::Pass(permit) => permit.success(),
        other => panic!("{other:?}"),
    });
    alone_and_shared(&mut group, "brama decide", decide);
    // As in an async function.
    alone_and_shared(&mut group, "brama try_acquire", |iterations| {
        futures::executor::block_on(async {
            for _ in 0..iterations {
                ours.circuit.try_acquire().await.unwrap().success();
            }
        });
    });
    alone_and_shared(&mut group, "brama by name", |iterations| {
        futures::executor::block_on(async {
            for _ in 0..iterations {
                let permit = ours.client.try_acquire_named(black_box("service-777")).await;
                permit.unwrap().success();
            }
        });
    });

    // Its cheaper policy: the other one keeps a rate.
    let policy = consecutive_failures(5, backoff::constant(Duration::from_secs(60)));
    let failsafe = failsafe::Config::new().failure_policy(policy).build();
    let calls = each(|| {
        assert!(failsafe.is_call_permitted());
        failsafe.on_success();
    });
    alone_and_shared(&mut group, "failsafe", calls);

    let recloser = Recloser::default();
    let calls = each(|| {
        recloser.call(|| Ok::<u32, ()>(black_box(1))).unwrap();
    });
    alone_and_shared(&mut group, "recloser", calls);

    let _runtime = ours.runtime.enter();
    let layer = CircuitBreakerLayer::builder().build().unwrap();
    let service = layer.layer(service_fn(|(): ()| async { Ok::<_, String>(()) }));
    let calls = each(|| futures::executor::block_on(service.clone().call(())).unwrap());
    alone_and_shared(&mut group, "tower-resilience", calls);
    // The same shape of call, for comparison with it.
    let guarded = ours
        .circuit
        .wrap(service_fn(|(): ()| async { Ok::<_, String>(()) }));
    let calls = each(|| futures::executor::block_on(guarded.clone().call(())).unwrap());
    alone_and_shared(&mut group, "brama tower", calls);
    group.finish();
}

criterion_group!(benches, closed);
criterion_main!(benches);
