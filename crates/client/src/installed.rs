//! The client of the process, for functions that have none at hand: those behind `#[circuit_breaker]`.

use std::fmt::Display;
use std::sync::{Arc, LazyLock, mpsc};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use brama_core::policy::Policy;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::blocking;
use crate::call::{CallError, Classified, NotMade};
use crate::circuit::Register;
use crate::client::Client;
use crate::error::Error;
use crate::local::ticket::Ticket;
use crate::permit::OwnedPermit;

static INSTALLED: LazyLock<ArcSwapOption<Installed>> = LazyLock::new(ArcSwapOption::empty);

/// What an answer of the runtime may take beyond the acquire timeout, which bounds the ask itself.
const GRACE: Duration = Duration::from_millis(50);

/// A client for functions behind `#[circuit_breaker]`; from a [`Client`] or a [`blocking::Client`].
#[derive(Clone, Debug)]
pub struct Installed {
    client: Client,
    /// Answers functions that are not async; `None`: there was none where the client was installed.
    runtime: Option<Handle>,
    /// The runtime lives as long as this.
    _blocking: Option<blocking::Client>,
}

impl From<Client> for Installed {
    fn from(client: Client) -> Self {
        Self {
            client,
            runtime: Handle::try_current().ok(),
            _blocking: None,
        }
    }
}

impl From<blocking::Client> for Installed {
    fn from(client: blocking::Client) -> Self {
        Self {
            client: client.client().clone(),
            runtime: client.handle(),
            _blocking: Some(client),
        }
    }
}

/// From now on, functions behind `#[circuit_breaker]` use this client, if they do not name another one. A second call replaces the first.
pub fn install(client: impl Into<Installed>) {
    INSTALLED.store(Some(Arc::new(client.into())));
}

/// The client that was [installed](install).
pub fn installed() -> Option<Client> {
    INSTALLED
        .load()
        .as_ref()
        .map(|installed| installed.client.clone())
}

/// What `#[circuit_breaker]` writes before the body of an async function.
///
/// # Errors
/// As [`Circuit::try_acquire`](crate::Circuit::try_acquire), and [`Error::NoClient`].
pub async fn acquire(
    client: Option<&Client>,
    scope: Option<&str>,
    identifier: &str,
    policy: impl FnOnce() -> Policy,
) -> Result<OwnedPermit, NotMade> {
    match find(client, scope, identifier, policy)? {
        Found::Passed(permit) => Ok(permit),
        Found::Undecided(circuit) => circuit.try_acquire_owned().await,
    }
}

/// As [`acquire`], for a function that is not async.
///
/// # Errors
/// As there.
pub fn acquire_blocking(
    client: Option<&Client>,
    scope: Option<&str>,
    identifier: &str,
    policy: impl FnOnce() -> Policy,
) -> Result<OwnedPermit, NotMade> {
    let circuit = match find(client, scope, identifier, policy)? {
        Found::Passed(permit) => return Ok(permit),
        Found::Undecided(circuit) => circuit,
    };
    let here = Handle::try_current().ok();
    let of_installed = || {
        INSTALLED
            .load()
            .as_ref()
            .and_then(|installed| installed.runtime.clone())
    };
    let runtime = match client {
        Some(_) => here.clone().or_else(of_installed),
        None => of_installed().or_else(|| here.clone()),
    };
    let Some(runtime) = runtime else {
        return circuit.acquire_unasked();
    };
    if here.is_some() && runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
        // This thread is the one that would have to answer.
        return circuit.acquire_unasked();
    }
    let patience = circuit.acquire_timeout() + GRACE;
    let (answer, answered) = mpsc::sync_channel(1);
    let asking = circuit.clone();
    runtime.spawn(async move {
        // Nobody waits any more: then the permit is dropped here, and goes back.
        let _ = answer.send(asking.try_acquire_owned().await);
    });
    let wait = || answered.recv_timeout(patience);
    let answer = match here.map(|here| here.runtime_flavor()) {
        Some(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
        _ => wait(),
    };
    answer.unwrap_or_else(|_| circuit.acquire_unasked())
}

/// What a result means where nothing else is said.
pub fn classify<T, E: Display>(result: &Result<T, E>) -> Classified {
    match result {
        Ok(_) => Classified::Success,
        Err(error) => Classified::Failure(error.to_string()),
    }
}

/// What a result means where `of_error` says it.
pub fn classify_with<T, E>(result: &Result<T, E>, of_error: impl FnOnce(&E) -> Classified) -> Classified {
    match result {
        Ok(_) => Classified::Success,
        Err(error) => of_error(error),
    }
}

enum Found {
    Passed(OwnedPermit),
    /// This process cannot say alone, or says no.
    Undecided(crate::Circuit),
}

fn find(
    client: Option<&Client>,
    scope: Option<&str>,
    identifier: &str,
    policy: impl FnOnce() -> Policy,
) -> Result<Found, NotMade> {
    let installed;
    let client = match client {
        Some(client) => client,
        None => {
            installed = INSTALLED.load();
            match installed.as_ref() {
                Some(installed) => &installed.client,
                None => return Err(CallError::Cluster(Error::NoClient)),
            }
        }
    };
    let local = client.local_of(scope, identifier).map_err(CallError::Cluster)?;
    Ok(match local.closed() {
        Some(word) => Found::Passed(OwnedPermit::new(local, Ticket::plain(word))),
        None => {
            local.offer(|| Register::from(policy()));
            Found::Undecided(client.handle_on(local))
        }
    })
}
