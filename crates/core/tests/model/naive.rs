//! The breaker as the contract tells it, written for no virtue but being obvious: one outcome after the other, plain vectors, every
//! question answered by looking at everything.

mod counting;

use std::sync::Arc;

use brama_core::circuit::StateName;
use brama_core::command::{CircuitId, Due, IfExists, PermitId};
use brama_core::event::{Cause, Event, EventKind};
use brama_core::policy::{EffectivePolicy, Expiry, ExpiryStrategy, GlobalOptions, Policy};
use brama_core::query::{CircuitStatus, Totals};
use brama_core::reply::{Admission, ItemReply};
use brama_core::report::Outcome;
use brama_core::{CircuitName, ClusterTime, Metadata, SharedMetadata};

const TEN_MINUTES: u64 = 600_000;

#[derive(Default)]
pub(crate) struct Naive {
    pub(crate) now: ClusterTime,
    pub(crate) circuits: Vec<Circuit>,
    pub(crate) global: Policy,
    pub(crate) global_options: GlobalOptions,
    pub(crate) defaults: Policy,
    pub(crate) sessions: Vec<Session>,
    pub(crate) events: Vec<Event>,
    next_id: u64,
    highest_removed_generation: u64,
}

pub(crate) struct Session {
    pub(crate) id: u128,
    pub(crate) newest: u64,
    pub(crate) reply: (u64, Vec<ItemReply>),
    pub(crate) used_at: ClusterTime,
}

#[derive(Clone)]
pub(crate) struct Circuit {
    pub(crate) id: u64,
    /// All that can be seen, but for the policy.
    pub(crate) seen: CircuitStatus,
    pub(crate) own: Policy,
    opening_reason: Option<Arc<str>>,
    active_at: ClusterTime,
    pub(crate) permits: Vec<(PermitId, ClusterTime)>,
}

pub(crate) struct Call<'a> {
    pub(crate) generation: Option<u64>,
    pub(crate) permit: Option<PermitId>,
    pub(crate) outcomes: &'a [Outcome],
    pub(crate) rejected: u64,
    pub(crate) reason: Option<Arc<str>>,
    pub(crate) metadata: Metadata,
}

impl Naive {
    pub(crate) fn new(defaults: Policy) -> Self {
        Self {
            defaults,
            ..Self::default()
        }
    }

    pub(crate) fn find(&self, name: &CircuitName) -> Option<usize> {
        self.circuits
            .iter()
            .position(|circuit| circuit.seen.name == *name)
    }

    pub(crate) fn status(&self, name: &CircuitName) -> Option<CircuitStatus> {
        let circuit = &self.circuits[self.find(name)?];
        Some(CircuitStatus {
            policy: self.policy(&circuit.own),
            probes_in_flight: circuit.permits.len() as u32,
            ..circuit.seen.clone()
        })
    }

    /// Each option by itself: own, else global, else default, else built in.
    pub(crate) fn policy(&self, own: &Policy) -> EffectivePolicy {
        let levels = [own, &self.global, &self.defaults];
        macro_rules! first {
            ($option:ident) => {
                levels.iter().find_map(|level| level.$option)
            };
        }
        let expiry = first!(expiry).unwrap_or(Expiry::Ms(60_000));
        let (initial, max) = match expiry {
            Expiry::Ms(ms) => (Some(ms), Some((10 * ms).min(30 * 24 * 3_600_000))),
            Expiry::Never => (None, None),
        };
        EffectivePolicy {
            max_attempts: first!(max_attempts).unwrap_or(5),
            expiry,
            expiry_strategy: first!(expiry_strategy).unwrap_or(ExpiryStrategy::Fixed),
            initial_expiry_ms: first!(initial_expiry_ms).or(initial),
            max_expiry_ms: first!(max_expiry_ms).or(max),
            backoff_factor: first!(backoff_factor).unwrap_or(2.0),
            half_open_max_probes: first!(half_open_max_probes).unwrap_or(1),
            half_open_successes: first!(half_open_successes).unwrap_or(1),
            probe_timeout_ms: first!(probe_timeout_ms).unwrap_or(30_000),
            own: own.options(),
        }
    }

    /// Whether a circuit with these options could be.
    pub(crate) fn fits(&self, own: &Policy) -> bool {
        let policy = self.policy(own);
        match (policy.initial_expiry_ms, policy.max_expiry_ms) {
            (Some(initial), Some(max)) => initial <= max,
            _ => true,
        }
    }

    pub(crate) fn add(&mut self, name: CircuitName, own: Policy, metadata: Metadata) {
        self.next_id += 1;
        let seen = CircuitStatus {
            name,
            state: StateName::Closed,
            generation: self.highest_removed_generation + 1,
            failure_count: 0,
            policy: self.policy(&own),
            opened_at: None,
            expires_at: None,
            openings_in_a_row: 0,
            last_success_at: None,
            last_failure_at: None,
            last_reason: None,
            totals: Totals::default(),
            registered_at: self.now,
            changed_at: self.now,
            metadata: metadata.into(),
            revision: 0,
            probes_in_flight: 0,
            probe_successes: 0,
        };
        self.circuits.push(Circuit {
            id: self.next_id - 1,
            seen,
            own,
            opening_reason: None,
            active_at: self.now,
            permits: Vec::new(),
        });
        let last = self.circuits.len() - 1;
        self.tell(last, EventKind::Registration, Cause::Request, |event| {
            event.previous_state = None;
        });
    }

    /// Registers a known name again. False: refused.
    pub(crate) fn again(
        &mut self,
        at: usize,
        own: &Policy,
        metadata: &Metadata,
        if_exists: IfExists,
    ) -> bool {
        if if_exists == IfExists::Refuse || if_exists == IfExists::Update && !self.fits(own) {
            return false;
        }
        let circuit = &mut self.circuits[at];
        circuit.active_at = self.now;
        if if_exists == IfExists::Update && (circuit.own != *own || *circuit.seen.metadata != *metadata) {
            circuit.own = own.clone();
            circuit.seen.metadata = metadata.clone().into();
            self.tell(at, EventKind::Configured, Cause::Request, |_| {});
        }
        true
    }

    pub(crate) fn configure(&mut self, at: usize, own: Policy) -> bool {
        let circuit = &mut self.circuits[at];
        circuit.active_at = self.now;
        let changed = circuit.own != own;
        circuit.own = own;
        if changed {
            self.tell(at, EventKind::Configured, Cause::Request, |_| {});
        }
        changed
    }

    pub(crate) fn remove(&mut self, at: usize, kind: EventKind, cause: Cause, reason: Option<Arc<str>>) {
        self.tell(at, kind, cause, |event| {
            event.new_state = None;
            event.reason = reason;
        });
        let gone = self.circuits.remove(at);
        self.highest_removed_generation = self.highest_removed_generation.max(gone.seen.generation);
    }

    pub(crate) fn acquire(&mut self, at: usize, permit: PermitId) -> Admission {
        let now = self.now;
        let policy = self.policy(&self.circuits[at].own);
        let circuit = &mut self.circuits[at];
        let mut granted = None;
        let mut wait = None;
        match circuit.seen.state {
            StateName::Closed => {}
            StateName::Open => wait = circuit.seen.expires_at.map(|until| now.ms_until(until).max(1)),
            StateName::HalfOpen => {
                granted = circuit.permits.iter().find(|(id, _)| *id == permit).copied();
                if granted.is_none() && circuit.permits.len() < policy.half_open_max_probes as usize {
                    let until = now.plus_ms(policy.probe_timeout_ms);
                    circuit.permits.push((permit, until));
                    granted = Some((permit, until));
                    self.tell(at, EventKind::ProbeGranted, Cause::Request, |event| {
                        event.permit = Some(permit);
                        event.expires_at = Some(until);
                    });
                }
                if granted.is_none() {
                    let first = self.circuits[at].permits.iter().map(|(_, until)| *until).min();
                    wait = first.map(|until| now.ms_until(until).max(1));
                }
            }
        }
        let circuit = &self.circuits[at];
        Admission {
            admitted: granted.is_some() || circuit.seen.state == StateName::Closed,
            state: circuit.seen.state,
            generation: circuit.seen.generation,
            permit: granted,
            retry_after_ms: wait,
            reason: circuit.opening_reason.clone(),
            opened_at: circuit.seen.opened_at,
        }
    }

    /// Every exact deadline that has come, in order of time, circuit and permit.
    pub(crate) fn due(&self) -> Vec<Due> {
        let mut all = Vec::new();
        for circuit in &self.circuits {
            let (id, generation) = (CircuitId(circuit.id), circuit.seen.generation);
            if let Some(until) = circuit.seen.expires_at {
                all.push((
                    until,
                    id,
                    None,
                    Due::Expiry {
                        circuit: id,
                        generation,
                    },
                ));
            }
            for (permit, until) in &circuit.permits {
                let due = Due::Probe {
                    circuit: id,
                    generation,
                    permit: *permit,
                };
                all.push((*until, id, Some(*permit), due));
            }
        }
        all.retain(|(until, ..)| *until <= self.now);
        all.sort_by_key(|(until, id, permit, _)| (*until, *id, *permit));
        all.into_iter().map(|(.., due)| due).collect()
    }

    pub(crate) fn fire(&mut self, due: &Due) {
        // Stale is whatever is not due now.
        if matches!(due, Due::Expiry { .. } | Due::Probe { .. }) && !self.due().contains(due) {
            return;
        }
        let now = self.now;
        match due {
            Due::Expiry { circuit, .. } => {
                let at = self.circuits.iter().position(|c| c.id == circuit.0).unwrap();
                let seen = &mut self.circuits[at].seen;
                seen.state = StateName::HalfOpen;
                seen.generation += 1;
                seen.changed_at = now;
                seen.expires_at = None;
                self.tell(at, EventKind::CircuitHalfOpened, Cause::Expiry, |event| {
                    event.previous_state = Some(StateName::Open);
                });
            }
            Due::Probe { circuit, permit, .. } => {
                let at = self.circuits.iter().position(|c| c.id == circuit.0).unwrap();
                self.circuits[at].permits.retain(|(id, _)| id != permit);
                self.tell(at, EventKind::ProbeExpired, Cause::Expiry, |event| {
                    event.permit = Some(*permit);
                });
            }
            Due::Sessions => {}
            Due::Cleanup => {
                let threshold = self
                    .global_options
                    .inactive_threshold_ms
                    .unwrap_or(24 * 3_600_000);
                let idle = |circuit: &Circuit| {
                    circuit.active_at.plus_ms(threshold) <= now
                        && circuit.seen.state == StateName::Closed
                        && circuit.seen.failure_count == 0
                };
                while let Some(at) = self.circuits.iter().position(idle) {
                    self.remove(at, EventKind::ConnectionRemoved, Cause::Cleanup, None);
                }
            }
        }
    }

    /// The session, unless it has ended.
    pub(crate) fn session(&mut self, id: u128) -> Option<&mut Session> {
        let now = self.now;
        self.sessions
            .retain(|session| session.used_at.plus_ms(TEN_MINUTES) > now);
        self.sessions.iter_mut().find(|session| session.id == id)
    }

    /// Writes an event of a circuit as it is now, but for what `but` says.
    fn tell(&mut self, at: usize, kind: EventKind, cause: Cause, but: impl FnOnce(&mut Event)) {
        let seen = &mut self.circuits[at].seen;
        seen.revision = self.events.len() as u64 + 1;
        let mut event = Event {
            revision: seen.revision,
            time: self.now,
            name: Some(seen.name.clone()),
            kind,
            previous_state: Some(seen.state),
            new_state: Some(seen.state),
            failure_count: seen.failure_count,
            cause,
            reason: None,
            metadata: seen.metadata.clone(),
            generation: seen.generation,
            count: 0,
            expires_at: None,
            permit: None,
            openings_in_a_row: seen.openings_in_a_row,
        };
        but(&mut event);
        self.events.push(event);
    }

    /// Writes the event of a global configuration.
    pub(crate) fn tell_all(&mut self) {
        self.events.push(Event {
            revision: self.events.len() as u64 + 1,
            time: self.now,
            name: None,
            kind: EventKind::Configured,
            previous_state: None,
            new_state: None,
            failure_count: 0,
            cause: Cause::Request,
            reason: None,
            metadata: SharedMetadata::default(),
            generation: 0,
            count: 0,
            expires_at: None,
            permit: None,
            openings_in_a_row: 0,
        });
    }
}
