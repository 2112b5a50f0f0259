//! What clients do all the time: they report, act by hand, probe and read, through whatever node, and try again where that is safe.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use brama_core::circuit::StateName;
use brama_core::command::{IfExists, PermitId, Register, ReportBatch, ReportItem, SessionStamp};
use brama_core::event::EventKind;
use brama_core::policy::{Expiry, Policy};
use brama_core::report::Outcome;
use brama_core::{CircuitName, Command, Metadata, Reply, Summary};
use brama_raft::{Applied, ProposeError, Replica};
use brama_simulation::{Batch, Broken, Manual, Position, Probe, Read};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::machine::Doors;
use crate::world::World;

/// Circuits whose counts are held against the reports; they are never unregistered.
pub(crate) const LEDGER: [&str; 3] = ["ledger-a", "ledger-b", "ledger-c"];
/// Circuits that come and go.
const CHURN: [&str; 2] = ["churn-x", "churn-y"];
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What the clients of a run share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) world: Arc<World>,
    pub(crate) doors: Doors,
    pub(crate) members: u64,
    pub(crate) policy: Policy,
    pub(crate) probe_timeout_ms: u64,
    /// They finish what they do, and end.
    pub(crate) stopping: Arc<AtomicBool>,
}

type Proposed = Result<(Reply, Applied), ProposeError>;

pub(crate) fn name(identifier: &str) -> CircuitName {
    CircuitName::new(None, identifier).unwrap()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Clients {
    fn is_over(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    async fn think(&self, least: u64, most: u64) {
        sleep(ms(self.world.draw(least..=most))).await;
    }

    fn some_node(&self) -> u64 {
        self.world.draw(1..=self.members)
    }

    /// Asks a node, which may answer, or not.
    pub(crate) async fn ask<T, F>(
        &self,
        node: u64,
        work: impl FnOnce(Replica) -> F + Send + 'static,
    ) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.think(0, 3).await;
        let (reply, answer) = oneshot::channel();
        let door = self.doors.lock().get(&node).cloned()?;
        let call = move |replica: Replica| -> brama_raft::environment::BoxFuture<()> {
            let work = work(replica);
            Box::pin(async move {
                // The client may be gone.
                let _ = reply.send(work.await);
            })
        };
        door.send(Box::new(call)).ok()?;
        let answer = timeout(PATIENCE, answer).await.ok()?.ok()?;
        self.think(0, 3).await;
        Some(answer)
    }

    pub(crate) async fn propose(&self, node: u64, command: Command) -> Option<Proposed> {
        self.ask(node, move |replica| async move {
            replica
                .propose(command, Instant::now() + Duration::from_secs(1))
                .await
        })
        .await
    }

    fn acknowledged(&self, invoked: u64, applied: Applied, what: String) {
        let ended = self.world.now();
        self.world.say(format!(
            "{what} of {invoked} ms: index {}, revision {}",
            applied.index, applied.revision
        ));
        self.world.history.lock().positions.push(Position {
            invoked,
            ended,
            index: applied.index,
            writes: true,
            what,
        });
    }

    /// Makes sure that a circuit is registered.
    pub(crate) async fn register(&self, circuit: &str) {
        let invoked = self.world.now();
        self.world
            .history
            .lock()
            .registered
            .push((circuit.into(), invoked));
        loop {
            let register = Command::Register(Register {
                name: name(circuit),
                policy: self.policy.clone(),
                metadata: Metadata::new(),
                if_exists: IfExists::Keep,
            });
            match self.propose(self.some_node(), register).await {
                Some(Ok((_, applied))) => {
                    return self.acknowledged(invoked, applied, format!("register {circuit}"));
                }
                Some(Err(ProposeError::Refused(refusal))) => {
                    return self
                        .world
                        .breaks(Broken::new("register", format!("{circuit}: {refusal}")));
                }
                _ => self.think(20, 200).await,
            }
        }
    }

    /// Reports until it is answered. Each of the items is of another circuit.
    async fn report(&self, session: SessionStamp, items: Vec<ReportItem>, reason: &str) {
        let invoked = self.world.now();
        let at = {
            let mut history = self.world.history.lock();
            history.batches.push(Batch {
                reason: reason.to_owned(),
                invoked,
                items: items
                    .iter()
                    .map(|item| (item.name.identifier.to_string(), item.summary))
                    .collect(),
                done: None,
            });
            history.batches.len() - 1
        };
        let batch = ReportBatch {
            session: Some(session),
            items,
        };
        let what = format!("report {reason}");
        loop {
            match self
                .propose(self.some_node(), Command::Report(batch.clone()))
                .await
            {
                Some(Ok((Reply::Reported(reply), applied))) => {
                    self.world.history.lock().batches[at].done = Some(reply.revision);
                    return self.acknowledged(invoked, applied, what);
                }
                Some(Ok((other, _))) => {
                    return self.world.breaks(Broken::new("G3", format!("{what}: {other:?}")));
                }
                // A session that was begun is known, and none of its numbers was used but by this client.
                Some(Err(ProposeError::Refused(refusal))) => {
                    return self
                        .world
                        .breaks(Broken::new("G3/G8", format!("{what}: {refusal}")));
                }
                _ => self.think(10, 150).await,
            }
        }
    }

    /// Reports outcomes of its calls, in sessions.
    pub(crate) async fn reporter(self, client: u64) {
        let mut number = 0;
        while !self.is_over() {
            let id = self.world.draw_id();
            for sequence in 1..=self.world.draw(1..=60) {
                self.think(5, 120).await;
                if self.is_over() {
                    return;
                }
                number += 1;
                let reason = format!("batch-{client}-{number}");
                let first = self.world.draw(0..=2);
                let items = (0..self.world.draw(1..=2)).map(|n| {
                    let circuit = LEDGER[usize::try_from((first + n) % 3).unwrap()];
                    let outcomes = (0..self.world.draw(1..=4)).map(|_| {
                        if self.world.chance(45) {
                            Outcome::Failure
                        } else {
                            Outcome::Success
                        }
                    });
                    item(circuit, Summary::of_all(outcomes), &reason)
                });
                let items = items.collect();
                self.report(SessionStamp { id, sequence }, items, &reason).await;
            }
        }
    }

    /// Opens, closes and resets circuits, and lets some come and go.
    pub(crate) async fn operator(self, client: u64) {
        let mut number = 0;
        while !self.is_over() {
            self.think(30, 700).await;
            number += 1;
            let reason = format!("act-{client}-{number}");
            let circuit = match self.world.draw(0..=4) {
                at @ 0..=2 => LEDGER[usize::try_from(at).unwrap()],
                at => CHURN[usize::try_from(at - 3).unwrap()],
            };
            let churns = CHURN.contains(&circuit);
            let draw = self.world.draw(0..=12);
            if churns && draw < 4 {
                self.register_once(circuit).await;
                continue;
            }
            let (name, text) = (name(circuit), Some(Arc::from(reason.as_str())));
            let mut expiry_ms = None;
            let (kind, command) = match draw {
                _ if churns && draw < 6 => (
                    EventKind::ConnectionUnregistered,
                    Command::Unregister { name, reason: text },
                ),
                0..=5 | 10.. => {
                    expiry_ms = self.world.chance(50).then(|| self.world.draw(20..=1500));
                    let expiry = expiry_ms.map(Expiry::Ms);
                    let open = Command::Open {
                        name,
                        expiry,
                        reason: text,
                    };
                    (EventKind::CircuitOpened, open)
                }
                6 | 7 => (EventKind::CircuitClosed, Command::Close { name, reason: text }),
                _ => (EventKind::CircuitReset, Command::Reset { name, reason: text }),
            };
            let invoked = self.world.now();
            let at = {
                let mut history = self.world.history.lock();
                history.manual.push(Manual {
                    reason: reason.clone(),
                    kind,
                    circuit: circuit.into(),
                    expiry_ms,
                    invoked,
                    done: None,
                    refused: false,
                });
                history.manual.len() - 1
            };
            // Only once: it would be done twice.
            match self.propose(self.some_node(), command).await {
                Some(Ok((_, applied))) => {
                    self.world.history.lock().manual[at].done = Some(applied.revision);
                    self.acknowledged(invoked, applied, format!("{} {circuit} {reason}", kind.name()));
                }
                Some(Err(ProposeError::Unknown { .. })) | None => {}
                Some(Err(_)) => self.world.history.lock().manual[at].refused = true,
            }
        }
    }

    async fn register_once(&self, circuit: &str) {
        let invoked = self.world.now();
        self.world
            .history
            .lock()
            .registered
            .push((circuit.into(), invoked));
        let register = Command::Register(Register {
            name: name(circuit),
            policy: self.policy.clone(),
            metadata: Metadata::new(),
            if_exists: IfExists::Keep,
        });
        if let Some(Ok((_, applied))) = self.propose(self.some_node(), register).await {
            self.acknowledged(invoked, applied, format!("register {circuit}"));
        }
    }

    /// Probes what is half-open, and tells what came of it, or not.
    pub(crate) async fn prober(self, client: u64) {
        let id = self.world.draw_id();
        let mut sequence = 0;
        while !self.is_over() {
            self.think(5, 60).await;
            let circuit = *self.world.pick(&LEDGER);
            let look = self
                .ask(self.some_node(), move |replica| async move {
                    replica.read(|machine| machine.status(&name(circuit)).map(|status| status.state))
                })
                .await;
            if look.flatten() != Some(StateName::HalfOpen) {
                continue;
            }
            let permit = PermitId(self.world.draw_id());
            let invoked = self.world.now();
            let at = {
                let mut history = self.world.history.lock();
                history.probes.push(Probe {
                    circuit: circuit.into(),
                    permit: permit.0,
                    invoked,
                    granted: None,
                    reported: None,
                });
                history.probes.len() - 1
            };
            let mut granted = None;
            for _ in 0..4 {
                let acquire = Command::Acquire {
                    name: name(circuit),
                    permit,
                };
                match self.propose(self.some_node(), acquire).await {
                    Some(Ok((Reply::Admission(admission), applied))) => {
                        granted = admission.permit.map(|_| admission.generation);
                        let what = format!("acquire {circuit} by {client}, granted in {granted:?}");
                        self.acknowledged(invoked, applied, what);
                        break;
                    }
                    _ => self.think(5, 60).await,
                }
            }
            let Some(generation) = granted else { continue };
            self.world.history.lock().probes[at].granted = Some((self.world.now(), generation));
            self.think(1, self.probe_timeout_ms + self.probe_timeout_ms / 2)
                .await;
            if self.world.chance(15) {
                continue;
            }
            sequence += 1;
            let reason = format!("probe-{client}-{sequence}");
            let outcome = if self.world.chance(40) {
                Outcome::Failure
            } else {
                Outcome::Success
            };
            let item = ReportItem {
                generation: Some(generation),
                permit: Some(permit),
                ..item(circuit, Summary::of(outcome), &reason)
            };
            self.world.history.lock().probes[at].reported = Some(self.world.now());
            self.report(SessionStamp { id, sequence }, vec![item], &reason)
                .await;
        }
    }

    /// Reads through any node, and wants all that was acknowledged before.
    pub(crate) async fn reader(self) {
        while !self.is_over() {
            self.think(10, 150).await;
            self.read(self.some_node()).await;
        }
    }

    /// One linearizable read; whether there was an answer.
    pub(crate) async fn read(&self, node: u64) -> bool {
        let invoked = self.world.now();
        let read = self
            .ask(node, move |replica| async move {
                let deadline = Instant::now() + Duration::from_secs(1);
                replica.linearize(deadline).await.ok()?;
                // The state may go on between these two.
                let (index, _) = replica.state_hash();
                Some(replica.read(|machine| {
                    let totals: BTreeMap<_, _> = LEDGER
                        .iter()
                        .filter_map(|circuit| {
                            Some(((*circuit).to_owned(), machine.status(&name(circuit))?.totals))
                        })
                        .collect();
                    (index, machine.revision(), totals)
                }))
            })
            .await;
        let Some((index, revision, totals)) = read.flatten() else {
            return false;
        };
        let ended = self.world.now();
        let what = format!("read through {node}");
        self.world.say(format!(
            "{what} of {invoked} ms: index {index}, revision {revision}"
        ));
        let mut history = self.world.history.lock();
        history.positions.push(Position {
            invoked,
            ended,
            index,
            writes: false,
            what,
        });
        history.reads.push(Read {
            invoked,
            revision,
            totals,
        });
        true
    }
}

fn item(circuit: &str, summary: Summary, reason: &str) -> ReportItem {
    ReportItem {
        name: name(circuit),
        generation: None,
        permit: None,
        summary,
        reason: Some(Arc::from(reason)),
        metadata: Metadata::new(),
    }
}
