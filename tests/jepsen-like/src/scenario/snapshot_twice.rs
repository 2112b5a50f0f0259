//! A follower misses more than the log keeps, so that it needs a snapshot; it is killed while that is installed, needs another, and then one more (row 18 of the
//! matrix). What it knows in the end is what the others know: sessions, events, and the state to the last bit.
//!
//! It fails when sessions are not in the snapshot (a batch that is sent again through that node, when it leads too, would count again or get
//! another answer), when events are not (a subscriber that resumes there would have a gap), and when an install that was cut short leaves
//! anything behind.

use std::path::PathBuf;
use std::time::Duration;

use brama_proto::v1;
use brama_proto::v1::subscribe_response::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::crew::Crew;
use super::cursors::{newest_cursor, subscribe};
use super::hand::Hand;
use super::pulse::Pulse;
use super::stage::Stage;
use super::vigil::Vigil;
use crate::circuits::Circuits;
use crate::cluster::{ClusterOptions, status};
use crate::findings::Findings;
use crate::node::Node;
use crate::rpc::{Nodes, answer, timed};
use crate::workload::Mix;

const PATIENCE: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(3);
const SNAPSHOT_EVERY: i64 = 50;
const KEEP: i64 = 10;
const CIRCUITS: usize = 12;
const CLIENTS: std::ops::Range<u32> = 1..3;
const HAND: u32 = 2000;
/// Reports of up to 870 KiB, so that a snapshot takes a while to arrive.
const LONG_REPORTS: usize = 12;
/// A kill can come too late for one install, so it is tried again.
const TRIES: usize = 8;
/// Installs in a row of each follower, beside those that are cut short.
const IN_A_ROW: usize = 2;
/// What a node logs when an install is complete.
const INSTALLED: &str = "installed a snapshot";

/// What happened to one follower.
#[derive(Clone, Debug, Default)]
struct Round {
    node: u64,
    /// Installs that were complete.
    installed: usize,
    /// Kills while a snapshot arrived, of which nothing was installed.
    cut_short: usize,
    /// The revision that a batch was acknowledged at; and at which, when it was sent again: through the follower, when it led, and elsewhere.
    first: u64,
    again: Vec<u64>,
    /// It led when the batch was sent again.
    led: bool,
    /// After which revision a subscriber resumed there, what it got, and up to where.
    resumed: (u64, u64),
    gap: Option<String>,
}

/// Both followers, so many times.
///
/// # Errors
/// When it could not be done.
pub async fn snapshot_twice(rounds: u32, seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let options = ClusterOptions {
        settings: vec![
            ("raft", "snapshot_every", SNAPSHOT_EVERY.into()),
            ("raft", "keep_entries", KEEP.into()),
            ("raft", "compare_interval", "1s".into()),
        ],
        ..Default::default()
    };
    let stage = Stage::start(options, Circuits::random(CIRCUITS, &mut rng)).await?;
    let vigil = Vigil::start(&stage);
    grow(&stage, seed).await?;
    let pulse = Pulse::start(&stage, vec![0, 1, 2]);
    let hand = Hand::of(&stage, HAND);
    let mut all = Vec::new();
    for number in 0..2 * rounds {
        stage.cluster.wait_until_ready(PATIENCE).await?;
        pulse.aim(&stage, vec![0, 1, 2]);
        let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
        let follower = (leader + 1 + number as usize % 2) % 3;
        all.push(one(&stage, &pulse, &hand, (leader, follower), &mut rng).await?);
    }
    pulse.stop().await?;
    let observed = vigil.end(&mut findings).await?;
    findings.figure(
        "log",
        format!(
            "snapshot at {}, dropped up to {}, equal states at {} positions",
            observed.snapshot, observed.purged, observed.compared
        ),
    );
    for round in &all {
        findings.figure(
            format!("node {}", round.node),
            format!(
                "{} installs complete ({IN_A_ROW} in a row wanted), {} cut short (1 wanted); batch at {}, sent again {:?}; resumed after {} up to {}",
                round.installed, round.cut_short, round.first, round.again, round.resumed.0, round.resumed.1
            ),
        );
    }
    findings.merge(judge(&all));
    stage.finish(findings).await
}

/// Makes snapshots large: events keep what reports carried.
async fn grow(stage: &Stage, seed: u64) -> anyhow::Result<()> {
    let crew = Crew::start(stage, CLIENTS, Mix::LongReports(1000), seed)?;
    stage
        .wait(PATIENCE, "enough long reports", async |stage: &Stage| {
            let ops = stage.history.ops();
            Ok(ops.iter().filter(|op| op.is_ok()).count() >= CIRCUITS + LONG_REPORTS)
        })
        .await?;
    crew.stop().await
}

async fn one(
    stage: &Stage,
    pulse: &Pulse,
    hand: &Hand,
    (leader, follower): (usize, usize),
    rng: &mut StdRng,
) -> anyhow::Result<Round> {
    let other = 3 - leader - follower;
    let node = &stage.cluster.nodes()[follower];
    let mut round = Round {
        node: node.spec.id,
        ..Round::default()
    };
    let mut session = hand.session();
    // Known on all nodes before, and reported on while it is away: only the snapshot tells it.
    hand.report(follower, &mut hand.batch(&mut session, &[0, 1], "S"))
        .await?;
    let (cursor, revision) = newest_cursor(&stage.nodes, follower).await?;
    round.resumed.0 = revision;

    pulse.aim(stage, vec![leader, other]);
    node.kill().await?;
    let mut batch = hand.batch(&mut session, &[0, 1, 2], "SF");
    round.first = hand.report(leader, &mut batch).await?.revision;

    // Killed while it gets one.
    for _ in 0..TRIES {
        fall_behind(stage, leader, follower).await?;
        if cut_short(node, rng).await? {
            round.cut_short += 1;
            break;
        }
    }
    // Then one, and the next.
    for _ in 0..IN_A_ROW {
        fall_behind(stage, leader, follower).await?;
        let before = installs(node);
        node.start()?;
        stage
            .wait(
                PATIENCE,
                "a snapshot is installed, and the rest is there",
                async |_| Ok(installs(node) > before),
            )
            .await?;
        stage.cluster.wait_until_ready(PATIENCE).await?;
        round.installed += installs(node) - before;
        node.kill().await?;
    }
    node.start()?;
    stage.cluster.wait_until_ready(PATIENCE).await?;

    // What it was told of the session: as a follower, as the leader, and what the others say then.
    round
        .again
        .push(hand.send_again(follower, &batch).await?.revision);
    round.led = lead(stage, follower).await?;
    for through in [follower, leader, other] {
        round.again.push(hand.send_again(through, &batch).await?.revision);
    }
    let mut next = hand.batch(&mut session, &[3], "F");
    hand.report(follower, &mut next).await?;

    let (upto, gap) = resume(&stage.nodes, follower, &cursor, revision).await;
    round.resumed.1 = upto;
    round.gap = gap;
    Ok(round)
}

/// Waits until the log no longer has what the follower needs next; it is down.
async fn fall_behind(stage: &Stage, leader: usize, follower: usize) -> anyhow::Result<()> {
    let newest = stage.cluster.statuses(&stage.nodes).await;
    let newest = newest
        .iter()
        .flatten()
        .map(|status| status.last_log_index)
        .max()
        .unwrap_or(0);
    anyhow::ensure!(!stage.cluster.nodes()[follower].is_up(), "the follower is down");
    stage
        .wait(
            PATIENCE,
            "the log has dropped what it misses",
            async |stage: &Stage| {
                let status = status(&stage.nodes, leader).await;
                Ok(status.is_some_and(|status| status.purged_index > newest + 1))
            },
        )
        .await
}

/// Starts the node, and kills it as soon as a part of a snapshot has arrived. False: it was complete by then.
async fn cut_short(node: &Node, rng: &mut StdRng) -> anyhow::Result<bool> {
    let before = installs(node);
    let folder = node.data_dir().join("snapshots");
    node.start()?;
    let deadline = Instant::now() + PATIENCE;
    let mut arriving = false;
    while !arriving && installs(node) == before && Instant::now() < deadline {
        arriving = parts(&folder)?.iter().any(|(_, bytes)| *bytes > 0);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if arriving {
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..10))).await;
    }
    node.kill().await?;
    Ok(arriving && installs(node) == before)
}

/// Snapshots that are not complete: with their sizes.
fn parts(folder: &PathBuf) -> anyhow::Result<Vec<(PathBuf, u64)>> {
    let mut parts = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            // It may have been completed just now.
            if let Ok(metadata) = path.metadata() {
                parts.push((path, metadata.len()));
            }
        }
    }
    Ok(parts)
}

/// Installs that the node has completed, in all its lives.
fn installs(node: &Node) -> usize {
    let log = std::fs::read(node.log_path()).unwrap_or_default();
    String::from_utf8_lossy(&log).matches(INSTALLED).count()
}

/// Makes a node the leader; whether it did.
async fn lead(stage: &Stage, position: usize) -> anyhow::Result<bool> {
    let id = stage.cluster.nodes()[position].spec.id;
    let request = v1::TransferLeaderRequest { node_id: Some(id) };
    let mut client = stage.nodes.cluster(position);
    // If it was refused, it does not lead.
    let _ = answer(CALL, client.transfer_leader(timed(request, CALL))).await;
    let now = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    Ok(now == position)
}

/// Reads from the follower what came after the cursor, up to what it knows now: up to where, and what was wrong.
async fn resume(nodes: &Nodes, node: usize, cursor: &str, after: u64) -> (u64, Option<String>) {
    let known = status(nodes, node).await.and_then(|status| status.header);
    let upto = known.map_or(0, |header| header.revision);
    let mut stream = match subscribe(nodes, node, cursor).await {
        Ok(stream) => stream,
        Err(status) => return (after, Some(format!("refused: {status:?}"))),
    };
    let mut at = after;
    while at < upto {
        match tokio::time::timeout(SILENCE, stream.message()).await {
            Ok(Ok(Some(response))) => {
                if let Some(Message::Event(event)) = response.message {
                    if event.revision != at + 1 {
                        return (at, Some(format!("{} came after {at}", event.revision)));
                    }
                    at = event.revision;
                }
            }
            other => return (at, Some(format!("ended after {at}: {other:?}"))),
        }
    }
    (at, None)
}

fn judge(all: &[Round]) -> Findings {
    let mut findings = Findings::default();
    for round in all {
        let node = round.node;
        for again in round.again.iter().filter(|again| **again != round.first) {
            findings.broken(
                "G3",
                format!(
                    "a batch was acknowledged at revision {}, and at {again} when it was sent again after node {node} installed a snapshot",
                    round.first
                ),
            );
        }
        if let Some(gap) = &round.gap {
            findings.broken(
                "G7",
                format!(
                    "a subscriber that resumed on node {node} after revision {}: {gap}",
                    round.resumed.0
                ),
            );
        }
        if round.installed < IN_A_ROW || round.cut_short == 0 {
            findings.untold(format!(
                "node {node} installed {} snapshots, and {} installs were cut short",
                round.installed, round.cut_short
            ));
        }
        if !round.led {
            findings.untold(format!("node {node} did not lead after its installs"));
        }
        if round.resumed.1 <= round.resumed.0 {
            findings.untold(format!("nothing came after the cursor on node {node}"));
        }
    }
    findings.checked(
        "G3",
        format!("{} followers knew a session from a snapshot", all.len()),
    );
    findings.checked("G7", "subscribers resumed there without a gap");
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Verdict;

    fn verdict(change: impl Fn(&mut Round)) -> Verdict {
        let mut round = Round {
            node: 2,
            installed: 2,
            cut_short: 1,
            first: 40,
            again: vec![40, 40, 40, 40],
            led: true,
            resumed: (30, 90),
            gap: None,
        };
        change(&mut round);
        judge(&[round]).verdict()
    }

    #[test]
    fn a_forgotten_session_and_a_gap_are_found() {
        assert_eq!(verdict(|_| ()), Verdict::Holds);
        assert_eq!(verdict(|round| round.again[1] = 95), Verdict::Broken);
        assert_eq!(
            verdict(|round| round.gap = Some("33 came after 31".into())),
            Verdict::Broken
        );
    }

    #[test]
    fn what_did_not_happen_shows_nothing() {
        assert_eq!(verdict(|round| round.installed = 1), Verdict::Unknown);
        assert_eq!(verdict(|round| round.cut_short = 0), Verdict::Unknown);
        assert_eq!(verdict(|round| round.led = false), Verdict::Unknown);
        assert_eq!(verdict(|round| round.resumed.1 = 30), Verdict::Unknown);
    }
}
