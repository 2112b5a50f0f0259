//! Nodes are restarted: killed with -9 the one time, asked to end the other.
//!
//! In the first quarter all of them, in turn, so that leaders end too; afterwards only the last one, and the others grow old. Whether a process
//! loses something shows in a long life, and the two that have one are a leader and a follower.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use brama_faults::cluster::Cluster;
use parking_lot::Mutex;
use tokio::time::Instant;

/// The part of a soak in which all nodes are restarted.
const YOUNG: f64 = 0.25;
/// So often in that part, unless that is too often.
const OF_ALL: u32 = 6;
/// So often over the whole soak, of the last one.
const OF_LAST: u32 = 8;
/// As seldom as this, however long the soak is, and as often, however short.
const BETWEEN: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(150)];
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

/// When, since the beginning, and which node.
fn plan(lasts: Duration, nodes: usize) -> impl Iterator<Item = (Duration, usize)> {
    let [least, most] = BETWEEN;
    let young = lasts.mul_f64(YOUNG);
    let often = (young / OF_ALL).clamp(least, most);
    let seldom = (lasts / OF_LAST).clamp(least, most);
    let all = (1..=OF_ALL)
        .map(move |turn| (often * turn, turn as usize % nodes))
        .take_while(move |(at, _)| *at <= young);
    let last = (1..).map(move |turn| (young + seldom * turn, nodes - 1));
    all.chain(last)
}

/// Restarts nodes until it is dropped.
///
/// # Errors
/// When a node does not end as it should, or the cluster does not become whole again.
pub(super) async fn run(cluster: Arc<Cluster>, lives: Arc<Lives>, lasts: Duration) -> anyhow::Result<()> {
    let begin = Instant::now();
    for (turn, (at, position)) in plan(lasts, cluster.nodes().len()).enumerate() {
        tokio::time::sleep_until(begin + at).await;
        let node = &cluster.nodes()[position];
        if turn % 2 == 1 {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(minutes: f64) -> Vec<(u64, usize)> {
        let lasts = Duration::from_secs_f64(minutes * 60.0);
        let plan = plan(lasts, 3).take_while(|(at, _)| *at < lasts);
        plan.map(|(at, node)| (at.as_secs(), node)).collect()
    }

    #[test]
    fn all_nodes_are_restarted_at_first_and_the_others_grow_old_then() {
        let twenty = planned(20.0);
        assert_eq!(
            twenty,
            [
                (50, 1),
                (100, 2),
                (150, 0),
                (200, 1),
                (250, 2),
                (300, 0),
                (450, 2),
                (600, 2),
                (750, 2),
                (900, 2),
                (1050, 2)
            ]
        );
        assert_eq!(planned(0.7), [(25, 2), (40, 2)]);
    }
}
