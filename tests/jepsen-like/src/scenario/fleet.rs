//! A thousand replicas share one circuit: how soon do all of them reject, and how many pass while it is half-open?
//!
//! The replicas are clients of `crates/client` in a few processes of their own ([`replicas`]); each makes calls all the time. A process says what its
//! clients see, with the machine's monotonic clock, in lines.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use brama_client::{CallError, Circuit, Client, Decision, Expiry, Policy, StateName};
use nix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cluster::{Cluster, ClusterOptions};
use crate::findings::Findings;
use crate::time::{Micros, percentile, show_ms};

const CIRCUIT: &str = "payment_api";
const PATIENCE: Duration = Duration::from_secs(60);
/// From the acknowledged failure to the last client that rejects, p99.
const BOUND: Micros = 50_000;
const PROBES: u32 = 3;
/// A probe's call takes so long, so that the others ask meanwhile.
const PROBE_TAKES: Duration = Duration::from_millis(300);
/// How often a client makes a call.
const CALL_EVERY: Duration = Duration::from_millis(1);

/// What the clients of a process see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// A client's calls pass.
    Passes,
    /// A client's calls are rejected.
    Rejects,
    /// A client has got a permit of this generation.
    Probe(u64),
    /// Its call has ended, and it is about to say so.
    Probed(u64),
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    client: usize,
    at: Micros,
    sight: Sight,
}

/// So many clients in so many processes; the circuit opens so many times.
///
/// # Errors
/// When it could not be done.
pub async fn fleet(clients: usize, processes: usize, times: usize) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let cluster = Cluster::start(ClusterOptions::default()).await?;
    let endpoints: Vec<String> = cluster.addresses().iter().map(ToString::to_string).collect();
    let operator = Client::builder().endpoints(&endpoints).connect().await?;
    let circuit = operator.circuit(CIRCUIT);
    circuit
        .register_with(Policy {
            max_attempts: Some(1),
            expiry: Some(Expiry::Never),
            half_open_max_probes: Some(PROBES),
            half_open_successes: Some(PROBES),
            ..Policy::default()
        })
        .await?;
    let mut fleet = Fleet::start(&endpoints, clients, processes)?;
    fleet.all(Sight::Passes).await?;

    let (mut lasts, mut each) = (Vec::new(), Vec::new());
    for _ in 0..times {
        // Calls flow, and their outcomes are told.
        tokio::time::sleep(Duration::from_millis(500)).await;
        circuit.failure("the deciding one").await?;
        let acknowledged = now()?;
        let seen = fleet.all(Sight::Rejects).await?;
        let late = |at: &Micros| at.saturating_sub(acknowledged);
        lasts.push(seen.iter().map(late).max().unwrap_or(0));
        each.extend(seen.iter().map(late));
        circuit.reset(None).await?;
        fleet.all(Sight::Passes).await?;
    }
    lasts.sort_unstable();
    each.sort_unstable();
    findings.figure(
        format!("{clients} clients in {processes} processes: last one rejects after"),
        format!(
            "p50 {}, p99 {}, worst {} of {times}",
            show_ms(percentile(&lasts, 50)),
            show_ms(percentile(&lasts, 99)),
            show_ms(percentile(&lasts, 100))
        ),
    );
    findings.figure(
        "... each one",
        format!(
            "p50 {}, p99 {}",
            show_ms(percentile(&each, 50)),
            show_ms(percentile(&each, 99))
        ),
    );
    findings.require(percentile(&lasts, 99) <= BOUND, "bound", || {
        format!("p99 of the last one is over {}", show_ms(BOUND))
    });
    findings.checked(
        "bound",
        format!("the last client rejects within {}, p99", show_ms(BOUND)),
    );

    for _ in 0..times.div_ceil(10) {
        circuit.open(Some(Expiry::Ms(200)), Some("to be probed")).await?;
        let probes = fleet.probes().await?;
        let status = circuit.status().await?;
        let (first, most) = passed(&probes);
        findings.require(first == PROBES && most == PROBES, "G6", || {
            format!(
                "{first} calls passed before one of them had ended, {most} at once; {PROBES} may: {probes:?}"
            )
        });
        findings.require(status.state == StateName::Closed, "G6", || {
            format!("it is {} after {PROBES} good probes", status.state.name())
        });
    }
    findings.checked(
        "G6",
        format!(
            "of {clients} clients that all make calls, exactly {PROBES} were let pass at once while half-open"
        ),
    );
    fleet.stop().await?;
    Ok(findings)
}

/// The processes, and what they say.
struct Fleet {
    processes: Vec<Child>,
    seen: mpsc::Receiver<Seen>,
    clients: usize,
}

impl Fleet {
    fn start(endpoints: &[String], clients: usize, processes: usize) -> anyhow::Result<Self> {
        let (sender, seen) = mpsc::channel(100_000);
        let mut children = Vec::new();
        for process in 0..processes {
            // As even as it goes.
            let (first, next) = (clients * process / processes, clients * (process + 1) / processes);
            let mut child = Command::new(binary()?)
                .arg("replicas")
                .args(["--endpoints", &endpoints.join(",")])
                .args(["--first", &first.to_string()])
                .args(["--clients", &(next - first).to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            let lines = child.stdout.take().context("its output is piped")?;
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(lines).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    match parse(&line) {
                        Some(seen) if sender.send(seen).await.is_ok() => {}
                        Some(_) => return,
                        None => eprintln!("  a process of clients said: {line}"),
                    }
                }
            });
            children.push(child);
        }
        Ok(Self {
            processes: children,
            seen,
            clients,
        })
    }

    async fn next(&mut self, deadline: Instant, what: &str) -> anyhow::Result<Seen> {
        match tokio::time::timeout_at(deadline, self.seen.recv()).await {
            Ok(Some(seen)) => Ok(seen),
            Ok(None) => bail!("the processes of clients are gone"),
            Err(_) => bail!("not every client within {PATIENCE:?}: {what}"),
        }
    }

    /// When each client saw it.
    async fn all(&mut self, sight: Sight) -> anyhow::Result<Vec<Micros>> {
        let deadline = Instant::now() + PATIENCE;
        let mut when = vec![None; self.clients];
        let mut left = self.clients;
        while left > 0 {
            let seen = self
                .next(deadline, &format!("{left} are missing: {sight:?}"))
                .await?;
            if seen.sight == sight && when[seen.client].replace(seen.at).is_none() {
                left -= 1;
            }
        }
        Ok(when.into_iter().flatten().collect())
    }

    /// Until all calls pass again: the probes that began and ended meanwhile.
    async fn probes(&mut self) -> anyhow::Result<Vec<Seen>> {
        let deadline = Instant::now() + PATIENCE;
        let mut probes = Vec::new();
        let mut rejected = vec![false; self.clients];
        let mut passing = 0;
        while passing < self.clients {
            let what = format!("{passing} pass again after {} probes", probes.len());
            let seen = self.next(deadline, &what).await?;
            match seen.sight {
                Sight::Rejects => rejected[seen.client] = true,
                Sight::Probe(_) | Sight::Probed(_) => probes.push(seen),
                Sight::Passes if std::mem::take(&mut rejected[seen.client]) => passing += 1,
                Sight::Passes => {}
            }
        }
        Ok(probes)
    }

    async fn stop(self) -> anyhow::Result<()> {
        for mut process in self.processes {
            // The end of its input tells it to stop.
            drop(process.stdin.take());
            let ended = tokio::time::timeout(PATIENCE, process.wait()).await??;
            if !ended.success() {
                bail!("a process of clients ended with {ended}");
            }
        }
        Ok(())
    }
}

fn binary() -> anyhow::Result<PathBuf> {
    // The tests of this crate have their binary beside them.
    let here = std::env::current_exe()?;
    let name = "brama-faults";
    if here.file_name().is_some_and(|file| file == name) {
        return Ok(here);
    }
    let beside = here
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    beside.context("brama-faults is not there (cargo build --workspace)")
}

fn now() -> anyhow::Result<Micros> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(time.tv_sec())? * 1_000_000 + u64::try_from(time.tv_nsec())? / 1000)
}

/// How many probes began before one ended, and how many were out at once at most.
fn passed(probes: &[Seen]) -> (u32, u32) {
    let mut probes = probes.to_vec();
    probes.sort_by_key(|seen| seen.at);
    let begins = |seen: &&Seen| matches!(seen.sight, Sight::Probe(_));
    let first = probes.iter().take_while(begins).count();
    let (mut out, mut most) = (0_u32, 0);
    for seen in &probes {
        if matches!(seen.sight, Sight::Probe(_)) {
            out += 1;
            most = most.max(out);
        } else {
            out = out.saturating_sub(1);
        }
    }
    (u32::try_from(first).unwrap_or(u32::MAX), most)
}

fn parse(line: &str) -> Option<Seen> {
    let mut words = line.split(' ');
    let client = words.next()?.parse().ok()?;
    let at = words.next()?.parse().ok()?;
    let sight = match words.next()? {
        "passes" => Sight::Passes,
        "rejects" => Sight::Rejects,
        "probe" => Sight::Probe(words.next()?.parse().ok()?),
        "probed" => Sight::Probed(words.next()?.parse().ok()?),
        _ => return None,
    };
    Some(Seen { client, at, sight })
}

/// One process of the fleet: so many clients, numbered from `first`, until its input ends. Each begins with another node.
///
/// # Errors
/// When it cannot reach the cluster or write.
pub async fn replicas(endpoints: &[String], first: usize, clients: usize) -> anyhow::Result<()> {
    let (sender, mut lines) = mpsc::channel::<String>(100_000);
    let mut tasks = tokio::task::JoinSet::new();
    for number in first..first + clients {
        let turned = (0..endpoints.len()).map(|i| endpoints[(number + i) % endpoints.len()].clone());
        let client = Client::builder()
            .endpoints(turned)
            .begin_with_first()
            .connect_lazy()?;
        tasks.spawn(replica(number, client.circuit(CIRCUIT), sender.clone()));
    }
    drop(sender);
    let mut out = tokio::io::stdout();
    let mut stdin = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(line) => {
                    out.write_all(line.as_bytes()).await?;
                    out.flush().await?;
                }
                None => bail!("every client ended"),
            },
            end = stdin.next_line() => if end?.is_none() {
                return Ok(());
            },
        }
    }
}

/// Makes calls, and says when what becomes of them changes.
async fn replica(number: usize, circuit: Circuit, lines: mpsc::Sender<String>) -> anyhow::Result<()> {
    let circuit = Arc::new(circuit);
    let mut told = None;
    let mut interval = tokio::time::interval(CALL_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        let sight = match circuit.decide() {
            Decision::Pass(permit) => {
                permit.success();
                Sight::Passes
            }
            Decision::Reject(_) => Sight::Rejects,
            Decision::Ask => match circuit.try_acquire().await {
                Ok(permit) if permit.is_probe() => {
                    let generation = permit.generation();
                    lines
                        .send(format!("{number} {} probe {generation}\n", now()?))
                        .await?;
                    tokio::time::sleep(PROBE_TAKES).await;
                    // Said before: so what is seen of a probe is within the life of its permit.
                    lines
                        .send(format!("{number} {} probed {generation}\n", now()?))
                        .await?;
                    permit.success();
                    continue;
                }
                Ok(permit) => {
                    permit.success();
                    Sight::Passes
                }
                Err(CallError::Rejected { .. }) => Sight::Rejects,
                Err(error) => {
                    lines.send(format!("client {number}: {error}\n")).await?;
                    continue;
                }
            },
        };
        if told != Some(sight) {
            told = Some(sight);
            let word = if sight == Sight::Passes {
                "passes"
            } else {
                "rejects"
            };
            lines.send(format!("{number} {} {word}\n", now()?)).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let seen = parse("17 123456 probe 4").unwrap();
        assert_eq!((seen.client, seen.at, seen.sight), (17, 123_456, Sight::Probe(4)));
        assert_eq!(parse("3 9 rejects").map(|seen| seen.sight), Some(Sight::Rejects));
        assert_eq!(
            parse("3 9 probed 2").map(|seen| seen.sight),
            Some(Sight::Probed(2))
        );
        assert!(parse("client 3: no").is_none());
        assert!(parse("3 9 probe").is_none());
    }

    #[test]
    fn probes_are_counted_while_they_are_out() {
        let seen = |client, at, sight| Seen { client, at, sight };
        let (begins, ends) = (Sight::Probe(2), Sight::Probed(2));
        let three = [
            (0, 10, begins),
            (1, 11, begins),
            (2, 12, begins),
            (0, 20, ends),
            (3, 21, begins),
            (1, 30, ends),
        ];
        let of = |all: &[(usize, Micros, Sight)]| {
            let all: Vec<_> = all
                .iter()
                .map(|(client, at, sight)| seen(*client, *at, *sight))
                .collect();
            passed(&all)
        };
        assert_eq!(of(&three), (3, 3));
        let four = [&three[..4], &[(3, 19, begins), (1, 30, ends)]].concat();
        assert_eq!(of(&four), (4, 4));
        assert_eq!(of(&three[..2]), (2, 2));
    }
}
