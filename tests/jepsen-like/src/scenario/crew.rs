//! Clients that work while a scenario breaks something.

use std::ops::Range;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::stage::Stage;
use crate::workload::{Client, Mix};

/// Working clients; they end when this is dropped.
pub(super) struct Crew {
    working: CancellationToken,
    clients: JoinSet<()>,
}

impl Crew {
    /// Clients with these numbers, which nobody else may have, and with connections of their own.
    pub(super) fn start(stage: &Stage, numbers: Range<u32>, mix: Mix, seed: u64) -> anyhow::Result<Self> {
        Self::on_first(stage.circuits.len(), stage, numbers, mix, seed)
    }

    /// The same, and they leave alone all but the first so many circuits.
    pub(super) fn on_first(
        circuits: usize,
        stage: &Stage,
        numbers: Range<u32>,
        mix: Mix,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let working = CancellationToken::new();
        let mut clients = JoinSet::new();
        for id in numbers {
            let client = Client::new(
                id,
                stage.cluster.connect()?,
                stage.circuits.clone(),
                stage.history.clone(),
                mix,
                seed,
            );
            clients.spawn(client.on_first(circuits).run(working.clone()));
        }
        Ok(Self { working, clients })
    }

    /// Ends them, each after the operation that it is at.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.working.cancel();
        while let Some(client) = self.clients.join_next().await {
            client?;
        }
        Ok(())
    }
}
