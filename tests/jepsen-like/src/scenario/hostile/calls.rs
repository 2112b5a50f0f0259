//! What is wrong inside of calls: messages that cannot be read, or are too long, or say what no one may say; and on the port for nodes, callers that are none.

use std::net::SocketAddr;
use std::time::Duration;

use brama_proto::internal::HelloRequest;
use brama_proto::internal::peer_client::PeerClient;
use brama_proto::v1;
use bytes::{Buf, BufMut};
use rand::Rng;
use rand::rngs::StdRng;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::wire::noise;
use crate::rpc::Nodes;

const WITHIN: Duration = Duration::from_secs(5);
/// Twice what a request may be.
const TOO_LONG: usize = 2 * 1024 * 1024;

/// Methods of the port for clients that change something if they are understood.
const CLIENTS: [&str; 23] = [
    "brama.v1.Circuits/Register",
    "brama.v1.Circuits/Unregister",
    "brama.v1.Circuits/Configure",
    "brama.v1.Circuits/GetConfig",
    "brama.v1.Circuits/Status",
    "brama.v1.Circuits/List",
    "brama.v1.Circuits/Available",
    "brama.v1.Circuits/Acquire",
    "brama.v1.Circuits/Report",
    "brama.v1.Circuits/ReportStream",
    "brama.v1.Circuits/Success",
    "brama.v1.Circuits/Failure",
    "brama.v1.Circuits/OpenCircuit",
    "brama.v1.Circuits/CloseCircuit",
    "brama.v1.Circuits/ResetCircuit",
    "brama.v1.Events/Subscribe",
    "brama.v1.Events/Watch",
    "brama.v1.Cluster/Status",
    "brama.v1.Cluster/AddLearner",
    "brama.v1.Cluster/Promote",
    "brama.v1.Cluster/Remove",
    "brama.v1.Cluster/TransferLeader",
    "brama.v1.Cluster/None",
];
/// Methods of the port for nodes.
const NODES: [&str; 9] = [
    "brama.internal.v1.Peer/Vote",
    "brama.internal.v1.Peer/PreVote",
    "brama.internal.v1.Peer/InstallSnapshot",
    "brama.internal.v1.Peer/TransferLeader",
    "brama.internal.v1.Peer/Clock",
    "brama.internal.v1.Peer/Compare",
    "brama.internal.v1.Peer/Fitness",
    "brama.internal.v1.Peer/Hello",
    "brama.internal.v1.Peer/None",
];

/// A call that a node refused as it must, or what it said instead.
pub(super) type Said = Result<(), String>;

/// A message that no method can read, or one that is too long.
pub(super) async fn unreadable(channel: Channel, rng: &mut StdRng) -> Said {
    let method = CLIENTS[rng.random_range(0..CLIENTS.len())];
    let payload = if rng.random_bool(0.1) {
        vec![0; TOO_LONG]
    } else {
        garbage(rng)
    };
    refused(method, call(channel, method, payload, MetadataMap::new()).await)
}

/// The same on the port for nodes, from nobody, from another cluster, and from one who knows what a node would say.
pub(super) async fn foreign(channel: Channel, rng: &mut StdRng) -> Said {
    let method = NODES[rng.random_range(0..NODES.len())];
    let card = match rng.random_range(0..3) {
        0 => MetadataMap::new(),
        1 => card(&[7; 16], 1, &[9; 16]),
        _ => {
            let mut client = PeerClient::new(channel.clone());
            let asked = tokio::time::timeout(WITHIN, client.hello(HelloRequest {}));
            match asked.await {
                Ok(Ok(hello)) => {
                    let hello = hello.into_inner();
                    card(&hello.cluster_id, hello.node_id, &hello.incarnation)
                }
                other => return Err(format!("Hello: {other:?}")),
            }
        }
    };
    refused(method, call(channel, method, garbage(rng), card).await)
}

/// Messages that can be read, and must be refused before the log.
pub(super) async fn senseless(nodes: &Nodes, node: usize, rng: &mut StdRng) -> Said {
    let long = "x".repeat(256);
    let wrong = [
        String::new(),
        long,
        "a\nb".into(),
        "\u{0}".into(),
        "\u{7f}".into(),
    ];
    let wrong = wrong[rng.random_range(0..wrong.len())].clone();
    let name = |identifier: &str| {
        Some(v1::CircuitName {
            scope: None,
            identifier: identifier.to_owned(),
        })
    };
    let item = || v1::ReportItem {
        name: name("hostile"),
        outcomes: vec![v1::Outcome::Failure.into()],
        ..Default::default()
    };
    let mut circuits = nodes.circuits(node);
    let (what, answered) = match rng.random_range(0..10) {
        0 => {
            let request = v1::RegisterRequest {
                name: name(&wrong),
                ..Default::default()
            };
            ("a name", circuits.register(request).await.map(drop))
        }
        1 => {
            let request = v1::RegisterRequest {
                name: name("hostile"),
                metadata: (0..33).map(|n| (n.to_string(), String::new())).collect(),
                ..Default::default()
            };
            (
                "33 entries of metadata",
                circuits.register(request).await.map(drop),
            )
        }
        2 => {
            let request = v1::RegisterRequest {
                name: name("hostile"),
                policy: Some(v1::Policy {
                    max_attempts: Some(0),
                    backoff_factor: Some(f64::NAN),
                    ..Default::default()
                }),
                ..Default::default()
            };
            ("a policy", circuits.register(request).await.map(drop))
        }
        3 => {
            let request = v1::ReportRequest {
                session: None,
                items: (0..1001).map(|_| item()).collect(),
            };
            ("1,001 items", circuits.report(request).await.map(drop))
        }
        4 => {
            let request = v1::ReportRequest {
                session: Some(v1::Session {
                    id: vec![1; 15],
                    sequence: 0,
                }),
                items: vec![item()],
            };
            ("a session", circuits.report(request).await.map(drop))
        }
        5 => {
            let request = v1::ListRequest {
                page_token: "\u{1F525}".repeat(100),
                page_size: u32::MAX,
                ..Default::default()
            };
            ("a page", circuits.list(request).await.map(drop))
        }
        6 => {
            let filter = format!("{}true{}", "(".repeat(400), ")".repeat(400));
            let request = v1::SubscribeRequest {
                filter,
                ..Default::default()
            };
            (
                "a deep filter",
                nodes.events(node).subscribe(request).await.map(drop),
            )
        }
        7 => {
            let request = v1::SubscribeRequest {
                filter: r#"event.reason.matches("(a*)*(b*)*(c*){1000}$")"#.repeat(20),
                ..Default::default()
            };
            (
                "a long filter",
                nodes.events(node).subscribe(request).await.map(drop),
            )
        }
        8 => {
            let cursor = hex::encode(noise(rng, 64));
            let request = v1::SubscribeRequest {
                from: Some(v1::subscribe_request::From::After(cursor)),
                ..Default::default()
            };
            ("a cursor", nodes.events(node).subscribe(request).await.map(drop))
        }
        _ => {
            let request = v1::OpenCircuitRequest {
                name: name("hostile"),
                expiry: Some(crate::circuits::expiry(0)),
                reason: Some("x".repeat(1025)),
            };
            ("an opening", circuits.open_circuit(request).await.map(drop))
        }
    };
    match answered {
        Ok(()) => Err(format!("{what} that no one may send was taken")),
        Err(status) => refusal(what, &status),
    }
}

/// Any refusal is right but one that says that the node has a problem of its own.
fn refused(method: &str, answered: Result<(), Status>) -> Said {
    match answered {
        Ok(()) => Err(format!("{method} took a message that cannot be read")),
        // This is how tonic says that a message cannot be read.
        Err(status) if status.code() == Code::Internal && status.message().contains("decode") => Ok(()),
        Err(status) => refusal(method, &status),
    }
}

fn refusal(what: &str, status: &Status) -> Said {
    match status.code() {
        Code::Unknown | Code::Internal | Code::DataLoss => Err(format!("{what}: {status:?}")),
        _ => Ok(()),
    }
}

async fn call(channel: Channel, method: &str, payload: Vec<u8>, card: MetadataMap) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel);
    let asked = async {
        client
            .ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let path = format!("/{method}")
            .parse()
            .map_err(|_| Status::invalid_argument("a path"))?;
        let mut request = Request::new(payload);
        *request.metadata_mut() = card;
        client.unary(request, path, Raw).await.map(drop)
    };
    match tokio::time::timeout(WITHIN, asked).await {
        Ok(answered) => answered,
        Err(_) => Err(Status::deadline_exceeded("no answer")),
    }
}

/// What nodes show one another.
fn card(cluster: &[u8], to: u64, incarnation: &[u8]) -> MetadataMap {
    let mut map = MetadataMap::new();
    let entries = [
        ("brama-cluster", hex::encode(cluster)),
        ("brama-from", "2".to_owned()),
        ("brama-to", to.to_string()),
        ("brama-incarnation", hex::encode(incarnation)),
    ];
    for (key, value) in entries {
        if let Ok(value) = value.parse() {
            map.insert(key, value);
        }
    }
    map
}

/// Bytes that are no message of any kind: the last field ends after the end.
fn garbage(rng: &mut StdRng) -> Vec<u8> {
    // A field that is longer than the message.
    let too_long = vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f];
    match rng.random_range(0..3) {
        0 => too_long,
        // A name that is no UTF-8.
        1 => [vec![0x0a, 4, 0x12, 2, 0xff, 0xfe], too_long].concat(),
        // The other way round, the noise could be a field that nobody knows and that has the rest in it.
        _ => [too_long, noise(rng, 256)].concat(),
    }
}

/// Sends bytes as they are.
#[derive(Clone, Copy, Debug)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length).to_vec()))
    }
}

/// A connection of its own, as a stranger would make it.
///
/// # Errors
/// When it is no address.
pub(super) fn stranger(address: SocketAddr) -> anyhow::Result<Channel> {
    Ok(crate::rpc::endpoint(address)?.connect_lazy())
}
