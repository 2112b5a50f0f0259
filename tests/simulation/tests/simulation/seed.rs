//! One run: everything that happens in it follows from its seed.
//!
//! 1. A cluster is made, with knobs that the seed draws.
//! 2. Clients work while faults come and go.
//! 3. Perhaps one node stays away, and the others must go on without it (G12).
//! 4. All is well again: writes must go on in time (G12), an opening must end in time (G5), and all nodes must come to one state (G1).
//! 5. The history of the clients is held against the events of the cluster.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use brama_core::circuit::StateName;
use brama_core::command::{Bootstrap, ClusterId, ReportBatch, ReportItem};
use brama_core::event::{Cause, EventKind};
use brama_core::limits::Limits;
use brama_core::policy::{Expiry, GlobalOptions, Policy};
use brama_core::report::Outcome;
use brama_core::{Command, Metadata, Summary};
use brama_raft::{Options, Origin, Replica, Timing};
use brama_simulation::{Broken, Manual, Ms, Seen, Settings, judge};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::clients::{Clients, LEDGER, name};
use crate::faults::{Faults, machine};
use crate::machine::{Clocks, Disk, Doors, End, Machine, address};
use crate::network::Network;
use crate::world::World;

/// What is asked for beside a seed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    /// Disks say that they have written what they have not.
    pub(crate) lying_disks: bool,
}

/// What came of a run.
pub(crate) struct Ending {
    pub(crate) hash: u64,
    pub(crate) summary: String,
    /// What happened in it, and how often.
    pub(crate) seen: Vec<(&'static str, u64)>,
    pub(crate) broken: Vec<Broken>,
    pub(crate) end: Vec<String>,
}

const ELECTION_MAX_MS: Ms = 1000;
/// G12, at worst.
const RESUMES_WITHIN_MS: Ms = 4 * ELECTION_MAX_MS;
/// How late an opening may end on a healthy cluster: the contract's 20 ms, and what simulated disks and links take more than real ones.
const LATE_MS: Ms = 80;

/// Runs a seed.
pub(crate) fn run(seed: u64, wanted: Wanted, folder: &Path, world: Arc<World>) -> Ending {
    let mut simulation = Simulation::new(seed, wanted, folder, world);
    simulation.story();
    simulation.outcome()
}

struct Simulation {
    world: Arc<World>,
    network: Network,
    machines: Vec<Machine>,
    /// Machines that have heard no leader since they were down last: see [`Simulation::look`].
    fresh: Vec<bool>,
    was_all_fresh: bool,
    clients: Clients,
    runtime: Runtime,
    began: Instant,
    working: Vec<JoinHandle<()>>,
    settings: Settings,
    faults: Option<Faults>,
    usual_flush_ms: u64,
    chaos_ms: Ms,
    knobs: String,
}

impl Simulation {
    fn new(seed: u64, wanted: Wanted, folder: &Path, world: Arc<World>) -> Self {
        let members: u64 = if world.chance(25) { 5 } else { 3 };
        let usual = *world.pick(&[(0, 2), (1, 5), (1, 20)]);
        let network = Network::new(world.clone(), usual);
        let doors = Doors::default();
        let snapshot_every = *world.pick(&[5, 20, 60, 200, 2000]);
        let keep_entries = *world.pick(&[0, 3, 30, 300]);
        let limits = Limits {
            max_events: *world.pick(&[60, 300, 3000]),
            ..Limits::default()
        };
        let compare_ms = world.draw(500..=4000);
        let usual_flush_ms = *world.pick(&[1, 3, 12]);
        let settings = Settings {
            max_probes: usize::try_from(world.draw(1..=2)).unwrap(),
            probe_timeout_ms: world.draw(100..=1200),
            expiry_ms: world.draw(30..=900),
        };
        let policy = Policy {
            max_attempts: Some(u32::try_from(world.draw(1..=4)).unwrap()),
            expiry: Some(Expiry::Ms(settings.expiry_ms)),
            half_open_max_probes: Some(u32::try_from(settings.max_probes).unwrap()),
            half_open_successes: Some(u32::try_from(world.draw(1..=3)).unwrap()),
            probe_timeout_ms: Some(settings.probe_timeout_ms),
            ..Policy::default()
        };
        let chaos_ms = world.draw(4000..=14_000);
        let knobs = format!(
            "seed {seed}: {members} nodes, links {usual:?} ms, flush up to {usual_flush_ms} ms, snapshot every {snapshot_every}, keeps {keep_entries}, \
             {} events, {settings:?}, faults for {chaos_ms} ms",
            limits.max_events
        );
        world.say(&knobs);
        let first = Bootstrap {
            cluster_id: ClusterId::default(),
            defaults: Policy::default(),
            global_defaults: GlobalOptions::default(),
            limits,
        };
        let listed: Vec<_> = (1..=members).map(|id| (id, address(id).to_string())).collect();
        let machines = (1..=members).map(|id| {
            let (first, listed) = (first.clone(), listed.clone());
            let options = move |time: Arc<Clocks>, environment, data_dir| Options {
                node_id: id,
                cluster_name: "simulated".into(),
                data_dir,
                peer_listen: address(id),
                peer_address: address(id).to_string(),
                client_address: address(id).to_string(),
                origin: Origin::Bootstrap {
                    members: listed,
                    first: Box::new(first),
                },
                timing: Timing {
                    election_min: Duration::from_millis(500),
                    election_max: Duration::from_millis(ELECTION_MAX_MS),
                    heartbeat: Duration::from_millis(100),
                },
                time,
                environment,
                snapshot_every,
                keep_entries,
                compare_interval: Duration::from_millis(compare_ms),
                min_free_bytes: 0,
            };
            let disk = Disk {
                slowest_ms: usual_flush_ms.into(),
                lies: wanted.lying_disks,
            };
            let data = folder.join(format!("node-{id}"));
            Machine::new(
                id,
                world.clone(),
                network.clone(),
                doors.clone(),
                disk,
                options,
                data,
            )
        });
        let machines: Vec<_> = machines.collect();
        let clients = Clients {
            world: world.clone(),
            doors,
            members,
            policy,
            probe_timeout_ms: settings.probe_timeout_ms,
            stopping: Arc::new(AtomicBool::new(false)),
        };
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        let began = {
            let _inside = runtime.enter();
            Instant::now()
        };
        Self {
            fresh: vec![true; machines.len()],
            was_all_fresh: false,
            world,
            network,
            machines,
            clients,
            runtime,
            began,
            working: Vec::new(),
            settings,
            faults: None,
            usual_flush_ms,
            chaos_ms,
            knobs,
        }
    }

    fn story(&mut self) {
        // 1.
        for machine in &mut self.machines {
            machine.start();
        }
        if !self.until(15_000, |one| one.leader().is_some()) {
            return self.fails("G12", "no leader within 15 s of the first start");
        }
        for circuit in LEDGER.into_iter().chain([PULSE]) {
            let clients = self.clients.clone();
            self.spawn(async move { clients.register(circuit).await });
        }
        if !self.until(10_000, |one| one.working.is_empty()) {
            return self.fails("G12", "circuits cannot be registered on a new cluster");
        }

        // 2.
        for client in 0..3 {
            let clients = self.clients.clone();
            self.spawn(clients.reporter(client));
        }
        for client in 0..2 {
            let clients = self.clients.clone();
            self.spawn(clients.prober(client));
            let clients = self.clients.clone();
            self.spawn(clients.reader());
        }
        let clients = self.clients.clone();
        self.spawn(clients.operator(0));
        self.faults = Some(Faults::new(
            &self.world,
            self.machines.len() as u64,
            self.usual_flush_ms,
        ));
        let end = self.world.now() + self.chaos_ms;
        self.until(self.chaos_ms + 1, |one| one.world.now() >= end);

        // 3.
        self.heal();
        if self.world.chance(50) {
            let away = self.world.draw(1..=self.machines.len() as u64);
            self.without(away);
        }

        // 4.
        self.heal();
        if !self.resumes("after all faults have ended") {
            return;
        }
        self.opening_ends_in_time();
        self.clients.stopping.store(true, Relaxed);
        if !self.until(20_000, |one| one.working.is_empty()) {
            return self.fails("G12", "clients do not get their answers on a healthy cluster");
        }
        self.converge();

        // 5.
        let last = self.machines.len() as u64;
        let clients = self.clients.clone();
        self.spawn(async move {
            for node in 1..=last {
                if !clients.read(node).await {
                    let what = format!("node {node} does not answer a read on a healthy cluster");
                    clients.world.breaks(Broken::new("G2", what));
                }
            }
        });
        self.until(10_000, |one| one.working.is_empty());
    }

    fn fails(&self, guarantee: &'static str, what: &str) {
        self.world.breaks(Broken::new(guarantee, what));
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.working.push(self.runtime.spawn(task));
    }

    /// Lets time pass until something is so; false if it is not so within so many milliseconds, or something is broken.
    fn until(&mut self, within: Ms, mut so: impl FnMut(&Self) -> bool) -> bool {
        for _ in 0..within {
            if so(self) {
                return true;
            }
            if !self.world.broken.lock().is_empty() {
                return false;
            }
            self.tick();
        }
        so(self)
    }

    /// A millisecond.
    fn tick(&mut self) {
        let world = self.world.clone();
        world.tick();
        if let Some(faults) = &mut self.faults {
            faults.tick(&world, &self.network, &mut self.machines);
        }
        self.network.deliver();
        // Nobody is always first.
        let first = usize::try_from(world.draw(0..=self.machines.len() as u64 - 1)).unwrap();
        let count = self.machines.len();
        for n in 0..count {
            self.machines[(first + n) % count].tick();
        }
        let now = self.began + Duration::from_millis(world.now());
        self.runtime
            .block_on(async { tokio::time::sleep_until(now).await });
        self.working.retain(|task| !task.is_finished());
        self.look();
    }

    /// What each node shows now.
    fn look(&mut self) {
        let world = self.world.clone();
        let mut nodes = world.nodes.lock();
        let mut broken = Vec::new();
        for (machine, fresh) in self.machines.iter().zip(&mut self.fresh) {
            let id = machine.id;
            let Some(replica) = machine.replica() else {
                *fresh = true;
                continue;
            };
            if replica.has_quorum() {
                *fresh = false;
            }
            let (index, hash) = replica.state_hash();
            if index > 0 {
                broken.extend(nodes.hash(id, index, hash).err());
            }
            if let Some(term) = replica.leadership().borrow().term {
                if term > nodes.newest_term() {
                    world.say(format!("node {id} leads in term {term}"));
                }
                broken.extend(nodes.leader(id, term).err());
            }
            // As a subscriber: on this node, and one that goes from node to node.
            if replica.is_recovered() {
                let roams = world.now() / 50 % self.machines.len() as u64 + 1 == id;
                for reader in [Some(id), roams.then_some(0)].into_iter().flatten() {
                    match replica.read(|machine| nodes.read(reader, world.now(), machine)) {
                        Ok(new) => new.iter().for_each(|event| world.say(line(event))),
                        Err(error) => broken.push(error),
                    }
                }
            }
        }
        drop(nodes);
        broken.into_iter().for_each(|broken| world.breaks(broken));
        // A majority that heard no leader since its start takes the time from wall clocks.
        let all_fresh = self.fresh.iter().filter(|fresh| **fresh).count() * 2 > self.fresh.len();
        if all_fresh && !self.was_all_fresh {
            world.history.lock().all_down.push(world.now());
        }
        self.was_all_fresh = all_fresh;
    }

    fn leader(&self) -> Option<(&Machine, Replica)> {
        self.machines.iter().find_map(|machine| {
            let replica = machine.replica()?;
            let leads = replica.leadership().borrow().term.is_some();
            leads.then_some((machine, replica))
        })
    }

    fn heal(&mut self) {
        if let Some(mut faults) = self.faults.take() {
            faults.heal(&self.world, &self.network, &mut self.machines);
            self.knobs += &format!(", {} faults", faults.count);
        }
        self.machines.iter_mut().for_each(Machine::heal);
    }

    /// The others go on while a node is away.
    fn without(&mut self, away: u64) {
        let others: Vec<_> = (1..=self.machines.len() as u64)
            .filter(|other| *other != away)
            .collect();
        let links = others.iter().flat_map(|other| [(away, *other), (*other, away)]);
        let links: Vec<_> = links.collect();
        match self.world.draw(0..=3) {
            0 => machine(&mut self.machines, away).end(End::Killed),
            1 => machine(&mut self.machines, away).end(End::PowerCut),
            2 => links.iter().for_each(|link| self.network.cut(*link)),
            // It still hears the others, or they it.
            _ => {
                let half = usize::try_from(self.world.draw(0..=1)).unwrap();
                links
                    .iter()
                    .skip(half)
                    .step_by(2)
                    .for_each(|link| self.network.cut(*link));
            }
        }
        self.world.say(format!("node {away} is away, and stays so"));
        self.resumes(&format!("while node {away} is away"));
        for link in links {
            self.network.heal(link);
        }
    }

    /// G12: something that is asked for from now on is done within the time for an election.
    fn resumes(&mut self, when: &str) -> bool {
        let began = self.world.now();
        let done = Arc::new(AtomicBool::new(false));
        for node in 1..=self.machines.len() as u64 {
            let (clients, done) = (self.clients.clone(), done.clone());
            self.spawn(async move {
                while !done.load(Relaxed) && clients.world.now() < began + RESUMES_WITHIN_MS {
                    if let Some(Ok(_)) = clients.propose(node, pulse()).await {
                        done.store(true, Relaxed);
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
        let resumed = self.until(RESUMES_WITHIN_MS, |_| done.load(Relaxed));
        let took = self.world.now() - began;
        self.world
            .say(format!("writes resume {when}: {resumed}, {took} ms"));
        self.knobs += &format!(", writes after {took} ms {when}");
        if !resumed && self.world.broken.lock().is_empty() {
            self.fails("G12", &format!("no write within {RESUMES_WITHIN_MS} ms {when}"));
        }
        resumed
    }

    /// G5: on a healthy cluster.
    fn opening_ends_in_time(&mut self) {
        // Those who were away catch up first, and whoever leads stays.
        let settled = self.world.now() + 2000;
        self.until(2001, |one| one.world.now() >= settled);
        let lasts = 300;
        let (clients, opened) = (self.clients.clone(), Arc::new(AtomicBool::new(false)));
        let told = opened.clone();
        let open = Command::Open {
            name: name(PULSE),
            expiry: Some(Expiry::Ms(lasts)),
            reason: Some(Arc::from(PULSE)),
        };
        self.world.history.lock().manual.push(Manual {
            reason: PULSE.into(),
            kind: EventKind::CircuitOpened,
            circuit: PULSE.into(),
            expiry_ms: Some(lasts),
            invoked: self.world.now(),
            done: None,
            refused: false,
        });
        let Some(leader) = self.leader().map(|(machine, _)| machine.id) else {
            return self.fails("G12", "nobody leads on a healthy cluster");
        };
        let terms = self.world.nodes.lock().newest_term();
        self.spawn(async move {
            let answer = clients.propose(leader, open).await;
            told.store(matches!(answer, Some(Ok(_))), Relaxed);
        });
        let state = |one: &Self| {
            let (_, replica) = one.leader()?;
            replica.read(|machine| machine.status(&name(PULSE)).map(|status| status.state))
        };
        if !self.until(2000, |one| {
            opened.load(Relaxed) || state(one) == Some(StateName::HalfOpen)
        }) {
            if self.world.nodes.lock().newest_term() == terms {
                self.fails("G12", "a circuit cannot be opened on a healthy cluster");
            }
            return;
        }
        let began = self.world.now();
        let ended = self.until(lasts + LATE_MS, |one| state(one) == Some(StateName::HalfOpen));
        let took = self.world.now() - began;
        self.world.say(format!(
            "an opening of {lasts} ms has ended {took} ms after the answer"
        ));
        if !ended && self.world.nodes.lock().newest_term() == terms {
            self.fails(
                "G5",
                &format!("an opening of {lasts} ms lasts for more than {took} ms"),
            );
        }
    }

    /// G1: all nodes come to one state.
    fn converge(&mut self) {
        let agree = |one: &Self| {
            let mut states = one
                .machines
                .iter()
                .map(|machine| machine.replica().map(|replica| replica.state_hash()));
            let first = states.next().flatten();
            first.is_some() && states.all(|state| state == first)
        };
        if !self.until(10_000, agree) {
            let states = self.machines.iter().map(|machine| {
                let state = machine
                    .replica()
                    .map(|replica| (replica.state_hash(), replica.status()));
                format!("\nnode {}: {state:?}", machine.id)
            });
            let states: String = states.collect();
            self.fails(
                "G1",
                &format!("the nodes do not come to one state within 10 s:{states}"),
            );
        }
    }

    fn outcome(self) -> Ending {
        let world = &self.world;
        let (history, nodes) = (world.history.lock(), world.nodes.lock());
        let mut broken = world.broken.lock().clone();
        if broken.is_empty() {
            broken = judge(&history, &nodes, &self.settings);
        }
        let of_kind = |kind, cause| {
            let is_one = |seen: &&Seen| seen.event.kind == kind && seen.event.cause == cause;
            nodes.events().values().filter(is_one).count() as u64
        };
        let granted = history.probes.iter().filter(|probe| probe.granted.is_some());
        let seen = vec![
            ("acknowledged", history.positions.len() as u64),
            ("reads", history.reads.len() as u64),
            ("batches", history.batches.len() as u64),
            ("manual acts", history.manual.len() as u64),
            ("permits", granted.count() as u64),
            ("permits run out", of_kind(EventKind::ProbeExpired, Cause::Expiry)),
            (
                "openings ended",
                of_kind(EventKind::CircuitHalfOpened, Cause::Expiry),
            ),
            (
                "closed by probes",
                of_kind(EventKind::CircuitClosed, Cause::Probe),
            ),
            ("terms", nodes.terms() as u64),
            ("compacted", nodes.compacted()),
            (
                "snapshots installed",
                self.machines.iter().map(Machine::installed).sum(),
            ),
            (
                "processes ended",
                self.machines.iter().map(|machine| machine.ended).sum(),
            ),
            ("times from wall clocks", history.all_down.len() as u64),
        ];
        let told: Vec<_> = seen
            .iter()
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        let summary = format!("{}: {} ms, {}", self.knobs, world.now(), told.join(", "));
        Ending {
            hash: world.trace_hash(),
            summary,
            seen,
            broken,
            end: world.trace_end(),
        }
    }
}

/// A circuit for what the simulation asks itself.
const PULSE: &str = "pulse";

fn pulse() -> Command {
    Command::Report(ReportBatch {
        session: None,
        items: vec![ReportItem {
            name: name(PULSE),
            generation: None,
            permit: None,
            summary: Summary::of(Outcome::Success),
            reason: None,
            metadata: Metadata::new(),
        }],
    })
}

fn line(event: &brama_core::event::Event) -> String {
    let name = event.name.as_ref().map_or("-", |name| name.identifier.as_str());
    format!(
        "event {} {} {name} {:?} generation {} at {} {}",
        event.revision,
        event.kind.name(),
        event.new_state,
        event.generation,
        event.time,
        event.reason.as_deref().unwrap_or("")
    )
}
