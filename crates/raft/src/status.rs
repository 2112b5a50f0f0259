//! What a replica tells of itself.

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
