//! Ways to break the product on purpose, so that the fault runs can show that they would notice.
//!
//! Each mutant is one promise not kept, in one place, behind [`active`]. Only a build with the cargo feature `mutants` has any; in every other
//! one [`active`] is the constant `false`, and nothing of it is left. The names are what `scripts/faults --mutants` runs, and what
//! a node reads from the variable `MUTANT`.
//!
//! The choice is made once, by the process, before the node starts; so a machine still gives the same for the same entries.

#[cfg(feature = "mutants")]
use std::sync::OnceLock;

/// One promise that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The log says that entries are on disk as soon as they are asked for.
    AckBeforeFlush,
    /// The log is written, and never synced.
    NoFdatasync,
    /// A vote is given before it is on disk.
    VoteNotSynced,
    /// A report of a past generation counts as one of this generation.
    NoGenerationCheck,
    /// A batch that is sent again counts again.
    NoSessionDedup,
    /// Snapshots leave sessions out.
    SessionsNotInSnapshot,
    /// An event is lost when a snapshot is installed.
    EventLostAtInstall,
    /// Probes are counted as if each node had its own places for them.
    PermitsPerNode,
    /// Cluster time is the leader's wall clock.
    WallClockTimers,
    /// Every node forgets a timer when it is due, and not when its effect is applied.
    TimerForgottenWhenDue,
    /// A follower answers linearizable reads from what it has.
    FollowerReads,
    /// A leader answers linearizable reads without asking a majority whether it still leads.
    LeaderReads,
    /// A node that was restarted answers before it has back what it had shown.
    ReadsBeforeRecovery,
    /// Progress says how far the node is, not how far the subscriber is.
    ProgressAhead,
    /// The circuits of a watch, and the place from which its events go on, are of two moments.
    WatchInTwoMoments,
    /// What must not be done twice is repeated when its outcome is unknown.
    RetryOfUnknown,
}

impl Mutant {
    /// Every one.
    pub const ALL: [Self; 16] = [
        Self::AckBeforeFlush,
        Self::NoFdatasync,
        Self::VoteNotSynced,
        Self::NoGenerationCheck,
        Self::NoSessionDedup,
        Self::SessionsNotInSnapshot,
        Self::EventLostAtInstall,
        Self::PermitsPerNode,
        Self::WallClockTimers,
        Self::TimerForgottenWhenDue,
        Self::FollowerReads,
        Self::LeaderReads,
        Self::ReadsBeforeRecovery,
        Self::ProgressAhead,
        Self::WatchInTwoMoments,
        Self::RetryOfUnknown,
    ];

    /// What it is called outside of the code.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckBeforeFlush => "ack-before-flush",
            Self::NoFdatasync => "no-fdatasync",
            Self::VoteNotSynced => "vote-not-synced",
            Self::NoGenerationCheck => "no-generation-check",
            Self::NoSessionDedup => "no-session-dedup",
            Self::SessionsNotInSnapshot => "sessions-not-in-snapshot",
            Self::EventLostAtInstall => "event-lost-at-install",
            Self::PermitsPerNode => "permits-per-node",
            Self::WallClockTimers => "wall-clock-timers",
            Self::TimerForgottenWhenDue => "timer-forgotten-when-due",
            Self::FollowerReads => "follower-reads",
            Self::LeaderReads => "leader-reads",
            Self::ReadsBeforeRecovery => "reads-before-recovery",
            Self::ProgressAhead => "progress-ahead",
            Self::WatchInTwoMoments => "watch-in-two-moments",
            Self::RetryOfUnknown => "retry-of-unknown",
        }
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| mutant.name() == name)
    }
}

/// Whether the product is broken in this way.
#[cfg(not(feature = "mutants"))]
#[inline]
pub const fn active(_: Mutant) -> bool {
    false
}

/// Whether the product is broken in this way.
#[cfg(feature = "mutants")]
pub fn active(mutant: Mutant) -> bool {
    chosen() == Some(mutant)
}

/// In which way this process is broken, if in any.
#[cfg(feature = "mutants")]
pub fn chosen() -> Option<Mutant> {
    CHOSEN.get().copied()
}

/// Breaks this process, for as long as it runs. The first choice counts.
#[cfg(feature = "mutants")]
pub fn choose(mutant: Mutant) {
    // A second choice would be one too late.
    let _ = CHOSEN.set(mutant);
}

#[cfg(feature = "mutants")]
static CHOSEN: OnceLock<Mutant> = OnceLock::new();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for mutant in Mutant::ALL {
            assert_eq!(Mutant::named(mutant.name()), Some(mutant));
        }
        assert_eq!(Mutant::named("none"), None);
    }

    #[test]
    fn nothing_is_broken_unless_it_was_asked_for() {
        for mutant in Mutant::ALL {
            assert!(!active(mutant));
        }
    }
}
