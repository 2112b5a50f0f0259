//! The end: what the upstream saw, and what held.

use comfy_table::{CellAlignment, Table, presets};

use crate::checks::Outcome;
use crate::screen::{Colour, Screen};
use crate::story::millis;

/// Shows the outcome.
pub(crate) fn show(screen: &Screen, outcome: &Outcome) {
    screen.line("");
    for line in phases(outcome).lines().chain(figures(outcome).lines()) {
        screen.line(&format!("  {line}"));
    }
    screen.line("");
    for check in &outcome.checks {
        let mark = if check.held {
            screen.paint(Colour::Green, "✓")
        } else {
            screen.paint(Colour::Red, "✗")
        };
        screen.line(&format!("  {mark}  {}", check.text));
    }
    screen.line("");
    let failed = outcome.checks.iter().filter(|check| !check.held).count();
    screen.line(&match failed {
        0 => screen.paint(Colour::Bold, "  everything held"),
        n => screen.paint(
            Colour::Red,
            &format!("  {n} of {} did not hold", outcome.checks.len()),
        ),
    });
}

fn phases(outcome: &Outcome) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "what the upstream saw",
        "lasted",
        "succeeded",
        "failed",
        "from replicas",
    ]);
    for phase in &outcome.phases {
        table.add_row([
            phase.name.to_owned(),
            format!("{:.2} s", phase.lasted as f64 / 1e6),
            phase.succeeded.to_string(),
            phase.failed.to_string(),
            phase.replicas.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn figures(outcome: &Outcome) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.add_row([
        "replicas stopped after the deciding failure, median".to_owned(),
        millis(outcome.stops.median()),
    ]);
    table.add_row(["the same, worst".to_owned(), millis(outcome.stops.worst())]);
    let equal = if outcome.logs_equal { "equal" } else { "different" };
    table.add_row([
        "the three event logs".to_owned(),
        format!("{equal}, {} events", outcome.events),
    ]);
    table.to_string()
}
