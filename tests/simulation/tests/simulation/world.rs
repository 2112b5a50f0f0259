//! What all parts of a simulation share: the time, the dice, what was seen, and what was said about it.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use brama_simulation::{Broken, History, Ms, Nodes};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// So many of the newest lines of the trace are kept.
const LINES: usize = 400;

/// See the module.
pub(crate) struct World {
    now: AtomicU64,
    dice: Mutex<StdRng>,
    trace: Mutex<Trace>,
    pub(crate) history: Mutex<History>,
    pub(crate) nodes: Mutex<Nodes>,
    pub(crate) broken: Mutex<Vec<Broken>>,
}

/// Everything that happened, as one number, and its end as text.
#[derive(Default)]
struct Trace {
    hash: u64,
    lines: VecDeque<String>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: AtomicU64::new(0),
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            trace: Mutex::default(),
            history: Mutex::default(),
            nodes: Mutex::default(),
            broken: Mutex::default(),
        }
    }

    /// Milliseconds since the beginning.
    pub(crate) fn now(&self) -> Ms {
        self.now.load(Relaxed)
    }

    pub(crate) fn tick(&self) {
        self.now.fetch_add(1, Relaxed);
    }

    pub(crate) fn draw(&self, range: RangeInclusive<u64>) -> u64 {
        self.dice.lock().random_range(range)
    }

    pub(crate) fn draw_id(&self) -> u128 {
        self.dice.lock().random()
    }

    pub(crate) fn chance(&self, percent: u64) -> bool {
        self.draw(1..=100) <= percent
    }

    pub(crate) fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.draw(0..=from.len() as u64 - 1)).unwrap()]
    }

    /// Notes what happened.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        let line = format!("{:>6} {}", self.now(), text.as_ref());
        let mut trace = self.trace.lock();
        trace.hash = xxh3_64_with_seed(line.as_bytes(), trace.hash);
        if trace.lines.len() == LINES {
            trace.lines.pop_front();
        }
        trace.lines.push_back(line);
    }

    /// Notes what happens too often for a line.
    pub(crate) fn feel(&self, numbers: [u64; 4]) {
        let mut bytes = [0; 32];
        for (number, place) in numbers.iter().zip(bytes.chunks_mut(8)) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let mut trace = self.trace.lock();
        trace.hash = xxh3_64_with_seed(&bytes, trace.hash);
    }

    pub(crate) fn trace_hash(&self) -> u64 {
        self.trace.lock().hash
    }

    pub(crate) fn trace_end(&self) -> Vec<String> {
        self.trace.lock().lines.iter().cloned().collect()
    }

    /// Notes a guarantee that does not hold.
    pub(crate) fn breaks(&self, broken: Broken) {
        self.say(format!("BROKEN {broken}"));
        self.broken.lock().push(broken);
    }
}
