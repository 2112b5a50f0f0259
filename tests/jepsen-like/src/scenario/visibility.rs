//! The deciding failure is acknowledged on one node; when do the others show that the circuit is open?

use std::time::Duration;

use brama_proto::v1;
use tokio::time::Instant;

use super::stage::Stage;
use crate::circuits::{Circuits, Opening, Spec, name, policy_of};
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::history::{Action, Answer, Item, Outcome};
use crate::rpc::{answer, timed};
use crate::time::{Micros, micros, percentile, show_ms};
use crate::workload::{BATCH_KEY, ITEM_KEY};

const CALL: Duration = Duration::from_secs(5);
/// Local answers follow within this, p99.
const LOCAL_BOUND: Micros = 50_000;

/// Opens so many circuits, one after the other, each through another node.
///
/// # Errors
/// When it could not be done.
pub async fn visibility(times: usize) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let stage = Stage::start(ClusterOptions::default(), fragile(times)).await?;
    let mut local = Vec::new();
    for circuit in 0..times {
        let node = |offset: usize| (circuit + offset) % stage.nodes.len();
        fail(&stage, circuit, node(0)).await?;
        let acknowledged = Instant::now();
        let (at_once, later) = tokio::join!(
            status(&stage, circuit, node(1), None),
            local_until_open(&stage, circuit, node(2))
        );
        let shown = at_once?;
        findings.require(shown == v1::State::Open, "G2", || {
            format!(
                "circuit {circuit} was {} on node {} after its opening was acknowledged",
                shown.as_str_name(),
                node(1) + 1
            )
        });
        match later? {
            Some(seen) => local.push(micros(seen.saturating_duration_since(acknowledged))),
            // Once is too often, and no percentile would show it.
            None => findings.broken(
                "G2",
                format!("circuit {circuit} never opened on node {}", node(2) + 1),
            ),
        }
    }
    local.sort_unstable();
    findings.figure(
        "local answer elsewhere after",
        format!(
            "p50 {}, p99 {}, worst {}",
            show_ms(percentile(&local, 50)),
            show_ms(percentile(&local, 99)),
            show_ms(percentile(&local, 100))
        ),
    );
    findings.require(percentile(&local, 99) <= LOCAL_BOUND, "G2", || {
        format!("p99 of local answers is over {}", show_ms(LOCAL_BOUND))
    });
    findings.checked(
        "G2",
        format!("{times} openings seen at once by a linearizable read elsewhere"),
    );
    stage.finish(findings).await
}

async fn fail(stage: &Stage, circuit: usize, node: usize) -> anyhow::Result<()> {
    let batch = format!("seen-1-{circuit}");
    let metadata = [
        (BATCH_KEY.to_owned(), batch.clone()),
        (ITEM_KEY.to_owned(), "0".to_owned()),
    ];
    let request = v1::FailureRequest {
        name: Some(stage.circuits.get(circuit).name.clone()),
        metadata: metadata.into(),
        ..Default::default()
    };
    let item = Item {
        circuit,
        outcomes: "F".into(),
        generation: None,
        permit: None,
    };
    let action = Action::Report {
        session: batch.clone(),
        batch,
        items: vec![item],
    };
    let op = stage.history.begin(1, action);
    let response = answer(CALL, stage.nodes.circuits(node).failure(timed(request, CALL))).await?;
    stage.history.end(op, 1, Outcome::Ok(Answer::outcome(&response)));
    Ok(())
}

async fn status(
    stage: &Stage,
    circuit: usize,
    node: usize,
    consistency: Option<v1::consistency::Level>,
) -> anyhow::Result<v1::State> {
    let request = v1::StatusRequest {
        name: Some(stage.circuits.get(circuit).name.clone()),
        consistency: consistency.map(|level| v1::Consistency { level: Some(level) }),
    };
    let response = answer(CALL, stage.nodes.circuits(node).status(timed(request, CALL))).await?;
    Ok(response.circuit.unwrap_or_default().state())
}

/// The moment at which a local answer said open; `None`: none did.
async fn local_until_open(stage: &Stage, circuit: usize, node: usize) -> anyhow::Result<Option<Instant>> {
    let deadline = Instant::now() + CALL;
    loop {
        let level = v1::consistency::Level::Local(true);
        let state = status(stage, circuit, node, Some(level)).await?;
        if state == v1::State::Open {
            return Ok(Some(Instant::now()));
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Circuits that one failure opens for longer than the scenario lasts.
fn fragile(count: usize) -> Circuits {
    let opening = Opening::Fixed(600_000);
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
