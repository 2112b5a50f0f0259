//! All nodes are stopped and started again, and the wall clock of one of them is a day wrong then (row 14 of the matrix): nothing half-opens early, and
//! what is due ends when it is.
//!
//! It fails when the new leader believes one clock, its own or the furthest: then openings of an hour end at once, or those that are due end
//! a day late. In half of the starts the node with the wrong clock and one other are all there is at first, so that there is no
//! majority of right clocks.

use std::time::Duration;

use anyhow::Context;

use super::clocks::make_clocks;
use super::faketime::library;
use super::hand::Hand;
use super::lasting::{Late, Opened, judge};
use super::stage::Stage;
use super::vigil::Vigil;
use crate::check::Evidence;
use crate::circuits::{Circuits, Opening, Spec, name, policy_of};
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::nemesis::{FakeClock, Lie, UNTIL_NOTED};
use crate::time::{Micros, of_timestamp, show_ms};

const PATIENCE: Duration = Duration::from_secs(30);
const OPENER: u32 = 2000;
const DAY: i64 = 86_400;
/// What a leader logs when it has to ask wall clocks.
const ASKED: &str = "no node has a running clock";
/// How long all nodes are down.
const DOWN: Duration = Duration::from_secs(2);
/// Openings that a wrong clock must not end, and how long they last.
const LONG: usize = 20;
const LONG_LASTS: Duration = Duration::from_secs(3600);
/// Openings that are due while all nodes are down, and when all of them are up again.
const OF_KIND: usize = 4;
const DOWN_LASTS: Duration = Duration::from_millis(1500);
const SOON_LASTS: Duration = Duration::from_secs(15);
/// What a busy machine may add.
const SLACK: Micros = 1_000_000;
const OF_START: usize = LONG + 2 * OF_KIND;

/// In which order nodes are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    AllAtOnce,
    /// The one with the wrong clock and another; the third when they have a leader.
    LiarFirst,
}

const STARTS: [(i64, Order); 4] = [
    (DAY, Order::LiarFirst),
    (-DAY, Order::LiarFirst),
    (DAY, Order::AllAtOnce),
    (-DAY, Order::AllAtOnce),
];

/// Each kind of start so many times, with another node's clock wrong each time.
///
/// # Errors
/// When it could not be done: also when libfaketime is not installed, or a clock does not lie.
pub async fn cold_start(times: usize) -> anyhow::Result<Findings> {
    library().context("SKIPPED: libfaketime is not installed (Debian: apt-get install faketime)")?;
    let mut findings = Findings::default();
    let folder = tempfile::Builder::new().prefix("brama-clocks-").tempdir()?;
    let clocks = make_clocks(&folder)?;
    let options = ClusterOptions {
        env: (1..).zip(&clocks).map(|(id, clock)| (id, clock.env())).collect(),
        ..Default::default()
    };
    let all = times * STARTS.len();
    let stage = Stage::start(options, circuits(all * OF_START)).await?;
    let vigil = Vigil::start(&stage);
    let hand = Hand::of(&stage, OPENER);
    for number in 0..all {
        let (seconds, order) = STARTS[number % STARTS.len()];
        let liar = number % stage.nodes.len();
        let lie = Lie::Jump { seconds };
        findings.merge(one(&stage, &clocks, &hand, number, liar, lie, order).await?);
    }
    vigil.end(&mut findings).await?;
    findings.merge(judge_time(&stage.evidence()));
    stage.finish(findings).await
}

async fn one(
    stage: &Stage,
    clocks: &[FakeClock],
    hand: &Hand,
    number: usize,
    liar: usize,
    lie: Lie,
    order: Order,
) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let what = format!("{lie:?} on node {}, {order:?}", liar + 1);
    let nodes = stage.cluster.nodes();
    let mut circuits = number * OF_START..(number + 1) * OF_START;
    let mut open = async |count: usize, lasts| -> anyhow::Result<Vec<Opened>> {
        let mut opened = Vec::new();
        for circuit in circuits.by_ref().take(count) {
            opened.push(hand.open(circuit % 3, circuit, lasts).await?);
        }
        Ok(opened)
    };
    let long = open(LONG, LONG_LASTS).await?;
    let soon = open(OF_KIND, SOON_LASTS).await?;
    let down = open(OF_KIND, DOWN_LASTS).await?;

    let asked = count_asked(stage);
    let killed = stage.clock.now();
    for node in nodes {
        node.send_kill()?;
    }
    for node in nodes {
        node.kill().await?;
    }
    clocks[liar].lie(lie)?;
    tokio::time::sleep(DOWN).await;
    let third = (liar + 2) % 3;
    for position in (0..3).filter(|position| order == Order::AllAtOnce || *position != third) {
        nodes[position].start()?;
    }
    stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    let led = stage.clock.now();
    let process = nodes[liar].pid().context("the node has a process")?;
    clocks[liar].prove(process, lie).await?;
    // Nothing happens to those that run.
    nodes[third].start()?;
    stage.cluster.wait_until_ready(PATIENCE).await?;
    let was_asked = count_asked(stage) > asked;

    // Those that never end are found when they are judged.
    let _ = stage
        .wait(
            SOON_LASTS + PATIENCE,
            "what is due ends",
            async |stage: &Stage| Ok(soon.iter().chain(&down).all(|one| one.ended(stage).is_some())),
        )
        .await;
    clocks[liar].be_right()?;
    tokio::time::sleep(UNTIL_NOTED).await;

    if !was_asked {
        findings.untold(format!("{what}: no wall clock was asked"));
    }
    let early = long.iter().filter(|one| one.ended(stage).is_some()).count();
    findings.require(early == 0, "G4", || {
        format!("{what}: {early} of {LONG} openings of an hour have ended")
    });
    // Of two clocks the earlier counts, because late is better than early: if that is the wrong one, time goes on where it was.
    let without_time = led - killed;
    let behind = matches!(lie, Lie::Jump { seconds } if seconds < 0);
    let stretched = if behind { without_time } else { 0 } + SLACK;
    findings.figure(
        what.clone(),
        format!(
            "{} without a leader; {early} of {LONG} openings of an hour ended (allowed 0)",
            show_ms(without_time)
        ),
    );
    let kinds = [
        ("due later", &soon, stretched),
        ("due while all were down", &down, stretched + without_time),
    ];
    for (kind, opened, late) in kinds {
        let lasted: Vec<_> = opened.iter().map(|one| one.lasted(stage)).collect();
        let late = Late {
            each: late,
            first: late,
        };
        findings.merge(judge(&format!("{what}, {kind}"), &lasted, late));
    }
    if soon.iter().any(|one| one.due() < led) {
        findings.untold(format!("{what}: the nodes took too long to start"));
    }
    Ok(findings)
}

/// How often any node had to ask wall clocks.
fn count_asked(stage: &Stage) -> usize {
    let logs = stage.cluster.nodes().iter().map(|node| {
        let log = std::fs::read(node.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&log).matches(ASKED).count()
    });
    logs.sum()
}

/// Cluster time never goes back.
fn judge_time(evidence: &Evidence) -> Findings {
    let mut findings = Findings::default();
    let mut newest = 0;
    for seen in evidence.events.values() {
        let at = seen.event.time.as_ref().map_or(0, of_timestamp);
        findings.require(at >= newest, "G4", || {
            format!(
                "cluster time went back by {} at revision {}",
                show_ms(newest - at),
                seen.event.revision
            )
        });
        newest = newest.max(at);
    }
    findings.checked("G4", "cluster time never went back");
    findings
}

/// Circuits that nothing opens but us.
fn circuits(count: usize) -> Circuits {
    let opening = Opening::Fixed(60_000);
    let spec = |index| Spec {
        name: name(index),
        policy: policy_of(opening),
        opening,
        max_probes: 1,
    };
    Circuits::new((0..count).map(spec).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use brama_proto::v1;

    use super::*;
    use crate::findings::Verdict;
    use crate::ledger::Seen;

    #[test]
    fn time_that_goes_back_is_found() {
        let verdict = |seconds: &[i64]| {
            let seen = seconds.iter().map(|seconds| Seen {
                event: v1::Event {
                    time: Some(prost_types::Timestamp {
                        seconds: *seconds,
                        nanos: 0,
                    }),
                    ..Default::default()
                },
                arrived: 0,
            });
            judge_time(&Evidence {
                circuits: circuits(1).into(),
                ops: Vec::new(),
                events: BTreeMap::from_iter((1..).zip(seen)),
                faults: Vec::new(),
                kinds: Vec::new(),
                spans: Vec::new(),
            })
            .verdict()
        };
        assert_eq!(verdict(&[10, 10, 11]), Verdict::Holds);
        assert_eq!(verdict(&[10, 11, 10]), Verdict::Broken);
    }
}
