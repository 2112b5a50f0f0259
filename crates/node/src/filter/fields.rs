//! What a filter sees of an event.

use std::collections::HashMap;
use std::sync::Arc;

use cel::Value;

use brama_core::circuit::StateName;
use brama_core::event::{Cause, Event, EventKind};
use brama_core::name::CircuitName;
use brama_core::{ClusterTime, SharedMetadata};

/// The fields of `event`.
pub(super) const NAMES: [&str; 14] = [
    "revision",
    "time",
    "scope",
    "identifier",
    "type",
    "previous_state",
    "new_state",
    "failure_count",
    "cause",
    "reason",
    "metadata",
    "generation",
    "count",
    "openings_in_a_row",
];

/// The value of `event`: every field of [`NAMES`], null where the event has none.
pub(super) fn of(event: &Event) -> Value {
    let optional = |value: Option<&str>| value.map_or(Value::Null, text);
    let state = |state: Option<StateName>| optional(state.map(StateName::name));
    let name = event.name.as_ref();
    let metadata: HashMap<String, Value> = event
        .metadata
        .iter()
        .map(|(key, value)| (key.to_owned(), text(value)))
        .collect();
    let values: [Value; NAMES.len()] = [
        number(event.revision),
        time(event.time),
        optional(name.and_then(|name| name.scope.as_deref())),
        optional(name.map(|name| &*name.identifier)),
        text(event.kind.name()),
        state(event.previous_state),
        state(event.new_state),
        number(event.failure_count.into()),
        text(event.cause.name()),
        optional(event.reason.as_deref()),
        metadata.into(),
        number(event.generation),
        number(event.count),
        number(event.openings_in_a_row.into()),
    ];
    NAMES.into_iter().zip(values).collect::<HashMap<_, _>>().into()
}

/// An event in which every field has a value.
pub(super) fn sample() -> Event {
    Event {
        revision: 1,
        time: ClusterTime::from_micros(1_700_000_000_000_000),
        name: CircuitName::new(Some("scope"), "identifier").ok(),
        kind: EventKind::CircuitOpened,
        previous_state: Some(StateName::Closed),
        new_state: Some(StateName::Open),
        failure_count: 5,
        cause: Cause::Threshold,
        reason: Some("reason".into()),
        metadata: SharedMetadata::default(),
        generation: 2,
        count: 1,
        expires_at: None,
        permit: None,
        openings_in_a_row: 1,
    }
}

fn text(text: &str) -> Value {
    Value::String(Arc::new(text.to_owned()))
}

fn number(number: u64) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

fn time(time: ClusterTime) -> Value {
    let micros = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    chrono::DateTime::from_timestamp_micros(micros)
        .map_or(Value::Null, |time| Value::Timestamp(time.fixed_offset()))
}
