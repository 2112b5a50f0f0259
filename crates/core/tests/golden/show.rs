//! How answers, circuits and events are shown in scripts.

use std::fmt::Write as _;

use brama_core::circuit::StateName;
use brama_core::event::{Event, EventKind};
use brama_core::policy::{EffectivePolicy, Expiry, ExpiryStrategy, PolicyOption};
use brama_core::query::{Availability, CircuitStatus};
use brama_core::reply::{Admission, ItemReply, Reply};
use brama_core::{ClusterTime, Metadata};

use crate::support::START;

pub(crate) fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Done => String::new(),
        Reply::Registered { created, circuit } => {
            let how = if *created { "registered" } else { "was there" };
            format!("{how}: {}", brief(circuit))
        }
        Reply::Unregistered { existed: true } => "unregistered".to_owned(),
        Reply::Unregistered { existed: false } => "there was none".to_owned(),
        Reply::Configured { changed, .. } => {
            if *changed { "changed" } else { "all was so already" }.to_owned()
        }
        Reply::Reported(batch) => {
            let items: Vec<_> = batch.items.iter().map(item).collect();
            items.join("\n")
        }
        Reply::Admission(admission) => self::admission(admission),
        Reply::Changed { circuit } => brief(circuit),
    }
}

fn brief(circuit: &CircuitStatus) -> String {
    format!(
        "{} {} generation={} failure_count={}",
        circuit.name,
        circuit.state.name(),
        circuit.generation,
        circuit.failure_count
    )
}

fn item(item: &ItemReply) -> String {
    match item {
        ItemReply::NotFound => "not found".to_owned(),
        ItemReply::Counted {
            late,
            state,
            generation,
            failure_count,
        } => format!(
            "{}{} generation={generation} failure_count={failure_count}",
            if *late { "late, " } else { "" },
            state.name()
        ),
    }
}

fn admission(admission: &Admission) -> String {
    let mut text = if admission.admitted {
        "admitted"
    } else {
        "not admitted"
    }
    .to_owned();
    let _ = write!(
        text,
        ": {} generation={}",
        admission.state.name(),
        admission.generation
    );
    if let Some((permit, until)) = admission.permit {
        let _ = write!(text, " permit={} until={}", permit.0, time(until));
    }
    tail(
        &mut text,
        admission.retry_after_ms,
        admission.reason.as_deref(),
        admission.opened_at,
    );
    text
}

pub(crate) fn availability(availability: &Availability) -> String {
    let mut text = if availability.available {
        "available"
    } else {
        "not available"
    }
    .to_owned();
    let _ = write!(
        text,
        ": {} generation={}",
        availability.state.name(),
        availability.generation
    );
    tail(
        &mut text,
        availability.retry_after_ms,
        availability.reason.as_deref(),
        availability.opened_at,
    );
    text
}

fn tail(text: &mut String, retry_after: Option<u64>, reason: Option<&str>, opened_at: Option<ClusterTime>) {
    if let Some(ms) = retry_after {
        let _ = write!(text, " retry_after={}", length(ms));
    }
    if let Some(reason) = reason {
        let _ = write!(text, " reason={reason:?}");
    }
    if let Some(at) = opened_at {
        let _ = write!(text, " opened_at={}", time(at));
    }
}

/// A circuit with everything but its policy, without what is not set.
pub(crate) fn status(circuit: &CircuitStatus) -> String {
    let totals = &circuit.totals;
    let mut text = brief(circuit);
    let _ = write!(
        text,
        "\n  openings_in_a_row={} probes_in_flight={} probe_successes={} revision={}\
         \n  totals: successes={} failures={} ignored={} rejected={}\
         \n  registered_at={} changed_at={}",
        circuit.openings_in_a_row,
        circuit.probes_in_flight,
        circuit.probe_successes,
        circuit.revision,
        totals.successes,
        totals.failures,
        totals.ignored,
        totals.rejected,
        time(circuit.registered_at),
        time(circuit.changed_at),
    );
    let times = [
        ("opened_at", circuit.opened_at),
        ("expires_at", circuit.expires_at),
        ("last_success_at", circuit.last_success_at),
        ("last_failure_at", circuit.last_failure_at),
    ];
    for (what, at) in times {
        if let Some(at) = at {
            let _ = write!(text, " {what}={}", time(at));
        }
    }
    if let Some(reason) = &circuit.last_reason {
        let _ = write!(text, "\n  last_reason={reason:?}");
    }
    if !circuit.metadata.is_empty() {
        let _ = write!(text, "\n  metadata={}", metadata(&circuit.metadata));
    }
    text
}

/// What holds; `*` marks what is set on the circuit itself.
pub(crate) fn policy(policy: &EffectivePolicy) -> String {
    let or_never = |ms: Option<u64>| ms.map_or("never".to_owned(), length);
    let expiry = match policy.expiry {
        Expiry::Ms(ms) => length(ms),
        Expiry::Never => "never".to_owned(),
    };
    let strategy = match policy.expiry_strategy {
        ExpiryStrategy::Fixed => "fixed",
        ExpiryStrategy::Progressive => "progressive",
    };
    let values = [
        (PolicyOption::MaxAttempts, policy.max_attempts.to_string()),
        (PolicyOption::Expiry, expiry),
        (PolicyOption::ExpiryStrategy, strategy.to_owned()),
        (PolicyOption::InitialExpiry, or_never(policy.initial_expiry_ms)),
        (PolicyOption::MaxExpiry, or_never(policy.max_expiry_ms)),
        (
            PolicyOption::BackoffFactor,
            format!("{:.1}", policy.backoff_factor),
        ),
        (
            PolicyOption::HalfOpenMaxProbes,
            policy.half_open_max_probes.to_string(),
        ),
        (
            PolicyOption::HalfOpenSuccesses,
            policy.half_open_successes.to_string(),
        ),
        (PolicyOption::ProbeTimeout, length(policy.probe_timeout_ms)),
    ];
    let mark = |option| if policy.own.contains(&option) { "*" } else { "" };
    let values = values.map(|(option, value)| format!("{}={value}{}", option.name(), mark(option)));
    format!(
        "{}\n  {}\n  {}",
        values[..2].join(" "),
        values[2..6].join(" "),
        values[6..].join(" ")
    )
}

pub(crate) fn event(event: &Event) -> String {
    let mut text = format!("#{} {}", event.revision, event.kind.name());
    if let Some(name) = &event.name {
        let _ = write!(text, " {name}");
    }
    let state = |state: Option<StateName>| state.map_or("-", StateName::name);
    if event.changes_state() || event.previous_state.is_none() != event.new_state.is_none() {
        let _ = write!(
            text,
            " {}->{}",
            state(event.previous_state),
            state(event.new_state)
        );
    } else if event.name.is_some() {
        let _ = write!(text, " {}", state(event.new_state));
    }
    let _ = write!(text, " cause={}", event.cause.name());
    if event.name.is_some() {
        let _ = write!(
            text,
            " generation={} failure_count={}",
            event.generation, event.failure_count
        );
    }
    if matches!(event.kind, EventKind::Success | EventKind::Failure) || event.count > 0 {
        let _ = write!(text, " count={}", event.count);
    }
    if event.openings_in_a_row > 0 {
        let _ = write!(text, " openings_in_a_row={}", event.openings_in_a_row);
    }
    if let Some(permit) = event.permit {
        let _ = write!(text, " permit={}", permit.0);
    }
    match (event.kind, event.expires_at) {
        (_, Some(at)) => {
            let _ = write!(text, " expires_at={}", time(at));
        }
        (EventKind::CircuitOpened, None) => text.push_str(" expires_at=never"),
        _ => {}
    }
    if let Some(reason) = &event.reason {
        let _ = write!(text, " reason={reason:?}");
    }
    if !event.metadata.is_empty() {
        let _ = write!(text, " metadata={}", metadata(&event.metadata));
    }
    text
}

fn metadata(metadata: &Metadata) -> String {
    let entries: Vec<_> = metadata
        .iter()
        .map(|(key, value)| format!("{key}:{value}"))
        .collect();
    format!("{:?}", entries.join(", "))
}

/// A time, from the beginning of the script.
pub(crate) fn time(time: ClusterTime) -> String {
    format!("@{}", length(START.ms_until(time)))
}

/// A length, in its largest whole unit.
pub(crate) fn length(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    match units
        .into_iter()
        .find(|(unit, _)| ms >= *unit && ms.is_multiple_of(*unit))
    {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None if ms == 0 => "0s".to_owned(),
        None => format!("{ms}ms"),
    }
}
