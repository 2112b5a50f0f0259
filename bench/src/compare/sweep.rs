//! The search for the highest rate that holds: doubling, then halving the step, with a second try for what did not hold.

use serde::Serialize;

use crate::figures::Figures;

/// No rate above so many times the first one, and none below that part of it, is tried.
const FARTHEST: f64 = 64.0;

/// A search, and what was tried so far.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sweep {
    start: f64,
    /// It ends when the lowest rate that does not hold is at most so many times the highest that does.
    resolution: f64,
    /// How often a rate must fail before it counts as not held: one stall of the machine is not the system's limit.
    tries: usize,
    steps: Vec<Step>,
}

/// One rate, once.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) rate: f64,
    pub(crate) holds: bool,
    pub(crate) figures: Figures,
}

impl Sweep {
    /// `resolution` above 1.
    pub(crate) fn new(start: f64, resolution: f64, tries: usize) -> Self {
        Self {
            start,
            resolution,
            tries,
            steps: Vec::new(),
        }
    }

    /// The rate to try next; `None`: the search is over.
    pub(crate) fn next(&self) -> Option<f64> {
        let Some(last) = self.steps.last() else {
            return Some(self.start);
        };
        if !last.holds && self.tried(last.rate) < self.tries {
            return Some(last.rate);
        }
        let highest = self.best().map(|step| step.rate);
        let lowest = self
            .steps
            .iter()
            .map(|step| step.rate)
            .filter(|rate| highest.is_none_or(|highest| *rate > highest))
            .min_by(f64::total_cmp);
        let next = match (highest, lowest) {
            (Some(highest), None) => highest * 2.0,
            (None, Some(lowest)) => lowest / 2.0,
            (Some(highest), Some(lowest)) if lowest / highest > self.resolution => {
                (highest * lowest).sqrt().round()
            }
            _ => return None,
        };
        let fits = next <= self.start * FARTHEST && next >= self.start / FARTHEST && self.tried(next) == 0;
        fits.then_some(next)
    }

    pub(crate) fn record(&mut self, rate: f64, holds: bool, figures: Figures) {
        self.steps.push(Step { rate, holds, figures });
    }

    /// The highest rate that held.
    pub(crate) fn best(&self) -> Option<&Step> {
        let held = self.steps.iter().filter(|step| step.holds);
        held.max_by(|a, b| a.rate.total_cmp(&b.rate))
    }

    fn tried(&self, rate: f64) -> usize {
        self.steps.iter().filter(|step| step.rate == rate).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a system that holds below `limit`; gives the rates that were tried.
    fn search(mut sweep: Sweep, mut holds: impl FnMut(f64) -> bool) -> (Vec<f64>, Option<f64>) {
        let mut tried = Vec::new();
        while let Some(rate) = sweep.next() {
            assert!(tried.len() < 50, "no end: {tried:?}");
            tried.push(rate);
            let held = holds(rate);
            sweep.record(rate, held, Figures::default());
        }
        (tried, sweep.best().map(|step| step.rate))
    }

    #[test]
    fn doubles_until_it_fails_and_narrows_down_to_the_resolution() {
        let (tried, best) = search(Sweep::new(100.0, 1.25, 1), |rate| rate < 700.0);
        assert_eq!(tried, [100.0, 200.0, 400.0, 800.0, 566.0, 673.0]);
        assert_eq!(best, Some(673.0));
    }

    #[test]
    fn a_coarse_search_stops_at_the_first_failure() {
        let (tried, best) = search(Sweep::new(100.0, 2.0, 1), |rate| rate < 700.0);
        assert_eq!(tried, [100.0, 200.0, 400.0, 800.0]);
        assert_eq!(best, Some(400.0));
    }

    #[test]
    fn goes_down_when_the_first_rate_is_too_high() {
        let (tried, best) = search(Sweep::new(100.0, 2.0, 1), |rate| rate < 30.0);
        assert_eq!(tried, [100.0, 50.0, 25.0]);
        assert_eq!(best, Some(25.0));
    }

    #[test]
    fn one_stall_does_not_end_it() {
        let mut stalls = 1;
        let (tried, best) = search(Sweep::new(100.0, 2.0, 2), |rate| {
            if rate == 200.0 && stalls > 0 {
                stalls -= 1;
                return false;
            }
            rate < 300.0
        });
        assert_eq!(tried, [100.0, 200.0, 200.0, 400.0, 400.0]);
        assert_eq!(best, Some(200.0));
    }

    #[test]
    fn has_an_end_when_nothing_holds_and_when_everything_does() {
        assert_eq!(search(Sweep::new(64.0, 1.2, 2), |_| false).1, None);
        assert_eq!(search(Sweep::new(64.0, 1.2, 2), |_| true).1, Some(4096.0));
    }
}
