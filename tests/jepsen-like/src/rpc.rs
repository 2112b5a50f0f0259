//! Calls on the nodes through generated clients, without any retry: the workload decides what is asked again, and where.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use brama_proto::v1::circuits_client::CircuitsClient;
use brama_proto::v1::cluster_client::ClusterClient;
use brama_proto::v1::events_client::EventsClient;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tonic_types::StatusExt;

use crate::hosts::Namespace;

/// Loopback answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// The node is told a deadline; if its answer to that does not come either, this much later the harness gives up.
const GRACE: Duration = Duration::from_millis(100);

/// Connections to all nodes; made when they are needed, and made anew when they broke.
#[derive(Clone, Debug)]
pub struct Nodes {
    channels: Vec<Channel>,
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The node says, or the connection shows, that nothing was applied. Holds the reason of the `ErrorInfo`, or `CONNECT`.
    Refused {
        /// A stable name.
        reason: String,
        /// For a person.
        message: String,
    },
    /// It may have been applied, or may be yet.
    Unknown(String),
}

impl Nodes {
    /// Connections to these addresses.
    ///
    /// # Errors
    /// When one is not an address.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> anyhow::Result<Self> {
        let channel = |address| anyhow::Ok(endpoint(address)?.connect_lazy());
        let channels = addresses
            .into_iter()
            .map(channel)
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { channels })
    }

    /// The same, from another host.
    ///
    /// # Errors
    /// When one is not an address.
    pub fn from_host(
        host: &Arc<Namespace>,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> anyhow::Result<Self> {
        let channel = |address| {
            let host = host.clone();
            let connect = move |_: http::Uri| {
                let host = host.clone();
                async move { anyhow::Ok(TokioIo::new(dial(&host, address).await?)) }
            };
            anyhow::Ok(endpoint(address)?.connect_with_connector_lazy(tower::service_fn(connect)))
        };
        let channels = addresses
            .into_iter()
            .map(channel)
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { channels })
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// The circuits, through the node at this position.
    pub fn circuits(&self, node: usize) -> CircuitsClient<Channel> {
        CircuitsClient::new(self.channels[node].clone())
    }

    /// The events, from the node at this position.
    pub fn events(&self, node: usize) -> EventsClient<Channel> {
        EventsClient::new(self.channels[node].clone())
    }

    /// What an operator does, on the node at this position.
    pub fn cluster(&self, node: usize) -> ClusterClient<Channel> {
        ClusterClient::new(self.channels[node].clone())
    }
}

/// How all connections of the harness are made.
///
/// # Errors
/// When it is not an address.
pub fn endpoint(address: SocketAddr) -> anyhow::Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        // A process that is stopped keeps its connections: only the lack of an answer shows it.
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true))
}

async fn dial(host: &Namespace, address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = host.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A request that the node gives up after `within`.
pub fn timed<M>(message: M, within: Duration) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(within);
    request
}

/// The answer to a [`timed`] request with the same `within`.
///
/// # Errors
/// [`Failure`].
pub async fn answer<T>(
    within: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(within + GRACE, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Failure::of(&status)),
        Err(_) => Err(Failure::Unknown("no answer in time".into())),
    }
}

impl Failure {
    /// What a status says about whether the call was applied.
    pub fn of(status: &Status) -> Self {
        let message = status.message().to_owned();
        match reason(status) {
            Some(reason) if reason == "OUTCOME_UNKNOWN" => Self::Unknown(message),
            Some(reason) => Self::Refused { reason, message },
            None if never_connected(status) => Self::Refused {
                reason: "CONNECT".into(),
                message,
            },
            None => Self::Unknown(format!("{:?}: {message}", status.code())),
        }
    }

    /// The reason, if it is a refusal.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { reason, .. } => Some(reason),
            Self::Unknown(_) => None,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { reason, message } => write!(f, "refused ({reason}): {message}"),
            Self::Unknown(message) => write!(f, "unknown: {message}"),
        }
    }
}

impl std::error::Error for Failure {}

/// The reason in the `ErrorInfo` of a node's answer.
pub fn reason(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == "brama").then_some(info.reason)
}

/// A value that the node put beside the reason.
pub fn detail(status: &Status, key: &str) -> Option<String> {
    status.get_details_error_info()?.metadata.get(key).cloned()
}

/// Whether there was no connection, so that nothing was sent.
fn never_connected(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;
    use tonic_types::ErrorDetails;

    fn told(code: Code, reason: &str) -> Status {
        let details = ErrorDetails::with_error_info(reason, "brama", [] as [(String, String); 0]);
        Status::with_error_details(code, "told", details)
    }

    #[test]
    fn only_what_a_node_says_or_a_missing_connection_is_a_refusal() {
        let refusal = |status: &Status| Failure::of(status).refusal().map(str::to_owned);
        assert_eq!(
            refusal(&told(Code::Unavailable, "NO_LEADER")).as_deref(),
            Some("NO_LEADER")
        );
        assert_eq!(refusal(&told(Code::DeadlineExceeded, "OUTCOME_UNKNOWN")), None);
        assert_eq!(
            refusal(&Status::unavailable("broken pipe")),
            None,
            "perhaps it was sent"
        );
        assert_eq!(refusal(&Status::deadline_exceeded("client")), None);
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_is_a_refusal() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let nodes = Nodes::new([address]).unwrap();
        let within = Duration::from_secs(1);
        let request = timed(brama_proto::v1::ClusterStatusRequest {}, within);
        let failure = answer(within, nodes.cluster(0).status(request))
            .await
            .unwrap_err();
        assert_eq!(failure.refusal(), Some("CONNECT"), "{failure}");
    }
}
