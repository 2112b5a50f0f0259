//! `brama.v1.Events`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use brama_core::command::ClusterId;
use brama_core::cursor;
use brama_core::event::EventName;
use brama_core::limits::MAX_REPORT_ITEMS;
use brama_core::name::CircuitName;
use brama_core::query::ListQuery;
use brama_core::{Machine, Refusal};
use brama_proto::convert;
use brama_proto::v1;
use brama_proto::v1::events_server::Events;

use super::{Api, errors};
use crate::filter::Filter;
use crate::subscription::{Delivery, Ended, Selection, Subscription};

/// Circuits in one message of a snapshot.
const SNAPSHOT_PAGE: usize = 100;

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Events for Api {
    type SubscribeStream = BoxStream<v1::SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (message, deadline) = Self::open(request)?;
        let selection = selection(&message)?;
        let place = self.take_place()?;
        // Before a node has recovered, it may not know what it had shown already.
        self.replica.recovered(deadline).await.map_err(errors::read)?;
        let cluster = self.cluster_id()?;
        let position = self.position(cluster, message.from)?;
        let api = self.clone();
        let messages = self
            .subscription(selection, position)
            .stream()
            .map(move |delivery| {
                let _held = &place;
                match delivery {
                    Ok(Delivery::Event(event)) => Ok(v1::SubscribeResponse {
                        cursor: cursor::encode(cluster, event.revision),
                        message: Some(v1::subscribe_response::Message::Event((&*event).into())),
                    }),
                    Ok(Delivery::Progress { revision, has_quorum }) => Ok(v1::SubscribeResponse {
                        cursor: cursor::encode(cluster, revision),
                        message: Some(v1::subscribe_response::Message::Progress(
                            api.progress(revision, has_quorum),
                        )),
                    }),
                    Err(ended) => Err(status(cluster, ended)),
                }
            });
        Ok(Response::new(Box::pin(messages)))
    }

    type WatchStream = BoxStream<v1::WatchResponse>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (message, deadline) = Self::open(request)?;
        let names = names(&message.names)?;
        let place = self.take_place()?;
        self.replica.recovered(deadline).await.map_err(errors::read)?;
        let cluster = self.cluster_id()?;
        // One moment: the circuits and the revision after which their events go on.
        let frozen = self.replica.read(Machine::freeze).reader();
        let revision = frozen.revision();
        let selection = Selection {
            names: names.iter().cloned().collect(),
            ..Selection::default()
        };
        let mut circuits = 0;
        let parts = snapshot(frozen, names).map(Some).chain([None]).map(move |page| {
            let (cursor, message) = match page {
                Some(page) => {
                    circuits += page.len() as u64;
                    let page = v1::WatchSnapshot { circuits: page };
                    (String::new(), v1::watch_response::Message::Snapshot(page))
                }
                None => {
                    let synced = v1::WatchSynced { revision, circuits };
                    (
                        cursor::encode(cluster, revision),
                        v1::watch_response::Message::Synced(synced),
                    )
                }
            };
            Ok(v1::WatchResponse {
                cursor,
                message: Some(message),
            })
        });
        let snapshot = futures::stream::iter(parts);
        if message.snapshot_only {
            return Ok(Response::new(Box::pin(snapshot)));
        }
        let api = self.clone();
        let events = self
            .subscription(selection, revision)
            .stream()
            .map(move |delivery| {
                let _held = &place;
                match delivery {
                    Ok(Delivery::Event(event)) => Ok(v1::WatchResponse {
                        cursor: cursor::encode(cluster, event.revision),
                        message: Some(v1::watch_response::Message::Event((&*event).into())),
                    }),
                    Ok(Delivery::Progress { revision, has_quorum }) => Ok(v1::WatchResponse {
                        cursor: cursor::encode(cluster, revision),
                        message: Some(v1::watch_response::Message::Progress(
                            api.progress(revision, has_quorum),
                        )),
                    }),
                    Err(ended) => Err(status(cluster, ended)),
                }
            });
        Ok(Response::new(Box::pin(snapshot.chain(events))))
    }
}

impl Api {
    fn subscription(&self, selection: Selection, position: u64) -> Subscription {
        Subscription {
            replica: self.replica.clone(),
            selection,
            position,
            progress_interval: self.progress_interval,
            quorum: self.quorum.clone(),
            end: self.end_streams.clone(),
        }
    }

    fn progress(&self, revision: u64, has_quorum: bool) -> v1::Progress {
        v1::Progress {
            revision,
            has_quorum,
            time: Some(convert::timestamp(self.replica.now())),
        }
    }

    /// The revision after which a subscription begins.
    fn position(&self, cluster: ClusterId, from: Option<v1::subscribe_request::From>) -> Result<u64, Status> {
        use v1::subscribe_request::From;
        let (newest, oldest) = self
            .replica
            .read(|machine| (machine.revision(), machine.oldest_revision()));
        match from {
            None => Ok(newest),
            Some(From::Oldest(true)) => Ok(oldest - 1),
            Some(From::Oldest(false)) => Err(errors::invalid("oldest", "must be true, or left out")),
            Some(From::After(text)) => {
                let after = cursor::decode(cluster, &text).map_err(|error| errors::cursor("after", error))?;
                if after + 1 < oldest {
                    return Err(errors::compacted(cursor::encode(cluster, oldest - 1), oldest));
                }
                // One that is ahead of this node waits: another node was faster.
                Ok(after)
            }
        }
    }

    /// A subscriber's place, given back when it is dropped.
    fn take_place(&self) -> Result<Place, Status> {
        let taken = self.subscribers.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.subscribers.clone());
        if taken >= self.max_subscribers {
            let limit = u64::from(self.max_subscribers);
            let text = format!("this node carries {limit} subscribers, its limit: try another node");
            return Err(errors::limit_reached("TOO_MANY_SUBSCRIBERS", limit, text));
        }
        Ok(place)
    }
}

struct Place(Arc<AtomicU32>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn selection(message: &v1::SubscribeRequest) -> Result<Selection, Status> {
    let events = message
        .events
        .iter()
        .map(|name| {
            EventName::parse(name)
                .ok_or_else(|| errors::invalid("events", &format!("has {name:?}, which is no event")))
        })
        .collect::<Result<_, _>>()?;
    let scopes = message
        .scopes
        .iter()
        .map(|scope| (!scope.is_empty()).then(|| scope.as_str().into()))
        .collect();
    let filter = if message.filter.is_empty() {
        None
    } else {
        Some(Filter::compile(&message.filter).map_err(|problem| errors::invalid("filter", &problem))?)
    };
    Ok(Selection {
        names: names(&message.names)?.into_iter().collect(),
        scopes,
        events,
        filter,
    })
}

fn names(names: &[v1::CircuitName]) -> Result<Vec<CircuitName>, Status> {
    if names.len() > MAX_REPORT_ITEMS {
        let problem = format!(
            "has {} entries, at most {MAX_REPORT_ITEMS} are allowed",
            names.len()
        );
        return Err(errors::invalid("names", &problem));
    }
    let checked = names.iter().enumerate().map(|(i, name)| {
        convert::circuit_name(Some(name)).map_err(|refusal| match refusal {
            Refusal::InvalidArgument { field, problem } => {
                let field = field.strip_prefix("name").unwrap_or(&field);
                errors::invalid(&format!("names[{i}]{field}"), &problem)
            }
            other => errors::refusal(other),
        })
    });
    checked.collect()
}

/// The circuits of a state, page by page; made when they are sent.
fn snapshot(frozen: Machine, names: Vec<CircuitName>) -> impl Iterator<Item = Vec<v1::Circuit>> + Send {
    let mut after = None;
    let mut wanted = names.into_iter();
    let by_name = wanted.len() > 0;
    std::iter::from_fn(move || {
        if by_name {
            let chunk: Vec<_> = wanted.by_ref().take(SNAPSHOT_PAGE).collect();
            let found = chunk.iter().filter_map(|name| frozen.status(name));
            return (!chunk.is_empty()).then(|| found.map(|status| (&status).into()).collect());
        }
        let query = ListQuery {
            after: after.take(),
            limit: SNAPSHOT_PAGE,
            ..ListQuery::default()
        };
        let page = frozen.list(&query);
        after = page.last().map(|status| status.name.clone());
        (!page.is_empty()).then(|| page.iter().map(Into::into).collect())
    })
}

fn status(cluster: ClusterId, ended: Ended) -> Status {
    match ended {
        Ended::Compacted(compacted) => {
            errors::compacted(cursor::encode(cluster, compacted.oldest - 1), compacted.oldest)
        }
        Ended::TooSlow(slow) => errors::invalid("filter", &slow.to_string()),
        Ended::Stopping => errors::resume_elsewhere(),
    }
}
