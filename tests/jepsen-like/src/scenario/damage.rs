//! Every file of a node's data directory is damaged in many ways; the node says what is wrong, or nothing is lost by it.
//!
//! A node of a working cluster is stopped, and its directory kept. For each damage a copy of it is damaged, and the node started where no other
//! node reaches it: so what it lost nobody can have given back. Either it ends with exit code 1 and a message that names the file and says what to do;
//! or its log and its vote are what they were. Then it is started among the others, and must come to the same state.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use brama_proto::v1;
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::crew::Crew;
use super::stage::Stage;
use crate::circuits::Circuits;
use crate::cluster::{Cluster, ClusterOptions, free_address, status};
use crate::findings::Findings;
use crate::node::Node;
use crate::rpc::{Nodes, answer, timed};
use crate::workload::Mix;

const CIRCUITS: usize = 10;
const CLIENTS: u32 = 4;
/// The node whose files are damaged, by position.
const VICTIM: usize = 2;
const PATIENCE: Duration = Duration::from_secs(20);
const CALL: Duration = Duration::from_secs(10);
/// A node that wrote nothing for so long has written its mark.
const QUIET: Duration = Duration::from_millis(200);
/// Each refusal says one of these, beside what is wrong.
const ADVICE: [&str; 4] = [
    "under a new node id",
    "correct the",
    "start the newer version",
    "if this machine's wall clock is right",
];

/// How much of it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// After kill -9, and fewer places.
    Short,
    /// Also after an orderly stop.
    Full,
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Flipped(u64, &'static str),
    CutTo(u64, &'static str),
    Zeroed,
    Removed,
    OfAnotherNode,
    OfAnotherCluster,
}

/// What became of a node with a damaged file.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Nothing was lost, and it caught up.
    Starts,
    /// The message.
    Refuses(String),
}

/// Tries all of it.
///
/// # Errors
/// When it could not be done.
pub async fn damage(extent: Extent, seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let elsewhere = another_cluster(&mut rng).await?;
    let stage = start(&mut rng).await?;
    work(&stage, seed, Duration::from_millis(1000)).await?;
    work_until_purged(&stage, seed).await?;
    let request = timed(v1::TransferLeaderRequest { node_id: Some(1) }, CALL);
    answer(CALL, stage.nodes.cluster(0).transfer_leader(request)).await?;
    stage.cluster.wait_until_ready(PATIENCE).await?;

    let mut table = Table::new();
    table
        .load_preset(ASCII_MARKDOWN)
        .set_header(["stopped by", "file", "damage", "outcome"]);
    let stops: &[&str] = match extent {
        Extent::Short => &["kill -9"],
        Extent::Full => &["kill -9", "SIGTERM"],
    };
    let (mut cases, mut refused) = (0, 0);
    for stop in stops {
        let mut bench = Bench::prepare(&stage, stop, &elsewhere, seed).await?;
        for file in files(&bench.pristine)? {
            let Some(now) = bench.like(&file)? else {
                continue;
            };
            for damage in damages(&bench.pristine.join(now), extent, &mut rng)? {
                // Another snapshot may have taken its place, or a file of the log may not be needed any more.
                let Some(file) = bench.like(&file)? else {
                    break;
                };
                let case = format!("{} {damage}, after {stop}", file.display());
                cases += 1;
                let said = match bench.try_one(&stage, &file, damage).await {
                    Ok(Outcome::Starts) => "starts, and nothing is lost".to_owned(),
                    Ok(Outcome::Refuses(message)) => {
                        refused += 1;
                        format!("refuses: {}", shortened(&message))
                    }
                    Err(error) => {
                        findings.broken("G8", format!("{case}: {error:#}"));
                        "BROKEN".to_owned()
                    }
                };
                table.add_row([(*stop).to_owned(), kind(&file), damage.to_string(), said]);
            }
        }
        bench.put_back(&stage).await?;
    }
    println!("{table}");
    findings.figure(
        "damaged directories",
        format!("{cases}, of which {refused} were refused"),
    );
    findings.checked(
        "G8",
        "no damage took a vote or an acknowledged entry, and none was met with a panic",
    );
    stage.finish(findings).await
}

/// A cluster of the same name, of which only the files are used.
async fn another_cluster(rng: &mut StdRng) -> anyhow::Result<Stage> {
    let stage = start(rng).await?;
    work_until_purged(&stage, 7).await?;
    for node in stage.cluster.nodes() {
        node.kill().await?;
    }
    Ok(stage)
}

/// Works until each node has taken a snapshot and purged its log: how much work that is depends on how many commands share an entry.
async fn work_until_purged(stage: &Stage, seed: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        work(stage, seed, Duration::from_millis(400)).await?;
        let statuses = stage.cluster.statuses(&stage.nodes).await;
        let purged = |status: &Option<v1::ClusterStatusResponse>| {
            status.as_ref().is_some_and(|status| status.purged_index > 0)
        };
        if statuses.iter().all(purged) {
            break;
        }
        ensure!(Instant::now() < deadline, "a log was never purged");
    }
    for node in stage.cluster.nodes() {
        one_snapshot(&node.data_dir()).await?;
    }
    Ok(())
}

async fn start(rng: &mut StdRng) -> anyhow::Result<Stage> {
    let options = ClusterOptions {
        settings: vec![
            ("raft", "snapshot_every", 60.into()),
            ("raft", "keep_entries", 20.into()),
        ],
        ..Default::default()
    };
    Stage::start(options, Circuits::random(CIRCUITS, rng)).await
}

async fn work(stage: &Stage, seed: u64, lasts: Duration) -> anyhow::Result<()> {
    // Other sessions than those of the last time.
    let first = 1 + u32::try_from(stage.history.ops().len())?;
    let crew = Crew::start(stage, first..first + CLIENTS, Mix::Reports, seed)?;
    tokio::time::sleep(lasts).await;
    crew.stop().await
}

/// A stopped node, and what to put in the place of its files.
struct Bench {
    pristine: PathBuf,
    another_node: PathBuf,
    another_cluster: PathBuf,
    /// What the undamaged directory has.
    expected: v1::ClusterStatusResponse,
    stop: String,
}

impl Bench {
    async fn prepare(stage: &Stage, stop: &str, elsewhere: &Stage, seed: u64) -> anyhow::Result<Self> {
        let node = &stage.cluster.nodes()[VICTIM];
        one_snapshot(&node.data_dir()).await?;
        halt(stage, stop).await?;
        // What it will have to catch up with.
        work(stage, seed, Duration::from_millis(200)).await?;
        let folder = stage
            .cluster
            .folder()
            .join(format!("pristine-{}", stop.replace(' ', "")));
        copy(&node.data_dir(), &folder)?;
        let mut bench = Self {
            pristine: folder,
            another_node: stage.cluster.nodes()[0].data_dir(),
            another_cluster: elsewhere.cluster.nodes()[VICTIM].data_dir(),
            expected: v1::ClusterStatusResponse::default(),
            stop: stop.to_owned(),
        };
        bench.look(stage).await?;
        ensure!(bench.expected.purged_index > 0, "the log was never purged");
        Ok(bench)
    }

    /// Sees what the undamaged directory has.
    async fn look(&mut self, stage: &Stage) -> anyhow::Result<()> {
        let node = &stage.cluster.nodes()[VICTIM];
        copy(&self.pristine, &node.data_dir())?;
        self.expected = match alone(&stage.cluster, node).await? {
            Ok(status) => status,
            Err(message) => anyhow::bail!("the undamaged directory is refused: {message}"),
        };
        Ok(())
    }

    /// The file, or the one of its kind that is there now.
    fn like(&self, file: &Path) -> anyhow::Result<Option<PathBuf>> {
        if self.pristine.join(file).exists() {
            return Ok(Some(file.to_owned()));
        }
        Ok(files(&self.pristine)?
            .into_iter()
            .rfind(|other| kind(other) == kind(file)))
    }

    /// # Errors
    /// What must not be.
    async fn try_one(&mut self, stage: &Stage, file: &Path, damage: Damage) -> anyhow::Result<Outcome> {
        let node = &stage.cluster.nodes()[VICTIM];
        let data = node.data_dir();
        copy(&self.pristine, &data)?;
        let damaged = data.join(file);
        match damage {
            Damage::OfAnotherNode => put(&self.another_node, file, &damaged)?,
            Damage::OfAnotherCluster => put(&self.another_cluster, file, &damaged)?,
            damage => damage.apply(&damaged)?,
        }
        let _ = fs::remove_file(node.log_path());
        let outcome = alone(&stage.cluster, node).await?;
        let said = String::from_utf8_lossy(&fs::read(node.log_path())?).into_owned();
        ensure!(!said.contains("panicked at"), "it panicked:\n{said}");
        let status = match outcome {
            Ok(status) => status,
            Err(message) => {
                let names = message.contains(&*damaged.to_string_lossy())
                    || damaged
                        .parent()
                        .is_some_and(|folder| message.contains(&*folder.to_string_lossy()));
                ensure!(names, "it does not name the file: {message}");
                ensure!(
                    ADVICE.iter().any(|advice| message.contains(advice)),
                    "it does not say what to do: {message}"
                );
                return Ok(Outcome::Refuses(message));
            }
        };
        let has = |of: &v1::ClusterStatusResponse| {
            (
                (of.voted_term, of.vote_won, of.voted_for),
                of.last_log_index,
                of.purged_index,
                of.snapshot_index,
            )
        };
        let (found, expected) = (has(&status), has(&self.expected));
        ensure!(
            found.0 >= expected.0 && found.1 >= expected.1 && found.2 >= expected.2 && found.3 >= expected.3,
            "it starts with vote, newest entry, purged, snapshot {found:?}, and {expected:?} were there"
        );
        node.start()?;
        caught_up(&stage.nodes).await.context("among the others")?;
        one_snapshot(&data).await?;
        halt(stage, &self.stop).await?;
        // What it acknowledged among the others it must not forget, so this is what is damaged from now on.
        copy(&data, &self.pristine)?;
        self.look(stage).await?;
        Ok(Outcome::Starts)
    }

    /// Ends with the node as it was.
    async fn put_back(&self, stage: &Stage) -> anyhow::Result<()> {
        let node = &stage.cluster.nodes()[VICTIM];
        copy(&self.pristine, &node.data_dir())?;
        node.start()?;
        stage.cluster.wait_until_ready(PATIENCE).await
    }
}

async fn halt(stage: &Stage, stop: &str) -> anyhow::Result<()> {
    let node = &stage.cluster.nodes()[VICTIM];
    if stop == "SIGTERM" {
        node.terminate()?;
        node.ended(PATIENCE).await?.context("it does not stop")?;
        return Ok(());
    }
    // Between a flush and the mark that follows it, nothing can tell a damaged newest group from one that was cut short. It was not acknowledged then.
    let mut newest = (Instant::now(), None);
    let deadline = Instant::now() + PATIENCE;
    while newest.0.elapsed() < QUIET && Instant::now() < deadline {
        let status = status(&stage.nodes, VICTIM).await;
        let index = status.map(|status| (status.last_log_index, status.voted_term));
        if index.is_none() || index != newest.1 {
            newest = (Instant::now(), index);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    node.kill().await
}

/// Starts the node where no other node reaches it. Gives what it says of itself, or with what message it ended. It is down then.
async fn alone(cluster: &Cluster, node: &Node) -> anyhow::Result<Result<v1::ClusterStatusResponse, String>> {
    let config = fs::read_to_string(node.config_path())?;
    let listens = |address: &dyn fmt::Display| format!("peer_listen = \"{address}\"");
    let hidden = free_address(&cluster.addresses())?;
    let text = config.replace(&listens(&node.spec.peer), &listens(&hidden));
    ensure!(
        text != config,
        "the configuration does not say where the node listens"
    );
    fs::write(node.config_path(), text)?;
    node.start()?;
    let outcome = wait_for(cluster, node).await;
    node.kill().await?;
    fs::write(node.config_path(), config)?;
    outcome
}

async fn wait_for(
    cluster: &Cluster,
    node: &Node,
) -> anyhow::Result<Result<v1::ClusterStatusResponse, String>> {
    let nodes = cluster.connect()?;
    let deadline = Instant::now() + PATIENCE;
    let mut looked = 0;
    loop {
        if let Some(ended) = node.exit_status()? {
            let said = node.log_tail(usize::MAX);
            ensure!(ended.code() == Some(1), "it ended with {ended}:\n{said}");
            let message = said.lines().find_map(|line| line.strip_prefix("error: "));
            return Ok(Err(message.context("it ended without a message")?.to_owned()));
        }
        if let Some(status) = status(&nodes, VICTIM).await {
            // Consensus tells of its log a moment after it has begun. Nobody can give the node a log meanwhile.
            if status.last_log_index > 0 || looked == 100 {
                return Ok(Ok(status));
            }
            looked += 1;
        }
        ensure!(
            Instant::now() < deadline,
            "it neither starts nor ends:\n{}",
            node.log_tail(10)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the node has the state of another at the same place of the log.
async fn caught_up(nodes: &Nodes) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let (Some(victim), Some(other)) = (status(nodes, VICTIM).await, status(nodes, 0).await)
            && victim.applied_index == other.applied_index
            && victim.has_quorum
        {
            ensure!(
                victim.state_hash == other.state_hash,
                "it has another state than the others"
            );
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "it does not catch up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the newest snapshot has taken the place of the one before: else that could stand for it.
async fn one_snapshot(data: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while files(&data.join("snapshots"))?.len() != 1 {
        ensure!(Instant::now() < deadline, "there is not one snapshot");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn damages(path: &Path, extent: Extent, rng: &mut StdRng) -> anyhow::Result<Vec<Damage>> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let length = content.len() as u64;
    let mut all = vec![Damage::Removed, Damage::OfAnotherNode, Damage::OfAnotherCluster];
    if length == 0 {
        return Ok(all);
    }
    let used = content
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(1, |last| last as u64 + 1);
    all.push(Damage::Flipped(0, "first byte"));
    all.push(Damage::Flipped(used / 2, "middle of what is used"));
    all.push(Damage::Flipped(used - 1, "last byte that is used"));
    if used < length {
        all.push(Damage::Flipped(length - 1, "a byte that is not used"));
    }
    all.push(Damage::CutTo(0, "nothing"));
    all.push(Damage::CutTo(used / 2, "half of what is used"));
    if extent == Extent::Full {
        all.extend((0..4).map(|_| Damage::Flipped(rng.random_range(0..used), "anywhere")));
        all.push(Damage::CutTo(length - 1, "all but one byte"));
        all.push(Damage::Zeroed);
    }
    Ok(all)
}

impl Damage {
    fn apply(self, path: &Path) -> anyhow::Result<()> {
        let mut content = fs::read(path)?;
        match self {
            Self::Flipped(at, _) => {
                // A node that ran meanwhile may have written less than there was.
                let byte = content.iter_mut().take(usize::try_from(at)? + 1).next_back();
                *byte.context("the file is empty")? ^= 0x10;
            }
            Self::CutTo(length, _) => content.truncate(usize::try_from(length)?),
            Self::Zeroed => content.fill(0),
            Self::Removed => return Ok(fs::remove_file(path)?),
            Self::OfAnotherNode | Self::OfAnotherCluster => {}
        }
        Ok(fs::write(path, content)?)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flipped(_, place) => write!(f, "a bit flipped: {place}"),
            Self::CutTo(_, left) => write!(f, "cut to {left}"),
            Self::Zeroed => f.write_str("all zeros"),
            Self::Removed => f.write_str("removed"),
            Self::OfAnotherNode => f.write_str("another node's"),
            Self::OfAnotherCluster => f.write_str("another cluster's"),
        }
    }
}

/// All files below, by their paths from there.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                all.push(entry.path().strip_prefix(folder)?.to_owned());
            }
        }
    }
    all.sort();
    Ok(all)
}

/// A fresh copy.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    for folder in ["", "log", "snapshots"] {
        fs::create_dir_all(to.join(folder))?;
    }
    for file in files(from)? {
        fs::copy(from.join(&file), to.join(&file))
            .with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}

/// Puts the file of the same kind from another directory there.
fn put(from: &Path, file: &Path, to: &Path) -> anyhow::Result<()> {
    let same = from.join(file);
    let other = if same.exists() {
        same
    } else {
        let all = files(from)?;
        let alike = all.iter().rfind(|other| kind(other) == kind(file));
        from.join(alike.with_context(|| format!("there is nothing like {}", file.display()))?)
    };
    fs::copy(other, to)?;
    Ok(())
}

/// For people: snapshots have long names.
fn kind(file: &Path) -> String {
    let text = file.display().to_string();
    if text.ends_with(".snapshot") {
        return "snapshots/....snapshot".into();
    }
    text
}

/// Without the path and the advice.
fn shortened(message: &str) -> String {
    let end = ADVICE
        .iter()
        .filter_map(|advice| message.find(advice))
        .min()
        .unwrap_or(message.len());
    let text = &message[..end];
    let text = text.rsplit_once(": ").map_or(text, |(what, _)| what);
    let words = text.split(' ').map(|word| match word.rfind("/data") {
        Some(at) if at + 5 == word.len() => "the directory".to_owned(),
        Some(at) => word[at + 5..].trim_start_matches('/').to_owned(),
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ").replace('|', "/")
}
