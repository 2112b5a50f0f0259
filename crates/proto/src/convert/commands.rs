//! From messages to the core: what is asked. Nothing passes unchecked.

use std::collections::BTreeMap;
use std::sync::Arc;

use brama_core::circuit::StateName;
use brama_core::command::{
    Command, Configure, IfExists, PermitId, Register, ReportBatch, ReportItem, SessionStamp,
};
use brama_core::limits::{MAX_LISTED_OUTCOMES, MAX_REPORT_ITEMS};
use brama_core::name::check_reason;
use brama_core::policy::{Expiry, ExpiryStrategy, GlobalOptions, Policy, PolicyOption};
use brama_core::report::Outcome;
use brama_core::{CircuitName, Metadata, Refusal, Summary};

use crate::v1;

/// Puts a path before the field that a refusal names.
pub fn within(path: &str) -> impl Fn(Refusal) -> Refusal + '_ {
    move |refusal| match refusal {
        Refusal::InvalidArgument { field, problem } => Refusal::invalid(format!("{path}.{field}"), problem),
        other => other,
    }
}

/// A checked name.
///
/// # Errors
/// [`Refusal::InvalidArgument`] that names `name`, `name.scope` or `name.identifier`.
pub fn circuit_name(name: Option<&v1::CircuitName>) -> Result<CircuitName, Refusal> {
    let name = name.ok_or_else(|| Refusal::invalid("name", "is missing"))?;
    CircuitName::new(name.scope.as_deref(), &name.identifier).map_err(within("name"))
}

/// Checked metadata.
///
/// # Errors
/// [`Refusal::InvalidArgument`] that names `metadata`.
pub fn metadata(message: BTreeMap<String, String>) -> Result<Metadata, Refusal> {
    let metadata: Metadata = message.into_iter().collect();
    metadata.validate()?;
    Ok(metadata)
}

/// A checked reason.
///
/// # Errors
/// [`Refusal::InvalidArgument`] that names `reason`.
pub fn reason(message: Option<String>) -> Result<Option<Arc<str>>, Refusal> {
    check_reason(message.as_deref())?;
    Ok(message.map(Arc::from))
}

/// A permit's id: 16 bytes, or none.
///
/// # Errors
/// [`Refusal::InvalidArgument`] that names `permit_id`.
pub fn permit_id(message: &[u8]) -> Result<Option<PermitId>, Refusal> {
    if message.is_empty() {
        return Ok(None);
    }
    let bytes = <[u8; 16]>::try_from(message).map_err(|_| {
        Refusal::invalid(
            "permit_id",
            format!("has {} bytes, it must have 16, or none", message.len()),
        )
    })?;
    Ok(Some(PermitId(u128::from_be_bytes(bytes))))
}

/// A session and its sequence number.
///
/// # Errors
/// [`Refusal::InvalidArgument`] that names `session.id` or `session.sequence`.
pub fn session(message: Option<v1::Session>) -> Result<Option<SessionStamp>, Refusal> {
    let Some(message) = message else { return Ok(None) };
    let bytes = <[u8; 16]>::try_from(&*message.id).map_err(|_| {
        Refusal::invalid(
            "session.id",
            format!("has {} bytes, it must have 16", message.id.len()),
        )
    })?;
    if message.sequence == 0 {
        return Err(Refusal::invalid("session.sequence", "is 0, it begins with 1"));
    }
    Ok(Some(SessionStamp {
        id: u128::from_be_bytes(bytes),
        sequence: message.sequence,
    }))
}

/// An expiry; `field` is its path.
///
/// # Errors
/// [`Refusal::InvalidArgument`] that names `field`.
pub fn expiry(message: Option<v1::Expiry>, field: &'static str) -> Result<Option<Expiry>, Refusal> {
    let Some(message) = message else { return Ok(None) };
    let expiry = match message.kind {
        Some(v1::expiry::Kind::Ms(ms)) => Expiry::Ms(ms),
        Some(v1::expiry::Kind::Never(true)) => Expiry::Never,
        Some(v1::expiry::Kind::Never(false)) => {
            return Err(Refusal::invalid(field, "`never` must be true, or left out"));
        }
        None => return Err(Refusal::invalid(field, "is empty: it must have `ms` or `never`")),
    };
    expiry.validate(field)?;
    Ok(Some(expiry))
}

/// A checked policy.
///
/// # Errors
/// [`Refusal::InvalidArgument`] that names `policy.<option>`.
pub fn policy(message: Option<v1::Policy>) -> Result<Policy, Refusal> {
    let Some(message) = message else {
        return Ok(Policy::default());
    };
    let expiry_strategy = match message.expiry_strategy {
        None => None,
        Some(number) => match v1::ExpiryStrategy::try_from(number) {
            Ok(v1::ExpiryStrategy::Fixed) => Some(ExpiryStrategy::Fixed),
            Ok(v1::ExpiryStrategy::Progressive) => Some(ExpiryStrategy::Progressive),
            Ok(v1::ExpiryStrategy::Unspecified) | Err(_) => {
                let problem = format!("is {number}, which is no strategy");
                return Err(Refusal::invalid("policy.expiry_strategy", problem));
            }
        },
    };
    let policy = Policy {
        max_attempts: message.max_attempts,
        expiry: expiry(message.expiry, "policy.expiry")?,
        expiry_strategy,
        initial_expiry_ms: message.initial_expiry_ms,
        max_expiry_ms: message.max_expiry_ms,
        backoff_factor: message.backoff_factor,
        half_open_max_probes: message.half_open_max_probes,
        half_open_successes: message.half_open_successes,
        probe_timeout_ms: message.probe_timeout_ms,
    };
    policy.validate()?;
    Ok(policy)
}

/// `Register` as a command.
///
/// # Errors
/// [`Refusal::InvalidArgument`].
pub fn register(message: v1::RegisterRequest) -> Result<Command, Refusal> {
    let if_exists = match message.if_exists() {
        v1::IfExists::Keep => IfExists::Keep,
        v1::IfExists::Update => IfExists::Update,
        v1::IfExists::Unspecified if message.if_exists == 0 => IfExists::Refuse,
        v1::IfExists::Unspecified => {
            return Err(Refusal::invalid(
                "if_exists",
                format!("is {}, which is none of its values", message.if_exists),
            ));
        }
    };
    Ok(Command::Register(Register {
        name: circuit_name(message.name.as_ref())?,
        policy: policy(message.policy)?,
        metadata: metadata(message.metadata)?,
        if_exists,
    }))
}

/// `Configure` as a command.
///
/// # Errors
/// [`Refusal::InvalidArgument`].
pub fn configure(message: v1::ConfigureRequest) -> Result<Command, Refusal> {
    let name = message
        .name
        .as_ref()
        .map(|name| circuit_name(Some(name)))
        .transpose()?;
    let clear = message
        .clear
        .iter()
        .map(|option| {
            PolicyOption::parse(option)
                .ok_or_else(|| Refusal::invalid("clear", format!("names {option:?}, which is no option")))
        })
        .collect::<Result<_, _>>()?;
    let global = message
        .global
        .map_or_else(GlobalOptions::default, |global| GlobalOptions {
            inactive_threshold_ms: global.inactive_threshold_ms,
            cleanup_interval_ms: global.cleanup_interval_ms,
        });
    global.validate()?;
    Ok(Command::Configure(Configure {
        name,
        set: policy(message.policy)?,
        clear,
        global,
    }))
}

/// `Report` as a command.
///
/// # Errors
/// [`Refusal::InvalidArgument`] that names `items[i].<field>`.
pub fn report(message: v1::ReportRequest) -> Result<Command, Refusal> {
    if message.items.is_empty() || message.items.len() > MAX_REPORT_ITEMS {
        let problem = format!(
            "has {} entries, 1 ..= {MAX_REPORT_ITEMS} are allowed",
            message.items.len()
        );
        return Err(Refusal::invalid("items", problem));
    }
    // Most have one: collected, it would have room for four.
    let mut items = Vec::with_capacity(message.items.len());
    for (i, item) in message.items.into_iter().enumerate() {
        items.push(report_item(item).map_err(|refusal| within(&format!("items[{i}]"))(refusal))?);
    }
    Ok(Command::Report(ReportBatch {
        session: session(message.session)?,
        items,
    }))
}

fn report_item(item: v1::ReportItem) -> Result<ReportItem, Refusal> {
    let summary = match (item.summary, item.outcomes.as_slice()) {
        (Some(summary), []) => summary_of(&summary),
        (Some(_), _) => {
            return Err(Refusal::invalid(
                "outcomes",
                "must be empty when there is a summary",
            ));
        }
        (None, []) => {
            return Err(Refusal::invalid(
                "summary",
                "is missing, and there are no outcomes either",
            ));
        }
        (None, outcomes) => {
            if outcomes.len() > MAX_LISTED_OUTCOMES {
                let problem = format!(
                    "has {} entries, at most {MAX_LISTED_OUTCOMES} are allowed",
                    outcomes.len()
                );
                return Err(Refusal::invalid("outcomes", problem));
            }
            outcomes.iter().try_fold(Summary::default(), |sum, number| {
                let outcome = match v1::Outcome::try_from(*number) {
                    Ok(v1::Outcome::Success) => Outcome::Success,
                    Ok(v1::Outcome::Failure) => Outcome::Failure,
                    Ok(v1::Outcome::Ignored) => Outcome::Ignored,
                    Ok(v1::Outcome::Unspecified) | Err(_) => {
                        let problem = format!("has {number}, which is no outcome");
                        return Err(Refusal::invalid("outcomes", problem));
                    }
                };
                Ok(sum.then(&Summary::of(outcome)))
            })?
        }
    };
    summary.validate()?;
    let permit = permit_id(&item.permit_id)?;
    if permit.is_some() && summary.calls() != 1 {
        return Err(Refusal::invalid(
            "summary",
            "must have exactly one outcome when a permit is named",
        ));
    }
    Ok(ReportItem {
        name: circuit_name(item.name.as_ref())?,
        generation: item.generation,
        permit,
        summary,
        reason: reason(item.reason)?,
        metadata: metadata(item.metadata)?,
    })
}

/// A summary, not checked yet.
pub fn summary_of(message: &v1::Summary) -> Summary {
    Summary {
        failures: message.failures,
        successes: message.successes,
        leading_failures: message.leading_failures,
        longest_failures: message.longest_failures,
        trailing_failures: message.trailing_failures,
        leading_successes: message.leading_successes,
        ignored: message.ignored,
        rejected: message.rejected,
    }
}

/// `Success` as a command.
///
/// # Errors
/// [`Refusal::InvalidArgument`].
pub fn success(message: v1::SuccessRequest) -> Result<Command, Refusal> {
    let item = ReportItem {
        name: circuit_name(message.name.as_ref())?,
        generation: message.generation,
        permit: permit_id(&message.permit_id)?,
        summary: Summary::of(Outcome::Success),
        reason: None,
        metadata: metadata(message.metadata)?,
    };
    Ok(Command::Report(ReportBatch {
        session: session(message.session)?,
        items: vec![item],
    }))
}

/// `Failure` as a command.
///
/// # Errors
/// [`Refusal::InvalidArgument`].
pub fn failure(message: v1::FailureRequest) -> Result<Command, Refusal> {
    let item = ReportItem {
        name: circuit_name(message.name.as_ref())?,
        generation: message.generation,
        permit: permit_id(&message.permit_id)?,
        summary: Summary::of(Outcome::Failure),
        reason: reason(message.reason)?,
        metadata: metadata(message.metadata)?,
    };
    Ok(Command::Report(ReportBatch {
        session: session(message.session)?,
        items: vec![item],
    }))
}

/// States to select by.
///
/// # Errors
/// [`Refusal::InvalidArgument`] that names `states`.
pub fn states(numbers: &[i32]) -> Result<Vec<StateName>, Refusal> {
    numbers
        .iter()
        .map(|number| match v1::State::try_from(*number) {
            Ok(v1::State::Closed) => Ok(StateName::Closed),
            Ok(v1::State::Open) => Ok(StateName::Open),
            Ok(v1::State::HalfOpen) => Ok(StateName::HalfOpen),
            Ok(v1::State::Unspecified) | Err(_) => Err(Refusal::invalid(
                "states",
                format!("has {number}, which is no state"),
            )),
        })
        .collect()
}
