//! A cluster with many circuits and sessions, with names, metadata and reports as services have them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use brama_faults::cluster::{Cluster, ClusterOptions, Setting};
use brama_faults::rpc::Nodes;
use brama_proto::v1;
use brama_proto::v1::circuits_client::CircuitsClient;
use futures::{StreamExt, TryStreamExt};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::connect;
use crate::cpu;
use crate::lane::Lane;
use crate::operations;

/// Circuits of one batch of reports.
const BATCH: u64 = 500;
/// Calls in flight while the stage is set.
const IN_FLIGHT: usize = 256;
const PATIENCE: Duration = Duration::from_secs(60);
/// Events that a node keeps, unless their bytes are too many before.
const EVENTS: u64 = 100_000;
/// What a node keeps of its Raft log in memory.
const LOG_CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// A running cluster.
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) nodes: Nodes,
    pub(super) channels: Vec<Channel>,
}

impl Stage {
    /// # Errors
    /// When the processes do not become a cluster.
    pub(super) async fn start(data: &Path, mut settings: Vec<Setting>) -> anyhow::Result<Self> {
        // As an operator would run it; what the fault runs change for themselves is put back.
        settings.push(("events", "progress_interval", "3s".into()));
        let options = ClusterOptions {
            settings,
            ..Default::default()
        };
        let cluster = Cluster::start_in(data, options).await?;
        Ok(Self {
            nodes: cluster.connect()?,
            channels: connect::spread(&cluster.addresses(), 6)?,
            cluster,
        })
    }

    /// Memory that each node holds, in bytes, when it has become quiet.
    pub(super) async fn resident(&self) -> Vec<u64> {
        // What is freed later than asked for (a snapshot's copies, the allocator's pages) gets its time.
        tokio::time::sleep(Duration::from_secs(3)).await;
        cpu::resident_bytes(&self.pids())
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        let running = self.cluster.nodes().iter().filter_map(|node| node.pid());
        running.collect()
    }

    /// Connections for a load of reports.
    pub(super) fn lanes(&self) -> Vec<Lane> {
        connect::lanes(&self.cluster.addresses(), 6)
    }

    fn client(&self, n: u64) -> CircuitsClient<Channel> {
        CircuitsClient::new(self.channels[n as usize % self.channels.len()].clone())
    }

    /// Registers circuits with these numbers.
    ///
    /// # Errors
    /// When one is refused.
    pub(super) async fn register(&self, numbers: std::ops::Range<u64>) -> anyhow::Result<()> {
        futures::stream::iter(numbers)
            .map(|n| {
                let mut client = self.client(n);
                async move { client.register(registration(n)).await.map(|_| ()) }
            })
            .buffer_unordered(IN_FLIGHT)
            .try_collect::<()>()
            .await
            .context("registering")
    }

    /// Registers the circuit that loads of single reports use, in place of one of the others if there is no room.
    ///
    /// # Errors
    /// When it is refused.
    pub(super) async fn register_for_load(&self) -> anyhow::Result<()> {
        let mut client = self.client(0);
        let request = v1::RegisterRequest {
            name: Some(operations::circuit(0)),
            if_exists: v1::IfExists::Keep.into(),
            ..registration(0)
        };
        if client.register(request.clone()).await.is_err() {
            let request = v1::UnregisterRequest {
                name: Some(name(1)),
                reason: None,
            };
            client.unregister(request).await?;
        }
        client.register(request).await?;
        Ok(())
    }

    /// One batch after the other for circuits with these numbers: some successes, then a failure with its reason.
    ///
    /// # Errors
    /// When a batch is refused.
    pub(super) async fn report(&self, numbers: std::ops::Range<u64>) -> anyhow::Result<()> {
        let batches: Vec<_> = numbers.clone().step_by(BATCH as usize).collect();
        futures::stream::iter(batches)
            .map(|first| {
                let mut client = self.client(first);
                let items = (first..numbers.end.min(first + BATCH)).map(item).collect();
                let request = v1::ReportRequest { session: None, items };
                async move { client.report(request).await.map(|_| ()) }
            })
            .buffer_unordered(4)
            .try_collect::<()>()
            .await
            .context("reporting")
    }

    /// One batch of five circuits from each of these sessions.
    ///
    /// # Errors
    /// When one is refused.
    pub(super) async fn open_sessions(
        &self,
        numbers: std::ops::Range<u64>,
        circuits: u64,
    ) -> anyhow::Result<()> {
        futures::stream::iter(numbers)
            .map(|n| {
                let mut client = self.client(n);
                let items = (0..5).map(|k| item((n * 31 + k * 7919) % circuits)).collect();
                let request = v1::ReportRequest {
                    session: Some(session(n, 1)),
                    items,
                };
                async move { client.report(request).await.map(|_| ()) }
            })
            .buffer_unordered(IN_FLIGHT)
            .try_collect::<()>()
            .await
            .context("opening sessions")
    }

    /// Fills what has a bound of its own: the log of events by reports on these circuits, and the Raft log's cache by reports on circuits that
    /// nobody registered, which change nothing.
    ///
    /// # Errors
    /// When reports are refused.
    pub(super) async fn fill(&self, circuits: std::ops::Range<u64>) -> anyhow::Result<()> {
        let nobody = v1::ReportItem {
            name: Some(v1::CircuitName {
                scope: None,
                identifier: "x".repeat(255),
            }),
            ..item(0)
        };
        let request = v1::ReportRequest {
            session: None,
            items: vec![nobody; 1000],
        };
        for n in 0..LOG_CACHE_BYTES / 255_000 + 1 {
            self.client(n).report(request.clone()).await?;
        }
        // A success and a failure: two events.
        for _ in 0..EVENTS / (2 * (circuits.end - circuits.start)).max(1) + 1 {
            self.report(circuits.clone()).await?;
        }
        self.settle().await
    }

    /// Waits until all nodes that are up have applied the same.
    ///
    /// # Errors
    /// When they do not in time.
    pub(super) async fn settle(&self) -> anyhow::Result<()> {
        self.cluster.wait_until_ready(PATIENCE).await
    }

    /// A follower's position.
    ///
    /// # Errors
    /// When there is no leader.
    pub(super) async fn follower(&self) -> anyhow::Result<usize> {
        let leader = self
            .cluster
            .wait_for_leader(&self.nodes, Duration::from_secs(20))
            .await?;
        Ok((leader + 1) % self.nodes.len())
    }

    /// What the node at `position` says of itself.
    ///
    /// # Errors
    /// When it does not say it in time.
    pub(super) async fn status(&self, position: usize) -> anyhow::Result<v1::ClusterStatusResponse> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = brama_faults::cluster::status(&self.nodes, position).await {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("node at {position} does not say how it is");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A name as services have them: its scope says where, its identifier who calls whom.
pub(super) fn name(n: u64) -> v1::CircuitName {
    const REGIONS: [&str; 5] = ["eu-west-1", "eu-north-1", "us-east-1", "us-west-2", "ap-south-1"];
    let region = REGIONS[n as usize % REGIONS.len()];
    v1::CircuitName {
        scope: Some(format!("checkout-{}.{region}", n % 40)),
        identifier: format!("card-authorisation-{}.http.{n:06}", n % 17),
    }
}

pub(super) fn registration(n: u64) -> v1::RegisterRequest {
    let metadata = [
        ("team", format!("payments-{}", n % 23)),
        ("tier", (n % 3).to_string()),
        (
            "upstream",
            format!("https://card-{}.internal.example.com:8443/v2", n % 17),
        ),
    ];
    v1::RegisterRequest {
        name: Some(name(n)),
        policy: Some(v1::Policy {
            // None opens, whatever the load is: what is measured shall not depend on it.
            max_attempts: Some(1_000_000),
            ..Default::default()
        }),
        metadata: metadata.map(|(key, value)| (key.to_owned(), value)).into(),
        ..Default::default()
    }
}

pub(super) fn item(n: u64) -> v1::ReportItem {
    use v1::Outcome::{Failure, Success};
    v1::ReportItem {
        name: Some(name(n)),
        outcomes: [Success, Success, Failure].map(i32::from).into(),
        reason: Some("connect: connection refused".to_owned()),
        ..Default::default()
    }
}

pub(super) fn session(n: u64, sequence: u64) -> v1::Session {
    // Random enough to be spread, and the same again.
    let id = u128::from(n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    v1::Session {
        id: id.to_be_bytes().to_vec(),
        sequence,
    }
}
