//! Commands for operators: who is there, and who is a member.

use std::io::Write;

use brama_proto::v1;
use clap::{Args, Subcommand};
use futures::future::join_all;

use super::remote::{Miss, Remote, Repeat, client};
use super::{errors, print_json, text};
use crate::exit::Outcome;

/// `brama cluster ..`
#[derive(Subcommand, Debug)]
pub(crate) enum Cluster {
    /// Ask every endpoint what it knows of itself and of the cluster
    Status(Ask),
    /// Add a running node as a learner: it gets the log, and has no vote
    AddLearner(AddLearner),
    /// Make a learner that has caught up a voter
    Promote(Node),
    /// Remove a node for good: its id is never used again
    Remove(Node),
    /// Hand leadership to another voter
    TransferLeader(Transfer),
}

#[derive(Args, Debug)]
pub(crate) struct Ask {
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub(crate) struct AddLearner {
    /// Its node.id
    #[arg(value_name = "NODE")]
    node_id: u64,
    /// Where nodes reach it (its node.peer_address)
    #[arg(value_name = "PEER_ADDRESS")]
    peer_address: String,
    /// Where clients reach it (its node.client_address)
    #[arg(value_name = "CLIENT_ADDRESS")]
    client_address: String,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub(crate) struct Node {
    /// Its node.id
    #[arg(value_name = "NODE")]
    node_id: u64,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Args, Debug)]
pub(crate) struct Transfer {
    /// The node that shall lead; without it, the one that is furthest
    #[arg(value_name = "NODE")]
    node_id: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

pub(crate) async fn run(command: Cluster) -> Outcome {
    match command {
        Cluster::Status(args) => status(&args.remote).await,
        Cluster::AddLearner(args) => {
            let request = v1::AddLearnerRequest {
                node_id: args.node_id,
                peer_address: args.peer_address,
                client_address: args.client_address,
            };
            let send = async |channel, request| {
                client!(cluster_client::ClusterClient, channel)
                    .add_learner(request)
                    .await
            };
            members(
                &args.remote,
                &args.remote.call(Repeat::IfNotDone, request, send).await?,
            )
        }
        Cluster::Promote(args) => {
            let request = v1::PromoteRequest {
                node_id: args.node_id,
            };
            let send = async |channel, request| {
                client!(cluster_client::ClusterClient, channel)
                    .promote(request)
                    .await
            };
            members(
                &args.remote,
                &args.remote.call(Repeat::IfNotDone, request, send).await?,
            )
        }
        Cluster::Remove(args) => {
            let request = v1::RemoveRequest {
                node_id: args.node_id,
            };
            let send = async |channel, request| {
                client!(cluster_client::ClusterClient, channel)
                    .remove(request)
                    .await
            };
            members(
                &args.remote,
                &args.remote.call(Repeat::IfNotDone, request, send).await?,
            )
        }
        Cluster::TransferLeader(args) => {
            let request = v1::TransferLeaderRequest {
                node_id: args.node_id,
            };
            let send = async |channel, request| {
                client!(cluster_client::ClusterClient, channel)
                    .transfer_leader(request)
                    .await
            };
            let response = args.remote.call(Repeat::IfNotDone, request, send).await?;
            if args.remote.json {
                return print_json("TransferLeaderResponse", &response);
            }
            Ok(writeln!(std::io::stdout(), "node {} leads", response.leader_id)?)
        }
    }
}

async fn status(remote: &Remote) -> Outcome {
    let ask = async |endpoint: &String| {
        let send = async |channel, request| {
            client!(cluster_client::ClusterClient, channel)
                .status(request)
                .await
        };
        (
            endpoint.clone(),
            remote.call_at(endpoint, v1::ClusterStatusRequest {}, send).await,
        )
    };
    let answers = join_all(remote.endpoints.iter().map(ask)).await;
    let misses: Vec<Miss> = answers
        .iter()
        .filter_map(|(endpoint, answer)| Some((endpoint.clone(), answer.as_ref().err()?.clone())))
        .collect();
    if misses.len() == answers.len() {
        return Err(errors::unreachable(&misses));
    }
    if remote.json {
        for (_, answer) in &answers {
            if let Ok(status) = answer {
                print_json("ClusterStatusResponse", status)?;
            }
        }
    } else {
        print_status(&answers)?;
    }
    for (endpoint, problem) in &misses {
        eprintln!("warning: {endpoint} does not answer: {problem}");
    }
    Ok(())
}

fn print_status(answers: &[(String, Result<v1::ClusterStatusResponse, String>)]) -> Outcome {
    let mut out = std::io::stdout().lock();
    let reached: Vec<_> = answers
        .iter()
        .filter_map(|(at, answer)| Some((at, answer.as_ref().ok()?)))
        .collect();
    let known = reached
        .iter()
        .map(|(_, status)| *status)
        .max_by_key(|status| (status.has_quorum, status.term));
    if let Some(status) = known {
        let leader = match (status.leader_id, status.has_quorum) {
            (Some(leader), true) => format!("node {leader} leads"),
            _ => "no leader".to_owned(),
        };
        writeln!(
            out,
            "cluster {}: {leader}, {} circuits, {} sessions\n",
            status.cluster_name, status.circuits, status.sessions
        )?;
    }
    let mut table = text::table([
        "NODE",
        "CLIENTS",
        "ROLE",
        "TERM",
        "QUORUM",
        "APPLIED",
        "SNAPSHOT",
        "REVISION",
        "STATE HASH",
        "COMPARED",
        "SUBSCRIBERS",
    ]);
    for (endpoint, status) in reached {
        let header = status.header.clone().unwrap_or_default();
        table.add_row([
            header.node_id.to_string(),
            endpoint.clone(),
            role(status.role()).to_owned(),
            status.term.to_string(),
            if status.has_quorum { "yes" } else { "no" }.to_owned(),
            status.applied_index.to_string(),
            status.snapshot_index.to_string(),
            header.revision.to_string(),
            status.state_hash.clone(),
            compared_at(status),
            status.subscribers.to_string(),
        ]);
    }
    for line in text::lines(&table) {
        writeln!(out, "{line}")?;
    }
    if let Some(status) = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().ok())
        .max_by_key(|status| (status.role() == v1::Role::Leader, status.has_quorum, status.term))
    {
        writeln!(out)?;
        print_members(&mut out, &status.members)?;
    }
    Ok(())
}

/// The newest log index at which this node compared its state with another's.
fn compared_at(status: &v1::ClusterStatusResponse) -> String {
    match &status.agreement {
        Some(agreement) if agreement.compared_at.is_some() => {
            agreement.log_index.max(agreement.content_log_index).to_string()
        }
        _ => "-".to_owned(),
    }
}

fn members(remote: &Remote, response: &v1::MembershipResponse) -> Outcome {
    if remote.json {
        return print_json("MembershipResponse", response);
    }
    print_members(&mut std::io::stdout().lock(), &response.members)
}

fn print_members(out: &mut impl Write, members: &[v1::Member]) -> Outcome {
    let mut table = text::table(["MEMBER", "VOTE", "FOR NODES", "FOR CLIENTS", "ON DISK", "STATE"]);
    for member in members {
        table.add_row([
            member.node_id.to_string(),
            if member.voter { "voter" } else { "learner" }.to_owned(),
            member.peer_address.clone(),
            member.client_address.clone(),
            member
                .matched_index
                .map_or_else(|| "-".to_owned(), |index| index.to_string()),
            state(member),
        ]);
    }
    for line in text::lines(&table) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// What the node that was asked saw of a member's state.
fn state(member: &v1::Member) -> String {
    match &member.compared {
        Some(compared) if compared.equal => "equal".to_owned(),
        Some(compared) => format!("DIFFERS at {}", compared.log_index),
        None => "-".to_owned(),
    }
}

fn role(role: v1::Role) -> &'static str {
    match role {
        v1::Role::Unspecified => "-",
        v1::Role::Leader => "leader",
        v1::Role::Follower => "follower",
        v1::Role::Candidate => "candidate",
        v1::Role::Learner => "learner",
    }
}
