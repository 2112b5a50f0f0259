//! The story, in the order in which it happens. What has to hold is checked at the end, from what the upstream and the subscribers saw.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use axum::body::Body;
use axum::http::{Method, Request};
use brama_client::{Circuit, Client, ExpiryStrategy, Policy};
use http_body_util::BodyExt;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::checks::{self, Check, Record};
use crate::lines::{Calls, Listening, Micros, Seen, Told, now};
use crate::news::{News, forward, watch_leader};
use crate::processes::{Node, Role};
use crate::screen::{Colour, Screen};
use crate::tables;

pub(crate) const NODES: usize = 3;
pub(crate) const REPLICAS: usize = 9;
const CIRCUIT: &str = "payment_api";
/// Consecutive failures that open the circuit.
pub(crate) const MAX_ATTEMPTS: u32 = 5;
/// The first opening; the second one lasts twice as long.
const INITIAL_EXPIRY: Duration = Duration::from_secs(4);
/// A step of the story that takes longer than it should by this much has failed.
const PATIENCE: Duration = Duration::from_secs(15);
/// The live line is drawn so often; rates are over so many of these.
const FRAME: Duration = Duration::from_millis(100);
const RATE_FRAMES: usize = 5;

pub(crate) struct Story {
    screen: Screen,
    directory: PathBuf,
    nodes: Vec<Node>,
    upstream: Role,
    upstream_address: String,
    replicas: Vec<Role>,
    subscribers: Vec<Role>,
    http: hyper_util::client::legacy::Client<HttpConnector, Body>,
    circuit: Circuit,
    news: mpsc::Receiver<News>,
    frames: tokio::time::Interval,
    leader: Option<usize>,
    dead: Option<usize>,
    /// By revision, from whichever subscriber told first.
    told: BTreeMap<u64, Told>,
    /// The newest that each subscriber told.
    newest: [u64; NODES],
    calls: [Calls; REPLICAS],
    before: VecDeque<[Calls; REPLICAS]>,
    record: Record,
}

impl Story {
    /// Starts everything.
    pub(crate) async fn begin(
        screen: Screen,
        brama: &Path,
        config: &Path,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        screen.line("");
        screen.line(&screen.paint(Colour::Bold, "  Brama: one circuit breaker for a whole fleet"));
        screen.line(&screen.paint(
            Colour::Dim,
            "  three nodes, nine replicas of a service, and a payment API that is about to fail",
        ));
        screen.line("");
        let mut nodes: Vec<Node> = (1..=NODES)
            .map(|n| Node::new(n, brama, config, directory))
            .collect();
        for node in &mut nodes {
            node.start()?;
        }
        let endpoints: Vec<String> = (1..=NODES).map(endpoint).collect();
        let client = Client::builder().endpoints(&endpoints).connect_lazy()?;
        let circuit = client.circuit(CIRCUIT);
        register(&circuit, &mut nodes).await?;

        let (news_in, news) = mpsc::channel(1000);
        let (upstream, mut said) = Role::start("upstream", &["upstream".to_owned()], directory)?;
        let listening = tokio::time::timeout(PATIENCE, said.next::<Listening>()).await??;
        let upstream_address = listening
            .context("the upstream did not start, see upstream.log")?
            .address;

        let mut subscribers = Vec::new();
        #[allow(
            clippy::needless_range_loop,
            reason = "a node's number is used for more than its endpoint"
        )]
        for node in 0..NODES {
            let log = event_log(directory, node).display().to_string();
            let args = ["subscriber", "--endpoint", &endpoints[node], "--log", &log].map(str::to_owned);
            let (role, said) = Role::start(&format!("subscriber{}", node + 1), &args, directory)?;
            tokio::spawn(forward(said, news_in.clone(), move |told| News::Told(node, told)));
            subscribers.push(role);
        }
        let mut replicas = Vec::new();
        for replica in 0..REPLICAS {
            let mut near = endpoints.clone();
            near.rotate_left(node_of(replica));
            let (number, near) = (replica.to_string(), near.join(","));
            let args = [
                "replica",
                "--number",
                &number,
                "--endpoints",
                &near,
                "--upstream",
                &upstream_address,
            ];
            let args = [&args[..], &["--circuit", CIRCUIT]].concat();
            let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
            let (role, said) = Role::start(&format!("replica{}", replica + 1), &args, directory)?;
            tokio::spawn(forward(said, news_in.clone(), move |calls| {
                News::Calls(replica, calls)
            }));
            replicas.push(role);
        }
        tokio::spawn(watch_leader(endpoints, news_in));

        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
        let mut frames = tokio::time::interval(FRAME);
        frames.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Ok(Self {
            screen,
            directory: directory.to_owned(),
            nodes,
            upstream,
            upstream_address,
            replicas,
            subscribers,
            http,
            circuit,
            news,
            frames,
            leader: None,
            dead: None,
            told: BTreeMap::new(),
            newest: [0; NODES],
            calls: Default::default(),
            before: VecDeque::new(),
            record: Record::default(),
        })
    }

    /// Everything that happens.
    pub(crate) async fn play(&mut self) -> anyhow::Result<()> {
        self.until("a leader", PATIENCE, |story| story.leader.is_some())
            .await?;
        let leader = self.leader.unwrap_or_default();
        self.tell(
            Colour::Green,
            '▲',
            &format!("three nodes are up, node {} leads", leader + 1),
        );
        self.until("nine replicas that call", PATIENCE, |story| {
            story.calls.iter().all(|c| c.succeeded > 20)
        })
        .await?;
        self.tell(
            Colour::Green,
            '●',
            "nine replicas call the upstream, each about 50 times a second, through one circuit",
        );
        self.pass(Duration::from_secs(2)).await?;

        self.record.failing_from = self.set_failing(true).await?;
        self.tell(Colour::Red, '✗', "the upstream fails");
        let opened = self.next_told(0, "circuit_opened", PATIENCE).await?;
        let text = format!(
            "the circuit opens after {MAX_ATTEMPTS} failures in a row; it half-opens in {:.1} s",
            seconds(opened.time, opened.expires_at.unwrap_or(opened.time))
        );
        self.tell(Colour::Red, '■', &text);
        self.pass(Duration::from_millis(600)).await?;
        let seen: Vec<Seen> = self.get("/seen?index=0").await?;
        let stops = checks::stops(&seen, self.record.failing_from, now());
        let text = format!(
            "all nine have stopped, the last one {} after the deciding failure",
            millis(stops.worst())
        );
        self.tell(Colour::Cyan, '○', &text);

        let leader = self.leader.context("nobody leads")?;
        self.dead = Some(leader);
        self.nodes[leader].kill().await?;
        let killed = Instant::now();
        self.record.killed_at = now();
        self.tell(
            Colour::Red,
            '✝',
            &format!(
                "node {}, the leader, is killed (kill -9) while the circuit is open",
                leader + 1
            ),
        );
        self.until("a new leader", PATIENCE, |story| {
            story.leader.is_some_and(|new| new != leader)
        })
        .await?;
        let new = self.leader.unwrap_or_default();
        self.tell(
            Colour::Green,
            '▲',
            &format!(
                "node {} leads now, {:.1} s later",
                new + 1,
                killed.elapsed().as_secs_f64()
            ),
        );

        let half = self
            .next_told(opened.revision, "circuit_half_opened", INITIAL_EXPIRY + PATIENCE)
            .await?;
        let late = half.time.saturating_sub(opened.expires_at.unwrap_or(half.time));
        self.tell(
            Colour::Yellow,
            '◐',
            &format!(
                "half-open, on time (+{}): one probe for the whole fleet",
                millis(late)
            ),
        );
        let again = self.next_told(half.revision, "circuit_opened", PATIENCE).await?;
        let longer = seconds(again.time, again.expires_at.unwrap_or(again.time));
        self.tell(
            Colour::Red,
            '■',
            &format!("the probe failed: open again, and for longer ({longer:.1} s)"),
        );

        self.pass(Duration::from_secs(1)).await?;
        self.record.healed_from = self.set_failing(false).await?;
        self.tell(
            Colour::Green,
            '✓',
            "the upstream is healthy again, but nobody knows yet",
        );
        self.pass(Duration::from_secs(1)).await?;
        self.nodes[leader].start()?;
        self.dead = None;
        self.tell(
            Colour::Green,
            '↺',
            &format!(
                "node {} is started again; its subscriber goes on with its cursor",
                leader + 1
            ),
        );

        let half = self
            .next_told(
                again.revision,
                "circuit_half_opened",
                2 * INITIAL_EXPIRY + PATIENCE,
            )
            .await?;
        self.tell(Colour::Yellow, '◐', "half-open: one probe");
        let closed = self.next_told(half.revision, "circuit_closed", PATIENCE).await?;
        self.tell(
            Colour::Green,
            '□',
            &format!(
                "the probe succeeded after {}: closed",
                millis(closed.time.saturating_sub(half.time))
            ),
        );
        let then = self.calls;
        self.until("nine replicas that call again", PATIENCE, |story| {
            story
                .calls
                .iter()
                .zip(&then)
                .all(|(now, then)| now.succeeded > then.succeeded + 20)
        })
        .await?;
        self.tell(Colour::Green, '●', "all nine call again");
        self.pass(Duration::from_secs(1)).await
    }

    /// Ends the replicas and subscribers, and checks and shows what came of it all.
    pub(crate) async fn end(mut self) -> anyhow::Result<Vec<Check>> {
        for replica in &mut self.replicas {
            replica.tell_to_end();
        }
        for mut replica in std::mem::take(&mut self.replicas) {
            replica.ended().await?;
        }
        self.record.totals = Some(self.circuit.status().await?.totals);
        self.record.seen = self.get("/seen?index=0").await?;
        // The last event of all, so that everybody knows when to compare.
        self.circuit.unregister(Some("the demo is over")).await?;
        let last = self
            .next_told(0, "connection_unregistered", PATIENCE)
            .await?
            .revision;
        self.until("three subscribers that have everything", PATIENCE, |story| {
            story.newest.iter().all(|&n| n == last)
        })
        .await?;
        self.screen.end_live();
        for mut subscriber in std::mem::take(&mut self.subscribers) {
            subscriber.ended().await?;
        }
        self.upstream.ended().await?;
        self.record.told = std::mem::take(&mut self.told).into_values().collect();
        self.record.lost_reports = self.calls.iter().map(|calls| calls.lost_reports).sum();
        for node in 0..NODES {
            let path = event_log(&self.directory, node);
            let log = tokio::fs::read_to_string(&path).await;
            self.record
                .logs
                .push(log.with_context(|| format!("cannot read {}", path.display()))?);
        }
        let outcome = checks::check(&self.record)?;
        tables::show(&self.screen, &outcome);
        Ok(outcome.checks)
    }

    fn tell(&self, colour: Colour, mark: char, text: &str) {
        self.screen.tell(colour, mark, text);
    }

    /// Takes news until `condition` holds.
    async fn until(
        &mut self,
        what: &str,
        patience: Duration,
        condition: impl Fn(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        while !condition(self) {
            if Instant::now() >= deadline {
                bail!("waited {patience:?} in vain for {what}");
            }
            self.step().await?;
        }
        Ok(())
    }

    /// Takes news for a while.
    async fn pass(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.step().await?;
        }
        Ok(())
    }

    /// The first event of this kind after a revision.
    async fn next_told(&mut self, after: u64, kind: &str, patience: Duration) -> anyhow::Result<Told> {
        let find = |story: &Self| {
            story
                .told
                .range(after + 1..)
                .map(|(_, told)| told)
                .find(|told| told.kind == kind)
                .cloned()
        };
        self.until(kind, patience, |story| find(story).is_some()).await?;
        find(self).context("an event that was there is gone")
    }

    /// One piece of news, or one frame.
    async fn step(&mut self) -> anyhow::Result<()> {
        tokio::select! {
            news = self.news.recv() => match news {
                Some(News::Told(node, told)) => {
                    self.newest[node] = self.newest[node].max(told.revision);
                    self.told.entry(told.revision).or_insert(told);
                }
                Some(News::Calls(replica, calls)) => self.calls[replica] = calls,
                Some(News::Leader(leader)) => self.leader = leader,
                Some(News::Trouble(text)) => bail!(text),
                None => bail!("every process has ended"),
            },
            _ = self.frames.tick() => {
                for node in &mut self.nodes {
                    node.check()?;
                }
                self.before.push_back(self.calls);
                if self.before.len() > RATE_FRAMES {
                    self.before.pop_front();
                }
                if self.screen.is_live() {
                    let line = self.live_line();
                    self.screen.live(line);
                }
            }
        }
        Ok(())
    }

    fn live_line(&self) -> String {
        let screen = &self.screen;
        let before = self.before.front().copied().unwrap_or_default();
        let mut line = "         ".to_owned();
        let mut reached = 0;
        for node in 0..NODES {
            let name = format!("node {}", node + 1);
            line += &match (self.dead == Some(node), self.leader == Some(node)) {
                (true, _) => screen.paint(Colour::Red, &format!("{name}✝ ")),
                (_, true) => screen.paint(Colour::Bold, &format!("{name}▲ ")),
                _ => screen.paint(Colour::Dim, &format!("{name}  ")),
            };
            for replica in (0..REPLICAS).filter(|replica| node_of(*replica) == node) {
                let (now, then) = (self.calls[replica], before[replica]);
                reached += now.succeeded + now.failed - then.succeeded - then.failed;
                line += &if now.failed > then.failed {
                    screen.paint(Colour::Red, "●")
                } else if now.succeeded > then.succeeded {
                    screen.paint(Colour::Green, "●")
                } else if now.rejected > then.rejected {
                    screen.paint(Colour::Yellow, "○")
                } else {
                    screen.paint(Colour::Dim, "·")
                };
            }
            line += "   ";
        }
        let frames = self.before.len().saturating_sub(1).max(1) as f64;
        let rate = reached as f64 / (frames * FRAME.as_secs_f64());
        line + &format!("{}  {rate:>4.0} calls/s reach it", self.circuit_state())
    }

    fn circuit_state(&self) -> String {
        let newest = self
            .told
            .values()
            .rev()
            .find(|told| told.kind.starts_with("circuit_"));
        match newest.map(|told| (told.kind.as_str(), told.expires_at)) {
            Some(("circuit_opened", Some(until))) => self.screen.paint(
                Colour::Red,
                &format!("open, {:>3.1} s left", seconds(now(), until)),
            ),
            Some(("circuit_half_opened", _)) => self.screen.paint(Colour::Yellow, "half-open       "),
            _ => self.screen.paint(Colour::Green, "closed          "),
        }
    }

    /// Switches the upstream; gives the time from which on it holds.
    async fn set_failing(&self, failing: bool) -> anyhow::Result<Micros> {
        self.ask(Method::POST, &format!("/mode?failing={failing}")).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.ask(Method::GET, path).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str) -> anyhow::Result<T> {
        let uri = format!("http://{}{path}", self.upstream_address);
        let request = Request::builder().method(method).uri(uri).body(Body::empty())?;
        let exchange = async {
            let answer = self.http.request(request).await?;
            Ok::<_, anyhow::Error>(answer.into_body().collect().await?.to_bytes())
        };
        let body = tokio::time::timeout(PATIENCE, exchange)
            .await
            .context("the upstream does not answer")??;
        Ok(serde_json::from_slice(&body)?)
    }
}

/// Registers the circuit, as soon as the nodes have found each other.
async fn register(circuit: &Circuit, nodes: &mut [Node]) -> anyhow::Result<()> {
    let policy = Policy {
        max_attempts: Some(MAX_ATTEMPTS),
        expiry_strategy: Some(ExpiryStrategy::Progressive),
        initial_expiry_ms: Some(u64::try_from(INITIAL_EXPIRY.as_millis())?),
        backoff_factor: Some(2.0),
        ..Policy::default()
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match circuit.register(policy.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("the cluster did not come up");
            }
            Err(_) => {
                for node in nodes.iter_mut() {
                    node.check()?;
                }
            }
        }
    }
}

/// Where clients reach node 1, 2 or 3 of the example files.
fn endpoint(number: usize) -> String {
    format!("127.0.0.1:{}", 7400 + number)
}

/// Three replicas a node.
fn node_of(replica: usize) -> usize {
    replica / (REPLICAS / NODES)
}

fn event_log(directory: &Path, node: usize) -> PathBuf {
    directory.join(format!("events{}.txt", node + 1))
}

fn seconds(from: Micros, to: Micros) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}

pub(crate) fn millis(time: Micros) -> String {
    format!("{:.0} ms", time as f64 / 1e3)
}
