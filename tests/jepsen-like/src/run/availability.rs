//! Whether writes went on while they had to: also while something is broken, as long as a majority is up and hears each other (G12).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::check::Evidence;
use crate::findings::Findings;
use crate::history::{Op, Outcome};
use crate::nemesis::{Fault, FaultRecord, Span, Standing};
use crate::time::{Micros, percentile, show_ms};

/// `raft.election_timeout_max` of the runs.
const LONGEST_ELECTION: Micros = 1_000_000;
/// Writes resume after a leader's death within this, at worst.
const WORST: Micros = 4 * LONGEST_ELECTION;
/// And within this in the median.
const MEDIAN: Micros = 2 * LONGEST_ELECTION;
/// A median of fewer says nothing.
const ENOUGH: usize = 5;

/// One second of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Second {
    /// From this one on, counted from the beginning.
    pub second: u64,
    /// Operations that were answered in it.
    pub ok: u32,
    /// Of these, writes.
    pub writes: u32,
    /// Operations that were refused in it.
    pub refused: u32,
    /// Operations that were given up in it.
    pub unknown: u32,
}

/// What became of operations in each second, without a hole.
pub fn timeline(ops: &[Op]) -> Vec<Second> {
    let mut seconds: BTreeMap<u64, Second> = BTreeMap::new();
    for op in ops {
        let second = seconds.entry(op.ended / 1_000_000).or_default();
        match op.outcome {
            Outcome::Ok(_) => second.ok += 1,
            Outcome::Refused(_) => second.refused += 1,
            Outcome::Unknown(_) => second.unknown += 1,
        }
        second.writes += u32::from(op.is_acknowledged_write());
    }
    let last = seconds.keys().next_back().copied().unwrap_or(0);
    let at = |second| Second {
        second,
        ..seconds.get(&second).copied().unwrap_or_default()
    };
    (0..=last).map(at).collect()
}

/// Judges it.
pub(super) fn judge(evidence: &Evidence) -> Findings {
    let mut findings = Findings::default();
    let writes = Writes::of(&evidence.ops);
    let (mut judged, mut longest) = (0, 0);
    let mut lasting = 0;
    for span in &evidence.spans {
        if span.standing != Standing::Majority {
            continue;
        }
        let (gap, at) = writes.longest_gap(span.from, span.until);
        longest = longest.max(gap);
        judged += 1;
        if span.faults > 0 && span.until - span.from > WORST {
            lasting += span.until - span.from;
        }
        findings.require(gap <= WORST, "G12", || {
            format!(
                "no write was acknowledged for {} from {} on, while a majority was up and heard each other ({})",
                show_ms(gap),
                show_ms(at),
                names(&evidence.faults, at)
            )
        });
    }
    let (overall, _) = writes.longest_gap(writes.first(), writes.last());
    let hampered = evidence
        .spans
        .iter()
        .filter(|span| span.standing == Standing::Hampered);
    let hampered = hampered
        .map(|span| writes.longest_gap(span.from, span.until).0)
        .max()
        .unwrap_or(0);
    findings.figure(
        "longest without a write",
        format!(
            "{} with a majority up and connected, {} with one over bad links, {} over all",
            show_ms(longest),
            show_ms(hampered),
            show_ms(overall)
        ),
    );
    findings.figure("possible", shares(&evidence.spans));
    judge_resumption(evidence, &writes, &mut findings);
    findings.checked(
        "G12",
        format!(
            "in {judged} times with a majority no {} without an acknowledged write; {} of that in faults that last longer",
            show_ms(WORST),
            show_ms(lasting)
        ),
    );
    findings
}

/// After the leader was taken away, and nothing else.
fn judge_resumption(evidence: &Evidence, writes: &Writes, findings: &mut Findings) {
    let lost_leader = |fault: &&FaultRecord| {
        matches!(
            fault.fault,
            Fault::KillLeader
                | Fault::PauseLeader
                | Fault::IsolateLeader
                | Fault::SplitOffLeader
                | Fault::LeaderUnheard
        )
    };
    let mut took: Vec<Micros> = evidence
        .faults
        .iter()
        .filter(lost_leader)
        .filter_map(|fault| {
            let resumed = writes.first_begun_after(fault.held_from)?;
            let mut meanwhile = evidence
                .spans
                .iter()
                .filter(|span| span.from < resumed && fault.from < span.until);
            meanwhile
                .all(|span| span.standing == Standing::Majority)
                .then_some(resumed - fault.from)
        })
        .collect();
    took.sort_unstable();
    let median = percentile(&took, 50);
    findings.figure(
        "writes resumed without the leader",
        format!(
            "p50 {}, max {} ({} times)",
            show_ms(median),
            show_ms(percentile(&took, 100)),
            took.len()
        ),
    );
    findings.require(took.len() < ENOUGH || median <= MEDIAN, "G12", || {
        format!(
            "writes resumed {} after the leader was lost, in the median of {}",
            show_ms(median),
            took.len()
        )
    });
}

fn shares(spans: &[Span]) -> String {
    let sum = |standing| -> Micros {
        let of = spans.iter().filter(|span| span.standing == standing);
        of.map(|span| span.until - span.from).sum()
    };
    format!(
        "writes for {}, over bad links for {}, not for {}",
        show_ms(sum(Standing::Majority)),
        show_ms(sum(Standing::Hampered)),
        show_ms(sum(Standing::None))
    )
}

/// The faults at a moment.
fn names(faults: &[FaultRecord], at: Micros) -> String {
    let there = faults
        .iter()
        .filter(|fault| fault.from <= at && at <= fault.until);
    let names: Vec<_> = there.map(|fault| format!("{:?}", fault.fault)).collect();
    if names.is_empty() {
        "no fault".into()
    } else {
        names.join(", ")
    }
}

/// Acknowledged writes, by when they ended.
struct Writes(Vec<(Micros, Micros)>);

impl Writes {
    fn of(ops: &[Op]) -> Self {
        let writes = ops.iter().filter(|op| op.is_acknowledged_write());
        let mut ends: Vec<_> = writes.map(|op| (op.ended, op.started)).collect();
        ends.sort_unstable();
        Self(ends)
    }

    fn first(&self) -> Micros {
        self.0.first().map_or(0, |(ended, _)| *ended)
    }

    fn last(&self) -> Micros {
        self.0.last().map_or(0, |(ended, _)| *ended)
    }

    /// The longest time within these bounds without one, and where it begins.
    fn longest_gap(&self, from: Micros, until: Micros) -> (Micros, Micros) {
        let first = self.0.partition_point(|(ended, _)| *ended < from);
        let within = self.0[first..].iter().map(|(ended, _)| *ended);
        let mut before = from;
        let mut longest = (0, from);
        for ended in within.take_while(|ended| *ended < until).chain([until]) {
            longest = longest.max((ended.saturating_sub(before), before));
            before = ended;
        }
        longest
    }

    fn first_begun_after(&self, moment: Micros) -> Option<Micros> {
        let first = self.0.partition_point(|(ended, _)| *ended < moment);
        let begun = self.0[first..].iter().find(|(_, started)| *started >= moment);
        begun.map(|(ended, _)| *ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::Story;
    use crate::findings::Verdict;

    const S: Micros = 1_000_000;

    fn span(from: Micros, until: Micros, standing: Standing) -> Span {
        Span {
            from,
            until,
            standing,
            faults: 1,
        }
    }

    /// Writes that are acknowledged at these seconds.
    fn story(acknowledged: &[Micros], spans: Vec<Span>) -> Evidence {
        let mut story = Story::new(1);
        for at in acknowledged {
            story.report("S", Some(1));
            story.last_op().started = at * S;
            story.last_op().ended = at * S;
        }
        Evidence {
            spans,
            ..story.evidence()
        }
    }

    #[test]
    fn silence_with_a_majority_is_found_and_without_one_is_not() {
        let silent = |standing| story(&[1, 2, 9, 10], vec![span(0, 11 * S, standing)]);
        assert_eq!(judge(&silent(Standing::Majority)).count("G12"), 1);
        assert_eq!(judge(&silent(Standing::None)).verdict(), Verdict::Holds);
        let steady = story(&[1, 4, 7, 10], vec![span(0, 11 * S, Standing::Majority)]);
        assert_eq!(judge(&steady).verdict(), Verdict::Holds);
    }

    #[test]
    fn silence_is_judged_while_the_fault_lasts_not_only_afterwards() {
        let spans = vec![
            span(0, 2 * S, Standing::Majority),
            span(2 * S, 9 * S, Standing::Majority),
            span(9 * S, 12 * S, Standing::Majority),
        ];
        assert_eq!(
            judge(&story(&[1, 2, 10, 11], spans.clone())).count("G12"),
            1,
            "it heals, and writes go on: too late"
        );
        assert_eq!(judge(&story(&[1, 5, 8, 11], spans)).count("G12"), 0);
    }

    #[test]
    fn a_time_line_has_every_second() {
        let line = timeline(&story(&[1, 1, 3], Vec::new()).ops);
        let ok: Vec<_> = line.iter().map(|second| (second.second, second.ok)).collect();
        assert_eq!(ok, [(0, 0), (1, 2), (2, 0), (3, 1)]);
    }
}
