//! What happened in each interval of a run. The intervals are whole seconds, and so long that a page has not too many of them.

use std::collections::BTreeMap;

use crate::check::Evidence;
use crate::history::{Action, Op, Outcome};
use crate::time::{Micros, percentile};

const SECOND: Micros = 1_000_000;
/// More would be narrower than a pixel or two.
const MOST: u64 = 300;
/// Lengths of an interval, in seconds.
const LENGTHS: [u64; 9] = [1, 2, 5, 10, 20, 30, 60, 120, 300];

/// How the time of a run is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bins {
    pub(super) width: Micros,
    pub(super) count: usize,
}

/// How many operations ended, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) acknowledged: u32,
    pub(super) refused: u32,
    pub(super) unknown: u32,
}

/// Percentiles of what was measured in one interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spread {
    /// In the middle of the interval.
    pub(super) at: Micros,
    pub(super) of: usize,
    pub(super) p50: Micros,
    pub(super) p99: Micros,
    pub(super) max: Micros,
}

impl Bins {
    /// From zero to the last thing that happened.
    pub(super) fn of(evidence: &Evidence, faults_end: Micros) -> Self {
        let ops = evidence.ops.iter().map(|op| op.ended);
        // An event that was never seen in time has no arrival.
        let events = evidence
            .events
            .values()
            .map(|seen| seen.arrived)
            .filter(|at| *at != Micros::MAX);
        let last = ops.chain(events).max().unwrap_or(0).max(faults_end).max(SECOND);
        let seconds = last.div_ceil(SECOND);
        let fits = LENGTHS.iter().find(|length| seconds.div_ceil(**length) <= MOST);
        let length = fits.copied().unwrap_or_else(|| seconds.div_ceil(MOST));
        Self {
            width: length * SECOND,
            // Bounded by `MOST`.
            count: usize::try_from(seconds.div_ceil(length)).unwrap_or(1),
        }
    }

    /// The whole time, in seconds.
    pub(super) fn seconds(self) -> f64 {
        seconds(self.width) * self.count as f64
    }

    pub(super) fn start(self, bin: usize) -> Micros {
        self.width * bin as u64
    }

    fn find(self, at: Micros) -> usize {
        let bin = usize::try_from(at / self.width).unwrap_or(usize::MAX);
        bin.min(self.count - 1)
    }

    /// How operations ended in each interval: of each kind that there was, in the order of [`Action::KINDS`].
    pub(super) fn ended(self, ops: &[Op]) -> Vec<(&'static str, Vec<Ended>)> {
        let mut kinds: BTreeMap<(usize, &'static str), Vec<Ended>> = BTreeMap::new();
        for op in ops {
            let kind = op.action.kind();
            let place = Action::KINDS.iter().position(|known| *known == kind);
            let bins = kinds
                .entry((place.unwrap_or(usize::MAX), kind))
                .or_insert_with(|| vec![Ended::default(); self.count]);
            bins[self.find(op.ended)].add(&op.outcome);
        }
        kinds.into_iter().map(|((_, kind), bins)| (kind, bins)).collect()
    }

    /// The spread of each interval in which something was measured: moment and value.
    pub(super) fn spread(self, measured: impl Iterator<Item = (Micros, Micros)>) -> Vec<Spread> {
        let mut bins = vec![Vec::new(); self.count];
        for (at, value) in measured {
            bins[self.find(at)].push(value);
        }
        let spread = |(bin, mut values): (usize, Vec<Micros>)| {
            values.sort_unstable();
            (!values.is_empty()).then(|| Spread {
                at: self.start(bin) + self.width / 2,
                of: values.len(),
                p50: percentile(&values, 50),
                p99: percentile(&values, 99),
                max: percentile(&values, 100),
            })
        };
        bins.into_iter().enumerate().filter_map(spread).collect()
    }
}

impl Ended {
    pub(super) fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Ok(_) => self.acknowledged += 1,
            Outcome::Refused(_) => self.refused += 1,
            Outcome::Unknown(_) => self.unknown += 1,
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            acknowledged: self.acknowledged + other.acknowledged,
            refused: self.refused + other.refused,
            unknown: self.unknown + other.unknown,
        }
    }

    pub(super) fn all(self) -> u32 {
        self.acknowledged + self.refused + self.unknown
    }
}

pub(super) fn seconds(at: Micros) -> f64 {
    at as f64 / SECOND as f64
}

pub(super) fn ms(us: Micros) -> f64 {
    us as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::evidence;

    #[test]
    fn a_long_run_has_longer_intervals_and_not_more_of_them() {
        let mut evidence = evidence();
        evidence.events.clear();
        for (seconds, width, count) in [(1, 1, 1), (300, 1, 300), (301, 2, 151), (7200, 30, 240)] {
            evidence.ops.truncate(1);
            evidence.ops[0].ended = seconds * SECOND;
            let bins = Bins::of(&evidence, 0);
            assert_eq!((bins.width, bins.count), (width * SECOND, count), "{seconds} s");
        }
    }

    #[test]
    fn each_interval_has_its_own_spread_and_none_where_nothing_was_measured() {
        let bins = Bins {
            width: SECOND,
            count: 3,
        };
        let spread = bins.spread([(0, 5), (10, 1), (2 * SECOND, 7), (9 * SECOND, 9)].into_iter());
        assert_eq!(spread.len(), 2);
        assert_eq!((spread[0].of, spread[0].p50, spread[0].max), (2, 1, 5));
        assert_eq!(
            (spread[1].of, spread[1].max),
            (2, 9),
            "what is later counts as last"
        );
    }
}
