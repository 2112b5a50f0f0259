//! Nodes come and go while writes flow; and a node that lost its data does not come back under its old id.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use brama_proto::v1;

use super::kill_leader::one_circuit;
use super::pulse::Pulse;
use super::stage::Stage;
use crate::cluster::{ClusterOptions, status};
use crate::findings::Findings;
use crate::rpc::{Failure, answer, timed};
use crate::time::{Micros, show_ms};

const PATIENCE: Duration = Duration::from_secs(30);
const CALL: Duration = Duration::from_secs(10);
/// No step may stop writes for longer than the death of a leader may.
const BOUND: Micros = 4_000_000;
/// What a node without its data says, and must say: it tells what to do.
const REFUSED: &str = "must not come back under its old id";
pub(super) const REMOVED: &str = "removed from the cluster";

/// A fourth node joins, the leader is removed; then each of the first nodes loses its data, is refused, and is replaced.
///
/// # Errors
/// When it could not be done.
pub async fn membership() -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut stage = Stage::start(ClusterOptions::default(), one_circuit()).await?;
    let pulse = Pulse::start(&stage, vec![0, 1]);
    let from = stage.clock.now();

    // Node 1 takes another way when it is new than the others do, so it is not the one to be removed.
    let request = v1::TransferLeaderRequest { node_id: Some(3) };
    answer(CALL, stage.nodes.cluster(0).transfer_leader(timed(request, CALL))).await?;
    stage
        .wait(PATIENCE, "node 3 leads", async |stage: &Stage| {
            Ok(stage.cluster.leader(&stage.nodes).await == Some(2))
        })
        .await?;

    // One joins, and the leader is removed.
    let fourth = join(&mut stage, 4).await?;
    remove(&stage, 0, 3).await?;
    expect_end(&stage, 2, REMOVED, &mut findings).await?;
    expect_voters(&stage, 0, &[1, 2, 4]).await?;
    pulse.aim(&stage, vec![0, 1, fourth]);

    // Two lose their data, one after the other; each is refused, removed, and replaced by a node with a new id.
    lose_data(&stage, &pulse, 1, vec![0, fourth], &mut findings).await?;
    remove(&stage, 0, 2).await?;
    let fifth = join(&mut stage, 5).await?;
    expect_voters(&stage, 0, &[1, 4, 5]).await?;
    lose_data(&stage, &pulse, 0, vec![fourth, fifth], &mut findings).await?;
    remove(&stage, fourth, 1).await?;
    let sixth = join(&mut stage, 6).await?;
    expect_voters(&stage, fourth, &[4, 5, 6]).await?;
    pulse.aim(&stage, vec![fourth, fifth, sixth]);
    tokio::time::sleep(Duration::from_secs(1)).await;

    let gap = pulse.longest_gap(from, stage.clock.now());
    pulse.stop().await?;
    findings.figure("longest without a write", show_ms(gap));
    findings.require(gap <= BOUND, "G12", || {
        format!(
            "writes stopped for {}, {} are allowed",
            show_ms(gap),
            show_ms(BOUND)
        )
    });
    findings.checked("G12", "all three nodes replaced, and writes went on");
    stage.finish(findings).await
}

/// Starts a node that joins, waits until it is a learner, makes it a voter. Returns its position.
async fn join(stage: &mut Stage, id: u64) -> anyhow::Result<usize> {
    let position = join_as_learner(stage, id).await?;
    promote(stage, position, id).await?;
    Ok(position)
}

/// Starts a node that joins, and waits until it is a learner. Returns its position.
pub(super) async fn join_as_learner(stage: &mut Stage, id: u64) -> anyhow::Result<usize> {
    let position = stage.cluster.join(id)?;
    stage.reconnect()?;
    stage
        .wait(PATIENCE, "the new node is a member", async |stage: &Stage| {
            let status = status(&stage.nodes, position).await;
            Ok(status.is_some_and(|status| status.members.iter().any(|member| member.node_id == id)))
        })
        .await?;
    Ok(position)
}

/// Makes a learner a voter.
pub(super) async fn promote(stage: &Stage, through: usize, id: u64) -> anyhow::Result<()> {
    stage
        .wait(PATIENCE, "the new node is a voter", async |stage: &Stage| {
            let request = timed(v1::PromoteRequest { node_id: id }, CALL);
            match answer(CALL, stage.nodes.cluster(through).promote(request)).await {
                Ok(_) => Ok(true),
                // It may not have caught up yet; then this says so, and it can be asked again.
                Err(Failure::Refused { .. } | Failure::Unknown(_)) => Ok(false),
            }
        })
        .await
}

pub(super) async fn remove(stage: &Stage, through: usize, id: u64) -> anyhow::Result<()> {
    stage
        .wait(PATIENCE, "the node is removed", async |stage: &Stage| {
            let request = timed(v1::RemoveRequest { node_id: id }, CALL);
            Ok(answer(CALL, stage.nodes.cluster(through).remove(request))
                .await
                .is_ok())
        })
        .await
}

/// The process must end by itself, not well, and say why.
pub(super) async fn expect_end(
    stage: &Stage,
    position: usize,
    says: &str,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let node = &stage.cluster.nodes()[position];
    let id = node.spec.id;
    match node.ended(PATIENCE).await? {
        Some(status) => findings.require(!status.success(), "G8", || {
            format!("node {id} ended with {status}, as if all were well")
        }),
        None => findings.broken("G8", format!("node {id} goes on, although it should say: {says}")),
    }
    let tail = node.log_tail(30);
    findings.require(tail.contains(says), "G8", || {
        format!("node {id} does not say {says:?}:\n{tail}")
    });
    Ok(())
}

/// Kills a node, throws its data away, and starts it again as if nothing had happened.
async fn lose_data(
    stage: &Stage,
    pulse: &Pulse,
    position: usize,
    others: Vec<usize>,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    pulse.aim(stage, others);
    let node = &stage.cluster.nodes()[position];
    node.kill().await?;
    std::fs::remove_dir_all(node.data_dir()).context("its data can be thrown away")?;
    node.start()?;
    expect_end(stage, position, REFUSED, findings).await
}

async fn expect_voters(stage: &Stage, through: usize, ids: &[u64]) -> anyhow::Result<()> {
    let expected = BTreeSet::from_iter(ids.iter().copied());
    stage
        .wait(
            PATIENCE,
            "the voters are as they should be",
            async |stage: &Stage| {
                let Some(status) = status(&stage.nodes, through).await else {
                    return Ok(false);
                };
                let voters = status.members.iter().filter(|member| member.voter);
                let members = status.members.len();
                ensure!(members <= 4, "there are {members} members");
                Ok(voters.map(|member| member.node_id).collect::<BTreeSet<_>>() == expected)
            },
        )
        .await
}
