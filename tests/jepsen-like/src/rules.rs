//! The harness's own reading of policies: what is set at one level, what holds, how long openings last (section 2 of the contract).
//!
//! Nothing here comes from the product, so that a mistake in one of the two shows.

use brama_proto::v1;
use serde::{Deserialize, Serialize};

/// Progressive openings and `max_expiry` never exceed 30 days.
const LONGEST_MS: u64 = 30 * 24 * 3600 * 1000;

/// What somebody set at one level; what is `None` is inherited. The default sets nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Options {
    /// `max_attempts`.
    pub max_attempts: Option<u32>,
    /// `expiry`.
    pub expiry: Option<Lasts>,
    /// `expiry_strategy`: whether openings in a row lengthen.
    pub progressive: Option<bool>,
    /// `initial_expiry`, in milliseconds.
    pub initial_ms: Option<u64>,
    /// `max_expiry`, in milliseconds.
    pub max_ms: Option<u64>,
    /// `backoff_factor`, in thousandths.
    pub factor: Option<u32>,
    /// `half_open_max_probes`.
    pub probes: Option<u32>,
    /// `half_open_successes`.
    pub successes: Option<u32>,
    /// `probe_timeout`, in milliseconds.
    pub probe_timeout_ms: Option<u64>,
}

/// How long an opening lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Lasts {
    /// So many milliseconds.
    Ms(u64),
    /// Until a manual act.
    Never,
}

/// An option that the workload inherits again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OptionName {
    /// `max_attempts`.
    MaxAttempts,
    /// `half_open_max_probes`.
    Probes,
    /// `half_open_successes`.
    Successes,
}

/// Every option with the value that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rules {
    /// `max_attempts`.
    pub max_attempts: u32,
    /// `expiry`.
    pub expiry: Lasts,
    /// Whether openings in a row lengthen.
    pub progressive: bool,
    /// `initial_expiry`; `None` when it would follow from an expiry of `never`.
    pub initial_ms: Option<u64>,
    /// `max_expiry`; `None` when it would follow from an expiry of `never`.
    pub max_ms: Option<u64>,
    /// `backoff_factor`, in thousandths.
    pub factor: u32,
    /// `half_open_max_probes`.
    pub probes: u32,
    /// `half_open_successes`.
    pub successes: u32,
    /// `probe_timeout`, in milliseconds.
    pub probe_timeout_ms: u64,
}

impl Options {
    /// As the protocol has them.
    pub fn of(policy: &v1::Policy) -> Self {
        Self {
            max_attempts: policy.max_attempts,
            expiry: policy.expiry.as_ref().map(Lasts::of),
            progressive: policy.expiry_strategy.map(is_progressive),
            initial_ms: policy.initial_expiry_ms,
            max_ms: policy.max_expiry_ms,
            factor: policy.backoff_factor.map(thousandths),
            probes: policy.half_open_max_probes,
            successes: policy.half_open_successes,
            probe_timeout_ms: policy.probe_timeout_ms,
        }
    }

    /// For the protocol.
    pub fn wire(&self) -> v1::Policy {
        v1::Policy {
            max_attempts: self.max_attempts,
            expiry: self.expiry.map(Lasts::wire),
            expiry_strategy: self.progressive.map(|progressive| {
                let strategy = if progressive {
                    v1::ExpiryStrategy::Progressive
                } else {
                    v1::ExpiryStrategy::Fixed
                };
                strategy.into()
            }),
            initial_expiry_ms: self.initial_ms,
            max_expiry_ms: self.max_ms,
            backoff_factor: self.factor.map(|factor| f64::from(factor) / 1000.0),
            half_open_max_probes: self.probes,
            half_open_successes: self.successes,
            probe_timeout_ms: self.probe_timeout_ms,
        }
    }

    /// These, and what they do not set as `inherited` has it.
    #[must_use]
    pub fn over(&self, inherited: &Self) -> Self {
        Self {
            max_attempts: self.max_attempts.or(inherited.max_attempts),
            expiry: self.expiry.or(inherited.expiry),
            progressive: self.progressive.or(inherited.progressive),
            initial_ms: self.initial_ms.or(inherited.initial_ms),
            max_ms: self.max_ms.or(inherited.max_ms),
            factor: self.factor.or(inherited.factor),
            probes: self.probes.or(inherited.probes),
            successes: self.successes.or(inherited.successes),
            probe_timeout_ms: self.probe_timeout_ms.or(inherited.probe_timeout_ms),
        }
    }

    /// What `Configure` makes of them: what it names is set or inherited again, the rest stays.
    #[must_use]
    pub fn configured(&self, set: &Self, clear: &[OptionName]) -> Self {
        let mut after = set.over(self);
        for option in clear {
            match option {
                OptionName::MaxAttempts => after.max_attempts = None,
                OptionName::Probes => after.probes = None,
                OptionName::Successes => after.successes = None,
            }
        }
        after
    }
}

impl OptionName {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::MaxAttempts, Self::Probes, Self::Successes];

    /// As `clear` wants it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxAttempts => "max_attempts",
            Self::Probes => "half_open_max_probes",
            Self::Successes => "half_open_successes",
        }
    }
}

impl Rules {
    /// What holds for a circuit with options of its own under runtime global ones. The clusters of a run have no bootstrap defaults.
    pub fn of(own: &Options, global: &Options) -> Self {
        let set = own.over(global);
        let expiry = set.expiry.unwrap_or(Lasts::Ms(60_000));
        let expiry_ms = match expiry {
            Lasts::Ms(ms) => Some(ms),
            Lasts::Never => None,
        };
        let ten_times = expiry_ms.map(|ms| ms.saturating_mul(10).min(LONGEST_MS));
        Self {
            max_attempts: set.max_attempts.unwrap_or(5),
            expiry,
            progressive: set.progressive.unwrap_or(false),
            initial_ms: set.initial_ms.or(expiry_ms),
            max_ms: set.max_ms.or(ten_times),
            factor: set.factor.unwrap_or(2000),
            probes: set.probes.unwrap_or(1),
            successes: set.successes.unwrap_or(1),
            probe_timeout_ms: set.probe_timeout_ms.unwrap_or(30_000),
        }
    }

    /// As the protocol shows them.
    pub fn shown(policy: &v1::EffectivePolicy) -> Self {
        Self {
            max_attempts: policy.max_attempts,
            expiry: policy.expiry.as_ref().map_or(Lasts::Never, Lasts::of),
            progressive: is_progressive(policy.expiry_strategy),
            initial_ms: policy.initial_expiry_ms,
            max_ms: policy.max_expiry_ms,
            factor: thousandths(policy.backoff_factor),
            probes: policy.half_open_max_probes,
            successes: policy.half_open_successes,
            probe_timeout_ms: policy.probe_timeout_ms,
        }
    }

    /// Milliseconds of the `n`-th opening in a row (from 1); `None`: until a manual act.
    pub fn opening_ms(&self, n: u32) -> Option<u64> {
        if !self.progressive {
            return match self.expiry {
                Lasts::Ms(ms) => Some(ms),
                Lasts::Never => None,
            };
        }
        let max = self.max_ms.unwrap_or(LONGEST_MS);
        let mut exact = u128::from(self.initial_ms?);
        let mut divisor = 1_u128;
        for _ in 1..n {
            // Exact for as long as it matters: the bound is reached long before the product has no room.
            if self.factor <= 1000 || exact / divisor >= u128::from(max) {
                break;
            }
            exact = exact.saturating_mul(u128::from(self.factor));
            divisor = divisor.saturating_mul(1000);
            let both = gcd(exact, divisor);
            exact /= both;
            divisor /= both;
        }
        Some(u64::try_from(exact / divisor).unwrap_or(max).min(max))
    }
}

impl Lasts {
    fn of(expiry: &v1::Expiry) -> Self {
        match expiry.kind {
            Some(v1::expiry::Kind::Ms(ms)) => Self::Ms(ms),
            _ => Self::Never,
        }
    }

    fn wire(self) -> v1::Expiry {
        let kind = match self {
            Self::Ms(ms) => v1::expiry::Kind::Ms(ms),
            Self::Never => v1::expiry::Kind::Never(true),
        };
        v1::Expiry { kind: Some(kind) }
    }
}

fn is_progressive(strategy: i32) -> bool {
    strategy == i32::from(v1::ExpiryStrategy::Progressive)
}

fn thousandths(factor: f64) -> u32 {
    // At most 100.0, so it fits.
    (factor * 1000.0).round() as u32
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progressive(initial_ms: u64, max_ms: u64, factor: u32) -> Rules {
        let own = Options {
            progressive: Some(true),
            initial_ms: Some(initial_ms),
            max_ms: Some(max_ms),
            factor: Some(factor),
            ..Options::default()
        };
        Rules::of(&own, &Options::default())
    }

    #[test]
    fn openings_grow_up_to_the_bound() {
        let lasts = |rules: Rules| [1, 2, 3, 4, 5, 1000].map(|n| rules.opening_ms(n).unwrap_or(0));
        assert_eq!(
            lasts(progressive(300, 2000, 2000)),
            [300, 600, 1200, 2000, 2000, 2000]
        );
        assert_eq!(lasts(progressive(101, 400, 1500)), [101, 151, 227, 340, 400, 400]);
        assert_eq!(lasts(progressive(101, 400, 1000)), [101; 6]);
    }

    #[test]
    fn what_is_not_set_is_inherited_and_then_built_in() {
        let own = Options {
            max_attempts: Some(2),
            ..Options::default()
        };
        let global = Options {
            max_attempts: Some(9),
            probes: Some(3),
            expiry: Some(Lasts::Ms(500)),
            ..Options::default()
        };
        let rules = Rules::of(&own, &global);
        assert_eq!((rules.max_attempts, rules.probes, rules.successes), (2, 3, 1));
        assert_eq!((rules.initial_ms, rules.max_ms), (Some(500), Some(5000)));
        assert_eq!(Rules::of(&own, &Options::default()).opening_ms(7), Some(60_000));
    }

    #[test]
    fn configuring_sets_and_clears_and_leaves_the_rest() {
        let before = Options {
            max_attempts: Some(2),
            probes: Some(3),
            ..Options::default()
        };
        let set = Options {
            successes: Some(4),
            ..Options::default()
        };
        let after = before.configured(&set, &[OptionName::Probes]);
        assert_eq!(
            (after.max_attempts, after.probes, after.successes),
            (Some(2), None, Some(4))
        );
    }

    #[test]
    fn the_protocol_and_back() {
        let rules = progressive(300, 2000, 1500);
        let own = Options {
            expiry: Some(Lasts::Never),
            factor: Some(1500),
            progressive: Some(true),
            ..Options::default()
        };
        assert_eq!(Options::of(&own.wire()), own);
        let shown = v1::EffectivePolicy {
            max_attempts: 5,
            expiry: Some(Lasts::Ms(60_000).wire()),
            expiry_strategy: v1::ExpiryStrategy::Progressive.into(),
            initial_expiry_ms: Some(300),
            max_expiry_ms: Some(2000),
            backoff_factor: 1.5,
            half_open_max_probes: 1,
            half_open_successes: 1,
            probe_timeout_ms: 30_000,
            own: Vec::new(),
        };
        assert_eq!(Rules::shown(&shown), rules);
    }
}
