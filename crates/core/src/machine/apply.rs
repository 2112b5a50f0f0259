//! Applying entries: the commands that register, configure and steer circuits.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::check::validate;
use super::{Machine, warm};
use crate::circuit::{Circuit, State as CircuitState, StateName, Transition};
use crate::codec::{self, CodecError};
use crate::command::{Batch, Bootstrap, CircuitId, Command, Configure, IfExists, PermitId, Register};
use crate::event::{Cause, Event, EventKind};
use crate::mutants::{self, Mutant};
use crate::name::CircuitName;
use crate::policy::{EffectivePolicy, Policy};
use crate::query::Totals;
use crate::reply::{Admission, Answer, Refusal, Reply};
use crate::shared_metadata::SharedMetadata;
use crate::time::ClusterTime;

impl Machine {
    /// Applies one log entry of `term`: one answer a command, in order. Raises cluster time to the batch's, if that is later.
    pub fn apply(&mut self, term: u64, batch: &Batch) -> Vec<Answer> {
        self.apply_decoded(term, batch, &codec::encode_batch(batch))
    }

    /// [`Machine::apply`] for an entry as the log holds it.
    ///
    /// # Errors
    /// [`CodecError`] when the entry holds no batch that this version knows; nothing has changed then.
    pub fn apply_entry(&mut self, term: u64, entry: &[u8]) -> Result<Vec<Answer>, CodecError> {
        let batch = codec::decode_batch(entry)?;
        Ok(self.apply_decoded(term, &batch, entry))
    }

    fn apply_decoded(&mut self, term: u64, batch: &Batch, entry: &[u8]) -> Vec<Answer> {
        self.state.time = self.state.time.max(batch.time);
        self.met.clear();
        let mut answers = Vec::with_capacity(batch.commands.len());
        for commands in batch.commands.chunks(warm::AT_ONCE) {
            let mut guesses = self.warm_commands(commands);
            for command in commands {
                let guessed = match command {
                    Command::Report(batch) if !warm::is_many(batch) => guesses.next(batch.items.len()),
                    _ => &[],
                };
                let answer = self.apply_command(term, command, guessed);
                self.tally.command(command, &answer);
                self.digest.answer(&answer);
                answers.push(answer);
            }
        }
        self.roll_hash(term, entry);
        answers
    }

    /// `guessed`: what [`Machine::warm_commands`] found for the items of this command, if anything.
    fn apply_command(&mut self, term: u64, command: &Command, guessed: &[Option<CircuitId>]) -> Answer {
        validate(command)?;
        match command {
            Command::Bootstrap(first) => Ok(self.bootstrap(first)),
            Command::Register(register) => self.register(register),
            Command::Unregister { name, reason } => Ok(self.unregister(name, reason.clone())),
            Command::Configure(configure) => self.configure(configure),
            Command::Report(batch) => self.report(batch, guessed),
            Command::Acquire { name, permit } => self.acquire(name, *permit),
            Command::Open { name, expiry, reason } => self.steer(name, reason, |circuit, policy, now| {
                circuit.open(*expiry, reason.clone(), Cause::Manual, policy, now)
            }),
            Command::Close { name, reason } => {
                self.steer(name, reason, |circuit, _, now| circuit.close_by_hand(now))
            }
            Command::Reset { name, reason } => self.steer(name, reason, |circuit, _, now| circuit.reset(now)),
            Command::Fire {
                term: proposed_in,
                due,
            } => {
                if *proposed_in == term {
                    self.fire(due);
                }
                Ok(Reply::Done)
            }
        }
    }

    /// The hash covers what went in, what came out, and every circuit that was touched: after each report, and else as it is now. Events, answers and
    /// reported circuits were fed when they were made, while they were near.
    fn roll_hash(&mut self, term: u64, entry: &[u8]) {
        let Self {
            state,
            digest,
            touched,
            ..
        } = self;
        touched.sort_unstable();
        touched.dedup();
        for id in touched.drain(..) {
            digest.circuit(id, state.circuits.get(&id).map(|circuit| &**circuit));
        }
        digest.words([state.hash, term, state.events.revision()]);
        digest.encoding(&(state.time, state.sweeps));
        digest.bytes(entry);
        state.hash = digest.take();
    }

    fn bootstrap(&mut self, first: &Bootstrap) -> Reply {
        if self.state.cluster.is_none() {
            self.state.cluster = Some(Arc::new(first.clone()));
            self.inherited = None;
        }
        Reply::Done
    }

    fn register(&mut self, register: &Register) -> Answer {
        if let Some(id) = self.id(&register.name) {
            return self.register_again(id, register);
        }
        self.check_room_for_circuit()?;
        self.state.effective(Some(&register.policy)).validate()?;
        let now = self.state.time;
        let id = CircuitId(self.state.next_circuit);
        self.state.next_circuit += 1;
        let own = self.policies.share(&register.policy);
        let circuit = Circuit {
            name: register.name.clone(),
            state: CircuitState::Closed,
            generation: self.state.generation_floor.max(1),
            failure_count: 0,
            openings_in_a_row: 0,
            own,
            metadata: register.metadata.clone().into(),
            totals: Totals::default(),
            last_success_at: None,
            last_failure_at: None,
            last_reason: None,
            registered_at: now,
            changed_at: now,
            active_at: now,
            revision: 0,
        };
        if self.state.circuits.is_empty() {
            // Nothing was idle before there was anything.
            self.state.sweeps.circuits_bound = now;
        }
        let event = Event {
            previous_state: None,
            ..self.draft(EventKind::Registration, Cause::Request, &circuit)
        };
        self.state.names.insert(circuit.name.clone(), id);
        if let Some(index) = &mut self.index {
            index.insert(&circuit.name, id);
        }
        self.state.census.enter(&circuit);
        self.state.circuits.insert(id, Arc::new(circuit));
        self.touched.push(id);
        self.emit(Some(id), event);
        Ok(Reply::Registered {
            created: true,
            circuit: Box::new(self.status_of(id)?),
        })
    }

    fn register_again(&mut self, id: CircuitId, register: &Register) -> Answer {
        match register.if_exists {
            IfExists::Refuse => {
                return Err(Refusal::AlreadyRegistered {
                    circuit: Box::new(self.status_of(id)?),
                });
            }
            IfExists::Keep => {}
            IfExists::Update => self.state.effective(Some(&register.policy)).validate()?,
        }
        let now = self.state.time;
        let updates = register.if_exists == IfExists::Update;
        let own = updates.then(|| self.policies.share(&register.policy)).flatten();
        let differs = updates
            && self
                .state
                .circuits
                .get(&id)
                .is_some_and(|circuit| circuit.own != own || *circuit.metadata != register.metadata);
        self.change(id, |circuit| {
            circuit.active_at = now;
            if differs {
                circuit.own = own;
                circuit.metadata = register.metadata.clone().into();
            }
        });
        if differs {
            self.emit_plain(id, EventKind::Configured, Cause::Request, None);
        }
        Ok(Reply::Registered {
            created: false,
            circuit: Box::new(self.status_of(id)?),
        })
    }

    fn unregister(&mut self, name: &CircuitName, reason: Option<Arc<str>>) -> Reply {
        let Some(id) = self.id(name) else {
            return Reply::Unregistered { existed: false };
        };
        self.remove_with_event(id, EventKind::ConnectionUnregistered, Cause::Manual, reason);
        Reply::Unregistered { existed: true }
    }

    /// Removes a circuit and says so.
    pub(super) fn remove_with_event(
        &mut self,
        id: CircuitId,
        kind: EventKind,
        cause: Cause,
        reason: Option<Arc<str>>,
    ) {
        if let Some(circuit) = self.remove(id) {
            let event = Event {
                new_state: None,
                reason,
                ..self.draft(kind, cause, &circuit)
            };
            self.emit(None, event);
        }
    }

    fn configure(&mut self, configure: &Configure) -> Answer {
        match &configure.name {
            Some(name) => self.configure_circuit(name, configure),
            None => self.configure_all(configure),
        }
    }

    fn configure_circuit(&mut self, name: &CircuitName, configure: &Configure) -> Answer {
        let id = self.known(name)?;
        let before = self
            .state
            .circuits
            .get(&id)
            .and_then(|circuit| circuit.own.as_deref().cloned())
            .unwrap_or_default();
        let after = changed(&before, configure);
        let policy = self.state.effective(Some(&after));
        policy.validate()?;
        let now = self.state.time;
        let changed = before != after;
        let own = self.policies.share(&after);
        self.change(id, |circuit| {
            circuit.active_at = now;
            circuit.own = own;
        });
        if changed {
            self.emit_plain(id, EventKind::Configured, Cause::Request, None);
        }
        Ok(Reply::Configured { changed, policy })
    }

    fn configure_all(&mut self, configure: &Configure) -> Answer {
        let after = changed(&self.state.global, configure);
        let mut options = self.state.global_options.overlaid(&configure.global);
        for option in &configure.clear {
            options.clear(*option);
        }
        let inherited = match &self.state.cluster {
            Some(cluster) => cluster.defaults.overlaid(&after),
            None => after.clone(),
        };
        let policy = EffectivePolicy::resolve(&inherited, &Policy::default());
        policy.validate()?;
        let changed = *self.state.global != after || self.state.global_options != options;
        if changed {
            self.state.global = Arc::new(after);
            self.inherited = None;
            self.state.global_options = options;
            let event = Event {
                revision: self.state.events.revision() + 1,
                time: self.state.time,
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
            };
            self.emit(None, event);
        }
        Ok(Reply::Configured { changed, policy })
    }

    /// Opens, closes or resets by hand.
    fn steer(
        &mut self,
        name: &CircuitName,
        reason: &Option<Arc<str>>,
        act: impl FnOnce(&mut Circuit, &EffectivePolicy, ClusterTime) -> Transition,
    ) -> Answer {
        let id = self.known(name)?;
        let policy = self.policy_of(id)?;
        let now = self.state.time;
        let transition = self.change(id, |circuit| {
            circuit.active_at = now;
            if let Some(reason) = reason {
                circuit.last_reason = Some(reason.clone());
            }
            act(circuit, &policy, now)
        });
        if let Some(transition) = transition {
            self.emit_transition(id, transition, reason.clone());
        }
        Ok(Reply::Changed {
            circuit: Box::new(self.status_of(id)?),
        })
    }

    fn acquire(&mut self, name: &CircuitName, permit: PermitId) -> Answer {
        let id = self.known(name)?;
        let policy = self.policy_of(id)?;
        let now = self.state.time;
        let until = now.plus_ms(policy.probe_timeout_ms);
        let granted = match self.state.circuits.get(&id).map(|circuit| &circuit.state) {
            Some(CircuitState::HalfOpen { permits, .. }) => match permits.get(&permit) {
                Some(until) => Some(*until),
                None if places_taken(permits, permit) < u64::from(policy.half_open_max_probes) => {
                    self.change(id, |circuit| {
                        if let CircuitState::HalfOpen { permits, .. } = &mut circuit.state {
                            permits.insert(permit, until);
                        }
                    });
                    let circuit = self
                        .state
                        .circuits
                        .get(&id)
                        .ok_or_else(|| not_found(name))?
                        .clone();
                    let event = Event {
                        permit: Some(permit),
                        expires_at: Some(until),
                        ..self.draft(EventKind::ProbeGranted, Cause::Request, &circuit)
                    };
                    self.emit(Some(id), event);
                    Some(until)
                }
                None => None,
            },
            _ => None,
        };
        let availability = self.available(name, now).ok_or_else(|| not_found(name))?;
        let admitted = granted.is_some() || availability.state == StateName::Closed;
        Ok(Reply::Admission(Admission {
            admitted,
            state: availability.state,
            generation: availability.generation,
            permit: granted.map(|until| (permit, until)),
            retry_after_ms: availability.retry_after_ms.filter(|_| !admitted),
            reason: availability.reason,
            opened_at: availability.opened_at,
        }))
    }

    pub(super) fn known(&self, name: &CircuitName) -> Result<CircuitId, Refusal> {
        self.id(name).ok_or_else(|| not_found(name))
    }

    pub(super) fn policy_of(&self, id: CircuitId) -> Result<EffectivePolicy, Refusal> {
        let circuit = self
            .state
            .circuits
            .get(&id)
            .ok_or_else(|| Refusal::CircuitNotFound { name: String::new() })?;
        Ok(self.state.deciding(circuit))
    }

    /// Writes an event in which the circuit's state does not change.
    fn emit_plain(&mut self, id: CircuitId, kind: EventKind, cause: Cause, reason: Option<Arc<str>>) {
        if let Some(circuit) = self.state.circuits.get(&id) {
            let event = Event {
                reason,
                ..self.draft(kind, cause, circuit)
            };
            self.emit(Some(id), event);
        }
    }
}

/// How many permits are out, of those that share their places with this one: all.
fn places_taken(permits: &BTreeMap<PermitId, ClusterTime>, wanted: PermitId) -> u64 {
    if mutants::active(Mutant::PermitsPerNode) {
        // As if one node in three had asked for each.
        return permits
            .keys()
            .filter(|permit| permit.0 % 3 == wanted.0 % 3)
            .count() as u64;
    }
    permits.len() as u64
}

pub(super) fn not_found(name: &CircuitName) -> Refusal {
    Refusal::CircuitNotFound {
        name: name.to_string(),
    }
}

fn changed(policy: &Policy, configure: &Configure) -> Policy {
    let mut after = policy.overlaid(&configure.set);
    for option in &configure.clear {
        after.clear(*option);
    }
    after
}
