//! Metrics of the breaker: what the state holds, and what this node has applied to it.

use std::fmt;

use brama_core::census::Census;
use brama_core::limits::Limits;
use brama_core::tally::Tally;
use brama_raft::Replica;

use super::sheet::{Number, Scale, Sheet};

pub(super) fn write(sheet: &mut Sheet<'_>, replica: &Replica) -> fmt::Result {
    let now = replica.now();
    // One look, so that the numbers fit each other; some hundred bytes are copied meanwhile.
    let seen = replica.read(|machine| Seen {
        census: machine.census(),
        tally: machine.tally().clone(),
        limits: machine.limits(),
        sessions: machine.session_count(),
        newest: machine.revision(),
        oldest: machine.oldest_revision(),
        event_bytes: machine.event_bytes(),
        overdue: machine.next_due().map(|due| now.since(due)).unwrap_or_default(),
    });
    holds(sheet, &seen)?;
    applied(sheet, &seen.tally)?;
    event_log(sheet, &seen)?;
    sheet.gauge(
        "brama_cluster_time_seconds",
        "Cluster time since the Unix epoch, as this node knows it",
        now.as_micros() as f64 / 1e6,
    )?;
    sheet.gauge(
        "brama_timer_overdue_seconds",
        "How long the earliest deadline has passed without being fired; 0: none has",
        seen.overdue,
    )?;
    sheet.histogram(
        "brama_timer_lateness_seconds",
        "How long after its deadline the end of an opening or of a probe was applied, where it was fired",
        Scale::Micros,
        &replica.figures().timer_micros,
    )
}

struct Seen {
    census: Census,
    tally: Tally,
    limits: Limits,
    sessions: u64,
    newest: u64,
    oldest: u64,
    event_bytes: u64,
    overdue: std::time::Duration,
}

fn holds(sheet: &mut Sheet<'_>, seen: &Seen) -> fmt::Result {
    let Census {
        closed,
        open,
        half_open,
        permits,
        ..
    } = seen.census;
    sheet.gauges(
        "brama_circuits",
        "Registered circuits",
        ["state"],
        [(["closed"], closed), (["open"], open), (["half_open"], half_open)],
    )?;
    sheet.gauge(
        "brama_probes_in_flight",
        "Permits of probes that are neither reported nor over",
        permits,
    )?;
    sheet.gauge(
        "brama_sessions",
        "Client sessions that are remembered",
        seen.sessions,
    )?;
    let limits = [
        (["circuits"], seen.limits.max_circuits),
        (["sessions"], seen.limits.max_sessions),
        (["events"], seen.limits.max_events),
        (["event_bytes"], seen.limits.max_event_bytes),
    ];
    sheet.gauges(
        "brama_cluster_limit",
        "Limits of the cluster, as they were set when it was made",
        ["limit"],
        limits,
    )
}

fn applied(sheet: &mut Sheet<'_>, tally: &Tally) -> fmt::Result {
    let transitions = tally
        .transitions()
        .map(|(kind, cause, count)| ([kind.name(), cause.name()], count));
    sheet.counters(
        "brama_transitions_total",
        "Transitions of circuits that this node applied",
        ["kind", "cause"],
        // Most pairs cannot be; those that can are few, and begin with 0.
        transitions.filter(|([kind, cause], count)| *count > 0 || POSSIBLE.contains(&(kind, cause))),
    )?;
    sheet.counters(
        "brama_events_total",
        "Events that this node applied",
        ["kind"],
        tally.events().map(|(kind, count)| ([kind.name()], count)),
    )?;
    let commands = tally
        .commands()
        .flat_map(|(name, done, refused)| [([name, "done"], done), ([name, "refused"], refused)]);
    sheet.counters(
        "brama_commands_total",
        "Commands that this node applied",
        ["command", "result"],
        commands,
    )?;
    let (done, refused) = tally
        .commands()
        .find(|(name, ..)| *name == "report")
        .map_or((0, 0), |(_, done, refused)| (done, refused));
    sheet.counters(
        "brama_report_batches_total",
        "Batches of reports that this node applied",
        ["result"],
        [
            (["new"], done - tally.repeated()),
            (["repeated"], tally.repeated()),
            (["refused"], refused),
        ],
    )?;
    sheet.counters(
        "brama_report_items_total",
        "Items of new batches: the outcomes of one circuit each",
        ["result"],
        tally.items().map(|(result, count)| ([result], count)),
    )?;
    let outcomes = tally.outcomes();
    let outcomes = [
        (["success"], outcomes.successes),
        (["failure"], outcomes.failures),
        (["ignored"], outcomes.ignored),
        (["rejected"], outcomes.rejected),
    ];
    sheet.counters(
        "brama_report_outcomes_total",
        "Outcomes of calls in new batches, late ones included",
        ["outcome"],
        outcomes,
    )
}

/// The transitions that there are, by kind and cause.
const POSSIBLE: [(&str, &str); 7] = [
    ("circuit_opened", "threshold"),
    ("circuit_opened", "probe"),
    ("circuit_opened", "manual"),
    ("circuit_half_opened", "expiry"),
    ("circuit_closed", "probe"),
    ("circuit_closed", "manual"),
    ("circuit_reset", "manual"),
];

fn event_log(sheet: &mut Sheet<'_>, seen: &Seen) -> fmt::Result {
    let length = Number::Whole((seen.newest + 1).saturating_sub(seen.oldest));
    sheet.gauge(
        "brama_event_log_events",
        "Events that are kept for subscribers",
        length,
    )?;
    sheet.gauge(
        "brama_event_log_bytes",
        "What the kept events count against the limit in bytes",
        seen.event_bytes,
    )?;
    sheet.gauge(
        "brama_event_log_oldest_revision",
        "Revision of the oldest event that is kept",
        seen.oldest,
    )?;
    sheet.gauge(
        "brama_event_log_newest_revision",
        "Revision of the newest event",
        seen.newest,
    )
}
