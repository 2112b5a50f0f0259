//! Which of the operations that nobody answered took effect at all, and where in the event log.
//!
//! Without the first, each of them could take effect at any moment until the end of the run, and there are more and more of them. What takes
//! effect leaves an event that names it; who is named by none changed nothing, or the product is broken, and then its effect has no explanation
//! here.
//!
//! The second is only a hint where to look for an order. An order that is found is one, however it was found; where the hint leads to none, the
//! search does without it, and what it says then rests on the answers alone.

use std::collections::HashMap;

use brama_proto::v1::{Cause, EventType};

use crate::check::effects::named_item;
use crate::check::policies;
use crate::check::{Evidence, label};
use crate::history::{Action, Level, Op};
use crate::time::Micros;

/// Of an operation that can have more events than this, only the first and the last count.
const MOST_PLACES: usize = 32;

/// The names that events give, with their revisions.
pub(super) struct Happened<'a> {
    /// Batches, reasons of acts by hand, and labels of registrations; the last event that has the name.
    names: HashMap<&'a str, u64>,
    /// By permit: when it was granted.
    permits: HashMap<String, Vec<u64>>,
    /// The events that configurations can have, by operation.
    configured: HashMap<usize, Vec<u64>>,
    shown: Shown,
}

/// Where in the event log something that nobody answered took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Nobody knows where, and whether.
    Unknown,
    /// This is its event.
    At(u64),
    /// This is its event, or another of the operation's is, or none.
    Perhaps(u64),
    /// If at all, then not before the first and not after the second.
    Between(u64, u64),
}

/// When answers first showed how long the log was, and when operations began that found it no longer than that.
struct Shown {
    /// By revision, rising: before this, somebody had seen it.
    seen_by: Vec<(u64, Micros)>,
    /// By revision, rising: after this, somebody began what took effect at this revision or before.
    begun_after: Vec<(u64, Micros)>,
}

impl<'a> Happened<'a> {
    pub(super) fn of(evidence: &'a Evidence) -> Self {
        let mut happened = Self {
            names: HashMap::new(),
            permits: HashMap::new(),
            configured: policies::possible(evidence),
            shown: Shown::of(&evidence.ops),
        };
        for (revision, seen) in &evidence.events {
            let event = &seen.event;
            let by_hand = event.reason.as_deref().filter(|_| event.cause() == Cause::Manual);
            // A circuit's events go on to carry the label of its registration; only the first is about it.
            if let Some(label) = label(event) {
                happened.names.entry(label).or_insert(*revision);
            }
            for name in named_item(event)
                .map(|(batch, _)| batch)
                .into_iter()
                .chain(by_hand)
            {
                happened.names.insert(name, *revision);
            }
            if event.r#type() == EventType::ProbeGranted {
                let permit = hex::encode(&event.permit_id);
                happened.permits.entry(permit).or_default().push(*revision);
            }
        }
        happened
    }

    /// Each effect that an operation may have had beside its answer, if it has one.
    pub(super) fn moments(&self, op: &Op) -> Vec<Moment> {
        let name = match &op.action {
            Action::Acquire { permit, .. } => return self.granted(op, permit),
            Action::Configure { .. } => {
                let possible = self.configured.get(&op.id).map_or(&[][..], Vec::as_slice);
                return match possible {
                    [first, .., last] if possible.len() > MOST_PLACES => vec![Moment::Between(*first, *last)],
                    _ => possible.iter().copied().map(Moment::Perhaps).collect(),
                };
            }
            // One without a label is named by nothing.
            Action::Register { label, .. } if label.is_empty() => return vec![Moment::Unknown],
            Action::Register { label, .. } => label,
            Action::Unregister { reason, .. }
            | Action::Open { reason, .. }
            | Action::Close { reason, .. }
            | Action::Reset { reason, .. } => reason,
            Action::Report { batch, .. } | Action::Single { batch, .. } => batch,
            Action::Status { .. } | Action::Available { .. } | Action::List { .. } => return Vec::new(),
        };
        let revision = self.names.get(name.as_str());
        revision
            .map(|revision| Moment::At(*revision))
            .into_iter()
            .collect()
    }

    fn granted(&self, op: &Op, permit: &str) -> Vec<Moment> {
        let doubtful = usize::try_from(op.doubtful).unwrap_or(usize::MAX);
        match self.permits.get(permit).map(Vec::as_slice) {
            None | Some([]) => Vec::new(),
            // All are without an answer, so each is one of these.
            Some(granted) if !op.is_ok() && granted.len() <= doubtful => {
                granted.iter().map(|revision| Moment::At(*revision)).collect()
            }
            Some(granted @ [first, .., last]) => {
                vec![Moment::Between(*first, *last); granted.len().min(doubtful)]
            }
            Some([only]) => vec![Moment::Between(*only, *only); doubtful.min(1)],
        }
    }

    /// Before this moment somebody had seen that the log was so long.
    pub(super) fn seen_by(&self, revision: u64) -> Micros {
        let seen = &self.shown.seen_by;
        let first = seen.partition_point(|(shown, _)| *shown < revision);
        seen.get(first).map_or(Micros::MAX, |(_, at)| *at)
    }

    /// After this moment somebody began what took effect before the log was so long.
    pub(super) fn begun_after(&self, revision: u64) -> Micros {
        let begun = &self.shown.begun_after;
        let end = begun.partition_point(|(found, _)| *found < revision);
        end.checked_sub(1).map_or(0, |last| begun[last].1)
    }
}

impl Shown {
    fn of(ops: &[Op]) -> Self {
        let mut seen_by = Vec::new();
        let mut begun_after = Vec::new();
        for op in ops {
            let newest = op.answer().map_or(0, |answer| answer.newest());
            if newest > 0 {
                seen_by.push((newest, op.ended));
                if op.is_acknowledged_write() || is_linearizable(&op.action) {
                    begun_after.push((newest, op.started));
                }
            }
        }
        seen_by.sort_unstable();
        begun_after.sort_unstable();
        let mut soonest = Micros::MAX;
        for (_, at) in seen_by.iter_mut().rev() {
            soonest = soonest.min(*at);
            *at = soonest;
        }
        let mut latest = 0;
        for (_, at) in &mut begun_after {
            latest = latest.max(*at);
            *at = latest;
        }
        Self { seen_by, begun_after }
    }
}

fn is_linearizable(action: &Action) -> bool {
    matches!(
        action,
        Action::Status {
            level: Level::Linearizable,
            ..
        } | Action::Available {
            level: Level::Linearizable,
            ..
        } | Action::List {
            level: Level::Linearizable
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{Story, outcome};
    use crate::history::{Answer, Outcome};

    #[test]
    fn what_took_effect_at_a_revision_did_so_before_somebody_saw_it_and_after_somebody_had_begun_less() {
        let mut story = Story::new(1);
        let mut answered = |from, until, revision| {
            story.report("F", Some(revision));
            let op = story.last_op();
            (op.started, op.ended) = (from, until);
        };
        answered(100, 200, 5);
        answered(150, 400, 9);
        answered(300, 350, 8);
        let lost = story.report("F", None);
        for _ in 0..6 {
            story.event(outcome(EventType::Failure, 1, "1-1-1"));
        }
        story.event(outcome(EventType::Failure, 1, &lost));
        let evidence = story.evidence();
        let happened = Happened::of(&evidence);
        assert_eq!(happened.moments(&evidence.ops[3]), [Moment::At(7)]);
        assert_eq!((happened.begun_after(7), happened.seen_by(7)), (100, 350));
        assert_eq!((happened.begun_after(5), happened.seen_by(5)), (0, 200));
        assert_eq!((happened.begun_after(9), happened.seen_by(9)), (300, 400));
        assert_eq!(
            (happened.begun_after(10), happened.seen_by(10)),
            (300, Micros::MAX)
        );
    }

    #[test]
    fn a_permit_that_was_granted_as_often_as_it_was_asked_for_was_so_each_time() {
        let moments = |events: usize, doubtful, outcome| {
            let mut story = Story::new(1);
            let action = Action::Acquire {
                circuit: 0,
                permit: "0a".into(),
            };
            story.op(action, outcome);
            story.last_op().doubtful = doubtful;
            for _ in 0..events {
                story.event(brama_proto::v1::Event {
                    r#type: EventType::ProbeGranted.into(),
                    permit_id: vec![0x0a],
                    ..Default::default()
                });
            }
            let evidence = story.evidence();
            Happened::of(&evidence).moments(&evidence.ops[0])
        };
        let lost = || Outcome::Unknown("lost".into());
        let granted = || {
            Outcome::Ok(Answer::Admission {
                admitted: true,
                state: 3,
                generation: 1,
                permit: Some("0a".into()),
            })
        };
        assert_eq!(moments(2, 2, lost()), [Moment::At(1), Moment::At(2)]);
        assert_eq!(moments(0, 2, lost()), []);
        assert_eq!(moments(2, 1, granted()), [Moment::Between(1, 2)]);
        assert_eq!(moments(1, 0, granted()), []);
    }
}
