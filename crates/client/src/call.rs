//! One call through a circuit: what it can end in, and what makes sure that a permit that was asked for is not lost.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use brama_core::ClusterTime;
use brama_core::circuit::StateName;
use brama_core::command::PermitId;
use brama_core::reply::Admission;

use crate::error::Error;
use crate::local::Local;
use crate::local::ticket::{Kind, Ticket};
use crate::local::word::{Tag, Word};

/// What a result means for the circuit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Classified {
    /// The dependency works.
    Success,
    /// The dependency does not work; the text becomes the reason (cut at 1 KiB).
    Failure(String),
    /// Neither, e.g. a request that was wrong in the first place.
    Ignore,
}

/// Why [`Circuit::call`](crate::Circuit::call) has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError<E> {
    /// The circuit did not let the call pass; it was not made.
    #[error("the circuit is {}{}", state.name(), reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default())]
    #[non_exhaustive]
    Rejected {
        /// Open, or half-open with all probes out.
        state: StateName,
        /// Why it is.
        reason: Option<Arc<str>>,
        /// When it makes sense to ask again; `None`: when somebody has closed the circuit by hand.
        retry_after: Option<Duration>,
        /// When the current opening began.
        opened_at: Option<ClusterTime>,
        /// The circuit's generation.
        generation: u64,
    },
    /// The call was made, and this is its error.
    #[error("{0}")]
    Inner(#[source] E),
    /// Whether to call could not be found out; the call was not made. The caller decides what is worse: to call, or not to.
    #[error("whether to call is not known")]
    Cluster(#[source] Error),
}

/// Why a call was not made: [`CallError::Rejected`] or [`CallError::Cluster`]. A program's own error type can be made of it with `From`.
pub type NotMade = CallError<Infallible>;

/// Why a call may not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// Open, or half-open with all probes out.
    pub state: StateName,
    /// Why it is.
    pub reason: Option<Arc<str>>,
    /// When it makes sense to ask again; `None`: when somebody has closed the circuit by hand.
    pub retry_after: Option<Duration>,
    /// When the current opening began.
    pub opened_at: Option<ClusterTime>,
    /// The circuit's generation.
    pub generation: u64,
}

impl From<Admission> for Rejection {
    fn from(admission: Admission) -> Self {
        Self {
            state: admission.state,
            retry_after: admission.retry_after_ms.map(Duration::from_millis),
            reason: admission.reason,
            opened_at: admission.opened_at,
            generation: admission.generation,
        }
    }
}

impl<E> From<Rejection> for CallError<E> {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected {
            state: rejection.state,
            retry_after: rejection.retry_after,
            reason: rejection.reason,
            opened_at: rejection.opened_at,
            generation: rejection.generation,
        }
    }
}

impl CallError<Infallible> {
    /// The same, of a call that can also fail by itself.
    pub fn widen<E>(self) -> CallError<E> {
        match self {
            Self::Rejected {
                state,
                reason,
                retry_after,
                opened_at,
                generation,
            } => CallError::Rejected {
                state,
                reason,
                retry_after,
                opened_at,
                generation,
            },
            Self::Inner(never) => match never {},
            Self::Cluster(error) => CallError::Cluster(error),
        }
    }
}

impl<E> CallError<E> {
    /// Whether the circuit did not let the call pass.
    pub fn is_rejected(&self) -> bool {
        matches!(self, Self::Rejected { .. })
    }
}

/// An ask for a permit that is under way. Dropped before the answer has come, it gives back what the answer may give: so it exists from before the
/// ask.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    local: &'a Arc<Local>,
    /// `None`: the answer has come.
    permit: Option<PermitId>,
}

impl<'a> Asked<'a> {
    pub(crate) fn new(local: &'a Arc<Local>, permit: PermitId) -> Self {
        Self {
            local,
            permit: Some(permit),
        }
    }

    /// Certainly no permit was given.
    pub(crate) fn refused(mut self) {
        self.permit = None;
    }

    /// The call may be made.
    pub(crate) fn admitted(mut self, admission: &Admission) -> Ticket {
        self.permit = None;
        let tag = match admission.state {
            StateName::Closed => Tag::Closed,
            StateName::Open => Tag::Open,
            StateName::HalfOpen => Tag::HalfOpen,
        };
        Ticket {
            word: Word::new(tag, admission.generation, false),
            kind: admission
                .permit
                .map_or(Kind::Plain, |(permit, _)| Kind::Probe(permit)),
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            // Of which generation the permit is, if there is one, is not known: it is given back whatever that is.
            self.local.ignored(Ticket {
                word: Word::UNKNOWN,
                kind: Kind::Probe(permit),
            });
        }
    }
}
