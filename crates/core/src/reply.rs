//! What the state machine answers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::circuit::StateName;
use crate::command::PermitId;
use crate::policy::EffectivePolicy;
use crate::query::CircuitStatus;
use crate::time::ClusterTime;

/// What a command answers when it is applied, or why it is refused. Refused commands change nothing but cluster time.
pub type Answer = Result<Reply, Refusal>;

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Of `Bootstrap` and `Fire`.
    Done,
    /// Of `Register`.
    Registered {
        /// False: it was there (keep, update).
        created: bool,
        /// As it is now.
        circuit: Box<CircuitStatus>,
    },
    /// Of `Unregister`.
    Unregistered {
        /// False: there was none.
        existed: bool,
    },
    /// Of `Configure`.
    Configured {
        /// False: all was so already.
        changed: bool,
        /// What holds now.
        policy: EffectivePolicy,
    },
    /// Of `Report`.
    Reported(BatchReply),
    /// Of `Acquire`.
    Admission(Admission),
    /// Of `Open`, `Close` and `Reset`.
    Changed {
        /// As it is now.
        circuit: Box<CircuitStatus>,
    },
}

/// The answer to a batch; remembered by its session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchReply {
    /// The newest revision once the batch was applied.
    pub revision: u64,
    /// One an item, in order.
    pub items: Vec<ItemReply>,
}

/// What came of one item of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ItemReply {
    /// There is no such circuit.
    NotFound,
    /// The circuit as the item left it.
    Counted {
        /// The circuit had moved on, or the permit was not live: counted in the totals only.
        late: bool,
        /// State after the item.
        state: StateName,
        /// Generation after the item.
        generation: u64,
        /// Failure count after the item.
        failure_count: u32,
    },
}

/// Whether a call may be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Admission {
    /// Whether it may.
    pub admitted: bool,
    /// The circuit's state.
    pub state: StateName,
    /// The circuit's generation, to be sent back with the report.
    pub generation: u64,
    /// The permit (half-open) and when it ends.
    pub permit: Option<(PermitId, ClusterTime)>,
    /// When it makes sense to ask again, in milliseconds; `None` when admitted, or when only a manual act helps.
    pub retry_after_ms: Option<u64>,
    /// Why the circuit is not closed.
    pub reason: Option<Arc<str>>,
    /// When the current opening began.
    pub opened_at: Option<ClusterTime>,
}

/// Why a command was refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Refusal {
    /// A value that is never allowed, or not together with the policy that it would join.
    #[error("{field} {problem}")]
    InvalidArgument {
        /// The field, by its name in the API.
        field: String,
        /// What is wrong with it, to be read after its name.
        problem: String,
    },
    /// No circuit has this name.
    #[error("no circuit is registered as {name}")]
    CircuitNotFound {
        /// The name, for people.
        name: String,
    },
    /// The name is taken.
    #[error("{} is already registered", circuit.name)]
    AlreadyRegistered {
        /// By this circuit.
        circuit: Box<CircuitStatus>,
    },
    /// The cluster's limit on circuits is reached.
    #[error(
        "the cluster's limit of {limit} circuits is reached: unregister some, or bootstrap with a higher limits.max_circuits"
    )]
    TooManyCircuits {
        /// `max_circuits`.
        limit: u64,
    },
    /// The cluster's limit on sessions is reached.
    #[error("the cluster's limit of {limit} sessions is reached: sessions end after 10 idle minutes")]
    TooManySessions {
        /// `max_sessions`.
        limit: u64,
    },
    /// The session is unknown: it never began with sequence 1, or it ended after 10 idle minutes.
    #[error(
        "session {session:032x} is not known (sequence {sequence}): it must begin with 1, and ends after 10 idle minutes; \
         begin a new session, and take what was not answered as unknown"
    )]
    SessionExpired {
        /// Its id.
        session: u128,
        /// The number that came.
        sequence: u64,
    },
    /// A number below the session's newest came: it was applied before, or given up; its answer is no longer known.
    #[error(
        "sequence {sequence} of session {session:032x} is older than its newest, {newest}: nothing was applied now"
    )]
    StaleSequence {
        /// Its id.
        session: u128,
        /// The number that came.
        sequence: u64,
        /// The newest that was applied.
        newest: u64,
    },
}

impl Refusal {
    /// A field and what is wrong with it.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::InvalidArgument {
            field: field.into(),
            problem: problem.into(),
        }
    }
}
