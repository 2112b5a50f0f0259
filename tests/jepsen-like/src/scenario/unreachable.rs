//! The whole cluster is out of reach of its clients in every way that processes can do it (row 26 of the matrix; `stopped` is the way in which nothing answers):
//! dead, slow, and there one moment and gone the next. Calls are decided all the time, nothing grows, the totals are right, and when the cluster is
//! there again the clients come back one by one and not all at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use brama_client::{Circuit, Client, Expiry, Mode, Policy, StateName};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::stopped::{CIRCUITS, Seen, call, highest, rss_mib, wait};
use crate::cluster::{Cluster, ClusterOptions};
use crate::findings::Findings;
use crate::progress;
use crate::time::{micros, show_ms};

const PATIENCE: Duration = Duration::from_secs(60);
const CLIENTS: usize = 30;
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(500);
/// What a busy machine may add to a timer.
const SLACK: Duration = Duration::from_millis(250);
/// The clients are all there again after this.
const HEALED: Duration = Duration::from_secs(20);
/// What this process may have more in the end than before anything went wrong.
const GROWTH_MIB: f64 = 24.0;
/// Connections that each client may open in all, on all nodes, while the cluster comes back.
const CONNECTIONS: u64 = 20;
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A way to be out of reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nobody listens.
    Dead,
    /// All nodes get to run a fifth of the time.
    Slow,
    /// All nodes stop and go on, for a second or so each.
    Flapping,
}

impl Way {
    const ALL: [Self; 3] = [Self::Dead, Self::Slow, Self::Flapping];
}

/// Each way for so many seconds.
///
/// # Errors
/// When it could not be done.
pub async fn unreachable(seconds: u64, seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let cluster = Cluster::start(ClusterOptions::default()).await?;
    let fleet = Fleet::start(&cluster).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let held = rss_mib()?;
    let mut memory = Vec::new();
    for way in Way::ALL {
        progress::step(format!("the cluster is {way:?} for {seconds} s"));
        let before = accepted(&cluster).await?;
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut calls = Vec::new();
        let mut look = |fleet: &Fleet| -> anyhow::Result<()> {
            calls.push(fleet.seen.made());
            memory.push(rss_mib()?);
            Ok(())
        };
        match way {
            Way::Dead => {
                for node in cluster.nodes() {
                    node.send_kill()?;
                }
                for node in cluster.nodes() {
                    node.kill().await?;
                }
                while Instant::now() < until {
                    look(&fleet)?;
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
            Way::Slow => {
                while Instant::now() < until {
                    look(&fleet)?;
                    stop_all(&cluster, Duration::from_millis(200)).await?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Way::Flapping => {
                while Instant::now() < until {
                    look(&fleet)?;
                    let away = rng.random_range(200..2000);
                    stop_all(&cluster, Duration::from_millis(away)).await?;
                    let there = rng.random_range(200..1500);
                    tokio::time::sleep(Duration::from_millis(there)).await;
                }
            }
        }
        let lost = fleet.lost();
        for node in cluster.nodes() {
            node.start()?;
        }
        let mended = Instant::now();
        cluster.wait_until_ready(PATIENCE).await?;
        let healed = fleet.wait_until_connected().await;
        let took = mended.elapsed();
        tokio::time::sleep(Duration::from_secs(3)).await;
        judge_way(way, &calls, lost, healed, took, &mut findings);
        // Whoever was killed counts from zero again.
        let before = if way == Way::Dead { 0 } else { before };
        let opened = accepted(&cluster).await? - before;
        findings.figure(
            format!("{way:?}: connections that clients opened"),
            format!(
                "{opened}, {:.1} a client ({CONNECTIONS} allowed)",
                opened as f64 / CLIENTS as f64
            ),
        );
        findings.require(opened <= CONNECTIONS * CLIENTS as u64, "G11", || {
            format!("{way:?}: {CLIENTS} clients opened {opened} connections")
        });
    }
    fleet.judge(&mut findings).await?;
    let most = highest(&memory);
    findings.figure(
        "memory of the clients' process",
        format!("{held:.1} MiB before, at most {most:.1} ({GROWTH_MIB} more allowed)"),
    );
    findings.require(most - held <= GROWTH_MIB, "G11", || {
        format!("it grew from {held:.1} MiB to {most:.1}")
    });
    Ok(findings)
}

/// All nodes are stopped for a while, and go on.
async fn stop_all(cluster: &Cluster, lasts: Duration) -> anyhow::Result<()> {
    for node in cluster.nodes() {
        node.pause()?;
    }
    tokio::time::sleep(lasts).await;
    for node in cluster.nodes() {
        node.resume()?;
    }
    Ok(())
}

fn judge_way(way: Way, calls: &[u64], lost: usize, healed: bool, took: Duration, findings: &mut Findings) {
    let made = calls
        .last()
        .zip(calls.first())
        .map_or(0, |(last, first)| last - first);
    findings.figure(
        format!("{way:?}"),
        format!(
            "{made} calls meanwhile, {lost} of {CLIENTS} clients knew that they were alone, all were back after {}",
            show_ms(micros(took))
        ),
    );
    let stalls = calls.windows(5).filter(|five| five[0] == five[4]).count();
    findings.require(stalls == 0, "G11", || {
        format!("{way:?}: {stalls} times no call passed for a second")
    });
    findings.require(healed && took <= HEALED, "G11", || {
        format!("{way:?}: not all clients were back after {took:?}, {HEALED:?} are allowed")
    });
    if made == 0 {
        findings.untold(format!("{way:?}: no call was made"));
    }
    if way == Way::Dead && lost < CLIENTS {
        findings.untold(format!("{way:?}: only {lost} clients noticed: it was too short"));
    }
}

/// Clients, each with a caller.
struct Fleet {
    clients: Vec<Client>,
    circuits: Vec<Circuit>,
    seen: Arc<Seen>,
    end: Arc<AtomicBool>,
    callers: JoinSet<()>,
}

impl Fleet {
    async fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut fleet = Self {
            clients: Vec::new(),
            circuits: Vec::new(),
            seen: Arc::default(),
            end: Arc::default(),
            callers: JoinSet::new(),
        };
        for number in 0..CLIENTS {
            let client = Client::builder()
                .endpoints(cluster.addresses().iter().map(ToString::to_string))
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .unreachable_after(Duration::from_secs(2))
                .timeout(PATIENCE)
                .connect()
                .await?;
            let circuits: Vec<_> = (0..CIRCUITS)
                .map(|n| client.circuit(format!("unreachable-{n}")))
                .collect();
            let half = client.circuit("unreachable-half-open");
            if number == 0 {
                let policy = Policy {
                    max_attempts: Some(u32::MAX),
                    ..Policy::default()
                };
                for circuit in &circuits {
                    circuit.register_with(policy.clone()).await?;
                }
                // Half-open all the time: calls through it have to ask.
                half.register_with(Policy::default()).await?;
                half.open(Some(Expiry::Ms(1)), None).await?;
                fleet.circuits = circuits.clone();
            }
            for circuit in &circuits {
                drop(circuit.try_acquire().await?);
            }
            if number == 0 {
                wait("the circuit is half-open", || {
                    half.known_state() == Some(StateName::HalfOpen)
                })
                .await?;
            }
            fleet.clients.push(client);
            fleet.callers.spawn(call(
                number,
                circuits,
                half,
                fleet.seen.clone(),
                fleet.end.clone(),
            ));
        }
        Ok(fleet)
    }

    /// Clients that decide alone.
    fn lost(&self) -> usize {
        let lost = |client: &&Client| client.health().mode == Mode::Degraded;
        self.clients.iter().filter(lost).count()
    }

    async fn wait_until_connected(&self) -> bool {
        let all = || {
            self.clients
                .iter()
                .all(|client| client.health().mode == Mode::Connected)
        };
        wait("all clients are connected", all).await.is_ok()
    }

    async fn judge(mut self, findings: &mut Findings) -> anyhow::Result<()> {
        self.end.store(true, Ordering::Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended?;
        }
        let (mut dropped, mut acknowledged) = (0, 0);
        for client in &self.clients {
            client.flush().await?;
            let stats = client.report_stats();
            dropped += stats.dropped + stats.unknown + stats.refused + stats.not_found;
            acknowledged += stats.acknowledged;
        }
        let longest = Duration::from_micros(self.seen.longest.load(Ordering::Relaxed));
        findings.figure("longest wait for a decision", show_ms(micros(longest)));
        findings.require(longest <= ACQUIRE_TIMEOUT + SLACK, "G11", || {
            format!("a call waited {longest:?}, the acquire timeout is {ACQUIRE_TIMEOUT:?}")
        });
        let errors = self.seen.errors.load(Ordering::Relaxed);
        findings.require(errors == 0, "G11", || {
            format!("{errors} calls could not be decided")
        });
        let mut missing = 0;
        for (n, circuit) in self.circuits.iter().enumerate() {
            let totals = circuit.status().await?.totals;
            let made =
                [&self.seen.successes[n], &self.seen.failures[n]].map(|count| count.load(Ordering::Relaxed));
            let told = [totals.successes, totals.failures];
            for (made, told) in made.into_iter().zip(told) {
                findings.require(told <= made, "G3", || {
                    format!("{}: {made} were made, the cluster has {told}", circuit.name())
                });
                missing += made.saturating_sub(told);
            }
        }
        findings.figure(
            "outcomes",
            format!("{acknowledged} acknowledged, {dropped} dropped by the clients, {missing} missing in the cluster"),
        );
        findings.require(missing <= dropped, "G3", || {
            format!("{missing} outcomes are missing, the clients own up to {dropped}")
        });
        findings.checked("G3", format!("{acknowledged} outcomes, each counted once"));
        findings.checked(
            "G11",
            "dead, slow or flapping: decisions went on in time, memory stayed flat, and all clients came back without a rush",
        );
        Ok(())
    }
}

/// Connections that the nodes have accepted since they were started.
async fn accepted(cluster: &Cluster) -> anyhow::Result<u64> {
    let mut accepted = 0;
    for address in cluster.addresses() {
        accepted += counter(address, "brama_connections_accepted_total").await?;
    }
    Ok(accepted)
}

/// One counter without labels, as the node shows it.
async fn counter(address: SocketAddr, name: &str) -> anyhow::Result<u64> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        anyhow::Ok(text)
    };
    let text = tokio::time::timeout(Duration::from_secs(5), ask).await??;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {name}"))?.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Verdict;

    #[test]
    fn a_stall_a_late_return_and_a_way_that_nobody_noticed_are_found() {
        let verdict = |way, calls: &[u64], lost, seconds| {
            let mut findings = Findings::default();
            judge_way(
                way,
                calls,
                lost,
                true,
                Duration::from_secs(seconds),
                &mut findings,
            );
            findings.verdict()
        };
        let flows = [1, 2, 3, 4, 5, 6];
        assert_eq!(verdict(Way::Dead, &flows, CLIENTS, 20), Verdict::Holds);
        assert_eq!(verdict(Way::Dead, &flows, CLIENTS, 21), Verdict::Broken);
        assert_eq!(
            verdict(Way::Dead, &[1, 2, 2, 2, 2, 2], CLIENTS, 1),
            Verdict::Broken
        );
        assert_eq!(verdict(Way::Dead, &flows, CLIENTS - 1, 1), Verdict::Unknown);
        assert_eq!(verdict(Way::Slow, &flows, 0, 1), Verdict::Holds);
    }
}
