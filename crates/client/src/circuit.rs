//! A handle on one circuit.

use std::sync::Arc;
use std::time::Duration;

use brama_core::CircuitName;
use brama_core::Metadata;
use brama_core::command::{IfExists, PermitId};
use brama_core::policy::{EffectivePolicy, Expiry, Policy, PolicyOption};
use brama_core::query::{Availability, CircuitStatus};
use brama_core::reply::{Admission, ItemReply};
use brama_core::report::Outcome;
use brama_proto::convert::metadata_message;
use brama_proto::v1;

use crate::call::{CallError, Classified, Ticket};
use crate::client::{Client, Config, Consistency};
use crate::error::Error;
use crate::report::{Item, fitting_reason};
use crate::retry::Repeat;
use crate::wire;

/// One circuit of the cluster, registered or not. Cheap to clone.
///
/// A name that is not allowed (empty, longer than 255 bytes, with control characters) is refused by each call as [`Error::InvalidArgument`].
#[derive(Clone, Debug)]
pub struct Circuit {
    client: Client,
    name: CircuitName,
}

/// What to register; see [`Circuit::register_with`].
#[derive(Clone, Debug)]
pub struct Register {
    /// What is set on the circuit itself; the rest is inherited.
    pub policy: Policy,
    /// At most 32 entries; keys of 1..=64 bytes, values of at most 1 KiB.
    pub metadata: Metadata,
    /// What to do when the name is taken. Default: refuse.
    pub if_exists: IfExists,
}

impl Default for Register {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            metadata: Metadata::new(),
            if_exists: IfExists::Refuse,
        }
    }
}

/// What came of a registration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Registered {
    /// As it is now.
    pub circuit: CircuitStatus,
    /// False: it was there already.
    pub created: bool,
}

/// What to change of a policy; the rest stays.
#[derive(Clone, Debug, Default)]
pub struct Configure {
    /// Options to set.
    pub set: Policy,
    /// Options to inherit again.
    pub clear: Vec<PolicyOption>,
}

impl Circuit {
    pub(crate) fn new(client: Client, name: CircuitName) -> Self {
        Self { client, name }
    }

    /// Its name.
    pub fn name(&self) -> &CircuitName {
        &self.name
    }

    /// Asks whether a call may be made, makes it, and reports what came of it: `Ok` is a success, `Err` a failure with the error as its reason
    /// (cut at 1 KiB). See [`Circuit::call_with`] for the rest.
    ///
    /// # Errors
    /// [`CallError`]; the call was made only if it is [`CallError::Inner`].
    pub async fn call<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, CallError<E>>
    where
        E: std::fmt::Display,
    {
        let classify = |result: &Result<T, E>| match result {
            Ok(_) => Classified::Success,
            Err(error) => Classified::Failure(error.to_string()),
        };
        self.call_with(work, classify).await
    }

    /// As [`Circuit::call`], with `classify` to say what a result means for the circuit.
    ///
    /// - The report goes through the client's queue: the result is returned without waiting for it, and a cluster that is out of reach now does
    ///   not change it. The queue is bounded; what did not fit is counted in [`Client::report_stats`].
    /// - A call that was admitted and is dropped or panics before it has a result is reported as ignored: it says nothing about the
    ///   dependency, but the place of a probe is given back at once, and not after the policy's `probe_timeout`.
    /// - The report names the generation at which the call was admitted, so that a late answer decides nothing.
    ///
    /// # Errors
    /// [`CallError`]; the call was made only if it is [`CallError::Inner`].
    pub async fn call_with<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>>,
        classify: impl FnOnce(&Result<T, E>) -> Classified,
    ) -> Result<T, CallError<E>> {
        self.name
            .validate()
            .map_err(|refusal| CallError::Cluster(refusal.into()))?;
        let permit = PermitId(rand::random());
        let mut ticket = Ticket::new(self.client.outbox().clone(), self.name.clone(), permit);
        let admission = match self.acquire_as(permit).await {
            Ok(admission) => admission,
            Err(failed) => {
                if !failed.perhaps_applied {
                    ticket.void();
                }
                return Err(CallError::Cluster(failed.error));
            }
        };
        if !admission.admitted {
            ticket.void();
            self.client.outbox().rejected(&self.name);
            return Err(CallError::rejected(admission));
        }
        ticket.admitted(&admission);
        let result = work.await;
        match classify(&result) {
            Classified::Success => ticket.report(Outcome::Success, None),
            Classified::Failure(reason) => ticket.report(Outcome::Failure, Some(fitting_reason(&reason))),
            Classified::Ignore => ticket.report(Outcome::Ignored, None),
        }
        result.map_err(CallError::Inner)
    }

    /// Reports one successful call, exactly once, at face value, and waits for the acknowledgement.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidArgument`]; [`Error::OutcomeUnknown`] when the timeout passes (the report stays queued and will count once).
    pub async fn success(&self) -> Result<ItemReply, Error> {
        self.report(Item::of(self.name.clone(), Outcome::Success)).await
    }

    /// Reports one failed call, exactly once, at face value, and waits for the acknowledgement. The reason has at most 1 KiB.
    ///
    /// # Errors
    /// As [`Circuit::success`].
    pub async fn failure(&self, reason: impl Into<Arc<str>>) -> Result<ItemReply, Error> {
        self.report(Item::of(self.name.clone(), Outcome::Failure).because(reason))
            .await
    }

    /// Reports outcomes of this circuit, exactly once, and waits for the acknowledgement.
    ///
    /// # Errors
    /// As [`Circuit::success`].
    pub async fn report(&self, item: Item) -> Result<ItemReply, Error> {
        item.check()?;
        match self.client.outbox().report(item, self.client.timeout()).await? {
            ItemReply::NotFound => Err(Error::NotFound {
                message: format!("no circuit is registered as {}", self.name),
            }),
            counted => Ok(counted),
        }
    }

    /// Registers the circuit with this policy, or leaves an existing one as it is: what a fleet does at start-up.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::LimitReached`], or the cluster could not be asked.
    pub async fn register(&self, policy: Policy) -> Result<Registered, Error> {
        self.register_with(Register {
            policy,
            if_exists: IfExists::Keep,
            ..Register::default()
        })
        .await
    }

    /// Registers the circuit.
    ///
    /// # Errors
    /// As [`Circuit::register`]; with [`IfExists::Refuse`] [`Error::AlreadyRegistered`], and [`Error::OutcomeUnknown`] when the answer got lost.
    pub async fn register_with(&self, register: Register) -> Result<Registered, Error> {
        let (if_exists, repeat) = match register.if_exists {
            // The second attempt would find what the first one registered.
            IfExists::Refuse => (v1::IfExists::Unspecified, Repeat::Once),
            IfExists::Keep => (v1::IfExists::Keep, Repeat::Idempotent),
            IfExists::Update => (v1::IfExists::Update, Repeat::Idempotent),
        };
        let request = v1::RegisterRequest {
            name: Some((&self.name).into()),
            policy: Some((&register.policy).into()),
            metadata: metadata_message(&register.metadata),
            if_exists: if_exists.into(),
        };
        let answer = self
            .client
            .call(repeat, request, async |mut c, request| c.register(request).await)
            .await?;
        Ok(Registered {
            circuit: circuit(answer.circuit)?,
            created: answer.created,
        })
    }

    /// Removes the circuit. False: there was none.
    ///
    /// # Errors
    /// The cluster could not be asked. (A second attempt after a lost answer says false, though the first one removed it.)
    pub async fn unregister(&self, reason: Option<&str>) -> Result<bool, Error> {
        let request = v1::UnregisterRequest {
            name: Some((&self.name).into()),
            reason: reason.map(str::to_owned),
        };
        let send = async |mut c: Circuits, request| c.unregister(request).await;
        Ok(self.client.call(Repeat::Idempotent, request, send).await?.existed)
    }

    /// Everything about the circuit, linearizable.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the cluster could not be asked.
    pub async fn status(&self) -> Result<CircuitStatus, Error> {
        self.status_at(Consistency::Default).await
    }

    /// Everything about the circuit, as fresh as asked for.
    ///
    /// # Errors
    /// As [`Circuit::status`].
    pub async fn status_at(&self, consistency: Consistency) -> Result<CircuitStatus, Error> {
        let request = v1::StatusRequest {
            name: Some((&self.name).into()),
            consistency: consistency.to_wire(),
        };
        let answer = self
            .client
            .call(Repeat::Read, request, async |mut c, request| {
                c.status(request).await
            })
            .await?;
        circuit(answer.circuit)
    }

    /// Whether a call would pass now, as the asked node knows it. Takes no permit.
    ///
    /// # Errors
    /// As [`Circuit::status`].
    pub async fn available(&self) -> Result<Availability, Error> {
        self.available_at(Consistency::Default).await
    }

    /// Whether a call would pass now, as fresh as asked for. Takes no permit.
    ///
    /// # Errors
    /// As [`Circuit::status`].
    pub async fn available_at(&self, consistency: Consistency) -> Result<Availability, Error> {
        let request = v1::AvailableRequest {
            name: Some((&self.name).into()),
            consistency: consistency.to_wire(),
        };
        let send = async |mut c: Circuits, request| c.available(request).await;
        wire::availability(self.client.call(Repeat::Read, request, send).await?)
    }

    /// Asks for admission, and takes a permit if the circuit is half-open. Whoever is admitted reports with the generation and the permit of the
    /// answer ([`Circuit::call`] does all of it).
    ///
    /// # Errors
    /// As [`Circuit::status`].
    pub async fn acquire(&self) -> Result<Admission, Error> {
        Ok(self.acquire_as(PermitId(rand::random())).await?)
    }

    /// The policy of the circuit: its own part, and what holds.
    ///
    /// # Errors
    /// As [`Circuit::status`].
    pub async fn config(&self) -> Result<Config, Error> {
        self.client.get_config(Some(&self.name)).await
    }

    /// Changes the circuit's policy; its state stays. Returns what holds now, and whether anything changed.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidArgument`], or the cluster could not be asked.
    pub async fn configure(&self, options: Configure) -> Result<(EffectivePolicy, bool), Error> {
        self.client.set_config(Some(&self.name), options, None).await
    }

    /// Opens the circuit by hand; `expiry` holds for this opening only (`None`: what the policy says). Returns it as it is then.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidArgument`], [`Error::OutcomeUnknown`], or the cluster could not be asked.
    pub async fn open(&self, expiry: Option<Expiry>, reason: Option<&str>) -> Result<CircuitStatus, Error> {
        let request = v1::OpenCircuitRequest {
            name: Some((&self.name).into()),
            expiry: expiry.map(Into::into),
            reason: reason.map(str::to_owned),
        };
        let send = async |mut c: Circuits, request| c.open_circuit(request).await;
        circuit(self.client.call(Repeat::Once, request, send).await?.circuit)
    }

    /// Closes the circuit by hand. Its failure count is kept: one more failure may reopen it.
    ///
    /// # Errors
    /// As [`Circuit::open`].
    pub async fn close(&self, reason: Option<&str>) -> Result<CircuitStatus, Error> {
        let request = v1::CloseCircuitRequest {
            name: Some((&self.name).into()),
            reason: reason.map(str::to_owned),
        };
        let send = async |mut c: Circuits, request| c.close_circuit(request).await;
        circuit(self.client.call(Repeat::Once, request, send).await?.circuit)
    }

    /// Closes the circuit by hand, and forgets its failures and its openings in a row.
    ///
    /// # Errors
    /// As [`Circuit::open`].
    pub async fn reset(&self, reason: Option<&str>) -> Result<CircuitStatus, Error> {
        let request = v1::ResetCircuitRequest {
            name: Some((&self.name).into()),
            reason: reason.map(str::to_owned),
        };
        let send = async |mut c: Circuits, request| c.reset_circuit(request).await;
        circuit(self.client.call(Repeat::Once, request, send).await?.circuit)
    }

    /// The permit id makes repeating safe: the same id gets the same permit.
    async fn acquire_as(&self, permit: PermitId) -> Result<Admission, crate::retry::Failed> {
        let request = v1::AcquireRequest {
            name: Some((&self.name).into()),
            permit_id: wire::to_permit(permit),
        };
        let send = async |mut c: Circuits, request| c.acquire(request).await;
        let answer = self.client.call(Repeat::Idempotent, request, send).await?;
        wire::admission(answer).map_err(|error| crate::retry::Failed {
            error,
            perhaps_applied: true,
        })
    }
}

type Circuits = v1::circuits_client::CircuitsClient<tonic::transport::Channel>;

fn circuit(circuit: Option<v1::Circuit>) -> Result<CircuitStatus, Error> {
    wire::circuit(circuit.ok_or_else(|| Error::protocol("circuit is missing"))?)
}

/// When to ask again, as an answer says it.
pub(crate) fn retry_after(admission: &Admission) -> Option<Duration> {
    admission.retry_after_ms.map(Duration::from_millis)
}
