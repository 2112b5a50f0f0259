//! Policies: what is set, what is inherited, what holds.

use serde::{Deserialize, Serialize};

use crate::limits::{
    MAX_EXPIRY_MS, MAX_HALF_OPEN_SUCCESSES, MAX_INACTIVE_THRESHOLD_MS, MAX_PROBES, MIN_CLEANUP_INTERVAL_MS,
};
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

/// What holds where nothing is set.
pub mod built_in {
    use super::{Expiry, ExpiryStrategy};

    /// See [`Policy::max_attempts`](super::Policy::max_attempts).
    pub const MAX_ATTEMPTS: u32 = 5;
    /// See [`Policy::expiry`](super::Policy::expiry).
    pub const EXPIRY: Expiry = Expiry::Ms(60_000);
    /// See [`Policy::expiry_strategy`](super::Policy::expiry_strategy).
    pub const EXPIRY_STRATEGY: ExpiryStrategy = ExpiryStrategy::Fixed;
    /// `max_expiry` is so many times `expiry`.
    pub const MAX_EXPIRY_FACTOR: u64 = 10;
    /// See [`Policy::backoff_factor`](super::Policy::backoff_factor).
    pub const BACKOFF_FACTOR: f64 = 2.0;
    /// See [`Policy::half_open_max_probes`](super::Policy::half_open_max_probes).
    pub const HALF_OPEN_MAX_PROBES: u32 = 1;
    /// See [`Policy::half_open_successes`](super::Policy::half_open_successes).
    pub const HALF_OPEN_SUCCESSES: u32 = 1;
    /// See [`Policy::probe_timeout_ms`](super::Policy::probe_timeout_ms).
    pub const PROBE_TIMEOUT_MS: u64 = 30_000;
    /// See [`GlobalOptions::inactive_threshold_ms`](super::GlobalOptions::inactive_threshold_ms).
    pub const INACTIVE_THRESHOLD_MS: u64 = 24 * 3600 * 1000;
    /// See [`GlobalOptions::cleanup_interval_ms`](super::GlobalOptions::cleanup_interval_ms).
    pub const CLEANUP_INTERVAL_MS: u64 = 10_000;
}

impl Policy {
    /// Checks each value by itself, and those that are set here against each other.
    ///
    /// # Errors
    /// [`Refusal::InvalidArgument`] that names the field, as `policy.<option>`.
    pub fn validate(&self) -> Result<(), Refusal> {
        at_least_one("policy.max_attempts", self.max_attempts, u32::MAX)?;
        if let Some(expiry) = self.expiry {
            expiry.validate("policy.expiry")?;
        }
        duration(
            "policy.initial_expiry_ms",
            self.initial_expiry_ms,
            1,
            MAX_EXPIRY_MS,
        )?;
        duration("policy.max_expiry_ms", self.max_expiry_ms, 1, MAX_EXPIRY_MS)?;
        if let (Some(initial), Some(max)) = (self.initial_expiry_ms, self.max_expiry_ms)
            && initial > max
        {
            return Err(initial_beyond_max(initial, max));
        }
        if let Some(factor) = self.backoff_factor
            && !(1.0..=100.0).contains(&factor)
        {
            return Err(Refusal::invalid(
                "policy.backoff_factor",
                format!("is {factor}, must be 1.0 ..= 100.0"),
            ));
        }
        at_least_one(
            "policy.half_open_max_probes",
            self.half_open_max_probes,
            MAX_PROBES,
        )?;
        at_least_one(
            "policy.half_open_successes",
            self.half_open_successes,
            MAX_HALF_OPEN_SUCCESSES,
        )?;
        duration("policy.probe_timeout_ms", self.probe_timeout_ms, 1, MAX_EXPIRY_MS)
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is set, in the order of [`PolicyOption`].
    pub fn options(&self) -> Vec<PolicyOption> {
        use PolicyOption as O;
        let set = [
            (O::MaxAttempts, self.max_attempts.is_some()),
            (O::Expiry, self.expiry.is_some()),
            (O::ExpiryStrategy, self.expiry_strategy.is_some()),
            (O::InitialExpiry, self.initial_expiry_ms.is_some()),
            (O::MaxExpiry, self.max_expiry_ms.is_some()),
            (O::BackoffFactor, self.backoff_factor.is_some()),
            (O::HalfOpenMaxProbes, self.half_open_max_probes.is_some()),
            (O::HalfOpenSuccesses, self.half_open_successes.is_some()),
            (O::ProbeTimeout, self.probe_timeout_ms.is_some()),
        ];
        set.into_iter()
            .filter_map(|(option, is_set)| is_set.then_some(option))
            .collect()
    }

    /// This policy with what `over` sets.
    #[must_use]
    pub fn overlaid(&self, over: &Self) -> Self {
        Self {
            max_attempts: over.max_attempts.or(self.max_attempts),
            expiry: over.expiry.or(self.expiry),
            expiry_strategy: over.expiry_strategy.or(self.expiry_strategy),
            initial_expiry_ms: over.initial_expiry_ms.or(self.initial_expiry_ms),
            max_expiry_ms: over.max_expiry_ms.or(self.max_expiry_ms),
            backoff_factor: over.backoff_factor.or(self.backoff_factor),
            half_open_max_probes: over.half_open_max_probes.or(self.half_open_max_probes),
            half_open_successes: over.half_open_successes.or(self.half_open_successes),
            probe_timeout_ms: over.probe_timeout_ms.or(self.probe_timeout_ms),
        }
    }

    /// Inherits this option again.
    pub(crate) fn clear(&mut self, option: PolicyOption) {
        match option {
            PolicyOption::MaxAttempts => self.max_attempts = None,
            PolicyOption::Expiry => self.expiry = None,
            PolicyOption::ExpiryStrategy => self.expiry_strategy = None,
            PolicyOption::InitialExpiry => self.initial_expiry_ms = None,
            PolicyOption::MaxExpiry => self.max_expiry_ms = None,
            PolicyOption::BackoffFactor => self.backoff_factor = None,
            PolicyOption::HalfOpenMaxProbes => self.half_open_max_probes = None,
            PolicyOption::HalfOpenSuccesses => self.half_open_successes = None,
            PolicyOption::ProbeTimeout => self.probe_timeout_ms = None,
            PolicyOption::InactiveThreshold | PolicyOption::CleanupInterval => {}
        }
    }
}

impl GlobalOptions {
    /// Checks each value.
    ///
    /// # Errors
    /// [`Refusal::InvalidArgument`] that names the field, as `global.<option>`.
    pub fn validate(&self) -> Result<(), Refusal> {
        duration(
            "global.inactive_threshold_ms",
            self.inactive_threshold_ms,
            1,
            MAX_INACTIVE_THRESHOLD_MS,
        )?;
        duration(
            "global.cleanup_interval_ms",
            self.cleanup_interval_ms,
            MIN_CLEANUP_INTERVAL_MS,
            MAX_EXPIRY_MS,
        )
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These options with what `over` sets.
    #[must_use]
    pub fn overlaid(&self, over: &Self) -> Self {
        Self {
            inactive_threshold_ms: over.inactive_threshold_ms.or(self.inactive_threshold_ms),
            cleanup_interval_ms: over.cleanup_interval_ms.or(self.cleanup_interval_ms),
        }
    }

    /// What is set, in the order of [`PolicyOption`].
    pub fn options(&self) -> Vec<PolicyOption> {
        let set = [
            (
                PolicyOption::InactiveThreshold,
                self.inactive_threshold_ms.is_some(),
            ),
            (PolicyOption::CleanupInterval, self.cleanup_interval_ms.is_some()),
        ];
        set.into_iter()
            .filter_map(|(option, is_set)| is_set.then_some(option))
            .collect()
    }

    pub(crate) fn clear(&mut self, option: PolicyOption) {
        match option {
            PolicyOption::InactiveThreshold => self.inactive_threshold_ms = None,
            PolicyOption::CleanupInterval => self.cleanup_interval_ms = None,
            _ => {}
        }
    }

    /// What holds, in milliseconds.
    pub fn inactive_threshold(&self) -> u64 {
        self.inactive_threshold_ms
            .unwrap_or(built_in::INACTIVE_THRESHOLD_MS)
    }

    /// What holds, in milliseconds.
    pub fn cleanup_interval(&self) -> u64 {
        self.cleanup_interval_ms.unwrap_or(built_in::CLEANUP_INTERVAL_MS)
    }
}

impl Expiry {
    /// Checks the value.
    ///
    /// # Errors
    /// [`Refusal::InvalidArgument`] that names `field`.
    pub fn validate(self, field: &'static str) -> Result<(), Refusal> {
        match self {
            Self::Ms(ms) => duration(field, Some(ms), 1, MAX_EXPIRY_MS),
            Self::Never => Ok(()),
        }
    }
}

impl PolicyOption {
    /// Every option.
    pub const ALL: [Self; 11] = [
        Self::MaxAttempts,
        Self::Expiry,
        Self::ExpiryStrategy,
        Self::InitialExpiry,
        Self::MaxExpiry,
        Self::BackoffFactor,
        Self::HalfOpenMaxProbes,
        Self::HalfOpenSuccesses,
        Self::ProbeTimeout,
        Self::InactiveThreshold,
        Self::CleanupInterval,
    ];

    /// The name in `clear`, in configuration files and in documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MaxAttempts => "max_attempts",
            Self::Expiry => "expiry",
            Self::ExpiryStrategy => "expiry_strategy",
            Self::InitialExpiry => "initial_expiry",
            Self::MaxExpiry => "max_expiry",
            Self::BackoffFactor => "backoff_factor",
            Self::HalfOpenMaxProbes => "half_open_max_probes",
            Self::HalfOpenSuccesses => "half_open_successes",
            Self::ProbeTimeout => "probe_timeout",
            Self::InactiveThreshold => "inactive_threshold",
            Self::CleanupInterval => "cleanup_interval",
        }
    }

    /// The option of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|option| option.name() == name)
    }

    /// Whether it exists only for the cluster as a whole.
    pub const fn is_global(self) -> bool {
        matches!(self, Self::InactiveThreshold | Self::CleanupInterval)
    }
}

impl Default for EffectivePolicy {
    /// The built-in one.
    fn default() -> Self {
        Self::resolve(&Policy::default(), &Policy::default())
    }
}

impl EffectivePolicy {
    /// What holds when `policy` is all that is set anywhere, of which `own` is set on the circuit.
    pub(crate) fn resolve(policy: &Policy, own: &Policy) -> Self {
        let expiry = policy.expiry.unwrap_or(built_in::EXPIRY);
        let expiry_ms = match expiry {
            Expiry::Ms(ms) => Some(ms),
            Expiry::Never => None,
        };
        let ten_times = expiry_ms.map(|ms| ms.saturating_mul(built_in::MAX_EXPIRY_FACTOR).min(MAX_EXPIRY_MS));
        Self {
            max_attempts: policy.max_attempts.unwrap_or(built_in::MAX_ATTEMPTS),
            expiry,
            expiry_strategy: policy.expiry_strategy.unwrap_or(built_in::EXPIRY_STRATEGY),
            initial_expiry_ms: policy.initial_expiry_ms.or(expiry_ms),
            max_expiry_ms: policy.max_expiry_ms.or(ten_times),
            backoff_factor: policy.backoff_factor.unwrap_or(built_in::BACKOFF_FACTOR),
            half_open_max_probes: policy
                .half_open_max_probes
                .unwrap_or(built_in::HALF_OPEN_MAX_PROBES),
            half_open_successes: policy
                .half_open_successes
                .unwrap_or(built_in::HALF_OPEN_SUCCESSES),
            probe_timeout_ms: policy.probe_timeout_ms.unwrap_or(built_in::PROBE_TIMEOUT_MS),
            own: own.options(),
        }
    }

    /// Checks what only shows when all levels are put together.
    ///
    /// # Errors
    /// [`Refusal::InvalidArgument`] that names `policy.initial_expiry_ms`.
    pub(crate) fn validate(&self) -> Result<(), Refusal> {
        match (self.initial_expiry_ms, self.max_expiry_ms) {
            (Some(initial), Some(max)) if initial > max => Err(initial_beyond_max(initial, max)),
            _ => Ok(()),
        }
    }

    /// How long the n-th opening in a row lasts (n from 1), in milliseconds; `None`: until a manual act.
    pub fn opening_ms(&self, n: u32) -> Option<u64> {
        match (self.expiry_strategy, self.expiry) {
            (ExpiryStrategy::Fixed, Expiry::Ms(ms)) => Some(ms),
            (ExpiryStrategy::Fixed, Expiry::Never) => None,
            (ExpiryStrategy::Progressive, _) => {
                let initial = self.initial_expiry_ms?;
                let max = self.max_expiry_ms.unwrap_or(MAX_EXPIRY_MS);
                Some(grown(initial, self.backoff_factor, n.saturating_sub(1), max))
            }
        }
    }
}

/// `min(max, initial * factor^exponent)`, rounded down. Only multiplications and comparisons of IEEE doubles, which are the same on
/// every machine; `powi` and `powf` are not.
fn grown(initial: u64, factor: f64, mut exponent: u32, max: u64) -> u64 {
    let bound = max as f64;
    let mut result = initial as f64;
    let mut base = factor;
    while exponent > 0 && result < bound {
        if exponent & 1 == 1 {
            result *= base;
        }
        // Beyond the largest bound the exact value no longer matters; an infinite one would turn zero into not-a-number.
        base = (base * base).min(1e300);
        exponent >>= 1;
    }
    if result >= bound {
        max
    } else {
        (result as u64).max(1)
    }
}

fn at_least_one(field: &'static str, value: Option<u32>, max: u32) -> Result<(), Refusal> {
    match value {
        Some(value) if value == 0 || value > max => {
            let allowed = if max == u32::MAX {
                "at least 1".to_owned()
            } else {
                format!("1 ..= {max}")
            };
            Err(Refusal::invalid(field, format!("is {value}, must be {allowed}")))
        }
        _ => Ok(()),
    }
}

fn duration(field: &'static str, value: Option<u64>, min: u64, max: u64) -> Result<(), Refusal> {
    match value {
        Some(value) if value < min || value > max => Err(Refusal::invalid(
            field,
            format!("is {value} ms, must be {min} ms ..= {max} ms"),
        )),
        _ => Ok(()),
    }
}

fn initial_beyond_max(initial: u64, max: u64) -> Refusal {
    Refusal::invalid(
        "policy.initial_expiry_ms",
        format!("is {initial} ms, more than max_expiry, which is {max} ms"),
    )
}
