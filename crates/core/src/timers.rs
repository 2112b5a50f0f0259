//! What is due, and when. Derived from the state: never written, rebuilt when a state is restored.

use std::collections::BTreeSet;

use crate::circuit::{Circuit, State};
use crate::command::{CircuitId, Due, PermitId};
use crate::time::ClusterTime;

/// The deadlines of all circuits, in order.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    deadlines: BTreeSet<(ClusterTime, CircuitId, Option<PermitId>, u64)>,
}

impl Timers {
    /// Enters the deadlines of a circuit as it is now.
    pub(crate) fn arm(&mut self, id: CircuitId, circuit: &Circuit) {
        each_deadline(id, circuit, |deadline| {
            self.deadlines.insert(deadline);
        });
    }

    /// Strikes out the deadlines of a circuit as it is now; before it changes.
    pub(crate) fn disarm(&mut self, id: CircuitId, circuit: &Circuit) {
        each_deadline(id, circuit, |deadline| {
            self.deadlines.remove(&deadline);
        });
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<ClusterTime> {
        self.deadlines.first().map(|(at, ..)| *at)
    }

    /// What is due at `now`, the earliest first.
    pub(crate) fn due(&self, now: ClusterTime) -> impl Iterator<Item = Due> {
        self.deadlines.iter().take_while(move |(at, ..)| *at <= now).map(
            |&(_, circuit, permit, generation)| match permit {
                None => Due::Expiry { circuit, generation },
                Some(permit) => Due::Probe {
                    circuit,
                    generation,
                    permit,
                },
            },
        )
    }
}

fn each_deadline(
    id: CircuitId,
    circuit: &Circuit,
    mut f: impl FnMut((ClusterTime, CircuitId, Option<PermitId>, u64)),
) {
    match &circuit.state {
        State::Closed => {}
        State::Open { until, .. } => {
            if let Some(until) = until {
                f((*until, id, None, circuit.generation));
            }
        }
        State::HalfOpen { permits, .. } => {
            for (permit, until) in permits.iter() {
                f((*until, id, Some(*permit), circuit.generation));
            }
        }
    }
}
