//! Holds what was seen against the contract. Everything here is pure: the same evidence gives the same findings.
//!
//! | file | guarantee |
//! | --- | --- |
//! | `effects` | G3, G8, G9: every acknowledged operation has its effect once, a refused one none, an unknown one at most one, and no effect is without an operation |
//! | `totals` | G3: what circuits counted in the end is the sum of what was acknowledged, and some of the unknown |
//! | `policies` | G8, G9: each configuration has its event; and which policy a circuit can have had at an event |
//! | `lives` | G9: the events of a circuit follow from one another: state, generation, openings |
//! | `permits` | G6: never more live permits than allowed |
//! | `timing` | G4, G5: no opening ends early, by cluster time and by the harness's clock |
//! | `linear` | G2: what clients saw of each circuit is linearizable, by a model and a search of their own; the events only say which unanswered operation took effect, and where to look first |
//! | `reads` | G2: a linearizable read contains everything acknowledged before, and shows exactly what the events say |
//! | [`figures`] | how much was done, and whether all of it was worth doing |

mod effects;
pub mod figures;
mod lifetimes;
mod linear;
mod lives;
pub mod offset;
mod permits;
mod policies;
mod reads;
#[cfg(test)]
pub(crate) mod samples;
mod timing;
mod totals;

use std::collections::BTreeMap;
use std::sync::Arc;

use brama_proto::v1;

use crate::circuits::{CircuitIndex, Circuits};
use crate::findings::Findings;
use crate::history::Op;
use crate::ledger::Seen;
use crate::nemesis::{FaultRecord, Span};
use crate::workload::LABEL_KEY;

/// What a run left behind.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The circuits.
    pub circuits: Arc<Circuits>,
    /// What the clients did.
    pub ops: Vec<Op>,
    /// What the subscribers saw, by revision.
    pub events: BTreeMap<u64, Seen>,
    /// What the nemesis did.
    pub faults: Vec<FaultRecord>,
    /// The kinds of operations that the clients chose from, as [`Action::kind`](crate::history::Action::kind) names them.
    pub kinds: Vec<&'static str>,
    /// What the nemesis left of the cluster, all the time.
    pub spans: Vec<Span>,
}

/// All checks on the evidence.
pub fn all(evidence: &Evidence) -> Findings {
    let mut findings = Findings::default();
    let newest = evidence.events.keys().next_back().copied().unwrap_or(0);
    let missing = newest - evidence.events.len() as u64;
    if missing > 0 {
        // Each subscriber's own gaps are broken promises, and found when they happen; these are events that were compacted before
        // any of them had come so far.
        findings.untold(format!(
            "{missing} of {newest} events were seen by no subscriber, so effects and circuits cannot be checked"
        ));
        return findings;
    }
    findings.merge(effects::check(evidence));
    findings.merge(lives::check(evidence));
    findings.merge(permits::check(evidence));
    findings.merge(timing::check(evidence));
    findings.merge(reads::check(evidence));
    findings.merge(totals::check(evidence));
    findings.merge(linear::check(evidence));
    findings
}

/// Only that acknowledged operations have their effect once, and that no effect is without one.
pub fn effects(evidence: &Evidence) -> Findings {
    effects::check(evidence)
}

impl Evidence {
    /// The events of each circuit, in order.
    fn by_circuit(&self) -> Vec<(CircuitIndex, Vec<&Seen>)> {
        let mut all: Vec<_> = self
            .circuits
            .iter()
            .map(|(index, _)| (index, Vec::new()))
            .collect();
        for seen in self.events.values() {
            if let Some(index) = self.circuit_of(&seen.event) {
                all[index].1.push(seen);
            }
        }
        all
    }

    fn circuit_of(&self, event: &v1::Event) -> Option<CircuitIndex> {
        self.circuits.find(event.name.as_ref()?)
    }
}

/// The registration that an event's circuit names.
fn label(event: &v1::Event) -> Option<&str> {
    event.metadata.get(LABEL_KEY).map(String::as_str)
}

/// An event, for a person.
fn show(event: &v1::Event) -> String {
    let name = event.name.clone().unwrap_or_default();
    format!(
        "revision {} {} of {}/{} (generation {}, {} -> {})",
        event.revision,
        event.r#type().as_str_name().trim_start_matches("EVENT_TYPE_"),
        name.scope.as_deref().unwrap_or("-"),
        name.identifier,
        event.generation,
        event.previous_state().as_str_name().trim_start_matches("STATE_"),
        event.new_state().as_str_name().trim_start_matches("STATE_"),
    )
}
