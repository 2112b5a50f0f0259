//! A node is stopped (SIGSTOP) while the others go on, and goes on later without knowing. A read that waits for it then must not
//! show what was true before. A leader that is stopped is not the leader any more; a follower only lags.

use std::time::Duration;

use super::acts::{self, Batch};
use super::kill_leader::one_circuit;
use super::stage::Stage;
use crate::cluster::ClusterOptions;
use crate::findings::Findings;

const PATIENCE: Duration = Duration::from_secs(20);
const CALL: Duration = Duration::from_secs(10);
/// Reads that wait for the node while it is stopped.
const READS: usize = 8;

/// Stops the leader so many times, and then a follower, and asks it while it is.
///
/// # Errors
/// When it could not be done.
pub async fn stale_reads(times: u32) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let stage = Stage::start(ClusterOptions::default(), one_circuit()).await?;
    let (mut leader_reads, mut follower_reads) = (0, 0);
    for time in 1..=u64::from(times) {
        leader_reads += once(&stage, 2 * time - 1, true, &mut findings).await?;
        follower_reads += once(&stage, 2 * time, false, &mut findings).await?;
    }
    findings.figure(
        "reads that waited for a stopped node",
        format!(
            "of {} each, {leader_reads} answered through leaders, {follower_reads} through followers",
            READS * times as usize
        ),
    );
    findings.checked(
        "G2",
        "reads through a node that was away show what was acknowledged meanwhile",
    );
    if leader_reads == 0 || follower_reads == 0 {
        findings.untold("no read was answered");
    }
    stage.finish(findings).await
}

/// Gives how many reads were answered.
async fn once(
    stage: &Stage,
    sequence: u64,
    stops_leader: bool,
    findings: &mut Findings,
) -> anyhow::Result<usize> {
    stage.cluster.wait_until_ready(PATIENCE).await?;
    let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    let nodes = stage.nodes.len();
    let (who, stopped) = if stops_leader {
        ("leader", leader)
    } else {
        ("follower", (leader + 1) % nodes)
    };
    let others: Vec<_> = (0..nodes).filter(|node| *node != stopped).collect();
    // The connection is there before the node stops: what is sent then is read the moment it goes on.
    let before = acts::status(stage, stopped, 0, CALL).await?;
    stage.cluster.nodes()[stopped].pause()?;
    let batch = Batch::new(stage, 1, sequence, 0, "S", None);
    let mut acknowledged = None;
    let mut attempts = 0;
    stage
        .wait(PATIENCE, "a write through the others", async |stage: &Stage| {
            attempts += 1;
            // Nobody leads for a while; it is the same batch each time.
            if let Ok(response) = batch.report(stage, others[attempts % others.len()]).await {
                acknowledged = Some(response.revision);
            }
            Ok(acknowledged.is_some())
        })
        .await?;
    let acknowledged = acknowledged.unwrap_or(0);
    let reads = (0..READS).map(|_| acts::status(stage, stopped, 0, Duration::from_secs(3)));
    let resume = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stage.cluster.nodes()[stopped].resume()
    };
    let (read, resumed) = tokio::join!(futures::future::join_all(reads), resume);
    resumed?;
    let mut answered = 0;
    for shown in read.into_iter().flatten() {
        answered += 1;
        findings.require(shown.at >= acknowledged, "G2", || {
            format!(
                "a {who} that was away showed revision {}, as before it was stopped ({}), but {acknowledged} was acknowledged before it was asked",
                shown.at, before.at
            )
        });
    }
    Ok(answered)
}
