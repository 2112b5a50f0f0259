//! No opening ends early; how late they end is a figure.
//!
//! Early is judged twice. By cluster time: the half-opening is not stamped before the opening's end, and the opening is as long as the
//! policy says. And by the harness's own clock, which no node can influence: the opening cannot have begun before the
//! operation that caused it was sent, so no subscriber may hear of its end sooner than that plus its length.

use std::collections::HashMap;

use brama_proto::v1::{Cause, Event, EventType};

use super::effects::named_item;
use super::policies::{Policies, What};
use super::{Evidence, show};
use crate::circuits::CircuitIndex;
use crate::findings::Findings;
use crate::history::{Action, Op};
use crate::ledger::Seen;
use crate::nemesis::FaultRecord;
use crate::time::{Micros, of_timestamp, percentile, show_ms};

/// Cluster time may run this much faster than the harness's clock: 0.1 % (in millionths).
const FASTER_PER_MILLION: u64 = 1000;
/// So long after a fault was mended, the cluster counts as healthy again.
const CONVALESCENCE: Micros = 1_500_000;
/// An opening that ended so long before the last event must have been half-opened.
const FORGOTTEN: Micros = 10_000_000;

pub(super) fn check(evidence: &Evidence) -> Findings {
    let mut findings = Findings::default();
    let causes = Causes::of(&evidence.ops);
    let policies = Policies::of(evidence);
    let last = evidence
        .events
        .values()
        .next_back()
        .and_then(|seen| seen.event.time.as_ref().map(of_timestamp))
        .unwrap_or(0);
    let mut ended = 0;
    let mut stamped = Vec::new();
    let mut healthy = Vec::new();
    for (index, events) in evidence.by_circuit() {
        let mut opening: Option<&Seen> = None;
        for seen in events {
            let event = &seen.event;
            match event.r#type() {
                EventType::CircuitOpened => {
                    check_length(&policies, index, event, &causes, &mut findings);
                    opening = Some(seen);
                }
                EventType::CircuitHalfOpened => {
                    let Some(opened) = opening.take() else {
                        findings.broken("G4", format!("{} ends no opening", show(event)));
                        continue;
                    };
                    ended += 1;
                    let length = length(&opened.event);
                    stamped.push(check_not_early(opened, seen, length, &causes, &mut findings));
                    if let Some(late) = late_at_most(opened, seen, length, &causes)
                        && is_healthy(&evidence.faults, opened.arrived, seen.arrived)
                    {
                        healthy.push(late);
                    }
                }
                _ if event.previous_state != event.new_state => opening = None,
                _ => {}
            }
        }
        if let Some(opened) = opening {
            let until = opened.event.expires_at.as_ref().map_or(last, of_timestamp);
            findings.require(until + FORGOTTEN >= last, "G5", || {
                format!(
                    "{} should have ended {} ago",
                    show(&opened.event),
                    show_ms(last - until)
                )
            });
        }
    }
    findings.checked("G4", format!("{ended} openings ended, none early"));
    if ended == 0 {
        findings.untold("no opening ended by itself");
    }
    figure(&mut findings, "late, by cluster time", stamped);
    figure(
        &mut findings,
        "late at the first subscriber, at most, healthy",
        healthy,
    );
    findings
}

/// The opening is as long as the policy, or the one who opened it, says.
fn check_length(
    policies: &Policies,
    circuit: CircuitIndex,
    event: &Event,
    causes: &Causes<'_>,
    findings: &mut Findings,
) {
    let own = causes.of_event(event).and_then(|op| match &op.action {
        Action::Open { expiry_ms, .. } => *expiry_ms,
        _ => None,
    });
    let expected: Vec<Micros> = match (own, policies.at(circuit, event.revision, What::Openings)) {
        (Some(ms), _) => vec![ms * 1000],
        (None, Some(rules)) => {
            let lasts = rules
                .iter()
                .filter_map(|rules| rules.opening_ms(event.openings_in_a_row));
            lasts.map(|ms| ms * 1000).collect()
        }
        (None, None) => return findings.untold(format!("how long {} should last", show(event))),
    };
    let is = length(event);
    findings.require(expected.contains(&is), "G4", || {
        format!("{} lasts {is} us, not {expected:?} us", show(event))
    });
}

/// Returns by how much it is late by cluster time.
fn check_not_early(
    opened: &Seen,
    half: &Seen,
    length: Micros,
    causes: &Causes<'_>,
    findings: &mut Findings,
) -> Micros {
    let end = opened.event.time.as_ref().map_or(0, of_timestamp) + length;
    let at = half.event.time.as_ref().map_or(0, of_timestamp);
    findings.require(at >= end, "G4", || {
        format!("{} is {} us early by cluster time", show(&half.event), end - at)
    });
    if let Some(op) = causes.of_event(&opened.event) {
        let earliest = op.started + length - length * FASTER_PER_MILLION / 1_000_000;
        findings.require(half.arrived >= earliest, "G4", || {
            format!(
                "{} arrived {} us before the opening could end: operation {} was sent at {}, for {length} us",
                show(&half.event),
                earliest - half.arrived,
                op.id,
                op.started
            )
        });
    }
    at.saturating_sub(end)
}

/// From the moment at which the opening was asked for, which is before it began: so this is an upper bound, by as much as the asking
/// took. What was asked for more than once says too little. (Counted from the arrival of the opening, nothing is ever late.)
fn late_at_most(opened: &Seen, half: &Seen, length: Micros, causes: &Causes<'_>) -> Option<Micros> {
    let op = causes.of_event(&opened.event).filter(|op| op.attempts == 1)?;
    half.arrived.checked_sub(op.started + length)
}

fn length(opened: &Event) -> Micros {
    let micros = |at: &Option<prost_types::Timestamp>| at.as_ref().map_or(0, of_timestamp);
    micros(&opened.expires_at).saturating_sub(micros(&opened.time))
}

fn is_healthy(faults: &[FaultRecord], from: Micros, until: Micros) -> bool {
    faults
        .iter()
        .all(|fault| fault.until + CONVALESCENCE < from || fault.from > until)
}

fn figure(findings: &mut Findings, name: &str, mut late: Vec<Micros>) {
    late.sort_unstable();
    let text = format!(
        "p50 {}, p99 {}, max {} ({} openings)",
        show_ms(percentile(&late, 50)),
        show_ms(percentile(&late, 99)),
        show_ms(percentile(&late, 100)),
        late.len()
    );
    findings.figure(name, text);
}

/// The operations that events name.
struct Causes<'a> {
    batches: HashMap<&'a str, &'a Op>,
    reasons: HashMap<&'a str, &'a Op>,
}

impl<'a> Causes<'a> {
    fn of(ops: &'a [Op]) -> Self {
        let mut causes = Self {
            batches: HashMap::new(),
            reasons: HashMap::new(),
        };
        for op in ops {
            match &op.action {
                Action::Open { reason, .. } => {
                    causes.reasons.insert(reason, op);
                }
                action => {
                    if let Some((batch, _)) = action.batch() {
                        causes.batches.insert(batch, op);
                    }
                }
            }
        }
        causes
    }

    fn of_event(&self, event: &Event) -> Option<&'a Op> {
        if event.cause() == Cause::Manual {
            self.reasons.get(event.reason.as_deref()?).copied()
        } else {
            self.batches.get(named_item(event)?.0).copied()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{Story, half_opened, opened_by_hand};

    /// Opened by an operation that was sent at 10 ms, for 1,000 ms; half-opened by cluster time and arrived as said.
    fn story(stamped_ms: i64, arrived: Micros) -> Findings {
        let mut story = Story::new(1);
        story.register(0);
        story.open("open-1", Some(2));
        story.last_op().started = 10_000;
        story.event_at(12_000, opened_by_hand("open-1", 0, 1000));
        story.event_at(arrived, half_opened(stamped_ms));
        check(&story.evidence())
    }

    #[test]
    fn on_time_is_fine() {
        assert_eq!(story(1000, 1_010_000).count("G4"), 0);
        assert_eq!(story(1003, 1_013_000).count("G4"), 0);
    }

    #[test]
    fn an_opening_that_is_heard_of_late_does_not_hide_that_it_ends_late() {
        let mut story = Story::new(1);
        story.register(0);
        story.open("open-1", Some(2));
        story.last_op().started = 10_000;
        story.event_at(700_000, opened_by_hand("open-1", 0, 1000));
        story.event_at(1_310_000, half_opened(1000));
        let text = check(&story.evidence()).to_string();
        assert!(text.contains("at most, healthy  p50 300 ms"), "{text}");
    }

    #[test]
    fn early_by_cluster_time_is_found() {
        assert_eq!(story(999, 1_013_000).count("G4"), 1);
    }

    #[test]
    fn early_by_the_harness_is_found_beyond_a_thousandth() {
        assert_eq!(story(1000, 1_009_000).count("G4"), 0);
        assert_eq!(story(1000, 1_008_999).count("G4"), 1);
    }

    #[test]
    fn an_opening_of_another_length_than_the_policy_says_is_found() {
        let mut story = Story::new(1);
        story.register(0);
        story.open("open-1", Some(2));
        story.event(opened_by_hand("open-1", 0, 999));
        assert_eq!(check(&story.evidence()).count("G4"), 1);
    }

    #[test]
    fn an_opening_that_never_ends_is_found() {
        let mut story = Story::new(1);
        story.register(0);
        story.open("open-1", Some(2));
        story.event(opened_by_hand("open-1", 0, 1000));
        story.event(crate::check::samples::outcome(EventType::Success, 1, "x"));
        let mut evidence = story.evidence();
        assert_eq!(check(&evidence).count("G5"), 0, "not due yet");
        if let Some(mut last) = evidence.events.last_entry() {
            last.get_mut().event.time = Some(crate::check::samples::timestamp(12_000));
        }
        assert_eq!(check(&evidence).count("G5"), 1);
    }
}
