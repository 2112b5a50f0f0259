//! What was measured: rounds, each with a turn of both systems.

use std::collections::BTreeMap;

use serde::Serialize;

use super::sweep::Sweep;
use crate::figures::Figures;
use crate::floor::Floor;
use crate::system::Kind;
use crate::workload::Workload;

/// One turn of each system.
#[derive(Debug, Serialize)]
pub(crate) struct Round {
    /// Which was first.
    pub(crate) first: Kind,
    pub(crate) brama: Turn,
    pub(crate) etcd: Turn,
}

/// What one fresh cluster gave.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Turn {
    /// Measured before the cluster was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) floor: Option<Floor>,
    /// By the workload's name.
    pub(crate) workloads: BTreeMap<String, Figures>,
    /// By the number of subscribers.
    pub(crate) sweeps: BTreeMap<u32, Sweep>,
    /// What could not be measured, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) failed: BTreeMap<String, String>,
    /// Memory of each node in the end, in MiB.
    pub(crate) resident_mib: Vec<u64>,
}

impl Turn {
    pub(crate) fn of(&self, workload: Workload) -> Option<&Figures> {
        self.workloads.get(&workload.to_string())
    }

    /// Deliveries a second at the highest rate that held.
    pub(crate) fn highest(&self, subscribers: u32) -> Option<f64> {
        Some(self.sweeps.get(&subscribers)?.best()?.figures.per_second)
    }
}
