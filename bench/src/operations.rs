//! The single operations: a report, a put, a read.

use brama_proto::v1;
use brama_proto::v1::circuits_client::CircuitsClient;
use brama_proto::v1::consistency::Level;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::load::Operation;
use crate::pb::etcd;
use crate::pb::etcd::kv_client::KvClient;

/// Circuits, and keys, that load is spread over.
pub(crate) const MANY: u64 = 10_000;
/// Bytes of a value in etcd.
const VALUE_BYTES: usize = 64;

/// The name of a circuit.
pub(crate) fn circuit(n: u64) -> v1::CircuitName {
    v1::CircuitName {
        scope: Some("bench".into()),
        identifier: format!("circuit-{n}"),
    }
}

/// The key of etcd that stands for it.
pub(crate) fn key(n: u64) -> Vec<u8> {
    format!("bench/circuit-{n}").into_bytes()
}

/// `Failure` of one circuit.
#[derive(Clone)]
pub(crate) struct Failure {
    pub(crate) channels: Vec<Channel>,
    /// How many circuits share the load.
    pub(crate) circuits: u64,
}

impl Operation for Failure {
    async fn run(&self, worker: usize, turn: u64) -> Result<(), String> {
        let mut client = CircuitsClient::new(self.channels[worker % self.channels.len()].clone());
        let request = v1::FailureRequest {
            name: Some(circuit(pick(worker, turn, self.circuits))),
            ..Default::default()
        };
        client.failure(request).await.map(|_| ()).map_err(text)
    }
}

/// `Status` of one circuit.
#[derive(Clone)]
pub(crate) struct Look {
    pub(crate) channels: Vec<Channel>,
    pub(crate) linearizable: bool,
}

impl Operation for Look {
    async fn run(&self, worker: usize, turn: u64) -> Result<(), String> {
        let mut client = CircuitsClient::new(self.channels[worker % self.channels.len()].clone());
        let level = if self.linearizable {
            Level::Linearizable(true)
        } else {
            Level::Local(true)
        };
        let request = v1::StatusRequest {
            name: Some(circuit(pick(worker, turn, MANY))),
            consistency: Some(v1::Consistency { level: Some(level) }),
        };
        client.status(request).await.map(|_| ()).map_err(text)
    }
}

/// A put of etcd.
#[derive(Clone)]
pub(crate) struct Put {
    pub(crate) channels: Vec<Channel>,
}

impl Operation for Put {
    async fn run(&self, worker: usize, turn: u64) -> Result<(), String> {
        let mut client = KvClient::new(self.channels[worker % self.channels.len()].clone());
        let request = etcd::PutRequest {
            key: key(pick(worker, turn, MANY)),
            value: vec![b'v'; VALUE_BYTES],
        };
        client.put(request).await.map(|_| ()).map_err(text)
    }
}

/// A get of etcd.
#[derive(Clone)]
pub(crate) struct Get {
    pub(crate) channels: Vec<Channel>,
    pub(crate) serializable: bool,
}

impl Operation for Get {
    async fn run(&self, worker: usize, turn: u64) -> Result<(), String> {
        let mut client = KvClient::new(self.channels[worker % self.channels.len()].clone());
        let request = etcd::RangeRequest {
            key: key(pick(worker, turn, MANY)),
            serializable: self.serializable,
        };
        client.range(request).await.map(|_| ()).map_err(text)
    }
}

/// A counter in etcd that all share: read, compare and put, again until it was not changed meanwhile. What a breaker on etcd does for
/// each report.
#[derive(Clone)]
pub(crate) struct Increment {
    pub(crate) channels: Vec<Channel>,
}

impl Operation for Increment {
    async fn run(&self, worker: usize, _: u64) -> Result<(), String> {
        let mut client = KvClient::new(self.channels[worker % self.channels.len()].clone());
        let key = b"bench/counter".to_vec();
        loop {
            let get = etcd::RangeRequest {
                key: key.clone(),
                ..Default::default()
            };
            let found = client.range(get).await.map_err(text)?.into_inner();
            let (revision, count) = found.kvs.first().map_or((0, 0), |kv| {
                let count = String::from_utf8_lossy(&kv.value).parse().unwrap_or(0_u64);
                (kv.mod_revision, count)
            });
            let put = etcd::PutRequest {
                key: key.clone(),
                value: (count + 1).to_string().into_bytes(),
            };
            let transaction = etcd::TxnRequest {
                compare: vec![etcd::Compare {
                    target: etcd::compare::CompareTarget::Mod.into(),
                    key: key.clone(),
                    mod_revision: revision,
                }],
                success: vec![etcd::RequestOp {
                    request_put: Some(put),
                }],
            };
            if client
                .txn(transaction)
                .await
                .map_err(text)?
                .into_inner()
                .succeeded
            {
                return Ok(());
            }
        }
    }
}

/// Spreads workers over the names, each going its own way.
fn pick(worker: usize, turn: u64, of: u64) -> u64 {
    (worker as u64 * 7919 + turn * 104_729) % of
}

fn text(status: Status) -> String {
    match status.code() {
        Code::Unknown | Code::Internal => format!("{status:?}"),
        code => format!("{code:?}: {}", status.message()),
    }
}
