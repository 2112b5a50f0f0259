//! What the clients did: every operation with its start, its end and its outcome.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Serialize;

use crate::circuits::CircuitIndex;
use crate::time::{Clock, Micros};

/// One operation of one client.
#[derive(Clone, Debug, Serialize)]
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
    /// What was asked for.
    pub action: Action,
    /// What came of it.
    pub outcome: Outcome,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// `Register` with `if_exists = keep`.
    Register {
        /// Which.
        circuit: CircuitIndex,
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
    /// `Status`, linearizable.
    Status {
        /// Which.
        circuit: CircuitIndex,
    },
}

/// One item of a batch. Its position is in its metadata too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered: it is applied.
    Ok(Answer),
    /// Certainly not applied: the reason.
    Refused(String),
    /// Perhaps applied, perhaps later, never twice. An operation that was never ended is this too.
    Unknown(String),
}

/// What an answer said, as far as a check needs it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Of `Register`.
    Registered {
        /// Whether it was new.
        created: bool,
        /// Of the circuit's last event.
        revision: u64,
    },
    /// Of `Report`.
    Reported {
        /// The newest once it was applied.
        revision: u64,
        /// Items for which there was no circuit.
        not_found: usize,
    },
    /// Of `Acquire`.
    Admission {
        /// Whether the call may be made.
        admitted: bool,
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
    },
    /// Of `Status`.
    Status(Shown),
}

/// A circuit as a read showed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The newest event that the answering node's state contained.
    pub at: u64,
    /// Of the circuit's last event.
    pub revision: u64,
    /// As in `brama.v1.State`.
    pub state: i32,
    /// Of the circuit.
    pub generation: u64,
    /// Consecutive failures.
    pub failure_count: u32,
}

impl Action {
    /// For figures and coverage.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Register { .. } => "register",
            Self::Report { .. } => "report",
            Self::Acquire { .. } => "acquire",
            Self::Open { .. } => "open",
            Self::Close { .. } => "close",
            Self::Reset { .. } => "reset",
            Self::Status { .. } => "status",
        }
    }

    /// Every kind that the workload does.
    pub const KINDS: [&'static str; 7] = [
        "register", "report", "acquire", "open", "close", "reset", "status",
    ];
}

impl Op {
    /// Whether it was answered.
    pub fn is_ok(&self) -> bool {
        matches!(self.outcome, Outcome::Ok(_))
    }

    /// Whether an answer to it means that something went through the log.
    pub fn is_acknowledged_write(&self) -> bool {
        matches!(
            self.outcome,
            Outcome::Ok(Answer::Registered { .. } | Answer::Reported { .. } | Answer::Changed { .. })
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
            action,
            outcome: Outcome::Unknown("the run ended".into()),
        });
        id
    }

    /// It has ended.
    pub fn end(&self, id: usize, attempts: u32, outcome: Outcome) {
        let seen = match &outcome {
            Outcome::Ok(Answer::Registered { revision, .. } | Answer::Reported { revision, .. })
            | Outcome::Ok(Answer::Changed { revision, .. }) => *revision,
            // A read that showed a state makes it visible to all reads after it.
            Outcome::Ok(Answer::Status(shown)) => shown.at,
            Outcome::Ok(Answer::Admission { .. }) | Outcome::Refused(_) | Outcome::Unknown(_) => 0,
        };
        self.floor.fetch_max(seen, Ordering::SeqCst);
        if matches!(outcome, Outcome::Ok(_)) {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        let ended = self.clock.now();
        if let Some(op) = self.ops.lock().get_mut(id) {
            op.ended = ended;
            op.attempts = attempts;
            op.outcome = outcome;
        }
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

/// Writes one JSON object a line.
///
/// # Errors
/// When the file cannot be written.
pub fn write_lines<T: Serialize>(path: &Path, lines: impl IntoIterator<Item = T>) -> anyhow::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for line in lines {
        serde_json::to_writer(&mut file, &line)?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    Ok(())
}
