//! Packets that are dropped, silently, when they arrive.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Serialize;

use crate::hosts::{End, Hosts};

/// What becomes of packets from one host to another. The other direction is another cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Cut {
    /// Who sends them.
    pub from: End,
    /// Who does not get them.
    pub to: End,
}

/// How many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CutKind {
    /// All.
    Silent,
    /// So many of a hundred, at random.
    Loss(u8),
}

impl CutKind {
    fn rule(self) -> String {
        match self {
            Self::Silent => "counter drop".into(),
            Self::Loss(percent) => format!("numgen random mod 100 < {percent} counter drop"),
        }
    }
}

impl Cut {
    /// Both directions.
    pub fn both(one: End, other: End) -> [Self; 2] {
        [Self { from: one, to: other }, Self { from: other, to: one }]
    }

    /// Begins to drop. On each host all at once.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn install(hosts: &Hosts, cuts: &[Self], kind: CutKind) -> anyhow::Result<()> {
        Self::tell(hosts, cuts, |cut| {
            format!("add rule ip brama {} {}\n", cut.from.chain(), kind.rule())
        })
    }

    /// Drops no more.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn remove(hosts: &Hosts, cuts: &[Self]) -> anyhow::Result<()> {
        Self::tell(hosts, cuts, |cut| {
            format!("flush chain ip brama {}\n", cut.from.chain())
        })
    }

    /// How many packets it has dropped.
    ///
    /// # Errors
    /// When `nft` fails, or there is no such cut.
    pub fn dropped(self, hosts: &Hosts) -> anyhow::Result<u64> {
        let listed = hosts.at(self.to)?.chain(&self.from.chain())?;
        packets(&listed).with_context(|| format!("{self:?} counts nothing: {listed}"))
    }

    fn tell(hosts: &Hosts, cuts: &[Self], line: impl Fn(&Self) -> String) -> anyhow::Result<()> {
        let mut scripts: BTreeMap<End, String> = BTreeMap::new();
        for cut in cuts {
            *scripts.entry(cut.to).or_default() += &line(cut);
        }
        for (end, script) in scripts {
            hosts.at(end)?.nft(&script)?;
        }
        Ok(())
    }
}

/// Of the first counter in what `nft` lists.
fn packets(listed: &serde_json::Value) -> Option<u64> {
    let rules = listed["nftables"].as_array()?.iter();
    rules
        .filter_map(|entry| entry["rule"]["expr"].as_array())
        .flatten()
        .find_map(|expression| expression["counter"]["packets"].as_u64())
}
