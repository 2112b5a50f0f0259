//! Outcomes of one circuit that are to be told to the cluster, in the order in which they came.

use std::collections::VecDeque;
use std::sync::Arc;

use brama_core::command::{PermitId, ReportItem};
use brama_core::limits::MAX_OUTCOMES;
use brama_core::report::Summary;
use brama_core::{CircuitName, Metadata};

use super::shards::{Count, Counts, Shards};
use crate::report::Item;

/// Items that one circuit may have waiting. All outcomes of one generation are one item, and a probe's is one of its own: so this is a hundred
/// changes of its state that could not be told.
const MAX_ITEMS: usize = 128;
/// Never a circuit's generation: outcomes that name it count in the totals only.
const LONG_AGO: u64 = 0;

/// What waits to be told, and what the shards have given already.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    items: VecDeque<ReportItem>,
    taken: Counts,
    /// Whether whoever sends knows that there is something.
    pub(crate) is_listed: bool,
}

/// What became of outcomes that were given to the ledger.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Noted {
    pub(crate) kept: u64,
    pub(crate) dropped: u64,
}

impl Ledger {
    /// Moves what the shards have counted behind what is there.
    pub(crate) fn fold(&mut self, name: &CircuitName, shards: &Shards, generation: Option<u64>) -> Noted {
        let new = shards.take(&mut self.taken);
        if new == Counts::default() {
            return Noted::default();
        }
        let successes = new[Count::Success as usize];
        let summary = Summary {
            successes,
            leading_successes: successes,
            ignored: new[Count::Ignored as usize],
            rejected: new[Count::Rejected as usize],
            ..Summary::default()
        };
        self.append(name, generation, summary, None)
    }

    /// Appends outcomes.
    pub(crate) fn append(
        &mut self,
        name: &CircuitName,
        generation: Option<u64>,
        summary: Summary,
        reason: Option<Arc<str>>,
    ) -> Noted {
        if let Some(last) = self.items.back_mut()
            && last.permit.is_none()
            && last.generation == generation
        {
            let joined = last.summary.then(&summary);
            if fits(&joined) {
                last.summary = joined;
                if reason.is_some() {
                    last.reason = reason;
                }
                return kept(&summary);
            }
        }
        self.push(name, generation, None, summary, reason)
    }

    /// Appends the outcome of a call that held a permit of the cluster.
    pub(crate) fn append_probe(
        &mut self,
        name: &CircuitName,
        generation: Option<u64>,
        permit: PermitId,
        summary: Summary,
        reason: Option<Arc<str>>,
    ) -> Noted {
        self.push(name, generation, Some(permit), summary, reason)
    }

    fn push(
        &mut self,
        name: &CircuitName,
        generation: Option<u64>,
        permit: Option<PermitId>,
        summary: Summary,
        reason: Option<Arc<str>>,
    ) -> Noted {
        if self.items.len() >= MAX_ITEMS || !fits(&summary) {
            return Noted {
                kept: 0,
                dropped: summary.calls(),
            };
        }
        self.items.push_back(ReportItem {
            name: name.clone(),
            generation,
            permit,
            summary,
            reason,
            metadata: Metadata::new(),
        });
        kept(&summary)
    }

    /// What was found out alone is over: the dependency works again. It counts in the totals, but must not open the circuit of the fleet.
    pub(crate) fn bygones(&mut self) {
        // A permit of the cluster still gives its place back.
        for item in self.items.iter_mut().filter(|item| item.permit.is_none()) {
            item.generation = Some(LONG_AGO);
        }
    }

    /// The oldest item, to be sent.
    pub(crate) fn take_first(&mut self) -> Option<Item> {
        self.items.pop_front().map(Item)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

fn kept(summary: &Summary) -> Noted {
    Noted {
        kept: summary.calls(),
        dropped: 0,
    }
}

/// Whether the cluster takes so many at once.
fn fits(summary: &Summary) -> bool {
    let most = summary.failures.max(summary.successes);
    most.max(summary.ignored).max(summary.rejected) <= MAX_OUTCOMES
}
