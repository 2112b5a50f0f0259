//! What a client speaks with, answered by a [`World`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use brama_core::command::{ClusterId, Command, PermitId};
use brama_core::event::{Event, EventName};
use brama_core::query::ListQuery;
use brama_core::reply::{BatchReply, Reply};
use brama_core::{CircuitName, Refusal, cursor};
use brama_proto::v1::circuits_server::Circuits;
use brama_proto::v1::events_server::Events;
use brama_proto::{convert, v1};
use futures::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

use super::world::World;
use crate::wire;

/// A node, as far as a client sees it.
#[derive(Clone, Debug)]
pub(super) struct Services {
    pub(super) world: Arc<World>,
    pub(super) cluster: ClusterId,
}

type Answer<T> = Result<Response<T>, Status>;
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Services {
    fn apply(&self, command: Result<Command, Refusal>) -> Result<(Reply, u64), Status> {
        self.check_reach()?;
        let applied = command.and_then(|command| self.world.apply(command));
        applied.map_err(refused)
    }

    fn check_reach(&self) -> Result<(), Status> {
        if *self.world.in_reach().borrow() {
            return Ok(());
        }
        Err(status(
            Code::Unavailable,
            "NO_LEADER",
            "the fake cluster is cut off",
        ))
    }

    fn steer(
        &self,
        name: Option<&v1::CircuitName>,
        command: impl FnOnce(CircuitName) -> Command,
    ) -> Answer<v1::ManualResponse> {
        match self.apply(convert::circuit_name(name).map(command))? {
            (Reply::Changed { circuit }, _) => Ok(Response::new(v1::ManualResponse {
                header: None,
                circuit: Some((&*circuit).into()),
            })),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    fn outcome(&self, command: Result<Command, Refusal>) -> Answer<v1::OutcomeResponse> {
        let (Reply::Reported(reply), revision) = self.apply(command)? else {
            return Err(Status::internal("not a report"));
        };
        let item: v1::ReportItemResponse = reply.items.first().map(Into::into).unwrap_or_default();
        if item.result() == v1::ItemResult::NotFound {
            return Err(status(Code::NotFound, "CIRCUIT_NOT_FOUND", "no such circuit"));
        }
        Ok(Response::new(v1::OutcomeResponse {
            header: None,
            result: item.result,
            state: item.state,
            generation: item.generation,
            failure_count: item.failure_count,
            revision,
        }))
    }

    /// The events after `position` that are selected, and after them that there are no more; for ever.
    fn follow(
        &self,
        position: u64,
        selects: impl Fn(&Event) -> bool + Send + 'static,
    ) -> Messages<v1::SubscribeResponse> {
        let services = self.clone();
        let revision = self.world.revision();
        let in_reach = self.world.in_reach();
        // Where it stands is said first.
        let first = VecDeque::from([services.progress(position)]);
        let begin = (position, first, revision, in_reach);
        let stream = futures::stream::unfold(
            begin,
            move |(mut position, mut ready, mut revision, mut in_reach)| {
                let services = services.clone();
                let batch = if ready.is_empty() {
                    services.world.events_after(position)
                } else {
                    Vec::new()
                };
                for event in batch {
                    position = event.revision;
                    if selects(&event) {
                        ready.push_back(services.event(&event));
                    }
                    ready.push_back(services.progress(position));
                }
                async move {
                    loop {
                        if !*in_reach.borrow_and_update() {
                            return None;
                        }
                        if let Some(message) = ready.pop_front() {
                            return Some((Ok(message), (position, ready, revision, in_reach)));
                        }
                        if *revision.borrow_and_update() > position {
                            // Read at the next turn; what is said meanwhile is true.
                            let message = services.progress(position);
                            return Some((Ok(message), (position, ready, revision, in_reach)));
                        }
                        tokio::select! {
                            changed = revision.changed() => changed.ok()?,
                            changed = in_reach.changed() => changed.ok()?,
                        }
                    }
                }
            },
        );
        stream.boxed()
    }

    fn event(&self, event: &Event) -> v1::SubscribeResponse {
        v1::SubscribeResponse {
            cursor: cursor::encode(self.cluster, event.revision),
            message: Some(v1::subscribe_response::Message::Event(event.into())),
        }
    }

    fn progress(&self, revision: u64) -> v1::SubscribeResponse {
        v1::SubscribeResponse {
            cursor: cursor::encode(self.cluster, revision),
            message: Some(v1::subscribe_response::Message::Progress(v1::Progress {
                revision,
                has_quorum: true,
                time: Some(convert::timestamp(self.world.now())),
            })),
        }
    }
}

#[tonic::async_trait]
impl Circuits for Services {
    async fn register(&self, request: Request<v1::RegisterRequest>) -> Answer<v1::RegisterResponse> {
        match self.apply(convert::register(request.into_inner()))? {
            (Reply::Registered { created, circuit }, _) => Ok(Response::new(v1::RegisterResponse {
                header: None,
                circuit: Some((&*circuit).into()),
                created,
            })),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    async fn unregister(&self, request: Request<v1::UnregisterRequest>) -> Answer<v1::UnregisterResponse> {
        let message = request.into_inner();
        let reason = convert::reason(message.reason).map_err(refused)?;
        let name = convert::circuit_name(message.name.as_ref());
        match self.apply(name.map(|name| Command::Unregister { name, reason }))? {
            (Reply::Unregistered { existed }, _) => {
                let header = None;
                Ok(Response::new(v1::UnregisterResponse { header, existed }))
            }
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    async fn configure(&self, request: Request<v1::ConfigureRequest>) -> Answer<v1::ConfigureResponse> {
        match self.apply(convert::configure(request.into_inner()))? {
            (Reply::Configured { changed, policy }, _) => Ok(Response::new(v1::ConfigureResponse {
                header: None,
                policy: Some((&policy).into()),
                changed,
            })),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    async fn get_config(&self, request: Request<v1::GetConfigRequest>) -> Answer<v1::GetConfigResponse> {
        self.check_reach()?;
        let answer = match request.into_inner().name {
            Some(name) => {
                let name = convert::circuit_name(Some(&name)).map_err(refused)?;
                let found = self.world.read(|machine| machine.circuit_config(&name));
                let (own, policy) = found.ok_or_else(|| not_found(&name))?;
                v1::GetConfigResponse {
                    own: Some((&own).into()),
                    policy: Some((&policy).into()),
                    ..Default::default()
                }
            }
            None => {
                let (own, policy, global) = self.world.read(|machine| machine.global_config());
                v1::GetConfigResponse {
                    own: Some((&own).into()),
                    policy: Some((&policy).into()),
                    global: Some(global.into()),
                    ..Default::default()
                }
            }
        };
        Ok(Response::new(answer))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        self.check_reach()?;
        let name = convert::circuit_name(request.into_inner().name.as_ref()).map_err(refused)?;
        let found = self.world.read(|machine| machine.status(&name));
        let circuit = found.ok_or_else(|| not_found(&name))?;
        Ok(Response::new(v1::StatusResponse {
            header: None,
            circuit: Some((&circuit).into()),
        }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Answer<v1::ListResponse> {
        self.check_reach()?;
        let message = request.into_inner();
        let query = ListQuery {
            scope: message.scope,
            states: convert::states(&message.states).map_err(refused)?,
            identifier_prefix: message.identifier_prefix,
            after: None,
            // All in one page, however long: no token leads to the rest.
            limit: usize::MAX,
        };
        let circuits = self.world.read(|machine| machine.list(&query));
        Ok(Response::new(v1::ListResponse {
            circuits: circuits.iter().map(Into::into).collect(),
            ..Default::default()
        }))
    }

    async fn available(&self, request: Request<v1::AvailableRequest>) -> Answer<v1::AvailableResponse> {
        self.check_reach()?;
        let name = convert::circuit_name(request.into_inner().name.as_ref()).map_err(refused)?;
        let now = self.world.now();
        let found = self.world.read(|machine| machine.available(&name, now));
        let circuit = found.ok_or_else(|| not_found(&name))?;
        Ok(Response::new(v1::AvailableResponse {
            header: None,
            available: circuit.available,
            state: v1::State::from(circuit.state).into(),
            generation: circuit.generation,
            retry_after_ms: circuit.retry_after_ms,
            reason: circuit.reason.as_deref().map(str::to_owned),
            opened_at: circuit.opened_at.map(convert::timestamp),
        }))
    }

    async fn acquire(&self, request: Request<v1::AcquireRequest>) -> Answer<v1::AcquireResponse> {
        let message = request.into_inner();
        let permit = convert::permit_id(&message.permit_id).map_err(refused)?;
        let permit = permit.unwrap_or_else(|| PermitId(rand::random()));
        let name = convert::circuit_name(message.name.as_ref());
        let (Reply::Admission(admission), _) =
            self.apply(name.map(|name| Command::Acquire { name, permit }))?
        else {
            return Err(Status::internal("not an admission"));
        };
        Ok(Response::new(v1::AcquireResponse {
            header: None,
            admitted: admission.admitted,
            state: v1::State::from(admission.state).into(),
            generation: admission.generation,
            permit_id: admission
                .permit
                .map(|(permit, _)| wire::to_permit(permit))
                .unwrap_or_default(),
            permit_expires_at: admission.permit.map(|(_, until)| convert::timestamp(until)),
            retry_after_ms: admission.retry_after_ms,
            reason: admission.reason.as_deref().map(str::to_owned),
            opened_at: admission.opened_at.map(convert::timestamp),
        }))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Answer<v1::ReportResponse> {
        match self.apply(convert::report(request.into_inner()))? {
            (Reply::Reported(BatchReply { items, .. }), revision) => Ok(Response::new(v1::ReportResponse {
                header: None,
                items: items.iter().map(Into::into).collect(),
                revision,
            })),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    type ReportStreamStream = Messages<v1::ReportStreamResponse>;

    async fn report_stream(
        &self,
        _: Request<Streaming<v1::ReportRequest>>,
    ) -> Answer<Self::ReportStreamStream> {
        Err(Status::unimplemented("the fake cluster takes single reports"))
    }

    async fn success(&self, request: Request<v1::SuccessRequest>) -> Answer<v1::OutcomeResponse> {
        self.outcome(convert::success(request.into_inner()))
    }

    async fn failure(&self, request: Request<v1::FailureRequest>) -> Answer<v1::OutcomeResponse> {
        self.outcome(convert::failure(request.into_inner()))
    }

    async fn open_circuit(&self, request: Request<v1::OpenCircuitRequest>) -> Answer<v1::ManualResponse> {
        let message = request.into_inner();
        let expiry = convert::expiry(message.expiry, "expiry").map_err(refused)?;
        let reason = convert::reason(message.reason).map_err(refused)?;
        self.steer(message.name.as_ref(), |name| Command::Open {
            name,
            expiry,
            reason,
        })
    }

    async fn close_circuit(&self, request: Request<v1::CloseCircuitRequest>) -> Answer<v1::ManualResponse> {
        let message = request.into_inner();
        let reason = convert::reason(message.reason).map_err(refused)?;
        self.steer(message.name.as_ref(), |name| Command::Close { name, reason })
    }

    async fn reset_circuit(&self, request: Request<v1::ResetCircuitRequest>) -> Answer<v1::ManualResponse> {
        let message = request.into_inner();
        let reason = convert::reason(message.reason).map_err(refused)?;
        self.steer(message.name.as_ref(), |name| Command::Reset { name, reason })
    }
}

#[tonic::async_trait]
impl Events for Services {
    type SubscribeStream = Messages<v1::SubscribeResponse>;

    async fn subscribe(&self, request: Request<v1::SubscribeRequest>) -> Answer<Self::SubscribeStream> {
        use v1::subscribe_request::From;
        self.check_reach()?;
        let message = request.into_inner();
        if !message.filter.is_empty() {
            return Err(Status::unimplemented(
                "the fake cluster knows no filter expressions: use filter_with",
            ));
        }
        let names = names(&message.names)?;
        let events = message.events.iter().map(|name| {
            EventName::parse(name).ok_or_else(|| Status::invalid_argument(format!("{name} is no event")))
        });
        let events: Vec<_> = events.collect::<Result<_, _>>()?;
        let scopes = message.scopes;
        let position = match message.from {
            None => *self.world.revision().borrow(),
            Some(From::Oldest(_)) => 0,
            Some(From::After(text)) => cursor::decode(self.cluster, &text)
                .map_err(|error| Status::invalid_argument(error.to_string()))?,
        };
        let selects = move |event: &Event| {
            let name = event.name.as_ref();
            let scope = name.and_then(|name| name.scope.as_deref()).unwrap_or_default();
            (names.is_empty() || name.is_some_and(|name| names.contains(name)))
                && (scopes.is_empty() || (name.is_some() && scopes.iter().any(|wanted| wanted == scope)))
                && (events.is_empty() || events.iter().any(|wanted| wanted.selects(event)))
        };
        Ok(Response::new(self.follow(position, selects)))
    }

    type WatchStream = Messages<v1::WatchResponse>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        use v1::watch_response::Message;
        self.check_reach()?;
        let message = request.into_inner();
        let names = names(&message.names)?;
        let (circuits, revision) = self.world.read(|machine| {
            let circuits = if names.is_empty() {
                machine.list(&ListQuery {
                    limit: usize::MAX,
                    ..ListQuery::default()
                })
            } else {
                names.iter().filter_map(|name| machine.status(name)).collect()
            };
            (circuits, machine.revision())
        });
        let synced = v1::WatchSynced {
            revision,
            circuits: circuits.len() as u64,
            time: Some(convert::timestamp(self.world.now())),
            cluster_id: self.cluster.to_string(),
        };
        let circuits = circuits.iter().map(Into::into).collect();
        let snapshot = [
            v1::WatchResponse {
                cursor: String::new(),
                message: Some(Message::Snapshot(v1::WatchSnapshot { circuits })),
            },
            v1::WatchResponse {
                cursor: cursor::encode(self.cluster, revision),
                message: Some(Message::Synced(synced)),
            },
        ];
        let snapshot = futures::stream::iter(snapshot.map(Ok));
        if message.snapshot_only {
            return Ok(Response::new(snapshot.boxed()));
        }
        let selects = move |event: &Event| {
            names.is_empty() || event.name.as_ref().is_some_and(|name| names.contains(name))
        };
        let events = self.follow(revision, selects).map(|message| {
            let v1::SubscribeResponse { cursor, message } = message?;
            let message = message.map(|message| match message {
                v1::subscribe_response::Message::Event(event) => Message::Event(event),
                v1::subscribe_response::Message::Progress(progress) => Message::Progress(progress),
            });
            Ok(v1::WatchResponse { cursor, message })
        });
        Ok(Response::new(snapshot.chain(events).boxed()))
    }
}

fn names(names: &[v1::CircuitName]) -> Result<HashSet<CircuitName>, Status> {
    let names = names.iter().map(|name| convert::circuit_name(Some(name)));
    names.collect::<Result<_, _>>().map_err(refused)
}

fn refused(refusal: Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::InvalidArgument { field, problem } => {
            let mut details = ErrorDetails::with_bad_request_violation(field, problem);
            details.set_error_info("INVALID_ARGUMENT", "brama", HashMap::new());
            Status::with_error_details(Code::InvalidArgument, text, details)
        }
        Refusal::SessionExpired { .. } => status(Code::FailedPrecondition, "SESSION_EXPIRED", &text),
        Refusal::StaleSequence { .. } => status(Code::FailedPrecondition, "STALE_SEQUENCE", &text),
        Refusal::CircuitNotFound { .. } => status(Code::NotFound, "CIRCUIT_NOT_FOUND", &text),
        Refusal::AlreadyRegistered { .. } => status(Code::AlreadyExists, "ALREADY_REGISTERED", &text),
        _ => status(Code::FailedPrecondition, "REFUSED", &text),
    }
}

fn not_found(name: &CircuitName) -> Status {
    let text = format!("no circuit is registered as {name}");
    status(Code::NotFound, "CIRCUIT_NOT_FOUND", &text)
}

fn status(code: Code, reason: &str, text: &str) -> Status {
    Status::with_error_details(
        code,
        text,
        ErrorDetails::with_error_info(reason, "brama", HashMap::new()),
    )
}

fn unexpected(reply: &Reply) -> Status {
    Status::internal(format!("an answer to another question: {reply:?}"))
}
