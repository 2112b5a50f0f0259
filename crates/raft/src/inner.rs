//! What the parts of a replica share, and the tasks that keep it up to date.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::VoteRequest;
use openraft::vote::RaftLeaderId as _;
use openraft::{Instant as _, ServerState};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use brama_core::command::ClusterId;
use brama_proto::internal as pb;
use pb::membership_change::Kind;

use crate::agreement;
use crate::batcher::{Batcher, Outcome};
use crate::clock::ClusterClock;
use crate::data_dir::DataDir;
use crate::errors::{AdminError, ProposeError};
use crate::figures::{COMMAND, ClusterStats, READ_INDEX};
use crate::forward::{ForwardError, Forwarder, KnownLeader};
use crate::log_store::LogHandle;
use crate::options::Options;
use crate::origin;
use crate::peers::{Peers, Shown};
use crate::quorum::Quorum;
use crate::reads::Reads;
use crate::state_store::{SharedState, Standing, StateStore};
use crate::status::{DiskState, Leadership};
use crate::types::{Incarnation, LeaderId, TypeConfig, Vote};

/// openraft, as this crate uses it.
pub(crate) type RaftHandle = openraft::Raft<TypeConfig, StateStore>;

/// A command is not tried again when less time than this is left for it.
const LAST_ATTEMPT: Duration = Duration::from_millis(50);
/// How long a caller waits before it asks again who leads, if nothing tells it earlier.
const RETRY_EVERY: Duration = Duration::from_millis(20);
/// How often the leader looks whether it still has a majority.
const QUORUM_CHECK_EVERY: Duration = Duration::from_millis(50);

/// What a node says that is no member any more.
pub(crate) const REMOVED: &str =
    "this node was removed from the cluster; to come back, it needs an empty data directory and a new id";

/// How often consensus and the task that applies are asked whether they are alive.
const PULSE_EVERY: Duration = Duration::from_millis(500);

/// What the parts of a replica share.
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) incarnation: Incarnation,
    /// Held for as long as the node runs: it locks the directory. `None` once stopped.
    pub(crate) data_dir: Mutex<Option<Arc<DataDir>>>,
    pub(crate) snapshot_folder: PathBuf,
    pub(crate) raft: RaftHandle,
    pub(crate) log: LogHandle,
    pub(crate) state: SharedState,
    pub(crate) clock: ClusterClock,
    pub(crate) peers: Peers,
    pub(crate) quorum: Quorum,
    pub(crate) batcher: Batcher,
    pub(crate) reads: Reads,
    pub(crate) forwarder: Forwarder,
    /// Who leads, as this node knows it.
    pub(crate) leader: watch::Sender<KnownLeader>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) recovered: watch::Sender<bool>,
    pub(crate) failed: watch::Sender<Option<String>>,
    /// What comparing states with the other members has shown.
    pub(crate) agreement: agreement::Record,
    /// This node's state is not the cluster's.
    pub(crate) out_of_service: AtomicBool,
    /// How the disk fares.
    pub(crate) disk: watch::Sender<DiskState>,
    pub(crate) stats: ClusterStats,
    /// Membership changes are done one at a time.
    pub(crate) admin: tokio::sync::Mutex<()>,
    /// No new proposals are taken.
    pub(crate) closing: CancellationToken,
    /// All tasks end.
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Inner {
    pub(crate) fn leads(&self) -> bool {
        self.leadership.borrow().term.is_some()
    }

    /// One try, through whoever leads now. One outcome a command, in their order.
    pub(crate) async fn propose_once(&self, commands: Vec<Bytes>) -> Vec<Outcome> {
        let number = commands.len();
        if self.leads() {
            return match self.batcher.submit(commands) {
                Ok(outcomes) => outcomes.await.unwrap_or_else(|_| {
                    let error = ProposeError::unknown("this node is stopping");
                    vec![Err(error); number]
                }),
                Err(error) => vec![Err(error); number],
            };
        }
        let mut counting = self.stats.forward(COMMAND, number);
        let outcomes = self.forwarder.commands(commands).await.into_iter();
        let outcomes = outcomes.map(|outcome| {
            counting.came(&outcome);
            outcome.map_err(|error| match error {
                ForwardError::NotLeader => ProposeError::NoLeader,
                ForwardError::Unknown(cause) => ProposeError::Unknown { cause },
                ForwardError::Refused { kind, .. } if kind == "overloaded" => ProposeError::Overloaded,
                ForwardError::Refused { kind, .. } if kind == "no room" => ProposeError::NoRoom,
                ForwardError::Refused { message, .. } => brama_core::Refusal::InvalidArgument {
                    field: "command".into(),
                    problem: message,
                }
                .into(),
            })
        });
        outcomes.collect()
    }

    /// The index that a linearizable read has to wait for, from the leader; `None`: it could not say.
    pub(crate) async fn forward_read(&self) -> Option<u64> {
        let mut counting = self.stats.forward(READ_INDEX, 1);
        let index = self.forwarder.read_index().await;
        counting.came(&index);
        index.ok()
    }

    /// As leader: how long ago each other member last answered, those that never did left out.
    pub(crate) fn peer_silence(&self) -> Vec<(u64, Duration)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let heartbeat = metrics.heartbeat.iter().flatten();
        heartbeat
            .filter(|(id, _)| **id != metrics.id)
            .filter_map(|(id, acked)| acked.as_ref().map(|acked| (*id, acked.elapsed())))
            .collect()
    }

    /// Waits until it makes sense to ask again; false once there is no time left for that: an attempt that the deadline ends is one whose
    /// outcome nobody knows.
    pub(crate) async fn wait_for_a_leader(&self, deadline: Instant) -> bool {
        let mut leadership = self.leadership.clone();
        // What has changed since the node started is no reason to ask again at once, and again.
        leadership.mark_unchanged();
        let mut leader = self.leader.subscribe();
        let nobody = leader.borrow_and_update().is_none();
        let pause = if nobody {
            Duration::from_millis(200)
        } else {
            RETRY_EVERY
        };
        let last_attempt = deadline.checked_sub(LAST_ATTEMPT).unwrap_or(deadline);
        tokio::select! {
            () = self.closing.cancelled() => {}
            _ = leadership.changed() => {}
            _ = leader.changed() => {}
            () = tokio::time::sleep_until(last_attempt.min(Instant::now() + pause)) => {}
        }
        Instant::now() < last_attempt
    }

    /// Whether this node has found that its state is not the cluster's.
    pub(crate) fn is_out_of_service(&self) -> bool {
        self.out_of_service.load(Ordering::Relaxed)
    }

    /// From here on this node neither stands for election nor answers other nodes. If it leads, it can only hand over.
    pub(crate) fn leave_service(&self) {
        self.out_of_service.store(true, Ordering::Relaxed);
        self.raft.runtime_config().elect(false);
    }

    /// Checks the card of a calling node.
    pub(crate) async fn admit(&self, shown: Shown) -> Result<(), tonic::Status> {
        let me = self.options.node_id;
        if self.is_out_of_service() {
            let text = format!("node {me} is out of service: its state differs from the majority's");
            return Err(tonic::Status::failed_precondition(text));
        }
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
        let environment = &self.options.environment;
        let adopted = environment
            .blocking(move || data_dir.adopt_cluster(cluster))
            .await;
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

    /// Asks the leader for a change, once.
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

    /// Asks the leader for a change until the deadline.
    pub(crate) async fn admin(
        &self,
        change: pb::MembershipChange,
        deadline: Instant,
    ) -> Result<u64, AdminError> {
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

/// For how long this node has led without being answered by a majority, as far as it was awake: who was stopped and goes on has to be
/// given time to hear.
#[derive(Default)]
struct Unheard {
    time: Duration,
    last_look: Option<Instant>,
}

impl Unheard {
    fn look(&mut self, leads_unheard: bool) {
        let now = Instant::now();
        let since = self
            .last_look
            .replace(now)
            .map_or(Duration::ZERO, |last| now - last);
        if leads_unheard {
            self.time += since.min(2 * QUORUM_CHECK_EVERY);
        } else {
            self.time = Duration::ZERO;
        }
    }
}

/// Makes this node follow: a leader that no majority answers, but that others hear, renews their leases and keeps them from electing another
/// (`CheckQuorum` in etcd). openraft has no call for that, and only pauses heartbeats (openraft#2080). So the node votes in the next term,
/// for the voter with the longest log, as if that had asked: to vote in a new term is always allowed, and ends its own. (Not for itself:
/// openraft would take it for a candidate, and go on to replicate.) openraft refuses while the lease holds. True: it leads no more.
async fn stand_down(node: &Inner) -> bool {
    let (vote, last_log_id) = {
        let (metrics, data) = (node.raft.metrics(), node.raft.data_metrics());
        let metrics = metrics.borrow_watched();
        let matched = |id: &u64| metrics.replication.as_ref().and_then(|all| *all.get(id)?);
        let voters = metrics.membership_config.membership().voter_ids();
        let others = voters.filter(|id| *id != node.options.node_id);
        let Some(other) = others.max_by_key(matched) else {
            return false;
        };
        let vote = Vote {
            leader_id: LeaderId::new(metrics.current_term + 1, other),
            committed: false,
        };
        (vote, data.borrow_watched().last_log)
    };
    let asked = node.raft.vote(VoteRequest::new(vote, last_log_id));
    // The vote is written to the disk, which may hang.
    let asked = tokio::time::timeout(node.options.timing.election_max, asked);
    let granted = match node.stop.run_until_cancelled(asked).await {
        Some(Ok(Ok(response))) => response.vote_granted,
        Some(Ok(Err(_)) | Err(_)) | None => false,
    };
    if granted {
        tracing::warn!(
            "no majority has answered this leader for longer than the longest election timeout: it follows now, so that another may lead"
        );
    }
    granted
}

/// Keeps what this node knows of leader and majority up to date, and notices when consensus has failed.
pub(crate) async fn observe(node: Arc<Inner>) {
    let mut metrics = node.raft.metrics();
    // The newest leader and term, and the newest term in which this node stood for election: what follows counts.
    let mut led = None;
    let mut stood = metrics.borrow_watched().vote.leader_id.term;
    let mut unheard = Unheard::default();
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
            let vote = &metrics.vote.leader_id;
            if vote.term > stood && vote.voted_for == node.options.node_id {
                stood = vote.term;
                node.stats.elections.fetch_add(1, Ordering::Relaxed);
            }
            let leads_now = metrics.current_leader.map(|id| (id, metrics.current_term));
            if leads_now.is_some() && leads_now != led {
                led = leads_now;
                node.stats.leader_changes.fetch_add(1, Ordering::Relaxed);
            }
            node.leader.send_if_modified(|leader| {
                let changed = *leader != known;
                *leader = known;
                changed
            });
            let acked = metrics.last_quorum_acked.as_ref().map(|acked| acked.elapsed());
            let leads = metrics.state == ServerState::Leader;
            let has_majority = acked.is_some_and(|ago| ago <= node.options.timing.election_max);
            node.quorum.set_leader(leads && has_majority);
            let alone = metrics.membership_config.membership().voter_ids().count() == 1;
            unheard.look(leads && !has_majority && !alone);
            metrics.running_state.clone().err()
        };
        if unheard.time > node.options.timing.election_max && stand_down(&node).await {
            unheard = Unheard::default();
        }
        if let Some(fatal) = fatal
            && !node.closing.is_cancelled()
        {
            node.fail(format!("consensus has failed on this node: {fatal}"));
        }
        if node.state.standing(node.options.node_id) == Standing::Removed {
            node.fail(REMOVED.into());
        }
        if node.state.wants_snapshot()
            && let Err(fatal) = node.raft.trigger().snapshot().await
        {
            tracing::debug!(%fatal, "no snapshot: consensus has stopped");
        }
        tokio::select! {
            () = node.stop.cancelled() => return,
            changed = metrics.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(QUORUM_CHECK_EVERY) => {}
        }
    }
}

/// Asks consensus, and through it the task that applies, for a sign of life, for as long as the node runs.
pub(crate) async fn feel_pulse(node: Arc<Inner>) {
    loop {
        // Answered in its turn, between two runs of entries that are applied. It is waited for as long as it takes: how long it has
        // been waited for is what says how they are.
        let answer = node.raft.with_state_machine(|_| Box::pin(std::future::ready(())));
        tokio::select! {
            () = node.stop.cancelled() => return,
            alive = answer => if alive.is_ok() { node.stats.pulse.beat() },
        }
        tokio::select! {
            () = node.stop.cancelled() => return,
            () = tokio::time::sleep(PULSE_EVERY) => {}
        }
    }
}

/// Waits until the state contains what this node's disk knows to exist, as far as the cluster committed it.
pub(crate) async fn recover(node: Arc<Inner>) {
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
