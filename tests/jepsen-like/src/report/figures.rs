//! Numbers, and what was found of each guarantee.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::Report;
use super::bins::Ended;
use super::delays::refusals;
use crate::findings::{Findings, Verdict};

/// So many of one guarantee are shown; the rest is counted.
const SHOWN: usize = 50;

/// The guarantees of the contract.
const GUARANTEES: [(&str, &str); 12] = [
    (
        "G1",
        "Nodes that applied the same have equal states, and the same event at each revision",
    ),
    ("G2", "Writes and linearizable reads are linearizable"),
    ("G3", "An acknowledged batch is applied exactly once"),
    ("G4", "No opening ends early"),
    ("G5", "Openings end on time"),
    ("G6", "Never more probes at once than allowed"),
    ("G7", "Subscribers get every event once, in order"),
    ("G8", "What was acknowledged survives"),
    ("G9", "No effect without a cause"),
    ("G10", "No input ends a node, or grows without bound"),
    ("G11", "Clients decide without the cluster, and heal"),
    ("G12", "With a majority, writes go on soon"),
];

/// The verdict in a word, and what it means.
pub(super) fn verdict(findings: &Findings) -> (&'static str, &'static str, String) {
    let broken = findings.all_broken().map(|(_, what)| what.len()).sum::<usize>();
    let untold = findings.all_untold().len();
    match findings.verdict() {
        Verdict::Holds => (
            "holds",
            "All of it held",
            "Everything that was checked held.".into(),
        ),
        Verdict::Broken => (
            "broken",
            "Broken",
            format!(
                "{broken} times something did not hold, of {} guarantees.",
                findings.all_broken().count()
            ),
        ),
        Verdict::Unknown => (
            "untold",
            "Unknown",
            format!("Nothing is known to be broken, but {untold} things could not be told."),
        ),
    }
}

/// What happened, in a few numbers.
pub(super) fn cards(report: &Report<'_>, lasted: f64) -> Markup {
    let mut ended = Ended::default();
    for op in &report.evidence.ops {
        ended.add(&op.outcome);
    }
    let unproven = report.faults.iter().filter(|fault| fault.proof.is_none()).count();
    let cards = [
        (ended.acknowledged.to_string(), "operations acknowledged"),
        (ended.refused.to_string(), "refused"),
        (ended.unknown.to_string(), "unknown"),
        (report.evidence.events.len().to_string(), "events"),
        (report.faults.len().to_string(), "faults"),
        (unproven.to_string(), "of them not shown to be there"),
        (format!("{lasted:.0} s"), "from begin to end"),
    ];
    html! {
        ul class="cards" { @for (number, what) in &cards { li { b { (number) } span { (what) } } } }
    }
}

/// What is broken or could not be told.
pub(super) fn problems(findings: &Findings) -> Markup {
    html! {
        @for (guarantee, all) in findings.all_broken() {
            section class="problem broken" {
                h3 { "Broken: " (guarantee) @if let Some(title) = title(guarantee) { " – " (title) } }
                ul {
                    @for what in all.iter().take(SHOWN) { li { pre { (what) } } }
                    @if all.len() > SHOWN { li { "and " (all.len() - SHOWN) " more" } }
                }
            }
        }
        @if !findings.all_untold().is_empty() {
            section class="problem untold" {
                h3 { "Could not be told" }
                ul { @for what in findings.all_untold() { li { (what) } } }
            }
        }
    }
}

/// Each guarantee: what was checked, on how much evidence, and what came of it.
pub(super) fn guarantees(findings: &Findings) -> Markup {
    let mut checked: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (guarantee, what) in findings.all_checked() {
        checked.entry(guarantee).or_default().push(what);
    }
    let broken: BTreeMap<_, _> = findings.all_broken().collect();
    let known = GUARANTEES.iter().map(|(guarantee, _)| *guarantee);
    let others = checked.keys().chain(broken.keys()).copied();
    let others: std::collections::BTreeSet<_> = others.filter(|other| title(other).is_none()).collect();
    html! {
        div class="wide" { table {
            thead { tr { th scope="col" { "guarantee" } th scope="col" { "what was checked" } th scope="col" { "result" } } }
            tbody { @for guarantee in known.chain(others) { tr {
                th scope="row" { (guarantee) @if let Some(title) = title(guarantee) { small { (title) } } }
                td { @if let Some(all) = checked.get(guarantee) { ul { @for what in all { li { (what) } } } } }
                td class="result" {
                    @if let Some(all) = broken.get(guarantee) { strong class="broken" { "✗ broken, " (all.len()) " times" } }
                    @else if checked.contains_key(guarantee) { span class="holds" { "✓ holds" } }
                    @else { span class="none" { "– not checked here" } }
                }
            } } }
        } }
    }
}

/// The figures of the run, and why operations were refused.
pub(super) fn figures(report: &Report<'_>) -> Markup {
    let refusals = refusals(report.evidence);
    html! {
        (pairs(report.findings.all_figures().iter().map(|(name, value)| (name.as_str(), value.as_str()))))
        @if !refusals.is_empty() {
            h3 { "Why operations were refused" }
            div class="wide" { table {
                thead { tr { th scope="col" { "reason" } th scope="col" class="n" { "times" } } }
                tbody { @for (reason, times) in &refusals { tr { td { (reason) } td class="n" { (times) } } } }
            } }
        }
    }
}

/// Names with values.
pub(super) fn pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Markup {
    html! {
        div class="wide" { table { tbody {
            @for (name, value) in pairs { tr { th scope="row" { (name) } td { (value) } } }
        } } }
    }
}

fn title(guarantee: &str) -> Option<&'static str> {
    let found = GUARANTEES.iter().find(|(known, _)| *known == guarantee);
    found.map(|(_, title)| *title)
}
