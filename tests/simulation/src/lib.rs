//! Checks of what a simulated cluster was seen to do; the simulation itself is in `tests/simulation`.
//!
//! They know the guarantees and the types of events, and nothing of how a node works. [`Nodes`] compares what is seen of the nodes as it comes:
//! hashes, leaders, events. [`History`] holds what clients asked and what they were told; [`judge`] holds it against the events.

mod history;
mod nodes;
mod verdict;

pub use history::{Batch, History, Manual, Position, Probe, Read};
pub use nodes::{Nodes, Seen};
pub use verdict::{Settings, judge};

/// Milliseconds of simulated time.
pub type Ms = u64;

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which guarantee it is against, by its number in the contract.
    pub guarantee: &'static str,
    /// What was seen.
    pub what: String,
}

impl Broken {
    /// A guarantee, and what was seen against it.
    pub fn new(guarantee: &'static str, what: impl Into<String>) -> Self {
        Self {
            guarantee,
            what: what.into(),
        }
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.guarantee, self.what)
    }
}
