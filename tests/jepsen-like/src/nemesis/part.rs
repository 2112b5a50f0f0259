//! One thing that is done to the cluster, and undone. To add a kind: a variant here, what it takes and hampers, how it is installed and
//! removed, and a [`super::Fault`] that plans it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use brama_proto::v1;
use tokio::time::Instant;

use super::Stage;
use super::clock::Lie;
use super::world::{Resource, Standing};
use crate::hosts::End;
use crate::links::{Cut, CutKind, Link, Shape};
use crate::lossy::{Lost, Mode};
use crate::node::Node;
use crate::rpc::{Nodes, answer, timed};

/// A node that was started serves after this, or something is wrong.
const SERVE: Duration = Duration::from_secs(60);
/// A node that is told to end has so long to hand over and to end streams.
const STOP: Duration = Duration::from_secs(15);
/// In a rolling restart, the next one waits so long for the one before to follow a leader: an operator would, and then wonder.
const FOLLOW: Duration = Duration::from_secs(3);
/// A node that takes part in anything syncs within this.
const SYNCS: Duration = Duration::from_secs(2);
const TRANSFER: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One thing that is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// -9, in the same moment.
    Kill(Vec<u64>),
    /// SIGSTOP, in the same moment.
    Pause(Vec<u64>),
    /// Packets are dropped.
    Cuts {
        /// Which.
        cuts: Vec<Cut>,
        /// How many.
        kind: CutKind,
    },
    /// Links are not as they should be.
    Links {
        /// Which.
        links: Vec<Link>,
        /// How they are.
        shape: Shape,
    },
    /// Wall clocks lie.
    Clocks {
        /// Whose.
        nodes: Vec<u64>,
        /// How.
        lie: Lie,
    },
    /// Leadership is handed over.
    Transfer {
        /// To whom.
        to: u64,
    },
    /// Power is away, of all of these from one moment on.
    NoPower {
        /// Whose.
        nodes: Vec<u64>,
        /// What becomes of what was not synced.
        mode: Mode,
    },
    /// The next sync of a node fails; then it ends by itself.
    SyncFails {
        /// Whose.
        node: u64,
    },
    /// Each sync takes longer.
    SlowSyncs {
        /// Whose.
        node: u64,
        /// All others.
        others: Vec<u64>,
        /// By so much.
        takes: Duration,
    },
    /// Nodes are told to end and started again, one after the other.
    Restart {
        /// In this order.
        order: Vec<u64>,
    },
}

impl Part {
    /// What nobody else may touch meanwhile.
    pub(super) fn resources(&self) -> BTreeSet<Resource> {
        match self {
            Self::Kill(nodes) | Self::Pause(nodes) | Self::Restart { order: nodes } => {
                nodes.iter().map(|id| Resource::Process(*id)).collect()
            }
            Self::Cuts { cuts, .. } => cuts.iter().map(|cut| Resource::Cut(*cut)).collect(),
            Self::Links { links, .. } => links.iter().map(|link| Resource::Link(*link)).collect(),
            Self::Clocks { nodes, .. } => nodes.iter().map(|id| Resource::Clock(*id)).collect(),
            Self::Transfer { .. } => [Resource::Office].into(),
            Self::NoPower { nodes, .. } => nodes
                .iter()
                .flat_map(|id| [Resource::Process(*id), Resource::Disk(*id)])
                .collect(),
            Self::SyncFails { node } => [Resource::Process(*node), Resource::Disk(*node)].into(),
            Self::SlowSyncs { node, .. } => [Resource::Disk(*node)].into(),
        }
    }

    /// Nodes that do not serve while it lasts.
    pub(super) fn takes_down(&self) -> &[u64] {
        match self {
            Self::Kill(nodes) | Self::Pause(nodes) | Self::NoPower { nodes, .. } => nodes,
            Self::SyncFails { node } => std::slice::from_ref(node),
            // One at a time: told while it goes on.
            Self::Restart { .. } => &[],
            Self::Cuts { .. }
            | Self::Links { .. }
            | Self::Clocks { .. }
            | Self::Transfer { .. }
            | Self::SlowSyncs { .. } => &[],
        }
    }

    /// What is left of links while it lasts.
    pub(super) fn hampers(&self) -> Vec<(End, End, Standing)> {
        match self {
            Self::Cuts { cuts, kind } => {
                let standing = match kind {
                    CutKind::Silent => Standing::None,
                    CutKind::Loss(_) => Standing::Hampered,
                };
                cuts.iter().map(|cut| (cut.from, cut.to, standing)).collect()
            }
            Self::Links { links, shape } => {
                let standing = Standing::over(*shape);
                let ends = links
                    .iter()
                    .map(|(from, to)| (End::Node(*from), End::Node(*to), standing));
                ends.collect()
            }
            // It answers as late as over slow links.
            Self::SlowSyncs { node, others, .. } => {
                let (node, hampered) = (End::Node(*node), Standing::Hampered);
                let both = |other: &u64| {
                    let other = End::Node(*other);
                    [(node, other, hampered), (other, node, hampered)]
                };
                others.iter().flat_map(both).collect()
            }
            Self::Kill(_)
            | Self::Pause(_)
            | Self::Clocks { .. }
            | Self::Transfer { .. }
            | Self::NoPower { .. }
            | Self::SyncFails { .. }
            | Self::Restart { .. } => Vec::new(),
        }
    }

    /// Ids of the nodes that it is about.
    pub(super) fn nodes(&self) -> BTreeSet<u64> {
        let of_end = |end: End| match end {
            End::Node(id) => Some(id),
            End::Clients => None,
        };
        match self {
            Self::Kill(nodes)
            | Self::Pause(nodes)
            | Self::Clocks { nodes, .. }
            | Self::NoPower { nodes, .. }
            | Self::Restart { order: nodes } => nodes.iter().copied().collect(),
            Self::SyncFails { node } | Self::SlowSyncs { node, .. } => [*node].into(),
            Self::Cuts { cuts, .. } => {
                let ends = cuts.iter().flat_map(|cut| [cut.from, cut.to]);
                ends.filter_map(of_end).collect()
            }
            Self::Links { links, .. } => links.iter().flat_map(|(from, to)| [*from, *to]).collect(),
            Self::Transfer { to } => [*to].into(),
        }
    }

    /// Does it; returns how it was seen that it is so, if that can be told now.
    ///
    /// # Errors
    /// When it cannot be done, or was done and is not so.
    pub(super) async fn install(&self, stage: &Stage) -> anyhow::Result<Option<String>> {
        match self {
            Self::Kill(nodes) => {
                for id in nodes {
                    stage.node(*id)?.send_kill()?;
                }
                for id in nodes {
                    stage.node(*id)?.kill().await?;
                }
                Ok(Some(format!("processes of {nodes:?} reaped")))
            }
            Self::Pause(nodes) => {
                for id in nodes {
                    stage.node(*id)?.pause()?;
                }
                for id in nodes {
                    prove_stopped(stage.node(*id)?).await?;
                }
                Ok(Some(format!("processes of {nodes:?} in state T")))
            }
            Self::Cuts { cuts, kind } => {
                let (hosts, probes) = stage.network()?;
                Cut::install(hosts, cuts, *kind)?;
                let proof = match kind {
                    CutKind::Silent => probes.prove_silence(cuts).await?,
                    CutKind::Loss(_) => probes.prove_loss(cuts).await?,
                };
                Ok(Some(proof))
            }
            Self::Links { links, shape } => {
                for link in links {
                    stage.proxy(*link)?.set(*shape);
                }
                Ok(None)
            }
            Self::Clocks { nodes, lie } => {
                for id in nodes {
                    stage.fake_clock(*id)?.lie(*lie)?;
                }
                let proofs = nodes.iter().map(|id| prove_lie(stage, *id, *lie));
                let proofs: Vec<_> = futures::future::try_join_all(proofs).await?;
                let proofs: Vec<_> = proofs.into_iter().flatten().collect();
                Ok((!proofs.is_empty()).then(|| proofs.join(", ")))
            }
            Self::Transfer { to } => transfer(stage, *to).await,
            Self::NoPower { nodes, mode } => no_power(stage, nodes, *mode).await.map(Some),
            Self::SyncFails { node } => sync_fails(stage, *node).await,
            Self::SlowSyncs { node, takes, .. } => {
                let disk = stage.disk(*node)?;
                let slowed = disk.counts().slowed;
                disk.slow_fsync(*takes);
                let seen = until_so(SYNCS, || disk.counts().slowed > slowed).await;
                Ok(seen.then(|| format!("a sync of node {node} takes {takes:?}")))
            }
            Self::Restart { order } => {
                for id in order {
                    restart(stage, *id).await?;
                }
                Ok(Some(format!("{order:?} ended with 0 and came back")))
            }
        }
    }

    /// What must be done again and again while it lasts.
    pub(super) async fn keep(&self, stage: &Stage) -> anyhow::Result<()> {
        if let Self::Clocks { nodes, lie } = self {
            let lies = nodes.iter().map(|id| async {
                let clock = stage.fake_clock(*id)?;
                clock.keep_lying(*lie).await
            });
            futures::future::try_join_all(lies).await?;
        }
        std::future::pending().await
    }

    /// Undoes it.
    ///
    /// # Errors
    /// When it cannot be undone.
    pub(super) async fn remove(&self, stage: &Stage) -> anyhow::Result<()> {
        match self {
            Self::SyncFails { node } => {
                stage.node(*node)?.start()?;
                wait_until_it_serves(stage, *node).await?;
            }
            Self::SlowSyncs { node, .. } => stage.disk(*node)?.heal(),
            Self::Kill(nodes) | Self::NoPower { nodes, .. } => {
                for id in nodes {
                    stage.node(*id)?.start()?;
                }
                let served = nodes.iter().map(|id| wait_until_it_serves(stage, *id));
                futures::future::try_join_all(served).await?;
            }
            Self::Pause(nodes) => {
                for id in nodes {
                    stage.node(*id)?.resume()?;
                }
            }
            Self::Cuts { cuts, .. } => {
                let (hosts, probes) = stage.network()?;
                Cut::remove(hosts, cuts)?;
                probes.prove_healed(cuts).await?;
            }
            Self::Links { links, .. } => {
                for link in links {
                    stage.proxy(*link)?.set(Shape::Clean);
                }
            }
            Self::Clocks { nodes, .. } => {
                for id in nodes {
                    stage.fake_clock(*id)?.be_right()?;
                }
            }
            Self::Transfer { .. } | Self::Restart { .. } => {}
        }
        Ok(())
    }
}

/// `None`: it is down for another reason, or was meanwhile. It has its clock when it comes back.
async fn prove_lie(stage: &Stage, id: u64, lie: Lie) -> anyhow::Result<Option<String>> {
    let node = stage.node(id)?;
    let Some(process) = node.pid() else {
        return Ok(None);
    };
    let clock = stage.fake_clock(id)?;
    let mut proven = clock.prove(process, lie).await;
    if proven.is_err() {
        // It was just started, and has loaded nothing yet.
        tokio::time::sleep(Duration::from_millis(200)).await;
        proven = clock.prove(process, lie).await;
    }
    match proven {
        Err(_) if node.pid() != Some(process) => Ok(None),
        proven => proven.map(Some),
    }
}

async fn prove_stopped(node: &Node) -> anyhow::Result<()> {
    let process = node.pid().context("a paused node has a process")?;
    // The signal is on its way to each of its threads.
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
        let state = status.lines().find(|line| line.starts_with("State:"));
        if state.is_some_and(|state| state.contains("T (stopped)")) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "node {} was stopped, and is in {state:?}",
            node.spec.id
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Until it has recovered and answers. Asked from its own host, so that no cut is in the way.
async fn wait_until_it_serves(stage: &Stage, id: u64) -> anyhow::Result<()> {
    let node = stage.node(id)?;
    let began = Instant::now();
    let nodes = match &node.spec.host {
        Some(host) => Nodes::from_host(host, [node.spec.client])?,
        None => Nodes::new([node.spec.client])?,
    };
    while crate::cluster::status(&nodes, 0).await.is_none() {
        ensure!(
            began.elapsed() < SERVE,
            "node {id} does not serve {SERVE:?} after it was started\n{}",
            node.log_tail(15)
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
    stage.note_start(began.elapsed());
    Ok(())
}

/// The disks forget first, then the processes are gone.
async fn no_power(stage: &Stage, nodes: &[u64], mode: Mode) -> anyhow::Result<String> {
    let mut positions = Vec::new();
    for id in nodes {
        positions.push(stage.position(*id)?);
    }
    let all = stage.cluster.lossy_disks();
    let disks: Vec<_> = positions
        .iter()
        .filter_map(|position| all.get(*position))
        .collect();
    ensure!(disks.len() == nodes.len(), "the nodes have no lossy disks");
    let mut lost = Lost::default();
    for disk in disks {
        lost.add(disk.cut_as(mode));
    }
    stage.cluster.power_up(&positions).await?;
    Ok(format!(
        "{nodes:?} lost power, with {} pages that were not synced; {} torn, {} kept",
        lost.pages, lost.torn, lost.kept
    ))
}

/// `None`: it never synced.
async fn sync_fails(stage: &Stage, id: u64) -> anyhow::Result<Option<String>> {
    let (disk, node) = (stage.disk(id)?, stage.node(id)?);
    let before = disk.counts().failed.len();
    node.expect_end()?;
    disk.fail_next_fsync();
    if !until_so(SYNCS, || disk.counts().failed.len() > before).await {
        disk.heal();
        if disk.counts().failed.len() == before {
            node.expect_nothing();
            return Ok(None);
        }
    }
    let status = node.end_expected(STOP).await?;
    ensure!(
        !status.success(),
        "a sync of node {id} failed, and it ended as if all were well"
    );
    let files = disk.counts().failed;
    Ok(Some(format!(
        "a sync of {} of node {id} failed, and it ended with {status}",
        files.last().map_or("nothing", String::as_str)
    )))
}

/// Whether it comes to be so, in this time.
async fn until_so(within: Duration, is_so: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + within;
    while !is_so() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    true
}

/// Asks any node; returns how it was seen, if the target led afterwards.
async fn transfer(stage: &Stage, to: u64) -> anyhow::Result<Option<String>> {
    let request = v1::TransferLeaderRequest { node_id: Some(to) };
    let through = stage.position(to)?;
    let mut cluster = stage.nodes.cluster(through);
    let call = cluster.transfer_leader(timed(request, TRANSFER));
    // Other faults may be in the way: then it is no transfer, and says so.
    let _ = answer(TRANSFER, call).await;
    let deadline = Instant::now() + TRANSFER;
    while Instant::now() < deadline {
        if stage.cluster.leader(&stage.nodes).await == Some(through) {
            return Ok(Some(format!("node {to} leads")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(None)
}

async fn restart(stage: &Stage, id: u64) -> anyhow::Result<()> {
    let node = stage.node(id)?;
    stage.set_down(id, true);
    let status = node.stop(STOP).await?;
    ensure!(
        status.success(),
        "node {id} was told to end, and ended with {status}\n{}",
        node.log_tail(15)
    );
    node.start()?;
    wait_until_it_serves(stage, id).await?;
    stage.set_down(id, false);
    let deadline = Instant::now() + FOLLOW;
    let position = stage.position(id)?;
    while Instant::now() < deadline {
        let status = crate::cluster::status(&stage.nodes, position).await;
        if status.is_some_and(|status| status.has_quorum && status.leader_id.is_some()) {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}
