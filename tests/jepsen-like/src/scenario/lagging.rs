//! A follower was away until the log that it misses is gone: it is sent a snapshot, and must have everything then. It shows that
//! by leading, and by telling all events from the oldest on.

use std::time::Duration;

use super::acts::{self, Batch};
use super::crew::Crew;
use super::stage::Stage;
use crate::circuits::Circuits;
use crate::cluster::{ClusterOptions, status};
use crate::findings::{Findings, Verdict};
use crate::monitor::Monitor;
use crate::node::Node;
use crate::workload::Mix;
use rand::SeedableRng;
use rand::rngs::StdRng;

const PATIENCE: Duration = Duration::from_secs(30);
/// A node drains for this long, at most, before it ends.
const GOES_WITHIN: Duration = Duration::from_secs(15);
const CLIENTS: u32 = 4;
const CIRCUITS: usize = 10;
const SESSION: u8 = 1;
/// What a node says when the state is the snapshot's.
const INSTALLED: &str = "installed a snapshot";

/// A follower is dead for so long that it needs a snapshot; then it leads, and batches from before are sent again. So many times, each with
/// another node.
///
/// # Errors
/// When it could not be done.
pub async fn lagging(times: u32, seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let options = ClusterOptions {
        settings: vec![
            // What is kept must be longer than what comes while a snapshot is sent, or a node that lags never gets there.
            ("raft", "snapshot_every", 60.into()),
            ("raft", "keep_entries", 150.into()),
            ("raft", "compare_interval", "1s".into()),
        ],
        ..Default::default()
    };
    let stage = Stage::start(options, Circuits::random(CIRCUITS, &mut rng)).await?;
    let crew = Crew::start(&stage, 1..CLIENTS + 1, Mix::Reports, seed)?;
    let monitor = Monitor::default();
    for time in 0..times {
        if let Err(error) = once(&stage, u64::from(time) + 1, &monitor, &mut findings).await {
            let Some(node) = who_went(&stage).await else {
                return Err(error);
            };
            // A node that finds out that its state is not the cluster's goes.
            findings.broken(
                "G1",
                format!("node {} ended by itself: {}", node.spec.id, node.log_tail(1)),
            );
        }
        if findings.verdict() == Verdict::Broken {
            // Nodes that differ end by themselves: there is nothing to wait for.
            return Ok(findings);
        }
    }
    crew.stop().await?;
    let observed = monitor.observed();
    findings.merge(observed.findings);
    findings.figure("followers that were sent a snapshot", times.to_string());
    findings.checked(
        "G3",
        "batches from before a snapshot, sent again through a leader that was sent it",
    );
    findings.checked(
        "G1",
        format!("equal states at {} log positions", observed.compared),
    );
    stage.finish(findings).await
}

async fn once(
    stage: &Stage,
    sequence: u64,
    monitor: &Monitor,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    let behind = (leader + 1) % stage.nodes.len();
    let node = &stage.cluster.nodes()[behind];
    let old = Batch::new(stage, SESSION, sequence, 0, "S", None);
    let first = old.report(stage, leader).await?;

    let last = status(&stage.nodes, behind)
        .await
        .map_or(0, |status| status.last_log_index);
    node.kill().await?;
    stage
        .wait(
            PATIENCE,
            "the log that it misses is gone",
            async |stage: &Stage| {
                let purged = status(&stage.nodes, leader)
                    .await
                    .map_or(0, |status| status.purged_index);
                // What was on its way to it when it died counts, too.
                Ok(purged > last + 50)
            },
        )
        .await?;
    let installed = installs(stage, behind);
    node.start()?;
    stage.cluster.wait_until_ready(PATIENCE).await?;
    if installs(stage, behind) == installed {
        findings.untold(format!("node {} was not sent a snapshot", node.spec.id));
    }

    // What it has is what the others have.
    findings.merge_failures(stage.reread([behind].into_iter()).await);
    acts::lead(stage, behind).await?;
    let again = old.again(stage, leader).await;
    match again {
        Ok(again) => {
            let same = again.revision == first.revision && again.items == first.items;
            findings.require(same, "G3", || {
                format!(
                    "batch {sequence} from before the snapshot was answered with revision {} first, and with {} when it was sent again",
                    first.revision, again.revision
                )
            });
        }
        Err(failure) => findings.broken(
            "G3",
            format!("batch {sequence} from before the snapshot was acknowledged, and now: {failure}"),
        ),
    }
    for status in stage.cluster.statuses(&stage.nodes).await.iter().flatten() {
        monitor.hear(status);
    }
    Ok(())
}

/// A node that ended by itself, or is about to: it answers nobody a while before it is gone.
async fn who_went(stage: &Stage) -> Option<&Node> {
    let gone = async |stage: &Stage| Ok(find_gone(stage).is_some());
    stage.wait(GOES_WITHIN, "a node ended", gone).await.ok()?;
    find_gone(stage)
}

fn find_gone(stage: &Stage) -> Option<&Node> {
    let mut nodes = stage.cluster.nodes().iter();
    nodes.find(|node| matches!(node.exit_status(), Ok(Some(_))))
}

/// How often the node at this position has installed one, in all its lives.
fn installs(stage: &Stage, position: usize) -> usize {
    let log = std::fs::read(stage.cluster.nodes()[position].log_path()).unwrap_or_default();
    String::from_utf8_lossy(&log).matches(INSTALLED).count()
}
