//! Many openings end in the same moment, while reports flood (row 17 of the matrix); and once more, and the leader dies when some of them have ended.
//!
//! It fails when timers are fired in one piece that holds up everything (then writes stop), one by one (then the last ones are late), or are
//! forgotten with the leader that was at it.

use std::collections::HashMap;
use std::time::Duration;

use brama_proto::v1;
use futures::future::try_join_all;

use super::crew::Crew;
use super::hand::Hand;
use super::pulse::Pulse;
use super::stage::Stage;
use super::vigil::Vigil;
use crate::check::Evidence;
use crate::check::offset::Offset;
use crate::circuits::{Circuits, Opening, Spec, name, policy_of};
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::time::{Micros, micros, of_timestamp, percentile, show_ms};
use crate::workload::Mix;

const EXPIRY: Duration = Duration::from_secs(8);
/// How late is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// What one report can open.
const OF_REPORT: usize = 1000;
/// They are opened by several reports, so they are not due in one microsecond.
const ONE_INSTANT: Micros = 1_000_000;
/// The pulse's circuit, and those on which reports flood.
const FLOODED: usize = 20;
const FLOOD: std::ops::Range<u32> = 1..9;
/// Who opens them: the number of the first.
const OPENER: u32 = 3000;
/// With fewer, all have ended before a leader could be killed.
const ENOUGH_TO_DIE_AMONG: usize = 2000;
/// Of each thousand.
const LATE: Micros = 100_000;
const STARVED: Micros = 500_000;
/// Four times the longest election timeout.
const FAILOVER: Micros = 4_000_000;
/// No follower wants an election sooner: what ended so long after a leader's death was ended by the next one.
const ELECTION_MIN: Micros = 400_000;

/// What may be expected of so many openings.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    late: Micros,
    without_a_write: Micros,
}

impl Bounds {
    /// When somebody else has to lead meanwhile.
    fn with_failover(self) -> Self {
        Self {
            late: self.late + FAILOVER,
            without_a_write: FAILOVER,
        }
    }
}

/// How it went.
struct Wave {
    what: &'static str,
    /// Before the reports that opened them.
    sent: Micros,
    /// When the first can have been due, and the last had ended.
    from: Micros,
    until: Micros,
    gap: Micros,
    killed: Option<Micros>,
}

/// Opens so many circuits, so that they are due at once; when there are enough of them, twice, and the leader dies in the second time.
///
/// # Errors
/// When it could not be done.
pub async fn many_due(circuits: usize) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let stage = Stage::start(ClusterOptions::default(), all_circuits(circuits)).await?;
    let vigil = Vigil::start(&stage);
    let all: Vec<usize> = (0..stage.nodes.len()).collect();
    let pulse = Pulse::start(&stage, all);
    let crew = Crew::on_first(FLOODED, &stage, FLOOD, Mix::Reports, 17)?;
    tokio::time::sleep(Duration::from_millis(500)).await;

    let reports = circuits.div_ceil(OF_REPORT);
    let openers: Vec<Hand> = (OPENER..).take(reports).map(|n| Hand::of(&stage, n)).collect();
    let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    let calm = play(&stage, &pulse, &openers, circuits, None).await?;
    let bounds = Bounds {
        late: LATE * reports as Micros,
        without_a_write: STARVED,
    };
    let mut allowed = bounds;
    if stage.cluster.leader(&stage.nodes).await != Some(leader) {
        findings.untold("the machine was so busy that the leader changed by itself");
        allowed = bounds.with_failover();
    }
    findings.merge(measure(&stage.evidence(), &calm, circuits, allowed));
    if circuits >= ENOUGH_TO_DIE_AMONG {
        let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
        pulse.aim(&stage, (0..3).filter(|node| *node != leader).collect());
        let rough = play(&stage, &pulse, &openers, circuits, Some(leader)).await?;
        stage.cluster.nodes()[leader].start()?;
        stage.cluster.wait_until_ready(PATIENCE).await?;
        let evidence = stage.evidence();
        findings.merge(measure(&evidence, &rough, circuits, bounds.with_failover()));
    }
    pulse.stop().await?;
    crew.stop().await?;
    vigil.end(&mut findings).await?;
    stage.finish(findings).await
}

/// Opens all of them, and waits until all have ended. Kills the node at this position when a tenth of them have.
async fn play(
    stage: &Stage,
    pulse: &Pulse,
    openers: &[Hand],
    circuits: usize,
    dies: Option<usize>,
) -> anyhow::Result<Wave> {
    let what = if dies.is_some() { "the leader dies" } else { "calm" };
    let before = stage.ledger.count(v1::EventType::CircuitHalfOpened);
    let ended = |stage: &Stage| stage.ledger.count(v1::EventType::CircuitHalfOpened) - before;
    let sent = stage.clock.now();
    open_all(openers, circuits).await?;
    let mut killed = None;
    if let Some(leader) = dies {
        stage
            .wait(
                EXPIRY + PATIENCE,
                "the first openings end",
                async |stage: &Stage| Ok(ended(stage) >= circuits / 10),
            )
            .await?;
        killed = Some(stage.clock.now());
        stage.cluster.nodes()[leader].kill().await?;
    }
    stage
        .wait(EXPIRY + PATIENCE, "all openings end", async |stage: &Stage| {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(ended(stage) >= circuits)
        })
        .await?;
    let (from, until) = (sent + micros(EXPIRY), stage.clock.now());
    tokio::time::sleep(Duration::from_millis(300)).await;
    Ok(Wave {
        what,
        sent,
        from,
        until,
        gap: pulse.longest_gap(from, until),
        killed,
    })
}

fn measure(evidence: &Evidence, wave: &Wave, circuits: usize, bounds: Bounds) -> Findings {
    let mut findings = Findings::default();
    let what = wave.what;
    let Some(offset) = Offset::of(evidence) else {
        findings.untold("no report was acknowledged, so the clocks cannot be compared");
        return findings;
    };
    let of_kind = |kind: v1::EventType| {
        let events = evidence.events.values();
        events.filter(move |seen| {
            seen.event.r#type() == kind && (wave.sent..=wave.until).contains(&seen.arrived)
        })
    };
    // By name: when it is due.
    let due: HashMap<_, Micros> = of_kind(v1::EventType::CircuitOpened)
        .filter_map(|seen| Some((key(&seen.event)?, of_timestamp(seen.event.expires_at.as_ref()?))))
        .filter(|(name, _)| evidence.circuits.find(name).is_some_and(|index| index >= FLOODED))
        .collect();
    let half: Vec<(Micros, Micros)> = of_kind(v1::EventType::CircuitHalfOpened)
        .filter_map(|seen| Some((seen.arrived, *due.get(&key(&seen.event)?)?)))
        .collect();
    findings.require(half.len() == circuits, "G5", || {
        format!("{what}: {} of {circuits} circuits half-opened", half.len())
    });
    let spread = due.values().max().copied().unwrap_or(0) - due.values().min().copied().unwrap_or(0);
    if spread > ONE_INSTANT {
        findings.untold(format!(
            "{what}: they were due within {}, not at once",
            show_ms(spread)
        ));
    }

    let earliest = wave.from - micros(EXPIRY) / 1000;
    let late: Vec<(i64, i64)> = half
        .iter()
        .map(|(arrived, due)| offset.lateness(*arrived, *due))
        .collect();
    let tolerance = i64::try_from(micros(EXPIRY) / 1000).unwrap_or(0);
    let is_early =
        |((arrived, _), late): &(&(Micros, Micros), &(i64, i64))| *arrived < earliest || late.1 < -tolerance;
    let early = half.iter().zip(&late).filter(is_early).count();
    findings.require(early == 0, "G4", || {
        format!("{what}: {early} circuits half-opened before they could be due")
    });

    let mut at_most: Vec<Micros> = late
        .iter()
        .map(|(_, most)| u64::try_from(*most).unwrap_or(0))
        .collect();
    at_most.sort_unstable();
    let worst_at_least = late.iter().map(|(least, _)| *least).max().unwrap_or(0);
    let worst_at_most = percentile(&at_most, 100);
    findings.figure(
        format!(
            "{what}: {} due within {}, late by at most",
            half.len(),
            show_ms(spread)
        ),
        format!(
            "first {}, p50 {}, worst {} (allowed {}; clocks compared to {})",
            show_ms(percentile(&at_most, 0)),
            show_ms(percentile(&at_most, 50)),
            show_ms(worst_at_most),
            show_ms(bounds.late),
            show_ms(offset.width())
        ),
    );
    findings.require(worst_at_least <= bounds.late.cast_signed(), "G5", || {
        format!(
            "{what}: one half-opened at least {} late, {} are allowed",
            show_ms(worst_at_least.unsigned_abs()),
            show_ms(bounds.late)
        )
    });
    if worst_at_most <= bounds.late {
        findings.checked(
            "G5",
            format!("{what}: all {circuits} within {} of due", show_ms(bounds.late)),
        );
    } else if worst_at_least <= bounds.late.cast_signed() {
        findings.untold(format!(
            "{what}: the clocks could not be compared well enough to tell whether all were on time"
        ));
    }
    findings.checked("G4", format!("{what}: none early"));
    findings.merge(measure_flood(evidence, wave, bounds));
    if let Some(killed) = wave.killed {
        let before = half.iter().filter(|(arrived, _)| *arrived <= killed).count();
        let after = half
            .iter()
            .filter(|(arrived, _)| *arrived > killed + ELECTION_MIN)
            .count();
        findings.figure(
            "the leader died",
            format!("when {before} openings had ended, and the next one ended {after}"),
        );
        if before == 0 || after == 0 {
            findings.untold("the leader did not die midway");
        }
    }
    findings
}

/// Reports must go on meanwhile.
fn measure_flood(evidence: &Evidence, wave: &Wave, bounds: Bounds) -> Findings {
    let mut findings = Findings::default();
    let what = wave.what;
    let reports = evidence
        .ops
        .iter()
        .filter(|op| FLOOD.contains(&op.client) && op.is_ok() && (wave.from..wave.until).contains(&op.ended))
        .count();
    findings.figure(
        format!("{what}: longest without a write while they ended"),
        format!(
            "{} (allowed {}), {reports} reports of the flood",
            show_ms(wave.gap),
            show_ms(bounds.without_a_write)
        ),
    );
    findings.require(wave.gap <= bounds.without_a_write, "G12", || {
        format!(
            "{what}: writes stopped for {} while openings ended",
            show_ms(wave.gap)
        )
    });
    if reports == 0 {
        findings.untold(format!("{what}: no report was acknowledged while openings ended"));
    }
    findings
}

fn key(event: &v1::Event) -> Option<v1::CircuitName> {
    event.name.clone()
}

/// Reports with one failure of each circuit, at the same time.
async fn open_all(openers: &[Hand], circuits: usize) -> anyhow::Result<()> {
    let all: Vec<usize> = (FLOODED..FLOODED + circuits).collect();
    let reports = all.chunks(OF_REPORT).zip(openers).zip(0..);
    try_join_all(reports.map(|((circuits, opener), node)| async move {
        let mut batch = opener.batch(&mut opener.session(), circuits, "F");
        opener.insist(node, &mut batch, PATIENCE).await
    }))
    .await?;
    Ok(())
}

/// Circuits that nothing opens, and behind them circuits that one failure opens.
fn all_circuits(count: usize) -> Circuits {
    let spec = |index: usize| {
        let opening = Opening::Fixed(micros(EXPIRY) / 1000);
        let max_attempts = if index < FLOODED { u32::MAX } else { 1 };
        Spec {
            name: name(index),
            policy: v1::Policy {
                max_attempts: Some(max_attempts),
                ..policy_of(opening)
            },
            opening,
            max_probes: 1,
        }
    };
    Circuits::new((0..FLOODED + count).map(spec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Verdict;
    use crate::history::{Action, Answer, History, Op, Outcome};
    use crate::time::Clock;

    const BOUNDS: Bounds = Bounds {
        late: 1_000_000,
        without_a_write: STARVED,
    };

    fn flood(gap: Micros, reports: &[Micros]) -> Verdict {
        let history = History::new(Clock::start());
        for _ in reports {
            let action = Action::Report {
                batch: "1-1-1".into(),
                session: "1-1".into(),
                items: Vec::new(),
            };
            let op = history.begin(FLOOD.start, action);
            let reported = Answer::Reported {
                revision: 1,
                items: Vec::new(),
            };
            history.end(op, 1, Outcome::Ok(reported));
        }
        let ops = history.ops().into_iter().zip(reports);
        let evidence = Evidence {
            circuits: all_circuits(1).into(),
            ops: ops.map(|(op, ended)| Op { ended: *ended, ..op }).collect(),
            events: Default::default(),
            faults: Vec::new(),
            kinds: Vec::new(),
            spans: Vec::new(),
        };
        let wave = Wave {
            what: "calm",
            sent: 0,
            from: 1000,
            until: 2000,
            gap,
            killed: None,
        };
        measure_flood(&evidence, &wave, BOUNDS).verdict()
    }

    #[test]
    fn starved_reports_are_found_and_none_at_all_show_nothing() {
        assert_eq!(flood(400_000, &[1500]), Verdict::Holds);
        assert_eq!(flood(500_001, &[1500]), Verdict::Broken);
        assert_eq!(flood(400_000, &[500, 2500]), Verdict::Unknown);
    }
}
