//! The circuits of a run, with what the harness needs to know of their policies.

use brama_proto::v1;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::rules::{Lasts, Options};

/// A circuit, by its position in [`Circuits`].
pub type CircuitIndex = usize;

/// All circuits of a run.
#[derive(Clone, Debug)]
pub struct Circuits(Vec<Spec>);

/// One circuit.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name.
    pub name: v1::CircuitName,
    /// As it is registered.
    pub policy: v1::Policy,
    /// How long an opening lasts that nobody gave an expiry of its own.
    pub opening: Opening,
    /// `half_open_max_probes`.
    pub max_probes: u32,
}

/// How long openings last, in milliseconds. The harness's own reading of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Opening {
    /// All the same.
    Fixed(u64),
    /// Twice as long as the one before, up to a bound.
    Doubling {
        /// The first in a row.
        initial: u64,
        /// The longest.
        max: u64,
    },
}

impl Opening {
    /// Milliseconds of the `n`-th opening in a row (from 1).
    pub fn lasts_ms(self, n: u32) -> u64 {
        match self {
            Self::Fixed(ms) => ms,
            Self::Doubling { initial, max } => {
                let factor = 1_u64.checked_shl(n.saturating_sub(1)).unwrap_or(u64::MAX);
                initial.saturating_mul(factor).min(max)
            }
        }
    }
}

impl Circuits {
    /// `count` circuits whose openings last between 0.2 and 4 s, every second one with a scope.
    pub fn random(count: usize, rng: &mut impl Rng) -> Self {
        let circuit = |index: usize| {
            let opening = if rng.random_bool(0.5) {
                Opening::Fixed(rng.random_range(200..1500))
            } else {
                Opening::Doubling {
                    initial: rng.random_range(150..500),
                    max: rng.random_range(1000..4000),
                }
            };
            // What is not set is inherited: from the runtime global options, if somebody sets them.
            let probes = rng.random_bool(0.8).then(|| rng.random_range(1..=3));
            let policy = v1::Policy {
                max_attempts: rng.random_bool(0.8).then(|| rng.random_range(2..=6)),
                half_open_max_probes: probes,
                half_open_successes: rng.random_bool(0.8).then(|| rng.random_range(1..=3)),
                // Short enough that probes which nobody reports give their place back in the run.
                probe_timeout_ms: Some(rng.random_range(150..600)),
                ..policy_of(opening)
            };
            Spec {
                name: name(index),
                policy,
                opening,
                max_probes: probes.unwrap_or(1),
            }
        };
        Self((0..count).map(circuit).collect())
    }

    /// These circuits, in this order.
    pub fn new(specs: Vec<Spec>) -> Self {
        Self(specs)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The circuit at this position.
    pub fn get(&self, index: CircuitIndex) -> &Spec {
        &self.0[index]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (CircuitIndex, &Spec)> {
        self.0.iter().enumerate()
    }

    /// Which circuit this is; `None`: none of the run.
    pub fn find(&self, name: &v1::CircuitName) -> Option<CircuitIndex> {
        let is = |index: &CircuitIndex| self.0.get(*index).is_some_and(|spec| spec.name == *name);
        // With ten thousand circuits and an event of each, looking at all of them takes minutes.
        position_of(name)
            .filter(is)
            .or_else(|| (0..self.0.len()).find(is))
    }
}

/// The name of the circuit at this position. Neighbours share the identifier and differ in the scope, so that mixing them up shows.
pub fn name(index: usize) -> v1::CircuitName {
    v1::CircuitName {
        scope: (index % 2 == 1).then(|| "fleet".to_owned()),
        identifier: format!("upstream-{}", index / 2),
    }
}

/// Of a name that [`name`] made: which it was made for.
fn position_of(name: &v1::CircuitName) -> Option<usize> {
    let half: usize = name.identifier.strip_prefix("upstream-")?.parse().ok()?;
    Some(half.checked_mul(2)? + usize::from(name.scope.is_some()))
}

/// A policy with these openings, and nothing else set.
pub fn policy_of(opening: Opening) -> v1::Policy {
    match opening {
        Opening::Fixed(ms) => v1::Policy {
            expiry: Some(expiry(ms)),
            ..Default::default()
        },
        Opening::Doubling { initial, max } => v1::Policy {
            expiry_strategy: Some(v1::ExpiryStrategy::Progressive.into()),
            initial_expiry_ms: Some(initial),
            max_expiry_ms: Some(max),
            backoff_factor: Some(2.0),
            ..Default::default()
        },
    }
}

/// A policy like those of [`Circuits::random`].
pub fn random_options(rng: &mut impl Rng) -> Options {
    let lasts = if rng.random_bool(0.5) {
        Options {
            expiry: Some(Lasts::Ms(rng.random_range(200..1500))),
            ..Options::default()
        }
    } else {
        Options {
            progressive: Some(true),
            initial_ms: Some(rng.random_range(150..500)),
            max_ms: Some(rng.random_range(1000..4000)),
            factor: Some([1500, 2000, 3000][rng.random_range(0..3)]),
            ..Options::default()
        }
    };
    Options {
        max_attempts: rng.random_bool(0.8).then(|| rng.random_range(2..=6)),
        probes: rng.random_bool(0.8).then(|| rng.random_range(1..=3)),
        successes: rng.random_bool(0.8).then(|| rng.random_range(1..=3)),
        probe_timeout_ms: Some(rng.random_range(150..600)),
        ..lasts
    }
}

/// An expiry of so many milliseconds.
pub fn expiry(ms: u64) -> v1::Expiry {
    v1::Expiry {
        kind: Some(v1::expiry::Kind::Ms(ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circuits_are_found_by_name_wherever_they_are() {
        let spec = |index| Spec {
            name: name(index),
            policy: v1::Policy::default(),
            opening: Opening::Fixed(1),
            max_probes: 1,
        };
        let circuits = Circuits::new(vec![spec(0), spec(1), spec(5), spec(2)]);
        for (index, spec) in circuits.iter() {
            assert_eq!(circuits.find(&spec.name), Some(index));
        }
        assert_eq!(circuits.find(&name(3)), None);
    }

    #[test]
    fn doubling_openings_grow_up_to_the_bound() {
        let opening = Opening::Doubling {
            initial: 300,
            max: 2000,
        };
        let lasts: Vec<u64> = [1, 2, 3, 4, 5, 64, 65, 1000].map(|n| opening.lasts_ms(n)).into();
        assert_eq!(lasts, [300, 600, 1200, 2000, 2000, 2000, 2000, 2000]);
    }
}
