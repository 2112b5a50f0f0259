//! What an event says of a circuit.

use crate::circuit::{Circuit, StateName, Transition};
use crate::event::{Cause, Event, EventKind};
use crate::time::ClusterTime;

/// A circuit as it was at one moment, as far as events show it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) state: StateName,
    pub(super) failure_count: u32,
    pub(super) generation: u64,
    openings_in_a_row: u32,
}

impl Moment {
    pub(super) fn of(circuit: &Circuit) -> Self {
        Self {
            state: circuit.state_name(),
            failure_count: circuit.failure_count,
            generation: circuit.generation,
            openings_in_a_row: circuit.openings_in_a_row,
        }
    }

    /// The event after `revision`, in which nothing changes.
    pub(super) fn draft(
        &self,
        kind: EventKind,
        cause: Cause,
        circuit: &Circuit,
        revision: u64,
        time: ClusterTime,
    ) -> Event {
        Event {
            revision: revision + 1,
            time,
            name: Some(circuit.name.clone()),
            kind,
            previous_state: Some(self.state),
            new_state: Some(self.state),
            failure_count: self.failure_count,
            cause,
            reason: None,
            metadata: circuit.metadata.clone(),
            generation: self.generation,
            count: 0,
            expires_at: None,
            permit: None,
            openings_in_a_row: self.openings_in_a_row,
        }
    }
}

impl Transition {
    /// The event after `revision` that tells of it.
    pub(super) fn event(&self, circuit: &Circuit, revision: u64, time: ClusterTime) -> Event {
        let new_state = match self.kind {
            EventKind::CircuitOpened => StateName::Open,
            EventKind::CircuitHalfOpened => StateName::HalfOpen,
            _ => StateName::Closed,
        };
        Event {
            previous_state: Some(self.previous),
            new_state: Some(new_state),
            failure_count: self.failure_count,
            generation: self.generation,
            expires_at: self.expires_at,
            openings_in_a_row: self.openings_in_a_row,
            ..Moment::of(circuit).draft(self.kind, self.cause, circuit, revision, time)
        }
    }
}
