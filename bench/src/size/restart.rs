//! A node that was killed with -9: how long until it serves again, and what it holds meanwhile and then.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use brama_faults::findings::Findings;
use brama_proto::v1;
use brama_proto::v1::circuits_client::CircuitsClient;
use brama_proto::v1::consistency::Level;
use tokio::time::Instant;

use super::stage::{Stage, name};
use super::{Sizes, check_node, shown};
use crate::connect;
use crate::cpu;
use crate::load;
use crate::operations;

/// How long a restart may take.
const RESTART: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);
/// How long after it has caught up its memory is looked at, and how long after that again.
const LOOKS: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(12)];
/// `raft.snapshot_every` as it is built in.
const SNAPSHOT_EVERY: u64 = 50_000;

/// From a snapshot, and from one with as many entries after it as there can be.
pub(super) async fn measure_all(sizes: &Sizes, data: &Path) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let stage = Stage::start(data, Vec::new()).await?;
    stage.register(0..sizes.circuits).await?;
    stage.report(0..sizes.circuits).await?;
    stage.open_sessions(0..sizes.sessions, sizes.circuits).await?;
    stage.settle().await?;
    entries_until(&stage, |status| status.snapshot_index > 0).await?;
    stage.settle().await?;
    findings.merge(measure(&stage, "from a snapshot").await?);
    // Each circuit twice: whoever kept a copy of the state over that would have two.
    for _ in 0..2 {
        stage.report(0..sizes.circuits).await?;
    }
    stage.settle().await?;
    findings.merge(measure(&stage, "from a snapshot and a log that changes each circuit").await?);
    let enough = SNAPSHOT_EVERY * 19 / 20;
    entries_until(&stage, |status| {
        status.applied_index >= status.snapshot_index + enough
    })
    .await?;
    stage.settle().await?;
    findings.merge(measure(&stage, "from a snapshot and a long log").await?);
    Ok(findings)
}

/// Kills a follower, starts it, and waits until it answers a local read, which it does once it has recovered.
pub(super) async fn measure(stage: &Stage, how: &str) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let position = stage.follower().await?;
    let before = stage.status(position).await?;
    let node = &stage.cluster.nodes()[position];
    node.kill().await?;
    let began = Instant::now();
    node.start()?;
    while !serves(stage, position).await? {
        if began.elapsed() > PATIENCE {
            bail!(
                "a node does not serve {PATIENCE:?} after it was started\n{}",
                node.log_tail(10)
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = began.elapsed();
    stage.settle().await?;
    let after = stage.status(position).await?;
    findings.merge(held(stage, position, how).await?);
    let tail = before.applied_index - before.snapshot_index.min(before.applied_index);
    findings.figure(
        format!("a restart {how}"),
        format!(
            "{took:.2?} ({} circuits, {} sessions, {tail} entries)",
            after.circuits, after.sessions
        ),
    );
    findings.require(took <= RESTART, "size", || {
        format!("a restart {how} takes {took:?}, at most {RESTART:?} are allowed")
    });
    findings.require(
        (after.circuits, after.sessions) == (before.circuits, before.sessions),
        "size",
        || {
            format!(
                "after a restart {how} there are {} circuits and {} sessions",
                after.circuits, after.sessions
            )
        },
    );
    Ok(findings)
}

/// What the process that was started held, from its first moment on, also while it read the snapshot and caught up.
async fn held(stage: &Stage, position: usize, how: &str) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let pid = stage.cluster.nodes()[position]
        .pid()
        .context("a node that was started does not run")?;
    let mut figures = Vec::new();
    for later in LOOKS {
        tokio::time::sleep(later).await;
        let now = cpu::resident_bytes(&[pid]).first().copied().unwrap_or(0);
        figures.push(shown(now as f64));
    }
    let peak = cpu::peak_bytes(&[pid]).first().copied().unwrap_or(0);
    findings.figure(
        format!("what that node holds after a restart {how}"),
        figures.join(", then "),
    );
    check_node(
        &mut findings,
        "... and held at most",
        &format!(" after a restart {how}"),
        peak,
    );
    Ok(findings)
}

async fn serves(stage: &Stage, position: usize) -> anyhow::Result<bool> {
    let mut client = CircuitsClient::new(connect::lazy(stage.cluster.addresses()[position])?);
    let mut request = tonic::Request::new(v1::StatusRequest {
        name: Some(name(0)),
        consistency: Some(v1::Consistency {
            level: Some(Level::Local(true)),
        }),
    });
    request.set_timeout(PATIENCE);
    Ok(client.status(request).await.is_ok())
}

/// Makes entries, as many as can be, until a follower's status is as wanted.
async fn entries_until(
    stage: &Stage,
    done: impl Fn(&v1::ClusterStatusResponse) -> bool,
) -> anyhow::Result<()> {
    stage.register_for_load().await?;
    // A busy machine needs a while for fifty thousand.
    for _ in 0..200 {
        if done(&stage.status(stage.follower().await?).await?) {
            return Ok(());
        }
        let operation = operations::Failure {
            lanes: stage.lanes(),
            circuits: 1,
        };
        load::closed(operation, 24, Duration::from_secs(2), &[]).await;
    }
    bail!("the log does not become long enough")
}
