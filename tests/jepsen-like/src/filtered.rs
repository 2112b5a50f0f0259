//! Subscribers that want only some events, and go on at another node each time that they connect.
//!
//! What each of them must get is what everybody got, less what it did not ask for: so it is compared with the events of all in the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use brama_proto::v1;
use brama_proto::v1::subscribe_request::From as Start;
use brama_proto::v1::subscribe_response::Message;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::circuits::Circuits;
use crate::findings::Findings;
use crate::ledger::Seen;
use crate::rpc::Nodes;

/// The nodes of a run say something at least each half second; after this, one is taken for paused.
const SILENCE: Duration = Duration::from_secs(2);
/// It hangs up by itself after so long, at most, so that it changes nodes also when nothing breaks.
const LONGEST_VISIT_MS: u64 = 1500;
const PAUSE: Duration = Duration::from_millis(30);

/// What a subscriber asks for, and the harness's own reading of it.
#[derive(Clone, Debug)]
pub struct Filter {
    /// For people.
    name: &'static str,
    names: Vec<v1::CircuitName>,
    scopes: Vec<String>,
    events: Vec<String>,
    cel: String,
    matches: fn(&v1::Event, &[v1::CircuitName]) -> bool,
}

/// What one subscriber got, in the order in which it came.
#[derive(Debug, Default)]
pub struct Got {
    events: Vec<v1::Event>,
    /// Everything up to here was delivered or did not match.
    covered: u64,
    visits: u64,
    findings: Findings,
}

/// A subscriber with a filter.
#[derive(Debug)]
pub struct Filtered {
    filter: Filter,
    nodes: Nodes,
    got: Arc<Mutex<Got>>,
    rng: StdRng,
    cursor: Option<String>,
}

impl Filter {
    /// One of each kind: by name, by scope, by event, by expression.
    pub fn all(circuits: &Circuits) -> Vec<Self> {
        let none = |name, matches| Self {
            name,
            names: Vec::new(),
            scopes: Vec::new(),
            events: Vec::new(),
            cel: String::new(),
            matches,
        };
        let some = circuits.iter().take(3).map(|(_, spec)| spec.name.clone());
        vec![
            Self {
                names: some.collect(),
                ..none("three circuits", |event, names| {
                    event.name.as_ref().is_some_and(|name| names.contains(name))
                })
            },
            Self {
                scopes: vec!["fleet".into()],
                ..none("one scope", |event, _| {
                    event.name.as_ref().and_then(|name| name.scope.as_deref()) == Some("fleet")
                })
            },
            Self {
                events: vec!["circuit_opened".into(), "probe_granted".into()],
                ..none("two events", |event, _| {
                    matches!(
                        event.r#type(),
                        v1::EventType::CircuitOpened | v1::EventType::ProbeGranted
                    )
                })
            },
            Self {
                cel: "event.type == \"failure\" && event.count > 2".into(),
                ..none("an expression", |event, _| {
                    event.r#type() == v1::EventType::Failure && event.count > 2
                })
            },
        ]
    }
}

impl Filtered {
    /// A subscriber from the oldest event on. The connections must be its own.
    pub fn new(filter: Filter, nodes: Nodes, seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed ^ 0xf117),
            filter,
            nodes,
            got: Arc::default(),
            cursor: None,
        }
    }

    /// What it asks for, and what it gets.
    pub fn record(&self) -> (Filter, Arc<Mutex<Got>>) {
        (self.filter.clone(), self.got.clone())
    }

    /// Subscribes until `stop`, at a node drawn at random each time.
    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                let node = self.rng.random_range(0..self.nodes.len());
                self.visit(node).await;
                self.got.lock().visits += 1;
                tokio::time::sleep(PAUSE).await;
            }
        })
        .await;
    }

    async fn visit(&mut self, node: usize) {
        let request = v1::SubscribeRequest {
            names: self.filter.names.clone(),
            scopes: self.filter.scopes.clone(),
            events: self.filter.events.clone(),
            filter: self.filter.cel.clone(),
            from: Some(match &self.cursor {
                Some(cursor) => Start::After(cursor.clone()),
                None => Start::Oldest(true),
            }),
        };
        let mut client = self.nodes.events(node);
        let mut stream = match tokio::time::timeout(SILENCE, client.subscribe(request)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return self.refused(&status),
            Err(_) => return,
        };
        let stays = Duration::from_millis(self.rng.random_range(50..LONGEST_VISIT_MS));
        let leaves = tokio::time::Instant::now() + stays;
        while tokio::time::Instant::now() < leaves {
            match tokio::time::timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(response))) => self.take(response),
                Ok(Err(status)) => return self.refused(&status),
                Ok(Ok(None)) | Err(_) => return,
            }
        }
    }

    fn take(&mut self, response: v1::SubscribeResponse) {
        self.cursor = Some(response.cursor);
        let mut got = self.got.lock();
        match response.message {
            Some(Message::Event(event)) => {
                got.covered = got.covered.max(event.revision);
                got.events.push(event);
            }
            Some(Message::Progress(progress)) => got.covered = got.covered.max(progress.revision),
            None => got
                .findings
                .broken("G7", "a subscriber with a filter got an empty message"),
        }
    }

    fn refused(&self, status: &tonic::Status) {
        // Nothing about the request is wrong, and nothing is compacted: no node may say so.
        if matches!(
            status.code(),
            Code::InvalidArgument | Code::OutOfRange | Code::NotFound | Code::Internal
        ) {
            let what = format!("a subscriber to {} was told: {status:?}", self.filter.name);
            self.got.lock().findings.broken("G7", what);
        }
    }
}

/// Holds what each got against what everybody got.
pub fn check(records: &[(Filter, Arc<Mutex<Got>>)], events: &BTreeMap<u64, Seen>) -> Findings {
    let mut findings = Findings::default();
    let (mut delivered, mut visits) = (0, 0);
    for (filter, got) in records {
        let mut got = got.lock();
        findings.merge(std::mem::take(&mut got.findings));
        visits += got.visits;
        delivered += got.events.len();
        check_one(filter, &got, events, &mut findings);
        if got.events.is_empty() {
            findings.untold(format!("a subscriber to {} got no event at all", filter.name));
        }
    }
    findings.checked(
        "G7",
        format!(
            "{} subscribers with filters got {delivered} events in {visits} visits at nodes drawn at random: all that matched, in order, once",
            records.len()
        ),
    );
    findings
}

fn check_one(filter: &Filter, got: &Got, events: &BTreeMap<u64, Seen>, findings: &mut Findings) {
    let wanted = events
        .range(..=got.covered)
        .map(|(_, seen)| &seen.event)
        .filter(|event| (filter.matches)(event, &filter.names));
    let mut wanted = wanted.peekable();
    for event in &got.events {
        match wanted.next() {
            Some(expected) if expected == event => {}
            other => {
                findings.broken(
                    "G7",
                    format!(
                        "a subscriber to {} got revision {} where {:?} was next",
                        filter.name,
                        event.revision,
                        other.map(|event| event.revision)
                    ),
                );
                return;
            }
        }
    }
    if let Some(missing) = wanted.peek() {
        findings.broken(
            "G7",
            format!(
                "a subscriber to {} was told that it has all up to revision {}, and never got {}",
                filter.name, got.covered, missing.revision
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::circuits::name;
    use crate::findings::Verdict;

    fn event(revision: u64, count: u64) -> v1::Event {
        v1::Event {
            revision,
            count,
            name: Some(name(1)),
            r#type: v1::EventType::Failure.into(),
            ..Default::default()
        }
    }

    /// Revisions 1 to 4; only 2 and 4 count more than two failures.
    fn verdict(got: &[u64], covered: u64) -> Verdict {
        let counts = [0, 1, 5, 1, 7];
        let all = (1..=4).map(|revision| event(revision, counts[revision as usize]));
        let seen = all.map(|event| (event.revision, Seen { event, arrived: 0 }));
        let got = Got {
            events: got
                .iter()
                .map(|revision| event(*revision, counts[*revision as usize]))
                .collect(),
            covered,
            ..Got::default()
        };
        let filter = Filter::all(&Circuits::new(Vec::new())).remove(3);
        check(&[(filter, Arc::new(Mutex::new(got)))], &seen.collect()).verdict()
    }

    #[test]
    fn all_that_matches_in_order_and_nothing_else() {
        assert_eq!(verdict(&[2, 4], 4), Verdict::Holds);
        assert_eq!(verdict(&[2], 3), Verdict::Holds, "not come so far");
        assert_eq!(verdict(&[2, 3, 4], 4), Verdict::Broken, "not asked for");
        assert_eq!(verdict(&[4, 2], 4), Verdict::Broken, "another order");
        assert_eq!(verdict(&[2, 2, 4], 4), Verdict::Broken, "twice");
    }

    #[test]
    fn progress_ahead_of_an_event_that_was_not_delivered_is_found() {
        assert_eq!(verdict(&[2], 4), Verdict::Broken);
        assert_eq!(verdict(&[4], 4), Verdict::Broken, "a gap");
        assert_eq!(verdict(&[], 1), Verdict::Unknown);
    }
}
