//! What a run stands on: hosts, clocks that can lie, and what this machine cannot do.

use std::sync::Arc;

use anyhow::bail;
use tempfile::TempDir;

use super::RunOptions;
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::hosts::{self, Hosts};
use crate::lossy::LossyMount;
use crate::nemesis::{FakeClock, Family, fake_clocks};
use crate::scenario::library;

/// Room on a lossy disk, which takes memory as it is filled.
const DISK_MIB: u64 = 4096;

/// Made before the cluster, removed after it.
pub(super) struct Ground {
    pub(super) families: Vec<Family>,
    pub(super) clocks: Vec<FakeClock>,
    /// What was chosen or would have been, and why it is impossible.
    left_out: Vec<(Family, String)>,
    was_chosen: bool,
    hosts: Option<Arc<Hosts>>,
    /// Holds the files of the clocks.
    _folder: TempDir,
}

impl Ground {
    /// As the options want it; what this machine cannot do is said, and left out.
    ///
    /// # Errors
    /// When nothing is left, or the system refuses.
    pub(super) fn make(options: &RunOptions) -> anyhow::Result<Self> {
        let no_hosts = hosts::are_impossible();
        let wanted = options.faults.clone().unwrap_or_else(|| Family::ALL.into());
        let (mut families, mut left_out) = (Vec::new(), Vec::new());
        for family in wanted {
            match (&no_hosts, family) {
                (Some(why), _) if family.needs_hosts() => left_out.push((family, why.clone())),
                (_, Family::Disk) => match LossyMount::is_impossible() {
                    Some(why) => left_out.push((family, why)),
                    None => families.push(family),
                },
                (_, Family::Clock) if library().is_none() => {
                    let why = "libfaketime is not installed (Debian: apt-get install faketime)";
                    left_out.push((family, why.to_owned()));
                }
                _ => families.push(family),
            }
        }
        for (family, why) in &left_out {
            println!("  without {}: {why}", family.name());
        }
        if families.is_empty() {
            bail!("none of the chosen faults is possible on this machine");
        }
        let hosts = match no_hosts {
            None => Some(Arc::new(Hosts::make(options.nodes)?)),
            Some(_) => {
                println!("  all nodes are on loopback, and no fault of the network is played");
                None
            }
        };
        let folder = tempfile::Builder::new().prefix("brama-clocks-").tempdir()?;
        let clocks = if families.contains(&Family::Clock) {
            fake_clocks(folder.path(), options.nodes)?
        } else {
            Vec::new()
        };
        Ok(Self {
            families,
            clocks,
            left_out,
            was_chosen: options.faults.is_some(),
            hosts,
            _folder: folder,
        })
    }

    /// What a cluster on it needs.
    pub(super) fn cluster(&self, options: &RunOptions) -> ClusterOptions {
        let env = self.clocks.iter().zip(1..).map(|(clock, id)| (id, clock.env()));
        ClusterOptions {
            nodes: Some(options.nodes),
            hosts: self.hosts.clone(),
            proxies: self.families.contains(&Family::Link),
            lossy_mib: self.families.contains(&Family::Disk).then_some(DISK_MIB),
            env: env.collect(),
            ..Default::default()
        }
    }

    /// What was asked for by name and could not be played is not known to hold.
    pub(super) fn judge(&self) -> Findings {
        let mut findings = Findings::default();
        for (family, why) in &self.left_out {
            let what = format!("{} was left out: {why}", family.name());
            if self.was_chosen {
                findings.untold(what);
            } else {
                findings.figure("left out", what);
            }
        }
        findings
    }
}
