//! What the flushes cost: for metrics, and for the question whether this disk is fit for the election timeout.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::figures::FlushHistograms;

/// Counters of the log's flushes since it was opened. Reading them is wait-free.
#[derive(Debug, Default)]
pub(crate) struct FlushStats {
    flushes: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    last_micros: AtomicU64,
    longest_micros: AtomicU64,
    total_micros: AtomicU64,
    slow: AtomicU64,
    histograms: FlushHistograms,
}

impl FlushStats {
    /// Flushes that reached the disk.
    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.load(Relaxed)
    }

    /// Entries that they made durable.
    pub(crate) fn entries(&self) -> u64 {
        self.entries.load(Relaxed)
    }

    /// Bytes of these entries, as they were given to the store.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// How long the newest flush took, writing included.
    pub(crate) fn last(&self) -> Duration {
        Duration::from_micros(self.last_micros.load(Relaxed))
    }

    /// How long the longest took.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_micros(self.longest_micros.load(Relaxed))
    }

    /// How long all took together.
    pub(crate) fn total(&self) -> Duration {
        Duration::from_micros(self.total_micros.load(Relaxed))
    }

    /// How many took so long that it was logged.
    pub(crate) fn slow(&self) -> u64 {
        self.slow.load(Relaxed)
    }

    /// How the flushes are spread.
    pub(crate) fn histograms(&self) -> &FlushHistograms {
        &self.histograms
    }

    pub(super) fn record_slow(&self) {
        self.slow.fetch_add(1, Relaxed);
    }

    pub(super) fn record(&self, entries: u64, bytes: u64, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.flushes.fetch_add(1, Relaxed);
        self.entries.fetch_add(entries, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.last_micros.store(micros, Relaxed);
        self.longest_micros.fetch_max(micros, Relaxed);
        self.total_micros.fetch_add(micros, Relaxed);
        self.histograms.micros.observe(micros);
        self.histograms.entries.observe(entries);
        self.histograms.bytes.observe(bytes);
    }
}
