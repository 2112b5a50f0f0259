//! The node's view of consensus.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{LogIdOptionExt, ServerState};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use brama_core::command::{ClusterId, Due};
use brama_core::mutants::{self, Mutant};
use brama_core::reply::Reply;
use brama_core::{ClusterTime, Command, Machine, codec};
use brama_proto::internal as pb;
use brama_proto::internal::peer_server::PeerServer;
use pb::membership_change::Kind;

use crate::agreement::Contents;
use crate::batcher::{Batcher, BatcherTask, Outcome};
use crate::clock::ClusterClock;
use crate::data_dir::{DataDir, DataDirError};
use crate::errors::{AdminError, ProposeError, ReadError};
use crate::figures::{ClusterStats, Figures};
use crate::forward::{Forwarder, ForwarderTask};
use crate::inner::{Inner, RaftHandle, feel_pulse, observe, recover};
use crate::log_store::LogStore;
use crate::log_store::errors::LogError;
use crate::network::{Network, PeerService};
use crate::options::{Options, raft_config};
use crate::peers::{MAX_PEER_MESSAGE_BYTES, Peers};
use crate::quorum::Quorum;
use crate::reads::Reads;
use crate::state_store::{SnapshotFileError, StateStore};
use crate::status::{Agreement, Applied, ClusterStatus, DiskState, Leadership, MemberStatus, Role};
use crate::{agreement, disk_watch, drift, office, origin, reads};

/// How long connections of other nodes may take to end when this node stops.
const CUT_AFTER: Duration = Duration::from_millis(300);

/// A node's part in the cluster's consensus. Cheap to clone.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

/// Why a replica did not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory is not this node's, or damaged.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The log is damaged, or cannot be opened.
    #[error(transparent)]
    LogStore(#[from] LogError),
    /// The newest snapshot is damaged, or cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotFileError),
    /// The port for nodes is taken, or not allowed.
    #[error("cannot listen for nodes at {address}")]
    Listen {
        /// `node.peer_listen`.
        address: std::net::SocketAddr,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The times or thresholds do not fit each other.
    #[error("the options for consensus do not fit: {0}")]
    Options(String),
    /// Consensus could not begin from what the disk holds.
    #[error("consensus cannot start: {0}")]
    Consensus(String),
}

impl Replica {
    /// Opens the data directory, listens for nodes, and makes or joins the cluster in the background.
    ///
    /// # Errors
    /// [`StartError`]; nothing is running then.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let raft_config = Arc::new(raft_config(&options)?);
        let clock = ClusterClock::new(options.time.clone());
        let stop = CancellationToken::new();
        let listen_error = |source| StartError::Listen {
            address: options.peer_listen,
            source,
        };
        let environment = options.environment.clone();
        let incoming = environment
            .listen(options.peer_listen)
            .await
            .map_err(listen_error)?;

        let opened = {
            let (path, id, name) = (
                options.data_dir.clone(),
                options.node_id,
                options.cluster_name.clone(),
            );
            let (clock, stop, of_stores) = (clock.clone(), stop.clone(), environment.clone());
            let remembering = clock.clone();
            let contents = Contents::new(options.compare_interval * agreement::PERIOD);
            environment.blocking(move || {
                let data_dir = DataDir::open(&path, id, &name)?;
                let identity = data_dir.identity();
                let log_store = LogStore::open(&data_dir.log_path(), &identity.log, of_stores.clone())?;
                let snapshots = data_dir.snapshots_path();
                let state_store = StateStore::open(snapshots, clock, contents, stop, of_stores)?;
                state_store.check(log_store.purged(), identity.cluster_id)?;
                remembering.remember(drift::remembered_us(&data_dir)?);
                Ok::<_, StartError>((data_dir, log_store, state_store))
            })
        };
        let (data_dir, log_store, state_store) = opened
            .await
            .map_err(|panic| StartError::Consensus(panic.to_string()))??;
        let identity = data_dir.identity();
        let state = state_store.shared();
        let peers = Peers::new(options.node_id, identity.cluster_id, environment.clone());
        let quorum = Quorum::new(options.timing.election_max);
        let log = log_store.handle();
        let network = Network {
            peers: peers.clone(),
            quorum: quorum.clone(),
            log: log.clone(),
            environment: environment.clone(),
        };
        let raft = RaftHandle::new(options.node_id, raft_config, network, log_store, state_store)
            .await
            .map_err(|fatal| StartError::Consensus(fatal.to_string()))?;

        let (batcher, queues) = Batcher::new();
        let (forwarder, requests) = Forwarder::new();
        let (reads, waiting_reads) = Reads::new();
        let (lead, leadership) = watch::channel(Leadership::default());
        let tasks = TaskTracker::new();
        let inner = Arc::new(Inner {
            incarnation: identity.incarnation,
            snapshot_folder: data_dir.snapshots_path(),
            data_dir: Mutex::new(Some(Arc::new(data_dir))),
            raft: raft.clone(),
            log: log.clone(),
            state: state.clone(),
            clock: clock.clone(),
            peers: peers.clone(),
            quorum,
            batcher,
            reads,
            forwarder,
            leader: watch::Sender::new(None),
            leadership: leadership.clone(),
            recovered: watch::Sender::new(false),
            failed: watch::Sender::new(None),
            agreement: agreement::Record::default(),
            out_of_service: AtomicBool::new(false),
            disk: watch::Sender::new(DiskState::Ok { free_bytes: None }),
            stats: ClusterStats::default(),
            admin: tokio::sync::Mutex::new(()),
            closing: CancellationToken::new(),
            stop: stop.clone(),
            tasks: tasks.clone(),
            options,
        });

        let service = PeerServer::new(PeerService { node: inner.clone() })
            .max_decoding_message_size(MAX_PEER_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_PEER_MESSAGE_BYTES);
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(2)))
            .http2_keepalive_timeout(Some(Duration::from_secs(3)))
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(8 * 1024 * 1024)
            .add_service(service);
        let stopped = stop.clone();
        tasks.spawn(async move {
            // The streams of other nodes end with `stop` too; a connection that does not is cut.
            let serving = server.serve_with_incoming_shutdown(incoming, stopped.clone().cancelled_owned());
            tokio::select! {
                () = async { stopped.cancelled().await; tokio::time::sleep(CUT_AFTER).await } => {}
                result = serving => if let Err(error) = result {
                    tracing::error!(%error, "the port for nodes is closed");
                }
            }
        });
        let batcher_task = BatcherTask {
            queues,
            raft: raft.clone(),
            log,
            clock,
            state,
            leadership,
            stop: stop.clone(),
        };
        tasks.spawn(batcher_task.run());
        let forwarder_task = ForwarderTask {
            node_id: inner.options.node_id,
            requests,
            leader: inner.leader.subscribe(),
            peers,
            stop: stop.clone(),
        };
        tasks.spawn(forwarder_task.run());
        tasks.spawn(reads::run(
            waiting_reads,
            raft,
            inner.options.timing.election_max,
            stop,
        ));
        tasks.spawn(office::run(inner.clone(), lead));
        tasks.spawn(observe(inner.clone()));
        tasks.spawn(recover(inner.clone()));
        tasks.spawn(feel_pulse(inner.clone()));
        tasks.spawn(origin::run(inner.clone()));
        let contents = inner.state.contents().clone();
        contents.begin();
        tasks.spawn(contents.run(environment, inner.stop.clone()));
        tasks.spawn(agreement::run(inner.clone()));
        tasks.spawn(disk_watch::run(inner.clone()));
        tasks.spawn(drift::run(inner.clone()));
        Ok(Self { inner })
    }

    /// Hands leadership over if this node has it, refuses new proposals, waits for those in flight, flushes, stops. All of it until the
    /// deadline; what is not done then is cut off. A second call waits for nothing.
    pub async fn stop(&self, deadline: Instant) {
        let inner = &self.inner;
        if inner.closing.is_cancelled() {
            return;
        }
        if inner.leadership.borrow().term.is_some() {
            let hand_over =
                tokio::time::timeout_at(deadline - (deadline - Instant::now()) / 3, inner.transfer(None));
            match hand_over.await {
                Ok(Ok(leader)) => tracing::info!(leader, "handed leadership over"),
                Ok(Err(error)) => tracing::info!(%error, "leadership was not handed over"),
                Err(_) => tracing::warn!("nobody took leadership over in time"),
            }
        }
        inner.closing.cancel();
        inner.stop.cancel();
        inner.log.give_up_waiting();
        inner.tasks.close();
        if tokio::time::timeout_at(deadline, inner.raft.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("consensus did not stop in time");
        }
        if tokio::time::timeout_at(deadline, inner.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some tasks did not stop in time");
        }
        match tokio::time::timeout_at(deadline, inner.log.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the log was not closed well"),
            Err(_) => tracing::warn!("the log was not closed in time"),
        }
        inner.data_dir.lock().take();
    }

    /// Completes when consensus has failed for good on this node (its disk, its identity, a state it cannot apply to): the process must
    /// exit, with this message.
    pub async fn failed(&self) -> String {
        let mut failed = self.inner.failed.subscribe();
        // The guard must be gone before the next await, or no task could wait for this.
        let message = failed
            .wait_for(Option::is_some)
            .await
            .map(|message| message.clone());
        match message {
            Ok(message) => message.unwrap_or_default(),
            // The sender lives in `inner`, which `self` holds.
            Err(_) => std::future::pending().await,
        }
    }

    /// Gets a command applied, through whichever node leads, and returns what it answered and how far the log was. Waits for a leader
    /// up to the deadline. What is safe to repeat (a report with a session, an acquire with its permit's id) is repeated when its
    /// outcome is unknown.
    ///
    /// # Errors
    /// [`ProposeError`]; only [`ProposeError::Unknown`] may still take effect.
    pub async fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<(Reply, Applied), ProposeError> {
        let mut results = self.propose_all(vec![command], deadline).await;
        let nothing = || Err(ProposeError::unknown("a command got no outcome"));
        results.pop().unwrap_or_else(nothing)
    }

    /// [`Replica::propose`] for commands that came together, e.g. on one stream: they share one way to the leader and back, and are applied
    /// in their order. One result each, in that order too.
    pub async fn propose_all(
        &self,
        commands: Vec<Command>,
        deadline: Instant,
    ) -> Vec<Result<(Reply, Applied), ProposeError>> {
        let inner = &self.inner;
        let mut proposals: Vec<_> = inner.state.read(|machine| {
            let checked = commands
                .iter()
                .map(|command| Proposal::new(command, machine.precheck(command).err()));
            checked.collect()
        });
        loop {
            let open = || proposals.iter().filter(|proposal| proposal.result.is_none());
            let encoded: Vec<_> = open().map(|proposal| proposal.encoded.clone()).collect();
            if encoded.is_empty() {
                break;
            }
            if inner.closing.is_cancelled() {
                end(&mut proposals, || ProposeError::Stopping);
                break;
            }
            match tokio::time::timeout_at(deadline, inner.propose_once(encoded)).await {
                Ok(outcomes) => {
                    let open = proposals.iter_mut().filter(|proposal| proposal.result.is_none());
                    open.zip(outcomes)
                        .for_each(|(proposal, outcome)| proposal.hear(outcome));
                }
                Err(_) => end(&mut proposals, || {
                    ProposeError::unknown("no answer came before the deadline")
                }),
            }
            let done = proposals.iter().all(|proposal| proposal.result.is_some());
            if !done && !inner.wait_for_a_leader(deadline).await {
                end(&mut proposals, || ProposeError::NoLeader);
            }
        }
        proposals
            .into_iter()
            .filter_map(|proposal| proposal.result)
            .collect()
    }

    /// Returns once the local state contains everything acknowledged before the call, anywhere in the cluster.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn linearize(&self, deadline: Instant) -> Result<(), ReadError> {
        let inner = &self.inner;
        if mutants::active(Mutant::FollowerReads) && !inner.leads() {
            return Ok(());
        }
        loop {
            if inner.closing.is_cancelled() {
                return Err(ReadError::Stopping);
            }
            if !inner.disk.borrow().keeps_up() && !inner.leads() {
                return Err(ReadError::NoRoom);
            }
            let ask = async {
                if inner.leads() {
                    inner.reads.index().await
                } else {
                    inner.forward_read().await
                }
            };
            match tokio::time::timeout_at(deadline, ask).await {
                Ok(Some(index)) => {
                    return self
                        .apply_to(
                            |applied| applied.index >= index,
                            deadline,
                            || format!("log index {index}"),
                        )
                        .await;
                }
                Ok(None) => {}
                Err(_) => return Err(ReadError::NoLeader),
            }
            if !inner.wait_for_a_leader(deadline).await {
                return Err(ReadError::NoLeader);
            }
        }
    }

    /// Returns once the local state is one that local reads and subscribers may see: after a restart it must first contain all that the
    /// cluster had committed, as far as this node's disk knew of it, because it was seen before.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn recovered(&self, deadline: Instant) -> Result<(), ReadError> {
        // Once it is, it stays so.
        let is_recovered = self.is_recovered() || mutants::active(Mutant::ReadsBeforeRecovery);
        if is_recovered && !self.inner.closing.is_cancelled() {
            return Ok(());
        }
        let mut recovered = self.inner.recovered.subscribe();
        let wait = recovered.wait_for(|recovered| *recovered);
        tokio::select! {
            () = self.inner.closing.cancelled() => Err(ReadError::Stopping),
            done = tokio::time::timeout_at(deadline, wait) => match done {
                Ok(Ok(_)) => Ok(()),
                _ => Err(ReadError::TimedOut { waiting_for: "this node is recovering its state from the cluster".into() }),
            }
        }
    }

    /// Whether [`Replica::recovered`] would return at once.
    pub fn is_recovered(&self) -> bool {
        *self.inner.recovered.borrow()
    }

    /// Returns once the local state has this revision.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn reach(&self, revision: u64, deadline: Instant) -> Result<(), ReadError> {
        self.apply_to(
            |applied| applied.revision >= revision,
            deadline,
            || format!("revision {revision}"),
        )
        .await
    }

    async fn apply_to(
        &self,
        mut there: impl FnMut(&Applied) -> bool,
        deadline: Instant,
        what: impl Fn() -> String,
    ) -> Result<(), ReadError> {
        let mut applied = self.inner.state.applied();
        if there(&applied.borrow_and_update()) && !self.inner.closing.is_cancelled() {
            return Ok(());
        }
        let wait = applied.wait_for(there);
        tokio::select! {
            () = self.inner.closing.cancelled() => Err(ReadError::Stopping),
            done = tokio::time::timeout_at(deadline, wait) => match done {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) => Err(ReadError::Stopping),
                Err(_) => Err(ReadError::TimedOut { waiting_for: what() }),
            }
        }
    }

    /// Reads the local state. `f` must be short: applies wait for it.
    pub fn read<T>(&self, f: impl FnOnce(&Machine) -> T) -> T {
        self.inner.state.read(f)
    }

    /// Changes after each applied run of entries.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.inner.state.applied()
    }

    /// Changes when this node begins or ends to lead.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// This node's estimate of cluster time.
    pub fn now(&self) -> ClusterTime {
        self.inner.clock.now()
    }

    /// How long until cluster time is `at`, by this node's clock; zero if it is past.
    pub fn until(&self, at: ClusterTime) -> Duration {
        at.since(self.inner.clock.now())
    }

    /// Fires what is due; leader only, never forwarded, never refused for load. Returns once it is applied.
    ///
    /// # Errors
    /// [`ProposeError`]: then it may or may not be applied, and what is still due has to be fired again.
    pub async fn fire(&self, term: u64, due: Vec<Due>) -> Result<(), ProposeError> {
        let inner = &self.inner;
        if inner.leadership.borrow().term != Some(term) {
            return Err(ProposeError::NoLeader);
        }
        let command = codec::encode_command(&Command::Fire { term, due });
        let outcome = inner.batcher.submit_urgent(command.into()).await?;
        match outcome.await {
            Ok(outcomes) => outcomes.into_iter().try_for_each(|outcome| outcome.map(drop)),
            Err(_) => Err(ProposeError::Stopping),
        }
    }

    /// Whether this node hears from a leader that a majority follows, or is one. False at the latest one (longest) election timeout after
    /// that has ended.
    pub fn has_quorum(&self) -> bool {
        self.inner.quorum.has_it()
    }

    /// How this node's disk fares; looked at a few times a second.
    pub fn disk_state(&self) -> DiskState {
        *self.inner.disk.borrow()
    }

    /// This node's id.
    pub fn node_id(&self) -> u64 {
        self.inner.options.node_id
    }

    /// The cluster's id; `None` until this node belongs to one.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.inner.peers.cluster()
    }

    /// What this node knows of the cluster.
    pub fn status(&self) -> ClusterStatus {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let members = membership
            .nodes()
            .map(|(id, member)| MemberStatus {
                node_id: *id,
                peer_address: member.peer_address.clone(),
                client_address: member.client_address.clone(),
                voter: voters.contains(id),
                matched_index: metrics
                    .replication
                    .as_ref()
                    .map(|all| all.get(id).copied().flatten().index().unwrap_or(0))
                    .map(|index| {
                        if *id == metrics.id {
                            metrics.last_log_index.unwrap_or(0)
                        } else {
                            index
                        }
                    }),
            })
            .collect();
        let vote = self.inner.log.vote();
        let (voted_term, voted_for) =
            vote.map_or((0, 0), |vote| (vote.leader_id.term, vote.leader_id.voted_for));
        let vote_won = vote.is_some_and(|vote| vote.committed);
        ClusterStatus {
            role: match metrics.state {
                ServerState::Leader => Role::Leader,
                ServerState::Candidate => Role::Candidate,
                ServerState::Learner => Role::Learner,
                ServerState::Follower | ServerState::Shutdown => Role::Follower,
            },
            term: metrics.current_term,
            leader_id: metrics.current_leader,
            has_quorum: self.has_quorum(),
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed_index: metrics.local_committed.index().unwrap_or(0),
            applied_index: self.inner.state.applied().borrow().index,
            snapshot_index: metrics.snapshot.index().unwrap_or(0),
            purged_index: metrics.purged.index().unwrap_or(0),
            voted_term,
            voted_for,
            vote_won,
            members,
        }
    }

    /// Why consensus has failed for good on this node; `None`: it has not. See [`Replica::failed`].
    pub fn failure(&self) -> Option<String> {
        self.inner.failed.borrow().clone()
    }

    /// How long ago consensus and the task that applies last answered; they are asked twice a second.
    pub fn silent_for(&self) -> Duration {
        self.inner.stats.pulse.silent_for()
    }

    /// Whether the log can be written.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn log_is_writable(&self) -> Result<(), LogError> {
        self.inner.log.check()
    }

    /// What this node has counted, for metrics. Cheap: some hundred loads, and no lock that an apply waits for.
    pub fn figures(&self) -> Figures {
        let inner = &self.inner;
        let (log, state, cluster) = (inner.log.stats(), inner.state.stats(), &inner.stats);
        Figures {
            flush_micros: log.histograms().micros.read(),
            flush_entries: log.histograms().entries.read(),
            flush_bytes: log.histograms().bytes.read(),
            slow_flushes: log.slow(),
            apply_micros: state.apply_micros.read(),
            entry_commands: state.entry_commands.read(),
            slow_applies: state.slow_applies.load(Relaxed),
            timer_micros: state.timer_micros.read(),
            snapshots_built: state.built.read(),
            snapshots_installed: state.installed.read(),
            snapshot_bytes: state.snapshot_bytes.load(Relaxed),
            forwarded: cluster.forwarded(),
            elections: cluster.elections.load(Relaxed),
            leader_changes: cluster.leader_changes.load(Relaxed),
            waiting_commands: inner.batcher.waiting() as u64,
            waiting_forwards: inner.forwarder.waiting() as u64,
            peer_silence: inner.peer_silence(),
        }
    }

    /// The log index and the rolling hash of the state after it, read together.
    pub fn state_hash(&self) -> (u64, u64) {
        self.inner.state.hash()
    }

    /// What comparing this node's state with the other members' has shown since it started. A copy; nothing is asked.
    pub fn agreement(&self) -> Agreement {
        self.inner.agreement.told()
    }

    /// Adds a node as a learner, once it was reached and said who it is.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn add_learner(
        &self,
        node_id: u64,
        peer_address: String,
        client_address: String,
        deadline: Instant,
    ) -> Result<(), AdminError> {
        let change = pb::MembershipChange {
            kind: Kind::AddLearner.into(),
            node_id,
            peer_address,
            client_address,
        };
        self.inner.admin(change, deadline).await.map(|_| ())
    }

    /// Makes a learner a voter, if its log is close to the leader's.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn promote(&self, node_id: u64, deadline: Instant) -> Result<(), AdminError> {
        let change = pb::MembershipChange {
            kind: Kind::Promote.into(),
            node_id,
            ..Default::default()
        };
        self.inner.admin(change, deadline).await.map(|_| ())
    }

    /// Removes a member for good.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn remove(&self, node_id: u64, deadline: Instant) -> Result<(), AdminError> {
        let change = pb::MembershipChange {
            kind: Kind::Remove.into(),
            node_id,
            ..Default::default()
        };
        self.inner.admin(change, deadline).await.map(|_| ())
    }

    /// Hands leadership to a voter, by default to the one that is furthest; returns who leads then.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn transfer_leader(&self, to: Option<u64>, deadline: Instant) -> Result<u64, AdminError> {
        let change = pb::MembershipChange {
            kind: Kind::TransferLeader.into(),
            node_id: to.unwrap_or(0),
            ..Default::default()
        };
        self.inner.admin(change, deadline).await
    }
}

/// A command until its outcome is known.
struct Proposal {
    encoded: Bytes,
    /// It may be applied twice without harm.
    repeatable: bool,
    /// What an earlier attempt left open.
    unknown: Option<ProposeError>,
    /// The leader had no room for it at the last attempt.
    no_room: bool,
    result: Option<Result<(Reply, Applied), ProposeError>>,
}

impl Proposal {
    fn new(command: &Command, refused: Option<brama_core::Refusal>) -> Self {
        let repeatable = match command {
            Command::Report(batch) => batch.session.is_some(),
            Command::Acquire { .. } => true,
            _ => mutants::active(Mutant::RetryOfUnknown),
        };
        Self {
            encoded: Bytes::from(codec::encode_command(command)),
            repeatable,
            unknown: None,
            no_room: false,
            result: refused.map(|refusal| Err(refusal.into())),
        }
    }

    /// What one attempt came to; without a result it is tried again.
    fn hear(&mut self, outcome: Outcome) {
        self.no_room = matches!(outcome, Err(ProposeError::NoRoom));
        match outcome {
            Ok((answer, applied)) => {
                let result = answer.map(|reply| (reply, applied));
                self.result = Some(result.map_err(ProposeError::from));
            }
            // Another leads soon, perhaps.
            Err(ProposeError::NoLeader | ProposeError::NoRoom) => {}
            Err(error @ ProposeError::Unknown { .. }) if self.repeatable => self.unknown = Some(error),
            // What an earlier attempt left open, no later refusal settles.
            Err(error) => self.result = Some(Err(self.unknown.take().unwrap_or(error))),
        }
    }
}

/// Nothing is tried any more. What an earlier attempt left open stays open; for the others `why` says what became of them.
fn end(proposals: &mut [Proposal], why: impl Fn() -> ProposeError) {
    let open = proposals.iter_mut().filter(|proposal| proposal.result.is_none());
    for proposal in open {
        let no_room = proposal.no_room.then_some(ProposeError::NoRoom);
        let known = proposal.unknown.take().or(no_room);
        proposal.result = Some(Err(known.unwrap_or_else(&why)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by cutting the power of a leader's disk: consensus failed with the command on its way, and the next attempt said "nothing was changed".
    #[test]
    fn what_is_unknown_stays_unknown_whatever_a_later_attempt_says() {
        let mut proposal = Proposal {
            encoded: Bytes::new(),
            repeatable: true,
            unknown: None,
            no_room: false,
            result: None,
        };
        proposal.hear(Err(ProposeError::unknown("consensus stopped on the leader")));
        assert!(proposal.result.is_none(), "it is tried again");
        proposal.hear(Err(ProposeError::Stopping));
        assert!(matches!(proposal.result, Some(Err(ProposeError::Unknown { .. }))));
    }
}
