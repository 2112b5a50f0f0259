//! The long random run: faults, clients, subscribers; then everything is mended, and looked at.

mod availability;
mod coverage;
mod ground;
mod options;
mod pulse;
mod rest;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::check::{self, Evidence, figures};
use crate::circuits::Circuits;
use crate::cluster::{Cluster, ClusterOptions, Setting};
use crate::filtered::{self, Filter, Filtered};
use crate::findings::{Findings, Verdict};
use crate::history::History;
use crate::ledger::{Ledger, Progress};
use crate::monitor::Monitor;
use crate::nemesis::{Means, Nemesis};
use crate::progress::{self, Now};
use crate::recorded;
use crate::report::{self, FaultBar, Keeps, Report};
use crate::subscriber::{Subscriber, reread};
use crate::time::{Clock, Micros, percentile, show_ms};
use crate::workload::Client;
use coverage::Chosen;
use ground::Ground;
use pulse::Pulse;
use rest::Rest;

pub use availability::{Second, timeline};
pub use options::{Keep, RunOptions};

const CIRCUITS: usize = 20;
/// Nothing is broken for so long at the beginning and at the end: then timers must be on time.
const CALM: Duration = Duration::from_secs(4);
/// How long a mended cluster may take until everything is equal everywhere.
const HEAL: Duration = Duration::from_secs(30);

/// Runs it, and says what was found.
///
/// # Errors
/// When the run could not be done as planned, so that it says nothing.
pub async fn run(options: RunOptions) -> anyhow::Result<Findings> {
    let mut rng = StdRng::seed_from_u64(options.seed);
    let circuits = Arc::new(Circuits::random(CIRCUITS, &mut rng));
    let keep = options.keep;
    let ground = Ground::make(&options)?;
    let cluster = Cluster::start(ClusterOptions {
        settings: settings(options.small_log),
        ..ground.cluster(&options)
    })
    .await?;
    let mut run = Run {
        options,
        began: report::began(),
        ground,
        clock: Clock::start(),
        cluster: Arc::new(cluster),
        circuits,
    };
    let outcome = run.play().await;
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

fn starts(mut took: Vec<Micros>) -> String {
    took.sort_unstable();
    format!(
        "after p50 {}, max {} ({} times)",
        show_ms(percentile(&took, 50)),
        show_ms(percentile(&took, 100)),
        took.len()
    )
}

struct Run {
    options: RunOptions,
    began: String,
    clock: Clock,
    cluster: Arc<Cluster>,
    circuits: Arc<Circuits>,
    /// Removed after the cluster.
    ground: Ground,
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
            let lazy = self.subscriber(self.cluster.nodes().len() + 1, &ledger)?;
            watchers.spawn(lazy.lazy().run(watching.clone()));
        }
        let mut records = Vec::new();
        // With a short log they may fall behind, and then nobody knows what they should have got.
        if !options.small_log {
            for (seed, filter) in (options.seed..).zip(Filter::all(&self.circuits)) {
                let subscriber = Filtered::new(filter, self.cluster.connect()?, seed);
                records.push(subscriber.record());
                watchers.spawn(subscriber.run(watching.clone()));
            }
        }
        self.client(0, &history)?
            .register_all()
            .await
            .context("the circuits cannot be registered")?;
        for id in 1..=options.clients {
            clients.spawn(self.client(id, &history)?.run(working.clone()));
        }
        for node in 0..self.cluster.nodes().len() {
            clients.spawn(self.pulse(node, &history)?.run(working.clone()));
        }
        tokio::time::sleep(CALM).await;

        // Things break, and are mended.
        let means = Means {
            families: self.ground.families.clone(),
            clocks: self.ground.clocks.clone(),
            run: Duration::from_secs(options.seconds),
        };
        let nemesis = Nemesis::new(self.cluster.clone(), means, *clock, options.seed)?;
        let faults = nemesis.log();
        let following = {
            let (history, ledger, monitor, faults) =
                (history.clone(), ledger.clone(), monitor.clone(), faults.clone());
            progress::follow(Duration::from_secs(options.seconds), move || Now {
                operations: history.acknowledged(),
                active: faults.active().iter().map(|fault| format!("{fault:?}")).collect(),
                faults: faults.count(),
                findings: ledger.problems() + monitor.problems(),
            })
        };
        let mut breaks = JoinSet::new();
        breaks.spawn(nemesis.run(breaking.clone()));
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(options.seconds)) => {}
            // It ends before it is told to only if it cannot go on.
            Some(broke) = breaks.join_next() => broke?.context("the nemesis could not go on")?,
        }
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
        let spans = faults.spans();
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
            findings.merge(reread(&nodes, 0..nodes.len(), &ledger, u64::MAX).await);
            findings.checked("G8", "every event that was ever seen is on every node, unchanged");
        }

        progress::step("checking what was seen");
        let (events, delivered) = ledger.take();
        findings.merge(filtered::check(&records, &events));
        let observed = monitor.observed();
        let evidence = Evidence {
            circuits: self.circuits.clone(),
            ops: history.ops(),
            events,
            faults: faults.records(),
            spans,
            kinds: options.mix.actions(),
        };
        self.write(&evidence)?;
        findings.merge(figures::figures(&evidence));
        findings.merge(self.ground.judge());
        findings.merge(coverage::check(
            &evidence,
            &Chosen {
                families: &self.ground.families,
                nodes: self.cluster.nodes().len(),
                run: Duration::from_secs(options.seconds),
            },
        ));
        findings.merge(availability::judge(&evidence));
        findings.figure("started again and served", starts(faults.starts()));
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

    fn pulse(&self, node: usize, history: &Arc<History>) -> anyhow::Result<Pulse> {
        Ok(Pulse {
            nodes: self.cluster.connect()?,
            node,
            circuits: self.circuits.clone(),
            history: history.clone(),
            seed: self.options.seed,
        })
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
        let folder = self.cluster.folder();
        recorded::write(folder, evidence)?;
        recorded::write_lines(&folder.join("timeline.jsonl"), timeline(&evidence.ops))
    }
}
