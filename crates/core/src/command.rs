//! What can be asked of the state machine. Everything here is written to the Raft log: change it only as [`crate::codec`] says.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::metadata::Metadata;
use crate::name::CircuitName;
use crate::policy::{Expiry, GlobalOptions, Policy, PolicyOption};
use crate::report::Summary;
use crate::time::ClusterTime;

/// What one log entry holds: commands that were waiting together, and the one cluster time at which they count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Set by the leader; never below that of an earlier entry.
    pub time: ClusterTime,
    /// In order of arrival. Empty: a clock entry, that only moves cluster time.
    pub commands: Vec<Command>,
}

/// A command, with every name, id and time that applying it needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// The first command of a cluster. A second one changes nothing.
    Bootstrap(Bootstrap),
    /// See `Circuits.Register`.
    Register(Register),
    /// See `Circuits.Unregister`.
    Unregister {
        /// Which circuit.
        name: CircuitName,
        /// For the event.
        reason: Option<Arc<str>>,
    },
    /// See `Circuits.Configure`.
    Configure(Configure),
    /// See `Circuits.Report`; `Success` and `Failure` are reports of one outcome.
    Report(ReportBatch),
    /// See `Circuits.Acquire`.
    Acquire {
        /// Which circuit.
        name: CircuitName,
        /// Chosen by the caller, so that asking twice takes one permit.
        permit: PermitId,
    },
    /// See `Circuits.OpenCircuit`.
    Open {
        /// Which circuit.
        name: CircuitName,
        /// For this opening only; `None`: what the policy says.
        expiry: Option<Expiry>,
        /// For the event and the status.
        reason: Option<Arc<str>>,
    },
    /// See `Circuits.CloseCircuit`.
    Close {
        /// Which circuit.
        name: CircuitName,
        /// For the event and the status.
        reason: Option<Arc<str>>,
    },
    /// See `Circuits.ResetCircuit`.
    Reset {
        /// Which circuit.
        name: CircuitName,
        /// For the event and the status.
        reason: Option<Arc<str>>,
    },
    /// What the leader's timers found due. A stale item, or a whole command of another term, does nothing.
    Fire {
        /// The term of the leader that proposed it.
        term: u64,
        /// At most [`MAX_FIRE`](crate::limits::MAX_FIRE).
        due: Vec<Due>,
    },
}

/// How a cluster begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Drawn at random when the cluster was made.
    pub cluster_id: ClusterId,
    /// The `[defaults]` of the bootstrapping node's file.
    pub defaults: Policy,
    /// Likewise.
    pub global_defaults: GlobalOptions,
    /// Likewise.
    pub limits: Limits,
}

/// A random 128-bit id of a cluster: cursors, data directories and peers of another are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A random 128-bit id of a probe's permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PermitId(pub u128);

/// A number that the machine gives a circuit when it is registered, never to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CircuitId(pub u64);

/// See [`Command::Register`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Register {
    /// What it shall be called.
    pub name: CircuitName,
    /// What is set on the circuit itself.
    pub policy: Policy,
    /// Shown with the circuit, and in its events.
    pub metadata: Metadata,
    /// What to do when the name is taken.
    pub if_exists: IfExists,
}

/// What registering a name that is taken does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IfExists {
    /// It is refused, with the existing circuit.
    Refuse,
    /// The existing circuit stays as it is.
    Keep,
    /// The existing circuit gets exactly this policy and this metadata; its state is kept.
    Update,
}

/// See [`Command::Configure`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Configure {
    /// `None`: the runtime global options.
    pub name: Option<CircuitName>,
    /// Options to set.
    pub set: Policy,
    /// Options to inherit again.
    pub clear: Vec<PolicyOption>,
    /// Only without a name.
    pub global: GlobalOptions,
}

/// See [`Command::Report`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportBatch {
    /// `None`: at least once, when the caller retries.
    pub session: Option<SessionStamp>,
    /// 1..=[`MAX_REPORT_ITEMS`](crate::limits::MAX_REPORT_ITEMS), applied in order.
    pub items: Vec<ReportItem>,
}

/// What makes a batch exactly-once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStamp {
    /// 128 random bits of the client's.
    pub id: u128,
    /// Starts at 1 and rises.
    pub sequence: u64,
}

/// Outcomes of one circuit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportItem {
    /// Which circuit.
    pub name: CircuitName,
    /// At which its calls were admitted; `None`: taken at face value.
    pub generation: Option<u64>,
    /// The permit that the (one) call held.
    pub permit: Option<PermitId>,
    /// What came of the calls.
    pub summary: Summary,
    /// Of the last failure.
    pub reason: Option<Arc<str>>,
    /// For the event, over the circuit's own.
    pub metadata: Metadata,
}

/// Something that a timer found due. Only what still is so at the entry's time has an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Due {
    /// An opening has lasted its time.
    Expiry {
        /// Which circuit.
        circuit: CircuitId,
        /// Which opening.
        generation: u64,
    },
    /// A probe was not reported in time.
    Probe {
        /// Which circuit.
        circuit: CircuitId,
        /// Which half-open phase.
        generation: u64,
        /// Which permit.
        permit: PermitId,
    },
    /// Sessions may have been idle for too long.
    Sessions,
    /// Circuits may have been idle for too long.
    Cleanup,
}
