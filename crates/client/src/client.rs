//! The client: what concerns more than one circuit.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use brama_core::circuit::StateName;
use brama_core::command::PermitId;
use brama_core::policy::{EffectivePolicy, GlobalOptions, Policy};
use brama_core::query::CircuitStatus;
use brama_core::reply::Admission;
use brama_core::{CircuitName, Name};
use brama_proto::v1;
use brama_proto::v1::circuits_client::CircuitsClient;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::builder::{ClientBuilder, clamp};
use crate::call::CallError;
use crate::circuit::{Circuit, Configure, ask};
use crate::error::Error;
use crate::follow::Follower;
use crate::local::hub::Hub;
use crate::local::{Local, Verdict};
use crate::outbox::{Outbox, ReportStats};
use crate::permit::OwnedPermit;
use crate::pool::Pool;
use crate::reach::{Health, HealthEvent, Reach};
use crate::registry::{Key, Registry};
use crate::retry::{self, Failed, Repeat};
use crate::session::Reporter;
use crate::subscribe::{Events, Subscription};
use crate::watch::Watch;
use crate::wire;

/// A page of the longest listing is larger than tonic's default of 4 MiB.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// A client of one cluster. Clones share connections and the queue of reports.
///
/// When the last clone (and the last [`Circuit`]) is gone, what is queued is still tried to be sent for one timeout, as long as the
/// runtime lives; [`Client::close`] waits for it.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
}

/// What the clones of a client have in common.
#[derive(Debug)]
struct Shared {
    pool: Arc<Pool>,
    outbox: Outbox,
    hub: Arc<Hub>,
    registry: Arc<Registry>,
    acquire_timeout: Duration,
    /// Until the first circuit is in use inside of a runtime.
    idle: Mutex<Option<Follower>>,
    /// Ends the follower with the last clone.
    end: CancellationToken,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// What the call's own default is: linearizable, but local for `available`.
    #[default]
    Default,
    /// At least as new as everything acknowledged before the call.
    Linearizable,
    /// What the asked node knows now.
    Local,
    /// What the asked node knows once it has applied this revision.
    AtLeast(u64),
}

/// The options of a circuit, or the global ones.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// What is set at this level.
    pub own: Policy,
    /// What holds.
    pub policy: EffectivePolicy,
    /// With their effective values; empty for a circuit.
    pub global: GlobalOptions,
}

/// Which circuits to list.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// Only of this scope; `None`: of every scope and of none.
    pub scope: Option<String>,
    /// Only in these states; empty: in any.
    pub states: Vec<StateName>,
    /// Only identifiers that begin so.
    pub identifier_prefix: String,
    /// At most so many a page: 1..=1000; 0: 100.
    pub page_size: u32,
    /// [`Page::next`] of the page before; `None`: the first page.
    pub page: Option<String>,
    /// Default: linearizable.
    pub consistency: Consistency,
}

/// A part of a listing, in the order of (scope, identifier), no scope first.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Page {
    /// The circuits.
    pub circuits: Vec<CircuitStatus>,
    /// For [`List::page`]; `None`: this was the last one.
    pub next: Option<String>,
}

impl Client {
    /// Begins to make a client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    pub(crate) fn new(settings: &ClientBuilder) -> Result<Self, Error> {
        let pool = Arc::new(Pool::new(settings.endpoint_list(), settings.first_endpoint())?);
        let hub = Arc::new(Hub::new(settings.on_unreachable, Reach::new()));
        let registry = Arc::new(Registry::new(hub.clone()));
        let timeout = clamp(settings.timeout);
        let outbox = Outbox::new(
            pool.clone(),
            timeout,
            hub.clone(),
            registry.clone(),
            settings.report_interval,
        );
        let follower = Follower {
            pool: pool.clone(),
            registry: registry.clone(),
            hub: hub.clone(),
            unreachable_after: settings.unreachable_after,
        };
        let shared = Shared {
            pool,
            outbox,
            hub,
            registry,
            acquire_timeout: clamp(settings.acquire_timeout),
            idle: Mutex::new(Some(follower)),
            end: CancellationToken::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            timeout,
        })
    }

    /// The same client, whose calls take at most `timeout` (at most 60 s) over all their attempts.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout: clamp(timeout),
            ..self.clone()
        }
    }

    /// The circuit of this identifier, without a scope. Nothing is sent yet.
    pub fn circuit(&self, identifier: impl Into<Name>) -> Circuit {
        self.named(CircuitName {
            scope: None,
            identifier: identifier.into(),
        })
    }

    /// The circuit of this scope and identifier. Nothing is sent yet.
    pub fn scoped(&self, scope: impl Into<Name>, identifier: impl Into<Name>) -> Circuit {
        self.named(CircuitName {
            scope: Some(scope.into()),
            identifier: identifier.into(),
        })
    }

    /// The circuit of this name. Nothing is sent yet.
    pub fn named(&self, name: CircuitName) -> Circuit {
        Circuit::new(self.clone(), name)
    }

    /// One page of the circuits.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], or none could be asked.
    pub async fn list(&self, list: List) -> Result<Page, Error> {
        let request = v1::ListRequest {
            scope: list.scope,
            states: list
                .states
                .into_iter()
                .map(|state| v1::State::from(state).into())
                .collect(),
            identifier_prefix: list.identifier_prefix,
            page_size: list.page_size,
            page_token: list.page.unwrap_or_default(),
            consistency: list.consistency.to_wire(),
        };
        let answer = self
            .call(Repeat::Read, request, async |mut c, request| {
                c.list(request).await
            })
            .await?;
        Ok(Page {
            circuits: answer
                .circuits
                .into_iter()
                .map(wire::circuit)
                .collect::<Result<_, _>>()?,
            next: Some(answer.next_page_token).filter(|token| !token.is_empty()),
        })
    }

    /// The global options.
    ///
    /// # Errors
    /// None could be asked.
    pub async fn config(&self) -> Result<Config, Error> {
        self.get_config(None).await
    }

    /// Sets global options, for every circuit that has not its own: those that exist too. Setting what holds already changes nothing, so that
    /// it is repeated freely.
    ///
    /// Returns what holds now, and whether anything changed.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], or none could be asked.
    pub async fn configure(
        &self,
        options: Configure,
        global: GlobalOptions,
    ) -> Result<(EffectivePolicy, bool), Error> {
        self.set_config(None, options, Some(global.into())).await
    }

    /// A session of its own, for callers who batch by themselves. [`Circuit::call`] and its like do not need one.
    pub fn session(&self) -> Reporter {
        Reporter::new(self.shared.pool.clone(), self.timeout)
    }

    /// The events that `subscription` selects, on a connection of its own. Once this returns, nothing is missed any more.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] (which names an unknown event, or says what is wrong with the filter), [`Error::EventsCompacted`],
    /// [`Error::CursorForeign`], or no node could be asked within the timeout.
    pub async fn subscribe(&self, subscription: Subscription) -> Result<Events, Error> {
        Events::open(self.shared.pool.clone(), self.timeout, subscription).await
    }

    /// A consistent picture of these circuits (none given: of all), and the events after it.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub async fn watch(&self, names: impl IntoIterator<Item = CircuitName>) -> Result<Watch, Error> {
        Watch::open(
            self.shared.pool.clone(),
            self.timeout,
            names.into_iter().collect(),
        )
        .await
    }

    /// What became of the reports that [`Circuit`]s of this client and its clones queued.
    pub fn report_stats(&self) -> ReportStats {
        self.shared.outbox.stats()
    }

    /// Waits until everything reported so far was acknowledged, dropped or given up.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] when that takes longer than the timeout; the reports stay queued.
    pub async fn flush(&self) -> Result<(), Error> {
        self.shared.outbox.flush(self.timeout).await
    }

    /// [`flush`](Client::flush)es, and says whether everything was sent. Call it before the process ends.
    pub async fn close(self) -> bool {
        self.flush().await.is_ok()
    }

    /// Whether the cluster is in reach, since when, and how stale what this client knows of its circuits is.
    pub fn health(&self) -> Health {
        self.shared.hub.reach.health(self.shared.hub.seen())
    }

    /// The changes of [`Client::health`] from now on. Who listens too slowly misses the oldest.
    pub fn health_events(&self) -> impl Stream<Item = HealthEvent> + Send + Unpin + 'static {
        let edges = BroadcastStream::new(self.shared.hub.reach.edges());
        edges.filter_map(|edge| std::future::ready(edge.ok()))
    }

    /// Leave to make a call through the circuit of this identifier without a scope, for who has no [`Circuit`] at hand: it is looked up, without
    /// a lock. As [`Circuit::try_acquire`] in everything else.
    ///
    /// # Errors
    /// As [`Circuit::try_acquire`].
    pub async fn try_acquire_named(&self, identifier: &str) -> Result<OwnedPermit, CallError<Infallible>> {
        let scope = None;
        self.try_acquire_key(Key { scope, identifier }).await
    }

    /// As [`Client::try_acquire_named`], in a scope.
    ///
    /// # Errors
    /// As [`Circuit::try_acquire`].
    pub async fn try_acquire_scoped(
        &self,
        scope: &str,
        identifier: &str,
    ) -> Result<OwnedPermit, CallError<Infallible>> {
        let scope = Some(scope);
        self.try_acquire_key(Key { scope, identifier }).await
    }

    async fn try_acquire_key(&self, key: Key<'_>) -> Result<OwnedPermit, CallError<Infallible>> {
        let local = self
            .local_of(key.scope, key.identifier)
            .map_err(CallError::Cluster)?;
        self.acquire_local(local).await
    }

    /// As [`Client::local`]; a circuit that is in use already is found without a lock.
    pub(crate) fn local_of(&self, scope: Option<&str>, identifier: &str) -> Result<Arc<Local>, Error> {
        match self.shared.registry.find(&Key { scope, identifier }) {
            Some(local) => Ok(local),
            None => self.local(&CircuitName {
                scope: scope.map(Name::new),
                identifier: Name::new(identifier),
            }),
        }
    }

    /// A handle on a circuit that is in use.
    pub(crate) fn handle_on(&self, local: Arc<Local>) -> Circuit {
        Circuit::in_use(self.clone(), local)
    }

    pub(crate) async fn acquire_local(
        &self,
        local: Arc<Local>,
    ) -> Result<OwnedPermit, CallError<Infallible>> {
        let ticket = match local.decide() {
            Verdict::Pass(ticket) => ticket,
            Verdict::Reject(rejection) => return Err(rejection.into()),
            Verdict::AskPermit | Verdict::Wait | Verdict::Missing => ask(self, &local).await?,
        };
        Ok(OwnedPermit::new(local, ticket))
    }

    /// What this process keeps of a circuit, from now on followed.
    pub(crate) fn local(&self, name: &CircuitName) -> Result<Arc<Local>, Error> {
        let local = self.shared.registry.get_or_insert(name)?;
        self.start();
        Ok(local)
    }

    /// Starts the tasks with the first circuit that is used inside of a runtime.
    pub(crate) fn start(&self) {
        self.shared.outbox.start();
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && let Some(follower) = self.shared.idle.lock().take()
        {
            runtime.spawn(follower.run(self.shared.end.clone()));
        }
    }

    pub(crate) fn learn(&self, local: &Local, status: &CircuitStatus) {
        // An answer does not say what time it is. What the circuit last went through was before it.
        let latest = [status.opened_at, Some(status.changed_at), status.last_failure_at];
        let time = latest.into_iter().flatten().max().unwrap_or_default();
        local.learn(status, &self.shared.hub.hear(time));
    }

    /// The permit id makes repeating safe: the same id gets the same permit.
    pub(crate) async fn acquire(
        &self,
        name: &CircuitName,
        permit: PermitId,
        deadline: Instant,
    ) -> Result<Admission, Failed> {
        let request = v1::AcquireRequest {
            name: Some(name.into()),
            permit_id: wire::to_permit(permit),
        };
        let send = async |mut c: CircuitsClient<Channel>, request| c.acquire(request).await;
        let answer = self
            .call_until(Repeat::Idempotent, deadline, request, send)
            .await?;
        wire::admission(answer).map_err(|error| Failed {
            error,
            perhaps_applied: true,
        })
    }

    /// Whether it knows its circuits at `revision`.
    #[cfg(feature = "testing")]
    pub(crate) fn knows(&self, revision: u64) -> bool {
        let circuits = self.shared.registry.all();
        circuits.is_empty()
            || (self.shared.hub.seen() >= revision && circuits.iter().all(|local| local.is_told()))
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.shared.outbox
    }

    pub(crate) fn acquire_timeout(&self) -> Duration {
        self.shared.acquire_timeout
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) async fn get_config(&self, name: Option<&CircuitName>) -> Result<Config, Error> {
        let request = v1::GetConfigRequest {
            name: name.map(Into::into),
            consistency: None,
        };
        let answer = self
            .call(Repeat::Read, request, async |mut c, request| {
                c.get_config(request).await
            })
            .await?;
        Ok(Config {
            own: wire::policy(answer.own)?,
            policy: wire::effective(answer.policy)?,
            global: wire::global(answer.global.unwrap_or_default()),
        })
    }

    pub(crate) async fn set_config(
        &self,
        name: Option<&CircuitName>,
        options: Configure,
        global: Option<v1::GlobalOptions>,
    ) -> Result<(EffectivePolicy, bool), Error> {
        let request = v1::ConfigureRequest {
            name: name.map(Into::into),
            policy: Some((&options.set).into()),
            clear: options
                .clear
                .iter()
                .map(|option| option.name().to_owned())
                .collect(),
            global,
        };
        // Not repeated after a lost answer: between two attempts somebody else may have set other values.
        let answer = self
            .call(Repeat::Once, request, async |mut c, request| {
                c.configure(request).await
            })
            .await?;
        Ok((wire::effective(answer.policy)?, answer.changed))
    }

    /// Makes sure that some node can be connected to.
    pub(crate) async fn reach(&self) -> Result<(), Error> {
        retry::call(
            &self.shared.pool,
            Repeat::Read,
            Instant::now() + self.timeout,
            (),
            |_, _| async { Ok(Response::new(())) },
        )
        .await
        .map_err(Error::from)
    }

    /// Calls the service `Circuits`.
    pub(crate) async fn call<M, R, F>(&self, repeat: Repeat, request: M, send: F) -> Result<R, Failed>
    where
        M: Clone,
        F: AsyncFn(CircuitsClient<Channel>, Request<M>) -> Result<Response<R>, Status>,
    {
        self.call_until(repeat, Instant::now() + self.timeout, request, send)
            .await
    }

    /// As [`Client::call`], with its own deadline.
    pub(crate) async fn call_until<M, R, F>(
        &self,
        repeat: Repeat,
        deadline: Instant,
        request: M,
        send: F,
    ) -> Result<R, Failed>
    where
        M: Clone,
        F: AsyncFn(CircuitsClient<Channel>, Request<M>) -> Result<Response<R>, Status>,
    {
        let send = &send;
        retry::call(
            &self.shared.pool,
            repeat,
            deadline,
            request,
            |channel, request| {
                send(
                    CircuitsClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES),
                    request,
                )
            },
        )
        .await
    }
}

impl Consistency {
    pub(crate) fn to_wire(self) -> Option<v1::Consistency> {
        use v1::consistency::Level;
        let level = match self {
            Self::Default => return None,
            Self::Linearizable => Level::Linearizable(true),
            Self::Local => Level::Local(true),
            Self::AtLeast(revision) => Level::AtLeast(revision),
        };
        Some(v1::Consistency { level: Some(level) })
    }
}
