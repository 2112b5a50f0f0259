//! What goes wrong in a run, alone or several things at once.
//!
//! The kinds come in rounds: each round has every family once, and each family all its faults in turn, in an order that the seed decides. So a
//! run that is long enough leaves none out. Several faults overlap as long as they do not want the same process, packets or link.
//!
//! Each is looked at once it is installed ([`FaultRecord::proof`]), and a cut also when it was removed. What is left of the cluster at each
//! moment is in [`Span`]s.

mod clock;
mod fault;
mod part;
mod plan;
mod world;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::hosts::Hosts;
use crate::links::{Counts, Link, Probes, Proxy};
use crate::lossy::LossyDisk;
use crate::node::Node;
use crate::rpc::Nodes;
use crate::time::{Clock, Micros, micros};

pub use clock::{FakeClock, Lie, UNTIL_NOTED};
pub use fault::{Family, Fault, FaultRecord};
pub use part::Part;
use plan::{Roles, plan};
use world::World;
pub use world::{Span, Standing};

/// A fault that names the leader waits so long for one: else it would hit a follower and be counted as something it was not.
const LEADER: Duration = Duration::from_secs(5);
/// How often one that leaves a majority lasts long.
const LONG: f64 = 0.4;

/// What the nemesis may do.
#[derive(Clone, Debug)]
pub struct Means {
    /// What was chosen.
    pub families: Vec<Family>,
    /// Clocks of the nodes that can lie, by position; may be empty.
    pub clocks: Vec<FakeClock>,
    /// How long the run lasts: in a short one, nothing lasts long.
    pub run: Duration,
}

/// Breaks things until it is told to stop, and mends what it broke.
#[derive(Debug)]
pub struct Nemesis {
    stage: Arc<Stage>,
    rng: StdRng,
    families: Vec<Family>,
    /// Faults whose turn is still to come, by position of the family.
    bags: Vec<Vec<Fault>>,
    round: Vec<usize>,
    long: std::ops::RangeInclusive<u64>,
}

/// What the nemesis acts on.
#[derive(Debug)]
pub(crate) struct Stage {
    cluster: Arc<Cluster>,
    nodes: Nodes,
    clock: Clock,
    probes: Option<Probes>,
    clocks: Vec<FakeClock>,
    world: Mutex<World>,
    records: Mutex<Vec<FaultRecord>>,
    active: Mutex<Vec<(u64, Fault)>>,
    /// How long nodes took until they served.
    starts: Mutex<Vec<Micros>>,
}

/// A fault whose turn it is.
struct Order {
    number: u64,
    fault: Fault,
    after: Duration,
    hold: Duration,
    seed: u64,
}

impl Nemesis {
    /// A nemesis whose choices follow from the seed (and from who leads when).
    ///
    /// # Errors
    /// When it cannot probe the network.
    pub fn new(cluster: Arc<Cluster>, means: Means, clock: Clock, seed: u64) -> anyhow::Result<Self> {
        let probes = match cluster.hosts() {
            Some(hosts) => Some(Probes::start(hosts.clone())?),
            None => None,
        };
        let ids = cluster.nodes().iter().map(|node| node.spec.id);
        let stage = Stage {
            world: Mutex::new(World::new(ids, clock.now())),
            nodes: cluster.connect()?,
            cluster,
            clock,
            probes,
            clocks: means.clocks,
            records: Mutex::default(),
            active: Mutex::default(),
            starts: Mutex::default(),
        };
        let long = match means.run.as_secs() {
            0..30 => 5..=6,
            30..120 => 5..=8,
            _ => 5..=15,
        };
        Ok(Self {
            stage: Arc::new(stage),
            rng: StdRng::seed_from_u64(seed ^ 0xfa17),
            bags: vec![Vec::new(); means.families.len()],
            families: means.families,
            round: Vec::new(),
            long,
        })
    }

    /// What it did, also while it goes on.
    pub fn log(&self) -> Log {
        Log(self.stage.clone())
    }

    /// Breaks things until `stop`. Everything is mended when it returns.
    ///
    /// # Errors
    /// When something cannot be done, or is not so when it was done: then the run proves nothing.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut number = 0;
        while !stop.is_cancelled() {
            let together = match self.rng.random_range(0..10) {
                0..4 => 1,
                4..7 => 2,
                _ => 3,
            };
            let orders: Vec<Order> = (0..together)
                .map(|place| {
                    number += 1;
                    self.draw(number, place)
                })
                .collect();
            let strikes = orders.iter().map(|order| self.stage.strike(order, &stop));
            let struck = futures::future::try_join_all(strikes).await?;
            for (order, struck) in orders.iter().zip(struck) {
                if !struck {
                    self.put_back(order.fault);
                }
            }
            let rest = Duration::from_millis(self.rng.random_range(300..1800));
            stop.run_until_cancelled(tokio::time::sleep(rest)).await;
        }
        Ok(())
    }

    fn draw(&mut self, number: u64, place: u32) -> Order {
        if self.round.is_empty() {
            self.round = (0..self.families.len()).collect();
            self.round.shuffle(&mut self.rng);
        }
        let family = self.round.pop().unwrap_or(0);
        let bag = &mut self.bags[family];
        if bag.is_empty() {
            *bag = Fault::of(self.families[family], self.stage.cluster.nodes().len());
            bag.shuffle(&mut self.rng);
        }
        let fault = bag.pop().unwrap_or(Fault::KillLeader);
        let after = if place == 0 {
            0
        } else {
            self.rng.random_range(0..1500)
        };
        let is_long = fault.leaves_majority() && self.rng.random_bool(LONG);
        let hold = if is_long {
            self.rng.random_range(self.long.clone()) * 1000
        } else {
            self.rng.random_range(300..2500)
        };
        Order {
            number,
            fault,
            after: Duration::from_millis(after),
            hold: Duration::from_millis(hold),
            seed: self.rng.random(),
        }
    }

    /// Its turn comes again: something else was in the way.
    fn put_back(&mut self, fault: Fault) {
        let family = self.families.iter().position(|family| *family == fault.family());
        if let Some(family) = family {
            self.bags[family].push(fault);
            self.round.push(family);
        }
    }
}

/// What a nemesis did, and what it left of the cluster.
#[derive(Clone, Debug)]
pub struct Log(Arc<Stage>);

impl Log {
    /// Everything that is over.
    pub fn records(&self) -> Vec<FaultRecord> {
        self.0.records.lock().clone()
    }

    /// How many are over.
    pub fn count(&self) -> usize {
        self.0.records.lock().len()
    }

    /// What is going on.
    pub fn active(&self) -> Vec<Fault> {
        self.0.active.lock().iter().map(|(_, fault)| *fault).collect()
    }

    /// How long each node that was started again took until it served.
    pub fn starts(&self) -> Vec<Micros> {
        self.0.starts.lock().clone()
    }

    /// All times up to now, and what was possible in each.
    pub fn spans(&self) -> Vec<Span> {
        self.0.world.lock().spans(self.0.clock.now())
    }
}

impl Stage {
    /// Returns whether it was done and seen: it is not when others are in its way, or there is no leader.
    async fn strike(&self, order: &Order, stop: &CancellationToken) -> anyhow::Result<bool> {
        if stop
            .run_until_cancelled(tokio::time::sleep(order.after))
            .await
            .is_none()
        {
            return Ok(false);
        }
        let Ok(leader) = self.cluster.wait_for_leader(&self.nodes, LEADER).await else {
            return Ok(false);
        };
        let leader = self.cluster.nodes()[leader].spec.id;
        let mut rng = StdRng::seed_from_u64(order.seed);
        let roles = Roles::new(self.ids(), leader, &mut rng);
        let parts = plan(order.fault, &roles, &mut rng);
        let resources = parts.iter().flat_map(Part::resources).collect();
        if stop.is_cancelled() || !self.world.lock().claim(&resources) {
            return Ok(false);
        }
        self.active.lock().push((order.number, order.fault));
        let record = self.break_and_mend(order, &parts, stop).await;
        self.active.lock().retain(|(number, _)| *number != order.number);
        if order.fault.family() == Family::Clock {
            tokio::time::sleep(UNTIL_NOTED).await;
        }
        self.world.lock().release(&resources);
        let record = record.with_context(|| format!("{:?}: {parts:?}", order.fault))?;
        let is_proven = record.proof.is_some();
        self.records.lock().push(record);
        Ok(is_proven)
    }

    async fn break_and_mend(
        &self,
        order: &Order,
        parts: &[Part],
        stop: &CancellationToken,
    ) -> anyhow::Result<FaultRecord> {
        let before = self.link_counts(parts)?;
        let from = self.clock.now();
        self.world.lock().worsen(parts, from);
        let mut proofs = Vec::new();
        for part in parts {
            proofs.extend(part.install(self).await?);
        }
        let installed = self.clock.now();
        let hold = async {
            stop.run_until_cancelled(tokio::time::sleep(order.hold)).await;
        };
        let keep = futures::future::try_join_all(parts.iter().map(|part| part.keep(self)));
        tokio::select! {
            () = hold => {}
            kept = keep => { kept?; }
        }
        proofs.extend(self.link_proof(parts, &before)?);
        let held_until = self.clock.now();
        for part in parts {
            part.remove(self).await?;
        }
        let until = self.clock.now();
        self.world.lock().mend(parts, until);
        let nodes: BTreeSet<u64> = parts.iter().flat_map(Part::nodes).collect();
        // Some are over once they are done: they lasted while they were done.
        let at_once = parts
            .iter()
            .any(|part| matches!(part, Part::Transfer { .. } | Part::Restart { .. }));
        Ok(FaultRecord {
            fault: order.fault,
            family: order.fault.family(),
            nodes: nodes.into_iter().collect(),
            what: format!("{parts:?}"),
            from,
            held_from: if at_once { from } else { installed },
            held_until,
            until,
            proof: (!proofs.is_empty()).then(|| proofs.join("; ")),
        })
    }

    fn link_counts(&self, parts: &[Part]) -> anyhow::Result<Vec<(Link, Counts)>> {
        let links = parts.iter().flat_map(|part| match part {
            Part::Links { links, .. } => links.clone(),
            _ => Vec::new(),
        });
        links.map(|link| Ok((link, self.proxy(link)?.counts()))).collect()
    }

    /// Whether any of the links felt it.
    fn link_proof(&self, parts: &[Part], before: &[(Link, Counts)]) -> anyhow::Result<Option<String>> {
        let mut felt = Vec::new();
        for part in parts {
            let Part::Links { shape, .. } = part else { continue };
            for ((from, to), before) in before {
                if let Some(proof) = self.proxy((*from, *to))?.counts().proof(before, *shape) {
                    felt.push(format!("{from}->{to}: {proof}"));
                }
            }
        }
        Ok((!felt.is_empty()).then(|| felt.join(", ")))
    }

    fn ids(&self) -> impl Iterator<Item = u64> {
        self.cluster.nodes().iter().map(|node| node.spec.id)
    }

    fn position(&self, id: u64) -> anyhow::Result<usize> {
        self.ids()
            .position(|each| each == id)
            .with_context(|| format!("there is no node {id}"))
    }

    fn node(&self, id: u64) -> anyhow::Result<&Node> {
        Ok(&self.cluster.nodes()[self.position(id)?])
    }

    fn network(&self) -> anyhow::Result<(&Hosts, &Probes)> {
        let hosts = self.cluster.hosts().context("the nodes have no hosts")?;
        Ok((hosts, self.probes.as_ref().context("there are no probes")?))
    }

    fn proxy(&self, link: Link) -> anyhow::Result<&Proxy> {
        self.cluster
            .links()
            .context("the links have no proxies")?
            .get(link)
    }

    fn disk(&self, id: u64) -> anyhow::Result<LossyDisk> {
        let disk = self.cluster.lossy_disks().into_iter().nth(self.position(id)?);
        disk.with_context(|| format!("node {id} has no lossy disk"))
    }

    fn fake_clock(&self, id: u64) -> anyhow::Result<&FakeClock> {
        let position = self.position(id)?;
        self.clocks
            .get(position)
            .with_context(|| format!("the clock of node {id} cannot lie"))
    }

    fn note_start(&self, took: Duration) {
        self.starts.lock().push(micros(took));
    }

    fn set_down(&self, id: u64, is_down: bool) {
        let now: Micros = self.clock.now();
        self.world.lock().set_down(id, is_down, now);
    }
}

/// Clocks that can lie, one for each node, with their files in `folder`.
///
/// # Errors
/// When libfaketime is not installed, or a file cannot be written.
pub fn fake_clocks(folder: &std::path::Path, nodes: u64) -> anyhow::Result<Vec<FakeClock>> {
    let file = |id: u64| -> PathBuf { folder.join(format!("clock{id}")) };
    (1..=nodes).map(|id| FakeClock::make(file(id))).collect()
}
