//! The long random run: faults, clients, subscribers; then everything is mended, and looked at.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use brama_proto::v1;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::check::{self, Evidence, figures};
use crate::circuits::Circuits;
use crate::cluster::{Cluster, ClusterOptions, Setting};
use crate::findings::{Findings, Verdict};
use crate::history::{History, write_lines};
use crate::ledger::{Ledger, Progress};
use crate::monitor::Monitor;
use crate::nemesis::Nemesis;
use crate::progress::{self, Now};
use crate::report::{self, FaultBar, Folder, Keeps, Report};
use crate::rpc::{Nodes, answer, timed};
use crate::subscriber::{Subscriber, reread};
use crate::time::{Clock, Micros};
use crate::workload::{Client, Mix};

const CIRCUITS: usize = 20;
/// Nothing is broken for so long at the beginning and at the end: then timers must be on time.
const CALM: Duration = Duration::from_secs(4);
/// How long a mended cluster may take until everything is equal everywhere.
const HEAL: Duration = Duration::from_secs(30);

/// What to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// How long things are broken, in seconds.
    pub seconds: u64,
    /// Decides what happens.
    pub seed: u64,
    /// Clients at once.
    pub clients: u32,
    /// What they do.
    pub mix: Mix,
    /// Snapshots every few entries and a short event log, so that both are installed and compacted in the run.
    pub small_log: bool,
    /// What becomes of the folder with history, events and logs.
    pub keep: Keep,
    /// Where the page about it is written; `None`: nowhere.
    pub report: Option<Folder>,
}

impl RunOptions {
    /// Does the same again.
    pub fn command(&self) -> String {
        let small = if self.small_log { " --small-log" } else { "" };
        format!(
            "scripts/faults --seconds {} --seed {} --clients {} --workload {}{small}",
            self.seconds, self.seed, self.clients, self.mix
        )
    }

    /// Name and value of each.
    fn shown(&self) -> Vec<(String, String)> {
        [
            ("seconds", self.seconds.to_string()),
            ("seed", self.seed.to_string()),
            ("clients", self.clients.to_string()),
            ("workload", self.mix.to_string()),
            ("small log", if self.small_log { "yes" } else { "no" }.to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// When the folder of a run stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// When something is broken, or the run could not be done.
    IfBroken,
    /// Also when something could not be told.
    UnlessItHolds,
    /// Always.
    Always,
}

/// Runs it, and says what was found.
///
/// # Errors
/// When the run could not be done as planned, so that it says nothing.
pub async fn run(options: RunOptions) -> anyhow::Result<Findings> {
    let mut rng = StdRng::seed_from_u64(options.seed);
    let circuits = Arc::new(Circuits::random(CIRCUITS, &mut rng));
    let cluster = Cluster::start(ClusterOptions {
        settings: settings(options.small_log),
        ..Default::default()
    })
    .await?;
    let mut run = Run {
        options,
        began: report::began(),
        clock: Clock::start(),
        cluster: Arc::new(cluster),
        circuits,
    };
    let outcome = run.play().await;
    let keep = run.options.keep;
    let keeps = match outcome.as_ref().map(|(findings, ..)| findings.verdict()) {
        Ok(Verdict::Holds) => keep == Keep::Always,
        Ok(Verdict::Unknown) => keep != Keep::IfBroken,
        Ok(Verdict::Broken) | Err(_) => true,
    };
    if let (Some(folder), Ok((findings, evidence, last_arrivals))) = (&run.options.report, &outcome) {
        let keeps = if keeps { Keeps::Everything } else { Keeps::ThePage };
        let report = Report {
            title: "Fault run".into(),
            began: run.began.clone(),
            seed: run.options.seed,
            command: run.options.command(),
            options: run.options.shown(),
            evidence,
            last_arrivals: last_arrivals.clone(),
            faults: evidence.faults.iter().map(FaultBar::from).collect(),
            findings,
            drawings: findings.drawings().to_vec(),
            files: folder.take(run.cluster.folder(), keeps)?,
        };
        report::write(folder.page(), &report)?;
        println!("  report: {}", folder.page().display());
    }
    let outcome = outcome.map(|(findings, ..)| findings);
    let folder = run.cluster.folder().to_owned();
    if let Some(cluster) = Arc::get_mut(&mut run.cluster)
        && keeps
    {
        cluster.keep_folder();
        println!("  history, events and logs: {}", folder.display());
    }
    outcome
}

fn settings(small_log: bool) -> Vec<Setting> {
    // Whatever happens to the nodes, all come to the same state: one that did not would exit, which is found.
    let often = ("raft", "compare_interval", "1s".into());
    if small_log {
        vec![
            often,
            ("raft", "snapshot_every", 150.into()),
            ("raft", "keep_entries", 20.into()),
            ("limits", "max_events", 250.into()),
        ]
    } else {
        // Every event of the run stays: a subscriber may miss none.
        vec![
            often,
            ("limits", "max_events", 5_000_000.into()),
            ("limits", "max_event_bytes", 2_000_000_000.into()),
        ]
    }
}

/// What was found, on what, and when the last subscriber had each event.
type Played = (Findings, Evidence, BTreeMap<u64, Micros>);

struct Run {
    options: RunOptions,
    began: String,
    clock: Clock,
    cluster: Arc<Cluster>,
    circuits: Arc<Circuits>,
}

impl Run {
    async fn play(&self) -> anyhow::Result<Played> {
        let Self { options, clock, .. } = self;
        let history = Arc::new(History::new(*clock));
        let ledger = Arc::new(Ledger::new(*clock));
        let monitor = Arc::new(Monitor::default());
        let watching = CancellationToken::new();
        let working = CancellationToken::new();
        let breaking = CancellationToken::new();
        // Dropping the sets ends what is in them, should anything here fail.
        let mut watchers = JoinSet::new();
        let mut clients = JoinSet::new();

        // Everybody is there before anything breaks.
        watchers.spawn(
            monitor
                .clone()
                .run(self.cluster.clone(), self.cluster.connect()?, watching.clone()),
        );
        for id in 1..=self.cluster.nodes().len() {
            let subscriber = self.subscriber(id, &ledger)?;
            watchers.spawn(subscriber.run(watching.clone()));
        }
        if options.small_log {
            watchers.spawn(self.subscriber(4, &ledger)?.lazy().run(watching.clone()));
        }
        self.client(0, &history)?
            .register_all()
            .await
            .context("the circuits cannot be registered")?;
        for id in 1..=options.clients {
            clients.spawn(self.client(id, &history)?.run(working.clone()));
        }
        tokio::time::sleep(CALM).await;

        // Things break, and are mended.
        let nemesis = Nemesis::new(
            self.cluster.clone(),
            self.cluster.connect()?,
            *clock,
            options.seed,
        );
        let records = nemesis.records();
        let following = {
            let (history, ledger, monitor, records) =
                (history.clone(), ledger.clone(), monitor.clone(), records.clone());
            progress::follow(Duration::from_secs(options.seconds), move || Now {
                operations: history.acknowledged(),
                active: Vec::new(),
                faults: records.lock().len(),
                findings: ledger.problems() + monitor.problems(),
            })
        };
        let mut breaks = JoinSet::new();
        breaks.spawn(nemesis.run(breaking.clone()));
        tokio::time::sleep(Duration::from_secs(options.seconds)).await;
        breaking.cancel();
        while let Some(broke) = breaks.join_next().await {
            broke?.context("the nemesis could not go on")?;
        }

        drop(following);

        // The cluster heals while clients go on; then it comes to rest.
        progress::step("everything is mended; waiting until the cluster is at rest");
        let mut findings = Findings::default();
        if let Err(error) = self.cluster.wait_until_ready(HEAL).await {
            findings.broken("G12", format!("the mended cluster is not ready: {error:#}"));
        }
        tokio::time::sleep(CALM).await;
        working.cancel();
        while let Some(client) = clients.join_next().await {
            client?;
        }
        let mut last = self.client(u32::MAX, &history)?;
        if self.options.mix.unregisters() {
            last.register_all()
                .await
                .context("the circuits cannot be registered again")?;
        }
        self.come_to_rest(&ledger, &mut findings).await?;
        last.look_at_all().await.context("the circuits cannot be read")?;
        watching.cancel();
        while let Some(watcher) = watchers.join_next().await {
            watcher?;
        }

        if !options.small_log {
            let nodes = self.cluster.connect()?;
            findings.merge(reread(&nodes, 0..nodes.len(), &ledger).await);
            findings.checked("G8", "every event that was ever seen is on every node, unchanged");
        }

        progress::step("checking what was seen");
        let faults = records.lock().clone();
        let (events, delivered) = ledger.take();
        let observed = monitor.observed();
        let evidence = Evidence {
            circuits: self.circuits.clone(),
            ops: history.ops(),
            events,
            faults,
            kinds: options.mix.actions(),
        };
        self.write(&evidence)?;
        findings.merge(figures::figures(&evidence));
        findings.figure("terms with a leader", observed.leaders.to_string());
        findings.figure(
            "log",
            format!(
                "snapshot at {}, dropped up to {}",
                observed.snapshot, observed.purged
            ),
        );
        self.judge_subscribers(&ledger, &mut findings);
        findings.checked(
            "G1",
            format!("equal states at {} log positions", observed.compared),
        );
        if observed.compared == 0 {
            findings.untold("no two nodes were ever seen at the same log position");
        }
        if observed.leaders < 2 {
            findings.untold("the leader never changed");
        }
        if options.small_log && (observed.snapshot == 0 || observed.purged == 0) {
            findings.untold("the log was never compacted");
        }
        findings.merge(delivered);
        findings.merge(observed.findings);
        findings.merge(check::all(&evidence));
        Ok((findings, evidence, ledger.last_arrivals()))
    }

    fn subscriber(&self, id: usize, ledger: &Arc<Ledger>) -> anyhow::Result<Subscriber> {
        let home = (id - 1) % self.cluster.nodes().len();
        let nodes = self.cluster.connect()?;
        Ok(Subscriber::new(
            u32::try_from(id)?,
            home,
            nodes,
            ledger.clone(),
            self.options.seed,
        ))
    }

    fn client(&self, id: u32, history: &Arc<History>) -> anyhow::Result<Client> {
        let nodes = self.cluster.connect()?;
        Ok(Client::new(
            id,
            nodes,
            self.circuits.clone(),
            history.clone(),
            self.options.mix,
            self.options.seed,
        ))
    }

    /// Waits until all openings have ended, all nodes are equal, and all subscribers have everything.
    async fn come_to_rest(&self, ledger: &Ledger, findings: &mut Findings) -> anyhow::Result<()> {
        let nodes = self.cluster.connect()?;
        let deadline = Instant::now() + HEAL;
        loop {
            let rest = Rest::look(&self.cluster, &nodes, ledger, self.circuits.len()).await;
            if rest.problems.is_empty() {
                findings.figure("at rest", rest.summary);
                return Ok(());
            }
            if Instant::now() > deadline {
                for (guarantee, problem) in rest.problems {
                    findings.broken(
                        guarantee,
                        format!("{problem}, {HEAL:?} after everything was mended"),
                    );
                }
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn judge_subscribers(&self, ledger: &Ledger, findings: &mut Findings) {
        let all = ledger.subscribers();
        let sum = |of: fn(&Progress) -> u64| all.values().map(of).sum::<u64>();
        let (reconnects, compactions) = (sum(|p| p.reconnects), sum(|p| p.compactions));
        findings.figure(
            "subscribers",
            format!(
                "{}, connected again {reconnects} times, fell behind {compactions} times",
                all.len()
            ),
        );
        findings.checked(
            "G7",
            format!(
                "{} deliveries in order, without gap or duplicate",
                sum(|p| p.events)
            ),
        );
        if reconnects == 0 {
            findings.untold("no subscriber ever had to connect again");
        }
        if self.options.small_log {
            if compactions == 0 {
                findings.untold("no subscriber ever fell behind the oldest event");
            }
        } else {
            findings.require(compactions == 0, "G7", || {
                "events were compacted although the log has room for all of them".into()
            });
        }
    }

    fn write(&self, evidence: &Evidence) -> anyhow::Result<()> {
        let folder: &Path = self.cluster.folder();
        write_lines(&folder.join("history.jsonl"), &evidence.ops)?;
        write_lines(&folder.join("faults.jsonl"), &evidence.faults)?;
        let events = evidence.events.values().map(|seen| {
            serde_json::json!({ "revision": seen.event.revision, "arrived": seen.arrived, "event": format!("{:?}", seen.event) })
        });
        write_lines(&folder.join("events.jsonl"), events)
    }
}

/// Whether a mended cluster has come to rest.
struct Rest {
    problems: Vec<(&'static str, String)>,
    summary: String,
}

impl Rest {
    async fn look(cluster: &Cluster, nodes: &Nodes, ledger: &Ledger, circuits: usize) -> Self {
        let mut problems = Vec::new();
        let statuses: Vec<_> = cluster.statuses(nodes).await;
        let known: Vec<_> = statuses.iter().flatten().collect();
        if known.len() < statuses.len() {
            problems.push((
                "G12",
                format!("{} of {} nodes answer", known.len(), statuses.len()),
            ));
        }
        let at = |status: &v1::ClusterStatusResponse| (status.applied_index, status.state_hash.clone());
        if known.iter().any(|status| at(status) != at(known[0])) {
            let all: Vec<_> = known.iter().map(|status| at(status)).collect();
            problems.push(("G1", format!("the nodes are not equal: {all:?}")));
        }
        let revision = known
            .iter()
            .filter_map(|status| Some(status.header.as_ref()?.revision))
            .max()
            .unwrap_or(0);
        for (id, progress) in ledger.subscribers() {
            if progress.newest != revision {
                let what = format!(
                    "subscriber {id} is at revision {}, not {revision}",
                    progress.newest
                );
                problems.push(("G7", what));
            }
        }
        let request = v1::ListRequest {
            page_size: 1000,
            ..Default::default()
        };
        let within = Duration::from_secs(1);
        match answer(within, nodes.circuits(0).list(timed(request, within))).await {
            Ok(list) => {
                let open = list
                    .circuits
                    .iter()
                    .filter(|circuit| circuit.state() == v1::State::Open);
                let open = open.count();
                if open > 0 {
                    problems.push(("G5", format!("{open} circuits are still open")));
                }
                let out = list
                    .circuits
                    .iter()
                    .map(|circuit| circuit.probes_in_flight)
                    .sum::<u32>();
                if out > 0 {
                    problems.push(("G6", format!("{out} permits are still out")));
                }
                if list.circuits.len() != circuits {
                    problems.push((
                        "G8",
                        format!("there are {} of {circuits} circuits", list.circuits.len()),
                    ));
                }
            }
            Err(failure) => problems.push(("G12", format!("the circuits cannot be listed: {failure}"))),
        }
        let summary = known.first().map_or_else(String::new, |status| {
            format!(
                "log index {}, revision {revision}, state {} on all nodes",
                status.applied_index, status.state_hash
            )
        });
        Self { problems, summary }
    }
}
