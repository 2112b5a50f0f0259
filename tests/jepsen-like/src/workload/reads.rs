//! Questions: they change nothing, and are asked once.

use brama_proto::v1;
use brama_proto::v1::consistency::Level as Wire;
use rand::Rng;

use super::{Client, ONCE};
use crate::circuits::CircuitIndex;
use crate::history::{Action, Answer, Level, Shown};
use crate::rpc::{Failure, timed};

/// All circuits of a run are one page.
const PAGE: u32 = 1000;

impl Client {
    pub(super) async fn status(&mut self, circuit: CircuitIndex) {
        // What came of it is in the history.
        let _ = self.status_at(circuit, Level::Linearizable).await;
    }

    /// What a node knows, or knows once it has applied what this run has seen.
    pub(super) async fn status_elsewhere(&mut self, circuit: CircuitIndex) {
        let level = if self.rng.random_bool(0.5) {
            Level::Local
        } else {
            Level::AtLeast(self.history.floor())
        };
        // What came of it is in the history.
        let _ = self.status_at(circuit, level).await;
    }

    /// Reads every circuit, linearizably, and insists: the last thing that is done in a run.
    ///
    /// # Errors
    /// The last failure, when one of them is not answered for a long time.
    pub async fn look_at_all(&mut self) -> Result<(), Failure> {
        for circuit in 0..self.circuits.len() {
            let deadline = tokio::time::Instant::now() + super::PATIENCE;
            while let Err(failure) = self.status_at(circuit, Level::Linearizable).await {
                if tokio::time::Instant::now() > deadline {
                    return Err(failure);
                }
                tokio::time::sleep(super::BETWEEN_ATTEMPTS).await;
            }
        }
        Ok(())
    }

    async fn status_at(&mut self, circuit: CircuitIndex, level: Level) -> Result<(), Failure> {
        let request = v1::StatusRequest {
            name: self.name(circuit),
            consistency: wire(level),
        };
        let shown = self
            .once(
                Action::Status { circuit, level },
                |mut client| async move { client.status(timed(request, ONCE)).await },
                |response| Answer::Status(Shown::of(response.header.as_ref(), response.circuit.as_ref())),
            )
            .await?;
        self.generations[circuit] = shown.circuit.map(|circuit| circuit.generation);
        Ok(())
    }

    pub(super) async fn available(&mut self, circuit: CircuitIndex) {
        let level = if self.rng.random_bool(0.5) {
            Level::Linearizable
        } else {
            Level::Local
        };
        let request = v1::AvailableRequest {
            name: self.name(circuit),
            consistency: wire(level),
        };
        // What came of it is in the history.
        let _ = self
            .once(
                Action::Available { circuit, level },
                |mut client| async move { client.available(timed(request, ONCE)).await },
                |response| Answer::Available {
                    node: response.header.as_ref().map_or(0, |header| header.node_id),
                    at: response.header.as_ref().map_or(0, |header| header.revision),
                    available: response.available,
                    state: response.state,
                    generation: response.generation,
                },
            )
            .await;
    }

    pub(super) async fn list(&mut self) {
        let level = if self.rng.random_bool(0.7) {
            Level::Linearizable
        } else {
            Level::Local
        };
        let request = v1::ListRequest {
            page_size: PAGE,
            consistency: wire(level),
            ..Default::default()
        };
        let circuits = self.circuits.clone();
        // What came of it is in the history.
        let _ = self
            .once(
                Action::List { level },
                |mut client| async move { client.list(timed(request, ONCE)).await },
                |response| {
                    let header = response.header.as_ref();
                    let known = response.circuits.iter().filter_map(|circuit| {
                        let index = circuits.find(circuit.name.as_ref()?)?;
                        Some((index, Shown::of(header, Some(circuit))))
                    });
                    Answer::Listed {
                        node: header.map_or(0, |header| header.node_id),
                        at: header.map_or(0, |header| header.revision),
                        circuits: known.collect(),
                    }
                },
            )
            .await;
    }
}

fn wire(level: Level) -> Option<v1::Consistency> {
    let level = match level {
        Level::Linearizable => Wire::Linearizable(true),
        Level::Local => Wire::Local(true),
        Level::AtLeast(revision) => Wire::AtLeast(revision),
    };
    Some(v1::Consistency { level: Some(level) })
}
