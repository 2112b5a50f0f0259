//! Many openings end in the same moment, while reports go on.

use std::collections::BTreeSet;
use std::time::Duration;

use brama_proto::v1;

use super::pulse::Pulse;
use super::stage::Stage;
use crate::check::offset::Offset;
use crate::circuits::{Circuits, Opening, Spec, name, policy_of};
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::history::{Action, Answer, Item, Outcome};
use crate::rpc::{answer, timed};
use crate::time::{Micros, micros, of_timestamp, percentile, show_ms};
use crate::workload::{BATCH_KEY, ITEM_KEY};

const EXPIRY: Duration = Duration::from_secs(5);
const BOUND: Micros = 100_000;
/// How late is given up.
const PATIENCE: Duration = Duration::from_secs(20);
const CALL: Duration = Duration::from_secs(10);

/// Opens so many circuits (at most 1,000, one report) in one log entry, so that they are due in the same microsecond.
///
/// # Errors
/// When it could not be done.
pub async fn many_due(circuits: usize) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    // The first circuit is the pulse's.
    let stage = Stage::start(ClusterOptions::default(), fragile(circuits + 1)).await?;
    let all: Vec<usize> = (0..stage.nodes.len()).collect();
    let pulse = Pulse::start(&stage, all);
    tokio::time::sleep(Duration::from_millis(500)).await;

    let sent = stage.clock.now();
    open_all(&stage, circuits).await?;
    stage
        .wait(EXPIRY + PATIENCE, "all openings end", async |stage: &Stage| {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(stage.ledger.count(v1::EventType::CircuitHalfOpened) >= circuits)
        })
        .await?;
    let ended = stage.clock.now();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let gap = pulse.longest_gap(sent + micros(EXPIRY), ended);
    pulse.stop().await?;

    measure(&stage, sent, circuits, &mut findings);
    findings.figure("longest without a write while they ended", show_ms(gap));
    stage.finish(findings).await
}

fn measure(stage: &Stage, sent: Micros, circuits: usize, findings: &mut Findings) {
    let evidence = stage.evidence();
    let Some(offset) = Offset::of(&evidence) else {
        return findings.untold("no report was acknowledged, so the clocks cannot be compared");
    };
    let of_kind = |kind: v1::EventType| {
        let events = evidence.events.values();
        events.filter(move |seen| seen.event.r#type() == kind)
    };
    let due: BTreeSet<Micros> = of_kind(v1::EventType::CircuitOpened)
        .filter_map(|seen| seen.event.expires_at.as_ref().map(of_timestamp))
        .collect();
    let half: Vec<Micros> = of_kind(v1::EventType::CircuitHalfOpened)
        .map(|seen| seen.arrived)
        .collect();
    let (1, Some(due)) = (due.len(), due.first()) else {
        return findings.untold(format!(
            "the circuits were due at {} different moments",
            due.len()
        ));
    };
    findings.require(half.len() == circuits, "G5", || {
        format!("{} of {circuits} circuits half-opened", half.len())
    });

    let earliest = sent + micros(EXPIRY) - micros(EXPIRY) / 1000;
    let late: Vec<(i64, i64)> = half
        .iter()
        .map(|arrived| offset.lateness(*arrived, *due))
        .collect();
    let tolerance = i64::try_from(micros(EXPIRY) / 1000).unwrap_or(0);
    let is_early = |(arrived, late): &(&Micros, &(i64, i64))| **arrived < earliest || late.1 < -tolerance;
    let early = half.iter().zip(&late).filter(is_early).count();
    findings.require(early == 0, "G4", || {
        format!("{early} circuits half-opened before they could be due")
    });

    let mut at_most: Vec<Micros> = late
        .iter()
        .map(|(_, most)| u64::try_from(*most).unwrap_or(0))
        .collect();
    at_most.sort_unstable();
    let worst_at_least = late.iter().map(|(least, _)| *least).max().unwrap_or(0);
    let worst_at_most = percentile(&at_most, 100);
    findings.figure(
        format!("{} due at once, late by at most", half.len()),
        format!(
            "first {}, p50 {}, worst {} (clocks compared to {})",
            show_ms(percentile(&at_most, 0)),
            show_ms(percentile(&at_most, 50)),
            show_ms(worst_at_most),
            show_ms(offset.width())
        ),
    );
    findings.require(worst_at_least <= BOUND.cast_signed(), "G5", || {
        format!(
            "one half-opened at least {} late, {} are allowed",
            show_ms(worst_at_least.unsigned_abs()),
            show_ms(BOUND)
        )
    });
    if worst_at_most <= BOUND {
        findings.checked("G5", format!("all {circuits} within {} of due", show_ms(BOUND)));
    } else if worst_at_least <= BOUND.cast_signed() {
        findings.untold("the clocks could not be compared well enough to tell whether all were on time");
    }
    findings.checked("G4", "none early");
}

/// One report with one failure of each circuit.
async fn open_all(stage: &Stage, circuits: usize) -> anyhow::Result<()> {
    let batch = "many-1-1".to_owned();
    let items: Vec<Item> = (1..=circuits)
        .map(|circuit| Item {
            circuit,
            outcomes: "F".into(),
            generation: None,
            permit: None,
        })
        .collect();
    let wire = |(position, item): (usize, &Item)| v1::ReportItem {
        name: Some(stage.circuits.get(item.circuit).name.clone()),
        outcomes: vec![v1::Outcome::Failure.into()],
        metadata: [
            (BATCH_KEY.to_owned(), batch.clone()),
            (ITEM_KEY.to_owned(), position.to_string()),
        ]
        .into(),
        ..Default::default()
    };
    let request = v1::ReportRequest {
        session: None,
        items: items.iter().enumerate().map(wire).collect(),
    };
    let action = Action::Report {
        batch,
        session: "many-1".into(),
        items,
    };
    let op = stage.history.begin(1, action);
    let response = answer(CALL, stage.nodes.circuits(0).report(timed(request, CALL))).await?;
    stage.history.end(op, 1, Outcome::Ok(Answer::reported(&response)));
    Ok(())
}

/// Circuits that one failure opens.
fn fragile(count: usize) -> Circuits {
    let opening = Opening::Fixed(micros(EXPIRY) / 1000);
    let spec = |index| Spec {
        name: name(index),
        policy: v1::Policy {
            max_attempts: Some(1),
            ..policy_of(opening)
        },
        opening,
        max_probes: 1,
    };
    Circuits::new((0..count).map(spec).collect())
}
