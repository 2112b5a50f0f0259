//! The leader dies; how long until the next write is acknowledged?

use std::time::Duration;

use super::pulse::Pulse;
use super::stage::Stage;
use crate::circuits::{Circuits, Opening, Spec, name, policy_of};
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::time::{Micros, percentile, show_ms};

/// The longest election timeout, which is the default one of a node.
const ELECTION_MAX: Micros = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(20);

/// Kills the leader so many times, and measures from just before the signal to the acknowledgement of a write sent after it.
///
/// # Errors
/// When it could not be done.
pub async fn kill_leader(times: u32) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let stage = Stage::start(ClusterOptions::default(), one_circuit()).await?;
    let all: Vec<usize> = (0..stage.nodes.len()).collect();
    let pulse = Pulse::start(&stage, all.clone());
    let mut took = Vec::new();
    for _ in 0..times {
        // A calm second: everybody is there, and writes flow.
        stage.cluster.wait_until_ready(PATIENCE).await?;
        pulse.aim(&stage, all.clone());
        tokio::time::sleep(Duration::from_secs(1)).await;

        let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
        pulse.aim(
            &stage,
            all.iter().copied().filter(|node| *node != leader).collect(),
        );
        let killed = stage.clock.now();
        stage.cluster.nodes()[leader].kill().await?;
        stage
            .wait(PATIENCE, "a write after the leader's death", async |_| {
                Ok(pulse.first_after(killed).is_some())
            })
            .await?;
        took.push(
            pulse
                .first_after(killed)
                .map_or(Micros::MAX, |first| first - killed),
        );
        stage.cluster.nodes()[leader].start()?;
    }
    stage.cluster.wait_until_ready(PATIENCE).await?;
    pulse.stop().await?;

    took.sort_unstable();
    let (median, worst) = (percentile(&took, 50), percentile(&took, 100));
    findings.figure(
        "leader's death to next write",
        format!("median {}, worst {} of {times}", show_ms(median), show_ms(worst)),
    );
    findings.require(median <= 2 * ELECTION_MAX, "G12", || {
        format!(
            "the median {} is over 2 x the longest election timeout",
            show_ms(median)
        )
    });
    findings.require(worst <= 4 * ELECTION_MAX, "G12", || {
        format!(
            "the worst {} is over 4 x the longest election timeout",
            show_ms(worst)
        )
    });
    findings.checked(
        "G12",
        "median within 2 x, worst within 4 x the longest election timeout of 1 s",
    );
    stage.finish(findings).await
}

/// One circuit that nothing opens.
pub(super) fn one_circuit() -> Circuits {
    let opening = Opening::Fixed(60_000);
    Circuits::new(vec![Spec {
        name: name(0),
        policy: policy_of(opening),
        opening,
        max_probes: 1,
    }])
}
