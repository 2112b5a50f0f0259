//! What a node is told before it starts.
//!
//! Four layers, each over the one before it, key by key: what is built in, the file, the environment, the flags. A key that is in none of
//! them has its built-in value; a key that nobody knows is an error that names it, because a setting that is silently ignored is worse
//! than a node that does not start.
//!
//! ```text
//! built-in  <  file (TOML)           <  environment               <  flags
//!              [raft]                   BRAMA_RAFT__KEEP_ENTRIES     --set raft.keep_entries=500
//!              keep_entries = 1000      =2000
//! ```
//!
//! [`layers`] puts them together and knows where each value came from; [`raw`] is the shape in which they are written; [`check`] turns that
//! into a [`Config`], in which every value is known to be good. `[defaults]` and the replicated part of `[limits]` are written to the log
//! once, by the node that bootstraps the cluster: after that, only the log decides, and a difference is only warned about.

mod check;
mod error;
mod keys;
mod layers;
mod raw;
mod show;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use brama_core::limits::Limits;
use brama_core::policy::{GlobalOptions, Policy};

pub use error::ConfigError;
pub use layers::{Loaded, Override, Sources, load};
pub use show::Setting;

/// Everything that a node needs to know; checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[node]`
    pub node: NodeConfig,
    /// `[cluster]`
    pub cluster: ClusterConfig,
    /// `[raft]`
    pub raft: RaftConfig,
    /// `[limits]`
    pub limits: LimitsConfig,
    /// `[defaults]`
    pub defaults: DefaultsConfig,
    /// `[log]`
    pub log: LogConfig,
    /// `[events]`
    pub events: EventsConfig,
}

/// `[node]`: who this node is, and where it is found.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its number in the cluster; at least 1, never that of a node that was removed.
    pub id: u64,
    /// The directory of its data; created if absent. A relative path is relative to the working directory.
    pub data_dir: PathBuf,
    /// Where it listens for clients.
    pub client_listen: SocketAddr,
    /// Where it listens for other nodes.
    pub peer_listen: SocketAddr,
    /// Where clients reach it, `host:port`.
    pub client_address: String,
    /// Where other nodes reach it, `host:port`.
    pub peer_address: String,
}

/// `[cluster]`: which cluster it belongs to.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// What people call the cluster; nodes of another name are refused.
    pub name: String,
    /// How a node with an empty data directory comes into it.
    pub origin: OriginConfig,
}

/// How a node with an empty data directory becomes part of a cluster. Once it is part of one, only its data directory counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginConfig {
    /// `cluster.members`: it makes a new cluster together with these, itself among them.
    Members(Vec<MemberConfig>),
    /// `cluster.join`: it asks one of these peer addresses to take it in as a learner.
    Join(Vec<String>),
}

/// One of `cluster.members`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberConfig {
    /// Its `node.id`.
    pub id: u64,
    /// Its `node.peer_address`.
    pub peer: String,
}

/// `[raft]`: times and sizes of consensus.
#[derive(Clone, Copy, Debug)]
pub struct RaftConfig {
    /// The shortest time without a heartbeat after which a follower wants an election.
    pub election_timeout_min: Duration,
    /// The longest.
    pub election_timeout_max: Duration,
    /// Time between a leader's heartbeats.
    pub heartbeat_interval: Duration,
    /// A snapshot is taken after so many log entries.
    pub snapshot_every: u64,
    /// So many entries that a snapshot covers are kept, for followers that are a little behind.
    pub keep_entries: u64,
    /// How often this node compares its state with the other members'.
    pub compare_interval: Duration,
}

/// `[limits]`.
#[derive(Clone, Copy, Debug)]
pub struct LimitsConfig {
    /// Those that the cluster enforces as a whole; written to the log at bootstrap.
    pub cluster: Limits,
    /// Subscribers on this node.
    pub max_subscribers: u32,
    /// Connections of clients to this node.
    pub max_connections: u32,
    /// With less room than this on the data directory's disk, this node does not lead if another can, and warns.
    pub min_free_bytes: u64,
}

/// `[defaults]`: the policy that the cluster begins with; written to the log at bootstrap.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DefaultsConfig {
    /// Options that a circuit can have of its own.
    pub policy: Policy,
    /// Options of the cluster as a whole.
    pub global: GlobalOptions,
}

/// `[log]`: the lines that the node writes to standard error.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// For people or for machines.
    pub format: LogFormat,
    /// A level, or directives such as `info,brama_raft=debug`.
    pub level: String,
}

/// See [`LogConfig::format`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// `[events]`: how this node feeds subscribers.
#[derive(Clone, Copy, Debug)]
pub struct EventsConfig {
    /// A subscriber to whom nothing was sent for so long gets a progress message.
    pub progress_interval: Duration,
}
