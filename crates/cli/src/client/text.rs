//! How things are said to people: names, states, times and tables.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use brama_proto::v1;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use prost_types::Timestamp;

/// A time as the protocol writes it, in UTC.
pub(crate) fn rfc3339(time: &Timestamp) -> String {
    humantime::format_rfc3339_micros(system_time(time)).to_string()
}

/// The time of day of an event, in UTC: 14:03:22.512.
pub(crate) fn time_of_day(time: &Timestamp) -> String {
    let text = humantime::format_rfc3339_millis(system_time(time)).to_string();
    text.split('T')
        .next_back()
        .unwrap_or_default()
        .trim_end_matches('Z')
        .to_owned()
}

/// A length that a person takes in at a glance: 350ms, 3.2s, 42s, 5m 12s, 3h 20m, 2d 4h.
pub(crate) fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 => format!("{}ms", length.as_millis()),
        1..10 => format!("{:.1}s", length.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

fn two(big: u64, unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 {
        format!("{big}{unit}")
    } else {
        format!("{big}{unit} {small}{small_unit}")
    }
}

/// An exact length, as it is written on the command line: 1500ms is 1.5s, but a policy must show 1s 500ms.
pub(crate) fn exact(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

/// How long ago; "now" if this machine's clock is behind the cluster's.
pub(crate) fn since(time: &Timestamp, now: SystemTime) -> Duration {
    now.duration_since(system_time(time)).unwrap_or_default()
}

/// How long until.
pub(crate) fn until(time: &Timestamp, now: SystemTime) -> Duration {
    system_time(time).duration_since(now).unwrap_or_default()
}

/// "3.2s ago", or a dash.
pub(crate) fn ago(time: Option<&Timestamp>, now: SystemTime) -> String {
    time.map_or_else(
        || "-".to_owned(),
        |time| format!("{} ago", span(since(time, now))),
    )
}

fn system_time(time: &Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(u64::try_from(time.seconds).unwrap_or(0));
    UNIX_EPOCH + seconds + Duration::from_nanos(u64::try_from(time.nanos).unwrap_or(0))
}

/// `identifier`, or `scope / identifier`.
pub(crate) fn name(name: Option<&v1::CircuitName>) -> String {
    match name {
        Some(v1::CircuitName {
            scope: Some(scope),
            identifier,
        }) => format!("{scope} / {identifier}"),
        Some(v1::CircuitName {
            scope: None,
            identifier,
        }) => identifier.clone(),
        None => "(all circuits)".to_owned(),
    }
}

/// As the protocol's enum, in words.
pub(crate) fn state(state: v1::State) -> &'static str {
    match state {
        v1::State::Unspecified => "-",
        v1::State::Closed => "closed",
        v1::State::Open => "open",
        v1::State::HalfOpen => "half-open",
    }
}

/// "open since 3.2s, half-opens in 6.8s"
pub(crate) fn situation(circuit: &v1::Circuit, now: SystemTime) -> String {
    let policy = circuit.policy.clone().unwrap_or_default();
    match circuit.state() {
        v1::State::Open => {
            let opened = circuit
                .opened_at
                .as_ref()
                .map_or_else(String::new, |at| format!(" since {}", span(since(at, now))));
            let end = match &circuit.expires_at {
                Some(at) => format!("half-opens in {}", span(until(at, now))),
                None => "until somebody closes it".to_owned(),
            };
            format!("open{opened}, {end}")
        }
        v1::State::HalfOpen => format!(
            "half-open, {} of {} probes in flight, {} of {} successes",
            circuit.probes_in_flight,
            policy.half_open_max_probes,
            circuit.probe_successes,
            policy.half_open_successes
        ),
        v1::State::Closed if circuit.failure_count > 0 => {
            format!(
                "closed, {} of {} failures in a row",
                circuit.failure_count, policy.max_attempts
            )
        }
        other => state(other).to_owned(),
    }
}

/// "1 failure", "2 failures".
pub(crate) fn count(n: u64, what: &str) -> String {
    if n == 1 {
        format!("1 {what}")
    } else {
        format!("{n} {what}s")
    }
}

/// `30s` or `never`.
pub(crate) fn expiry(expiry: Option<&v1::Expiry>) -> String {
    match expiry.and_then(|expiry| expiry.kind) {
        Some(v1::expiry::Kind::Ms(ms)) => exact(ms),
        Some(v1::expiry::Kind::Never(_)) => "never".to_owned(),
        None => "-".to_owned(),
    }
}

/// Each option that matters with the value that holds, in the order of the documentation.
pub(crate) fn policy(policy: &v1::EffectivePolicy) -> Vec<(&'static str, String)> {
    let progressive = policy.expiry_strategy() == v1::ExpiryStrategy::Progressive;
    let ms = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), exact);
    let mut lines = vec![
        ("max_attempts", policy.max_attempts.to_string()),
        ("expiry", expiry(policy.expiry.as_ref())),
        (
            "expiry_strategy",
            if progressive { "progressive" } else { "fixed" }.to_owned(),
        ),
    ];
    let only_progressive = [
        ("initial_expiry", ms(policy.initial_expiry_ms)),
        ("max_expiry", ms(policy.max_expiry_ms)),
        ("backoff_factor", policy.backoff_factor.to_string()),
    ];
    // With the fixed strategy they mean nothing, but what somebody set must be seen.
    let shown = |option: &str| progressive || policy.own.iter().any(|own| own == option);
    lines.extend(only_progressive.into_iter().filter(|(option, _)| shown(option)));
    lines.push(("half_open_max_probes", policy.half_open_max_probes.to_string()));
    lines.push(("half_open_successes", policy.half_open_successes.to_string()));
    lines.push(("probe_timeout", exact(policy.probe_timeout_ms)));
    lines
}

/// A table without lines, as wide as the terminal allows.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    table
}

/// Its lines, without the blanks at their ends.
pub(crate) fn lines(table: &Table) -> impl Iterator<Item = String> {
    let first = usize::from(table.lines().next().is_some_and(|line| line.starts_with(' ')));
    table
        .lines()
        .map(move |line| line.get(first..).unwrap_or_default().trim_end().to_owned())
}

/// An event in one line: time, name, what happened, and what is special about it.
pub(crate) fn event(event: &v1::Event) -> String {
    let time = event.time.as_ref().map(time_of_day).unwrap_or_default();
    let mut line = format!(
        "{time}  {:<24}  {:<22}",
        name(event.name.as_ref()),
        event_type(event.r#type())
    );
    let (previous, new) = (event.previous_state(), event.new_state());
    let mut details = Vec::new();
    if previous != new && previous != v1::State::Unspecified {
        details.push(format!("{} -> {}", state(previous), state(new)));
    }
    match event.r#type() {
        v1::EventType::Success => details.push(format!("{} x", event.count)),
        v1::EventType::Failure => {
            details.push(format!("{} x, {} in a row", event.count, event.failure_count))
        }
        v1::EventType::CircuitOpened => {
            let cause = match event.cause() {
                v1::Cause::Threshold => {
                    format!("{} in a row", count(u64::from(event.failure_count), "failure"))
                }
                v1::Cause::Probe => "a probe failed".to_owned(),
                _ => "by hand".to_owned(),
            };
            details.push(cause);
            details.push(match (&event.time, &event.expires_at) {
                (Some(from), Some(to)) => {
                    let length = system_time(to)
                        .duration_since(system_time(from))
                        .unwrap_or_default();
                    format!("half-opens after {}", span(length))
                }
                _ => "until somebody closes it".to_owned(),
            });
        }
        v1::EventType::CircuitClosed => {
            let by_hand = event.cause() == v1::Cause::Manual;
            details.push(if by_hand { "by hand" } else { "probes succeeded" }.to_owned());
        }
        _ => {}
    }
    if let Some(reason) = &event.reason {
        details.push(format!("{reason:?}"));
    }
    line.push_str("  ");
    line.push_str(&details.join(", "));
    line.trim_end().to_owned()
}

/// The name of an event, as filters have it.
pub(crate) fn event_type(event: v1::EventType) -> String {
    event
        .as_str_name()
        .trim_start_matches("EVENT_TYPE_")
        .to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_read_at_a_glance() {
        let text = |ms| span(Duration::from_millis(ms));
        assert_eq!(text(0), "0ms");
        assert_eq!(text(350), "350ms");
        assert_eq!(text(3_200), "3.2s");
        assert_eq!(text(42_900), "42s");
        assert_eq!(text(312_000), "5m 12s");
        assert_eq!(text(120_000), "2m");
        assert_eq!(text(12_000_000), "3h 20m");
        assert_eq!(text(187_200_000), "2d 4h");
    }

    #[test]
    fn an_open_circuit_says_since_when_and_how_long() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let at = |ms: i64| {
            Some(Timestamp {
                seconds: ms / 1000,
                nanos: i32::try_from(ms % 1000).unwrap() * 1_000_000,
            })
        };
        let mut circuit = v1::Circuit {
            state: v1::State::Open.into(),
            opened_at: at(996_800),
            expires_at: at(1_006_800),
            ..Default::default()
        };
        assert_eq!(situation(&circuit, now), "open since 3.2s, half-opens in 6.8s");
        circuit.expires_at = None;
        assert_eq!(
            situation(&circuit, now),
            "open since 3.2s, until somebody closes it"
        );
        circuit.opened_at = at(1_000_500);
        assert_eq!(
            situation(&circuit, now),
            "open since 0ms, until somebody closes it",
            "a clock that is behind"
        );
    }

    #[test]
    fn a_time_of_day_has_milliseconds() {
        let time = Timestamp {
            seconds: 45_296,
            nanos: 789_123_456,
        };
        assert_eq!(time_of_day(&time), "12:34:56.789");
        assert_eq!(rfc3339(&time), "1970-01-01T12:34:56.789123Z");
    }
}
