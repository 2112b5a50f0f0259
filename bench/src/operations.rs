//! The single operations: a report, a put, a read.

use brama_proto::v1;
use brama_proto::v1::consistency::Level;

use crate::lane::Lane;
use crate::load::Operation;
use crate::pb::etcd;

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
    pub(crate) lanes: Vec<Lane>,
    /// How many circuits share the load.
    pub(crate) circuits: u64,
}

impl Operation for Failure {
    async fn run(&self, worker: usize, turn: u64) -> Result<(), String> {
        let lane = &self.lanes[worker % self.lanes.len()];
        let request = v1::FailureRequest {
            name: Some(circuit(pick(worker, turn, self.circuits))),
            ..Default::default()
        };
        lane.call::<v1::OutcomeResponse>("/brama.v1.Circuits/Failure", &request)
            .await
            .map(drop)
    }
}

/// `Status` of one circuit.
#[derive(Clone)]
pub(crate) struct Look {
    pub(crate) lanes: Vec<Lane>,
    pub(crate) linearizable: bool,
}

impl Operation for Look {
    async fn run(&self, worker: usize, turn: u64) -> Result<(), String> {
        let lane = &self.lanes[worker % self.lanes.len()];
        let level = if self.linearizable {
            Level::Linearizable(true)
        } else {
            Level::Local(true)
        };
        let request = v1::StatusRequest {
            name: Some(circuit(pick(worker, turn, MANY))),
            consistency: Some(v1::Consistency { level: Some(level) }),
        };
        lane.call::<v1::StatusResponse>("/brama.v1.Circuits/Status", &request)
            .await
            .map(drop)
    }
}

/// A put of etcd.
#[derive(Clone)]
pub(crate) struct Put {
    pub(crate) lanes: Vec<Lane>,
}

impl Operation for Put {
    async fn run(&self, worker: usize, turn: u64) -> Result<(), String> {
        let lane = &self.lanes[worker % self.lanes.len()];
        let request = etcd::PutRequest {
            key: key(pick(worker, turn, MANY)),
            value: vec![b'v'; VALUE_BYTES],
        };
        lane.call::<etcd::PutResponse>("/etcdserverpb.KV/Put", &request)
            .await
            .map(drop)
    }
}

/// A get of etcd.
#[derive(Clone)]
pub(crate) struct Get {
    pub(crate) lanes: Vec<Lane>,
    pub(crate) serializable: bool,
}

impl Operation for Get {
    async fn run(&self, worker: usize, turn: u64) -> Result<(), String> {
        let lane = &self.lanes[worker % self.lanes.len()];
        let request = etcd::RangeRequest {
            key: key(pick(worker, turn, MANY)),
            serializable: self.serializable,
        };
        lane.call::<etcd::RangeResponse>("/etcdserverpb.KV/Range", &request)
            .await
            .map(drop)
    }
}

/// A counter in etcd that all share: read, compare and put, again until it was not changed meanwhile. What a breaker on etcd does for
/// each report.
#[derive(Clone)]
pub(crate) struct Increment {
    pub(crate) lanes: Vec<Lane>,
}

impl Operation for Increment {
    async fn run(&self, worker: usize, _: u64) -> Result<(), String> {
        let lane = &self.lanes[worker % self.lanes.len()];
        let key = b"bench/counter".to_vec();
        loop {
            let get = etcd::RangeRequest {
                key: key.clone(),
                ..Default::default()
            };
            let found: etcd::RangeResponse = lane.call("/etcdserverpb.KV/Range", &get).await?;
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
            let done: etcd::TxnResponse = lane.call("/etcdserverpb.KV/Txn", &transaction).await?;
            if done.succeeded {
                return Ok(());
            }
        }
    }
}

/// Spreads workers over the names, each going its own way.
fn pick(worker: usize, turn: u64, of: u64) -> u64 {
    (worker as u64 * 7919 + turn * 104_729) % of
}
