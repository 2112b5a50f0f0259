//! For programs without tokio: the same client, whose calls wait.
//!
//! It has a runtime of its own, with one thread, on which everything runs that talks to the cluster. Decisions and outcomes do not go through it.
//! Do not use it inside of an async program: waiting there stops what else the thread has to do, and tokio panics.
//!
//! ```no_run
//! # fn ask_the_bank() -> Result<u32, std::io::Error> { Ok(1) }
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use brama_client::{CallError, Client, Policy, blocking};
//!
//! let client = blocking::Client::connect(Client::builder().endpoints(["10.0.0.1:7401", "10.0.0.2:7401"]))?;
//! let payments = client.circuit("payment_api");
//! payments.register_with(Policy { max_attempts: Some(3), ..Policy::default() })?;
//! match payments.call(ask_the_bank) {
//!     Ok(receipt) => println!("paid: {receipt}"),
//!     Err(CallError::Rejected { retry_after, .. }) => println!("not now; again in {retry_after:?}"),
//!     Err(error) => println!("{error}"),
//! }
//! client.close();
//! # Ok(()) }
//! ```

use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use brama_core::query::CircuitStatus;
use brama_core::{CircuitName, Name};
use tokio::runtime::{Builder, Runtime};

use crate::call::{CallError, Classified};
use crate::circuit::{Register, Registered};
use crate::error::Error;
use crate::permit::Permit;
use crate::reach::Health;
use crate::{ClientBuilder, ReportStats};

/// How long the runtime's thread may take to end.
const END_WITHIN: Duration = Duration::from_millis(500);

/// A [`Client`](crate::Client) whose calls wait. Clones share everything.
#[derive(Clone, Debug)]
pub struct Client {
    client: crate::Client,
    runtime: Arc<Held>,
}

/// A [`Circuit`](crate::Circuit) whose calls wait.
#[derive(Clone, Debug)]
pub struct Circuit {
    circuit: crate::Circuit,
    runtime: Arc<Held>,
}

/// A runtime that does not wait for what runs on it when it is dropped.
#[derive(Debug)]
struct Held(Option<Runtime>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(END_WITHIN);
        }
    }
}

impl Held {
    fn new() -> Result<Self, Error> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("brama-client")
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| Error::protocol(format!("no runtime: {error}")))?;
        Ok(Self(Some(runtime)))
    }

    /// Runs `work` to its end.
    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        match &self.0 {
            Some(runtime) => runtime.block_on(work),
            // It is taken in `drop` alone.
            None => unreachable!("the runtime lives as long as what holds it"),
        }
    }
}

impl Client {
    /// A client that has reached a node.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub fn connect(settings: ClientBuilder) -> Result<Self, Error> {
        let runtime = Held::new()?;
        let client = runtime.wait(settings.connect())?;
        let runtime = Arc::new(runtime);
        Ok(Self { client, runtime })
    }

    /// A client that connects when it is first used.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect_lazy`].
    pub fn connect_lazy(settings: ClientBuilder) -> Result<Self, Error> {
        let client = settings.connect_lazy()?;
        let runtime = Arc::new(Held::new()?);
        Ok(Self { client, runtime })
    }

    /// The circuit of this identifier, without a scope. Nothing is sent yet.
    pub fn circuit(&self, identifier: impl Into<Name>) -> Circuit {
        Circuit {
            circuit: self.client.circuit(identifier),
            runtime: self.runtime.clone(),
        }
    }

    pub(crate) fn client(&self) -> &crate::Client {
        &self.client
    }

    pub(crate) fn handle(&self) -> Option<tokio::runtime::Handle> {
        self.runtime.0.as_ref().map(|runtime| runtime.handle().clone())
    }

    /// See [`Client::health`](crate::Client::health).
    pub fn health(&self) -> Health {
        self.client.health()
    }

    /// See [`Client::report_stats`](crate::Client::report_stats).
    pub fn report_stats(&self) -> ReportStats {
        self.client.report_stats()
    }

    /// See [`Client::flush`](crate::Client::flush).
    ///
    /// # Errors
    /// As there.
    pub fn flush(&self) -> Result<(), Error> {
        self.runtime.wait(self.client.flush())
    }

    /// See [`Client::close`](crate::Client::close).
    pub fn close(self) -> bool {
        self.runtime.wait(self.client.close())
    }
}

impl Circuit {
    /// Its name.
    pub fn name(&self) -> &CircuitName {
        self.circuit.name()
    }

    /// The circuit of the same identifier in this scope.
    #[must_use]
    pub fn scope(&self, scope: impl Into<Name>) -> Self {
        Self {
            circuit: self.circuit.scope(scope),
            runtime: self.runtime.clone(),
        }
    }

    /// See [`Circuit::register_with`](crate::Circuit::register_with).
    ///
    /// # Errors
    /// As there.
    pub fn register_with(&self, register: impl Into<Register>) -> Result<Registered, Error> {
        self.runtime.wait(self.circuit.register_with(register))
    }

    /// See [`Circuit::status`](crate::Circuit::status).
    ///
    /// # Errors
    /// As there.
    pub fn status(&self) -> Result<CircuitStatus, Error> {
        self.runtime.wait(self.circuit.status())
    }

    /// See [`Circuit::try_acquire`](crate::Circuit::try_acquire): waits only in half-open, and before the cluster has told the first time.
    ///
    /// # Errors
    /// As there.
    pub fn try_acquire(&self) -> Result<Permit<'_>, CallError<Infallible>> {
        match self.circuit.decide() {
            crate::Decision::Pass(permit) => Ok(permit),
            crate::Decision::Reject(rejection) => Err(rejection.into()),
            crate::Decision::Ask => self.runtime.wait(self.circuit.try_acquire()),
        }
    }

    /// Asks whether a call may be made, makes it, and counts what came of it, as [`Circuit::call`](crate::Circuit::call).
    ///
    /// # Errors
    /// As there.
    pub fn call<T, E: Display>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, CallError<E>> {
        self.call_with(work, |result| match result {
            Ok(_) => Classified::Success,
            Err(error) => Classified::Failure(error.to_string()),
        })
    }

    /// See [`Circuit::call_with`](crate::Circuit::call_with).
    ///
    /// # Errors
    /// As there.
    pub fn call_with<T, E>(
        &self,
        work: impl FnOnce() -> Result<T, E>,
        classify: impl FnOnce(&Result<T, E>) -> Classified,
    ) -> Result<T, CallError<E>> {
        let permit = self.try_acquire().map_err(CallError::widen)?;
        let result = work();
        permit.complete(classify(&result));
        result.map_err(CallError::Inner)
    }
}
