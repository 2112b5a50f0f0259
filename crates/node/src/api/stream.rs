//! `ReportStream`: many batches, answered in order.

use std::collections::VecDeque;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use tokio::time::Instant;
use tonic::{Status, Streaming};
use tonic_types::StatusExt as _;

use brama_core::Command;
use brama_core::reply::Reply;
use brama_proto::{convert, v1};
use v1::report_stream_response::Result as Answer;

use super::{Api, DEFAULT_DEADLINE, check_size, errors, unexpected};

/// Batches of one stream that may be unanswered; beyond it the client's messages wait in its connection.
const MAX_IN_FLIGHT: usize = 512;
/// Batches that travel together.
const MAX_GROUP: usize = 128;

struct Answering {
    api: Api,
    requests: Streaming<v1::ReportRequest>,
    /// In the order in which they came, which is the order in which they are answered.
    working: VecDeque<Group>,
    /// Batches in `working`.
    in_flight: usize,
    answered: VecDeque<v1::ReportStreamResponse>,
    /// Set when nothing more is taken: how the stream ends once everything that was taken is answered.
    ending: Option<Result<(), Status>>,
}

struct Group {
    batches: usize,
    answers: BoxFuture<'static, Vec<v1::ReportStreamResponse>>,
}

/// One answer a batch, in order. A refused batch is answered with its error, and the stream goes on.
pub(super) fn answer_reports(
    api: Api,
    requests: Streaming<v1::ReportRequest>,
) -> impl Stream<Item = Result<v1::ReportStreamResponse, Status>> + Send {
    let state = Answering {
        api,
        requests,
        working: VecDeque::new(),
        in_flight: 0,
        answered: VecDeque::new(),
        ending: None,
    };
    futures::stream::unfold(state, |mut state| async move {
        let next = state.next().await?;
        Some((next, state))
    })
}

impl Answering {
    async fn next(&mut self) -> Option<Result<v1::ReportStreamResponse, Status>> {
        loop {
            if let Some(answer) = self.answered.pop_front() {
                return Some(Ok(answer));
            }
            if self.working.is_empty() {
                match self.ending.take() {
                    None => {}
                    Some(Ok(())) => return None,
                    Some(Err(status)) => {
                        self.ending = Some(Ok(()));
                        return Some(Err(status));
                    }
                }
            }
            let takes_more = self.ending.is_none();
            let room = self.in_flight < MAX_IN_FLIGHT;
            let oldest = async {
                match self.working.front_mut() {
                    Some(group) => (&mut group.answers).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                answers = oldest => {
                    if let Some(done) = self.working.pop_front() {
                        self.in_flight -= done.batches;
                    }
                    self.answered.extend(answers);
                }
                () = self.api.end_streams.cancelled(), if takes_more => {
                    self.ending = Some(Err(errors::resume_elsewhere()));
                }
                request = self.requests.message(), if takes_more && room => {
                    let group = self.gather(request);
                    self.begin(group);
                }
            }
        }
    }

    /// The batches that are here already, up to some number.
    fn gather(&mut self, first: Result<Option<v1::ReportRequest>, Status>) -> Vec<v1::ReportRequest> {
        let mut group = Vec::new();
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Ok(Some(request)) => group.push(request),
                Ok(None) => self.ending = Some(Ok(())),
                Err(status) => self.ending = Some(Err(status)),
            }
            if self.ending.is_some() || group.len() >= MAX_GROUP {
                break;
            }
            next = self.requests.message().now_or_never();
        }
        group
    }

    fn begin(&mut self, group: Vec<v1::ReportRequest>) {
        if group.is_empty() {
            return;
        }
        let batches = group.len();
        let mut answers = answer_all(self.api.clone(), group).boxed();
        // Its first step queues the commands: batches keep their order.
        let answers = match (&mut answers).now_or_never() {
            Some(ready) => futures::future::ready(ready).boxed(),
            None => answers,
        };
        self.in_flight += batches;
        self.working.push_back(Group { batches, answers });
    }
}

async fn answer_all(api: Api, group: Vec<v1::ReportRequest>) -> Vec<v1::ReportStreamResponse> {
    let mut commands = Vec::with_capacity(group.len());
    // A batch that is refused here has its error; the others get their answer below.
    let waiting: Vec<_> = group
        .into_iter()
        .map(|request| {
            let sequence = request.session.as_ref().map_or(0, |session| session.sequence);
            let read = read(request).map(|command| commands.push(command));
            (sequence, read)
        })
        .collect();
    let deadline = Instant::now() + DEFAULT_DEADLINE;
    let mut outcomes = api.replica.propose_all(commands, deadline).await.into_iter();
    let answers = waiting.into_iter().map(|(sequence, read)| {
        let answer = read.and_then(|()| match outcomes.next() {
            Some(Ok((Reply::Reported(reply), applied))) => Ok(api.reported(&reply, applied.revision)),
            Some(Ok((reply, _))) => Err(unexpected(&reply)),
            Some(Err(error)) => Err(errors::propose(error)),
            None => Err(Status::internal("a batch got no answer")),
        });
        v1::ReportStreamResponse {
            sequence,
            result: Some(answer.map_or_else(|status| Answer::Error(shown(&api, &status)), Answer::Response)),
        }
    });
    answers.collect()
}

fn read(request: v1::ReportRequest) -> Result<Command, Status> {
    check_size(&request)?;
    convert::report(request).map_err(errors::refusal)
}

fn shown(api: &Api, status: &Status) -> v1::ReportError {
    let info = status.get_details_error_info();
    let reason = info.map(|info| info.reason).unwrap_or_default();
    api.requests.refused(&reason);
    v1::ReportError {
        code: status.code().into(),
        reason,
        message: status.message().to_owned(),
    }
}
