//! How a link behaves, and what that did to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// How a link behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// As if there were no proxy.
    #[default]
    Clean,
    /// Everything arrives later, in order.
    Slow {
        /// By so much at least.
        delay: Duration,
        /// And by up to so much more, anew for each piece.
        jitter: Duration,
    },
    /// So many bytes a second each way.
    Throttled {
        /// Each way, for each connection.
        bytes_per_second: u32,
    },
    /// Nothing passes; nothing breaks. Everything arrives once it is another shape.
    Frozen,
    /// Connections end with RST, new ones too.
    Reset,
    /// Each connection ends with RST after so many bytes, wherever that is in a message.
    CutAfter {
        /// Both ways together.
        bytes: u64,
    },
}

/// What a proxy did, since it began.
#[derive(Debug, Default)]
pub struct Effects {
    pub(super) held_back: AtomicU64,
    pub(super) resets: AtomicU64,
}

/// The numbers of [`Effects`] at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pieces that were made to wait.
    pub held_back: u64,
    /// Connections that were ended with RST by the shape.
    pub resets: u64,
}

impl Effects {
    /// The numbers now.
    pub fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            held_back: read(&self.held_back),
            resets: read(&self.resets),
        }
    }

    pub(super) fn count(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counts {
    /// What this shape has done to the link since `before`; `None`: nothing.
    pub fn proof(&self, before: &Self, shape: Shape) -> Option<String> {
        let held_back = self.held_back - before.held_back;
        let resets = self.resets - before.resets;
        match shape {
            Shape::Clean => None,
            Shape::Slow { .. } | Shape::Throttled { .. } | Shape::Frozen => {
                (held_back > 0).then(|| format!("{held_back} pieces held back"))
            }
            Shape::Reset | Shape::CutAfter { .. } => (resets > 0).then(|| format!("{resets} resets")),
        }
    }
}
