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

use crate::failpoints::{self, Point};
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

impl ForwardError {
    fn stopping() -> Self {
        Self::Unknown("this node is stopping".into())
    }
}

/// Where a follower's requests go in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Forwarder {
    requests: mpsc::Sender<Request>,
}

type Replier<T> = oneshot::Sender<Result<T, ForwardError>>;
/// What became of a command.
type Outcome = Result<(Answer, Applied), ForwardError>;

/// What a caller wants of the leader, and where the answer goes.
pub(crate) enum Request {
    /// One outcome a command, in their order.
    Commands(Vec<Bytes>, oneshot::Sender<Vec<Outcome>>),
    ReadIndex(Replier<u64>),
    Membership(pb::MembershipChange, Replier<u64>),
}

impl Request {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Commands(_, reply) => reply.is_closed(),
            Self::ReadIndex(reply) | Self::Membership(_, reply) => reply.is_closed(),
        }
    }

    fn fail(self, error: &ForwardError) {
        match self {
            Self::Commands(commands, reply) => Waiting::Commands(vec![(commands.len(), reply)]),
            Self::ReadIndex(reply) | Self::Membership(_, reply) => Waiting::Number(vec![reply]),
        }
        .fail(error);
    }
}

impl Forwarder {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, waiting) = mpsc::channel(MAX_WAITING);
        (Self { requests }, waiting)
    }

    /// Requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.requests.max_capacity() - self.requests.capacity()
    }

    /// One outcome a command, in their order.
    pub(crate) async fn commands(&self, commands: Vec<Bytes>) -> Vec<Outcome> {
        let number = commands.len();
        let (reply, outcomes) = oneshot::channel();
        // A full queue: nothing was sent, the caller may try again until its deadline.
        if self
            .requests
            .try_send(Request::Commands(commands, reply))
            .is_err()
        {
            return vec![Err(ForwardError::NotLeader); number];
        }
        outcomes
            .await
            .unwrap_or_else(|_| vec![Err(ForwardError::stopping()); number])
    }

    pub(crate) async fn read_index(&self) -> Result<u64, ForwardError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::ReadIndex(reply), answer).await
    }

    pub(crate) async fn membership(&self, change: pb::MembershipChange) -> Result<u64, ForwardError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Membership(change, reply), answer).await
    }

    async fn ask(
        &self,
        request: Request,
        answer: oneshot::Receiver<Result<u64, ForwardError>>,
    ) -> Result<u64, ForwardError> {
        self.requests
            .try_send(request)
            .map_err(|_| ForwardError::NotLeader)?;
        answer.await.unwrap_or_else(|_| Err(ForwardError::stopping()))
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
                    Some(request) => request.fail(&ForwardError::NotLeader),
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
                request.fail(&ForwardError::NotLeader);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            return !self.stop.is_cancelled();
        };
        let mut responses = responses.into_inner();
        let mut unanswered = HashMap::<u64, Waiting>::new();
        let mut next_id = 0;
        let mut waiting = Vec::new();
        let ended = loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break "this node is stopping",
                _ = self.leader.changed() => break "the leader changed",
                response = responses.next() => match response {
                    Some(Ok(response)) => {
                        if let Some(waiting) = unanswered.remove(&response.id) {
                            waiting.tell(response);
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
                    for (request, callers) in messages(waiting.drain(..)) {
                        if matches!(request, Asked::Commands(_)) {
                            failpoints::pass(Point::ForwardBefore);
                        }
                        next_id += 1;
                        let message = pb::ForwardRequest { id: next_id, request: Some(request) };
                        // Nothing else sends, and the channel holds more than one loop makes.
                        lost = lost || sender.send_timeout(message, OPEN_TIMEOUT).await.is_err();
                        if lost {
                            callers.fail(&ForwardError::NotLeader);
                        } else {
                            unanswered.insert(next_id, callers);
                        }
                    }
                    if lost { break "the connection to the leader was lost" }
                }
            }
        };
        // They were sent: whether they took effect, nobody here knows.
        for callers in unanswered.into_values() {
            callers.fail(&ForwardError::Unknown(ended.into()));
        }
        !self.stop.is_cancelled()
    }
}

/// What waits together, as messages: the commands in their order, and one question for all reads.
fn messages(waiting: impl Iterator<Item = Request>) -> Vec<(Asked, Waiting)> {
    let mut messages = Vec::new();
    let mut commands = pb::Commands::default();
    let mut callers = Vec::new();
    let mut bytes = 0;
    let mut readers = Vec::new();
    for request in waiting.filter(|request| !request.is_abandoned()) {
        match request {
            Request::Commands(group, reply) => {
                bytes += group.iter().map(Bytes::len).sum::<usize>();
                callers.push((group.len(), reply));
                commands.command.extend(group);
                if bytes >= MAX_GROUP_BYTES {
                    let full = Asked::Commands(std::mem::take(&mut commands));
                    messages.push((full, Waiting::Commands(std::mem::take(&mut callers))));
                    bytes = 0;
                }
            }
            Request::ReadIndex(reply) => readers.push(reply),
            Request::Membership(change, reply) => {
                messages.push((Asked::Membership(change), Waiting::Number(vec![reply])));
            }
        }
    }
    if !callers.is_empty() {
        messages.push((Asked::Commands(commands), Waiting::Commands(callers)));
    }
    if !readers.is_empty() {
        messages.push((Asked::ReadIndex(true), Waiting::Number(readers)));
    }
    messages
}

/// Who waits for the answer to a message. Who does not wait any more does not matter.
enum Waiting {
    /// Each for so many of the message's commands.
    Commands(Vec<(usize, oneshot::Sender<Vec<Outcome>>)>),
    Number(Vec<Replier<u64>>),
}

impl Waiting {
    fn fail(self, error: &ForwardError) {
        match self {
            Self::Commands(callers) => {
                for (number, reply) in callers {
                    let _ = reply.send(vec![Err(error.clone()); number]);
                }
            }
            Self::Number(callers) => {
                for reply in callers {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// Tells each caller its part of a response.
    fn tell(self, response: pb::ForwardResponse) {
        match (self, response.response) {
            (Self::Commands(callers), Some(Told::Answers(answers))) => {
                failpoints::pass(Point::ForwardAfter);
                let mut answers = answers.answer.into_iter();
                for (number, reply) in callers {
                    let outcomes = (0..number).map(|_| read_answer(answers.next().and_then(|a| a.answered)));
                    let _ = reply.send(outcomes.collect());
                }
            }
            (Self::Number(callers), Some(Told::ReadIndex(number) | Told::MembershipDone(number))) => {
                for reply in callers {
                    let _ = reply.send(Ok(number));
                }
            }
            (callers, told) => callers.fail(&match told {
                Some(Told::NotLeader(_)) => ForwardError::NotLeader,
                Some(Told::Unknown(cause)) => ForwardError::Unknown(cause),
                Some(Told::Refused(refused)) => refusal(refused),
                _ => ForwardError::Unknown("the leader did not answer what it was asked".into()),
            }),
        }
    }
}

fn read_answer(answered: Option<Answered>) -> Outcome {
    match answered {
        Some(Answered::Applied(applied)) => match codec::decode_answer(&applied.answer) {
            Ok(answer) => Ok((
                answer,
                Applied {
                    index: applied.log_index,
                    revision: applied.revision,
                },
            )),
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
