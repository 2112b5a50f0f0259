//! What a node answers other nodes.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::raft::{TransferLeaderRequest, VoteRequest};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use brama_core::codec;
use brama_proto::internal as pb;
use brama_proto::internal::peer_server::Peer;
use pb::answered::Answered;
use pb::forward_request::Request as Asked;
use pb::forward_response::Response as Told;

use crate::agreement;
use crate::batcher::Outcome;
use crate::convert::{
    append_from_pb, append_result_to_pb, log_id_from_pb, log_id_to_pb, transfer_response_to_pb, vote_from_pb,
    vote_to_pb,
};
use crate::errors::{AdminError, ProposeError};
use crate::failpoints::{self, Point};
use crate::inner::Inner;
use crate::peers::Shown;
use crate::state_store::{IncomingSnapshot, Snapshot};
use crate::types::{AppendRequest, TypeConfig};

/// Requests of one follower that the leader works on at once.
const MAX_FORWARDED: usize = 16 * 1024;

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The services for nodes.
pub(crate) struct PeerService {
    pub(crate) node: Arc<Inner>,
}

impl PeerService {
    /// Makes sure that the caller means this node, and that both belong to one cluster.
    async fn check<T>(&self, request: &Request<T>) -> Result<Shown, Status> {
        let shown = Shown::read(request.metadata())?;
        self.node.admit(shown).await?;
        Ok(shown)
    }
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

fn malformed(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn hello(&self, _: Request<pb::HelloRequest>) -> Result<Response<pb::HelloResponse>, Status> {
        let cluster = self.node.peers.cluster();
        Ok(Response::new(pb::HelloResponse {
            node_id: self.node.options.node_id,
            incarnation: self.node.incarnation.0.to_be_bytes().to_vec().into(),
            cluster_id: cluster
                .map(|id| id.0.to_be_bytes().to_vec())
                .unwrap_or_default()
                .into(),
            client_address: self.node.options.client_address.clone(),
        }))
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteResponse>, Status> {
        self.check(&request).await?;
        let response = self
            .node
            .raft
            .vote(vote_request(request.into_inner())?)
            .await
            .map_err(failed)?;
        Ok(Response::new(vote_response(&response)))
    }

    async fn pre_vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        self.check(&request).await?;
        let response = self
            .node
            .raft
            .pre_vote(vote_request(request.into_inner())?)
            .await
            .map_err(failed)?;
        Ok(Response::new(vote_response(&response)))
    }

    type AppendStream = BoxStream<pb::AppendResponse>;

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        self.check(&request).await?;
        let node = self.node.clone();
        // The first message that cannot be read ends the stream; the leader starts a new one.
        let requests = request.into_inner().scan((), move |(), message| {
            let read = message.ok().and_then(|message| {
                let leader_has_quorum = message.leader_has_quorum;
                let append = append_from_pb(message).ok()?;
                hear(&node, &append, leader_has_quorum);
                Some(append)
            });
            let log = node.log.clone();
            async move {
                // openraft would wait for the log in its one task, and heartbeats and votes behind it. The leader gives up this stream
                // after a while, and begins another; what was sent on it is not lost, and comes again.
                if read.as_ref().is_some_and(|append| !append.entries.is_empty()) {
                    log.until_it_takes_entries().await;
                }
                read
            }
        });
        let results = self.node.raft.stream_append(requests).map(|result| match result {
            Ok(result) => Ok(append_result_to_pb(result)),
            Err(fatal) => Err(failed(fatal)),
        });
        let results = results.take_until(self.node.stop.clone().cancelled_owned());
        Ok(Response::new(Box::pin(results)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotResponse>, Status> {
        self.check(&request).await?;
        let mut chunks = request.into_inner();
        let head = chunks
            .message()
            .await?
            .and_then(|chunk| chunk.head)
            .ok_or_else(|| malformed("no snapshot head"))?;
        let vote = vote_from_pb(head.vote).map_err(malformed)?;
        let meta = serde_json::from_slice(&head.meta).map_err(malformed)?;
        let folder = self.node.snapshot_folder.clone();
        let disk = *self.node.disk.borrow();
        if !disk.has_room_for(head.total_bytes) {
            // What is there of it would keep others from writing.
            return Err(Status::resource_exhausted(format!(
                "there is no room for a snapshot of {} bytes: the disk is {disk}",
                head.total_bytes
            )));
        }
        // The disk is written elsewhere; nothing is read from the connection meanwhile.
        let environment = &self.node.options.environment;
        let begin = move || IncomingSnapshot::begin(&folder, head.total_bytes, head.xxh3);
        let mut incoming = environment
            .blocking(begin)
            .await
            .map_err(failed)?
            .map_err(failed)?;
        while let Some(chunk) = chunks.message().await? {
            let write = move || incoming.write(&chunk.data).map(|()| incoming);
            incoming = environment
                .blocking(write)
                .await
                .map_err(failed)?
                .map_err(failed)?;
        }
        let finish = move || incoming.finish();
        let snapshot = environment
            .blocking(finish)
            .await
            .map_err(failed)?
            .map_err(failed)?;
        let response = self
            .node
            .raft
            .install_full_snapshot(vote, Snapshot { meta, snapshot })
            .await
            .map_err(failed)?;
        Ok(Response::new(pb::SnapshotResponse {
            vote: Some(vote_to_pb(&response.vote)),
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferRequest>,
    ) -> Result<Response<pb::TransferResponse>, Status> {
        self.check(&request).await?;
        let message = request.into_inner();
        let request = TransferLeaderRequest::<TypeConfig>::new(
            vote_from_pb(message.from_leader).map_err(malformed)?,
            message.to_node_id,
            message.last_log_id.map(log_id_from_pb),
        );
        let response = self
            .node
            .raft
            .handle_transfer_leader(request)
            .await
            .map_err(failed)?;
        Ok(Response::new(transfer_response_to_pb(&response).map_err(failed)?))
    }

    type ForwardStream = BoxStream<pb::ForwardResponse>;

    async fn forward(
        &self,
        request: Request<Streaming<pb::ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        self.check(&request).await?;
        let (sender, receiver) = mpsc::channel(1024);
        let node = self.node.clone();
        let stop = self.node.stop.clone();
        self.node.tasks.spawn(async move {
            let mut requests = request.into_inner();
            let mut working = FuturesUnordered::new();
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    Some(response) = working.next(), if !working.is_empty() => {
                        if sender.send(Ok(response)).await.is_err() {
                            break;
                        }
                    }
                    request = requests.message(), if working.len() < MAX_FORWARDED => match request {
                        Ok(Some(request)) => working.push(serve_forwarded(node.clone(), request)),
                        Ok(None) | Err(_) => break,
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn fitness(
        &self,
        request: Request<pb::FitnessRequest>,
    ) -> Result<Response<pb::FitnessResponse>, Status> {
        self.check(&request).await?;
        let disk = self.node.disk.borrow().rank();
        Ok(Response::new(pb::FitnessResponse { disk }))
    }

    async fn clock(&self, request: Request<pb::ClockRequest>) -> Result<Response<pb::ClockResponse>, Status> {
        self.check(&request).await?;
        let clock = &self.node.clock;
        Ok(Response::new(pb::ClockResponse {
            live: clock.is_live(),
            cluster_time_us: clock.now().as_micros(),
            wall_time_us: clock.wall().as_micros(),
        }))
    }

    async fn compare(
        &self,
        request: Request<pb::CompareRequest>,
    ) -> Result<Response<pb::CompareResponse>, Status> {
        let from = self.check(&request).await?.from;
        let response = agreement::answer(&self.node, from, request.get_ref());
        Ok(Response::new(response))
    }
}

/// Takes from an append what concerns the clock and the majority, before openraft gets it.
fn hear(node: &Inner, append: &AppendRequest, leader_has_quorum: bool) {
    if leader_has_quorum {
        node.quorum.heard_leader();
    }
    // Entries of earlier terms may be old: they say what time it was, not what time it is.
    let term = append.vote.leader_id.term;
    let mut fresh = append
        .entries
        .iter()
        .rev()
        .take_while(|entry| entry.log_id.leader_id.term == term);
    let newest = fresh.find_map(|entry| match &entry.payload {
        EntryPayload::Normal(payload) => codec::peek_time(&payload.0).ok(),
        _ => None,
    });
    if let Some(time) = newest {
        node.clock.heard(time);
    }
}

/// Queues the command at once, so that a follower's commands keep their order, and answers when it is applied.
fn serve_forwarded(
    node: Arc<Inner>,
    request: pb::ForwardRequest,
) -> impl Future<Output = pb::ForwardResponse> + Send {
    let queued = match request.request {
        Some(Asked::Commands(commands)) => {
            failpoints::pass(Point::ForwardedBefore);
            let number = commands.command.len();
            Work::Commands(number, node.batcher.submit_foreign(commands.command))
        }
        Some(Asked::ReadIndex(_)) => Work::Read,
        Some(Asked::Membership(change)) => Work::Membership(change),
        None => Work::Nothing,
    };
    async move {
        let told = match queued {
            Work::Commands(number, Ok(outcomes)) => {
                let stopped = || vec![Err(ProposeError::unknown("the leader stopped")); number];
                let outcomes = outcomes.await.unwrap_or_else(|_| stopped());
                failpoints::pass(Point::ForwardedAfter);
                answers(outcomes)
            }
            Work::Commands(number, Err(error)) => answers(vec![Err(error); number]),
            Work::Read => match node.reads.index().await {
                Some(index) => Told::ReadIndex(index),
                None => Told::NotLeader(pb::NotLeader::default()),
            },
            Work::Membership(change) => match node.change_membership(change).await {
                Ok(id) => Told::MembershipDone(id),
                Err(AdminError::NoLeader) => Told::NotLeader(pb::NotLeader::default()),
                Err(AdminError::Unknown(cause)) => Told::Unknown(cause),
                Err(AdminError::Refused(message)) => Told::Refused(pb::Refused {
                    kind: "membership".into(),
                    message,
                }),
            },
            Work::Nothing => Told::Refused(pb::Refused {
                kind: "request".into(),
                message: "this leader does not know the request: upgrade it".into(),
            }),
        };
        pb::ForwardResponse {
            id: request.id,
            response: Some(told),
        }
    }
}

enum Work {
    Commands(usize, Result<oneshot::Receiver<Vec<Outcome>>, ProposeError>),
    Read,
    Membership(pb::MembershipChange),
    Nothing,
}

fn answers(outcomes: Vec<Outcome>) -> Told {
    let answered = outcomes.into_iter().map(|outcome| pb::Answered {
        answered: Some(match outcome {
            Ok((answer, applied)) => Answered::Applied(pb::Applied {
                answer: codec::encode_answer(&answer).into(),
                log_index: applied.index,
                revision: applied.revision,
            }),
            Err(error) => refusal(error),
        }),
    });
    Told::Answers(pb::Answers {
        answer: answered.collect(),
    })
}

fn refusal(error: ProposeError) -> Answered {
    match error {
        // Both were not appended; the follower tries again, here or elsewhere.
        ProposeError::NoLeader | ProposeError::Stopping => Answered::NotLeader(pb::NotLeader::default()),
        ProposeError::Overloaded => Answered::Refused(pb::Refused {
            kind: "overloaded".into(),
            message: error.to_string(),
        }),
        ProposeError::NoRoom => Answered::Refused(pb::Refused {
            kind: "no room".into(),
            message: error.to_string(),
        }),
        ProposeError::Unknown { cause } => Answered::Unknown(cause),
        ProposeError::Refused(refusal) => Answered::Refused(pb::Refused {
            kind: "command".into(),
            message: refusal.to_string(),
        }),
    }
}

fn vote_request(request: pb::VoteRequest) -> Result<VoteRequest<TypeConfig>, Status> {
    let mut read = VoteRequest::new(
        vote_from_pb(request.vote).map_err(malformed)?,
        request.last_log_id.map(log_id_from_pb),
    );
    read.leadership_transfer = request.leadership_transfer;
    Ok(read)
}

fn vote_response(response: &openraft::raft::VoteResponse<TypeConfig>) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: Some(vote_to_pb(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(log_id_to_pb),
    }
}
