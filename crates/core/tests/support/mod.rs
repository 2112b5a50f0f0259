//! What the tests share: a machine that is driven as a perfect leader would drive it.
#![allow(dead_code)] // each test program uses a part of it

use brama_core::command::{
    Configure, Due, IfExists, PermitId, Register, ReportBatch, ReportItem, SessionStamp,
};
use brama_core::limits::MAX_FIRE;
use brama_core::policy::{GlobalOptions, Policy};
use brama_core::query::CircuitStatus;
use brama_core::reply::{Admission, Answer, BatchReply, ItemReply, Reply};
use brama_core::report::Outcome;
use brama_core::{Batch, CircuitName, ClusterTime, Command, Machine, Metadata, Summary};

/// The term of all entries.
pub(crate) const TERM: u64 = 7;
/// When every test begins: far from zero, as a real cluster is.
pub(crate) const START: ClusterTime = ClusterTime::from_micros(1_700_000_000_000_000);

/// A machine and its clock.
#[derive(Default)]
pub(crate) struct Driver {
    pub(crate) machine: Machine,
    /// Milliseconds since [`START`].
    pub(crate) ms: u64,
}

impl Driver {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn now(&self) -> ClusterTime {
        START.plus_ms(self.ms)
    }

    /// Applies one command in an entry of its own.
    pub(crate) fn apply(&mut self, command: Command) -> Answer {
        let batch = Batch {
            time: self.now(),
            commands: vec![command],
        };
        let mut answers = self.machine.apply(TERM, &batch);
        assert_eq!(answers.len(), 1, "one answer a command");
        answers.remove(0)
    }

    /// Applies one command that must not be refused.
    pub(crate) fn ok(&mut self, command: Command) -> Reply {
        self.apply(command).unwrap()
    }

    /// Moves the clock, and fires nothing.
    pub(crate) fn pass(&mut self, ms: u64) {
        self.ms += ms;
    }

    /// Fires what is due now, until nothing is.
    pub(crate) fn tick(&mut self) -> Vec<Due> {
        let mut all = Vec::new();
        loop {
            let due = self.machine.due(self.now(), MAX_FIRE);
            if due.is_empty() {
                return all;
            }
            assert!(all.len() < 1_000_000, "what was fired stays due");
            all.extend(&due);
            self.ok(Command::Fire { term: TERM, due });
        }
    }

    /// Moves the clock from timer to timer and fires each when it is due, as a leader without delay.
    pub(crate) fn run(&mut self, ms: u64) {
        let end = self.now().plus_ms(ms);
        while let Some(next) = self.machine.next_due().filter(|next| *next <= end) {
            self.ms += self.now().ms_until(next);
            self.tick();
        }
        self.ms += self.now().ms_until(end);
    }

    pub(crate) fn status(&self, circuit: &str) -> CircuitStatus {
        self.machine.status(&name(circuit)).unwrap()
    }

    /// Reports outcomes, as a plain caller does: at face value.
    pub(crate) fn outcomes(&mut self, circuit: &str, outcomes: &str) -> ItemReply {
        self.report(item(circuit, outcomes))
    }

    pub(crate) fn report(&mut self, item: ReportItem) -> ItemReply {
        match self.ok(Command::Report(ReportBatch {
            session: None,
            items: vec![item],
        })) {
            Reply::Reported(BatchReply { items, .. }) => items[0],
            other => panic!("a report was answered with {other:?}"),
        }
    }

    pub(crate) fn acquire(&mut self, circuit: &str, permit: u128) -> Admission {
        match self.ok(acquire(circuit, permit)) {
            Reply::Admission(admission) => admission,
            other => panic!("acquire was answered with {other:?}"),
        }
    }

    /// The names of all events that are kept.
    pub(crate) fn event_names(&self) -> Vec<&'static str> {
        let events = self
            .machine
            .events_after(self.machine.oldest_revision() - 1, usize::MAX);
        events.unwrap().iter().map(|event| event.kind.name()).collect()
    }
}

/// `identifier`, or `scope/identifier`.
pub(crate) fn name(text: &str) -> CircuitName {
    match text.split_once('/') {
        Some((scope, identifier)) => CircuitName::new(Some(scope), identifier).unwrap(),
        None => CircuitName::new(None, text).unwrap(),
    }
}

/// The outcomes that `SFI` stand for.
pub(crate) fn outcomes(text: &str) -> Vec<Outcome> {
    let outcome = |letter| match letter {
        'S' => Outcome::Success,
        'F' => Outcome::Failure,
        'I' => Outcome::Ignored,
        other => panic!("{other} is no outcome"),
    };
    text.chars().map(outcome).collect()
}

pub(crate) fn item(circuit: &str, text: &str) -> ReportItem {
    ReportItem {
        name: name(circuit),
        generation: None,
        permit: None,
        summary: Summary::of_all(outcomes(text)),
        reason: None,
        metadata: Metadata::new(),
    }
}

pub(crate) fn register(circuit: &str, policy: Policy) -> Command {
    Command::Register(Register {
        name: name(circuit),
        policy,
        metadata: Metadata::new(),
        if_exists: IfExists::Refuse,
    })
}

pub(crate) fn configure(circuit: Option<&str>, set: Policy) -> Command {
    Command::Configure(Configure {
        name: circuit.map(name),
        set,
        clear: Vec::new(),
        global: GlobalOptions::default(),
    })
}

pub(crate) fn configure_global(global: GlobalOptions) -> Command {
    Command::Configure(Configure {
        name: None,
        set: Policy::default(),
        clear: Vec::new(),
        global,
    })
}

pub(crate) fn acquire(circuit: &str, permit: u128) -> Command {
    Command::Acquire {
        name: name(circuit),
        permit: PermitId(permit),
    }
}

pub(crate) fn open(circuit: &str) -> Command {
    Command::Open {
        name: name(circuit),
        expiry: None,
        reason: None,
    }
}

pub(crate) fn close(circuit: &str) -> Command {
    Command::Close {
        name: name(circuit),
        reason: None,
    }
}

pub(crate) fn reset(circuit: &str) -> Command {
    Command::Reset {
        name: name(circuit),
        reason: None,
    }
}

pub(crate) fn unregister(circuit: &str) -> Command {
    Command::Unregister {
        name: name(circuit),
        reason: None,
    }
}

pub(crate) fn session_report(id: u128, sequence: u64, items: Vec<ReportItem>) -> Command {
    Command::Report(ReportBatch {
        session: Some(SessionStamp { id, sequence }),
        items,
    })
}
