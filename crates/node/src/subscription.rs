//! A subscription: a cursor into the event log.
//!
//! There is no queue and no task for a subscriber. The stream reads the log after its position when the connection takes more, so a slow
//! subscriber costs nothing; if the log drops what it has not read yet, it is told. What waits is the watch on the applied revision.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use futures::Stream;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use brama_core::event::{Event, EventName};
use brama_core::name::{CircuitName, Name};
use brama_core::query::Compacted;
use brama_raft::{Applied, Replica};

use crate::filter::{Filter, TooSlow};

/// Events that are read from the log at once; the log is locked meanwhile.
const PAGE: usize = 256;

/// Which events a subscriber wants.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// Empty: all.
    pub(crate) names: HashSet<CircuitName>,
    /// Empty: all; `None`: circuits without a scope.
    pub(crate) scopes: HashSet<Option<Name>>,
    /// Empty: all.
    pub(crate) events: Vec<EventName>,
    pub(crate) filter: Option<Filter>,
}

impl Selection {
    fn selects(&self, event: &Event) -> Result<bool, TooSlow> {
        let by_name =
            self.names.is_empty() || event.name.as_ref().is_some_and(|name| self.names.contains(name));
        let by_scope = self.scopes.is_empty()
            || event
                .name
                .as_ref()
                .is_some_and(|name| self.scopes.contains(&name.scope));
        let by_event = self.events.is_empty() || self.events.iter().any(|name| name.selects(event));
        if !(by_name && by_scope && by_event) {
            return Ok(false);
        }
        self.filter
            .as_ref()
            .map_or(Ok(true), |filter| filter.passes(event))
    }
}

/// What a subscriber gets.
pub(crate) enum Delivery {
    /// An event; everything selected before it was delivered.
    Event(Arc<Event>),
    /// Everything up to this revision was delivered, or not selected.
    Progress { revision: u64, has_quorum: bool },
}

/// Why a subscription ended.
pub(crate) enum Ended {
    /// The log no longer has what comes next.
    Compacted(Compacted),
    /// The filter is too slow.
    TooSlow(TooSlow),
    /// The node stops.
    Stopping,
}

/// A subscriber's position, and what it needs to move on.
pub(crate) struct Subscription {
    pub(crate) replica: Replica,
    pub(crate) selection: Selection,
    /// Everything up to here was delivered or not selected.
    pub(crate) position: u64,
    pub(crate) progress_interval: Duration,
    pub(crate) quorum: watch::Receiver<bool>,
    pub(crate) end: CancellationToken,
}

impl Subscription {
    /// The deliveries, without end: first where it stands, then every selected event in order, and progress when it is quiet.
    pub(crate) fn stream(self) -> impl Stream<Item = Result<Delivery, Ended>> + Send {
        let applied = self.replica.applied();
        let told_quorum = *self.quorum.borrow();
        let reading = Reading {
            told_quorum,
            subscription: self,
            applied,
            page: VecDeque::new(),
            next_progress: Instant::now(),
            ended: false,
        };
        futures::stream::unfold(reading, |mut reading| async move {
            if reading.ended {
                return None;
            }
            let delivery = reading.next().await;
            reading.ended = delivery.is_err();
            Some((delivery, reading))
        })
    }
}

struct Reading {
    subscription: Subscription,
    applied: watch::Receiver<Applied>,
    page: VecDeque<Arc<Event>>,
    next_progress: Instant,
    told_quorum: bool,
    ended: bool,
}

impl Reading {
    async fn next(&mut self) -> Result<Delivery, Ended> {
        loop {
            while let Some(event) = self.page.pop_front() {
                assert_eq!(
                    event.revision,
                    self.subscription.position + 1,
                    "the log of events has no gap"
                );
                self.subscription.position = event.revision;
                if self
                    .subscription
                    .selection
                    .selects(&event)
                    .map_err(Ended::TooSlow)?
                {
                    self.delivered();
                    return Ok(Delivery::Event(event));
                }
            }
            if self.subscription.end.is_cancelled() {
                return Err(Ended::Stopping);
            }
            // A page without anything for this subscriber must not keep the thread from others.
            tokio::task::yield_now().await;
            self.applied.borrow_and_update();
            let position = self.subscription.position;
            let page = self
                .subscription
                .replica
                .read(|machine| machine.events_after(position, PAGE));
            self.page = page.map_err(Ended::Compacted)?.into();
            if !self.page.is_empty() {
                if Instant::now() >= self.next_progress + self.subscription.progress_interval {
                    // Busy, but nothing for this subscriber: its cursor moves all the same.
                    return Ok(self.progress());
                }
                continue;
            }
            if Instant::now() >= self.next_progress || *self.subscription.quorum.borrow() != self.told_quorum
            {
                return Ok(self.progress());
            }
            tokio::select! {
                () = self.subscription.end.cancelled() => {}
                // The senders live in the replica and in the node, which this holds.
                _ = self.applied.changed() => {}
                _ = self.subscription.quorum.changed() => {}
                () = tokio::time::sleep_until(self.next_progress) => {}
            }
        }
    }

    fn progress(&mut self) -> Delivery {
        self.delivered();
        self.told_quorum = *self.subscription.quorum.borrow();
        Delivery::Progress {
            revision: self.subscription.position,
            has_quorum: self.told_quorum,
        }
    }

    fn delivered(&mut self) {
        self.next_progress = Instant::now() + self.subscription.progress_interval;
    }
}
