//! What is seen of the nodes, compared as it comes.

use std::collections::BTreeMap;

use brama_core::Machine;
use brama_core::event_log::KeptEvent;

use crate::{Broken, Ms};

/// An event, and when it was first seen on any node.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub at: Ms,
    /// What.
    pub event: KeptEvent,
}

/// What was seen of the nodes of a cluster.
#[derive(Debug, Default)]
pub struct Nodes {
    /// The rolling hash after each log index, and who had it first.
    hashes: BTreeMap<u64, (u64, u64)>,
    /// Who led in each term.
    leaders: BTreeMap<u64, u64>,
    /// By revision.
    events: BTreeMap<u64, Seen>,
    cursors: BTreeMap<u64, u64>,
    compacted: u64,
}

impl Nodes {
    /// A node has applied the log up to `index`, and its rolling hash is this.
    ///
    /// # Errors
    /// When another had a different one there.
    pub fn hash(&mut self, node: u64, index: u64, hash: u64) -> Result<(), Broken> {
        let (first, by) = *self.hashes.entry(index).or_insert((hash, node));
        if first == hash {
            return Ok(());
        }
        let what = format!(
            "after log index {index}, node {node} has hash {hash:016x}, and node {by} had {first:016x}"
        );
        Err(Broken::new("G1", what))
    }

    /// A node leads in a term.
    ///
    /// # Errors
    /// When another does, or did.
    pub fn leader(&mut self, node: u64, term: u64) -> Result<(), Broken> {
        let first = *self.leaders.entry(term).or_insert(node);
        if first == node {
            return Ok(());
        }
        let what = format!("node {node} leads in term {term}, and so did node {first}");
        Err(Broken::new("one leader a term", what))
    }

    /// A reader goes on after its cursor, on a node with this state. Gives what nobody had seen before.
    ///
    /// # Errors
    /// When there is a gap, or an event is not the one that was seen at its revision.
    pub fn read(&mut self, reader: u64, at: Ms, machine: &Machine) -> Result<Vec<KeptEvent>, Broken> {
        let mut cursor = self.cursors.get(&reader).copied().unwrap_or(0);
        let mut new = Vec::new();
        let events = match machine.events_after(cursor, usize::MAX) {
            Ok(events) => events,
            Err(compacted) => {
                if compacted.oldest <= cursor + 1 {
                    let what = format!(
                        "after {cursor}, a reader is told that {} is the oldest event",
                        compacted.oldest
                    );
                    return Err(Broken::new("G7", what));
                }
                self.compacted += 1;
                cursor = compacted.oldest - 1;
                let rest = machine.events_after(cursor, usize::MAX);
                rest.map_err(|error| Broken::new("G7", format!("after its own oldest event: {error}")))?
            }
        };
        for event in events {
            if event.revision != cursor + 1 {
                let what = format!("after revision {cursor} comes {}", event.revision);
                return Err(Broken::new("G7", what));
            }
            cursor += 1;
            match self.events.get(&cursor) {
                None => {
                    new.push(event.clone());
                    self.events.insert(cursor, Seen { at, event });
                }
                Some(seen) if *seen.event == *event => {}
                Some(seen) => {
                    let what = format!("revision {cursor} was {:?}, and is {event:?}", seen.event);
                    return Err(Broken::new("G1", what));
                }
            }
        }
        self.cursors.insert(reader, cursor);
        Ok(new)
    }

    /// All events that were seen, by revision.
    pub fn events(&self) -> &BTreeMap<u64, Seen> {
        &self.events
    }

    /// How often a reader was told that what it wants is not kept any more.
    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    /// The newest term in which somebody led.
    pub fn newest_term(&self) -> u64 {
        self.leaders.keys().next_back().copied().unwrap_or(0)
    }

    /// How many terms had a leader.
    pub fn terms(&self) -> usize {
        self.leaders.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use brama_core::command::{IfExists, Register};
    use brama_core::policy::Policy;
    use brama_core::{CircuitName, ClusterTime, Command, Metadata, codec};

    use super::*;

    fn machine(names: &[&str]) -> Machine {
        let mut machine = Machine::new();
        for name in names {
            let register = Register {
                name: CircuitName::new(None, name).unwrap(),
                policy: Policy::default(),
                metadata: Metadata::new(),
                if_exists: IfExists::Refuse,
            };
            let mut batch = codec::BatchBuilder::default();
            let command = codec::encode_command(&Command::Register(register));
            batch.push(&command).unwrap();
            machine
                .apply_entry(1, &batch.finish(ClusterTime::from_micros(1)))
                .unwrap();
        }
        machine
    }

    #[test]
    fn two_hashes_at_one_index_are_refused() {
        let mut nodes = Nodes::default();
        nodes.hash(1, 5, 77).unwrap();
        nodes.hash(2, 5, 77).unwrap();
        assert_eq!(nodes.hash(3, 5, 78).unwrap_err().guarantee, "G1");
    }

    #[test]
    fn two_leaders_of_one_term_are_refused() {
        let mut nodes = Nodes::default();
        nodes.leader(1, 5).unwrap();
        nodes.leader(2, 6).unwrap();
        nodes.leader(1, 5).unwrap();
        assert!(nodes.leader(2, 5).is_err());
    }

    #[test]
    fn another_event_at_a_revision_is_refused() {
        let mut nodes = Nodes::default();
        assert_eq!(nodes.read(1, 0, &machine(&["a", "b"])).unwrap().len(), 2);
        assert_eq!(nodes.read(2, 0, &machine(&["a", "b", "c"])).unwrap().len(), 1);
        assert_eq!(
            nodes.read(3, 0, &machine(&["a", "x"])).unwrap_err().guarantee,
            "G1"
        );
    }
}
