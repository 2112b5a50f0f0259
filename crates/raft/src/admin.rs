//! Changes of the membership, and transfers of leadership; done by the leader, one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, LogIdOptionExt};
use tokio::time::Instant;

use brama_proto::internal as pb;
use pb::membership_change::Kind;

use crate::errors::AdminError;
use crate::inner::Inner;
use crate::origin::hello;
use crate::peers::Lane;
use crate::state_store::Standing;
use crate::types::{Member, TypeConfig};

/// A learner may be this many entries behind and still become a voter.
const PROMOTION_LAG: u64 = 1000;
/// How long a promotion waits for the learner to catch up.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(5);
/// How long a leader waits for a target to take over, before it tries another.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(2);

/// How long a voter may take to say how fit it is.
const FITNESS_TIMEOUT: Duration = Duration::from_millis(300);
/// See `FitnessResponse`.
const FULL: u32 = 3;

type WriteError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

impl Inner {
    /// Does a change that came from this node's operator or through a follower. Returns the id of the member concerned, or of the
    /// new leader.
    pub(crate) async fn change_membership(&self, change: pb::MembershipChange) -> Result<u64, AdminError> {
        if self.leadership.borrow().term.is_none() {
            // A follower that was asked by a joining node passes it on.
            return self.forward_change(change).await;
        }
        let kind =
            Kind::try_from(change.kind).map_err(|_| AdminError::Refused("an unknown change".into()))?;
        let _one_at_a_time = self.admin.lock().await;
        match kind {
            Kind::AddLearner => self.add_learner(change).await,
            Kind::Promote => self.promote(change.node_id).await,
            Kind::Remove => self.remove(change.node_id).await,
            Kind::TransferLeader => {
                self.transfer((change.node_id != 0).then_some(change.node_id))
                    .await
            }
        }
    }

    async fn add_learner(&self, change: pb::MembershipChange) -> Result<u64, AdminError> {
        let id = change.node_id;
        if id == 0 {
            return Err(AdminError::Refused("node_id must not be 0".into()));
        }
        let other = hello(self, &change.peer_address)
            .await
            .map_err(AdminError::Refused)?;
        if other.node_id != id {
            let text = format!("{} is node {}, not node {id}", change.peer_address, other.node_id);
            return Err(AdminError::Refused(text));
        }
        if other
            .cluster
            .is_some_and(|cluster| self.peers.cluster() != Some(cluster))
        {
            let text =
                format!("node {id} belongs to another cluster: give it an empty data directory and a new id");
            return Err(AdminError::Refused(text));
        }
        match self.state.standing(id) {
            Standing::Member(member) if member.incarnation == other.incarnation => return Ok(id),
            Standing::Member(_) => {
                return Err(AdminError::Refused(format!(
                    "node {id} is a member already, with another data directory: remove it, and join under a new id"
                )));
            }
            Standing::Removed => {
                let text =
                    format!("node {id} was a member once, and ids are never used again: give it a new one");
                return Err(AdminError::Refused(text));
            }
            Standing::Unknown => {}
        }
        let client_address = if change.client_address.is_empty() {
            other.client_address
        } else {
            change.client_address
        };
        let member = Member {
            peer_address: change.peer_address,
            client_address,
            incarnation: other.incarnation,
        };
        self.raft
            .add_learner(id, member, false)
            .await
            .map_err(admin_error)?;
        Ok(id)
    }

    async fn promote(&self, id: u64) -> Result<u64, AdminError> {
        let membership = self.state.membership();
        let membership = membership.membership();
        if membership.get_node(&id).is_none() {
            return Err(AdminError::Refused(format!(
                "node {id} is no member: add it as a learner first"
            )));
        }
        if membership.voter_ids().any(|voter| voter == id) && membership.get_joint_config().len() == 1 {
            return Ok(id);
        }
        self.wait_until_close(id).await?;
        let change = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        self.raft
            .change_membership(change, true)
            .await
            .map_err(admin_error)?;
        Ok(id)
    }

    /// Waits until a learner's log is close to the leader's.
    async fn wait_until_close(&self, id: u64) -> Result<(), AdminError> {
        let deadline = Instant::now() + CATCH_UP_PATIENCE;
        loop {
            let (last, matched) = {
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow_watched();
                let matched = metrics
                    .replication
                    .as_ref()
                    .and_then(|all| all.get(&id).copied())
                    .flatten();
                (metrics.last_log_index.unwrap_or(0), matched.index())
            };
            let lag = last.saturating_sub(matched.unwrap_or(0));
            if matched.is_some() && lag <= PROMOTION_LAG {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(AdminError::Refused(match matched {
                    Some(_) => format!(
                        "node {id} is {lag} entries behind, at most {PROMOTION_LAG} are allowed: try again later"
                    ),
                    None => format!("node {id} has not been reached yet: is it running?"),
                }));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn remove(&self, id: u64) -> Result<u64, AdminError> {
        match self.state.standing(id) {
            Standing::Member(_) => {}
            Standing::Removed => return Ok(id),
            Standing::Unknown => return Err(AdminError::Refused(format!("node {id} is no member"))),
        }
        let membership = self.state.membership();
        let membership = membership.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        if voters.contains(&id) {
            if voters.len() == 1 {
                return Err(AdminError::Refused(format!(
                    "node {id} is the last voter: add another first"
                )));
            }
            let change = ChangeMembers::RemoveVoters(BTreeSet::from([id]));
            self.raft
                .change_membership(change, false)
                .await
                .map_err(admin_error)?;
        } else {
            let change = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
            self.raft
                .change_membership(change, false)
                .await
                .map_err(admin_error)?;
        }
        Ok(id)
    }

    /// Hands leadership to `to`, or to the voter whose disk is well and whose log is furthest, then the next.
    pub(crate) async fn transfer(&self, to: Option<u64>) -> Result<u64, AdminError> {
        let me = self.options.node_id;
        let membership = self.state.membership();
        let voters: BTreeSet<u64> = membership.membership().voter_ids().collect();
        let candidates = match to {
            Some(id) if id == me => return Ok(me),
            Some(id) if !voters.contains(&id) => {
                return Err(AdminError::Refused(format!(
                    "node {id} is no voter, so it cannot lead"
                )));
            }
            Some(id) => {
                if self.fitness(&voters, Some(id)).await.get(&id) == Some(&FULL) {
                    let text = format!("the disk of node {id} is full, so it must not lead");
                    return Err(AdminError::Refused(text));
                }
                vec![id]
            }
            None => {
                let fitness = self.fitness(&voters, None).await;
                let mut candidates = self.voters_by_progress(&voters);
                // Those that do not answer come last.
                candidates.sort_by_key(|id| fitness.get(id).copied().unwrap_or(u32::MAX));
                candidates
            }
        };
        self.transfer_to_one_of(candidates).await
    }

    /// Hands leadership to a voter whose disk is better off than this node's, which has this rank; `None`: there is none, or this node
    /// does not lead any more.
    pub(crate) async fn step_aside(&self, rank: u32) -> Option<Result<u64, AdminError>> {
        let _one_at_a_time = self.admin.lock().await;
        let membership = self.state.membership();
        let voters: BTreeSet<u64> = membership.membership().voter_ids().collect();
        let fitness = self.fitness(&voters, None).await;
        let mut candidates = self.voters_by_progress(&voters);
        candidates.retain(|id| fitness.get(id).is_some_and(|other| *other < rank));
        candidates.sort_by_key(|id| fitness.get(id).copied());
        if candidates.is_empty() || !self.leads() {
            return None;
        }
        Some(self.transfer_to_one_of(candidates).await)
    }

    /// How fit these voters, or one of them, are to lead, as far as they say in time; without this node.
    async fn fitness(&self, voters: &BTreeSet<u64>, only: Option<u64>) -> BTreeMap<u64, u32> {
        let membership = self.state.membership();
        let others = membership.membership().nodes().filter(|(id, _)| {
            **id != self.options.node_id && voters.contains(*id) && only.is_none_or(|only| only == **id)
        });
        let asked = others.map(|(id, member)| async move {
            let mut client = self.peers.client(*id, member, Lane::Heartbeat).ok()?;
            let answer = client.fitness(pb::FitnessRequest {});
            let answer = tokio::time::timeout(FITNESS_TIMEOUT, answer).await.ok()?.ok()?;
            Some((*id, answer.into_inner().disk))
        });
        let answers = futures::future::join_all(asked).await;
        answers.into_iter().flatten().collect()
    }

    async fn transfer_to_one_of(&self, candidates: Vec<u64>) -> Result<u64, AdminError> {
        let me = self.options.node_id;
        if candidates.is_empty() {
            return Err(AdminError::Refused("there is no other voter".into()));
        }
        let mut leader = self.leader.subscribe();
        for id in candidates {
            self.raft
                .trigger()
                .transfer_leader(id)
                .await
                .map_err(|fatal| AdminError::Unknown(fatal.to_string()))?;
            let deadline = Instant::now() + TRANSFER_PATIENCE;
            let changed = leader.wait_for(|leader| leader.as_ref().is_some_and(|(id, _)| *id != me));
            if let Ok(Ok(known)) = tokio::time::timeout_at(deadline, changed).await {
                return Ok(known.as_ref().map_or(id, |(id, _)| *id));
            }
        }
        Err(AdminError::Unknown(
            "no voter took over in time; an election may be under way".into(),
        ))
    }

    fn voters_by_progress(&self, voters: &BTreeSet<u64>) -> Vec<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let progress = metrics.replication.clone().unwrap_or_else(BTreeMap::new);
        let mut others: Vec<_> = voters
            .iter()
            .copied()
            .filter(|id| *id != self.options.node_id)
            .collect();
        others.sort_by_key(|id| std::cmp::Reverse(progress.get(id).copied().flatten()));
        others
    }
}

fn admin_error(error: WriteError) -> AdminError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => AdminError::NoLeader,
        // Another change is on its way: the caller tries again until its deadline.
        RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(
            _,
        ))) => AdminError::NoLeader,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            AdminError::Refused(error.to_string())
        }
        error => AdminError::Unknown(error.to_string()),
    }
}
