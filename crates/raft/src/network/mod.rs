//! How openraft reaches other nodes: one long-lived stream of append requests a follower, heartbeats and votes on a connection of
//! their own, snapshots in chunks on a third.

mod in_step;
mod service;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::errors::{NetworkError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory,
};
use openraft::raft::{
    SnapshotResponse, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use brama_proto::internal as pb;

use crate::convert::{
    append_result_from_pb, append_to_pb, log_id_from_pb, log_id_to_pb, vote_from_pb, vote_to_pb,
};
use crate::environment::Environment;
use crate::log_store::LogHandle;
use crate::peers::{Client, Lane, Peers};
use crate::quorum::Quorum;
use crate::state_store::{Snapshot, SnapshotFile};
use crate::types::{AppendRequest, Member, RpcError, TypeConfig, Vote};

use in_step::InStep;
pub(crate) use service::PeerService;

/// Bytes of a snapshot in one message.
const SNAPSHOT_CHUNK_BYTES: usize = 256 * 1024;

type BoxFuture<'a, T> = openraft::base::BoxFuture<'a, T>;
type BoxStream<'a, T> = openraft::base::BoxStream<'a, T>;

/// Makes openraft's clients.
pub(crate) struct Network {
    pub(crate) peers: Peers,
    pub(crate) quorum: Quorum,
    pub(crate) log: LogHandle,
    pub(crate) environment: Arc<dyn Environment>,
}

impl Network {
    fn connection(&self, id: u64, member: &Member, lane: Lane) -> Connection {
        Connection {
            id,
            member: member.clone(),
            lane,
            peers: self.peers.clone(),
            quorum: self.quorum.clone(),
            log: self.log.clone(),
            environment: self.environment.clone(),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &Member) -> Connection {
        self.connection(target, node, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Connection {
        self.connection(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Member) -> Connection {
        self.connection(target, node, Lane::Snapshot)
    }
}

/// A way to one node.
pub(crate) struct Connection {
    id: u64,
    member: Member,
    lane: Lane,
    peers: Peers,
    quorum: Quorum,
    log: LogHandle,
    environment: Arc<dyn Environment>,
}

impl Connection {
    fn client(&self, lane: Lane) -> Result<Client, RpcError> {
        self.peers
            .client(self.id, &self.member, lane)
            .map_err(|error| Unreachable::new(&error).into())
    }

    /// A reply, or an error once `patience` is over: openraft is told before it gives up by itself.
    async fn ask<T>(
        &self,
        patience: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, RpcError> {
        match tokio::time::timeout(patience, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(rpc_error(&status)),
            Err(_) => Err(NetworkError::from_string(format!("no answer within {patience:?}")).into()),
        }
    }
}

fn rpc_error(status: &tonic::Status) -> RpcError {
    match status.code() {
        // Not connected, or refused by somebody else at that address: openraft backs off before it tries again.
        tonic::Code::Unavailable | tonic::Code::FailedPrecondition | tonic::Code::Unauthenticated => {
            Unreachable::new(status).into()
        }
        _ => NetworkError::new(status).into(),
    }
}

fn malformed(error: &(impl std::error::Error + 'static)) -> RpcError {
    NetworkError::new(error).into()
}

impl NetStreamAppend<TypeConfig> for Connection {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendRequest> + openraft::OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // openraft holds back the first request while it backs off from a node that is away. To connect before there is a request
            // would be to try again at once, thousands of times a second.
            let mut input = input;
            let Some(first) = input.next().await else {
                return Ok(Box::pin(futures::stream::empty()) as BoxStream<'s, _>);
            };
            // When the entries that come next were purged, openraft sends a request without any, again and again, and does not look whether
            // it was told to go on elsewhere: after the snapshot that the follower got meanwhile. It does when the stream ends. (The first
            // request may be a question that has to be asked.)
            let log = self.log.clone();
            let in_step = InStep::default();
            in_step.asked(&first);
            let asked = in_step.clone();
            let input = input
                .inspect(move |request| asked.asked(request))
                .take_while(move |request| {
                    let is_left_behind = request.entries.is_empty() && request.prev_log_id < log.purged();
                    futures::future::ready(!is_left_behind)
                });
            let input = futures::stream::once(futures::future::ready(first)).chain(input);
            let mut client = self.client(self.lane)?;
            let quorum = self.quorum.clone();
            // A membership that cannot be written as JSON does not exist; should it, the stream ends and openraft starts anew.
            let requests = input
                .map(move |request| append_to_pb(request, quorum.leader_has_it()))
                .take_while(|request| futures::future::ready(request.is_ok()));
            let requests = requests.filter_map(|request| futures::future::ready(request.ok()));
            let opened = self.ask(option.hard_ttl(), client.append(requests)).await;
            self.peers.tell(self.id, &self.member, opened.as_ref().err());
            let peers = &self.peers;
            let (id, member) = (self.id, &self.member);
            let results = opened?.map(move |response| match response {
                Ok(response) => append_result_from_pb(response).map_err(|error| malformed(&error)),
                Err(status) => {
                    let error = rpc_error(&status);
                    peers.tell(id, member, Some(&error));
                    Err(error)
                }
            });
            let results = results.filter(move |result| {
                futures::future::ready(result.as_ref().map_or(true, |answer| in_step.may_tell(answer)))
            });
            Ok(Box::pin(results) as BoxStream<'s, _>)
        })
    }
}

impl NetVote<TypeConfig> for Connection {
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let mut client = self.client(Lane::Heartbeat)?;
        let response = self
            .ask(option.soft_ttl(), client.vote(vote_request_to_pb(&request)))
            .await?;
        vote_response_from_pb(response)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let mut client = self.client(Lane::Heartbeat)?;
        let response = self
            .ask(option.soft_ttl(), client.pre_vote(vote_request_to_pb(&request)))
            .await?;
        vote_response_from_pb(response)
    }
}

fn vote_request_to_pb(request: &VoteRequest<TypeConfig>) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(vote_to_pb(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_to_pb),
        leadership_transfer: request.leadership_transfer,
    }
}

fn vote_response_from_pb(response: pb::VoteResponse) -> Result<VoteResponse<TypeConfig>, RpcError> {
    let vote = vote_from_pb(response.vote).map_err(|error| malformed(&error))?;
    Ok(VoteResponse::new(
        vote,
        response.last_log_id.map(log_id_from_pb),
        response.granted,
    ))
}

impl NetSnapshot<TypeConfig> for Connection {
    type SnapshotData = SnapshotFile;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + openraft::OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let mut client = self.client(Lane::Snapshot)?;
        let meta = serde_json::to_vec(&snapshot.meta).map_err(|error| NetworkError::new(&error))?;
        let (sender, receiver) = mpsc::channel(4);
        let file = snapshot.snapshot;
        let head = pb::SnapshotHead {
            vote: Some(vote_to_pb(&vote)),
            meta: Bytes::from(meta),
            total_bytes: file.bytes(),
            xxh3: file.checksum(),
        };
        // The file is read no faster than the messages leave. If that fails, the other side gets less than was announced.
        let environment = self.environment.clone();
        let read = async move {
            let first = pb::SnapshotChunk {
                head: Some(head),
                data: Bytes::new(),
            };
            let mut next = sender.send(first).await.is_ok().then_some(0);
            while let Some(offset) = next {
                let file = file.clone();
                let chunk = environment.blocking(move || file.read_chunk(offset, SNAPSHOT_CHUNK_BYTES));
                let data = chunk.await.map_err(io::Error::other)??;
                next = (!data.is_empty()).then_some(offset + data.len() as u64);
                let chunk = pb::SnapshotChunk { head: None, data };
                if next.is_none() || sender.send(chunk).await.is_err() {
                    break;
                }
            }
            Ok::<_, io::Error>(())
        };
        let call = self.ask(
            option.hard_ttl(),
            client.install_snapshot(ReceiverStream::new(receiver)),
        );
        let both = futures::future::join(read, call);
        tokio::select! {
            closed = cancel => Err(closed.into()),
            (read, response) = both => {
                let response = response?;
                read.map_err(|error| NetworkError::new(&error))?;
                let vote = vote_from_pb(response.vote).map_err(|error| NetworkError::new(&error))?;
                Ok(SnapshotResponse::new(vote))
            }
        }
    }
}

impl NetTransferLeader<TypeConfig> for Connection {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let mut client = self.client(Lane::Heartbeat)?;
        let message = pb::TransferRequest {
            from_leader: Some(vote_to_pb(request.from_leader())),
            to_node_id: *request.to_node_id(),
            last_log_id: request.last_log_id().map(log_id_to_pb),
        };
        let response = self
            .ask(option.soft_ttl(), client.transfer_leader(message))
            .await?;
        crate::convert::transfer_response_from_pb(&response).map_err(|error| malformed(&error))
    }
}

impl NetBackoff<TypeConfig> for Connection {
    fn backoff(&self) -> Option<Backoff> {
        // A node that comes back is found within 100 ms; one that is away costs ten refused connections a second.
        Some(Backoff::new(std::iter::repeat(Duration::from_millis(100))))
    }
}
