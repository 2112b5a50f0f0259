//! `brama.v1.Cluster`.

use tonic::{Request, Response, Status};

use brama_proto::v1;
use brama_proto::v1::cluster_server::Cluster;
use brama_raft::{ClusterStatus, Role};

use brama_proto::convert::timestamp;

use super::{Api, errors};

#[tonic::async_trait]
impl Cluster for Api {
    async fn status(
        &self,
        request: Request<v1::ClusterStatusRequest>,
    ) -> Result<Response<v1::ClusterStatusResponse>, Status> {
        Self::open(request)?;
        let status = self.replica.status();
        let (applied_index, hash) = self.replica.state_hash();
        let (circuits, sessions, revision, oldest_revision) = self.replica.read(|machine| {
            (
                machine.circuit_count(),
                machine.session_count(),
                machine.revision(),
                machine.oldest_revision(),
            )
        });
        Ok(Response::new(v1::ClusterStatusResponse {
            header: self.header(revision),
            cluster_name: self.cluster_name.to_string(),
            role: role(status.role).into(),
            term: status.term,
            leader_id: status.leader_id,
            has_quorum: status.has_quorum,
            last_log_index: status.last_log_index,
            committed_index: status.committed_index,
            applied_index,
            snapshot_index: status.snapshot_index,
            purged_index: status.purged_index,
            state_hash: format!("{hash:016x}"),
            cluster_time: Some(timestamp(self.replica.now())),
            members: self.members(&status),
            circuits,
            sessions,
            oldest_revision,
            subscribers: self.subscribers.count() as u64,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            agreement: Some(self.agreement()),
            voted_term: status.voted_term,
            voted_for: status.voted_for,
            vote_won: status.vote_won,
        }))
    }

    async fn add_learner(
        &self,
        request: Request<v1::AddLearnerRequest>,
    ) -> Result<Response<v1::MembershipResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        check_id(message.node_id)?;
        if message.peer_address.is_empty() {
            return Err(errors::invalid("peer_address", "must not be empty"));
        }
        self.replica
            .add_learner(
                message.node_id,
                message.peer_address,
                message.client_address,
                deadline,
            )
            .await
            .map_err(errors::admin)?;
        Ok(Response::new(self.membership()))
    }

    async fn promote(
        &self,
        request: Request<v1::PromoteRequest>,
    ) -> Result<Response<v1::MembershipResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        check_id(message.node_id)?;
        self.replica
            .promote(message.node_id, deadline)
            .await
            .map_err(errors::admin)?;
        Ok(Response::new(self.membership()))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveRequest>,
    ) -> Result<Response<v1::MembershipResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        check_id(message.node_id)?;
        self.replica
            .remove(message.node_id, deadline)
            .await
            .map_err(errors::admin)?;
        Ok(Response::new(self.membership()))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let (message, deadline) = Self::open(request)?;
        if let Some(id) = message.node_id {
            check_id(id)?;
        }
        let leader_id = self
            .replica
            .transfer_leader(message.node_id, deadline)
            .await
            .map_err(errors::admin)?;
        let revision = self.replica.read(|machine| machine.revision());
        Ok(Response::new(v1::TransferLeaderResponse {
            header: self.header(revision),
            leader_id,
        }))
    }
}

impl Api {
    fn membership(&self) -> v1::MembershipResponse {
        let revision = self.replica.read(|machine| machine.revision());
        v1::MembershipResponse {
            header: self.header(revision),
            members: self.members(&self.replica.status()),
        }
    }

    fn agreement(&self) -> v1::Agreement {
        let agreement = self.replica.agreement();
        v1::Agreement {
            compared_at: agreement.compared_at.map(timestamp),
            log_index: agreement.index,
            content_log_index: agreement.content_index,
            differences: agreement.differences,
        }
    }

    fn members(&self, status: &ClusterStatus) -> Vec<v1::Member> {
        let agreement = self.replica.agreement();
        let compared = |id| {
            agreement.members.get(&id).map(|compared| v1::Compared {
                equal: compared.equal,
                log_index: compared.index,
            })
        };
        status
            .members
            .iter()
            .map(|member| v1::Member {
                node_id: member.node_id,
                peer_address: member.peer_address.clone(),
                client_address: member.client_address.clone(),
                voter: member.voter,
                matched_index: member.matched_index,
                compared: compared(member.node_id),
            })
            .collect()
    }
}

fn check_id(id: u64) -> Result<(), Status> {
    if id == 0 {
        Err(errors::invalid("node_id", "must not be 0"))
    } else {
        Ok(())
    }
}

fn role(role: Role) -> v1::Role {
    match role {
        Role::Leader => v1::Role::Leader,
        Role::Follower => v1::Role::Follower,
        Role::Candidate => v1::Role::Candidate,
        Role::Learner => v1::Role::Learner,
    }
}
