//! How old: a cluster under a steady load for a long time, with circuits, subscribers and processes that come and go.
//!
//! ```text
//!   traffic      clients that send so many commands a second, whatever the answers do, and insist until they have one
//!   listeners    subscribers that come, check the order of what they hear, and go
//!   restarts     nodes that are killed, and asked to end, by turns
//!   samples      memory, disk, descriptors, threads and tasks of each node, every few seconds
//!   growth       judges the samples after the first third; sheet draws them
//! ```

mod growth;
mod listeners;
mod restarts;
mod samples;
mod sheet;
mod traffic;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use brama_faults::cluster::{Cluster, ClusterOptions};
use brama_faults::findings::Findings;
use brama_faults::monitor::Monitor;
use clap::Args;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::growth::Growth;
use self::listeners::Listeners;
use self::restarts::Lives;
use self::samples::{Quantity, Samples};
use self::traffic::Traffic;

/// A part of the rate that must be reached, or the soak says little.
const REACHED: f64 = 0.95;

/// Nodes that are not restarted any more when the judging begins: of so many, growth must be told.
const GROW_OLD: usize = 2;

/// How old.
#[derive(Args, Clone, Debug)]
pub(crate) struct Soak {
    #[arg(long, default_value_t = 20.0)]
    minutes: f64,
    /// Commands a second
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Circuits at once; all of them are replaced again and again
    #[arg(long, default_value_t = 2000)]
    circuits: u64,
    /// Subscribers at once
    #[arg(long, default_value_t = 40)]
    subscribers: u64,
    /// Where the figures go
    #[arg(long, default_value = "target/soak")]
    out: PathBuf,
    /// Runs nothing: judges and draws what an earlier soak left in this `samples.json`
    #[arg(long)]
    judge: Option<PathBuf>,
    /// Too short to judge growth: only that all of it works
    #[arg(long)]
    smoke: bool,
}

impl Soak {
    fn lasts(&self) -> Duration {
        Duration::from_secs_f64(self.minutes * 60.0)
    }
}

/// Runs it all, writes `samples.json`, `samples.csv` and `soak.svg`, and says what held.
///
/// # Errors
/// When there is no cluster, or the figures cannot be written.
pub(crate) async fn run(soak: &Soak, data: &Path) -> anyhow::Result<Findings> {
    if let Some(file) = &soak.judge {
        let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let samples = serde_json::from_slice(&text).context("these are no samples of a soak")?;
        let mut findings = Findings::default();
        judge(soak, &samples, &mut findings);
        write(soak, &samples)?;
        return Ok(findings);
    }
    let settings = vec![
        ("log", "level", "warn".into()),
        ("events", "progress_interval", "3s".into()),
    ];
    let options = ClusterOptions {
        settings,
        ..Default::default()
    };
    let cluster = Arc::new(Cluster::start_in(data, options).await?);
    traffic::prepare(&cluster, soak).await?;
    let begin = Instant::now();
    let end = begin + soak.lasts();
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let monitor = Arc::new(Monitor::default());
    let lives = Arc::new(Lives::new(begin));
    let traffic = Traffic::start(&cluster, soak, begin, &tasks, &stop)?;
    let listeners = Listeners::start(cluster.addresses(), soak.subscribers, &tasks, &stop);
    let restarts = restarts::run(cluster.clone(), lives.clone(), soak.lasts());
    let restarts = tasks.spawn(stop.clone().run_until_cancelled_owned(restarts));
    let samples = Samples::take(&cluster, &lives, &traffic, &monitor, begin, end).await?;
    // A restart that is under way ends before the cluster is looked at for the last time.
    stop.cancel();
    tasks.close();
    let restarted = restarts.await?;
    tasks.wait().await;

    let mut findings = Findings::default();
    if let Some(Err(error)) = restarted {
        findings.broken("G12", format!("{error:#}"));
    }
    findings.merge(whole(&cluster, &monitor).await);
    findings.merge(traffic.findings(soak.lasts()));
    findings.merge(listeners.findings());
    findings.figure("restarts", lives.count().to_string());
    judge(soak, &samples, &mut findings);
    write(soak, &samples)?;
    Ok(findings)
}

fn write(soak: &Soak, samples: &Samples) -> anyhow::Result<()> {
    std::fs::create_dir_all(&soak.out).with_context(|| format!("cannot create {}", soak.out.display()))?;
    std::fs::write(soak.out.join("samples.json"), serde_json::to_vec(samples)?)?;
    std::fs::write(soak.out.join("samples.csv"), samples.csv())?;
    sheet::draw(samples, &soak.out.join("soak.svg"))?;
    println!("the figures are in {}", soak.out.display());
    Ok(())
}

/// In the end all nodes have the same state.
async fn whole(cluster: &Cluster, monitor: &Monitor) -> Findings {
    let mut findings = Findings::default();
    if let Err(error) = restarts::start_all(cluster).await {
        findings.broken("G12", format!("{error:#}"));
    } else if let Ok(nodes) = cluster.connect() {
        for status in cluster.statuses(&nodes).await.into_iter().flatten() {
            monitor.hear(&status);
        }
    }
    let observed = monitor.observed();
    findings.merge(observed.findings);
    findings.checked(
        "G1",
        format!("{} positions at which nodes had equal states", observed.compared),
    );
    findings
}

/// Growth of each quantity of each node, and what none may exceed.
fn judge(soak: &Soak, samples: &Samples, findings: &mut Findings) {
    let from = Duration::from_secs_f64(samples.lasted / 3.0);
    let mut untold = false;
    for quantity in Quantity::ALL {
        let mut shown = Vec::new();
        let mut most = 0.0_f64;
        let mut told = 0;
        for node in 0..samples.nodes() {
            let points = samples.points(node, quantity);
            most = points.iter().map(|point| point.value).fold(most, f64::max);
            match growth::judge(&samples.judged(node, quantity), from, quantity.bound()) {
                // Its lives were short.
                Growth::Untold => {}
                Growth::Flat { by, level } => {
                    told += 1;
                    shown.push(format!("{by:+.1} of {level:.0} (node {})", node + 1));
                }
                Growth::Grows { by, level } => {
                    told += 1;
                    shown.push(format!("{by:+.1} of {level:.0} (node {}) !", node + 1));
                    let what = format!(
                        "{} of node {} grew by {by:.1} from {level:.1}",
                        quantity.name(),
                        node + 1
                    );
                    findings.broken("flat", what);
                }
            }
        }
        untold |= told < GROW_OLD;
        if most > 0.0 {
            let mut text = format!("at most {most:.0}");
            if !shown.is_empty() {
                text += &format!("; growth after the first third: {}", shown.join(", "));
            }
            findings.figure(quantity.name(), text);
            if let Some(limit) = quantity.limit() {
                findings.require(most <= limit, "size", || {
                    format!(
                        "{} reached {most:.0}, at most {limit:.0} are allowed",
                        quantity.name()
                    )
                });
            }
        }
    }
    if !untold {
        findings.checked("flat", "memory, disk, descriptors, threads and tasks");
    } else if !soak.smoke {
        findings.untold("growth cannot be told: this was too short");
    }
}
