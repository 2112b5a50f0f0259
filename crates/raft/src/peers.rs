//! Connections to other nodes, and how nodes make sure that they talk to whom they mean.
//!
//! Every call names the cluster, the caller, the callee and the incarnation under which the membership knows the callee. A node that is
//! somebody else refuses the call: a data directory that was wiped, copied or pointed at a wrong address can neither vote nor
//! append.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use brama_core::command::ClusterId;
use brama_proto::internal::peer_client::PeerClient;

use crate::environment::Environment;
use crate::types::{Incarnation, Member};

/// Messages between nodes may be this large: a full append request, with room.
pub(crate) const MAX_PEER_MESSAGE_BYTES: usize = 256 * 1024 * 1024;

/// How long to wait for a TCP connection to a node.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Traffic that must not wait for other traffic has a connection of its own: HTTP/2 shares one window among all streams of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Log entries.
    Append,
    /// Heartbeats and votes.
    Heartbeat,
    /// Snapshots.
    Snapshot,
    /// Commands and questions of a follower's callers.
    Forward,
}

/// A client of one node on one lane.
pub(crate) type Client = PeerClient<InterceptedService<Channel, Card>>;

/// Open connections, by address and lane. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Peers {
    from: u64,
    environment: Arc<dyn Environment>,
    cluster: Arc<Mutex<Option<ClusterId>>>,
    channels: Arc<Mutex<HashMap<(String, Lane), Channel>>>,
    /// Nodes that did not take log entries when they were last asked to.
    away: Arc<Mutex<HashSet<u64>>>,
}

impl Peers {
    pub(crate) fn new(from: u64, cluster: Option<ClusterId>, environment: Arc<dyn Environment>) -> Self {
        Self {
            from,
            environment,
            cluster: Arc::new(Mutex::new(cluster)),
            channels: Arc::default(),
            away: Arc::default(),
        }
    }

    /// Logs, once, that a node does not take log entries any more, and once that it does again.
    pub(crate) fn tell(&self, id: u64, member: &Member, error: Option<&impl Display>) {
        let mut away = self.away.lock();
        match error {
            Some(error) if away.insert(id) => {
                tracing::warn!(node = id, address = member.peer_address, %error, "a node cannot be reached; it is tried again ten times a second");
            }
            None if away.remove(&id) => {
                tracing::info!(
                    node = id,
                    address = member.peer_address,
                    "the node is reached again"
                );
            }
            _ => {}
        }
    }

    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        *self.cluster.lock()
    }

    pub(crate) fn set_cluster(&self, cluster: ClusterId) {
        *self.cluster.lock() = Some(cluster);
    }

    /// A client of `member`; connects when it is used, and again when the connection was lost.
    ///
    /// # Errors
    /// When the member's address is none.
    pub(crate) fn client(
        &self,
        id: u64,
        member: &Member,
        lane: Lane,
    ) -> Result<Client, tonic::transport::Error> {
        let channel = self.channel(&member.peer_address, lane)?;
        let card = Card {
            from: self.from,
            to: id,
            incarnation: member.incarnation,
            cluster: self.cluster.clone(),
        };
        Ok(PeerClient::with_interceptor(channel, card)
            .max_decoding_message_size(MAX_PEER_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_PEER_MESSAGE_BYTES))
    }

    /// A client of whoever listens at `address`, for `Hello` only.
    ///
    /// # Errors
    /// When the address is none.
    pub(crate) fn stranger(&self, address: &str) -> Result<PeerClient<Channel>, tonic::transport::Error> {
        Ok(PeerClient::new(self.channel(address, Lane::Forward)?))
    }

    fn channel(&self, address: &str, lane: Lane) -> Result<Channel, tonic::transport::Error> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&(address.to_owned(), lane)) {
            return Ok(channel.clone());
        }
        // Keepalive is off by default: without it a peer that vanished without a word (cable, pause) would hold the connection, and
        // with it the calls, for many minutes.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(10)))
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(3))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(8 * 1024 * 1024);
        let channel = self.environment.connect(endpoint);
        channels.insert((address.to_owned(), lane), channel.clone());
        Ok(channel)
    }
}

const CLUSTER: &str = "brama-cluster";
const FROM: &str = "brama-from";
const TO: &str = "brama-to";
const INCARNATION: &str = "brama-incarnation";

/// What a caller shows with each call.
#[derive(Clone)]
pub(crate) struct Card {
    from: u64,
    to: u64,
    incarnation: Incarnation,
    cluster: Arc<Mutex<Option<ClusterId>>>,
}

impl Interceptor for Card {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        let Some(cluster) = *self.cluster.lock() else {
            return Err(tonic::Status::failed_precondition(
                "this node belongs to no cluster yet",
            ));
        };
        let text = |text: String| -> Result<MetadataValue<Ascii>, tonic::Status> {
            text.parse()
                .map_err(|_| tonic::Status::internal("an id is not ASCII"))
        };
        let metadata = request.metadata_mut();
        metadata.insert(CLUSTER, text(cluster.to_string())?);
        metadata.insert(FROM, text(self.from.to_string())?);
        metadata.insert(TO, text(self.to.to_string())?);
        metadata.insert(INCARNATION, text(self.incarnation.to_string())?);
        Ok(request)
    }
}

/// What a callee read from a card.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub(crate) cluster: ClusterId,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) incarnation: Incarnation,
}

impl Shown {
    /// The card that came with a call.
    ///
    /// # Errors
    /// When it is missing or unreadable: the caller is no node.
    pub(crate) fn read(metadata: &MetadataMap) -> Result<Self, tonic::Status> {
        let text = |key: &str| {
            let missing =
                || tonic::Status::unauthenticated(format!("this port is for nodes of the cluster: no {key}"));
            metadata
                .get(key)
                .and_then(|value| value.to_str().ok())
                .ok_or_else(missing)
        };
        let bad = |key: &str| tonic::Status::unauthenticated(format!("{key} is not readable"));
        Ok(Self {
            cluster: ClusterId(u128::from_str_radix(text(CLUSTER)?, 16).map_err(|_| bad(CLUSTER))?),
            from: text(FROM)?.parse().map_err(|_| bad(FROM))?,
            to: text(TO)?.parse().map_err(|_| bad(TO))?,
            incarnation: Incarnation(
                u128::from_str_radix(text(INCARNATION)?, 16).map_err(|_| bad(INCARNATION))?,
            ),
        })
    }
}
