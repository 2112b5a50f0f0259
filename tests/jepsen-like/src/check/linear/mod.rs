//! Whether what the clients saw of each circuit is linearizable (G2), by a model and a search that know nothing of the product. Of its event log they take
//! only which unanswered operations took effect, and where to look for them first.
//!
//! | file | what it does |
//! | --- | --- |
//! | `model` | the sequential circuit: what each operation does and shows |
//! | `entry` | cuts the history into what each circuit sees of it |
//! | `happened` | which of the operations that nobody answered took effect at all, by the event log; and where, as a hint for the search |
//! | `search`, `list` | looks for an order that the model explains |
//! | `draw` | shows where there is none |
//!
//! A history is linearizable if it is for each circuit alone (Herlihy and Wing: the property is local), so each is searched by itself. Two things
//! reach over circuits, and this check lets each circuit see them for itself: the items of one batch, and the runtime global options. That they
//! are one moment for all circuits is for `effects` to check, from the events.

mod draw;
mod entry;
mod happened;
mod list;
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
use self::entry::{Entries, Entry, Hints};
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

/// What came of one circuit.
struct Found {
    circuit: CircuitIndex,
    verdict: Verdict,
    entries: Vec<Entry>,
    hints: Hints,
}

pub(super) fn check(evidence: &Evidence) -> Findings {
    let entries = Entries::of(&evidence.ops, Happened::of(evidence));
    let all = search_all(&entries, evidence.circuits.len());
    let mut findings = Findings::default();
    let (mut explained, mut operations) = (0, 0);
    for found in all {
        let name = name_of(evidence, found.circuit);
        match found.verdict {
            Verdict::Explained(path) => {
                explained += 1;
                operations += path.len();
            }
            Verdict::Refuted(stuck) => {
                let drawing = Drawing {
                    name: &name,
                    ops: &evidence.ops,
                    entries: &found.entries,
                    hints: found.hints,
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
fn search_all(entries: &Entries<'_>, circuits: usize) -> Vec<Found> {
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Vec::new());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let circuit = next.fetch_add(1, Ordering::Relaxed);
                    if circuit >= circuits {
                        break;
                    }
                    let found = search_one(entries, circuit);
                    all.lock().push(found);
                }
            });
        }
    });
    let mut all = all.into_inner();
    all.sort_by_key(|found| found.circuit);
    all
}

/// An order that is found is one, wherever it was looked for. If there is none where the event log has what nobody answered, it is looked for
/// without that; and if that is too much to try, then the answers and the event log together have no explanation, and that is said.
fn search_one(entries: &Entries<'_>, circuit: CircuitIndex) -> Found {
    let search = |hints| {
        let entries = entries.of_circuit(circuit, hints);
        let verdict = search(&entries, &State::default(), BUDGET);
        Found {
            circuit,
            verdict,
            entries,
            hints,
        }
    };
    let hinted = search(Hints::Taken);
    if matches!(hinted.verdict, Verdict::Explained(_)) {
        return hinted;
    }
    let alone = search(Hints::Ignored);
    match (&hinted.verdict, &alone.verdict) {
        (Verdict::Refuted(_), Verdict::GaveUp) => hinted,
        _ => alone,
    }
}

fn name_of(evidence: &Evidence, circuit: CircuitIndex) -> String {
    let name = &evidence.circuits.get(circuit).name;
    match &name.scope {
        Some(scope) => format!("{scope}/{}", name.identifier),
        None => name.identifier.clone(),
    }
}
