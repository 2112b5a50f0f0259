//! A subscription: a cursor into the event log.
//!
//! There is no queue and no task for a subscriber. The stream reads on after its position when the connection takes more, so a slow
//! subscriber costs nothing; if the log drops what it has not read yet, it is told. What waits is its bell (see [`crate::news`]).

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, Sleep};
use tokio_util::sync::CancellationToken;

use brama_core::Machine;
use brama_core::event::{Event, EventName};
use brama_core::event_log::KeptEvent;
use brama_core::mutants::{self, Mutant};
use brama_core::name::{CircuitName, Name};
use brama_core::query::Compacted;
use brama_raft::Replica;

use crate::filter::{Filter, TooSlow};
use crate::news::{Following, Found};
use crate::subscribers::Position;
use crate::told::Told;

/// Events that are read from the log at once; the log is locked meanwhile.
const PAGE: usize = 256;
/// How long filtering may keep a thread from other work.
const TURN: Duration = Duration::from_millis(1);

/// Which events a subscriber wants.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// In order, each once. Empty: all. Shared with the subscriber's place at the board.
    pub(crate) names: Arc<[CircuitName]>,
    /// What few ask for, so that the others have no room for it.
    pub(crate) narrower: Option<Box<Narrower>>,
    /// Not what changes nothing for who decides by it.
    pub(crate) changes_only: Option<Told>,
}

/// Which events of those that are selected by name.
#[derive(Debug, Default)]
pub(crate) struct Narrower {
    /// Empty: all; `None`: circuits without a scope.
    pub(crate) scopes: HashSet<Option<Name>>,
    /// Empty: all.
    pub(crate) events: Vec<EventName>,
    pub(crate) filter: Option<Filter>,
}

impl Selection {
    fn selects(&self, event: &Event) -> Result<bool, TooSlow> {
        let by_name = self.names.is_empty()
            || event
                .name
                .as_ref()
                .is_some_and(|name| self.names.binary_search(name).is_ok());
        if !by_name
            || self
                .narrower
                .as_ref()
                .is_some_and(|narrower| !narrower.names(event))
        {
            return Ok(false);
        }
        if let Some(told) = &self.changes_only
            && !told.is_news(event)
        {
            return Ok(false);
        }
        self.filter().map_or(Ok(true), |filter| filter.passes(event))
    }

    fn filter(&self) -> Option<&Filter> {
        self.narrower.as_ref()?.filter.as_ref()
    }
}

impl Narrower {
    /// Whether it leaves anything out.
    pub(crate) fn is_any(&self) -> bool {
        !self.scopes.is_empty() || !self.events.is_empty() || self.filter.is_some()
    }

    /// Whether the event is of a scope and of a kind that it names.
    fn names(&self, event: &Event) -> bool {
        let by_scope = self.scopes.is_empty()
            || event
                .name
                .as_ref()
                .is_some_and(|name| self.scopes.contains(&name.scope));
        by_scope && (self.events.is_empty() || self.events.iter().any(|name| name.selects(event)))
    }
}

/// What a subscriber gets.
pub(crate) enum Delivery {
    /// Events; everything selected before each was delivered. They come as pages: what it takes to get one from here to a connection would cost
    /// more than an event.
    Events(VecDeque<KeptEvent>),
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
    pub(crate) following: Following,
    pub(crate) selection: Selection,
    /// Everything up to here was delivered or not selected.
    pub(crate) position: u64,
    /// Where others see it.
    pub(crate) shown: Position,
    pub(crate) progress_interval: Duration,
    pub(crate) quorum: watch::Receiver<bool>,
    pub(crate) end: CancellationToken,
}

impl Subscription {
    /// The deliveries, without end: first where it stands, then every selected event in order, and progress when it is quiet.
    pub(crate) fn stream(self) -> impl Stream<Item = Result<Delivery, Ended>> + Send {
        let now = Instant::now();
        self.shown.set(self.position);
        // In a box: it goes from hand to hand with each delivery.
        let reading = Box::new(Reading {
            told_quorum: false,
            subscription: self,
            page: VecDeque::new(),
            page_upto: 0,
            delivered: None,
            next_progress: now,
            moved: false,
            timer: Box::pin(tokio::time::sleep_until(now)),
            ended: false,
        });
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
    /// Read, but not looked at yet.
    page: VecDeque<KeptEvent>,
    /// There is nothing else up to here.
    page_upto: u64,
    /// The newest event of what was delivered last, as long as the subscriber may not have taken all of it.
    delivered: Option<u64>,
    /// When the subscriber's cursor shall move, if no event moves it. At first: at once.
    next_progress: Instant,
    /// An event has moved it since that was set.
    moved: bool,
    /// Fires then, or earlier: it is set again only when it has fired, not with each event.
    timer: Pin<Box<Sleep>>,
    told_quorum: bool,
    ended: bool,
}

impl Reading {
    async fn next(&mut self) -> Result<Delivery, Ended> {
        // Who asks for more has taken what there was.
        if let Some(delivered) = self.delivered.take() {
            self.subscription.shown.set(delivered);
        }
        loop {
            if self.subscription.end.is_cancelled() {
                return Err(Ended::Stopping);
            }
            // Once a page: each event moves the cursor by itself, and to ask for the time would be much of what an event costs.
            if self.page.is_empty() && self.is_progress_due() {
                // Nobody rang for what does not concern this subscriber; its cursor moves past it all the same.
                self.read_page()?;
                return Ok(self.progress());
            }
            let selected = self.next_selected()?;
            if let Some(newest) = selected.back() {
                self.delivered = Some(newest.revision);
                self.moved = true;
                return Ok(Delivery::Events(selected));
            }
            if !self.page.is_empty() {
                // Much that is not selected must not keep the thread from others.
                tokio::task::yield_now().await;
            } else if !self.read_page()? {
                self.news().await;
            }
        }
    }

    fn is_progress_due(&mut self) -> bool {
        let now = Instant::now();
        if std::mem::take(&mut self.moved) {
            self.next_progress = now + self.subscription.progress_interval;
        }
        now >= self.next_progress || *self.subscription.quorum.borrow() != self.told_quorum
    }

    /// What of the page is selected, up to its end or to where it is the turn of others.
    fn next_selected(&mut self) -> Result<VecDeque<KeptEvent>, Ended> {
        // Only a filter takes long enough to be timed.
        let began = self.subscription.selection.filter().map(|_| Instant::now());
        let mut selected = VecDeque::new();
        while let Some(event) = self.page.pop_front() {
            assert!(
                event.revision > self.subscription.position,
                "events come in order, once"
            );
            match self.subscription.selection.selects(&event) {
                Ok(is) => {
                    self.subscription.position = event.revision;
                    if is {
                        selected.push_back(event);
                    }
                }
                Err(slow) if selected.is_empty() => return Err(Ended::TooSlow(slow)),
                // First what was selected before it.
                Err(_) => {
                    self.page.push_front(event);
                    return Ok(selected);
                }
            }
            if began.is_some_and(|began| began.elapsed() >= TURN) {
                return Ok(selected);
            }
        }
        self.subscription.position = self.subscription.position.max(self.page_upto);
        Ok(selected)
    }

    /// Reads on; false when there is nothing new.
    fn read_page(&mut self) -> Result<bool, Ended> {
        match self.subscription.following.read(self.subscription.position) {
            Found::Events { events, upto } => {
                self.page = events;
                self.page_upto = upto;
            }
            Found::InTheLog => {
                let position = self.subscription.position;
                let page = self
                    .subscription
                    .replica
                    .read(|machine| machine.events_after(position, PAGE));
                self.page = page.map_err(Ended::Compacted)?.into();
                let mut numbered = self.page.iter().zip(position + 1..);
                let gapless = numbered.all(|(event, revision)| event.revision == revision);
                assert!(gapless, "the log of events has no gap");
            }
        }
        let anything = !self.page.is_empty();
        if !anything {
            self.subscription.position = self.subscription.position.max(self.page_upto);
        }
        Ok(anything)
    }

    /// Waits until there may be something to do.
    async fn news(&mut self) {
        tokio::select! {
            () = self.subscription.following.bell() => {}
            () = &mut self.timer => {
                let now = Instant::now();
                let due = now >= self.next_progress;
                let next = if due { now + self.subscription.progress_interval } else { self.next_progress };
                self.timer.as_mut().reset(next);
            }
        }
    }

    fn progress(&mut self) -> Delivery {
        self.subscription.shown.set(self.subscription.position);
        self.next_progress = Instant::now() + self.subscription.progress_interval;
        self.moved = false;
        self.told_quorum = *self.subscription.quorum.borrow();
        let mut revision = self.subscription.position;
        if mutants::active(Mutant::ProgressAhead) {
            revision = self.subscription.replica.read(Machine::revision);
        }
        Delivery::Progress {
            revision,
            has_quorum: self.told_quorum,
        }
    }
}
