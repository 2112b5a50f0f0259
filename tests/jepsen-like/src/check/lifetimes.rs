//! When each circuit was registered, by revision.

use std::collections::HashMap;

use brama_proto::v1::EventType;

use super::Evidence;
use crate::circuits::CircuitIndex;

/// The lives of all circuits, as their events tell them.
pub(super) struct Lifetimes {
    /// By circuit: the revisions of each registration and of its end, in order.
    lives: HashMap<CircuitIndex, Vec<(u64, u64)>>,
}

impl Lifetimes {
    pub(super) fn of(evidence: &Evidence) -> Self {
        let mut lives: HashMap<CircuitIndex, Vec<(u64, u64)>> = HashMap::new();
        for seen in evidence.events.values() {
            let event = &seen.event;
            let Some(circuit) = evidence.circuit_of(event) else {
                continue;
            };
            let lives = lives.entry(circuit).or_default();
            match event.r#type() {
                EventType::Registration => lives.push((event.revision, u64::MAX)),
                EventType::ConnectionUnregistered | EventType::ConnectionRemoved => {
                    if let Some(last) = lives.last_mut() {
                        last.1 = last.1.min(event.revision);
                    }
                }
                _ => {}
            }
        }
        Self { lives }
    }

    /// Whether the circuit was registered once this revision was applied.
    pub(super) fn is_registered(&self, circuit: CircuitIndex, revision: u64) -> bool {
        self.lives.get(&circuit).is_some_and(|lives| {
            lives
                .iter()
                .any(|(from, until)| (*from..*until).contains(&revision))
        })
    }

    /// The revision at which the circuit was registered last; `None`: it is not registered in the end.
    pub(super) fn last(&self, circuit: CircuitIndex) -> Option<u64> {
        let (from, until) = self.lives.get(&circuit)?.last()?;
        (*until == u64::MAX).then_some(*from)
    }

    /// How often circuits were registered.
    pub(super) fn count(&self) -> usize {
        self.lives.values().map(Vec::len).sum()
    }
}
