//! A circuit as an answer showed it.

use brama_proto::v1;
use serde::{Deserialize, Serialize};

use crate::rules::Rules;
use crate::time::of_timestamp;

/// A circuit as an answer showed it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shown {
    /// The node that answered.
    pub node: u64,
    /// Of a read: the newest event that the answering node's state contained. Of a write: the newest once it was applied, or a later one.
    pub at: u64,
    /// Of the circuit's last event.
    pub revision: u64,
    /// As in `brama.v1.State`.
    pub state: i32,
    /// Of the circuit.
    pub generation: u64,
    /// Consecutive failures.
    pub failure_count: u32,
    /// Openings since it was last closed.
    pub openings_in_a_row: u32,
    /// Counts since it was registered.
    pub totals: Totals,
    /// The last that an act by hand gave; reports of the workload give none.
    pub last_reason: Option<String>,
    /// Permits that are out.
    pub probes_in_flight: u32,
    /// Successful probes so far.
    pub probe_successes: u32,
    /// Open only: how long the opening lasts, in microseconds of cluster time; `None`: until a manual act.
    pub opening_us: Option<u64>,
    /// What holds for it; `None`: the answer had none.
    pub rules: Option<Rules>,
}

/// Counts since a circuit was registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Totals {
    /// Calls that succeeded.
    pub successes: u64,
    /// Calls that failed.
    pub failures: u64,
}

/// What an answer said of an item of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Counted {
    /// As in `brama.v1.ItemResult`.
    pub result: i32,
    /// As in `brama.v1.State`, after the item.
    pub state: i32,
    /// After the item.
    pub generation: u64,
    /// After the item.
    pub failure_count: u32,
}

impl Shown {
    /// A circuit of an answer with this header.
    pub fn of(header: Option<&v1::ResponseHeader>, circuit: Option<&v1::Circuit>) -> Self {
        let circuit = circuit.cloned().unwrap_or_default();
        let totals = circuit.totals.unwrap_or_default();
        let at = |time: &Option<prost_types::Timestamp>| time.as_ref().map(of_timestamp);
        let lasts = match (at(&circuit.opened_at), at(&circuit.expires_at)) {
            (Some(from), Some(until)) => Some(until.saturating_sub(from)),
            _ => None,
        };
        Self {
            node: header.map_or(0, |header| header.node_id),
            at: header.map_or(0, |header| header.revision),
            revision: circuit.revision,
            state: circuit.state,
            generation: circuit.generation,
            failure_count: circuit.failure_count,
            openings_in_a_row: circuit.openings_in_a_row,
            totals: Totals {
                successes: totals.successes,
                failures: totals.failures,
            },
            last_reason: circuit.last_reason,
            probes_in_flight: circuit.probes_in_flight,
            probe_successes: circuit.probe_successes,
            opening_us: lasts,
            rules: circuit.policy.as_ref().map(Rules::shown),
        }
    }
}

impl Counted {
    /// As the protocol has it.
    pub fn of(item: &v1::ReportItemResponse) -> Self {
        Self {
            result: item.result,
            state: item.state,
            generation: item.generation,
            failure_count: item.failure_count,
        }
    }

    /// Whether there was no such circuit.
    pub fn is_not_found(&self) -> bool {
        self.result == i32::from(v1::ItemResult::NotFound)
    }
}
