//! The sections of the page.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::bins::Bins;
use super::{Report, delays, figures, timeline};

const STYLE: &str = include_str!("style.css");

pub(super) fn page(report: &Report<'_>) -> Markup {
    let faults_end = report.faults.iter().map(|fault| fault.until).max().unwrap_or(0);
    let bins = Bins::of(report.evidence, faults_end);
    let (class, word, means) = figures::verdict(report.findings);
    let sections = [
        (
            "timeline",
            "Operations and faults",
            html! { (timeline::timeline(report, bins)) (timeline::table(report)) },
        ),
        ("latency", "Latency", delays::latency(report, bins)),
        ("lag", "Events after answers", delays::lag(report, bins)),
        (
            "lateness",
            "Openings that ended late",
            delays::lateness(report, bins),
        ),
        (
            "guarantees",
            "What was checked",
            figures::guarantees(report.findings),
        ),
        ("figures", "Figures", figures::figures(report)),
        ("again", "How to do it again", again(report)),
        ("files", "What else there is", files(report)),
    ];
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (word) ": " (report.title) ", seed " (report.seed) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p class={ "verdict " (class) } { (word) }
                    h1 { (report.title) ", seed " (report.seed) }
                    p { (means) " Begun " (report.began) "." }
                    (figures::cards(report, bins.seconds()))
                    nav aria-label="Sections" {
                        @for (id, title, _) in &sections { a href={ "#" (id) } { (title) } " " }
                    }
                }
                main {
                    (figures::problems(report.findings))
                    @for drawing in &report.drawings {
                        section class="drawing" { h2 { (drawing.title) } div class="chart" { (PreEscaped(&drawing.fragment)) } }
                    }
                    @for (id, title, content) in &sections {
                        section id=(id) { h2 { (title) } (content) }
                    }
                }
            }
        }
    }
}

fn again(report: &Report<'_>) -> Markup {
    let options = report
        .options
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    html! {
        pre class="command" { code { (report.command) } }
        p class="note" {
            "Seed " (report.seed) " decides what is done and what is broken; when processes get to run, it does not."
        }
        (figures::pairs(options))
    }
}

fn files(report: &Report<'_>) -> Markup {
    html! {
        @if report.files.is_empty() {
            p class="none" { "Histories, events and logs of this run were not kept." }
        } @else {
            ul { @for (what, path) in &report.files { li { a href=(path) { (path) } ": " (what) } } }
        }
    }
}
