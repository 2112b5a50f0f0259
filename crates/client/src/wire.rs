//! From the protocol's messages to the core's types, and back: what a node sends is checked here, once.

use std::collections::BTreeMap;
use std::sync::Arc;

use brama_core::circuit::StateName;
use brama_core::command::{PermitId, ReportItem};
use brama_core::event::{Cause, Event, EventKind};
use brama_core::policy::{EffectivePolicy, ExpiryStrategy, GlobalOptions, Policy, PolicyOption};
use brama_core::query::{Availability, CircuitStatus, Totals};
use brama_core::reply::{Admission, BatchReply, ItemReply};
use brama_core::{CircuitName, ClusterTime, Metadata, Refusal};
use brama_proto::{convert, v1};
use prost_types::Timestamp;

use crate::error::Error;

// -- to the node, as far as crates/proto does not know it already ----------------------------------

pub(crate) fn to_permit(permit: PermitId) -> Vec<u8> {
    permit.0.to_be_bytes().to_vec()
}

pub(crate) fn to_item(item: &ReportItem) -> v1::ReportItem {
    v1::ReportItem {
        name: Some((&item.name).into()),
        generation: item.generation,
        summary: Some((&item.summary).into()),
        outcomes: Vec::new(),
        permit_id: item.permit.map(to_permit).unwrap_or_default(),
        reason: item.reason.as_deref().map(str::to_owned),
        metadata: convert::metadata_message(&item.metadata),
    }
}

// -- from the node --------------------------------------------------------------------------------

pub(crate) fn circuit(circuit: v1::Circuit) -> Result<CircuitStatus, Error> {
    Ok(CircuitStatus {
        name: name(circuit.name)?,
        state: state(circuit.state)?,
        generation: circuit.generation,
        failure_count: circuit.failure_count,
        policy: effective(circuit.policy)?,
        opened_at: optional_time(circuit.opened_at),
        expires_at: optional_time(circuit.expires_at),
        openings_in_a_row: circuit.openings_in_a_row,
        last_success_at: optional_time(circuit.last_success_at),
        last_failure_at: optional_time(circuit.last_failure_at),
        last_reason: circuit.last_reason.map(Arc::from),
        totals: totals(circuit.totals.unwrap_or_default()),
        registered_at: time(circuit.registered_at)?,
        changed_at: time(circuit.changed_at)?,
        metadata: metadata(circuit.metadata).into(),
        revision: circuit.revision,
        probes_in_flight: circuit.probes_in_flight,
        probe_successes: circuit.probe_successes,
    })
}

fn totals(totals: v1::Totals) -> Totals {
    Totals {
        successes: totals.successes,
        failures: totals.failures,
        ignored: totals.ignored,
        rejected: totals.rejected,
    }
}

pub(crate) fn effective(policy: Option<v1::EffectivePolicy>) -> Result<EffectivePolicy, Error> {
    let policy = policy.ok_or_else(|| missing("policy"))?;
    Ok(EffectivePolicy {
        max_attempts: policy.max_attempts,
        expiry: convert::expiry(policy.expiry, "policy.expiry")
            .map_err(|refusal| not_understood(&refusal))?
            .ok_or_else(|| missing("policy.expiry"))?,
        expiry_strategy: strategy(policy.expiry_strategy)?,
        initial_expiry_ms: policy.initial_expiry_ms,
        max_expiry_ms: policy.max_expiry_ms,
        backoff_factor: policy.backoff_factor,
        half_open_max_probes: policy.half_open_max_probes,
        half_open_successes: policy.half_open_successes,
        probe_timeout_ms: policy.probe_timeout_ms,
        // An option that this version does not know is left out, not an error: the node may be newer.
        own: policy
            .own
            .iter()
            .filter_map(|name| PolicyOption::parse(name))
            .collect(),
    })
}

pub(crate) fn policy(policy: Option<v1::Policy>) -> Result<Policy, Error> {
    convert::policy(policy).map_err(|refusal| not_understood(&refusal))
}

pub(crate) fn global(global: v1::GlobalOptions) -> GlobalOptions {
    GlobalOptions {
        inactive_threshold_ms: global.inactive_threshold_ms,
        cleanup_interval_ms: global.cleanup_interval_ms,
    }
}

pub(crate) fn admission(answer: v1::AcquireResponse) -> Result<Admission, Error> {
    let permit = match answer.permit_id.as_slice() {
        [] => None,
        _ => Some((permit(&answer.permit_id)?, time(answer.permit_expires_at)?)),
    };
    Ok(Admission {
        admitted: answer.admitted,
        state: state(answer.state)?,
        generation: answer.generation,
        permit,
        retry_after_ms: answer.retry_after_ms,
        reason: answer.reason.map(Arc::from),
        opened_at: optional_time(answer.opened_at),
    })
}

pub(crate) fn availability(answer: v1::AvailableResponse) -> Result<Availability, Error> {
    Ok(Availability {
        available: answer.available,
        state: state(answer.state)?,
        generation: answer.generation,
        retry_after_ms: answer.retry_after_ms,
        reason: answer.reason.map(Arc::from),
        opened_at: optional_time(answer.opened_at),
    })
}

pub(crate) fn batch_reply(answer: v1::ReportResponse) -> Result<BatchReply, Error> {
    let items = answer
        .items
        .into_iter()
        .map(item_reply)
        .collect::<Result<_, _>>()?;
    Ok(BatchReply {
        revision: answer.revision,
        items,
    })
}

fn item_reply(item: v1::ReportItemResponse) -> Result<ItemReply, Error> {
    let late = match item.result() {
        v1::ItemResult::NotFound => return Ok(ItemReply::NotFound),
        v1::ItemResult::Applied => false,
        v1::ItemResult::Late => true,
        v1::ItemResult::Unspecified => return Err(Error::protocol(format!("item result {}", item.result))),
    };
    Ok(ItemReply::Counted {
        late,
        state: state(item.state)?,
        generation: item.generation,
        failure_count: item.failure_count,
    })
}

pub(crate) fn event(event: v1::Event) -> Result<Event, Error> {
    let kind = kind(event.r#type())?;
    let cause = cause(event.cause())?;
    let permit = match event.permit_id.as_slice() {
        [] => None,
        bytes => Some(permit(bytes)?),
    };
    Ok(Event {
        revision: event.revision,
        time: time(event.time)?,
        name: event.name.map(|given| name(Some(given))).transpose()?,
        kind,
        previous_state: optional_state(event.previous_state)?,
        new_state: optional_state(event.new_state)?,
        failure_count: event.failure_count,
        cause,
        reason: event.reason.map(Arc::from),
        metadata: metadata(event.metadata).into(),
        generation: event.generation,
        count: event.count,
        expires_at: optional_time(event.expires_at),
        permit,
        openings_in_a_row: event.openings_in_a_row,
    })
}

fn name(name: Option<v1::CircuitName>) -> Result<CircuitName, Error> {
    convert::circuit_name(name.as_ref()).map_err(|refusal| not_understood(&refusal))
}

fn state(number: i32) -> Result<StateName, Error> {
    optional_state(number)?.ok_or_else(|| missing("state"))
}

fn optional_state(number: i32) -> Result<Option<StateName>, Error> {
    match v1::State::try_from(number) {
        Ok(v1::State::Unspecified) => Ok(None),
        Ok(v1::State::Closed) => Ok(Some(StateName::Closed)),
        Ok(v1::State::Open) => Ok(Some(StateName::Open)),
        Ok(v1::State::HalfOpen) => Ok(Some(StateName::HalfOpen)),
        Err(_) => Err(Error::protocol(format!("state {number}"))),
    }
}

fn strategy(number: i32) -> Result<ExpiryStrategy, Error> {
    match v1::ExpiryStrategy::try_from(number) {
        Ok(v1::ExpiryStrategy::Fixed) => Ok(ExpiryStrategy::Fixed),
        Ok(v1::ExpiryStrategy::Progressive) => Ok(ExpiryStrategy::Progressive),
        _ => Err(Error::protocol(format!("expiry strategy {number}"))),
    }
}

fn kind(kind: v1::EventType) -> Result<EventKind, Error> {
    Ok(match kind {
        v1::EventType::Registration => EventKind::Registration,
        v1::EventType::ConnectionUnregistered => EventKind::ConnectionUnregistered,
        v1::EventType::ConnectionRemoved => EventKind::ConnectionRemoved,
        v1::EventType::Configured => EventKind::Configured,
        v1::EventType::Success => EventKind::Success,
        v1::EventType::Failure => EventKind::Failure,
        v1::EventType::CircuitOpened => EventKind::CircuitOpened,
        v1::EventType::CircuitHalfOpened => EventKind::CircuitHalfOpened,
        v1::EventType::CircuitClosed => EventKind::CircuitClosed,
        v1::EventType::CircuitReset => EventKind::CircuitReset,
        v1::EventType::ProbeGranted => EventKind::ProbeGranted,
        v1::EventType::ProbeExpired => EventKind::ProbeExpired,
        v1::EventType::Unspecified => return Err(missing("event type")),
    })
}

fn cause(cause: v1::Cause) -> Result<Cause, Error> {
    Ok(match cause {
        v1::Cause::Request => Cause::Request,
        v1::Cause::Threshold => Cause::Threshold,
        v1::Cause::Expiry => Cause::Expiry,
        v1::Cause::Probe => Cause::Probe,
        v1::Cause::Manual => Cause::Manual,
        v1::Cause::Cleanup => Cause::Cleanup,
        v1::Cause::Unspecified => return Err(missing("cause")),
    })
}

fn permit(bytes: &[u8]) -> Result<PermitId, Error> {
    let bytes =
        <[u8; 16]>::try_from(bytes).map_err(|_| Error::protocol("a permit id that has not 16 bytes"))?;
    Ok(PermitId(u128::from_be_bytes(bytes)))
}

fn metadata(metadata: BTreeMap<String, String>) -> Metadata {
    metadata.into_iter().collect()
}

fn time(time: Option<Timestamp>) -> Result<ClusterTime, Error> {
    optional_time(time).ok_or_else(|| missing("time"))
}

fn optional_time(time: Option<Timestamp>) -> Option<ClusterTime> {
    time.as_ref().map(convert::cluster_time)
}

pub(crate) fn progress_time(progress: &v1::Progress) -> Result<ClusterTime, Error> {
    time(progress.time)
}

fn not_understood(refusal: &Refusal) -> Error {
    Error::protocol(refusal.to_string())
}

fn missing(what: &str) -> Error {
    Error::protocol(format!("{what} is missing"))
}
