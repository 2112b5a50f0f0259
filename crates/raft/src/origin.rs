//! How a node with a new data directory becomes part of a cluster.
//!
//! **Making one.** Every listed member starts empty. The one with the lowest id asks all the others who they are, draws a cluster id, and
//! starts a log whose first membership names each member with its incarnation. If one of them belongs to a cluster
//! already, then this node was a member of it and lost its data: it refuses, because a wiped voter that came back under its old id
//! could vote twice.
//!
//! **Joining one.** The node asks a running node to add it as a learner, until it was added.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use brama_core::command::ClusterId;
use brama_proto::internal as pb;
use brama_proto::internal::peer_client::PeerClient;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::inner::Inner;
use crate::options::Origin;
use crate::types::{Incarnation, Member};

const CALL_TIMEOUT: Duration = Duration::from_secs(1);
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// How often the log says what a node is waiting for.
const SAY_EVERY: u32 = 25;

/// Who answered at an address.
pub(crate) struct Acquaintance {
    pub(crate) node_id: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) client_address: String,
}

/// Asks whoever listens at `address` who they are.
///
/// # Errors
/// A text that says why there is no answer.
pub(crate) async fn hello(node: &Inner, address: &str) -> Result<Acquaintance, String> {
    let mut client = node
        .peers
        .stranger(address)
        .map_err(|error| format!("{address} is no address: {error}"))?;
    say_hello(&mut client)
        .await
        .map_err(|error| format!("{address} does not answer: {error}"))
}

async fn say_hello(client: &mut PeerClient<Channel>) -> Result<Acquaintance, String> {
    let response = tokio::time::timeout(CALL_TIMEOUT, client.hello(pb::HelloRequest {}))
        .await
        .map_err(|_| "it takes too long".to_owned())?
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    let id = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map(u128::from_be_bytes);
    Ok(Acquaintance {
        node_id: response.node_id,
        incarnation: Incarnation(id(&response.incarnation).map_err(|_| "it has no incarnation".to_owned())?),
        cluster: id(&response.cluster_id).ok().map(ClusterId),
        client_address: response.client_address,
    })
}

/// Makes or joins a cluster, if this node is in none. Ends when it is, or when the node stops.
pub(crate) async fn run(node: Arc<Inner>) {
    match node.raft.is_initialized().await {
        Ok(false) => {}
        Ok(true) | Err(_) => return,
    }
    let mut tries = 0_u32;
    loop {
        let outcome = match &node.options.origin {
            Origin::Bootstrap { members, .. } => make(&node, members).await,
            Origin::Join { seeds } => join(&node, seeds).await,
        };
        match outcome {
            Ok(true) => return,
            Ok(false) => {}
            Err(problem) if tries.is_multiple_of(SAY_EVERY) => {
                tracing::info!("not part of a cluster yet: {problem}")
            }
            Err(_) => {}
        }
        tries = tries.wrapping_add(1);
        tokio::select! {
            () = node.stop.cancelled() => return,
            () = tokio::time::sleep(RETRY_EVERY) => {}
        }
        if node.raft.is_initialized().await.unwrap_or(true) {
            return;
        }
    }
}

/// True: done. False: somebody else's job, or this node has been told to stop.
async fn make(node: &Inner, members: &[(u64, String)]) -> Result<bool, String> {
    let me = node.options.node_id;
    if members.iter().any(|(id, _)| *id < me) {
        return Ok(false);
    }
    let mut nodes = BTreeMap::new();
    for (id, address) in members {
        if *id == me {
            let member = Member {
                peer_address: address.clone(),
                client_address: node.options.client_address.clone(),
                incarnation: node.incarnation,
            };
            nodes.insert(me, member);
            continue;
        }
        let other = hello(node, address)
            .await
            .map_err(|problem| format!("waiting for member {id}: {problem}"))?;
        if other.node_id != *id {
            return Err(format!(
                "{address} should be member {id}, but says it is node {}",
                other.node_id
            ));
        }
        if let Some(cluster) = other.cluster
            && node.peers.cluster() != Some(cluster)
        {
            node.fail(wiped(
                node,
                &format!("member {id} belongs to cluster {cluster} already"),
            ));
            return Ok(false);
        }
        let member = Member {
            peer_address: address.clone(),
            client_address: other.client_address,
            incarnation: other.incarnation,
        };
        nodes.insert(*id, member);
    }
    // First the id, then the log: if this node dies in between, it goes on with the same id.
    let cluster = node.peers.cluster().unwrap_or_else(|| ClusterId(rand::random()));
    node.adopt(cluster).await?;
    tracing::info!(%cluster, members = nodes.len(), "making a new cluster");
    node.raft
        .initialize(nodes)
        .await
        .map_err(|error| error.to_string())?;
    Ok(true)
}

/// What to do about a member without its data.
pub(crate) fn wiped(node: &Inner, evidence: &str) -> String {
    let me = node.options.node_id;
    format!(
        "{evidence}, but this node's data directory is new. A member that lost its data must not come back under its old id, \
         because it could vote twice: remove it (`brama cluster remove {me}`), give it a new id, and let it join (`cluster.join`)"
    )
}

/// True: done.
async fn join(node: &Inner, seeds: &[String]) -> Result<bool, String> {
    let mut problem = "cluster.join names no node".to_owned();
    for seed in seeds {
        match join_through(node, seed).await {
            Ok(()) => return Ok(true),
            Err(error) => problem = error,
        }
    }
    Err(problem)
}

async fn join_through(node: &Inner, seed: &str) -> Result<(), String> {
    let other = hello(node, seed).await?;
    let Some(cluster) = other.cluster else {
        return Err(format!("{seed} belongs to no cluster itself"));
    };
    node.adopt(cluster).await?;
    let member = Member {
        peer_address: seed.to_owned(),
        client_address: String::new(),
        incarnation: other.incarnation,
    };
    let mut client = node
        .peers
        .client(other.node_id, &member, crate::peers::Lane::Forward)
        .map_err(|error| format!("{seed} is no address: {error}"))?;
    let change = pb::MembershipChange {
        kind: pb::membership_change::Kind::AddLearner.into(),
        node_id: node.options.node_id,
        peer_address: node.options.peer_address.clone(),
        client_address: node.options.client_address.clone(),
    };
    let request = pb::forward_request::Request::Membership(change);
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let sent = sender
        .send(pb::ForwardRequest {
            id: 1,
            request: Some(request),
        })
        .await;
    sent.map_err(|_| "the request could not be sent".to_owned())?;
    let mut answers = client
        .forward(ReceiverStream::new(receiver))
        .await
        .map_err(|status| format!("{seed} refuses: {}", status.message()))?
        .into_inner();
    let answer = tokio::time::timeout(Duration::from_secs(15), answers.message())
        .await
        .map_err(|_| format!("{seed} takes too long"))?
        .map_err(|status| format!("{seed} refuses: {}", status.message()))?;
    match answer.and_then(|answer| answer.response) {
        Some(pb::forward_response::Response::MembershipDone(_)) => Ok(()),
        Some(pb::forward_response::Response::Refused(refused)) => {
            Err(format!("{seed} refuses: {}", refused.message))
        }
        Some(pb::forward_response::Response::NotLeader(_)) => Err(format!("{seed} knows no leader")),
        _ => Err(format!("{seed} does not say what became of it")),
    }
}
