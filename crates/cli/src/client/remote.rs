//! The way to the cluster: several nodes, each of which can answer everything.
//!
//! A command asks the first node that answers. Whether it may ask the next one after an error depends on what it asks: a question, or a
//! change that can be made twice, always may; any other change only if it is certain that nothing was done. Otherwise the command ends with
//! "outcome unknown", and a person decides.

use std::error::Error;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::errors::{explain, not_done, unreachable};
use crate::exit::Failure;

/// A node on the same continent connects in much less.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// The node gets the same deadline as this process has; it is waited for a little longer, because its answer says more.
const GRACE: Duration = Duration::from_millis(250);
/// How long a node that hangs holds up a question before the next node is asked, at least.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two rounds over all nodes.
const PAUSE: Duration = Duration::from_millis(250);
/// HTTP/2 pings, so that a stream from a node that is gone without a word is noticed.
const PING_EVERY: Duration = Duration::from_secs(5);
/// A page of circuits with all their metadata is the largest answer.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// Where to ask, for how long, and how to print the answer.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection and output")]
pub(crate) struct Remote {
    /// Nodes to ask, in this order; one that answers is enough
    #[arg(
        long,
        env = "BRAMA_ENDPOINTS",
        value_name = "HOST:PORT,..",
        value_delimiter = ',',
        default_value = "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403"
    )]
    pub(crate) endpoints: Vec<String>,
    /// How long to wait for the answer
    #[arg(long, env = "BRAMA_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = timeout)]
    pub(crate) timeout: Duration,
    /// Print JSON with the field names of the protocol, one object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whether a call may be made again when nobody knows what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// A question, or a change that can be made twice.
    Always,
    /// A change that counts each time.
    IfNotDone,
}

/// An answer that has not come, and why.
pub(crate) type Miss = (String, String);

impl Remote {
    /// Makes one call, at the first node that answers it.
    pub(crate) async fn call<Q, R, F, A>(&self, repeat: Repeat, message: Q, send: F) -> Result<R, Failure>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> A,
        A: Future<Output = Result<Response<R>, Status>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut misses: Vec<Miss> = Vec::new();
        let mut last = None;
        for (position, endpoint) in self.endpoints.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let channel = match connect(endpoint, CONNECT_WITHIN.min(left)).await {
                Ok(channel) => channel,
                Err(problem) => {
                    misses.push((endpoint.clone(), problem));
                    continue;
                }
            };
            let others = self.endpoints.len() - position - 1;
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = match repeat {
                Repeat::Always => share(left, others),
                Repeat::IfNotDone => left,
            };
            let mut request = Request::new(message.clone());
            request.set_timeout(limit);
            let status = match tokio::time::timeout(limit + GRACE, send(channel, request)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer came in time"),
            };
            if !may_ask_the_next(repeat, &status) {
                return Err(explain(&status, repeat));
            }
            misses.push((endpoint.clone(), status.message().to_owned()));
            last = Some(status);
        }
        Err(match last {
            Some(status) => explain(&status, repeat),
            None => unreachable(&misses),
        })
    }

    /// Opens a stream at the first node that takes it. `patient`: goes on trying until the timeout, because it was open before.
    pub(crate) async fn open<R, F, A>(&self, patient: bool, send: F) -> Result<R, Failure>
    where
        F: Fn(Channel) -> A,
        A: Future<Output = Result<Response<R>, Status>>,
    {
        let deadline = Instant::now() + self.timeout;
        loop {
            let mut misses: Vec<Miss> = Vec::new();
            for (position, endpoint) in self.endpoints.iter().enumerate() {
                let attempt = async {
                    let channel = connect(endpoint, CONNECT_WITHIN)
                        .await
                        .map_err(Status::unavailable)?;
                    send(channel).await
                };
                let left = deadline.saturating_duration_since(Instant::now());
                let status = match tokio::time::timeout(
                    share(left, self.endpoints.len() - position - 1).max(PATIENCE),
                    attempt,
                )
                .await
                {
                    Ok(Ok(response)) => return Ok(response.into_inner()),
                    Ok(Err(status)) => status,
                    Err(_) => Status::deadline_exceeded("no answer came in time"),
                };
                if !may_ask_the_next(Repeat::Always, &status) {
                    return Err(explain(&status, Repeat::Always));
                }
                misses.push((endpoint.clone(), status.message().to_owned()));
            }
            if !patient || Instant::now() >= deadline {
                return Err(unreachable(&misses));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks one node only.
    pub(crate) async fn call_at<Q, R, F, A>(&self, endpoint: &str, message: Q, send: F) -> Result<R, String>
    where
        F: FnOnce(Channel, Request<Q>) -> A,
        A: Future<Output = Result<Response<R>, Status>>,
    {
        let channel = connect(endpoint, CONNECT_WITHIN.min(self.timeout)).await?;
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        match tokio::time::timeout(self.timeout + GRACE, send(channel, request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err("no answer came in time".to_owned()),
        }
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    let expected = "expected a time such as 500ms, 5s or 1m, at most 60s";
    match humantime::parse_duration(text) {
        Ok(length) if !length.is_zero() && length <= Duration::from_secs(60) => Ok(length),
        _ => Err(expected.to_owned()),
    }
}

async fn connect(endpoint: &str, within: Duration) -> Result<Channel, String> {
    let target = Endpoint::from_shared(format!("http://{}", endpoint.trim()))
        .map_err(|_| "is not host:port".to_owned())?
        .connect_timeout(within)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .keep_alive_while_idle(true);
    // `connect_timeout` covers TCP only; a process that is stopped still has its connections accepted by the kernel.
    match tokio::time::timeout(within + GRACE, target.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(deepest(&error)),
        Err(_) => Err("cannot be connected to in time".to_owned()),
    }
}

/// The cause at the bottom: "connection refused" says more than "transport error".
fn deepest(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    match cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        _ => cause.to_string(),
    }
}

fn share(left: Duration, others: usize) -> Duration {
    let parts = u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
    (left / parts).max(PATIENCE.min(left))
}

fn may_ask_the_next(repeat: Repeat, status: &Status) -> bool {
    use tonic::Code::{Cancelled, DeadlineExceeded, Unavailable, Unknown};
    // A connection that breaks in the middle is `Unknown` or `Unavailable`, one that is too slow `Cancelled` or `DeadlineExceeded`.
    let lost = matches!(
        status.code(),
        Cancelled | DeadlineExceeded | Unavailable | Unknown
    );
    not_done(status) || (lost && repeat == Repeat::Always)
}

/// A typed client on a channel, that takes answers as large as they can get.
macro_rules! client {
    ($module:ident :: $client:ident, $channel:expr) => {
        brama_proto::v1::$module::$client::new($channel)
            .max_decoding_message_size($crate::client::remote::MAX_MESSAGE_BYTES)
    };
}
pub(crate) use client;
