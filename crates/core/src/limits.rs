//! Every bound of the breaker, named once.
//!
//! The first group is fixed. The second, [`Limits`], is replicated: it is written to the log when a cluster is bootstrapped,
//! because a limit that differed between nodes would make them decide differently.

use serde::{Deserialize, Serialize};

/// Bytes in a scope or an identifier; at least one.
pub const MAX_NAME_BYTES: usize = 255;
/// Entries in the metadata of a circuit or of a report.
pub const MAX_METADATA_ENTRIES: usize = 32;
/// Bytes in a metadata key; at least one.
pub const MAX_METADATA_KEY_BYTES: usize = 64;
/// Bytes in a metadata value.
pub const MAX_METADATA_VALUE_BYTES: usize = 1024;
/// Bytes in a reason.
pub const MAX_REASON_BYTES: usize = 1024;
/// Bytes in a client's request.
pub const MAX_REQUEST_BYTES: usize = 1024 * 1024;
/// Items in one report batch, so that the reply a session remembers stays small.
pub const MAX_REPORT_ITEMS: usize = 1000;
/// Outcomes in one summary.
pub const MAX_OUTCOMES: u64 = 1_000_000_000;
/// Outcomes listed one by one in one report item.
pub const MAX_LISTED_OUTCOMES: usize = 10_000;
/// The longest expiry, probe timeout and the like, in milliseconds: 30 days.
pub const MAX_EXPIRY_MS: u64 = 30 * 24 * 3600 * 1000;
/// The longest `inactive_threshold`, in milliseconds: 365 days.
pub const MAX_INACTIVE_THRESHOLD_MS: u64 = 365 * 24 * 3600 * 1000;
/// The shortest `cleanup_interval`, in milliseconds.
pub const MIN_CLEANUP_INTERVAL_MS: u64 = 10;
/// The largest `half_open_max_probes`: permits are state.
pub const MAX_PROBES: u32 = 1000;
/// The largest `half_open_successes`.
pub const MAX_HALF_OPEN_SUCCESSES: u32 = 1_000_000;
/// A session ends after this much idle cluster time, in milliseconds: 10 minutes.
pub const SESSION_IDLE_MS: u64 = 10 * 60 * 1000;
/// Things that one [`Fire`](crate::command::Command::Fire) command may do, so that no single entry holds up the others.
pub const MAX_FIRE: usize = 500;

/// The limits that a cluster chose at its bootstrap. Replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Circuits that may be registered.
    pub max_circuits: u64,
    /// Sessions that may live at once.
    pub max_sessions: u64,
    /// Newest events that the log keeps.
    pub max_events: u64,
    /// Bytes of newest events that the log keeps, as [`Event::cost_bytes`](crate::event::Event::cost_bytes) counts them.
    pub max_event_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_circuits: 100_000,
            max_sessions: 100_000,
            max_events: 100_000,
            max_event_bytes: 64 * 1024 * 1024,
        }
    }
}
