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

/// Whether a batch is fetched by itself ([`Machine::warm_batch`]), and not with the commands beside it.
fn is_many(batch: &ReportBatch) -> bool {
    batch.items.len() >= FEW
}

impl Machine {
    /// Brings near what the small reports among these commands touch.
    pub(super) fn warm_commands(&self, commands: &[Command]) {
        if commands.len() >= FEW {
            let small = commands.iter().filter_map(|command| match command {
                Command::Report(batch) if !is_many(batch) => Some(&batch.items),
                _ => None,
            });
            self.warm(small.flatten());
        }
    }

    /// Brings near what a part of a large batch touches: at most [`AT_ONCE`] items of it.
    pub(super) fn warm_batch(&self, batch: &ReportBatch, items: &[ReportItem]) {
        if is_many(batch) {
            self.warm(items.iter());
        }
    }

    fn warm<'a>(&self, items: impl Iterator<Item = &'a ReportItem>) {
        let Some(index) = &self.index else { return };
        // Each step is a loop of its own on purpose: only independent reads overlap.
        let hashes: Vec<u64> = items.map(|item| index::hash(&item.name)).collect();
        let ids: Vec<CircuitId> = hashes.iter().filter_map(|hash| index.guess(*hash)).collect();
        let circuits: Vec<&Arc<Circuit>> = ids.iter().filter_map(|id| self.state.circuits.get(id)).collect();
        black_box(
            circuits
                .iter()
                .map(|circuit| circuit.touch())
                .fold(0, u64::wrapping_add),
        );
        // Each report adds an event, for which the oldest goes.
        black_box(self.state.events.touch_oldest(ids.len()));
    }
}
