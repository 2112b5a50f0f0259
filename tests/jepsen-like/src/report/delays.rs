//! How long answers took, how long after an acknowledgement its event came, and how late openings ended.

use std::collections::{BTreeMap, HashMap};

use brama_proto::v1::{EventType, State};
use maud::{Markup, html};

use super::Report;
use super::bins::{Bins, Spread, ms, seconds};
use super::chart::{Axis, FOOT, chart, legend, line, number, shades};
use crate::check::Evidence;
use crate::history::{Answer, Outcome};
use crate::time::{Micros, of_timestamp, percentile, show_ms};

const TOP: f64 = 12.0;
const HEIGHT: f64 = 220.0;
/// What is shorter, or even negative, is drawn as this: a logarithmic axis has no zero.
const SHORTEST_MS: f64 = 0.1;

const LEGEND: [(&str, &str); 4] = [
    ("line p50", "p50: half of them took at most so long"),
    ("line p99", "p99"),
    ("dot max", "the longest"),
    ("shade", "something was broken"),
];

/// From the first attempt's start to the answer, of everything that was acknowledged.
pub(super) fn latency(report: &Report<'_>, bins: Bins) -> Markup {
    let answered = report.evidence.ops.iter().filter(|op| op.is_ok());
    let spreads = bins.spread(answered.map(|op| (op.ended, op.ended.saturating_sub(op.started))));
    if spreads.is_empty() {
        return html! { p class="none" { "No operation was acknowledged." } };
    }
    let content = Content {
        id: "latency-chart",
        title: "Latency of acknowledged operations",
        name: "latency (ms)",
        of: "operations",
    };
    html! { (legend(&LEGEND)) (content.draw(report, bins, &spreads)) }
}

/// From the acknowledgement to the arrival of the event at the subscriber that got it last, if that is known, else at the first.
pub(super) fn lag(report: &Report<'_>, bins: Bins) -> Markup {
    let evidence = report.evidence;
    let lag = |arrived: &dyn Fn(u64) -> Option<Micros>| {
        let lags = evidence.ops.iter().filter_map(|op| {
            let arrived = arrived(acknowledged_revision(&op.outcome)?)?;
            Some((arrived, arrived.saturating_sub(op.ended)))
        });
        bins.spread(lags)
    };
    let first =
        lag(&|revision| Some(evidence.events.get(&revision)?.arrived).filter(|at| *at != Micros::MAX));
    let last = lag(&|revision| report.last_arrivals.get(&revision).copied());
    if first.is_empty() {
        return html! { p class="none" { "No event of an acknowledged operation was seen." } };
    }
    let draw = |id, title, spreads: &[Spread]| {
        let name = "after the answer (ms)";
        Content {
            id,
            title,
            name,
            of: "events",
        }
        .draw(report, bins, spreads)
    };
    html! {
        (legend(&LEGEND))
        p class="note" { "What came before the answer, or less than " (SHORTEST_MS) " ms after it, is drawn at the bottom." }
        h3 { "At the subscriber that heard of it first" }
        (draw("lag-first-chart", "From an answer to its event at the first subscriber", &first))
        @if !last.is_empty() {
            h3 { "At the one that heard of it last" }
            (draw("lag-last-chart", "From an answer to its event at the last subscriber", &last))
        }
    }
}

struct Content {
    id: &'static str,
    title: &'static str,
    name: &'static str,
    of: &'static str,
}

impl Content {
    fn draw(&self, report: &Report<'_>, bins: Bins, spreads: &[Spread]) -> Markup {
        let time = Axis::time(bins.seconds());
        let bottom = TOP + HEIGHT;
        let value = axis(spreads.iter().flat_map(|spread| [spread.p50, spread.max]), bottom);
        let place =
            |spread: &Spread, us: Micros| (time.at(seconds(spread.at)), value.at(ms(us).max(SHORTEST_MS)));
        // A line breaks where nothing was measured.
        let pieces = spreads.chunk_by(|a, b| b.at - a.at <= bins.width);
        let longest = spreads.iter().map(|spread| spread.max).max().unwrap_or(0);
        let says = format!(
            "Percentiles of each interval of {} s, on a logarithmic scale; the longest is {}.",
            bins.width / 1_000_000,
            show_ms(longest)
        );
        let content = html! {
            (time.along(TOP, bottom))
            (shades(&report.faults, &time, TOP, bottom))
            (value.upwards(self.name))
            @for piece in pieces {
                @let of = |us: fn(&Spread) -> Micros| piece.iter().map(|spread| place(spread, us(spread))).collect::<Vec<_>>();
                (line("line p50", &of(|spread| spread.p50)))
                (line("line p99", &of(|spread| spread.p99)))
            }
            @for spread in spreads {
                @let (x, y) = place(spread, spread.max);
                circle class="dot max" cx=(x) cy=(y) r="2.5" {
                    title {
                        "about " (number(seconds(spread.at))) " s: p50 " (show_ms(spread.p50)) ", p99 " (show_ms(spread.p99)) ", the longest "
                        (show_ms(spread.max)) ", of " (spread.of) " " (self.of)
                    }
                }
            }
        };
        chart(self.id, self.title, &says, bottom + FOOT, content)
    }
}

/// Every opening that ended by itself, and by how much too late by cluster time.
pub(super) fn lateness(report: &Report<'_>, bins: Bins) -> Markup {
    let late = late(report.evidence);
    if late.is_empty() {
        return html! { p class="none" { "No opening ended by itself." } };
    }
    let mut sorted: Vec<_> = late.iter().map(|(_, late, _)| *late).collect();
    sorted.sort_unstable();
    let says = format!(
        "{} openings: p50 {}, p99 {}, the latest {}.",
        sorted.len(),
        show_ms(percentile(&sorted, 50)),
        show_ms(percentile(&sorted, 99)),
        show_ms(percentile(&sorted, 100))
    );
    let time = Axis::time(bins.seconds());
    let bottom = TOP + HEIGHT;
    let value = axis(sorted.iter().copied(), bottom);
    let content = html! {
        (time.along(TOP, bottom))
        (shades(&report.faults, &time, TOP, bottom))
        (value.upwards("too late (ms)"))
        @for (at, late, name) in &late {
            circle class="dot late" cx=(time.at(seconds(*at))) cy=(value.at(ms(*late).max(SHORTEST_MS))) r="2.5" {
                title { (name) " at " (number(seconds(*at))) " s: " (show_ms(*late)) " late" }
            }
        }
    };
    html! {
        p class="note" { (says) " By cluster time: when the end of each opening was applied, after when it was due." }
        (legend(&[("dot late", "an opening that ended"), ("shade", "something was broken")]))
        (chart("lateness-chart", "How late openings ended", &says, bottom + FOOT, content))
    }
}

/// When the end of an opening arrived, by how much it was late, and of which circuit.
fn late(evidence: &Evidence) -> Vec<(Micros, Micros, String)> {
    let mut due: HashMap<_, Micros> = HashMap::new();
    let mut late = Vec::new();
    for seen in evidence.events.values() {
        let event = &seen.event;
        let Some(name) = &event.name else { continue };
        let key = (name.scope.clone(), name.identifier.clone());
        if event.r#type() == EventType::CircuitHalfOpened
            && let Some(due) = due.get(&key)
            && seen.arrived != Micros::MAX
        {
            let at = event.time.as_ref().map_or(0, of_timestamp);
            let scope = name.scope.as_deref().unwrap_or("-");
            late.push((
                seen.arrived,
                at.saturating_sub(*due),
                format!("{scope}/{}", name.identifier),
            ));
        }
        match (&event.expires_at, event.new_state()) {
            (Some(expires), State::Open) => {
                due.insert(key, of_timestamp(expires));
            }
            (None, State::Open) => {}
            _ => {
                due.remove(&key);
            }
        }
    }
    late
}

/// The revision of the operation's last event, if it is acknowledged and has one.
fn acknowledged_revision(outcome: &Outcome) -> Option<u64> {
    match outcome {
        Outcome::Ok(
            Answer::Registered { revision, .. }
            | Answer::Reported { revision, .. }
            | Answer::Changed { revision, .. },
        ) => Some(*revision),
        _ => None,
    }
}

fn axis(values: impl Iterator<Item = Micros>, bottom: f64) -> Axis {
    let (mut least, mut most) = (f64::INFINITY, SHORTEST_MS);
    for value in values.map(|us| ms(us).max(SHORTEST_MS)) {
        least = least.min(value);
        most = most.max(value);
    }
    Axis::logarithmic(least.min(most), most, TOP, bottom)
}

/// How often each reason was given for a refusal, the most frequent first.
pub(super) fn refusals(evidence: &Evidence) -> Vec<(&str, u32)> {
    let mut reasons: BTreeMap<&str, u32> = BTreeMap::new();
    for op in &evidence.ops {
        if let Outcome::Refused(reason) = &op.outcome {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    reasons
}
