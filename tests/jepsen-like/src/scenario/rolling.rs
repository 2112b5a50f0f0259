//! All nodes are told to stop and started again, one after the other, under load (row 23 of the matrix, with the one version that there is): the leader
//! first in one round, last in the next. Writes go on, and streams resume.
//!
//! It fails when a node does not hand over (then writes wait for an election), when one does not end or come back, and when a client or a
//! subscriber loses anything by it.

use std::time::Duration;

use super::crew::Crew;
use super::pulse::Pulse;
use super::stage::Stage;
use super::vigil::Vigil;
use crate::circuits::Circuits;
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::time::{Micros, micros, percentile, show_ms};
use crate::workload::Mix;
use rand::SeedableRng;
use rand::rngs::StdRng;

const PATIENCE: Duration = Duration::from_secs(30);
const CLIENTS: std::ops::Range<u32> = 1..5;
const CIRCUITS: usize = 16;
/// What a node has to stop in.
const GONE: Duration = Duration::from_secs(10);
/// A planned change of the leader needs no election, so writes wait for less than the shortest election timeout of this cluster.
const WRITES_STOP: Micros = 1_000_000;

/// Which node comes when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    LeaderFirst,
    LeaderLast,
}

/// Restarts all nodes so many times, in both orders in turn.
///
/// # Errors
/// When it could not be done.
pub async fn rolling(rounds: u32, seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let options = ClusterOptions {
        settings: vec![
            ("raft", "election_timeout_min", "2s".into()),
            ("raft", "election_timeout_max", "3s".into()),
        ],
        ..Default::default()
    };
    let circuits = Circuits::random(CIRCUITS, &mut StdRng::seed_from_u64(seed));
    let stage = Stage::start(options, circuits).await?;
    let vigil = Vigil::start(&stage);
    let crew = Crew::start(&stage, CLIENTS, Mix::Everything, seed)?;
    let pulse = Pulse::start(&stage, vec![0, 1, 2]);
    tokio::time::sleep(Duration::from_secs(2)).await;

    let (mut gaps, mut stops, mut handed_over) = (Vec::new(), Vec::new(), 0);
    for round in 0..rounds {
        let order = if round % 2 == 0 {
            Order::LeaderFirst
        } else {
            Order::LeaderLast
        };
        let mut waiting = vec![0, 1, 2];
        while !waiting.is_empty() {
            let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
            let next = next(&waiting, leader, order);
            waiting.retain(|node| *node != next);
            handed_over += u32::from(next == leader);

            let from = stage.clock.now();
            pulse.aim(&stage, (0..3).filter(|node| *node != next).collect());
            stops.push(restart(&stage, next, &mut findings).await?);
            stage.cluster.wait_until_ready(PATIENCE).await?;
            pulse.aim(&stage, vec![0, 1, 2]);
            tokio::time::sleep(Duration::from_secs(1)).await;
            gaps.push(pulse.longest_gap(from, stage.clock.now()));
        }
    }
    let held_by = |stage: &Stage| {
        stage
            .ledger
            .subscribers()
            .values()
            .filter(|one| one.reconnects > 0)
            .count()
    };
    let resumed = held_by(&stage);
    pulse.stop().await?;
    crew.stop().await?;
    let observed = vigil.end(&mut findings).await?;

    gaps.sort_unstable();
    stops.sort_unstable();
    findings.figure(
        "nodes restarted",
        format!(
            "{}, {handed_over} of them as the leader; {} terms",
            gaps.len(),
            observed.leaders
        ),
    );
    findings.figure(
        "told to stop, gone after",
        format!(
            "median {}, worst {} (allowed {})",
            show_ms(percentile(&stops, 50)),
            show_ms(percentile(&stops, 100)),
            show_ms(micros(GONE))
        ),
    );
    findings.figure(
        "longest without a write, by restart",
        format!(
            "median {}, worst {} (allowed {})",
            show_ms(percentile(&gaps, 50)),
            show_ms(percentile(&gaps, 100)),
            show_ms(WRITES_STOP)
        ),
    );
    findings.figure("subscribers that had to resume", resumed.to_string());
    findings.merge(judge(&gaps, handed_over, resumed));
    stage.finish_with_all_checks(findings).await
}

/// The node that is restarted next, of those that wait.
fn next(waiting: &[usize], leader: usize, order: Order) -> usize {
    let others = || waiting.iter().copied().find(|node| *node != leader);
    let chosen = match order {
        Order::LeaderFirst => waiting
            .iter()
            .copied()
            .find(|node| *node == leader)
            .or_else(others),
        Order::LeaderLast => others(),
    };
    chosen.unwrap_or(leader)
}

/// Returns how long it took to stop.
async fn restart(stage: &Stage, position: usize, findings: &mut Findings) -> anyhow::Result<Micros> {
    let node = &stage.cluster.nodes()[position];
    let told = stage.clock.now();
    node.terminate()?;
    match node.ended(2 * GONE).await? {
        Some(status) => findings.require(status.success(), "stop", || {
            format!(
                "node {} ended with {status}:\n{}",
                node.spec.id,
                node.log_tail(10)
            )
        }),
        None => {
            findings.broken(
                "stop",
                format!("node {} was still there after {:?}", node.spec.id, 2 * GONE),
            );
            node.kill().await?;
        }
    }
    let took = stage.clock.now() - told;
    findings.require(took <= micros(GONE), "stop", || {
        format!("node {} was gone only after {}", node.spec.id, show_ms(took))
    });
    node.start()?;
    Ok(took)
}

/// By restart: the longest time without a write. And how many of those nodes led, and how many subscribers had to go on elsewhere.
fn judge(gaps: &[Micros], handed_over: u32, resumed: usize) -> Findings {
    let mut findings = Findings::default();
    for gap in gaps.iter().filter(|gap| **gap > WRITES_STOP) {
        findings.broken(
            "G12",
            format!("writes stopped for {} while a node was restarted", show_ms(*gap)),
        );
    }
    if handed_over == 0 {
        findings.untold("no node that was restarted led");
    }
    if resumed < 3 {
        findings.untold(format!("only {resumed} of 3 subscribers had to resume"));
    }
    findings.checked("G12", format!("{} restarts, and writes went on", gaps.len()));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Verdict;

    #[test]
    fn the_leader_is_first_or_last() {
        assert_eq!(next(&[0, 1, 2], 1, Order::LeaderFirst), 1);
        assert_eq!(next(&[0, 2], 1, Order::LeaderFirst), 0, "it had its turn");
        assert_eq!(next(&[0, 1, 2], 0, Order::LeaderLast), 1);
        assert_eq!(next(&[0], 0, Order::LeaderLast), 0);
    }

    #[test]
    fn a_wait_for_an_election_is_found_and_a_run_without_a_leader_shows_nothing() {
        assert_eq!(judge(&[20_000, 900_000], 1, 3).verdict(), Verdict::Holds);
        assert_eq!(judge(&[20_000, 2_100_000], 1, 3).verdict(), Verdict::Broken);
        assert_eq!(judge(&[20_000], 0, 3).verdict(), Verdict::Unknown);
        assert_eq!(judge(&[20_000], 1, 2).verdict(), Verdict::Unknown);
    }
}
