//! Nothing is written for a while, the followers are restarted one by one, and then the leader dies (row 15 of the matrix): openings that were made before
//! all that end when they are due, and not later by as long as it was quiet.
//!
//! It fails when a node that heard no entry since it started counts from the newest one on its disk: then every opening is stretched by
//! the time that was quiet.

use std::time::Duration;

use super::hand::Hand;
use super::lasting::{Late, Opened, judge};
use super::stage::Stage;
use super::vigil::Vigil;
use crate::circuits::{Circuits, Opening, Spec, name, policy_of};
use crate::cluster::{ClusterOptions, status};
use crate::findings::Findings;
use crate::time::{micros, show_ms};

const PATIENCE: Duration = Duration::from_secs(30);
const OPENER: u32 = 2000;
/// Openings of each group.
const OF_GROUP: usize = 5;
/// From the end of the quiet time until the leader dies; the followers are restarted in it.
const RESTARTS: Duration = Duration::from_secs(12);
/// A leader whose timers are armed writes the time once a second, and no more.
const ENTRIES_A_SECOND: u64 = 2;
/// With a leader, openings end on time; a busy machine may delay one of them.
const ON_TIME: Late = Late {
    each: 1_000_000,
    first: 50_000,
};
/// What is due when the leader is dead waits for the next one: at most four times the longest election timeout.
const FAILOVER: Late = Late {
    each: 4_000_000,
    first: 4_000_000,
};

/// Openings that are due at about the same time.
struct Group {
    what: &'static str,
    /// After the end of the quiet time.
    due: Duration,
    late: Late,
}

const GROUPS: [Group; 3] = [
    Group {
        what: "due before the leader dies",
        due: Duration::from_secs(10),
        late: ON_TIME,
    },
    Group {
        what: "due as it dies",
        due: Duration::from_millis(12_300),
        late: FAILOVER,
    },
    Group {
        what: "due under the next one",
        due: Duration::from_secs(18),
        late: ON_TIME,
    },
];

/// With so long a quiet time.
///
/// # Errors
/// When it could not be done.
pub async fn idle(quiet: Duration) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let stage = Stage::start(ClusterOptions::default(), circuits()).await?;
    let vigil = Vigil::start(&stage);
    let hand = Hand::of(&stage, OPENER);
    let began = stage.clock.now();
    let mut opened: Vec<Vec<Opened>> = Vec::new();
    for (number, group) in GROUPS.iter().enumerate() {
        let mut all = Vec::new();
        for circuit in number * OF_GROUP..(number + 1) * OF_GROUP {
            all.push(hand.open(circuit % 3, circuit, quiet + group.due).await?);
        }
        opened.push(all);
    }

    // Nothing happens.
    let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    let before = newest_entry(&stage, leader).await;
    tokio::time::sleep(quiet).await;
    let after = newest_entry(&stage, leader).await;

    // Whoever heard the time is restarted, but for the leader.
    let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    for follower in (0..3).filter(|position| *position != leader) {
        let node = &stage.cluster.nodes()[follower];
        node.kill().await?;
        node.start()?;
        stage.cluster.wait_until_ready(PATIENCE).await?;
    }
    let restarted = stage.clock.now();
    let dies = began + micros(quiet + RESTARTS);
    tokio::time::sleep(Duration::from_micros(dies.saturating_sub(restarted))).await;
    let led_on = stage.cluster.leader(&stage.nodes).await == Some(leader);
    let killed = stage.clock.now();
    stage.cluster.nodes()[leader].kill().await?;

    stage
        .wait(PATIENCE, "all openings end", async |stage: &Stage| {
            Ok(opened.iter().flatten().all(|one| one.ended(stage).is_some()))
        })
        .await?;
    let next = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    stage.cluster.nodes()[leader].start()?;
    stage.cluster.wait_until_ready(PATIENCE).await?;
    vigil.end(&mut findings).await?;

    let entries = before.zip(after).map(|(before, after)| after - before);
    findings.figure(
        format!("entries in {quiet:?} of quiet"),
        format!("{entries:?} (idle: at most {} a second)", ENTRIES_A_SECOND),
    );
    findings.figure(
        "the leader died",
        format!(
            "{} after the openings, {} after the last restart",
            show_ms(killed - began),
            show_ms(killed - restarted)
        ),
    );
    if entries.is_none_or(|entries| entries > ENTRIES_A_SECOND * quiet.as_secs()) {
        findings.untold(format!("the log was not idle: {entries:?} entries in {quiet:?}"));
    }
    if !led_on || next == leader {
        findings.untold("the leader of the quiet time did not lead until it was killed");
    }
    for (group, all) in GROUPS.iter().zip(&opened) {
        let is_before = all.iter().all(|one| one.due() < killed);
        let is_after = all.iter().all(|one| one.sent + one.lasts >= killed);
        if group.due < RESTARTS && !is_before || group.due > RESTARTS && !is_after {
            findings.untold(format!("{}: they were not, the machine was too slow", group.what));
        }
        let lasted: Vec<_> = all.iter().map(|one| one.lasted(&stage)).collect();
        findings.merge(judge(group.what, &lasted, group.late));
    }
    stage.finish(findings).await
}

async fn newest_entry(stage: &Stage, position: usize) -> Option<u64> {
    status(&stage.nodes, position)
        .await
        .map(|status| status.last_log_index)
}

/// Circuits that nothing opens but us.
fn circuits() -> Circuits {
    let opening = Opening::Fixed(60_000);
    let spec = |index| Spec {
        name: name(index),
        policy: policy_of(opening),
        opening,
        max_probes: 1,
    };
    Circuits::new((0..GROUPS.len() * OF_GROUP).map(spec).collect())
}
