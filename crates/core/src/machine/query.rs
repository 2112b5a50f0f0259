//! Reading the state.

use std::ops::Bound;

use super::Machine;
use crate::census::Census;
use crate::circuit::{Circuit, State as CircuitState, StateName};
use crate::command::CircuitId;
use crate::event_log::KeptEvent;
use crate::limits::Limits;
use crate::name::CircuitName;
use crate::policy::{EffectivePolicy, GlobalOptions, Policy};
use crate::query::{Availability, CircuitStatus, Compacted, ListQuery};
use crate::reply::Refusal;
use crate::time::ClusterTime;

impl Machine {
    /// A circuit as it is now.
    pub fn status(&self, name: &CircuitName) -> Option<CircuitStatus> {
        self.circuit(name).map(|circuit| self.show(circuit))
    }

    pub(super) fn status_of(&self, id: CircuitId) -> Result<CircuitStatus, Refusal> {
        let circuit = self.state.circuits.get(&id).map(|circuit| self.show(circuit));
        circuit.ok_or_else(|| Refusal::CircuitNotFound { name: String::new() })
    }

    fn show(&self, circuit: &Circuit) -> CircuitStatus {
        let (opened_at, expires_at, probes_in_flight, probe_successes) = match &circuit.state {
            CircuitState::Closed => (None, None, 0, 0),
            CircuitState::Open { since, until, .. } => (Some(*since), *until, 0, 0),
            CircuitState::HalfOpen {
                opened_at,
                permits,
                successes,
                ..
            } => (Some(*opened_at), None, permits.len() as u32, *successes),
        };
        CircuitStatus {
            name: circuit.name.clone(),
            state: circuit.state_name(),
            generation: circuit.generation,
            failure_count: circuit.failure_count,
            policy: self.state.effective(circuit.own.as_deref()),
            opened_at,
            expires_at,
            openings_in_a_row: circuit.openings_in_a_row,
            last_success_at: circuit.last_success_at,
            last_failure_at: circuit.last_failure_at,
            last_reason: circuit.last_reason.clone(),
            totals: circuit.totals,
            registered_at: circuit.registered_at,
            changed_at: circuit.changed_at,
            metadata: circuit.metadata.clone(),
            revision: circuit.revision,
            probes_in_flight,
            probe_successes,
        }
    }

    /// Circuits in the order of their names.
    pub fn list(&self, query: &ListQuery) -> Vec<CircuitStatus> {
        let from = query
            .after
            .as_ref()
            .map_or(Bound::Unbounded, |name| Bound::Excluded(name.clone()));
        self.state
            .names
            .range((from, Bound::Unbounded))
            .filter(|(name, _)| {
                query
                    .scope
                    .as_deref()
                    .is_none_or(|scope| name.scope.as_deref().unwrap_or_default() == scope)
            })
            .filter(|(name, _)| name.identifier.starts_with(&query.identifier_prefix))
            .filter_map(|(_, id)| self.state.circuits.get(id))
            .filter(|circuit| query.states.is_empty() || query.states.contains(&circuit.state_name()))
            .take(query.limit)
            .map(|circuit| self.show(circuit))
            .collect()
    }

    /// Whether a call would pass at `now`; nothing changes.
    pub fn available(&self, name: &CircuitName, now: ClusterTime) -> Option<Availability> {
        let circuit = self.circuit(name)?;
        let (available, retry_after_ms, reason, opened_at) = match &circuit.state {
            CircuitState::Closed => (true, None, None, None),
            CircuitState::Open { since, until, reason } => (
                false,
                until.map(|until| now.ms_until(until).max(1)),
                reason.clone(),
                Some(*since),
            ),
            CircuitState::HalfOpen {
                opened_at,
                permits,
                reason,
                ..
            } => {
                let max = u64::from(self.state.deciding(circuit).half_open_max_probes);
                let free = (permits.len() as u64) < max;
                let next = permits.values().min().map(|until| now.ms_until(*until).max(1));
                (
                    free,
                    if free { None } else { next },
                    reason.clone(),
                    Some(*opened_at),
                )
            }
        };
        let (state, generation) = (circuit.state_name(), circuit.generation);
        debug_assert!(available || state != StateName::Closed);
        Some(Availability {
            available,
            state,
            generation,
            retry_after_ms,
            reason,
            opened_at,
        })
    }

    /// A circuit's own policy, and what holds for it.
    pub fn circuit_config(&self, name: &CircuitName) -> Option<(Policy, EffectivePolicy)> {
        let circuit = self.circuit(name)?;
        let own = circuit.own.as_deref().cloned().unwrap_or_default();
        Some((own, self.state.effective(circuit.own.as_deref())))
    }

    /// The runtime global policy as it is set, what holds for a circuit with nothing of its own, and the global options that hold.
    pub fn global_config(&self) -> (Policy, EffectivePolicy, GlobalOptions) {
        (
            (*self.state.global).clone(),
            self.state.effective(None),
            self.state.effective_global(),
        )
    }

    /// The bootstrap defaults; `None` before the cluster's first command.
    pub fn defaults(&self) -> Option<(Policy, GlobalOptions)> {
        self.state
            .cluster
            .as_ref()
            .map(|cluster| (cluster.defaults.clone(), cluster.global_defaults))
    }

    /// The cluster's limits.
    pub fn limits(&self) -> Limits {
        self.state.limits()
    }

    /// Registered circuits.
    pub fn circuit_count(&self) -> u64 {
        self.state.circuits.len() as u64
    }

    /// Registered circuits by state. O(1).
    pub fn census(&self) -> Census {
        self.state.census
    }

    /// Sessions that are remembered.
    pub fn session_count(&self) -> u64 {
        self.state.sessions.len() as u64
    }

    /// Revision of the newest event; 0: none yet.
    pub fn revision(&self) -> u64 {
        self.state.events.revision()
    }

    /// Revision of the oldest event that is kept; `revision() + 1` if none is.
    pub fn oldest_revision(&self) -> u64 {
        self.state.events.oldest()
    }

    /// What the events that are kept count against [`Limits::max_event_bytes`].
    pub fn event_bytes(&self) -> u64 {
        self.state.events.bytes()
    }

    /// At most `max` events after revision `after`; none when there are none yet, also when `after` is ahead of this node.
    ///
    /// # Errors
    /// [`Compacted`] when some of them are no longer kept.
    pub fn events_after(&self, after: u64, max: usize) -> Result<Vec<KeptEvent>, Compacted> {
        self.state.events.after(after, max)
    }
}
