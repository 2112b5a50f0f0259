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
use pb::answered::Answered;
use pb::forward_request::Request as Asked;
use pb::forward_response::Response as Told;

use crate::peers::{Lane, Peers};
use crate::status::Applied;
use crate::types::Member;

/// Requests that may wait on a follower.
const MAX_WAITING: usize = 16 * 1024;
/// Messages that may be unanswered on the stream. What comes meanwhile gathers, and goes in the next one.
const MAX_UNANSWERED: usize = 8;
/// Requests in one message.
const MAX_GROUP: usize = 2048;
/// Bytes of commands after which a message takes no more.
const MAX_GROUP_BYTES: usize = 256 * 1024;
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
    ask: Ask,
    reply: Replier,
}

type Replier = oneshot::Sender<Result<Reply, ForwardError>>;

/// What a caller wants of the leader.
enum Ask {
    Command(Bytes),
    ReadIndex,
    Membership(pb::MembershipChange),
}

impl Forwarder {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, waiting) = mpsc::channel(MAX_WAITING);
        (Self { requests }, waiting)
    }

    pub(crate) async fn command(&self, command: Bytes) -> Result<(Answer, Applied), ForwardError> {
        match self.ask(Ask::Command(command)).await? {
            Reply::Applied { answer, applied } => Ok((answer, applied)),
            other => Err(ForwardError::Unknown(format!(
                "the leader answered a command with {other:?}"
            ))),
        }
    }

    pub(crate) async fn read_index(&self) -> Result<u64, ForwardError> {
        match self.ask(Ask::ReadIndex).await? {
            Reply::ReadIndex(index) => Ok(index),
            other => Err(ForwardError::Unknown(format!(
                "the leader answered a read with {other:?}"
            ))),
        }
    }

    pub(crate) async fn membership(&self, change: pb::MembershipChange) -> Result<u64, ForwardError> {
        match self.ask(Ask::Membership(change)).await? {
            Reply::MembershipDone(id) => Ok(id),
            other => Err(ForwardError::Unknown(format!(
                "the leader answered a change with {other:?}"
            ))),
        }
    }

    async fn ask(&self, ask: Ask) -> Result<Reply, ForwardError> {
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
        let mut unanswered = HashMap::<u64, Vec<Replier>>::new();
        let mut next_id = 0;
        let mut waiting = Vec::new();
        let ended = loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break "this node is stopping",
                _ = self.leader.changed() => break "the leader changed",
                response = responses.next() => match response {
                    Some(Ok(response)) => {
                        if let Some(repliers) = unanswered.remove(&response.id) {
                            tell(response, repliers);
                        }
                    }
                    Some(Err(_)) | None => break "the connection to the leader was lost",
                },
                // Without room something is unanswered, so an answer will wake this loop.
                n = self.requests.recv_many(&mut waiting, MAX_GROUP), if unanswered.len() < MAX_UNANSWERED => {
                    if n == 0 { break "this node is stopping" };
                    // Those who are just being read from their connections come along.
                    tokio::task::yield_now().await;
                    while waiting.len() < MAX_GROUP && let Ok(request) = self.requests.try_recv() {
                        waiting.push(request);
                    }
                    let mut lost = false;
                    for (request, repliers) in groups(waiting.drain(..)) {
                        next_id += 1;
                        let message = pb::ForwardRequest { id: next_id, request: Some(request) };
                        // Nothing else sends, and the channel holds more than one loop makes.
                        lost = lost || sender.send_timeout(message, OPEN_TIMEOUT).await.is_err();
                        if lost {
                            fail(repliers, &ForwardError::NotLeader);
                        } else {
                            unanswered.insert(next_id, repliers);
                        }
                    }
                    if lost { break "the connection to the leader was lost" }
                }
            }
        };
        // They were sent: whether they took effect, nobody here knows.
        for repliers in unanswered.into_values() {
            fail(repliers, &ForwardError::Unknown(ended.into()));
        }
        !self.stop.is_cancelled()
    }
}

/// What waits together, as messages: the commands in their order, and one question for all reads.
fn groups(waiting: impl Iterator<Item = Request>) -> Vec<(Asked, Vec<Replier>)> {
    let mut messages = Vec::new();
    let mut commands = pb::Commands::default();
    let mut callers = Vec::new();
    let mut bytes = 0;
    let mut readers = Vec::new();
    for Request { ask, reply } in waiting.filter(|request| !request.reply.is_closed()) {
        match ask {
            Ask::Command(command) => {
                bytes += command.len();
                commands.command.push(command);
                callers.push(reply);
                if bytes >= MAX_GROUP_BYTES {
                    let full = Asked::Commands(std::mem::take(&mut commands));
                    messages.push((full, std::mem::take(&mut callers)));
                    bytes = 0;
                }
            }
            Ask::ReadIndex => readers.push(reply),
            Ask::Membership(change) => messages.push((Asked::Membership(change), vec![reply])),
        }
    }
    if !callers.is_empty() {
        messages.push((Asked::Commands(commands), callers));
    }
    if !readers.is_empty() {
        messages.push((Asked::ReadIndex(true), readers));
    }
    messages
}

fn fail(repliers: Vec<Replier>, error: &ForwardError) {
    for reply in repliers {
        let _ = reply.send(Err(error.clone()));
    }
}

/// Tells each caller its part of a response. Who does not wait any more does not matter.
fn tell(response: pb::ForwardResponse, repliers: Vec<Replier>) {
    let outcome = match response.response {
        Some(Told::Answers(answers)) => {
            let mut answers = answers.answer.into_iter();
            for reply in repliers {
                let _ = reply.send(read_answer(answers.next().and_then(|answer| answer.answered)));
            }
            return;
        }
        Some(Told::ReadIndex(index)) => {
            for reply in repliers {
                let _ = reply.send(Ok(Reply::ReadIndex(index)));
            }
            return;
        }
        Some(Told::MembershipDone(id)) => {
            for reply in repliers {
                let _ = reply.send(Ok(Reply::MembershipDone(id)));
            }
            return;
        }
        Some(Told::NotLeader(_)) => ForwardError::NotLeader,
        Some(Told::Unknown(cause)) => ForwardError::Unknown(cause),
        Some(Told::Refused(refused)) => refusal(refused),
        None => ForwardError::Unknown("the leader answered nothing".into()),
    };
    fail(repliers, &outcome);
}

fn read_answer(answered: Option<Answered>) -> Result<Reply, ForwardError> {
    match answered {
        Some(Answered::Applied(applied)) => match codec::decode_answer(&applied.answer) {
            Ok(answer) => Ok(Reply::Applied {
                answer,
                applied: Applied {
                    index: applied.log_index,
                    revision: applied.revision,
                },
            }),
            Err(error) => Err(ForwardError::Unknown(format!("the leader's answer is {error}"))),
        },
        Some(Answered::NotLeader(_)) => Err(ForwardError::NotLeader),
        Some(Answered::Unknown(cause)) => Err(ForwardError::Unknown(cause)),
        Some(Answered::Refused(refused)) => Err(refusal(refused)),
        None => Err(ForwardError::Unknown("the leader answered nothing".into())),
    }
}

fn refusal(refused: pb::Refused) -> ForwardError {
    ForwardError::Refused {
        kind: refused.kind,
        message: refused.message,
    }
}
