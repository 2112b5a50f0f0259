//! Core types that are shown.

use std::collections::BTreeMap;

use brama_core::circuit::StateName;
use brama_core::command::PermitId;
use brama_core::event::{Cause, Event, EventKind};
use brama_core::policy::{EffectivePolicy, Expiry, ExpiryStrategy, PolicyOption};
use brama_core::query::{CircuitStatus, Totals};
use brama_core::reply::ItemReply;
use brama_core::{CircuitName, ClusterTime, Metadata, SharedMetadata};

use super::{named, never};
use crate::convert::*;
use crate::v1;

#[test]
fn an_event_shows_all_it_has() {
    let event = Event {
        revision: 42,
        time: ClusterTime::from_micros(1_500_000),
        name: CircuitName::new(Some("s"), "i").ok(),
        kind: EventKind::ProbeGranted,
        previous_state: Some(StateName::HalfOpen),
        new_state: Some(StateName::HalfOpen),
        failure_count: 3,
        cause: Cause::Request,
        reason: Some("why".into()),
        metadata: Metadata::from([("k", "v")]).into(),
        generation: 4,
        count: 5,
        expires_at: Some(ClusterTime::from_micros(2_000_000)),
        permit: Some(PermitId(1)),
        openings_in_a_row: 6,
    };
    let expected = v1::Event {
        revision: 42,
        time: Some(prost_types::Timestamp {
            seconds: 1,
            nanos: 500_000_000,
        }),
        name: named(Some("s"), "i"),
        r#type: v1::EventType::ProbeGranted.into(),
        previous_state: v1::State::HalfOpen.into(),
        new_state: v1::State::HalfOpen.into(),
        failure_count: 3,
        cause: v1::Cause::Request.into(),
        reason: Some("why".into()),
        metadata: [("k".to_owned(), "v".to_owned())].into(),
        generation: 4,
        count: 5,
        expires_at: Some(prost_types::Timestamp { seconds: 2, nanos: 0 }),
        permit_id: [vec![0; 15], vec![1]].concat(),
        openings_in_a_row: 6,
    };
    assert_eq!(v1::Event::from(&event), expected);
    let global = Event {
        name: None,
        previous_state: None,
        new_state: None,
        permit: None,
        ..event
    };
    let shown = v1::Event::from(&global);
    assert_eq!(
        (shown.name, shown.previous_state, shown.permit_id.len()),
        (None, 0, 0)
    );
}

/// The names of the protocol's enums are those of the core: nothing is mistaken for something else.
#[test]
fn enums_have_the_names_of_the_core() {
    for kind in EventKind::ALL {
        let expected = format!("EVENT_TYPE_{}", kind.name().to_uppercase());
        assert_eq!(v1::EventType::from(kind).as_str_name(), expected);
    }
    for cause in [
        Cause::Request,
        Cause::Threshold,
        Cause::Expiry,
        Cause::Probe,
        Cause::Manual,
        Cause::Cleanup,
    ] {
        let expected = format!("CAUSE_{}", cause.name().to_uppercase());
        assert_eq!(v1::Cause::from(cause).as_str_name(), expected);
    }
    for state in [StateName::Closed, StateName::Open, StateName::HalfOpen] {
        let message = v1::State::from(state);
        assert_eq!(
            message.as_str_name(),
            format!("STATE_{}", state.name().to_uppercase())
        );
        assert_eq!(states(&[message.into()]).unwrap(), [state]);
    }
}

#[test]
fn a_circuit_shows_all_it_has() {
    let at = |seconds: u64| Some(ClusterTime::from_micros(seconds * 1_000_000));
    let shown_at = |seconds: i64| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let status = CircuitStatus {
        name: CircuitName::new(None, "i").unwrap(),
        state: StateName::Open,
        generation: 2,
        failure_count: 3,
        policy: EffectivePolicy {
            max_attempts: 4,
            expiry: Expiry::Never,
            expiry_strategy: ExpiryStrategy::Progressive,
            initial_expiry_ms: Some(5),
            max_expiry_ms: Some(6),
            backoff_factor: 7.0,
            half_open_max_probes: 8,
            half_open_successes: 9,
            probe_timeout_ms: 10,
            own: vec![PolicyOption::Expiry, PolicyOption::ProbeTimeout],
        },
        opened_at: at(11),
        expires_at: at(12),
        openings_in_a_row: 13,
        last_success_at: at(14),
        last_failure_at: at(15),
        last_reason: Some("r".into()),
        totals: Totals {
            successes: 16,
            failures: 17,
            ignored: 18,
            rejected: 19,
        },
        registered_at: ClusterTime::from_micros(20_000_000),
        changed_at: ClusterTime::from_micros(21_000_000),
        metadata: SharedMetadata::default(),
        revision: 22,
        probes_in_flight: 23,
        probe_successes: 24,
    };
    let expected = v1::Circuit {
        name: named(None, "i"),
        state: v1::State::Open.into(),
        generation: 2,
        failure_count: 3,
        policy: Some(v1::EffectivePolicy {
            max_attempts: 4,
            expiry: never(true),
            expiry_strategy: v1::ExpiryStrategy::Progressive.into(),
            initial_expiry_ms: Some(5),
            max_expiry_ms: Some(6),
            backoff_factor: 7.0,
            half_open_max_probes: 8,
            half_open_successes: 9,
            probe_timeout_ms: 10,
            own: vec!["expiry".into(), "probe_timeout".into()],
        }),
        opened_at: shown_at(11),
        expires_at: shown_at(12),
        openings_in_a_row: 13,
        last_success_at: shown_at(14),
        last_failure_at: shown_at(15),
        last_reason: Some("r".into()),
        totals: Some(v1::Totals {
            successes: 16,
            failures: 17,
            ignored: 18,
            rejected: 19,
        }),
        registered_at: shown_at(20),
        changed_at: shown_at(21),
        metadata: BTreeMap::new(),
        revision: 22,
        probes_in_flight: 23,
        probe_successes: 24,
    };
    assert_eq!(v1::Circuit::from(&status), expected);
}

#[test]
fn what_came_of_an_item_is_told() {
    let counted = |late| ItemReply::Counted {
        late,
        state: StateName::Closed,
        generation: 2,
        failure_count: 3,
    };
    for (reply, result) in [
        (ItemReply::NotFound, v1::ItemResult::NotFound),
        (counted(true), v1::ItemResult::Late),
        (counted(false), v1::ItemResult::Applied),
    ] {
        assert_eq!(v1::ReportItemResponse::from(&reply).result(), result);
    }
    let shown = v1::ReportItemResponse::from(&counted(false));
    assert_eq!(
        (shown.state(), shown.generation, shown.failure_count),
        (v1::State::Closed, 2, 3)
    );
}
