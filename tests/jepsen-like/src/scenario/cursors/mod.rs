//! Subscribers resume where it is hard (row 19 of the matrix).
//!
//! [`ahead`]: on a node that is behind the cursor, because it was stopped or was just started, and that cannot catch up as long as the others are
//! stopped. It waits, and never says that anything is wrong; then everything after the cursor comes, and nothing else.
//!
//! [`race`]: with a cursor at the edge of a short event log that is cut all the time, on nodes that lag and restart. A subscriber is told that what it
//! asks for is gone if that is true, and only then.

mod ahead;
mod race;

use std::time::Duration;

use brama_proto::v1;
use brama_proto::v1::subscribe_request::From as Start;
use brama_proto::v1::subscribe_response::Message;
use tonic::Streaming;

use crate::findings::Findings;
use crate::rpc::Nodes;

/// The nodes of a scenario say something at least each half second.
const SILENCE: Duration = Duration::from_secs(3);

/// Both, and the race for so long.
///
/// # Errors
/// When it could not be done.
pub async fn cursors(racing: Duration, seed: u64) -> anyhow::Result<Findings> {
    let mut findings = ahead::ahead().await?;
    findings.merge(race::race(racing, seed).await?);
    Ok(findings)
}

/// Everything after a cursor.
pub(super) async fn subscribe(
    nodes: &Nodes,
    node: usize,
    after: &str,
) -> Result<Streaming<v1::SubscribeResponse>, tonic::Status> {
    let request = v1::SubscribeRequest {
        from: Some(Start::After(after.to_owned())),
        ..Default::default()
    };
    let answered = tokio::time::timeout(SILENCE, nodes.events(node).subscribe(request)).await;
    let late = |_| Err(tonic::Status::deadline_exceeded("no answer in time"));
    answered.unwrap_or_else(late).map(tonic::Response::into_inner)
}

/// A cursor at the newest event that a node knows, and its revision.
pub(super) async fn newest_cursor(nodes: &Nodes, node: usize) -> anyhow::Result<(String, u64)> {
    let request = v1::SubscribeRequest::default();
    let mut stream = nodes.events(node).subscribe(request).await?.into_inner();
    let first = tokio::time::timeout(SILENCE, stream.message()).await??;
    let first = first.ok_or_else(|| anyhow::anyhow!("the stream ended at once"))?;
    let revision = match &first.message {
        Some(Message::Event(event)) => event.revision,
        Some(Message::Progress(progress)) => progress.revision,
        None => anyhow::bail!("an empty message"),
    };
    Ok((first.cursor, revision))
}
