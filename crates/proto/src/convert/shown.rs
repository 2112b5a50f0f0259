//! From the core to messages: what is shown.

use std::collections::BTreeMap;

use brama_core::circuit::StateName;
use brama_core::event::{Cause, Event, EventKind};
use brama_core::limits::Limits;
use brama_core::policy::{EffectivePolicy, Expiry, ExpiryStrategy, GlobalOptions, Policy, PolicyOption};
use brama_core::query::{CircuitStatus, Totals};
use brama_core::reply::ItemReply;
use brama_core::{CircuitName, Metadata, Summary};

use super::timestamp;
use crate::v1;

impl From<&CircuitName> for v1::CircuitName {
    fn from(name: &CircuitName) -> Self {
        Self {
            scope: name.scope.as_deref().map(str::to_owned),
            identifier: name.identifier.to_string(),
        }
    }
}

impl From<StateName> for v1::State {
    fn from(state: StateName) -> Self {
        match state {
            StateName::Closed => Self::Closed,
            StateName::Open => Self::Open,
            StateName::HalfOpen => Self::HalfOpen,
        }
    }
}

impl From<Expiry> for v1::Expiry {
    fn from(expiry: Expiry) -> Self {
        let kind = match expiry {
            Expiry::Ms(ms) => v1::expiry::Kind::Ms(ms),
            Expiry::Never => v1::expiry::Kind::Never(true),
        };
        Self { kind: Some(kind) }
    }
}

impl From<ExpiryStrategy> for v1::ExpiryStrategy {
    fn from(strategy: ExpiryStrategy) -> Self {
        match strategy {
            ExpiryStrategy::Fixed => Self::Fixed,
            ExpiryStrategy::Progressive => Self::Progressive,
        }
    }
}

impl From<&Policy> for v1::Policy {
    fn from(policy: &Policy) -> Self {
        Self {
            max_attempts: policy.max_attempts,
            expiry: policy.expiry.map(Into::into),
            expiry_strategy: policy
                .expiry_strategy
                .map(|strategy| v1::ExpiryStrategy::from(strategy).into()),
            initial_expiry_ms: policy.initial_expiry_ms,
            max_expiry_ms: policy.max_expiry_ms,
            backoff_factor: policy.backoff_factor,
            half_open_max_probes: policy.half_open_max_probes,
            half_open_successes: policy.half_open_successes,
            probe_timeout_ms: policy.probe_timeout_ms,
        }
    }
}

impl From<&EffectivePolicy> for v1::EffectivePolicy {
    fn from(policy: &EffectivePolicy) -> Self {
        Self {
            max_attempts: policy.max_attempts,
            expiry: Some(policy.expiry.into()),
            expiry_strategy: v1::ExpiryStrategy::from(policy.expiry_strategy).into(),
            initial_expiry_ms: policy.initial_expiry_ms,
            max_expiry_ms: policy.max_expiry_ms,
            backoff_factor: policy.backoff_factor,
            half_open_max_probes: policy.half_open_max_probes,
            half_open_successes: policy.half_open_successes,
            probe_timeout_ms: policy.probe_timeout_ms,
            own: policy
                .own
                .iter()
                .map(|option| PolicyOption::name(*option).to_owned())
                .collect(),
        }
    }
}

impl From<GlobalOptions> for v1::GlobalOptions {
    fn from(options: GlobalOptions) -> Self {
        Self {
            inactive_threshold_ms: options.inactive_threshold_ms,
            cleanup_interval_ms: options.cleanup_interval_ms,
        }
    }
}

impl From<Limits> for v1::Limits {
    fn from(limits: Limits) -> Self {
        Self {
            max_circuits: limits.max_circuits,
            max_sessions: limits.max_sessions,
            max_events: limits.max_events,
            max_event_bytes: limits.max_event_bytes,
        }
    }
}

impl From<Totals> for v1::Totals {
    fn from(totals: Totals) -> Self {
        Self {
            successes: totals.successes,
            failures: totals.failures,
            ignored: totals.ignored,
            rejected: totals.rejected,
        }
    }
}

/// Metadata as a message holds it.
pub fn metadata_message(metadata: &Metadata) -> BTreeMap<String, String> {
    metadata
        .iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

impl From<&CircuitStatus> for v1::Circuit {
    fn from(status: &CircuitStatus) -> Self {
        Self {
            name: Some((&status.name).into()),
            state: v1::State::from(status.state).into(),
            generation: status.generation,
            failure_count: status.failure_count,
            policy: Some((&status.policy).into()),
            opened_at: status.opened_at.map(timestamp),
            expires_at: status.expires_at.map(timestamp),
            openings_in_a_row: status.openings_in_a_row,
            last_success_at: status.last_success_at.map(timestamp),
            last_failure_at: status.last_failure_at.map(timestamp),
            last_reason: status.last_reason.as_deref().map(str::to_owned),
            totals: Some(status.totals.into()),
            registered_at: Some(timestamp(status.registered_at)),
            changed_at: Some(timestamp(status.changed_at)),
            metadata: metadata_message(&status.metadata),
            revision: status.revision,
            probes_in_flight: status.probes_in_flight,
            probe_successes: status.probe_successes,
        }
    }
}

impl From<&ItemReply> for v1::ReportItemResponse {
    fn from(reply: &ItemReply) -> Self {
        match *reply {
            ItemReply::NotFound => Self {
                result: v1::ItemResult::NotFound.into(),
                ..Self::default()
            },
            ItemReply::Counted {
                late,
                state,
                generation,
                failure_count,
            } => Self {
                result: if late {
                    v1::ItemResult::Late
                } else {
                    v1::ItemResult::Applied
                }
                .into(),
                state: v1::State::from(state).into(),
                generation,
                failure_count,
            },
        }
    }
}

impl From<EventKind> for v1::EventType {
    fn from(kind: EventKind) -> Self {
        match kind {
            EventKind::Registration => Self::Registration,
            EventKind::ConnectionUnregistered => Self::ConnectionUnregistered,
            EventKind::ConnectionRemoved => Self::ConnectionRemoved,
            EventKind::Configured => Self::Configured,
            EventKind::Success => Self::Success,
            EventKind::Failure => Self::Failure,
            EventKind::CircuitOpened => Self::CircuitOpened,
            EventKind::CircuitHalfOpened => Self::CircuitHalfOpened,
            EventKind::CircuitClosed => Self::CircuitClosed,
            EventKind::CircuitReset => Self::CircuitReset,
            EventKind::ProbeGranted => Self::ProbeGranted,
            EventKind::ProbeExpired => Self::ProbeExpired,
        }
    }
}

impl From<Cause> for v1::Cause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Request => Self::Request,
            Cause::Threshold => Self::Threshold,
            Cause::Expiry => Self::Expiry,
            Cause::Probe => Self::Probe,
            Cause::Manual => Self::Manual,
            Cause::Cleanup => Self::Cleanup,
        }
    }
}

impl From<&Event> for v1::Event {
    fn from(event: &Event) -> Self {
        let state = |state: Option<StateName>| state.map_or(v1::State::Unspecified, Into::into).into();
        Self {
            revision: event.revision,
            time: Some(timestamp(event.time)),
            name: event.name.as_ref().map(Into::into),
            r#type: v1::EventType::from(event.kind).into(),
            previous_state: state(event.previous_state),
            new_state: state(event.new_state),
            failure_count: event.failure_count,
            cause: v1::Cause::from(event.cause).into(),
            reason: event.reason.as_deref().map(str::to_owned),
            metadata: metadata_message(&event.metadata),
            generation: event.generation,
            count: event.count,
            expires_at: event.expires_at.map(timestamp),
            permit_id: event
                .permit
                .map(|permit| permit.0.to_be_bytes().to_vec())
                .unwrap_or_default(),
            openings_in_a_row: event.openings_in_a_row,
        }
    }
}

impl From<&Summary> for v1::Summary {
    fn from(summary: &Summary) -> Self {
        Self {
            failures: summary.failures,
            successes: summary.successes,
            leading_failures: summary.leading_failures,
            longest_failures: summary.longest_failures,
            trailing_failures: summary.trailing_failures,
            leading_successes: summary.leading_successes,
            ignored: summary.ignored,
            rejected: summary.rejected,
        }
    }
}
