//! Fetching what an entry is about to touch. It changes nothing and decides nothing.
//!
//! A report touches a dozen pieces of memory that nothing has touched lately, and where each is, is known only when the one before it has come:
//! applied one by one, reports mostly wait for memory. Looked up beforehand, one step for all of an entry and then the next, the processor waits
//! for many at once. `brama-bench size apply` shows what it is worth.

use std::hint::black_box;
use std::sync::Arc;

use super::{Machine, index};
use crate::circuit::Circuit;
use crate::command::{CircuitId, Command};

/// Fewer are not worth the trouble.
const FEW: usize = 4;
/// No more at a time: what they touch has to stay in the processor's caches until it is used.
pub(super) const AT_ONCE: usize = 512;

impl Machine {
    /// Brings near what these commands report, so far as they are reports.
    pub(super) fn warm(&self, commands: &[Command]) {
        let Some(index) = &self.index else { return };
        if commands.len() < FEW {
            return;
        }
        // Each step is a loop of its own on purpose: only independent reads overlap.
        let reports = commands.iter().filter_map(|command| match command {
            Command::Report(batch) => Some(&batch.items),
            _ => None,
        });
        let hashes: Vec<u64> = reports
            .flatten()
            .take(AT_ONCE)
            .map(|item| index::hash(&item.name))
            .collect();
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
