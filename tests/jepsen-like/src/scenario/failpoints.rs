//! A node dies at a certain point of its own code: before and after each step that something rests on. It needs a build that can be told
//! to (`scripts/faults failpoints` makes it).
//!
//! While clients do everything, one node at a time is told where to die, and at which pass. That it died *there* is what its log says, and the
//! signal that ended it; else nothing is shown. It is started again without the order, and the cluster heals. Once for each role, the
//! disk does not take a flush: that node must stop, and acknowledge nothing any more.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::acts;
use super::crew::Crew;
use super::pulse::Pulse;
use super::stage::Stage;
use super::vigil::Vigil;
use crate::circuits::Circuits;
use crate::cluster::{ClusterOptions, status};
use crate::findings::{Findings, Verdict};
use crate::workload::Mix;

const CLIENTS: u32 = 6;
const CIRCUITS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(30);
/// A node that is told where to die comes there in this time, or it is not told whether it would.
const DIES_WITHIN: Duration = Duration::from_secs(20);
/// Writes go on in this time without it: four times the longest election timeout, and some for a busy machine.
const GOES_ON_WITHIN: Duration = Duration::from_secs(6);
/// What a build that can be told says of itself.
const SAYS_SO: &str = "A BUILD FOR FAULT RUNS";

/// Which node is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Leader,
    Follower,
}

/// What brings a node there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// Clients do, so often: the pass is drawn from this range.
    Load(u32),
    /// Leadership is handed over: to the node (as a candidate), or to another (it votes).
    Election,
    /// It misses a part of the log that is gone, and is sent a snapshot.
    Lag,
    /// It has entries that were never committed, and another leads.
    Conflict,
}

struct Point {
    name: &'static str,
    by: By,
    roles: &'static [Role],
}

const BOTH: &[Role] = &[Role::Leader, Role::Follower];
const LEADER: &[Role] = &[Role::Leader];
const FOLLOWER: &[Role] = &[Role::Follower];

const fn point(name: &'static str, by: By, roles: &'static [Role]) -> Point {
    Point { name, by, roles }
}

/// Every one that a node has.
const POINTS: [Point; 26] = [
    point("append.before", By::Load(60), BOTH),
    point("append.after", By::Load(60), BOTH),
    point("write.before", By::Load(60), BOTH),
    point("flush.before", By::Load(60), BOTH),
    point("flush.after", By::Load(60), BOTH),
    point("vote.before", By::Election, BOTH),
    point("vote.after", By::Election, BOTH),
    point("truncate.before", By::Conflict, LEADER),
    point("truncate.after", By::Conflict, LEADER),
    point("purge.before", By::Load(2), BOTH),
    point("purge.after", By::Load(2), BOTH),
    point("snapshot.before", By::Load(2), BOTH),
    point("rename.before", By::Load(2), BOTH),
    point("rename.after", By::Load(2), BOTH),
    point("install.before", By::Lag, FOLLOWER),
    point("install.after", By::Lag, FOLLOWER),
    point("apply.before", By::Load(60), BOTH),
    point("apply.after", By::Load(60), BOTH),
    point("publish.before", By::Load(60), BOTH),
    point("publish.after", By::Load(60), BOTH),
    point("timer.before", By::Load(5), LEADER),
    point("timer.after", By::Load(5), LEADER),
    point("forward.before", By::Load(40), FOLLOWER),
    point("forward.after", By::Load(40), FOLLOWER),
    point("forwarded.before", By::Load(40), LEADER),
    point("forwarded.after", By::Load(40), LEADER),
];
/// Where the disk can refuse.
const REFUSES_AT: &str = "flush.before";

/// What a node is told to do there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Abort,
    Error,
}

struct Case {
    point: &'static str,
    by: By,
    role: Role,
    order: Order,
}

/// A node dies at each point, or at the one with this name; so many times each.
///
/// # Errors
/// When it could not be done: also when the nodes cannot be told.
pub async fn failpoints(only: Option<&str>, times: u32, seed: u64) -> anyhow::Result<Findings> {
    ensure!(
        only.is_none_or(|name| POINTS.iter().any(|point| point.name == name)),
        "there is no such point; there are: {}",
        POINTS.map(|point| point.name).join(" ")
    );
    let mut findings = Findings::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let orders = TempDir::new()?;
    let folder = orders.path().to_owned();
    let path = move |id: u64| folder.join(format!("node{id}"));
    let env = |id: u64| {
        let order = format!("@{}", path(id).display());
        (id, vec![("FAILPOINTS".to_owned(), order)])
    };
    let options = ClusterOptions {
        settings: vec![
            // Often; but what is kept must be longer than what comes while a snapshot is sent, or a node that lags never gets there.
            ("raft", "snapshot_every", 100.into()),
            ("raft", "keep_entries", 250.into()),
            ("raft", "compare_interval", "1s".into()),
        ],
        env: [1, 2, 3].map(env).into(),
        ..Default::default()
    };
    let mut run = Run {
        stage: Stage::start(options, Circuits::random(CIRCUITS, &mut rng)).await?,
        rng,
        path: Box::new(path),
        died: 0,
        refused: 0,
    };
    run.are_told().await?;
    let crew = Crew::start(&run.stage, 1..CLIENTS + 1, Mix::Everything, seed)?;
    let vigil = Vigil::start(&run.stage);
    let pulse = Pulse::start(&run.stage, vec![0, 1, 2]);

    for case in cases(only, times) {
        let what = format!("{} of a {:?} ({:?})", case.point, case.role, case.order);
        if let Err(error) = run.play(&case, &pulse, &mut findings).await {
            findings.broken("G12", format!("{what}: {error:#}"));
        }
        if findings.verdict() == Verdict::Broken {
            run.stage.cluster.keep_folder();
            println!("  {what}; logs: {}", run.stage.cluster.folder().display());
            break;
        }
    }

    pulse.stop().await?;
    crew.stop().await?;
    vigil.end(&mut findings).await?;
    findings.figure(
        "nodes that died where they were told",
        format!("{}; {} whose disk refused a flush stopped", run.died, run.refused),
    );
    run.stage.finish(findings).await
}

fn cases(only: Option<&str>, times: u32) -> Vec<Case> {
    let mut cases = Vec::new();
    for point in POINTS
        .iter()
        .filter(|point| only.is_none_or(|only| only == point.name))
    {
        for role in point.roles {
            let case = |order| Case {
                point: point.name,
                by: point.by,
                role: *role,
                order,
            };
            cases.extend((0..times).map(|_| case(Order::Abort)));
            if point.name == REFUSES_AT {
                cases.push(case(Order::Error));
            }
        }
    }
    cases
}

struct Run {
    stage: Stage,
    rng: StdRng,
    /// Where a node looks for its order.
    path: Box<dyn Fn(u64) -> PathBuf + Send + Sync>,
    died: u32,
    refused: u32,
}

impl Run {
    /// # Errors
    /// When these nodes would not listen.
    async fn are_told(&self) -> anyhow::Result<()> {
        let binary = crate::cluster::find_binary()?;
        let told = tokio::process::Command::new(&binary)
            .arg("--version")
            .output()
            .await?;
        ensure!(
            String::from_utf8_lossy(&told.stdout).contains(SAYS_SO),
            "{} cannot be told where to die: scripts/faults failpoints makes one that can",
            binary.display()
        );
        Ok(())
    }

    async fn play(&mut self, case: &Case, pulse: &Pulse, findings: &mut Findings) -> anyhow::Result<()> {
        self.stage.cluster.wait_until_ready(PATIENCE).await?;
        let leader = self
            .stage
            .cluster
            .wait_for_leader(&self.stage.nodes, PATIENCE)
            .await?;
        let step = self.rng.random_range(1..self.stage.nodes.len());
        let other = (leader + step) % self.stage.nodes.len();
        let position = match (case.role, case.by) {
            // It is about to be the leader.
            (Role::Leader, By::Election) => other,
            (Role::Leader, _) => leader,
            (Role::Follower, _) => other,
        };
        let pass = match case.by {
            By::Load(often) => self.rng.random_range(1..=often),
            By::Election | By::Lag | By::Conflict => 1,
        };
        // What the leader does for others shows best when all of it is for others.
        let asked = |node: &usize| !case.point.starts_with("forwarded") || *node != leader;
        pulse.aim(&self.stage, (0..self.stage.nodes.len()).filter(asked).collect());
        let id = self.stage.cluster.nodes()[position].spec.id;
        let log_before = self.log(position).len();
        let order = self.order(case, pass, id);
        match case.by {
            By::Load(_) => order()?,
            By::Election => {
                order()?;
                self.elect(case.role, leader, position).await;
            }
            By::Lag => self.let_lag(leader, position, order).await?,
            By::Conflict => self.let_differ(position, order).await?,
        }

        let node = &self.stage.cluster.nodes()[position];
        let ended = node.ended(DIES_WITHIN).await?;
        let moment = self.stage.clock.now();
        std::fs::remove_file((self.path)(id)).context("an order is there until it is taken back")?;
        let said = self.log(position).split_off(log_before);
        let action = match case.order {
            Order::Abort => "abort",
            Order::Error => "error",
        };
        let did = said.contains(&format!("FAILPOINT {}: {action} at pass {pass}", case.point));
        let what = format!("{} (pass {pass}) of {:?} {id}", case.point, case.role);
        let Some(ended) = ended else {
            if did && case.order == Order::Error {
                findings.broken(
                    "G8",
                    format!("{what}: the disk refused a flush, and the node goes on"),
                );
            } else {
                findings.untold(format!("{what}: the node never came there"));
            }
            // It is still told.
            self.stage.cluster.nodes()[position].kill().await?;
            self.stage.cluster.nodes()[position].start()?;
            return Ok(());
        };
        let by_order = match case.order {
            Order::Abort => ended.signal() == Some(Signal::SIGABRT as i32),
            Order::Error => ended.code() == Some(1),
        };
        if !(did && by_order) {
            findings.broken(
                "G10",
                format!("{what}: the node ended by itself, and not there ({ended})"),
            );
        }
        match case.order {
            Order::Abort => self.died += 1,
            Order::Error => {
                self.refused += 1;
                findings.require(!said.contains("passed although a flush had failed"), "G8", || {
                    format!("{what}: after a flush that failed another one was believed")
                });
            }
        }
        // The others go on without it; if they do not, that is found below.
        let goes_on = self
            .stage
            .wait(GOES_ON_WITHIN, "a write without the node", async |_: &Stage| {
                Ok(pulse.first_after(moment).is_some())
            });
        if goes_on.await.is_err() {
            findings.broken(
                "G12",
                format!("{what}: no write in {GOES_ON_WITHIN:?} without it"),
            );
        }
        self.stage.cluster.nodes()[position].start()?;
        self.stage.cluster.wait_until_ready(PATIENCE).await
    }

    /// Tells the node, at once, what to do.
    fn order(&self, case: &Case, pass: u32, id: u64) -> impl FnOnce() -> anyhow::Result<()> + use<> {
        let action = match case.order {
            Order::Abort => "abort",
            Order::Error => "error",
        };
        let (text, path) = (format!("{}={pass}->{action}", case.point), (self.path)(id));
        move || {
            // The node may look at any moment, and must not find half of it.
            let unfinished = path.with_extension("unfinished");
            std::fs::write(&unfinished, text)?;
            Ok(std::fs::rename(unfinished, path)?)
        }
    }

    /// Hands leadership over, so that `position` stands for election, or votes.
    async fn elect(&self, role: Role, leader: usize, position: usize) {
        let to = match role {
            Role::Leader => position,
            Role::Follower => 3 - leader - position,
        };
        // If the candidate dies, it does not lead.
        let _ = acts::lead(&self.stage, to).await;
    }

    /// Keeps the node away until it needs a snapshot, and starts it with its order.
    async fn let_lag(
        &self,
        leader: usize,
        position: usize,
        order: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let nodes = self.stage.cluster.nodes();
        let last = status(&self.stage.nodes, position)
            .await
            .map_or(0, |status| status.last_log_index);
        nodes[position].kill().await?;
        self.stage
            .wait(
                PATIENCE,
                "the log that it misses is gone",
                async |stage: &Stage| {
                    let purged = status(&stage.nodes, leader)
                        .await
                        .map_or(0, |status| status.purged_index);
                    Ok(purged > last + 50)
                },
            )
            .await?;
        order()?;
        nodes[position].start()
    }

    /// Leaves a leader alone with entries that nobody else has, and starts it with its order when the others have a leader of their own.
    async fn let_differ(
        &self,
        position: usize,
        order: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let nodes = self.stage.cluster.nodes();
        let others = || (0..nodes.len()).filter(|other| *other != position);
        for other in others() {
            nodes[other].send_kill()?;
        }
        for other in others() {
            nodes[other].kill().await?;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        nodes[position].kill().await?;
        for other in others() {
            nodes[other].start()?;
        }
        self.stage.cluster.wait_until_ready(PATIENCE).await?;
        order()?;
        nodes[position].start()
    }

    fn log(&self, position: usize) -> String {
        let log = std::fs::read(self.stage.cluster.nodes()[position].log_path()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_of_the_product_has_its_cases() {
        let product = brama_raft::failpoints::Point::ALL.map(|point| point.name());
        assert_eq!(POINTS.map(|point| point.name), product);
        assert!(POINTS.iter().all(|point| !point.roles.is_empty()));
    }

    #[test]
    fn one_point_is_played_alone_and_all_of_them_with_a_disk_that_refuses() {
        assert_eq!(cases(Some("append.after"), 2).len(), 4);
        let all = cases(None, 1);
        assert_eq!(all.iter().filter(|case| case.order == Order::Error).count(), 2);
    }
}
