//! Whether this node is part of a majority, as far as it can know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What this node knows of the majority. Cheap to clone.
///
/// A leader knows when a majority last answered it. A follower knows when a leader last spoke to it, and whether that leader had a
/// majority then: a leader in a minority goes on sending heartbeats to the followers that are cut off with it.
#[derive(Clone)]
pub(crate) struct Quorum {
    patience: Duration,
    leader_has_it: Arc<AtomicBool>,
    heard: Arc<Mutex<Option<Instant>>>,
}

impl Quorum {
    /// `patience`: how long a sign of a majority is good for; the longest election timeout.
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            leader_has_it: Arc::default(),
            heard: Arc::default(),
        }
    }

    /// As leader: whether a majority answered within the lease.
    pub(crate) fn set_leader(&self, has_it: bool) {
        self.leader_has_it.store(has_it, Ordering::Relaxed);
    }

    /// What the leader tells its followers.
    pub(crate) fn leader_has_it(&self) -> bool {
        self.leader_has_it.load(Ordering::Relaxed)
    }

    /// As follower: a leader spoke, and had a majority.
    pub(crate) fn heard_leader(&self) {
        *self.heard.lock() = Some(Instant::now());
    }

    /// Whether this node is part of a majority, as far as it knows.
    pub(crate) fn has_it(&self) -> bool {
        self.leader_has_it()
            || self
                .heard
                .lock()
                .is_some_and(|heard| heard.elapsed() <= self.patience)
    }
}
