//! Small made-up histories, so that each check can be shown to find what it looks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use brama_proto::v1::{self, Cause, EventType, State};

use super::Evidence;
use crate::circuits::{Circuits, Opening, Spec, name, policy_of};
use crate::history::{Action, Answer, Counted, Item, Op, Outcome, Shown, Totals};
use crate::ledger::Seen;
use crate::rules::Options;
use crate::time::Micros;
use crate::workload::{BATCH_KEY, ITEM_KEY};

/// Openings of the circuits of a story.
pub(crate) const OPENING_MS: u64 = 1000;
/// How long their permits last.
pub(crate) const PROBE_MS: u64 = 500;
/// Cluster time at the beginning of a story, and so much later each event.
const EPOCH_S: i64 = 1_700_000_000;

/// One client and its circuits, all of one session.
pub(crate) struct Story {
    evidence: Evidence,
    batches: usize,
}

impl Story {
    pub(crate) fn new(circuits: usize) -> Self {
        let spec = |index| Spec {
            name: name(index),
            policy: v1::Policy {
                probe_timeout_ms: Some(PROBE_MS),
                ..policy_of(Opening::Fixed(OPENING_MS))
            },
            opening: Opening::Fixed(OPENING_MS),
            max_probes: 1,
        };
        Self {
            evidence: Evidence {
                circuits: Arc::new(Circuits::new((0..circuits).map(spec).collect())),
                ops: Vec::new(),
                events: BTreeMap::new(),
                faults: Vec::new(),
                kinds: vec!["report"],
                spans: Vec::new(),
            },
            batches: 0,
        }
    }

    pub(crate) fn evidence(&self) -> Evidence {
        self.evidence.clone()
    }

    pub(crate) fn last_op(&mut self) -> &mut Op {
        self.evidence.ops.last_mut().unwrap()
    }

    pub(crate) fn op(&mut self, action: Action, outcome: Outcome) {
        let id = self.evidence.ops.len();
        self.evidence.ops.push(Op {
            id,
            client: 1,
            started: 0,
            ended: 1,
            floor: 0,
            attempts: 1,
            doubtful: 0,
            action,
            outcome,
            again: Vec::new(),
        });
    }

    /// Appends an event of circuit 0 with the next revision.
    pub(crate) fn event(&mut self, event: v1::Event) {
        let revision = self.evidence.events.len() as u64 + 1;
        let event = v1::Event {
            revision,
            name: Some(name(0)),
            ..event
        };
        self.evidence.events.insert(revision, Seen { event, arrived: 0 });
    }

    /// As `event`, arriving at a moment.
    pub(crate) fn event_at(&mut self, arrived: Micros, event: v1::Event) {
        self.event(event);
        self.evidence.events.last_entry().unwrap().get_mut().arrived = arrived;
    }

    pub(crate) fn register(&mut self, circuit: usize) {
        let answer = Answer::Registered {
            created: true,
            revision: 1,
            circuit: shown(State::Closed.into(), 1),
        };
        let action = Action::Register {
            circuit,
            label: String::new(),
            policy: Options::of(&self.evidence.circuits.get(circuit).policy),
            update: false,
        };
        self.op(action, Outcome::Ok(answer));
        self.event(v1::Event {
            r#type: EventType::Registration.into(),
            new_state: State::Closed.into(),
            cause: Cause::Request.into(),
            generation: 1,
            ..at(0)
        });
    }

    /// A report of one item, acknowledged at a revision or unknown. Returns the batch.
    pub(crate) fn report(&mut self, outcomes: &str, acknowledged: Option<u64>) -> String {
        self.batches += 1;
        let batch = format!("1-1-{}", self.batches);
        let item = Item {
            circuit: 0,
            outcomes: outcomes.into(),
            generation: None,
            permit: None,
        };
        let action = Action::Report {
            batch: batch.clone(),
            session: "1-1".into(),
            items: vec![item],
        };
        let outcome = match acknowledged {
            Some(revision) => Outcome::Ok(Answer::Reported {
                revision,
                items: vec![APPLIED],
            }),
            None => Outcome::Unknown("lost".into()),
        };
        self.op(action, outcome);
        batch
    }

    /// An opening by hand, acknowledged with its event's revision or unknown.
    pub(crate) fn open(&mut self, reason: &str, acknowledged: Option<u64>) {
        let action = Action::Open {
            circuit: 0,
            expiry_ms: None,
            reason: reason.into(),
        };
        let outcome = match acknowledged {
            Some(revision) => Outcome::Ok(Answer::Changed {
                revision,
                generation: 2,
                circuit: Shown {
                    revision,
                    openings_in_a_row: 1,
                    ..shown(State::Open.into(), 2)
                },
            }),
            None => Outcome::Unknown("lost".into()),
        };
        self.op(action, outcome);
    }
}

/// What an answer says of an item that counted.
pub(super) const APPLIED: Counted = Counted {
    result: 1,
    state: 1,
    generation: 1,
    failure_count: 0,
};

/// A circuit of which nothing was ever reported.
pub(super) fn shown(state: i32, generation: u64) -> Shown {
    Shown {
        node: 1,
        at: 0,
        revision: 1,
        state,
        generation,
        failure_count: 0,
        openings_in_a_row: 0,
        totals: Totals::default(),
        last_reason: None,
        probes_in_flight: 0,
        probe_successes: 0,
        opening_us: None,
        rules: None,
    }
}

/// An event at so many milliseconds of cluster time.
pub(crate) fn at(ms: i64) -> v1::Event {
    v1::Event {
        time: Some(timestamp(ms)),
        ..Default::default()
    }
}

pub(crate) fn timestamp(ms: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: EPOCH_S + ms / 1000,
        nanos: i32::try_from(ms % 1000).unwrap() * 1_000_000,
    }
}

pub(crate) fn outcome(kind: EventType, count: u64, batch: &str) -> v1::Event {
    v1::Event {
        r#type: kind.into(),
        cause: Cause::Request.into(),
        count,
        previous_state: State::Closed.into(),
        new_state: State::Closed.into(),
        generation: 1,
        metadata: [(BATCH_KEY, batch), (ITEM_KEY, "0")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..at(0)
    }
}

/// Generation 1 closed to generation 2 open.
pub(crate) fn opened_by_hand(reason: &str, ms: i64, lasts_ms: i64) -> v1::Event {
    v1::Event {
        r#type: EventType::CircuitOpened.into(),
        cause: Cause::Manual.into(),
        reason: Some(reason.into()),
        previous_state: State::Closed.into(),
        new_state: State::Open.into(),
        generation: 2,
        openings_in_a_row: 1,
        expires_at: Some(timestamp(ms + lasts_ms)),
        ..at(ms)
    }
}

/// Generation 2 open to generation 3 half-open.
pub(crate) fn half_opened(ms: i64) -> v1::Event {
    v1::Event {
        r#type: EventType::CircuitHalfOpened.into(),
        cause: Cause::Expiry.into(),
        previous_state: State::Open.into(),
        new_state: State::HalfOpen.into(),
        generation: 3,
        openings_in_a_row: 1,
        ..at(ms)
    }
}
