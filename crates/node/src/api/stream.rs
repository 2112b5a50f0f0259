//! `ReportStream`: many batches, answered in order.

use std::collections::VecDeque;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use tokio::time::Instant;
use tonic::{Status, Streaming};
use tonic_types::StatusExt as _;

use brama_core::reply::Reply;
use brama_proto::{convert, v1};
use v1::report_stream_response::Result as Answer;

use super::{Api, DEFAULT_DEADLINE, check_size, errors, unexpected};

/// Batches of one stream that may be unanswered; beyond it the client's messages wait in its connection.
const MAX_IN_FLIGHT: usize = 256;

struct Answering {
    api: Api,
    requests: Streaming<v1::ReportRequest>,
    /// In the order in which they came, which is the order in which they are answered.
    working: VecDeque<BoxFuture<'static, v1::ReportStreamResponse>>,
    /// Set when nothing more is taken: how the stream ends once everything that was taken is answered.
    ending: Option<Result<(), Status>>,
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
        ending: None,
    };
    futures::stream::unfold(state, |mut state| async move {
        loop {
            if state.working.is_empty() {
                match state.ending.take() {
                    None => {}
                    Some(Ok(())) => return None,
                    Some(Err(status)) => {
                        state.ending = Some(Ok(()));
                        return Some((Err(status), state));
                    }
                }
            }
            let takes_more = state.ending.is_none();
            let room = state.working.len() < MAX_IN_FLIGHT;
            let oldest = async {
                match state.working.front_mut() {
                    Some(answer) => answer.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                answer = oldest => {
                    state.working.pop_front();
                    return Some((Ok(answer), state));
                }
                () = state.api.end_streams.cancelled(), if takes_more => {
                    state.ending = Some(Err(errors::resume_elsewhere()));
                }
                request = state.requests.message(), if takes_more && room => match request {
                    Ok(Some(request)) => {
                        let mut answer = answer_one(state.api.clone(), request).boxed();
                        // Its first step queues the command: batches keep their order.
                        match (&mut answer).now_or_never() {
                            Some(answer) => state.working.push_back(futures::future::ready(answer).boxed()),
                            None => state.working.push_back(answer),
                        }
                    }
                    Ok(None) => state.ending = Some(Ok(())),
                    Err(status) => state.ending = Some(Err(status)),
                },
            }
        }
    })
}

async fn answer_one(api: Api, request: v1::ReportRequest) -> v1::ReportStreamResponse {
    let sequence = request.session.as_ref().map_or(0, |session| session.sequence);
    let result = match answer(&api, request).await {
        Ok(response) => Answer::Response(response),
        Err(status) => Answer::Error(v1::ReportError {
            code: status.code().into(),
            reason: status
                .get_details_error_info()
                .map(|info| info.reason)
                .unwrap_or_default(),
            message: status.message().to_owned(),
        }),
    };
    v1::ReportStreamResponse {
        sequence,
        result: Some(result),
    }
}

async fn answer(api: &Api, request: v1::ReportRequest) -> Result<v1::ReportResponse, Status> {
    check_size(&request)?;
    match api
        .apply(convert::report(request), Instant::now() + DEFAULT_DEADLINE)
        .await?
    {
        (Reply::Reported(reply), revision) => Ok(api.reported(&reply, revision)),
        (reply, _) => Err(unexpected(&reply)),
    }
}
