//! Malformed, oversized and hostile input on both ports of all nodes, and clients that keep connections without a word (row 27 of the matrix): the nodes stay
//! up, take no more memory than they may, answer everybody else, and nothing of it enters the log.
//!
//! What is *not* tried: a stranger who speaks the protocol of nodes correctly and shows a node's card. That port is for a network one trusts.

mod calls;
mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use brama_proto::v1;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::wire::Attack;
use super::memory;
use crate::circuits::name;
use crate::cluster::{Cluster, ClusterOptions, status};
use crate::findings::Findings;
use crate::progress;
use crate::rpc::{Nodes, answer, timed};
use crate::time::{Micros, micros, percentile, show_ms};

const PATIENCE: Duration = Duration::from_secs(30);
const CALL: Duration = Duration::from_secs(2);
/// How many do harm at once.
const HOSTILE: u64 = 8;
/// Connections on each port of each node that say a byte a second, or nothing.
const SLOW: usize = 100;
/// More than a node may be given by all of them together.
const GROWTH_MIB: f64 = 128.0;
/// What may stay when they are gone: an allocator gives back late.
const LEFT_MIB: f64 = 64.0;
/// An ordinary read beside them, p99.
const READ: Micros = 500_000;

/// Hostile clients for so many seconds.
///
/// # Errors
/// When it could not be done.
pub async fn hostile(seconds: u64, seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let cluster = Cluster::start(ClusterOptions::default()).await?;
    let nodes = cluster.connect()?;
    // There is no circuit, so that no timer is armed, and the log stands still by itself.
    let before = Stand::at_rest(&cluster, &nodes).await?;
    let held = (0..nodes.len())
        .map(|position| memory::of(&cluster.nodes()[position]))
        .collect::<anyhow::Result<Vec<_>>>()?;

    progress::step(format!("hostile clients for {seconds} s"));
    let harm = Arc::new(Mutex::new(Harm::default()));
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let ports: Vec<_> = cluster
        .nodes()
        .iter()
        .flat_map(|node| [(node.spec.client, Port::Clients), (node.spec.peer, Port::Nodes)])
        .collect();
    for number in 0..HOSTILE {
        let enemy = Enemy {
            rng: StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9)),
            ports: ports.clone(),
            nodes: cluster.connect()?,
            harm: harm.clone(),
        };
        tasks.spawn(enemy.run(stop.clone()));
    }
    for (number, (address, _)) in ports
        .iter()
        .flat_map(|port| std::iter::repeat_n(port, SLOW))
        .enumerate()
    {
        tasks.spawn(slow(*address, number, stop.clone()));
    }
    let mut peaks = held.clone();
    let mut reads = Reads::default();
    let until = Instant::now() + Duration::from_secs(seconds);
    let own = cluster.connect()?;
    while Instant::now() < until {
        for (position, node) in cluster.nodes().iter().enumerate() {
            if let Some(status) = node.exit_status()? {
                findings.broken(
                    "G10",
                    format!("node {} ended ({status}):\n{}", node.spec.id, node.log_tail(10)),
                );
                return Ok(findings);
            }
            peaks[position] = peaks[position].max(memory::of(node)?);
            reads.read(&own, position).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.cancel();
    while let Some(task) = tasks.join_next().await {
        task?;
    }

    progress::step("looking at what is left");
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.wait_until_ready(PATIENCE).await?;
    let after = Stand::of(&cluster, &nodes).await?;
    let harm = std::mem::take(&mut *harm.lock());
    harm.judge(&mut findings);
    reads.judge(&mut findings);
    before.judge(&after, &mut findings);
    for (position, node) in cluster.nodes().iter().enumerate() {
        let (held, peak, left) = (held[position], peaks[position], memory::of(node)?);
        findings.figure(
            format!("memory of node {}", node.spec.id),
            format!(
                "{held:.0} MiB before, at most {peak:.0} ({GROWTH_MIB} more allowed), {left:.0} in the end ({LEFT_MIB} more allowed); {} descriptors",
                memory::descriptors(node)?
            ),
        );
        findings.require(
            peak - held <= GROWTH_MIB && left - held <= LEFT_MIB,
            "G10",
            || {
                format!(
                    "node {} grew from {held:.0} MiB to {peak:.0}, and held {left:.0} in the end",
                    node.spec.id
                )
            },
        );
        let tail = std::fs::read_to_string(node.log_path())?;
        findings.require(!tail.contains("panicked"), "G10", || {
            format!("node {} panicked:\n{}", node.spec.id, node.log_tail(20))
        });
    }
    // All of it works as before.
    for position in 0..nodes.len() {
        register(&nodes, position).await?;
    }
    findings.checked(
        "G10",
        "no node ended, panicked or grew, and all take writes afterwards",
    );
    Ok(findings)
}

async fn register(nodes: &Nodes, number: usize) -> anyhow::Result<()> {
    let request = v1::RegisterRequest {
        name: Some(name(number)),
        ..Default::default()
    };
    let mut client = nodes.circuits(number % nodes.len());
    answer(PATIENCE, client.register(timed(request, PATIENCE))).await?;
    Ok(())
}

/// Who listens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Port {
    Clients,
    Nodes,
}

/// One who does harm, one thing after the other.
struct Enemy {
    rng: StdRng,
    ports: Vec<(SocketAddr, Port)>,
    nodes: Nodes,
    harm: Arc<Mutex<Harm>>,
}

impl Enemy {
    async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                self.act().await;
                let pause = self.rng.random_range(0..20);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        })
        .await;
    }

    async fn act(&mut self) {
        let (address, port) = self.ports[self.rng.random_range(0..self.ports.len())];
        if self.rng.random_bool(0.4) {
            let attack = Attack::ALL[self.rng.random_range(0..Attack::ALL.len())];
            let done = wire::attack(attack, address, &mut self.rng).await;
            let mut harm = self.harm.lock();
            match done {
                Ok(taken) => *harm.done.entry((port, attack, taken)).or_default() += 1,
                Err(_) => harm.no_connection += 1,
            }
            return;
        }
        let said = match (port, calls::stranger(address)) {
            (_, Err(error)) => Err(format!("{error:#}")),
            (Port::Nodes, Ok(channel)) => calls::foreign(channel, &mut self.rng).await,
            (Port::Clients, Ok(channel)) if self.rng.random_bool(0.5) => {
                calls::unreadable(channel, &mut self.rng).await
            }
            (Port::Clients, Ok(_)) => {
                let node = self.rng.random_range(0..self.nodes.len());
                calls::senseless(&self.nodes, node, &mut self.rng).await
            }
        };
        let mut harm = self.harm.lock();
        *harm.calls.entry(port).or_default() += 1;
        if let Err(what) = said {
            *harm.wrong.entry(what).or_default() += 1;
        }
    }
}

/// Keeps a connection, says a byte a second, and comes again when it is closed.
async fn slow(address: SocketAddr, number: usize, stop: CancellationToken) {
    stop.run_until_cancelled(async {
        loop {
            if let Ok(mut stream) = TcpStream::connect(address).await {
                for byte in wire::slow_bytes(number)
                    .into_iter()
                    .chain(std::iter::repeat_n(b'x', 60))
                {
                    if stream.write_all(&[byte]).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
    .await;
}

/// What was done.
#[derive(Debug, Default)]
struct Harm {
    /// Whether the node had taken all of it before it hung up, if it did.
    done: BTreeMap<(Port, Attack, bool), u32>,
    calls: BTreeMap<Port, u32>,
    /// What nodes said that they should not.
    wrong: BTreeMap<String, u32>,
    no_connection: u32,
}

impl Harm {
    fn judge(&self, findings: &mut Findings) {
        for port in [Port::Clients, Port::Nodes] {
            let mut said = Vec::new();
            for attack in Attack::ALL {
                let times = |taken| self.done.get(&(port, attack, taken)).copied().unwrap_or(0);
                if times(true) + times(false) == 0 {
                    findings.untold(format!("{attack:?} was never tried on the port for {port:?}"));
                }
                said.push(format!("{attack:?} {}", times(true) + times(false)));
            }
            let calls = self.calls.get(&port).copied().unwrap_or(0);
            if calls == 0 {
                findings.untold(format!("no call was tried on the port for {port:?}"));
            }
            findings.figure(
                format!("on the port for {port:?}"),
                format!("{calls} calls that must be refused; {}", said.join(", ")),
            );
        }
        for (what, times) in &self.wrong {
            findings.broken("G10", format!("{times} times: {what}"));
        }
        findings.figure("no connection", self.no_connection.to_string());
        findings.figure("slow connections on each port", SLOW.to_string());
    }
}

/// What an ordinary reader got meanwhile.
#[derive(Debug, Default)]
struct Reads {
    took: Vec<Micros>,
    failed: Vec<String>,
}

impl Reads {
    async fn read(&mut self, nodes: &Nodes, position: usize) {
        let asked = Instant::now();
        let request = timed(v1::ListRequest::default(), CALL);
        match answer(CALL, nodes.circuits(position).list(request)).await {
            Ok(_) => self.took.push(micros(asked.elapsed())),
            Err(failure) => self.failed.push(failure.to_string()),
        }
    }

    fn judge(&mut self, findings: &mut Findings) {
        self.took.sort_unstable();
        let p99 = percentile(&self.took, 99);
        findings.figure(
            "linearizable reads of others meanwhile",
            format!(
                "{}, p50 {}, p99 {} ({} allowed), {} failed",
                self.took.len(),
                show_ms(percentile(&self.took, 50)),
                show_ms(p99),
                show_ms(READ),
                self.failed.len()
            ),
        );
        if self.took.len() < 100 {
            findings.untold("there were too few reads beside the hostile clients");
        }
        findings.require(p99 <= READ, "G10", || {
            format!("others waited {} for a read, p99", show_ms(p99))
        });
        // One in a hundred may meet an election that a busy machine caused.
        findings.require(self.failed.len() * 100 <= self.took.len(), "G10", || {
            format!(
                "{} reads of others failed, e.g. {:?}",
                self.failed.len(),
                self.failed.first()
            )
        });
    }
}

/// Where the cluster stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stand {
    term: u64,
    index: u64,
    revision: u64,
    circuits: u64,
    sessions: u64,
    members: Vec<u64>,
}

impl Stand {
    async fn of(cluster: &Cluster, nodes: &Nodes) -> anyhow::Result<Self> {
        loop {
            let leader = cluster.wait_for_leader(nodes, PATIENCE).await?;
            if let Some(status) = status(nodes, leader).await {
                return Ok(Self {
                    term: status.term,
                    index: status.last_log_index,
                    revision: status.header.map_or(0, |header| header.revision),
                    circuits: status.circuits,
                    sessions: status.sessions,
                    members: status.members.iter().map(|member| member.node_id).collect(),
                });
            }
        }
    }

    /// Where it stands once a new leader has written what it writes of itself.
    async fn at_rest(cluster: &Cluster, nodes: &Nodes) -> anyhow::Result<Self> {
        let mut stand = Self::of(cluster, nodes).await?;
        for _ in 0..PATIENCE.as_secs() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = Self::of(cluster, nodes).await?;
            if now == stand {
                return Ok(stand);
            }
            stand = now;
        }
        anyhow::bail!("a cluster that nobody uses does not come to rest: {stand:?}")
    }

    /// Nothing of what was sent may have entered the log. A new leader writes an entry of its own.
    fn judge(&self, after: &Self, findings: &mut Findings) {
        let quiet = after.term != self.term || after.index == self.index;
        let same = Self {
            term: self.term,
            index: self.index,
            ..after.clone()
        };
        findings.require(quiet && same == *self, "G10", || {
            format!("something entered the log: before {self:?}, after {after:?}")
        });
        findings.figure("terms that it cost", (after.term - self.term).to_string());
        findings.checked("G10", "nothing entered the log");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_came_in_is_found_and_one_of_a_new_leader_is_not() {
        let stand = Stand {
            term: 1,
            index: 7,
            revision: 3,
            circuits: 1,
            sessions: 0,
            members: vec![1, 2, 3],
        };
        let found = |after: Stand| {
            let mut findings = Findings::default();
            stand.judge(&after, &mut findings);
            findings.count("G10")
        };
        assert_eq!(found(stand.clone()), 0);
        let other = |change: fn(&mut Stand)| {
            let mut after = stand.clone();
            change(&mut after);
            after
        };
        assert_eq!(found(other(|after| after.index = 8)), 1);
        assert_eq!(found(other(|after| after.sessions = 1)), 1);
        assert_eq!(found(other(|after| (after.term, after.index) = (2, 8))), 0);
        assert_eq!(found(other(|after| (after.term, after.revision) = (2, 4))), 1);
    }
}
