//! Exactly once, by the sums: what a circuit counted in the end is what was acknowledged, and some of what was never answered.
//!
//! `effects` holds each batch against its events. This holds the last read of each circuit against the history alone, where the circuit lived as
//! long as the run; and against the events, for all.

use std::collections::{BTreeMap, BTreeSet};

use brama_proto::v1::EventType;

use super::Evidence;
use super::lifetimes::Lifetimes;
use crate::circuits::CircuitIndex;
use crate::findings::Findings;
use crate::history::{Action, Answer, Level, Op, Outcome, Shown, Totals};

/// Beyond so many different sums nothing is said.
const MOST_SUMS: usize = 100_000;

/// What was reported for one circuit.
#[derive(Default)]
struct Sums {
    acknowledged: Totals,
    /// Each may count or not.
    unknown: Vec<Totals>,
}

pub(super) fn check(evidence: &Evidence) -> Findings {
    let mut findings = Findings::default();
    let lifetimes = Lifetimes::of(evidence);
    let last = last_reads(&evidence.ops);
    let sums = sums(&evidence.ops);
    let unregistered = unregistered(&evidence.ops);
    let (mut looked_at, mut by_history, mut unread) = (0, 0, 0);
    for (circuit, _) in evidence.circuits.iter() {
        let Some(shown) = last.get(&circuit) else {
            unread += u32::from(lifetimes.last(circuit).is_some());
            continue;
        };
        looked_at += 1;
        let counted = counted(evidence, &lifetimes, circuit, shown.at);
        findings.require(counted == Some(shown.totals), "G3", || {
            format!(
                "circuit {circuit} shows totals {:?} in the end, and its events say {counted:?}",
                shown.totals
            )
        });
        if unregistered.contains(&circuit) {
            continue;
        }
        let none = Sums::default();
        let sums = sums.get(&circuit).unwrap_or(&none);
        match possible(sums) {
            Some(possible) => {
                by_history += 1;
                findings.require(possible.contains(&shown.totals), "G3", || {
                    format!(
                        "circuit {circuit} shows totals {:?} in the end: {:?} were acknowledged, and no choice of {} reports without an answer makes up the difference",
                        shown.totals, sums.acknowledged, sums.unknown.len()
                    )
                });
            }
            None => findings.untold(format!(
                "{} reports without an answer for circuit {circuit}: too many to add up",
                sums.unknown.len()
            )),
        }
    }
    if unread > 0 {
        findings.untold(format!("{unread} circuits were not read in the end"));
    }
    findings.checked(
        "G3",
        format!("the totals of {looked_at} circuits in the end are the sum of their events, and of {by_history} also of what was acknowledged and some of the unknown"),
    );
    findings
}

/// The last linearizable read of each circuit, if nothing that may have changed it was under way then, or began later.
fn last_reads(ops: &[Op]) -> BTreeMap<CircuitIndex, &Shown> {
    let mut last: BTreeMap<CircuitIndex, &Op> = BTreeMap::new();
    for op in ops {
        if let (
            Action::Status {
                circuit,
                level: Level::Linearizable,
            },
            true,
        ) = (&op.action, op.is_ok())
        {
            last.insert(*circuit, op);
        }
    }
    let mut busy_until: BTreeMap<CircuitIndex, u64> = BTreeMap::new();
    for op in ops {
        if let (Some((_, items)), true) = (op.action.batch(), op.is_ok()) {
            for item in items {
                let until = busy_until.entry(item.circuit).or_default();
                *until = (*until).max(op.ended);
            }
        }
    }
    last.into_iter()
        .filter(|(circuit, op)| busy_until.get(circuit).is_none_or(|until| *until < op.started))
        .filter_map(|(circuit, op)| match op.answer() {
            Some(Answer::Status(shown)) => Some((circuit, shown)),
            _ => None,
        })
        .collect()
}

/// By the events of the circuit's last life.
fn counted(evidence: &Evidence, lifetimes: &Lifetimes, circuit: CircuitIndex, until: u64) -> Option<Totals> {
    let from = lifetimes.last(circuit)?;
    let mut totals = Totals::default();
    for seen in evidence.events.range(from..=until).map(|(_, seen)| seen) {
        if evidence.circuit_of(&seen.event) == Some(circuit) {
            match seen.event.r#type() {
                EventType::Success => totals.successes += seen.event.count,
                EventType::Failure => totals.failures += seen.event.count,
                _ => {}
            }
        }
    }
    Some(totals)
}

fn unregistered(ops: &[Op]) -> BTreeSet<CircuitIndex> {
    let of = |op: &Op| match op.action {
        Action::Unregister { circuit, .. } if !matches!(op.outcome, Outcome::Refused(_)) => Some(circuit),
        _ => None,
    };
    ops.iter().filter_map(of).collect()
}

fn sums(ops: &[Op]) -> BTreeMap<CircuitIndex, Sums> {
    let mut sums: BTreeMap<CircuitIndex, Sums> = BTreeMap::new();
    for op in ops {
        let Some((_, items)) = op.action.batch() else {
            continue;
        };
        let mut of_batch: BTreeMap<CircuitIndex, Totals> = BTreeMap::new();
        for item in items {
            let totals = of_batch.entry(item.circuit).or_default();
            for outcome in item.outcomes.chars() {
                totals.successes += u64::from(outcome == 'S');
                totals.failures += u64::from(outcome == 'F');
            }
        }
        for (circuit, totals) in of_batch {
            let sums = sums.entry(circuit).or_default();
            match &op.outcome {
                Outcome::Ok(_) => {
                    sums.acknowledged.successes += totals.successes;
                    sums.acknowledged.failures += totals.failures;
                }
                Outcome::Unknown(_) => sums.unknown.push(totals),
                Outcome::Refused(_) => {}
            }
        }
    }
    sums
}

/// Every sum that some choice of the unknown makes.
fn possible(sums: &Sums) -> Option<BTreeSet<Totals>> {
    let mut possible = BTreeSet::from([sums.acknowledged]);
    for unknown in &sums.unknown {
        let with: Vec<_> = possible
            .iter()
            .map(|totals| Totals {
                successes: totals.successes + unknown.successes,
                failures: totals.failures + unknown.failures,
            })
            .collect();
        possible.extend(with);
        if possible.len() > MOST_SUMS {
            return None;
        }
    }
    Some(possible)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{Story, outcome, shown};
    use crate::findings::Verdict;

    /// Two failures acknowledged, three perhaps; the events count `counted` of them, and the last read shows `failures`.
    fn story(counted: &[usize], failures: u64) -> Findings {
        let mut story = Story::new(1);
        story.register(0);
        let batches = [story.report("FF", Some(9)), story.report("FFF", None)];
        for batch in counted {
            let count = if *batch == 0 { 2 } else { 3 };
            story.event(outcome(EventType::Failure, count, &batches[*batch]));
        }
        let read = Shown {
            at: 9,
            totals: Totals {
                successes: 0,
                failures,
            },
            ..shown(1, 1)
        };
        let action = Action::Status {
            circuit: 0,
            level: Level::Linearizable,
        };
        story.op(action, Outcome::Ok(Answer::Status(read)));
        story.last_op().started = 10;
        check(&story.evidence())
    }

    #[test]
    fn what_was_acknowledged_counts_and_the_unknown_may() {
        assert_eq!(story(&[0], 2).verdict(), Verdict::Holds);
        assert_eq!(story(&[0, 1], 5).verdict(), Verdict::Holds);
    }

    #[test]
    fn a_lost_batch_and_one_that_counts_twice_are_found() {
        assert!(story(&[], 0).count("G3") > 0, "lost");
        assert!(story(&[1], 3).count("G3") > 0, "lost, and another one counted");
        assert!(story(&[0, 0], 4).count("G3") > 0, "twice");
        assert_eq!(story(&[0, 1], 4).count("G3"), 2, "half of one");
    }

    #[test]
    fn a_circuit_that_nobody_read_in_the_end_is_unknown() {
        let mut story = Story::new(1);
        story.register(0);
        assert_eq!(check(&story.evidence()).verdict(), Verdict::Unknown);
    }
}
