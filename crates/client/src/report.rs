//! What is reported: outcomes of calls, and how many of them become few.

use std::sync::Arc;

use brama_core::command::{PermitId, ReportItem};
use brama_core::limits::MAX_REASON_BYTES;
use brama_core::name::check_reason;
use brama_core::report::{Outcome, Summary};
use brama_core::{CircuitName, Metadata, Refusal};

/// Outcomes of one circuit, in order.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Item(pub(crate) ReportItem);

impl Item {
    /// What `summary` sums up.
    pub fn new(name: CircuitName, summary: Summary) -> Self {
        Self(ReportItem {
            name,
            generation: None,
            permit: None,
            summary,
            reason: None,
            metadata: Metadata::new(),
        })
    }

    /// One outcome.
    pub fn of(name: CircuitName, outcome: Outcome) -> Self {
        Self::new(name, Summary::of(outcome))
    }

    /// The generation at which the calls were admitted. If the circuit has moved on, they count in the totals only; without one they are
    /// taken at face value.
    pub fn at(mut self, generation: u64) -> Self {
        self.0.generation = Some(generation);
        self
    }

    /// The permit that the one call held.
    pub fn with_permit(mut self, permit: PermitId) -> Self {
        self.0.permit = Some(permit);
        self
    }

    /// Why the last failure failed; at most 1 KiB.
    pub fn because(mut self, reason: impl Into<Arc<str>>) -> Self {
        self.0.reason = Some(reason.into());
        self
    }

    /// Goes into the event, over the circuit's own; the limits are those of the circuit's metadata.
    pub fn with_metadata(mut self, key: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.0.metadata.insert(key, value);
        self
    }

    /// What the cluster would refuse the whole batch for.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        self.0.name.validate()?;
        self.0.summary.validate()?;
        check_reason(self.0.reason.as_deref())?;
        self.0.metadata.validate()
    }

    /// About how many bytes it takes in a request; never less.
    pub(crate) fn cost_bytes(&self) -> usize {
        let item = &self.0;
        let name = item.name.identifier.len() + item.name.scope.as_ref().map_or(0, |scope| scope.len());
        let metadata: usize = item
            .metadata
            .iter()
            .map(|(key, value)| key.len() + value.len() + 16)
            .sum();
        200 + name + metadata + item.reason.as_ref().map_or(0, |reason| reason.len())
    }
}

/// A reason that fits: cut between two characters.
pub(crate) fn fitting_reason(reason: &str) -> Arc<str> {
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    Arc::from(&reason[..end])
}

/// Fewer items that count the same, and for each given item the index of the one that it went into.
///
/// Items of one circuit keep their order; those of different circuits do not touch each other. So an item joins the newest of its circuit, if
/// nothing but the outcomes sets the two apart. Permits are for one outcome each and stay alone.
pub(crate) fn merge(items: Vec<Item>) -> (Vec<ReportItem>, Vec<usize>) {
    let mut merged: Vec<ReportItem> = Vec::new();
    let mut newest = std::collections::HashMap::<CircuitName, usize>::new();
    let mut places = Vec::with_capacity(items.len());
    for Item(item) in items {
        let place = match newest.get(&item.name) {
            Some(&place) if may_join(&merged[place], &item) => {
                let into = &mut merged[place];
                into.summary = into.summary.then(&item.summary);
                if item.reason.is_some() {
                    into.reason = item.reason;
                }
                place
            }
            _ => {
                newest.insert(item.name.clone(), merged.len());
                merged.push(item);
                merged.len() - 1
            }
        };
        places.push(place);
    }
    (merged, places)
}

fn may_join(earlier: &ReportItem, later: &ReportItem) -> bool {
    earlier.permit.is_none()
        && later.permit.is_none()
        && earlier.generation == later.generation
        && earlier.metadata == later.metadata
        // Joined, they must still be a summary that the cluster takes.
        && earlier.summary.then(&later.summary).validate().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, outcome: Outcome) -> Item {
        Item::of(CircuitName::new(None, name).unwrap(), outcome)
    }

    #[test]
    fn outcomes_of_one_circuit_become_one_item() {
        use Outcome::{Failure, Success};
        let (merged, places) = merge(vec![
            item("a", Failure).because("first"),
            item("b", Success),
            item("a", Failure).because("second"),
            item("a", Success),
        ]);
        assert_eq!(places, [0, 1, 0, 0]);
        assert_eq!(merged[0].summary, Summary::of_all([Failure, Failure, Success]));
        assert_eq!(merged[0].reason.as_deref(), Some("second"));
        assert_eq!(merged[1].summary, Summary::of(Success));
    }

    #[test]
    fn generations_permits_and_metadata_keep_items_apart_and_in_order() {
        use Outcome::Failure;
        let (merged, places) = merge(vec![
            item("a", Failure).at(1),
            item("a", Failure).at(2),
            item("a", Failure).at(1),
            item("a", Failure).at(1).with_permit(PermitId(7)),
            item("a", Failure).at(1),
            item("a", Failure).at(1).with_metadata("k", "v"),
        ]);
        // The third must not join the first: between them the circuit was reported at another generation.
        assert_eq!(places, [0, 1, 2, 3, 4, 5]);
        assert_eq!(merged.iter().map(|item| item.summary.failures).sum::<u64>(), 6);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let reason = "ż".repeat(1000);
        let fitting = fitting_reason(&reason);
        assert_eq!(fitting.len(), 1024);
        assert!(fitting.chars().all(|c| c == 'ż'));
        assert_eq!(&*fitting_reason("short"), "short");
    }
}
