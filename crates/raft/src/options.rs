//! What a replica is started with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::SnapshotPolicy;

use brama_core::command::Bootstrap;

use crate::environment::Environment;
use crate::replica::StartError;

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
    /// Its threads and its network: [`System`](crate::environment::System), if it is a real one.
    pub environment: Arc<dyn Environment>,
    /// Take a snapshot after so many log entries.
    pub snapshot_every: u64,
    /// Keep so many entries that a snapshot covers, for followers that are a little behind.
    pub keep_entries: u64,
    /// Compare this node's state with the other members' so often; the same on each, or they find fewer positions to compare at.
    pub compare_interval: Duration,
    /// With less room than this on the data directory's disk, the node does not lead if another can.
    pub min_free_bytes: u64,
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
    /// Shortest election timeout: how long a follower hears nothing before it wants an election. Three quarters of the longest, if
    /// that is more.
    pub election_min: Duration,
    /// Longest election timeout; at least five times `heartbeat`.
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

/// The same for openraft.
///
/// An openraft follower first lets its leader's lease run out, which is as long as openraft's longest election timeout, and only then
/// waits for its election timeout. So both are half as long as [`Timing`] says, and their sum is what it says: a follower wants an
/// election when it has heard nothing for a time between three quarters of `election_max` (or `election_min`, if that is more) and
/// `election_max`.
pub(crate) fn raft_config(options: &Options) -> Result<openraft::Config, StartError> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let election_max = ms(options.timing.election_max);
    let lease = election_max / 2;
    let after_lease = ms(options.timing.election_min)
        .saturating_sub(lease)
        .max(lease / 2);
    let config = openraft::Config {
        cluster_name: options.cluster_name.clone(),
        election_timeout_min: after_lease,
        election_timeout_max: lease,
        heartbeat_interval: ms(options.timing.heartbeat),
        enable_pre_vote: Some(true),
        // Without it a leader that holds a lease from one side can block a majority that cannot hear it (openraft#2080).
        quorum_loss_probe_interval: Some(2 * election_max),
        // The state is in memory: a restarted leader must not serve one that is older than what it acknowledged.
        enable_leader_restore: Some(false),
        // A node that comes back with less than it acknowledged (an old copy of its directory) gets the rest again. Otherwise the leader
        // would take that for its own mistake, and one leader after the other would end.
        allow_log_reversion: Some(true),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_every),
        max_in_snapshot_log_to_keep: options.keep_entries,
        // A snapshot may take this long on its way.
        install_snapshot_timeout: 120_000,
        // Entries can be large: few in a message.
        max_payload_entries: 64,
        ..Default::default()
    };
    config
        .validate()
        .map_err(|error| StartError::Options(error.to_string()))
}
