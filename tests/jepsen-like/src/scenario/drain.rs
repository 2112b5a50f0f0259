//! A leader with a thousand open streams is told to stop (row 24 of the matrix): it is gone in time, every stream goes on elsewhere, and none misses an event.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use brama_proto::v1;
use brama_proto::v1::events_client::EventsClient;
use brama_proto::v1::subscribe_request::From as Start;
use brama_proto::v1::subscribe_response::Message;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::crew::Crew;
use super::pulse::Pulse;
use super::stage::Stage;
use crate::circuits::{Circuits, Opening, Spec, name, policy_of};
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::progress;
use crate::rpc::{endpoint, reason};
use crate::time::{Clock, Micros, micros, percentile, show_ms};
use crate::workload::Mix;

const PATIENCE: Duration = Duration::from_secs(60);
const CIRCUITS: usize = 50;
const CLIENTS: u32 = 4;
/// Streams of one connection.
const OF_CONNECTION: usize = 50;
/// What the contract gives a node to stop.
const GONE: Micros = 10_000_000;
/// Leadership is handed over, so nobody waits for an election.
const WRITES_STOP: Micros = 1_000_000;
/// How long a stream may be without a node.
const RESUMED: Micros = 5_000_000;

/// What happened to one stream.
#[derive(Clone, Debug, Default)]
struct Told {
    /// Revisions of its circuit, as they came.
    revisions: Vec<u64>,
    /// When its first node ended it.
    advised: Option<Micros>,
    /// It ended otherwise than with the advice to go on elsewhere; how.
    ended: Option<String>,
    /// When another node had taken it.
    resumed: Option<Micros>,
}

/// So many streams, all on the leader.
///
/// # Errors
/// When it could not be done.
pub async fn drain(streams: usize) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let stage = Stage::start(ClusterOptions::default(), circuits()).await?;
    let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    let addresses = stage.cluster.addresses();
    progress::step(format!("opening {streams} streams"));
    let mut crowd = Crowd::subscribe(&stage, &addresses, leader, streams).await?;
    let survivors: Vec<usize> = (0..stage.nodes.len()).filter(|node| *node != leader).collect();
    let pulse = Pulse::start(&stage, survivors);
    let crew = Crew::start(&stage, 1..CLIENTS + 1, Mix::Reports, 1)?;
    tokio::time::sleep(Duration::from_secs(2)).await;

    progress::step("the leader is told to stop");
    let told = stage.clock.now();
    let node = &stage.cluster.nodes()[leader];
    node.terminate()?;
    match node.ended(PATIENCE).await? {
        Some(status) => {
            let took = stage.clock.now() - told;
            findings.figure(
                "told to stop, gone after",
                format!("{} ({} allowed)", show_ms(took), show_ms(GONE)),
            );
            findings.require(status.success(), "stop", || {
                format!("it ended with {status}:\n{}", node.log_tail(10))
            });
            findings.require(took <= GONE, "stop", || {
                format!("it was gone only after {}", show_ms(took))
            });
        }
        None => findings.broken("stop", format!("it was still there after {PATIENCE:?}")),
    }
    stage
        .wait(PATIENCE, "all streams go on elsewhere", async |_| {
            Ok(crowd.all().iter().all(|told| told.resumed.is_some()))
        })
        .await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let gap = pulse.longest_gap(told, stage.clock.now());
    pulse.stop().await?;
    crew.stop().await?;
    findings.figure(
        "longest without a write",
        format!("{} ({} allowed)", show_ms(gap), show_ms(WRITES_STOP)),
    );
    findings.require(gap <= WRITES_STOP, "G12", || {
        format!("writes stopped for {}", show_ms(gap))
    });
    findings.checked("stop", "the leader was gone in time, and writes went on");

    // Its subscriber needs the node back; then all events are known, and each stream is held against them.
    node.start()?;
    stage.cluster.wait_until_ready(PATIENCE).await?;
    crowd.catch_up(&stage).await?;
    let told_all = crowd.all();
    crowd.leave().await?;
    judge(&told_all, told, &expected(&stage), &mut findings);
    stage.finish(findings).await
}

fn circuits() -> Circuits {
    let spec = |index| {
        let opening = Opening::Fixed(60_000);
        let policy = v1::Policy {
            max_attempts: Some(u32::MAX),
            ..policy_of(opening)
        };
        Spec {
            name: name(index),
            policy,
            opening,
            max_probes: 1,
        }
    };
    Circuits::new((0..CIRCUITS).map(spec).collect())
}

/// Revisions of each circuit, as the subscribers of everything saw them.
fn expected(stage: &Stage) -> Vec<Vec<u64>> {
    let mut all = vec![Vec::new(); CIRCUITS];
    for (revision, seen) in stage.ledger.events() {
        if let Some(circuit) = seen
            .event
            .name
            .as_ref()
            .and_then(|name| stage.circuits.find(name))
        {
            all[circuit].push(revision);
        }
    }
    all
}

fn judge(all: &[Told], stopped: Micros, expected: &[Vec<u64>], findings: &mut Findings) {
    let mut without = Vec::new();
    let mut events = 0;
    for (number, told) in all.iter().enumerate() {
        if let Some(how) = &told.ended {
            findings.broken(
                "stop",
                format!("stream {number} was not told to go on elsewhere: {how}"),
            );
        }
        if let (Some(advised), Some(resumed)) = (told.advised, told.resumed) {
            without.push(resumed - advised);
        }
        events += told.revisions.len();
        // From its first event on; what came before it began, it did not ask for.
        let circuit = &expected[number % expected.len()];
        let from = told.revisions.first().copied().unwrap_or(u64::MAX);
        let should: Vec<_> = circuit
            .iter()
            .copied()
            .filter(|revision| *revision >= from)
            .collect();
        findings.require(told.revisions == should, "G7", || {
            format!(
                "stream {number} got {:?} and should have got {should:?}",
                told.revisions
            )
        });
        if told.revisions.is_empty() {
            findings.untold(format!("stream {number} never got an event"));
        }
    }
    without.sort_unstable();
    let worst = percentile(&without, 100);
    findings.figure(
        "streams without a node",
        format!(
            "{} of {}: p50 {}, p99 {}, worst {} ({} allowed)",
            without.len(),
            all.len(),
            show_ms(percentile(&without, 50)),
            show_ms(percentile(&without, 99)),
            show_ms(worst),
            show_ms(RESUMED)
        ),
    );
    let advised = all
        .iter()
        .filter_map(|told| told.advised)
        .max()
        .unwrap_or(stopped);
    findings.figure(
        "the last stream was told after",
        show_ms(advised.saturating_sub(stopped)),
    );
    findings.require(without.len() == all.len(), "stop", || {
        format!(
            "only {} of {} streams went on elsewhere",
            without.len(),
            all.len()
        )
    });
    findings.require(worst <= RESUMED, "stop", || {
        format!("a stream was without a node for {}", show_ms(worst))
    });
    findings.checked(
        "G7",
        format!(
            "{events} events of {} streams, without gap or duplicate",
            all.len()
        ),
    );
}

/// Streams, each of one circuit.
struct Crowd {
    told: Arc<Mutex<Vec<Told>>>,
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Crowd {
    async fn subscribe(
        stage: &Stage,
        addresses: &[SocketAddr],
        leader: usize,
        streams: usize,
    ) -> anyhow::Result<Self> {
        let mut crowd = Self {
            told: Arc::new(Mutex::new(vec![Told::default(); streams])),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        let ready = Arc::new(tokio::sync::Semaphore::new(0));
        for first in (0..streams).step_by(OF_CONNECTION) {
            let mut channels = Vec::new();
            for address in addresses {
                channels.push(endpoint(*address)?.connect_lazy());
            }
            channels.rotate_left(leader);
            for number in first..(first + OF_CONNECTION).min(streams) {
                let stream = Stream {
                    number,
                    circuit: name(number % CIRCUITS),
                    clock: stage.clock,
                    told: crowd.told.clone(),
                };
                let (channels, stop, ready) = (channels.clone(), crowd.stop.clone(), ready.clone());
                crowd.tasks.spawn(async move {
                    let listening = stream.listen(&channels, &ready);
                    stop.run_until_cancelled(listening).await.unwrap_or(Ok(()))
                });
            }
        }
        let all = ready.acquire_many(u32::try_from(streams)?);
        let _ = tokio::time::timeout(PATIENCE, all)
            .await
            .context("the streams cannot be opened")??;
        Ok(crowd)
    }

    fn all(&self) -> Vec<Told> {
        self.told.lock().clone()
    }

    /// Waits until each stream has the newest event of its circuit.
    async fn catch_up(&mut self, stage: &Stage) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(ended) = self.tasks.try_join_next() {
                ended??;
                bail!("a stream ended");
            }
            let newest: BTreeMap<usize, u64> = expected(stage)
                .iter()
                .enumerate()
                .filter_map(|(circuit, revisions)| Some((circuit, *revisions.last()?)))
                .collect();
            let is_there = |(number, told): (usize, &Told)| {
                told.revisions.last().copied() >= newest.get(&(number % CIRCUITS)).copied()
            };
            if self.told.lock().iter().enumerate().all(is_there) || Instant::now() > deadline {
                // Whoever has not got everything by now is found.
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn leave(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

struct Stream {
    number: usize,
    circuit: v1::CircuitName,
    clock: Clock,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Stream {
    /// On the first node until it says to go elsewhere, then on the others.
    async fn listen(&self, channels: &[Channel], ready: &tokio::sync::Semaphore) -> anyhow::Result<()> {
        let mut cursor = None;
        let mut turn = 0;
        let mut since = Instant::now();
        loop {
            let request = v1::SubscribeRequest {
                names: vec![self.circuit.clone()],
                from: cursor.clone().map(Start::After),
                ..Default::default()
            };
            let node = if turn == 0 {
                0
            } else {
                1 + (self.number + turn) % (channels.len() - 1)
            };
            let mut client = EventsClient::new(channels[node].clone());
            let opened = tokio::time::timeout(Duration::from_secs(5), client.subscribe(request)).await;
            match opened {
                Ok(Ok(response)) => {
                    let ended = self.take(response.into_inner(), turn, ready, &mut cursor).await;
                    since = Instant::now();
                    self.note(turn, &ended);
                }
                Ok(Err(status)) if turn == 0 => bail!("a stream cannot be opened: {status:?}"),
                Ok(Err(_)) | Err(_) if micros(since.elapsed()) < 3 * RESUMED => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => bail!("no node takes a stream: {other:?}"),
            }
            turn += 1;
        }
    }

    /// Everything that comes, until it ends.
    async fn take(
        &self,
        mut messages: tonic::Streaming<v1::SubscribeResponse>,
        turn: usize,
        ready: &tokio::sync::Semaphore,
        cursor: &mut Option<String>,
    ) -> tonic::Status {
        let mut is_first = true;
        loop {
            let message = match messages.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return tonic::Status::ok("it ended without a word"),
                Err(status) => return status,
            };
            if std::mem::take(&mut is_first) {
                if turn == 0 {
                    ready.add_permits(1);
                } else {
                    self.told.lock()[self.number].resumed = Some(self.clock.now());
                }
            }
            if let Some(Message::Event(event)) = message.message {
                self.told.lock()[self.number].revisions.push(event.revision);
            }
            *cursor = Some(message.cursor);
        }
    }

    fn note(&self, turn: usize, ended: &tonic::Status) {
        let mut all = self.told.lock();
        let told = &mut all[self.number];
        if turn > 0 {
            told.ended = Some(format!("another node ended it too: {ended:?}"));
            return;
        }
        told.advised = Some(self.clock.now());
        if reason(ended).as_deref() != Some("RESUME_ELSEWHERE") {
            told.ended = Some(format!("{ended:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(revisions: &[u64]) -> Told {
        Told {
            revisions: revisions.to_vec(),
            advised: Some(1000),
            ended: None,
            resumed: Some(2000),
        }
    }

    fn found(told: Told, guarantee: &str) -> usize {
        let mut findings = Findings::default();
        judge(&[told], 500, &[vec![1, 4, 9]], &mut findings);
        findings.count(guarantee)
    }

    #[test]
    fn a_gap_a_duplicate_a_lost_end_and_a_stream_that_does_not_go_on_are_found() {
        assert_eq!(found(told(&[1, 4, 9]), "G7"), 0);
        assert_eq!(found(told(&[4, 9]), "G7"), 0, "it began later");
        for wrong in [&[1, 9][..], &[1, 4, 4, 9], &[1, 4], &[4, 1, 9]] {
            assert_eq!(found(told(wrong), "G7"), 1, "{wrong:?}");
        }
        assert_eq!(found(told(&[1, 4, 9]), "stop"), 0);
        let lost = Told {
            resumed: None,
            ..told(&[1, 4, 9])
        };
        assert_eq!(found(lost, "stop"), 1);
        let slow = Told {
            resumed: Some(1001 + RESUMED),
            ..told(&[1, 4, 9])
        };
        assert_eq!(found(slow, "stop"), 1);
        let cut = Told {
            ended: Some("broken pipe".into()),
            ..told(&[1, 4, 9])
        };
        assert_eq!(found(cut, "stop"), 1);
    }
}
