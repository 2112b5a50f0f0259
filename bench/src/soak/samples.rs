//! What each node holds, every few seconds.

use std::sync::Arc;
use std::time::Duration;

use brama_faults::cluster::{Cluster, status};
use brama_faults::monitor::Monitor;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::growth::{Bound, Point};
use super::restarts::Lives;
use super::traffic::Traffic;
use crate::{cpu, metrics};

/// The gauge of tasks of a node's runtime.
const TASKS: &str = "brama_runtime_tasks";
/// So many samples of a soak, but not more often than the first nor more seldom than the second.
const NUMBER: u32 = 1200;
const EVERY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// Everything that was seen.
#[derive(Serialize, Deserialize)]
pub(super) struct Samples {
    /// In seconds.
    pub(super) lasted: f64,
    pub(super) all: Vec<Sample>,
}

/// One moment.
#[derive(Serialize, Deserialize)]
pub(super) struct Sample {
    /// Seconds since the soak began.
    pub(super) at: f64,
    pub(super) commands_per_second: f64,
    pub(super) p99_ms: f64,
    /// `None`: the node was down.
    pub(super) nodes: Vec<Option<NodeSample>>,
}

/// One node.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct NodeSample {
    pub(super) life: u32,
    /// Seconds since this life began.
    pub(super) age: f64,
    pub(super) memory_mib: f64,
    pub(super) disk_mib: f64,
    pub(super) descriptors: f64,
    pub(super) threads: f64,
    /// `None`: the node does not tell.
    pub(super) tasks: Option<f64>,
    pub(super) circuits: u64,
    pub(super) sessions: u64,
    pub(super) subscribers: u64,
}

/// What must not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantity {
    Memory,
    Disk,
    Descriptors,
    Threads,
    Tasks,
}

impl Quantity {
    pub(super) const ALL: [Self; 5] = [
        Self::Memory,
        Self::Disk,
        Self::Descriptors,
        Self::Threads,
        Self::Tasks,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory, MiB",
            Self::Disk => "disk, MiB",
            Self::Descriptors => "descriptors",
            Self::Threads => "threads",
            Self::Tasks => "tasks",
        }
    }

    /// What was seen.
    pub(super) fn of(self, node: &NodeSample) -> Option<f64> {
        match self {
            Self::Memory => Some(node.memory_mib),
            Self::Disk => Some(node.disk_mib),
            Self::Descriptors => Some(node.descriptors),
            Self::Threads => Some(node.threads),
            Self::Tasks => node.tasks,
        }
    }

    /// What is judged. Subscribers come and go, a third more or less of them at this node, each with a connection of its own: that is the load,
    /// and not what the node keeps beside it.
    pub(super) fn judged(self, node: &NodeSample) -> Option<f64> {
        let of_subscriber = match self {
            Self::Descriptors => 1.0,
            // Its connection and its stream.
            Self::Tasks => 2.0,
            Self::Memory | Self::Disk | Self::Threads => 0.0,
        };
        Some(self.of(node)? - of_subscriber * node.subscribers as f64)
    }

    /// Whether a restart leaves it as it is.
    fn outlives_process(self) -> bool {
        self == Self::Disk
    }

    /// What is too much growth; files of the log are taken and dropped as a whole.
    pub(super) fn bound(self) -> Bound {
        let (part, amount) = match self {
            Self::Memory => (0.05, 8.0),
            Self::Disk => (0.1, 16.0),
            Self::Descriptors => (0.1, 8.0),
            Self::Threads => (0.1, 3.0),
            Self::Tasks => (0.1, 30.0),
        };
        Bound { part, amount }
    }

    /// What no node may reach.
    pub(super) fn limit(self) -> Option<f64> {
        match self {
            Self::Memory => Some(400.0),
            Self::Disk => Some(1024.0),
            Self::Descriptors | Self::Threads | Self::Tasks => None,
        }
    }
}

impl Samples {
    /// Looks at everything until `end`.
    ///
    /// # Errors
    /// When there are no connections.
    pub(super) async fn take(
        cluster: &Arc<Cluster>,
        lives: &Lives,
        traffic: &Traffic,
        monitor: &Monitor,
        begin: Instant,
        end: Instant,
    ) -> anyhow::Result<Self> {
        let nodes = cluster.connect()?;
        let every = ((end - begin) / NUMBER).clamp(EVERY[0], EVERY[1]);
        let mut all = Vec::new();
        let mut before = Instant::now();
        loop {
            tokio::time::sleep_until((before + every).min(end)).await;
            let now = Instant::now();
            let recent = traffic.recent();
            let mut each = Vec::new();
            for position in 0..cluster.nodes().len() {
                let life = lives.of(position);
                let status = status(&nodes, position).await;
                if let Some(status) = &status {
                    monitor.hear(status);
                }
                // One that says nothing just now is taken for one that is down.
                let sample = match status {
                    Some(status) => look(cluster, position, status).await,
                    None => None,
                };
                // A process that began or ended meanwhile is neither the one nor the other.
                let same = lives.of(position).number == life.number;
                each.push(sample.filter(|_| same).map(|sample| NodeSample {
                    life: life.number,
                    age: life.began.elapsed().as_secs_f64(),
                    ..sample
                }));
            }
            all.push(Sample {
                at: (now - begin).as_secs_f64(),
                commands_per_second: recent.done as f64 / (now - before).as_secs_f64(),
                p99_ms: recent.p99_ms,
                nodes: each,
            });
            before = now;
            if now >= end {
                break;
            }
        }
        Ok(Self {
            lasted: (end - begin).as_secs_f64(),
            all,
        })
    }

    pub(super) fn nodes(&self) -> usize {
        self.all
            .iter()
            .map(|sample| sample.nodes.len())
            .max()
            .unwrap_or(0)
    }

    /// One quantity of one node over time, to be drawn.
    pub(super) fn points(&self, node: usize, quantity: Quantity) -> Vec<Point> {
        self.all_of(node, |sample| quantity.of(sample))
    }

    /// The same, to be judged. What outlives a process has one life.
    pub(super) fn judged(&self, node: usize, quantity: Quantity) -> Vec<Point> {
        let mut points = self.all_of(node, |sample| quantity.judged(sample));
        if quantity.outlives_process() {
            for point in &mut points {
                (point.life, point.age) = (0, point.at);
            }
        }
        points
    }

    fn all_of(&self, node: usize, value: impl Fn(&NodeSample) -> Option<f64>) -> Vec<Point> {
        let point = |sample: &Sample| {
            let seen = sample.nodes.get(node)?.as_ref()?;
            Some(Point {
                at: Duration::from_secs_f64(sample.at),
                life: seen.life,
                age: Duration::from_secs_f64(seen.age),
                value: value(seen)?,
            })
        };
        self.all.iter().filter_map(point).collect()
    }

    /// As a table: a line a node and moment.
    pub(super) fn csv(&self) -> String {
        let mut text = String::from(
            "seconds,commands_per_second,p99_ms,node,life,age_seconds,memory_mib,disk_mib,descriptors,threads,tasks,circuits,sessions,subscribers\n",
        );
        for sample in &self.all {
            for (position, seen) in sample.nodes.iter().enumerate() {
                let Some(seen) = seen else { continue };
                let tasks = seen.tasks.map(|tasks| tasks.to_string()).unwrap_or_default();
                text += &format!(
                    "{:.1},{:.1},{:.2},{},{},{:.1},{:.2},{:.2},{},{},{tasks},{},{},{}\n",
                    sample.at,
                    sample.commands_per_second,
                    sample.p99_ms,
                    position + 1,
                    seen.life,
                    seen.age,
                    seen.memory_mib,
                    seen.disk_mib,
                    seen.descriptors,
                    seen.threads,
                    seen.circuits,
                    seen.sessions,
                    seen.subscribers
                );
            }
        }
        text
    }
}

/// `None`: the node is down.
async fn look(
    cluster: &Cluster,
    position: usize,
    status: brama_proto::v1::ClusterStatusResponse,
) -> Option<NodeSample> {
    const MIB: f64 = 1024.0 * 1024.0;
    let node = &cluster.nodes()[position];
    let pid = node.pid().filter(|_| node.is_up())?;
    let page = metrics::scrape(node.spec.client).await;
    let resident = cpu::resident_bytes(&[pid])
        .first()
        .copied()
        .filter(|bytes| *bytes > 0)?;
    Some(NodeSample {
        life: 0,
        age: 0.0,
        memory_mib: resident as f64 / MIB,
        disk_mib: cpu::disk_bytes(&node.data_dir()) as f64 / MIB,
        descriptors: cpu::entries(pid, "fd")? as f64,
        threads: cpu::entries(pid, "task")? as f64,
        tasks: page.ok().and_then(|page| metrics::value(&page, TASKS)),
        circuits: status.circuits,
        sessions: status.sessions,
        subscribers: status.subscribers,
    })
}
