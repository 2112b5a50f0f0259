//! A disk is full, first a follower's, then the leader's, then that of a node that is killed; each gets room again. Then the leader's hangs.
//! In the end all three fill at once: then there are no writes, and when there is room, the cluster is back.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use brama_proto::v1;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::pulse::Pulse;
use super::stage::Stage;
use crate::circuits::Circuits;
use crate::cluster::{ClusterOptions, status};
use crate::findings::Findings;
use crate::history::{Action, Answer, History, Op, Outcome};
use crate::node::Node;
use crate::rpc::{Failure, Nodes, answer, timed};
use crate::time::{Micros, show_ms};
use crate::workload::{Client, Mix, PATIENCE};

const CLIENTS: u32 = 8;
const CIRCUITS: usize = 20;
/// Bytes of each node's disk.
const DISK_BYTES: u64 = 160 * 1024 * 1024;
/// `limits.min_free_bytes`.
const MIN_FREE: i64 = 32 * 1024 * 1024;
const KEPT_EVENTS: i64 = 50_000;
/// A small log, so that snapshots are taken while the disk is full.
const SNAPSHOT_EVERY: i64 = 300;
/// Beside the clients: a registration of what is registered, with a lot of metadata, so often. It changes nothing, and fills the log: the
/// journal of a node whose disk is full, too.
const BALLAST_EVERY: Duration = Duration::from_millis(50);
const BALLAST_KEYS: usize = 30;
const BALLAST_BYTES: usize = 900;
/// Apart from the numbers of clients and of the pulse.
const BALLAST_CLIENT: u32 = 2000;
/// A full disk must be noticed within this: until then, writes fit into what the files have.
const NOTICED_WITHIN: Duration = Duration::from_secs(40);
/// After there is room, the node is back within this.
const BACK_WITHIN: Duration = Duration::from_secs(10);
/// While one disk is full, writes may stop for so long: G12's bound for a leader that dies.
const LONGEST_GAP: Micros = 4_000_000;
/// All disks are full for no longer: a client's patience must not be over.
const ALL_FULL: Duration = Duration::from_secs(8);
const CALL: Duration = Duration::from_secs(10);

/// What the node logs when its disk is full, and when it goes on.
const FULL: &str = "the disk is full: this node takes no more";
const GOES_ON: &str = "the disk has room again, and the log goes on";
/// The same for one that hangs.
const HANGS: &str = "the disk hangs";
const HANGS_NO_MORE: &str = "the disk does not hang any more";

/// Whose disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Follower,
    Leader,
    /// A follower, which is killed before there is room.
    Killed,
    /// The leader's disk is not full, but does not end what it was asked for.
    Hung,
}

impl Victim {
    /// What the node logs, when it is so and when it is over.
    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Hung => (HANGS, HANGS_NO_MORE),
            Self::Follower | Self::Leader | Self::Killed => (FULL, GOES_ON),
        }
    }
}

/// Fills the disk of one node after the other while clients report, and keeps each full for so long.
///
/// # Errors
/// When it could not be done: it needs root, to mount file systems.
pub async fn full_disk(keep_full: Duration, seed: u64) -> anyhow::Result<Findings> {
    small_disks()?;
    let mut findings = Findings::default();
    let disks = Disks::mount(3)?;
    let stage = Stage::start(
        ClusterOptions {
            settings: vec![
                ("raft", "snapshot_every", SNAPSHOT_EVERY.into()),
                ("raft", "keep_entries", 100.into()),
                ("limits", "min_free_bytes", MIN_FREE.into()),
                // So that snapshots stay small beside the disks.
                ("limits", "max_events", KEPT_EVENTS.into()),
            ],
            env: disks.env(),
            ..Default::default()
        },
        Circuits::random(CIRCUITS, &mut StdRng::seed_from_u64(seed)),
    )
    .await?;
    let all: Vec<usize> = (0..stage.nodes.len()).collect();
    let pulse = Pulse::start(&stage, all);
    let working = CancellationToken::new();
    let mut clients = JoinSet::new();
    for id in 1..=CLIENTS {
        let client = Client::new(
            id,
            stage.cluster.connect()?,
            stage.circuits.clone(),
            stage.history.clone(),
            Mix::Reports,
            seed,
        );
        clients.spawn(client.run(working.clone()));
    }
    let ballast = ballast(
        stage.cluster.connect()?,
        stage.circuits.clone(),
        stage.history.clone(),
        working.clone(),
    );
    clients.spawn(ballast);
    for victim in [Victim::Follower, Victim::Leader, Victim::Killed, Victim::Hung] {
        stage.cluster.wait_until_ready(BACK_WITHIN).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        play(&stage, &disks, &pulse, victim, keep_full, &mut findings).await?;
    }
    stage.cluster.wait_until_ready(BACK_WITHIN).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    play_all(&stage, &disks, &pulse, keep_full, &mut findings).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    pulse.stop().await?;
    working.cancel();
    while let Some(client) = clients.join_next().await {
        client?;
    }
    check_clients(&stage.history.ops(), &mut findings);
    findings.checked(
        "G8",
        "every acknowledged report is there after each disk was full",
    );
    let findings = stage.finish(findings).await;
    drop(disks);
    findings
}

/// Whether this process can mount small file systems.
///
/// # Errors
/// Says why not.
pub fn small_disks() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a full disk needs a small file system, and only root can mount one: run it as root");
    }
    let disks =
        Disks::mount(1).context("a full disk needs a small file system, and none can be mounted here")?;
    drop(Frozen::begin(&disks.mounts[0])?);
    Ok(())
}

/// One disk is full for a while.
async fn play(
    stage: &Stage,
    disks: &Disks,
    pulse: &Pulse,
    victim: Victim,
    keep_full: Duration,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let leader = stage.cluster.wait_for_leader(&stage.nodes, CALL).await?;
    let position = match victim {
        Victim::Leader | Victim::Hung => leader,
        Victim::Follower | Victim::Killed => (leader + 1) % stage.nodes.len(),
    };
    let node = &stage.cluster.nodes()[position];
    let name = format!("{victim:?}").to_lowercase();
    let (begins, ends) = victim.texts();
    let (begun, over) = (count(&node.log_path(), begins)?, count(&node.log_path(), ends)?);

    let began = stage.clock.now();
    let fault = Fault::begin(victim, &disks.mounts[position])?;
    stage
        .wait(NOTICED_WITHIN, "the node notices its disk", async |_| {
            Ok(count(&node.log_path(), begins)? > begun)
        })
        .await?;
    let noticed = stage.clock.now();
    if position == leader {
        let moved = stage
            .wait(CALL, "leadership moves on", async |stage: &Stage| {
                let leads = stage.cluster.leader(&stage.nodes).await;
                Ok(leads.is_some_and(|leads| leads != position))
            })
            .await;
        if let Err(error) = moved {
            findings.broken("full", format!("{name}: {error:#}"));
        }
    }
    tokio::time::sleep(keep_full).await;
    if let Some(ended) = node.exit_status()? {
        bail!(
            "node {} ended because of its disk: {ended}\n{}",
            node.spec.id,
            node.log_tail(20)
        );
    }
    let behind = behind(stage, position).await;
    if victim == Victim::Killed {
        node.kill().await?;
    }
    let ended = stage.clock.now();
    fault.end()?;
    let freed = stage.clock.now();
    if victim == Victim::Killed {
        node.start()?;
    }
    let back = stage
        .wait(BACK_WITHIN, "the node is back", async |stage: &Stage| {
            let running = victim == Victim::Killed || count(&node.log_path(), ends)? > over;
            Ok(running
                && stage
                    .cluster
                    .wait_until_ready(Duration::from_millis(1))
                    .await
                    .is_ok())
        })
        .await;
    if let Err(error) = back {
        findings.broken("full", format!("{name}: {error:#}"));
    }
    let took = stage.clock.now() - freed;
    lead_again(stage, position, &name, findings).await;
    let gap = pulse.longest_gap(began, ended);
    findings.figure(
        format!("disk of {name}"),
        format!(
            "noticed after {}; longest time without a write {}; {behind} entries behind in the end; back {} after it was well",
            show_ms(noticed - began),
            show_ms(gap),
            show_ms(took)
        ),
    );
    findings.require(gap <= LONGEST_GAP, "G12", || {
        format!(
            "{name}: no write for {} while one disk was not well",
            show_ms(gap)
        )
    });
    Ok(())
}

/// All disks fill at once, until there are no writes: as soon as two are full, so that the third may not be.
async fn play_all(
    stage: &Stage,
    disks: &Disks,
    pulse: &Pulse,
    keep_full: Duration,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let logs: Vec<PathBuf> = stage.cluster.nodes().iter().map(Node::log_path).collect();
    let counts =
        |text: &str| -> anyhow::Result<Vec<usize>> { logs.iter().map(|log| count(log, text)).collect() };
    let (begun, over) = (counts(FULL)?, counts(GOES_ON)?);
    let more = |before: &[usize], now: &[usize]| -> usize {
        before
            .iter()
            .zip(now)
            .filter(|(before, now)| now > before)
            .count()
    };
    let began = stage.clock.now();
    let fillers: Vec<Filler> = disks
        .mounts
        .iter()
        .map(|mount| Filler::start(mount))
        .collect::<Result<_, _>>()?;
    stage
        .wait(
            NOTICED_WITHIN,
            "two nodes notice that their disks are full",
            async |_| Ok(more(&begun, &counts(FULL)?) >= 2),
        )
        .await?;
    tokio::time::sleep(keep_full.min(ALL_FULL)).await;
    for node in stage.cluster.nodes() {
        if let Some(ended) = node.exit_status()? {
            bail!(
                "node {} ended because its disk is full: {ended}\n{}",
                node.spec.id,
                node.log_tail(20)
            );
        }
    }
    for filler in fillers {
        filler.remove()?;
    }
    let freed = stage.clock.now();
    let back = stage
        .wait(BACK_WITHIN, "the cluster is back", async |stage: &Stage| {
            let running = more(&over, &counts(GOES_ON)?) == more(&begun, &counts(FULL)?);
            let writes = pulse.first_after(freed).is_some();
            Ok(running
                && writes
                && stage
                    .cluster
                    .wait_until_ready(Duration::from_millis(1))
                    .await
                    .is_ok())
        })
        .await;
    let took = stage.clock.now() - freed;
    if let Err(error) = back {
        findings.broken("full", format!("all: {error:#}"));
    }
    findings.figure(
        "all disks",
        format!(
            "no write for {} while all were full; back {} after they were well",
            show_ms(pulse.longest_gap(began, freed)),
            show_ms(took)
        ),
    );
    Ok(())
}

/// How far the node's state is behind the newest one.
async fn behind(stage: &Stage, position: usize) -> u64 {
    let statuses = stage.cluster.statuses(&stage.nodes).await;
    let applied =
        |status: &Option<v1::ClusterStatusResponse>| status.as_ref().map_or(0, |status| status.applied_index);
    let newest = statuses.iter().map(applied).max().unwrap_or(0);
    newest - applied(&statuses[position])
}

/// A node that had a full disk leads as well as any other.
async fn lead_again(stage: &Stage, position: usize, name: &str, findings: &mut Findings) {
    let id = stage.cluster.nodes()[position].spec.id;
    let leads = stage
        .wait(CALL, "it leads again", async |stage: &Stage| {
            let said = status(&stage.nodes, position).await;
            if said.is_some_and(|said| said.role() == v1::Role::Leader) {
                return Ok(true);
            }
            // Refused for a moment: it looks at its disk a few times a second.
            let request = timed(v1::TransferLeaderRequest { node_id: Some(id) }, CALL);
            let _ = answer(CALL, stage.nodes.cluster(position).transfer_leader(request)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(false)
        })
        .await;
    if let Err(error) = leads {
        findings.broken("full", format!("{name}: {error:#}"));
    }
}

/// Fills the log until `stop`.
async fn ballast(nodes: Nodes, circuits: Arc<Circuits>, history: Arc<History>, stop: CancellationToken) {
    let metadata = (0..BALLAST_KEYS).map(|key| (format!("ballast-{key}"), "x".repeat(BALLAST_BYTES)));
    let request = v1::RegisterRequest {
        name: Some(circuits.get(0).name.clone()),
        if_exists: v1::IfExists::Keep.into(),
        metadata: metadata.collect(),
        ..Default::default()
    };
    let mut ticks = tokio::time::interval(BALLAST_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut node = 0;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        node = (node + 1) % nodes.len();
        let op = history.begin(BALLAST_CLIENT, Action::register(0, &v1::Policy::default()));
        let outcome = answer(CALL, nodes.circuits(node).register(timed(request.clone(), CALL))).await;
        let outcome = match outcome {
            Ok(response) => Outcome::Ok(Answer::registered(&response)),
            Err(Failure::Refused { reason, .. }) => Outcome::Refused(reason),
            Err(Failure::Unknown(message)) => Outcome::Unknown(message),
        };
        history.end(op, 1, outcome);
    }
}

/// A client with a session sees no error, as long as it has patience.
fn check_clients(ops: &[Op], findings: &mut Findings) {
    let mut reports = 0;
    let mut slowest = 0;
    for op in ops {
        if !matches!(op.action, Action::Report { .. }) || op.client > CLIENTS || op.client == 0 {
            continue;
        }
        reports += 1;
        let took = op.ended - op.started;
        match &op.outcome {
            Outcome::Ok(_) => slowest = slowest.max(took),
            Outcome::Refused(what) | Outcome::Unknown(what) => {
                let patient = u128::from(took) >= PATIENCE.as_micros();
                findings.require(!patient, "full", || {
                    format!("a client gave up after {}: {what}", show_ms(took))
                });
            }
        }
    }
    findings.figure(
        "reports with a session",
        format!("{reports}, the slowest {}", show_ms(slowest)),
    );
    findings.checked("full", "no client saw an error that its retries did not mend");
}

fn count(log: &Path, text: &str) -> anyhow::Result<usize> {
    let log = fs::read(log)?;
    Ok(String::from_utf8_lossy(&log).matches(text).count())
}

/// A small file system a node. Dropping it unmounts them, and removes all.
struct Disks {
    mounts: Vec<PathBuf>,
    folder: tempfile::TempDir,
}

impl Disks {
    fn mount(number: usize) -> anyhow::Result<Self> {
        let mut disks = Self {
            mounts: Vec::new(),
            folder: tempfile::Builder::new().prefix("brama-disks-").tempdir()?,
        };
        for number in 1..=number {
            let image = disks.folder.path().join(format!("disk{number}"));
            let mount = disks.folder.path().join(format!("node{number}"));
            File::create(&image)?.set_len(DISK_BYTES)?;
            fs::create_dir(&mount)?;
            run(Command::new("mkfs.ext4")
                .args(["-q", "-F", "-m", "0"])
                .arg(&image))?;
            run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount))?;
            disks.mounts.push(mount);
        }
        Ok(disks)
    }

    /// Tells each node where its data are.
    fn env(&self) -> Vec<(u64, Vec<(String, String)>)> {
        let data_dir = |mount: &PathBuf| {
            let path = mount.join("data").display().to_string();
            vec![("BRAMA_NODE__DATA_DIR".to_owned(), path)]
        };
        (1..).zip(self.mounts.iter().map(data_dir)).collect()
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for mount in &self.mounts {
            // A node may be about to end: then it is let go as soon as it has.
            if let Err(error) = run(Command::new("umount").arg("-l").arg(mount)) {
                eprintln!("{error:#}");
            }
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{} failed: {}",
            command.get_program().display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// What is wrong with a disk, until it is ended.
enum Fault {
    Full(Filler),
    Frozen(Frozen),
}

impl Fault {
    fn begin(victim: Victim, mount: &Path) -> anyhow::Result<Self> {
        Ok(match victim {
            Victim::Hung => Self::Frozen(Frozen::begin(mount)?),
            Victim::Follower | Victim::Leader | Victim::Killed => Self::Full(Filler::start(mount)?),
        })
    }

    fn end(self) -> anyhow::Result<()> {
        match self {
            Self::Full(filler) => filler.remove(),
            Self::Frozen(frozen) => {
                drop(frozen);
                Ok(())
            }
        }
    }
}

/// A file system whose writes wait until this is dropped.
struct Frozen {
    mount: PathBuf,
}

impl Frozen {
    fn begin(mount: &Path) -> anyhow::Result<Self> {
        let frozen = Self {
            mount: mount.to_owned(),
        };
        run(Command::new("fsfreeze").arg("-f").arg(mount))?;
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("fsfreeze").arg("-u").arg(&self.mount)) {
            eprintln!("{error:#}");
        }
    }
}

/// Takes all the room of a file system, and whatever becomes free there, until it is removed.
struct Filler {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Filler {
    fn start(mount: &Path) -> anyhow::Result<Self> {
        let path = mount.join("filler");
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("filler".into()).spawn(move || {
            let zeros = vec![0; 1024 * 1024];
            let mut most = zeros.len();
            while !stopped.load(Relaxed) {
                match file.write(&zeros[..most]) {
                    Ok(_) => {}
                    // Smaller pieces, to the last block; then what becomes free.
                    Err(_) if most > 4096 => most /= 2,
                    // Each attempt makes the file system commit its journal, in the hope to find room: often, it would slow down all disks.
                    Err(_) => std::thread::sleep(Duration::from_millis(50)),
                }
            }
        })?;
        Ok(Self {
            path,
            stop,
            thread: Some(thread),
        })
    }

    fn remove(mut self) -> anyhow::Result<()> {
        self.end();
        Ok(fs::remove_file(&self.path)?)
    }

    fn end(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.end();
    }
}
