//! Each node gets a twentieth of a processor, or less where that is more than it wants (row 28 of the matrix, in short): no leader is lost over it
//! beyond a bound, light writes go on, and nothing grows.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use super::kill_leader::one_circuit;
use super::memory;
use super::pulse::Pulse;
use super::stage::Stage;
use super::vigil::Vigil;
use crate::cluster::{ClusterOptions, status};
use crate::findings::Findings;
use crate::progress;
use crate::time::show_ms;

const PATIENCE: Duration = Duration::from_secs(60);
/// Two writes a second.
const WRITE_EVERY: Duration = Duration::from_millis(500);
/// Leaders that a minute may cost.
const ELECTIONS_A_MINUTE: f64 = 3.0;
/// What a node may hold more in the last third than in the first.
const GROWTH_MIB: f64 = 16.0;
/// Of the writes that were sent, so many must be acknowledged.
const ACKNOWLEDGED: f64 = 0.5;
const PERIOD_US: u64 = 100_000;
/// Whoever did not have to wait for so many seconds gets half as much.
const TIGHTEN_EVERY: u64 = 3;
/// The kernel divides no finer.
const LEAST_QUOTA_US: u64 = 1000;

/// Whether nodes can be given less of a processor here; says why not.
///
/// # Errors
/// When they cannot.
pub fn can_starve() -> anyhow::Result<()> {
    Cage::make("brama-faults-trial", 50).map(drop)
}

/// For so many seconds, with so many hundredths of a processor for each node, or as much less as makes it wait.
///
/// # Errors
/// When it could not be done, e.g. because the processor cannot be divided here.
pub async fn starved(seconds: u64, percent: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    // The cages go last: a cage that somebody is in cannot go.
    let mut cages = Vec::new();
    let stage = Stage::start(ClusterOptions::default(), one_circuit()).await?;
    let vigil = Vigil::start(&stage);
    let pulse = Pulse::every(&stage, vec![0, 1, 2], WRITE_EVERY);
    let term = async |stage: &Stage| -> anyhow::Result<u64> {
        let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
        let status = status(&stage.nodes, leader).await;
        Ok(status.context("the leader does not say its term")?.term)
    };
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (before, sent_before, writes_before) =
        (term(&stage).await?, stage.history.ops().len(), pulse.count());

    for node in stage.cluster.nodes() {
        let pid = node.pid().context("a node that does not run")?;
        let cage = Cage::make(&format!("brama-faults-{pid}"), percent)?;
        cage.hold(pid)?;
        cages.push(cage);
    }
    let mut held = vec![Vec::new(); stage.nodes.len()];
    let mut quotas = vec![PERIOD_US * percent / 100; cages.len()];
    for second in 0..seconds {
        progress::step(format!(
            "{percent} % of a processor for each node, {second} of {seconds} s"
        ));
        tokio::time::sleep(Duration::from_secs(1)).await;
        for (held, node) in held.iter_mut().zip(stage.cluster.nodes()) {
            held.push(memory::of(node)?);
        }
        if second % TIGHTEN_EVERY == TIGHTEN_EVERY - 1 {
            for (cage, quota) in cages.iter().zip(&mut quotas) {
                if cage.throttled()? == 0 && *quota > LEAST_QUOTA_US {
                    *quota = (*quota / 2).max(LEAST_QUOTA_US);
                    cage.limit(Some(*quota))?;
                }
            }
        }
    }
    let sent = stage.history.ops().len() - sent_before;
    let writes = pulse.count() - writes_before;
    let throttled: Vec<_> = cages.iter().map(Cage::throttled).collect::<anyhow::Result<_>>()?;
    for cage in &cages {
        cage.open()?;
    }
    stage.cluster.wait_until_ready(PATIENCE).await?;
    let elections = term(&stage).await? - before;
    let healed = stage.clock.now();
    stage
        .wait(PATIENCE, "a write with all of the processor", async |_| {
            Ok(pulse.first_after(healed).is_some())
        })
        .await?;
    let gap = pulse.longest_gap(0, stage.clock.now());
    pulse.stop().await?;
    vigil.end(&mut findings).await?;

    if throttled.contains(&0) {
        findings.untold(format!(
            "a node never wanted more than it was given: {throttled:?} times the nodes had to wait"
        ));
    }
    findings.figure(
        "times that the nodes had to wait for the processor",
        format!("{throttled:?}, with {quotas:?} us of {PERIOD_US} in the end"),
    );
    let allowed = (ELECTIONS_A_MINUTE * seconds as f64 / 60.0).ceil() as u64;
    findings.figure("elections", format!("{elections} ({allowed} allowed)"));
    findings.require(elections <= allowed, "bound", || {
        format!("there were {elections} elections, {allowed} are allowed")
    });
    findings.figure(
        "writes",
        format!(
            "{writes} of {sent} acknowledged, longest without one {}",
            show_ms(gap)
        ),
    );
    findings.require(writes as f64 >= sent as f64 * ACKNOWLEDGED, "bound", || {
        format!("only {writes} of {sent} writes were acknowledged")
    });
    judge_memory(&held, &mut findings);
    findings.checked("bound", "few elections, writes went on, memory stayed flat");
    stage.finish(findings).await
}

fn judge_memory(held: &[Vec<f64>], findings: &mut Findings) {
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    for (position, held) in held.iter().enumerate() {
        let third = held.len() / 3;
        let (first, last) = (most(&held[..third]), most(&held[held.len() - third..]));
        findings.figure(
            format!("memory of node {}", position + 1),
            format!("{first:.1} MiB in the first third, {last:.1} in the last ({GROWTH_MIB} more allowed)"),
        );
        if third == 0 {
            findings.untold("it was too short to see whether memory stays flat");
        }
        findings.require(last - first <= GROWTH_MIB, "G10", || {
            format!("node {} grew from {first:.1} MiB to {last:.1}", position + 1)
        });
    }
}

/// A control group: who is in it gets so much of a processor.
#[derive(Debug)]
struct Cage {
    folder: PathBuf,
    is_v2: bool,
}

impl Cage {
    fn make(name: &str, percent: u64) -> anyhow::Result<Self> {
        let (root, is_v2) = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            (Path::new("/sys/fs/cgroup"), true)
        } else {
            (Path::new("/sys/fs/cgroup/cpu"), false)
        };
        if is_v2 {
            // It may be there already, and then this says so.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+cpu");
        }
        let folder = root.join(name);
        fs::create_dir_all(&folder).with_context(|| {
            format!(
                "cannot make the control group {}: only root can, and not everywhere",
                folder.display()
            )
        })?;
        let cage = Self { folder, is_v2 };
        cage.limit(Some(PERIOD_US * percent / 100))?;
        Ok(cage)
    }

    fn limit(&self, quota_us: Option<u64>) -> anyhow::Result<()> {
        let write = |file: &str, text: String| {
            fs::write(self.folder.join(file), text)
                .with_context(|| format!("cannot write {file} of {}", self.folder.display()))
        };
        if self.is_v2 {
            let quota = quota_us.map_or("max".to_owned(), |quota| quota.to_string());
            write("cpu.max", format!("{quota} {PERIOD_US}"))
        } else {
            write("cpu.cfs_period_us", PERIOD_US.to_string())?;
            write(
                "cpu.cfs_quota_us",
                quota_us.map_or("-1".to_owned(), |quota| quota.to_string()),
            )
        }
    }

    fn hold(&self, pid: u32) -> anyhow::Result<()> {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string())
            .context("a process cannot be put into its control group")?;
        let inside = fs::read_to_string(self.folder.join("cgroup.procs"))?;
        if !inside.lines().any(|line| line == pid.to_string()) {
            bail!("process {pid} is not in its control group");
        }
        Ok(())
    }

    /// How often it had to wait.
    fn throttled(&self) -> anyhow::Result<u64> {
        let text = fs::read_to_string(self.folder.join("cpu.stat"))?;
        let count = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        Ok(count.context("cpu.stat does not say how often")?.trim().parse()?)
    }

    /// As much as there is, from now on.
    fn open(&self) -> anyhow::Result<()> {
        self.limit(None)
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // Whoever is still inside goes where everybody is.
        if let (Ok(inside), Some(root)) = (
            fs::read_to_string(self.folder.join("cgroup.procs")),
            self.folder.parent(),
        ) {
            for pid in inside.lines() {
                let _ = fs::write(root.join("cgroup.procs"), pid);
            }
        }
        let _ = fs::remove_dir(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Verdict;

    #[test]
    fn a_node_that_grows_is_found_and_a_short_look_shows_nothing() {
        let verdict = |held: &[f64]| {
            let mut findings = Findings::default();
            judge_memory(&[held.to_vec()], &mut findings);
            findings.verdict()
        };
        assert_eq!(verdict(&[50.0, 90.0, 60.0]), Verdict::Holds);
        assert_eq!(verdict(&[50.0, 60.0, 67.0]), Verdict::Broken);
        assert_eq!(verdict(&[50.0]), Verdict::Unknown);
    }
}
