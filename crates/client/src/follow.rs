//! The task that keeps a client's circuits as the cluster has them.
//!
//! It has one watch, of all circuits in use. When there are new ones it opens another, of all, and drops the first when the second has told
//! everything; when a watch breaks it opens one at the next node. Each begins with a picture, so nothing has to be remembered in between. What two nodes
//! tell may overlap: a circuit never goes back (see [`Local::learn`]).

use std::sync::Arc;
use std::time::Duration;

use brama_core::query::CircuitStatus;
use brama_core::{CircuitName, ClusterTime};
use brama_proto::v1;
use brama_proto::v1::events_client::EventsClient;
use brama_proto::v1::watch_response::Message;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::error::{Attempt, Why, classify};
use crate::local::hub::Hub;
use crate::local::{Clock, Local};
use crate::pool::Pool;
use crate::registry::Registry;
use crate::retry::pauses;
use crate::wire;

/// Circuits that a program begins to use together are asked for together.
const GATHER: Duration = Duration::from_millis(2);
/// Names in one watch. Who uses more watches all that there are.
const MAX_NAMES: usize = brama_core::limits::MAX_REPORT_ITEMS;
/// A page of a snapshot is larger than tonic's default of 4 MiB if its circuits have all the texts that they may have.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// A node without a quorum may be alone on its side of a partition: after this long another one is asked.
const QUORUM_PATIENCE: Duration = Duration::from_millis(500);

/// What the task works with.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) pool: Arc<Pool>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) unreachable_after: Duration,
}

type Opening = BoxFuture<'static, Result<Opened, Why>>;

struct Following {
    with: Follower,
    node: usize,
    pauses: Box<dyn Iterator<Item = Duration> + Send>,
    tried: usize,
    current: Option<Stream>,
    opening: Option<Opening>,
    /// When to open the next watch; `None`: no need.
    open_at: Option<Instant>,
    /// When a node that a majority follows last spoke, or could have.
    heard: Instant,
    /// The current watch is of a node that has a quorum.
    is_well: bool,
    /// Whose circuits are known; empty: nobody has told yet.
    cluster: String,
}

struct Stream {
    node: usize,
    messages: Streaming<v1::WatchResponse>,
}

/// A watch that has told everything.
struct Opened {
    stream: Stream,
    asked_for: Vec<Arc<Local>>,
    circuits: Vec<CircuitStatus>,
    revision: u64,
    cluster: String,
    time: ClusterTime,
    /// Events that came before the node said whether it has a quorum.
    early: Vec<v1::Event>,
}

impl Follower {
    /// Follows until `end`.
    pub(crate) async fn run(self, end: CancellationToken) {
        let following = Following {
            node: self.pool.preferred(),
            pauses: Box::new(pauses()),
            tried: 0,
            current: None,
            opening: None,
            open_at: (self.registry.len() > 0).then(Instant::now),
            heard: Instant::now(),
            is_well: false,
            cluster: String::new(),
            with: self,
        };
        tokio::select! {
            () = end.cancelled() => {}
            () = following.run() => {}
        }
    }
}

impl Following {
    async fn run(mut self) {
        let registry = self.with.registry.clone();
        loop {
            let is_alone = self.with.hub.reach.is_degraded();
            let degrade_at = (!self.is_well && !is_alone).then(|| self.heard + self.with.unreachable_after);
            let open_at = self.open_at.filter(|_| self.opening.is_none());
            let opened = async {
                match &mut self.opening {
                    Some(opening) => opening.await,
                    None => std::future::pending().await,
                }
            };
            let message = async {
                match &mut self.current {
                    Some(stream) => stream.messages.message().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                result = opened => {
                    self.opening = None;
                    self.opened(result);
                }
                () = registry.grown.notified() => self.refresh(GATHER),
                () = at(open_at) => {
                    self.open_at = None;
                    self.opening = Some(self.open());
                }
                () = at(degrade_at) => self.degrade(),
                // Last: there may be many.
                message = message => self.message(message),
            }
        }
    }

    /// The next watch is opened within `wait`.
    fn refresh(&mut self, wait: Duration) {
        let at = Instant::now() + wait;
        self.open_at = Some(self.open_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn opened(&mut self, result: Result<Opened, Why>) {
        let opened = match result {
            Ok(opened) => opened,
            Err(why) => {
                tracing::debug!(node = %self.with.pool.address(self.node), ?why, "no watch");
                return self.try_next();
            }
        };
        (self.tried, self.pauses) = (0, Box::new(pauses()));
        self.is_well = true;
        if self.cluster != opened.cluster {
            if !self.cluster.is_empty() {
                // Somebody made it anew under the same addresses: nothing that is known is older or newer than what it says.
                tracing::warn!(before = %self.cluster, now = %opened.cluster, "another cluster answers");
                self.with.hub.forget();
                self.with.registry.all().iter().for_each(|local| local.forget());
            }
            self.cluster.clone_from(&opened.cluster);
        }
        let clock = self.hear(opened.time);
        self.with.hub.reach.connected();
        let registry = &self.with.registry;
        for status in &opened.circuits {
            if let Some(local) = registry.get(&status.name) {
                local.learn(status, &clock);
            }
        }
        let told: hashbrown::HashSet<&CircuitName, rustc_hash::FxBuildHasher> =
            opened.circuits.iter().map(|status| &status.name).collect();
        for local in &opened.asked_for {
            if !told.contains(local.name()) {
                local.learn_missing(opened.revision);
            }
        }
        self.with.hub.saw(opened.revision);
        self.current = Some(opened.stream);
        for event in opened.early {
            self.event(event);
        }
    }

    /// After a failed attempt: the next node, at once in the first round.
    fn try_next(&mut self) {
        self.node = (self.node + 1) % self.with.pool.len();
        self.tried += 1;
        let pause = if self.tried.is_multiple_of(self.with.pool.len()) {
            self.pauses.next().unwrap_or(GATHER)
        } else {
            Duration::ZERO
        };
        self.refresh(pause);
    }

    fn message(&mut self, message: Result<Option<v1::WatchResponse>, tonic::Status>) {
        match message {
            Ok(Some(message)) => match message.message {
                Some(Message::Event(event)) => self.event(event),
                Some(Message::Progress(progress)) => self.progress(&progress),
                _ => {}
            },
            Ok(None) => self.lost("it ended"),
            Err(status) => self.lost(status.message()),
        }
    }

    fn event(&mut self, event: v1::Event) {
        let event = match wire::event(event) {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, "an event is not understood");
                return self.refresh(Duration::from_secs(1));
            }
        };
        let clock = self.hear(event.time);
        let Some(name) = &event.name else {
            // The global options: every circuit may have another policy.
            return self.refresh(GATHER);
        };
        let Some(local) = self.with.registry.get(name) else {
            return;
        };
        local.learn_event(&event, &clock);
        self.with.hub.saw(event.revision);
        if Local::needs_policy(&event) {
            self.refresh(GATHER);
        }
    }

    fn progress(&mut self, progress: &v1::Progress) {
        self.with.hub.saw(progress.revision);
        if progress.has_quorum {
            if let Some(time) = &progress.time {
                self.hear(brama_proto::convert::cluster_time(time));
            }
            if !self.is_well {
                // What it did not know meanwhile it tells now; a picture says that it is all.
                self.refresh(Duration::ZERO);
            }
        } else if self.is_well {
            self.is_well = false;
            self.refresh(QUORUM_PATIENCE);
        }
    }

    fn lost(&mut self, why: &str) {
        let node = self.current.take().map_or(self.node, |stream| stream.node);
        tracing::debug!(node = %self.with.pool.address(node), why, "a watch broke");
        self.is_well = false;
        // A peer that is silent is found out by pings: it was alive no later than before them.
        let found_out = ping_interval(self.with.unreachable_after) * 2;
        if let Some(earliest) = Instant::now().checked_sub(found_out) {
            self.heard = self.heard.max(earliest);
        }
        if self.node == node {
            self.node = (node + 1) % self.with.pool.len();
        }
        self.refresh(Duration::ZERO);
    }

    fn degrade(&self) {
        self.with.hub.reach.degraded();
        for local in self.with.registry.all() {
            local.go_alone();
        }
    }

    fn hear(&mut self, time: ClusterTime) -> Clock {
        self.heard = Instant::now();
        self.with.hub.reach.heard();
        self.with.hub.hear(time)
    }

    fn open(&self) -> Opening {
        let (pool, node) = (self.with.pool.clone(), self.node);
        let asked_for = self.with.registry.all();
        let ping = ping_interval(self.with.unreachable_after);
        let patience = self.with.unreachable_after.max(Duration::from_millis(200));
        async move {
            let opening = open(&pool, node, ping, asked_for);
            tokio::time::timeout(patience, opening)
                .await
                .unwrap_or_else(|_| Err(Why::Connect(format!("no picture within {patience:?}"))))
        }
        .boxed()
    }
}

/// A dead peer is noticed after two of them.
fn ping_interval(unreachable_after: Duration) -> Duration {
    (unreachable_after / 4).clamp(Duration::from_millis(50), Duration::from_secs(5))
}

async fn open(pool: &Pool, node: usize, ping: Duration, asked_for: Vec<Arc<Local>>) -> Result<Opened, Why> {
    let channel = pool.watch_channel(node, ping).await;
    let channel = channel.map_err(|message| Why::Connect(message.to_string()))?;
    let names = if asked_for.len() > MAX_NAMES {
        Vec::new()
    } else {
        asked_for.iter().map(|local| local.name().into()).collect()
    };
    let request = v1::WatchRequest {
        names,
        snapshot_only: false,
        changes_only: true,
    };
    let mut client = EventsClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut messages = client.watch(request).await.map_err(why)?.into_inner();
    let (mut circuits, mut early, mut synced) = (Vec::new(), Vec::new(), None);
    let not_understood = |error: crate::Error| Why::Elsewhere(error.to_string());
    while let Some(answer) = messages.message().await.map_err(why)? {
        match answer.message {
            Some(Message::Snapshot(part)) => {
                for circuit in part.circuits {
                    circuits.push(wire::circuit(circuit).map_err(not_understood)?);
                }
            }
            Some(Message::Synced(told)) => {
                let got = circuits.len() as u64;
                if told.circuits != got {
                    let said = told.circuits;
                    return Err(Why::Elsewhere(format!(
                        "a picture of {got} circuits that says it has {said}"
                    )));
                }
                synced = Some(told);
            }
            Some(Message::Event(event)) => early.push(event),
            // It says at once where it stands.
            Some(Message::Progress(progress)) => {
                let Some(synced) = synced else { continue };
                if !progress.has_quorum {
                    return Err(Why::NoLeader("the node has no quorum".to_owned()));
                }
                let time = wire::progress_time(&progress).map_err(not_understood)?;
                return Ok(Opened {
                    stream: Stream { node, messages },
                    asked_for,
                    circuits,
                    revision: synced.revision,
                    cluster: synced.cluster_id,
                    time,
                    early,
                });
            }
            None => {}
        }
    }
    Err(Why::Elsewhere("the watch ended before it began".to_owned()))
}

fn why(status: tonic::Status) -> Why {
    match classify(status) {
        Attempt::NotApplied(why) => why,
        Attempt::Unknown(message) => Why::Connect(message),
        Attempt::Final(error) => Why::Elsewhere(error.to_string()),
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
