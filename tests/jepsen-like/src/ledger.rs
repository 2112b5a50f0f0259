//! All events that any subscriber saw, each once, with who saw it when; and what no subscriber may ever see.

use std::collections::BTreeMap;

use brama_proto::v1;
use parking_lot::Mutex;

use crate::findings::Findings;
use crate::time::{Clock, Micros};

/// An event, as the first subscriber saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The event.
    pub event: v1::Event,
    /// When it first arrived anywhere.
    pub arrived: Micros,
}

/// What one subscriber got.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Revision of its newest event.
    pub newest: u64,
    /// Events it got.
    pub events: u64,
    /// Times it had to connect again.
    pub reconnects: u64,
    /// Times it was told that what it had missed was compacted.
    pub compactions: u64,
}

/// Shared by all subscribers.
#[derive(Debug)]
pub struct Ledger {
    clock: Clock,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    events: BTreeMap<u64, Seen>,
    /// By revision, when the newest of its deliveries was.
    last_arrivals: BTreeMap<u64, Micros>,
    subscribers: BTreeMap<u32, Progress>,
    findings: Findings,
}

impl Ledger {
    /// An empty one.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            inner: Mutex::default(),
        }
    }

    /// A subscriber got an event. It must be the one after the last that it got, and equal to what the others got.
    pub fn deliver(&self, subscriber: u32, event: v1::Event) {
        let arrived = self.clock.now();
        let mut inner = self.inner.lock();
        let progress = inner.subscribers.entry(subscriber).or_default();
        let expected = progress.newest + 1;
        progress.newest = event.revision;
        progress.events += 1;
        if event.revision != expected {
            let got = event.revision;
            let what = format!("subscriber {subscriber} got revision {got} where {expected} was next");
            inner.findings.broken("G7", what);
        }
        inner.last_arrivals.insert(event.revision, arrived);
        match inner.events.get(&event.revision) {
            None => {
                inner.events.insert(event.revision, Seen { event, arrived });
            }
            Some(first) if first.event != event => {
                let what = format!(
                    "revision {} is not the same event for all: subscriber {subscriber} got {event:?}, another {:?}",
                    event.revision, first.event
                );
                inner.findings.broken("G1", what);
            }
            Some(_) => {}
        }
    }

    /// A subscriber of everything was told that it has everything up to `revision`.
    pub fn progress(&self, subscriber: u32, revision: u64) {
        let mut inner = self.inner.lock();
        let newest = inner.subscribers.entry(subscriber).or_default().newest;
        if revision > newest {
            let what = format!(
                "subscriber {subscriber} was told that it is at revision {revision}, but {newest} is all it got"
            );
            inner.findings.broken("G7", what);
        }
    }

    /// A subscriber was told that the events up to `oldest` are gone, and goes on from there.
    pub fn compacted(&self, subscriber: u32, oldest: u64) {
        let mut inner = self.inner.lock();
        let progress = inner.subscribers.entry(subscriber).or_default();
        progress.compactions += 1;
        let newest = progress.newest;
        if oldest <= newest {
            let what = format!(
                "subscriber {subscriber} had revision {newest} and was told that it is too old, although {oldest} is kept"
            );
            inner.findings.broken("G7", what);
        }
        inner.subscribers.entry(subscriber).or_default().newest = oldest.saturating_sub(1);
    }

    /// A subscriber connects again.
    pub fn reconnected(&self, subscriber: u32) {
        self.inner
            .lock()
            .subscribers
            .entry(subscriber)
            .or_default()
            .reconnects += 1;
    }

    /// Something that no subscriber may be told.
    pub fn broken(&self, guarantee: &'static str, what: String) {
        self.inner.lock().findings.broken(guarantee, what);
    }

    /// How far each subscriber is.
    pub fn subscribers(&self) -> BTreeMap<u32, Progress> {
        self.inner.lock().subscribers.clone()
    }

    /// When the first event that `matches` arrived, and the event.
    pub fn find(&self, matches: impl Fn(&v1::Event) -> bool) -> Option<Seen> {
        let inner = self.inner.lock();
        inner.events.values().find(|seen| matches(&seen.event)).cloned()
    }

    /// All events so far.
    pub fn events(&self) -> BTreeMap<u64, Seen> {
        self.inner.lock().events.clone()
    }

    /// When each event had arrived at the last subscriber that got it.
    pub fn last_arrivals(&self) -> BTreeMap<u64, Micros> {
        self.inner.lock().last_arrivals.clone()
    }

    /// How many wrong things there are so far.
    pub fn problems(&self) -> usize {
        self.inner.lock().findings.problems()
    }

    /// How many events of a kind there are so far.
    pub fn count(&self, kind: v1::EventType) -> usize {
        let inner = self.inner.lock();
        inner
            .events
            .values()
            .filter(|seen| seen.event.r#type() == kind)
            .count()
    }

    /// All events, and what was wrong with how they arrived.
    pub fn take(&self) -> (BTreeMap<u64, Seen>, Findings) {
        let mut inner = self.inner.lock();
        (inner.events.clone(), std::mem::take(&mut inner.findings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64) -> v1::Event {
        v1::Event {
            revision,
            ..Default::default()
        }
    }

    fn ledger(deliveries: &[(u32, v1::Event)]) -> Ledger {
        let ledger = Ledger::new(Clock::start());
        for (subscriber, event) in deliveries {
            ledger.deliver(*subscriber, event.clone());
        }
        ledger
    }

    fn broken(ledger: &Ledger, guarantee: &str) -> usize {
        ledger.take().1.count(guarantee)
    }

    #[test]
    fn the_same_events_in_order_are_fine() {
        let ledger = ledger(&[(1, event(1)), (2, event(1)), (1, event(2)), (2, event(2))]);
        ledger.progress(1, 2);
        let (events, findings) = ledger.take();
        assert_eq!(events.len(), 2);
        assert_eq!(findings.verdict(), crate::findings::Verdict::Holds);
    }

    #[test]
    fn a_gap_a_duplicate_and_a_difference_are_found() {
        assert_eq!(broken(&ledger(&[(1, event(1)), (1, event(3))]), "G7"), 1);
        assert_eq!(broken(&ledger(&[(1, event(1)), (1, event(1))]), "G7"), 1);
        let other = v1::Event { count: 7, ..event(1) };
        assert_eq!(broken(&ledger(&[(1, event(1)), (2, other)]), "G1"), 1);
    }

    #[test]
    fn progress_must_not_be_ahead_of_what_was_delivered() {
        let ledger = ledger(&[(1, event(1))]);
        ledger.progress(1, 2);
        assert_eq!(broken(&ledger, "G7"), 1);
    }

    #[test]
    fn compaction_must_be_true() {
        let ledger = ledger(&[(1, event(1))]);
        ledger.compacted(1, 5);
        ledger.deliver(1, event(5));
        assert_eq!(broken(&ledger, "G7"), 0);
        ledger.compacted(1, 5);
        assert_eq!(broken(&ledger, "G7"), 1);
    }
}
