//! `brama.v1.Circuits`.

use std::pin::Pin;

use futures::Stream;
use tonic::{Request, Response, Status, Streaming};

use brama_core::circuit::StateName;
use brama_core::command::{Command, PermitId};
use brama_core::name::CircuitName;
use brama_core::query::{Availability, ListQuery};
use brama_core::reply::{Admission, BatchReply, ItemReply, Reply};
use brama_core::{Machine, Refusal};
use brama_proto::convert;
use brama_proto::v1;
use brama_proto::v1::circuits_server::Circuits;
use v1::consistency::Level;

use super::{Api, errors, stream, unexpected};

const DEFAULT_PAGE: u32 = 100;
const LARGEST_PAGE: u32 = 1000;

#[tonic::async_trait]
impl Circuits for Api {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        match self.apply(convert::register(message), deadline).await? {
            (Reply::Registered { created, circuit }, revision) => Ok(Response::new(v1::RegisterResponse {
                header: self.header(revision),
                circuit: Some((&*circuit).into()),
                created,
            })),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    async fn unregister(
        &self,
        request: Request<v1::UnregisterRequest>,
    ) -> Result<Response<v1::UnregisterResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        let command = command(message.name.as_ref(), message.reason, |name, reason| {
            Command::Unregister { name, reason }
        });
        match self.apply(command, deadline).await? {
            (Reply::Unregistered { existed }, revision) => Ok(Response::new(v1::UnregisterResponse {
                header: self.header(revision),
                existed,
            })),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    async fn configure(
        &self,
        request: Request<v1::ConfigureRequest>,
    ) -> Result<Response<v1::ConfigureResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        match self.apply(convert::configure(message), deadline).await? {
            (Reply::Configured { changed, policy }, revision) => Ok(Response::new(v1::ConfigureResponse {
                header: self.header(revision),
                policy: Some((&policy).into()),
                changed,
            })),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    async fn get_config(
        &self,
        request: Request<v1::GetConfigRequest>,
    ) -> Result<Response<v1::GetConfigResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        let name = message
            .name
            .as_ref()
            .map(|name| convert::circuit_name(Some(name)))
            .transpose();
        let name = name.map_err(errors::refusal)?;
        self.be_fresh(message.consistency, Level::Linearizable(true), deadline)
            .await?;
        let response = self.replica.read(|machine| {
            let header = self.header(machine.revision());
            match &name {
                Some(name) => machine
                    .circuit_config(name)
                    .map(|(own, policy)| v1::GetConfigResponse {
                        header,
                        own: Some((&own).into()),
                        policy: Some((&policy).into()),
                        ..Default::default()
                    }),
                None => {
                    let (own, policy, global) = machine.global_config();
                    Some(v1::GetConfigResponse {
                        header,
                        own: Some((&own).into()),
                        policy: Some((&policy).into()),
                        global: Some(global.into()),
                        limits: Some(machine.limits().into()),
                    })
                }
            }
        });
        response
            .map(Response::new)
            .ok_or_else(|| not_found(name.as_ref()))
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        let name = convert::circuit_name(message.name.as_ref()).map_err(errors::refusal)?;
        self.be_fresh(message.consistency, Level::Linearizable(true), deadline)
            .await?;
        let found = self
            .replica
            .read(|machine| machine.status(&name).map(|status| (status, machine.revision())));
        let (status, revision) = found.ok_or_else(|| not_found(Some(&name)))?;
        Ok(Response::new(v1::StatusResponse {
            header: self.header(revision),
            circuit: Some((&status).into()),
        }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        if message.page_size > LARGEST_PAGE {
            let problem = format!("is {}, at most {LARGEST_PAGE} are allowed", message.page_size);
            return Err(errors::invalid("page_size", &problem));
        }
        let limit = if message.page_size == 0 {
            DEFAULT_PAGE
        } else {
            message.page_size
        } as usize;
        let query = ListQuery {
            scope: message.scope,
            states: convert::states(&message.states).map_err(errors::refusal)?,
            identifier_prefix: message.identifier_prefix,
            after: page::read(&message.page_token)?,
            // One more, to know whether there is more.
            limit: limit + 1,
        };
        self.be_fresh(message.consistency, Level::Linearizable(true), deadline)
            .await?;
        // A listing may have to look at every circuit: it reads a frozen copy, so that applies do not wait for it, beside the threads
        // that answer calls.
        let frozen = self.replica.read(Machine::freeze);
        let listed = tokio::task::spawn_blocking(move || {
            let frozen = frozen.reader();
            (frozen.list(&query), frozen.revision())
        });
        let (mut circuits, revision) = listed
            .await
            .map_err(|error| Status::internal(format!("the listing failed: {error}")))?;
        let next_page_token = if circuits.len() > limit {
            circuits.truncate(limit);
            circuits
                .last()
                .map(|last| page::write(&last.name))
                .unwrap_or_default()
        } else {
            String::new()
        };
        Ok(Response::new(v1::ListResponse {
            header: self.header(revision),
            circuits: circuits.iter().map(Into::into).collect(),
            next_page_token,
        }))
    }

    async fn available(
        &self,
        request: Request<v1::AvailableRequest>,
    ) -> Result<Response<v1::AvailableResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        let name = convert::circuit_name(message.name.as_ref()).map_err(errors::refusal)?;
        self.be_fresh(message.consistency, Level::Local(true), deadline)
            .await?;
        let (availability, revision) = self.look(&name)?;
        Ok(Response::new(v1::AvailableResponse {
            header: self.header(revision),
            available: availability.available,
            state: v1::State::from(availability.state).into(),
            generation: availability.generation,
            retry_after_ms: availability.retry_after_ms,
            reason: availability.reason.as_deref().map(str::to_owned),
            opened_at: availability.opened_at.map(convert::timestamp),
        }))
    }

    async fn acquire(
        &self,
        request: Request<v1::AcquireRequest>,
    ) -> Result<Response<v1::AcquireResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        let name = convert::circuit_name(message.name.as_ref()).map_err(errors::refusal)?;
        let permit = convert::permit_id(&message.permit_id).map_err(errors::refusal)?;
        self.replica.linearize(deadline).await.map_err(errors::read)?;
        let (availability, revision) = self.look(&name)?;
        if availability.state != StateName::HalfOpen {
            // Nothing would change: no entry is needed to say so.
            return Ok(Response::new(
                self.admission(from_availability(availability), revision),
            ));
        }
        let permit = permit.unwrap_or_else(|| PermitId(rand::random()));
        match self
            .apply(Ok(Command::Acquire { name, permit }), deadline)
            .await?
        {
            (Reply::Admission(admission), revision) => Ok(Response::new(self.admission(admission, revision))),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    async fn report(
        &self,
        request: Request<v1::ReportRequest>,
    ) -> Result<Response<v1::ReportResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        match self.apply(convert::report(message), deadline).await? {
            (Reply::Reported(reply), revision) => Ok(Response::new(self.reported(&reply, revision))),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    type ReportStreamStream = Pin<Box<dyn Stream<Item = Result<v1::ReportStreamResponse, Status>> + Send>>;

    async fn report_stream(
        &self,
        request: Request<Streaming<v1::ReportRequest>>,
    ) -> Result<Response<Self::ReportStreamStream>, Status> {
        Ok(Response::new(Box::pin(stream::answer_reports(
            self.clone(),
            request.into_inner(),
        ))))
    }

    async fn success(
        &self,
        request: Request<v1::SuccessRequest>,
    ) -> Result<Response<v1::OutcomeResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        let name = message.name.clone();
        let outcome = self.apply(convert::success(message), deadline).await?;
        self.outcome(name.as_ref(), outcome).map(Response::new)
    }

    async fn failure(
        &self,
        request: Request<v1::FailureRequest>,
    ) -> Result<Response<v1::OutcomeResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        let name = message.name.clone();
        let outcome = self.apply(convert::failure(message), deadline).await?;
        self.outcome(name.as_ref(), outcome).map(Response::new)
    }

    async fn open_circuit(
        &self,
        request: Request<v1::OpenCircuitRequest>,
    ) -> Result<Response<v1::ManualResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        let expiry = convert::expiry(message.expiry, "expiry").map_err(errors::refusal)?;
        let command = command(message.name.as_ref(), message.reason, |name, reason| {
            Command::Open { name, expiry, reason }
        });
        let done = self.apply(command, deadline).await?;
        self.steered(done).map(Response::new)
    }

    async fn close_circuit(
        &self,
        request: Request<v1::CloseCircuitRequest>,
    ) -> Result<Response<v1::ManualResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        let command = command(message.name.as_ref(), message.reason, |name, reason| {
            Command::Close { name, reason }
        });
        let done = self.apply(command, deadline).await?;
        self.steered(done).map(Response::new)
    }

    async fn reset_circuit(
        &self,
        request: Request<v1::ResetCircuitRequest>,
    ) -> Result<Response<v1::ManualResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        let command = command(message.name.as_ref(), message.reason, |name, reason| {
            Command::Reset { name, reason }
        });
        let done = self.apply(command, deadline).await?;
        self.steered(done).map(Response::new)
    }
}

impl Api {
    /// Whether a call would pass now, by the local state and this node's clock.
    fn look(&self, name: &CircuitName) -> Result<(Availability, u64), Status> {
        let now = self.replica.now();
        self.replica
            .read(|machine| {
                machine
                    .available(name, now)
                    .map(|availability| (availability, machine.revision()))
            })
            .ok_or_else(|| not_found(Some(name)))
    }

    fn admission(&self, admission: Admission, revision: u64) -> v1::AcquireResponse {
        let (permit_id, permit_expires_at) = match admission.permit {
            Some((permit, until)) => (permit.0.to_be_bytes().to_vec(), Some(convert::timestamp(until))),
            None => (Vec::new(), None),
        };
        v1::AcquireResponse {
            header: self.header(revision),
            admitted: admission.admitted,
            state: v1::State::from(admission.state).into(),
            generation: admission.generation,
            permit_id,
            permit_expires_at,
            retry_after_ms: admission.retry_after_ms,
            reason: admission.reason.as_deref().map(str::to_owned),
            opened_at: admission.opened_at.map(convert::timestamp),
        }
    }

    /// The answer to a batch.
    pub(super) fn reported(&self, reply: &BatchReply, revision: u64) -> v1::ReportResponse {
        v1::ReportResponse {
            header: self.header(revision),
            items: reply.items.iter().map(Into::into).collect(),
            revision: reply.revision,
        }
    }

    fn outcome(
        &self,
        name: Option<&v1::CircuitName>,
        (reply, revision): (Reply, u64),
    ) -> Result<v1::OutcomeResponse, Status> {
        let Reply::Reported(batch) = reply else {
            return Err(unexpected(&reply));
        };
        match batch.items.first() {
            Some(item @ ItemReply::Counted { .. }) => {
                let item = v1::ReportItemResponse::from(item);
                Ok(v1::OutcomeResponse {
                    header: self.header(revision),
                    result: item.result,
                    state: item.state,
                    generation: item.generation,
                    failure_count: item.failure_count,
                    revision: batch.revision,
                })
            }
            _ => Err(not_found(convert::circuit_name(name).ok().as_ref())),
        }
    }

    fn steered(&self, (reply, revision): (Reply, u64)) -> Result<v1::ManualResponse, Status> {
        let Reply::Changed { circuit } = reply else {
            return Err(unexpected(&reply));
        };
        Ok(v1::ManualResponse {
            header: self.header(revision),
            circuit: Some((&*circuit).into()),
        })
    }
}

fn command(
    name: Option<&v1::CircuitName>,
    reason: Option<String>,
    make: impl FnOnce(CircuitName, Option<std::sync::Arc<str>>) -> Command,
) -> Result<Command, Refusal> {
    Ok(make(convert::circuit_name(name)?, convert::reason(reason)?))
}

fn from_availability(availability: Availability) -> Admission {
    Admission {
        admitted: availability.state == StateName::Closed,
        state: availability.state,
        generation: availability.generation,
        permit: None,
        retry_after_ms: availability.retry_after_ms,
        reason: availability.reason,
        opened_at: availability.opened_at,
    }
}

fn not_found(name: Option<&CircuitName>) -> Status {
    let name = name.map(ToString::to_string).unwrap_or_default();
    errors::refusal(Refusal::CircuitNotFound { name })
}

/// Page tokens: the last name of a page, so that a listing goes on where it was whatever is registered or removed meanwhile.
mod page {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use prost::Message as _;
    use tonic::Status;

    use brama_core::name::CircuitName;
    use brama_proto::{convert, v1};

    use super::errors;

    pub(super) fn write(name: &CircuitName) -> String {
        URL_SAFE_NO_PAD.encode(v1::CircuitName::from(name).encode_to_vec())
    }

    pub(super) fn read(token: &str) -> Result<Option<CircuitName>, Status> {
        if token.is_empty() {
            return Ok(None);
        }
        let bad = || errors::invalid("page_token", "is not one that List gave out");
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
        let name = v1::CircuitName::decode(&*bytes).map_err(|_| bad())?;
        convert::circuit_name(Some(&name)).map(Some).map_err(|_| bad())
    }
}
