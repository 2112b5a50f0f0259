//! Counts that many threads add to at once, without one waiting for another.
//!
//! Each thread has a place of its own as long as there are places, and nobody else writes to it: so adding is a load and a store, not
//! a locked instruction. Threads beyond that share a few places, with `fetch_add`. Places count up for ever; whoever reads
//! them remembers what it has read.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

/// What is counted without its order, because it changes nothing whenever it is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Count {
    /// Of a closed circuit that holds no failures.
    Success = 0,
    Ignored = 1,
    Rejected = 2,
}

/// So many of each [`Count`], in its order.
pub(crate) type Counts = [u64; 3];

/// The counts of one circuit.
#[derive(Debug)]
pub(crate) struct Shards {
    /// One a thread.
    own: Box<[CachePadded<Place>]>,
    /// For all other threads.
    shared: Box<[CachePadded<Place>]>,
}

#[derive(Debug, Default)]
struct Place([AtomicU64; 3]);

/// Threads that have a place of their own: twice as many as run at once, so that a few that come and go have one too.
static OWN: LazyLock<usize> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(8, usize::from);
    (processors * 2).next_power_of_two().clamp(8, 128)
});

impl Shards {
    pub(crate) fn new() -> Self {
        let places = |count| (0..count).map(|_| CachePadded::default()).collect();
        Self {
            own: places(*OWN),
            shared: places(*OWN / 4),
        }
    }

    /// Wait-free; allocates nothing (but for a thread's very first count).
    #[inline]
    pub(crate) fn add(&self, count: Count) {
        let number = number();
        if let Some(place) = self.own.get(number) {
            // Nobody else writes here: see `Number`.
            let count = &place.0[count as usize];
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        } else {
            self.add_shared(number, count);
        }
    }

    #[cold]
    fn add_shared(&self, number: usize, count: Count) {
        if let Some(place) = self.shared.get(number % self.shared.len()) {
            place.0[count as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was added since `taken` was last given here.
    pub(crate) fn take(&self, taken: &mut Counts) -> Counts {
        let mut all = Counts::default();
        for place in self.own.iter().chain(&self.shared) {
            for (sum, count) in all.iter_mut().zip(&place.0) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        let mut new = Counts::default();
        for i in 0..new.len() {
            new[i] = all[i] - taken[i];
        }
        *taken = all;
        new
    }
}

/// A thread's number: no other living thread has it. It goes to another thread only through a lock, so what its last owner has counted is
/// seen by the next one.
struct Number(usize);

#[derive(Default)]
struct Numbers {
    given_back: BinaryHeap<Reverse<usize>>,
    next: usize,
}

static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers {
    given_back: BinaryHeap::new(),
    next: 0,
});

thread_local! {
    static NUMBER: Number = Number::take();
    /// The same without a destructor, for the way that is taken each time; `usize::MAX`: not known yet.
    static CACHED: Cell<usize> = const { Cell::new(usize::MAX) };
}

#[inline]
fn number() -> usize {
    let cached = CACHED.get();
    if cached == usize::MAX {
        first_number()
    } else {
        cached
    }
}

#[cold]
fn first_number() -> usize {
    // While the thread ends its number may have a new owner already: then it shares.
    let number = NUMBER.try_with(|number| number.0).unwrap_or(SHARED);
    CACHED.set(number);
    number
}

/// Never a place of its own.
const SHARED: usize = usize::MAX - 1;

impl Number {
    fn take() -> Self {
        let mut numbers = NUMBERS.lock();
        let number = numbers.given_back.pop().map(|Reverse(number)| number);
        Self(number.unwrap_or_else(|| {
            numbers.next += 1;
            numbers.next - 1
        }))
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        CACHED.set(SHARED);
        NUMBERS.lock().given_back.push(Reverse(self.0));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn nothing_is_lost_however_many_threads_come_and_go() {
        const ROUNDS: u64 = 6;
        const EACH: u64 = 2000;
        let shards = Arc::new(Shards::new());
        let threads = 2 * (shards.own.len() + shards.shared.len()) as u64;
        let mut taken = Counts::default();
        let mut sum = Counts::default();
        let mut read = |shards: &Shards, taken: &mut Counts| {
            for (sum, new) in sum.iter_mut().zip(shards.take(taken)) {
                *sum += new;
            }
            sum
        };
        for _ in 0..ROUNDS {
            let running: Vec<_> = (0..threads)
                .map(|_| {
                    let shards = shards.clone();
                    std::thread::spawn(move || {
                        for i in 0..EACH {
                            shards.add(Count::Success);
                            if i % 2 == 0 {
                                shards.add(Count::Rejected);
                            }
                        }
                    })
                })
                .collect();
            read(&shards, &mut taken);
            for thread in running {
                thread.join().unwrap();
            }
        }
        let all = ROUNDS * threads * EACH;
        assert_eq!(read(&shards, &mut taken), [all, 0, all / 2]);
        assert_eq!(shards.take(&mut taken), [0; 3]);
    }
}
