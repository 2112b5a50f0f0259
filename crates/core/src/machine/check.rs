//! What can be refused without changing anything: bad values, and limits as they stand.

use crate::command::{Command, Configure, Due, Register, ReportBatch};
use crate::limits::{MAX_FIRE, MAX_REPORT_ITEMS};
use crate::machine::Machine;
use crate::name::check_reason;
use crate::policy::{EffectivePolicy, Policy, PolicyOption};
use crate::reply::Refusal;

impl Machine {
    /// What can be refused before the log: everything that does not depend on the state, and the limits as they stand.
    ///
    /// # Errors
    /// A [`Refusal`] that applying the command would give too.
    pub fn precheck(&self, command: &Command) -> Result<(), Refusal> {
        validate(command)?;
        match command {
            Command::Register(register) if self.id(&register.name).is_none() => self.check_room_for_circuit(),
            Command::Report(batch) => match &batch.session {
                Some(stamp) if stamp.sequence == 1 && !self.state.sessions.contains_key(&stamp.id) => {
                    self.check_room_for_session()
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    pub(super) fn check_room_for_circuit(&self) -> Result<(), Refusal> {
        let limit = self.state.limits().max_circuits;
        if self.state.circuits.len() as u64 >= limit {
            Err(Refusal::TooManyCircuits { limit })
        } else {
            Ok(())
        }
    }

    pub(super) fn check_room_for_session(&self) -> Result<(), Refusal> {
        let limit = self.state.limits().max_sessions;
        if self.state.sessions.len() as u64 >= limit {
            Err(Refusal::TooManySessions { limit })
        } else {
            Ok(())
        }
    }
}

/// Checks a command by itself.
pub(super) fn validate(command: &Command) -> Result<(), Refusal> {
    match command {
        Command::Bootstrap(first) => {
            first.defaults.validate()?;
            // Together with what is built in, too: else every circuit would be refused afterwards.
            EffectivePolicy::resolve(&first.defaults, &Policy::default()).validate()?;
            first.global_defaults.validate()
        }
        Command::Register(register) => validate_register(register),
        Command::Configure(configure) => validate_configure(configure),
        Command::Report(batch) => validate_batch(batch),
        Command::Acquire { name, .. } => name.validate(),
        Command::Open { name, expiry, reason } => {
            name.validate()?;
            if let Some(expiry) = expiry {
                expiry.validate("expiry")?;
            }
            check_reason(reason.as_deref())
        }
        Command::Unregister { name, reason }
        | Command::Close { name, reason }
        | Command::Reset { name, reason } => {
            name.validate()?;
            check_reason(reason.as_deref())
        }
        Command::Fire { due, .. } => validate_due(due),
    }
}

fn validate_register(register: &Register) -> Result<(), Refusal> {
    register.name.validate()?;
    register.policy.validate()?;
    register.metadata.validate()
}

fn validate_configure(configure: &Configure) -> Result<(), Refusal> {
    configure.set.validate()?;
    configure.global.validate()?;
    if let Some(name) = &configure.name {
        name.validate()?;
        if !configure.global.is_empty() {
            return Err(Refusal::invalid(
                "global",
                "can only be set for the cluster as a whole, without a name",
            ));
        }
        if let Some(option) = configure.clear.iter().find(|option| option.is_global()) {
            let problem = format!(
                "names {}, which exists only for the cluster as a whole",
                option.name()
            );
            return Err(Refusal::invalid("clear", problem));
        }
    }
    if configure.clear.len() > PolicyOption::ALL.len() {
        return Err(Refusal::invalid("clear", "names more options than there are"));
    }
    let mut set = configure.set.options();
    set.extend(configure.global.options());
    if let Some(option) = configure.clear.iter().find(|option| set.contains(option)) {
        return Err(Refusal::invalid(
            "clear",
            format!("names {}, which is also set", option.name()),
        ));
    }
    Ok(())
}

fn validate_batch(batch: &ReportBatch) -> Result<(), Refusal> {
    if batch.items.is_empty() || batch.items.len() > MAX_REPORT_ITEMS {
        let problem = format!(
            "has {} entries, 1 ..= {MAX_REPORT_ITEMS} are allowed",
            batch.items.len()
        );
        return Err(Refusal::invalid("items", problem));
    }
    if batch.session.is_some_and(|stamp| stamp.sequence == 0) {
        return Err(Refusal::invalid("session.sequence", "is 0, it begins with 1"));
    }
    for (i, item) in batch.items.iter().enumerate() {
        let check = || {
            item.name.validate()?;
            item.summary.validate()?;
            if item.permit.is_some() && item.summary.calls() != 1 {
                return Err(Refusal::invalid(
                    "summary",
                    "must have exactly one outcome when a permit is named",
                ));
            }
            check_reason(item.reason.as_deref())?;
            item.metadata.validate()
        };
        check().map_err(|refusal| match refusal {
            Refusal::InvalidArgument { field, problem } => {
                Refusal::invalid(format!("items[{i}].{field}"), problem)
            }
            other => other,
        })?;
    }
    Ok(())
}

fn validate_due(due: &[Due]) -> Result<(), Refusal> {
    if due.len() > MAX_FIRE {
        return Err(Refusal::invalid(
            "due",
            format!("has {} entries, at most {MAX_FIRE} are allowed", due.len()),
        ));
    }
    Ok(())
}
