//! What can go wrong between two hosts: packets that are dropped ([`Cut`], on the receiver's host), and a link that is slow, frozen or broken
//! ([`Shape`], in a proxy).
//!
//! ```text
//!   host of node 1                          host of node 2
//!   node 1 ── 10.98.0.2 proxy 1->2 ══════ drop? ── 10.99.0.2 node 2
//! ```
//!
//! The proxy of a link stands on the sender's host: on the wire there is only traffic between the two hosts, with or without proxies, so
//! cuts are the same for both. A link is directed by who made the connection; bytes pass it both ways.

mod cut;
mod probe;
mod proxy;
mod pump;
mod shape;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;

use crate::hosts::{Hosts, PEER_PORT, address, socket_address, steered};

pub use cut::{Cut, CutKind};
pub use probe::Probes;
pub use proxy::Proxy;
pub use shape::{Counts, Effects, Shape};

/// From this node, to that one, by their ids.
pub type Link = (u64, u64);

/// A proxy for each link from node to node. Dropping it ends all connections that go through them.
#[derive(Debug)]
pub struct Links {
    proxies: BTreeMap<Link, Proxy>,
}

impl Links {
    /// Begins to serve all links between these hosts.
    ///
    /// # Errors
    /// When a proxy cannot listen.
    pub fn start(hosts: &Arc<Hosts>) -> anyhow::Result<Self> {
        let count = u64::try_from(hosts.len())?;
        let mut proxies = BTreeMap::new();
        for from in 1..=count {
            for to in (1..=count).filter(|to| *to != from) {
                let at = socket_address(steered(to), PEER_PORT);
                let target = socket_address(address(to), PEER_PORT);
                let proxy = Proxy::start(hosts.node(from)?.clone(), at, target)
                    .with_context(|| format!("the link from node {from} to node {to}"))?;
                proxies.insert((from, to), proxy);
            }
        }
        Ok(Self { proxies })
    }

    /// The proxy of a link.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, link: Link) -> anyhow::Result<&Proxy> {
        self.proxies
            .get(&link)
            .with_context(|| format!("there is no proxy for {link:?}"))
    }
}
