//! All nodes die in the same moment, with reports on their way; nothing that was acknowledged may be gone.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::crew::Crew;
use super::stage::Stage;
use super::vigil::Vigil;
use crate::circuits::Circuits;
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::workload::Mix;

const PATIENCE: Duration = Duration::from_secs(30);
const CLIENTS: std::ops::Range<u32> = 1..9;
const CIRCUITS: usize = 20;

/// Kills all nodes so many times while clients report, with batches that they repeat until they are acknowledged.
///
/// # Errors
/// When it could not be done.
pub async fn kill_all(times: u32, seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let circuits = Circuits::random(CIRCUITS, &mut rng);
    let stage = Stage::start(ClusterOptions::default(), circuits).await?;
    let crew = Crew::start(&stage, CLIENTS, Mix::Reports, seed)?;
    let vigil = Vigil::start(&stage);
    let mut in_flight = 0;
    for _ in 0..times {
        let calm = Duration::from_millis(rng.random_range(500..1500));
        tokio::time::sleep(calm).await;
        let killed = stage.clock.now();
        for node in stage.cluster.nodes() {
            node.send_kill()?;
        }
        for node in stage.cluster.nodes() {
            node.kill().await?;
        }
        for node in stage.cluster.nodes() {
            node.start()?;
        }
        stage.cluster.wait_until_ready(PATIENCE).await?;
        let ops = stage.history.ops();
        in_flight += ops
            .iter()
            .filter(|op| op.started < killed && op.ended > killed)
            .count();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    crew.stop().await?;
    vigil.end(&mut findings).await?;
    findings.figure("all nodes killed", format!("{times} times"));
    findings.figure("reports on their way", format!("{in_flight} when the nodes died"));
    if in_flight == 0 {
        findings.untold("no report was on its way when the nodes died");
    }
    findings.checked("G8", "every acknowledged report is there after all nodes died");
    stage.finish(findings).await
}
