//! How cluster time relates to the harness's clock.
//!
//! A leader stamps a write between the moment at which it was sent and the moment at which it was acknowledged. So each acknowledged report
//! bounds the difference of the two clocks, and many together bound it narrowly. The arrival of an event says nothing here: it is
//! later than the event by as much as a busy node likes, so an opening whose end is counted from its arrival is never late.

use std::collections::HashMap;

use super::Evidence;
use super::effects::named_item;
use crate::time::{Micros, of_timestamp};

/// The harness's clock is cluster time plus something in between; microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// At least so much.
    pub low: i64,
    /// At most so much.
    pub high: i64,
}

impl Offset {
    /// As narrow as the evidence allows; `None`: no report was acknowledged. Only good for a time in which one leader led.
    pub fn of(evidence: &Evidence) -> Option<Self> {
        let mut ops = HashMap::new();
        for op in evidence.ops.iter().filter(|op| op.is_ok()) {
            if let Some((batch, _)) = op.action.batch() {
                ops.insert(batch, op);
            }
        }
        let bounds = evidence.events.values().filter_map(|seen| {
            let op = ops.get(named_item(&seen.event)?.0)?;
            let stamp = signed(of_timestamp(seen.event.time.as_ref()?));
            Some((signed(op.started) - stamp, signed(op.ended) - stamp))
        });
        let all = bounds.reduce(|a, b| (a.0.max(b.0), a.1.min(b.1)));
        // Clocks drift a little against each other, so the tightest bounds may just miss each other.
        all.map(|(a, b)| Self {
            low: a.min(b),
            high: a.max(b),
        })
    }

    /// By how much `arrived` is later than this moment of cluster time: at least, at most. Negative: earlier.
    pub fn lateness(self, arrived: Micros, due: Micros) -> (i64, i64) {
        let after = signed(arrived) - signed(due);
        (after - self.high, after - self.low)
    }

    /// How much is not known.
    pub fn width(self) -> Micros {
        self.high.abs_diff(self.low)
    }
}

fn signed(us: Micros) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use brama_proto::v1::EventType;

    use super::*;
    use crate::check::samples::{Story, at, outcome};

    /// Reports that were stamped at a moment of cluster time (ms after the story's epoch) while they were under way (us).
    fn offset(reports: &[(i64, Micros, Micros)]) -> (Offset, i64) {
        let mut story = Story::new(1);
        for (stamp_ms, started, ended) in reports {
            let batch = story.report("S", Some(9));
            story.last_op().started = *started;
            story.last_op().ended = *ended;
            let mut event = outcome(EventType::Success, 1, &batch);
            event.time = at(*stamp_ms).time;
            story.event_at(u64::MAX, event);
        }
        let epoch = signed(of_timestamp(at(0).time.as_ref().unwrap()));
        (Offset::of(&story.evidence()).unwrap(), epoch)
    }

    #[test]
    fn many_writes_bound_the_offset_more_narrowly_than_each() {
        // Cluster time 0 ms is 5 ms of the harness.
        let (offset, epoch) = offset(&[(10, 11_000, 15_500), (20, 24_800, 40_000)]);
        assert_eq!((offset.low + epoch, offset.high + epoch), (4800, 5500));
        assert_eq!(offset.width(), 700);
    }

    #[test]
    fn lateness_does_not_depend_on_when_the_opening_was_heard_of() {
        let (offset, epoch) = offset(&[(10, 14_900, 15_100)]);
        let due = u64::try_from(epoch).unwrap() + 1_000_000;
        assert_eq!(offset.lateness(1_105_000, due), (99_900, 100_100));
        let (least, most) = offset.lateness(1_000_000, due);
        assert!(least < 0 && most < 0, "early is not hidden: {least} {most}");
    }
}
