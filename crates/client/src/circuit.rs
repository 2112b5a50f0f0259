//! A handle on one circuit.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use brama_core::circuit::StateName;
use brama_core::command::{IfExists, PermitId};
use brama_core::policy::{EffectivePolicy, Expiry, Policy, PolicyOption};
use brama_core::query::{Availability, CircuitStatus};
use brama_core::reply::{Admission, ItemReply};
use brama_core::report::Outcome;
use brama_core::{CircuitName, Metadata, Name};
use brama_proto::convert::metadata_message;
use brama_proto::v1;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::call::{Asked, CallError, Classified, Rejection};
use crate::client::{Client, Config, Consistency};
use crate::error::Error;
use crate::local::ticket::Ticket;
use crate::local::{Local, Verdict};
use crate::permit::{OwnedPermit, Permit};
use crate::report::Item;
use crate::retry::Repeat;
use crate::wire;

/// One circuit of the cluster, registered or not. Cheap to clone.
///
/// A name that is not allowed (empty, longer than 255 bytes, with control characters) is refused by each call as [`Error::InvalidArgument`].
#[derive(Clone, Debug)]
pub struct Circuit {
    client: Client,
    name: CircuitName,
    /// From the first decision on.
    local: OnceLock<Arc<Local>>,
}

/// What [`Circuit::decide`] says of a call.
#[derive(Debug)]
#[must_use]
pub enum Decision<'a> {
    /// It may be made.
    Pass(Permit<'a>),
    /// It may not.
    Reject(Rejection),
    /// The cluster has to be asked, or has not told yet: [`Circuit::try_acquire`] does that and waits.
    Ask,
}

/// A [`Decision`] on the way that is seldom taken. A type of its own, so that on the other one nothing has to lie in memory.
enum Otherwise<'a> {
    Pass(Permit<'a>),
    Reject(Box<Rejection>),
    Ask,
}

/// The future of [`Circuit::try_acquire`]: it decides when it is polled.
///
/// Small, and without what asking takes: nearly every call is decided without.
#[must_use = "a future does nothing until it is awaited"]
pub struct TryAcquire<'a> {
    circuit: &'a Circuit,
    asking: Option<BoxFuture<'a, Result<Permit<'a>, CallError<Infallible>>>>,
}

impl<'a> Future for TryAcquire<'a> {
    type Output = Result<Permit<'a>, CallError<Infallible>>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.asking.is_none()
            && let Some(permit) = self.circuit.permit_of_closed()
        {
            return Poll::Ready(Ok(permit));
        }
        // What it gives lies in memory, so it is of another type: else the permit above would too.
        self.poll_otherwise(context)
            .map(|answered| answered.map_err(|error| *error))
    }
}

impl<'a> TryAcquire<'a> {
    // Apart, so that the way of nearly every call is short enough to become a part of its caller.
    #[cold]
    #[inline(never)]
    fn poll_otherwise(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Permit<'a>, Box<CallError<Infallible>>>> {
        if self.asking.is_none() {
            match self.circuit.decide() {
                Decision::Pass(permit) => return Poll::Ready(Ok(permit)),
                Decision::Reject(rejection) => return Poll::Ready(Err(Box::new(rejection.into()))),
                Decision::Ask => {}
            }
        }
        let circuit = self.circuit;
        self.asking
            .get_or_insert_with(|| circuit.ask().boxed())
            .poll_unpin(context)
            .map_err(Box::new)
    }
}

impl std::fmt::Debug for TryAcquire<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TryAcquire")
            .field("circuit", &self.circuit.name)
            .finish_non_exhaustive()
    }
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

impl From<Policy> for Register {
    /// With this policy; an existing circuit stays as it is.
    fn from(policy: Policy) -> Self {
        Self {
            policy,
            if_exists: IfExists::Keep,
            ..Self::default()
        }
    }
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
        Self {
            client,
            name,
            local: OnceLock::new(),
        }
    }

    pub(crate) fn in_use(client: Client, local: Arc<Local>) -> Self {
        Self {
            client,
            name: local.name().clone(),
            local: OnceLock::from(local),
        }
    }

    /// Its name.
    pub fn name(&self) -> &CircuitName {
        &self.name
    }

    /// The circuit of the same identifier in this scope.
    #[must_use]
    pub fn scope(&self, scope: impl Into<Name>) -> Self {
        let scope = Some(scope.into());
        let identifier = self.name.identifier.clone();
        Self::new(self.client.clone(), CircuitName { scope, identifier })
    }

    /// Whether a call may be made, as far as this process knows: never waits, and asks nobody. While the circuit is closed it is wait-free and
    /// allocates nothing (from the second time on).
    #[inline]
    pub fn decide(&self) -> Decision<'_> {
        match self.permit_of_closed() {
            Some(permit) => Decision::Pass(permit),
            None => match self.decide_otherwise() {
                Otherwise::Pass(permit) => Decision::Pass(permit),
                Otherwise::Reject(rejection) => Decision::Reject(*rejection),
                Otherwise::Ask => Decision::Ask,
            },
        }
    }

    #[inline(always)]
    fn permit_of_closed(&self) -> Option<Permit<'_>> {
        let local = self.local.get()?;
        local.closed().map(|word| Permit::plain(local, word))
    }

    #[cold]
    #[inline(never)]
    fn decide_otherwise(&self) -> Otherwise<'_> {
        let Ok(local) = self.local() else {
            return Otherwise::Ask;
        };
        match local.decide() {
            Verdict::Pass(ticket) => Otherwise::Pass(Permit::new(local, ticket)),
            Verdict::Reject(rejection) => Otherwise::Reject(Box::new(rejection)),
            Verdict::AskPermit | Verdict::Wait | Verdict::Missing => Otherwise::Ask,
        }
    }

    /// The state as this process knows it; `None`: there is no such circuit, or the cluster has not told yet. While the cluster is out of reach it
    /// is the last one told.
    pub fn known_state(&self) -> Option<StateName> {
        self.local().ok()?.known_state()
    }

    /// Leave to make a call, or why not. While the circuit is closed or open, it is there at the first poll ([`Circuit::decide`]); half-open asks the
    /// cluster for a permit: one call to it, no longer than the [acquire timeout](crate::ClientBuilder::acquire_timeout).
    ///
    /// # Errors
    /// [`CallError::Rejected`]; [`CallError::Cluster`] with [`Error::NotFound`] when there is no such circuit, with [`Error::InvalidArgument`]
    /// when there cannot be. Never [`CallError::Inner`].
    #[inline]
    pub fn try_acquire(&self) -> TryAcquire<'_> {
        TryAcquire {
            circuit: self,
            asking: None,
        }
    }

    async fn ask(&self) -> Result<Permit<'_>, CallError<Infallible>> {
        let local = self.local().map_err(CallError::Cluster)?;
        let ticket = ask(&self.client, local).await?;
        Ok(Permit::new(local, ticket))
    }

    /// As [`Circuit::try_acquire`], for a call that goes elsewhere.
    ///
    /// # Errors
    /// As there.
    pub async fn try_acquire_owned(&self) -> Result<OwnedPermit, CallError<Infallible>> {
        Ok(self.try_acquire().await?.into_owned())
    }

    /// Asks whether a call may be made, makes it, and counts what came of it: `Ok` is a success, `Err` a failure with the error as its reason
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
    /// - The outcome is added up here and told to the cluster in batches: the result is returned without waiting for it, and a cluster that is out
    ///   of reach does not change it. What waits is bounded; what was dropped is counted in [`Client::report_stats`].
    /// - A call that was admitted and is dropped or panics before it has a result is counted as ignored: it says nothing about the
    ///   dependency, but the place of a probe is given back at once, and not after the policy's `probe_timeout`.
    /// - The outcome belongs to the generation at which the call was admitted, so that a late answer decides nothing.
    ///
    /// # Errors
    /// [`CallError`]; the call was made only if it is [`CallError::Inner`].
    pub async fn call_with<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>>,
        classify: impl FnOnce(&Result<T, E>) -> Classified,
    ) -> Result<T, CallError<E>> {
        let guarded = async {
            let permit = self.try_acquire().await.map_err(CallError::widen)?;
            let result = work.await;
            permit.complete(classify(&result));
            result.map_err(CallError::Inner)
        };
        #[cfg(feature = "spans")]
        let guarded = {
            use tracing::Instrument;
            guarded.instrument(tracing::info_span!("brama.call", circuit = %self.name))
        };
        guarded.await
    }

    /// What can be said where nobody can be asked.
    pub(crate) fn acquire_unasked(&self) -> Result<OwnedPermit, CallError<Infallible>> {
        let local = self.local().map_err(CallError::Cluster)?;
        let mut verdict = local.decide();
        if matches!(verdict, Verdict::Wait) {
            verdict = local.decide_alone();
        }
        match verdict {
            Verdict::Pass(ticket) => Ok(OwnedPermit::new(local.clone(), ticket)),
            Verdict::Reject(rejection) => Err(rejection.into()),
            Verdict::Missing => Err(CallError::Cluster(not_found(local))),
            Verdict::AskPermit | Verdict::Wait => Err(local.reject(StateName::HalfOpen).into()),
        }
    }

    /// How long an ask of [`Circuit::try_acquire`] takes at most.
    pub(crate) fn acquire_timeout(&self) -> std::time::Duration {
        self.client.acquire_timeout()
    }

    /// What this process keeps of the circuit; from now on it follows what the cluster says of it.
    fn local(&self) -> Result<&Arc<Local>, Error> {
        if let Some(local) = self.local.get() {
            // It may have been used outside of a runtime first.
            self.client.start();
            return Ok(local);
        }
        let local = self.client.local(&self.name)?;
        Ok(self.local.get_or_init(|| local))
    }

    /// An answer says how the circuit is: whoever decides by it need not wait until the event has come.
    fn learn(&self, status: &CircuitStatus) {
        if let Some(local) = self.local.get() {
            self.client.learn(local, status);
        }
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
        self.register_with(policy).await
    }

    /// Registers the circuit; with a [`Policy`] alone as [`Circuit::register`]. From now on this client follows it.
    ///
    /// # Errors
    /// As [`Circuit::register`]; with [`IfExists::Refuse`] [`Error::AlreadyRegistered`], and [`Error::OutcomeUnknown`] when the answer got lost.
    pub async fn register_with(&self, register: impl Into<Register>) -> Result<Registered, Error> {
        let register = register.into();
        self.local()?;
        let registered = register_until(
            &self.client,
            &self.name,
            &register,
            Instant::now() + self.client.timeout(),
        )
        .await?;
        if let Some(local) = self.local.get() {
            local.registered(register);
        }
        self.learn(&registered.circuit);
        Ok(registered)
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
        self.learned(answer.circuit)
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
        let deadline = Instant::now() + self.client.timeout();
        let permit = PermitId(rand::random());
        Ok(self.client.acquire(&self.name, permit, deadline).await?)
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
        self.learned(self.client.call(Repeat::Once, request, send).await?.circuit)
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
        self.learned(self.client.call(Repeat::Once, request, send).await?.circuit)
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
        self.learned(self.client.call(Repeat::Once, request, send).await?.circuit)
    }

    fn learned(&self, answer: Option<v1::Circuit>) -> Result<CircuitStatus, Error> {
        let status = circuit(answer)?;
        self.learn(&status);
        Ok(status)
    }
}

async fn register_until(
    client: &Client,
    name: &CircuitName,
    register: &Register,
    deadline: Instant,
) -> Result<Registered, Error> {
    let (if_exists, repeat) = match register.if_exists {
        // The second attempt would find what the first one registered.
        IfExists::Refuse => (v1::IfExists::Unspecified, Repeat::Once),
        IfExists::Keep => (v1::IfExists::Keep, Repeat::Idempotent),
        IfExists::Update => (v1::IfExists::Update, Repeat::Idempotent),
    };
    let request = v1::RegisterRequest {
        name: Some(name.into()),
        policy: Some((&register.policy).into()),
        metadata: metadata_message(&register.metadata),
        if_exists: if_exists.into(),
    };
    let send = async |mut c: Circuits, request| c.register(request).await;
    let answer = client.call_until(repeat, deadline, request, send).await?;
    Ok(Registered {
        circuit: circuit(answer.circuit)?,
        created: answer.created,
    })
}

/// Registers a circuit again that this program had registered, and that was cleaned up since because it was idle. False: it had not.
async fn register_again(client: &Client, local: &Local, deadline: Instant) -> Result<bool, Error> {
    let Some(register) = local.registration() else {
        return Ok(false);
    };
    let register = Register {
        if_exists: IfExists::Keep,
        ..Register::clone(&register)
    };
    let registered = register_until(client, local.name(), &register, deadline).await?;
    client.learn(local, &registered.circuit);
    Ok(true)
}

/// What the cluster says to a call, when this process cannot.
pub(crate) async fn ask(client: &Client, local: &Arc<Local>) -> Result<Ticket, CallError<Infallible>> {
    let deadline = Instant::now() + client.acquire_timeout();
    let mut verdict = local.decide();
    if matches!(verdict, Verdict::Wait) {
        let told = tokio::time::timeout_at(deadline, local.told()).await;
        verdict = match told {
            Ok(()) => local.decide(),
            // Nobody has told in time: as if the cluster were out of reach.
            Err(_) => local.decide_alone(),
        };
    }
    if matches!(verdict, Verdict::Missing)
        && register_again(client, local, deadline)
            .await
            .map_err(CallError::Cluster)?
    {
        verdict = local.decide();
    }
    match verdict {
        Verdict::Pass(ticket) => Ok(ticket),
        Verdict::Reject(rejection) => Err(rejection.into()),
        Verdict::AskPermit => ask_permit(client, local, deadline).await,
        Verdict::Missing => Err(CallError::Cluster(not_found(local))),
        // Between two moments it was forgotten again, which does not happen.
        Verdict::Wait => Err(local.reject(StateName::Open).into()),
    }
}

async fn ask_permit(
    client: &Client,
    local: &Arc<Local>,
    deadline: Instant,
) -> Result<Ticket, CallError<Infallible>> {
    let Some(_asking) = local.may_ask() else {
        return Err(local.reject(StateName::HalfOpen).into());
    };
    let permit = PermitId(rand::random());
    let asked = Asked::new(local, permit);
    match client.acquire(local.name(), permit, deadline).await {
        Ok(admission) if admission.admitted => Ok(asked.admitted(&admission)),
        Ok(admission) => {
            asked.refused();
            local.was_rejected(&admission);
            Err(Rejection::from(admission).into())
        }
        Err(failed) => {
            if !failed.perhaps_applied {
                asked.refused();
            }
            tracing::debug!(error = %failed.error, name = %local.name(), "no answer to an ask for a permit");
            match failed.error {
                error @ Error::NotFound { .. } => Err(CallError::Cluster(error)),
                _ => Err(local.reject(StateName::HalfOpen).into()),
            }
        }
    }
}

fn not_found(local: &Local) -> Error {
    Error::NotFound {
        message: format!("no circuit is registered as {}", local.name()),
    }
}

type Circuits = v1::circuits_client::CircuitsClient<tonic::transport::Channel>;

fn circuit(circuit: Option<v1::Circuit>) -> Result<CircuitStatus, Error> {
    wire::circuit(circuit.ok_or_else(|| Error::protocol("circuit is missing"))?)
}
