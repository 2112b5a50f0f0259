//! Events: what applying the log makes known, the same on every node.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::circuit::StateName;
use crate::command::PermitId;
use crate::name::CircuitName;
use crate::shared_metadata::SharedMetadata;
use crate::time::ClusterTime;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the log of events: the one before, plus one. The first is 1.
    pub revision: u64,
    /// Cluster time of the entry that caused it.
    pub time: ClusterTime,
    /// `None`: a change of the global configuration.
    pub name: Option<CircuitName>,
    /// What happened.
    pub kind: EventKind,
    /// State before; equal to `new_state` when the event changed none. `None` without a circuit, and before a registration.
    pub previous_state: Option<StateName>,
    /// State after. `None` without a circuit, and after a removal.
    pub new_state: Option<StateName>,
    /// The circuit's failure count after the event.
    pub failure_count: u32,
    /// Why it happened.
    pub cause: Cause,
    /// As a report or a manual act gave it.
    pub reason: Option<Arc<str>>,
    /// The circuit's own, with what the report added over it.
    pub metadata: SharedMetadata,
    /// The circuit's generation after the event; 0 without a circuit.
    pub generation: u64,
    /// Of `Success` and `Failure`: outcomes of the batch; else 0.
    pub count: u64,
    /// Of `CircuitOpened`: when it half-opens (`None`: never). Of `ProbeGranted`: when the permit ends.
    pub expires_at: Option<ClusterTime>,
    /// Of `ProbeGranted` and `ProbeExpired`.
    pub permit: Option<PermitId>,
    /// After the event.
    pub openings_in_a_row: u32,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EventKind {
    /// A circuit was registered.
    Registration,
    /// A circuit was unregistered by hand.
    ConnectionUnregistered,
    /// A circuit was removed by cleanup.
    ConnectionRemoved,
    /// A policy, or the metadata of an existing circuit, was changed.
    Configured,
    /// Successes of one circuit in one batch.
    Success,
    /// Failures of one circuit in one batch.
    Failure,
    /// A circuit opened, or an open one was opened anew by hand.
    CircuitOpened,
    /// A circuit half-opened.
    CircuitHalfOpened,
    /// A circuit closed.
    CircuitClosed,
    /// A circuit was reset.
    CircuitReset,
    /// A probe got a permit.
    ProbeGranted,
    /// A probe's permit ran out.
    ProbeExpired,
}

/// Why something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// A client asked for it: register, report, acquire, configure.
    Request,
    /// `max_attempts` was reached.
    Threshold,
    /// A deadline was reached.
    Expiry,
    /// The outcome of a probe.
    Probe,
    /// `open_circuit`, `close_circuit`, `reset_circuit`, `unregister`.
    Manual,
    /// Idle for longer than `inactive_threshold`.
    Cleanup,
}

impl EventKind {
    /// Every kind, in the order of its number.
    pub const ALL: [Self; 12] = [
        Self::Registration,
        Self::ConnectionUnregistered,
        Self::ConnectionRemoved,
        Self::Configured,
        Self::Success,
        Self::Failure,
        Self::CircuitOpened,
        Self::CircuitHalfOpened,
        Self::CircuitClosed,
        Self::CircuitReset,
        Self::ProbeGranted,
        Self::ProbeExpired,
    ];

    /// The name in filters, in the command line and in documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registration => "registration",
            Self::ConnectionUnregistered => "connection_unregistered",
            Self::ConnectionRemoved => "connection_removed",
            Self::Configured => "configured",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::CircuitOpened => "circuit_opened",
            Self::CircuitHalfOpened => "circuit_half_opened",
            Self::CircuitClosed => "circuit_closed",
            Self::CircuitReset => "circuit_reset",
            Self::ProbeGranted => "probe_granted",
            Self::ProbeExpired => "probe_expired",
        }
    }
}

impl Cause {
    /// Every cause, in the order of its number.
    pub const ALL: [Self; 6] = [
        Self::Request,
        Self::Threshold,
        Self::Expiry,
        Self::Probe,
        Self::Manual,
        Self::Cleanup,
    ];

    /// The name in filters, in the command line and in documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Threshold => "threshold",
            Self::Expiry => "expiry",
            Self::Probe => "probe",
            Self::Manual => "manual",
            Self::Cleanup => "cleanup",
        }
    }
}

/// A name that a subscriber may select events by: that of a kind, or one of four more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventName {
    /// Events of one kind.
    Kind(EventKind),
    /// `state_change`: whatever changed a circuit's state.
    StateChange,
    /// `expiry`: an expiry opened the half.
    Expiry,
    /// `cleanup`: a circuit was removed because it was idle.
    Cleanup,
}

impl EventName {
    /// The selection that `name` stands for; `None` if it stands for nothing.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "state_change" => Some(Self::StateChange),
            "expiry" => Some(Self::Expiry),
            "cleanup" => Some(Self::Cleanup),
            "connection_registered" => Some(Self::Kind(EventKind::Registration)),
            _ => EventKind::ALL
                .into_iter()
                .find(|kind| kind.name() == name)
                .map(Self::Kind),
        }
    }

    /// Whether it selects `event`.
    pub fn selects(self, event: &Event) -> bool {
        match self {
            Self::Kind(kind) => event.kind == kind,
            Self::StateChange => event.changes_state(),
            Self::Expiry => event.kind == EventKind::CircuitHalfOpened && event.cause == Cause::Expiry,
            Self::Cleanup => event.kind == EventKind::ConnectionRemoved,
        }
    }
}

impl Event {
    /// Whether a registered circuit's state is another after the event.
    pub fn changes_state(&self) -> bool {
        matches!((self.previous_state, self.new_state), (Some(before), Some(after)) if before != after)
    }

    /// What the event counts against [`Limits::max_event_bytes`](crate::limits::Limits::max_event_bytes): the bytes of its texts and
    /// a constant for the rest. Exact arithmetic on replicated values, so that all nodes drop the same events.
    pub fn cost_bytes(&self) -> u64 {
        let texts = self.name.as_ref().map_or(0, |name| {
            name.scope.as_ref().map_or(0, |s| s.len()) + name.identifier.len()
        }) + self.reason.as_ref().map_or(0, |reason| reason.len())
            + self.metadata.cost_bytes();
        160 + texts as u64
    }
}
