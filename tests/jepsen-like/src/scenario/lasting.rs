//! How long openings last, by the harness's own clock.
//!
//! An opening begins somewhere between the moment at which it was asked for and its acknowledgement. So each length is known as an interval, and a
//! judgement that needs to know it better than that is left open.

use brama_proto::v1;

use super::stage::Stage;
use crate::findings::Findings;
use crate::time::{Micros, percentile, show_ms};

/// Cluster time may run this much faster than the harness's clock: 0.1 %.
const EARLY: u64 = 1000;

/// An opening that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    pub(super) circuit: usize,
    /// Of the circuit while it lasts.
    pub(super) generation: u64,
    /// As it was asked for.
    pub(super) lasts: Micros,
    pub(super) sent: Micros,
    pub(super) acknowledged: Micros,
}

/// How an opening went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lasted {
    /// How long it should have lasted.
    pub(super) should: Micros,
    /// How long it did: at least, at most; `None`: it has not ended.
    pub(super) did: Option<(Micros, Micros)>,
}

/// How late openings may end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Late {
    /// Each of them.
    pub(super) each: Micros,
    /// The first of them: a busy machine delays some, a clock that is wrong all of them.
    pub(super) first: Micros,
}

impl Opened {
    /// When its end arrived at the first subscriber, if it has.
    pub(super) fn ended(&self, stage: &Stage) -> Option<Micros> {
        let name = &stage.circuits.get(self.circuit).name;
        let ended = stage.ledger.find(|event| {
            event.r#type() == v1::EventType::CircuitHalfOpened
                && event.generation == self.generation + 1
                && event.name.as_ref() == Some(name)
        });
        ended.map(|seen| seen.arrived)
    }

    /// When it is due, at the latest.
    pub(super) fn due(&self) -> Micros {
        self.acknowledged + self.lasts
    }

    pub(super) fn lasted(&self, stage: &Stage) -> Lasted {
        let did = self.ended(stage).map(|ended| {
            // One that ended before it was acknowledged lasted no time at all.
            (
                ended.saturating_sub(self.acknowledged),
                ended.saturating_sub(self.sent),
            )
        });
        Lasted {
            should: self.lasts,
            did,
        }
    }
}

/// None may end early, and none late.
pub(super) fn judge(what: &str, lasted: &[Lasted], late: Late) -> Findings {
    let mut findings = Findings::default();
    if lasted.is_empty() {
        findings.untold(format!("{what}: no opening was acknowledged"));
        return findings;
    }
    let ended: Vec<(Micros, (Micros, Micros))> = lasted
        .iter()
        .filter_map(|lasted| Some((lasted.should, lasted.did?)))
        .collect();
    findings.require(ended.len() == lasted.len(), "G5", || {
        format!(
            "{what}: {} of {} openings never ended",
            lasted.len() - ended.len(),
            lasted.len()
        )
    });
    for (should, (_, most)) in &ended {
        findings.require(*most >= should - should / EARLY, "G4", || {
            format!(
                "{what}: an opening of {} ended {} early",
                show_ms(*should),
                show_ms(should - most)
            )
        });
    }
    let sorted = |of: fn(&(Micros, (Micros, Micros))) -> Micros| {
        let mut all: Vec<Micros> = ended.iter().map(of).collect();
        all.sort_unstable();
        all
    };
    let least = sorted(|(should, (least, _))| least.saturating_sub(*should));
    let most = sorted(|(should, (_, most))| most.saturating_sub(*should));
    findings.figure(
        format!("{what}: openings"),
        format!(
            "{}, late by at most: first {}, p50 {}, worst {} (allowed: first {}, each {})",
            ended.len(),
            show_ms(percentile(&most, 0)),
            show_ms(percentile(&most, 50)),
            show_ms(percentile(&most, 100)),
            show_ms(late.first),
            show_ms(late.each),
        ),
    );
    let surely = (percentile(&least, 0), percentile(&least, 100));
    let perhaps = (percentile(&most, 0), percentile(&most, 100));
    if surely.0 > late.first || surely.1 > late.each {
        findings.broken(
            "G5",
            format!(
                "{what}: the first ended at least {} late, the last {}",
                show_ms(surely.0),
                show_ms(surely.1)
            ),
        );
    } else if perhaps.0 > late.first || perhaps.1 > late.each {
        findings.untold(format!(
            "{what}: openings took too long to be acknowledged to tell how late they ended"
        ));
    } else {
        findings.checked("G5", format!("{what}: {} openings ended in time", ended.len()));
    }
    findings.checked("G4", format!("{what}: none of {} ended early", ended.len()));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Verdict;

    const LATE: Late = Late {
        each: 500_000,
        first: 50_000,
    };

    /// Openings of 10 s, each known to 3 ms, that lasted so much more.
    fn verdict(more_us: &[Option<i64>]) -> Verdict {
        let lasted = |more: &Option<i64>| Lasted {
            should: 10_000_000,
            did: more.map(|more| {
                let least = 10_000_000_u64.saturating_add_signed(more);
                (least, least + 3_000)
            }),
        };
        let all: Vec<Lasted> = more_us.iter().map(lasted).collect();
        judge("a sample", &all, LATE).verdict()
    }

    #[test]
    fn on_time_holds_and_nothing_measured_is_unknown() {
        assert_eq!(verdict(&[Some(0), Some(400_000), Some(-10_000)]), Verdict::Holds);
        assert_eq!(verdict(&[]), Verdict::Unknown);
    }

    #[test]
    fn early_late_and_never_are_found() {
        assert_eq!(verdict(&[Some(0), Some(-14_000)]), Verdict::Broken, "early");
        assert_eq!(verdict(&[Some(0), Some(501_000)]), Verdict::Broken, "one is late");
        assert_eq!(
            verdict(&[Some(51_000), Some(60_000)]),
            Verdict::Broken,
            "all are late"
        );
        assert_eq!(verdict(&[Some(0), None]), Verdict::Broken, "one never ends");
    }

    #[test]
    fn what_is_not_known_well_enough_is_not_told() {
        assert_eq!(verdict(&[Some(0), Some(499_000)]), Verdict::Unknown);
        assert_eq!(verdict(&[Some(48_000), Some(60_000)]), Verdict::Unknown);
    }
}
