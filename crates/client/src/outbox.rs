//! The queue of reports of a client, and the task that empties it.
//!
//! The task takes all that waits as one batch, sends it through an exactly-once session until it is acknowledged, and takes what has gathered
//! meanwhile: no fixed delay, one batch in flight, and batches grow by themselves when the cluster is slow. Calls that were
//! rejected decide nothing, so they wait for the next batch, but no longer than a second.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use brama_core::CircuitName;
use brama_core::limits::{MAX_OUTCOMES, MAX_REPORT_ITEMS};
use brama_core::reply::ItemReply;
use brama_core::report::Summary;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::error::Error;
use crate::pool::Pool;
use crate::report::Item;
use crate::retry::pauses;
use crate::session::{ReportError, Reporter};

/// Messages that may wait. What comes on top is dropped and counted: a client must not grow because the cluster is gone.
const CAPACITY: usize = 10_000;
/// Bytes of items in one batch; half of what a request may have, to be safe with the estimate.
const MAX_BATCH_BYTES: usize = 512 * 1024;
/// Names whose rejected calls are counted at once.
const MAX_REJECTED_NAMES: usize = MAX_REPORT_ITEMS / 2;
/// Rejected calls are told after this long at the latest.
const REJECTED_WITHIN: Duration = Duration::from_secs(1);

/// What became of the outcomes that were queued, in items as they were given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReportStats {
    /// Queued, or sent and not acknowledged yet.
    pub waiting: u64,
    /// Acknowledged: they count exactly once.
    pub acknowledged: u64,
    /// Not sent: the queue was full, or the client was gone for a whole timeout.
    pub dropped: u64,
    /// Sent, and the cluster forgot the session before it answered.
    pub unknown: u64,
    /// Refused by the cluster. A bug, or a client that may not report.
    pub refused: u64,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    sender: mpsc::Sender<Message>,
    counters: Arc<Counters>,
    /// Until the first report: a client can be made outside of a runtime.
    idle: Mutex<Option<(Task, mpsc::Receiver<Message>)>>,
}

#[derive(Debug)]
enum Message {
    Item(Box<Item>, Option<Answer>),
    Rejected(CircuitName),
    Flush(oneshot::Sender<()>),
}

type Answer = oneshot::Sender<Result<ItemReply, Error>>;

#[derive(Debug, Default)]
struct Counters {
    queued: AtomicU64,
    acknowledged: AtomicU64,
    dropped: AtomicU64,
    unknown: AtomicU64,
    refused: AtomicU64,
}

impl Outbox {
    pub(crate) fn new(pool: Arc<Pool>, timeout: Duration) -> Self {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let counters = Arc::new(Counters::default());
        let task = Task {
            reporter: Reporter::new(pool, timeout),
            counters: counters.clone(),
            waiting: VecDeque::new(),
            rejected: BTreeMap::new(),
            rejected_due: None,
        };
        Self {
            sender,
            counters,
            idle: Mutex::new(Some((task, receiver))),
        }
    }

    /// Queues an item, if there is room.
    pub(crate) fn push(&self, item: Item) {
        self.counters.queued.fetch_add(1, Ordering::Relaxed);
        if self.sender.try_send(Message::Item(Box::new(item), None)).is_err() {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.start();
    }

    /// Counts a call that was not made, if there is room.
    pub(crate) fn rejected(&self, name: &CircuitName) {
        let _ = self.sender.try_send(Message::Rejected(name.clone()));
        self.start();
    }

    /// Queues an item and waits for its acknowledgement.
    pub(crate) async fn report(&self, item: Item, timeout: Duration) -> Result<ItemReply, Error> {
        let (answer, answered) = oneshot::channel();
        let exchange = async {
            let place = self.sender.reserve().await.map_err(|_| stopped())?;
            self.counters.queued.fetch_add(1, Ordering::Relaxed);
            place.send(Message::Item(Box::new(item), Some(answer)));
            answered.await.map_err(|_| stopped())?
        };
        self.start();
        tokio::time::timeout(timeout, exchange)
            .await
            .unwrap_or_else(|_| Err(too_long(timeout)))
    }

    /// Waits until everything queued before has left the queue.
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
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (acknowledged, dropped) = (get(&self.counters.acknowledged), get(&self.counters.dropped));
        let (unknown, refused) = (get(&self.counters.unknown), get(&self.counters.refused));
        let waiting = get(&self.counters.queued).saturating_sub(acknowledged + dropped + unknown + refused);
        ReportStats {
            waiting,
            acknowledged,
            dropped,
            unknown,
            refused,
        }
    }

    /// Starts the task with the first report that is made inside of a runtime.
    fn start(&self) {
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
    counters: Arc<Counters>,
    /// Taken from the queue, not sent yet.
    waiting: VecDeque<Message>,
    rejected: BTreeMap<CircuitName, u64>,
    rejected_due: Option<Instant>,
}

impl Task {
    /// Until every client is gone and all is sent, or given up.
    async fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut received = Vec::new();
        loop {
            // Nothing is taken from the queue while a batch is still being cut from what was taken before: so it stays bounded.
            let open = if self.waiting.is_empty() {
                self.receive(&mut queue, &mut received).await
            } else {
                true
            };
            self.waiting.extend(received.drain(..));
            let (items, answers, flushes) = self.cut();
            if !items.is_empty() {
                self.deliver(items, answers, &queue).await;
            }
            for done in flushes {
                let _ = done.send(());
            }
            if !open && self.waiting.is_empty() && self.rejected.is_empty() {
                return;
            }
        }
    }

    /// Waits for messages, or until rejected calls are due. False: no client is left.
    async fn receive(&self, queue: &mut mpsc::Receiver<Message>, received: &mut Vec<Message>) -> bool {
        let due = self.rejected_due;
        let tick = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            count = queue.recv_many(received, CAPACITY) => count > 0,
            () = tick => true,
        }
    }

    /// The next batch, with whoever waits for it.
    fn cut(&mut self) -> (Vec<Item>, Vec<Option<Answer>>, Vec<oneshot::Sender<()>>) {
        let (mut items, mut answers, mut flushes) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = 0;
        // Room is left for the rejected ones, which come on top.
        while items.len() < MAX_REPORT_ITEMS - MAX_REJECTED_NAMES && bytes < MAX_BATCH_BYTES {
            match self.waiting.pop_front() {
                Some(Message::Item(item, answer)) => {
                    bytes += item.cost_bytes();
                    items.push(*item);
                    answers.push(answer);
                }
                Some(Message::Rejected(name)) => self.count_rejected(name),
                Some(Message::Flush(done)) => {
                    flushes.push(done);
                    self.rejected_due = self.rejected_due.map(|_| Instant::now());
                    break;
                }
                None => break,
            }
        }
        let due = self.rejected_due.is_some_and(|due| due <= Instant::now());
        if due || (!items.is_empty() && !self.rejected.is_empty()) {
            self.rejected_due = None;
            for (name, rejected) in std::mem::take(&mut self.rejected) {
                items.push(Item::new(
                    name,
                    Summary {
                        rejected,
                        ..Summary::default()
                    },
                ));
            }
        }
        (items, answers, flushes)
    }

    fn count_rejected(&mut self, name: CircuitName) {
        if self.rejected.len() < MAX_REJECTED_NAMES || self.rejected.contains_key(&name) {
            let count = self.rejected.entry(name).or_default();
            *count = (*count + 1).min(MAX_OUTCOMES);
            self.rejected_due
                .get_or_insert_with(|| Instant::now() + REJECTED_WITHIN);
        }
    }

    /// Sends a batch until it is acknowledged or cannot be any more.
    async fn deliver(
        &mut self,
        items: Vec<Item>,
        answers: Vec<Option<Answer>>,
        queue: &mpsc::Receiver<Message>,
    ) {
        let mut pauses = pauses();
        let mut outcome = self.reporter.report(items).await.map(Some);
        while let Err(ReportError::Pending(error)) = &outcome {
            if queue.is_closed() {
                tracing::warn!(%error, reports = answers.len(), "no client is left, reports are dropped");
                self.counters
                    .dropped
                    .fetch_add(answers.len() as u64, Ordering::Relaxed);
                return;
            }
            tracing::debug!(%error, reports = answers.len(), "reports wait for the cluster");
            tokio::time::sleep(pauses.next().unwrap_or(REJECTED_WITHIN)).await;
            outcome = self.reporter.flush().await;
        }
        let (counter, result) = match outcome {
            Ok(reply) => (
                &self.counters.acknowledged,
                Ok(reply.map(|reply| reply.items).unwrap_or_default()),
            ),
            Err(ReportError::OutcomeUnknown(error)) => {
                tracing::warn!(%error, reports = answers.len(), "whether reports were applied is unknown");
                (&self.counters.unknown, Err(error))
            }
            Err(ReportError::Refused(error) | ReportError::Pending(error)) => {
                tracing::warn!(%error, reports = answers.len(), "the cluster refused reports");
                (&self.counters.refused, Err(error))
            }
            // At the very end: the batch before this one was dropped above, and cannot be sent now either.
            Err(error @ ReportError::NotTaken { .. }) => {
                (&self.counters.dropped, Err(Error::protocol(error.to_string())))
            }
        };
        counter.fetch_add(answers.len() as u64, Ordering::Relaxed);
        let message = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let replies = result.unwrap_or_default();
        for (i, answer) in answers.into_iter().enumerate() {
            let Some(answer) = answer else { continue };
            let reply = replies.get(i).copied().ok_or_else(|| lost(&message));
            let _ = answer.send(reply);
        }
    }
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
