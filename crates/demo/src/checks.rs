//! What has to have held, from what the upstream saw and the subscribers were told.

use anyhow::Context;
use brama_client::Totals;

use crate::lines::{Micros, Seen, Told};
use crate::story::{MAX_ATTEMPTS, REPLICAS, millis};

/// A replica that stops later than this after the deciding failure has not stopped quickly.
const STOPPED_WITHIN: Micros = 1_000_000;
/// The circuit half-opens at most this much late. (The killed leader leaves the others seconds to elect one of them.)
const HALF_OPENS_WITHIN: Micros = 250_000;
/// A probe may reach the upstream so long before the half-open event's time: cluster time is not quite this machine's.
const MARGIN: Micros = 100_000;

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// The upstream's switch, and back.
    pub(crate) failing_from: Micros,
    pub(crate) healed_from: Micros,
    pub(crate) killed_at: Micros,
    /// Each request that reached the upstream.
    pub(crate) seen: Vec<Seen>,
    /// Each event but single successes and failures, in order.
    pub(crate) told: Vec<Told>,
    /// Of the circuit, when all had ended.
    pub(crate) totals: Option<Totals>,
    pub(crate) lost_reports: u64,
    /// What the three subscribers wrote.
    pub(crate) logs: Vec<String>,
}

/// Something that held, or did not.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    pub(crate) held: bool,
    pub(crate) text: String,
}

/// What the tables show.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) phases: Vec<Phase>,
    pub(crate) stops: Stops,
    pub(crate) events: usize,
    pub(crate) logs_equal: bool,
    pub(crate) checks: Vec<Check>,
}

/// What the upstream saw between two moments.
#[derive(Debug)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) lasted: Micros,
    pub(crate) succeeded: usize,
    pub(crate) failed: usize,
    pub(crate) replicas: usize,
}

/// How long after the deciding failure each replica's last request reached the upstream; sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stops(Vec<Micros>);

impl Stops {
    pub(crate) fn median(&self) -> Micros {
        self.0.get(self.0.len() / 2).copied().unwrap_or(0)
    }

    pub(crate) fn worst(&self) -> Micros {
        self.0.last().copied().unwrap_or(0)
    }
}

/// How the replicas stopped after the upstream began to fail, from the requests before `until`.
///
/// The deciding failure is taken to be the earliest that can have been: the fifth that the upstream answered.
pub(crate) fn stops(seen: &[Seen], failing_from: Micros, until: Micros) -> Stops {
    let before: Vec<&Seen> = seen.iter().filter(|seen| seen.arrived < until).collect();
    let mut failures: Vec<Micros> = before
        .iter()
        .filter(|seen| seen.failed && seen.answered >= failing_from)
        .map(|seen| seen.answered)
        .collect();
    failures.sort_unstable();
    let Some(&decided) = failures.get(MAX_ATTEMPTS as usize - 1) else {
        return Stops::default();
    };
    let last = |replica| {
        before
            .iter()
            .filter(|seen| seen.replica == replica)
            .map(|seen| seen.arrived)
            .max()
    };
    let mut stops: Vec<Micros> = (0..REPLICAS)
        .filter_map(last)
        .map(|arrived| arrived.saturating_sub(decided))
        .collect();
    stops.sort_unstable();
    Stops(stops)
}

/// Holds the record against the story.
///
/// # Errors
/// An event is missing without which there is no story.
pub(crate) fn check(record: &Record) -> anyhow::Result<Outcome> {
    let mut told = record.told.iter();
    let mut next = |kind: &str| {
        told.find(|told| told.kind == kind)
            .with_context(|| format!("no event {kind}"))
    };
    let opened = next("circuit_opened")?;
    let half = next("circuit_half_opened")?;
    let again = next("circuit_opened")?;
    let half_again = next("circuit_half_opened")?;
    let closed = next("circuit_closed")?;

    let first = record.seen.iter().map(|seen| seen.arrived).min().unwrap_or(0);
    let last = record.seen.iter().map(|seen| seen.arrived).max().unwrap_or(0) + 1;
    let phases = vec![
        phase(record, "the upstream is well", first, record.failing_from),
        phase(
            record,
            "it fails, until the circuit opens",
            record.failing_from,
            opened.time,
        ),
        phase(
            record,
            "open, the leader is killed",
            opened.time,
            half.time - MARGIN,
        ),
        phase(
            record,
            "half-open, the upstream still fails",
            half.time - MARGIN,
            again.time,
        ),
        phase(
            record,
            "open again, the upstream heals",
            again.time,
            half_again.time - MARGIN,
        ),
        phase(
            record,
            "half-open, the upstream is well",
            half_again.time - MARGIN,
            closed.time,
        ),
        phase(record, "closed", closed.time, last),
    ];
    let stops = stops(&record.seen, record.failing_from, half.time - MARGIN);
    let (probe, open_again, probe_again) = (&phases[3], &phases[4], &phases[5]);
    let opening = opened.expires_at.context("an opening without an end")?;
    let opening_again = again.expires_at.context("an opening without an end")?;
    let late = |half: &Told, due: Micros| i128::from(half.time) - i128::from(due);
    let lates = [late(half, opening), late(half_again, opening_again)];
    let on_time = lates
        .iter()
        .all(|late| (0..=i128::from(HALF_OPENS_WITHIN)).contains(late));
    let killed_while_open = opened.time < record.killed_at && record.killed_at < half.time;
    let granted = record
        .told
        .iter()
        .filter(|told| told.kind == "probe_granted")
        .count();
    let logs_equal = record.logs.iter().all(|log| log == &record.logs[0]);
    let events = record.logs.first().map_or(0, |log| log.lines().count());
    let totals = record.totals.unwrap_or_default();
    let (ok, failed) = (count(&record.seen, false), count(&record.seen, true));

    let check = |held, text: String| Check { held, text };
    let checks = vec![
        check(
            phases[0].replicas == REPLICAS,
            "all nine replicas called while the upstream was well".into(),
        ),
        check(
            stops.0.len() == REPLICAS && stops.worst() <= STOPPED_WITHIN,
            format!(
                "all nine stopped: median {}, worst {} after the deciding failure",
                millis(stops.median()),
                millis(stops.worst())
            ),
        ),
        check(
            killed_while_open && on_time,
            format!(
                "it half-opened on time, never early, though the leader was killed while it was open (+{:.1} ms, then +{:.1} ms)",
                ms(lates[0]),
                ms(lates[1])
            ),
        ),
        check(
            probe.failed == 1 && probe.succeeded == 0 && open_again.failed + open_again.succeeded == 0,
            format!(
                "exactly one probe reached the failing upstream (it saw {})",
                probe.failed + probe.succeeded
            ),
        ),
        check(
            opening_again - again.time > opening - opened.time,
            format!(
                "the second opening was longer ({:.1} s, then {:.1} s)",
                ms(i128::from(opening - opened.time)) / 1e3,
                ms(i128::from(opening_again - again.time)) / 1e3
            ),
        ),
        check(
            probe_again.succeeded == 1 && probe_again.failed == 0 && granted == 2,
            format!(
                "exactly one probe reached the healthy upstream (it saw {}), and closed the circuit",
                probe_again.failed + probe_again.succeeded
            ),
        ),
        check(
            phases[6].replicas == REPLICAS && phases[6].failed == 0,
            "all nine called again".into(),
        ),
        check(
            record.lost_reports == 0 && (totals.successes, totals.failures) == (ok, failed),
            format!(
                "each outcome counts once: the upstream answered {ok} + {failed}, the circuit counted {} + {}",
                totals.successes, totals.failures
            ),
        ),
        check(
            logs_equal && events > 0,
            format!("the three event logs are equal ({events} events each)"),
        ),
    ];
    Ok(Outcome {
        phases,
        stops,
        events,
        logs_equal,
        checks,
    })
}

fn phase(record: &Record, name: &'static str, from: Micros, until: Micros) -> Phase {
    let seen: Vec<Seen> = record
        .seen
        .iter()
        .filter(|seen| (from..until).contains(&seen.arrived))
        .copied()
        .collect();
    let replicas: std::collections::BTreeSet<usize> = seen.iter().map(|seen| seen.replica).collect();
    Phase {
        name,
        lasted: until.saturating_sub(from),
        succeeded: usize::try_from(count(&seen, false)).unwrap_or(usize::MAX),
        failed: usize::try_from(count(&seen, true)).unwrap_or(usize::MAX),
        replicas: replicas.len(),
    }
}

fn count(seen: &[Seen], failed: bool) -> u64 {
    seen.iter().filter(|seen| seen.failed == failed).count() as u64
}

fn ms(micros: i128) -> f64 {
    micros as f64 / 1e3
}
