//! What the rounds of a run with power cuts add up to.

use super::How;
use crate::findings::{Findings, Verdict};
use crate::lossy::Lost;
use crate::time::{Micros, percentile, show_ms};

#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) cuts: u32,
    /// How the power went, by name, and how often.
    pub(super) moments: std::collections::BTreeMap<&'static str, u32>,
    pub(super) in_flight: usize,
    pub(super) acknowledged: usize,
    pub(super) events: usize,
    /// From the start of the processes until all nodes are a cluster again.
    pub(super) back: Vec<Micros>,
    pub(super) purged: u64,
    pub(super) snapshot: u64,
    pub(super) compared: usize,
    pub(super) terms: u64,
    /// What lossy disks lost; nothing is known of others.
    pub(super) lost: Lost,
}

impl Sum {
    pub(super) fn tell(mut self, findings: &mut Findings, planned: u32) {
        self.back.sort_unstable();
        let (median, worst) = (percentile(&self.back, 50), percentile(&self.back, 100));
        let moments: Vec<_> = self
            .moments
            .iter()
            .map(|(name, times)| format!("{times} {name}"))
            .collect();
        findings.figure(
            "power cuts",
            format!("{} of {planned}: {}", self.cuts, moments.join(", ")),
        );
        findings.figure(
            "reports on their way",
            format!("{} when the power went", self.in_flight),
        );
        findings.figure(
            "power back to cluster back",
            format!("median {}, worst {}", show_ms(median), show_ms(worst)),
        );
        findings.figure(
            "log",
            format!(
                "snapshot at {}, dropped up to {}, term {}",
                self.snapshot, self.purged, self.terms
            ),
        );
        findings.checked(
            "G8",
            format!(
                "{} acknowledged operations are there, and no vote went back",
                self.acknowledged
            ),
        );
        findings.checked("G7", format!("{} events, without gap or duplicate", self.events));
        findings.checked("G1", format!("equal states at {} log positions", self.compared));
        if self.in_flight == 0 && findings.verdict() == Verdict::Holds {
            findings.untold("no report was on its way when the power went");
        }
    }

    /// The same for lossy disks, which say what they lost.
    pub(super) fn tell_of_lost(&self, how: How, findings: &mut Findings) {
        if how == How::Ext4 {
            return;
        }
        let Lost {
            pages,
            kept,
            torn,
            names,
            ..
        } = self.lost;
        findings.figure(
            "not synced when the power went",
            format!("{pages} pages were lost, {torn} torn, {kept} kept; {names} changes of names were lost"),
        );
        if pages == 0 || torn + kept == 0 {
            findings.untold("no cut took pages that were not synced, and left others");
        }
    }
}
