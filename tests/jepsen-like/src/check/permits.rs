//! Never more live permits than the policy allows, in the whole cluster.

use std::collections::HashMap;

use brama_proto::v1::EventType;

use super::effects::named_item;
use super::policies::{Policies, What};
use super::{Evidence, show};
use crate::findings::Findings;
use crate::ledger::Seen;
use crate::rules::Rules;
use crate::time::{Micros, of_timestamp};

pub(super) fn check(evidence: &Evidence) -> Findings {
    let mut findings = Findings::default();
    let reported = reported_permits(evidence);
    let policies = Policies::of(evidence);
    let (mut granted, mut expired, mut most) = (0, 0, 0);
    for (index, events) in evidence.by_circuit() {
        // By permit: until when.
        let mut live: HashMap<&[u8], Micros> = HashMap::new();
        for seen in events {
            let event = &seen.event;
            match event.r#type() {
                EventType::ProbeGranted => {
                    granted += 1;
                    let until = event.expires_at.as_ref().map_or(0, of_timestamp);
                    let Some(rules) = policies.at(index, event.revision, What::Permits) else {
                        findings.untold(format!("how many permits {} may make", show(event)));
                        continue;
                    };
                    check_length(&rules, seen, until, &mut findings);
                    let again = live.insert(&event.permit_id, until).is_some();
                    findings.require(!again, "G6", || {
                        format!("{}: this permit is out already", show(event))
                    });
                    most = most.max(live.len());
                    let allowed = rules.iter().map(|rules| rules.probes).max().unwrap_or(0);
                    findings.require(live.len() <= allowed as usize, "G6", || {
                        format!(
                            "{}: {} permits are out, {allowed} are allowed",
                            show(event),
                            live.len()
                        )
                    });
                }
                EventType::ProbeExpired => {
                    expired += 1;
                    let at = event.time.as_ref().map_or(0, of_timestamp);
                    let until = live.remove(event.permit_id.as_slice());
                    findings.require(until.is_some_and(|until| until <= at), "G6", || {
                        format!("{}: at {at} this permit was valid until {until:?}", show(event))
                    });
                }
                EventType::Success | EventType::Failure => {
                    if let Some(permit) = named_item(event).and_then(|named| reported.get(&named)) {
                        live.remove(permit.as_slice());
                    }
                }
                _ if event.previous_state != event.new_state => live.clear(),
                _ => {}
            }
        }
    }
    findings.checked(
        "G6",
        format!("{granted} permits granted, {expired} ran out, at most {most} out at once in one circuit"),
    );
    if evidence.kinds.contains(&"acquire") && (granted == 0 || expired == 0) {
        findings.untold(format!(
            "{granted} permits were granted and {expired} ran out: too few to tell"
        ));
    }
    findings
}

fn check_length(rules: &[Rules], seen: &Seen, until: Micros, findings: &mut Findings) {
    let event = &seen.event;
    let at = event.time.as_ref().map_or(0, of_timestamp);
    let known = rules
        .iter()
        .any(|rules| until == at + rules.probe_timeout_ms * 1000);
    findings.require(known, "G6", || {
        format!(
            "{}: it is valid for {} us, which is no policy that it can have",
            show(event),
            until.saturating_sub(at)
        )
    });
}

/// By batch and item: the permit that was reported.
fn reported_permits(evidence: &Evidence) -> HashMap<(&str, &str), Vec<u8>> {
    // Positions as the metadata has them; batches of the workload are far smaller.
    const POSITIONS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let mut permits = HashMap::new();
    for op in &evidence.ops {
        let Some((batch, items)) = op.action.batch() else {
            continue;
        };
        for (item, position) in items.iter().zip(POSITIONS) {
            if let Some(permit) = item.permit.as_ref().and_then(|permit| hex::decode(permit).ok()) {
                permits.insert((batch, position), permit);
            }
        }
    }
    permits
}

#[cfg(test)]
mod tests {
    use brama_proto::v1::{Cause, Event, State};

    use super::*;
    use crate::check::samples::{Story, at, half_opened, opened_by_hand, outcome, timestamp};
    use crate::history::Action;

    fn probe(kind: EventType, permit: u8, ms: i64) -> Event {
        Event {
            r#type: kind.into(),
            cause: Cause::Request.into(),
            previous_state: State::HalfOpen.into(),
            new_state: State::HalfOpen.into(),
            generation: 3,
            permit_id: vec![permit; 16],
            expires_at: (kind == EventType::ProbeGranted).then(|| timestamp(ms + 500)),
            ..at(ms)
        }
    }

    fn half_open_story() -> Story {
        let mut story = Story::new(1);
        story.register(0);
        story.event(opened_by_hand("a", 0, 1000));
        story.event(half_opened(1000));
        story
    }

    #[test]
    fn one_after_the_other_is_fine() {
        let mut story = half_open_story();
        let batch = story.report("F", Some(9));
        if let Action::Report { items, .. } = &mut story.last_op().action {
            items[0].permit = Some(hex::encode([1; 16]));
        }
        story.event(probe(EventType::ProbeGranted, 1, 1100));
        story.event(outcome(EventType::Failure, 1, &batch));
        story.event(probe(EventType::ProbeGranted, 2, 1200));
        story.event(probe(EventType::ProbeExpired, 2, 1700));
        story.event(probe(EventType::ProbeGranted, 3, 1800));
        assert_eq!(check(&story.evidence()).count("G6"), 0);
    }

    #[test]
    fn two_at_once_are_found_where_one_is_allowed() {
        let mut story = half_open_story();
        story.event(probe(EventType::ProbeGranted, 1, 1100));
        story.event(probe(EventType::ProbeGranted, 2, 1200));
        assert_eq!(check(&story.evidence()).count("G6"), 1);
    }

    #[test]
    fn a_permit_that_ends_early_and_one_that_was_never_out_are_found() {
        let mut story = half_open_story();
        story.event(probe(EventType::ProbeGranted, 1, 1100));
        story.event(probe(EventType::ProbeExpired, 1, 1599));
        story.event(probe(EventType::ProbeExpired, 4, 1700));
        assert_eq!(check(&story.evidence()).count("G6"), 2);
    }
}
