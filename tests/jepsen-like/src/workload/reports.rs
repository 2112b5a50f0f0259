//! Reporting outcomes: batches with a session, exactly once; single ones without; and probes.

use std::collections::BTreeMap;
use std::time::Duration;

use brama_proto::v1;
use rand::Rng;

use super::{ATTEMPT, BATCH_KEY, Client, ITEM_KEY, Insisted, Mix, ONCE, PATIENCE, failed, is_quiet};
use crate::circuits::CircuitIndex;
use crate::history::{Action, Answer, Item, Outcome};
use crate::rpc::{Failure, answer, timed};

/// Some clients are in a hurry, so that unknown outcomes happen.
const IMPATIENCE: Duration = Duration::from_millis(150);
/// A long item carries 29 KiB of metadata, and a long report up to 870 KiB.
const LONG_VALUES: usize = 29;
const LONG_VALUE_BYTES: usize = 1024;
const MOST_LONG_ITEMS: u32 = 30;
/// Sequence numbers that a client uses of one session before it begins another.
const BATCHES_PER_SESSION: u64 = 200;
/// How often a batch is sent to two nodes at the same time, and how often it is sent again once it was acknowledged.
const TWICE: f64 = 0.1;
const AGAIN: f64 = 0.05;

impl Client {
    pub(super) async fn report_something(&mut self) {
        let is_long = self.rng.random_range(0..1000) < self.mix.per_mille_long();
        let most_items = if is_long { MOST_LONG_ITEMS } else { 4 };
        let items = (0..self.rng.random_range(1..=most_items))
            .map(|_| {
                let circuit = self.reported_circuit();
                let length = self.rng.random_range(1..=5);
                let outcomes = match self.rng.random_range(0..10) {
                    0..4 => "F".repeat(length),
                    4..7 => "S".repeat(length),
                    _ => (0..length)
                        .map(|_| if self.rng.random_bool(0.5) { 'S' } else { 'F' })
                        .collect(),
                };
                let named = self.rng.random_bool(0.3);
                Item {
                    circuit,
                    outcomes,
                    // Sometimes of a past generation: then it counts in the totals only.
                    generation: self.generations[circuit].filter(|_| named),
                    permit: None,
                }
            })
            .collect();
        self.report(items, is_long).await;
    }

    /// One outcome without a session, asked for once: nothing would tell a second one from the first.
    pub(super) async fn report_single(&mut self) {
        let circuit = self.reported_circuit();
        let success = self.rng.random_bool(0.5);
        let named = self.rng.random_bool(0.3);
        let item = Item {
            circuit,
            outcomes: if success { "S" } else { "F" }.into(),
            generation: self.generations[circuit].filter(|_| named),
            permit: None,
        };
        let batch = self.reason("single");
        let wire = self.wire_item(&batch, 0, &item, false);
        let action = Action::Single { batch, item };
        // What came of it is in the history.
        let _ = if success {
            let request = v1::SuccessRequest {
                name: wire.name,
                generation: wire.generation,
                metadata: wire.metadata,
                ..Default::default()
            };
            let ask = |mut client: v1::circuits_client::CircuitsClient<_>| async move {
                client.success(timed(request, ONCE)).await
            };
            self.once(action, ask, Answer::outcome).await
        } else {
            let request = v1::FailureRequest {
                name: wire.name,
                generation: wire.generation,
                metadata: wire.metadata,
                ..Default::default()
            };
            let ask = |mut client: v1::circuits_client::CircuitsClient<_>| async move {
                client.failure(timed(request, ONCE)).await
            };
            self.once(action, ask, Answer::outcome).await
        };
    }

    /// Seldom a quiet one.
    fn reported_circuit(&mut self) -> CircuitIndex {
        let circuit = self.rng.random_range(0..self.works_on);
        let spares = !matches!(self.mix, Mix::Reports | Mix::LongReports(_));
        if spares && is_quiet(circuit) && self.rng.random_bool(0.9) {
            (circuit + 1) % self.works_on
        } else {
            circuit
        }
    }

    /// Reports one batch until it is acknowledged, or patience is over.
    async fn report(&mut self, items: Vec<Item>, is_long: bool) {
        if self.session.sequence >= BATCHES_PER_SESSION {
            self.begin_session();
        }
        self.session.sequence += 1;
        let batch = format!("{}-{}", self.session.name, self.session.sequence);
        let request = v1::ReportRequest {
            session: Some(v1::Session {
                id: self.session.id.to_vec(),
                sequence: self.session.sequence,
            }),
            items: items
                .iter()
                .enumerate()
                .map(|(position, item)| self.wire_item(&batch, position, item, is_long))
                .collect(),
        };
        let action = Action::Report {
            batch,
            session: self.session.name.clone(),
            items: items.clone(),
        };
        let op = self.history.begin(self.id, action);
        let mut twice = Vec::new();
        if !is_long && self.rng.random_bool(TWICE) {
            twice = self.report_twice(&request).await;
        }
        let doubtful_before = twice
            .iter()
            .filter(|answered| matches!(answered, Err(Failure::Unknown(_))))
            .count();
        let patience = if self.rng.random_bool(0.15) {
            IMPATIENCE
        } else {
            PATIENCE
        };
        let Insisted {
            attempts,
            doubtful,
            answered,
        } = match twice.iter().position(Result::is_ok) {
            Some(first) => Insisted {
                attempts: 2,
                doubtful: 0,
                answered: twice.swap_remove(first),
            },
            None => {
                self.insist(patience, |mut client, within| {
                    let request = timed(request.clone(), within);
                    async move { client.report(request).await }
                })
                .await
            }
        };
        let doubtful = doubtful + u32::try_from(doubtful_before).unwrap_or(u32::MAX);
        let outcome = match &answered {
            Ok(response) => {
                for (item, result) in items.iter().zip(&response.items) {
                    self.generations[item.circuit] = Some(result.generation).filter(|known| *known > 0);
                }
                Outcome::Ok(Answer::reported(response))
            }
            // One of the first two may have been applied.
            Err(failure) if doubtful > 0 => Outcome::Unknown(failure.to_string()),
            Err(failure) => failed(failure.clone()),
        };
        // The first batch of a session may be one that was given up and never applied: then there is no session.
        if let Err(failure) = &answered
            && failure.to_string().contains("SESSION_EXPIRED")
        {
            self.begin_session();
        }
        self.history.end_with(op, attempts, doubtful, outcome);
        for other in twice {
            let outcome = other.map_or_else(failed, |response| Outcome::Ok(Answer::reported(&response)));
            self.history.again(op, outcome);
        }
        if answered.is_ok() && !is_long && self.rng.random_bool(AGAIN) {
            let mut client = self.somewhere();
            let again = answer(ATTEMPT, client.report(timed(request, ATTEMPT))).await;
            let outcome = again.map_or_else(failed, |response| Outcome::Ok(Answer::reported(&response)));
            self.history.again(op, outcome);
        }
    }

    /// Sends the same batch to two nodes at the same time. What came of the two.
    async fn report_twice(
        &mut self,
        request: &v1::ReportRequest,
    ) -> Vec<Result<v1::ReportResponse, Failure>> {
        let (mut one, mut other) = (self.somewhere(), self.somewhere());
        let (first, second) = tokio::join!(
            answer(ATTEMPT, one.report(timed(request.clone(), ATTEMPT))),
            answer(ATTEMPT, other.report(timed(request.clone(), ATTEMPT))),
        );
        vec![first, second]
    }

    /// Asks for admission; if it comes with a permit, mostly reports the probe.
    pub(super) async fn probe(&mut self, circuit: CircuitIndex) {
        let permit: [u8; 16] = self.rng.random();
        let action = Action::Acquire {
            circuit,
            permit: hex::encode(permit),
        };
        let op = self.history.begin(self.id, action);
        let request = v1::AcquireRequest {
            name: self.name(circuit),
            permit_id: permit.to_vec(),
        };
        let Insisted {
            attempts,
            doubtful,
            answered,
        } = self
            .insist(3 * ATTEMPT, |mut client, within| {
                let request = timed(request.clone(), within);
                async move { client.acquire(request).await }
            })
            .await;
        let outcome = answered.clone().map(|response| Answer::Admission {
            admitted: response.admitted,
            state: response.state,
            generation: response.generation,
            permit: (!response.permit_id.is_empty()).then(|| hex::encode(&response.permit_id)),
        });
        self.history
            .end_with(op, attempts, doubtful, outcome.map_or_else(failed, Outcome::Ok));
        let Ok(response) = answered else { return };
        self.generations[circuit] = Some(response.generation);
        // Some probes are never heard of again, and give their place back after a while.
        let forgets = if is_quiet(circuit) { 0.8 } else { 0.4 };
        if response.permit_id.is_empty() || self.rng.random_bool(forgets) {
            return;
        }
        let thinking = Duration::from_millis(self.rng.random_range(0..200));
        tokio::time::sleep(thinking).await;
        let outcome = if self.rng.random_bool(0.6) { "S" } else { "F" };
        let item = Item {
            circuit,
            outcomes: outcome.into(),
            generation: Some(response.generation),
            permit: Some(hex::encode(response.permit_id)),
        };
        self.report(vec![item], false).await;
    }

    fn wire_item(&self, batch: &str, position: usize, item: &Item, is_long: bool) -> v1::ReportItem {
        let outcomes = item.outcomes.chars().map(|outcome| match outcome {
            'S' => v1::Outcome::Success.into(),
            _ => v1::Outcome::Failure.into(),
        });
        let metadata = [
            (BATCH_KEY.to_owned(), batch.to_owned()),
            (ITEM_KEY.to_owned(), position.to_string()),
        ];
        let padding = if is_long { LONG_VALUES } else { 0 };
        let padding = (0..padding).map(|number| (format!("pad-{number}"), "x".repeat(LONG_VALUE_BYTES)));
        v1::ReportItem {
            name: self.name(item.circuit),
            generation: item.generation,
            outcomes: outcomes.collect(),
            permit_id: item
                .permit
                .as_ref()
                .and_then(|permit| hex::decode(permit).ok())
                .unwrap_or_default(),
            metadata: BTreeMap::from_iter(metadata.into_iter().chain(padding)),
            ..Default::default()
        }
    }
}
