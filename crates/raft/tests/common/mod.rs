//! Replicas in one process, each with its own data directory, port and clocks.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test may panic, and its modules are its own"
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use brama_core::command::{Bootstrap, ClusterId, IfExists, Register};
use brama_core::limits::Limits;
use brama_core::policy::{GlobalOptions, Policy};
use brama_core::{CircuitName, Command, Metadata};
use brama_raft::environment::System;
use brama_raft::{Options, Origin, Replica, StartError, TimeSource, Timing};
use tempfile::TempDir;
use tokio::time::Instant;

/// The machine's clocks, with a wall clock that a test can set wrong.
pub struct Clocks {
    began: std::time::Instant,
    wall_is_off_ms: AtomicI64,
}

impl Clocks {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            began: std::time::Instant::now(),
            wall_is_off_ms: AtomicI64::new(0),
        })
    }

    #[allow(dead_code, reason = "not every test file jumps")]
    pub fn jump(&self, by_ms: i64) {
        self.wall_is_off_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

impl TimeSource for Clocks {
    fn monotonic(&self) -> Duration {
        self.began.elapsed()
    }

    fn wall(&self) -> Duration {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let off = self.wall_is_off_ms.load(Ordering::Relaxed);
        Duration::from_millis((wall.as_millis() as i64 + off).max(0) as u64)
    }
}

/// A cluster under test.
pub struct Cluster {
    pub folder: TempDir,
    pub clocks: Vec<Arc<Clocks>>,
    pub replicas: Vec<Option<Replica>>,
    ports: Vec<SocketAddr>,
    pub snapshot_every: u64,
    pub keep_entries: u64,
    pub compare_interval: Duration,
    /// Of each member.
    pub min_free_bytes: Vec<u64>,
}

#[allow(dead_code, reason = "each test file uses some of it")]
impl Cluster {
    /// Three members, started and led.
    pub async fn start() -> Self {
        Self::start_with(3, 10_000, 1000).await
    }

    pub async fn start_with(members: usize, snapshot_every: u64, keep_entries: u64) -> Self {
        Self::start_comparing(members, snapshot_every, keep_entries, Duration::from_secs(10)).await
    }

    pub async fn start_comparing(
        members: usize,
        snapshot_every: u64,
        keep_entries: u64,
        compare_interval: Duration,
    ) -> Self {
        let mut cluster = Self::prepare(members);
        cluster.snapshot_every = snapshot_every;
        cluster.keep_entries = keep_entries;
        cluster.compare_interval = compare_interval;
        cluster.up_all().await;
        cluster
    }

    /// Members that are not started yet.
    pub fn prepare(members: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports = (0..members).map(|_| free_port()).collect();
        let clocks = (0..members).map(|_| Clocks::new()).collect();
        Self {
            folder,
            clocks,
            replicas: vec![None; members],
            ports,
            snapshot_every: 10_000,
            keep_entries: 1000,
            compare_interval: Duration::from_secs(10),
            min_free_bytes: vec![0; members],
        }
    }

    /// Starts all members, and waits for a leader.
    pub async fn up_all(&mut self) {
        for i in 0..self.replicas.len() {
            self.up(i).await.unwrap();
        }
        self.leader().await;
    }

    pub fn data_dir(&self, i: usize) -> PathBuf {
        self.folder.path().join(format!("node{}", i + 1))
    }

    pub fn options(&self, i: usize, origin: Origin) -> Options {
        Options {
            node_id: i as u64 + 1,
            cluster_name: "test".into(),
            data_dir: self.data_dir(i),
            peer_listen: self.ports[i],
            peer_address: self.ports[i].to_string(),
            client_address: format!("127.0.0.1:{}", 7401 + i),
            origin,
            timing: Timing {
                election_min: Duration::from_millis(500),
                election_max: Duration::from_millis(1000),
                heartbeat: Duration::from_millis(100),
            },
            time: self.clocks[i].clone(),
            environment: Arc::new(System),
            snapshot_every: self.snapshot_every,
            keep_entries: self.keep_entries,
            compare_interval: self.compare_interval,
            min_free_bytes: self.min_free_bytes[i],
        }
    }

    pub fn origin(&self) -> Origin {
        let members = self
            .ports
            .iter()
            .enumerate()
            .map(|(i, port)| (i as u64 + 1, port.to_string()))
            .collect();
        let first = Bootstrap {
            cluster_id: ClusterId(0),
            defaults: Policy::default(),
            global_defaults: GlobalOptions::default(),
            limits: Limits::default(),
        };
        Origin::Bootstrap {
            members,
            first: Box::new(first),
        }
    }

    /// Starts a member, with the data that it has.
    pub async fn up(&mut self, i: usize) -> Result<(), StartError> {
        let replica = Replica::start(self.options(i, self.origin())).await?;
        self.replicas[i] = Some(replica);
        Ok(())
    }

    /// Starts a node that is not in the member list.
    pub async fn join(&mut self) -> usize {
        let i = self.replicas.len();
        let seeds = self.ports.iter().map(ToString::to_string).collect();
        self.ports.push(free_port());
        self.clocks.push(Clocks::new());
        self.min_free_bytes.push(0);
        let replica = Replica::start(self.options(i, Origin::Join { seeds }))
            .await
            .unwrap();
        self.replicas.push(Some(replica));
        i
    }

    /// Stops a member in good order.
    pub async fn down(&mut self, i: usize) {
        if let Some(replica) = self.replicas[i].take() {
            replica.stop(Instant::now() + Duration::from_secs(5)).await;
        }
    }

    pub fn replica(&self, i: usize) -> &Replica {
        self.replicas[i].as_ref().expect("the replica is up")
    }

    /// The index of the replica that leads, once one does.
    pub async fn leader(&self) -> usize {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            for (i, replica) in self.replicas.iter().enumerate() {
                if replica
                    .as_ref()
                    .is_some_and(|replica| replica.leadership().borrow().term.is_some())
                {
                    return i;
                }
            }
            assert!(Instant::now() < deadline, "no leader within 15 s");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until all replicas that are up have applied the same index, and returns it and their hashes.
    pub async fn settle(&self) -> (u64, Vec<u64>) {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let states: Vec<_> = self.replicas.iter().flatten().map(Replica::state_hash).collect();
            if states.iter().all(|(index, _)| *index == states[0].0) {
                return (states[0].0, states.into_iter().map(|(_, hash)| hash).collect());
            }
            assert!(
                Instant::now() < deadline,
                "the replicas do not settle: {states:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn stop(mut self) {
        for i in 0..self.replicas.len() {
            self.down(i).await;
        }
    }
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

#[allow(dead_code, reason = "each test file uses some of it")]
pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[allow(dead_code, reason = "each test file uses some of it")]
pub fn name(identifier: &str) -> CircuitName {
    CircuitName::new(None, identifier).unwrap()
}

#[allow(dead_code, reason = "each test file uses some of it")]
pub fn register(identifier: &str, policy: Policy) -> Command {
    Command::Register(Register {
        name: name(identifier),
        policy,
        metadata: Metadata::new(),
        if_exists: IfExists::Keep,
    })
}
