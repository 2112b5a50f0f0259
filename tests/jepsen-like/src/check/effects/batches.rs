//! Each batch counts once, as a whole, and exactly what it reported.

use std::collections::HashMap;

use brama_proto::v1::{Event, EventType};

use super::Asked;
use crate::check::Evidence;
use crate::check::lifetimes::Lifetimes;
use crate::findings::Findings;
use crate::history::{Answer, Item, Outcome};

/// By batch and item: what the events say of it.
pub(super) type AllCounted<'e> = HashMap<(&'e str, &'e str), Counted>;

/// What the events say of one item of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    success_events: u32,
    failure_events: u32,
    successes: u64,
    failures: u64,
    oldest: u64,
    newest: u64,
}

/// An event of an item.
pub(super) fn count<'e>(counted: &mut AllCounted<'e>, batch: &'e str, item: &'e str, event: &Event) {
    counted.entry((batch, item)).or_default().add(event);
}

pub(super) fn check(
    evidence: &Evidence,
    asked: &Asked<'_>,
    counted: &AllCounted<'_>,
    lifetimes: &Lifetimes,
    findings: &mut Findings,
) {
    let (mut acknowledged, mut unknown_applied, mut unknown) = (0, 0, 0);
    for (batch, (op, items)) in &asked.batches {
        let said = match &op.outcome {
            Outcome::Ok(Answer::Reported { revision, items }) => Some((*revision, items)),
            _ => None,
        };
        let positions: Vec<String> = (0..items.len()).map(|position| position.to_string()).collect();
        let of_item = |position: usize| counted.get(&(*batch, positions[position].as_str()));
        let applied: Vec<&Counted> = (0..items.len()).filter_map(of_item).collect();
        let (oldest, newest) = (
            applied.iter().map(|counted| counted.oldest).min(),
            applied.iter().map(|counted| counted.newest).max(),
        );
        for (position, item) in items.iter().enumerate() {
            let counted = of_item(position);
            if let Some(counted) = counted {
                findings.require(counted.is_once(item), "G3", || {
                    format!(
                        "batch {batch} item {position} ({}) was counted as {counted:?}",
                        item.outcomes
                    )
                });
            }
            // What a batch finds, it finds at one moment: right before its first event, or at the revision that it was told.
            let found = said
                .and_then(|(_, said)| said.get(position))
                .map(|said| !said.is_not_found());
            let moment = match (said, newest) {
                (Some((revision, _)), _) => Some(revision),
                (None, Some(newest)) => Some(newest),
                (None, None) => None,
            };
            let exists = moment.map(|revision| lifetimes.is_registered(item.circuit, revision));
            findings.require(found.is_none() || found == exists, "G8", || {
                format!(
                    "batch {batch} item {position} was told that circuit {} {}, at revision {moment:?}",
                    item.circuit,
                    if found == Some(true) {
                        "exists"
                    } else {
                        "does not exist"
                    }
                )
            });
            let must_count = match (&op.outcome, exists) {
                (Outcome::Refused(_), _) | (_, None) => Some(false),
                (_, Some(exists)) => Some(exists),
            };
            findings.require(
                must_count.is_none_or(|must| must == counted.is_some()),
                if matches!(op.outcome, Outcome::Refused(_)) {
                    "G9"
                } else {
                    "G3"
                },
                || {
                    format!(
                        "batch {batch} ({:?}) item {position} was {}counted; circuit {} {} then",
                        op.outcome,
                        if counted.is_some() { "" } else { "not " },
                        item.circuit,
                        if exists == Some(true) {
                            "existed"
                        } else {
                            "did not exist"
                        },
                    )
                },
            );
        }
        if let (Some(oldest), Some(newest)) = (oldest, newest) {
            check_is_one_moment(evidence, batch, oldest, newest, findings);
            if let Some((revision, _)) = said {
                findings.require(newest <= revision, "G3", || {
                    format!("batch {batch} was acknowledged at revision {revision}, but counted at {newest}")
                });
            }
        }
        match &op.outcome {
            Outcome::Ok(Answer::Reported { items: said, .. }) => {
                acknowledged += 1;
                findings.require(said.len() == items.len(), "G3", || {
                    format!(
                        "batch {batch} of {} items got {} answers",
                        items.len(),
                        said.len()
                    )
                });
            }
            Outcome::Refused(_) => {}
            Outcome::Ok(_) | Outcome::Unknown(_) => {
                unknown += 1;
                unknown_applied += u32::from(!applied.is_empty());
            }
        }
    }
    findings.checked(
        "G3",
        format!("{acknowledged} acknowledged batches counted once each, {unknown_applied} of {unknown} unknown ones once, the others never"),
    );
}

/// Between the first and the last event of a batch there is none of anybody else.
fn check_is_one_moment(evidence: &Evidence, batch: &str, oldest: u64, newest: u64, findings: &mut Findings) {
    let other = evidence
        .events
        .range(oldest..=newest)
        .map(|(_, seen)| &seen.event)
        .find(|event| super::named_item(event).is_none_or(|(of, _)| of != batch));
    findings.require(other.is_none(), "G3", || {
        format!(
            "batch {batch} was not applied as a whole: revision {:?} is in the middle of it",
            other.map(|event| event.revision)
        )
    });
}

impl Counted {
    fn add(&mut self, event: &Event) {
        self.newest = self.newest.max(event.revision);
        self.oldest = if self.oldest == 0 {
            event.revision
        } else {
            self.oldest.min(event.revision)
        };
        if event.r#type() == EventType::Success {
            self.success_events += 1;
            self.successes += event.count;
        } else {
            self.failure_events += 1;
            self.failures += event.count;
        }
    }

    /// Whether it is exactly what was reported, once.
    fn is_once(&self, item: &Item) -> bool {
        let count = |outcome| item.outcomes.chars().filter(|c| *c == outcome).count() as u64;
        let (successes, failures) = (count('S'), count('F'));
        let expected = (
            (u32::from(successes > 0), u32::from(failures > 0)),
            (successes, failures),
        );
        expected
            == (
                (self.success_events, self.failure_events),
                (self.successes, self.failures),
            )
    }
}
