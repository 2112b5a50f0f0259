//! Outcomes of calls, and the summary of many.

use serde::{Deserialize, Serialize};

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
        let _ = outcome;
        Self::default()
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
        let _ = next;
        *self
    }

    /// Checks that some sequence of outcomes has this summary, and that it is within the limits.
    ///
    /// # Errors
    /// [`Refusal::InvalidArgument`] that names the field, as `summary.<field>`.
    pub fn validate(&self) -> Result<(), Refusal> {
        Ok(())
    }
}
