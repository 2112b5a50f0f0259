//! Single operations, on purpose, through a node that is chosen; each goes to the history as those of the workload do.

use std::time::Duration;

use brama_proto::v1;

use super::stage::Stage;
use crate::circuits::{CircuitIndex, expiry};
use crate::history::{Action, Answer, Item, Level, Outcome, Shown};
use crate::rpc::{Failure, answer, timed};
use crate::workload::{BATCH_KEY, ITEM_KEY};

/// Apart from the numbers of clients and of the pulse.
const CLIENT: u32 = 900;
const CALL: Duration = Duration::from_secs(10);

/// A batch with its place in a session; it can be sent again.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    name: String,
    session: String,
    request: v1::ReportRequest,
    items: Vec<Item>,
}

impl Batch {
    /// `outcomes` (`S` and `F`) of one circuit, as batch number `sequence` of the session with this number.
    pub(super) fn new(
        stage: &Stage,
        session: u8,
        sequence: u64,
        circuit: CircuitIndex,
        outcomes: &str,
        generation: Option<u64>,
    ) -> Self {
        let session_name = format!("{CLIENT}-{session}");
        let name = format!("{session_name}-{sequence}");
        let item = v1::ReportItem {
            name: Some(stage.circuits.get(circuit).name.clone()),
            generation,
            outcomes: outcomes.chars().map(outcome).collect(),
            metadata: [
                (BATCH_KEY.to_owned(), name.clone()),
                (ITEM_KEY.to_owned(), "0".to_owned()),
            ]
            .into(),
            ..Default::default()
        };
        Self {
            name,
            session: session_name,
            request: v1::ReportRequest {
                session: Some(v1::Session {
                    id: vec![session; 16],
                    sequence,
                }),
                items: vec![item],
            },
            items: vec![Item {
                circuit,
                outcomes: outcomes.to_owned(),
                generation,
                permit: None,
            }],
        }
    }

    /// Reports it for the first time.
    ///
    /// # Errors
    /// When it is not acknowledged.
    pub(super) async fn report(&self, stage: &Stage, node: usize) -> Result<v1::ReportResponse, Failure> {
        let action = Action::Report {
            batch: self.name.clone(),
            session: self.session.clone(),
            items: self.items.clone(),
        };
        let op = stage.history.begin(CLIENT, action);
        let answered = self.again(stage, node).await;
        let told = answered.as_ref().map(Answer::reported);
        stage.history.end(
            op,
            1,
            told.map_or_else(|failure| failed(failure.clone()), Outcome::Ok),
        );
        answered
    }

    /// Sends it again: to the history it is the same operation.
    ///
    /// # Errors
    /// When it is not acknowledged.
    pub(super) async fn again(&self, stage: &Stage, node: usize) -> Result<v1::ReportResponse, Failure> {
        let mut client = stage.nodes.circuits(node);
        answer(CALL, client.report(timed(self.request.clone(), CALL))).await
    }
}

fn outcome(letter: char) -> i32 {
    match letter {
        'S' => v1::Outcome::Success.into(),
        _ => v1::Outcome::Failure.into(),
    }
}

/// Opens a circuit by hand. Gives it as it is then.
///
/// # Errors
/// When it is not acknowledged.
pub(super) async fn open(
    stage: &Stage,
    node: usize,
    circuit: CircuitIndex,
    expiry_ms: u64,
) -> Result<v1::Circuit, Failure> {
    let reason = format!("open-{CLIENT}-{circuit}-{}", stage.history.now());
    let action = Action::Open {
        circuit,
        expiry_ms: Some(expiry_ms),
        reason: reason.clone(),
    };
    let request = v1::OpenCircuitRequest {
        name: Some(stage.circuits.get(circuit).name.clone()),
        expiry: Some(expiry(expiry_ms)),
        reason: Some(reason),
    };
    let mut client = stage.nodes.circuits(node);
    by_hand(stage, action, client.open_circuit(timed(request, CALL))).await
}

/// Closes a circuit by hand. Gives it as it is then.
///
/// # Errors
/// When it is not acknowledged.
pub(super) async fn close(stage: &Stage, node: usize, circuit: CircuitIndex) -> Result<v1::Circuit, Failure> {
    let reason = format!("close-{CLIENT}-{circuit}-{}", stage.history.now());
    let action = Action::Close {
        circuit,
        reason: reason.clone(),
    };
    let request = v1::CloseCircuitRequest {
        name: Some(stage.circuits.get(circuit).name.clone()),
        reason: Some(reason),
    };
    let mut client = stage.nodes.circuits(node);
    by_hand(stage, action, client.close_circuit(timed(request, CALL))).await
}

async fn by_hand(
    stage: &Stage,
    action: Action,
    act: impl Future<Output = Result<tonic::Response<v1::ManualResponse>, tonic::Status>>,
) -> Result<v1::Circuit, Failure> {
    let op = stage.history.begin(CLIENT, action);
    let answered = answer(CALL, act).await;
    let outcome = match &answered {
        Ok(response) => Outcome::Ok(Answer::changed(response)),
        Err(failure) => failed(failure.clone()),
    };
    stage.history.end(op, 1, outcome);
    answered.map(|response| response.circuit.unwrap_or_default())
}

/// Asks for a permit.
///
/// # Errors
/// When there is no answer.
pub(super) async fn acquire(
    stage: &Stage,
    node: usize,
    circuit: CircuitIndex,
    permit: [u8; 16],
) -> Result<v1::AcquireResponse, Failure> {
    let action = Action::Acquire {
        circuit,
        permit: hex::encode(permit),
    };
    let request = v1::AcquireRequest {
        name: Some(stage.circuits.get(circuit).name.clone()),
        permit_id: permit.to_vec(),
    };
    let op = stage.history.begin(CLIENT, action);
    let answered = answer(CALL, stage.nodes.circuits(node).acquire(timed(request, CALL))).await;
    let told = answered.as_ref().map(|response| Answer::Admission {
        admitted: response.admitted,
        state: response.state,
        generation: response.generation,
        permit: (!response.permit_id.is_empty()).then(|| hex::encode(&response.permit_id)),
    });
    stage.history.end(
        op,
        1,
        told.map_or_else(|failure| failed(failure.clone()), Outcome::Ok),
    );
    answered
}

/// Reads a circuit: what everybody has been told is in it.
///
/// # Errors
/// When there is no answer.
pub(super) async fn status(
    stage: &Stage,
    node: usize,
    circuit: CircuitIndex,
    within: Duration,
) -> Result<Shown, Failure> {
    let request = v1::StatusRequest {
        name: Some(stage.circuits.get(circuit).name.clone()),
        consistency: None,
    };
    let op = stage.history.begin(
        CLIENT,
        Action::Status {
            circuit,
            level: Level::Linearizable,
        },
    );
    let answered = answer(within, stage.nodes.circuits(node).status(timed(request, within))).await;
    let told = answered.map(|response| Shown::of(response.header.as_ref(), response.circuit.as_ref()));
    let outcome = match &told {
        Ok(shown) => Outcome::Ok(Answer::Status(shown.clone())),
        Err(failure) => failed(failure.clone()),
    };
    stage.history.end(op, 1, outcome);
    told
}

/// What this node knows of a circuit, without asking the others.
///
/// # Errors
/// When there is no answer.
pub(super) async fn local_status(
    stage: &Stage,
    node: usize,
    circuit: CircuitIndex,
    within: Duration,
) -> Result<Shown, Failure> {
    let request = v1::StatusRequest {
        name: Some(stage.circuits.get(circuit).name.clone()),
        consistency: Some(v1::Consistency {
            level: Some(v1::consistency::Level::Local(true)),
        }),
    };
    let answered = answer(within, stage.nodes.circuits(node).status(timed(request, within))).await;
    answered.map(|response| Shown::of(response.header.as_ref(), response.circuit.as_ref()))
}

/// Makes a node the leader.
///
/// # Errors
/// When it does not lead in time.
pub(super) async fn lead(stage: &Stage, position: usize) -> anyhow::Result<()> {
    if stage.cluster.leader(&stage.nodes).await == Some(position) {
        return Ok(());
    }
    let id = stage.cluster.nodes()[position].spec.id;
    let request = v1::TransferLeaderRequest { node_id: Some(id) };
    answer(
        CALL,
        stage
            .nodes
            .cluster(position)
            .transfer_leader(timed(request, CALL)),
    )
    .await?;
    stage
        .wait(CALL, "the chosen node leads", async |stage: &Stage| {
            Ok(stage.cluster.leader(&stage.nodes).await == Some(position))
        })
        .await
}

fn failed(failure: Failure) -> Outcome {
    match failure {
        Failure::Refused { reason, .. } => Outcome::Refused(reason),
        Failure::Unknown(message) => Outcome::Unknown(message),
    }
}
