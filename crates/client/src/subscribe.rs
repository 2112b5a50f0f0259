//! Subscriptions: the events that a caller selects, in order, without gap or duplicate, from whatever node.
//!
//! A subscriber is a cursor. Each message moves it; when the stream ends (the node stops, dies, hangs, or has lost its quorum), the next node is
//! given the cursor and goes on after it. So all that can be lost is what the cluster no longer keeps, and that is told
//! ([`Error::EventsCompacted`]).

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use brama_core::event::Event;
use brama_core::{CircuitName, ClusterTime};
use brama_proto::v1;
use brama_proto::v1::events_client::EventsClient;
use brama_proto::v1::subscribe_request::From as WireFrom;
use brama_proto::v1::subscribe_response::Message;
use futures::stream::{BoxStream, Stream, StreamExt};
use tokio::time::Instant;
use tonic::Streaming;

use crate::error::{Attempt, Error, Why, classify};
use crate::pool::Pool;
use crate::retry::pauses;
use crate::wire;

/// Nodes send progress every few seconds. One that is silent for so long hangs, or is cut off.
const SILENCE: Duration = Duration::from_secs(15);
/// A node that has no quorum for so long may be alone on its side of a partition: another may know more.
const QUORUM_PATIENCE: Duration = Duration::from_secs(5);
/// A node that does not begin to answer within this time is left for the next one.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

/// Where a subscriber is in the log of events. Opaque; good on every node of its cluster, also in a later process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor(String);

impl Cursor {
    /// For keeping it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> std::convert::From<T> for Cursor {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a subscription begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum From {
    /// With what happens after [`Client::subscribe`](crate::Client::subscribe) returned, at the latest.
    #[default]
    Now,
    /// With the oldest event that the cluster keeps.
    Oldest,
    /// After this cursor.
    After(Cursor),
}

/// What to subscribe to. Each kind of selection narrows; none given: everything.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Subscription {
    names: Vec<CircuitName>,
    scopes: Vec<String>,
    events: Vec<String>,
    filter: String,
    from: From,
    progress: bool,
    closure: Option<Closure>,
}

/// What the caller wants of what the node sends.
#[derive(Clone)]
struct Closure(Arc<dyn Fn(&Event) -> bool + Send + Sync>);

impl fmt::Debug for Closure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Closure")
    }
}

impl Subscription {
    /// Every event from now on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only this circuit; given again: this one too.
    pub fn circuit(mut self, name: CircuitName) -> Self {
        self.names.push(name);
        self
    }

    /// Only circuits of this scope (`""`: of none); given again: of this one too.
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scopes.push(scope.into());
        self
    }

    /// Only events of this name, such as `circuit_opened` or `state_change`; given again: of this one too.
    pub fn event(mut self, name: impl Into<String>) -> Self {
        self.events.push(name.into());
        self
    }

    /// Only events for which this CEL expression over `event` is true, such as `event.metadata["team"] == "pay"`.
    pub fn filter(mut self, expression: impl Into<String>) -> Self {
        self.filter = expression.into();
        self
    }

    /// Only events for which this is true. It is asked here, after the node has filtered: what the node can filter out is not even sent.
    pub fn filter_with(mut self, wanted: impl Fn(&Event) -> bool + Send + Sync + 'static) -> Self {
        self.closure = Some(Closure(Arc::new(wanted)));
        self
    }

    /// Where to begin. Default: [`From::Now`].
    pub fn from(mut self, from: From) -> Self {
        self.from = from;
        self
    }

    /// Give [`ClientEvent::Progress`] too.
    pub fn with_progress(mut self) -> Self {
        self.progress = true;
        self
    }

    fn selects_all(&self) -> bool {
        self.names.is_empty() && self.scopes.is_empty() && self.events.is_empty() && self.filter.is_empty()
    }

    fn request(&self, from: &From) -> v1::SubscribeRequest {
        v1::SubscribeRequest {
            names: self.names.iter().map(Into::into).collect(),
            scopes: self.scopes.clone(),
            events: self.events.clone(),
            filter: self.filter.clone(),
            from: match from {
                From::Now => None,
                From::Oldest => Some(WireFrom::Oldest(true)),
                From::After(cursor) => Some(WireFrom::After(cursor.0.clone())),
            },
        }
    }
}

/// What a subscription gives.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ClientEvent {
    /// Something happened.
    Event {
        /// What.
        event: Box<Event>,
        /// To go on after it.
        cursor: Cursor,
    },
    /// Everything before the cursor was given or is not selected; only if asked for.
    Progress {
        /// The newest event that this covers.
        revision: u64,
        /// Whether the node hears from a leader that a majority follows: if not, there may be events that it does not know.
        has_quorum: bool,
        /// The node's cluster time.
        time: ClusterTime,
        /// To go on after it.
        cursor: Cursor,
    },
}

impl ClientEvent {
    /// To go on after it.
    pub fn cursor(&self) -> &Cursor {
        match self {
            Self::Event { cursor, .. } | Self::Progress { cursor, .. } => cursor,
        }
    }
}

/// The events of a subscription. It never ends by itself; an error ends it.
pub struct Events {
    stream: BoxStream<'static, Result<ClientEvent, Error>>,
}

impl Events {
    pub(crate) async fn open(
        pool: Arc<Pool>,
        timeout: Duration,
        wanted: Subscription,
    ) -> Result<Self, Error> {
        let node = pool.preferred();
        let from = wanted.from.clone();
        let mut reader = Reader {
            pool,
            wanted,
            from,
            node,
            current: None,
            revision: None,
            no_quorum_since: None,
            over: false,
        };
        // The first message says where the stream begins; from here on, that place is kept across nodes.
        let first = reader.first(Instant::now() + timeout).await?;
        let rest = futures::stream::unfold(reader, |mut reader| async move {
            let item = reader.next().await?;
            Some((item, reader))
        });
        let stream = futures::stream::iter(first.map(Ok)).chain(rest).boxed();
        Ok(Self { stream })
    }
}

impl Stream for Events {
    type Item = Result<ClientEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(context)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

struct Reader {
    pool: Arc<Pool>,
    wanted: Subscription,
    /// Where the next stream has to begin.
    from: From,
    node: usize,
    current: Option<Streaming<v1::SubscribeResponse>>,
    /// Of the newest event or progress.
    revision: Option<u64>,
    no_quorum_since: Option<Instant>,
    over: bool,
}

/// What came of a wait for the next message.
enum Step {
    Item(ClientEvent),
    /// A message that the caller did not ask for.
    Nothing,
    /// The stream is of no more use; why.
    Lost(Why),
}

impl Reader {
    /// Until the first message; the item that it holds, if the caller asked for such.
    async fn first(&mut self, deadline: Instant) -> Result<Option<ClientEvent>, Error> {
        let (started, mut pauses, mut tried) = (Instant::now(), pauses(), 0_usize);
        loop {
            let why = match tokio::time::timeout_at(deadline, self.step()).await {
                Ok(Ok(Step::Item(item))) => return Ok(Some(item)),
                Ok(Ok(Step::Nothing)) => return Ok(None),
                Ok(Ok(Step::Lost(why))) => why,
                Ok(Err(error)) => return Err(error),
                Err(_) => Why::Connect(format!("{}: no answer in time", self.pool.address(self.node))),
            };
            tried += 1;
            self.move_on();
            let pause = if tried.is_multiple_of(self.pool.len()) {
                pauses.next()
            } else {
                None
            }
            .unwrap_or_default();
            if Instant::now() + pause >= deadline {
                return Err(why.into_error(self.pool.len().min(tried), started.elapsed()));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// The next item, from whatever node has it; `None` after an error.
    async fn next(&mut self) -> Option<Result<ClientEvent, Error>> {
        let (mut pauses, mut tried) = (pauses(), 0_usize);
        while !self.over {
            match self.step().await {
                Ok(Step::Item(item)) => return Some(Ok(item)),
                Ok(Step::Nothing) => (pauses, tried) = (crate::retry::pauses(), 0),
                Ok(Step::Lost(why)) => {
                    tracing::debug!(node = %self.pool.address(self.node), ?why, "a subscription goes on elsewhere");
                    self.move_on();
                    tried += 1;
                    if tried.is_multiple_of(self.pool.len()) {
                        tokio::time::sleep(pauses.next().unwrap_or(OPEN_TIMEOUT)).await;
                    }
                }
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    fn move_on(&mut self) {
        self.current = None;
        self.no_quorum_since = None;
        self.node = (self.node + 1) % self.pool.len();
    }

    /// Waits for one message, and begins a stream first if there is none.
    async fn step(&mut self) -> Result<Step, Error> {
        let stream = match &mut self.current {
            Some(stream) => stream,
            None => match tokio::time::timeout(OPEN_TIMEOUT, self.begin()).await {
                Ok(Ok(stream)) => self.current.insert(stream),
                Ok(Err(attempt)) => return lost_or_over(attempt),
                Err(_) => return Ok(Step::Lost(Why::Connect("no answer in time".to_owned()))),
            },
        };
        match tokio::time::timeout(SILENCE, stream.message()).await {
            Ok(Ok(Some(message))) => self.take(message),
            Ok(Ok(None)) => Ok(Step::Lost(Why::Elsewhere("the stream ended".to_owned()))),
            Ok(Err(status)) => lost_or_over(classify(status)),
            Err(_) => Ok(Step::Lost(Why::Connect(format!("nothing heard for {SILENCE:?}")))),
        }
    }

    async fn begin(&self) -> Result<Streaming<v1::SubscribeResponse>, Attempt> {
        let channel = self.pool.own_channel(self.node).await;
        let channel = channel.map_err(|message| Attempt::NotApplied(Why::Connect(message.to_string())))?;
        let request = self.wanted.request(&self.from);
        EventsClient::new(channel)
            .subscribe(request)
            .await
            .map(tonic::Response::into_inner)
            .map_err(classify)
    }

    fn take(&mut self, message: v1::SubscribeResponse) -> Result<Step, Error> {
        let cursor = Cursor(message.cursor);
        let step = match message.message {
            Some(Message::Event(event)) => {
                let event = Box::new(wire::event(event)?);
                self.check_order(event.revision)?;
                let is_wanted = self
                    .wanted
                    .closure
                    .as_ref()
                    .is_none_or(|closure| (closure.0)(&event));
                if !is_wanted {
                    self.from = From::After(cursor);
                    return Ok(Step::Nothing);
                }
                Step::Item(ClientEvent::Event {
                    event,
                    cursor: cursor.clone(),
                })
            }
            Some(Message::Progress(progress)) => self.progress(&progress, cursor.clone())?,
            None => {
                return Err(Error::protocol(
                    "a message of a subscription that is neither event nor progress",
                ));
            }
        };
        self.from = From::After(cursor);
        Ok(step)
    }

    /// What a node must never do, and what no caller could find out later.
    fn check_order(&mut self, revision: u64) -> Result<(), Error> {
        if let Some(before) = self.revision {
            let is_next = revision == before + 1;
            if revision <= before || (self.wanted.selects_all() && !is_next) {
                return Err(Error::protocol(format!("event {revision} after event {before}")));
            }
        }
        self.revision = Some(revision);
        Ok(())
    }

    fn progress(&mut self, progress: &v1::Progress, cursor: Cursor) -> Result<Step, Error> {
        if self.revision.is_some_and(|before| progress.revision < before) {
            return Err(Error::protocol(format!(
                "progress goes back to event {}",
                progress.revision
            )));
        }
        if self.wanted.selects_all() && self.revision.is_some_and(|before| progress.revision > before) {
            return Err(Error::protocol(format!(
                "progress to event {}, which never came",
                progress.revision
            )));
        }
        self.revision = Some(progress.revision);
        if progress.has_quorum {
            self.no_quorum_since = None;
        } else if self.no_quorum_since.get_or_insert_with(Instant::now).elapsed() > QUORUM_PATIENCE {
            return Ok(Step::Lost(Why::NoLeader("the node has no quorum".to_owned())));
        }
        if !self.wanted.progress {
            return Ok(Step::Nothing);
        }
        let time = wire::progress_time(progress)?;
        Ok(Step::Item(ClientEvent::Progress {
            revision: progress.revision,
            has_quorum: progress.has_quorum,
            time,
            cursor,
        }))
    }
}

/// A stream that broke goes on elsewhere; one that was refused is over.
fn lost_or_over(attempt: Attempt) -> Result<Step, Error> {
    match attempt {
        Attempt::NotApplied(why) => Ok(Step::Lost(why)),
        Attempt::Unknown(message) => Ok(Step::Lost(Why::Connect(message))),
        // This node's limit; others may have room.
        Attempt::Final(Error::LimitReached { message, limit }) if limit == "TOO_MANY_SUBSCRIBERS" => {
            Ok(Step::Lost(Why::Overloaded(message)))
        }
        Attempt::Final(error) => Err(error),
    }
}
