//! What circuits and sessions add to a node.

use std::path::Path;

use brama_faults::findings::Findings;
use brama_faults::rpc::reason;
use brama_proto::v1::circuits_client::CircuitsClient;
use tonic::Status;

use super::stage::{Stage, item, registration, session};
use super::{Sizes, check_node, reads, restart, shown};
use crate::cpu;

/// What a circuit may cost, in bytes.
const CIRCUIT: f64 = 1024.0;
/// Circuits that fill what has a bound of its own.
const FIRST: u64 = 1000;

pub(super) async fn measure(sizes: &Sizes, data: &Path) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let stage = Stage::start(data, Vec::new()).await?;
    let fresh = stage.resident().await;
    // The log of events (100,000, or 64 MiB) and the caches have bounds of their own: they are full before, and count as part of the node.
    stage.register(0..FIRST).await?;
    stage.fill(0..FIRST).await?;
    let filled = stage.resident().await;

    stage.register(FIRST..sizes.circuits).await?;
    stage.report(FIRST..sizes.circuits).await?;
    stage.fill(0..FIRST).await?;
    stage.settle().await?;
    let with_circuits = stage.resident().await;
    let circuits = sizes.circuits - FIRST;
    let each = more(&with_circuits, &filled) / circuits as f64;
    findings.figure("a fresh node", shown(largest(&fresh)));
    findings.figure("a node with its log of events full", shown(largest(&filled)));
    findings.figure(
        format!("a node with {} circuits", sizes.circuits),
        shown(largest(&with_circuits)),
    );
    findings.figure("a circuit", shown(each));
    findings.require(each <= CIRCUIT, "size", || {
        format!("a circuit costs {each:.0} bytes, at most {CIRCUIT:.0} are allowed")
    });

    stage.open_sessions(0..sizes.sessions, sizes.circuits).await?;
    stage.fill(0..FIRST).await?;
    let with_sessions = stage.resident().await;
    let session_bytes = more(&with_sessions, &with_circuits) / sizes.sessions as f64;
    findings.figure(
        format!("a node with {} sessions more", sizes.sessions),
        shown(largest(&with_sessions)),
    );
    findings.figure("a session", shown(session_bytes));
    findings.merge(reads::measure(&stage, sizes).await?);
    findings.merge(one_more(&stage, sizes).await);
    let peak = cpu::peak_bytes(&stage.pids()).into_iter().max().unwrap_or(0);
    check_node(&mut findings, "the most that a node held", "", peak);
    findings.checked(
        "size",
        format!(
            "{} circuits and {} sessions in at most {}",
            sizes.circuits,
            sizes.sessions,
            shown(peak as f64)
        ),
    );
    findings.merge(restart::measure(&stage, "with all of it").await?);
    // Those that went on meanwhile, with what they sent the one that was away.
    let peak = cpu::peak_bytes(&stage.pids()).into_iter().max().unwrap_or(0);
    check_node(
        &mut findings,
        "the most that a node held in the end",
        " in the end",
        peak,
    );
    Ok(findings)
}

/// What is one too many is refused, by each node, with the error that the documents name.
async fn one_more(stage: &Stage, sizes: &Sizes) -> Findings {
    let mut findings = Findings::default();
    let mut check = |what: &str, limit: &str, outcome: Result<(), Status>| match outcome {
        Err(status) if reason(&status).as_deref() == Some(limit) => {
            findings.checked("limit", format!("one {what} more: {limit}"));
        }
        other => findings.broken(
            "limit",
            format!("one {what} more is not refused with {limit}: {other:?}"),
        ),
    };
    for channel in stage.channels.iter().take(3) {
        let mut client = CircuitsClient::new(channel.clone());
        if sizes.circuits == 100_000 {
            let outcome = client.register(registration(sizes.circuits)).await.map(|_| ());
            check("circuit", "TOO_MANY_CIRCUITS", outcome);
        }
        if sizes.sessions == 100_000 {
            let request = brama_proto::v1::ReportRequest {
                session: Some(session(sizes.sessions, 1)),
                items: vec![item(0)],
            };
            let outcome = client.report(request).await.map(|_| ());
            check("session", "TOO_MANY_SESSIONS", outcome);
        }
    }
    findings
}

/// The node that grew most.
fn more(after: &[u64], before: &[u64]) -> f64 {
    let grown = after
        .iter()
        .zip(before)
        .map(|(after, before)| *after as f64 - *before as f64);
    grown.fold(f64::MIN, f64::max)
}

fn largest(bytes: &[u64]) -> f64 {
    bytes.iter().max().copied().unwrap_or(0) as f64
}
