//! What is measured: a cluster of Brama or one of etcd.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use brama_faults::cluster::{Cluster, ClusterOptions};
use brama_proto::v1;
use brama_proto::v1::circuits_client::CircuitsClient;
use clap::ValueEnum;
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use crate::connect;
use crate::etcd::Etcd;
use crate::operations::circuit;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Brama,
    Etcd,
}

/// A running cluster of three nodes. Dropping it ends the processes and removes their folder.
pub(crate) enum System {
    Brama(Box<Cluster>),
    Etcd(Etcd),
}

impl System {
    /// # Errors
    /// When the processes do not become a cluster.
    pub(crate) async fn start(kind: Kind, under: &Path) -> anyhow::Result<Self> {
        Ok(match kind {
            Kind::Brama => {
                // As an operator would run it: all that the fault runs change for themselves is put back.
                let settings = vec![
                    ("log", "level", "warn".into()),
                    ("events", "progress_interval", "5s".into()),
                ];
                let options = ClusterOptions {
                    settings,
                    ..Default::default()
                };
                Self::Brama(Box::new(Cluster::start_in(under, options).await?))
            }
            Kind::Etcd => Self::Etcd(Etcd::start(under).await?),
        })
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Brama(_) => Kind::Brama,
            Self::Etcd(_) => Kind::Etcd,
        }
    }

    /// Where the nodes serve clients.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::Brama(cluster) => cluster.addresses(),
            Self::Etcd(cluster) => cluster.addresses(),
        }
    }

    /// The processes that run.
    pub(crate) fn pids(&self) -> Vec<u32> {
        match self {
            Self::Brama(cluster) => cluster.nodes().iter().filter_map(|node| node.pid()).collect(),
            Self::Etcd(cluster) => cluster.pids(),
        }
    }

    /// The position of the leader.
    pub(crate) async fn leader(&self) -> anyhow::Result<Option<usize>> {
        Ok(match self {
            Self::Brama(cluster) => cluster.leader(&cluster.connect()?).await,
            Self::Etcd(cluster) => cluster.leader().await,
        })
    }

    /// Kills a node with -9.
    ///
    /// # Errors
    /// When it survives.
    pub(crate) async fn kill(&mut self, position: usize) -> anyhow::Result<()> {
        match self {
            Self::Brama(cluster) => cluster.nodes()[position].kill().await,
            Self::Etcd(cluster) => cluster.kill(position).await,
        }
    }

    /// Starts a killed node again, and waits until the cluster is whole.
    ///
    /// # Errors
    /// When it does not become whole.
    pub(crate) async fn start_again(&mut self, position: usize) -> anyhow::Result<()> {
        match self {
            Self::Brama(cluster) => {
                cluster.nodes()[position].start()?;
                cluster.wait_until_ready(Duration::from_secs(30)).await
            }
            Self::Etcd(cluster) => {
                cluster.start_node(position)?;
                cluster.wait_until_ready().await
            }
        }
    }

    /// Makes sure that these circuits exist and will not open; etcd's keys need nothing.
    ///
    /// # Errors
    /// When they cannot be registered.
    pub(crate) async fn prepare(&self, circuits: u64) -> anyhow::Result<()> {
        if self.kind() == Kind::Etcd {
            return Ok(());
        }
        let channels = connect::spread(&self.addresses(), 6)?;
        futures::stream::iter(0..circuits)
            .map(|n| {
                let mut client = CircuitsClient::new(channels[n as usize % channels.len()].clone());
                let request = v1::RegisterRequest {
                    name: Some(circuit(n)),
                    policy: Some(v1::Policy {
                        max_attempts: Some(u32::MAX),
                        ..Default::default()
                    }),
                    if_exists: v1::IfExists::Keep.into(),
                    ..Default::default()
                };
                async move { client.register(request).await.map(|_| ()) }
            })
            .buffer_unordered(256)
            .try_collect::<()>()
            .await?;
        Ok(())
    }
}
