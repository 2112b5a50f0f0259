//! The leader is told to stop: it hands over, and nobody waits for an election.

use std::time::Duration;

use super::kill_leader::one_circuit;
use super::pulse::Pulse;
use super::stage::Stage;
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::time::{Micros, show_ms};

const PATIENCE: Duration = Duration::from_secs(60);
/// A process that was told to stop is gone within this.
const GONE: Duration = Duration::from_secs(5);
const BOUND: Micros = 1_000_000;

/// Stops the leader of a cluster whose election timeouts are three times as long as writes may stop: so they cannot have waited for one.
///
/// # Errors
/// When it could not be done.
pub async fn sigterm() -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let options = ClusterOptions {
        settings: vec![
            ("raft", "election_timeout_min", "3s".into()),
            ("raft", "election_timeout_max", "4s".into()),
        ],
        ..Default::default()
    };
    let stage = Stage::start(options, one_circuit()).await?;
    let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    let survivors = (0..stage.nodes.len()).filter(|node| *node != leader).collect();
    let pulse = Pulse::start(&stage, survivors);
    tokio::time::sleep(Duration::from_secs(1)).await;

    let told = stage.clock.now();
    let node = &stage.cluster.nodes()[leader];
    node.terminate()?;
    let status = node.ended(2 * GONE).await?;
    let gone = stage.clock.now();
    match status {
        Some(status) => {
            findings.figure("told to stop, gone after", show_ms(gone - told));
            findings.require(status.success(), "G12", || {
                format!("it ended with {status}:\n{}", node.log_tail(10))
            });
            findings.require(gone - told <= crate::time::micros(GONE), "G12", || {
                format!("it was gone only after {}", show_ms(gone - told))
            });
        }
        None => findings.broken("G12", format!("it was still there after {:?}", 2 * GONE)),
    }
    // Long enough that an election would show.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let gap = pulse.longest_gap(told, stage.clock.now());
    pulse.stop().await?;
    findings.figure("longest without a write", show_ms(gap));
    findings.require(gap < BOUND, "G12", || {
        format!(
            "writes stopped for {}, {} are allowed",
            show_ms(gap),
            show_ms(BOUND)
        )
    });
    findings.checked(
        "G12",
        "the leader handed over and ended well; nobody waited for an election",
    );

    // The subscriber of that node needs its node back, to show that it missed nothing.
    node.start()?;
    stage.cluster.wait_until_ready(PATIENCE).await?;
    stage.finish(findings).await
}
