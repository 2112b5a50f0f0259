//! What an operator does with the nodes: any node is asked, whoever leads.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;
use std::net::TcpListener;

use tonic::Code;

use brama_node::Node;
use brama_node::config::{Override, Sources, load};
use brama_proto::v1;
use common::{Cluster, Refused, STOP_WITHIN, name, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_votes_leads_and_leaves() {
    let cluster = Cluster::start().await;
    cluster.register(0, &name("known"), v1::Policy::default()).await;

    // Every node knows the cluster.
    let mut leaders = BTreeSet::new();
    for i in 0..3 {
        let status = status(&cluster, i).await;
        assert_eq!(ids(&status.members), [1, 2, 3]);
        assert!(status.members.iter().all(|member| member.voter));
        assert!(status.has_quorum);
        let header = status.header.clone().unwrap();
        assert_eq!(header.node_id, i as u64 + 1);
        assert_eq!(header.cluster_id.len(), 32);
        assert_eq!(status.state_hash.len(), 16);
        assert_eq!(status.circuits, 1);
        assert_eq!(status.oldest_revision, 1);
        let leads = status.role() == v1::Role::Leader;
        assert_eq!(leads, status.leader_id == Some(header.node_id));
        leaders.extend(status.leader_id);
    }
    assert_eq!(leaders.len(), 1, "all name the same leader: {leaders:?}");

    // A new node asks to be let in, and becomes a learner; saying so again through a follower changes nothing.
    let joined = Joined::start(&cluster).await;
    let follower = (cluster.leader().await + 1) % 3;
    within("node 4 is a learner", async {
        while !ids(&status(&cluster, follower).await.members).contains(&4) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let request = v1::AddLearnerRequest {
        node_id: 4,
        peer_address: joined.peer.clone(),
        client_address: String::new(),
    };
    let answer = cluster.cluster(follower).add_learner(request.clone()).await;
    let members = answer.unwrap().into_inner().members;
    assert_eq!(voters(&members), [1, 2, 3]);
    assert_eq!(ids(&members), [1, 2, 3, 4]);

    // It is made a voter, gets leadership, and serves.
    for _ in 0..2 {
        let request = v1::PromoteRequest { node_id: 4 };
        let answer = cluster.cluster(follower).promote(request).await.unwrap();
        assert_eq!(voters(&answer.into_inner().members), [1, 2, 3, 4]);
    }
    let to = |node_id| v1::TransferLeaderRequest { node_id };
    let answer = cluster
        .cluster(follower)
        .transfer_leader(to(Some(4)))
        .await
        .unwrap();
    assert_eq!(answer.into_inner().leader_id, 4);
    cluster
        .register(follower, &name("under node 4"), v1::Policy::default())
        .await;
    joined.node.ready().await;
    let seen = joined.node.replica().read(|machine| machine.circuit_count());
    assert_eq!(seen, 2);

    // Leadership goes back to whom it is furthest with, and the node goes for good.
    let answer = cluster.cluster(follower).transfer_leader(to(None)).await.unwrap();
    assert_ne!(answer.into_inner().leader_id, 4);
    for _ in 0..2 {
        let request = v1::RemoveRequest { node_id: 4 };
        let answer = within("node 4 is removed", cluster.cluster(follower).remove(request)).await;
        assert_eq!(ids(&answer.unwrap().into_inner().members), [1, 2, 3]);
    }
    let refused = Refused::new(Code::FailedPrecondition, "REFUSED", None);
    let again = cluster.cluster(follower).add_learner(request).await.unwrap_err();
    assert_eq!(
        Refused::of(&again),
        refused,
        "its id is never used again: {again:?}"
    );
    joined.node.stop(STOP_WITHIN).await;

    // What cannot be is refused, and says why.
    for i in 0..3 {
        let mut client = cluster.cluster(i);
        let promote = v1::PromoteRequest { node_id: 9 };
        assert_eq!(Refused::of(&client.promote(promote).await.unwrap_err()), refused);
        let remove = v1::RemoveRequest { node_id: 9 };
        assert_eq!(Refused::of(&client.remove(remove).await.unwrap_err()), refused);
        assert_eq!(
            Refused::of(&client.transfer_leader(to(Some(9))).await.unwrap_err()),
            refused
        );
        let zero = Refused::invalid("node_id");
        let promote = v1::PromoteRequest { node_id: 0 };
        assert_eq!(Refused::of(&client.promote(promote).await.unwrap_err()), zero);
        let remove = v1::RemoveRequest { node_id: 0 };
        assert_eq!(Refused::of(&client.remove(remove).await.unwrap_err()), zero);
        assert_eq!(
            Refused::of(&client.transfer_leader(to(Some(0))).await.unwrap_err()),
            zero
        );
        let learner = |node_id, peer_address: &str| v1::AddLearnerRequest {
            node_id,
            peer_address: peer_address.to_owned(),
            ..Default::default()
        };
        assert_eq!(
            Refused::of(&client.add_learner(learner(0, "127.0.0.1:1")).await.unwrap_err()),
            zero
        );
        assert_eq!(
            Refused::of(&client.add_learner(learner(5, "")).await.unwrap_err()),
            Refused::invalid("peer_address")
        );
        assert_eq!(ids(&status(&cluster, i).await.members), [1, 2, 3]);
    }
    cluster.stop().await;
}

/// A fourth node, which nobody was told of.
struct Joined {
    node: Node,
    peer: String,
    _data: tempfile::TempDir,
}

impl Joined {
    async fn start(cluster: &Cluster) -> Self {
        let members = status(cluster, 0).await.members;
        let seeds: Vec<_> = members.iter().map(|member| &*member.peer_address).collect();
        let data = tempfile::tempdir().unwrap();
        let port = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (client, peer) = (port(), port());
        let address = |port: TcpListener| port.local_addr().unwrap().to_string();
        let (client, peer) = (address(client), address(peer));
        let settings = [
            ("node.id", "4".to_owned()),
            ("node.data_dir", data.path().join("node4").display().to_string()),
            ("node.client_listen", client),
            ("node.peer_listen", peer.clone()),
            ("cluster.join", seeds.join(",")),
        ];
        let flags = settings.map(|(key, value)| Override {
            key: key.to_owned(),
            value,
            flag: "of the test".to_owned(),
        });
        let sources = Sources {
            flags: flags.into(),
            ..Default::default()
        };
        let config = load(&sources).unwrap().config;
        Self {
            node: Node::start(config).await.unwrap(),
            peer,
            _data: data,
        }
    }
}

async fn status(cluster: &Cluster, i: usize) -> v1::ClusterStatusResponse {
    let request = v1::ClusterStatusRequest {};
    cluster.cluster(i).status(request).await.unwrap().into_inner()
}

fn ids(members: &[v1::Member]) -> Vec<u64> {
    let ids: BTreeSet<u64> = members.iter().map(|member| member.node_id).collect();
    ids.into_iter().collect()
}

fn voters(members: &[v1::Member]) -> Vec<u64> {
    let voters: Vec<_> = members.iter().filter(|member| member.voter).cloned().collect();
    ids(&voters)
}
