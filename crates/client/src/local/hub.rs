//! What the circuits of one client share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use brama_core::ClusterTime;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::ledger::Noted;
use super::{Clock, Local};
use crate::reach::{OnUnreachable, Reach};

/// Where circuits say that they have something to tell, and what holds for all of them.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) on_unreachable: OnUnreachable,
    pub(crate) reach: Reach,
    /// Circuits that have something to tell at once.
    urgent: Mutex<Vec<Arc<Local>>>,
    /// Rings for whoever sends.
    pub(crate) something_urgent: Notify,
    pub(crate) counters: Counters,
    /// Since a message told a time.
    clock: Mutex<Option<Clock>>,
    /// The newest event that is known, or known not to matter.
    seen: AtomicU64,
}

/// Outcomes, by what became of them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// All that were counted, whatever became of them since.
    pub(crate) counted: AtomicU64,
    pub(crate) acknowledged: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) not_found: AtomicU64,
    /// Batches that were acknowledged.
    pub(crate) batches: AtomicU64,
}

impl Hub {
    pub(crate) fn new(on_unreachable: OnUnreachable, reach: Reach) -> Self {
        Self {
            on_unreachable,
            reach,
            urgent: Mutex::default(),
            something_urgent: Notify::new(),
            counters: Counters::default(),
            clock: Mutex::new(None),
            seen: AtomicU64::new(0),
        }
    }

    /// Everything up to this revision is known.
    pub(crate) fn saw(&self, revision: u64) {
        self.seen.fetch_max(revision, Ordering::Release);
    }

    /// Up to which revision everything is known.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    /// What was known was another cluster's.
    pub(crate) fn forget(&self) {
        self.seen.store(0, Ordering::Release);
        *self.clock.lock() = None;
    }

    /// A message of this cluster time came.
    pub(crate) fn hear(&self, time: ClusterTime) -> Clock {
        let mut clock = self.clock.lock();
        let clock = clock.get_or_insert_with(|| Clock::new(time));
        clock.hear(time);
        *clock
    }

    pub(crate) fn list(&self, circuit: Arc<Local>) {
        self.urgent.lock().push(circuit);
        self.something_urgent.notify_one();
    }

    pub(crate) fn take_urgent(&self) -> Vec<Arc<Local>> {
        std::mem::take(&mut *self.urgent.lock())
    }

    pub(crate) fn has_urgent(&self) -> bool {
        !self.urgent.lock().is_empty()
    }
}

impl Counters {
    pub(crate) fn note(&self, noted: Noted) {
        self.counted
            .fetch_add(noted.kept + noted.dropped, Ordering::Relaxed);
        if noted.dropped > 0 {
            self.dropped.fetch_add(noted.dropped, Ordering::Relaxed);
        }
    }
}
