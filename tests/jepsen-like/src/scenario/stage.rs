//! What every scenario stands on: a cluster, one subscriber a node, a history, and the comparison of both in the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use brama_proto::v1;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::check::{self, Evidence};
use crate::circuits::Circuits;
use crate::cluster::{Cluster, ClusterOptions};
use crate::findings::{Findings, Verdict};
use crate::history::{Action, Answer, History, Outcome};
use crate::ledger::Ledger;
use crate::recorded;
use crate::rpc::{Nodes, answer, timed};
use crate::subscriber::{Subscriber, reread};
use crate::time::Clock;
use crate::workload::{Client, Mix};

/// A scenario's cluster is at rest after this, or something is wrong.
const REST: Duration = Duration::from_secs(20);
const CALL: Duration = Duration::from_secs(5);
const REGISTER_AT_ONCE: usize = 32;
const EVERY_EVENT: [(&str, i64); 2] = [("max_events", 5_000_000), ("max_event_bytes", 2_000_000_000)];
/// Who looks at everything in the end.
const LAST: u32 = 999;

/// A running cluster and what is seen of it.
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) nodes: Nodes,
    pub(super) clock: Clock,
    pub(super) circuits: Arc<Circuits>,
    pub(super) history: Arc<History>,
    pub(super) ledger: Arc<Ledger>,
    addresses: watch::Sender<Vec<SocketAddr>>,
    watching: CancellationToken,
    watchers: JoinSet<()>,
    /// So many events a node keeps at least.
    kept: u64,
}

impl Stage {
    /// Starts a cluster with these circuits, and one subscriber a node.
    ///
    /// Every event of the scenario stays, unless it asks for less: no subscriber may miss one, and all is read again in the end.
    pub(super) async fn start(mut options: ClusterOptions, circuits: Circuits) -> anyhow::Result<Self> {
        for (limit, most) in EVERY_EVENT {
            if !options.settings.iter().any(|(_, name, _)| *name == limit) {
                options.settings.push(("limits", limit, most.into()));
            }
        }
        let most = options.settings.iter().find(|(_, name, _)| *name == "max_events");
        let kept = most.and_then(|(_, _, most)| u64::try_from(most.as_integer()?).ok());
        let kept = kept.context("the number of events is a number")?;
        let cluster = Cluster::start(options).await?;
        let clock = Clock::start();
        let mut stage = Self {
            nodes: cluster.connect()?,
            addresses: watch::Sender::new(cluster.addresses()),
            cluster,
            clock,
            circuits: Arc::new(circuits),
            history: Arc::new(History::new(clock)),
            ledger: Arc::new(Ledger::new(clock)),
            watching: CancellationToken::new(),
            watchers: JoinSet::new(),
            kept,
        };
        for home in 0..stage.nodes.len() {
            let id = u32::try_from(home)? + 1;
            let subscriber = Subscriber::new(id, home, stage.cluster.connect()?, stage.ledger.clone(), 0)
                .that_learns_of(stage.addresses.subscribe());
            stage.watchers.spawn(subscriber.run(stage.watching.clone()));
        }
        stage.register_all().await?;
        Ok(stage)
    }

    /// Connections to all nodes that there are by now; subscribers learn of them too.
    pub(super) fn reconnect(&mut self) -> anyhow::Result<()> {
        self.addresses.send_replace(self.cluster.addresses());
        self.nodes = self.cluster.connect()?;
        Ok(())
    }

    /// Where the nodes are, also those that come later.
    pub(super) fn addresses(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.addresses.subscribe()
    }

    /// Waits until `done`, looking again every few milliseconds.
    pub(super) async fn wait(
        &self,
        within: Duration,
        what: &str,
        mut done: impl AsyncFnMut(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + within;
        while !done(self).await? {
            if Instant::now() > deadline {
                bail!("{what}: not within {within:?}\n{}", self.cluster.tails());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// What was done and seen so far.
    pub(super) fn evidence(&self) -> Evidence {
        Evidence {
            circuits: self.circuits.clone(),
            ops: self.history.ops(),
            events: self.ledger.events(),
            faults: Vec::new(),
            kinds: Vec::new(),
            spans: Vec::new(),
        }
    }

    /// Waits until all subscribers have everything, reads it all again from every node that is up, and checks that each effect has its
    /// cause. Keeps the folder if anything is wrong.
    pub(super) async fn finish(self, findings: Findings) -> anyhow::Result<Findings> {
        self.finish_with(findings, check::effects).await
    }

    /// The same with every check there is, and no process may have ended by itself. For scenarios whose clients do everything.
    pub(super) async fn finish_with_all_checks(self, mut findings: Findings) -> anyhow::Result<Findings> {
        for node in self.cluster.nodes() {
            if let Some(status) = node.exit_status()? {
                let tail = node.log_tail(5);
                findings.broken(
                    "G10",
                    format!("node {} ended by itself ({status}):\n{tail}", node.spec.id),
                );
            }
        }
        self.wait(REST, "no circuit is open", async |stage: &Self| {
            stage.is_none_open().await
        })
        .await?;
        let mut last = Client::new(
            LAST,
            self.cluster.connect()?,
            self.circuits.clone(),
            self.history.clone(),
            Mix::Reads,
            0,
        );
        // Some of the clients may have unregistered what is to be looked at.
        last.register_all().await?;
        last.look_at_all().await?;
        self.finish_with(findings, check::all).await
    }

    async fn finish_with(
        mut self,
        mut findings: Findings,
        check: fn(&Evidence) -> Findings,
    ) -> anyhow::Result<Findings> {
        let rest = self
            .wait(REST, "all subscribers have every event", async |stage: &Self| {
                let statuses = stage.cluster.statuses(&stage.nodes).await;
                let revisions = statuses
                    .iter()
                    .flatten()
                    .filter_map(|status| status.header.as_ref());
                let newest = revisions.map(|header| header.revision).max().unwrap_or(0);
                let all = stage.ledger.subscribers();
                Ok(all.values().all(|progress| progress.newest == newest))
            })
            .await;
        if let Err(error) = rest {
            findings.broken("G7", format!("{error:#}"));
        }
        self.watching.cancel();
        while let Some(watcher) = self.watchers.join_next().await {
            watcher?;
        }
        let up = |position: &usize| self.cluster.nodes()[*position].is_up();
        let reread = self.reread((0..self.nodes.len()).filter(up)).await;
        let (_, delivered) = self.ledger.take();
        let evidence = self.evidence();
        findings.merge(delivered);
        findings.merge(reread);
        findings.merge(check(&evidence));
        findings.checked(
            "G7",
            format!(
                "{} events, the same for every subscriber and when read again",
                evidence.events.len()
            ),
        );
        if findings.verdict() != Verdict::Holds {
            let folder = self.cluster.folder();
            recorded::write(folder, &evidence)?;
            println!("  history, events and logs: {}", folder.display());
            self.cluster.keep_folder();
        }
        Ok(findings)
    }

    /// Everything that these nodes must still have.
    pub(super) async fn reread(&self, positions: impl Iterator<Item = usize>) -> Findings {
        reread(&self.nodes, positions, &self.ledger, self.kept).await
    }

    async fn is_none_open(&self) -> anyhow::Result<bool> {
        let request = v1::ListRequest {
            states: vec![v1::State::Open.into()],
            ..Default::default()
        };
        let listed = answer(CALL, self.nodes.circuits(0).list(timed(request, CALL))).await?;
        Ok(listed.circuits.is_empty())
    }

    async fn register_all(&self) -> anyhow::Result<()> {
        futures::stream::iter(self.circuits.iter().map(|(index, _)| self.register(index)))
            .buffer_unordered(REGISTER_AT_ONCE)
            .try_collect()
            .await
    }

    async fn register(&self, circuit: usize) -> anyhow::Result<()> {
        let spec = self.circuits.get(circuit);
        let op = self.history.begin(0, Action::register(circuit, &spec.policy));
        let request = v1::RegisterRequest {
            name: Some(spec.name.clone()),
            policy: Some(spec.policy),
            ..Default::default()
        };
        let mut client = self.nodes.circuits(circuit % self.nodes.len());
        let response = answer(CALL, client.register(timed(request, CALL))).await?;
        self.history
            .end(op, 1, Outcome::Ok(Answer::registered(&response)));
        Ok(())
    }
}
