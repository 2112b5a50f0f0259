//! What a machine has applied: for metrics.
//!
//! A tally is this node's own. It is no part of the state, it is in no snapshot and feeds no hash: a node that got a snapshot instead of
//! the log did not apply what the others did, and its tally says so.

use crate::command::Command;
use crate::event::{Cause, Event, EventKind};
use crate::query::Totals;
use crate::reply::{Answer, ItemReply};

/// What was applied since the machine was made.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    events: [[u64; Cause::ALL.len()]; EventKind::ALL.len()],
    commands: [[u64; 2]; COMMANDS.len()],
    outcomes: Totals,
    items: [u64; ITEMS.len()],
    repeated: u64,
}

/// Names of commands, in the order of [`place`].
const COMMANDS: [&str; 10] = [
    "bootstrap",
    "register",
    "unregister",
    "configure",
    "report",
    "acquire",
    "open",
    "close",
    "reset",
    "fire",
];

/// What becomes of an item of a report.
const ITEMS: [&str; 3] = ["counted", "late", "not_found"];

/// The kinds of events that are transitions: each raises a circuit's generation.
const TRANSITIONS: [EventKind; 4] = [
    EventKind::CircuitOpened,
    EventKind::CircuitHalfOpened,
    EventKind::CircuitClosed,
    EventKind::CircuitReset,
];

impl Tally {
    /// Events by kind.
    pub fn events(&self) -> impl Iterator<Item = (EventKind, u64)> {
        let of = |kind: EventKind| self.events[kind as usize].iter().sum();
        EventKind::ALL.into_iter().map(move |kind| (kind, of(kind)))
    }

    /// Transitions by kind and cause, those that never happened too.
    pub fn transitions(&self) -> impl Iterator<Item = (EventKind, Cause, u64)> {
        TRANSITIONS.into_iter().flat_map(move |kind| {
            let of = move |cause: Cause| (kind, cause, self.events[kind as usize][cause as usize]);
            Cause::ALL.into_iter().map(of)
        })
    }

    /// Commands by name: how many were done, and how many were refused when they were applied.
    pub fn commands(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let counts = COMMANDS.into_iter().zip(self.commands);
        counts.map(|(name, [done, refused])| (name, done, refused))
    }

    /// Outcomes of calls, in all items of reports that named a registered circuit.
    pub fn outcomes(&self) -> Totals {
        self.outcomes
    }

    /// Items of reports by what became of them: `counted`, `late` (in the totals only), `not_found`.
    pub fn items(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ITEMS.into_iter().zip(self.items)
    }

    /// Batches that a session had sent before: they changed nothing, and got their first answer again. They are among the `report` commands
    /// that were done.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    pub(crate) fn event(&mut self, event: &Event) {
        self.events[event.kind as usize][event.cause as usize] += 1;
    }

    pub(crate) fn command(&mut self, command: &Command, answer: &Answer) {
        self.commands[place(command)][usize::from(answer.is_err())] += 1;
    }

    pub(crate) fn item(&mut self, outcomes: &crate::report::Summary, reply: &ItemReply) {
        let place = match reply {
            ItemReply::Counted { late: false, .. } => 0,
            ItemReply::Counted { late: true, .. } => 1,
            ItemReply::NotFound => 2,
        };
        self.items[place] += 1;
        if place < 2 {
            self.outcomes.add(outcomes);
        }
    }

    pub(crate) fn repeat(&mut self) {
        self.repeated += 1;
    }
}

fn place(command: &Command) -> usize {
    match command {
        Command::Bootstrap(_) => 0,
        Command::Register(_) => 1,
        Command::Unregister { .. } => 2,
        Command::Configure(_) => 3,
        Command::Report(_) => 4,
        Command::Acquire { .. } => 5,
        Command::Open { .. } => 6,
        Command::Close { .. } => 7,
        Command::Reset { .. } => 8,
        Command::Fire { .. } => 9,
    }
}
