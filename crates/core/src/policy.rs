//! Policies: what is set, what is inherited, what holds.

use serde::{Deserialize, Serialize};

use crate::reply::Refusal;

/// How long a circuit stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiry {
    /// 1 ms ..= 30 days, in milliseconds.
    Ms(u64),
    /// Until a manual act.
    Never,
}

/// How the length of an opening follows from those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpiryStrategy {
    /// Every opening lasts `expiry`.
    Fixed,
    /// The n-th opening in a row lasts `min(max_expiry, initial_expiry * backoff_factor^(n-1))`.
    Progressive,
}

/// What somebody set at one level; what is `None` is inherited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Consecutive failures that open a closed circuit; >= 1.
    pub max_attempts: Option<u32>,
    /// Open time before half-open.
    pub expiry: Option<Expiry>,
    /// How openings in a row lengthen.
    pub expiry_strategy: Option<ExpiryStrategy>,
    /// Length of the first opening in a row, in milliseconds (progressive).
    pub initial_expiry_ms: Option<u64>,
    /// Length that no opening exceeds, in milliseconds (progressive).
    pub max_expiry_ms: Option<u64>,
    /// Factor from opening to opening, 1.0 ..= 100.0 (progressive).
    pub backoff_factor: Option<f64>,
    /// Probes in flight at once, over the whole cluster.
    pub half_open_max_probes: Option<u32>,
    /// Successful probes that close the circuit.
    pub half_open_successes: Option<u32>,
    /// A probe not reported after this gives its place back, in milliseconds.
    pub probe_timeout_ms: Option<u64>,
}

/// Options that exist only for the cluster as a whole; what is `None` is inherited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalOptions {
    /// Idle time after which a closed circuit without failures is removed, in milliseconds.
    pub inactive_threshold_ms: Option<u64>,
    /// How often the cluster looks for such circuits, in milliseconds.
    pub cleanup_interval_ms: Option<u64>,
}

/// The options, to name them in `clear` and in errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PolicyOption {
    /// See [`Policy::max_attempts`].
    MaxAttempts,
    /// See [`Policy::expiry`].
    Expiry,
    /// See [`Policy::expiry_strategy`].
    ExpiryStrategy,
    /// See [`Policy::initial_expiry_ms`].
    InitialExpiry,
    /// See [`Policy::max_expiry_ms`].
    MaxExpiry,
    /// See [`Policy::backoff_factor`].
    BackoffFactor,
    /// See [`Policy::half_open_max_probes`].
    HalfOpenMaxProbes,
    /// See [`Policy::half_open_successes`].
    HalfOpenSuccesses,
    /// See [`Policy::probe_timeout_ms`].
    ProbeTimeout,
    /// See [`GlobalOptions::inactive_threshold_ms`].
    InactiveThreshold,
    /// See [`GlobalOptions::cleanup_interval_ms`].
    CleanupInterval,
}

/// Every option with the value that holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EffectivePolicy {
    /// See [`Policy::max_attempts`].
    pub max_attempts: u32,
    /// See [`Policy::expiry`].
    pub expiry: Expiry,
    /// See [`Policy::expiry_strategy`].
    pub expiry_strategy: ExpiryStrategy,
    /// See [`Policy::initial_expiry_ms`]; `None` when it would derive from an expiry of `never`.
    pub initial_expiry_ms: Option<u64>,
    /// See [`Policy::max_expiry_ms`]; `None` when it would derive from an expiry of `never`.
    pub max_expiry_ms: Option<u64>,
    /// See [`Policy::backoff_factor`].
    pub backoff_factor: f64,
    /// See [`Policy::half_open_max_probes`].
    pub half_open_max_probes: u32,
    /// See [`Policy::half_open_successes`].
    pub half_open_successes: u32,
    /// See [`Policy::probe_timeout_ms`].
    pub probe_timeout_ms: u64,
    /// What is set on the circuit itself, in the order of [`PolicyOption`].
    pub own: Vec<PolicyOption>,
}

impl Policy {
    /// Checks each value by itself, and those that are set here against each other.
    ///
    /// # Errors
    /// [`Refusal::InvalidArgument`] that names the field, as `policy.<option>`.
    pub fn validate(&self) -> Result<(), Refusal> {
        Err(Refusal::invalid("policy", "not written yet"))
    }
}
