//! The follower's way to the leader: one long-lived stream for the commands and questions of all its callers.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use brama_core::codec;
use brama_core::reply::Answer;
use brama_proto::internal as pb;
use pb::forward_request::Request as Asked;
use pb::forward_response::Response as Told;

use crate::peers::{Lane, Peers};
use crate::status::Applied;
use crate::types::Member;

/// Requests that may wait on a follower, and that may be unanswered on the stream.
const MAX_WAITING: usize = 16 * 1024;
/// How long opening the stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Who leads, as this node knows it; `None` while nobody does.
pub(crate) type KnownLeader = Option<(u64, Member)>;

/// What the leader answered.
#[derive(Debug)]
pub(crate) enum Reply {
    Applied { answer: Answer, applied: Applied },
    ReadIndex(u64),
    MembershipDone(u64),
}

/// Why it did not.
#[derive(Debug, Clone)]
pub(crate) enum ForwardError {
    /// Nothing was appended.
    NotLeader,
    /// Nobody knows.
    Unknown(String),
    /// The leader said no, and why.
    Refused { kind: String, message: String },
}

/// Where a follower's requests go in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Forwarder {
    requests: mpsc::Sender<Request>,
}

pub(crate) struct Request {
    ask: Asked,
    reply: oneshot::Sender<Result<Reply, ForwardError>>,
}

impl Forwarder {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, waiting) = mpsc::channel(MAX_WAITING);
        (Self { requests }, waiting)
    }

    pub(crate) async fn command(&self, command: Bytes) -> Result<(Answer, Applied), ForwardError> {
        match self.ask(Asked::Command(command)).await? {
            Reply::Applied { answer, applied } => Ok((answer, applied)),
            other => Err(ForwardError::Unknown(format!(
                "the leader answered a command with {other:?}"
            ))),
        }
    }

    pub(crate) async fn read_index(&self) -> Result<u64, ForwardError> {
        match self.ask(Asked::ReadIndex(true)).await? {
            Reply::ReadIndex(index) => Ok(index),
            other => Err(ForwardError::Unknown(format!(
                "the leader answered a read with {other:?}"
            ))),
        }
    }

    pub(crate) async fn membership(&self, change: pb::MembershipChange) -> Result<u64, ForwardError> {
        match self.ask(Asked::Membership(change)).await? {
            Reply::MembershipDone(id) => Ok(id),
            other => Err(ForwardError::Unknown(format!(
                "the leader answered a change with {other:?}"
            ))),
        }
    }

    async fn ask(&self, ask: Asked) -> Result<Reply, ForwardError> {
        let (reply, answer) = oneshot::channel();
        // A full queue: nothing was sent, the caller may try again until its deadline.
        self.requests
            .try_send(Request { ask, reply })
            .map_err(|_| ForwardError::NotLeader)?;
        answer
            .await
            .unwrap_or_else(|_| Err(ForwardError::Unknown("this node is stopping".into())))
    }
}

/// Carries requests to whoever leads, for as long as the node runs.
pub(crate) struct ForwarderTask {
    pub(crate) node_id: u64,
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) leader: watch::Receiver<KnownLeader>,
    pub(crate) peers: Peers,
    pub(crate) stop: CancellationToken,
}

impl ForwarderTask {
    pub(crate) async fn run(mut self) {
        loop {
            let leader = self
                .leader
                .borrow_and_update()
                .clone()
                .filter(|(id, _)| *id != self.node_id);
            let go_on = match leader {
                Some((id, member)) => self.serve(id, &member).await,
                None => self.wait_for_leader().await,
            };
            if !go_on {
                return;
            }
        }
    }

    /// Turns requests away until there is somebody to ask. False: stop.
    async fn wait_for_leader(&mut self) -> bool {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return false,
                changed = self.leader.changed() => return changed.is_ok(),
                request = self.requests.recv() => match request {
                    Some(request) => { let _ = request.reply.send(Err(ForwardError::NotLeader)); }
                    None => return false,
                }
            }
        }
    }

    /// Carries requests to one leader until it is the leader no more or the stream breaks. False: stop.
    async fn serve(&mut self, id: u64, member: &Member) -> bool {
        let (sender, receiver) = mpsc::channel(1024);
        let opened = match self.peers.client(id, member, Lane::Forward) {
            Ok(mut client) => {
                let open = tokio::time::timeout(OPEN_TIMEOUT, async move {
                    client.forward(ReceiverStream::new(receiver)).await
                });
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return false,
                    _ = self.leader.changed() => return true,
                    opened = open => opened.ok().and_then(Result::ok),
                }
            }
            Err(_) => None,
        };
        let Some(responses) = opened else {
            // Turn away what waits, then try again: the leader may be on its way out.
            while let Ok(request) = self.requests.try_recv() {
                let _ = request.reply.send(Err(ForwardError::NotLeader));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            return !self.stop.is_cancelled();
        };
        let mut responses = responses.into_inner();
        let mut pending = HashMap::<u64, oneshot::Sender<Result<Reply, ForwardError>>>::new();
        let mut next_id = 0;
        let ended = loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break "this node is stopping",
                _ = self.leader.changed() => break "the leader changed",
                response = responses.next() => match response {
                    Some(Ok(response)) => {
                        if let Some(reply) = pending.remove(&response.id) {
                            let _ = reply.send(read_response(response));
                        }
                    }
                    Some(Err(_)) | None => break "the connection to the leader was lost",
                },
                // Without room on the stream some requests are unanswered, so an answer will wake this loop.
                request = self.requests.recv(), if pending.len() < MAX_WAITING && sender.capacity() > 0 => {
                    let Some(request) = request else { break "this node is stopping" };
                    if request.reply.is_closed() {
                        continue;
                    }
                    next_id += 1;
                    let message = pb::ForwardRequest { id: next_id, request: Some(request.ask) };
                    if sender.try_send(message).is_err() {
                        let _ = request.reply.send(Err(ForwardError::NotLeader));
                        break "the connection to the leader was lost";
                    }
                    pending.insert(next_id, request.reply);
                }
            }
        };
        // They were sent: whether they took effect, nobody here knows.
        for reply in pending.into_values() {
            let _ = reply.send(Err(ForwardError::Unknown(ended.into())));
        }
        !self.stop.is_cancelled()
    }
}

fn read_response(response: pb::ForwardResponse) -> Result<Reply, ForwardError> {
    match response.response {
        Some(Told::Applied(applied)) => match codec::decode_answer(&applied.answer) {
            Ok(answer) => Ok(Reply::Applied {
                answer,
                applied: Applied {
                    index: applied.log_index,
                    revision: applied.revision,
                },
            }),
            Err(error) => Err(ForwardError::Unknown(format!("the leader's answer is {error}"))),
        },
        Some(Told::ReadIndex(index)) => Ok(Reply::ReadIndex(index)),
        Some(Told::MembershipDone(id)) => Ok(Reply::MembershipDone(id)),
        Some(Told::NotLeader(_)) => Err(ForwardError::NotLeader),
        Some(Told::Unknown(cause)) => Err(ForwardError::Unknown(cause)),
        Some(Told::Refused(refused)) => Err(ForwardError::Refused {
            kind: refused.kind,
            message: refused.message,
        }),
        None => Err(ForwardError::Unknown("the leader answered nothing".into())),
    }
}
