//! What the processes tell the director: JSON, one object a line, on their standard output.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

/// Microseconds since the Unix epoch. All processes share one machine, and so one clock.
pub(crate) type Micros = u64;

/// Now. For measuring only; nothing is decided by it.
pub(crate) fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Of the upstream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Listening {
    pub(crate) address: String,
}

/// A request that reached the upstream.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) replica: usize,
    pub(crate) arrived: Micros,
    pub(crate) answered: Micros,
    pub(crate) failed: bool,
}

/// Of a replica: what became of its calls so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Calls {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    /// The circuit said no.
    pub(crate) rejected: u64,
    /// The cluster could not be asked.
    pub(crate) unasked: u64,
    /// Not tried: too many calls were still waiting.
    pub(crate) skipped: u64,
    /// Reports that will never be acknowledged.
    pub(crate) lost_reports: u64,
}

/// Of a subscriber: what happened to the circuit, but for single successes and failures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) revision: u64,
    /// Cluster time.
    pub(crate) time: Micros,
    pub(crate) kind: String,
    pub(crate) cause: String,
    pub(crate) failure_count: u32,
    pub(crate) reason: Option<String>,
    pub(crate) expires_at: Option<Micros>,
}

/// Tells the director. False: nobody listens any more.
pub(crate) fn tell(line: &impl Serialize) -> bool {
    let Ok(text) = serde_json::to_string(line) else {
        return false;
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
}

/// Completes when the director is gone, or closes this process's standard input to end it.
pub(crate) async fn director_is_gone() {
    let mut input = tokio::io::stdin();
    let mut buffer = [0; 64];
    while matches!(input.read(&mut buffer).await, Ok(n) if n > 0) {}
}
