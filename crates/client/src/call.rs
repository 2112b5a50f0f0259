//! One call through a circuit: what it can end in, and the ticket that makes sure that its end is told.

use std::sync::Arc;
use std::time::Duration;

use brama_core::circuit::StateName;
use brama_core::command::PermitId;
use brama_core::reply::Admission;
use brama_core::report::Outcome;
use brama_core::{CircuitName, ClusterTime};

use crate::circuit::retry_after;
use crate::error::Error;
use crate::outbox::Outbox;
use crate::report::Item;

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

impl<E> CallError<E> {
    pub(crate) fn rejected(admission: Admission) -> Self {
        Self::Rejected {
            state: admission.state,
            retry_after: retry_after(&admission),
            reason: admission.reason,
            opened_at: admission.opened_at,
            generation: admission.generation,
        }
    }

    /// Whether the circuit did not let the call pass.
    pub fn is_rejected(&self) -> bool {
        matches!(self, Self::Rejected { .. })
    }
}

/// Reports how an admitted call ended; as ignored if nobody says, because the call was dropped or panicked.
///
/// It exists from before the admission is asked for: a caller who goes away while the answer is under way may have been given a permit.
#[derive(Debug)]
pub(crate) struct Ticket {
    outbox: Arc<Outbox>,
    /// `None`: there is nothing left to report.
    item: Option<Item>,
}

impl Ticket {
    pub(crate) fn new(outbox: Arc<Outbox>, name: CircuitName, permit: PermitId) -> Self {
        let item = Item::of(name, Outcome::Ignored).with_permit(permit);
        Self {
            outbox,
            item: Some(item),
        }
    }

    /// The call was not admitted, certainly.
    pub(crate) fn void(&mut self) {
        self.item = None;
    }

    /// The call was admitted so.
    pub(crate) fn admitted(&mut self, admission: &Admission) {
        if let Some(Item(item)) = &mut self.item {
            item.generation = Some(admission.generation);
            item.permit = admission.permit.map(|(permit, _)| permit);
        }
    }

    /// The call ended so.
    pub(crate) fn report(mut self, outcome: Outcome, reason: Option<Arc<str>>) {
        if let Some(Item(mut item)) = self.item.take() {
            item.summary = brama_core::Summary::of(outcome);
            item.reason = reason;
            self.outbox.push(Item(item));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(item) = self.item.take() {
            self.outbox.push(item);
        }
    }
}
