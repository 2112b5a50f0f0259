//! A fault, as the page shows it.

use crate::nemesis::FaultRecord;
use crate::time::Micros;

/// One fault: a bar below the time line.
#[derive(Clone, Debug)]
pub struct FaultBar {
    /// Its kind. Faults of one kind share a row.
    pub label: String,
    /// What it hit.
    pub nodes: String,
    /// When it began.
    pub from: Micros,
    /// When it was mended.
    pub until: Micros,
    /// What showed that it was really there; `None`: nothing did, so the run proves nothing about it.
    pub proof: Option<String>,
}

impl From<&FaultRecord> for FaultBar {
    fn from(record: &FaultRecord) -> Self {
        let ids: Vec<_> = record.nodes.iter().map(ToString::to_string).collect();
        Self {
            label: words(&format!("{:?}", record.fault)),
            nodes: ids.join(", "),
            from: record.from,
            until: record.until,
            proof: record.proof.clone(),
        }
    }
}

/// `KillLeader` as people write it.
fn words(camel: &str) -> String {
    let mut text = String::new();
    for letter in camel.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.extend(letter.to_lowercase());
    }
    text
}
