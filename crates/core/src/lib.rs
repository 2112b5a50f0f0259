//! The breaker itself: a pure, deterministic state machine.
//!
//! Commands go in with the cluster time at which they count; replies and events come out. Nothing here reads a clock, does I/O,
//! draws a random number or iterates in an order that could differ between two nodes, because every node of a
//! cluster applies the same commands and must come to the same state, the same events and the same hash.
//!
//! Start at [`machine`]: it holds the state diagram and the way of a command.

pub mod census;
pub mod circuit;
mod circuits;
pub mod codec;
pub mod command;
pub mod cursor;
pub mod event;
pub mod event_log;
pub mod limits;
pub mod machine;
pub mod metadata;
pub mod mutants;
pub mod name;
mod policies;
pub mod policy;
pub mod query;
pub mod reply;
pub mod report;
pub mod session;
mod shared_metadata;
pub mod snapshot;
pub mod tally;
pub mod time;
mod timers;

pub use command::{Batch, Command};
pub use machine::Machine;
pub use metadata::Metadata;
pub use name::{CircuitName, Name};
pub use reply::{Refusal, Reply};
pub use report::Summary;
pub use shared_metadata::SharedMetadata;
pub use time::ClusterTime;
