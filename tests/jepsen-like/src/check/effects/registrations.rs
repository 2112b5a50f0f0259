//! Circuits come and go only when somebody asked, and exactly then.

use std::collections::HashMap;

use brama_proto::v1::EventType;

use super::Asked;
use crate::check::lifetimes::Lifetimes;
use crate::check::policies::new_labels;
use crate::check::{Evidence, label, show};
use crate::circuits::CircuitIndex;
use crate::findings::Findings;
use crate::history::{Action, Answer, Op, Outcome};

pub(super) fn check(evidence: &Evidence, asked: &Asked<'_>, lifetimes: &Lifetimes, findings: &mut Findings) {
    // By label, or by circuit where registrations have none.
    let mut created: HashMap<&str, Vec<u64>> = HashMap::new();
    let mut unlabelled: HashMap<CircuitIndex, Vec<u64>> = HashMap::new();
    for seen in evidence.events.values() {
        let event = &seen.event;
        let Some(circuit) = evidence.circuit_of(event) else {
            continue;
        };
        if event.r#type() != EventType::Registration {
            continue;
        }
        match label(event) {
            Some(label) => {
                let known = asked
                    .registrations
                    .get(label)
                    .is_some_and(|op| is_of(&op.action, circuit));
                findings.require(known, "G9", || {
                    format!("{}: nobody asked for it (label {label})", show(event))
                });
                created.entry(label).or_default().push(event.revision);
            }
            None => unlabelled.entry(circuit).or_default().push(event.revision),
        }
    }
    let updated = new_labels(evidence);
    let none = Vec::new();
    for op in &evidence.ops {
        let Action::Register { label, update, .. } = &op.action else {
            continue;
        };
        if label.is_empty() {
            continue;
        }
        let revisions = created.get(label.as_str()).unwrap_or(&none);
        check_labelled(op, *update, revisions, updated.get(label.as_str()), findings);
    }
    check_unlabelled(evidence, &unlabelled, findings);
    findings.checked(
        "G9",
        format!("{} registrations, each asked for", lifetimes.count()),
    );
}

fn check_labelled(op: &Op, update: bool, created: &[u64], told: Option<&u64>, findings: &mut Findings) {
    let what = || {
        format!(
            "registration {} ({:?}): new at {created:?}, its label first seen at {told:?}",
            op.id, op.outcome
        )
    };
    match &op.outcome {
        Outcome::Ok(Answer::Registered {
            created: true,
            revision,
            ..
        }) => findings.require(created == [*revision], "G8", what),
        // An update changes at least the label.
        Outcome::Ok(Answer::Registered {
            created: false,
            revision,
            ..
        }) => {
            let expected = update.then_some(revision);
            findings.require(created.is_empty() && told == expected, "G8", what);
        }
        Outcome::Refused(_) => findings.require(created.is_empty() && told.is_none(), "G9", what),
        Outcome::Ok(_) | Outcome::Unknown(_) => findings.require(created.len() <= 1, "G9", what),
    }
}

/// Without labels nothing is registered twice.
fn check_unlabelled(
    evidence: &Evidence,
    registered: &HashMap<CircuitIndex, Vec<u64>>,
    findings: &mut Findings,
) {
    for (circuit, revisions) in registered {
        let ops: Vec<&Op> = evidence
            .ops
            .iter()
            .filter(|op| is_of(&op.action, *circuit))
            .collect();
        findings.require(!ops.is_empty() && revisions.len() == 1, "G9", || {
            format!("circuit {circuit} was registered at {revisions:?}, without a label")
        });
    }
    let mut created: HashMap<CircuitIndex, u32> = HashMap::new();
    for op in &evidence.ops {
        if let (Action::Register { circuit, label, .. }, Outcome::Ok(Answer::Registered { created: new, .. })) =
            (&op.action, &op.outcome)
            && label.is_empty()
        {
            findings.require(registered.contains_key(circuit), "G8", || {
                format!("circuit {circuit} was registered, but no event says so")
            });
            *created.entry(*circuit).or_default() += u32::from(*new);
        }
    }
    for (circuit, times) in created {
        findings.require(times <= 1, "G8", || {
            format!("circuit {circuit} was new {times} times: it was lost in between")
        });
    }
}

fn is_of(action: &Action, of: CircuitIndex) -> bool {
    matches!(action, Action::Register { circuit, .. } if *circuit == of)
}
