//! Whether the operations can be put into one order that the model explains.
//!
//! The search of Wing and Gong, as Lowe improved it ("Testing for linearizability", 2017) and Porcupine does it: operations that were under
//! way at the same time are tried in every order, depth first; calls and returns stand in one linked list, from which an operation is lifted
//! while it is placed; and a set of operations that led to the same state before is not tried again. Two sets are the same for that if they differ
//! only in operations in doubt that would come too late by now, and two states if they differ only in moments that are over.
//!
//! An operation of which nobody knows what came of it may take effect at any moment after its call, or never. It is placed just in time:
//! only if no certain operation fits, and only before one that would not fit, or would not lead to the same state, if it came later. Chains of
//! such operations are tried in the order of their length. This loses no explanation: whatever order there is, an operation in doubt that can be moved behind
//! the next certain one without a difference can be moved, until none can.

use std::cell::Cell;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::entry::{Entry, Output};
use super::list::List;
use super::model::{State, Window};
use crate::time::Micros;

/// So many chains of operations in doubt are kept at one place; beyond, the search cannot say any more that there is no order.
const MOST_CHAINS: usize = 1024;

/// What the search found.
#[derive(Debug)]
pub(super) enum Verdict {
    /// An order explains everything: positions of entries.
    Explained(Vec<usize>),
    /// There is none.
    Refuted(Box<Stuck>),
    /// It was too much to look at.
    GaveUp,
}

/// The furthest that any order came.
#[derive(Clone, Debug, Default)]
pub(super) struct Stuck {
    /// The entries that could be placed, in order.
    pub(super) path: Vec<usize>,
    /// The circuit then.
    pub(super) state: State,
    /// The entries of which none could be placed; the first is the one that returned first.
    pub(super) blocked: Vec<usize>,
}

/// Searches; gives up after so many steps of the model.
pub(super) fn search(entries: &[Entry], initial: &State, budget: usize) -> Verdict {
    Search::new(entries, budget).run(initial)
}

struct Search<'a> {
    entries: &'a [Entry],
    list: List,
    /// Those in doubt, by call; each with the latest end of all up to it.
    doubtful: Vec<(usize, Micros)>,
    used: Vec<bool>,
    /// By entry: the others, if at most one of them took effect.
    siblings: Vec<Vec<usize>>,
    seen: HashSet<u128>,
    budget: usize,
    steps: Cell<usize>,
    gave_up: bool,
    deepest: Option<Stuck>,
    deepest_depth: usize,
}

struct Frame {
    state: State,
    /// Everything that is placed was called before this.
    low: Micros,
    /// Which operations are placed.
    placed: u128,
    moves: Vec<Move>,
    chains: Vec<Chain>,
    /// What led to the next frame.
    applied: Option<(Vec<usize>, usize)>,
}

/// Operations in doubt, placed one after the other.
#[derive(Clone)]
struct Chain {
    entries: Vec<usize>,
    state: State,
    low: Micros,
}

/// A chain, and a certain operation after it.
struct Move {
    chain: Vec<usize>,
    entry: usize,
    state: State,
}

impl<'a> Search<'a> {
    fn new(entries: &'a [Entry], budget: usize) -> Self {
        let mut in_doubt: Vec<_> = (0..entries.len()).filter(|n| !entries[*n].certain).collect();
        in_doubt.sort_by_key(|n| entries[*n].call);
        let mut latest = 0;
        let with_latest = |n: usize| {
            latest = entries[n].until.max(latest);
            (n, latest)
        };
        let mut siblings = vec![Vec::new(); entries.len()];
        let exclusive = || in_doubt.iter().copied().filter(|n| entries[*n].exclusive);
        for n in exclusive() {
            siblings[n] = exclusive()
                .filter(|other| *other != n && entries[*other].op == entries[n].op)
                .collect();
        }
        let doubtful = in_doubt.into_iter().map(with_latest).collect();
        Self {
            entries,
            list: List::of(entries),
            doubtful,
            used: vec![false; entries.len()],
            siblings,
            seen: HashSet::new(),
            budget,
            steps: Cell::new(0),
            gave_up: false,
            deepest: None,
            deepest_depth: 0,
        }
    }

    fn run(mut self, initial: &State) -> Verdict {
        let mut stack = vec![self.frame(initial.clone(), 0, 0)];
        loop {
            if self.list.is_empty() {
                return Verdict::Explained(path(&stack));
            }
            if self.is_over_budget() {
                return Verdict::GaveUp;
            }
            let Some(frame) = stack.last_mut() else { break };
            if let Some(mut next) = frame.moves.pop() {
                let operations = || next.chain.iter().chain([&next.entry]).copied();
                let placed = operations().fold(frame.placed, |set, n| set ^ mark(n));
                let calls = operations().map(|n| self.entries[n].call);
                let low = calls.fold(frame.low, Micros::max);
                next.state.forget_before(low);
                let matters = placed ^ self.too_late(&next.chain, low);
                if !self.seen.insert(fingerprint(matters, low, &next.state)) {
                    continue;
                }
                self.list.lift(next.entry);
                next.chain.iter().for_each(|n| self.used[*n] = true);
                frame.applied = Some((next.chain, next.entry));
                let above = self.frame(next.state, low, placed);
                stack.push(above);
            } else if !self.deepen(frame) {
                self.remember(&stack);
                stack.pop();
                if let Some((chain, entry)) = stack.last_mut().and_then(|frame| frame.applied.take()) {
                    self.list.put_back(entry);
                    chain.iter().for_each(|n| self.used[*n] = false);
                }
            }
        }
        if self.gave_up {
            Verdict::GaveUp
        } else {
            Verdict::Refuted(Box::new(self.deepest.unwrap_or_default()))
        }
    }

    /// The operations in doubt that are placed, or in this chain, and could not be placed any more: whether they were makes no difference now.
    fn too_late(&self, chain: &[usize], low: Micros) -> u128 {
        let is_placed = |n: &usize| self.used[*n] || chain.contains(n);
        let all = self.doubtful.iter().map(|(n, _)| *n);
        all.filter(|n| self.entries[*n].until < low)
            .filter(is_placed)
            // It stands in the way of those.
            .filter(|n| {
                self.siblings[*n]
                    .iter()
                    .all(|other| self.entries[*other].until < low)
            })
            .fold(0, |set, n| set ^ mark(n))
    }

    fn frame(&self, state: State, low: Micros, placed: u128) -> Frame {
        let chain = Chain {
            entries: Vec::new(),
            state: state.clone(),
            low,
        };
        let mut frame = Frame {
            state,
            low,
            placed,
            moves: Vec::new(),
            chains: vec![chain],
            applied: None,
        };
        frame.moves = self.moves(&frame);
        frame
    }

    /// Chains that are longer by one, and what can follow them. False: there are none.
    fn deepen(&mut self, frame: &mut Frame) -> bool {
        let high = self.list.high();
        let candidates = self.list.candidates();
        let called = self
            .doubtful
            .partition_point(|(n, _)| self.entries[*n].call <= high);
        let open: Vec<usize> = self.doubtful[..called]
            .iter()
            .rev()
            .take_while(|(_, latest)| *latest >= frame.low)
            .map(|(n, _)| *n)
            .filter(|n| !self.used[*n] && self.entries[*n].until >= frame.low)
            .filter(|n| !self.siblings[*n].iter().any(|other| self.used[*other]))
            .collect();
        let mut seen = HashSet::new();
        let mut longer = Vec::new();
        for chain in &frame.chains {
            for n in &open {
                if chain.entries.contains(n)
                    || self.siblings[*n]
                        .iter()
                        .any(|other| chain.entries.contains(other))
                {
                    continue;
                }
                for after in self.extend(chain, *n, high) {
                    let is_hopeful = self.is_hopeful(&chain.state, &after.state, &candidates);
                    let set = after.entries.iter().fold(0, |set, n| set ^ mark(*n));
                    if is_hopeful && seen.insert(fingerprint(set, after.low, &after.state)) {
                        longer.push(after);
                    }
                }
            }
            if longer.len() > MOST_CHAINS || self.is_over_budget() {
                self.gave_up = true;
                return false;
            }
        }
        frame.chains = longer;
        frame.moves = self.moves(frame);
        !frame.chains.is_empty()
    }

    /// Whether an operation in doubt that led from one state to the other can be of use before one of these. What changes nothing is not needed.
    fn is_hopeful(&self, before: &State, after: &State, candidates: &[usize]) -> bool {
        before != after && candidates.iter().any(|to| may_lead_to(after, &self.entries[*to]))
    }

    fn is_over_budget(&self) -> bool {
        self.steps.get() > self.budget
    }

    fn extend(&self, chain: &Chain, n: usize, high: Micros) -> Vec<Chain> {
        self.steps.set(self.steps.get() + 1);
        let entry = &self.entries[n];
        let low = chain.low.max(entry.call);
        let high = high.min(entry.until);
        if low > high {
            return Vec::new();
        }
        chain
            .state
            .step(&entry.input, None, entry.position, Window { low, high })
            .into_iter()
            .filter(|state| state.now <= high)
            .map(|state| Chain {
                entries: chain.entries.iter().copied().chain([n]).collect(),
                state,
                low,
            })
            .collect()
    }

    /// The likeliest last.
    fn moves(&self, frame: &Frame) -> Vec<Move> {
        let high = self.list.high();
        let mut moves = Vec::new();
        for chain in &frame.chains {
            for entry in self.list.candidates() {
                for state in self.place(&chain.state, chain.low, entry, high) {
                    if !self.can_wait(frame, &chain.entries, entry, &state, high) {
                        moves.push(Move {
                            chain: chain.entries.clone(),
                            entry,
                            state,
                        });
                    }
                }
            }
        }
        moves.sort_by_key(|next| {
            let entry = &self.entries[next.entry];
            let position = if entry.position.least > 0 {
                entry.position.least
            } else {
                entry.position.most
            };
            std::cmp::Reverse((position, entry.until))
        });
        moves
    }

    /// A certain operation at the end of an order.
    fn place(&self, state: &State, low: Micros, n: usize, high: Micros) -> Vec<State> {
        self.steps.set(self.steps.get() + 1);
        let entry = &self.entries[n];
        let low = low.max(entry.call);
        let mut states = state.step(
            &entry.input,
            entry.output.as_ref(),
            entry.position,
            Window { low, high },
        );
        states.retain(|state| state.now <= high);
        states
    }

    /// Whether one operation of the chain could as well come after this certain one.
    fn can_wait(&self, frame: &Frame, chain: &[usize], entry: usize, to: &State, high: Micros) -> bool {
        chain.iter().any(|waits| {
            let mut states = vec![(frame.state.clone(), frame.low)];
            for n in chain.iter().filter(|n| *n != waits) {
                states = self.each(&states, *n, high);
            }
            let call = self.entries[entry].call;
            let after: Vec<_> = states
                .iter()
                .flat_map(|(state, low)| {
                    let low = (*low).max(call);
                    self.place(state, low, entry, high)
                        .into_iter()
                        .map(move |state| (state, low))
                })
                .collect();
            self.each(&after, *waits, high)
                .iter()
                .any(|(state, _)| state == to)
        })
    }

    fn each(&self, states: &[(State, Micros)], n: usize, high: Micros) -> Vec<(State, Micros)> {
        states
            .iter()
            .flat_map(|(state, low)| {
                let chain = Chain {
                    entries: Vec::new(),
                    state: state.clone(),
                    low: *low,
                };
                self.extend(&chain, n, high)
            })
            .map(|chain| (chain.state, chain.low))
            .collect()
    }

    fn remember(&mut self, stack: &[Frame]) {
        let depth = stack.len();
        if self.deepest.is_some() && depth <= self.deepest_depth {
            return;
        }
        self.deepest_depth = depth;
        let first = self.list.first_to_return();
        let others = self.list.candidates().into_iter().filter(|n| Some(*n) != first);
        self.deepest = stack.last().map(|frame| Stuck {
            path: path(stack),
            state: frame.state.clone(),
            blocked: first.into_iter().chain(others).collect(),
        });
    }
}

/// Whether what an answer says lies ahead of this state, as far as that only ever grows.
fn may_lead_to(state: &State, entry: &Entry) -> bool {
    if state.revision > entry.position.most {
        return false;
    }
    let (generation, totals) = match &entry.output {
        Some(Output::Registered { seen, .. } | Output::Changed(seen) | Output::Seen(seen)) => {
            (seen.generation, Some(seen.totals))
        }
        Some(Output::Admission { generation, .. } | Output::Available { generation, .. }) => {
            (*generation, None)
        }
        Some(Output::Reported(items)) => match items.last() {
            Some(last) if !last.is_not_found() => (last.generation, None),
            _ => return true,
        },
        _ => return true,
    };
    match &state.life {
        None => state.fresh <= generation,
        Some(life) => {
            let same_life = generation == life.generation && !life.vague;
            let beyond = totals.is_some_and(|totals| {
                life.totals.successes > totals.successes || life.totals.failures > totals.failures
            });
            life.generation <= generation && !(same_life && beyond)
        }
    }
}

fn path(stack: &[Frame]) -> Vec<usize> {
    let mut path = Vec::new();
    for (chain, entry) in stack.iter().filter_map(|frame| frame.applied.as_ref()) {
        path.extend(chain.iter().copied().chain([*entry]));
    }
    path
}

/// A number for each operation, so that a set of them is the exclusive or of theirs (Zobrist).
fn mark(n: usize) -> u128 {
    u128::from(sip(1, &n)) << 64 | u128::from(sip(2, &n))
}

/// 128 bits stand for a set of operations and a state: two that differ and share them will not be met.
fn fingerprint(placed: u128, low: Micros, state: &State) -> u128 {
    let both = (placed, low, state);
    u128::from(sip(3, &both)) << 64 | u128::from(sip(4, &both))
}

fn sip(key: u8, of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    of.hash(&mut hasher);
    hasher.finish()
}
