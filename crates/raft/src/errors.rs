//! What can go wrong between a command and its answer.

use brama_core::reply::Refusal;

/// Why a command has no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// No leader is known, or it changed before the command was appended. Nothing was appended: trying again is safe.
    #[error("the cluster has no leader at the moment; nothing was changed, try again")]
    NoLeader,
    /// The command may have been appended and may be applied at any time, or never. Only a report with a session may be retried
    /// without the risk of counting twice.
    #[error(
        "the outcome is unknown ({cause}): it may or may not take effect; only a report with a session can be retried safely"
    )]
    Unknown {
        /// What got lost.
        cause: String,
    },
    /// Too many commands are waiting on this node. Nothing was appended.
    #[error("this node has too many commands waiting; nothing was changed, try again")]
    Overloaded,
    /// The leader's disk is full, and no other node is better off. Nothing was appended: trying again is safe.
    #[error(
        "the leader's disk is full, and so are the others; nothing was changed, try again when there is room"
    )]
    NoRoom,
    /// The command can never be applied, or not now; nothing was appended.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The node is stopping. Nothing was appended.
    #[error("this node is stopping; nothing was changed, try another")]
    Stopping,
}

impl ProposeError {
    pub(crate) fn unknown(cause: &str) -> Self {
        Self::Unknown {
            cause: cause.to_owned(),
        }
    }
}

/// Why a read has no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader could confirm that the answer would be up to date.
    #[error(
        "the cluster has no leader at the moment, so no answer would be known to be up to date; try again, or ask for a local one"
    )]
    NoLeader,
    /// The state that was asked for did not arrive before the caller's deadline.
    #[error("this node did not get to the state asked for in time: {waiting_for}")]
    TimedOut {
        /// Which state.
        waiting_for: String,
    },
    /// This node's disk is full, and its journal too: it does not follow the leader any more, so its state is old.
    #[error("the disk of this node is full, so it is not up to date; try another, or ask for a local answer")]
    NoRoom,
    /// The node is stopping.
    #[error("this node is stopping; try another")]
    Stopping,
}

/// Why a change of the membership, or a transfer of leadership, was not done.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// As [`ProposeError::NoLeader`].
    #[error("the cluster has no leader at the moment; nothing was changed, try again")]
    NoLeader,
    /// The request cannot be done as it is.
    #[error("{0}")]
    Refused(String),
    /// It began, and its end was not seen.
    #[error("the outcome is unknown: {0}; look at the cluster's status before trying again")]
    Unknown(String),
}
