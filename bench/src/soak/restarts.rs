//! Nodes are restarted in turn: killed with -9 the one time, asked to end the other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use brama_faults::cluster::Cluster;
use parking_lot::Mutex;
use tokio::time::Instant;

/// As often as this, if the soak is long.
const BETWEEN: Duration = Duration::from_secs(150);
/// As often as this, however short it is.
const AT_LEAST: Duration = Duration::from_secs(15);
const DOWN: Duration = Duration::from_secs(1);
/// A node that is asked to end has ended after so long.
const ENDS_WITHIN: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(60);

/// Which life each node is in.
pub(super) struct Lives(Mutex<Vec<Life>>);

/// A process of a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) number: u32,
    pub(super) began: Instant,
}

impl Lives {
    pub(super) fn new(now: Instant) -> Self {
        let first = Life {
            number: 0,
            began: now,
        };
        Self(Mutex::new(vec![first; 3]))
    }

    pub(super) fn of(&self, node: usize) -> Life {
        self.0.lock()[node]
    }

    /// How many ended.
    pub(super) fn count(&self) -> u32 {
        self.0.lock().iter().map(|life| life.number).sum()
    }

    fn next(&self, node: usize) {
        let life = &mut self.0.lock()[node];
        life.number += 1;
        life.began = Instant::now();
    }
}

/// Restarts one node after the other until it is dropped.
///
/// # Errors
/// When a node does not end as it should, or the cluster does not become whole again.
pub(super) async fn run(cluster: Arc<Cluster>, lives: Arc<Lives>, lasts: Duration) -> anyhow::Result<()> {
    let between = (lasts / 8).clamp(AT_LEAST, BETWEEN);
    let begin = Instant::now();
    for turn in 1.. {
        tokio::time::sleep_until(begin + between * turn).await;
        let position = turn as usize % cluster.nodes().len();
        let node = &cluster.nodes()[position];
        if turn % 2 == 0 {
            node.kill().await?;
        } else {
            node.terminate()?;
            let ended = node.ended(ENDS_WITHIN).await?;
            let ended = ended.with_context(|| format!("node {} does not end when asked to", node.spec.id))?;
            ensure!(
                ended.success(),
                "node {} ended with {ended}:\n{}",
                node.spec.id,
                node.log_tail(5)
            );
        }
        tokio::time::sleep(DOWN).await;
        node.start()?;
        lives.next(position);
        cluster.wait_until_ready(PATIENCE).await?;
    }
    Ok(())
}

/// Starts what a restart that was cut off left down, and waits until the cluster is whole.
///
/// # Errors
/// When it does not become whole.
pub(super) async fn start_all(cluster: &Cluster) -> anyhow::Result<()> {
    for node in cluster.nodes() {
        if !node.is_up() {
            node.kill().await?;
        }
        node.start()?;
    }
    cluster.wait_until_ready(PATIENCE).await
}
