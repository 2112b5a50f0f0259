//! Operations over time: how many ended and how, of each kind, and what was broken meanwhile.

use maud::{Markup, PreEscaped, html};

use super::bins::{Bins, Ended, seconds};
use super::chart::{Axis, FOOT, LEFT, chart, legend, number, shades, tenths};
use super::{FaultBar, Report};
use crate::time::{Micros, show_ms};

const TOP: f64 = 12.0;
const ALL: f64 = 190.0;
const ROW: f64 = 34.0;
const LANE: f64 = 18.0;
const BETWEEN: f64 = 30.0;
/// A name to the left of a row, in letters.
const NAME: usize = 28;

pub(super) const LEGEND: [(&str, &str); 5] = [
    ("acknowledged", "acknowledged"),
    ("refused", "refused"),
    ("unknown", "unknown: perhaps applied"),
    ("bar", "a fault that was shown to be there"),
    ("bar unproven", "a fault that nothing showed to be there"),
];

pub(super) fn timeline(report: &Report<'_>, bins: Bins) -> Markup {
    let time = Axis::time(bins.seconds());
    let kinds = bins.ended(&report.evidence.ops);
    let all: Vec<_> = (0..bins.count)
        .map(|bin| {
            let of_bin = kinds.iter().map(|(_, ended)| ended[bin]);
            of_bin.fold(Ended::default(), Ended::plus)
        })
        .collect();
    let rows_top = TOP + ALL + BETWEEN;
    let rows_bottom = rows_top + ROW * kinds.len() as f64;
    let lanes = lanes(&report.faults);
    let lanes_top = rows_bottom + BETWEEN;
    let bottom = lanes_top + LANE * lanes.len().max(1) as f64 + 4.0;
    let most = all.iter().map(|ended| ended.all()).max().unwrap_or(0);
    let rate = Axis::from_zero(a_second(most, bins) * 1.05, TOP, TOP + ALL);
    let content = html! {
        (time.along(TOP, bottom))
        (shades(&report.faults, &time, TOP, rows_bottom))
        (rate.upwards("operations a second"))
        @for (bin, ended) in all.iter().enumerate() { (stack(*ended, bin, bins, &time, &rate)) }
        text class="head" x=(LEFT) y=(rows_top - 8.0) { "by kind, each by its own scale" }
        @for (row, (kind, ended)) in kinds.iter().enumerate() {
            (of_kind(kind, ended, bins, &time, rows_top + ROW * row as f64))
        }
        text class="head" x=(LEFT) y=(lanes_top - 8.0) {
            @if lanes.is_empty() { "nothing was broken on purpose" } @else { "faults" }
        }
        @for (lane, (label, faults)) in lanes.iter().enumerate() {
            (bars(label, faults, &time, lanes_top + LANE * lane as f64))
        }
    };
    let total = all.iter().copied().fold(Ended::default(), Ended::plus);
    let says = format!(
        "Operations that ended in each interval of {} s: {} acknowledged, {} refused, {} unknown in {:.0} s; the highest rate is {} a second. \
         Below, the same by kind, and {} faults of {} kinds.",
        bins.width / 1_000_000,
        total.acknowledged,
        total.refused,
        total.unknown,
        bins.seconds(),
        number(a_second(most, bins)),
        report.faults.len(),
        lanes.len()
    );
    html! {
        (legend(&LEGEND))
        (chart("timeline-chart", "Operations and faults over time", &says, bottom + FOOT, content))
    }
}

/// One interval: acknowledged, then refused, then unknown on top.
fn stack(ended: Ended, bin: usize, bins: Bins, time: &Axis, rate: &Axis) -> Markup {
    let from = seconds(bins.start(bin));
    let x = time.at(from);
    let width = tenths((time.at(from + seconds(bins.width)) - x - 0.5).max(0.5));
    let mut below = 0;
    let mut part = |class: &str, count: u32| {
        let low = rate.at(a_second(below, bins));
        below += count;
        let high = rate.at(a_second(below, bins));
        html! { @if count > 0 { rect class=(class) x=(x) y=(high) width=(width) height=(tenths(low - high)) {} } }
    };
    let parts = [
        part("acknowledged", ended.acknowledged),
        part("refused", ended.refused),
        part("unknown", ended.unknown),
    ];
    html! {
        @if ended.all() > 0 {
            g {
                title {
                    (number(from)) " s: " (ended.acknowledged) " acknowledged, " (ended.refused) " refused, "
                    (ended.unknown) " unknown" @if bins.width > 1_000_000 { " in " (seconds(bins.width)) " s" }
                }
                @for part in parts { (part) }
            }
        }
    }
}

/// One row: the same as areas.
fn of_kind(kind: &str, all: &[Ended], bins: Bins, time: &Axis, top: f64) -> Markup {
    let most = all.iter().map(|ended| ended.all()).max().unwrap_or(0);
    let scale = Axis::from_zero(a_second(most, bins), top + 4.0, top + ROW - 2.0);
    let total = all.iter().copied().fold(Ended::default(), Ended::plus);
    let area = |class: &str, count: &dyn Fn(Ended) -> u32| {
        // Of the whole stack up to here; what lies above covers the rest.
        let floor = scale.at(0.0);
        let mut path = format!("M{:.1} {floor:.1}", time.at(0.0));
        for (bin, ended) in all.iter().enumerate() {
            let (from, until) = (seconds(bins.start(bin)), seconds(bins.start(bin + 1)));
            let y = scale.at(a_second(count(*ended), bins));
            path += &format!("L{:.1} {y:.1}L{:.1} {y:.1}", time.at(from), time.at(until));
        }
        path += &format!("L{:.1} {floor:.1}Z", time.at(bins.seconds()));
        html! { path class=(class) d=(path) {} }
    };
    html! {
        g {
            title {
                (kind) ": " (total.acknowledged) " acknowledged, " (total.refused) " refused, " (total.unknown) " unknown; at most "
                (number(a_second(most, bins))) " a second"
            }
            text class="name" x=(LEFT - 8.0) y=(top + ROW / 2.0) text-anchor="end" { (kind) }
            text class="tick" x=(LEFT - 8.0) y=(top + ROW / 2.0 + 13.0) text-anchor="end" { "up to " (number(a_second(most, bins))) "/s" }
            (area("unknown", &|ended| ended.all()))
            (area("refused", &|ended| ended.acknowledged + ended.refused))
            (area("acknowledged", &|ended| ended.acknowledged))
        }
    }
}

/// The faults of each kind, in the order in which the kinds first came.
fn lanes(faults: &[FaultBar]) -> Vec<(&str, Vec<&FaultBar>)> {
    let mut lanes: Vec<(&str, Vec<&FaultBar>)> = Vec::new();
    for fault in faults {
        match lanes.iter_mut().find(|(label, _)| *label == fault.label) {
            Some((_, lane)) => lane.push(fault),
            None => lanes.push((&fault.label, vec![fault])),
        }
    }
    lanes
}

fn bars(label: &str, faults: &[&FaultBar], time: &Axis, top: f64) -> Markup {
    let short = if label.chars().count() > NAME {
        format!("{}…", label.chars().take(NAME - 1).collect::<String>())
    } else {
        label.to_owned()
    };
    html! {
        text class="name" x=(LEFT - 8.0) y=(top + LANE - 6.0) text-anchor="end" {
            (short) @if short != label { title { (label) } }
        }
        @for fault in faults {
            @let from = time.at(seconds(fault.from));
            // Short ones too must be seen.
            @let width = tenths((time.at(seconds(fault.until)) - from).max(2.0));
            rect class=(if fault.proof.is_some() { "bar" } else { "bar unproven" }) x=(from) y=(top + 3.0) width=(width) height=(LANE - 6.0) {
                title {
                    (fault.label) ", " (fault.nodes) ": " (number(seconds(fault.from))) " s to " (number(seconds(fault.until))) " s ("
                    (show_ms(fault.until.saturating_sub(fault.from))) "); "
                    @match &fault.proof { Some(proof) => (proof), None => "not shown to be there" }
                }
            }
        }
    }
}

fn a_second(count: u32, bins: Bins) -> f64 {
    f64::from(count) / seconds(bins.width)
}

/// Every fault in a row of a table, with what was acknowledged meanwhile.
pub(super) fn table(report: &Report<'_>) -> Markup {
    let mut ends: Vec<Micros> = report
        .evidence
        .ops
        .iter()
        .filter(|op| op.is_ok())
        .map(|op| op.ended)
        .collect();
    ends.sort_unstable();
    let until = |moment: Micros| ends.partition_point(|end| *end <= moment);
    html! {
        details {
            summary { "All " (report.faults.len()) " faults" }
            div class="wide" { table {
                thead { tr {
                    th scope="col" { "fault" } th scope="col" { "hit" } th scope="col" class="n" { "from, s" } th scope="col" class="n" { "until, s" }
                    th scope="col" class="n" { "lasted, s" } th scope="col" class="n" { "acknowledged meanwhile" } th scope="col" { "was there, because" }
                } }
                tbody { @for fault in &report.faults { tr {
                    td { (fault.label) } td { (fault.nodes) }
                    td class="n" { (PreEscaped(format!("{:.3}", seconds(fault.from)))) }
                    td class="n" { (PreEscaped(format!("{:.3}", seconds(fault.until)))) }
                    td class="n" { (PreEscaped(format!("{:.3}", seconds(fault.until.saturating_sub(fault.from))))) }
                    td class="n" { (until(fault.until).saturating_sub(until(fault.from))) }
                    td { @match &fault.proof { Some(proof) => (proof), None => strong { "nothing showed it" } } }
                } } }
            } }
        }
    }
}
