//! A node is started again while it is alone. What it had shown before it must show again, or nothing.

use std::time::Duration;

use super::acts::{self, Batch};
use super::kill_leader::one_circuit;
use super::stage::Stage;
use crate::cluster::ClusterOptions;
use crate::findings::Findings;

const PATIENCE: Duration = Duration::from_secs(30);
const CALL: Duration = Duration::from_secs(10);
const WRITES: u64 = 30;
/// A node that is alone is asked for so long.
const ASK_FOR: Duration = Duration::from_secs(4);

/// Kills all nodes, and starts one: so many times, each node in turn.
///
/// # Errors
/// When it could not be done.
pub async fn recovery(times: u32) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let stage = Stage::start(ClusterOptions::default(), one_circuit()).await?;
    let nodes = stage.nodes.len();
    let (mut silent, mut answered) = (0, 0);
    for time in 0..u64::from(times) {
        let alone = time as usize % nodes;
        for number in 1..=WRITES {
            let batch = Batch::new(&stage, 1, time * WRITES + number, 0, "S", None);
            batch.report(&stage, alone).await?;
        }
        let newest = acts::status(&stage, alone, 0, CALL).await?;
        for node in stage.cluster.nodes() {
            node.send_kill()?;
        }
        for node in stage.cluster.nodes() {
            node.kill().await?;
        }
        stage.cluster.nodes()[alone].start()?;
        let until = stage.clock.now() + crate::time::micros(ASK_FOR);
        while stage.clock.now() < until {
            match acts::local_status(&stage, alone, 0, Duration::from_secs(1)).await {
                Ok(shown) => {
                    answered += 1;
                    findings.require(shown.at >= newest.at, "G7", || {
                        format!(
                            "node {} had shown revision {}, and after a restart it shows {}",
                            alone + 1,
                            newest.at,
                            shown.at
                        )
                    });
                }
                Err(_) => silent += 1,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for node in stage.cluster.nodes() {
            node.start()?;
        }
        stage.cluster.wait_until_ready(PATIENCE).await?;
        // With the others it has it again.
        let back = acts::local_status(&stage, alone, 0, CALL).await?;
        findings.require(back.at >= newest.at, "G8", || {
            format!(
                "revision {} was shown, and all nodes together have {}",
                newest.at, back.at
            )
        });
    }
    findings.figure(
        "nodes that were alone",
        format!("{times}; {answered} reads answered, {silent} not"),
    );
    findings.checked(
        "G7",
        "a node that was started again shows nothing older than it had",
    );
    stage.finish(findings).await
}
