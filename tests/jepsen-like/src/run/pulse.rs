//! One client a node that writes to this node only, a little and all the time: so that there is always somebody who asks those that can answer.

use std::sync::Arc;
use std::time::Duration;

use brama_proto::v1;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;

use crate::circuits::Circuits;
use crate::history::{Action, Answer, History, Item, Outcome};
use crate::rpc::{Failure, Nodes, answer, timed};
use crate::workload::{BATCH_KEY, ITEM_KEY};

const EVERY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_millis(800);
/// Apart from the numbers of other clients.
const FIRST_CLIENT: u32 = 2000;
const FIRST_GENERATION: u64 = 1;

/// Writes to one node.
pub(super) struct Pulse {
    pub(super) nodes: Nodes,
    /// Which, by position.
    pub(super) node: usize,
    pub(super) circuits: Arc<Circuits>,
    pub(super) history: Arc<History>,
    pub(super) seed: u64,
}

impl Pulse {
    /// Writes until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let client = FIRST_CLIENT.saturating_add(u32::try_from(self.node).unwrap_or(u32::MAX));
        let mut rng = StdRng::seed_from_u64(self.seed ^ u64::from(client));
        let (mut session, mut sessions, mut sequence): ([u8; 16], u32, u64) = (rng.random(), 1, 0);
        while stop
            .run_until_cancelled(tokio::time::sleep(EVERY))
            .await
            .is_some()
        {
            sequence += 1;
            let name = format!("{client}-{sessions}");
            let circuit = rng.random_range(0..self.circuits.len());
            let outcome = self.beat(client, session, &name, sequence, circuit).await;
            // A batch that may still be on its way is never asked for again: the next one is of another session.
            if !matches!(outcome, Outcome::Ok(_)) {
                (session, sequence) = (rng.random(), 0);
                sessions += 1;
            }
        }
    }

    async fn beat(
        &self,
        client: u32,
        session: [u8; 16],
        session_name: &str,
        sequence: u64,
        circuit: usize,
    ) -> Outcome {
        let batch = format!("{session_name}-{sequence}");
        let metadata = [(BATCH_KEY, batch.as_str()), (ITEM_KEY, "0")];
        let request = v1::ReportRequest {
            session: Some(v1::Session {
                id: session.to_vec(),
                sequence,
            }),
            items: vec![v1::ReportItem {
                name: Some(self.circuits.get(circuit).name.clone()),
                // Of the first life of the circuit: it counts in the totals, and closes nothing that others opened.
                generation: Some(FIRST_GENERATION),
                outcomes: vec![v1::Outcome::Success.into()],
                metadata: metadata
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
                ..Default::default()
            }],
        };
        let item = Item {
            circuit,
            outcomes: "S".into(),
            generation: Some(FIRST_GENERATION),
            permit: None,
        };
        let action = Action::Report {
            batch,
            session: session_name.to_owned(),
            items: vec![item],
        };
        let op = self.history.begin(client, action);
        let mut circuits = self.nodes.circuits(self.node);
        let answered = answer(PATIENCE, circuits.report(timed(request, PATIENCE))).await;
        let outcome = match answered {
            Ok(response) => Outcome::Ok(Answer::reported(&response)),
            Err(Failure::Refused { reason, .. }) => Outcome::Refused(reason),
            Err(Failure::Unknown(message)) => Outcome::Unknown(message),
        };
        self.history.end(op, 1, outcome.clone());
        outcome
    }
}
