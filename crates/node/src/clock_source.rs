//! The clocks of this machine: the only file that reads them for decisions.
//!
//! Both are handed to `brama_raft`, which makes cluster time out of them. The monotonic clock measures; the wall clock is leaned on, and
//! asked for the time only when the whole cluster was down.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use brama_raft::TimeSource;

/// `CLOCK_MONOTONIC` and the system's wall clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClocks {
    start: Instant,
}

impl SystemClocks {
    /// Clocks whose monotonic time begins now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClocks {
    fn default() -> Self {
        Self::new()
    }
}

impl TimeSource for SystemClocks {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall(&self) -> Duration {
        // A wall clock from before 1970 is wrong by decades; the epoch is as good a guess, and nothing depends on it alone.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}
