//! Whether what the clients saw of each circuit is linearizable (G2), by a model and a search that know nothing of the product. Of its event log they take
//! only which unanswered operations took effect.
//!
//! | file | what it does |
//! | --- | --- |
//! | `model` | the sequential circuit: what each operation does and shows |
//! | `entry` | cuts the history into what each circuit sees of it |
//! | `happened` | which of the operations that nobody answered took effect at all, by the event log; and where, as a hint for the search |
//! | `search` | looks for an order that the model explains |
//! | `draw` | shows where there is none |
//!
//! A history is linearizable if it is for each circuit alone (Herlihy and Wing: the property is local), so each is searched by itself. Two things
//! reach over circuits, and this check lets each circuit see them for itself: the items of one batch, and the runtime global options. That they
//! are one moment for all circuits is for `effects` to check, from the events.

mod draw;
mod entry;
mod happened;
#[cfg(test)]
mod made_up;
mod model;
mod search;
#[cfg(test)]
mod wrong;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

use self::draw::Drawing;
use self::entry::{Entries, Hints};
use self::happened::Happened;
use self::model::State;
use self::search::{Verdict, search};
use super::Evidence;
use crate::circuits::CircuitIndex;
use crate::findings::Findings;
use crate::report;

/// The search of one circuit gives up after so many steps of the model. A fixed number and not a time, so that the same history always gets the
/// same answer; it is some seconds.
const BUDGET: usize = 5_000_000;

pub(super) fn check(evidence: &Evidence) -> Findings {
    let entries = Entries::of(&evidence.ops, Happened::of(evidence));
    let verdicts = search_all(&entries, evidence.circuits.len());
    let mut findings = Findings::default();
    let (mut explained, mut operations) = (0, 0);
    for (circuit, verdict) in verdicts {
        let name = name_of(evidence, circuit);
        match verdict {
            Verdict::Explained(path) => {
                explained += 1;
                operations += path.len();
            }
            Verdict::Refuted(stuck) => {
                let drawing = Drawing {
                    name: &name,
                    ops: &evidence.ops,
                    entries: &entries.of_circuit(circuit, Hints::Ignored),
                    stuck: &stuck,
                };
                findings.broken("G2", drawing.text());
                findings.draw(report::Drawing {
                    title: format!("Circuit {name} is not linearizable"),
                    fragment: drawing.html(),
                });
            }
            Verdict::GaveUp => findings.untold(format!(
                "whether circuit {name} is linearizable: the search gave up after {BUDGET} steps"
            )),
        }
    }
    findings.checked(
        "G2",
        format!("{explained} circuits are linearizable: an order explains {operations} operations"),
    );
    if operations == 0 {
        findings.untold("no operation was there to be put in order");
    }
    findings
}

/// One circuit after the other, on all processors.
fn search_all(entries: &Entries<'_>, circuits: usize) -> Vec<(CircuitIndex, Verdict)> {
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(Vec::new());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let circuit = next.fetch_add(1, Ordering::Relaxed);
                    if circuit >= circuits {
                        break;
                    }
                    verdicts.lock().push((circuit, search_one(entries, circuit)));
                }
            });
        }
    });
    let mut verdicts = verdicts.into_inner();
    verdicts.sort_by_key(|(circuit, _)| *circuit);
    verdicts
}

/// An order that is found is one, wherever it was looked for. That there is none is only said by a search that took no hint.
fn search_one(entries: &Entries<'_>, circuit: CircuitIndex) -> Verdict {
    let search = |hints| {
        let entries = entries.of_circuit(circuit, hints);
        search(&entries, &State::default(), BUDGET)
    };
    match search(Hints::Taken) {
        found @ Verdict::Explained(_) => found,
        Verdict::Refuted(_) | Verdict::GaveUp => search(Hints::Ignored),
    }
}

fn name_of(evidence: &Evidence, circuit: CircuitIndex) -> String {
    let name = &evidence.circuits.get(circuit).name;
    match &name.scope {
        Some(scope) => format!("{scope}/{}", name.identifier),
        None => name.identifier.clone(),
    }
}
