//! What the clients did: every operation with its start, its end and its outcome.

use std::sync::atomic::{AtomicU64, Ordering};

use brama_proto::v1;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::circuits::CircuitIndex;
use crate::rules::{OptionName, Options, Rules};
use crate::time::{Clock, Micros};

mod shown;

pub use shown::{Counted, Shown, Totals};

/// One operation of one client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Op {
    /// Position in the history.
    pub id: usize,
    /// Who did it; one operation at a time each.
    pub client: u32,
    /// Before the first byte of the first attempt was sent.
    pub started: Micros,
    /// After the answer was read.
    pub ended: Micros,
    /// The newest revision that any client had seen acknowledged when this operation began: what it reads must contain it.
    pub floor: u64,
    /// Attempts made.
    pub attempts: u32,
    /// Those of them of which it is not known what came of them, the last one included.
    pub doubtful: u32,
    /// What was asked for.
    pub action: Action,
    /// What came of it.
    pub outcome: Outcome,
    /// What came of the same batch, sent again with the same number: at the same time through another node, or later.
    pub again: Vec<Outcome>,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// `Register`.
    Register {
        /// Which.
        circuit: CircuitIndex,
        /// In the metadata, so that events name the operation; empty: in none.
        label: String,
        /// Its own options.
        policy: Options,
        /// Whether an existing circuit gets this policy and this label (`update`), or stays as it is (`keep`).
        update: bool,
    },
    /// `Unregister`.
    Unregister {
        /// Which.
        circuit: CircuitIndex,
        /// Unique.
        reason: String,
    },
    /// `Configure`.
    Configure {
        /// Which; `None`: the runtime global options.
        circuit: Option<CircuitIndex>,
        /// What is set.
        set: Options,
        /// What is inherited again.
        clear: Vec<OptionName>,
    },
    /// `Report` with a session; `batch` is in the metadata of each item, so that events name it.
    Report {
        /// `client-session-sequence`.
        batch: String,
        /// `client-session`.
        session: String,
        /// What was reported.
        items: Vec<Item>,
    },
    /// `Success` or `Failure`, without a session and sent once.
    Single {
        /// Unique, as of a batch.
        batch: String,
        /// The only one.
        item: Item,
    },
    /// `Acquire`.
    Acquire {
        /// Which.
        circuit: CircuitIndex,
        /// The id of the caller's choice, in hexadecimal.
        permit: String,
    },
    /// `OpenCircuit`. The reason names the operation, so that events do.
    Open {
        /// Which.
        circuit: CircuitIndex,
        /// For this opening only; `None`: the policy's.
        expiry_ms: Option<u64>,
        /// Unique.
        reason: String,
    },
    /// `CloseCircuit`.
    Close {
        /// Which.
        circuit: CircuitIndex,
        /// Unique.
        reason: String,
    },
    /// `ResetCircuit`.
    Reset {
        /// Which.
        circuit: CircuitIndex,
        /// Unique.
        reason: String,
    },
    /// `Status`.
    Status {
        /// Which.
        circuit: CircuitIndex,
        /// How fresh.
        level: Level,
    },
    /// `Available`.
    Available {
        /// Which.
        circuit: CircuitIndex,
        /// How fresh.
        level: Level,
    },
    /// `List`, of all circuits.
    List {
        /// How fresh.
        level: Level,
    },
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As new as everything acknowledged before.
    Linearizable,
    /// What the node knows.
    Local,
    /// At least this revision.
    AtLeast(u64),
}

/// One item of a batch. Its position is in its metadata too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Which circuit.
    pub circuit: CircuitIndex,
    /// `S` and `F`, in order.
    pub outcomes: String,
    /// As sent.
    pub generation: Option<u64>,
    /// As sent, in hexadecimal.
    pub permit: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered: it is applied.
    Ok(Answer),
    /// Certainly not applied: the reason.
    Refused(String),
    /// Perhaps applied, perhaps later, never twice. An operation that was never ended is this too.
    Unknown(String),
}

/// The reason of a refusal that is an answer too: when it was given, there was no such circuit.
pub const NOT_FOUND: &str = "CIRCUIT_NOT_FOUND";

/// What an answer said, as far as a check needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Of `Register`.
    Registered {
        /// Whether it was new.
        created: bool,
        /// Of the circuit's last event.
        revision: u64,
        /// The circuit after it.
        circuit: Shown,
    },
    /// Of `Unregister`.
    Unregistered {
        /// Whether there was such a circuit.
        existed: bool,
        /// The newest once it was applied.
        at: u64,
    },
    /// Of `Configure`.
    Configured {
        /// Whether any value differed.
        changed: bool,
        /// What holds now.
        rules: Rules,
        /// The newest once it was applied.
        at: u64,
    },
    /// Of `Report`, `Success` and `Failure`.
    Reported {
        /// The newest once it was applied.
        revision: u64,
        /// One an item.
        items: Vec<Counted>,
    },
    /// Of `Acquire`.
    Admission {
        /// Whether the call may be made.
        admitted: bool,
        /// As in `brama.v1.State`.
        state: i32,
        /// Of the circuit.
        generation: u64,
        /// The permit that was given, in hexadecimal.
        permit: Option<String>,
    },
    /// Of the acts by hand.
    Changed {
        /// Of the circuit's last event, which is this act's.
        revision: u64,
        /// After it.
        generation: u64,
        /// The circuit after it.
        circuit: Shown,
    },
    /// Of `Status`.
    Status(Shown),
    /// Of `Available`.
    Available {
        /// The node that answered.
        node: u64,
        /// The newest event that the answering node's state contained.
        at: u64,
        /// Whether a call would pass.
        available: bool,
        /// As in `brama.v1.State`.
        state: i32,
        /// Of the circuit.
        generation: u64,
    },
    /// Of `List`: those of the run, in the order of their names.
    Listed {
        /// The node that answered.
        node: u64,
        /// The newest event that the answering node's state contained.
        at: u64,
        /// Each with its position.
        circuits: Vec<(CircuitIndex, Shown)>,
    },
}

impl Action {
    /// For figures and coverage.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Register { .. } => "register",
            Self::Unregister { .. } => "unregister",
            Self::Configure { circuit: Some(_), .. } => "configure",
            Self::Configure { circuit: None, .. } => "configure-all",
            Self::Report { .. } => "report",
            Self::Single { .. } => "single",
            Self::Acquire { .. } => "acquire",
            Self::Open { .. } => "open",
            Self::Close { .. } => "close",
            Self::Reset { .. } => "reset",
            Self::Status { level, .. } => match level {
                Level::Linearizable => "status",
                Level::Local => "status-local",
                Level::AtLeast(_) => "status-at-least",
            },
            Self::Available { .. } => "available",
            Self::List { .. } => "list",
        }
    }

    /// Every kind that the workload does.
    pub const KINDS: [&'static str; 15] = [
        "register",
        "unregister",
        "configure",
        "configure-all",
        "report",
        "single",
        "acquire",
        "open",
        "close",
        "reset",
        "status",
        "status-local",
        "status-at-least",
        "available",
        "list",
    ];

    /// The registration of a circuit as it is specified, without a label.
    pub fn register(circuit: CircuitIndex, policy: &v1::Policy) -> Self {
        Self::Register {
            circuit,
            label: String::new(),
            policy: Options::of(policy),
            update: false,
        }
    }

    /// The batch and what it reports, if it is a report.
    pub fn batch(&self) -> Option<(&str, &[Item])> {
        match self {
            Self::Report { batch, items, .. } => Some((batch, items)),
            Self::Single { batch, item } => Some((batch, std::slice::from_ref(item))),
            _ => None,
        }
    }
}

impl Answer {
    /// Of `Register`.
    pub fn registered(response: &v1::RegisterResponse) -> Self {
        let circuit = Shown::of(response.header.as_ref(), response.circuit.as_ref());
        Self::Registered {
            created: response.created,
            revision: circuit.revision,
            circuit,
        }
    }

    /// Of an act by hand.
    pub fn changed(response: &v1::ManualResponse) -> Self {
        let circuit = Shown::of(response.header.as_ref(), response.circuit.as_ref());
        Self::Changed {
            revision: circuit.revision,
            generation: circuit.generation,
            circuit,
        }
    }

    /// Of `Report`.
    pub fn reported(response: &v1::ReportResponse) -> Self {
        Self::Reported {
            revision: response.revision,
            items: response.items.iter().map(Counted::of).collect(),
        }
    }

    /// Of `Success` and `Failure`.
    pub fn outcome(response: &v1::OutcomeResponse) -> Self {
        Self::Reported {
            revision: response.revision,
            items: vec![Counted {
                result: response.result,
                state: response.state,
                generation: response.generation,
                failure_count: response.failure_count,
            }],
        }
    }

    /// The newest revision that it shows to be applied; 0: it shows none.
    pub fn newest(&self) -> u64 {
        match self {
            Self::Registered { circuit, .. } | Self::Changed { circuit, .. } | Self::Status(circuit) => {
                circuit.at.max(circuit.revision)
            }
            Self::Reported { revision, .. } => *revision,
            Self::Unregistered { at, .. }
            | Self::Configured { at, .. }
            | Self::Available { at, .. }
            | Self::Listed { at, .. } => *at,
            Self::Admission { .. } => 0,
        }
    }
}

impl Op {
    /// Whether it was answered.
    pub fn is_ok(&self) -> bool {
        matches!(self.outcome, Outcome::Ok(_))
    }

    /// Its answer.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Ok(answer) => Some(answer),
            Outcome::Refused(_) | Outcome::Unknown(_) => None,
        }
    }

    /// Whether an answer to it means that something went through the log.
    pub fn is_acknowledged_write(&self) -> bool {
        matches!(
            self.outcome,
            Outcome::Ok(
                Answer::Registered { .. }
                    | Answer::Unregistered { .. }
                    | Answer::Configured { .. }
                    | Answer::Reported { .. }
                    | Answer::Changed { .. }
            )
        )
    }
}

/// The history of a run, written by many clients.
#[derive(Debug)]
pub struct History {
    clock: Clock,
    ops: Mutex<Vec<Op>>,
    /// The newest revision that was acknowledged to anybody.
    floor: AtomicU64,
    /// How many operations were acknowledged.
    acknowledged: AtomicU64,
}

impl History {
    /// An empty one.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            ops: Mutex::default(),
            floor: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
        }
    }

    /// An operation is about to be sent. Until it is ended, its outcome is unknown.
    pub fn begin(&self, client: u32, action: Action) -> usize {
        let mut ops = self.ops.lock();
        let id = ops.len();
        let started = self.clock.now();
        ops.push(Op {
            id,
            client,
            started,
            ended: started,
            floor: self.floor.load(Ordering::SeqCst),
            attempts: 0,
            doubtful: 0,
            action,
            outcome: Outcome::Unknown("the run ended".into()),
            again: Vec::new(),
        });
        id
    }

    /// It has ended, and no attempt but the last was in doubt.
    pub fn end(&self, id: usize, attempts: u32, outcome: Outcome) {
        let doubtful = u32::from(matches!(outcome, Outcome::Unknown(_)));
        self.end_with(id, attempts, doubtful, outcome);
    }

    /// It has ended, and of `doubtful` of its attempts it is not known what came of them.
    pub fn end_with(&self, id: usize, attempts: u32, doubtful: u32, outcome: Outcome) {
        // A read that showed a state makes it visible to all reads after it; a local one only showed what was applied, which is as much.
        if let Outcome::Ok(answer) = &outcome {
            self.floor.fetch_max(answer.newest(), Ordering::SeqCst);
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        let ended = self.clock.now();
        if let Some(op) = self.ops.lock().get_mut(id) {
            op.ended = ended;
            op.attempts = attempts;
            op.doubtful = doubtful;
            op.outcome = outcome;
        }
    }

    /// The same batch was sent again with the same number.
    pub fn again(&self, id: usize, outcome: Outcome) {
        if let Some(op) = self.ops.lock().get_mut(id) {
            op.again.push(outcome);
        }
    }

    /// The newest revision that was acknowledged to anybody.
    pub fn floor(&self) -> u64 {
        self.floor.load(Ordering::SeqCst)
    }

    /// The moment, by the clock of the history.
    pub fn now(&self) -> Micros {
        self.clock.now()
    }

    /// How many operations were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// A copy of all of it.
    pub fn ops(&self) -> Vec<Op> {
        self.ops.lock().clone()
    }
}
