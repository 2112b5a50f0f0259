//! Every effect has its operation, and every acknowledged operation its effect, once.
//!
//! Nothing is summed up: each outcome event names its batch and item, each act by hand its reason, each permit its id. So a batch that
//! counted twice cannot make up for one that was lost.

use std::collections::{BTreeMap, HashMap, HashSet};

use brama_proto::v1::{Cause, Event, EventType};

use super::{Evidence, show};
use crate::circuits::CircuitIndex;
use crate::findings::Findings;
use crate::history::{Action, Answer, Item, Op, Outcome};
use crate::workload::{BATCH_KEY, ITEM_KEY};

/// What the events say of one item of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    success_events: u32,
    failure_events: u32,
    successes: u64,
    failures: u64,
    newest: u64,
}

/// What the clients asked for, by the names that events repeat.
struct Asked<'a> {
    batches: HashMap<&'a str, (&'a Op, &'a [Item])>,
    /// By reason.
    acts: HashMap<&'a str, (&'a Op, EventType, CircuitIndex)>,
    permits: HashMap<&'a str, (&'a Op, CircuitIndex)>,
}

pub(super) fn check(evidence: &Evidence) -> Findings {
    let mut findings = Findings::default();
    let asked = Asked::of(&evidence.ops);
    let mut counted: HashMap<(&str, &str), Counted> = HashMap::new();
    let mut acts: HashMap<&str, Vec<u64>> = HashMap::new();
    let mut granted: HashMap<(String, u64), CircuitIndex> = HashMap::new();
    let mut registered: BTreeMap<CircuitIndex, u64> = BTreeMap::new();

    for seen in evidence.events.values() {
        let event = &seen.event;
        let Some(circuit) = evidence.circuit_of(event) else {
            findings.broken(
                "G9",
                format!("{} is of a circuit that nobody registered", show(event)),
            );
            continue;
        };
        match event.r#type() {
            EventType::Registration => {
                if let Some(first) = registered.insert(circuit, event.revision) {
                    findings.broken("G9", format!("{}: it was registered at {first}", show(event)));
                }
            }
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
                counted.entry((batch, item)).or_default().add(event);
            }
            EventType::CircuitOpened | EventType::CircuitClosed | EventType::CircuitReset => {
                if event.cause() == Cause::Manual {
                    let reason = event.reason.as_deref().unwrap_or_default();
                    let known = asked
                        .acts
                        .get(reason)
                        .is_some_and(|(_, kind, of)| *kind == event.r#type() && *of == circuit);
                    findings.require(known, "G9", || {
                        format!("{}: nobody asked for it (reason {reason:?})", show(event))
                    });
                    acts.entry(reason).or_default().push(event.revision);
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
            EventType::Configured
            | EventType::ConnectionRemoved
            | EventType::ConnectionUnregistered
            | EventType::Unspecified => {
                findings.broken("G9", format!("{}: nobody asked for it", show(event)));
            }
        }
    }

    check_batches(&asked, &counted, &mut findings);
    check_acts(&asked, &acts, &mut findings);
    check_permits(&evidence.ops, &granted, &mut findings);
    check_registrations(&evidence.ops, &registered, &mut findings);
    check_sessions(&evidence.ops, &mut findings);
    findings
}

fn check_batches(asked: &Asked<'_>, counted: &HashMap<(&str, &str), Counted>, findings: &mut Findings) {
    let (mut acknowledged, mut unknown_applied, mut unknown) = (0, 0, 0);
    for (batch, (op, items)) in &asked.batches {
        let mut applied = 0;
        for (position, item) in items.iter().enumerate() {
            let position = position.to_string();
            let Some(counted) = counted.get(&(*batch, position.as_str())) else {
                continue;
            };
            applied += 1;
            let expected = Counted {
                newest: counted.newest,
                ..Counted::expected(item)
            };
            findings.require(*counted == expected, "G3", || {
                format!(
                    "batch {batch} item {position} ({}) was counted as {counted:?}",
                    item.outcomes
                )
            });
            if let Outcome::Ok(Answer::Reported { revision, .. }) = op.outcome {
                findings.require(counted.newest <= revision, "G3", || {
                    format!(
                        "batch {batch} was acknowledged at revision {revision}, but counted at {}",
                        counted.newest
                    )
                });
            }
        }
        findings.require(applied == 0 || applied == items.len(), "G3", || {
            format!("of batch {batch} {applied} of {} items were counted", items.len())
        });
        match &op.outcome {
            Outcome::Ok(Answer::Reported { not_found, .. }) => {
                acknowledged += 1;
                findings.require(applied == items.len(), "G3", || {
                    format!(
                        "batch {batch} was acknowledged, and {applied} of {} items were counted",
                        items.len()
                    )
                });
                findings.require(*not_found == 0, "G8", || {
                    format!("batch {batch} was told that {not_found} circuits do not exist")
                });
            }
            Outcome::Refused(reason) => findings.require(applied == 0, "G9", || {
                format!("batch {batch} was refused ({reason}), but counted")
            }),
            Outcome::Ok(_) | Outcome::Unknown(_) => {
                unknown += 1;
                unknown_applied += u32::from(applied > 0);
            }
        }
    }
    findings.checked(
        "G3",
        format!("{acknowledged} acknowledged batches counted once each, {unknown_applied} of {unknown} unknown ones once, the others never"),
    );
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

fn check_registrations(ops: &[Op], registered: &BTreeMap<CircuitIndex, u64>, findings: &mut Findings) {
    let mut created: BTreeMap<CircuitIndex, u32> = BTreeMap::new();
    for op in ops {
        if let (Action::Register { circuit }, Outcome::Ok(Answer::Registered { created: new, .. })) =
            (&op.action, &op.outcome)
        {
            findings.require(registered.contains_key(circuit), "G8", || {
                format!("circuit {circuit} was registered, but no event says so")
            });
            *created.entry(*circuit).or_default() += u32::from(*new);
        }
    }
    for (circuit, times) in created {
        findings.require(times <= 1, "G8", || {
            format!("circuit {circuit} was new {times} times: it was lost in between")
        });
    }
}

/// One batch is on its way at a time, so that no number can be stale; and a session with an acknowledged batch must be known.
fn check_sessions(ops: &[Op], findings: &mut Findings) {
    let mut known: HashSet<&str> = HashSet::new();
    for op in ops {
        let Action::Report { batch, session, .. } = &op.action else {
            continue;
        };
        match &op.outcome {
            Outcome::Ok(_) => {
                known.insert(session);
            }
            Outcome::Refused(why) | Outcome::Unknown(why) => {
                findings.require(!why.contains("STALE_SEQUENCE"), "G3", || {
                    format!("batch {batch} is the newest of its session, and was called stale")
                });
                let lost = why.contains("SESSION_EXPIRED") && known.contains(session.as_str());
                findings.require(!lost, "G8", || {
                    format!("session {session} had an acknowledged batch, and was unknown at batch {batch}")
                });
            }
        }
    }
}

impl<'a> Asked<'a> {
    fn of(ops: &'a [Op]) -> Self {
        let mut asked = Self {
            batches: HashMap::new(),
            acts: HashMap::new(),
            permits: HashMap::new(),
        };
        for op in ops {
            match &op.action {
                Action::Report { batch, items, .. } => {
                    asked.batches.insert(batch, (op, items));
                }
                Action::Open { circuit, reason, .. } => {
                    asked
                        .acts
                        .insert(reason, (op, EventType::CircuitOpened, *circuit));
                }
                Action::Close { circuit, reason } => {
                    asked
                        .acts
                        .insert(reason, (op, EventType::CircuitClosed, *circuit));
                }
                Action::Reset { circuit, reason } => {
                    asked.acts.insert(reason, (op, EventType::CircuitReset, *circuit));
                }
                Action::Acquire { circuit, permit } => {
                    asked.permits.insert(permit, (op, *circuit));
                }
                Action::Register { .. } | Action::Status { .. } => {}
            }
        }
        asked
    }

    fn item(&self, batch: &str, item: &str) -> Option<&'a Item> {
        let (_, items) = self.batches.get(batch)?;
        items.get(item.parse::<usize>().ok()?)
    }
}

impl Counted {
    fn add(&mut self, event: &Event) {
        self.newest = self.newest.max(event.revision);
        if event.r#type() == EventType::Success {
            self.success_events += 1;
            self.successes += event.count;
        } else {
            self.failure_events += 1;
            self.failures += event.count;
        }
    }

    fn expected(item: &Item) -> Self {
        let count = |outcome| item.outcomes.chars().filter(|c| *c == outcome).count() as u64;
        let (successes, failures) = (count('S'), count('F'));
        Self {
            success_events: u32::from(successes > 0),
            failure_events: u32::from(failures > 0),
            successes,
            failures,
            newest: 0,
        }
    }
}

/// The batch and the item that an event names.
pub(super) fn named_item(event: &Event) -> Option<(&str, &str)> {
    Some((event.metadata.get(BATCH_KEY)?, event.metadata.get(ITEM_KEY)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{Story, opened_by_hand, outcome};
    use crate::findings::Verdict;

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
}
