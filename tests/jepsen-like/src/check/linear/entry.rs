//! The part of the history that one circuit sees.

use std::collections::HashMap;

use super::happened::{Happened, Moment};
use crate::circuits::CircuitIndex;
use crate::history::{Action, Answer, Counted, Level, NOT_FOUND, Op, Outcome, Shown, Totals};
use crate::rules::{OptionName, Options, Rules};
use crate::time::Micros;

/// As in `brama.v1.ItemResult`.
pub(super) const APPLIED: i32 = 1;
/// As in `brama.v1.ItemResult`.
pub(super) const LATE: i32 = 2;

/// A reason, by the operation that gave it.
pub(super) type ReasonId = usize;

/// One operation, as far as it is about one circuit.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its position in the history of the run.
    pub(super) op: usize,
    /// It took effect after this.
    pub(super) call: Micros,
    /// It took effect before this.
    pub(super) until: Micros,
    /// Whether it took effect at all; if not, nobody knows.
    pub(super) certain: bool,
    /// It is one of several of this operation, of which at most one took effect.
    pub(super) exclusive: bool,
    pub(super) input: Input,
    /// `None`: nobody knows.
    pub(super) output: Option<Output>,
    pub(super) position: Position,
}

/// The revision at which the log was right after the operation lies between these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) least: u64,
    pub(super) most: u64,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Register {
        policy: Options,
        update: bool,
    },
    Unregister,
    Configure {
        set: Options,
        clear: Vec<OptionName>,
    },
    /// The runtime global options: every circuit sees it. That it is one moment for all of them is not checked here.
    ConfigureAll {
        set: Options,
        clear: Vec<OptionName>,
    },
    /// All items of a batch that are about the circuit.
    Report(Vec<Item>),
    Acquire {
        permit: u128,
    },
    Open {
        /// Instead of the policy's; the inner `None`: until a manual act.
        lasts_ms: Option<Option<u64>>,
        reason: ReasonId,
    },
    Close {
        reason: ReasonId,
    },
    Reset {
        reason: ReasonId,
    },
    Read,
}

/// One item of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Which of its outcomes were successes, in order.
    pub(super) successes: Vec<bool>,
    pub(super) generation: Option<u64>,
    pub(super) permit: Option<u128>,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// There was no such circuit.
    Absent,
    Registered {
        created: bool,
        seen: Seen,
    },
    Unregistered {
        existed: bool,
    },
    Configured {
        changed: bool,
        rules: Rules,
    },
    Reported(Vec<Counted>),
    Admission {
        admitted: bool,
        state: i32,
        generation: u64,
        permit: bool,
    },
    Changed(Seen),
    Seen(Seen),
    Available {
        available: bool,
        state: i32,
        generation: u64,
    },
}

/// A circuit as an answer showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) revision: u64,
    pub(super) state: i32,
    pub(super) generation: u64,
    pub(super) failures: u32,
    pub(super) openings: u32,
    pub(super) totals: Totals,
    pub(super) reason: Option<ReasonId>,
    pub(super) permits: u32,
    pub(super) successes: u32,
    pub(super) lasts_us: Option<u64>,
    pub(super) rules: Option<Rules>,
}

impl Position {
    /// Nobody said.
    pub(super) const ANY: Self = Self {
        least: 0,
        most: u64::MAX,
    };

    fn exactly(revision: u64) -> Self {
        Self {
            least: revision,
            most: revision,
        }
    }
}

impl Input {
    /// Whether what is answered, or what happens, depends on which permits are out.
    pub(super) fn looks_at_permits(&self) -> bool {
        match self {
            Self::Acquire { .. } | Self::Read | Self::Register { .. } => true,
            Self::Report(items) => items.iter().any(|item| item.permit.is_some()),
            _ => false,
        }
    }
}

/// Whether the places that the event log names are taken as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hints {
    /// They are: there is little to try, but if nothing fits, that may be why.
    Taken,
    /// Only what answers say counts.
    Ignored,
}

impl Hints {
    fn of(self, moments: Vec<Moment>) -> Vec<Moment> {
        match (self, moments.as_slice()) {
            (Self::Taken, _) => moments,
            // Of these, only one can be.
            (Self::Ignored, [Moment::Perhaps(_), ..]) => vec![Moment::Unknown],
            (Self::Ignored, _) => vec![Moment::Unknown; moments.len()],
        }
    }
}

/// Makes entries of operations.
pub(super) struct Entries<'a> {
    ops: &'a [Op],
    reasons: HashMap<&'a str, ReasonId>,
    happened: Happened<'a>,
    /// By operation: when the next batch of its session was acknowledged. From then on this one is stale, if it was not applied before.
    stale_after: HashMap<usize, Micros>,
}

impl<'a> Entries<'a> {
    pub(super) fn of(ops: &'a [Op], happened: Happened<'a>) -> Self {
        let mut reasons = HashMap::new();
        let mut sessions: HashMap<&str, Vec<&Op>> = HashMap::new();
        for op in ops {
            match &op.action {
                Action::Open { reason, .. } | Action::Close { reason, .. } | Action::Reset { reason, .. } => {
                    reasons.insert(reason.as_str(), op.id);
                }
                Action::Report { session, .. } => sessions.entry(session).or_default().push(op),
                _ => {}
            }
        }
        let mut stale_after = HashMap::new();
        for batches in sessions.values() {
            let mut acknowledged = Micros::MAX;
            for op in batches.iter().rev() {
                stale_after.insert(op.id, acknowledged);
                if op.is_ok() {
                    acknowledged = acknowledged.min(op.ended);
                }
            }
        }
        Self {
            ops,
            reasons,
            happened,
            stale_after,
        }
    }

    /// What this circuit sees.
    pub(super) fn of_circuit(&self, circuit: CircuitIndex, hints: Hints) -> Vec<Entry> {
        let mut entries = Vec::new();
        for op in self.ops {
            if let Some(input) = self.input(&op.action, circuit) {
                self.add(op, circuit, input, hints, &mut entries);
            }
        }
        entries
    }

    fn add(&self, op: &Op, circuit: CircuitIndex, input: Input, hints: Hints, entries: &mut Vec<Entry>) {
        let certain = |input: Input, output, position| Entry {
            op: op.id,
            call: op.started,
            until: op.ended,
            certain: true,
            exclusive: false,
            input,
            output: Some(output),
            position,
        };
        let is_read = matches!(input, Input::Read);
        // Each attempt at an acquire may have its own effect; other operations have one, however often they are sent.
        let is_acquire = matches!(input, Input::Acquire { .. });
        match &op.outcome {
            Outcome::Ok(answer) => {
                if is_acquire {
                    self.add_unanswered(op, &input, hints, entries);
                }
                let (output, position) = self.output(answer, &op.action, circuit);
                entries.push(certain(input, output, position));
            }
            Outcome::Refused(reason) if reason == NOT_FOUND => {
                entries.push(certain(input, Output::Absent, Position::ANY));
            }
            Outcome::Refused(_) => {}
            Outcome::Unknown(_) if is_read => {}
            Outcome::Unknown(_) => {
                self.add_unanswered(op, &input, hints, entries);
            }
        }
    }

    fn add_unanswered(&self, op: &Op, input: &Input, hints: Hints, entries: &mut Vec<Entry>) {
        let moments = hints.of(self.happened.moments(op)).into_iter();
        entries.extend(moments.map(|moment| self.perhaps(op, input.clone(), moment)));
    }

    /// An effect that nobody was told of.
    fn perhaps(&self, op: &Op, input: Input, moment: Moment) -> Entry {
        let stale_after = self.stale_after.get(&op.id).copied().unwrap_or(Micros::MAX);
        let (certain, position) = match moment {
            Moment::Unknown => (false, Position::ANY),
            Moment::At(revision) => (true, Position::exactly(revision)),
            Moment::Perhaps(revision) => (false, Position::exactly(revision)),
            Moment::Between(least, most) => (false, Position { least, most }),
        };
        let (from, until) = match moment {
            Moment::Unknown => (0, Micros::MAX),
            Moment::At(_) | Moment::Perhaps(_) | Moment::Between(..) => (
                self.happened.begun_after(position.least),
                self.happened.seen_by(position.most),
            ),
        };
        Entry {
            op: op.id,
            call: op.started.max(from),
            until: stale_after.min(until),
            certain,
            exclusive: matches!(moment, Moment::Perhaps(_)),
            input,
            output: None,
            position,
        }
    }

    fn input(&self, action: &Action, of: CircuitIndex) -> Option<Input> {
        let reason = |reason: &String| self.reasons.get(reason.as_str()).copied().unwrap_or(usize::MAX);
        match action {
            Action::Register {
                circuit,
                policy,
                update,
                ..
            } if *circuit == of => Some(Input::Register {
                policy: *policy,
                update: *update,
            }),
            Action::Unregister { circuit, .. } if *circuit == of => Some(Input::Unregister),
            Action::Configure {
                circuit: Some(circuit),
                set,
                clear,
            } if *circuit == of => Some(Input::Configure {
                set: *set,
                clear: clear.clone(),
            }),
            Action::Configure {
                circuit: None,
                set,
                clear,
            } => Some(Input::ConfigureAll {
                set: *set,
                clear: clear.clone(),
            }),
            Action::Report { .. } | Action::Single { .. } => {
                let (_, items) = action.batch()?;
                let own: Vec<_> = items
                    .iter()
                    .filter(|item| item.circuit == of)
                    .map(Item::of)
                    .collect();
                (!own.is_empty()).then_some(Input::Report(own))
            }
            Action::Acquire { circuit, permit } if *circuit == of => Some(Input::Acquire {
                permit: number(permit),
            }),
            Action::Open {
                circuit,
                expiry_ms,
                reason: why,
            } if *circuit == of => Some(Input::Open {
                lasts_ms: expiry_ms.map(Some),
                reason: reason(why),
            }),
            Action::Close { circuit, reason: why } if *circuit == of => {
                Some(Input::Close { reason: reason(why) })
            }
            Action::Reset { circuit, reason: why } if *circuit == of => {
                Some(Input::Reset { reason: reason(why) })
            }
            Action::Status {
                circuit,
                level: Level::Linearizable,
            }
            | Action::Available {
                circuit,
                level: Level::Linearizable,
            } if *circuit == of => Some(Input::Read),
            Action::List {
                level: Level::Linearizable,
            } => Some(Input::Read),
            _ => None,
        }
    }

    fn output(&self, answer: &Answer, action: &Action, of: CircuitIndex) -> (Output, Position) {
        let after_write = |shown: &Shown| Position {
            least: shown.revision,
            most: shown.at.max(shown.revision),
        };
        match answer {
            Answer::Registered { created, circuit, .. } => {
                let output = Output::Registered {
                    created: *created,
                    seen: self.seen(circuit),
                };
                (output, after_write(circuit))
            }
            Answer::Unregistered { existed, at } => {
                let position = Position { least: 0, most: *at };
                (Output::Unregistered { existed: *existed }, position)
            }
            Answer::Configured { changed, rules, at } => {
                let output = Output::Configured {
                    changed: *changed,
                    rules: *rules,
                };
                (output, Position { least: 0, most: *at })
            }
            Answer::Reported { revision, items } => {
                let about = action.batch().map(|(_, asked)| asked).unwrap_or_default();
                let own = items.iter().zip(about).filter(|(_, asked)| asked.circuit == of);
                let own = own.map(|(said, _)| *said).collect();
                (Output::Reported(own), Position::exactly(*revision))
            }
            Answer::Admission {
                admitted,
                state,
                generation,
                permit,
            } => {
                let output = Output::Admission {
                    admitted: *admitted,
                    state: *state,
                    generation: *generation,
                    permit: permit.is_some(),
                };
                (output, Position::ANY)
            }
            Answer::Changed { circuit, .. } => (Output::Changed(self.seen(circuit)), after_write(circuit)),
            Answer::Status(shown) => (Output::Seen(self.seen(shown)), Position::exactly(shown.at)),
            Answer::Available {
                at,
                available,
                state,
                generation,
                ..
            } => {
                let output = Output::Available {
                    available: *available,
                    state: *state,
                    generation: *generation,
                };
                (output, Position::exactly(*at))
            }
            Answer::Listed { at, circuits, .. } => {
                let shown = circuits.iter().find(|(circuit, _)| *circuit == of);
                let output = shown.map_or(Output::Absent, |(_, shown)| Output::Seen(self.seen(shown)));
                (output, Position::exactly(*at))
            }
        }
    }

    fn seen(&self, shown: &Shown) -> Seen {
        Seen {
            revision: shown.revision,
            state: shown.state,
            generation: shown.generation,
            failures: shown.failure_count,
            openings: shown.openings_in_a_row,
            totals: shown.totals,
            // One that nobody gave fits no state.
            reason: shown
                .last_reason
                .as_deref()
                .map(|reason| self.reasons.get(reason).copied().unwrap_or(usize::MAX)),
            permits: shown.probes_in_flight,
            successes: shown.probe_successes,
            lasts_us: (shown.state == 2).then_some(shown.opening_us).flatten(),
            rules: shown.rules,
        }
    }
}

impl Item {
    fn of(item: &crate::history::Item) -> Self {
        Self {
            successes: item.outcomes.chars().map(|outcome| outcome == 'S').collect(),
            generation: item.generation,
            permit: item.permit.as_deref().map(number),
        }
    }
}

fn number(permit: &str) -> u128 {
    u128::from_str_radix(permit, 16).unwrap_or_default()
}
