//! What subscribers add to one node: memory, and processor time while what happens does not concern them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use brama_faults::findings::Findings;
use brama_faults::rpc::reason;
use brama_proto::v1;
use brama_proto::v1::events_client::EventsClient;
use brama_proto::v1::subscribe_response::Message;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::stage::{Stage, name};
use super::{Sizes, shown};
use crate::connect;
use crate::cpu;
use crate::load;
use crate::operations;

/// What all of them may cost.
const ALL: f64 = 200.0 * 1024.0 * 1024.0;
/// Streams of one connection, where many share one.
const SHARED: u64 = 1000;
/// Reports a second that concern no subscriber.
const RATE: f64 = 1000.0;
const HOW_LONG: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn measure(sizes: &Sizes, data: &Path) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let stage = Stage::start(data, Vec::new()).await?;
    let subscribers = sizes.subscribers;
    stage.register(0..subscribers).await?;
    stage.register_for_load().await?;
    stage.fill(0..subscribers).await?;
    eprintln!("  {subscribers} circuits are there");
    let position = stage.follower().await?;
    let pid = stage.cluster.nodes()[position]
        .pid()
        .context("a follower that does not run")?;
    let (idle, loaded) = cost(&stage, pid).await;
    say_cost(&mut findings, "without subscribers", idle, &loaded);
    for (how, of_connection) in [
        ("on few connections", SHARED),
        ("each on a connection of its own", 1),
    ] {
        let before = resident(&stage, pid).await;
        eprintln!("  {subscribers} subscribe, {how} ...");
        let crowd = Crowd::subscribe(&stage, position, subscribers, of_connection).await?;
        if subscribers == 10_000 {
            findings.merge(one_more(&stage, position).await?);
        }
        // A few rounds of progress messages.
        tokio::time::sleep(Duration::from_secs(7)).await;
        let after = resident(&stage, pid).await;
        let cost_bytes = after as f64 - before as f64;
        findings.figure(
            format!("{subscribers} subscribers {how}"),
            format!(
                "{} more, {} each",
                shown(cost_bytes),
                shown(cost_bytes / subscribers as f64)
            ),
        );
        findings.require(cost_bytes <= ALL, "size", || {
            format!(
                "{subscribers} subscribers {how} cost {}, at most {} are allowed",
                shown(cost_bytes),
                shown(ALL)
            )
        });
        let (idle, loaded) = cost(&stage, pid).await;
        say_cost(&mut findings, &format!("with {subscribers} {how}"), idle, &loaded);
        let took = crowd.tell_all(&stage).await?;
        findings.checked(
            "G7",
            format!("{subscribers} subscribers {how} each heard of their circuit, within {took:.1?}"),
        );
        crowd.leave(&stage, position).await?;
    }
    Ok(findings)
}

struct Cost {
    busy: f64,
    figures: crate::figures::Figures,
}

/// Parts of a processor that this node uses while nothing happens, and beside the load.
async fn cost(stage: &Stage, pid: u32) -> (f64, Cost) {
    let began = Instant::now();
    let before = cpu::time(&[pid]);
    tokio::time::sleep(HOW_LONG / 2).await;
    let idle = (cpu::time(&[pid]) - before).as_secs_f64() / began.elapsed().as_secs_f64();
    let operation = operations::Failure {
        lanes: stage.lanes(),
        circuits: 1,
    };
    let began = Instant::now();
    let before = cpu::time(&[pid]);
    let figures = load::open(operation, RATE, HOW_LONG, &stage.pids()).await;
    let busy = (cpu::time(&[pid]) - before).as_secs_f64() / began.elapsed().as_secs_f64();
    (idle, Cost { busy, figures })
}

fn say_cost(findings: &mut Findings, what: &str, idle: f64, loaded: &Cost) {
    findings.figure(
        format!("processor of the node {what}, idle"),
        format!("{:.0} %", idle * 100.0),
    );
    findings.figure(
        format!("... beside {RATE} reports a second on another circuit"),
        format!(
            "{:.0} %; reports p50 {:.1} ms, p99 {:.1} ms",
            loaded.busy * 100.0,
            loaded.figures.p50_ms,
            loaded.figures.p99_ms
        ),
    );
}

async fn resident(stage: &Stage, pid: u32) -> u64 {
    let all = stage.resident().await;
    let position = stage.pids().iter().position(|each| *each == pid);
    position
        .and_then(|position| all.get(position).copied())
        .unwrap_or(0)
}

/// Subscribers of one node, each of its own circuit.
struct Crowd {
    streams: JoinSet<anyhow::Result<()>>,
    /// How many have heard an event.
    heard: Arc<AtomicU64>,
    leave: watch::Sender<bool>,
    number: u64,
}

impl Crowd {
    async fn subscribe(
        stage: &Stage,
        position: usize,
        number: u64,
        of_connection: u64,
    ) -> anyhow::Result<Self> {
        let address = stage.cluster.addresses()[position];
        let heard = Arc::new(AtomicU64::new(0));
        let ready = Arc::new(AtomicU64::new(0));
        let leave = watch::Sender::new(false);
        let mut streams = JoinSet::new();
        let mut channel = None;
        for n in 0..number {
            if n % of_connection == 0 {
                channel = Some(connect::lazy(address)?);
            }
            let channel = channel.clone().context("a connection")?;
            let (heard, is_ready, mut left) = (heard.clone(), ready.clone(), leave.subscribe());
            streams.spawn(async move {
                tokio::select! {
                    done = listen(channel, n, &is_ready, &heard) => done,
                    _ = left.wait_for(|left| *left) => Ok(()),
                }
            });
            // A queue of connections that are not accepted yet is short.
            let deadline = Instant::now() + PATIENCE;
            while n.saturating_sub(ready.load(Ordering::Relaxed)) > 100 {
                if Instant::now() > deadline {
                    bail!("only {} could subscribe", ready.load(Ordering::Relaxed));
                }
                if let Some(ended) = streams.try_join_next() {
                    ended??;
                    bail!("a subscription ended");
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while ready.load(Ordering::Relaxed) < number {
            if Instant::now() > deadline {
                bail!(
                    "only {} of {number} could subscribe",
                    ready.load(Ordering::Relaxed)
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Self {
            streams,
            heard,
            leave,
            number,
        })
    }

    /// Something happens to each circuit; each subscriber hears of its own.
    async fn tell_all(&self, stage: &Stage) -> anyhow::Result<Duration> {
        let began = Instant::now();
        stage.report(0..self.number).await?;
        while self.heard.load(Ordering::Relaxed) < self.number {
            if began.elapsed() > PATIENCE {
                bail!(
                    "only {} of {} heard of their circuit",
                    self.heard.load(Ordering::Relaxed),
                    self.number
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(began.elapsed())
    }

    async fn leave(mut self, stage: &Stage, position: usize) -> anyhow::Result<()> {
        self.leave.send_replace(true);
        while let Some(ended) = self.streams.join_next().await {
            ended??;
        }
        let deadline = Instant::now() + PATIENCE;
        while stage.status(position).await?.subscribers > 0 {
            if Instant::now() > deadline {
                bail!("subscribers that have left still hold their places");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

async fn listen(channel: Channel, n: u64, ready: &AtomicU64, heard: &AtomicU64) -> anyhow::Result<()> {
    let request = v1::SubscribeRequest {
        names: vec![name(n)],
        ..Default::default()
    };
    let mut messages = EventsClient::new(channel).subscribe(request).await?.into_inner();
    let mut first = true;
    let mut told = false;
    while let Some(message) = messages.message().await? {
        if std::mem::take(&mut first) {
            ready.fetch_add(1, Ordering::Relaxed);
        }
        if matches!(message.message, Some(Message::Event(_))) && !std::mem::replace(&mut told, true) {
            heard.fetch_add(1, Ordering::Relaxed);
        }
    }
    bail!("a subscription ended")
}

async fn one_more(stage: &Stage, position: usize) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut client = EventsClient::new(connect::lazy(stage.cluster.addresses()[position])?);
    match client.subscribe(v1::SubscribeRequest::default()).await {
        Err(status) if reason(&status).as_deref() == Some("TOO_MANY_SUBSCRIBERS") => {
            findings.checked("limit", "one subscriber more: TOO_MANY_SUBSCRIBERS");
        }
        other => findings.broken(
            "limit",
            format!("one subscriber more is not refused: {:?}", other.map(|_| ())),
        ),
    }
    Ok(findings)
}
