//! How a client is made.

use std::time::Duration;

use rand::Rng;

use crate::client::Client;
use crate::error::Error;

/// The longest deadline of a call: the nodes wait no longer either.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// Settings of a [`Client`]; see [`Client::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    timeout: Duration,
    first: Option<usize>,
}

impl ClientBuilder {
    pub(crate) fn new() -> Self {
        Self {
            endpoints: Vec::new(),
            timeout: Duration::from_secs(5),
            first: None,
        }
    }

    /// The nodes, as `host:port` or `http://host:port`. Give all of them: any one can answer, and the others stand in for it.
    pub fn endpoints<I>(mut self, endpoints: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.endpoints.extend(endpoints.into_iter().map(Into::into));
        self
    }

    /// How long a call may take, over all its attempts. Default: 5 s; at most 60 s. [`Client::with_timeout`] sets another for some calls.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Begin with the first endpoint, e.g. because it is near. Default: a random one, so that a fleet spreads over the nodes.
    pub fn begin_with_first(mut self) -> Self {
        self.first = Some(0);
        self
    }

    /// A client that connects when it is first used.
    ///
    /// # Errors
    /// [`Error::InvalidEndpoint`] when an address is none, or none was given.
    pub fn connect_lazy(self) -> Result<Client, Error> {
        let count = self.endpoints.len().max(1);
        let first = self.first.unwrap_or_else(|| rand::rng().random_range(0..count));
        Client::new(&self.endpoints, first, clamp(self.timeout))
    }

    /// A client that has reached a node.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect_lazy`], and [`Error::Unreachable`] when no node could be connected to within the timeout.
    pub async fn connect(self) -> Result<Client, Error> {
        let client = self.connect_lazy()?;
        client.reach().await?;
        Ok(client)
    }
}

pub(crate) fn clamp(timeout: Duration) -> Duration {
    timeout.clamp(Duration::from_millis(1), MAX_TIMEOUT)
}
