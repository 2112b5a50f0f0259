//! The newest events: bounded in number and bytes, part of the state, the same on every node.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use imbl::Vector;

use crate::event::Event;
use crate::limits::Limits;
use crate::query::Compacted;

/// Events that lie side by side: a page of memory. One by one they would leave holes, because an allocator gives the place of the one that
/// goes to something else, and a log that always has the same number of events would take ever more (`scripts/soak`).
const IN_A_CHUNK: usize = 4096 / size_of::<Event>();

/// The newest events, in order of their revisions, without a gap. Its clone is O(1).
#[derive(Clone, Debug, Default)]
pub(crate) struct EventLog {
    /// All are full but the last.
    chunks: Vector<Arc<Vec<Event>>>,
    /// So many at the beginning of the first chunk do not belong to the log any more; their texts go when the chunk goes.
    dropped: usize,
    len: usize,
    /// Revision of the newest event ever; 0 before the first.
    revision: u64,
    bytes: u64,
}

impl EventLog {
    /// A log that ends with `revision` and holds these events.
    ///
    /// # Errors
    /// When they do not lead up to it one by one.
    pub(crate) fn restore(
        revision: u64,
        events: impl ExactSizeIterator<Item = Event>,
    ) -> Result<Self, &'static str> {
        let first = (revision + 1)
            .checked_sub(events.len() as u64)
            .filter(|first| *first > 0)
            .ok_or("more events than revisions")?;
        let mut log = Self::default();
        for (event, revision) in events.zip(first..) {
            if event.revision != revision {
                return Err("events that do not follow one another");
            }
            log.append(event);
        }
        log.revision = revision;
        Ok(log)
    }

    /// Revision of the newest event; 0: none yet.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Revision of the oldest event that is kept.
    pub(crate) fn oldest(&self) -> u64 {
        self.revision + 1 - self.len as u64
    }

    /// What the kept events count against the limit in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many events are kept.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends an event, and drops the oldest ones beyond the limits; the newest always stays.
    pub(crate) fn push(&mut self, event: Event, limits: &Limits) {
        assert_eq!(event.revision, self.revision + 1, "revisions rise by one");
        self.revision = event.revision;
        self.append(event);
        while self.len > 1 && (self.len as u64 > limits.max_events || self.bytes > limits.max_event_bytes) {
            self.drop_oldest();
        }
    }

    fn append(&mut self, event: Event) {
        self.len += 1;
        self.bytes += event.cost_bytes();
        if let Some(last) = self.chunks.back_mut()
            && last.len() < IN_A_CHUNK
        {
            match Arc::get_mut(last) {
                Some(last) => last.push(event),
                // Somebody reads it.
                None => *last = Arc::new(chunk(last.iter().cloned().chain([event]))),
            }
            return;
        }
        self.chunks.push_back(Arc::new(chunk([event])));
    }

    fn drop_oldest(&mut self) {
        let oldest = self.chunks.front().and_then(|first| first.get(self.dropped));
        let Some(oldest) = oldest else { return };
        self.bytes -= oldest.cost_bytes();
        self.len -= 1;
        self.dropped += 1;
        if self.dropped == IN_A_CHUNK {
            self.chunks.pop_front();
            self.dropped = 0;
        }
    }

    /// At most `max` events after `after`; none when there are none yet.
    pub(crate) fn after(&self, after: u64, max: usize) -> Result<Vec<KeptEvent>, Compacted> {
        if after >= self.revision {
            return Ok(Vec::new());
        }
        let oldest = self.oldest();
        if after + 1 < oldest {
            return Err(Compacted { oldest });
        }
        let skip = (after + 1 - oldest) as usize;
        let mut events = Vec::with_capacity(max.min(self.len - skip));
        let places = self.places(skip).take(max);
        events.extend(places.map(|(chunk, at)| KeptEvent {
            chunk: chunk.clone(),
            at,
        }));
        Ok(events)
    }

    /// Reads a little of the oldest events, so that they are near when they are dropped.
    pub(crate) fn touch_oldest(&self, count: usize) -> u64 {
        self.iter()
            .take(count)
            .map(|event| event.cost_bytes().wrapping_add(event.count))
            .fold(0, u64::wrapping_add)
    }

    /// Takes the newest event out, as nothing ever may: see [`crate::mutants`].
    #[cfg(feature = "mutants")]
    pub(crate) fn lose_newest(&mut self) {
        if let Some(last) = self.chunks.back_mut()
            && let Some(lost) = Arc::make_mut(last).pop()
        {
            self.len -= 1;
            self.bytes -= lost.cost_bytes();
            if last.is_empty() {
                self.chunks.pop_back();
            }
        }
    }

    /// All events that are kept.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Event> {
        self.iter_after(self.oldest().saturating_sub(1))
    }

    /// All events after a revision that are kept.
    pub(crate) fn iter_after(&self, after: u64) -> impl Iterator<Item = &Event> {
        let skip = (after + 1).saturating_sub(self.oldest());
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        self.places(skip).filter_map(|(chunk, at)| chunk.get(at))
    }

    /// Where events are, after so many of the oldest.
    fn places(&self, skip: usize) -> impl Iterator<Item = (&Arc<Vec<Event>>, usize)> {
        let skip = self.dropped.saturating_add(skip);
        let (first, begin) = (skip / IN_A_CHUNK, skip % IN_A_CHUNK);
        let chunks = (first..self.chunks.len()).filter_map(|number| self.chunks.get(number));
        chunks.enumerate().flat_map(move |(number, chunk)| {
            let begin = if number == 0 { begin } else { 0 };
            (begin..chunk.len()).map(move |at| (chunk, at))
        })
    }
}

impl PartialEq for EventLog {
    fn eq(&self, other: &Self) -> bool {
        (self.revision, self.len) == (other.revision, other.len) && self.iter().eq(other.iter())
    }
}

/// One that grows no more.
fn chunk(events: impl IntoIterator<Item = Event>) -> Vec<Event> {
    let mut chunk = Vec::with_capacity(IN_A_CHUNK);
    chunk.extend(events);
    chunk
}

/// An event where it lies in the log: shared, not copied. With it, those beside it stay in memory: whoever keeps it for long keeps it
/// [alone](KeptEvent::alone).
#[derive(Clone)]
pub struct KeptEvent {
    chunk: Arc<Vec<Event>>,
    at: usize,
}

impl KeptEvent {
    /// A copy that holds nothing else.
    pub fn alone(&self) -> Self {
        (**self).clone().into()
    }
}

impl From<Event> for KeptEvent {
    fn from(event: Event) -> Self {
        Self {
            chunk: Arc::new(vec![event]),
            at: 0,
        }
    }
}

impl Deref for KeptEvent {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.chunk[self.at]
    }
}

impl PartialEq for KeptEvent {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for KeptEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Cause, EventKind};
    use crate::shared_metadata::SharedMetadata;
    use crate::time::ClusterTime;

    fn event(revision: u64) -> Event {
        Event {
            revision,
            time: ClusterTime::from_micros(revision),
            name: None,
            kind: EventKind::Failure,
            previous_state: None,
            new_state: None,
            failure_count: 1,
            cause: Cause::Request,
            reason: Some("x".repeat(revision as usize % 7).into()),
            metadata: SharedMetadata::default(),
            generation: 1,
            count: 1,
            expires_at: None,
            permit: None,
            openings_in_a_row: 0,
        }
    }

    fn limits(max_events: u64) -> Limits {
        Limits {
            max_events,
            ..Limits::default()
        }
    }

    /// Against a plain list, for logs around the size of a chunk, with a reader of every chunk and a copy of every state.
    #[test]
    fn it_holds_the_newest_events_wherever_its_chunks_end() {
        for kept in [
            1,
            2,
            IN_A_CHUNK - 1,
            IN_A_CHUNK,
            IN_A_CHUNK + 1,
            3 * IN_A_CHUNK + 5,
        ] {
            let mut log = EventLog::default();
            let mut copies = Vec::new();
            for revision in 1..=(5 * IN_A_CHUNK as u64) {
                log.push(event(revision), &limits(kept as u64));
                let oldest = revision.saturating_sub(kept as u64) + 1;
                let expected: Vec<Event> = (oldest..=revision).map(event).collect();
                assert!(log.iter().eq(&expected), "{kept} kept, at {revision}");
                assert_eq!((log.len(), log.oldest()), (expected.len(), oldest));
                assert_eq!(log.bytes(), expected.iter().map(Event::cost_bytes).sum::<u64>());
                for after in oldest - 1..=revision + 1 {
                    let rest = log.after(after, usize::MAX).expect("kept");
                    let read: Vec<u64> = rest.iter().map(|event| event.revision).collect();
                    assert_eq!(read, (after + 1..=revision).collect::<Vec<_>>());
                    assert_eq!(log.after(after, 2).expect("kept"), rest[..rest.len().min(2)]);
                    assert!(log.iter_after(after).map(|event| event.revision).eq(read));
                }
                if oldest > 1 {
                    assert_eq!(log.after(oldest - 2, 1), Err(Compacted { oldest }));
                }
                let restored = EventLog::restore(revision, expected.clone().into_iter()).expect("in order");
                assert_eq!(restored, log);
                assert_eq!(restored.bytes(), log.bytes());
                copies.push((log.clone(), expected));
            }
            for (copy, expected) in copies {
                assert!(copy.iter().eq(&expected), "a copy stays as it was");
            }
        }
    }

    #[test]
    fn what_does_not_lead_up_to_the_revision_is_no_log() {
        let restore = |revision, events: Vec<u64>| {
            let events: Vec<_> = events.into_iter().map(event).collect();
            EventLog::restore(revision, events.into_iter())
        };
        assert!(restore(3, vec![2, 3]).is_ok());
        assert!(restore(3, vec![1, 3]).is_err());
        assert!(restore(3, vec![1, 2]).is_err());
        assert!(restore(1, vec![0, 1]).is_err(), "there is no revision 0");
        assert!(restore(0, vec![1]).is_err());
    }

    /// Two dozen a page. One word more, and a hundred thousand take 0.8 MiB more.
    #[test]
    fn an_event_is_small() {
        assert!(size_of::<Event>() <= 176, "{} bytes", size_of::<Event>());
    }
}
