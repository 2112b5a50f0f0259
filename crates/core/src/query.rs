//! What can be read from the state, without changing it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::circuit::StateName;
use crate::name::CircuitName;
use crate::policy::EffectivePolicy;
use crate::report::Summary;
use crate::shared_metadata::SharedMetadata;
use crate::time::ClusterTime;

/// A circuit as `Status` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CircuitStatus {
    /// Its name.
    pub name: CircuitName,
    /// Its state.
    pub state: StateName,
    /// Raised by one with each transition.
    pub generation: u64,
    /// Consecutive failures.
    pub failure_count: u32,
    /// What holds, and which values are its own.
    pub policy: EffectivePolicy,
    /// When the current opening began; kept while half-open.
    pub opened_at: Option<ClusterTime>,
    /// When it half-opens; `None` when not open, or never.
    pub expires_at: Option<ClusterTime>,
    /// Openings since it was last closed.
    pub openings_in_a_row: u32,
    /// Of any report, late ones too.
    pub last_success_at: Option<ClusterTime>,
    /// Of any report, late ones too.
    pub last_failure_at: Option<ClusterTime>,
    /// As a report or a manual act gave it last.
    pub last_reason: Option<Arc<str>>,
    /// Since it was registered.
    pub totals: Totals,
    /// When it was registered.
    pub registered_at: ClusterTime,
    /// The last change of its state.
    pub changed_at: ClusterTime,
    /// As registered.
    pub metadata: SharedMetadata,
    /// Of its last event.
    pub revision: u64,
    /// Half-open: permits that are out.
    pub probes_in_flight: u32,
    /// Half-open: successful probes so far.
    pub probe_successes: u32,
}

/// Counts since a circuit was registered, late reports included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Successful calls.
    pub successes: u64,
    /// Failed calls.
    pub failures: u64,
    /// Calls that were neither.
    pub ignored: u64,
    /// Calls that clients did not make because of the circuit.
    pub rejected: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, summary: &Summary) {
        self.successes = self.successes.saturating_add(summary.successes);
        self.failures = self.failures.saturating_add(summary.failures);
        self.ignored = self.ignored.saturating_add(summary.ignored);
        self.rejected = self.rejected.saturating_add(summary.rejected);
    }
}

/// Which circuits a listing shows.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Only of this scope; empty, which no scope is: only those without one. `None`: of every scope and of none.
    pub scope: Option<String>,
    /// Only in these states; empty: in any.
    pub states: Vec<StateName>,
    /// Only identifiers that begin so.
    pub identifier_prefix: String,
    /// Only names after this one.
    pub after: Option<CircuitName>,
    /// At most so many.
    pub limit: usize,
}

/// Whether a call would pass; the answer of `Available`.
#[derive(Clone, Debug, PartialEq)]
pub struct Availability {
    /// Whether it would.
    pub available: bool,
    /// The circuit's state.
    pub state: StateName,
    /// The circuit's generation.
    pub generation: u64,
    /// When it makes sense to ask again, in milliseconds.
    pub retry_after_ms: Option<u64>,
    /// Why the circuit is not closed.
    pub reason: Option<Arc<str>>,
    /// When the current opening began.
    pub opened_at: Option<ClusterTime>,
}

/// The events asked for are no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("events up to revision {} are no longer kept", oldest - 1)]
pub struct Compacted {
    /// The oldest revision that is kept; reading after `oldest - 1` works.
    pub oldest: u64,
}
