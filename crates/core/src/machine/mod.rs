//! The machine: the replicated state, and what commands do to it.
//!
//! Every node applies the same log entries in the same order and must come to the same state, the same events at the same revisions and the
//! same hash. That is why nothing here may depend on anything but the state and the entry: no clock (an entry carries its time), no
//! randomness (ids come with the command), no iteration in an order that could differ (maps are ordered).
//!
//! The way of a command: [`Machine::precheck`] refuses before the log what can be refused then. [`Machine::apply`] checks again, changes
//! circuits through the functions of [`crate::circuit`], turns their transitions into events, keeps the timers in step, and feeds
//! the rolling hash. A refused command changes nothing but cluster time and the hash.
//!
//! Timers are data: [`Machine::due`] says what is due, somebody (the leader) proposes it as [`Command::Fire`](crate::Command::Fire), and
//! applying it does it, if it is still so.

mod apply;
mod check;
mod digest;
mod fire;
mod index;
mod moment;
mod query;
mod report;
mod warm;

use std::sync::Arc;

use imbl::OrdMap;

use self::digest::Digest;
use self::index::Index;
use self::moment::Moment;
use crate::census::Census;
use crate::circuit::{Circuit, State as CircuitState, Transition};
use crate::circuits::Circuits;
use crate::command::{Bootstrap, CircuitId, ClusterId};
use crate::event::{Cause, Event, EventKind};
use crate::event_log::EventLog;
use crate::limits::Limits;
use crate::name::CircuitName;
use crate::policies::Policies;
use crate::policy::{EffectivePolicy, GlobalOptions, Policy};
use crate::session::Session;
use crate::snapshot::Frozen;
use crate::tally::Tally;
use crate::time::ClusterTime;
use crate::timers::Timers;

/// How [`Machine::state_hash`] and [`Frozen::content_hash`] are made: of what, and in which encoding. Nodes compare only hashes of
/// one scheme.
///
/// Whatever changes a hash of the same state raises it. The rolling hash of a state lives on in snapshots, so a version that raises it
/// also begins that hash anew, at one log entry for all nodes: nodes that changed at different entries would differ for ever.
pub const HASH_SCHEME: u32 = 2;

/// The replicated state of a cluster, with the timers that follow from it.
#[derive(Debug)]
pub struct Machine {
    state: State,
    /// Derived: the ids of `state.names`; `None` in a machine that only reads.
    index: Option<Index>,
    /// Derived.
    timers: Timers,
    /// Derived.
    policies: Policies,
    /// Derived: what circuits inherit; `None` since that has changed.
    inherited: Option<Inherited>,
    /// Circuits that the entry being applied has touched, but for its reports; empty between entries.
    touched: Vec<CircuitId>,
    /// What the entry being applied has fed to the hash; empty between entries.
    digest: Digest,
    /// Deadlines that the newest entry met.
    met: Vec<ClusterTime>,
    /// What was applied, for metrics.
    tally: Tally,
}

/// What a circuit inherits from the cluster, and what holds for one that has no options of its own.
#[derive(Debug)]
struct Inherited {
    policy: Policy,
    effective: EffectivePolicy,
    /// What holds for the circuit that was asked for last, if it has options of its own: many have the same.
    newest: Option<(Arc<Policy>, EffectivePolicy)>,
}

impl Inherited {
    fn of(cluster: Option<&Bootstrap>, global: &Policy) -> Self {
        let policy = cluster.map_or_else(|| global.clone(), |cluster| cluster.defaults.overlaid(global));
        let effective = EffectivePolicy::resolve(&policy, &Policy::default());
        Self {
            policy,
            effective,
            newest: None,
        }
    }

    /// What holds for a circuit with these options of its own, without the list of them: to decide, not to show.
    fn deciding(&mut self, own: Option<&Arc<Policy>>) -> &EffectivePolicy {
        let Some(own) = own else {
            return &self.effective;
        };
        let known = self.newest.take_if(|(newest, _)| Arc::ptr_eq(newest, own));
        let (_, effective) = self.newest.insert(known.unwrap_or_else(|| {
            let effective = EffectivePolicy::resolve(&self.policy.overlaid(own), &Policy::default());
            (own.clone(), effective)
        }));
        effective
    }
}

/// The replicated state. Its clone is O(1).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    pub(crate) cluster: Option<Arc<Bootstrap>>,
    /// The runtime global policy, set by `Configure` without a name.
    pub(crate) global: Arc<Policy>,
    pub(crate) global_options: GlobalOptions,
    /// Time of the newest applied entry.
    pub(crate) time: ClusterTime,
    /// Rolling hash of everything applied.
    pub(crate) hash: u64,
    /// The number that the next circuit gets.
    pub(crate) next_circuit: u64,
    /// Above every generation that a removed circuit had: a name that is registered again never repeats one.
    pub(crate) generation_floor: u64,
    pub(crate) names: OrdMap<CircuitName, CircuitId>,
    pub(crate) circuits: Circuits,
    /// Derived from `circuits`.
    pub(crate) census: Census,
    pub(crate) sessions: OrdMap<u128, Arc<Session>>,
    pub(crate) events: EventLog,
    pub(crate) sweeps: Sweeps,
}

/// When the cluster last looked for what is idle, and since when nothing can have been idle for longer: so it looks only when
/// there may be something to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Sweeps {
    pub(crate) circuits_at: ClusterTime,
    /// No circuit was last active before this.
    pub(crate) circuits_bound: ClusterTime,
    pub(crate) sessions_at: ClusterTime,
    /// No session was last used before this.
    pub(crate) sessions_bound: ClusterTime,
}

impl State {
    pub(crate) fn limits(&self) -> Limits {
        self.cluster
            .as_ref()
            .map_or_else(Limits::default, |cluster| cluster.limits)
    }

    fn inherited(&self) -> Inherited {
        Inherited::of(self.cluster.as_deref(), &self.global)
    }

    /// What holds for a circuit with these options of its own.
    fn effective(&self, own: Option<&Policy>) -> EffectivePolicy {
        let nothing = Policy::default();
        let own = own.unwrap_or(&nothing);
        EffectivePolicy::resolve(&self.inherited().policy.overlaid(own), own)
    }

    /// The same without the list of own options: to decide, not to show.
    fn deciding(&self, circuit: &Circuit) -> EffectivePolicy {
        self.inherited().deciding(circuit.own.as_ref()).clone()
    }

    fn effective_global(&self) -> GlobalOptions {
        let defaults = self
            .cluster
            .as_ref()
            .map(|cluster| cluster.global_defaults)
            .unwrap_or_default();
        let set = defaults.overlaid(&self.global_options);
        GlobalOptions {
            inactive_threshold_ms: Some(set.inactive_threshold()),
            cleanup_interval_ms: Some(set.cleanup_interval()),
        }
    }
}

impl Machine {
    /// A machine that has applied nothing.
    pub fn new() -> Self {
        Self::thaw(Frozen {
            state: State::default(),
        })
    }

    /// The state as it is now, for a snapshot or a long listing. O(1): later applies do not touch it.
    pub fn freeze(&self) -> Frozen {
        Frozen {
            state: self.state.clone(),
        }
    }

    /// The machine that a frozen state continues.
    pub fn thaw(frozen: Frozen) -> Self {
        let mut timers = Timers::default();
        for (id, circuit) in frozen.state.circuits.iter() {
            timers.arm(id, circuit);
        }
        Self {
            index: Some(Index::of(&frozen.state.names)),
            timers,
            ..Self::reading(frozen)
        }
    }

    /// A machine to read a frozen state with.
    pub(crate) fn reading(frozen: Frozen) -> Self {
        Self {
            state: frozen.state,
            index: None,
            timers: Timers::default(),
            policies: Policies::default(),
            inherited: None,
            touched: Vec::new(),
            digest: Digest::default(),
            met: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// The id of a registered circuit.
    fn id(&self, name: &CircuitName) -> Option<CircuitId> {
        match &self.index {
            Some(index) => index.get(name, &self.state.circuits),
            None => self.state.names.get(name).copied(),
        }
    }

    fn circuit(&self, name: &CircuitName) -> Option<&Arc<Circuit>> {
        self.state.circuits.get(&self.id(name)?)
    }

    /// Changes a circuit, with its timers in step.
    fn change<T>(&mut self, id: CircuitId, change: impl FnOnce(&mut Circuit) -> T) -> Option<T> {
        let circuit = self.state.circuits.get_mut(&id)?;
        self.timers.disarm(id, circuit);
        self.state.census.leave(circuit);
        let circuit = Arc::make_mut(circuit);
        let result = change(circuit);
        self.state.census.enter(circuit);
        self.timers.arm(id, circuit);
        self.touched.push(id);
        Some(result)
    }

    /// Takes a circuit out of the state.
    fn remove(&mut self, id: CircuitId) -> Option<Arc<Circuit>> {
        let circuit = self.state.circuits.remove(&id)?;
        self.timers.disarm(id, &circuit);
        self.state.census.leave(&circuit);
        self.state.names.remove(&circuit.name);
        if let Some(index) = &mut self.index {
            index.remove(&circuit.name, id);
        }
        self.state.generation_floor = self.state.generation_floor.max(circuit.generation + 1);
        self.touched.push(id);
        Some(circuit)
    }

    /// Writes the event of a transition.
    fn emit_transition(&mut self, id: CircuitId, transition: Transition, reason: Option<Arc<str>>) {
        let Some(circuit) = self.state.circuits.get(&id) else {
            return;
        };
        let event = transition.event(circuit, self.state.events.revision(), self.state.time);
        self.emit(Some(id), Event { reason, ..event });
    }

    /// An event of a circuit as it is now, in which nothing changes.
    fn draft(&self, kind: EventKind, cause: Cause, circuit: &Circuit) -> Event {
        Moment::of(circuit).draft(
            kind,
            cause,
            circuit,
            self.state.events.revision(),
            self.state.time,
        )
    }

    /// Appends an event to the log, and remembers it as the circuit's newest.
    fn emit(&mut self, id: Option<CircuitId>, event: Event) {
        let revision = event.revision;
        self.tally.event(&event);
        self.digest.event(&event);
        self.state.events.push(event, &self.state.limits());
        if let Some(id) = id
            && let Some(circuit) = self.state.circuits.get_mut(&id)
        {
            Arc::make_mut(circuit).revision = revision;
        }
    }

    /// What this machine has applied, and the one before it.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Goes on counting where the machine counted whose place this one takes.
    pub fn continue_tally(&mut self, of: &Self) {
        self.tally = of.tally.clone();
    }

    /// The deadlines of openings and probes that ended with the newest entry, in the order in which they were fired.
    pub fn deadlines_met(&self) -> &[ClusterTime] {
        &self.met
    }

    /// The cluster's id; `None` before its first command.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.state.cluster.as_ref().map(|cluster| cluster.cluster_id)
    }

    /// Time of the newest applied entry.
    pub fn time(&self) -> ClusterTime {
        self.state.time
    }

    /// Rolling hash of everything applied: equal on all nodes that have applied the same entries.
    pub fn state_hash(&self) -> u64 {
        self.state.hash
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Circuit {
    fn holds_failures_or_is_not_closed(&self) -> bool {
        self.failure_count > 0 || self.state != CircuitState::Closed
    }
}
