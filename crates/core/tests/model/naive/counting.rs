//! What the model counts: one outcome after the other, and the acts by hand.

use std::sync::Arc;

use brama_core::circuit::StateName;
use brama_core::event::{Cause, EventKind};
use brama_core::policy::{EffectivePolicy, Expiry, ExpiryStrategy};
use brama_core::reply::ItemReply;
use brama_core::report::Outcome;
use brama_core::{Metadata, SharedMetadata};

use super::{Call, Naive};

impl Naive {
    pub(crate) fn open(&mut self, at: usize, expiry: Option<Expiry>, reason: Option<Arc<str>>) {
        self.act(at, &reason);
        self.do_open(at, Cause::Manual, expiry, reason, None);
    }

    pub(crate) fn close(&mut self, at: usize, reason: Option<Arc<str>>) {
        self.act(at, &reason);
        let seen = &mut self.circuits[at].seen;
        let previous = seen.state;
        seen.openings_in_a_row = 0;
        if previous != StateName::Closed {
            seen.generation += 1;
        }
        self.enter_closed(at);
        self.tell(at, EventKind::CircuitClosed, Cause::Manual, |event| {
            event.previous_state = Some(previous);
            event.reason = reason;
        });
    }

    pub(crate) fn reset(&mut self, at: usize, reason: Option<Arc<str>>) {
        self.act(at, &reason);
        let seen = &mut self.circuits[at].seen;
        let previous = seen.state;
        if previous != StateName::Closed || seen.failure_count > 0 || seen.openings_in_a_row > 0 {
            seen.generation += 1;
        }
        seen.openings_in_a_row = 0;
        seen.failure_count = 0;
        self.enter_closed(at);
        self.tell(at, EventKind::CircuitReset, Cause::Manual, |event| {
            event.previous_state = Some(previous);
            event.reason = reason;
        });
    }

    fn act(&mut self, at: usize, reason: &Option<Arc<str>>) {
        let circuit = &mut self.circuits[at];
        circuit.active_at = self.now;
        if reason.is_some() {
            circuit.seen.last_reason.clone_from(reason);
        }
    }

    fn enter_closed(&mut self, at: usize) {
        let now = self.now;
        let circuit = &mut self.circuits[at];
        if circuit.seen.state != StateName::Closed {
            circuit.seen.changed_at = now;
        }
        circuit.seen.state = StateName::Closed;
        circuit.seen.opened_at = None;
        circuit.seen.expires_at = None;
        circuit.seen.probe_successes = 0;
        circuit.permits.clear();
        circuit.opening_reason = None;
    }

    fn do_open(
        &mut self,
        at: usize,
        cause: Cause,
        expiry: Option<Expiry>,
        reason: Option<Arc<str>>,
        metadata: Option<&SharedMetadata>,
    ) {
        let now = self.now;
        let policy = self.policy(&self.circuits[at].own);
        let circuit = &mut self.circuits[at];
        let previous = circuit.seen.state;
        if previous == StateName::Open {
            circuit.seen.openings_in_a_row = circuit.seen.openings_in_a_row.max(1);
        } else {
            circuit.seen.openings_in_a_row += 1;
            circuit.seen.changed_at = now;
        }
        let length = match expiry {
            Some(Expiry::Ms(ms)) => Some(ms),
            Some(Expiry::Never) => None,
            None => opening(&policy, circuit.seen.openings_in_a_row),
        };
        circuit.seen.state = StateName::Open;
        circuit.seen.generation += 1;
        circuit.seen.opened_at = Some(now);
        circuit.seen.expires_at = length.map(|ms| now.plus_ms(ms));
        circuit.seen.probe_successes = 0;
        circuit.permits.clear();
        circuit.opening_reason.clone_from(&reason);
        let until = circuit.seen.expires_at;
        self.tell(at, EventKind::CircuitOpened, cause, |event| {
            event.previous_state = Some(previous);
            event.reason = reason;
            event.expires_at = until;
            if let Some(metadata) = metadata {
                event.metadata = metadata.clone();
            }
        });
    }

    /// One item of a report, outcome by outcome.
    pub(crate) fn report(&mut self, at: usize, call: &Call) -> ItemReply {
        let now = self.now;
        let policy = self.policy(&self.circuits[at].own);
        let before = self.circuits[at].seen.clone();
        let circuit = &mut self.circuits[at];
        circuit.active_at = now;
        if call.reason.is_some() {
            circuit.seen.last_reason.clone_from(&call.reason);
        }
        circuit.seen.totals.rejected += call.rejected;
        for outcome in call.outcomes {
            match outcome {
                Outcome::Success => {
                    circuit.seen.totals.successes += 1;
                    circuit.seen.last_success_at = Some(now);
                }
                Outcome::Failure => {
                    circuit.seen.totals.failures += 1;
                    circuit.seen.last_failure_at = Some(now);
                }
                Outcome::Ignored => circuit.seen.totals.ignored += 1,
            }
        }
        // The later of two entries with one key counts.
        let metadata = before.metadata.iter().chain(&call.metadata);
        let metadata = SharedMetadata::from(metadata.collect::<Metadata>());

        let mut late = call
            .generation
            .is_some_and(|generation| generation != before.generation);
        if let Some(permit) = call.permit.filter(|_| !late) {
            let out = circuit.permits.len();
            circuit.permits.retain(|(id, _)| *id != permit);
            late = circuit.permits.len() == out;
        }
        // The events of the outcomes come first; what they are like is known when all are counted.
        let mark = self.events.len();
        let mut count_at_first_opening = None;
        for outcome in call.outcomes {
            let seen = &self.circuits[at].seen;
            let moved_on = call
                .generation
                .is_some_and(|generation| generation != seen.generation);
            if late || moved_on {
                continue;
            }
            let first = self.events.len() == mark;
            self.outcome(at, *outcome, &policy, call, &metadata);
            let seen = &self.circuits[at].seen;
            if first && self.events.len() > mark && seen.state == StateName::Open {
                count_at_first_opening = Some(seen.failure_count);
            }
        }
        let transitions = self.events.split_off(mark);
        let shown = if transitions.is_empty() {
            self.circuits[at].seen.failure_count
        } else {
            count_at_first_opening.unwrap_or(before.failure_count)
        };
        let last = call
            .outcomes
            .iter()
            .rev()
            .find(|outcome| **outcome != Outcome::Ignored);
        let mut kinds = [
            (EventKind::Failure, Outcome::Failure),
            (EventKind::Success, Outcome::Success),
        ];
        if last == Some(&Outcome::Failure) {
            kinds.reverse();
        }
        for (kind, outcome) in kinds {
            let count = call.outcomes.iter().filter(|other| **other == outcome).count() as u64;
            if count > 0 {
                self.tell(at, kind, Cause::Request, |event| {
                    event.previous_state = Some(before.state);
                    event.new_state = Some(before.state);
                    event.generation = before.generation;
                    event.openings_in_a_row = before.openings_in_a_row;
                    event.failure_count = shown;
                    event.count = count;
                    event.permit = call.permit;
                    event.reason = call.reason.clone().filter(|_| kind == EventKind::Failure);
                    event.metadata = metadata.clone();
                });
            }
        }
        for mut event in transitions {
            event.revision = self.events.len() as u64 + 1;
            self.circuits[at].seen.revision = event.revision;
            self.events.push(event);
        }
        let seen = &self.circuits[at].seen;
        ItemReply::Counted {
            late,
            state: seen.state,
            generation: seen.generation,
            failure_count: seen.failure_count,
        }
    }

    fn outcome(
        &mut self,
        at: usize,
        outcome: Outcome,
        policy: &EffectivePolicy,
        call: &Call,
        metadata: &SharedMetadata,
    ) {
        let seen = &mut self.circuits[at].seen;
        match (seen.state, outcome) {
            (_, Outcome::Ignored) | (StateName::Open, _) => {}
            (StateName::Closed, Outcome::Success) => seen.failure_count = 0,
            (StateName::Closed, Outcome::Failure) => {
                seen.failure_count += 1;
                if seen.failure_count >= policy.max_attempts {
                    self.do_open(at, Cause::Threshold, None, call.reason.clone(), Some(metadata));
                }
            }
            (StateName::HalfOpen, Outcome::Failure) => {
                self.do_open(at, Cause::Probe, None, call.reason.clone(), Some(metadata));
            }
            (StateName::HalfOpen, Outcome::Success) => {
                seen.probe_successes += 1;
                if seen.probe_successes >= policy.half_open_successes {
                    seen.generation += 1;
                    seen.failure_count = 0;
                    seen.openings_in_a_row = 0;
                    self.enter_closed(at);
                    self.tell(at, EventKind::CircuitClosed, Cause::Probe, |event| {
                        event.previous_state = Some(StateName::HalfOpen);
                        event.reason.clone_from(&call.reason);
                        event.metadata = metadata.clone();
                    });
                }
            }
        }
    }
}

/// How long the n-th opening in a row lasts, one multiplication after the other.
fn opening(policy: &EffectivePolicy, n: u32) -> Option<u64> {
    match policy.expiry_strategy {
        ExpiryStrategy::Fixed => match policy.expiry {
            Expiry::Ms(ms) => Some(ms),
            Expiry::Never => None,
        },
        ExpiryStrategy::Progressive => {
            let mut length = policy.initial_expiry_ms? as f64;
            for _ in 1..n {
                length *= policy.backoff_factor;
            }
            let max = policy.max_expiry_ms.unwrap_or(30 * 24 * 3_600_000);
            Some(length.min(max as f64) as u64)
        }
    }
}
