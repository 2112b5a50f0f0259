//! Large answers beside a steady load of reports: they must not hold it up.

use std::time::Duration;

use anyhow::{Context, bail};
use brama_faults::findings::Findings;
use brama_proto::v1;
use brama_proto::v1::circuits_client::CircuitsClient;
use brama_proto::v1::consistency::Level;
use brama_proto::v1::events_client::EventsClient;
use tokio::time::Instant;

use super::Sizes;
use super::stage::{Stage, item};
use crate::figures::Figures;
use crate::lane::Lane;
use crate::load::{self, Operation};
use crate::metrics;

/// Reports a second.
const RATE: f64 = 200.0;
const HOW_LONG: Duration = Duration::from_secs(6);

/// A report of one circuit of many.
#[derive(Clone)]
pub(super) struct One {
    pub(super) lanes: Vec<Lane>,
    pub(super) circuits: u64,
}

impl Operation for One {
    async fn run(&self, worker: usize, _: u64) -> Result<(), String> {
        let lane = &self.lanes[worker % self.lanes.len()];
        let request = v1::ReportRequest {
            session: None,
            items: vec![item(worker as u64 * 7919 % self.circuits)],
        };
        lane.call::<v1::ReportResponse>("/brama.v1.Circuits/Report", &request)
            .await
            .map(drop)
    }
}

pub(super) async fn measure(stage: &Stage, sizes: &Sizes) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let load = || {
        let operation = One {
            lanes: stage.lanes(),
            circuits: sizes.circuits,
        };
        load::open(operation, RATE, HOW_LONG, &[])
    };
    say(&mut findings, "alone", &load().await);

    let (figures, took) = tokio::join!(load(), again(|n| list(stage, n, sizes.circuits)));
    say(&mut findings, "beside List of everything", &figures);
    let listed = took?;
    let (figures, took) = tokio::join!(load(), again(|n| watch(stage, n, sizes.circuits)));
    say(&mut findings, "beside Watch of everything", &figures);
    let watched = took?;
    findings.figure("List of everything", format!("{listed:?}"));
    findings.figure("Watch of everything", format!("{watched:?}"));
    if scrape(stage, 0).await.is_some() {
        let scrapes = again(async |n| scrape(stage, n).await.map(|_| ()).context("a scrape failed"));
        let (figures, took) = tokio::join!(load(), scrapes);
        say(&mut findings, "beside scrapes of /metrics", &figures);
        findings.figure("a scrape of /metrics", format!("{:?}", took?));
    }
    Ok(findings)
}

fn say(findings: &mut Findings, what: &str, figures: &Figures) {
    let text = format!("p50 {:.1} ms, p99 {:.1} ms", figures.p50_ms, figures.p99_ms);
    findings.figure(format!("{RATE} reports a second, {what}"), text);
}

/// Does something again and again while the load runs; gives how long it took at most.
async fn again(what: impl AsyncFn(usize) -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let end = Instant::now() + HOW_LONG;
    let mut longest = Duration::ZERO;
    for n in 0.. {
        let began = Instant::now();
        what(n).await?;
        longest = longest.max(began.elapsed());
        if Instant::now() > end {
            break;
        }
    }
    Ok(longest)
}

async fn list(stage: &Stage, n: usize, circuits: u64) -> anyhow::Result<()> {
    let mut client = CircuitsClient::new(stage.channels[n % stage.channels.len()].clone());
    let mut page_token = String::new();
    let mut found = 0;
    loop {
        let request = v1::ListRequest {
            page_size: 1000,
            page_token,
            consistency: Some(v1::Consistency {
                level: Some(Level::Local(true)),
            }),
            ..Default::default()
        };
        let page = client.list(request).await?.into_inner();
        found += page.circuits.len() as u64;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if found != circuits {
        bail!("a listing has {found} circuits of {circuits}");
    }
    Ok(())
}

async fn watch(stage: &Stage, n: usize, circuits: u64) -> anyhow::Result<()> {
    let mut client = EventsClient::new(stage.channels[n % stage.channels.len()].clone());
    let request = v1::WatchRequest {
        snapshot_only: true,
        ..Default::default()
    };
    let mut messages = client.watch(request).await?.into_inner();
    let mut found = 0;
    while let Some(message) = messages.message().await? {
        if let Some(v1::watch_response::Message::Snapshot(page)) = message.message {
            found += page.circuits.len() as u64;
        }
    }
    if found != circuits {
        bail!("a watch has {found} circuits of {circuits}");
    }
    Ok(())
}

/// `None`: this node has no such page.
async fn scrape(stage: &Stage, n: usize) -> Option<Duration> {
    let began = Instant::now();
    let page = metrics::scrape(stage.cluster.addresses()[n % 3]).await;
    page.ok().map(|_| began.elapsed())
}
