//! A subscriber with a cursor from ahead of the node that it asks.
//!
//! It fails when the node refuses the cursor, delivers anything before it has caught up, or leaves a gap after it.

use std::time::Duration;

use brama_proto::v1::subscribe_response::Message;
use tokio::time::Instant;
use tonic::Code;

use super::{SILENCE, newest_cursor, subscribe};
use crate::cluster::{ClusterOptions, status};
use crate::findings::Findings;
use crate::node::Node;
use crate::rpc;
use crate::scenario::crew::Crew;
use crate::scenario::kill_leader::one_circuit;
use crate::scenario::pulse::{CLIENT as PULSE, Pulse};
use crate::scenario::stage::Stage;
use crate::scenario::vigil::Vigil;
use crate::workload::Mix;

const PATIENCE: Duration = Duration::from_secs(30);
/// The others are stopped for so long, and the node cannot catch up.
const HOLD: Duration = Duration::from_secs(3);
/// Reports of up to 870 KiB that it must have missed: more than can wait in its sockets, where it would find them.
const MISSED: usize = 24;
/// Clients for that, of each time.
const CLIENTS: u32 = 2;
/// Of those that come after the cursor, so many are looked at.
const READ: u64 = 100;

/// What became of the node while the others went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    Stopped,
    Restarted,
}

/// What a subscriber saw.
#[derive(Clone, Debug)]
struct Told {
    away: Away,
    /// The revision of its cursor, and of the newest event that the node knew when it was asked.
    cursor: u64,
    known: Option<u64>,
    /// Times it was told to wait, or that there is nobody yet.
    waits: u32,
    /// What else it was told.
    errors: Vec<String>,
    /// Events that came while the node could not know them.
    early: usize,
    /// Revisions after that.
    events: Vec<u64>,
}

pub(super) async fn ahead() -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let stage = Stage::start(ClusterOptions::default(), one_circuit()).await?;
    let vigil = Vigil::start(&stage);
    let pulse = Pulse::start(&stage, vec![0, 1, 2]);
    let mut all = Vec::new();
    for (number, away) in (0..).zip([Away::Stopped, Away::Restarted, Away::Stopped, Away::Restarted]) {
        stage.cluster.wait_until_ready(PATIENCE).await?;
        pulse.aim(&stage, vec![0, 1, 2]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        all.push(one(&stage, &pulse, away, number).await?);
    }
    stage.cluster.wait_until_ready(PATIENCE).await?;
    pulse.stop().await?;
    vigil.end(&mut findings).await?;
    for told in &all {
        findings.figure(
            format!("cursor ahead of a node that was {:?}", told.away).to_lowercase(),
            format!(
                "at {}, the node at {:?}; {} events too early and {} errors (allowed 0), told to wait {} times, then {} in order",
                told.cursor,
                told.known.unwrap_or(0),
                told.early,
                told.errors.len(),
                told.waits,
                told.events.len()
            ),
        );
    }
    findings.merge(judge(&all));
    stage.finish(findings).await
}

async fn one(stage: &Stage, pulse: &Pulse, away: Away, number: u32) -> anyhow::Result<Told> {
    let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    let (behind, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let node = |position: usize| -> &Node { &stage.cluster.nodes()[position] };
    pulse.aim(stage, vec![leader, other]);
    match away {
        Away::Stopped => node(behind).pause()?,
        Away::Restarted => node(behind).kill().await?,
    }
    let reported = |stage: &Stage| {
        let ops = stage.history.ops();
        ops.iter().filter(|op| op.is_ok() && op.client < PULSE).count()
    };
    let before = reported(stage);
    let clients = 1 + number * CLIENTS..1 + (number + 1) * CLIENTS;
    let crew = Crew::start(stage, clients, Mix::LongReports(1000), number.into())?;
    stage
        .wait(PATIENCE, "the others go on", async |stage: &Stage| {
            Ok(reported(stage) >= before + MISSED)
        })
        .await?;
    crew.stop().await?;
    let (cursor, revision) = newest_cursor(&stage.nodes, leader).await?;

    // Nobody is left from whom it could learn what it missed.
    node(leader).pause()?;
    node(other).pause()?;
    match away {
        Away::Stopped => node(behind).resume()?,
        Away::Restarted => node(behind).start()?,
    }
    let mut told = Told {
        away,
        cursor: revision,
        known: None,
        waits: 0,
        errors: Vec::new(),
        early: 0,
        events: Vec::new(),
    };
    let nodes = stage.cluster.connect()?;
    let holding = Instant::now() + HOLD;
    let reading = read(&nodes, behind, cursor, holding, &mut told);
    let mending = async {
        tokio::time::sleep_until(holding).await;
        let known = status(&stage.nodes, behind)
            .await
            .and_then(|status| status.header);
        node(leader).resume()?;
        node(other).resume()?;
        anyhow::Ok(known.map(|header| header.revision))
    };
    let ((), known) = tokio::join!(reading, mending);
    told.known = known?;
    Ok(told)
}

/// Reads after the cursor until it has seen enough, asking again when it is told to wait.
async fn read(nodes: &rpc::Nodes, node: usize, cursor: String, holding: Instant, told: &mut Told) {
    let mut cursor = cursor;
    let deadline = holding + PATIENCE;
    while Instant::now() < deadline && told.errors.is_empty() {
        let status = match subscribe(nodes, node, &cursor).await {
            Ok(mut stream) => loop {
                match tokio::time::timeout(SILENCE, stream.message()).await {
                    Ok(Ok(Some(response))) => {
                        cursor = response.cursor;
                        if let Some(Message::Event(event)) = response.message {
                            if Instant::now() < holding {
                                told.early += 1;
                            }
                            told.events.push(event.revision);
                        }
                        if told.events.len() as u64 >= READ {
                            return;
                        }
                    }
                    Ok(Ok(None)) => break tonic::Status::internal("the stream ended without a word"),
                    Ok(Err(status)) => break status,
                    Err(_) => break tonic::Status::internal("nothing came, not even progress"),
                }
            },
            Err(status) => status,
        };
        // A node that does not listen yet, or has not recovered, may say so.
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => told.waits += 1,
            _ => told.errors.push(format!("{status:?}")),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn judge(all: &[Told]) -> Findings {
    let mut findings = Findings::default();
    for told in all {
        for error in &told.errors {
            findings.broken("G7", format!("a cursor from ahead was refused: {error}"));
        }
        findings.require(told.early == 0, "G7", || {
            format!("{} events came before the node could know them", told.early)
        });
        let expected = told.cursor + 1..=told.cursor + READ;
        findings.require(told.events.iter().copied().eq(expected), "G7", || {
            format!("after revision {} came {:?}", told.cursor, told.events)
        });
        // Stopped, it had answered all along: then it has no reason to send anybody away.
        findings.require(told.away != Away::Stopped || told.waits == 0, "G7", || {
            format!(
                "a node that was stopped sent a subscriber away {} times",
                told.waits
            )
        });
        if told.known.is_none_or(|known| known >= told.cursor) {
            findings.untold(format!(
                "the node was not behind: it was at {:?}, the cursor at {}",
                told.known, told.cursor
            ));
        }
    }
    findings.checked(
        "G7",
        format!(
            "{} subscribers with a cursor from ahead waited, and then missed nothing",
            all.len()
        ),
    );
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Verdict;

    fn verdict(change: impl Fn(&mut Told)) -> Verdict {
        let mut told = Told {
            away: Away::Stopped,
            cursor: 100,
            known: Some(40),
            waits: 0,
            errors: Vec::new(),
            early: 0,
            events: (101..=200).collect(),
        };
        change(&mut told);
        judge(&[told]).verdict()
    }

    #[test]
    fn an_error_a_gap_a_duplicate_and_an_early_event_are_found() {
        assert_eq!(verdict(|_| ()), Verdict::Holds);
        assert_eq!(
            verdict(|told| told.errors.push("OutOfRange".into())),
            Verdict::Broken
        );
        assert_eq!(verdict(|told| told.events[3] += 1), Verdict::Broken);
        assert_eq!(verdict(|told| told.events.insert(0, 100)), Verdict::Broken);
        assert_eq!(verdict(|told| told.events.truncate(99)), Verdict::Broken);
        assert_eq!(verdict(|told| told.early = 1), Verdict::Broken);
        assert_eq!(verdict(|told| told.waits = 1), Verdict::Broken);
    }

    #[test]
    fn a_node_that_was_not_behind_shows_nothing() {
        assert_eq!(verdict(|told| told.known = Some(100)), Verdict::Unknown);
        assert_eq!(verdict(|told| told.known = None), Verdict::Unknown);
    }
}
