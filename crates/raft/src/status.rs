//! What a replica tells of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use brama_core::ClusterTime;

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

/// What comparing this node's state with the other members' has shown since the node started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Cluster time of the newest comparison with at least one other member; `None`: there was none yet.
    pub compared_at: Option<ClusterTime>,
    /// How long ago that was.
    pub compared_ago: Option<Duration>,
    /// The newest log index at which what was applied was compared; 0: none yet.
    pub index: u64,
    /// The newest log index at which the whole states were compared; 0: none yet.
    pub content_index: u64,
    /// How often a member was seen to differ from this node.
    pub differences: u64,
    /// What the newest comparison with each other member showed; of those that were compared.
    pub members: BTreeMap<u64, Compared>,
}

/// What a comparison showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Whether the two states were equal.
    pub equal: bool,
    /// At which log index.
    pub index: u64,
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
