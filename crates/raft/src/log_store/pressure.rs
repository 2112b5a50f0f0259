//! How the log's disk fares, as the writer's thread tells it to everybody else.
//!
//! Three things can be wrong with a disk that works: it is full, it is slow, or it hangs. Then more and more waits for the writer, and the
//! end of that is an `append` that waits inside openraft's one task, with the votes and heartbeats behind it. So whoever has entries for
//! the log asks [`Pressure::takes`] first, and keeps them while it says no: the leader its proposals, a follower the leader's requests.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// What the journal keeps for what does not ask, or asked before: votes, a new leader's first entry, the requests that are on their way.
const RESERVE: u64 = 1536 * 1024;

/// See the module. Reading it is wait-free.
pub(super) struct Pressure {
    origin: Instant,
    /// Microseconds from `origin` to the beginning of the flush that is under way, and one; 0: none is.
    flushing_since: AtomicU64,
    /// Bytes that the journal takes yet. `u64::MAX`: it is emptied behind its writer.
    left: AtomicU64,
    full_since: watch::Sender<Option<Instant>>,
    closing: AtomicBool,
}

impl Default for Pressure {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            flushing_since: AtomicU64::new(0),
            left: AtomicU64::new(u64::MAX),
            full_since: watch::Sender::new(None),
            closing: AtomicBool::new(false),
        }
    }
}

impl Pressure {
    pub(super) fn flush_begins(&self) {
        let micros = u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
        self.flushing_since.store(micros + 1, Relaxed);
    }

    pub(super) fn flush_ends(&self) {
        self.flushing_since.store(0, Relaxed);
    }

    /// How long the flush that is under way has taken so far.
    pub(super) fn flushing_for(&self) -> Option<Duration> {
        let since = self.flushing_since.load(Relaxed).checked_sub(1)?;
        Some(self.origin.elapsed().saturating_sub(Duration::from_micros(since)))
    }

    /// The disk is full, and the journal takes so many bytes yet.
    pub(super) fn full(&self, left: u64) {
        self.left.store(left, Relaxed);
        self.full_since
            .send_if_modified(|since| since.is_none() && since.replace(Instant::now()).is_none());
    }

    /// The disk is not full. If it was until now: for how long.
    pub(super) fn has_room_again(&self) -> Option<Duration> {
        // After each flush: nearly always there is nothing to tell.
        if self.left.swap(u64::MAX, Relaxed) == u64::MAX {
            return None;
        }
        let mut was_full = None;
        self.full_since.send_if_modified(|since| {
            was_full = since.take();
            was_full.is_some()
        });
        was_full.map(|since| since.elapsed())
    }

    pub(super) fn full_since(&self) -> Option<Instant> {
        *self.full_since.borrow()
    }

    /// Whether the journal takes more entries, with so many bytes on their way to it.
    pub(super) fn takes(&self, waiting: u64) -> bool {
        self.left.load(Relaxed).saturating_sub(waiting) > RESERVE
    }

    /// Returns when the disk is not full, or nobody waits for that any more.
    pub(super) async fn until_room(&self) {
        let mut full = self.full_since.subscribe();
        // The sender lives in `self`.
        let _ = full.wait_for(Option::is_none).await;
    }

    /// The log is closed: nobody waits for room any more.
    pub(super) fn close(&self) {
        self.closing.store(true, Relaxed);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However there was room again, it is told once.
    #[test]
    fn the_end_of_a_full_disk_is_told_once() {
        let pressure = Pressure::default();
        assert_eq!(pressure.has_room_again(), None, "it was never full");
        pressure.full(1000);
        pressure.full(500);
        assert!(pressure.full_since().is_some());
        assert!(pressure.has_room_again().is_some());
        assert_eq!(pressure.has_room_again(), None);
        assert!(pressure.full_since().is_none());
    }
}
