//! One circuit: its states, and what each event of the state table does to it.
//!
//! ```text
//!              max_attempts failures in a row, open_circuit
//!            ┌──────────────────────────────────────────────┐
//!            │                                              ▼
//!        ┌────────┐                                     ┌────────┐
//!        │ closed │                                     │  open  │◄──┐
//!        └────────┘                                     └────────┘   │
//!            ▲                                              │        │ a probe fails,
//!            │ half_open_successes probes succeed,          │ expiry │ open_circuit
//!            │ close_circuit, reset_circuit                 ▼        │
//!            │                                        ┌───────────┐  │
//!            └────────────────────────────────────────│ half_open │──┘
//!                                                     └───────────┘
//! ```
//!
//! The functions here change the circuit and return what happened as [`Transition`]s; the machine makes events of them. Each transition
//! raises the generation, so that an answer to a call that was admitted before it can be told from one after.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::PermitId;
use crate::event::{Cause, EventKind};
use crate::mutants::{self, Mutant};
use crate::name::CircuitName;
use crate::policy::{EffectivePolicy, Expiry, Policy};
use crate::query::Totals;
use crate::report::Summary;
use crate::shared_metadata::SharedMetadata;
use crate::time::ClusterTime;

/// The state of a circuit, without what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StateName {
    /// All calls pass.
    Closed,
    /// No call passes.
    Open,
    /// Probes pass.
    HalfOpen,
}

impl StateName {
    /// The name in filters, in the command line and in documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The state of a circuit, with what only this state has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::box_collection)] // see there
pub(crate) enum State {
    Closed,
    Open {
        since: ClusterTime,
        /// `None`: until a manual act.
        until: Option<ClusterTime>,
        reason: Option<Arc<str>>,
    },
    HalfOpen {
        /// When the opening began that led here.
        opened_at: ClusterTime,
        reason: Option<Arc<str>>,
        successes: u32,
        /// Permits that are out, with the end of each. Boxed: few circuits are half-open, and each would take 64 bytes more for it.
        permits: Box<BTreeMap<PermitId, ClusterTime>>,
    },
}

/// A registered circuit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Circuit {
    pub(crate) name: CircuitName,
    pub(crate) state: State,
    pub(crate) generation: u64,
    pub(crate) failure_count: u32,
    pub(crate) openings_in_a_row: u32,
    /// What is set on the circuit itself, if anything; shared by those that have the same.
    pub(crate) own: Option<Arc<Policy>>,
    pub(crate) metadata: SharedMetadata,
    pub(crate) totals: Totals,
    pub(crate) last_success_at: Option<ClusterTime>,
    pub(crate) last_failure_at: Option<ClusterTime>,
    pub(crate) last_reason: Option<Arc<str>>,
    pub(crate) registered_at: ClusterTime,
    pub(crate) changed_at: ClusterTime,
    /// The last registration, report, configuration or manual act.
    pub(crate) active_at: ClusterTime,
    /// Revision of its last event.
    pub(crate) revision: u64,
}

/// Something that changed a circuit's state, or at least its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) kind: EventKind,
    pub(crate) cause: Cause,
    pub(crate) previous: StateName,
    pub(crate) failure_count: u32,
    pub(crate) generation: u64,
    pub(crate) expires_at: Option<ClusterTime>,
    pub(crate) openings_in_a_row: u32,
}

/// What an item of a report did.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) late: bool,
    /// At most two: a closing, and an opening by the outcomes after it.
    pub(crate) transitions: [Option<Transition>; 2],
}

impl Circuit {
    pub(crate) fn state_name(&self) -> StateName {
        match self.state {
            State::Closed => StateName::Closed,
            State::Open { .. } => StateName::Open,
            State::HalfOpen { .. } => StateName::HalfOpen,
        }
    }

    /// Counts the outcomes of one report item.
    pub(crate) fn report(
        &mut self,
        summary: &Summary,
        generation: Option<u64>,
        permit: Option<PermitId>,
        reason: Option<&Arc<str>>,
        policy: &EffectivePolicy,
        now: ClusterTime,
    ) -> Counted {
        self.active_at = now;
        self.count_totals(summary, reason, now);
        let is_past = generation.is_some_and(|generation| generation != self.generation)
            && !mutants::active(Mutant::NoGenerationCheck);
        let late = is_past || !self.end_permit(permit);
        if late {
            return Counted {
                late,
                transitions: [None, None],
            };
        }
        let transitions = match self.state {
            State::Closed => [self.count_closed(summary, reason, policy, now), None],
            State::Open { .. } => [None, None],
            State::HalfOpen { .. } => {
                let first = self.count_half_open(summary, reason, policy, now);
                let closed = first.is_some() && self.state == State::Closed;
                // The rest of the item came after the closing. With a generation it is late now; at face value it counts on, and its
                // runs of failures are the summary's own, because the successes that closed the circuit came first.
                let second =
                    (closed && generation.is_none()).then(|| self.count_closed(summary, reason, policy, now));
                [first, second.flatten()]
            }
        };
        Counted { late, transitions }
    }

    fn count_totals(&mut self, summary: &Summary, reason: Option<&Arc<str>>, now: ClusterTime) {
        self.totals.add(summary);
        if summary.successes > 0 {
            self.last_success_at = Some(now);
        }
        if summary.failures > 0 {
            self.last_failure_at = Some(now);
        }
        if let Some(reason) = reason {
            self.last_reason = Some(reason.clone());
        }
    }

    /// Gives the permit's place back. False: a permit was named, and it is not out.
    fn end_permit(&mut self, permit: Option<PermitId>) -> bool {
        match (permit, &mut self.state) {
            (None, _) => true,
            (Some(permit), State::HalfOpen { permits, .. }) => permits.remove(&permit).is_some(),
            (Some(_), _) => false,
        }
    }

    fn count_closed(
        &mut self,
        summary: &Summary,
        reason: Option<&Arc<str>>,
        policy: &EffectivePolicy,
        now: ClusterTime,
    ) -> Option<Transition> {
        let max = u64::from(policy.max_attempts);
        let count = u64::from(self.failure_count);
        // The count at which it opens, as if the outcomes came one by one. First the run that was there goes on, if the summary begins
        // with a failure: a count at the threshold already (it was lowered, or the circuit closed by hand) opens with the next one, but a
        // success before that ends it. Then come the runs inside.
        let goes_on = summary.leading_failures > 0;
        let opens_at = if goes_on && count + 1 >= max {
            Some(count + 1)
        } else if (goes_on && count + summary.leading_failures >= max) || summary.longest_failures >= max {
            Some(max)
        } else {
            None
        };
        let Some(opens_at) = opens_at else {
            if summary.successes > 0 {
                self.failure_count = clamp(summary.trailing_failures);
            } else {
                self.failure_count = clamp(count + summary.failures);
            }
            return None;
        };
        self.failure_count = clamp(opens_at);
        Some(self.open(None, reason.cloned(), Cause::Threshold, policy, now))
    }

    fn count_half_open(
        &mut self,
        summary: &Summary,
        reason: Option<&Arc<str>>,
        policy: &EffectivePolicy,
        now: ClusterTime,
    ) -> Option<Transition> {
        let State::HalfOpen { successes, .. } = &mut self.state else {
            return None;
        };
        let before_failure = clamp(summary.leading_successes);
        *successes = successes.saturating_add(before_failure);
        if before_failure > 0 && *successes >= policy.half_open_successes {
            return Some(self.close(Cause::Probe, now));
        }
        (summary.failures > 0).then(|| self.open(None, reason.cloned(), Cause::Probe, policy, now))
    }

    /// Reads a little of each piece of memory that a report reads or writes, so that it is near then. What it returns means nothing.
    pub(crate) fn touch(&self) -> u64 {
        let own = self.own.as_ref().map_or(0, |own| {
            u64::from(own.max_attempts.unwrap_or(0))
                ^ own.probe_timeout_ms.unwrap_or(0)
                ^ own.max_expiry_ms.unwrap_or(0)
        });
        [
            own,
            self.name.identifier.len() as u64,
            self.generation,
            u64::from(self.failure_count),
            self.totals.failures,
            self.last_failure_at.map_or(0, |at| at.as_micros()),
            self.revision,
            u64::from(self.metadata.is_empty()),
        ]
        .into_iter()
        .fold(0, u64::wrapping_add)
    }

    /// Opens the circuit for the policy's time, or for `expiry`.
    pub(crate) fn open(
        &mut self,
        expiry: Option<Expiry>,
        reason: Option<Arc<str>>,
        cause: Cause,
        policy: &EffectivePolicy,
        now: ClusterTime,
    ) -> Transition {
        let previous = self.state_name();
        self.openings_in_a_row = match previous {
            // The same opening, begun anew.
            StateName::Open => self.openings_in_a_row.max(1),
            StateName::Closed | StateName::HalfOpen => self.openings_in_a_row.saturating_add(1),
        };
        let lasts_ms = match expiry {
            Some(Expiry::Ms(ms)) => Some(ms),
            Some(Expiry::Never) => None,
            None => policy.opening_ms(self.openings_in_a_row),
        };
        let until = lasts_ms.map(|ms| now.plus_ms(ms));
        self.enter(
            State::Open {
                since: now,
                until,
                reason,
            },
            now,
        );
        self.transition(EventKind::CircuitOpened, cause, previous, until)
    }

    /// An opening has lasted its time.
    pub(crate) fn half_open(&mut self, now: ClusterTime) -> Option<Transition> {
        let State::Open {
            since,
            until: Some(until),
            reason,
        } = &self.state
        else {
            return None;
        };
        if *until > now {
            return None;
        }
        let (opened_at, reason) = (*since, reason.clone());
        let state = State::HalfOpen {
            opened_at,
            reason,
            successes: 0,
            permits: Box::default(),
        };
        self.enter(state, now);
        Some(self.transition(EventKind::CircuitHalfOpened, Cause::Expiry, StateName::Open, None))
    }

    /// Enough probes succeeded.
    fn close(&mut self, cause: Cause, now: ClusterTime) -> Transition {
        let previous = self.state_name();
        self.failure_count = 0;
        self.openings_in_a_row = 0;
        self.enter(State::Closed, now);
        self.transition(EventKind::CircuitClosed, cause, previous, None)
    }

    /// Closes the circuit by hand; the failure count stays.
    pub(crate) fn close_by_hand(&mut self, now: ClusterTime) -> Transition {
        let previous = self.state_name();
        self.openings_in_a_row = 0;
        if previous != StateName::Closed {
            self.enter(State::Closed, now);
        }
        self.transition(EventKind::CircuitClosed, Cause::Manual, previous, None)
    }

    /// Closes the circuit by hand and forgets its failures.
    pub(crate) fn reset(&mut self, now: ClusterTime) -> Transition {
        let previous = self.state_name();
        let is_fresh =
            previous == StateName::Closed && self.failure_count == 0 && self.openings_in_a_row == 0;
        self.failure_count = 0;
        self.openings_in_a_row = 0;
        if !is_fresh {
            self.enter(State::Closed, now);
        }
        self.transition(EventKind::CircuitReset, Cause::Manual, previous, None)
    }

    fn enter(&mut self, state: State, now: ClusterTime) {
        if std::mem::discriminant(&state) != std::mem::discriminant(&self.state) {
            self.changed_at = now;
        }
        self.state = state;
        self.generation += 1;
    }

    fn transition(
        &self,
        kind: EventKind,
        cause: Cause,
        previous: StateName,
        expires_at: Option<ClusterTime>,
    ) -> Transition {
        Transition {
            kind,
            cause,
            previous,
            failure_count: self.failure_count,
            generation: self.generation,
            expires_at,
            openings_in_a_row: self.openings_in_a_row,
        }
    }
}

fn clamp(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// A closed circuit with nothing of its own.
#[cfg(test)]
pub(crate) fn sample(failure_count: u32) -> Circuit {
    let at = ClusterTime::from_micros;
    Circuit {
        name: CircuitName::new(None, "payments").expect("a name"),
        state: State::Closed,
        generation: 1,
        failure_count,
        openings_in_a_row: 3,
        own: None,
        metadata: SharedMetadata::default(),
        totals: Totals::default(),
        last_success_at: None,
        last_failure_at: None,
        last_reason: None,
        registered_at: at(4),
        changed_at: at(5),
        active_at: at(6),
        revision: 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With its counters in an `Arc` it fits the allocator's 256 bytes; one more word, and each of a hundred thousand takes 320.
    #[test]
    fn a_circuit_is_small() {
        assert!(size_of::<Circuit>() <= 240, "{} bytes", size_of::<Circuit>());
    }
}
