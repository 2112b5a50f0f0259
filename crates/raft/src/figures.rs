//! What a replica tells of itself in numbers, for metrics: how its disk, its state and its place in the cluster fare.
//!
//! Each part counts for itself, with atomics (`log_store::stats`, [`StateStats`], [`ClusterStats`]); [`Figures`] is what they all have
//! counted at one moment. A new number is a field there and a line in [`Replica::figures`](crate::Replica::figures).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::forward::ForwardError;
use crate::histogram::{BYTES, Distribution, Histogram, LONG_MICROS, NUMBERS, SHORT_MICROS};

/// Everything that was counted since this process started the replica, except where it says "now".
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Figures {
    /// Flushes of the log: one write and one `fdatasync`, in microseconds.
    pub flush_micros: Distribution,
    /// Entries a flush made durable.
    pub flush_entries: Distribution,
    /// Bytes of entries a flush made durable.
    pub flush_bytes: Distribution,
    /// Flushes that were logged because they took long.
    pub slow_flushes: u64,
    /// Applying one entry, in microseconds.
    pub apply_micros: Distribution,
    /// Commands in an entry that was applied; clock entries have none.
    pub entry_commands: Distribution,
    /// Applies that were logged because they took long.
    pub slow_applies: u64,
    /// How late what this node fired as leader was applied after its deadline, in microseconds.
    pub timer_micros: Distribution,
    /// Snapshots that this node built, and those that it got from the leader.
    pub snapshots_built: SnapshotFigures,
    /// See `snapshots_built`.
    pub snapshots_installed: SnapshotFigures,
    /// Bytes of the newest snapshot on disk now; 0: there is none.
    pub snapshot_bytes: u64,
    /// What became of what this node asked the leader for: request, result, how many.
    pub forwarded: Vec<(&'static str, &'static str, u64)>,
    /// Elections in which this node stood.
    pub elections: u64,
    /// How often this node learned of another leader, or of the same one in a new term.
    pub leader_changes: u64,
    /// Commands that wait for a place in an entry now (on the leader).
    pub waiting_commands: u64,
    /// Requests that wait for their way to the leader now (on a follower).
    pub waiting_forwards: u64,
    /// As leader: how long ago each other member last answered. Empty on the others.
    pub peer_silence: Vec<(u64, Duration)>,
}

/// Snapshots of one kind.
#[derive(Clone, Debug)]
pub struct SnapshotFigures {
    /// How long one took, in microseconds.
    pub micros: Distribution,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// What the state store counts.
#[derive(Debug)]
pub(crate) struct StateStats {
    pub(crate) apply_micros: Histogram,
    pub(crate) entry_commands: Histogram,
    pub(crate) slow_applies: AtomicU64,
    pub(crate) timer_micros: Histogram,
    pub(crate) built: SnapshotStats,
    pub(crate) installed: SnapshotStats,
    pub(crate) snapshot_bytes: AtomicU64,
}

impl Default for StateStats {
    fn default() -> Self {
        Self {
            apply_micros: Histogram::new(SHORT_MICROS),
            entry_commands: Histogram::new(NUMBERS),
            slow_applies: AtomicU64::new(0),
            timer_micros: Histogram::new(SHORT_MICROS),
            built: SnapshotStats::default(),
            installed: SnapshotStats::default(),
            snapshot_bytes: AtomicU64::new(0),
        }
    }
}

#[derive(Debug)]
pub(crate) struct SnapshotStats {
    micros: Histogram,
    bytes: AtomicU64,
}

impl Default for SnapshotStats {
    fn default() -> Self {
        Self {
            micros: Histogram::new(LONG_MICROS),
            bytes: AtomicU64::new(0),
        }
    }
}

impl SnapshotStats {
    pub(crate) fn record(&self, took: Duration, bytes: u64) {
        self.micros.observe_micros(took);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn read(&self) -> SnapshotFigures {
        SnapshotFigures {
            micros: self.micros.read(),
            bytes: self.bytes.load(Relaxed),
        }
    }
}

/// Entries and bytes a flush, and how long it took.
#[derive(Debug)]
pub(crate) struct FlushHistograms {
    pub(crate) micros: Histogram,
    pub(crate) entries: Histogram,
    pub(crate) bytes: Histogram,
}

impl Default for FlushHistograms {
    fn default() -> Self {
        Self {
            micros: Histogram::new(SHORT_MICROS),
            entries: Histogram::new(NUMBERS),
            bytes: Histogram::new(BYTES),
        }
    }
}

/// What a node counts of its place in the cluster.
#[derive(Debug, Default)]
pub(crate) struct ClusterStats {
    pub(crate) elections: AtomicU64,
    pub(crate) leader_changes: AtomicU64,
    forwarded: [[AtomicU64; FORWARD_RESULTS.len()]; FORWARDS.len()],
    pub(crate) pulse: Pulse,
}

/// What a follower asks its leader for.
const FORWARDS: [&str; 2] = ["command", "read_index"];
pub(crate) const COMMAND: usize = 0;
pub(crate) const READ_INDEX: usize = 1;

/// What becomes of it. `answered`: the leader applied it, whatever the answer is. `abandoned`: the caller's deadline came first.
const FORWARD_RESULTS: [&str; 5] = ["answered", "not_leader", "refused", "unknown", "abandoned"];
const ABANDONED: usize = 4;

impl ClusterStats {
    /// Counts `number` requests that are on their way, as abandoned unless it is told what became of them.
    pub(crate) fn forward(&self, what: usize, number: usize) -> Forwarding<'_> {
        Forwarding {
            results: &self.forwarded[what],
            left: number as u64,
        }
    }

    pub(crate) fn forwarded(&self) -> Vec<(&'static str, &'static str, u64)> {
        let of = |(what, results): (&'static str, &[AtomicU64; FORWARD_RESULTS.len()])| {
            let counts = results.iter().map(|count| count.load(Relaxed));
            let named = FORWARD_RESULTS.into_iter().zip(counts);
            named
                .map(|(result, count)| (what, result, count))
                .collect::<Vec<_>>()
        };
        FORWARDS.into_iter().zip(&self.forwarded).flat_map(of).collect()
    }
}

/// See [`ClusterStats::forward`].
pub(crate) struct Forwarding<'a> {
    results: &'a [AtomicU64; FORWARD_RESULTS.len()],
    left: u64,
}

impl Forwarding<'_> {
    /// What became of one.
    pub(crate) fn came<T>(&mut self, outcome: &Result<T, ForwardError>) {
        let result = match outcome {
            Ok(_) => 0,
            Err(ForwardError::NotLeader) => 1,
            Err(ForwardError::Refused { .. }) => 2,
            Err(ForwardError::Unknown(_)) => 3,
        };
        self.results[result].fetch_add(1, Relaxed);
        self.left = self.left.saturating_sub(1);
    }
}

impl Drop for Forwarding<'_> {
    fn drop(&mut self) {
        self.results[ABANDONED].fetch_add(self.left, Relaxed);
    }
}

/// When consensus and the task that applies last answered.
#[derive(Debug)]
pub(crate) struct Pulse(Mutex<Instant>);

impl Default for Pulse {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Pulse {
    pub(crate) fn beat(&self) {
        *self.0.lock() = Instant::now();
    }

    pub(crate) fn silent_for(&self) -> Duration {
        self.0.lock().elapsed()
    }
}
