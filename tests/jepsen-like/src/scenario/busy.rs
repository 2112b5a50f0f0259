//! One client that counts a million outcomes a second: what does it cost the cluster, and is every one of them counted once though leaders die?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use brama_client::{Circuit, Client, Decision, Policy};

use crate::cluster::{Cluster, ClusterOptions, status};
use crate::findings::Findings;

const PATIENCE: Duration = Duration::from_secs(30);
const CIRCUITS: usize = 8;
/// One in so many is a failure: a hundred a second.
const FAILS: u64 = 10_000;
const BATCHES_A_SECOND: f64 = 100.0;
/// What the machine must at least manage for the run to show anything.
const ENOUGH: f64 = 0.9;

/// `rate` outcomes a second from one thread, for so many seconds; the leader is killed with -9 twice.
///
/// # Errors
/// When it could not be done.
pub async fn busy(rate: u64, seconds: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let cluster = Cluster::start(ClusterOptions::default()).await?;
    let nodes = cluster.connect()?;
    let endpoints = cluster.addresses();
    let client = Client::builder()
        .endpoints(endpoints.iter().map(ToString::to_string))
        .timeout(PATIENCE)
        .connect()
        .await?;
    let circuits: Vec<_> = (0..CIRCUITS)
        .map(|n| client.circuit(format!("busy-{n}")))
        .collect();
    let policy = Policy {
        max_attempts: Some(u32::MAX),
        ..Policy::default()
    };
    for circuit in &circuits {
        circuit.register_with(policy.clone()).await?;
        // Known from now on, so that no decision has to wait.
        drop(circuit.try_acquire().await?);
    }
    let log_index = async || -> anyhow::Result<u64> {
        let leader = cluster.wait_for_leader(&nodes, PATIENCE).await?;
        let status = status(&nodes, leader).await;
        Ok(status
            .context("the leader does not say where it stands")?
            .applied_index)
    };
    let before = log_index().await?;
    let end = Arc::new(AtomicBool::new(false));
    let counting = {
        let (circuits, end) = (circuits.clone(), end.clone());
        std::thread::spawn(move || count(&circuits, rate, &end))
    };
    let began = Instant::now();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(seconds).mul_f64(0.3)).await;
        let leader = cluster.wait_for_leader(&nodes, PATIENCE).await?;
        cluster.nodes()[leader].kill().await?;
        tokio::time::sleep(Duration::from_secs(seconds).mul_f64(0.1)).await;
        cluster.nodes()[leader].start()?;
        cluster.wait_until_ready(PATIENCE).await?;
    }
    tokio::time::sleep(Duration::from_secs(seconds).saturating_sub(began.elapsed())).await;
    end.store(true, Ordering::Relaxed);
    let Counted { made, passed, lasted } = match tokio::task::spawn_blocking(move || counting.join()).await? {
        Ok(counted) => counted,
        Err(_) => bail!("the thread that counts panicked"),
    };
    client.flush().await?;
    let batches = client.report_stats().batches;
    let entries = log_index().await? - before;

    let a_second = passed as f64 / lasted.as_secs_f64();
    findings.figure("outcomes a second", format!("{a_second:.0}, {passed} in all"));
    let of = |count: u64| count as f64 / lasted.as_secs_f64();
    findings.figure(
        "batches a second",
        format!(
            "{:.1}; entries of the log {:.1}, with those of elections and timers",
            of(batches),
            of(entries)
        ),
    );
    if a_second < rate as f64 * ENOUGH {
        findings.untold(format!(
            "only {a_second:.0} outcomes a second were counted, not {rate}"
        ));
    }
    findings.require(
        of(batches) < BATCHES_A_SECOND && of(entries) < BATCHES_A_SECOND,
        "bound",
        || {
            format!(
                "{:.1} batches and {:.1} entries a second",
                of(batches),
                of(entries)
            )
        },
    );
    findings.checked(
        "bound",
        format!("under {BATCHES_A_SECOND} batches and entries a second"),
    );
    for (circuit, made) in circuits.iter().zip(made) {
        let totals = circuit.status().await?.totals;
        let told = [totals.successes, totals.failures];
        findings.require(told == made, "G3", || {
            format!(
                "{}: {made:?} successes and failures were counted, the cluster has {told:?}",
                circuit.name()
            )
        });
    }
    findings.checked(
        "G3",
        format!("{passed} outcomes over {CIRCUITS} circuits, each counted once; two leaders were killed"),
    );
    Ok(findings)
}

struct Counted {
    /// Successes and failures of each circuit.
    made: Vec<[u64; 2]>,
    passed: u64,
    lasted: Duration,
}

fn count(circuits: &[Circuit], rate: u64, end: &AtomicBool) -> Counted {
    let mut made = vec![[0; 2]; circuits.len()];
    let mut passed = 0_u64;
    let began = Instant::now();
    while !end.load(Ordering::Relaxed) {
        for _ in 0..rate / 1000 {
            let which = usize::try_from(passed).unwrap_or(0) % circuits.len();
            // Nothing opens them: whoever is not let pass would be missing in the totals.
            let Decision::Pass(permit) = circuits[which].decide() else {
                continue;
            };
            passed += 1;
            if passed.is_multiple_of(FAILS) {
                permit.failure("boom");
                made[which][1] += 1;
            } else {
                permit.success();
                made[which][0] += 1;
            }
        }
        let due = Duration::from_secs_f64(passed as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
    Counted {
        made,
        passed,
        lasted: began.elapsed(),
    }
}
