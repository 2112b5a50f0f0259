//! The machine: state, and what commands do to it.

use std::sync::Arc;

use crate::command::{Batch, ClusterId, Command, Due};
use crate::event::Event;
use crate::limits::Limits;
use crate::name::CircuitName;
use crate::policy::{EffectivePolicy, GlobalOptions, Policy};
use crate::query::{Availability, CircuitStatus, Compacted, ListQuery};
use crate::reply::{Answer, Refusal};
use crate::snapshot::Frozen;
use crate::time::ClusterTime;

/// The replicated state of a cluster.
#[derive(Debug, Default)]
pub struct Machine {}

#[allow(missing_docs, unused_variables)]
impl Machine {
    pub fn new() -> Self {
        Self::default()
    }
    /// Applies one log entry of `term`: one answer a command, in order. Raises cluster time to `batch.time` if that is later, and
    /// feeds the rolling hash.
    pub fn apply(&mut self, term: u64, batch: &Batch) -> Vec<Answer> {
        Vec::new()
    }
    /// What can be refused before the log: everything that does not depend on state, and the limits as they stand.
    pub fn precheck(&self, command: &Command) -> Result<(), Refusal> {
        Ok(())
    }
    /// When the next timer is due; `None`: none is armed. O(1).
    pub fn next_due(&self) -> Option<ClusterTime> {
        None
    }
    /// At most `max` things that are due at `now`, the earliest first.
    pub fn due(&self, now: ClusterTime, max: usize) -> Vec<Due> {
        Vec::new()
    }
    pub fn cluster_id(&self) -> Option<ClusterId> {
        None
    }
    /// Time of the newest applied entry.
    pub fn time(&self) -> ClusterTime {
        ClusterTime::ZERO
    }
    /// Revision of the newest event; 0: none yet.
    pub fn revision(&self) -> u64 {
        0
    }
    /// Revision of the oldest event kept; `revision() + 1` if none is.
    pub fn oldest_revision(&self) -> u64 {
        1
    }
    /// At most `max` events after revision `after`. Empty when `after >= revision()` (also when it is ahead of this node).
    pub fn events_after(&self, after: u64, max: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        Ok(Vec::new())
    }
    /// Rolling hash of everything applied.
    pub fn state_hash(&self) -> u64 {
        0
    }
    pub fn status(&self, name: &CircuitName) -> Option<CircuitStatus> {
        None
    }
    /// In the order of names.
    pub fn list(&self, query: &ListQuery) -> Vec<CircuitStatus> {
        Vec::new()
    }
    pub fn available(&self, name: &CircuitName, now: ClusterTime) -> Option<Availability> {
        None
    }
    /// (own policy, effective policy) of a circuit.
    pub fn circuit_config(&self, name: &CircuitName) -> Option<(Policy, EffectivePolicy)> {
        None
    }
    /// (runtime global policy as set, effective policy of a circuit with nothing of its own, effective global options).
    pub fn global_config(&self) -> (Policy, EffectivePolicy, GlobalOptions) {
        unimplemented!()
    }
    /// The bootstrap defaults, once bootstrapped: a node warns when its file differs from them.
    pub fn defaults(&self) -> Option<(Policy, GlobalOptions)> {
        None
    }
    pub fn limits(&self) -> Limits {
        Limits::default()
    }
    pub fn circuit_count(&self) -> u64 {
        0
    }
    pub fn session_count(&self) -> u64 {
        0
    }
    /// The state as it is now, for a snapshot or a long listing. O(1): later applies do not touch it.
    pub fn freeze(&self) -> Frozen {
        Frozen {}
    }
    /// The machine that a frozen state continues.
    pub fn thaw(frozen: Frozen) -> Self {
        Self::default()
    }
}
