//! What the facade `metrics` is told. It is told when outcomes are taken to be sent, many at once, and never by a call.

use brama_core::command::ReportItem;

/// Outcomes, by circuit (`scope`, `circuit`) and `outcome`.
const OUTCOMES: &str = "brama_client_outcomes_total";
/// 1 while the client decides alone.
const DEGRADED: &str = "brama_client_degraded";

pub(crate) fn outcomes(item: &ReportItem) {
    let counts = [
        ("success", item.summary.successes),
        ("failure", item.summary.failures),
        ("ignored", item.summary.ignored),
        ("rejected", item.summary.rejected),
    ];
    for (outcome, count) in counts {
        if count > 0 {
            let scope = item.name.scope.as_deref().unwrap_or_default().to_owned();
            let circuit = item.name.identifier.to_string();
            metrics::counter!(OUTCOMES, "scope" => scope, "circuit" => circuit, "outcome" => outcome)
                .increment(count);
        }
    }
}

pub(crate) fn degraded(is: bool) {
    metrics::gauge!(DEGRADED).set(if is { 1.0 } else { 0.0 });
}
