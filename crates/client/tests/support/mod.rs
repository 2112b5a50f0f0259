//! Three real nodes in one process, each behind a link that a test can cut.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a test may panic, its modules are its own, and each test file uses some of this"
)]

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use brama_client::{Client, ClientBuilder, Policy};
use brama_node::Node;
use brama_node::config::{Config, Override, Sources, load};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long a test waits for what must happen at once on a healthy machine.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// What a node may take to stop.
const STOP_WITHIN: Duration = Duration::from_millis(4500);

/// Three nodes, and a link to each.
pub struct Cluster {
    configs: Vec<Config>,
    nodes: Vec<Option<Node>>,
    links: Vec<Link>,
    _data: TempDir,
}

impl Cluster {
    pub async fn start() -> Self {
        // A port that was free may be taken by somebody else before the node listens at it.
        for _ in 0..3 {
            let data = tempfile::tempdir().unwrap();
            let configs = configs(&data);
            let mut nodes = Vec::new();
            for config in &configs {
                match Node::start(config.clone()).await {
                    Ok(node) => nodes.push(Some(node)),
                    Err(error) => {
                        eprintln!("trying other ports: {error}");
                        break;
                    }
                }
            }
            let cluster = Self {
                links: nodes
                    .iter()
                    .flatten()
                    .map(|node| Link::to(node.client_address()))
                    .collect(),
                configs,
                nodes,
                _data: data,
            };
            if cluster.nodes.len() < 3 {
                cluster.stop().await;
                continue;
            }
            for node in cluster.nodes.iter().flatten() {
                within("a node is ready", node.ready()).await;
            }
            return cluster;
        }
        panic!("no free ports, three times");
    }

    /// A client that begins with node `i` and knows the others.
    pub fn client(&self, i: usize) -> Client {
        self.settings(i).connect_lazy().unwrap()
    }

    /// What [`Cluster::client`] is made of.
    pub fn settings(&self, i: usize) -> ClientBuilder {
        let endpoints = (0..3).map(|n| self.links[(i + n) % 3].address.to_string());
        let builder = Client::builder().endpoints(endpoints).begin_with_first();
        builder.timeout(PATIENCE)
    }

    /// The number of the node that leads.
    pub async fn leader(&self) -> usize {
        let leads = |node: &Node| node.replica().leadership().borrow().term.is_some();
        within("somebody leads", async {
            loop {
                for (i, node) in self.nodes.iter().enumerate() {
                    if node.as_ref().is_some_and(leads) {
                        return i;
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    pub fn link(&self, i: usize) -> &Link {
        &self.links[i]
    }

    pub async fn down(&mut self, i: usize) {
        if let Some(node) = self.nodes[i].take() {
            node.stop(STOP_WITHIN).await;
        }
    }

    pub async fn up(&mut self, i: usize) {
        let node = Node::start(self.configs[i].clone()).await.unwrap();
        self.nodes[i] = Some(node);
    }

    pub async fn stop(mut self) {
        let nodes: Vec<Node> = self.nodes.iter_mut().filter_map(Option::take).collect();
        futures::future::join_all(nodes.iter().map(|node| node.stop(STOP_WITHIN))).await;
    }
}

/// A TCP proxy to one node, whose connections can be cut, or made to lose what comes back.
pub struct Link {
    address: SocketAddr,
    /// Counts up with each cut: a connection made before it ends.
    cuts: watch::Sender<u64>,
    /// Answers still to be lost: the request arrives, the connection breaks when its answer comes back.
    lose: Arc<AtomicU64>,
    /// While true nothing passes, and nothing breaks: as if the node were stopped by a signal.
    frozen: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Link {
    fn to(node: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let cuts = watch::Sender::new(0);
        let lose = Arc::new(AtomicU64::new(0));
        let mut task = JoinSet::new();
        let frozen = watch::Sender::new(false);
        task.spawn(serve(listener, node, cuts.clone(), lose.clone(), frozen.clone()));
        Self {
            address,
            cuts,
            lose,
            frozen,
            _task: task,
        }
    }

    /// Breaks every connection there is; new ones may be made.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// From now on nothing passes, and nothing breaks.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// What waited passes.
    pub fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    /// The next thing that a node sends back breaks its connection instead of arriving.
    pub fn lose_an_answer(&self) {
        self.lose.store(1, Ordering::SeqCst);
    }

    /// Whether [`Link::lose_an_answer`] has happened.
    pub fn has_lost_it(&self) -> bool {
        self.lose.load(Ordering::SeqCst) == 0
    }
}

async fn serve(
    listener: TcpListener,
    node: SocketAddr,
    cuts: watch::Sender<u64>,
    lose: Arc<AtomicU64>,
    frozen: watch::Sender<bool>,
) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let mut cut = cuts.subscribe();
        let lose = lose.clone();
        let frozen = frozen.subscribe();
        connections.spawn(async move {
            let Ok(far) = TcpStream::connect(node).await else {
                return;
            };
            tokio::select! {
                _ = cut.changed() => {}
                () = forward(near, far, &lose, frozen) => {}
            }
        });
    }
}

async fn forward(near: TcpStream, far: TcpStream, lose: &AtomicU64, frozen: watch::Receiver<bool>) {
    let thawed = async |frozen: &watch::Receiver<bool>| {
        let _ = frozen.clone().wait_for(|frozen| !frozen).await;
    };
    let (mut near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = far.into_split();
    let back = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = far_read.read(&mut buffer).await {
            // A frame of a few bytes is HTTP/2 talking to itself.
            if n > 30
                && lose
                    .compare_exchange(1, 0, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok()
            {
                return;
            }
            thawed(&frozen).await;
            if near_write.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    let forth = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = near_read.read(&mut buffer).await {
            thawed(&frozen).await;
            if far_write.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = forth => {}
        () = back => {}
    }
}

/// A policy that opens at the first failure, for so long.
pub fn fragile(expiry: Duration) -> Policy {
    Policy {
        max_attempts: Some(1),
        expiry: Some(brama_client::Expiry::Ms(expiry.as_millis() as u64)),
        ..Policy::default()
    }
}

/// What `future` gives, which must be soon.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

fn configs(data: &TempDir) -> Vec<Config> {
    let held: Vec<_> = (0..6)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let ports: Vec<_> = held.iter().map(|held| held.local_addr().unwrap()).collect();
    let members = format!("1={},2={},3={}", ports[3], ports[4], ports[5]);
    let config = |i: usize| {
        let folder = data.path().join(format!("node{}", i + 1));
        let settings = [
            ("node.id", (i + 1).to_string()),
            ("node.data_dir", folder.display().to_string()),
            ("node.client_listen", ports[i].to_string()),
            ("node.peer_listen", ports[i + 3].to_string()),
            ("cluster.members", members.clone()),
        ];
        let flags = settings.map(|(key, value)| Override {
            key: key.to_owned(),
            value,
            flag: "of the test".to_owned(),
        });
        let sources = Sources {
            file: None,
            flags: flags.to_vec(),
            environment: Vec::new(),
        };
        load(&sources).expect("a good configuration").config
    };
    (0..3).map(config).collect()
}
