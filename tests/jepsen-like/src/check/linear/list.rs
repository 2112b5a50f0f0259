//! The list that the search works on, after Lowe: an operation is lifted from it while it is placed, and put back at the cost of a few pointers.

use super::entry::Entry;
use crate::time::Micros;

/// Calls and returns of the certain operations that are not placed, in their order.
pub(super) struct List {
    /// By node: the entry, whether it is its return, and when.
    nodes: Vec<(usize, bool, Micros)>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// By entry: its two nodes.
    of_entry: Vec<(usize, usize)>,
}

impl List {
    pub(super) fn of(entries: &[Entry]) -> Self {
        let certain = entries.iter().enumerate().filter(|(_, entry)| entry.certain);
        let mut nodes: Vec<_> = certain
            .flat_map(|(n, entry)| [(n, false, entry.call), (n, true, entry.until)])
            .collect();
        // In the same microsecond nobody knows what came first: then both were under way.
        nodes.sort_by_key(|(n, is_return, at)| (*at, *is_return, *n));
        let mut of_entry = vec![(0, 0); entries.len()];
        for (node, (n, is_return, _)) in nodes.iter().enumerate() {
            if *is_return {
                of_entry[*n].1 = node + 1;
            } else {
                of_entry[*n].0 = node + 1;
            }
        }
        // Node 0 is the end and the beginning.
        let ring = nodes.len() + 1;
        nodes.insert(0, (usize::MAX, true, Micros::MAX));
        Self {
            nodes,
            next: (0..ring).map(|node| (node + 1) % ring).collect(),
            previous: (0..ring).map(|node| (node + ring - 1) % ring).collect(),
            of_entry,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next[0] == 0
    }

    /// The operations that can be the next one: those that were called before any of them returned.
    pub(super) fn candidates(&self) -> Vec<usize> {
        let mut candidates = Vec::new();
        let mut node = self.next[0];
        while node != 0 && !self.nodes[node].1 {
            candidates.push(self.nodes[node].0);
            node = self.next[node];
        }
        candidates
    }

    fn first_return(&self) -> usize {
        let mut node = self.next[0];
        while node != 0 && !self.nodes[node].1 {
            node = self.next[node];
        }
        node
    }

    /// When the first of them returned: what is placed next took effect before.
    pub(super) fn high(&self) -> Micros {
        self.nodes[self.first_return()].2
    }

    pub(super) fn first_to_return(&self) -> Option<usize> {
        let node = self.first_return();
        (node != 0).then(|| self.nodes[node].0)
    }

    pub(super) fn lift(&mut self, entry: usize) {
        let (call, back) = self.of_entry[entry];
        for node in [call, back] {
            let (previous, next) = (self.previous[node], self.next[node]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
    }

    pub(super) fn put_back(&mut self, entry: usize) {
        let (call, back) = self.of_entry[entry];
        for node in [back, call] {
            let (previous, next) = (self.previous[node], self.next[node]);
            self.next[previous] = node;
            self.previous[next] = node;
        }
    }
}
