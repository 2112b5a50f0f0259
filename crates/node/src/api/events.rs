//! `brama.v1.Events`.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use brama_core::command::ClusterId;
use brama_core::cursor;
use brama_core::event::EventName;
use brama_core::limits::MAX_REPORT_ITEMS;
use brama_core::mutants::{self, Mutant};
use brama_core::name::CircuitName;
use brama_core::query::{CircuitStatus, ListQuery};
use brama_core::{Machine, Refusal};
use brama_proto::convert;
use brama_proto::encoded::Encoded;
use brama_proto::encoded::events_server::Events;
use brama_proto::v1;
use brama_raft::Replica;

use super::shared_events::SharedEvents;
use super::{Api, errors};
use crate::filter::Filter;
use crate::news::Interest;
use crate::subscribers::{Position, Seat};
use crate::subscription::{Delivery, Ended, Narrower, Selection, Subscription};
use crate::told::Told;

/// Circuits in one message of a snapshot.
const SNAPSHOT_PAGE: usize = 100;

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Events for Api {
    type SubscribeStream = BoxStream<Encoded>;

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
        let told = self.messages(cluster);
        let deliveries = self.subscription(selection, position, place.position()).stream();
        let messages = deliveries.flat_map(move |delivery| {
            let _held = &place;
            futures::stream::iter(told.of(delivery))
        });
        Ok(Response::new(Box::pin(messages)))
    }

    type WatchStream = BoxStream<Encoded>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        use v1::watch_response::Message;
        let (message, deadline) = Self::open(request)?;
        let names = names(&message.names)?;
        let place = self.take_place()?;
        self.replica.recovered(deadline).await.map_err(errors::read)?;
        let cluster = self.cluster_id()?;
        // One moment: the circuits, and the revision after which their events go on.
        let frozen = self.replica.read(Machine::freeze).reader();
        let revision = if mutants::active(Mutant::WatchInTwoMoments) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            self.replica.read(Machine::revision)
        } else {
            frozen.revision()
        };
        let time = convert::timestamp(self.replica.now());
        let told = message.changes_only.then(Told::default);
        let selection = Selection {
            names: in_order(names.clone()),
            changes_only: told.clone(),
            ..Selection::default()
        };
        let end = self.end_streams.clone();
        let mut circuits = 0;
        let snapshot = snapshot(frozen, names).map(Some).chain([None]).map(move |page| {
            if end.is_cancelled() {
                return Err(errors::resume_elsewhere());
            }
            let (cursor, message) = match page {
                Some(page) => {
                    circuits += page.len() as u64;
                    if let Some(told) = &told {
                        page.iter().for_each(|circuit| told.tell(circuit));
                    }
                    let circuits = page.iter().map(Into::into).collect();
                    (String::new(), Message::Snapshot(v1::WatchSnapshot { circuits }))
                }
                None => (
                    cursor::encode(cluster, revision),
                    Message::Synced(v1::WatchSynced {
                        revision,
                        circuits,
                        time: Some(time),
                        cluster_id: cluster.to_string(),
                    }),
                ),
            };
            Ok(Encoded::new(&v1::WatchResponse {
                cursor,
                message: Some(message),
            }))
        });
        let told = self.messages(cluster);
        let deliveries = self.subscription(selection, revision, place.position()).stream();
        let events = deliveries.flat_map(move |delivery| futures::stream::iter(told.of(delivery)));
        let events = if message.snapshot_only {
            events.take(0)
        } else {
            events.take(usize::MAX)
        };
        let messages = futures::stream::iter(snapshot)
            .chain(events)
            .scan(false, move |ended, message| {
                let _held = &place;
                // An error is the last that is sent.
                let message = (!*ended).then_some(message);
                *ended = matches!(message, Some(Err(_)));
                std::future::ready(message)
            });
        Ok(Response::new(Box::pin(messages)))
    }
}

/// What a subscriber or a watcher is sent; each has one, so it holds no more than it needs.
struct Messages {
    cluster: ClusterId,
    replica: Replica,
    shared_events: SharedEvents,
}

impl Messages {
    /// What a subscriber is sent for a delivery.
    fn of(&self, delivery: Result<Delivery, Ended>) -> impl Iterator<Item = Result<Encoded, Status>> + use<> {
        let (events, other) = match delivery {
            Ok(Delivery::Events(events)) => (events, None),
            Ok(Delivery::Progress { revision, has_quorum }) => {
                (VecDeque::new(), Some(Ok(self.progress(revision, has_quorum))))
            }
            Err(ended) => (VecDeque::new(), Some(Err(status(self.cluster, ended)))),
        };
        let (cluster, shared_events) = (self.cluster, self.shared_events.clone());
        let events = events
            .into_iter()
            .map(move |event| Ok(shared_events.message(cluster, &event)));
        events.chain(other)
    }

    fn progress(&self, revision: u64, has_quorum: bool) -> Encoded {
        Encoded::new(&v1::SubscribeResponse {
            cursor: cursor::encode(self.cluster, revision),
            message: Some(v1::subscribe_response::Message::Progress(v1::Progress {
                revision,
                has_quorum,
                time: Some(convert::timestamp(self.replica.now())),
            })),
        })
    }
}

impl Api {
    fn subscription(&self, selection: Selection, position: u64, shown: Position) -> Subscription {
        let interest = match selection.changes_only {
            Some(_) => Interest::Changes,
            None => Interest::Everything,
        };
        Subscription {
            replica: self.replica.clone(),
            following: self.news.follow(selection.names.clone(), interest),
            selection,
            position,
            shown,
            progress_interval: self.progress_interval,
            quorum: self.quorum.clone(),
            end: self.end_streams.clone(),
        }
    }

    fn messages(&self, cluster: ClusterId) -> Messages {
        Messages {
            cluster,
            replica: self.replica.clone(),
            shared_events: self.shared_events.clone(),
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
                if after < oldest - 1 {
                    return Err(errors::compacted(cursor::encode(cluster, oldest - 1), oldest));
                }
                // One that is ahead of this node waits: another node was faster.
                Ok(after)
            }
        }
    }

    /// A subscriber's place, given back when it is dropped.
    fn take_place(&self) -> Result<Seat, Status> {
        self.subscribers.take().ok_or_else(|| {
            let limit = u64::from(self.subscribers.limit());
            let text = format!("this node carries {limit} subscribers, its limit: try another node");
            errors::limit_reached("TOO_MANY_SUBSCRIBERS", limit, text)
        })
    }
}

fn selection(message: &v1::SubscribeRequest) -> Result<Selection, Status> {
    let mut events = Vec::new();
    for name in &message.events {
        let event = EventName::parse(name)
            .ok_or_else(|| errors::invalid("events", &format!("has {name:?}, which is no event")))?;
        // A name that is repeated would be looked at for each event again.
        if !events.contains(&event) {
            events.push(event);
        }
    }
    let scopes = message.scopes.iter().enumerate().map(|(i, scope)| {
        if scope.is_empty() {
            return Ok(None);
        }
        // Checked as that of a name.
        let name = v1::CircuitName {
            scope: Some(scope.clone()),
            identifier: "any".to_owned(),
        };
        match convert::circuit_name(Some(&name)) {
            Ok(name) => Ok(name.scope),
            Err(Refusal::InvalidArgument { problem, .. }) => {
                Err(errors::invalid(&format!("scopes[{i}]"), &problem))
            }
            Err(other) => Err(errors::refusal(other)),
        }
    });
    let scopes = scopes.collect::<Result<HashSet<_>, _>>()?;
    let filter = if message.filter.is_empty() {
        None
    } else {
        Some(Filter::compile(&message.filter).map_err(|problem| errors::invalid("filter", &problem))?)
    };
    let narrower = Narrower {
        scopes,
        events,
        filter,
    };
    Ok(Selection {
        names: in_order(names(&message.names)?),
        narrower: narrower.is_any().then(|| Box::new(narrower)),
        changes_only: None,
    })
}

/// Each once, so that they can be searched.
fn in_order(mut names: Vec<CircuitName>) -> Arc<[CircuitName]> {
    names.sort_unstable();
    names.dedup();
    names.into()
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
fn snapshot(frozen: Machine, names: Vec<CircuitName>) -> impl Iterator<Item = Vec<CircuitStatus>> + Send {
    let mut after = None;
    let mut wanted = names.into_iter();
    let by_name = wanted.len() > 0;
    std::iter::from_fn(move || {
        if by_name {
            let chunk: Vec<_> = wanted.by_ref().take(SNAPSHOT_PAGE).collect();
            let found = chunk.iter().filter_map(|name| frozen.status(name));
            return (!chunk.is_empty()).then(|| found.collect());
        }
        let query = ListQuery {
            after: after.take(),
            limit: SNAPSHOT_PAGE,
            ..ListQuery::default()
        };
        let page = frozen.list(&query);
        after = page.last().map(|status| status.name.clone());
        (!page.is_empty()).then_some(page)
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
