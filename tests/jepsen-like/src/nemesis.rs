//! What goes wrong in a run: nodes are killed with -9 and stopped with SIGSTOP, the leader too, sometimes two at once.
//!
//! The kinds come in rounds: each round has every kind once, in an order that the seed decides. So a run that is long enough for one
//! round leaves none out.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::rpc::Nodes;
use crate::time::{Clock, Micros};

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The leader dies.
    KillLeader,
    /// The leader stops, and goes on later without knowing that it was away.
    PauseLeader,
    /// A follower dies.
    KillFollower,
    /// A follower stops.
    PauseFollower,
    /// Two die in the same moment, so that there is no majority.
    KillTwo,
    /// Two stop in the same moment.
    PauseTwo,
    /// The leader stops and another node dies.
    PauseLeaderKillOther,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::KillLeader,
        Self::PauseLeader,
        Self::KillFollower,
        Self::PauseFollower,
        Self::KillTwo,
        Self::PauseTwo,
        Self::PauseLeaderKillOther,
    ];
}

/// One thing that happened.
#[derive(Clone, Debug, Serialize)]
pub struct FaultRecord {
    /// What.
    pub fault: Fault,
    /// Ids of the nodes that were killed.
    pub killed: Vec<u64>,
    /// Ids of the nodes that were stopped.
    pub paused: Vec<u64>,
    /// Before the first signal.
    pub from: Micros,
    /// When all of them had been started or resumed.
    pub until: Micros,
}

impl FaultRecord {
    /// Whether it left no majority of three.
    pub fn took_two(&self) -> bool {
        self.killed.len() + self.paused.len() >= 2
    }
}

/// Breaks things until it is told to stop, and mends what it broke.
#[derive(Debug)]
pub struct Nemesis {
    cluster: Arc<Cluster>,
    nodes: Nodes,
    clock: Clock,
    rng: StdRng,
    records: Arc<Mutex<Vec<FaultRecord>>>,
}

impl Nemesis {
    /// A nemesis whose choices follow from the seed (and from who leads when).
    pub fn new(cluster: Arc<Cluster>, nodes: Nodes, clock: Clock, seed: u64) -> Self {
        Self {
            cluster,
            nodes,
            clock,
            rng: StdRng::seed_from_u64(seed ^ 0xfa17),
            records: Arc::default(),
        }
    }

    /// What happened, also while it goes on.
    pub fn records(&self) -> Arc<Mutex<Vec<FaultRecord>>> {
        self.records.clone()
    }

    /// Breaks things until `stop`. All nodes are up again when it returns.
    ///
    /// # Errors
    /// When a process cannot be started or signalled: then the run proves nothing.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut bag = Vec::new();
        while !stop.is_cancelled() {
            if bag.is_empty() {
                bag = Fault::ALL.to_vec();
                bag.shuffle(&mut self.rng);
            }
            let Some(fault) = bag.pop() else { continue };
            self.strike(fault, &stop).await?;
            let rest = Duration::from_millis(self.rng.random_range(300..1800));
            stop.run_until_cancelled(tokio::time::sleep(rest)).await;
        }
        Ok(())
    }

    async fn strike(&mut self, fault: Fault, stop: &CancellationToken) -> anyhow::Result<()> {
        // A fault that names the leader waits for one: else it would hit a follower and be counted as something it was not.
        let leader = self
            .cluster
            .wait_for_leader(&self.nodes, Duration::from_secs(30))
            .await?;
        let mut others: Vec<usize> = (0..self.cluster.nodes().len())
            .filter(|position| *position != leader)
            .collect();
        others.shuffle(&mut self.rng);
        let any_two = if self.rng.random_bool(0.6) {
            vec![leader, others[0]]
        } else {
            others.clone()
        };
        let (kill, pause) = match fault {
            Fault::KillLeader => (vec![leader], vec![]),
            Fault::PauseLeader => (vec![], vec![leader]),
            Fault::KillFollower => (vec![others[0]], vec![]),
            Fault::PauseFollower => (vec![], vec![others[0]]),
            Fault::KillTwo => (any_two, vec![]),
            Fault::PauseTwo => (vec![], any_two),
            Fault::PauseLeaderKillOther => (vec![others[0]], vec![leader]),
        };
        let hold = Duration::from_millis(self.rng.random_range(200..2500));
        let cluster = self.cluster.clone();
        let node = |position: &usize| &cluster.nodes()[*position];

        let from = self.clock.now();
        for position in &pause {
            node(position).pause()?;
        }
        for position in &kill {
            node(position).send_kill()?;
        }
        for position in &kill {
            node(position).kill().await?;
        }
        stop.run_until_cancelled(tokio::time::sleep(hold)).await;
        for position in &kill {
            node(position).start()?;
        }
        for position in &pause {
            node(position).resume()?;
        }
        let id = |position: &usize| node(position).spec.id;
        self.records.lock().push(FaultRecord {
            fault,
            killed: kill.iter().map(id).collect(),
            paused: pause.iter().map(id).collect(),
            from,
            until: self.clock.now(),
        });
        Ok(())
    }
}
