//! Three etcd processes with their default settings, each in a folder of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use brama_faults::cluster::free_address;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::connect;
use crate::pb::etcd::StatusRequest;
use crate::pb::etcd::maintenance_client::MaintenanceClient;

/// A cluster of three. Dropping it kills them and removes the folder.
pub(crate) struct Etcd {
    folder: TempDir,
    nodes: Vec<Node>,
}

struct Node {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    process: Option<Child>,
}

impl Etcd {
    /// Starts three nodes in a new folder in `under`, and waits until they have a leader.
    ///
    /// # Errors
    /// When there is no `etcd` on the path, or it does not become a cluster.
    pub(crate) async fn start(under: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench-etcd-").tempdir_in(under)?;
        let mut taken = Vec::new();
        let mut address = || -> anyhow::Result<SocketAddr> {
            let address = free_address(&taken)?;
            taken.push(address);
            Ok(address)
        };
        let mut nodes = Vec::new();
        for name in ["a", "b", "c"] {
            nodes.push(Node {
                name: name.to_owned(),
                client: address()?,
                peer: address()?,
                process: None,
            });
        }
        let mut cluster = Self { folder, nodes };
        for position in 0..3 {
            cluster.start_node(position)?;
        }
        cluster.wait_until_ready().await?;
        Ok(cluster)
    }

    /// Where the nodes serve clients.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.client).collect()
    }

    /// The processes that run.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let running = self.nodes.iter().filter_map(|node| node.process.as_ref()?.id());
        running.collect()
    }

    /// The position of the leader, if the nodes agree on one.
    pub(crate) async fn leader(&self) -> Option<usize> {
        let mut members = Vec::new();
        let mut leaders = Vec::new();
        for address in self.addresses() {
            let mut client = MaintenanceClient::new(channel(address)?);
            let asked = tokio::time::timeout(Duration::from_millis(500), client.status(StatusRequest {}));
            let status = asked.await.ok()?.ok()?.into_inner();
            members.push(status.header?.member_id);
            leaders.push(status.leader);
        }
        let leader = leaders[0];
        let agreed = leaders.iter().all(|each| *each == leader);
        members.iter().position(|member| agreed && *member == leader)
    }

    /// Kills a node with -9.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub(crate) async fn kill(&mut self, position: usize) -> anyhow::Result<()> {
        if let Some(mut process) = self.nodes[position].process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// Starts a node, with what is in its folder.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(crate) fn start_node(&mut self, position: usize) -> anyhow::Result<()> {
        let members: Vec<_> = self
            .nodes
            .iter()
            .map(|node| format!("{}=http://{}", node.name, node.peer))
            .collect();
        let node = &mut self.nodes[position];
        let folder = self.folder.path().join(&node.name);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("{}.log", node.name)))?;
        let (client, peer) = (format!("http://{}", node.client), format!("http://{}", node.peer));
        let process = Command::new("etcd")
            .args(["--name", &node.name])
            .arg("--data-dir")
            .arg(folder)
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args([
                "--initial-cluster",
                &members.join(","),
                "--logger",
                "zap",
                "--log-level",
                "warn",
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start etcd (Debian: apt-get install etcd-server)")?;
        node.process = Some(process);
        Ok(())
    }

    /// Waits until all nodes answer and agree on a leader.
    ///
    /// # Errors
    /// When they do not within half a minute.
    pub(crate) async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.leader().await.is_none() {
            if Instant::now() > deadline {
                bail!(
                    "etcd became no cluster; its logs are in {}",
                    self.folder.path().display()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

fn channel(address: SocketAddr) -> Option<Channel> {
    connect::lazy(address).ok()
}
