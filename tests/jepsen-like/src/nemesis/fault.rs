//! What can go wrong, and the record of it.

use serde::{Deserialize, Serialize};

use crate::time::Micros;

/// What is chosen by `--faults`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Processes die by SIGKILL.
    Kill,
    /// Processes stop by SIGSTOP, and go on later without knowing that they were away.
    Pause,
    /// Packets are dropped. Needs hosts.
    Partition,
    /// Links are slow or break. Needs hosts.
    Link,
    /// Wall clocks are wrong. Needs libfaketime.
    Clock,
    /// Leadership is handed to a chosen node.
    Transfer,
    /// Nodes are told to end, one after the other, and started again.
    Restart,
    /// Disks lose power with all that was not synced, fail or are slow. Needs root, and /dev/fuse.
    Disk,
}

impl Family {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::Kill,
        Self::Pause,
        Self::Partition,
        Self::Link,
        Self::Clock,
        Self::Transfer,
        Self::Restart,
        Self::Disk,
    ];

    /// As it is chosen.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::Link => "link",
            Self::Clock => "clock",
            Self::Transfer => "transfer",
            Self::Restart => "restart",
            Self::Disk => "disk",
        }
    }

    /// Whether the nodes must have hosts of their own.
    pub fn needs_hosts(self) -> bool {
        matches!(self, Self::Partition | Self::Link)
    }
}

/// One way in which something goes wrong. Which nodes it hits is decided when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The leader dies.
    KillLeader,
    /// A follower dies.
    KillFollower,
    /// As many as a majority can do without die, the leader among them (of five).
    KillMinority,
    /// So many die in the same moment that there is no majority.
    KillMajority,
    /// All die in the same moment.
    KillAll,
    /// The leader stops.
    PauseLeader,
    /// A follower stops.
    PauseFollower,
    /// So many stop that there is no majority.
    PauseMajority,
    /// The leader stops and another node dies.
    PauseLeaderKillOther,
    /// The leader and the others do not hear each other.
    IsolateLeader,
    /// A follower and the others do not hear each other.
    IsolateFollower,
    /// The leader and another one on one side, three on the other (of five).
    SplitOffLeader,
    /// The leader and two others on one side, two on the other (of five).
    SplitOffFollowers,
    /// Nobody hears anybody.
    Shatter,
    /// The leader hears the others, and they do not hear it.
    LeaderUnheard,
    /// The others hear the leader, and it does not hear them.
    LeaderDeaf,
    /// Two nodes do not hear each other; all others hear both.
    OneLink,
    /// One node does not hear one other.
    OneLinkOneWay,
    /// Two pairs that hear only each other, and one node that hears all (of five).
    Bridge,
    /// 30 % of the packets of a node, or of all, are lost.
    Loss,
    /// Clients reach a node, and do not hear what it answers.
    RepliesLost,
    /// Clients do not reach a node, nor it them.
    ClientsCutOff,
    /// Links are slow, with jitter.
    SlowLinks,
    /// Few bytes a second.
    ThrottledLinks,
    /// Nothing passes; nothing breaks.
    FrozenLinks,
    /// Connections end with RST.
    ResetLinks,
    /// Connections end with RST after so many bytes.
    CutLinks,
    /// Wall clocks are an hour ahead, or behind.
    ClockJumps,
    /// Wall clocks are a second ahead, then behind, again and again.
    ClockStrobes,
    /// Wall clocks run 10 % too fast.
    ClockRuns,
    /// Wall clocks stand still.
    ClockStands,
    /// The leader hands over.
    TransferLeader,
    /// One node after the other is told to end, and started again.
    RollingRestart,
    /// The leader loses power, and what it had not synced.
    LeaderLosesPower,
    /// A follower does.
    FollowerLosesPower,
    /// All do, in the same moment.
    AllLosePower,
    /// A sync of a node fails once.
    SyncFails,
    /// Each sync of the leader takes long.
    SlowDiskOfLeader,
    /// Each sync of a follower does.
    SlowDiskOfFollower,
}

impl Fault {
    /// All of a family that a cluster of so many nodes can have.
    pub fn of(family: Family, nodes: usize) -> Vec<Self> {
        let all: &[Self] = match family {
            Family::Kill => &[
                Self::KillLeader,
                Self::KillFollower,
                Self::KillMinority,
                Self::KillMajority,
                Self::KillAll,
            ],
            Family::Pause => &[
                Self::PauseLeader,
                Self::PauseFollower,
                Self::PauseMajority,
                Self::PauseLeaderKillOther,
            ],
            Family::Partition => &[
                Self::IsolateLeader,
                Self::IsolateFollower,
                Self::SplitOffLeader,
                Self::SplitOffFollowers,
                Self::Shatter,
                Self::LeaderUnheard,
                Self::LeaderDeaf,
                Self::OneLink,
                Self::OneLinkOneWay,
                Self::Bridge,
                Self::Loss,
                Self::RepliesLost,
                Self::ClientsCutOff,
            ],
            Family::Link => &[
                Self::SlowLinks,
                Self::ThrottledLinks,
                Self::FrozenLinks,
                Self::ResetLinks,
                Self::CutLinks,
            ],
            Family::Clock => &[
                Self::ClockJumps,
                Self::ClockStrobes,
                Self::ClockRuns,
                Self::ClockStands,
            ],
            Family::Transfer => &[Self::TransferLeader],
            Family::Restart => &[Self::RollingRestart],
            Family::Disk => &[
                Self::LeaderLosesPower,
                Self::FollowerLosesPower,
                Self::AllLosePower,
                Self::SyncFails,
                Self::SlowDiskOfLeader,
                Self::SlowDiskOfFollower,
            ],
        };
        let fits = |fault: &&Self| nodes >= 5 || !fault.needs_five();
        all.iter().filter(fits).copied().collect()
    }

    /// Of three nodes it would be another fault.
    fn needs_five(self) -> bool {
        matches!(
            self,
            Self::KillMinority | Self::SplitOffLeader | Self::SplitOffFollowers | Self::Bridge
        )
    }

    /// What it is a kind of.
    pub fn family(self) -> Family {
        match self {
            Self::KillLeader
            | Self::KillFollower
            | Self::KillMinority
            | Self::KillMajority
            | Self::KillAll => Family::Kill,
            Self::PauseLeader | Self::PauseFollower | Self::PauseMajority | Self::PauseLeaderKillOther => {
                Family::Pause
            }
            Self::IsolateLeader
            | Self::IsolateFollower
            | Self::SplitOffLeader
            | Self::SplitOffFollowers
            | Self::Shatter
            | Self::LeaderUnheard
            | Self::LeaderDeaf
            | Self::OneLink
            | Self::OneLinkOneWay
            | Self::Bridge
            | Self::Loss
            | Self::RepliesLost
            | Self::ClientsCutOff => Family::Partition,
            Self::SlowLinks
            | Self::ThrottledLinks
            | Self::FrozenLinks
            | Self::ResetLinks
            | Self::CutLinks => Family::Link,
            Self::ClockJumps | Self::ClockStrobes | Self::ClockRuns | Self::ClockStands => Family::Clock,
            Self::TransferLeader => Family::Transfer,
            Self::RollingRestart => Family::Restart,
            Self::LeaderLosesPower
            | Self::FollowerLosesPower
            | Self::AllLosePower
            | Self::SyncFails
            | Self::SlowDiskOfLeader
            | Self::SlowDiskOfFollower => Family::Disk,
        }
    }

    /// Whether a majority goes on while it lasts, so that it may last long.
    pub fn leaves_majority(self) -> bool {
        !matches!(
            self,
            Self::KillMajority
                | Self::KillAll
                | Self::PauseMajority
                | Self::PauseLeaderKillOther
                | Self::Shatter
                | Self::AllLosePower
        )
    }
}

/// One thing that happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FaultRecord {
    /// What.
    pub fault: Fault,
    /// What it is a kind of.
    pub family: Family,
    /// Ids of the nodes that were hit, or whose links were.
    pub nodes: Vec<u64>,
    /// For a person.
    pub what: String,
    /// Before anything was done.
    pub from: Micros,
    /// When all of it was there.
    pub held_from: Micros,
    /// When it began to be mended.
    pub held_until: Micros,
    /// When all of it was mended, and nodes that had been down served again.
    pub until: Micros,
    /// How it was seen that it was there; `None`: it was not seen.
    pub proof: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_a_family_says_so() {
        for family in Family::ALL {
            for nodes in [3, 5] {
                let all = Fault::of(family, nodes);
                assert!(!all.is_empty());
                assert!(all.iter().all(|fault| fault.family() == family), "{all:?}");
            }
        }
        assert!(!Fault::of(Family::Partition, 3).contains(&Fault::Bridge));
    }
}
