//! The newest events: bounded in number and bytes, part of the state, the same on every node.

use std::sync::Arc;

use imbl::Vector;

use crate::event::Event;
use crate::limits::Limits;
use crate::query::Compacted;

/// The newest events, in order of their revisions, without a gap. Its clone is O(1).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EventLog {
    events: Vector<Arc<Event>>,
    /// Revision of the newest event ever; 0 before the first.
    revision: u64,
    bytes: u64,
}

impl EventLog {
    /// A log that ends with `revision` and holds these events.
    ///
    /// # Errors
    /// When they do not lead up to it one by one.
    pub(crate) fn restore(revision: u64, events: Vec<Arc<Event>>) -> Result<Self, &'static str> {
        let first = (revision + 1)
            .checked_sub(events.len() as u64)
            .ok_or("more events than revisions")?;
        if events
            .iter()
            .zip(first..)
            .any(|(event, revision)| event.revision != revision)
        {
            return Err("events that do not follow one another");
        }
        let bytes = events.iter().map(|event| event.cost_bytes()).sum();
        Ok(Self {
            events: events.into_iter().collect(),
            revision,
            bytes,
        })
    }

    /// Revision of the newest event; 0: none yet.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Revision of the oldest event that is kept.
    pub(crate) fn oldest(&self) -> u64 {
        self.revision + 1 - self.events.len() as u64
    }

    /// What the kept events count against the limit in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends an event, and drops the oldest ones beyond the limits; the newest always stays.
    pub(crate) fn push(&mut self, event: Event, limits: &Limits) {
        assert_eq!(event.revision, self.revision + 1, "revisions rise by one");
        self.revision = event.revision;
        self.bytes += event.cost_bytes();
        self.events.push_back(Arc::new(event));
        while self.events.len() > 1
            && (self.events.len() as u64 > limits.max_events || self.bytes > limits.max_event_bytes)
        {
            if let Some(oldest) = self.events.pop_front() {
                self.bytes -= oldest.cost_bytes();
            }
        }
    }

    /// At most `max` events after `after`; none when there are none yet.
    pub(crate) fn after(&self, after: u64, max: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        if after >= self.revision {
            return Ok(Vec::new());
        }
        let oldest = self.oldest();
        if after + 1 < oldest {
            return Err(Compacted { oldest });
        }
        let skip = (after + 1 - oldest) as usize;
        let count = max.min(self.events.len() - skip);
        Ok(self.events.skip(skip).take(count).iter().cloned().collect())
    }

    /// Reads a little of the oldest events, so that they are near when they are dropped.
    pub(crate) fn touch_oldest(&self, count: usize) -> u64 {
        let oldest = self.events.iter().take(count);
        oldest
            .map(|event| event.cost_bytes().wrapping_add(event.count))
            .fold(0, u64::wrapping_add)
    }

    /// Takes the newest event out, as nothing ever may: see [`crate::mutants`].
    #[cfg(feature = "mutants")]
    pub(crate) fn lose_newest(&mut self) {
        self.events.pop_back();
    }

    /// All events that are kept.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Event>> {
        self.events.iter()
    }
}
