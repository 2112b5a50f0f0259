//! Whether a run shows what it was made for: each chosen kind of fault was really there, and things were done while it lasted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::check::Evidence;
use crate::findings::Findings;
use crate::nemesis::{Family, Fault, FaultRecord, Standing};
use crate::time::Micros;

/// A run that is this long has time for every fault.
const EVERY_FAULT: Duration = Duration::from_secs(480);
/// A run that is this long has time for faults that last longer than writes may be away.
const LASTING: Duration = Duration::from_secs(60);
const LASTS: Micros = 4_000_000;

/// What was chosen.
pub(super) struct Chosen<'a> {
    pub(super) families: &'a [Family],
    pub(super) nodes: usize,
    pub(super) run: Duration,
}

/// Says what was not there.
pub(super) fn check(evidence: &Evidence, chosen: &Chosen<'_>) -> Findings {
    let mut findings = Findings::default();
    count(&evidence.faults, &mut findings);
    for family in chosen.families {
        check_family(*family, evidence, &mut findings);
    }
    let seen: BTreeSet<Fault> = proven(&evidence.faults).map(|fault| fault.fault).collect();
    let missing: Vec<Fault> = chosen
        .families
        .iter()
        .flat_map(|family| Fault::of(*family, chosen.nodes))
        .filter(|fault| !seen.contains(fault))
        .collect();
    if !missing.is_empty() {
        findings.figure("faults that never came", format!("{missing:?}"));
    }
    if chosen.run >= EVERY_FAULT {
        for fault in missing {
            findings.untold(format!("{fault:?} was never installed with proof"));
        }
    }
    if chosen.run >= LASTING {
        let lasting = evidence.spans.iter().any(|span| {
            span.faults > 0 && span.standing == Standing::Majority && span.until - span.from >= LASTS
        });
        if !lasting && chosen.families.iter().any(|family| lasts(*family)) {
            findings
                .untold("no fault that leaves a majority lasted long enough to judge whether writes go on");
        }
    }
    findings
}

fn lasts(family: Family) -> bool {
    !matches!(family, Family::Transfer | Family::Restart)
}

fn check_family(family: Family, evidence: &Evidence, findings: &mut Findings) {
    let name = family.name();
    let all: Vec<&FaultRecord> = proven(&evidence.faults)
        .filter(|fault| fault.family == family)
        .collect();
    if all.is_empty() {
        findings.untold(format!("no {name} was installed with proof"));
        return;
    }
    let succeeded = evidence
        .ops
        .iter()
        .filter(|op| op.is_acknowledged_write())
        .filter(|op| {
            all.iter()
                .any(|fault| fault.held_from <= op.started && op.ended <= fault.held_until)
        })
        .count();
    let could = all.iter().any(|fault| fault.fault.leaves_majority());
    if succeeded == 0 && could {
        findings.untold(format!("no write was acknowledged while a {name} lasted"));
    }
    findings.figure(
        format!("during a {name}"),
        format!("{succeeded} writes acknowledged ({} times)", all.len()),
    );
}

fn proven(faults: &[FaultRecord]) -> impl Iterator<Item = &FaultRecord> {
    faults.iter().filter(|fault| fault.proof.is_some())
}

fn count(faults: &[FaultRecord], findings: &mut Findings) {
    let mut counts: BTreeMap<Fault, (u32, u32)> = BTreeMap::new();
    for fault in faults {
        let count = counts.entry(fault.fault).or_default();
        count.0 += 1;
        count.1 += u32::from(fault.proof.is_none());
    }
    let show = |(fault, (times, unproven)): (&Fault, &(u32, u32))| match unproven {
        0 => format!("{fault:?} {times}"),
        _ => format!("{fault:?} {times} ({unproven} without effect)"),
    };
    let all: Vec<String> = counts.iter().map(show).collect();
    findings.figure("faults", format!("{}: {}", faults.len(), all.join(", ")));
    let overlapping = faults.iter().filter(|fault| {
        faults
            .iter()
            .any(|other| fault.from < other.from && other.from < fault.until)
    });
    findings.figure(
        "faults with another begun in them",
        overlapping.count().to_string(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::Story;
    use crate::findings::Verdict;

    fn fault(fault: Fault, proof: Option<&str>) -> FaultRecord {
        FaultRecord {
            fault,
            family: fault.family(),
            nodes: vec![1],
            what: String::new(),
            from: 10,
            held_from: 11,
            held_until: 20,
            until: 21,
            proof: proof.map(str::to_owned),
        }
    }

    fn verdict(faults: Vec<FaultRecord>, acknowledged: Option<(Micros, Micros)>) -> Verdict {
        let mut story = Story::new(1);
        if let Some((started, ended)) = acknowledged {
            story.report("S", Some(1));
            story.last_op().started = started;
            story.last_op().ended = ended;
        }
        let evidence = Evidence {
            faults,
            ..story.evidence()
        };
        let chosen = Chosen {
            families: &[Family::Kill],
            nodes: 3,
            run: Duration::from_secs(10),
        };
        check(&evidence, &chosen).verdict()
    }

    #[test]
    fn a_fault_with_proof_and_a_write_in_it_is_told() {
        let there = || vec![fault(Fault::KillLeader, Some("reaped"))];
        assert_eq!(verdict(there(), Some((12, 13))), Verdict::Holds);
        assert_eq!(
            verdict(there(), Some((5, 13))),
            Verdict::Unknown,
            "it began before"
        );
        assert_eq!(verdict(there(), None), Verdict::Unknown);
    }

    #[test]
    fn a_fault_without_proof_or_of_another_kind_is_none() {
        assert_eq!(
            verdict(vec![fault(Fault::KillLeader, None)], Some((12, 13))),
            Verdict::Unknown
        );
        assert_eq!(
            verdict(vec![fault(Fault::PauseLeader, Some("T"))], Some((12, 13))),
            Verdict::Unknown
        );
        assert_eq!(verdict(Vec::new(), Some((12, 13))), Verdict::Unknown);
    }

    #[test]
    fn nothing_needs_to_succeed_where_no_majority_was_left() {
        let all = vec![fault(Fault::KillAll, Some("reaped"))];
        assert_eq!(verdict(all, None), Verdict::Holds);
    }
}
