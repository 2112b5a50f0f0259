//! What the model answers to each operation, and the command that asks the machine the same.

use std::sync::Arc;

use brama_core::Metadata;
use brama_core::command::{Command, Configure, IfExists, Register, ReportItem, SessionStamp};
use brama_core::event::{Cause, EventKind};
use brama_core::policy::{GlobalOptions, Policy, PolicyOption};
use brama_core::reply::{Answer, BatchReply, ItemReply, Refusal, Reply};

use super::{MAX_CIRCUITS, Pair};
use crate::naive::{Call, Naive, Session};
use crate::operation::{Item, Operation};
use crate::support::name;

impl Pair {
    /// The command, and what it must answer.
    pub(super) fn plain(&mut self, operation: &Operation) -> (Command, Answer) {
        match operation {
            Operation::Register {
                circuit,
                policy,
                metadata,
                if_exists,
            } => self.register(circuit, policy, metadata_of(*metadata), *if_exists),
            Operation::Unregister(circuit) => {
                let found = self.naive.find(&name(circuit));
                if let Some(at) = found {
                    let reason = Some(Arc::from("bye"));
                    self.naive
                        .remove(at, EventKind::ConnectionUnregistered, Cause::Manual, reason);
                }
                let command = Command::Unregister {
                    name: name(circuit),
                    reason: Some(Arc::from("bye")),
                };
                let existed = found.is_some();
                (command, Ok(Reply::Unregistered { existed }))
            }
            Operation::Configure {
                circuit,
                set,
                clear,
                global,
            } => self.configure(*circuit, set, clear, global),
            Operation::Acquire(circuit, permit) => {
                let command = Command::Acquire {
                    name: name(circuit),
                    permit: *permit,
                };
                let expected = match self.naive.find(&name(circuit)) {
                    Some(at) => Ok(Reply::Admission(self.naive.acquire(at, *permit))),
                    None => Err(unknown(circuit)),
                };
                (command, expected)
            }
            Operation::Open(circuit, expiry, reason) => {
                let reason = reason.map(Arc::from);
                let command = Command::Open {
                    name: name(circuit),
                    expiry: *expiry,
                    reason: reason.clone(),
                };
                let act = |naive: &mut Naive, at| naive.open(at, *expiry, reason);
                (command, self.steered(circuit, act))
            }
            Operation::Close(circuit, reason) => {
                let reason = reason.map(Arc::from);
                let command = Command::Close {
                    name: name(circuit),
                    reason: reason.clone(),
                };
                (
                    command,
                    self.steered(circuit, |naive, at| naive.close(at, reason)),
                )
            }
            Operation::Reset(circuit, reason) => {
                let reason = reason.map(Arc::from);
                let command = Command::Reset {
                    name: name(circuit),
                    reason: reason.clone(),
                };
                (
                    command,
                    self.steered(circuit, |naive, at| naive.reset(at, reason)),
                )
            }
            other => unreachable!("{other:?} is no plain command"),
        }
    }

    fn steered(&mut self, circuit: &str, act: impl FnOnce(&mut Naive, usize)) -> Answer {
        let name = name(circuit);
        match self.naive.find(&name) {
            Some(at) => {
                act(&mut self.naive, at);
                let circuit = Box::new(self.naive.status(&name).unwrap());
                Ok(Reply::Changed { circuit })
            }
            None => Err(unknown(circuit)),
        }
    }

    fn register(
        &mut self,
        circuit: &str,
        policy: &Policy,
        metadata: Metadata,
        if_exists: IfExists,
    ) -> (Command, Answer) {
        let name = name(circuit);
        let command = Command::Register(Register {
            name: name.clone(),
            policy: policy.clone(),
            metadata: metadata.clone(),
            if_exists,
        });
        let badly_set =
            matches!((policy.initial_expiry_ms, policy.max_expiry_ms), (Some(i), Some(m)) if i > m);
        let found = self.naive.find(&name);
        let created = found.is_none();
        let expected = if badly_set {
            Err(beyond_max())
        } else if let Some(at) = found {
            let existing = Box::new(self.naive.status(&name).unwrap());
            if self.naive.again(at, policy, &metadata, if_exists) {
                Ok(())
            } else if if_exists == IfExists::Refuse {
                Err(Refusal::AlreadyRegistered { circuit: existing })
            } else {
                Err(beyond_max())
            }
        } else if self.naive.circuits.len() as u64 >= MAX_CIRCUITS {
            Err(Refusal::TooManyCircuits { limit: MAX_CIRCUITS })
        } else if !self.naive.fits(policy) {
            Err(beyond_max())
        } else {
            self.naive.add(name.clone(), policy.clone(), metadata);
            Ok(())
        };
        let expected = expected.map(|()| Reply::Registered {
            created,
            circuit: Box::new(self.naive.status(&name).unwrap()),
        });
        (command, expected)
    }

    fn configure(
        &mut self,
        circuit: Option<&'static str>,
        set: &Policy,
        clear: &[PolicyOption],
        global: &GlobalOptions,
    ) -> (Command, Answer) {
        let set_here = set.options();
        let clear: Vec<_> = clear
            .iter()
            .copied()
            .filter(|option| !set_here.contains(option))
            .filter(|option| {
                circuit.is_none() && global.inactive_threshold_ms.is_none() || !option.is_global()
            })
            .collect();
        let global = if circuit.is_some() {
            GlobalOptions::default()
        } else {
            *global
        };
        let command = Command::Configure(Configure {
            name: circuit.map(name),
            set: set.clone(),
            clear: clear.clone(),
            global,
        });
        let badly_set = matches!((set.initial_expiry_ms, set.max_expiry_ms), (Some(i), Some(m)) if i > m);
        let expected = if badly_set {
            Err(beyond_max())
        } else if let Some(circuit) = circuit {
            match self.naive.find(&name(circuit)) {
                None => Err(unknown(circuit)),
                Some(at) => {
                    let own = merged(&self.naive.circuits[at].own, set, &clear);
                    if self.naive.fits(&own) {
                        let policy = self.naive.policy(&own);
                        let changed = self.naive.configure(at, own);
                        Ok(Reply::Configured { changed, policy })
                    } else {
                        Err(beyond_max())
                    }
                }
            }
        } else {
            self.configure_all(set, &clear, &global)
        };
        (command, expected)
    }

    fn configure_all(&mut self, set: &Policy, clear: &[PolicyOption], global: &GlobalOptions) -> Answer {
        let before = (self.naive.global.clone(), self.naive.global_options);
        self.naive.global = merged(&before.0, set, clear);
        if !self.naive.fits(&Policy::default()) {
            self.naive.global = before.0;
            return Err(beyond_max());
        }
        let options = &mut self.naive.global_options;
        if clear.contains(&PolicyOption::InactiveThreshold) {
            options.inactive_threshold_ms = None;
        }
        if global.inactive_threshold_ms.is_some() {
            options.inactive_threshold_ms = global.inactive_threshold_ms;
        }
        let changed = before != (self.naive.global.clone(), self.naive.global_options);
        if changed {
            self.naive.tell_all();
        }
        let policy = self.naive.policy(&Policy::default());
        Ok(Reply::Configured { changed, policy })
    }

    pub(super) fn reported(&mut self, stamp: Option<SessionStamp>, items: &[(ReportItem, &Item)]) -> Answer {
        if let Some(SessionStamp { id, sequence }) = stamp {
            let now = self.naive.now;
            match self.naive.session(id) {
                Some(session) if sequence == session.newest => {
                    session.used_at = now;
                    let (revision, items) = session.reply.clone();
                    return Ok(Reply::Reported(BatchReply { revision, items }));
                }
                Some(session) if sequence < session.newest => {
                    let newest = session.newest;
                    return Err(Refusal::StaleSequence {
                        session: id,
                        sequence,
                        newest,
                    });
                }
                None if sequence > 1 => {
                    return Err(Refusal::SessionExpired {
                        session: id,
                        sequence,
                    });
                }
                _ => {}
            }
        }
        let mut replies = Vec::new();
        for (report, item) in items {
            replies.push(match self.naive.find(&report.name) {
                None => ItemReply::NotFound,
                Some(at) => self.naive.report(
                    at,
                    &Call {
                        generation: report.generation,
                        permit: report.permit,
                        outcomes: &item.outcomes,
                        rejected: item.rejected,
                        reason: report.reason.clone(),
                        metadata: report.metadata.clone(),
                    },
                ),
            });
        }
        let reply = (self.naive.events.len() as u64, replies);
        if let Some(SessionStamp { id, sequence }) = stamp {
            self.naive.sessions.retain(|session| session.id != id);
            self.naive.sessions.push(Session {
                id,
                newest: sequence,
                reply: reply.clone(),
                used_at: self.naive.now,
            });
        }
        let (revision, items) = reply;
        Ok(Reply::Reported(BatchReply { revision, items }))
    }
}

fn merged(own: &Policy, set: &Policy, clear: &[PolicyOption]) -> Policy {
    let mut own = own.clone();
    for option in clear {
        match option {
            PolicyOption::MaxAttempts => own.max_attempts = None,
            PolicyOption::Expiry => own.expiry = None,
            PolicyOption::ExpiryStrategy => own.expiry_strategy = None,
            PolicyOption::InitialExpiry => own.initial_expiry_ms = None,
            PolicyOption::MaxExpiry => own.max_expiry_ms = None,
            PolicyOption::BackoffFactor => own.backoff_factor = None,
            PolicyOption::HalfOpenMaxProbes => own.half_open_max_probes = None,
            PolicyOption::HalfOpenSuccesses => own.half_open_successes = None,
            PolicyOption::ProbeTimeout => own.probe_timeout_ms = None,
            PolicyOption::InactiveThreshold | PolicyOption::CleanupInterval => {}
        }
    }
    macro_rules! set {
        ($($option:ident)*) => {
            $(if set.$option.is_some() { own.$option = set.$option; })*
        };
    }
    set!(max_attempts expiry expiry_strategy initial_expiry_ms max_expiry_ms backoff_factor);
    set!(half_open_max_probes half_open_successes probe_timeout_ms);
    own
}

pub(super) fn metadata_of(text: Option<&str>) -> Metadata {
    text.map(|text| ("key", text)).into_iter().collect()
}

fn unknown(circuit: &str) -> Refusal {
    Refusal::CircuitNotFound {
        name: name(circuit).to_string(),
    }
}

fn beyond_max() -> Refusal {
    Refusal::invalid("policy.initial_expiry_ms", "")
}
