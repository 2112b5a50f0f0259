//! What a run leaves in its folder, and how it is read again: so that whoever doubts a verdict can have the same evidence checked anew, also by
//! a later build of the checkers.
//!
//! One JSON object a line: `circuits.jsonl`, `history.jsonl`, `events.jsonl`, `faults.jsonl`, `spans.jsonl`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use brama_proto::v1;
use prost::Message;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::check::Evidence;
use crate::circuits::{Circuits, Opening, Spec};
use crate::history::Action;
use crate::ledger::Seen;
use crate::rules::Options;
use crate::time::Micros;

const CIRCUITS: &str = "circuits.jsonl";
const HISTORY: &str = "history.jsonl";
const EVENTS: &str = "events.jsonl";
const FAULTS: &str = "faults.jsonl";
const SPANS: &str = "spans.jsonl";

#[derive(Serialize, Deserialize)]
struct Circuit {
    scope: Option<String>,
    identifier: String,
    policy: Options,
    opening: Opening,
    max_probes: u32,
}

#[derive(Serialize, Deserialize)]
struct Event {
    revision: u64,
    /// When it first arrived at a subscriber.
    arrived: Micros,
    /// For a person.
    event: String,
    /// The same in the protocol's encoding, in hexadecimal.
    encoded: String,
}

/// Leaves the evidence in a folder.
///
/// # Errors
/// When it cannot be written.
pub fn write(folder: &Path, evidence: &Evidence) -> anyhow::Result<()> {
    let circuits = evidence.circuits.iter().map(|(_, spec)| Circuit {
        scope: spec.name.scope.clone(),
        identifier: spec.name.identifier.clone(),
        policy: Options::of(&spec.policy),
        opening: spec.opening,
        max_probes: spec.max_probes,
    });
    let events = evidence.events.values().map(|seen| Event {
        revision: seen.event.revision,
        arrived: seen.arrived,
        event: format!("{:?}", seen.event),
        encoded: hex::encode(seen.event.encode_to_vec()),
    });
    write_lines(&folder.join(CIRCUITS), circuits)?;
    write_lines(&folder.join(HISTORY), &evidence.ops)?;
    write_lines(&folder.join(EVENTS), events)?;
    write_lines(&folder.join(FAULTS), &evidence.faults)?;
    write_lines(&folder.join(SPANS), &evidence.spans)
}

/// The evidence that [`write()`] left in a folder.
///
/// # Errors
/// When a file is missing, or a line of it is not what was written.
pub fn read(folder: &Path) -> anyhow::Result<Evidence> {
    let circuits = read_lines(&folder.join(CIRCUITS))?
        .into_iter()
        .map(|circuit: Circuit| Spec {
            name: v1::CircuitName {
                scope: circuit.scope,
                identifier: circuit.identifier,
            },
            policy: circuit.policy.wire(),
            opening: circuit.opening,
            max_probes: circuit.max_probes,
        });
    let circuits = Arc::new(Circuits::new(circuits.collect()));
    let mut events = BTreeMap::new();
    for line in read_lines::<Event>(&folder.join(EVENTS))? {
        let decoded = hex::decode(&line.encoded)
            .map_err(anyhow::Error::from)
            .and_then(|bytes| Ok(v1::Event::decode(bytes.as_slice())?));
        let event = decoded.with_context(|| format!("revision {} in {EVENTS} is no event", line.revision))?;
        let arrived = line.arrived;
        events.insert(line.revision, Seen { event, arrived });
    }
    let ops: Vec<crate::history::Op> = read_lines(&folder.join(HISTORY))?;
    let kinds = Action::KINDS
        .into_iter()
        .filter(|kind| ops.iter().any(|op| op.action.kind() == *kind));
    Ok(Evidence {
        circuits,
        kinds: kinds.collect(),
        ops,
        events,
        faults: read_lines(&folder.join(FAULTS))?,
        spans: read_lines(&folder.join(SPANS))?,
    })
}

/// One JSON object a line.
///
/// # Errors
/// When the file cannot be written.
pub fn write_lines<T: Serialize>(path: &Path, lines: impl IntoIterator<Item = T>) -> anyhow::Result<()> {
    let write = || {
        let mut file = BufWriter::new(std::fs::File::create(path)?);
        for line in lines {
            serde_json::to_writer(&mut file, &line)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn read_lines<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines = Vec::new();
    for (n, line) in BufReader::new(file).lines().enumerate() {
        let read = line
            .map_err(anyhow::Error::from)
            .and_then(|line| Ok(serde_json::from_str(&line)?));
        lines.push(read.with_context(|| format!("line {} of {}", n + 1, path.display()))?);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use brama_proto::v1::EventType;

    use super::*;
    use crate::check;
    use crate::check::samples::{Story, outcome};

    #[test]
    fn what_was_written_is_read_and_checked_the_same() {
        let mut story = Story::new(2);
        let batch = story.report("FS", Some(9));
        story.event(outcome(EventType::Failure, 1, &batch));
        let evidence = story.evidence();
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &evidence).unwrap();
        let again = read(folder.path()).unwrap();
        assert_eq!(format!("{:?}", again.ops), format!("{:?}", evidence.ops));
        assert_eq!(format!("{:?}", again.events), format!("{:?}", evidence.events));
        assert_eq!(
            format!("{:?}", again.circuits),
            format!("{:?}", evidence.circuits)
        );
        let found = |evidence| format!("{:?}", check::all(evidence));
        assert_eq!(found(&again), found(&evidence));
    }

    #[test]
    fn a_file_that_is_missing_or_torn_is_named() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &Story::new(1).evidence()).unwrap();
        std::fs::write(folder.path().join(HISTORY), "{\"id\":0").unwrap();
        let torn = format!("{:#}", read(folder.path()).unwrap_err());
        assert!(torn.contains("line 1 of") && torn.contains(HISTORY), "{torn}");
        std::fs::remove_file(folder.path().join(CIRCUITS)).unwrap();
        let missing = format!("{:#}", read(folder.path()).unwrap_err());
        assert!(missing.contains(CIRCUITS), "{missing}");
    }
}
