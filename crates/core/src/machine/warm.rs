//! Fetching what reports are about to touch. It changes nothing and decides nothing.
//!
//! A report touches a dozen pieces of memory that nothing has touched lately, and where each is, is known only when the one before it has come:
//! applied one by one, reports mostly wait for memory. Looked up beforehand, one step for many of them and then the next, the processor waits
//! for many at once. `brama-bench size apply` shows what a report costs.

use std::hint::black_box;
use std::sync::Arc;

use super::{Machine, index};
use crate::circuit::Circuit;
use crate::command::{CircuitId, Command, ReportBatch, ReportItem};

/// Fewer are not worth the trouble.
const FEW: usize = 4;
/// No more at a time: what they touch has to stay in the processor's caches until it is used.
pub(super) const AT_ONCE: usize = 64;

/// Which circuit each of some items most likely means, as it was before the first of them was applied; none where that was not asked.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    ids: Vec<Option<CircuitId>>,
    /// So many were for those who came before.
    used: usize,
}

impl Guesses {
    /// Those for the next `items` items, of which each has its place, also if it is never applied.
    pub(super) fn next(&mut self, items: usize) -> &[Option<CircuitId>] {
        let from = self.used.min(self.ids.len());
        self.used += items;
        &self.ids[from..self.used.min(self.ids.len())]
    }
}

/// Whether a batch is fetched by itself ([`Machine::warm_items`]), and not with the commands beside it.
pub(super) fn is_many(batch: &ReportBatch) -> bool {
    batch.items.len() >= FEW
}

impl Machine {
    /// Brings near what the small reports among these commands touch. Gives the guesses of all of them, in their order.
    pub(super) fn warm_commands(&self, commands: &[Command]) -> Guesses {
        if commands.len() < FEW {
            return Guesses::default();
        }
        let small = commands.iter().filter_map(|command| match command {
            Command::Report(batch) if !is_many(batch) => Some(&batch.items),
            _ => None,
        });
        self.warm(small.flatten())
    }

    /// Brings near what a part of a large batch touches: at most [`AT_ONCE`] items of it.
    pub(super) fn warm_items(&self, items: &[ReportItem]) -> Guesses {
        self.warm(items.iter())
    }

    fn warm<'a>(&self, items: impl Iterator<Item = &'a ReportItem>) -> Guesses {
        let Some(index) = &self.index else {
            return Guesses::default();
        };
        // Each step is a loop of its own on purpose: only independent reads overlap.
        let hashes: Vec<u64> = items.map(|item| index::hash(&item.name)).collect();
        let ids: Vec<_> = hashes.iter().map(|hash| index.guess(*hash)).collect();
        let known = ids.iter().flatten();
        let circuits: Vec<&Arc<Circuit>> = known.filter_map(|id| self.state.circuits.get(id)).collect();
        black_box(
            circuits
                .iter()
                .map(|circuit| circuit.touch())
                .fold(0, u64::wrapping_add),
        );
        // Each report adds an event, for which the oldest goes.
        black_box(self.state.events.touch_oldest(ids.len()));
        Guesses { ids, used: 0 }
    }
}
