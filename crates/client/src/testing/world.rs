//! The state of a cluster that is one machine, and its clock.

use std::time::Duration;

use brama_core::command::{Batch, Bootstrap, ClusterId, Command};
use brama_core::event_log::KeptEvent;
use brama_core::limits::{Limits, MAX_FIRE};
use brama_core::policy::{GlobalOptions, Policy};
use brama_core::reply::Reply;
use brama_core::{ClusterTime, Machine, Refusal};
use parking_lot::Mutex;
use tokio::sync::watch;

/// The only term that there is.
const TERM: u64 = 1;
/// When it begins: some time after 1970, so that nothing is zero by accident.
const BEGIN: ClusterTime = ClusterTime::from_micros(1_700_000_000_000_000);

/// The real state machine, without a log and without other nodes.
#[derive(Debug)]
pub(super) struct World {
    state: Mutex<State>,
    /// The newest revision.
    revision: watch::Sender<u64>,
    /// Whether clients get answers.
    in_reach: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    machine: Machine,
    now: ClusterTime,
}

impl World {
    pub(super) fn new(cluster: ClusterId) -> Self {
        let world = Self {
            state: Mutex::new(State {
                machine: Machine::new(),
                now: BEGIN,
            }),
            revision: watch::Sender::new(0),
            in_reach: watch::Sender::new(true),
        };
        let bootstrap = Command::Bootstrap(Bootstrap {
            cluster_id: cluster,
            defaults: Policy::default(),
            global_defaults: GlobalOptions::default(),
            limits: Limits::default(),
        });
        // It cannot be refused.
        let _ = world.apply(bootstrap);
        world
    }

    /// Applies a command now. The newest revision after it comes with the reply.
    pub(super) fn apply(&self, command: Command) -> Result<(Reply, u64), Refusal> {
        let mut state = self.state.lock();
        let reply = state.apply(command)?;
        let revision = state.machine.revision();
        drop(state);
        self.revision.send_replace(revision);
        Ok((reply, revision))
    }

    /// Lets the clock run, and fires what gets due on the way, each at its time.
    pub(super) fn advance(&self, by: Duration) {
        let mut state = self.state.lock();
        let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        let until = ClusterTime::from_micros(state.now.as_micros().saturating_add(micros));
        state.run_until(until);
        let revision = state.machine.revision();
        drop(state);
        self.revision.send_replace(revision);
    }

    pub(super) fn now(&self) -> ClusterTime {
        self.state.lock().now
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&Machine) -> T) -> T {
        read(&self.state.lock().machine)
    }

    pub(super) fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub(super) fn in_reach(&self) -> watch::Receiver<bool> {
        self.in_reach.subscribe()
    }

    pub(super) fn set_in_reach(&self, is: bool) {
        self.in_reach.send_replace(is);
    }

    /// Events after a revision; at most some hundreds.
    pub(super) fn events_after(&self, revision: u64) -> Vec<KeptEvent> {
        self.read(|machine| machine.events_after(revision, 256).unwrap_or_default())
    }
}

impl State {
    fn apply(&mut self, command: Command) -> Result<Reply, Refusal> {
        let batch = Batch {
            time: self.now,
            commands: vec![command],
        };
        let answer = self.machine.apply(TERM, &batch).pop();
        answer.unwrap_or(Ok(Reply::Done))
    }

    fn run_until(&mut self, until: ClusterTime) {
        while let Some(at) = self.machine.next_due().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            let due = self.machine.due(self.now, MAX_FIRE);
            if due.is_empty() {
                break;
            }
            let _ = self.apply(Command::Fire { term: TERM, due });
        }
        self.now = until;
        let batch = Batch {
            time: until,
            commands: Vec::new(),
        };
        self.machine.apply(TERM, &batch);
    }
}
