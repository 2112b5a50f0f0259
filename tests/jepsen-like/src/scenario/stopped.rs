//! Every node gets SIGSTOP while calls are made: nobody waits, decisions go on, nothing grows, and the totals are right after SIGCONT.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use brama_client::{CallError, Circuit, Client, Expiry, Mode, Policy, StateName};

use crate::cluster::{Cluster, ClusterOptions};
use crate::findings::Findings;
use crate::time::{micros, show_ms};

const PATIENCE: Duration = Duration::from_secs(30);
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(500);
/// What a busy machine may add to a timer.
const SLACK: Duration = Duration::from_millis(100);
const UNREACHABLE_AFTER: Duration = Duration::from_secs(2);
const CALLERS: usize = 8;
pub(super) const CIRCUITS: usize = 16;
/// What the process may have more in the end of the stop than in its first third.
const GROWTH_MIB: f64 = 8.0;

/// What callers saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) successes: [AtomicU64; CIRCUITS],
    pub(super) failures: [AtomicU64; CIRCUITS],
    rejected: AtomicU64,
    /// Microseconds.
    pub(super) longest: AtomicU64,
    pub(super) errors: AtomicU64,
}

impl Seen {
    /// Calls that passed.
    pub(super) fn made(&self) -> u64 {
        let all = self.successes.iter().chain(&self.failures);
        all.map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Stops every node for so many seconds.
///
/// # Errors
/// When it could not be done.
pub async fn stopped(seconds: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let cluster = Cluster::start(ClusterOptions::default()).await?;
    let endpoints = cluster.addresses();
    let client = Client::builder()
        .endpoints(endpoints.iter().map(ToString::to_string))
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .unreachable_after(UNREACHABLE_AFTER)
        .timeout(PATIENCE)
        .connect()
        .await?;
    let circuits: Vec<_> = (0..CIRCUITS)
        .map(|n| client.circuit(format!("stopped-{n}")))
        .collect();
    for circuit in &circuits {
        let policy = Policy {
            max_attempts: Some(u32::MAX),
            ..Policy::default()
        };
        circuit.register_with(policy).await?;
        drop(circuit.try_acquire().await?);
    }
    // Half-open when the nodes stop: its calls have to ask.
    let half = client.circuit("stopped-half-open");
    half.register_with(Policy::default()).await?;
    half.open(Some(Expiry::Ms(1)), None).await?;
    wait("the circuit is half-open", || {
        half.known_state() == Some(StateName::HalfOpen)
    })
    .await?;

    let seen = Arc::new(Seen::default());
    let end = Arc::new(AtomicBool::new(false));
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..CALLERS {
        callers.spawn(call(
            number,
            circuits.clone(),
            half.clone(),
            seen.clone(),
            end.clone(),
        ));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for node in cluster.nodes() {
        node.pause()?;
    }
    let began = Instant::now();
    let lasts = Duration::from_secs(seconds);
    let mut memory = Vec::new();
    let mut calls = Vec::new();
    while began.elapsed() < lasts {
        calls.push(seen.made());
        memory.push(rss_mib()?);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let mode = client.health().mode;
    for node in cluster.nodes() {
        node.resume()?;
    }
    wait("the client is connected again", || {
        client.health().mode == Mode::Connected
    })
    .await?;
    end.store(true, Ordering::Relaxed);
    while let Some(ended) = callers.join_next().await {
        ended?;
    }
    client.flush().await?;

    if mode != Mode::Degraded {
        findings.untold(format!(
            "the client was {mode:?} after {seconds} s without a node: nothing was shown"
        ));
    }
    let longest = Duration::from_micros(seen.longest.load(Ordering::Relaxed));
    findings.figure("longest wait for a decision", show_ms(micros(longest)));
    findings.require(longest <= ACQUIRE_TIMEOUT + SLACK, "G11", || {
        format!("a call waited {longest:?}, the acquire timeout is {ACQUIRE_TIMEOUT:?}")
    });
    if longest < ACQUIRE_TIMEOUT / 2 {
        findings.untold("no call had to wait for an answer: that none waits too long was not shown");
    }
    let stalls = calls.windows(4).filter(|four| four[0] == four[3]).count();
    findings.require(stalls == 0, "G11", || {
        format!("{stalls} times no call passed for a second")
    });
    let made = calls
        .last()
        .zip(calls.first())
        .map_or(0, |(last, first)| last - first);
    findings.figure(
        "calls made while every node was stopped",
        format!("{made}, {:.0} a second", made as f64 / lasts.as_secs_f64()),
    );
    let (first, last) = (
        highest(&memory[..memory.len() / 3]),
        highest(&memory[memory.len() * 2 / 3..]),
    );
    findings.figure(
        "memory of the process",
        format!("{first:.1} MiB in the first third, {last:.1} in the last"),
    );
    findings.require(last - first <= GROWTH_MIB, "G11", || {
        format!("it grew by {:.1} MiB", last - first)
    });
    let errors = seen.errors.load(Ordering::Relaxed);
    findings.require(errors == 0, "G11", || {
        format!("{errors} calls could not be decided")
    });
    findings.checked(
        "G11",
        "decisions went on, none waited longer than the acquire timeout, memory stayed flat",
    );
    let stats = client.report_stats();
    for (n, circuit) in circuits.iter().enumerate() {
        let totals = circuit.status().await?.totals;
        let made = [&seen.successes[n], &seen.failures[n]].map(|count| count.load(Ordering::Relaxed));
        findings.require([totals.successes, totals.failures] == made, "G3", || {
            format!(
                "{}: {made:?} successes and failures, the cluster has {totals:?}; {stats:?}",
                circuit.name()
            )
        });
    }
    findings.checked(
        "G3",
        format!("{} outcomes, each counted once", stats.acknowledged),
    );
    Ok(findings)
}

pub(super) async fn call(
    number: usize,
    circuits: Vec<Circuit>,
    half: Circuit,
    seen: Arc<Seen>,
    end: Arc<AtomicBool>,
) {
    let mut n = number;
    while !end.load(Ordering::Relaxed) {
        n += 1;
        let which = n % CIRCUITS;
        // One caller asks for permits all the time; a probe says nothing, so that it goes on.
        let circuit = if number == 0 { &half } else { &circuits[which] };
        let asked = Instant::now();
        let permit = circuit.try_acquire().await;
        seen.longest.fetch_max(micros(asked.elapsed()), Ordering::Relaxed);
        match permit {
            Ok(permit) if number == 0 => drop(permit),
            Ok(permit) if n.is_multiple_of(50) => {
                permit.failure("boom");
                seen.failures[which].fetch_add(1, Ordering::Relaxed);
            }
            Ok(permit) => {
                permit.success();
                seen.successes[which].fetch_add(1, Ordering::Relaxed);
            }
            Err(CallError::Rejected { .. }) => {
                seen.rejected.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                seen.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(super) async fn wait(what: &str, done: impl Fn() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > deadline {
            bail!("{what}: not within {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

pub(super) fn highest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// What this process holds.
pub(super) fn rss_mib() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
