//! A crowd on one node (row 20 of the matrix): thousands of subscribers of circuits on which nothing happens, readers that do not read, and one client that lists all
//! circuits again and again on the connection on which it watches one. What it watches still comes at once, nobody starves, and who does not read costs no queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use brama_proto::v1;
use brama_proto::v1::circuits_client::CircuitsClient;
use brama_proto::v1::events_client::EventsClient;
use brama_proto::v1::subscribe_request::From as Start;
use brama_proto::v1::subscribe_response::Message;
use brama_proto::v1::watch_response::Message as Watched;
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::Streaming;
use tonic::transport::Channel;

use super::memory;
use crate::cluster::{Cluster, ClusterOptions};
use crate::findings::Findings;
use crate::progress;
use crate::rpc::endpoint;
use crate::time::{Clock, Micros, percentile, show_ms};

const PATIENCE: Duration = Duration::from_secs(120);
const MEASURE: Duration = Duration::from_secs(8);
/// Streams of one connection.
const OF_CONNECTION: usize = 500;
const REGISTER_AT_ONCE: usize = 128;
/// Who does not read.
const SLOW: usize = 50;
const SLOW_WINDOW: u32 = 64 * 1024;
/// The watched circuit is reported on so often.
const MARK_EVERY: Duration = Duration::from_millis(20);
/// Beside it, so often a report of ten kibibytes, which every slow reader should read.
const LOAD_EVERY: Duration = Duration::from_millis(10);
const LOAD_VALUES: usize = 10;
const LOAD_VALUE_BYTES: usize = 1000;
/// From sending a report to its event at the watcher, p99, beside the crowd.
const WATCH: Micros = 150_000;
/// What the node may hold more because of those who do not read: far less than what they leave unread. Its event log is in it.
const QUEUES_MIB: f64 = 64.0;
const MARK: &str = "crowd-mark";
const LOAD: &str = "crowd-load";

/// So many idle subscribers, and so many circuits to list.
///
/// # Errors
/// When it could not be done.
pub async fn crowd(subscribers: usize, circuits: usize) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let room = i64::try_from(subscribers + SLOW + 10)?;
    let cluster = Cluster::start(ClusterOptions {
        settings: vec![
            ("limits", "max_subscribers", room.into()),
            // As an operator has it: the fault runs ask for progress more often, of far fewer subscribers.
            ("events", "progress_interval", "3s".into()),
        ],
        ..Default::default()
    })
    .await?;
    let nodes = cluster.connect()?;
    let leader = cluster.wait_for_leader(&nodes, PATIENCE).await?;
    let position = (leader + 1) % 3;
    let node = &cluster.nodes()[position];
    let there = node.spec.client;
    let patient = || anyhow::Ok(endpoint(there)?.keep_alive_timeout(PATIENCE));
    let connect = || anyhow::Ok(patient()?.connect_lazy());
    // What is sent to them stays on the node: they take no more than this.
    let connect_slow = || {
        let endpoint = patient()?.initial_stream_window_size(SLOW_WINDOW);
        anyhow::Ok(
            endpoint
                .initial_connection_window_size(SLOW_WINDOW)
                .connect_lazy(),
        )
    };
    let writer = nodes.circuits(leader);
    progress::step(format!("registering {circuits} circuits"));
    register(&writer, circuits.max(subscribers)).await?;

    // The same client, first alone.
    let both = connect()?;
    let clock = Clock::start();
    let mut watcher = Watcher::start(both.clone(), clock).await?;
    progress::step("watching without a crowd");
    let alone = watcher.measure(&writer, clock, &mut findings).await?;

    progress::step(format!("{subscribers} subscribe"));
    let mut idle = Idle::subscribe(&connect, subscribers).await?;
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        slow.push(subscribe_to_all(connect_slow()?).await?);
    }
    let before = memory::of(node)?;
    let load = tokio::spawn(load(writer.clone(), MEASURE));
    let listing = Listing::start(both);
    progress::step("watching beside the crowd");
    let beside = watcher.measure(&writer, clock, &mut findings).await?;
    let reported = load.await??;
    let after = memory::of(node)?;
    let listed = listing.end().await?;

    findings.figure("report to watcher, alone", show(&alone));
    findings.figure(
        format!(
            "... beside {subscribers} idle subscribers, {SLOW} that do not read, and a client that lists"
        ),
        format!("{} (p99 {} allowed)", show(&beside), show_ms(WATCH)),
    );
    if alone.len() < 100 || beside.len() < 100 {
        findings.untold("too few reports came to the watcher to speak of a p99");
    }
    findings.require(percentile(&beside, 99) <= WATCH, "bound", || {
        format!("p99 at the watcher is {}", show_ms(percentile(&beside, 99)))
    });
    let (pages, longest, wrong) = listed;
    findings.figure(
        "lists on the watcher's connection",
        format!(
            "{pages} pages of 1,000 circuits, the longest took {}",
            show_ms(longest)
        ),
    );
    if pages == 0 {
        findings.untold("no page was listed beside the watcher");
    }
    findings.require(wrong == 0, "bound", || format!("{wrong} pages could not be read"));
    let unread = (reported * SLOW * LOAD_VALUES * LOAD_VALUE_BYTES) as f64 / 1024.0 / 1024.0;
    findings.figure(
        "memory of the node",
        format!(
            "{before:.0} MiB, then {after:.0} with {unread:.0} MiB that were not read ({QUEUES_MIB} more allowed)"
        ),
    );
    if unread < 2.0 * QUEUES_MIB {
        findings.untold(format!(
            "only {unread:.0} MiB were left unread: a queue would not show"
        ));
    }
    findings.require(after - before <= QUEUES_MIB, "G10", || {
        format!("the node grew by {:.0} MiB", after - before)
    });

    progress::step("those who did not read, read");
    let events = read_all(slow, reported, &mut findings).await?;
    progress::step("something happens to each circuit that is subscribed to");
    let took = idle.tell_all(&writer).await?;
    findings.checked(
        "G7",
        format!(
            "{SLOW} readers that came late got {events} events without a gap, {subscribers} idle ones each heard of their circuit within {took:.1?}"
        ),
    );
    findings.checked("bound", "what is watched comes in time beside a crowd");
    Ok(findings)
}

fn sorted(mut values: Vec<Micros>) -> Vec<Micros> {
    values.sort_unstable();
    values
}

fn show(sorted: &[Micros]) -> String {
    format!(
        "p50 {}, p99 {}, worst {} of {}",
        show_ms(percentile(sorted, 50)),
        show_ms(percentile(sorted, 99)),
        show_ms(percentile(sorted, 100)),
        sorted.len()
    )
}

fn name(identifier: &str) -> v1::CircuitName {
    v1::CircuitName {
        scope: None,
        identifier: identifier.to_owned(),
    }
}

fn numbered(number: usize) -> v1::CircuitName {
    name(&format!("crowd-{number}"))
}

async fn register(writer: &CircuitsClient<Channel>, circuits: usize) -> anyhow::Result<()> {
    let names = (0..circuits).map(numbered).chain([name(MARK), name(LOAD)]);
    futures::stream::iter(names)
        .map(|name| {
            let mut writer = writer.clone();
            async move {
                let request = v1::RegisterRequest {
                    name: Some(name),
                    ..Default::default()
                };
                writer.register(request).await.map(drop)
            }
        })
        .buffer_unordered(REGISTER_AT_ONCE)
        .try_collect::<()>()
        .await
        .context("the circuits cannot be registered")
}

fn success(circuit: v1::CircuitName, metadata: impl IntoIterator<Item = (String, String)>) -> v1::ReportItem {
    v1::ReportItem {
        name: Some(circuit),
        outcomes: vec![v1::Outcome::Success.into()],
        metadata: metadata.into_iter().collect(),
        ..Default::default()
    }
}

/// Big reports for so long. Returns how many there were.
async fn load(mut writer: CircuitsClient<Channel>, lasts: Duration) -> anyhow::Result<usize> {
    let mut ticks = tokio::time::interval(LOAD_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let until = Instant::now() + lasts;
    let mut reported = 0;
    while Instant::now() < until {
        ticks.tick().await;
        let values = (0..LOAD_VALUES).map(|n| (n.to_string(), "x".repeat(LOAD_VALUE_BYTES)));
        let request = v1::ReportRequest {
            session: None,
            items: vec![success(name(LOAD), values)],
        };
        writer.report(request).await?;
        reported += 1;
    }
    Ok(reported)
}

/// Watches one circuit, and knows when what arrived.
struct Watcher {
    /// By the number of the report.
    arrived: Arc<Mutex<Vec<Option<Micros>>>>,
    /// How the stream ended; it must not.
    task: JoinSet<String>,
}

impl Watcher {
    async fn start(channel: Channel, clock: Clock) -> anyhow::Result<Self> {
        let request = v1::WatchRequest {
            names: vec![name(MARK)],
            ..Default::default()
        };
        let mut stream = EventsClient::new(channel).watch(request).await?.into_inner();
        let arrived: Arc<Mutex<Vec<Option<Micros>>>> = Arc::default();
        let noted = arrived.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let message = match stream.message().await {
                    Ok(Some(message)) => message,
                    ended => return format!("{ended:?}"),
                };
                let at = clock.now();
                let Some(Watched::Event(event)) = message.message else {
                    continue;
                };
                let mut noted = noted.lock();
                let number = event
                    .metadata
                    .get("n")
                    .and_then(|number| number.parse::<usize>().ok());
                if let Some(slot) = number.and_then(|number| noted.get_mut(number)) {
                    *slot = Some(at);
                }
            }
        });
        Ok(Self { arrived, task })
    }

    /// Reports on the circuit for a while. Returns how long after each report was sent it was seen, sorted.
    async fn measure(
        &mut self,
        writer: &CircuitsClient<Channel>,
        clock: Clock,
        findings: &mut Findings,
    ) -> anyhow::Result<Vec<Micros>> {
        let mut ticks = tokio::time::interval(MARK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let until = Instant::now() + MEASURE;
        let mut sent = Vec::new();
        while Instant::now() < until {
            ticks.tick().await;
            let number = {
                let mut arrived = self.arrived.lock();
                arrived.push(None);
                arrived.len() - 1
            };
            let request = v1::ReportRequest {
                session: None,
                items: vec![success(name(MARK), [("n".to_owned(), number.to_string())])],
            };
            sent.push((number, clock.now()));
            writer.clone().report(request).await?;
        }
        // The last ones may still be on their way.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let arrived = self.arrived.lock().clone();
            let took: Vec<_> = sent
                .iter()
                .filter_map(|(number, sent)| Some(arrived[*number]?.saturating_sub(*sent)))
                .collect();
            if took.len() == sent.len() {
                return Ok(sorted(took));
            }
            if let Some(ended) = self.task.try_join_next() {
                bail!("the watch ended: {}", ended?);
            }
            if Instant::now() > deadline {
                let missed = sent.len() - took.len();
                findings.broken(
                    "bound",
                    format!(
                        "{missed} of {} reports had not come to the watcher after 10 s",
                        sent.len()
                    ),
                );
                return Ok(sorted(took));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A client that lists everything, page by page, again and again.
struct Listing {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(usize, Micros, usize)>,
}

impl Listing {
    fn start(channel: Channel) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut client = CircuitsClient::new(channel);
            let (mut pages, mut longest, mut wrong) = (0, 0, 0);
            let mut page_token = String::new();
            while !stopped.load(Ordering::Relaxed) {
                let request = v1::ListRequest {
                    page_size: 1000,
                    page_token: std::mem::take(&mut page_token),
                    ..Default::default()
                };
                let asked = Instant::now();
                match client.list(request).await {
                    Ok(page) => {
                        pages += 1;
                        longest = longest.max(crate::time::micros(asked.elapsed()));
                        page_token = page.into_inner().next_page_token;
                    }
                    Err(_) => wrong += 1,
                }
            }
            (pages, longest, wrong)
        });
        Self { stop, task }
    }

    async fn end(self) -> anyhow::Result<(usize, Micros, usize)> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(tokio::time::timeout(PATIENCE, self.task)
            .await
            .context("a list never came")??)
    }
}

async fn subscribe_to_all(channel: Channel) -> anyhow::Result<Streaming<v1::SubscribeResponse>> {
    let request = v1::SubscribeRequest::default();
    let mut stream = EventsClient::new(channel).subscribe(request).await?.into_inner();
    // From now on it has a place; what comes after this is not read.
    stream
        .message()
        .await?
        .context("a subscription begins with progress")?;
    Ok(stream)
}

/// Reads what was left unread. Returns how many events that were.
async fn read_all(
    slow: Vec<Streaming<v1::SubscribeResponse>>,
    reported: usize,
    findings: &mut Findings,
) -> anyhow::Result<usize> {
    let mut all = 0;
    for (number, mut stream) in slow.into_iter().enumerate() {
        let (mut last, mut of_load) = (None, 0);
        while of_load < reported {
            let message = match tokio::time::timeout(Duration::from_secs(20), stream.message()).await {
                Ok(Ok(Some(message))) => message,
                other => {
                    findings.broken(
                        "G7",
                        format!("reader {number} got {of_load} of {reported} reports, then {other:?}"),
                    );
                    break;
                }
            };
            let Some(Message::Event(event)) = message.message else {
                continue;
            };
            if let Some(last) = last
                && event.revision != last + 1
            {
                findings.broken(
                    "G7",
                    format!("reader {number} got revision {} after {last}", event.revision),
                );
            }
            last = Some(event.revision);
            of_load += usize::from(event.name.is_some_and(|name| name.identifier == LOAD));
            all += 1;
        }
    }
    Ok(all)
}

/// Subscribers, each of one circuit.
struct Idle {
    streams: JoinSet<anyhow::Result<()>>,
    heard: Arc<AtomicU64>,
    number: usize,
}

impl Idle {
    async fn subscribe(
        connect: &impl Fn() -> anyhow::Result<Channel>,
        number: usize,
    ) -> anyhow::Result<Self> {
        let heard = Arc::new(AtomicU64::new(0));
        let ready = Arc::new(Semaphore::new(0));
        let mut streams = JoinSet::new();
        for first in (0..number).step_by(OF_CONNECTION) {
            let channel = connect()?;
            let last = (first + OF_CONNECTION).min(number);
            for circuit in first..last {
                let (channel, heard, ready) = (channel.clone(), heard.clone(), ready.clone());
                streams.spawn(async move {
                    let request = v1::SubscribeRequest {
                        names: vec![numbered(circuit)],
                        from: None::<Start>,
                        ..Default::default()
                    };
                    let mut stream = EventsClient::new(channel).subscribe(request).await?.into_inner();
                    let mut is_first = true;
                    while let Some(message) = stream.message().await? {
                        if std::mem::take(&mut is_first) {
                            ready.add_permits(1);
                        }
                        if matches!(message.message, Some(Message::Event(_))) {
                            heard.fetch_add(1, Ordering::Relaxed);
                            return Ok(());
                        }
                    }
                    bail!("a subscription ended")
                });
            }
            // One connection after the other.
            let some = ready.acquire_many(u32::try_from(last - first)?);
            tokio::time::timeout(PATIENCE, some)
                .await
                .context("they cannot subscribe")??
                .forget();
        }
        Ok(Self {
            streams,
            heard,
            number,
        })
    }

    /// Something happens to each circuit. Returns how long it took until each had heard of its own.
    async fn tell_all(&mut self, writer: &CircuitsClient<Channel>) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let all: Vec<_> = (0..self.number).collect();
        for some in all.chunks(500) {
            let items = some.iter().map(|number| success(numbered(*number), []));
            let request = v1::ReportRequest {
                session: None,
                items: items.collect(),
            };
            writer.clone().report(request).await?;
        }
        while self.heard.load(Ordering::Relaxed) < self.number as u64 {
            if let Some(ended) = self.streams.try_join_next() {
                ended??;
            } else {
                if began.elapsed() > PATIENCE {
                    bail!(
                        "only {} of {} heard of their circuit",
                        self.heard.load(Ordering::Relaxed),
                        self.number
                    );
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(began.elapsed())
    }
}
