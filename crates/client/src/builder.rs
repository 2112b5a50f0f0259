//! How a client is made.

use std::time::Duration;

use rand::Rng;

use crate::client::Client;
use crate::error::Error;
use crate::reach::OnUnreachable;

/// The longest deadline of a call: the nodes wait no longer either.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// Settings of a [`Client`]; see [`Client::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    pub(crate) timeout: Duration,
    first: Option<usize>,
    pub(crate) acquire_timeout: Duration,
    pub(crate) report_interval: Duration,
    pub(crate) on_unreachable: OnUnreachable,
    pub(crate) unreachable_after: Duration,
}

impl ClientBuilder {
    pub(crate) fn new() -> Self {
        Self {
            endpoints: Vec::new(),
            timeout: Duration::from_secs(5),
            first: None,
            acquire_timeout: Duration::from_secs(1),
            report_interval: Duration::from_secs(1),
            on_unreachable: OnUnreachable::default(),
            unreachable_after: Duration::from_secs(3),
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

    /// How long a call through a circuit may wait for the cluster: for a permit while the circuit is half-open, and for the first word of a circuit
    /// that was not used before. Default: 1 s; at most 60 s.
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = timeout;
        self
    }

    /// How long outcomes that change nothing may wait until they are told: successes of a closed circuit that holds no failures, and rejected
    /// calls. Default: 1 s; 1 ms ..= 1 min.
    pub fn report_interval(mut self, interval: Duration) -> Self {
        self.report_interval = interval.clamp(Duration::from_millis(1), Duration::from_secs(60));
        self
    }

    /// What is decided while the cluster is out of reach. Default: [`OnUnreachable::LocalBreaker`].
    pub fn on_unreachable(mut self, decision: OnUnreachable) -> Self {
        self.on_unreachable = decision;
        self
    }

    /// How long no node that a majority follows may have been heard before the cluster counts as out of reach. An election takes a second or so.
    /// Default: 3 s; 100 ms ..= 1 h.
    pub fn unreachable_after(mut self, time: Duration) -> Self {
        self.unreachable_after = time.clamp(Duration::from_millis(100), Duration::from_secs(3600));
        self
    }

    pub(crate) fn endpoint_list(&self) -> &[String] {
        &self.endpoints
    }

    /// The number of the endpoint to begin with.
    pub(crate) fn first_endpoint(&self) -> usize {
        let count = self.endpoints.len().max(1);
        self.first.unwrap_or_else(|| rand::rng().random_range(0..count))
    }

    /// A client that connects when it is first used.
    ///
    /// # Errors
    /// [`Error::InvalidEndpoint`] when an address is none, or none was given.
    pub fn connect_lazy(self) -> Result<Client, Error> {
        Client::new(&self)
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
