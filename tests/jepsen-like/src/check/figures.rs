//! How much was done, and whether the run was worth doing.

use std::collections::BTreeMap;

use super::Evidence;
use crate::findings::Findings;
use crate::history::{Op, Outcome};
use crate::nemesis::FaultRecord;

/// Counts, and what never succeeded while something was broken: of the kinds of operations that the clients chose from each must have, once.
pub fn figures(evidence: &Evidence) -> Findings {
    let mut findings = Findings::default();
    count_ops(evidence, &mut findings);
    findings.figure("events", evidence.events.len().to_string());
    findings
}

fn count_ops(evidence: &Evidence, findings: &mut Findings) {
    #[derive(Default)]
    struct Count {
        ok: u32,
        refused: u32,
        unknown: u32,
        repeated: u32,
        in_faults: u32,
    }
    let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
    let mut refusals: BTreeMap<&str, u32> = BTreeMap::new();
    for op in &evidence.ops {
        let count = counts.entry(op.action.kind()).or_default();
        count.repeated += u32::from(op.attempts > 1);
        match &op.outcome {
            Outcome::Ok(_) => count.ok += 1,
            Outcome::Refused(reason) => {
                count.refused += 1;
                *refusals.entry(reason).or_default() += 1;
            }
            Outcome::Unknown(_) => count.unknown += 1,
        }
        count.in_faults += u32::from(op.is_ok() && in_faults(&evidence.faults, op));
    }
    for kind in evidence.kinds.iter().copied() {
        let count = counts.remove(kind).unwrap_or_default();
        let text = format!(
            "{} ok ({} during faults), {} refused, {} unknown, {} repeated",
            count.ok, count.in_faults, count.refused, count.unknown, count.repeated
        );
        findings.figure(kind, text);
        if count.in_faults == 0 {
            findings.untold(format!("no {kind} succeeded during a fault"));
        }
    }
    let refusals: Vec<_> = refusals
        .iter()
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    findings.figure(
        "refused for",
        if refusals.is_empty() {
            "-".into()
        } else {
            refusals.join(", ")
        },
    );
}

fn in_faults(faults: &[FaultRecord], op: &Op) -> bool {
    faults
        .iter()
        .any(|fault| fault.from <= op.started && op.started <= fault.until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::Story;
    use crate::findings::Verdict;

    #[test]
    fn a_run_without_faults_is_unknown() {
        let mut story = Story::new(1);
        story.register(0);
        let findings = figures(&story.evidence());
        assert_eq!(findings.verdict(), Verdict::Unknown);
        let text = findings.to_string();
        assert!(text.contains("no report succeeded during a fault"), "{text}");
    }
}
