//! Timers: what is due, and what happens when it is fired.
//!
//! Openings and probes have exact deadlines. What is idle is found by sweeps over all circuits or sessions. A sweep remembers the oldest
//! activity that it saw, and the next one is not due before that could have become too old: on a busy cluster with a
//! threshold of a day there is nearly never one.

use super::Machine;
use crate::circuit::State as CircuitState;
use crate::command::{CircuitId, Due, PermitId};
use crate::event::{Cause, Event, EventKind};
use crate::limits::{MAX_FIRE, SESSION_IDLE_MS};
use crate::time::ClusterTime;

/// Sessions are swept at most this often, in milliseconds. When a session ends does not depend on it: see [`crate::session`].
const SESSION_SWEEP_MS: u64 = 10_000;

impl Machine {
    /// When the next timer is due; `None`: none is armed. O(log n).
    pub fn next_due(&self) -> Option<ClusterTime> {
        [self.timers.next(), self.cleanup_due(), self.session_sweep_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// At most `max` things that are due at `now`, the earliest deadlines first. They stay due until firing them is applied.
    pub fn due(&self, now: ClusterTime, max: usize) -> Vec<Due> {
        let is_due = |at: Option<ClusterTime>| at.is_some_and(|at| at <= now);
        let sweeps = [
            (is_due(self.session_sweep_due()), Due::Sessions),
            (is_due(self.cleanup_due()), Due::Cleanup),
        ];
        let sweeps = sweeps.into_iter().filter_map(|(due, sweep)| due.then_some(sweep));
        self.timers.due(now).chain(sweeps).take(max).collect()
    }

    fn cleanup_due(&self) -> Option<ClusterTime> {
        if self.state.circuits.is_empty() {
            return None;
        }
        let options = self.state.effective_global();
        let sweeps = &self.state.sweeps;
        let idle = sweeps.circuits_bound.plus_ms(options.inactive_threshold());
        Some(idle.max(sweeps.circuits_at.plus_ms(options.cleanup_interval())))
    }

    fn session_sweep_due(&self) -> Option<ClusterTime> {
        if self.state.sessions.is_empty() {
            return None;
        }
        let sweeps = &self.state.sweeps;
        let idle = sweeps.sessions_bound.plus_ms(SESSION_IDLE_MS);
        Some(idle.max(sweeps.sessions_at.plus_ms(SESSION_SWEEP_MS)))
    }

    pub(super) fn fire(&mut self, due: &[Due]) {
        for due in due {
            match *due {
                Due::Expiry { circuit, generation } => self.expire_opening(circuit, generation),
                Due::Probe {
                    circuit,
                    generation,
                    permit,
                } => self.expire_probe(circuit, generation, permit),
                Due::Sessions => self.sweep_sessions(),
                Due::Cleanup => self.sweep_circuits(),
            }
        }
    }

    fn expire_opening(&mut self, id: CircuitId, generation: u64) {
        let now = self.state.time;
        if self
            .state
            .circuits
            .get(&id)
            .is_none_or(|circuit| circuit.generation != generation)
        {
            return;
        }
        let until = self
            .state
            .circuits
            .get(&id)
            .and_then(|circuit| match circuit.state {
                CircuitState::Open { until, .. } => until,
                _ => None,
            });
        if let Some(Some(transition)) = self.change(id, |circuit| circuit.half_open(now)) {
            self.met.extend(until);
            self.emit_transition(id, transition, None);
        }
    }

    fn expire_probe(&mut self, id: CircuitId, generation: u64, permit: PermitId) {
        let now = self.state.time;
        let Some(circuit) = self.state.circuits.get(&id) else {
            return;
        };
        let CircuitState::HalfOpen { permits, .. } = &circuit.state else {
            return;
        };
        let Some(until) = permits.get(&permit).copied().filter(|until| *until <= now) else {
            return;
        };
        if circuit.generation != generation {
            return;
        }
        self.met.push(until);
        self.change(id, |circuit| {
            if let CircuitState::HalfOpen { permits, .. } = &mut circuit.state {
                permits.remove(&permit);
            }
        });
        if let Some(circuit) = self.state.circuits.get(&id) {
            let event = Event {
                permit: Some(permit),
                ..self.draft(EventKind::ProbeExpired, Cause::Expiry, circuit)
            };
            self.emit(Some(id), event);
        }
    }

    fn sweep_sessions(&mut self) {
        let now = self.state.time;
        if self.session_sweep_due().is_none_or(|due| due > now) {
            return;
        }
        let over: Vec<u128> = self
            .state
            .sessions
            .iter()
            .filter(|(_, session)| session.is_over(now))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.state.sessions.remove(&id);
        }
        let oldest = self.state.sessions.values().map(|session| session.used_at).min();
        self.state.sweeps.sessions_at = now;
        self.state.sweeps.sessions_bound = oldest.unwrap_or(now);
    }

    fn sweep_circuits(&mut self) {
        let now = self.state.time;
        if self.cleanup_due().is_none_or(|due| due > now) {
            return;
        }
        let threshold = self.state.effective_global().inactive_threshold();
        let idle: Vec<CircuitId> = self
            .state
            .circuits
            .iter()
            .filter(|(_, circuit)| circuit.active_at.plus_ms(threshold) <= now)
            .filter(|(_, circuit)| !circuit.holds_failures_or_is_not_closed())
            .map(|(id, _)| id)
            .take(MAX_FIRE + 1)
            .collect();
        let more = idle.len() > MAX_FIRE;
        for id in idle.into_iter().take(MAX_FIRE) {
            self.remove_with_event(id, EventKind::ConnectionRemoved, Cause::Cleanup, None);
        }
        if !more {
            self.state.sweeps.circuits_at = now;
            let oldest = self
                .state
                .circuits
                .iter()
                .map(|(_, circuit)| circuit.active_at)
                .min();
            self.state.sweeps.circuits_bound = oldest.unwrap_or(now);
        }
    }
}
