//! Watching: a picture of the circuits, and then what changes it.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use brama_core::CircuitName;
use brama_core::event::Event;
use brama_core::query::CircuitStatus;
use brama_proto::v1;
use brama_proto::v1::events_client::EventsClient;
use brama_proto::v1::watch_response::Message;
use futures::stream::{BoxStream, Stream, StreamExt};
use tokio::time::Instant;
use tonic::Response;

use crate::error::Error;
use crate::pool::Pool;
use crate::retry::{self, Repeat};
use crate::subscribe::{ClientEvent, Cursor, Events, From, Subscription};
use crate::wire;

/// What a watch gives.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum WatchItem {
    /// All watched circuits that exist, at one revision. It comes first, and once more whenever events were missed because the cluster no longer
    /// had them: it replaces everything before.
    Snapshot {
        /// In the order of (scope, identifier), no scope first.
        circuits: Vec<CircuitStatus>,
        /// The newest event that they contain.
        revision: u64,
    },
    /// What happened after the snapshot, in order.
    Event(Box<Event>),
}

/// A snapshot and the events after it; goes on through other nodes. An error ends it.
pub struct Watch {
    stream: BoxStream<'static, Result<WatchItem, Error>>,
}

impl Watch {
    pub(crate) async fn open(
        pool: Arc<Pool>,
        timeout: Duration,
        names: Vec<CircuitName>,
    ) -> Result<Self, Error> {
        let mut watcher = Watcher {
            pool,
            timeout,
            names,
            events: None,
            ready: VecDeque::new(),
            over: false,
        };
        let first = watcher.begin().await?;
        watcher.ready.push_back(first);
        let stream = futures::stream::unfold(watcher, |mut watcher| async move {
            let item = watcher.next().await?;
            Some((item, watcher))
        });
        Ok(Self {
            stream: stream.boxed(),
        })
    }
}

impl Stream for Watch {
    type Item = Result<WatchItem, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(context)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

struct Watcher {
    pool: Arc<Pool>,
    timeout: Duration,
    names: Vec<CircuitName>,
    events: Option<Events>,
    ready: VecDeque<WatchItem>,
    over: bool,
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<WatchItem, Error>> {
        while !self.over {
            if let Some(item) = self.ready.pop_front() {
                return Some(Ok(item));
            }
            let Some(events) = &mut self.events else {
                return None;
            };
            match events.next().await {
                Some(Ok(ClientEvent::Event { event, .. })) => return Some(Ok(WatchItem::Event(event))),
                Some(Ok(ClientEvent::Progress { .. })) => {}
                // Too far behind: the picture is taken anew.
                Some(Err(Error::EventsCompacted { .. })) => match self.begin().await {
                    Ok(snapshot) => return Some(Ok(snapshot)),
                    Err(error) => return self.end(error),
                },
                Some(Err(error)) => return self.end(error),
                None => return None,
            }
        }
        None
    }

    fn end(&mut self, error: Error) -> Option<Result<WatchItem, Error>> {
        self.over = true;
        Some(Err(error))
    }

    /// Takes the picture, and subscribes to what comes after it.
    async fn begin(&mut self) -> Result<WatchItem, Error> {
        let names: Vec<_> = self.names.iter().map(Into::into).collect();
        let request = v1::WatchRequest {
            names,
            snapshot_only: true,
            changes_only: false,
        };
        let deadline = Instant::now() + self.timeout;
        let (circuits, synced, cursor) = retry::call(
            &self.pool,
            Repeat::Read,
            deadline,
            request,
            |channel, request| async move {
                let mut stream = EventsClient::new(channel).watch(request).await?.into_inner();
                let mut circuits = Vec::new();
                while let Some(answer) = stream.message().await? {
                    match answer.message {
                        Some(Message::Snapshot(part)) => circuits.extend(part.circuits),
                        Some(Message::Synced(synced)) => {
                            return Ok(Response::new((circuits, synced, answer.cursor)));
                        }
                        _ => {}
                    }
                }
                Err(tonic::Status::unavailable("the snapshot is not complete"))
            },
        )
        .await?;
        if circuits.len() as u64 != synced.circuits {
            let (got, said) = (circuits.len(), synced.circuits);
            return Err(Error::protocol(format!(
                "a snapshot of {got} circuits that says it has {said}"
            )));
        }
        let circuits = circuits
            .into_iter()
            .map(wire::circuit)
            .collect::<Result<_, _>>()?;
        let wanted = self
            .names
            .iter()
            .cloned()
            .fold(Subscription::new(), Subscription::circuit);
        let wanted = wanted.from(From::After(Cursor::from(cursor)));
        self.events = Some(Events::open(self.pool.clone(), self.timeout, wanted).await?);
        Ok(WatchItem::Snapshot {
            circuits,
            revision: synced.revision,
        })
    }
}
