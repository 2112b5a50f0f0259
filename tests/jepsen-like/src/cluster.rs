//! A cluster of real processes in a folder of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use brama_proto::v1;
use rand::Rng;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::disk::Disk;
use crate::hosts::{self, Hosts, socket_address};
use crate::links::Links;
use crate::lossy::{LossyDisk, LossyMount};
use crate::node::{Node, NodeSpec};
use crate::rpc::{Nodes, answer, timed};

/// The binary; else it is looked for beside this one.
const BINARY_VARIABLE: &str = "BRAMA_BIN";
/// Below the range from which systems draw ports for outgoing connections: a node that is down for a while must find its port free.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// A status is local to the node: it comes at once, or the node is not well.
const STATUS_TIMEOUT: Duration = Duration::from_millis(300);

/// A setting over the default ones: section, key, value.
pub type Setting = (&'static str, &'static str, toml::Value);

/// How a cluster is made.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// Written to every node's configuration.
    pub settings: Vec<Setting>,
    /// Environment of single nodes, by id.
    pub env: Vec<(u64, Vec<(String, String)>)>,
    /// Each node's data is on a [`Disk`] of its own, of so many MiB. Only root can have that.
    pub disk_mib: Option<u32>,
    /// Each node's data is on a [`LossyDisk`] of its own, of so many MiB. Only root can have that.
    pub lossy_mib: Option<u64>,
    /// How many nodes there are; `None`: three.
    pub nodes: Option<u64>,
    /// Where they run; `None`: all on loopback.
    pub hosts: Option<Arc<Hosts>>,
    /// Whether each link between hosts goes through a proxy.
    pub proxies: bool,
}

/// At which moment the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The processes are stopped first (SIGSTOP), so what they had asked of the disk is complete or was not begun.
    BetweenWrites,
    /// The disks go first, in the middle of whatever they were doing; the processes notice, or not, until they are killed.
    InTheMiddle,
}

/// Nodes 1, 2, 3 and maybe more. Dropping it kills them, and removes the folder unless it was kept.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    /// By position; none if the data is in the folder. After the nodes: they are killed before their disks go.
    disks: Vec<Disk>,
    /// The same.
    lossy: Vec<LossyMount>,
    folder: TempDir,
    binary: PathBuf,
    settings: Vec<Setting>,
    links: Option<Links>,
    /// Removed when all is gone that runs there.
    hosts: Option<Arc<Hosts>>,
}

impl Cluster {
    /// Starts the nodes, and waits until each knows the same leader.
    ///
    /// # Errors
    /// When there is no binary, or it does not become a cluster in time.
    pub async fn start(options: ClusterOptions) -> anyhow::Result<Self> {
        Self::start_in(&std::env::temp_dir(), options).await
    }

    /// The same, with its folder in `under`: on the disk that is meant.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn start_in(under: &Path, options: ClusterOptions) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("brama-faults-")
            .tempdir_in(under)?;
        let mut cluster = Self {
            nodes: Vec::new(),
            disks: Vec::new(),
            lossy: Vec::new(),
            folder,
            binary: find_binary()?,
            settings: options.settings,
            links: None,
            hosts: options.hosts,
        };
        if let (Some(hosts), true) = (&cluster.hosts, options.proxies) {
            cluster.links = Some(Links::start(hosts)?);
        }
        for id in 1..=options.nodes.unwrap_or(3) {
            let env = options.env.iter().find(|(of, _)| *of == id);
            cluster.define(id, env.map(|(_, env)| env.clone()).unwrap_or_default())?;
        }
        let members = cluster.nodes.iter().map(|node| {
            toml::Table::from_iter([
                ("id".to_owned(), toml::Value::from(node.spec.id.cast_signed())),
                ("peer".to_owned(), node.spec.peer_address.to_string().into()),
            ])
        });
        let members: Vec<toml::Table> = members.collect();
        if let Some(mib) = options.disk_mib {
            for node in &cluster.nodes {
                let image = node.spec.folder.join("disk.image");
                let disk = tokio::task::block_in_place(|| Disk::make(&image, &node.data_dir(), mib))?;
                cluster.disks.push(disk);
            }
        }
        if let Some(mib) = options.lossy_mib {
            for node in &cluster.nodes {
                cluster.lossy.push(LossyMount::new(&node.data_dir(), mib)?);
            }
        }
        for node in &cluster.nodes {
            cluster.configure(node, ("members", members.clone().into()))?;
            node.start()?;
        }
        cluster
            .wait_until_ready(Duration::from_secs(30))
            .await
            .with_context(|| cluster.tails())?;
        Ok(cluster)
    }

    /// Adds and starts a node that joins through the running ones; does not wait. Returns its position.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn join(&mut self, id: u64) -> anyhow::Result<usize> {
        let seeds: Vec<String> = self
            .nodes
            .iter()
            .map(|node| node.spec.peer_address.to_string())
            .collect();
        self.define(id, Vec::new())?;
        let position = self.nodes.len() - 1;
        let node = &self.nodes[position];
        self.configure(node, ("join", seeds.into()))?;
        node.start()?;
        Ok(position)
    }

    /// Cuts the power of these nodes, and gives it back: their processes are gone, and so is what they had not synced. They are not started.
    ///
    /// # Errors
    /// When it cannot be done, e.g. because they have no disks of their own.
    pub async fn cut_power(&mut self, positions: &[usize], cut: Cut) -> anyhow::Result<()> {
        if self.disks.len() != self.nodes.len() {
            bail!("these nodes have no disks of their own");
        }
        if cut == Cut::BetweenWrites {
            for position in positions {
                self.nodes[*position].pause()?;
            }
        }
        let disks: Vec<_> = positions.iter().map(|position| &self.disks[*position]).collect();
        tokio::task::block_in_place(|| Disk::cut(&disks))?;
        for position in positions {
            self.nodes[*position].send_kill()?;
        }
        for position in positions {
            self.nodes[*position].kill().await?;
            let disk = &mut self.disks[*position];
            tokio::task::block_in_place(|| disk.power_up())?;
        }
        Ok(())
    }

    /// The disks that the nodes have because of [`ClusterOptions::lossy_mib`], by position; else none.
    pub fn lossy_disks(&self) -> Vec<LossyDisk> {
        self.lossy.iter().map(|mount| mount.disk().clone()).collect()
    }

    /// After the power of their [`LossyDisk`]s was cut: ends the processes of these nodes, and gives the power back. They are not started.
    ///
    /// # Errors
    /// When a process does not go.
    pub async fn power_up(&self, positions: &[usize]) -> anyhow::Result<()> {
        for position in positions {
            self.nodes[*position].send_kill()?;
        }
        for position in positions {
            // Who waits for a disk that was cut cannot die before it is let go.
            let disk = self.lossy.get(*position).map(LossyMount::disk);
            if let Some(disk) = disk {
                disk.release();
            }
            self.nodes[*position].kill().await?;
            if let Some(disk) = disk {
                disk.power_up();
            }
        }
        Ok(())
    }

    /// The nodes, in the order of their ids.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Where it all is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves the folder where it is when the cluster ends. What is on lossy disks is copied there, as it is now.
    pub fn keep_folder(&mut self) {
        self.folder.disable_cleanup(true);
        for (node, mount) in self.nodes.iter().zip(&self.lossy) {
            let copy = node.spec.folder.join("data-as-it-was");
            if let Err(error) = mount.disk().save(&copy) {
                eprintln!("{} cannot be written: {error:#}", copy.display());
            }
        }
    }

    /// New connections to all nodes.
    ///
    /// # Errors
    /// Never, for addresses made here.
    pub fn connect(&self) -> anyhow::Result<Nodes> {
        match &self.hosts {
            None => Nodes::new(self.addresses()),
            Some(hosts) => Nodes::from_host(hosts.clients(), self.addresses()),
        }
    }

    /// The proxies between the nodes, if there are any.
    pub fn links(&self) -> Option<&Links> {
        self.links.as_ref()
    }

    /// The hosts of the nodes, if they have any.
    pub fn hosts(&self) -> Option<&Arc<Hosts>> {
        self.hosts.as_ref()
    }

    /// Where the nodes serve clients, by position.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.spec.client).collect()
    }

    /// What each node says of itself; `None`: it does not answer.
    pub async fn statuses(&self, nodes: &Nodes) -> Vec<Option<v1::ClusterStatusResponse>> {
        let ask = (0..nodes.len()).map(|position| status(nodes, position));
        futures::future::join_all(ask).await
    }

    /// Position of the node that leads in the newest term; `None`: nobody says so.
    pub async fn leader(&self, nodes: &Nodes) -> Option<usize> {
        let statuses = self.statuses(nodes).await;
        let leading = statuses.iter().enumerate().filter_map(|(position, status)| {
            let status = status.as_ref()?;
            (status.role() == v1::Role::Leader && status.has_quorum).then_some((status.term, position))
        });
        leading.max().map(|(_, position)| position)
    }

    /// Waits until there is a leader.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn wait_for_leader(&self, nodes: &Nodes, within: Duration) -> anyhow::Result<usize> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(position) = self.leader(nodes).await {
                return Ok(position);
            }
            if Instant::now() > deadline {
                bail!("no leader within {within:?}\n{}", self.tails());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until each node that is up follows the same leader, and has applied what that one had.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub async fn wait_until_ready(&self, within: Duration) -> anyhow::Result<()> {
        let nodes = self.connect()?;
        let deadline = Instant::now() + within;
        while !self.is_ready(&nodes).await {
            for node in &self.nodes {
                if let Some(status) = node.exit_status()? {
                    bail!("node {} ended by itself: {status}", node.spec.id);
                }
            }
            if Instant::now() > deadline {
                bail!("the nodes are no cluster after {within:?}\n{}", self.tails());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// The end of each node's log.
    pub fn tails(&self) -> String {
        let tail = |node: &Node| format!("--- node {}\n{}\n", node.spec.id, node.log_tail(15));
        self.nodes.iter().map(tail).collect()
    }

    async fn is_ready(&self, nodes: &Nodes) -> bool {
        let statuses = self.statuses(nodes).await;
        let up: Vec<_> = statuses
            .iter()
            .zip(&self.nodes)
            .filter(|(_, node)| node.is_up())
            .map(|(status, _)| status.as_ref())
            .collect();
        let Some(all) = up.into_iter().collect::<Option<Vec<_>>>() else {
            return false;
        };
        let Some(leader) = all.iter().find(|status| status.role() == v1::Role::Leader) else {
            return false;
        };
        let id = leader.header.as_ref().map(|header| header.node_id);
        all.iter().all(|status| {
            status.has_quorum
                && status.leader_id == id
                && !status
                    .header
                    .as_ref()
                    .is_none_or(|header| header.cluster_id.is_empty())
                && status.applied_index >= leader.committed_index
        })
    }

    fn define(&mut self, id: u64, env: Vec<(String, String)>) -> anyhow::Result<()> {
        let folder = self.folder.path().join(format!("node{id}"));
        std::fs::create_dir_all(&folder)?;
        let places = match &self.hosts {
            Some(hosts) => Places::on_host(id, self.links.is_some(), hosts)?,
            None => Places::on_loopback(&self.nodes)?,
        };
        let spec = NodeSpec {
            id,
            client: places.client,
            peer: places.peer,
            peer_address: places.peer_address,
            folder,
            env,
            host: places.host,
        };
        self.nodes.push(Node::new(self.binary.clone(), spec));
        Ok(())
    }

    fn configure(&self, node: &Node, origin: (&'static str, toml::Value)) -> anyhow::Result<()> {
        let spec = &node.spec;
        let mut file = toml::Table::new();
        let mut set = |section: &str, key: &str, value: toml::Value| {
            let section = file
                .entry(section)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(section) = section {
                section.insert(key.to_owned(), value);
            }
        };
        set("node", "id", spec.id.cast_signed().into());
        set("node", "data_dir", node.data_dir().display().to_string().into());
        set("node", "client_listen", spec.client.to_string().into());
        set("node", "peer_listen", spec.peer.to_string().into());
        set("node", "peer_address", spec.peer_address.to_string().into());
        set("cluster", "name", "faults".into());
        set("cluster", origin.0, origin.1);
        set("log", "format", "json".into());
        set("log", "level", "info".into());
        set("events", "progress_interval", "500ms".into());
        for (section, key, value) in &self.settings {
            set(section, key, value.clone());
        }
        std::fs::write(node.config_path(), toml::to_string(&file)?)?;
        Ok(())
    }
}

/// Where a node is.
struct Places {
    client: SocketAddr,
    peer: SocketAddr,
    peer_address: SocketAddr,
    host: Option<Arc<hosts::Namespace>>,
}

impl Places {
    fn on_host(id: u64, proxied: bool, hosts: &Hosts) -> anyhow::Result<Self> {
        let own = hosts::address(id);
        let known = if proxied { hosts::steered(id) } else { own };
        Ok(Self {
            client: socket_address(own, hosts::CLIENT_PORT),
            peer: socket_address(own, hosts::PEER_PORT),
            peer_address: socket_address(known, hosts::PEER_PORT),
            host: Some(hosts.node(id)?.clone()),
        })
    }

    fn on_loopback(nodes: &[Node]) -> anyhow::Result<Self> {
        let taken: Vec<SocketAddr> = nodes
            .iter()
            .flat_map(|node| [node.spec.client, node.spec.peer])
            .collect();
        let client = free_address(&taken)?;
        let peer = free_address(&[&taken[..], &[client]].concat())?;
        Ok(Self {
            client,
            peer,
            peer_address: peer,
            host: None,
        })
    }
}

/// What the node at `position` says of itself; `None`: it does not answer.
pub async fn status(nodes: &Nodes, position: usize) -> Option<v1::ClusterStatusResponse> {
    let request = timed(v1::ClusterStatusRequest {}, STATUS_TIMEOUT);
    answer(STATUS_TIMEOUT, nodes.cluster(position).status(request))
        .await
        .ok()
}

/// The binary that clusters are made of.
///
/// # Errors
/// When there is none.
pub fn find_binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(BINARY_VARIABLE) {
        return Ok(path.into());
    }
    let me = std::env::current_exe()?;
    // target/debug/brama-faults, or the test target/debug/deps/scenarios-0123.
    let found = me
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("brama"))
        .find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "there is no `brama` beside {}: build it with `cargo build -p brama-cli`, or name it in {BINARY_VARIABLE}",
            me.display()
        )
    })
}

/// A port of this machine that nobody listens on, and that is none of `taken`.
///
/// # Errors
/// When there is none.
pub fn free_address(taken: &[SocketAddr]) -> anyhow::Result<SocketAddr> {
    let mut rng = rand::rng();
    for _ in 0..1000 {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, rng.random_range(PORTS)));
        if !taken.contains(&address) && TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port among {PORTS:?}")
}
