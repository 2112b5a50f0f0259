//! A linearizable read contains everything that was acknowledged before it began, and shows a circuit exactly as the events up to
//! its revision tell it.

use std::collections::HashMap;

use brama_proto::v1::{Cause, EventType};

use super::Evidence;
use super::effects::named_item;
use crate::findings::Findings;
use crate::history::{Action, Answer, Item, Op, Outcome, Shown};
use crate::ledger::Seen;

pub(super) fn check(evidence: &Evidence) -> Findings {
    let mut findings = Findings::default();
    let lives = evidence.by_circuit();
    let batches = batches(&evidence.ops);
    let (mut reads, mut writes) = (0, 0);
    for op in &evidence.ops {
        match (&op.action, &op.outcome) {
            (Action::Status { circuit }, Outcome::Ok(Answer::Status(shown))) => {
                reads += 1;
                check_read(op, shown, &lives[*circuit].1, &batches, &mut findings);
            }
            // What is acknowledged now was applied after what was acknowledged before it began.
            (_, Outcome::Ok(Answer::Changed { revision, .. } | Answer::Reported { revision, .. })) => {
                writes += 1;
                findings.require(*revision > op.floor, "G2", || {
                    format!(
                        "operation {} took effect at revision {revision}, but {} was acknowledged before it began",
                        op.id, op.floor
                    )
                });
            }
            _ => {}
        }
    }
    findings.checked(
        "G2",
        format!("{reads} linearizable reads contain all that was acknowledged, as do {writes} writes"),
    );
    findings
}

fn check_read(
    op: &Op,
    shown: &Shown,
    events: &[&Seen],
    batches: &HashMap<&str, &[Item]>,
    findings: &mut Findings,
) {
    findings.require(shown.at >= op.floor, "G2", || {
        format!(
            "read {} shows revision {}, but {} was acknowledged before it began",
            op.id, shown.at, op.floor
        )
    });
    let before = events.partition_point(|seen| seen.event.revision <= shown.at);
    let Some(seen) = before.checked_sub(1).and_then(|last| events.get(last)) else {
        findings.broken(
            "G2",
            format!("read {} shows a circuit that did not exist: {shown:?}", op.id),
        );
        return;
    };
    let told = Shown {
        at: shown.at,
        revision: seen.event.revision,
        state: seen.event.new_state,
        generation: seen.event.generation,
        failure_count: failure_count(seen, batches),
    };
    findings.require(told == *shown, "G2", || {
        format!("read {} shows {shown:?}, but the events say {told:?}", op.id)
    });
}

/// Consecutive failures after an event, once all of the batch is applied.
///
/// The event says it, but for one case: an item at face value whose successes closed a half-open circuit counts on in the closed
/// one. The closing says 0, and no event says that the item's last failures were counted after it.
fn failure_count(seen: &Seen, batches: &HashMap<&str, &[Item]>) -> u32 {
    let event = &seen.event;
    let closing = event.r#type() == EventType::CircuitClosed && event.cause() == Cause::Probe;
    let item = named_item(event)
        .and_then(|(batch, item)| batches.get(batch)?.get(item.parse::<usize>().ok()?))
        .filter(|item| closing && item.generation.is_none());
    match item {
        Some(item) => {
            let trailing = item.outcomes.chars().rev().take_while(|outcome| *outcome == 'F');
            u32::try_from(trailing.count()).unwrap_or(u32::MAX)
        }
        None => event.failure_count,
    }
}

fn batches(ops: &[Op]) -> HashMap<&str, &[Item]> {
    ops.iter()
        .filter_map(|op| match &op.action {
            Action::Report { batch, items, .. } => Some((batch.as_str(), items.as_slice())),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use brama_proto::v1::{Event, State};

    use super::*;
    use crate::check::samples::{Story, opened_by_hand, outcome};

    fn read(floor: u64, shown: Shown) -> Findings {
        let mut story = Story::new(1);
        story.register(0);
        story.event(opened_by_hand("open-1", 0, 1000));
        story.op(Action::Status { circuit: 0 }, Outcome::Ok(Answer::Status(shown)));
        story.last_op().floor = floor;
        check(&story.evidence())
    }

    fn open_at(at: u64) -> Shown {
        Shown {
            at,
            revision: 2,
            state: State::Open.into(),
            generation: 2,
            failure_count: 0,
        }
    }

    #[test]
    fn a_fresh_and_true_read_is_fine() {
        assert_eq!(read(2, open_at(2)).count("G2"), 0);
        assert_eq!(read(2, open_at(7)).count("G2"), 0, "events of other circuits");
    }

    #[test]
    fn a_stale_read_is_found() {
        assert_eq!(read(3, open_at(2)).count("G2"), 1);
    }

    #[test]
    fn a_read_that_differs_from_the_events_is_found() {
        assert_eq!(read(0, open_at(1)).count("G2"), 1, "it was not open yet");
        let wrong = Shown {
            failure_count: 3,
            ..open_at(2)
        };
        assert_eq!(read(0, wrong).count("G2"), 1);
    }

    #[test]
    fn failures_after_a_closing_in_the_same_item_are_expected() {
        let closed_by = |outcomes: &str, generation, failure_count| {
            let mut story = Story::new(1);
            let batch = story.report(outcomes, Some(1));
            if let Action::Report { items, .. } = &mut story.last_op().action {
                items[0].generation = generation;
            }
            let closing = Event {
                r#type: EventType::CircuitClosed.into(),
                cause: Cause::Probe.into(),
                ..outcome(EventType::Success, 0, &batch)
            };
            story.event(closing);
            let shown = Shown {
                at: 1,
                revision: 1,
                state: State::Closed.into(),
                generation: 1,
                failure_count,
            };
            story.op(Action::Status { circuit: 0 }, Outcome::Ok(Answer::Status(shown)));
            check(&story.evidence()).count("G2")
        };
        assert_eq!(closed_by("SFF", None, 2), 0);
        assert_eq!(closed_by("SFF", None, 0), 1);
        assert_eq!(closed_by("SFF", Some(3), 0), 0, "the rest was late");
        assert_eq!(closed_by("SFF", Some(3), 2), 1);
    }

    #[test]
    fn a_write_before_its_time_is_found() {
        let mut story = Story::new(1);
        story.open("open-1", Some(2));
        story.last_op().floor = 2;
        assert_eq!(check(&story.evidence()).count("G2"), 1);
    }
}
