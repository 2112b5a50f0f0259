//! One subscriber to all events, that resumes with its cursor wherever it can.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use brama_proto::v1;
use brama_proto::v1::subscribe_request::From as Start;
use brama_proto::v1::subscribe_response::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::cluster::status;
use crate::findings::Findings;
use crate::ledger::{Ledger, Seen};
use crate::rpc::{self, Nodes};

/// The nodes of a run say something at least each half second; after this, one is taken for paused.
const SILENCE: Duration = Duration::from_secs(2);
/// A lazy one stays away for so long.
const AWAY: Duration = Duration::from_secs(6);
const PAUSE: Duration = Duration::from_millis(50);
/// How often a subscriber that lost its node goes to another one.
const ELSEWHERE: f64 = 0.3;

/// A subscriber of everything, from the oldest event on.
#[derive(Debug)]
pub struct Subscriber {
    id: u32,
    /// Position of the node that it prefers.
    home: usize,
    nodes: Nodes,
    /// Where the nodes are, if that changes.
    addresses: Option<watch::Receiver<Vec<SocketAddr>>>,
    ledger: Arc<Ledger>,
    rng: StdRng,
    cursor: Option<String>,
    /// It hangs up after a while and stays away, so that it falls behind.
    lazy: bool,
}

impl Subscriber {
    /// A subscriber that prefers the node at position `home`. The connections must be its own: a stream that is
    /// not read must not hold up others.
    pub fn new(id: u32, home: usize, nodes: Nodes, ledger: Arc<Ledger>, seed: u64) -> Self {
        Self {
            id,
            home,
            nodes,
            addresses: None,
            ledger,
            rng: StdRng::seed_from_u64(seed ^ 0x5ab5_c71b ^ u64::from(id)),
            cursor: None,
            lazy: false,
        }
    }

    /// Makes it hang up again and again, and stay away for some seconds each time.
    #[must_use]
    pub fn lazy(mut self) -> Self {
        self.lazy = true;
        self
    }

    /// Tells it of nodes that come later.
    #[must_use]
    pub fn that_learns_of(mut self, addresses: watch::Receiver<Vec<SocketAddr>>) -> Self {
        self.addresses = Some(addresses);
        self
    }

    /// Subscribes until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            let mut node = self.home;
            loop {
                self.follow(node).await;
                self.ledger.reconnected(self.id);
                let pause = if self.lazy { AWAY } else { PAUSE };
                tokio::time::sleep(pause).await;
                self.learn();
                node = if self.rng.random_bool(ELSEWHERE) {
                    self.rng.random_range(0..self.nodes.len())
                } else {
                    self.home
                };
            }
        })
        .await;
    }

    fn learn(&mut self) {
        let Some(addresses) = &mut self.addresses else {
            return;
        };
        if addresses.has_changed().unwrap_or(false) {
            let addresses = addresses.borrow_and_update().clone();
            match Nodes::new(addresses) {
                Ok(nodes) => self.nodes = nodes,
                Err(error) => self
                    .ledger
                    .broken("G7", format!("an address that is none: {error:#}")),
            }
        }
    }

    /// Takes what comes from one node until it ends.
    async fn follow(&mut self, node: usize) {
        let from = match &self.cursor {
            Some(cursor) => Start::After(cursor.clone()),
            None => Start::Oldest(true),
        };
        let request = v1::SubscribeRequest {
            from: Some(from),
            ..Default::default()
        };
        let mut client = self.nodes.events(node);
        let mut stream = match tokio::time::timeout(SILENCE, client.subscribe(request)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return self.refused(&status),
            Err(_) => return,
        };
        let hang_up = tokio::time::Instant::now() + Duration::from_secs(1);
        while !self.lazy || tokio::time::Instant::now() < hang_up {
            match tokio::time::timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(response))) => self.take(response),
                Ok(Err(status)) => return self.refused(&status),
                Ok(Ok(None)) | Err(_) => return,
            }
        }
    }

    fn take(&mut self, response: v1::SubscribeResponse) {
        self.cursor = Some(response.cursor);
        match response.message {
            Some(Message::Event(event)) => self.ledger.deliver(self.id, event),
            Some(Message::Progress(progress)) => self.ledger.progress(self.id, progress.revision),
            None => self
                .ledger
                .broken("G7", format!("subscriber {} got an empty message", self.id)),
        }
    }

    fn refused(&mut self, status: &tonic::Status) {
        let reason = rpc::reason(status);
        match (status.code(), reason.as_deref()) {
            (Code::OutOfRange, Some("EVENTS_COMPACTED")) => self.fall_behind(status),
            // Nothing about the request is wrong, so no node may say so.
            (Code::InvalidArgument | Code::OutOfRange | Code::NotFound | Code::Internal, _) => {
                let what = format!("subscriber {} was told: {status:?}", self.id);
                self.ledger.broken("G7", what);
            }
            _ => {}
        }
    }

    fn fall_behind(&mut self, status: &tonic::Status) {
        let oldest = rpc::detail(status, "oldest_cursor");
        let Some(revision) = oldest.as_deref().and_then(revision_of) else {
            let what = format!(
                "subscriber {} was told of compaction without a cursor: {status:?}",
                self.id
            );
            return self.ledger.broken("G7", what);
        };
        self.ledger.compacted(self.id, revision + 1);
        self.cursor = oldest;
    }
}

/// Reads everything again from the oldest event on, from each of these nodes: what was ever shown must still be there, unchanged.
///
/// The newest `kept` of them must be there. Subscribers that only ever go on would not notice if a restarted node had other events before their cursor.
pub async fn reread(
    nodes: &Nodes,
    positions: impl Iterator<Item = usize>,
    ledger: &Ledger,
    kept: u64,
) -> Findings {
    let mut findings = Findings::default();
    let events = ledger.events();
    for position in positions {
        if let Err(problem) = reread_one(nodes, position, &events, kept, &mut findings).await {
            findings.broken(
                "G8",
                format!("node {} cannot be read again: {problem}", position + 1),
            );
        }
    }
    findings
}

async fn reread_one(
    nodes: &Nodes,
    position: usize,
    events: &BTreeMap<u64, Seen>,
    kept: u64,
    findings: &mut Findings,
) -> Result<(), tonic::Status> {
    let request = v1::SubscribeRequest {
        from: Some(Start::Oldest(true)),
        ..Default::default()
    };
    let mut stream = nodes.events(position).subscribe(request).await?.into_inner();
    let newest = events.keys().next_back().copied().unwrap_or(0);
    let mut next = 1;
    // Also a node that says again and again that there is nothing new is silent.
    let mut silent = tokio::time::Instant::now() + SILENCE;
    while next <= newest {
        let response = match tokio::time::timeout_at(silent, stream.message()).await {
            Ok(response) => response?,
            Err(_) => {
                return Err(tonic::Status::deadline_exceeded(format!(
                    "nothing comes after {next}"
                )));
            }
        };
        match response.and_then(|response| response.message) {
            Some(Message::Event(event)) => {
                if next == 1 && event.revision > 1 {
                    // Some of the node's events may be newer than those that were seen.
                    let of_node = status(nodes, position).await;
                    let of_node = of_node.and_then(|status| Some(status.header?.revision));
                    let has_enough = |newest: u64| event.revision.saturating_add(kept) <= newest + 1;
                    if of_node.is_some_and(has_enough) {
                        next = event.revision;
                    }
                }
                let shown = events.get(&next).map(|seen| &seen.event);
                findings.require(shown == Some(&event), "G8", || {
                    format!("revision {next} was {shown:?} when it was first seen, and is {event:?} now")
                });
                next += 1;
                silent = tokio::time::Instant::now() + SILENCE;
            }
            Some(Message::Progress(_)) => {}
            None => return Err(tonic::Status::unavailable(format!("the stream ended at {next}"))),
        }
    }
    Ok(())
}

/// The revision after which a cursor resumes. Cursors are opaque to users; the harness looks into them, because only so it can tell an
/// honest gap from one that hides more than was compacted.
pub(crate) fn revision_of(cursor: &str) -> Option<u64> {
    u64::from_str_radix(cursor.get(34..50)?, 16).ok()
}
