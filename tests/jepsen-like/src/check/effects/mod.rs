//! Every effect has its operation, and every acknowledged operation its effect, once.
//!
//! Nothing is summed up: each outcome event names its batch and item, each act by hand its reason, each permit its id, each registration its
//! label. So a batch that counted twice cannot make up for one that was lost.

use std::collections::HashMap;

use brama_proto::v1::{Cause, Event, EventType};

use super::lifetimes::Lifetimes;
use super::{Evidence, policies, show};
use crate::circuits::CircuitIndex;
use crate::findings::Findings;
use crate::history::{Action, Answer, Item, Op, Outcome};
use crate::workload::{BATCH_KEY, ITEM_KEY};

mod batches;
mod registrations;
mod sessions;

/// What the clients asked for, by the names that events repeat.
struct Asked<'a> {
    batches: HashMap<&'a str, (&'a Op, &'a [Item])>,
    /// By reason.
    acts: HashMap<&'a str, (&'a Op, EventType, CircuitIndex)>,
    permits: HashMap<&'a str, (&'a Op, CircuitIndex)>,
    registrations: HashMap<&'a str, &'a Op>,
}

pub(super) fn check(evidence: &Evidence) -> Findings {
    let mut findings = Findings::default();
    let asked = Asked::of(&evidence.ops);
    let lifetimes = Lifetimes::of(evidence);
    let mut counted = batches::AllCounted::new();
    let mut acts: HashMap<&str, Vec<u64>> = HashMap::new();
    let mut granted: HashMap<(String, u64), CircuitIndex> = HashMap::new();

    for seen in evidence.events.values() {
        let event = &seen.event;
        let Some(circuit) = evidence.circuit_of(event) else {
            // A change of the global configuration names no circuit: see `policies`.
            let is_global = event.r#type() == EventType::Configured && event.name.is_none();
            findings.require(is_global, "G9", || {
                format!("{} is of a circuit that nobody registered", show(event))
            });
            continue;
        };
        match event.r#type() {
            EventType::Success | EventType::Failure => {
                let Some((batch, item)) = named_item(event) else {
                    findings.broken("G9", format!("{} names no batch", show(event)));
                    continue;
                };
                let known = asked
                    .item(batch, item)
                    .is_some_and(|item| item.circuit == circuit);
                findings.require(known, "G9", || {
                    format!(
                        "{}: nobody reported batch {batch} item {item} for this circuit",
                        show(event)
                    )
                });
                batches::count(&mut counted, batch, item, event);
            }
            EventType::ConnectionUnregistered => {
                asked.check_by_hand(event, circuit, &mut acts, &mut findings);
            }
            EventType::CircuitOpened | EventType::CircuitClosed | EventType::CircuitReset => {
                if event.cause() == Cause::Manual {
                    asked.check_by_hand(event, circuit, &mut acts, &mut findings);
                } else {
                    let known = named_item(event).is_some_and(|(batch, item)| {
                        asked
                            .item(batch, item)
                            .is_some_and(|item| item.circuit == circuit)
                    });
                    findings.require(known, "G9", || format!("{}: no report caused it", show(event)));
                }
            }
            EventType::ProbeGranted => {
                let permit = hex::encode(&event.permit_id);
                let known = asked
                    .permits
                    .get(permit.as_str())
                    .is_some_and(|(_, of)| *of == circuit);
                findings.require(known, "G9", || {
                    format!("{}: nobody asked for permit {permit}", show(event))
                });
                granted.insert((permit, event.generation), circuit);
            }
            // Both follow from earlier events: see `timing` and `permits`.
            EventType::CircuitHalfOpened | EventType::ProbeExpired => {}
            // See `registrations` and `policies`.
            EventType::Registration | EventType::Configured => {}
            EventType::ConnectionRemoved | EventType::Unspecified => {
                findings.broken("G9", format!("{}: nobody asked for it", show(event)));
            }
        }
    }

    batches::check(evidence, &asked, &counted, &lifetimes, &mut findings);
    check_acts(&asked, &acts, &mut findings);
    check_permits(&evidence.ops, &granted, &mut findings);
    registrations::check(evidence, &asked, &lifetimes, &mut findings);
    sessions::check(&evidence.ops, &mut findings);
    findings.merge(policies::check(evidence));
    findings
}

fn check_acts(asked: &Asked<'_>, acts: &HashMap<&str, Vec<u64>>, findings: &mut Findings) {
    let none = Vec::new();
    for (reason, (op, kind, _)) in &asked.acts {
        let revisions = acts.get(reason).unwrap_or(&none);
        let what = || {
            format!(
                "{kind:?} {reason} ({:?}) took effect at {revisions:?}",
                op.outcome
            )
        };
        match &op.outcome {
            Outcome::Ok(Answer::Changed { revision, .. }) => {
                findings.require(revisions == &[*revision], "G8", what);
            }
            Outcome::Ok(Answer::Unregistered { existed, at }) => {
                let told = match (revisions.as_slice(), existed) {
                    ([revision], true) => op.floor < *revision && revision <= at,
                    ([], false) => true,
                    _ => false,
                };
                findings.require(told, "G8", what);
            }
            Outcome::Refused(_) => findings.require(revisions.is_empty(), "G9", what),
            Outcome::Ok(_) | Outcome::Unknown(_) => findings.require(revisions.len() <= 1, "G9", what),
        }
    }
    findings.checked(
        "G9",
        format!("{} acts by hand, each at most once", asked.acts.len()),
    );
}

fn check_permits(ops: &[Op], granted: &HashMap<(String, u64), CircuitIndex>, findings: &mut Findings) {
    for op in ops {
        if let (
            Action::Acquire {
                circuit,
                permit: asked,
            },
            Outcome::Ok(Answer::Admission {
                admitted,
                generation,
                permit: Some(permit),
                ..
            }),
        ) = (&op.action, &op.outcome)
        {
            let known = granted.get(&(permit.clone(), *generation)) == Some(circuit);
            findings.require(known && permit == asked && *admitted, "G6", || {
                format!(
                    "operation {} asked for permit {asked} and was given {permit} in generation {generation}, which no event grants",
                    op.id
                )
            });
        }
    }
}

impl<'a> Asked<'a> {
    fn of(ops: &'a [Op]) -> Self {
        let mut asked = Self {
            batches: HashMap::new(),
            acts: HashMap::new(),
            permits: HashMap::new(),
            registrations: HashMap::new(),
        };
        for op in ops {
            let mut act = |reason: &'a str, kind, circuit| {
                asked.acts.insert(reason, (op, kind, circuit));
            };
            match &op.action {
                Action::Report { .. } | Action::Single { .. } => {
                    if let Some((batch, items)) = op.action.batch() {
                        asked.batches.insert(batch, (op, items));
                    }
                }
                Action::Open { circuit, reason, .. } => act(reason, EventType::CircuitOpened, *circuit),
                Action::Close { circuit, reason } => act(reason, EventType::CircuitClosed, *circuit),
                Action::Reset { circuit, reason } => act(reason, EventType::CircuitReset, *circuit),
                Action::Unregister { circuit, reason } => {
                    act(reason, EventType::ConnectionUnregistered, *circuit);
                }
                Action::Acquire { circuit, permit } => {
                    asked.permits.insert(permit, (op, *circuit));
                }
                Action::Register { label, .. } => {
                    asked.registrations.insert(label, op);
                }
                Action::Configure { .. }
                | Action::Status { .. }
                | Action::Available { .. }
                | Action::List { .. } => {}
            }
        }
        asked
    }

    fn item(&self, batch: &str, item: &str) -> Option<&'a Item> {
        let (_, items) = self.batches.get(batch)?;
        items.get(item.parse::<usize>().ok()?)
    }

    /// Somebody asked for what this event says, for this reason.
    fn check_by_hand<'e>(
        &self,
        event: &'e Event,
        circuit: CircuitIndex,
        acts: &mut HashMap<&'e str, Vec<u64>>,
        findings: &mut Findings,
    ) {
        let reason = event.reason.as_deref().unwrap_or_default();
        let known = self
            .acts
            .get(reason)
            .is_some_and(|(_, kind, of)| *kind == event.r#type() && *of == circuit);
        findings.require(known, "G9", || {
            format!("{}: nobody asked for it (reason {reason:?})", show(event))
        });
        acts.entry(reason).or_default().push(event.revision);
    }
}

/// The batch and the item that an event names.
pub(super) fn named_item(event: &Event) -> Option<(&str, &str)> {
    Some((event.metadata.get(BATCH_KEY)?, event.metadata.get(ITEM_KEY)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{APPLIED, Story, at, opened_by_hand, outcome};
    use crate::findings::Verdict;
    use crate::history::Counted;

    fn story() -> Story {
        let mut story = Story::new(1);
        story.register(0);
        story
    }

    #[test]
    fn a_batch_that_was_acknowledged_and_counted_once_is_fine() {
        let mut story = story();
        let batch = story.report("FFS", Some(3));
        story.event(outcome(EventType::Success, 1, &batch));
        story.event(outcome(EventType::Failure, 2, &batch));
        assert_eq!(check(&story.evidence()).verdict(), Verdict::Holds);
    }

    #[test]
    fn a_batch_that_counts_twice_is_found() {
        let mut story = story();
        let batch = story.report("FF", Some(3));
        story.event(outcome(EventType::Failure, 2, &batch));
        story.event(outcome(EventType::Failure, 2, &batch));
        assert_eq!(check(&story.evidence()).count("G3"), 1);
    }

    #[test]
    fn an_unknown_batch_may_count_once_but_not_twice() {
        let mut story = story();
        let batch = story.report("FF", None);
        assert_eq!(check(&story.evidence()).verdict(), Verdict::Holds);
        story.event(outcome(EventType::Failure, 2, &batch));
        assert_eq!(check(&story.evidence()).verdict(), Verdict::Holds);
        story.event(outcome(EventType::Failure, 2, &batch));
        assert_eq!(check(&story.evidence()).count("G3"), 1);
    }

    #[test]
    fn a_lost_batch_and_a_wrong_count_are_found() {
        let mut story = story();
        story.report("F", Some(9));
        assert_eq!(check(&story.evidence()).count("G3"), 1);
        let batch = story.report("SS", Some(9));
        story.event(outcome(EventType::Success, 1, &batch));
        assert_eq!(check(&story.evidence()).count("G3"), 2);
    }

    #[test]
    fn a_refused_batch_that_counts_and_one_that_nobody_sent_are_found() {
        let mut story = story();
        let batch = story.report("F", None);
        story.last_op().outcome = Outcome::Refused("NO_LEADER".into());
        story.event(outcome(EventType::Failure, 1, &batch));
        story.event(outcome(EventType::Failure, 1, "7-7-7"));
        assert_eq!(check(&story.evidence()).count("G9"), 2);
    }

    #[test]
    fn an_act_by_hand_counts_once_if_acknowledged() {
        let mut story = story();
        story.open("open-1", Some(2));
        assert_eq!(check(&story.evidence()).count("G8"), 1, "lost");
        story.event(opened_by_hand("open-1", 0, 1000));
        assert_eq!(check(&story.evidence()).verdict(), Verdict::Holds);
        story.event(opened_by_hand("open-1", 0, 1000));
        assert_eq!(check(&story.evidence()).count("G8"), 1, "twice");
        story.event(opened_by_hand("open-2", 0, 1000));
        assert_eq!(check(&story.evidence()).count("G9"), 1, "nobody asked");
    }

    #[test]
    fn a_session_that_was_forgotten_and_a_stale_newest_number_are_found() {
        let mut story = story();
        let batch = story.report("S", Some(2));
        story.event(outcome(EventType::Success, 1, &batch));
        story.report("S", None);
        story.last_op().outcome = Outcome::Refused("SESSION_EXPIRED".into());
        assert_eq!(check(&story.evidence()).count("G8"), 1);
        story.report("S", None);
        story.last_op().outcome = Outcome::Refused("STALE_SEQUENCE".into());
        assert_eq!(check(&story.evidence()).count("G3"), 1);
    }

    #[test]
    fn a_batch_that_is_answered_differently_when_it_is_sent_again_is_found() {
        let story = |failure_count| {
            let mut story = story();
            let batch = story.report("F", Some(2));
            story.event(outcome(EventType::Failure, 1, &batch));
            let again = Answer::Reported {
                revision: 2,
                items: vec![Counted {
                    failure_count,
                    ..APPLIED
                }],
            };
            story.last_op().again = vec![Outcome::Ok(again)];
            check(&story.evidence())
        };
        assert_eq!(story(0).verdict(), Verdict::Holds);
        assert_eq!(story(2).count("G3"), 1);
    }

    #[test]
    fn a_batch_with_something_in_the_middle_of_it_is_found() {
        let story = |between| {
            let mut story = story();
            let batch = story.report("FS", Some(9));
            story.open("open-1", None);
            story.event(outcome(EventType::Failure, 1, &batch));
            if between {
                story.event(opened_by_hand("open-1", 0, 1000));
            }
            story.event(outcome(EventType::Success, 1, &batch));
            check(&story.evidence())
        };
        assert_eq!(story(false).verdict(), Verdict::Holds);
        assert_eq!(story(true).count("G3"), 1);
    }

    fn gone(reason: &str) -> Event {
        Event {
            r#type: EventType::ConnectionUnregistered.into(),
            cause: Cause::Manual.into(),
            reason: Some(reason.into()),
            ..at(0)
        }
    }

    fn unregister(story: &mut Story, reason: &str, outcome: Outcome) {
        let action = Action::Unregister {
            circuit: 0,
            reason: reason.into(),
        };
        story.op(action, outcome);
    }

    #[test]
    fn an_end_has_its_operation_and_an_acknowledged_one_its_end() {
        let mut story = story();
        let told = Answer::Unregistered { existed: true, at: 2 };
        unregister(&mut story, "gone-1", Outcome::Ok(told));
        assert_eq!(check(&story.evidence()).count("G8"), 1, "lost");
        story.event(gone("gone-1"));
        assert_eq!(check(&story.evidence()).verdict(), Verdict::Holds);
        story.event(gone("gone-2"));
        assert_eq!(check(&story.evidence()).count("G9"), 1, "nobody asked");
    }

    #[test]
    fn what_is_reported_to_a_circuit_that_is_gone_is_told_so_and_counts_nowhere() {
        let story = |result, counts| {
            let mut story = story();
            unregister(&mut story, "gone-1", Outcome::Unknown("lost".into()));
            story.event(gone("gone-1"));
            let batch = story.report("F", Some(2));
            story.last_op().outcome = Outcome::Ok(Answer::Reported {
                revision: 2,
                items: vec![Counted { result, ..APPLIED }],
            });
            if counts {
                story.event(outcome(EventType::Failure, 1, &batch));
            }
            check(&story.evidence())
        };
        assert_eq!(story(3, false).verdict(), Verdict::Holds);
        assert!(story(1, false).count("G8") > 0, "it was not there");
        assert!(story(1, true).count("G3") > 0, "it came back to life");
    }

    fn labelled(story: &mut Story, label: &str, update: bool, outcome: Outcome) {
        let action = Action::Register {
            circuit: 0,
            label: label.into(),
            policy: crate::rules::Options::default(),
            update,
        };
        story.op(action, outcome);
    }

    fn registered(created: bool, revision: u64) -> Outcome {
        Outcome::Ok(Answer::Registered {
            created,
            revision,
            circuit: crate::check::samples::shown(1, 1),
        })
    }

    fn registration(kind: EventType, label: &str) -> Event {
        Event {
            r#type: kind.into(),
            cause: Cause::Request.into(),
            metadata: [(crate::workload::LABEL_KEY.to_owned(), label.to_owned())].into(),
            ..at(0)
        }
    }

    #[test]
    fn a_registration_has_its_event_once() {
        let mut story = Story::new(1);
        labelled(&mut story, "a", false, registered(true, 1));
        assert_eq!(check(&story.evidence()).count("G8"), 1, "lost");
        story.event(registration(EventType::Registration, "a"));
        assert_eq!(check(&story.evidence()).verdict(), Verdict::Holds);
        labelled(&mut story, "b", true, registered(false, 2));
        assert_eq!(check(&story.evidence()).count("G8"), 1, "lost");
        story.event(registration(EventType::Configured, "b"));
        assert_eq!(check(&story.evidence()).verdict(), Verdict::Holds);
        story.event(registration(EventType::Registration, "c"));
        assert_eq!(check(&story.evidence()).count("G9"), 1, "nobody asked");
    }

    fn configure(story: &mut Story, changed: bool, at: u64) {
        let action = Action::Configure {
            circuit: Some(0),
            set: crate::rules::Options::default(),
            clear: Vec::new(),
        };
        let rules = crate::rules::Rules::of(&Default::default(), &Default::default());
        let answer = Answer::Configured { changed, rules, at };
        story.op(action, Outcome::Ok(answer));
    }

    #[test]
    fn a_configuration_that_changed_something_has_an_event() {
        let mut story = story();
        configure(&mut story, true, 2);
        assert_eq!(check(&story.evidence()).count("G8"), 1, "lost");
        let configured = || Event {
            r#type: EventType::Configured.into(),
            cause: Cause::Request.into(),
            ..at(0)
        };
        story.event(configured());
        assert_eq!(check(&story.evidence()).verdict(), Verdict::Holds);
        configure(&mut story, false, 2);
        assert_eq!(check(&story.evidence()).verdict(), Verdict::Holds);
        story.event(configured());
        assert_eq!(check(&story.evidence()).count("G9"), 1, "nobody asked");
    }
}
