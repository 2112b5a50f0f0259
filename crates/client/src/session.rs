//! Exactly-once reports: one session, one batch in flight.
//!
//! The cluster remembers each session's newest sequence number and its reply. So a batch whose answer got lost is sent again, as it was and
//! under its number, through whatever node, until some node answers: it is counted once, and the answer is the first one.
//!
//! Two things end that promise, and the caller is told of both. The cluster forgets a session after 10 idle minutes; a batch that was sent
//! before and is still not answered by then has an unknown outcome. And a process that ends takes its unsent batch with it.

use std::sync::Arc;
use std::time::Duration;

use brama_core::limits::SESSION_IDLE_MS;
use brama_core::reply::BatchReply;
use brama_proto::v1;
use brama_proto::v1::circuits_client::CircuitsClient;
use tokio::time::Instant;

use crate::error::Error;
use crate::pool::Pool;
use crate::report::{Item, merge};
use crate::retry::{self, Repeat};
use crate::wire;

/// A batch that may have been applied is not repeated for longer than this after it was first sent. A session's first batch would begin the session
/// anew, and count twice, once the cluster has forgotten it; a minute is left for the last attempt to arrive.
const REPEAT_FOR: Duration = Duration::from_millis(SESSION_IDLE_MS - 120_000);

/// Why a batch was not acknowledged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// No answer within the deadline. The batch is kept; the next [`report`](Reporter::report) or [`flush`](Reporter::flush) sends it again first, and it
    /// counts exactly once.
    #[error("the batch is still to be acknowledged, and will be sent again")]
    Pending(#[source] Error),
    /// The cluster refused the batch. Nothing of it was applied, and it is not kept.
    #[error("the batch was refused")]
    Refused(#[source] Error),
    /// The batch was sent, and whether it was applied can no longer be found out: the cluster has forgotten the session. It is not kept; a new
    /// session has begun.
    #[error("whether the batch was applied is unknown")]
    OutcomeUnknown(#[source] Error),
    /// The batch *before* this one ended so, or is still pending. The items of this call were not taken.
    #[error("an earlier batch stands in the way, nothing of this one was taken")]
    NotTaken {
        /// The items of this call.
        items: Vec<Item>,
        /// What became of the batch before.
        #[source]
        earlier: Box<ReportError>,
    },
}

/// A session: batches that count exactly once. Made by [`Client::session`](crate::Client::session).
///
/// Dropping the future of a call keeps its batch pending, as when the deadline passes.
#[derive(Debug)]
pub struct Reporter {
    pool: Arc<Pool>,
    timeout: Duration,
    id: u128,
    /// Of the pending batch, or of the next one.
    sequence: u64,
    pending: Option<Pending>,
}

/// A batch that is to be acknowledged.
#[derive(Debug)]
struct Pending {
    items: Vec<v1::ReportItem>,
    /// For each item that the caller gave, which of `items` it went into.
    places: Vec<usize>,
    first_sent: Instant,
    perhaps_applied: bool,
}

impl Reporter {
    pub(crate) fn new(pool: Arc<Pool>, timeout: Duration) -> Self {
        Self {
            pool,
            timeout,
            id: rand::random(),
            sequence: 1,
            pending: None,
        }
    }

    /// Sends the outcomes, and waits for the acknowledgement until the client's timeout. Items of one circuit are merged where that
    /// changes nothing. At most 1,000 items may remain.
    ///
    /// The reply has one entry for each given item, in their order: the circuit as the batch's merged item left it.
    ///
    /// # Errors
    /// [`ReportError`]; only with [`Pending`](ReportError::Pending) the items are kept for a later attempt.
    pub async fn report(&mut self, items: Vec<Item>) -> Result<BatchReply, ReportError> {
        if let Err(earlier) = self.flush().await {
            return Err(ReportError::NotTaken {
                items,
                earlier: Box::new(earlier),
            });
        }
        for item in &items {
            item.check()
                .map_err(|refusal| ReportError::Refused(refusal.into()))?;
        }
        let (merged, places) = merge(items);
        let items = merged.iter().map(wire::to_item).collect();
        self.pending = Some(Pending {
            items,
            places,
            first_sent: Instant::now(),
            perhaps_applied: false,
        });
        self.send_pending().await
    }

    /// Sends the pending batch again, if there is one; `None` if there is none.
    ///
    /// # Errors
    /// As [`Reporter::report`].
    pub async fn flush(&mut self) -> Result<Option<BatchReply>, ReportError> {
        match self.pending {
            Some(_) => self.send_pending().await.map(Some),
            None => Ok(None),
        }
    }

    /// Whether a batch waits to be acknowledged.
    pub fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    async fn send_pending(&mut self) -> Result<BatchReply, ReportError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let session = v1::Session {
                id: self.id.to_be_bytes().to_vec(),
                sequence: self.sequence,
            };
            let Some(pending) = &mut self.pending else {
                return Ok(BatchReply {
                    revision: 0,
                    items: Vec::new(),
                });
            };
            let before = pending.perhaps_applied;
            if before && pending.first_sent.elapsed() > REPEAT_FOR {
                let message = format!(
                    "not acknowledged for {REPEAT_FOR:?}, the cluster may have forgotten the session"
                );
                return Err(self.give_up(Error::SessionExpired { message }));
            }
            if !before {
                pending.first_sent = Instant::now();
            }
            // Whoever drops this future from here on leaves a batch behind that may have been sent.
            pending.perhaps_applied = true;
            let request = v1::ReportRequest {
                session: Some(session),
                items: pending.items.clone(),
            };
            let answer = retry::call(
                &self.pool,
                Repeat::Idempotent,
                deadline,
                request,
                |channel, request| async move { CircuitsClient::new(channel).report(request).await },
            )
            .await;
            let failed = match answer {
                Ok(answer) => return self.acknowledged(answer),
                Err(failed) => failed,
            };
            pending.perhaps_applied = before || failed.perhaps_applied;
            match failed.error {
                error if is_passing(&error) => return Err(ReportError::Pending(error)),
                error if pending.perhaps_applied => return Err(self.give_up(error)),
                // Idle for too long; the batch itself was never applied, so that it can open the next session.
                Error::SessionExpired { .. } if self.sequence > 1 => self.begin_anew(),
                error => {
                    self.pending = None;
                    return Err(ReportError::Refused(error));
                }
            }
        }
    }

    fn acknowledged(&mut self, answer: v1::ReportResponse) -> Result<BatchReply, ReportError> {
        self.sequence += 1;
        let places = self
            .pending
            .take()
            .map(|pending| pending.places)
            .unwrap_or_default();
        let reply = wire::batch_reply(answer).map_err(ReportError::OutcomeUnknown)?;
        let items = places
            .iter()
            .map(|&place| reply.items.get(place).copied())
            .collect::<Option<Vec<_>>>();
        let items =
            items.ok_or_else(|| ReportError::OutcomeUnknown(Error::protocol("an answer for each item")))?;
        Ok(BatchReply {
            revision: reply.revision,
            items,
        })
    }

    fn give_up(&mut self, error: Error) -> ReportError {
        self.pending = None;
        self.begin_anew();
        ReportError::OutcomeUnknown(error)
    }

    /// A new session, so that no late copy of an older batch can take a number of a newer one.
    fn begin_anew(&mut self) {
        self.id = rand::random();
        self.sequence = 1;
    }
}

/// Whether a later attempt can succeed as it is.
fn is_passing(error: &Error) -> bool {
    match error {
        Error::NoLeader { .. }
        | Error::Overloaded { .. }
        | Error::OutcomeUnknown { .. }
        | Error::Unreachable { .. } => true,
        Error::LimitReached { limit, .. } => limit == "TOO_MANY_SESSIONS",
        _ => false,
    }
}
