//! A replica of a service: it calls the upstream about 50 times a second, through the circuit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use axum::body::Body;
use axum::http::{Method, Request, Uri};
use brama_client::{CallError, Circuit, Client};
use http_body_util::BodyExt;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior};

use crate::lines::{Calls, director_is_gone, tell};

/// One call each 20 ms.
const INTERVAL: Duration = Duration::from_millis(20);
/// Calls under way at once. An election takes a second or so: what waits for it must not pile up without end.
const MAX_UNDER_WAY: usize = 100;
/// An upstream that takes longer has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Calls that are under way at the end get so long.
const END_WITHIN: Duration = Duration::from_secs(5);
/// The director hears of it so often.
const TELL_INTERVAL: Duration = Duration::from_millis(50);

/// `brama-demo replica`
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[arg(long)]
    number: usize,
    /// Nodes; the first is the one it asks as long as that answers
    #[arg(long, value_delimiter = ',')]
    endpoints: Vec<String>,
    #[arg(long)]
    upstream: String,
    #[arg(long)]
    circuit: String,
}

type Http = hyper_util::client::legacy::Client<HttpConnector, Body>;

#[derive(Default)]
struct Counters {
    succeeded: AtomicU64,
    failed: AtomicU64,
    rejected: AtomicU64,
    unasked: AtomicU64,
    skipped: AtomicU64,
}

/// Calls until the director is gone, and then sends what is to be reported.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::builder()
        .endpoints(args.endpoints)
        .begin_with_first()
        .connect_lazy()?;
    let circuit = client.circuit(args.circuit);
    let uri: Uri = format!("http://{}/pay?replica={}", args.upstream, args.number).parse()?;
    let http: Http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
    let counters = Arc::new(Counters::default());

    let under_way = Arc::new(Semaphore::new(MAX_UNDER_WAY));
    let calling = call_for_ever(circuit, &http, &uri, &counters, &under_way);
    tokio::select! {
        () = calling => {}
        () = tell_for_ever(&client, &counters) => {}
        () = director_is_gone() => {}
    }
    // Each call that was begun is to be counted.
    let all = u32::try_from(MAX_UNDER_WAY)?;
    let _places = tokio::time::timeout(END_WITHIN, under_way.acquire_many(all))
        .await
        .context("calls hang")??;
    let sent = client.flush().await;
    tell(&counters.read(&client));
    sent.context("some reports could not be sent")
}

async fn call_for_ever(
    circuit: Circuit,
    http: &Http,
    uri: &Uri,
    counters: &Arc<Counters>,
    under_way: &Arc<Semaphore>,
) {
    // Nine replicas that start together do not call together.
    tokio::time::sleep(INTERVAL.mul_f64(f64::from(std::process::id() % 10) / 10.0)).await;
    let mut ticks = tokio::time::interval_at(Instant::now(), INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let Ok(place) = under_way.clone().try_acquire_owned() else {
            counters.skipped.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let (circuit, http, uri, counters) = (circuit.clone(), http.clone(), uri.clone(), counters.clone());
        tokio::spawn(async move {
            let counter = match circuit.call(pay(http, uri)).await {
                Ok(()) => &counters.succeeded,
                Err(CallError::Rejected { .. }) => &counters.rejected,
                Err(CallError::Inner(_)) => &counters.failed,
                Err(CallError::Cluster(error)) => {
                    eprintln!("{error}");
                    &counters.unasked
                }
            };
            counter.fetch_add(1, Ordering::Relaxed);
            drop(place);
        });
    }
}

async fn pay(http: Http, uri: Uri) -> anyhow::Result<()> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .body(Body::empty())?;
    let answer = tokio::time::timeout(CALL_TIMEOUT, http.request(request))
        .await
        .context("no answer in time")??;
    let status = answer.status();
    // Read to its end, so that the connection is used again.
    let body = answer.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!("{status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(())
}

async fn tell_for_ever(client: &Client, counters: &Counters) {
    let mut ticks = tokio::time::interval(TELL_INTERVAL);
    loop {
        ticks.tick().await;
        if !tell(&counters.read(client)) {
            return;
        }
    }
}

impl Counters {
    fn read(&self, client: &Client) -> Calls {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let reports = client.report_stats();
        Calls {
            succeeded: get(&self.succeeded),
            failed: get(&self.failed),
            rejected: get(&self.rejected),
            unasked: get(&self.unasked),
            skipped: get(&self.skipped),
            lost_reports: reports.dropped + reports.unknown + reports.refused + reports.not_found,
        }
    }
}
