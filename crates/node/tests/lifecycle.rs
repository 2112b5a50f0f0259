//! A node's beginning and end: health, hand-over, deadlines, limits on connections.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use brama_node::Node;
use brama_node::config::{Config, Override, Sources, load};
use brama_node::lifecycle::StartError;
use brama_proto::v1;
use brama_proto::v1::circuits_client::CircuitsClient;
use brama_proto::v1::events_client::EventsClient;

/// What a node promises for SIGTERM, less what the process needs for itself.
const STOP_WITHIN: Duration = Duration::from_millis(4500);
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_recovery_and_majority() {
    let data = tempfile::tempdir().expect("a directory");
    let configs = cluster(data.path(), &[]);

    // Alone, a node of three lives and does not serve.
    let first = Node::start(configs[0].clone()).await.expect("started");
    tokio::time::sleep(Duration::from_secs(1)).await;
    for service in ["", "brama.v1.Circuits", "brama.v1.Events"] {
        assert_eq!(
            health(&first, service).await,
            ServingStatus::NotServing,
            "{service:?}"
        );
    }

    // With the others it does.
    let second = Node::start(configs[1].clone()).await.expect("started");
    let third = Node::start(configs[2].clone()).await.expect("started");
    let nodes = [first, second, third];
    for node in &nodes {
        timeout(PATIENCE, node.ready()).await.expect("ready");
        until(node, ServingStatus::Serving).await;
    }

    // Without them it no longer does.
    let [first, second, third] = nodes;
    second.stop(STOP_WITHIN).await;
    third.stop(STOP_WITHIN).await;
    until(&first, ServingStatus::NotServing).await;
    first.stop(STOP_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_hands_over_and_refuses_nothing_it_has_taken() {
    let data = tempfile::tempdir().expect("a directory");
    let nodes = start(cluster(data.path(), &[])).await;
    let leader = nodes
        .iter()
        .position(|node| node.replica().leadership().borrow().term.is_some());
    let leader = leader.expect("one of them leads");
    let others: Vec<&Node> = nodes
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != leader)
        .map(|(_, node)| node)
        .collect();

    // Somebody writes through the leader until it is gone; what fails after that must not be lost, but refused.
    let mut client = CircuitsClient::new(channel(&nodes[leader]).await);
    let writer = tokio::spawn(async move {
        let mut registered: Vec<String> = Vec::new();
        loop {
            let identifier = format!("c{}", registered.len());
            let name = Some(v1::CircuitName {
                scope: None,
                identifier: identifier.clone(),
            });
            match client
                .register(v1::RegisterRequest {
                    name,
                    ..Default::default()
                })
                .await
            {
                Ok(_) => registered.push(identifier),
                Err(status) => return (registered, status),
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;

    let begin = Instant::now();
    nodes[leader].stop(STOP_WITHIN).await;
    assert!(
        begin.elapsed() < STOP_WITHIN,
        "stopped after {:?}",
        begin.elapsed()
    );
    let (registered, refused) = timeout(PATIENCE, writer)
        .await
        .expect("it ends")
        .expect("no panic");
    assert!(!registered.is_empty());
    assert_ne!(refused.code(), tonic::Code::DeadlineExceeded, "{refused}");

    // The next leader is there at once: an election would take at least half a second.
    let begin = Instant::now();
    let mut client = CircuitsClient::new(channel(others[0]).await);
    for identifier in registered {
        let name = Some(v1::CircuitName {
            scope: None,
            identifier: identifier.clone(),
        });
        let status = client
            .status(v1::StatusRequest {
                name,
                consistency: None,
            })
            .await;
        status.unwrap_or_else(|status| panic!("{identifier} was acknowledged and is lost: {status}"));
    }
    assert!(
        begin.elapsed() < Duration::from_millis(400),
        "a linearizable read took {:?}",
        begin.elapsed()
    );
    for node in others {
        node.stop(STOP_WITHIN).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_the_advice_to_resume_elsewhere() {
    let data = tempfile::tempdir().expect("a directory");
    let nodes = start(cluster(data.path(), &[])).await;
    let mut client = EventsClient::new(channel(&nodes[0]).await);
    let mut events = client
        .subscribe(v1::SubscribeRequest::default())
        .await
        .expect("a stream")
        .into_inner();
    events
        .message()
        .await
        .expect("open")
        .expect("progress comes first");

    let begin = Instant::now();
    nodes[0].stop(STOP_WITHIN).await;
    let end = loop {
        match timeout(PATIENCE, events.message()).await.expect("it ends") {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), tonic::Code::Unavailable, "{end}");
    assert!(
        tonic_types::StatusExt::get_error_details(&end)
            .error_info()
            .is_some_and(|info| info.reason == "RESUME_ELSEWHERE"),
        "{end:?}"
    );
    // Nothing had to be cut: the connection is closed as soon as its streams have ended.
    assert!(
        begin.elapsed() < Duration::from_millis(1500),
        "stopped after {:?}",
        begin.elapsed()
    );
    for node in &nodes[1..] {
        node.stop(STOP_WITHIN).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_its_stream_is_cut_and_the_node_can_start_again() {
    let data = tempfile::tempdir().expect("a directory");
    let config = alone(data.path(), &[]);
    let node = Node::start(config.clone()).await.expect("started");
    timeout(PATIENCE, node.ready()).await.expect("ready");
    // Health's own stream is one that the node does not end.
    let mut client = HealthClient::new(channel(&node).await);
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let mut watch = client.watch(request).await.expect("a stream").into_inner();
    let serving = |answer: Option<HealthCheckResponse>| answer.expect("an answer").status();
    assert_eq!(
        serving(watch.message().await.expect("open")),
        ServingStatus::Serving
    );

    let begin = Instant::now();
    node.stop(STOP_WITHIN).await;
    assert!(
        begin.elapsed() < STOP_WITHIN,
        "stopped after {:?}",
        begin.elapsed()
    );
    // It was told that the node is out of health before anything else, and then cut off.
    assert_eq!(
        serving(watch.message().await.expect("open")),
        ServingStatus::NotServing
    );
    timeout(PATIENCE, watch.message())
        .await
        .expect("it ends")
        .expect_err("cut");

    drop(node);
    let again = Node::start(config)
        .await
        .expect("the directory and the ports are free again");
    timeout(PATIENCE, again.ready()).await.expect("ready");
    again.stop(STOP_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_closed_at_once_and_places_come_back() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Node::start(alone(data.path(), &[("limits.max_connections", "2")]))
        .await
        .expect("started");
    let connect = async || {
        TcpStream::connect(node.client_address())
            .await
            .expect("accepted by the system")
    };
    let first = connect().await;
    let mut second = connect().await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    let mut third = connect().await;
    let read = timeout(PATIENCE, third.read(&mut [0; 64]))
        .await
        .expect("closed at once");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    let nothing = timeout(Duration::from_millis(200), second.read(&mut [0; 64])).await;
    assert!(
        !matches!(nothing, Ok(Ok(0) | Err(_))),
        "those within the limit stay open: {nothing:?}"
    );

    drop(first);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut fourth = connect().await;
    let nothing = timeout(Duration::from_millis(200), fourth.read(&mut [0; 64])).await;
    assert!(
        !matches!(nothing, Ok(Ok(0) | Err(_))),
        "a place came back: {nothing:?}"
    );
    node.stop(STOP_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_port_is_taken_leaves_nothing_running() {
    let data = tempfile::tempdir().expect("a directory");
    let config = alone(data.path(), &[]);
    let taken = TcpListener::bind(config.node.client_listen).expect("the port is free");
    let error = match Node::start(config.clone()).await {
        Ok(_) => panic!("two processes listen at one port"),
        Err(error) => error,
    };
    assert!(
        matches!(&error, StartError::Listen { address, .. } if *address == config.node.client_listen),
        "{error}"
    );
    drop(taken);
    let node = Node::start(config)
        .await
        .expect("the port for nodes and the directory are free");
    node.stop(STOP_WITHIN).await;
}

/// The configurations of three nodes at free ports.
fn cluster(data: &Path, more: &[(&str, &str)]) -> Vec<Config> {
    let ports = free_ports(6);
    let members = format!("1={},2={},3={}", ports[3], ports[4], ports[5]);
    (1..=3)
        .map(|id| config(id, ports[id - 1], ports[id + 2], &members, data, more))
        .collect()
}

/// The configuration of a cluster of one.
fn alone(data: &Path, more: &[(&str, &str)]) -> Config {
    let ports = free_ports(2);
    config(1, ports[0], ports[1], &format!("1={}", ports[1]), data, more)
}

fn config(
    id: usize,
    client: SocketAddr,
    peer: SocketAddr,
    members: &str,
    data: &Path,
    more: &[(&str, &str)],
) -> Config {
    let directory = data.join(format!("node{id}")).display().to_string();
    let (id, client, peer) = (id.to_string(), client.to_string(), peer.to_string());
    let own = [
        ("node.id", id.as_str()),
        ("node.data_dir", &directory),
        ("node.client_listen", &client),
        ("node.peer_listen", &peer),
        ("cluster.members", members),
    ];
    let flag = |(key, value): &(&str, &str)| Override {
        key: key.to_string(),
        value: value.to_string(),
        flag: "of the test".to_owned(),
    };
    let flags = own.iter().chain(more).map(flag).collect();
    load(&Sources {
        flags,
        ..Default::default()
    })
    .expect("a good configuration")
    .config
}

fn free_ports(count: usize) -> Vec<SocketAddr> {
    let held: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"))
        .collect();
    held.iter()
        .map(|listener| listener.local_addr().expect("an address"))
        .collect()
}

/// Three nodes, ready.
async fn start(configs: Vec<Config>) -> Vec<Node> {
    let mut nodes = Vec::new();
    for config in configs {
        nodes.push(Node::start(config).await.expect("started"));
    }
    for node in &nodes {
        timeout(PATIENCE, node.ready()).await.expect("ready");
    }
    // A leader acts only once it has applied what was before its term.
    let led = async {
        while !nodes
            .iter()
            .any(|node| node.replica().leadership().borrow().term.is_some())
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, led).await.expect("a leader");
    nodes
}

async fn channel(node: &Node) -> Channel {
    let target = format!("http://{}", node.client_address());
    Endpoint::from_shared(target)
        .expect("a target")
        .connect()
        .await
        .expect("connected")
}

async fn health(node: &Node, service: &str) -> ServingStatus {
    let mut client = HealthClient::new(channel(node).await);
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    client
        .check(request)
        .await
        .expect("an answer")
        .into_inner()
        .status()
}

async fn until(node: &Node, status: ServingStatus) {
    let same = async {
        while health(node, "brama.v1.Circuits").await != status {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, same)
        .await
        .unwrap_or_else(|_| panic!("health never became {status:?}"));
}
