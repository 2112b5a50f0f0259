//! Three real nodes in one process, each with its own data directory and ports, and clients that talk to them as anybody would.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a test may panic, its modules are its own, and each test file uses some of this"
)]

pub mod http;
pub mod scrape;

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use brama_node::Node;
use brama_node::config::{Config, Override, Sources, load};
use brama_node::lifecycle::StartError;
use brama_proto::v1;
use v1::circuits_client::CircuitsClient;
use v1::cluster_client::ClusterClient;
use v1::events_client::EventsClient;

/// How long a test waits for what must happen at once on a healthy machine.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// What a node may take to stop.
pub const STOP_WITHIN: Duration = Duration::from_millis(4500);

/// Three nodes under test.
pub struct Cluster {
    configs: Vec<Config>,
    nodes: Vec<Option<Node>>,
    channels: Vec<Channel>,
    data: TempDir,
}

impl Cluster {
    /// Three nodes with built-in settings, ready and led.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Three nodes with these settings, ready and led.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_from("", settings).await
    }

    /// Three nodes that read this file, with these settings over it, ready and led.
    pub async fn start_from(file: &str, settings: &[(&str, &str)]) -> Self {
        // A port that was free may be taken by somebody else before the node listens at it.
        for _ in 0..3 {
            let data = tempfile::tempdir().unwrap();
            let configs = configs(data.path(), file, settings);
            match start_all(&configs).await {
                Ok(nodes) => {
                    let channels = nodes.iter().map(|node| channel(node.client_address())).collect();
                    let nodes = nodes.into_iter().map(Some).collect();
                    let cluster = Self {
                        configs,
                        nodes,
                        channels,
                        data,
                    };
                    cluster.ready().await;
                    return cluster;
                }
                Err(error) => eprintln!("trying other ports: {error}"),
            }
        }
        panic!("no free ports, three times");
    }

    /// Waits until every node that is up serves, and one of them leads.
    pub async fn ready(&self) {
        for node in self.nodes.iter().flatten() {
            within("the node is ready", node.ready()).await;
        }
        self.leader().await;
    }

    /// The place of the node that leads, once one does.
    pub async fn leader(&self) -> usize {
        let leads = |node: &Node| node.replica().leadership().borrow().term.is_some();
        within("a leader", async {
            loop {
                let leader = self
                    .nodes
                    .iter()
                    .position(|node| node.as_ref().is_some_and(leads));
                match leader {
                    Some(leader) => return leader,
                    None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        })
        .await
    }

    /// A node that is up.
    pub fn node(&self, i: usize) -> &Node {
        self.nodes[i].as_ref().expect("the node is up")
    }

    pub fn circuits(&self, i: usize) -> CircuitsClient<Channel> {
        CircuitsClient::new(self.channels[i].clone()).max_decoding_message_size(64 << 20)
    }

    /// On a connection of its own, as subscriptions should be.
    pub fn events(&self, i: usize) -> EventsClient<Channel> {
        EventsClient::new(channel(self.configs[i].node.client_listen))
    }

    pub fn cluster(&self, i: usize) -> ClusterClient<Channel> {
        ClusterClient::new(self.channels[i].clone())
    }

    /// Stops a node in good order.
    pub async fn down(&mut self, i: usize) {
        if let Some(node) = self.nodes[i].take() {
            node.stop(STOP_WITHIN).await;
        }
    }

    /// Starts a node again, with the data that it has.
    pub async fn up(&mut self, i: usize) {
        let node = Node::start(self.configs[i].clone()).await.unwrap();
        self.channels[i] = channel(node.client_address());
        self.nodes[i] = Some(node);
    }

    pub async fn stop(mut self) {
        // Together: a node that is the last of its cluster has nobody to hand over to.
        let nodes: Vec<Node> = self.nodes.iter_mut().filter_map(Option::take).collect();
        futures::future::join_all(nodes.iter().map(|node| node.stop(STOP_WITHIN))).await;
    }

    /// The circuit as a linearizable read on node `i` shows it.
    pub async fn status(&self, i: usize, name: &v1::CircuitName) -> v1::Circuit {
        let request = v1::StatusRequest {
            name: Some(name.clone()),
            consistency: None,
        };
        let answer = self.circuits(i).status(request).await.unwrap().into_inner();
        answer.circuit.unwrap()
    }

    /// The newest revision, as a linearizable read on node `i` shows it.
    pub async fn revision(&self, i: usize) -> u64 {
        let request = v1::GetConfigRequest::default();
        let answer = self.circuits(i).get_config(request).await.unwrap().into_inner();
        answer.header.unwrap().revision
    }

    /// Registers a circuit through node `i`.
    pub async fn register(&self, i: usize, name: &v1::CircuitName, policy: v1::Policy) -> v1::Circuit {
        let request = v1::RegisterRequest {
            name: Some(name.clone()),
            policy: Some(policy),
            ..Default::default()
        };
        let answer = self.circuits(i).register(request).await.unwrap().into_inner();
        assert!(answer.created, "{name:?} was there already");
        answer.circuit.unwrap()
    }

    /// One failed call, reported at face value through node `i`.
    pub async fn fail(&self, i: usize, name: &v1::CircuitName) -> v1::OutcomeResponse {
        let request = v1::FailureRequest {
            name: Some(name.clone()),
            ..Default::default()
        };
        self.circuits(i).failure(request).await.unwrap().into_inner()
    }

    /// One successful call, reported at face value through node `i`.
    pub async fn succeed(&self, i: usize, name: &v1::CircuitName) -> v1::OutcomeResponse {
        let request = v1::SuccessRequest {
            name: Some(name.clone()),
            ..Default::default()
        };
        self.circuits(i).success(request).await.unwrap().into_inner()
    }

    /// Opens a circuit by hand through node `i`, for the policy's time.
    pub async fn open(&self, i: usize, name: &v1::CircuitName) -> v1::Circuit {
        let request = v1::OpenCircuitRequest {
            name: Some(name.clone()),
            ..Default::default()
        };
        let answer = self.circuits(i).open_circuit(request).await.unwrap().into_inner();
        answer.circuit.unwrap()
    }

    /// Asks node `i` for admission.
    pub async fn acquire(&self, i: usize, name: &v1::CircuitName) -> v1::AcquireResponse {
        let request = v1::AcquireRequest {
            name: Some(name.clone()),
            permit_id: Vec::new(),
        };
        self.circuits(i).acquire(request).await.unwrap().into_inner()
    }

    /// Waits until a circuit is in `state`, asking node `i`, and returns it.
    pub async fn until(&self, i: usize, name: &v1::CircuitName, state: v1::State) -> v1::Circuit {
        within(&format!("{name:?} is {state:?}"), async {
            loop {
                let circuit = self.status(i, name).await;
                if circuit.state() == state {
                    return circuit;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

/// A circuit's name without a scope.
pub fn name(identifier: &str) -> v1::CircuitName {
    v1::CircuitName {
        scope: None,
        identifier: identifier.to_owned(),
    }
}

/// A circuit's name in a scope.
pub fn scoped(scope: &str, identifier: &str) -> v1::CircuitName {
    v1::CircuitName {
        scope: Some(scope.to_owned()),
        identifier: identifier.to_owned(),
    }
}

pub fn ms(ms: u64) -> v1::Expiry {
    v1::Expiry {
        kind: Some(v1::expiry::Kind::Ms(ms)),
    }
}

pub fn never() -> v1::Expiry {
    v1::Expiry {
        kind: Some(v1::expiry::Kind::Never(true)),
    }
}

pub fn local() -> v1::Consistency {
    v1::Consistency {
        level: Some(v1::consistency::Level::Local(true)),
    }
}

pub fn at_least(revision: u64) -> v1::Consistency {
    v1::Consistency {
        level: Some(v1::consistency::Level::AtLeast(revision)),
    }
}

/// A policy that opens at the first failure, for so long.
pub fn fragile(expiry: v1::Expiry) -> v1::Policy {
    v1::Policy {
        max_attempts: Some(1),
        expiry: Some(expiry),
        ..Default::default()
    }
}

/// Microseconds since 1970.
pub fn micros(time: &prost_types::Timestamp) -> i64 {
    time.seconds * 1_000_000 + i64::from(time.nanos) / 1000
}

/// What a program sees of an error: the code, the reason, and the field that has to be mended.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: Code,
    pub reason: String,
    pub field: Option<String>,
}

impl Refused {
    pub fn of(status: &Status) -> Self {
        let info = status
            .get_details_error_info()
            .unwrap_or_else(|| panic!("an error without a reason: {status:?}"));
        assert_eq!(info.domain, "brama", "{status:?}");
        let fields: Vec<String> = status
            .get_details_bad_request()
            .map(|bad| bad.field_violations)
            .unwrap_or_default()
            .into_iter()
            .map(|violation| {
                assert!(!violation.description.is_empty(), "{status:?}");
                violation.field
            })
            .collect();
        assert!(fields.len() <= 1, "{status:?}");
        let field = fields.into_iter().next();
        assert_eq!(
            info.metadata.get("field"),
            field.as_ref(),
            "the two ways to learn of a field agree: {status:?}"
        );
        Self {
            code: status.code(),
            reason: info.reason,
            field,
        }
    }

    pub fn new(code: Code, reason: &str, field: Option<&str>) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            field: field.map(str::to_owned),
        }
    }

    /// Of a value that is not allowed.
    pub fn invalid(field: &str) -> Self {
        Self::new(Code::InvalidArgument, "INVALID_ARGUMENT", Some(field))
    }
}

/// What `future` gives, which must be soon.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

/// The next message of a stream, which must come soon and not be its end.
pub async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    within("the next message", stream.message())
        .await
        .map(|message| message.expect("the stream goes on"))
}

/// What a subscriber was told, message by message.
pub struct Subscriber {
    stream: Streaming<v1::SubscribeResponse>,
    /// Where to resume.
    pub cursor: String,
    /// The newest revision that an event or a progress message named.
    pub revision: u64,
}

impl Subscriber {
    /// Subscribes, and reads the first message, which is the position.
    pub async fn new(
        mut client: EventsClient<Channel>,
        request: v1::SubscribeRequest,
    ) -> Result<Self, Status> {
        let stream = client.subscribe(request).await?.into_inner();
        let mut subscriber = Self {
            stream,
            cursor: String::new(),
            revision: 0,
        };
        match subscriber.message().await? {
            v1::subscribe_response::Message::Progress(_) => Ok(subscriber),
            v1::subscribe_response::Message::Event(event) => {
                panic!("the first message is no position but {event:?}")
            }
        }
    }

    /// The next message. The revision rises with each event and never falls.
    pub async fn message(&mut self) -> Result<v1::subscribe_response::Message, Status> {
        use v1::subscribe_response::Message;
        let response = next(&mut self.stream).await?;
        let message = response.message.expect("a message says something");
        match &message {
            Message::Event(event) => {
                assert!(
                    event.revision > self.revision,
                    "{event:?} after {}",
                    self.revision
                );
                self.revision = event.revision;
            }
            Message::Progress(progress) => {
                assert!(progress.revision >= self.revision, "{progress:?}");
                self.revision = progress.revision;
            }
        }
        self.cursor = response.cursor;
        Ok(message)
    }

    /// The next event; progress messages are passed over.
    pub async fn event(&mut self) -> Result<v1::Event, Status> {
        loop {
            if let v1::subscribe_response::Message::Event(event) = self.message().await? {
                return Ok(event);
            }
        }
    }

    /// The next `count` events.
    pub async fn take(&mut self, count: usize) -> Vec<v1::Event> {
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            events.push(self.event().await.unwrap());
        }
        events
    }

    /// How the stream ends; what comes before that is passed over.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.message().await {
                return status;
            }
        }
    }

    /// That nothing but progress comes for so long.
    pub async fn silent_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Ok(message) = tokio::time::timeout_at(until, self.message()).await {
            if let v1::subscribe_response::Message::Event(event) = message.unwrap() {
                panic!("unexpected {event:?}");
            }
        }
    }
}

/// The configurations of three nodes at free ports.
fn configs(data: &Path, file: &str, settings: &[(&str, &str)]) -> Vec<Config> {
    let path = data.join("brama.toml");
    std::fs::write(&path, file).unwrap();
    let ports = free_ports(6);
    let members = format!("1={},2={},3={}", ports[3], ports[4], ports[5]);
    let config = |i: usize| {
        let own = [
            ("node.id", (i + 1).to_string()),
            (
                "node.data_dir",
                data.join(format!("node{}", i + 1)).display().to_string(),
            ),
            ("node.client_listen", ports[i].to_string()),
            ("node.peer_listen", ports[i + 3].to_string()),
            ("cluster.members", members.clone()),
        ];
        let more = settings.iter().map(|(key, value)| (*key, (*value).to_owned()));
        let flags = own
            .into_iter()
            .chain(more)
            .map(|(key, value)| Override {
                key: key.to_owned(),
                value,
                flag: "of the test".to_owned(),
            })
            .collect();
        let sources = Sources {
            file: Some(path.clone()),
            flags,
            environment: Vec::new(),
        };
        load(&sources).expect("a good configuration").config
    };
    (0..3).map(config).collect()
}

async fn start_all(configs: &[Config]) -> Result<Vec<Node>, StartError> {
    let mut nodes: Vec<Node> = Vec::new();
    for config in configs {
        match Node::start(config.clone()).await {
            Ok(node) => nodes.push(node),
            Err(error) => {
                for node in &nodes {
                    node.stop(STOP_WITHIN).await;
                }
                return Err(error);
            }
        }
    }
    Ok(nodes)
}

/// Held all at once, so that they differ.
fn free_ports(count: usize) -> Vec<SocketAddr> {
    let held: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    held.iter()
        .map(|listener| listener.local_addr().unwrap())
        .collect()
}

fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy()
}
