//! Histograms that cost an observer three atomic additions.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How many observations were how large, in whole units. Wait-free; nothing is allocated after it is made.
#[derive(Debug)]
pub struct Histogram {
    /// Rising; an observation counts in the first bucket whose bound it does not exceed.
    bounds: &'static [u64],
    /// One more than bounds: what exceeds all of them.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// What a [`Histogram`] has seen so far.
#[derive(Clone, Debug, Default)]
pub struct Distribution {
    /// Each upper bound, and how many observations are in its bucket alone.
    pub buckets: Vec<(u64, u64)>,
    /// All observations, those above the last bound too.
    pub count: u64,
    /// Of all observations.
    pub sum: u64,
}

impl Histogram {
    /// Without observations; `bounds` rise.
    pub fn new(bounds: &'static [u64]) -> Self {
        debug_assert!(bounds.is_sorted());
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts one observation.
    pub fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Counts one observation, in microseconds.
    pub fn observe_micros(&self, took: Duration) {
        self.observe(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// What was observed. An observation that comes meanwhile may be in the count and not yet in the sum.
    pub fn read(&self) -> Distribution {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Relaxed)).collect();
        Distribution {
            count: counts.iter().sum(),
            sum: self.sum.load(Relaxed),
            buckets: self.bounds.iter().copied().zip(counts).collect(),
        }
    }
}

/// Bounds in microseconds for what should take less than some milliseconds: 50 us to 10 s.
pub const SHORT_MICROS: &[u64] = &[
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000,
];
/// Bounds in microseconds for what may take seconds: 10 ms to 2 min.
pub const LONG_MICROS: &[u64] = &[
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    120_000_000,
];
/// Bounds for how many things go together.
pub const NUMBERS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];
/// Bounds for how many bytes go together: 256 B to 8 MiB.
pub const BYTES: &[u64] = &[
    256,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
    8 << 20,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_counts_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::new(&[10, 100]);
        for value in [0, 10, 11, 100, 101, 5000] {
            histogram.observe(value);
        }
        histogram.observe_micros(Duration::from_millis(1));
        let seen = histogram.read();
        assert_eq!(seen.buckets, [(10, 2), (100, 2)]);
        assert_eq!(seen.count, 7, "three are above all bounds");
        assert_eq!(seen.sum, 5222 + 1000);
    }
}
