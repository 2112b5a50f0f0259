//! Subscribers with cursors at the edge of the event log, while it is cut.
//!
//! It fails when an event is said to be gone although fewer than the log holds came after it, and when a subscription that was taken begins
//! anywhere but right after its cursor.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use brama_proto::v1::subscribe_response::Message;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{SILENCE, newest_cursor, subscribe};
use crate::circuits::Circuits;
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::rpc::{self, Nodes};
use crate::scenario::crew::Crew;
use crate::scenario::stage::Stage;
use crate::scenario::vigil::Vigil;
use crate::subscriber::revision_of;
use crate::workload::Mix;

const PATIENCE: Duration = Duration::from_secs(30);
/// The log keeps so many events.
const KEPT: u64 = 200;
const CLIENTS: std::ops::Range<u32> = 1..5;
const CIRCUITS: usize = 12;
const RACERS: u64 = 6;
/// Cursors that are remembered, and how far from the edge one is taken.
const REMEMBERED: usize = 1000;
const EDGE: u64 = 30;

/// What became of one cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Became {
    /// It was taken, and the first event had this revision.
    Taken { first: u64 },
    /// It was told that everything up to this revision is gone; so many events were known to anybody a moment later.
    Gone { upto: u64, newest: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Race {
    cursor: u64,
    became: Became,
}

#[derive(Debug, Default)]
struct Results {
    races: Vec<Race>,
    /// The node was away, or went away.
    away: usize,
    errors: Vec<String>,
}

/// Cursors by revision, as a subscriber got them.
type Cursors = Arc<Mutex<BTreeMap<u64, String>>>;

pub(super) async fn race(lasts: Duration, seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let options = ClusterOptions {
        settings: vec![
            ("limits", "max_events", KEPT.cast_signed().into()),
            ("raft", "snapshot_every", 150.into()),
            ("raft", "keep_entries", 20.into()),
        ],
        ..Default::default()
    };
    let stage = Stage::start(options, Circuits::random(CIRCUITS, &mut rng)).await?;
    let vigil = Vigil::start(&stage);
    let crew = Crew::start(&stage, CLIENTS, Mix::Reports, seed)?;
    let stop = CancellationToken::new();
    let cursors = Cursors::default();
    let results = Arc::<Mutex<Results>>::default();
    let mut tasks = JoinSet::new();
    tasks.spawn(remember(stage.cluster.connect()?, cursors.clone(), stop.clone()));
    for number in 0..RACERS {
        let racer = Racer {
            nodes: stage.cluster.connect()?,
            cursors: cursors.clone(),
            results: results.clone(),
            rng: StdRng::seed_from_u64(seed.wrapping_add(number)),
        };
        tasks.spawn(racer.run(stop.clone()));
    }

    let deadline = Instant::now() + lasts;
    let (mut stopped, mut killed) = (0, 0);
    while Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(rng.random_range(500..1500))).await;
        let node = &stage.cluster.nodes()[rng.random_range(0..3)];
        if rng.random_bool(0.7) {
            node.pause()?;
            tokio::time::sleep(Duration::from_millis(rng.random_range(100..600))).await;
            node.resume()?;
            stopped += 1;
        } else {
            node.kill().await?;
            node.start()?;
            killed += 1;
        }
    }
    stage.cluster.wait_until_ready(PATIENCE).await?;
    stop.cancel();
    while let Some(task) = tasks.join_next().await {
        task?;
    }
    crew.stop().await?;
    vigil.end(&mut findings).await?;
    let results = std::mem::take(&mut *results.lock());
    findings.figure(
        "cursors at the edge of the log",
        format!(
            "{} asked for, {} times the node was away ({stopped} stops, {killed} restarts)",
            results.races.len(),
            results.away
        ),
    );
    findings.merge(judge(&results));
    findings.merge_failures(stage.ledger.take().1);
    Ok(findings)
}

/// Keeps the newest cursors, from whichever node is there.
async fn remember(nodes: Nodes, cursors: Cursors, stop: CancellationToken) {
    stop.run_until_cancelled(async {
        for node in (0..nodes.len()).cycle() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let Ok((cursor, _)) = newest_cursor(&nodes, node).await else {
                continue;
            };
            let Ok(mut stream) = subscribe(&nodes, node, &cursor).await else {
                continue;
            };
            while let Ok(Ok(Some(response))) = tokio::time::timeout(SILENCE, stream.message()).await {
                if let Some(Message::Event(event)) = response.message {
                    let mut cursors = cursors.lock();
                    cursors.insert(event.revision, response.cursor);
                    while cursors.len() > REMEMBERED {
                        cursors.pop_first();
                    }
                }
            }
        }
    })
    .await;
}

struct Racer {
    nodes: Nodes,
    cursors: Cursors,
    results: Arc<Mutex<Results>>,
    rng: StdRng,
}

impl Racer {
    async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                self.once().await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn once(&mut self) {
        let away = self.rng.random_range(KEPT - EDGE..KEPT + EDGE);
        let chosen = {
            let cursors = self.cursors.lock();
            let newest = cursors.keys().next_back().copied().unwrap_or(0);
            let at = newest.saturating_sub(away);
            cursors
                .get_key_value(&at)
                .map(|(at, cursor)| (*at, cursor.clone()))
        };
        let Some((at, cursor)) = chosen else {
            return tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let node = self.rng.random_range(0..self.nodes.len());
        let came = match subscribe(&self.nodes, node, &cursor).await {
            Ok(stream) => first_event(stream).await,
            Err(status) => Err(status),
        };
        match came {
            Ok(first) => self.became(at, Became::Taken { first }),
            Err(status) => self.refused(at, &status).await,
        }
    }

    async fn refused(&self, at: u64, status: &tonic::Status) {
        match (status.code(), rpc::reason(status).as_deref()) {
            (Code::OutOfRange, Some("EVENTS_COMPACTED")) => {
                let oldest = rpc::detail(status, "oldest_cursor");
                match oldest.as_deref().and_then(revision_of) {
                    Some(upto) => {
                        let newest = self.newest_soon(at).await;
                        self.became(at, Became::Gone { upto, newest });
                    }
                    None => self.error(status),
                }
            }
            (Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown, _) => {
                self.results.lock().away += 1;
            }
            _ => self.error(status),
        }
    }

    /// The newest event that anybody knows, a moment later: who is told of an event may be told later than it is.
    async fn newest_soon(&self, at: u64) -> u64 {
        let deadline = Instant::now() + SILENCE;
        loop {
            let newest = self.cursors.lock().keys().next_back().copied().unwrap_or(0);
            if newest > at + KEPT || Instant::now() > deadline {
                return newest;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn became(&self, cursor: u64, became: Became) {
        self.results.lock().races.push(Race { cursor, became });
    }

    fn error(&self, status: &tonic::Status) {
        self.results.lock().errors.push(format!("{status:?}"));
    }
}

async fn first_event(
    mut stream: tonic::Streaming<brama_proto::v1::SubscribeResponse>,
) -> Result<u64, tonic::Status> {
    loop {
        match tokio::time::timeout(SILENCE, stream.message()).await {
            Ok(message) => match message?.and_then(|response| response.message) {
                Some(Message::Event(event)) => return Ok(event.revision),
                Some(Message::Progress(_)) => {}
                None => return Err(tonic::Status::unavailable("the stream ended")),
            },
            Err(_) => return Err(tonic::Status::unavailable("the node is stopped")),
        }
    }
}

fn judge(results: &Results) -> Findings {
    let mut findings = Findings::default();
    let (mut taken, mut gone) = (0, 0);
    for Race { cursor, became } in &results.races {
        match *became {
            Became::Taken { first } => {
                taken += 1;
                findings.require(first == cursor + 1, "G7", || {
                    format!("after revision {cursor} came {first}")
                });
            }
            Became::Gone { upto, newest } => {
                gone += 1;
                findings.require(*cursor < upto, "G7", || {
                    format!(
                        "revision {cursor} was said to be too old, although what comes after {upto} is kept"
                    )
                });
                findings.require(newest > cursor + KEPT, "G7", || {
                    format!(
                        "what comes after revision {cursor} was said to be gone, and {newest} is the newest: \
                         the log keeps {KEPT}"
                    )
                });
            }
        }
    }
    for error in &results.errors {
        findings.broken("G7", format!("a good cursor was answered with {error}"));
    }
    findings.figure("of those", format!("{taken} were taken, {gone} came too late"));
    if taken == 0 || gone == 0 {
        findings.untold(format!(
            "{taken} cursors were taken and {gone} came too late: the edge of the log was not met"
        ));
    }
    findings.checked(
        "G7",
        format!("{gone} cursors were told that they came too late, truly; {taken} went on without a gap"),
    );
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Verdict;

    fn verdict(races: &[(u64, Became)]) -> Verdict {
        let race = |(cursor, became): &(u64, Became)| Race {
            cursor: *cursor,
            became: *became,
        };
        judge(&Results {
            races: races.iter().map(race).collect(),
            ..Results::default()
        })
        .verdict()
    }

    const TAKEN: (u64, Became) = (500, Became::Taken { first: 501 });
    const GONE: (u64, Became) = (
        500,
        Became::Gone {
            upto: 510,
            newest: 710,
        },
    );

    #[test]
    fn a_gap_and_a_lie_about_the_log_are_found() {
        assert_eq!(verdict(&[TAKEN, GONE]), Verdict::Holds);
        assert_eq!(
            verdict(&[TAKEN, GONE, (500, Became::Taken { first: 502 })]),
            Verdict::Broken
        );
        let kept = Became::Gone {
            upto: 500,
            newest: 710,
        };
        assert_eq!(verdict(&[TAKEN, GONE, (500, kept)]), Verdict::Broken);
        let young = Became::Gone {
            upto: 510,
            newest: 700,
        };
        assert_eq!(verdict(&[TAKEN, GONE, (500, young)]), Verdict::Broken);
    }

    #[test]
    fn a_race_that_never_met_the_edge_shows_nothing() {
        assert_eq!(verdict(&[TAKEN]), Verdict::Unknown);
        assert_eq!(verdict(&[GONE]), Verdict::Unknown);
    }
}
