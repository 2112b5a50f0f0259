//! What clients call: one file a service.

mod circuits;
mod cluster;
mod errors;
mod events;
mod shared_events;
mod stream;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;

use brama_core::command::ClusterId;
use brama_core::limits::MAX_REQUEST_BYTES;
use brama_core::reply::Reply;
use brama_core::{Command, Refusal};
use brama_proto::encoded::events_server::EventsServer;
use brama_proto::v1;
use brama_proto::v1::circuits_server::CircuitsServer;
use brama_proto::v1::cluster_server::ClusterServer;
use brama_raft::Replica;

pub(crate) use self::errors::REASONS;
use crate::config::Config;
use crate::metrics::requests::Requests;
use crate::news::News;
use crate::server::Services;
use crate::subscribers::Subscribers;

/// What the services say of themselves.
pub(crate) const DESCRIPTORS: [&[u8]; 2] = [brama_proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];
/// Beyond this tonic does not even read a request; up to here the answer can say what the limit is.
const MAX_READ_BYTES: usize = 8 * MAX_REQUEST_BYTES;
/// How long a call may take when the caller names no deadline.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);
/// How long a call may take, whatever the caller says.
const LONGEST_DEADLINE: Duration = Duration::from_secs(60);
/// The answer is on its way so long before the caller stops waiting: "no leader, nothing was changed" says more than a deadline that
/// has passed, which leaves open what happened.
const ANSWER_BEFORE: Duration = Duration::from_millis(100);

/// What the services need.
#[derive(Clone)]
pub struct Api {
    pub(crate) replica: Replica,
    pub(crate) cluster_name: Arc<str>,
    /// Which never changes, once this node has one.
    cluster_id: Arc<OnceLock<String>>,
    pub(crate) subscribers: Subscribers,
    /// Tells its subscribers when there is something for them.
    pub(crate) news: News,
    /// What its subscribers are sent.
    shared_events: shared_events::SharedEvents,
    /// Where refusals are counted that the port for clients does not see.
    pub(crate) requests: Arc<Requests>,
    pub(crate) progress_interval: Duration,
    /// Whether this node is in touch with a majority.
    pub(crate) quorum: watch::Receiver<bool>,
    /// Ends subscriptions and streams when the node stops.
    pub(crate) end_streams: CancellationToken,
}

impl Api {
    /// The services of a node. `quorum` says whether it is in touch with a majority; `end_streams` ends its streams.
    pub(crate) fn new(
        replica: Replica,
        news: News,
        config: &Config,
        subscribers: Subscribers,
        requests: Arc<Requests>,
        quorum: watch::Receiver<bool>,
        end_streams: CancellationToken,
    ) -> Self {
        Self {
            replica,
            news,
            cluster_name: config.cluster.name.as_str().into(),
            cluster_id: Arc::default(),
            subscribers,
            shared_events: shared_events::SharedEvents::new(),
            requests,
            progress_interval: config.events.progress_interval,
            quorum,
            end_streams,
        }
    }

    /// All services of `brama.v1`, reflection, and health.
    ///
    /// # Errors
    /// When the descriptors that the build made cannot be read.
    pub(crate) fn services(
        self,
        health: HealthServer<HealthService>,
    ) -> Result<Services, tonic_reflection::server::Error> {
        let descriptors = || {
            let builder = tonic_reflection::server::Builder::configure();
            DESCRIPTORS.into_iter().fold(builder, |builder, set| {
                builder.register_encoded_file_descriptor_set(set)
            })
        };
        let requests = self.requests.clone();
        let circuits = CircuitsServer::new(self.clone()).max_decoding_message_size(MAX_READ_BYTES);
        let others = Routes::new(EventsServer::new(self.clone()).max_decoding_message_size(MAX_READ_BYTES))
            .add_service(ClusterServer::new(self).max_decoding_message_size(MAX_READ_BYTES))
            .add_service(descriptors().build_v1()?)
            .add_service(descriptors().build_v1alpha()?)
            .add_service(health)
            .prepare()
            .into_axum_router();
        Ok(Services {
            circuits,
            others,
            requests,
        })
    }

    /// The message of a request, unless it is too large, and the deadline of the call.
    fn open<T: prost::Message>(request: tonic::Request<T>) -> Result<(T, Instant), Status> {
        let deadline = deadline(request.metadata());
        let message = request.into_inner();
        check_size(&message)?;
        Ok((message, deadline))
    }

    /// Where an answer comes from. `revision`: how new it is.
    fn header(&self, revision: u64) -> Option<v1::ResponseHeader> {
        Some(v1::ResponseHeader {
            cluster_id: self.shown_cluster_id(),
            node_id: self.replica.node_id(),
            revision,
        })
    }

    /// Empty as long as this node has no cluster. It goes with every answer: written out once.
    fn shown_cluster_id(&self) -> String {
        if let Some(shown) = self.cluster_id.get() {
            return shown.clone();
        }
        let Some(id) = self.replica.cluster_id() else {
            return String::new();
        };
        self.cluster_id.get_or_init(|| id.to_string()).clone()
    }

    /// Gets a command applied; returns what it answered and the revision after it.
    async fn apply(
        &self,
        command: Result<Command, Refusal>,
        deadline: Instant,
    ) -> Result<(Reply, u64), Status> {
        let command = command.map_err(errors::refusal)?;
        let (reply, applied) = self
            .replica
            .propose(command, deadline)
            .await
            .map_err(errors::propose)?;
        Ok((reply, applied.revision))
    }

    /// Waits until the local state is as fresh as the caller wants.
    async fn be_fresh(
        &self,
        consistency: Option<v1::Consistency>,
        default: v1::consistency::Level,
        deadline: Instant,
    ) -> Result<(), Status> {
        use v1::consistency::Level;
        match consistency
            .and_then(|consistency| consistency.level)
            .unwrap_or(default)
        {
            Level::Linearizable(true) => self.replica.linearize(deadline).await.map_err(errors::read),
            Level::Local(true) => self.replica.recovered(deadline).await.map_err(errors::read),
            Level::AtLeast(revision) => {
                self.replica.recovered(deadline).await.map_err(errors::read)?;
                self.replica.reach(revision, deadline).await.map_err(errors::read)
            }
            Level::Linearizable(false) => Err(errors::invalid(
                "consistency.linearizable",
                "must be true, or left out",
            )),
            Level::Local(false) => Err(errors::invalid("consistency.local", "must be true, or left out")),
        }
    }

    /// The cluster's id, for cursors.
    fn cluster_id(&self) -> Result<ClusterId, Status> {
        self.replica.cluster_id().ok_or_else(|| {
            errors::plain(
                tonic::Code::Unavailable,
                "NO_LEADER",
                "this node belongs to no cluster yet",
            )
        })
    }
}

fn check_size(message: &impl prost::Message) -> Result<(), Status> {
    let bytes = message.encoded_len();
    if bytes > MAX_REQUEST_BYTES {
        let text = format!("the request has {bytes} bytes, at most {MAX_REQUEST_BYTES} are allowed");
        return Err(errors::limit_reached(
            "REQUEST_TOO_LARGE",
            MAX_REQUEST_BYTES as u64,
            text,
        ));
    }
    Ok(())
}

/// A state machine that answers a command with another command's reply is not one of ours.
fn unexpected(reply: &Reply) -> Status {
    Status::internal(format!("unexpected reply {reply:?}"))
}

fn deadline(metadata: &MetadataMap) -> Instant {
    let asked = metadata
        .get("grpc-timeout")
        .and_then(|value| value.to_str().ok())
        .and_then(parse_timeout);
    let asked = asked.unwrap_or(DEFAULT_DEADLINE).min(LONGEST_DEADLINE);
    Instant::now() + asked - (asked / 10).min(ANSWER_BEFORE)
}

/// A timeout as gRPC writes it: at most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse_timeout("10S"), Some(Duration::from_secs(10)));
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(
            parse_timeout("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        for bad in ["", "S", "10", "-1S", "123456789S", "10X", "é"] {
            assert_eq!(parse_timeout(bad), None, "{bad:?}");
        }
    }
}
