//! Everything that is to be told to the cluster, and the task that tells it.
//!
//! It comes from two places: the circuits of this process, which add up what came of their calls (see [`crate::local`]), and a bounded queue of items
//! that somebody waits for. The task takes what is there as one batch, sends it through an exactly-once session until it is acknowledged, and
//! takes what has gathered meanwhile: no fixed delay, one batch in flight, and batches grow by themselves when the cluster is slow.
//!
//! When it begins: at once when a circuit has something that may change what the fleet does (a failure, a success after one, the end of a probe)
//! or when somebody waits; within `report_interval` otherwise. A program in which something fails all the time would send a batch each round
//! trip: so after a few at once there is a [pace](Pace).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use brama_core::limits::MAX_REPORT_ITEMS;
use brama_core::reply::ItemReply;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::error::Error;
use crate::local::Local;
use crate::local::hub::Hub;
use crate::pace::Pace;
use crate::pool::Pool;
use crate::registry::Registry;
use crate::report::Item;
use crate::retry::pauses;
use crate::session::{ReportError, Reporter};

/// Messages that may wait. What comes on top is dropped and counted: a client must not grow because the cluster is gone.
const CAPACITY: usize = 10_000;
/// Bytes of items in one batch; half of what a request may have, to be safe with the estimate.
const MAX_BATCH_BYTES: usize = 512 * 1024;
/// The longest pause between two attempts to send a batch.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// What became of outcomes (successes, failures, ignored ones), however they were reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReportStats {
    /// Counted here, and not acknowledged yet.
    pub waiting: u64,
    /// Acknowledged: they count exactly once.
    pub acknowledged: u64,
    /// Not sent: there was no room, or the client was gone for a whole timeout.
    pub dropped: u64,
    /// Sent, and the cluster forgot the session before it answered.
    pub unknown: u64,
    /// Refused by the cluster. A bug, or a client that may not report.
    pub refused: u64,
    /// Of circuits that the cluster does not know (any more).
    pub not_found: u64,
    /// Batches that were acknowledged.
    pub batches: u64,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    sender: mpsc::Sender<Message>,
    hub: Arc<Hub>,
    registry: Arc<Registry>,
    /// Until the first use inside of a runtime: a client can be made outside of one.
    idle: Mutex<Option<(Task, mpsc::Receiver<Message>)>>,
}

#[derive(Debug)]
enum Message {
    Item(Box<Item>, Answer),
    Flush(oneshot::Sender<()>),
}

type Answer = oneshot::Sender<Result<ItemReply, Error>>;

impl Outbox {
    pub(crate) fn new(
        pool: Arc<Pool>,
        timeout: Duration,
        hub: Arc<Hub>,
        registry: Arc<Registry>,
        report_interval: Duration,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let task = Task {
            reporter: Reporter::new(pool, timeout),
            hub: hub.clone(),
            registry: registry.clone(),
            waiting: VecDeque::new(),
            urgent: VecDeque::new(),
            report_interval,
            collect_at: None,
            has_collected: false,
            pace: Pace::default(),
        };
        Self {
            sender,
            hub,
            registry,
            idle: Mutex::new(Some((task, receiver))),
        }
    }

    /// Queues an item and waits for its acknowledgement.
    pub(crate) async fn report(&self, item: Item, timeout: Duration) -> Result<ItemReply, Error> {
        let (answer, answered) = oneshot::channel();
        let exchange = async {
            let place = self.sender.reserve().await.map_err(|_| stopped())?;
            add(&self.hub.counters.counted, item.0.summary.calls());
            place.send(Message::Item(Box::new(item), answer));
            answered.await.map_err(|_| stopped())?
        };
        self.start();
        tokio::time::timeout(timeout, exchange)
            .await
            .unwrap_or_else(|_| Err(too_long(timeout)))
    }

    /// Waits until everything counted and queued before was told.
    pub(crate) async fn flush(&self, timeout: Duration) -> Result<(), Error> {
        let (done, is_done) = oneshot::channel();
        let exchange = async {
            self.sender
                .send(Message::Flush(done))
                .await
                .map_err(|_| stopped())?;
            is_done.await.map_err(|_| stopped())
        };
        self.start();
        tokio::time::timeout(timeout, exchange)
            .await
            .unwrap_or_else(|_| Err(too_long(timeout)))
    }

    pub(crate) fn stats(&self) -> ReportStats {
        for local in self.registry.all() {
            local.count();
        }
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.hub.counters;
        let mut stats = ReportStats {
            waiting: 0,
            acknowledged: get(&counters.acknowledged),
            dropped: get(&counters.dropped),
            unknown: get(&counters.unknown),
            refused: get(&counters.refused),
            not_found: get(&counters.not_found),
            batches: get(&counters.batches),
        };
        let settled = stats.acknowledged + stats.dropped + stats.unknown + stats.refused + stats.not_found;
        stats.waiting = get(&counters.counted).saturating_sub(settled);
        stats
    }

    /// Starts the task with the first use inside of a runtime.
    pub(crate) fn start(&self) {
        if self.idle.lock().is_none() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && let Some((task, receiver)) = self.idle.lock().take()
        {
            runtime.spawn(task.run(receiver));
        }
    }
}

#[derive(Debug)]
struct Task {
    reporter: Reporter,
    hub: Arc<Hub>,
    registry: Arc<Registry>,
    /// Taken from the queue, not sent yet.
    waiting: VecDeque<Message>,
    /// Circuits that have something to tell.
    urgent: VecDeque<Arc<Local>>,
    report_interval: Duration,
    /// When every circuit is asked what it has.
    collect_at: Option<Instant>,
    has_collected: bool,
    pace: Pace,
}

/// What is sent together, and who waits for what.
#[derive(Default)]
struct Batch {
    items: Vec<Item>,
    /// One an item.
    origins: Vec<Origin>,
    flushes: Vec<oneshot::Sender<()>>,
    bytes: usize,
}

enum Origin {
    Asked(Answer),
    Counted(Arc<Local>),
}

impl Task {
    /// Until every client is gone and all is sent, or given up.
    async fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut received = Vec::new();
        loop {
            // Nothing is taken from the queue while a batch is still being cut from what was taken before: so it stays bounded.
            let open = if self.waiting.is_empty() && self.urgent.is_empty() {
                self.receive(&mut queue, &mut received).await
            } else {
                true
            };
            self.waiting.extend(received.drain(..));
            if !open {
                self.collect();
            }
            let batch = self.cut();
            let flushes = if batch.items.is_empty() {
                batch.flushes
            } else {
                self.deliver(batch, &queue).await
            };
            for done in flushes {
                let _ = done.send(());
            }
            if !open && self.waiting.is_empty() && self.urgent.is_empty() {
                return;
            }
        }
    }

    /// Waits for something to tell. False: no client is left.
    async fn receive(&mut self, queue: &mut mpsc::Receiver<Message>, received: &mut Vec<Message>) -> bool {
        let (longest, has_waited) = (self.report_interval, self.has_collected);
        let collect_at = *self
            .collect_at
            .get_or_insert_with(|| Instant::now() + wait(longest, has_waited));
        let hub = &self.hub;
        let paced = self.pace.next();
        let urgent = async {
            loop {
                if hub.has_urgent() {
                    tokio::time::sleep_until(paced).await;
                    return;
                }
                hub.something_urgent.notified().await;
            }
        };
        tokio::select! {
            biased;
            count = queue.recv_many(received, CAPACITY) => return count > 0,
            () = urgent => self.pace.take(),
            () = tokio::time::sleep_until(collect_at) => self.collect(),
        }
        true
    }

    /// Every circuit is asked what it has.
    fn collect(&mut self) {
        self.collect_at = None;
        self.has_collected = true;
        self.hub.take_urgent();
        self.urgent = self.registry.all().into();
    }

    /// The next batch.
    fn cut(&mut self) -> Batch {
        let mut batch = Batch::default();
        while batch.has_room() {
            match self.waiting.pop_front() {
                Some(Message::Item(item, answer)) => batch.add(*item, Origin::Asked(answer)),
                Some(Message::Flush(done)) => {
                    // It is done when what the circuits have now was told, too.
                    self.collect();
                    if !self.fill(&mut batch) {
                        self.waiting.push_front(Message::Flush(done));
                        return batch;
                    }
                    batch.flushes.push(done);
                    break;
                }
                None => break,
            }
        }
        self.urgent.extend(self.hub.take_urgent());
        self.fill(&mut batch);
        batch
    }

    /// Takes what the circuits have. False: the batch is full before.
    fn fill(&mut self, batch: &mut Batch) -> bool {
        while let Some(local) = self.urgent.pop_front() {
            let room = std::cell::RefCell::new(&mut *batch);
            let all = local.give(
                || room.borrow().has_room(),
                |item| room.borrow_mut().add(item, Origin::Counted(local.clone())),
            );
            if !all {
                self.urgent.push_front(local);
                return false;
            }
        }
        true
    }

    /// Sends a batch until it is acknowledged or cannot be any more. Gives back who waited for it.
    async fn deliver(&mut self, batch: Batch, queue: &mpsc::Receiver<Message>) -> Vec<oneshot::Sender<()>> {
        let Batch {
            items,
            origins,
            flushes,
            ..
        } = batch;
        let calls: Vec<_> = items.iter().map(|item| item.0.summary.calls()).collect();
        let reasons: Vec<_> = items.iter().map(|item| item.0.reason.clone()).collect();
        let all: u64 = calls.iter().sum();
        let counters = &self.hub.counters;
        let mut pauses = pauses();
        let mut outcome = self.reporter.report(items).await.map(Some);
        while let Err(ReportError::Pending(error)) = &outcome {
            if queue.is_closed() {
                tracing::warn!(%error, outcomes = all, "no client is left, outcomes are dropped");
                add(&counters.dropped, all);
                return flushes;
            }
            tracing::debug!(%error, outcomes = all, "outcomes wait for the cluster");
            tokio::time::sleep(pauses.next().unwrap_or(MAX_PAUSE)).await;
            outcome = self.reporter.flush().await;
        }
        let result = match outcome {
            Ok(reply) => {
                add(&counters.batches, 1);
                Ok(reply.map(|reply| reply.items).unwrap_or_default())
            }
            Err(ReportError::OutcomeUnknown(error)) => {
                tracing::warn!(%error, outcomes = all, "whether outcomes were applied is unknown");
                add(&counters.unknown, all);
                Err(error)
            }
            Err(ReportError::Refused(error) | ReportError::Pending(error)) => {
                tracing::warn!(%error, outcomes = all, "the cluster refused outcomes");
                add(&counters.refused, all);
                Err(error)
            }
            // At the very end: the batch before this one was dropped above, and cannot be sent now either.
            Err(error @ ReportError::NotTaken { .. }) => {
                add(&counters.dropped, all);
                Err(Error::protocol(error.to_string()))
            }
        };
        let message = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let is_acknowledged = result.is_ok();
        let replies = result.unwrap_or_default();
        for (i, origin) in origins.into_iter().enumerate() {
            let reply = replies.get(i).copied();
            if is_acknowledged {
                let counter = match reply {
                    Some(ItemReply::NotFound) => &counters.not_found,
                    _ => &counters.acknowledged,
                };
                add(counter, calls[i]);
            }
            match (origin, reply) {
                (Origin::Asked(answer), reply) => {
                    let _ = answer.send(reply.ok_or_else(|| lost(&message)));
                }
                (Origin::Counted(local), Some(reply)) => local.learn_reply(&reply, reasons[i].as_ref()),
                (Origin::Counted(_), None) => {}
            }
        }
        flushes
    }
}

/// How long what changes nothing waits this time. A fleet that was started at once, or waited for the same cluster, must not tell all that it has at
/// once each interval.
fn wait(longest: Duration, has_waited: bool) -> Duration {
    let least = if has_waited { 0.75 } else { 0.0 };
    longest.mul_f64(rand::random_range(least..1.0))
}

impl Batch {
    fn has_room(&self) -> bool {
        self.items.len() < MAX_REPORT_ITEMS && self.bytes < MAX_BATCH_BYTES
    }

    fn add(&mut self, item: Item, origin: Origin) {
        self.bytes += item.cost_bytes();
        #[cfg(feature = "metrics")]
        crate::figures::outcomes(&item.0);
        self.items.push(item);
        self.origins.push(origin);
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn lost(message: &str) -> Error {
    Error::OutcomeUnknown {
        waited: Duration::ZERO,
        message: message.to_owned(),
    }
}

fn too_long(waited: Duration) -> Error {
    let message = "the report is queued, and will count once it can be sent".to_owned();
    Error::OutcomeUnknown { waited, message }
}

fn stopped() -> Error {
    lost("the runtime of this client has stopped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_tells_what_it_has_at_different_moments_and_none_too_late() {
        let interval = Duration::from_secs(1);
        let spread = |has_waited| {
            let waits: Vec<_> = (0..1000).map(|_| wait(interval, has_waited)).collect();
            (*waits.iter().min().unwrap(), *waits.iter().max().unwrap())
        };
        let (least, most) = spread(false);
        assert!(least < interval / 4 && most > interval * 3 / 4 && most <= interval);
        let (least, most) = spread(true);
        assert!(least >= interval * 3 / 4 && most > interval * 9 / 10 && most <= interval);
    }
}
