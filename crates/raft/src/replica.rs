//! The node's view of consensus.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use brama_core::command::{Bootstrap, ClusterId, Due};
use brama_core::reply::Reply;
use brama_core::{ClusterTime, Command, Machine};

use crate::errors::{AdminError, ProposeError, ReadError};

/// What a replica is started with.
#[derive(Clone)]
pub struct Options {
    /// This node; never 0, never the id of a node that was removed.
    pub node_id: u64,
    /// A name that people give the cluster; nodes of another name are refused.
    pub cluster_name: String,
    /// The data directory; created if absent.
    pub data_dir: PathBuf,
    /// Where to listen for other nodes, `ip:port`.
    pub peer_listen: std::net::SocketAddr,
    /// Where other nodes reach this one, `host:port`.
    pub peer_address: String,
    /// Where clients reach this one, `host:port`.
    pub client_address: String,
    /// How this node becomes part of a cluster, if its data directory is new.
    pub origin: Origin,
    /// Election and heartbeat times.
    pub timing: Timing,
    /// Clocks of this machine.
    pub time: Arc<dyn TimeSource>,
    /// Take a snapshot after so many log entries.
    pub snapshot_every: u64,
    /// Keep so many entries that a snapshot covers, for followers that are a little behind.
    pub keep_entries: u64,
}

/// How a node with a new data directory becomes part of a cluster.
#[derive(Clone, Debug)]
pub enum Origin {
    /// It is one of these members, (id, peer address), of a new cluster; the lowest id makes it, once all were reached.
    Bootstrap {
        /// All of them, this node included.
        members: Vec<(u64, String)>,
        /// What the cluster begins with; the `cluster_id` in it is ignored, a random one is drawn.
        first: Box<Bootstrap>,
    },
    /// It asks one of these peer addresses to be added as a learner.
    Join {
        /// Peer addresses of running nodes.
        seeds: Vec<String>,
    },
}

/// Times of the Raft protocol.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout.
    pub election_max: Duration,
    /// Time between heartbeats.
    pub heartbeat: Duration,
}

/// The clocks of a machine. The node implements it; tests move it.
pub trait TimeSource: Send + Sync + 'static {
    /// Since some fixed moment of this process; never goes back, never jumps.
    fn monotonic(&self) -> Duration;
    /// Since the Unix epoch, as this machine believes; may jump.
    fn wall(&self) -> Duration;
}

/// How far the local state is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Newest applied log index.
    pub index: u64,
    /// Newest revision.
    pub revision: u64,
}

/// Whether this node leads, and may act as the leader: its clock is set, and it has applied everything from before its term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term in which it leads; `None`: it does not.
    pub term: Option<u64>,
}

/// See `Cluster.Status`.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct ClusterStatus {
    pub role: Role,
    pub term: u64,
    pub leader_id: Option<u64>,
    pub has_quorum: bool,
    pub last_log_index: u64,
    pub committed_index: u64,
    pub applied_index: u64,
    pub snapshot_index: u64,
    pub purged_index: u64,
    pub members: Vec<MemberStatus>,
}

/// See `Member`.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct MemberStatus {
    pub node_id: u64,
    pub peer_address: String,
    pub client_address: String,
    pub voter: bool,
    pub matched_index: Option<u64>,
}

/// See `Role`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Learner,
}

/// Why a replica did not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Placeholder until the data directory is written.
    #[error("{0}")]
    Other(String),
}

/// A node's part in the cluster's consensus. Cheap to clone.
#[derive(Clone)]
pub struct Replica {}

#[allow(missing_docs, unused_variables, clippy::unused_async)]
impl Replica {
    /// Opens the data directory, listens for peers, and joins or makes the cluster in the background.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        unimplemented!()
    }
    /// Hands leadership over if this node has it, refuses new proposals, waits for those in flight, flushes, stops. Idempotent.
    pub async fn stop(&self, deadline: Instant) {}
    /// Completes when consensus has failed for good on this node (storage error, wrong incarnation, diverged state): the process
    /// must exit, with this message.
    pub async fn failed(&self) -> String {
        unimplemented!()
    }
    /// Gets a command applied, through whichever node leads. Waits for a leader up to the deadline.
    pub async fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<(Reply, Applied), ProposeError> {
        unimplemented!()
    }
    /// Returns once the local state contains everything acknowledged before the call, anywhere in the cluster.
    pub async fn linearize(&self, deadline: Instant) -> Result<(), ReadError> {
        unimplemented!()
    }
    /// Returns once the local state is one that local reads and subscribers may see (after a restart: recovered).
    pub async fn recovered(&self, deadline: Instant) -> Result<(), ReadError> {
        unimplemented!()
    }
    /// Returns once the local state has this revision.
    pub async fn reach(&self, revision: u64, deadline: Instant) -> Result<(), ReadError> {
        unimplemented!()
    }
    /// Reads the local state; `f` must be short: applies wait for it.
    pub fn read<T>(&self, f: impl FnOnce(&Machine) -> T) -> T {
        unimplemented!()
    }
    /// Changes after each applied run of entries.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        unimplemented!()
    }
    /// Changes when this node begins or ends to lead.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        unimplemented!()
    }
    /// This node's estimate of cluster time.
    pub fn now(&self) -> ClusterTime {
        unimplemented!()
    }
    /// How long until cluster time is `at`, by this node's clock; zero if it is past.
    pub fn until(&self, at: ClusterTime) -> Duration {
        unimplemented!()
    }
    /// Leader only, never forwarded, never refused for load: fires what is due. Returns once it is applied (or was dropped).
    pub async fn fire(&self, term: u64, due: Vec<Due>) -> Result<(), ProposeError> {
        unimplemented!()
    }
    /// Whether this node hears from a leader that a majority follows; false at the latest one election timeout after it ends.
    pub fn has_quorum(&self) -> bool {
        unimplemented!()
    }
    pub fn node_id(&self) -> u64 {
        unimplemented!()
    }
    /// `None` until this node belongs to a cluster.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        unimplemented!()
    }
    pub fn status(&self) -> ClusterStatus {
        unimplemented!()
    }
    pub async fn add_learner(
        &self,
        node_id: u64,
        peer_address: String,
        client_address: String,
        deadline: Instant,
    ) -> Result<(), AdminError> {
        unimplemented!()
    }
    pub async fn promote(&self, node_id: u64, deadline: Instant) -> Result<(), AdminError> {
        unimplemented!()
    }
    pub async fn remove(&self, node_id: u64, deadline: Instant) -> Result<(), AdminError> {
        unimplemented!()
    }
    /// The id of the new leader.
    pub async fn transfer_leader(&self, to: Option<u64>, deadline: Instant) -> Result<u64, AdminError> {
        unimplemented!()
    }
}
