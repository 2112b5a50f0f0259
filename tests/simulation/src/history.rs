//! What clients asked, and what they were told.

use std::collections::BTreeMap;

use brama_core::Summary;
use brama_core::event::EventKind;
use brama_core::query::Totals;

use crate::Ms;

/// What clients asked, and what they were told.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Everything that was acknowledged, and where in the log it is.
    pub positions: Vec<Position>,
    /// Batches of sessions.
    pub batches: Vec<Batch>,
    /// Manual acts.
    pub manual: Vec<Manual>,
    /// Permits that were asked for.
    pub probes: Vec<Probe>,
    /// Linearizable reads.
    pub reads: Vec<Read>,
    /// Names that were asked to be registered, and when.
    pub registered: Vec<(String, Ms)>,
    /// Moments at which no node was up: cluster time then goes on by wall clocks.
    pub all_down: Vec<Ms>,
}

/// Something acknowledged, or read.
#[derive(Clone, Debug)]
pub struct Position {
    /// When the client asked.
    pub invoked: Ms,
    /// When it was answered.
    pub ended: Ms,
    /// The log index at which it was applied; of a read, the newest index of the state that was read.
    pub index: u64,
    /// It has an entry of its own in the log, or shares one with others that were under way at the same time.
    pub writes: bool,
    /// For people.
    pub what: String,
}

/// A batch of a session. It is retried until it is answered.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its reason, which no other batch has.
    pub reason: String,
    /// When the client asked first.
    pub invoked: Ms,
    /// Outcomes by circuit.
    pub items: Vec<(String, Summary)>,
    /// The revision once it was applied, as the answer says.
    pub done: Option<u64>,
}

/// An open, close, reset or unregister.
#[derive(Clone, Debug)]
pub struct Manual {
    /// Its reason, which no other act has.
    pub reason: String,
    /// What event it makes.
    pub kind: EventKind,
    /// Of which circuit.
    pub circuit: String,
    /// How long it opens the circuit, if it says so.
    pub expiry_ms: Option<u64>,
    /// When the client asked.
    pub invoked: Ms,
    /// The newest revision when it was applied.
    pub done: Option<u64>,
    /// The answer says that nothing was changed.
    pub refused: bool,
}

/// A permit that was asked for.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Of which circuit.
    pub circuit: String,
    /// Its id.
    pub permit: u128,
    /// When the client asked first.
    pub invoked: Ms,
    /// When it was told that it may, and in which generation.
    pub granted: Option<(Ms, u64)>,
    /// When it began to tell what came of its call.
    pub reported: Option<Ms>,
}

/// A linearizable read.
#[derive(Clone, Debug)]
pub struct Read {
    /// When the client asked.
    pub invoked: Ms,
    /// The newest revision of the state that was read.
    pub revision: u64,
    /// Totals by circuit.
    pub totals: BTreeMap<String, Totals>,
}
