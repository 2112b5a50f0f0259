//! The leader dies just before openings end: whoever takes over ends them, each once, none early, and none is forgotten.

use std::time::Duration;

use brama_proto::v1;

use super::acts;
use super::stage::Stage;
use crate::circuits::{Circuits, Opening, Spec, name, policy_of};
use crate::cluster::ClusterOptions;
use crate::findings::{Findings, Verdict};
use crate::time::{Micros, micros, percentile, show_ms};

const EXPIRY: Duration = Duration::from_millis(2000);
/// So long before the first opening ends the leader dies.
const BEFORE: Duration = Duration::from_millis(150);
const OPENINGS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(20);
/// Four times the longest election timeout, and some for a busy machine.
const LATEST: Duration = Duration::from_secs(6);

/// So many times openings end while nobody leads.
///
/// # Errors
/// When it could not be done.
pub async fn takeover(times: u32) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let stage = Stage::start(ClusterOptions::default(), circuits(times as usize * OPENINGS)).await?;
    let mut late = Vec::new();
    let mut ended_before = 0;
    for time in 0..times as usize {
        let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
        let circuits = time * OPENINGS..(time + 1) * OPENINGS;
        let opened = stage.clock.now();
        for circuit in circuits.clone() {
            acts::open(&stage, leader, circuit, micros(EXPIRY) / 1000).await?;
        }
        let wait = micros(EXPIRY - BEFORE).saturating_sub(stage.clock.now() - opened);
        tokio::time::sleep(Duration::from_micros(wait)).await;
        stage.cluster.nodes()[leader].kill().await?;
        let died = stage.clock.now();
        let ends = |circuit: usize| {
            let name = &stage.circuits.get(circuit).name;
            stage.ledger.find(|event| {
                event.r#type() == v1::EventType::CircuitHalfOpened && event.name.as_ref() == Some(name)
            })
        };
        let all = stage.wait(EXPIRY + LATEST, "all openings end", async |_: &Stage| {
            Ok(circuits.clone().all(|circuit| ends(circuit).is_some()))
        });
        if all.await.is_err() {
            let missing = circuits
                .clone()
                .filter(|circuit| ends(*circuit).is_none())
                .count();
            findings.broken(
                "G5",
                format!("{missing} of {OPENINGS} openings did not end in {LATEST:?} after they should have, though a new leader could be elected"),
            );
        }
        for end in circuits.clone().filter_map(ends) {
            let lasted = end.arrived - opened;
            findings.require(lasted >= micros(EXPIRY) - micros(EXPIRY) / 1000, "G4", || {
                format!("an opening of {EXPIRY:?} ended after {}", show_ms(lasted))
            });
            ended_before += usize::from(end.arrived < died);
            late.push(lasted.saturating_sub(micros(EXPIRY)));
        }
        stage.cluster.nodes()[leader].start()?;
        stage.cluster.wait_until_ready(PATIENCE).await?;
        if findings.verdict() == Verdict::Broken {
            return Ok(findings);
        }
    }
    late.sort_unstable();
    let worst: Micros = percentile(&late, 100);
    findings.figure(
        "late across a leader's death",
        format!("at most {}", show_ms(worst)),
    );
    if ended_before > 0 {
        findings.untold(format!(
            "{ended_before} openings ended before the leader was dead"
        ));
    }
    findings.checked(
        "G4",
        format!(
            "{} openings ended across a leader's death, none early",
            late.len()
        ),
    );
    findings.checked("G5", "each ended once another node led");
    stage.finish(findings).await
}

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
