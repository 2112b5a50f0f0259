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
    pub voted_term: u64,
    pub voted_for: u64,
    pub vote_won: bool,
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

/// How the disk of a node's data directory fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskState {
    /// Nothing is wrong with it.
    Ok {
        /// Free bytes on its file system; `None`: not known yet.
        free_bytes: Option<u64>,
    },
    /// It is almost full. The node does not lead if a voter is better off; all else is as ever.
    Low {
        /// Free bytes on its file system.
        free_bytes: u64,
        /// `limits.min_free_bytes`.
        min_free_bytes: u64,
    },
    /// A flush has taken longer than the longest election timeout, and goes on. Nothing is acknowledged meanwhile. The node does not lead if
    /// a voter is better off, and does not stand for election.
    Slow {
        /// So long.
        flushing_for: Duration,
    },
    /// A write was refused for want of room. What is acknowledged is safe; the node goes on by itself when there is room.
    Full {
        /// Free bytes on its file system.
        free_bytes: Option<u64>,
        /// How long ago.
        since: Duration,
        /// Whether its journal still holds more. If not, the node follows no more: what it shows is as old as the newest entry it has.
        takes_entries: bool,
    },
}

impl DiskState {
    /// Whether clients should be sent here. While its disk hangs, a node answers late, or not at all.
    pub fn serves(&self) -> bool {
        self.keeps_up() && !matches!(self, Self::Slow { .. })
    }

    /// Whether a file of so many bytes can be written, as far as is known.
    pub(crate) fn has_room_for(&self, bytes: u64) -> bool {
        match self {
            Self::Ok { free_bytes } => free_bytes.is_none_or(|free| free > bytes),
            Self::Low { free_bytes, .. } => *free_bytes > bytes,
            Self::Slow { .. } => true,
            Self::Full { .. } => false,
        }
    }

    /// 0 is well; of two nodes, the one with the lower number should lead.
    pub(crate) fn rank(&self) -> u32 {
        match self {
            Self::Ok { .. } => 0,
            Self::Low { .. } => 1,
            Self::Slow { .. } => 2,
            Self::Full { .. } => 3,
        }
    }

    /// Whether the node follows the leader. If not, its state is as old as the newest entry that its journal took.
    pub fn keeps_up(&self) -> bool {
        !matches!(
            self,
            Self::Full {
                takes_entries: false,
                ..
            }
        )
    }

    /// A node that is only low must be: all may be.
    pub(crate) fn may_be_elected(&self) -> bool {
        self.rank() <= 1
    }
}

/// For people: what is wrong, if anything is.
impl std::fmt::Display for DiskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let free = |free: &Option<u64>| free.map_or_else(|| "?".to_owned(), |free| free.to_string());
        match self {
            Self::Ok { free_bytes } => write!(f, "ok, {} bytes free", free(free_bytes)),
            Self::Low {
                free_bytes,
                min_free_bytes,
            } => write!(
                f,
                "almost full, {free_bytes} bytes free, less than {min_free_bytes}"
            ),
            Self::Slow { flushing_for } => write!(f, "hangs, a flush has taken {flushing_for:.1?} so far"),
            Self::Full {
                free_bytes,
                since,
                takes_entries,
            } => {
                let takes = if *takes_entries {
                    "its journal takes more"
                } else {
                    "its journal is full too"
                };
                write!(
                    f,
                    "full for {since:.1?}, {} bytes free, {takes}",
                    free(free_bytes)
                )
            }
        }
    }
}
