//! What reads show is what the events up to their revision tell. A linearizable one contains everything that was acknowledged before it
//! began; one that asked for a revision contains that; a local one contains at least what the same node showed before; and none shows what was asked for
//! only after it was answered.

use std::collections::{BTreeMap, HashMap};

use brama_proto::v1::{Cause, EventType, State};

use super::Evidence;
use super::effects::named_item;
use crate::circuits::CircuitIndex;
use crate::findings::Findings;
use crate::history::{Action, Answer, Item, Level, Op, Outcome, Shown, Totals};
use crate::ledger::Seen;
use crate::time::Micros;

pub(super) fn check(evidence: &Evidence) -> Findings {
    let mut findings = Findings::default();
    let lives = evidence.by_circuit();
    let told = Told {
        totals: lives.iter().map(|(_, events)| totals(events)).collect(),
        lives,
        batches: batches(&evidence.ops),
    };
    let causes = causes(evidence);
    let mut nodes = Nodes::default();
    let (mut linearizable, mut others, mut writes) = (0, 0, 0);
    for op in &evidence.ops {
        let Outcome::Ok(answer) = &op.outcome else {
            continue;
        };
        match (&op.action, answer) {
            (Action::Status { level, .. } | Action::Available { level, .. } | Action::List { level }, _) => {
                let (node, at) = match answer {
                    Answer::Status(shown) => (shown.node, shown.at),
                    Answer::Available { node, at, .. } | Answer::Listed { node, at, .. } => (*node, *at),
                    _ => continue,
                };
                let least = match level {
                    Level::Linearizable => op.floor,
                    Level::Local => 0,
                    Level::AtLeast(revision) => *revision,
                };
                if *level == Level::Linearizable {
                    linearizable += 1;
                } else {
                    others += 1;
                }
                findings.require(at >= least, "G2", || {
                    format!(
                        "read {} ({level:?}) shows revision {at}, but {least} is what it must contain",
                        op.id
                    )
                });
                check_not_from_the_future(op, at, &causes, &mut findings);
                nodes.add(node, op, at);
                told.check(op, answer, &mut findings);
            }
            (Action::Register { .. }, Answer::Registered { .. }) => told.check(op, answer, &mut findings),
            // What is acknowledged now was applied after what was acknowledged before it began.
            (_, Answer::Changed { revision, .. } | Answer::Reported { revision, .. }) => {
                writes += 1;
                told.check(op, answer, &mut findings);
                let changes = match answer {
                    Answer::Reported { items, .. } => !items.iter().all(|item| item.is_not_found()),
                    _ => true,
                };
                findings.require(*revision > op.floor || (!changes && *revision == op.floor), "G2", || {
                    format!(
                        "operation {} took effect at revision {revision}, but {} was acknowledged before it began",
                        op.id, op.floor
                    )
                });
            }
            _ => {}
        }
    }
    nodes.check(&mut findings);
    findings.checked(
        "G2",
        format!("{linearizable} linearizable reads contain all that was acknowledged, as do {writes} writes; {others} others are as fresh as they said"),
    );
    findings
}

/// By revision: when the operation that caused the event was sent.
fn causes(evidence: &Evidence) -> BTreeMap<u64, Micros> {
    let mut by_name: HashMap<&str, Micros> = HashMap::new();
    for op in &evidence.ops {
        let name = match &op.action {
            Action::Open { reason, .. }
            | Action::Close { reason, .. }
            | Action::Reset { reason, .. }
            | Action::Unregister { reason, .. } => reason,
            action => match action.batch() {
                Some((batch, _)) => batch,
                None => continue,
            },
        };
        by_name.insert(name, op.started);
    }
    let of = |seen: &Seen| {
        let event = &seen.event;
        let reason = event.reason.as_deref();
        let name = named_item(event).map(|(batch, _)| batch).or(reason)?;
        Some((event.revision, *by_name.get(name)?))
    };
    evidence.events.values().filter_map(of).collect()
}

fn check_not_from_the_future(op: &Op, at: u64, causes: &BTreeMap<u64, Micros>, findings: &mut Findings) {
    if let Some((revision, sent)) = causes.range(..=at).next_back() {
        findings.require(*sent <= op.ended, "G9", || {
            format!(
                "read {} was answered at {}, and contains revision {revision}, which was asked for at {sent}",
                op.id, op.ended
            )
        });
    }
}

/// By node: what each of its reads showed, with when it was under way.
#[derive(Default)]
struct Nodes(BTreeMap<u64, Vec<(Micros, Micros, u64, usize)>>);

impl Nodes {
    fn add(&mut self, node: u64, op: &Op, at: u64) {
        self.0
            .entry(node)
            .or_default()
            .push((op.started, op.ended, at, op.id));
    }

    /// A node never shows less than it showed before.
    fn check(mut self, findings: &mut Findings) {
        for (node, reads) in &mut self.0 {
            let mut by_end = reads.clone();
            by_end.sort_by_key(|(_, ended, ..)| *ended);
            reads.sort_unstable();
            let mut ended = by_end.into_iter().peekable();
            let mut most = 0;
            for (started, _, at, id) in reads.iter() {
                while let Some((_, _, shown, _)) = ended.next_if(|(_, ended, ..)| ended < started) {
                    most = most.max(shown);
                }
                findings.require(*at >= most, "G2", || {
                    format!("read {id}: node {node} shows revision {at}, and showed {most} before")
                });
            }
        }
    }
}

/// What the events say.
struct Told<'a> {
    lives: Vec<(CircuitIndex, Vec<&'a Seen>)>,
    /// After each of these events.
    totals: Vec<Vec<Totals>>,
    batches: HashMap<&'a str, &'a [Item]>,
}

impl Told<'_> {
    fn check(&self, op: &Op, answer: &Answer, findings: &mut Findings) {
        match (&op.action, answer) {
            (Action::Status { circuit, .. }, Answer::Status(shown)) => {
                self.check_shown(op, *circuit, shown, shown.at, findings);
            }
            // What it was after this write; the log may have been longer when that was told.
            (
                Action::Open { circuit, .. } | Action::Close { circuit, .. } | Action::Reset { circuit, .. },
                Answer::Changed { circuit: shown, .. },
            )
            | (Action::Register { circuit, .. }, Answer::Registered { circuit: shown, .. }) => {
                self.check_shown(op, *circuit, shown, shown.revision, findings);
            }
            (Action::List { .. }, Answer::Listed { at, circuits, .. }) => {
                for (circuit, shown) in circuits {
                    self.check_shown(op, *circuit, shown, shown.at, findings);
                }
                for (circuit, _) in &self.lives {
                    let is_listed = circuits.iter().any(|(listed, _)| listed == circuit);
                    findings.require(is_listed == self.last(*circuit, *at).is_some(), "G2", || {
                        format!(
                            "list {} at revision {at} {} circuit {circuit}",
                            op.id,
                            if is_listed { "has" } else { "lacks" }
                        )
                    });
                }
            }
            (
                Action::Available { circuit, .. },
                Answer::Available {
                    at,
                    available,
                    state,
                    generation,
                    ..
                },
            ) => {
                let told = self
                    .last(*circuit, *at)
                    .map(|seen| (seen.event.new_state, seen.event.generation));
                // How many permits are out is for `linear` to follow.
                let fits = match State::try_from(*state) {
                    Ok(State::Closed) => *available,
                    Ok(State::Open) => !*available,
                    _ => true,
                };
                findings.require(fits && told == Some((*state, *generation)), "G2", || {
                    format!("{answer:?} of read {}, but the events say {told:?}", op.id)
                });
            }
            _ => {}
        }
    }

    fn check_shown(&self, op: &Op, circuit: CircuitIndex, shown: &Shown, at: u64, findings: &mut Findings) {
        let (kind, id) = (op.action.kind(), op.id);
        let (Some(seen), Some(totals)) = (self.last(circuit, at), self.totals(circuit, at)) else {
            findings.broken(
                "G2",
                format!("{kind} {id} shows a circuit that did not exist: {shown:?}"),
            );
            return;
        };
        let told = Shown {
            revision: seen.event.revision,
            state: seen.event.new_state,
            generation: seen.event.generation,
            failure_count: failure_count(seen, &self.batches),
            openings_in_a_row: seen.event.openings_in_a_row,
            totals,
            ..shown.clone()
        };
        findings.require(told == *shown, "G2", || {
            format!("{kind} {id} shows {shown:?}, but the events say {told:?}")
        });
    }

    fn totals(&self, circuit: CircuitIndex, at: u64) -> Option<Totals> {
        let (_, events) = self.lives.get(circuit)?;
        let before = events.partition_point(|seen| seen.event.revision <= at);
        self.totals.get(circuit)?.get(before.checked_sub(1)?).copied()
    }

    /// The circuit's last event up to a revision; `None`: it is not registered then.
    fn last(&self, circuit: CircuitIndex, at: u64) -> Option<&Seen> {
        let (_, events) = self.lives.get(circuit)?;
        let before = events.partition_point(|seen| seen.event.revision <= at);
        let seen = events.get(before.checked_sub(1)?)?;
        let is_gone = matches!(
            seen.event.r#type(),
            EventType::ConnectionUnregistered | EventType::ConnectionRemoved
        );
        (!is_gone).then_some(*seen)
    }
}

/// What a circuit had counted since it was registered, after each of its events.
fn totals(events: &[&Seen]) -> Vec<Totals> {
    let mut totals = Totals::default();
    let after = events.iter().map(|seen| {
        match seen.event.r#type() {
            EventType::Registration => totals = Totals::default(),
            EventType::Success => totals.successes += seen.event.count,
            EventType::Failure => totals.failures += seen.event.count,
            _ => {}
        }
        totals
    });
    after.collect()
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
    ops.iter().filter_map(|op| op.action.batch()).collect()
}

#[cfg(test)]
mod tests {
    use brama_proto::v1::{Event, State};

    use super::*;
    use crate::check::samples::{Story, opened_by_hand, outcome, shown};

    fn read(floor: u64, shown: Shown) -> Findings {
        let mut story = Story::new(1);
        story.register(0);
        story.event(opened_by_hand("open-1", 0, 1000));
        story.op(status(Level::Linearizable), Outcome::Ok(Answer::Status(shown)));
        story.last_op().floor = floor;
        check(&story.evidence())
    }

    fn status(level: Level) -> Action {
        Action::Status { circuit: 0, level }
    }

    fn open_at(at: u64) -> Shown {
        Shown {
            at,
            revision: 2,
            openings_in_a_row: 1,
            ..shown(State::Open.into(), 2)
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
    fn totals_are_the_sum_of_the_events_since_the_registration() {
        let story = |successes, failures| {
            let mut story = Story::new(1);
            let batch = story.report("SSF", None);
            story.register(0);
            let mut counted = |kind, count, failure_count| {
                story.event(Event {
                    count,
                    failure_count,
                    generation: 1,
                    new_state: State::Closed.into(),
                    ..outcome(kind, 0, &batch)
                });
            };
            counted(EventType::Success, 2, 0);
            counted(EventType::Failure, 1, 1);
            let shown = Shown {
                at: 3,
                revision: 3,
                failure_count: 1,
                totals: Totals { successes, failures },
                ..shown(State::Closed.into(), 1)
            };
            story.op(status(Level::Linearizable), Outcome::Ok(Answer::Status(shown)));
            check(&story.evidence()).count("G2")
        };
        assert_eq!(story(2, 1), 0);
        assert_eq!(story(3, 1), 1, "counted twice");
        assert_eq!(story(2, 0), 1, "lost");
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
                failure_count,
                ..shown(State::Closed.into(), 1)
            };
            story.op(status(Level::Local), Outcome::Ok(Answer::Status(shown)));
            check(&story.evidence()).count("G2")
        };
        assert_eq!(closed_by("SFF", None, 2), 0);
        assert_eq!(closed_by("SFF", None, 0), 1);
        assert_eq!(closed_by("SFF", Some(3), 0), 0, "the rest was late");
        assert_eq!(closed_by("SFF", Some(3), 2), 1);
    }

    #[test]
    fn a_read_from_the_future_is_found() {
        let story = |sent| {
            let mut story = Story::new(1);
            story.register(0);
            story.open("open-1", Some(2));
            story.last_op().started = sent;
            story.event(opened_by_hand("open-1", 0, 1000));
            story.op(status(Level::Local), Outcome::Ok(Answer::Status(open_at(2))));
            story.last_op().ended = 50;
            check(&story.evidence())
        };
        assert_eq!(story(50).count("G9"), 0);
        assert_eq!(story(51).count("G9"), 1);
    }

    #[test]
    fn a_node_that_shows_less_than_before_is_found() {
        let story = |node, started| {
            let mut story = Story::new(1);
            story.register(0);
            story.event(opened_by_hand("open-1", 0, 1000));
            story.op(status(Level::Local), Outcome::Ok(Answer::Status(open_at(2))));
            story.last_op().ended = 50;
            let old = Shown {
                node,
                at: 1,
                ..shown(State::Closed.into(), 1)
            };
            story.op(status(Level::Local), Outcome::Ok(Answer::Status(old)));
            story.last_op().started = started;
            story.last_op().ended = 60;
            check(&story.evidence()).count("G2")
        };
        assert_eq!(story(1, 50), 0, "at the same time");
        assert_eq!(story(2, 51), 0, "another node");
        assert_eq!(story(1, 51), 1);
    }

    #[test]
    fn a_read_that_is_older_than_it_asked_for_is_found() {
        let story = |revision| {
            let mut story = Story::new(1);
            story.register(0);
            story.event(opened_by_hand("open-1", 0, 1000));
            let answer = Answer::Status(open_at(2));
            story.op(status(Level::AtLeast(revision)), Outcome::Ok(answer));
            check(&story.evidence()).count("G2")
        };
        assert_eq!(story(2), 0);
        assert_eq!(story(3), 1);
    }

    #[test]
    fn a_list_has_what_is_registered_and_nothing_else() {
        let story = |circuits: Vec<(usize, Shown)>| {
            let mut story = Story::new(2);
            story.register(0);
            let answer = Answer::Listed {
                node: 1,
                at: 1,
                circuits,
            };
            let level = Level::Linearizable;
            story.op(Action::List { level }, Outcome::Ok(answer));
            check(&story.evidence()).count("G2")
        };
        let closed = Shown {
            at: 1,
            ..shown(State::Closed.into(), 1)
        };
        assert_eq!(story(vec![(0, closed.clone())]), 0);
        assert_eq!(story(Vec::new()), 1);
        assert_eq!(story(vec![(0, closed.clone()), (1, closed)]), 2);
    }

    #[test]
    fn a_write_before_its_time_is_found() {
        let story = |floor| {
            let mut story = Story::new(1);
            story.register(0);
            story.event(opened_by_hand("open-1", 0, 1000));
            story.open("open-1", Some(2));
            story.last_op().floor = floor;
            check(&story.evidence()).count("G2")
        };
        assert_eq!(story(1), 0);
        assert_eq!(story(2), 1);
    }
}
