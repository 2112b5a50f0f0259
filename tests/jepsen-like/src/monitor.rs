//! Asks every node for its status all the time: equal log positions must have equal states, a term has one leader, no vote on disk goes back, and a
//! process must not end by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use brama_proto::v1;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::findings::Findings;
use crate::rpc::Nodes;
use crate::votes::Votes;

const EVERY: Duration = Duration::from_millis(50);

/// What the nodes said of themselves in the course of a run.
#[derive(Debug, Default)]
pub struct Monitor {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By applied index: the hash, and who said so.
    hashes: BTreeMap<u64, (String, BTreeSet<u64>)>,
    /// By term: who led.
    leaders: BTreeMap<u64, u64>,
    /// Nodes that ended by themselves.
    ended: BTreeSet<u64>,
    votes: Votes,
    /// The highest position up to which any node has dropped its log, and of any snapshot.
    purged: u64,
    snapshot: u64,
    findings: Findings,
}

/// What a run needs to know of it in the end.
#[derive(Debug)]
pub struct Observed {
    /// What was wrong.
    pub findings: Findings,
    /// Terms in which somebody led.
    pub leaders: usize,
    /// The newest term in which a node has voted.
    pub newest_term: u64,
    /// Positions at which at least two nodes said equal hashes.
    pub compared: usize,
    /// The highest position up to which a node had dropped its log.
    pub purged: u64,
    /// The highest position of a snapshot.
    pub snapshot: u64,
}

impl Monitor {
    /// Asks until `stop`.
    pub async fn run(self: Arc<Self>, cluster: Arc<Cluster>, nodes: Nodes, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                for status in cluster.statuses(&nodes).await.into_iter().flatten() {
                    self.hear(&status);
                }
                self.look(&cluster);
                tokio::time::sleep(EVERY).await;
            }
        })
        .await;
    }

    /// Takes one status into account.
    pub fn hear(&self, status: &v1::ClusterStatusResponse) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let id = status.header.as_ref().map_or(0, |header| header.node_id);
        inner.votes.hear(status);
        inner.purged = inner.purged.max(status.purged_index);
        inner.snapshot = inner.snapshot.max(status.snapshot_index);
        if status.role() == v1::Role::Leader {
            let leader = *inner.leaders.entry(status.term).or_insert(id);
            inner.findings.require(leader == id, "G2", || {
                format!("nodes {leader} and {id} both lead in term {}", status.term)
            });
        }
        let (hash, said_by) = inner
            .hashes
            .entry(status.applied_index)
            .or_insert_with(|| (status.state_hash.clone(), BTreeSet::new()));
        if *hash == status.state_hash {
            said_by.insert(id);
        } else {
            let what = format!(
                "at log index {} node {id} has state {}, but {said_by:?} had {hash}",
                status.applied_index, status.state_hash
            );
            inner.findings.broken("G1", what);
        }
    }

    fn look(&self, cluster: &Cluster) {
        for node in cluster.nodes() {
            let Ok(Some(status)) = node.exit_status() else {
                continue;
            };
            let mut inner = self.inner.lock();
            if inner.ended.insert(node.spec.id) {
                let what = format!(
                    "node {} ended by itself ({status}):\n{}",
                    node.spec.id,
                    node.log_tail(5)
                );
                inner.findings.broken("G10", what);
            }
        }
    }

    /// How many wrong things there are so far.
    pub fn problems(&self) -> usize {
        self.inner.lock().findings.problems()
    }

    /// The sum of it.
    pub fn observed(&self) -> Observed {
        let mut inner = self.inner.lock();
        let (votes, newest_term) = inner.votes.take();
        let mut findings = std::mem::take(&mut inner.findings);
        findings.merge(votes);
        Observed {
            findings,
            leaders: inner.leaders.len(),
            newest_term,
            compared: inner.hashes.values().filter(|(_, by)| by.len() > 1).count(),
            purged: inner.purged,
            snapshot: inner.snapshot,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(node_id: u64, applied_index: u64, hash: &str) -> v1::ClusterStatusResponse {
        v1::ClusterStatusResponse {
            header: Some(v1::ResponseHeader {
                node_id,
                ..Default::default()
            }),
            applied_index,
            state_hash: hash.into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_different_hash_at_the_same_index_is_found_also_later() {
        let monitor = Monitor::default();
        monitor.hear(&status(1, 5, "aa"));
        monitor.hear(&status(2, 5, "aa"));
        monitor.hear(&status(1, 6, "bb"));
        monitor.hear(&status(3, 6, "cc"));
        let observed = monitor.observed();
        assert_eq!(observed.compared, 1);
        assert_eq!(observed.findings.count("G1"), 1);
    }

    #[test]
    fn two_leaders_in_one_term_are_found() {
        let monitor = Monitor::default();
        for (node, term) in [(1, 3), (1, 3), (2, 4), (3, 3)] {
            let mut status = status(node, node * 100 + term, "x");
            status.role = v1::Role::Leader.into();
            status.term = term;
            monitor.hear(&status);
        }
        assert_eq!(monitor.observed().findings.count("G2"), 1);
    }
}
