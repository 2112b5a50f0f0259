//! The leader is stopped (SIGSTOP) for some time and goes on without knowing that it was away (row 7 of the matrix): what it says then must not be stale, timers
//! must have ended when they were due, and no permit may be out twice.
//!
//! The reads that matter are sent while it is stopped, after a write that the new leader acknowledged: they lie in its sockets, and are the first
//! thing that it does, before any message of the new term. A node that trusts the lease it had, or answers from its own state, shows
//! the old state then (etcd#20418).

use std::time::Duration;

use anyhow::Context;
use futures::future::join_all;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::crew::Crew;
use super::hand::Hand;
use super::pulse::Pulse;
use super::stage::Stage;
use super::vigil::Vigil;
use crate::circuits::Circuits;
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::history::{Action, Answer, Op, Outcome};
use crate::node::Node;
use crate::time::{Micros, show_ms};
use crate::workload::Mix;

const PATIENCE: Duration = Duration::from_secs(30);
const CLIENTS: std::ops::Range<u32> = 1..5;
const CIRCUITS: usize = 16;
/// Each reads one thing at a time, and this is the number of the first.
const READERS: u32 = 16;
const FIRST_READER: u32 = 2000;
/// Reads of each, the first one sent while the node is stopped.
const READS: usize = 8;
/// Four times the longest election timeout.
const WRITES_STOP: Micros = 4_000_000;
/// A follower that hears nothing for so long wants an election.
const ELECTION_MAX: Duration = Duration::from_secs(1);

/// What was seen of one stop.
#[derive(Clone, Copy, Debug, Default)]
struct Stopped {
    asked_for: Duration,
    /// The system says that the process was stopped.
    was_stopped: bool,
    /// Somebody else led in the end.
    replaced: bool,
    /// The longest time without a write, through the others.
    gap: Micros,
    /// Of the reads through the node: how many were sent, answered, and answered without what had been acknowledged.
    sent: usize,
    answered: usize,
    stale: usize,
}

/// Stops the leader for each of these times.
///
/// # Errors
/// When it could not be done.
pub async fn pause_leader(lengths: &[Duration], seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let circuits = Circuits::random(CIRCUITS, &mut StdRng::seed_from_u64(seed));
    let stage = Stage::start(ClusterOptions::default(), circuits).await?;
    let vigil = Vigil::start(&stage);
    let crew = Crew::start(&stage, CLIENTS, Mix::Everything, seed)?;
    let pulse = Pulse::start(&stage, vec![0, 1, 2]);
    let readers: Vec<Hand> = (0..READERS).map(|n| Hand::of(&stage, FIRST_READER + n)).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;

    let mut all = Vec::new();
    for length in lengths {
        all.push(stop_for(*length, &stage, &pulse, &readers).await?);
        stage.cluster.wait_until_ready(PATIENCE).await?;
        pulse.aim(&stage, vec![0, 1, 2]);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    pulse.stop().await?;
    crew.stop().await?;
    vigil.end(&mut findings).await?;
    for stopped in &all {
        findings.figure(
            format!("stopped for {:?}", stopped.asked_for),
            format!(
                "longest without a write {} (allowed {}); {}; {} reads through it, {} answered, {} stale (allowed 0)",
                show_ms(stopped.gap),
                show_ms(WRITES_STOP),
                if stopped.replaced { "another led" } else { "it led on" },
                stopped.sent,
                stopped.answered,
                stopped.stale,
            ),
        );
    }
    findings.merge(judge(&all));
    stage.finish_with_all_checks(findings).await
}

async fn stop_for(
    length: Duration,
    stage: &Stage,
    pulse: &Pulse,
    readers: &[Hand],
) -> anyhow::Result<Stopped> {
    let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    let node = &stage.cluster.nodes()[leader];
    // Connected, so that what they send while it is stopped is there when it goes on.
    join_all(readers.iter().map(|reader| reader.read(leader, 0))).await;
    pulse.aim(stage, (0..3).filter(|other| *other != leader).collect());

    let from = stage.clock.now();
    node.pause()?;
    tokio::time::sleep(length).await;
    let was_stopped = is_stopped(node)?;
    let is_long = length > ELECTION_MAX;
    if is_long {
        // The write that the reads must show was acknowledged by somebody else.
        let now = stage.clock.now();
        stage
            .wait(PATIENCE, "a write while the leader is stopped", async |_| {
                Ok(pulse.first_after(now).is_some())
            })
            .await?;
    }
    let replaced = stage
        .cluster
        .leader(&stage.nodes)
        .await
        .is_some_and(|now| now != leader);
    let first_op = stage.history.ops().len();
    let mut reading = JoinSet::new();
    for (number, reader) in readers.iter().enumerate() {
        let reader = reader.clone();
        reading.spawn(async move {
            for read in 0..READS {
                // What came of it is in the history.
                let _ = reader.read(leader, (number + read) % CIRCUITS).await;
            }
        });
    }
    // Long enough that the first ones are sent.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let gap = pulse.longest_gap(from, stage.clock.now());
    node.resume()?;
    while let Some(read) = reading.join_next().await {
        read?;
    }
    let ops = stage.history.ops();
    let reads: Vec<&Op> = ops[first_op..]
        .iter()
        .filter(|op| op.client >= FIRST_READER)
        .collect();
    Ok(Stopped {
        asked_for: length,
        was_stopped,
        replaced,
        gap,
        ..count(&reads)
    })
}

/// Of reads: how many there were, were answered, and were stale.
fn count(reads: &[&Op]) -> Stopped {
    let mut counted = Stopped::default();
    for op in reads {
        if let Action::Status { .. } = &op.action {
            counted.sent += 1;
            if let Outcome::Ok(Answer::Status(shown)) = &op.outcome {
                counted.answered += 1;
                counted.stale += usize::from(shown.at < op.floor);
            }
        }
    }
    counted
}

fn judge(all: &[Stopped]) -> Findings {
    let mut findings = Findings::default();
    for stopped in all {
        let length = stopped.asked_for;
        findings.require(stopped.stale == 0, "G2", || {
            format!(
                "{} stale reads through a leader that was stopped for {length:?}",
                stopped.stale
            )
        });
        findings.require(stopped.gap <= WRITES_STOP, "G12", || {
            format!(
                "writes stopped for {} while the leader was stopped for {length:?}",
                show_ms(stopped.gap)
            )
        });
        if !stopped.was_stopped {
            findings.untold(format!("the leader was not stopped for {length:?}"));
        }
        if length > ELECTION_MAX {
            if !stopped.replaced {
                findings.untold(format!("nobody else led after {length:?}"));
            }
            if stopped.answered == 0 {
                findings.untold(format!(
                    "no read was answered by the node that was stopped for {length:?}"
                ));
            }
        }
    }
    if !all.iter().any(|stopped| stopped.replaced) {
        findings.untold("no leader was replaced while it was stopped");
    }
    findings.checked(
        "G2",
        format!(
            "{} reads through leaders that had just been stopped, none stale",
            all.iter().map(|stopped| stopped.answered).sum::<usize>()
        ),
    );
    findings.checked("G12", "writes went on while the leader was stopped");
    findings
}

/// What the system says.
fn is_stopped(node: &Node) -> anyhow::Result<bool> {
    let pid = node.pid().context("the node has a process")?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything; the state comes after it.
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().next());
    Ok(state == Some("T"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Verdict;
    use crate::history::{Level, Shown};

    fn read(floor: u64, at: Option<u64>) -> Op {
        let outcome = match at {
            Some(at) => Outcome::Ok(Answer::Status(Shown {
                at,
                ..Shown::of(None, None)
            })),
            None => Outcome::Refused("NO_LEADER".into()),
        };
        Op {
            id: 0,
            client: FIRST_READER,
            started: 0,
            ended: 1,
            floor,
            attempts: 1,
            doubtful: 0,
            action: Action::Status {
                circuit: 0,
                level: Level::Linearizable,
            },
            outcome,
            again: Vec::new(),
        }
    }

    fn stopped(reads: &[Op]) -> Stopped {
        Stopped {
            asked_for: Duration::from_secs(2),
            was_stopped: true,
            replaced: true,
            gap: 1_500_000,
            ..count(&reads.iter().collect::<Vec<_>>())
        }
    }

    #[test]
    fn a_read_without_what_was_acknowledged_is_found() {
        let verdict = |reads: &[Op]| judge(&[stopped(reads)]).verdict();
        assert_eq!(verdict(&[read(5, Some(5)), read(7, None)]), Verdict::Holds);
        assert_eq!(verdict(&[read(5, Some(5)), read(7, Some(6))]), Verdict::Broken);
        assert_eq!(
            verdict(&[read(5, None)]),
            Verdict::Unknown,
            "nothing was answered"
        );
    }

    #[test]
    fn a_stop_that_did_not_happen_or_that_stopped_writes_does_not_pass() {
        let fine = stopped(&[read(5, Some(5))]);
        let with = |change: fn(&mut Stopped)| {
            let mut stopped = fine;
            change(&mut stopped);
            judge(&[stopped]).verdict()
        };
        assert_eq!(with(|_| ()), Verdict::Holds);
        assert_eq!(with(|stopped| stopped.was_stopped = false), Verdict::Unknown);
        assert_eq!(with(|stopped| stopped.replaced = false), Verdict::Unknown);
        assert_eq!(with(|stopped| stopped.gap = 4_000_001), Verdict::Broken);
    }
}
