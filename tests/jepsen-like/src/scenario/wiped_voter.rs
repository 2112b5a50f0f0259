//! A voter loses its data and comes back under its old id, as if nothing had happened: it could give a second vote, or be counted for what it does not have any more.
//!
//! First under load, while the others can tell it at once: a follower, the leader, and node 1, which would make a cluster if it knew of none. Then with nobody beside
//! it but a node that lags behind: the two are a majority in number, and must not take themselves for one.

use std::time::Duration;

use anyhow::Context;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::crew::Crew;
use super::kill_leader::one_circuit;
use super::pulse::Pulse;
use super::stage::Stage;
use crate::circuits::Circuits;
use crate::cluster::{ClusterOptions, status};
use crate::findings::{Findings, Verdict};
use crate::time::{Micros, show_ms};
use crate::workload::Mix;

const CLIENTS: u32 = 6;
const CIRCUITS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(30);
/// It is refused within this.
const REFUSED_WITHIN: Duration = Duration::from_secs(20);
/// Several elections have time to fail in this.
const ALONE: Duration = Duration::from_secs(6);
/// While one node is gone, writes may stop for so long: G12's bound for a leader that dies.
const LONGEST_GAP: Micros = 4_000_000;
/// What it says, and must say: it tells what to do.
const ADVICE: [&str; 3] = [
    "must not come back under its old id",
    "brama cluster remove",
    "cluster.join",
];

/// Who loses its data.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Follower,
    Leader,
    First,
}

/// All of it.
///
/// # Errors
/// When it could not be done.
pub async fn wiped_voter(seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    for victim in [Victim::Follower, Victim::Leader, Victim::First] {
        let found = under_load(victim, seed)
            .await
            .with_context(|| format!("{victim:?}"))?;
        findings.merge(found);
    }
    for wiped in [0, 1] {
        let found = beside_one_that_lags(wiped)
            .await
            .with_context(|| format!("node {} beside one that lags", wiped + 1))?;
        findings.merge(found);
    }
    findings.checked(
        "G8",
        "a voter without its data was refused with the advice what to do, and never voted",
    );
    Ok(findings)
}

async fn under_load(victim: Victim, seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let circuits = Circuits::random(CIRCUITS, &mut StdRng::seed_from_u64(seed));
    let stage = Stage::start(ClusterOptions::default(), circuits).await?;
    let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    let wiped = match victim {
        Victim::Follower => (leader + 1) % stage.nodes.len(),
        Victim::Leader => leader,
        Victim::First => 0,
    };
    let others: Vec<usize> = (0..stage.nodes.len())
        .filter(|position| *position != wiped)
        .collect();
    let pulse = Pulse::start(&stage, others.clone());
    let crew = Crew::start(&stage, 1..CLIENTS + 1, Mix::Reports, seed)?;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let from = stage.clock.now();
    wipe(&stage, wiped).await?;
    stage.cluster.nodes()[wiped].start()?;
    let refused_after = expect_refusal(&stage, wiped, &mut findings).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let gap = pulse.longest_gap(from, stage.clock.now());
    pulse.stop().await?;
    crew.stop().await?;
    findings.figure(
        format!("{victim:?} without its data"),
        format!(
            "refused after {}; longest time without a write {}",
            show_ms(refused_after),
            show_ms(gap)
        ),
    );
    findings.require(gap <= LONGEST_GAP, "G12", || {
        format!("{victim:?}: no write for {}", show_ms(gap))
    });
    finish(stage, findings).await
}

/// A majority has acknowledged something; one of it is down, the other one is wiped. What is left is a node that does not have it.
async fn beside_one_that_lags(wiped: usize) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let stage = Stage::start(ClusterOptions::default(), one_circuit()).await?;
    let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    let others: Vec<usize> = (0..stage.nodes.len())
        .filter(|position| *position != wiped)
        .collect();
    let lags = *others
        .iter()
        .find(|position| **position != leader)
        .context("there is a follower beside it")?;
    let knows = *others
        .iter()
        .find(|position| **position != lags)
        .context("there is a third node")?;
    stage.cluster.nodes()[lags].kill().await?;
    let pulse = Pulse::start(&stage, vec![knows]);
    let moment = stage.clock.now();
    stage
        .wait(PATIENCE, "writes without the one that lags", async |_| {
            Ok(pulse.first_after(moment + 300_000).is_some())
        })
        .await?;
    let acknowledged = pulse.through(knows, moment);
    pulse.stop().await?;
    let floor = revision(&stage, knows).await;
    stage.cluster.nodes()[knows].kill().await?;
    wipe(&stage, wiped).await?;

    for position in [lags, wiped] {
        stage.cluster.nodes()[position].start()?;
    }
    let deadline = Instant::now() + ALONE;
    let mut seen = 0;
    while Instant::now() < deadline {
        let leader = stage.cluster.leader(&stage.nodes).await;
        findings.require(leader.is_none(), "G8", || {
            format!(
                "node {} leads with the vote of a node without its data",
                leader.map_or(0, |leader| leader + 1)
            )
        });
        if findings.verdict() == Verdict::Broken {
            break;
        }
        seen += usize::from(status(&stage.nodes, lags).await.is_some());
        gave_no_vote(&stage, wiped, &mut findings).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if seen == 0 {
        findings.untold("the node that lags never answered, so nobody could have been elected");
    }
    expect_refusal(&stage, wiped, &mut findings).await?;

    stage.cluster.nodes()[knows].start()?;
    let back = stage
        .wait(
            PATIENCE,
            "the acknowledged writes are there",
            async |stage: &Stage| {
                let leads = stage.cluster.leader(&stage.nodes).await.is_some();
                Ok(leads && revision(stage, lags).await >= floor && revision(stage, knows).await >= floor)
            },
        )
        .await;
    if let Err(error) = back {
        findings.broken("G8", format!("{error:#}"));
    }
    findings.figure(
        format!("node {} without its data beside one that lags", wiped + 1),
        format!("no leader in {ALONE:?}; the {acknowledged} writes it had acknowledged are there"),
    );
    if acknowledged == 0 {
        findings.untold("nothing was acknowledged that the one that lags does not have");
    }
    finish(stage, findings).await
}

async fn wipe(stage: &Stage, position: usize) -> anyhow::Result<()> {
    let node = &stage.cluster.nodes()[position];
    node.kill().await?;
    std::fs::remove_dir_all(node.data_dir()).context("its data can be thrown away")
}

/// The process must end by itself, not well, and say what to do. Gives how long that took.
async fn expect_refusal(stage: &Stage, position: usize, findings: &mut Findings) -> anyhow::Result<Micros> {
    let node = &stage.cluster.nodes()[position];
    let id = node.spec.id;
    let (from, deadline) = (stage.clock.now(), Instant::now() + REFUSED_WITHIN);
    let ended = loop {
        if let Some(status) = node.exit_status()? {
            break Some(status);
        }
        if Instant::now() > deadline {
            break None;
        }
        gave_no_vote(stage, position, findings).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    match ended {
        Some(status) => findings.require(!status.success(), "G8", || {
            format!("node {id} ended with {status}, as if all were well")
        }),
        None => findings.broken("G8", format!("node {id} goes on without its data")),
    }
    let tail = node.log_tail(30);
    for advice in ADVICE {
        findings.require(tail.contains(advice), "G8", || {
            format!("node {id} does not say {advice:?}:\n{tail}")
        });
    }
    Ok(stage.clock.now() - from)
}

/// While it lives, it has not voted.
async fn gave_no_vote(stage: &Stage, position: usize, findings: &mut Findings) {
    let Some(status) = status(&stage.nodes, position).await else {
        return;
    };
    findings.require(status.voted_term == 0, "G8", || {
        format!(
            "node {} has lost its data, and gave a vote in term {} to node {}",
            position + 1,
            status.voted_term,
            status.voted_for
        )
    });
}

async fn revision(stage: &Stage, position: usize) -> u64 {
    let status = status(&stage.nodes, position).await;
    status
        .and_then(|status| status.header)
        .map_or(0, |header| header.revision)
}

async fn finish(stage: Stage, findings: Findings) -> anyhow::Result<Findings> {
    let mut kept = Findings::default();
    // What each part says by itself would be said five times.
    let found = stage.finish(Findings::default()).await?;
    kept.merge(findings);
    kept.merge_failures(found);
    Ok(kept)
}
