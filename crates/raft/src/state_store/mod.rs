//! The replicated state of this node: what is applied, and its snapshots.
//!
//! The state lives in memory. After a restart it is the newest snapshot, and openraft applies the log from there to what was known to be
//! committed. A snapshot is built from a frozen copy of the state (O(1) to take), written by a thread of its own while applies go on:
//! to a temporary file, fsync, rename, fsync of the folder. Only then does openraft hear of it and purge the log that it covers.

mod snapshot_file;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use brama_core::Machine;
use brama_core::command::ClusterId;

use crate::agreement::{Contents, History};
use crate::clock::ClusterClock;
use crate::environment::Environment;
use crate::failpoints::{self, Point};
use crate::figures::StateStats;
use crate::status::Applied;
use crate::types::{Answers, LogId, Member, SnapshotMeta, StoredMembership, TypeConfig};

pub use snapshot_file::SnapshotFileError;
pub(crate) use snapshot_file::{IncomingSnapshot, SnapshotFile};

/// While there is no room for a snapshot, it is tried again so often.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// A snapshot, as openraft hands it around.
pub(crate) type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// A log of so many bytes, and as long as the snapshot, calls for a new one, if its number of entries did not before: an entry may hold
/// thousands of commands, and a restart has to read the one and apply the other.
const LOG_BYTES: u64 = 16 * 1024 * 1024;
/// An apply that takes longer while a snapshot is built counts as held up by it.
const HELD_UP: Duration = Duration::from_millis(20);
/// An apply that takes longer is logged with its cost.
const SLOW_APPLY: Duration = Duration::from_millis(50);

/// What a snapshot says of itself, before the state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotHead {
    pub(crate) meta: SnapshotMeta,
    /// Every node id that was ever a member: none is used twice.
    pub(crate) ever_members: BTreeSet<u64>,
}

/// The state, shared between the task that applies and everybody who reads. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SharedState {
    inner: Arc<RwLock<Inner>>,
    applied: watch::Sender<Applied>,
    /// How many snapshots have replaced the state since the start.
    installed: watch::Sender<u64>,
    contents: Contents,
    stats: Arc<StateStats>,
    /// Bytes of the entries that were applied since a snapshot was begun: what a restart would have to apply again.
    log_bytes: Arc<AtomicU64>,
}

/// See [`SharedState::standing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Voter or learner.
    Member(Member),
    /// It was one, and its id is never used again.
    Removed,
    /// It never was, as far as is applied here.
    Unknown,
}

struct Inner {
    machine: Machine,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    ever_members: BTreeSet<u64>,
    history: History,
}

impl Inner {
    /// An entry was applied.
    fn reach(&mut self, log_id: LogId) {
        self.last_applied = Some(log_id);
        self.history.enter(log_id.index, self.machine.state_hash());
    }
}

impl SharedState {
    /// Reads the state; applies wait for `f`.
    pub(crate) fn read<T>(&self, f: impl FnOnce(&Machine) -> T) -> T {
        f(&self.inner.read().machine)
    }

    /// Whether so much of the log was applied since the last snapshot that the next one shall not wait for its number of entries: once
    /// for each time that it is.
    pub(crate) fn wants_snapshot(&self) -> bool {
        let much = self.stats.snapshot_bytes.load(Relaxed).max(LOG_BYTES);
        let is_much = |bytes: u64| (bytes >= much).then_some(0);
        self.log_bytes.fetch_update(Relaxed, Relaxed, is_much).is_ok()
    }

    /// Follows how far the state is.
    pub(crate) fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// What applying and snapshots cost.
    pub(crate) fn stats(&self) -> &StateStats {
        &self.stats
    }

    /// The newest applied log index, and the rolling hash of the state after it.
    pub(crate) fn hash(&self) -> (u64, u64) {
        let inner = self.inner.read();
        (
            inner.last_applied.map_or(0, |log_id| log_id.index),
            inner.machine.state_hash(),
        )
    }

    /// The rolling hash after the entry at `index`, if that is applied and not long ago.
    pub(crate) fn hash_at(&self, index: u64) -> Option<u64> {
        self.inner.read().history.at(index)
    }

    /// Hashes of the whole state.
    pub(crate) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Changes when a snapshot has replaced the state.
    pub(crate) fn installed(&self) -> watch::Receiver<u64> {
        self.installed.subscribe()
    }

    /// What the applied log says of this node id. One look: of two, an entry may be applied between them.
    pub(crate) fn standing(&self, id: u64) -> Standing {
        let inner = self.inner.read();
        match inner.membership.membership().get_node(&id) {
            Some(member) => Standing::Member(member.clone()),
            None if inner.ever_members.contains(&id) => Standing::Removed,
            None => Standing::Unknown,
        }
    }

    /// The membership of the newest applied membership entry.
    pub(crate) fn membership(&self) -> StoredMembership {
        self.inner.read().membership.clone()
    }

    /// A copy of the state that does not change, and what it says of itself. O(1).
    fn freeze(&self) -> (SnapshotHead, brama_core::snapshot::Frozen) {
        let inner = self.inner.read();
        let head = SnapshotHead {
            meta: SnapshotMeta {
                last_log_id: inner.last_applied,
                last_membership: inner.membership.clone(),
            },
            ever_members: inner.ever_members.clone(),
        };
        (head, inner.machine.freeze())
    }

    fn publish(&self) {
        let inner = self.inner.read();
        let index = inner.last_applied.map_or(0, |log_id| log_id.index);
        let now = Applied {
            index,
            revision: inner.machine.revision(),
        };
        drop(inner);
        self.applied.send_if_modified(|applied| {
            let changed = *applied != now;
            *applied = now;
            changed
        });
    }
}

/// openraft's view of the state.
pub(crate) struct StateStore {
    folder: PathBuf,
    shared: SharedState,
    clock: ClusterClock,
    beside: Arc<Beside>,
    current: Option<(SnapshotMeta, SnapshotFile)>,
    /// Nobody waits for room on the disk any more.
    stop: CancellationToken,
    environment: Arc<dyn Environment>,
    newest: watch::Receiver<Option<(SnapshotMeta, SnapshotFile)>>,
    publish_newest: watch::Sender<Option<(SnapshotMeta, SnapshotFile)>>,
}

/// What applies cost while a snapshot is being built, so that its log line tells whether it held them up.
#[derive(Default)]
struct Beside {
    building: AtomicBool,
    applies: AtomicU64,
    /// Of them, those that took longer than [`HELD_UP`].
    held_up: AtomicU64,
    slowest_us: AtomicU64,
}

impl Beside {
    fn begin(&self) {
        self.applies.store(0, Relaxed);
        self.held_up.store(0, Relaxed);
        self.slowest_us.store(0, Relaxed);
        self.building.store(true, Relaxed);
    }

    fn applied(&self, took: Duration) {
        if self.building.load(Relaxed) {
            let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.applies.fetch_add(1, Relaxed);
            self.held_up.fetch_add(u64::from(took > HELD_UP), Relaxed);
            self.slowest_us.fetch_max(us, Relaxed);
        }
    }
}

impl StateStore {
    /// Reads the newest snapshot in `folder`, if there is one. Blocking.
    ///
    /// # Errors
    /// When a snapshot is there but cannot be read, or is damaged: the log it covers is gone, so nothing else could stand for it.
    pub(crate) fn open(
        folder: PathBuf,
        clock: ClusterClock,
        contents: Contents,
        stop: CancellationToken,
        environment: Arc<dyn Environment>,
    ) -> Result<Self, SnapshotFileError> {
        let mut inner = Inner {
            machine: Machine::new(),
            last_applied: None,
            membership: StoredMembership::default(),
            ever_members: BTreeSet::new(),
            history: History::default(),
        };
        let mut current = None;
        if let Some(file) = snapshot_file::newest(&folder)? {
            let (head, frozen) = file.load()?;
            file.check_name(head.meta.last_log_id)?;
            inner = Inner {
                machine: Machine::thaw(frozen),
                last_applied: head.meta.last_log_id,
                membership: head.meta.last_membership.clone(),
                ever_members: head.ever_members,
                history: History::default(),
            };
            if let Some(log_id) = inner.last_applied {
                inner.reach(log_id);
            }
            clock.applied(inner.machine.time());
            current = Some((head.meta, file));
        }
        let (applied, _) = watch::channel(Applied::default());
        let shared = SharedState {
            inner: Arc::new(RwLock::new(inner)),
            applied,
            installed: watch::Sender::new(0),
            contents,
            stats: Arc::default(),
            log_bytes: Arc::default(),
        };
        let bytes = current.as_ref().map_or(0, |(_, file)| file.bytes());
        shared.stats.snapshot_bytes.store(bytes, Relaxed);
        shared.publish();
        let (publish_newest, newest) = watch::channel(None);
        Ok(Self {
            folder,
            shared,
            clock,
            beside: Arc::default(),
            current,
            stop,
            environment,
            newest,
            publish_newest,
        })
    }

    /// Whether the snapshot is the one that goes with this log and this cluster.
    ///
    /// # Errors
    /// When it does not cover what was `purged` from the log, because it was lost or is an older one, or when it is another cluster's.
    pub(crate) fn check(
        &self,
        purged: Option<LogId>,
        cluster: Option<ClusterId>,
    ) -> Result<(), SnapshotFileError> {
        let inner = self.shared.inner.read();
        if purged > inner.last_applied {
            return Err(SnapshotFileError::Missing {
                path: self.folder.clone(),
                purged: purged.map_or(0, |purged| purged.index),
                found: inner.last_applied.map(|last| last.index),
            });
        }
        let found = inner.machine.cluster_id();
        if let (Some((_, file)), Some(cluster), Some(found)) = (&self.current, cluster, found)
            && cluster != found
        {
            return Err(file.damaged(format!(
                "it is of cluster {found}, and this node belongs to {cluster}"
            )));
        }
        Ok(())
    }

    pub(crate) fn shared(&self) -> SharedState {
        self.shared.clone()
    }

    /// The newest snapshot: one that a builder finished since, or the one that is known already.
    fn current(&mut self) -> Option<(SnapshotMeta, SnapshotFile)> {
        if let Some(built) = self.newest.borrow_and_update().clone()
            && self
                .current
                .as_ref()
                .is_none_or(|(meta, _)| meta.last_log_id < built.0.last_log_id)
        {
            self.current = Some(built);
        }
        self.current.clone()
    }

    fn apply_one(&self, (entry, responder): EntryResponder<TypeConfig>) -> io::Result<()> {
        failpoints::pass(Point::ApplyBefore);
        let started = Instant::now();
        let term = entry.log_id.leader_id.term;
        let mut answers = Answers::default();
        let mut events = 0;
        match entry.payload {
            EntryPayload::Blank => self.shared.inner.write().reach(entry.log_id),
            EntryPayload::Normal(payload) => {
                let bytes = payload.0.len() as u64;
                self.shared.log_bytes.fetch_add(bytes, Relaxed);
                let mut inner = self.shared.inner.write();
                let (before, seen) = (inner.machine.time(), inner.machine.revision());
                let applied = inner.machine.apply_entry(term, &payload.0);
                // An entry that cannot be read was committed by a majority; to skip it would be to diverge from them.
                answers.answers = applied.map_err(|error| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("log entry {} is {error}", entry.log_id),
                    )
                })?;
                answers.revision = inner.machine.revision();
                events = answers.revision - seen;
                inner.reach(entry.log_id);
                // Only the leader's timers can be late: elsewhere an entry is as late as it comes.
                if responder.is_some() {
                    self.note_lateness(&inner.machine);
                }
                let time = inner.machine.time();
                let contents = &self.shared.contents;
                let wanted = contents.is_position(before, time) && contents.takes();
                let frozen = wanted.then(|| inner.machine.freeze());
                drop(inner);
                if let Some(frozen) = frozen {
                    contents.offer(entry.log_id.index, frozen);
                }
                self.clock.applied(time);
                let commands = answers.answers.len() as u64;
                self.shared.stats.entry_commands.observe(commands);
            }
            EntryPayload::Membership(membership) => {
                let mut inner = self.shared.inner.write();
                inner.ever_members.extend(membership.nodes().map(|(id, _)| *id));
                inner.membership = StoredMembership::new(Some(entry.log_id), membership);
                inner.reach(entry.log_id);
            }
        }
        let took = started.elapsed();
        self.shared.stats.apply_micros.observe_micros(took);
        self.beside.applied(took);
        if took > SLOW_APPLY {
            self.shared.stats.slow_applies.fetch_add(1, Relaxed);
            tracing::warn!(
                took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                index = entry.log_id.index,
                commands = answers.answers.len(),
                events,
                "applying a log entry took long: reports and reads of this node waited for it; is the machine overloaded, or out of memory?"
            );
        }
        failpoints::pass(Point::ApplyAfter);
        if let Some(responder) = responder {
            // Whoever gets the answer may look at the state at once, also through another call on this node.
            self.shared.publish();
            responder.send(answers);
        }
        Ok(())
    }

    fn note_lateness(&self, machine: &Machine) {
        let met = machine.deadlines_met();
        if !met.is_empty() {
            let now = self.clock.now();
            for deadline in met {
                self.shared
                    .stats
                    .timer_micros
                    .observe_micros(now.since(*deadline));
            }
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateStore {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let inner = self.shared.inner.read();
        Ok((inner.last_applied, inner.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            self.apply_one(entry?)?;
        }
        self.shared.publish();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.beside.begin();
        self.shared.log_bytes.store(0, Relaxed);
        SnapshotBuilder {
            folder: self.folder.clone(),
            beside: self.beside.clone(),
            state: Some(self.shared.freeze()),
            shared: self.shared.clone(),
            stop: self.stop.clone(),
            environment: self.environment.clone(),
            publish_newest: self.publish_newest.clone(),
            stats: self.shared.stats.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        failpoints::pass(Point::InstallBefore);
        let mut attempts = 0;
        let (file, head, mut machine, took) = loop {
            let started = Instant::now();
            let (folder, snapshot) = (self.folder.clone(), snapshot.clone());
            let kept = self.environment.blocking(move || {
                let (head, frozen) = snapshot.load()?;
                #[cfg(feature = "mutants")]
                let frozen = without_newest_event(frozen);
                let file = snapshot.keep(&folder, head.meta.last_log_id)?;
                Ok::<_, SnapshotFileError>((file, head, Machine::thaw(frozen)))
            });
            match kept.await.map_err(io::Error::other)? {
                Ok((file, head, machine)) => break (file, head, machine, started.elapsed()),
                Err(error) => wait_for_room(error, &mut attempts, &self.stop).await?,
            }
        };
        if head.meta != *meta {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a snapshot is of another state than was announced",
            ));
        }
        let time = machine.time();
        let before = {
            let mut inner = self.shared.inner.write();
            machine.continue_tally(&inner.machine);
            let before = std::mem::replace(&mut inner.machine, machine);
            inner.last_applied = head.meta.last_log_id;
            inner.membership = head.meta.last_membership.clone();
            inner.ever_members.extend(head.ever_members);
            // What this node had before is judged no more, be it right or wrong.
            self.shared.contents.clear();
            inner.history.clear();
            if let Some(log_id) = inner.last_applied {
                inner.reach(log_id);
            }
            before
        };
        // A hundred thousand circuits take a while to free; neither readers nor this thread wait for it.
        self.environment.spawn_blocking(Box::new(move || drop(before)));
        self.clock.applied(time);
        self.shared.publish();
        self.shared.installed.send_modify(|installed| *installed += 1);
        let bytes = file.bytes();
        self.shared.stats.installed.record(took, bytes);
        self.shared.stats.snapshot_bytes.store(bytes, Relaxed);
        self.shared.log_bytes.store(0, Relaxed);
        tracing::info!(
            bytes,
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            index = head.meta.last_log_id.map(|id| id.index),
            "installed a snapshot"
        );
        self.current = Some((head.meta, file));
        failpoints::pass(Point::InstallAfter);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.current().map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Writes one snapshot, while applies go on.
pub(crate) struct SnapshotBuilder {
    folder: PathBuf,
    beside: Arc<Beside>,
    state: Option<(SnapshotHead, brama_core::snapshot::Frozen)>,
    shared: SharedState,
    stop: CancellationToken,
    environment: Arc<dyn Environment>,
    publish_newest: watch::Sender<Option<(SnapshotMeta, SnapshotFile)>>,
    stats: Arc<StateStats>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let mut attempts = 0;
        let (meta, file) = loop {
            // After a wait for room, the state as it is by then: it need not be kept twice for so long.
            let (head, frozen) = self.state.take().unwrap_or_else(|| self.shared.freeze());
            let folder = self.folder.clone();
            let started = Instant::now();
            let written = self.environment.blocking(move || {
                let file = SnapshotFile::write(&folder, &head, &frozen)?;
                Ok::<_, SnapshotFileError>((head.meta, file))
            });
            match written.await.map_err(io::Error::other)? {
                Ok((meta, file)) => {
                    let (took, bytes) = (started.elapsed(), file.bytes());
                    self.stats.built.record(took, bytes);
                    self.stats.snapshot_bytes.store(bytes, Relaxed);
                    self.beside.building.store(false, Relaxed);
                    tracing::info!(
                        bytes,
                        took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                        index = meta.last_log_id.map(|id| id.index),
                        applies = self.beside.applies.load(Relaxed),
                        applies_held_up = self.beside.held_up.load(Relaxed),
                        slowest_apply_us = self.beside.slowest_us.load(Relaxed),
                        "wrote a snapshot"
                    );
                    break (meta, file);
                }
                Err(error) => wait_for_room(error, &mut attempts, &self.stop).await?,
            }
        };
        self.publish_newest
            .send_replace(Some((meta.clone(), file.clone())));
        Ok(Snapshot { meta, snapshot: file })
    }
}

#[cfg(feature = "mutants")]
fn without_newest_event(mut frozen: brama_core::snapshot::Frozen) -> brama_core::snapshot::Frozen {
    if brama_core::mutants::active(brama_core::mutants::Mutant::EventLostAtInstall) {
        frozen.lose_newest_event();
    }
    frozen
}

/// An error ends openraft; but want of room passes.
///
/// # Errors
/// When it was something else, or the node stops.
async fn wait_for_room(
    error: SnapshotFileError,
    attempts: &mut u32,
    stop: &CancellationToken,
) -> Result<(), io::Error> {
    if !error.is_no_room() || stop.is_cancelled() {
        return Err(io::Error::other(error));
    }
    if *attempts == 0 {
        tracing::warn!(%error, "there is no room for a snapshot on the disk; it is tried again every second");
    }
    *attempts = attempts.saturating_add(1);
    // When the node stops, the next attempt is the last one.
    let _ = tokio::time::timeout(TRY_AGAIN, stop.cancelled()).await;
    Ok(())
}
