//! Whether the cluster can be reached, and what holds while it cannot.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::broadcast;

/// Changes that a slow listener may be behind.
const EDGES: usize = 16;

/// What a client decides while the cluster is out of reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnUnreachable {
    /// A breaker of this client's own goes on from the state that was told last, with the same policy, by this process's monotonic clock. It
    /// shares nothing with other replicas: each has `half_open_max_probes` of its own.
    #[default]
    LocalBreaker,
    /// Every call passes.
    Allow,
    /// No call passes.
    Reject,
}

/// How a client stands to its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// No circuit is in use yet, or the cluster has not told of them yet.
    Connecting,
    /// A node that a majority follows tells what changes.
    Connected,
    /// No such node for longer than [`unreachable_after`](crate::ClientBuilder::unreachable_after): the client decides as
    /// [`OnUnreachable`] says.
    Degraded,
}

/// What [`Client::health`](crate::Client::health) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Which mode holds.
    pub mode: Mode,
    /// For how long it has.
    pub since: Duration,
    /// How long ago a node last said that what this client knows is what a majority knows; `None`: never. A healthy node says so every few
    /// seconds.
    pub staleness: Option<Duration>,
    /// The newest event of the cluster up to which this client knows everything about its circuits; 0: none yet.
    pub revision: u64,
}

/// The mode changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HealthEvent {
    /// The cluster is out of reach: from now on the client decides as [`OnUnreachable`] says.
    Degraded,
    /// The cluster has told the state of all circuits again.
    Recovered {
        /// How long the client was on its own.
        after: Duration,
    },
}

/// The mode, as all parts of a client see it.
#[derive(Debug)]
pub(crate) struct Reach {
    state: Mutex<State>,
    degraded: AtomicBool,
    edges: broadcast::Sender<HealthEvent>,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    since: Instant,
    heard: Option<Instant>,
}

impl Reach {
    pub(crate) fn new() -> Self {
        let state = State {
            mode: Mode::Connecting,
            since: Instant::now(),
            heard: None,
        };
        Self {
            state: Mutex::new(state),
            degraded: AtomicBool::new(false),
            edges: broadcast::Sender::new(EDGES),
        }
    }

    pub(crate) fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::Acquire)
    }

    pub(crate) fn health(&self, revision: u64) -> Health {
        let state = self.state.lock();
        Health {
            mode: state.mode,
            since: state.since.elapsed(),
            staleness: state.heard.map(|heard| heard.elapsed()),
            revision,
        }
    }

    pub(crate) fn edges(&self) -> broadcast::Receiver<HealthEvent> {
        self.edges.subscribe()
    }

    /// A node that a majority follows spoke.
    pub(crate) fn heard(&self) {
        self.state.lock().heard = Some(Instant::now());
    }

    pub(crate) fn connected(&self) {
        self.heard();
        if let Some(after) = self.enter(Mode::Connected) {
            tracing::info!(?after, "the cluster is in reach again");
            let _ = self.edges.send(HealthEvent::Recovered { after });
        }
    }

    pub(crate) fn degraded(&self) {
        if !self.is_degraded() {
            self.enter(Mode::Degraded);
            tracing::warn!("the cluster is out of reach");
            let _ = self.edges.send(HealthEvent::Degraded);
        }
    }

    /// How long it was degraded, if it was until now.
    fn enter(&self, mode: Mode) -> Option<Duration> {
        let mut state = self.state.lock();
        let was = state.mode;
        if was == mode {
            return None;
        }
        let lasted = state.since.elapsed();
        (state.mode, state.since) = (mode, Instant::now());
        self.degraded.store(mode == Mode::Degraded, Ordering::Release);
        #[cfg(feature = "metrics")]
        crate::figures::degraded(mode == Mode::Degraded);
        (was == Mode::Degraded).then_some(lasted)
    }
}
