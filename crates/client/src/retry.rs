//! One call over many nodes: who may be asked again, where, and for how long.
//!
//! | an attempt ended in | an idempotent call | any other call |
//! | --- | --- | --- |
//! | no connection, NO_LEADER, NO_ROOM, OVERLOADED, STOPPING | the next node | the next node |
//! | a broken connection, no answer in time, OUTCOME_UNKNOWN | the next node | [`Error::OutcomeUnknown`] |
//! | any other error | that error | that error |
//!
//! The next node is asked at once; after each round over all nodes there is a pause, which grows and is drawn at random within
//! bounds, so that clients that lost a node together do not come back together. The caller's deadline ends it all.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::error::{Attempt, Error, Why, classify};
use crate::pool::Pool;

/// An attempt that may be repeated elsewhere waits no longer than this for one node: one that hangs must not eat the whole deadline.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pauses between rounds over all nodes.
const MIN_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// The node gives up this much before we do, so that its answer, which knows more, arrives.
const GRACE: Duration = Duration::from_millis(50);

/// Whether applying a call twice is the same as applying it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It applies nothing.
    Read,
    /// It is.
    Idempotent,
    /// It is not: repeated only if it was certainly not applied.
    Once,
}

/// What a call that failed knows.
#[derive(Debug)]
pub(crate) struct Failed {
    /// For the caller.
    pub(crate) error: Error,
    /// Whether any attempt may have been applied, whatever the last one said.
    pub(crate) perhaps_applied: bool,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

/// Sends `request` by `send` until a node answers, or `deadline`.
pub(crate) async fn call<M, R, Fut>(
    pool: &Pool,
    repeat: Repeat,
    deadline: Instant,
    request: M,
    send: impl Fn(Channel, Request<M>) -> Fut,
) -> Result<R, Failed>
where
    M: Clone,
    Fut: Future<Output = Result<Response<R>, Status>>,
{
    let started = Instant::now();
    let mut pauses = pauses();
    let mut node = pool.preferred();
    let mut tried = 0_usize;
    let mut perhaps_applied = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let attempt = match repeat {
            Repeat::Read | Repeat::Idempotent => left.min(ATTEMPT_TIMEOUT),
            Repeat::Once => left,
        };
        let last = match once(pool, node, attempt, request.clone(), &send).await {
            Ok(answer) => return Ok(answer),
            Err(Attempt::Final(error)) => {
                return Err(Failed {
                    error,
                    perhaps_applied,
                });
            }
            Err(Attempt::Unknown(message)) => {
                perhaps_applied = repeat != Repeat::Read;
                pool.drop_connection(node);
                let message = format!("{}: {message}", pool.address(node));
                if repeat == Repeat::Once {
                    pool.move_on(node);
                    let error = Error::OutcomeUnknown {
                        waited: started.elapsed(),
                        message,
                    };
                    return Err(Failed {
                        error,
                        perhaps_applied,
                    });
                }
                Last::Unknown(message)
            }
            Err(Attempt::NotApplied(why)) => Last::NotApplied(why),
        };
        tried += 1;
        node = pool.move_on(node);
        let pause = if tried.is_multiple_of(pool.len()) {
            pauses.next().unwrap_or(MAX_PAUSE)
        } else {
            Duration::ZERO
        };
        if Instant::now() + pause >= deadline {
            let error = last.into_error(pool.len().min(tried), started.elapsed(), perhaps_applied);
            return Err(Failed {
                error,
                perhaps_applied,
            });
        }
        tokio::time::sleep(pause).await;
    }
}

/// The pauses between rounds: they grow, with jitter, and never end.
pub(crate) fn pauses() -> impl Iterator<Item = Duration> + Send + Unpin {
    ExponentialBuilder::default()
        .with_min_delay(MIN_PAUSE)
        .with_max_delay(MAX_PAUSE)
        .with_jitter()
        .without_max_times()
        .build()
}

async fn once<M, R, Fut>(
    pool: &Pool,
    node: usize,
    timeout: Duration,
    request: M,
    send: impl Fn(Channel, Request<M>) -> Fut,
) -> Result<R, Attempt>
where
    Fut: Future<Output = Result<Response<R>, Status>>,
{
    let until = Instant::now() + timeout;
    let channel = match tokio::time::timeout_at(until, pool.channel(node)).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(message)) => return Err(Attempt::NotApplied(Why::Connect(message.to_string()))),
        Err(_) => {
            return Err(Attempt::NotApplied(Why::Connect(
                "not connected in time".to_owned(),
            )));
        }
    };
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Attempt::NotApplied(Why::Connect(
            "no time left to send".to_owned(),
        )));
    }
    let mut request = Request::new(request);
    request.set_timeout(if left > 4 * GRACE { left - GRACE } else { left });
    match tokio::time::timeout_at(until, send(channel, request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(classify(status)),
        Err(_) => Err(Attempt::Unknown(format!("no answer within {timeout:?}"))),
    }
}

/// How the last attempt failed.
enum Last {
    NotApplied(Why),
    Unknown(String),
}

impl Last {
    fn into_error(self, endpoints: usize, waited: Duration, perhaps_applied: bool) -> Error {
        match self {
            Self::Unknown(message) if perhaps_applied => Error::OutcomeUnknown { waited, message },
            Self::Unknown(message) => Error::Unreachable {
                endpoints,
                waited,
                message,
            },
            // The last attempt was not applied, but one before it may have been.
            Self::NotApplied(why) if perhaps_applied => Error::OutcomeUnknown {
                waited,
                message: why.into_error(endpoints, waited).to_string(),
            },
            Self::NotApplied(why) => why.into_error(endpoints, waited),
        }
    }
}
