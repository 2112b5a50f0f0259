//! Hosts for the nodes of a run, and one for its clients: network namespaces with addresses of their own on one bridge.
//!
//! ```text
//!   hub          br0 ── port1 ── port2 ── port3 ── port9
//!                         │        │        │        │
//!   node1  eth0 10.99.0.1 ┘        │        │        │
//!   node2  eth0 10.99.0.2 ─────────┘        │        │
//!   node3  eth0 10.99.0.3 ──────────────────┘        │
//!   clients eth0 10.99.0.100 ────────────────────────┘
//! ```
//!
//! The bridge is in a namespace too, so nothing of it is seen from outside, and any number of runs can be side by side with the same
//! addresses. The names hold the process that made them: what a dead run left behind is removed by the next one.
//!
//! On a host, `10.98.0.N` is an address of its own (on `lo`). If links go through proxies, nodes know each other by these addresses, and the
//! proxy of the link to node N listens there ([`crate::links`]). So nothing has to be rewritten, and on the wire there are only the
//! addresses of the hosts.

mod leftovers;
mod namespace;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, bail};

pub use namespace::Namespace;

/// The most nodes that a run can have.
pub const MOST: u64 = 9;
/// Where a node serves clients.
pub const CLIENT_PORT: u16 = 7401;
/// Where it listens for other nodes.
pub const PEER_PORT: u16 = 7411;
/// The last byte of the address of the clients' host.
const CLIENTS: u64 = 100;

/// All hosts of a run. Dropping it removes them.
#[derive(Debug)]
pub struct Hosts {
    nodes: Vec<Arc<Namespace>>,
    clients: Arc<Namespace>,
    /// Removed after what hangs on it.
    _hub: Namespace,
}

/// Why there can be no hosts; `None`: there can.
pub fn are_impossible() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("only root can make network namespaces".into());
    }
    for (program, package) in [("ip", "iproute2"), ("nft", "nftables")] {
        if Command::new(program).arg("-V").output().is_err() {
            return Some(format!(
                "`{program}` is not installed (Debian: apt-get install {package})"
            ));
        }
    }
    None
}

/// The address of a node's host.
pub fn address(id: u64) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, u8::try_from(id).unwrap_or(u8::MAX))
}

/// The address at which the proxies of the links to a node listen, on each other host.
pub fn steered(id: u64) -> Ipv4Addr {
    Ipv4Addr::new(10, 98, 0, u8::try_from(id).unwrap_or(u8::MAX))
}

impl Hosts {
    /// Makes hosts for the nodes 1 to `count`, and one for the clients.
    ///
    /// # Errors
    /// When that is impossible ([`are_impossible`]), or the system refuses.
    pub fn make(count: u64) -> anyhow::Result<Self> {
        if let Some(why) = are_impossible() {
            bail!("no hosts: {why}");
        }
        if count > MOST {
            bail!("{count} hosts are more than {MOST}");
        }
        leftovers::remove()?;
        let prefix = leftovers::new_prefix()?;
        let hub = Namespace::make(&format!("{prefix}-hub"))?;
        hub.ip("link add br0 type bridge")?;
        hub.ip("link set br0 up")?;
        let attach = |name: &str, id: u64| -> anyhow::Result<Arc<Namespace>> {
            let host = Namespace::make(&format!("{prefix}-{name}"))?;
            host.ip("link set lo up")?;
            let hub_name = hub.name();
            host.ip(&format!(
                "link add eth0 type veth peer name port{id} netns {hub_name}"
            ))?;
            host.ip(&format!("address add {}/24 dev eth0", address(id)))?;
            host.ip("link set eth0 up")?;
            hub.ip(&format!("link set port{id} master br0 up"))?;
            for other in (1..=count).filter(|other| *other != id) {
                host.ip(&format!("address add {}/32 dev lo", steered(other)))?;
            }
            host.nft(&rules(id, count))?;
            Ok(Arc::new(host))
        };
        let nodes = (1..=count)
            .map(|id| attach(&format!("node{id}"), id))
            .collect::<anyhow::Result<_>>()?;
        let clients = attach("clients", CLIENTS)?;
        Ok(Self {
            nodes,
            clients,
            _hub: hub,
        })
    }

    /// How many nodes they are for.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The host of a node, by its id.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, id: u64) -> anyhow::Result<&Arc<Namespace>> {
        let position = usize::try_from(id)?.checked_sub(1);
        position
            .and_then(|position| self.nodes.get(position))
            .with_context(|| format!("there is no host for node {id}"))
    }

    /// The host of the clients.
    pub fn clients(&self) -> &Arc<Namespace> {
        &self.clients
    }

    /// The host behind an end of a cut.
    ///
    /// # Errors
    /// When there is none.
    pub fn at(&self, end: End) -> anyhow::Result<&Arc<Namespace>> {
        match end {
            End::Node(id) => self.node(id),
            End::Clients => Ok(&self.clients),
        }
    }
}

/// One end of what can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// A node, by its id.
    Node(u64),
    /// All clients.
    Clients,
}

impl End {
    fn id(self) -> u64 {
        match self {
            Self::Node(id) => id,
            Self::Clients => CLIENTS,
        }
    }

    /// Its address.
    pub fn address(self) -> Ipv4Addr {
        address(self.id())
    }

    /// The chain of a receiver through which everything from this end goes.
    pub fn chain(self) -> String {
        format!("from_{}", self.id())
    }
}

/// A port of a host.
pub fn socket_address(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::from((IpAddr::V4(ip), port))
}

/// What comes from each other host goes through a chain of its own, which is empty until something is cut.
fn rules(id: u64, count: u64) -> String {
    let mut rules = String::from("table ip brama {\n");
    let others: Vec<End> = (1..=count)
        .map(End::Node)
        .chain([End::Clients])
        .filter(|end| end.id() != id)
        .collect();
    for end in &others {
        rules += &format!("  chain {} {{\n  }}\n", end.chain());
    }
    rules += "  chain input {\n    type filter hook input priority 0; policy accept;\n";
    for end in &others {
        rules += &format!("    ip saddr {} jump {}\n", end.address(), end.chain());
    }
    rules + "  }\n}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_other_host_has_its_chain() {
        let rules = rules(2, 3);
        assert!(rules.contains("ip saddr 10.99.0.1 jump from_1"), "{rules}");
        assert!(rules.contains("ip saddr 10.99.0.3 jump from_3"), "{rules}");
        assert!(rules.contains("ip saddr 10.99.0.100 jump from_100"), "{rules}");
        assert!(!rules.contains("from_2"), "{rules}");
    }

    #[tokio::test]
    async fn hosts_reach_each_other_and_leave_nothing_behind() {
        if let Some(why) = are_impossible() {
            println!("SKIPPED: {why}");
            return;
        }
        let hosts = Hosts::make(3).unwrap();
        let names: Vec<String> = [1, 2, 3]
            .map(|id| hosts.node(id).unwrap().name().to_owned())
            .into();
        let at = socket_address(address(2), 7499);
        let listener = hosts.node(2).unwrap().listen(at).unwrap();
        let (one, other) = tokio::join!(hosts.clients().connect(at), listener.accept());
        assert_eq!(one.unwrap().local_addr().unwrap().ip(), End::Clients.address());
        assert_eq!(other.unwrap().1.ip(), End::Clients.address());
        drop(hosts);
        let left = |name: &String| std::path::Path::new("/run/netns").join(name).exists();
        assert!(!names.iter().any(left), "{names:?}");
    }
}
