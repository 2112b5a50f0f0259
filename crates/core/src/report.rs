//! Outcomes of calls, and the summary of many.
//!
//! A client adds up what came of its calls and sends a [`Summary`] now and then, so that the cluster's cost grows with circuits and
//! flushes, not with calls. For a threshold on *consecutive* failures a few numbers say as much as the whole sequence: how long the
//! run of failures at its beginning is (it may continue the run that was there), the longest one, and the one at its end (it may
//! go on). Summaries of consecutive stretches merge ([`Summary::then`]): they are a monoid, as the segments of a
//! maximum-subsequence tree are (Bentley, *Programming Pearls*, column 8).

use serde::{Deserialize, Serialize};

use crate::limits::MAX_OUTCOMES;
use crate::reply::Refusal;

/// What came of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It succeeded.
    Success,
    /// It failed.
    Failure,
    /// Neither: it says nothing about the dependency.
    Ignored,
}

/// Ordered outcomes of one circuit at one generation, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// All failures.
    pub failures: u64,
    /// All successes.
    pub successes: u64,
    /// Failures before the first success.
    pub leading_failures: u64,
    /// The longest run of failures.
    pub longest_failures: u64,
    /// Failures after the last success.
    pub trailing_failures: u64,
    /// Successes before the first failure.
    pub leading_successes: u64,
    /// Calls that are neither.
    pub ignored: u64,
    /// Calls that were not made because the circuit did not let them.
    pub rejected: u64,
}

impl Summary {
    /// The summary of one outcome.
    pub fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Success => Self {
                successes: 1,
                leading_successes: 1,
                ..Self::default()
            },
            Outcome::Failure => Self {
                failures: 1,
                leading_failures: 1,
                longest_failures: 1,
                trailing_failures: 1,
                ..Self::default()
            },
            Outcome::Ignored => Self {
                ignored: 1,
                ..Self::default()
            },
        }
    }

    /// The summary of outcomes in order.
    pub fn of_all(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        outcomes
            .into_iter()
            .fold(Self::default(), |sum, outcome| sum.then(&Self::of(outcome)))
    }

    /// The summary of what this one sums up, followed by what `next` sums up. Associative; the default is its unit.
    #[must_use]
    pub fn then(&self, next: &Self) -> Self {
        let across = self.trailing_failures.saturating_add(next.leading_failures);
        Self {
            failures: self.failures.saturating_add(next.failures),
            successes: self.successes.saturating_add(next.successes),
            leading_failures: if self.successes == 0 {
                across
            } else {
                self.leading_failures
            },
            longest_failures: self.longest_failures.max(next.longest_failures).max(across),
            trailing_failures: if next.successes == 0 {
                across
            } else {
                next.trailing_failures
            },
            leading_successes: if self.failures == 0 {
                self.successes.saturating_add(next.leading_successes)
            } else {
                self.leading_successes
            },
            ignored: self.ignored.saturating_add(next.ignored),
            rejected: self.rejected.saturating_add(next.rejected),
        }
    }

    /// Calls that were made.
    pub fn calls(&self) -> u64 {
        self.failures
            .saturating_add(self.successes)
            .saturating_add(self.ignored)
    }

    /// Checks that some sequence of outcomes has this summary, and that it is within the limits.
    ///
    /// # Errors
    /// [`Refusal::InvalidArgument`] that names the field, as `summary.<field>`.
    pub fn validate(&self) -> Result<(), Refusal> {
        let fail = |field: &str, problem: &str| Err(Refusal::invalid(format!("summary.{field}"), problem));
        let counts = [
            ("failures", self.failures),
            ("successes", self.successes),
            ("ignored", self.ignored),
            ("rejected", self.rejected),
        ];
        for (field, count) in counts {
            if count > MAX_OUTCOMES {
                let problem = format!("is {count}, at most {MAX_OUTCOMES} are allowed");
                return Err(Refusal::invalid(format!("summary.{field}"), problem));
            }
        }
        let Self {
            failures,
            successes,
            leading_failures,
            longest_failures,
            trailing_failures,
            leading_successes,
            ..
        } = *self;
        if failures == 0 || successes == 0 {
            // One kind only: it is one run.
            if leading_failures != failures {
                return fail(
                    "leading_failures",
                    "must equal failures when there are no successes, and be 0 without failures",
                );
            }
            if longest_failures != failures {
                return fail(
                    "longest_failures",
                    "must equal failures when there are no successes, and be 0 without failures",
                );
            }
            if trailing_failures != failures {
                return fail(
                    "trailing_failures",
                    "must equal failures when there are no successes, and be 0 without failures",
                );
            }
            if leading_successes != successes {
                return fail(
                    "leading_successes",
                    "must equal successes when there are no failures, and be 0 without successes",
                );
            }
            return Ok(());
        }
        if (leading_failures == 0) == (leading_successes == 0) {
            return fail(
                "leading_successes",
                "and leading_failures: exactly one of them begins a sequence that has both",
            );
        }
        let ends = leading_failures.saturating_add(trailing_failures);
        if leading_failures > longest_failures {
            return fail("leading_failures", "must not exceed longest_failures");
        }
        if trailing_failures > longest_failures {
            return fail("trailing_failures", "must not exceed longest_failures");
        }
        if longest_failures == 0 || longest_failures > failures {
            return fail("longest_failures", "must be between 1 and failures");
        }
        if ends > failures {
            return fail(
                "failures",
                "must be at least leading_failures and trailing_failures together",
            );
        }
        // What is neither at the beginning nor at the end lies between successes, in runs no longer than the longest.
        let inner = failures - ends;
        let longest_is_inside = leading_failures < longest_failures && trailing_failures < longest_failures;
        if longest_is_inside && inner < longest_failures {
            return fail(
                "longest_failures",
                "fits neither the ends nor what is between them",
            );
        }
        // Successes available between runs: those not in the leading run of successes delimit inner runs.
        let runs = inner.div_ceil(longest_failures);
        let breaks_needed = if leading_failures > 0 {
            // F.. S [run S]*: one success after the leading failures, and one after each inner run.
            1 + runs
        } else {
            // S(leading) [run S]* F..: after the leading successes, one success after each inner run.
            leading_successes.saturating_add(runs)
        };
        if successes < breaks_needed {
            return fail("successes", "are too few for so many runs of failures");
        }
        if leading_failures == 0 {
            if leading_successes > successes {
                return fail("leading_successes", "must not exceed successes");
            }
            if inner == 0 && leading_successes < successes && trailing_failures > 0 {
                return fail(
                    "leading_successes",
                    "must equal successes when all failures come after them",
                );
            }
            if inner == 0 && trailing_failures == 0 {
                return fail("failures", "must be somewhere: inside or at the end");
            }
        }
        Ok(())
    }
}
