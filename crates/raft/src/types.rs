//! The types with which this crate uses openraft.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use brama_core::reply::Answer;

openraft::declare_raft_types!(
    /// Brama's instance of openraft. Leader ids are the standard ones of Raft: one leader a term.
    pub TypeConfig:
        D = Payload,
        R = Answers,
        NodeId = u64,
        Node = Member,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);

pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
pub(crate) type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub(crate) type RpcError = openraft::errors::RPCError<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;

/// What a normal log entry holds: a [`brama_core::Batch`] as the core's codec writes it. Encoded once, by the leader, and shared from
/// then on; decoded where it is applied.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload(pub Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What came of an entry.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answers {
    /// One a command, in order.
    pub answers: Vec<Answer>,
    /// The newest revision after the entry.
    pub revision: u64,
}

/// A member of the cluster, as the membership in the log knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where nodes reach it, `host:port`.
    pub peer_address: String,
    /// Where clients reach it, `host:port`.
    pub client_address: String,
    /// Drawn when its data directory was made: a wiped node does not pass for its former self.
    pub incarnation: Incarnation,
}

/// A random 128-bit id of a data directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation(pub u128);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.peer_address)
    }
}
