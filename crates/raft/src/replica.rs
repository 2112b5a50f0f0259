//! The node's view of consensus.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Instant as _, LogIdOptionExt, ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use brama_core::command::{Bootstrap, ClusterId, Due};
use brama_core::reply::{Answer, Reply};
use brama_core::{ClusterTime, Command, Machine, codec};
use brama_proto::internal as pb;
use brama_proto::internal::peer_server::PeerServer;
use pb::membership_change::Kind;

use crate::batcher::{Batcher, BatcherTask};
use crate::clock::ClusterClock;
use crate::data_dir::{DataDir, DataDirError};
use crate::errors::{AdminError, ProposeError, ReadError};
use crate::forward::{ForwardError, Forwarder, ForwarderTask, KnownLeader};
use crate::log_store::errors::LogError;
use crate::log_store::{LogHandle, LogStore};
use crate::network::{Network, PeerService};
use crate::peers::{MAX_PEER_MESSAGE_BYTES, Peers, Shown};
use crate::quorum::Quorum;
use crate::reads::Reads;
use crate::state_store::{SharedState, SnapshotFileError, StateStore};
use crate::types::{Incarnation, TypeConfig};
use crate::{office, origin, reads};

/// openraft, as this crate uses it.
pub(crate) type RaftHandle = openraft::Raft<TypeConfig, StateStore>;

/// How long a caller waits before it asks again who leads, if nothing tells it earlier.
const RETRY_EVERY: Duration = Duration::from_millis(20);
/// How long connections of other nodes may take to end when this node stops.
const CUT_AFTER: Duration = Duration::from_millis(300);
/// How often the leader looks whether it still has a majority.
const QUORUM_CHECK_EVERY: Duration = Duration::from_millis(50);

/// What a replica is started with.
#[derive(Clone)]
pub struct Options {
    /// This node; never 0, never the id of a node that was removed.
    pub node_id: u64,
    /// A name that people give the cluster; nodes of another name are refused.
    pub cluster_name: String,
    /// The data directory; created if absent.
    pub data_dir: PathBuf,
    /// Where to listen for other nodes, `ip:port`.
    pub peer_listen: std::net::SocketAddr,
    /// Where other nodes reach this one, `host:port`.
    pub peer_address: String,
    /// Where clients reach this one, `host:port`.
    pub client_address: String,
    /// How this node becomes part of a cluster, if its data directory is new.
    pub origin: Origin,
    /// Election and heartbeat times.
    pub timing: Timing,
    /// Clocks of this machine.
    pub time: Arc<dyn TimeSource>,
    /// Take a snapshot after so many log entries.
    pub snapshot_every: u64,
    /// Keep so many entries that a snapshot covers, for followers that are a little behind.
    pub keep_entries: u64,
}

/// How a node with a new data directory becomes part of a cluster.
#[derive(Clone, Debug)]
pub enum Origin {
    /// It is one of these members, (id, peer address), of a new cluster; the lowest id makes it, once all were reached.
    Bootstrap {
        /// All of them, this node included.
        members: Vec<(u64, String)>,
        /// What the cluster begins with; the `cluster_id` in it is ignored, a random one is drawn.
        first: Box<Bootstrap>,
    },
    /// It asks one of these peer addresses to be added as a learner.
    Join {
        /// Peer addresses of running nodes.
        seeds: Vec<String>,
    },
}

/// Times of the Raft protocol.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout.
    pub election_max: Duration,
    /// Time between heartbeats.
    pub heartbeat: Duration,
}

/// The clocks of a machine. The node implements it; tests move it.
pub trait TimeSource: Send + Sync + 'static {
    /// Since some fixed moment of this process; never goes back, never jumps.
    fn monotonic(&self) -> Duration;
    /// Since the Unix epoch, as this machine believes; may jump.
    fn wall(&self) -> Duration;
}

/// How far the local state is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Newest applied log index.
    pub index: u64,
    /// Newest revision.
    pub revision: u64,
}

/// Whether this node leads, and may act as the leader: its clock is set, and it has applied everything from before its term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term in which it leads; `None`: it does not.
    pub term: Option<u64>,
}

/// See `Cluster.Status`.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct ClusterStatus {
    pub role: Role,
    pub term: u64,
    pub leader_id: Option<u64>,
    pub has_quorum: bool,
    pub last_log_index: u64,
    pub committed_index: u64,
    pub applied_index: u64,
    pub snapshot_index: u64,
    pub purged_index: u64,
    pub members: Vec<MemberStatus>,
}

/// See `Member`.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct MemberStatus {
    pub node_id: u64,
    pub peer_address: String,
    pub client_address: String,
    pub voter: bool,
    pub matched_index: Option<u64>,
}

/// See `Role`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Learner,
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

/// A node's part in the cluster's consensus. Cheap to clone.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

/// What the parts of a replica share.
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) incarnation: Incarnation,
    /// Held for as long as the node runs: it locks the directory. `None` once stopped.
    data_dir: Mutex<Option<Arc<DataDir>>>,
    pub(crate) snapshot_folder: PathBuf,
    pub(crate) raft: RaftHandle,
    log: LogHandle,
    pub(crate) state: SharedState,
    pub(crate) clock: ClusterClock,
    pub(crate) peers: Peers,
    pub(crate) quorum: Quorum,
    pub(crate) batcher: Batcher,
    pub(crate) reads: Reads,
    forwarder: Forwarder,
    /// Who leads, as this node knows it.
    pub(crate) leader: watch::Sender<KnownLeader>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    recovered: watch::Sender<bool>,
    failed: watch::Sender<Option<String>>,
    /// Membership changes are done one at a time.
    pub(crate) admin: tokio::sync::Mutex<()>,
    /// No new proposals are taken.
    closing: CancellationToken,
    /// All tasks end.
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Replica {
    /// Opens the data directory, listens for nodes, and makes or joins the cluster in the background.
    ///
    /// # Errors
    /// [`StartError`]; nothing is running then.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let raft_config = Arc::new(raft_config(&options)?);
        let clock = ClusterClock::new(options.time.clone());
        let listen_error = |source| StartError::Listen {
            address: options.peer_listen,
            source,
        };
        let listener = TcpListener::bind(options.peer_listen)
            .await
            .map_err(listen_error)?;

        let opened = {
            let (path, id, name) = (
                options.data_dir.clone(),
                options.node_id,
                options.cluster_name.clone(),
            );
            let clock = clock.clone();
            tokio::task::spawn_blocking(move || {
                let data_dir = DataDir::open(&path, id, &name)?;
                let log_store = LogStore::open(&data_dir.log_path())?;
                let state_store = StateStore::open(data_dir.snapshots_path(), clock)?;
                Ok::<_, StartError>((data_dir, log_store, state_store))
            })
        };
        let (data_dir, log_store, state_store) = opened
            .await
            .map_err(|panic| StartError::Consensus(panic.to_string()))??;
        let identity = data_dir.identity();
        let state = state_store.shared();
        let peers = Peers::new(options.node_id, identity.cluster_id);
        let quorum = Quorum::new(options.timing.election_max);
        let network = Network {
            peers: peers.clone(),
            quorum: quorum.clone(),
        };
        let log = log_store.handle();
        let raft = RaftHandle::new(options.node_id, raft_config, network, log_store, state_store)
            .await
            .map_err(|fatal| StartError::Consensus(fatal.to_string()))?;

        let (batcher, queues) = Batcher::new();
        let (forwarder, requests) = Forwarder::new();
        let (reads, waiting_reads) = Reads::new();
        let (lead, leadership) = watch::channel(Leadership::default());
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let inner = Arc::new(Inner {
            incarnation: identity.incarnation,
            snapshot_folder: data_dir.snapshots_path(),
            data_dir: Mutex::new(Some(Arc::new(data_dir))),
            raft: raft.clone(),
            log,
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
            .tcp_nodelay(true)
            .http2_keepalive_interval(Some(Duration::from_secs(2)))
            .http2_keepalive_timeout(Some(Duration::from_secs(3)))
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(8 * 1024 * 1024)
            .add_service(service);
        let stopped = stop.clone();
        tasks.spawn(async move {
            // The streams of other nodes end with `stop` too; a connection that does not is cut.
            let serving = server.serve_with_incoming_shutdown(
                TcpListenerStream::new(listener),
                stopped.clone().cancelled_owned(),
            );
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
        tasks.spawn(origin::run(inner.clone()));
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
        let inner = &self.inner;
        inner.state.read(|machine| machine.precheck(&command))?;
        let repeatable = match &command {
            Command::Report(batch) => batch.session.is_some(),
            Command::Acquire { .. } => true,
            _ => false,
        };
        let encoded = Bytes::from(codec::encode_command(&command));
        let mut unknown = None;
        loop {
            if inner.closing.is_cancelled() {
                return Err(unknown.unwrap_or(ProposeError::Stopping));
            }
            match tokio::time::timeout_at(deadline, inner.propose_once(encoded.clone())).await {
                Ok(Ok((answer, index))) => {
                    let reply = answer?;
                    let revision = inner.state.applied().borrow().revision;
                    return Ok((reply, Applied { index, revision }));
                }
                Ok(Err(ProposeError::NoLeader)) => {}
                Ok(Err(error @ ProposeError::Unknown { .. })) if repeatable => unknown = Some(error),
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    let cause = "no answer came before the deadline".to_owned();
                    return Err(unknown.unwrap_or(ProposeError::Unknown { cause }));
                }
            }
            if !inner.wait_for_a_leader(deadline).await {
                return Err(unknown.unwrap_or(ProposeError::NoLeader));
            }
        }
    }

    /// Returns once the local state contains everything acknowledged before the call, anywhere in the cluster.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn linearize(&self, deadline: Instant) -> Result<(), ReadError> {
        let inner = &self.inner;
        loop {
            if inner.closing.is_cancelled() {
                return Err(ReadError::Stopping);
            }
            let ask = async {
                if inner.leads() {
                    inner.reads.index().await
                } else {
                    inner.forwarder.read_index().await.ok()
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
        there: impl FnMut(&Applied) -> bool,
        deadline: Instant,
        what: impl Fn() -> String,
    ) -> Result<(), ReadError> {
        let mut applied = self.inner.state.applied();
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
            Ok(outcome) => outcome.map(|_| ()),
            Err(_) => Err(ProposeError::Stopping),
        }
    }

    /// Whether this node hears from a leader that a majority follows, or is one. False at the latest one (longest) election timeout after
    /// that has ended.
    pub fn has_quorum(&self) -> bool {
        self.inner.quorum.has_it()
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
            members,
        }
    }

    /// The log index and the rolling hash of the state after it, read together.
    pub fn state_hash(&self) -> (u64, u64) {
        self.inner.state.hash()
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

impl Inner {
    fn leads(&self) -> bool {
        self.leadership.borrow().term.is_some()
    }

    async fn propose_once(&self, command: Bytes) -> Result<(Answer, u64), ProposeError> {
        if self.leads() {
            let outcome = self.batcher.submit(command)?;
            return outcome.await.unwrap_or_else(|_| {
                Err(ProposeError::Unknown {
                    cause: "this node is stopping".into(),
                })
            });
        }
        self.forwarder
            .command(command)
            .await
            .map_err(|error| match error {
                ForwardError::NotLeader => ProposeError::NoLeader,
                ForwardError::Unknown(cause) => ProposeError::Unknown { cause },
                ForwardError::Refused { kind, .. } if kind == "overloaded" => ProposeError::Overloaded,
                ForwardError::Refused { message, .. } => brama_core::Refusal::InvalidArgument {
                    field: "command".into(),
                    problem: message,
                }
                .into(),
            })
    }

    /// Waits until it makes sense to ask again; false once the deadline is over.
    async fn wait_for_a_leader(&self, deadline: Instant) -> bool {
        let mut leadership = self.leadership.clone();
        let mut leader = self.leader.subscribe();
        let nobody = leader.borrow_and_update().is_none();
        let pause = if nobody {
            Duration::from_millis(200)
        } else {
            RETRY_EVERY
        };
        tokio::select! {
            () = self.closing.cancelled() => {}
            _ = leadership.changed() => {}
            _ = leader.changed() => {}
            () = tokio::time::sleep_until(deadline.min(Instant::now() + pause)) => {}
        }
        Instant::now() < deadline
    }

    /// Checks the card of a calling node.
    pub(crate) async fn admit(&self, shown: Shown) -> Result<(), tonic::Status> {
        let me = self.options.node_id;
        if shown.to != me {
            let text = format!("this is node {me}, not node {}", shown.to);
            return Err(tonic::Status::failed_precondition(text));
        }
        let mine = self.peers.cluster();
        if shown.incarnation != self.incarnation {
            if mine.is_none() {
                self.fail(origin::wiped(
                    self,
                    &format!(
                        "node {} knows node {me} as a member of cluster {}",
                        shown.from, shown.cluster
                    ),
                ));
            }
            return Err(tonic::Status::failed_precondition(format!(
                "node {me} has another data directory than the membership says"
            )));
        }
        match mine {
            Some(cluster) if cluster == shown.cluster => Ok(()),
            Some(cluster) => Err(tonic::Status::failed_precondition(format!(
                "node {me} belongs to cluster {cluster}, not to {}",
                shown.cluster
            ))),
            None => self.adopt(shown.cluster).await.map_err(tonic::Status::internal),
        }
    }

    /// Makes this node one of `cluster`, on disk too.
    pub(crate) async fn adopt(&self, cluster: ClusterId) -> Result<(), String> {
        let data_dir = self.data_dir.lock().clone().ok_or("this node is stopping")?;
        let adopted = tokio::task::spawn_blocking(move || data_dir.adopt_cluster(cluster)).await;
        adopted
            .map_err(|panic| panic.to_string())?
            .map_err(|error| error.to_string())?;
        self.peers.set_cluster(cluster);
        Ok(())
    }

    /// This node cannot go on.
    pub(crate) fn fail(&self, message: String) {
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                tracing::error!("{message}");
                *failed = Some(message);
            }
            first
        });
    }

    pub(crate) async fn forward_change(&self, change: pb::MembershipChange) -> Result<u64, AdminError> {
        self.forwarder
            .membership(change)
            .await
            .map_err(|error| match error {
                ForwardError::NotLeader => AdminError::NoLeader,
                ForwardError::Unknown(cause) => AdminError::Unknown(cause),
                ForwardError::Refused { message, .. } => AdminError::Refused(message),
            })
    }

    async fn admin(&self, change: pb::MembershipChange, deadline: Instant) -> Result<u64, AdminError> {
        loop {
            let led = self.leader.borrow().as_ref().map(|(id, _)| *id);
            match tokio::time::timeout_at(deadline, self.change_membership(change.clone())).await {
                Ok(Err(AdminError::NoLeader)) => {}
                // The stream to the old leader ends when the new one takes over, maybe before the old one could say so.
                Ok(Err(AdminError::Unknown(cause))) if change.kind() == Kind::TransferLeader => {
                    let mut leader = self.leader.subscribe();
                    let other = |known: &KnownLeader| known.as_ref().is_some_and(|(id, _)| Some(*id) != led);
                    return match tokio::time::timeout_at(deadline, leader.wait_for(other)).await {
                        Ok(Ok(known)) => Ok(known.as_ref().map_or(change.node_id, |(id, _)| *id)),
                        _ => Err(AdminError::Unknown(cause)),
                    };
                }
                // The others do nothing when they are done already, so they can be asked for again.
                Ok(Err(AdminError::Unknown(cause))) => {
                    tracing::debug!(cause, "asking again for a change of the membership")
                }
                Ok(done) => return done,
                Err(_) => return Err(AdminError::Unknown("no answer came before the deadline".into())),
            }
            if !self.wait_for_a_leader(deadline).await {
                return Err(AdminError::NoLeader);
            }
        }
    }
}

/// Keeps what this node knows of leader and majority up to date, and notices when consensus has failed.
async fn observe(node: Arc<Inner>) {
    let mut metrics = node.raft.metrics();
    loop {
        let fatal = {
            let metrics = metrics.borrow_and_update();
            let known = metrics.current_leader.and_then(|id| {
                metrics
                    .membership_config
                    .membership()
                    .get_node(&id)
                    .map(|member| (id, member.clone()))
            });
            node.leader.send_if_modified(|leader| {
                let changed = *leader != known;
                *leader = known;
                changed
            });
            let acked = metrics.last_quorum_acked.as_ref().map(|acked| acked.elapsed());
            let leads = metrics.state == ServerState::Leader;
            node.quorum
                .set_leader(leads && acked.is_some_and(|ago| ago <= node.options.timing.election_max));
            metrics.running_state.clone().err()
        };
        if let Some(fatal) = fatal
            && !node.closing.is_cancelled()
        {
            node.fail(format!("consensus has failed on this node: {fatal}"));
        }
        let removed = {
            let membership = node.state.membership();
            let me = node.options.node_id;
            membership.membership().get_node(&me).is_none() && node.state.was_member(me)
        };
        if removed {
            node.fail("this node was removed from the cluster; to come back, it needs an empty data directory and a new id".into());
        }
        tokio::select! {
            () = node.stop.cancelled() => return,
            changed = metrics.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(QUORUM_CHECK_EVERY) => {}
        }
    }
}

/// Waits until the state contains what this node's disk knows to exist, as far as the cluster committed it.
async fn recover(node: Arc<Inner>) {
    loop {
        let patience = Duration::from_secs(1);
        let attempt = node.raft.wait_for_recovery(Some(patience));
        tokio::select! {
            () = node.stop.cancelled() => return,
            done = attempt => if done.is_ok() {
                node.recovered.send_replace(true);
                return;
            }
        }
    }
}

fn raft_config(options: &Options) -> Result<openraft::Config, StartError> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let election_max = ms(options.timing.election_max);
    let config = openraft::Config {
        cluster_name: options.cluster_name.clone(),
        election_timeout_min: ms(options.timing.election_min),
        election_timeout_max: election_max,
        heartbeat_interval: ms(options.timing.heartbeat),
        enable_pre_vote: Some(true),
        // Without it a leader that holds a lease from one side can block a majority that cannot hear it (openraft#2080).
        quorum_loss_probe_interval: Some(2 * election_max),
        // The state is in memory: a restarted leader must not serve one that is older than what it acknowledged.
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_every),
        max_in_snapshot_log_to_keep: options.keep_entries,
        // A snapshot may take this long on its way.
        install_snapshot_timeout: 120_000,
        // Entries can be large: few in a message.
        max_payload_entries: 64,
        ..Default::default()
    };
    config
        .validate()
        .map_err(|error| StartError::Options(error.to_string()))
}
