//! What a measurement gives.

use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;

use crate::cpu::Cost;

/// Latencies, written by many tasks.
pub(crate) struct Latencies(Mutex<Histogram<u64>>);

impl Latencies {
    /// Up to a minute, in microseconds, to three digits.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(
            Histogram::new_with_max(60_000_000, 3).unwrap_or_else(|_| unreachable!("these bounds are fine")),
        ))
    }

    /// What is above a minute counts as a minute.
    pub(crate) fn record(&self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.lock().saturating_record(us);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.lock().len()
    }

    /// In milliseconds.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        self.0.lock().value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// One measurement.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// Operations that succeeded, a second.
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Processor time of all servers for one operation, in microseconds.
    pub(crate) server_us: f64,
    /// Processor time of the load generator for one operation, in microseconds: what both systems have to spare for it.
    pub(crate) generator_us: f64,
    /// Operations that failed.
    pub(crate) errors: u64,
    /// Of fan-out: when the last subscriber was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_told_ms: Option<(f64, f64)>,
    /// Of fan-out: what should have been delivered, and was not, within the patience.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) missing: Option<u64>,
    /// Of what happens a few times only: each time, in milliseconds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) each_ms: Vec<f64>,
}

impl Figures {
    pub(crate) fn new(latencies: &Latencies, took: Duration, cost: Cost, errors: u64) -> Self {
        let count = latencies.count();
        Self {
            per_second: count as f64 / took.as_secs_f64(),
            p50_ms: latencies.quantile_ms(0.5),
            p99_ms: latencies.quantile_ms(0.99),
            server_us: cost.servers.as_secs_f64() * 1e6 / count.max(1) as f64,
            generator_us: cost.generator.as_secs_f64() * 1e6 / count.max(1) as f64,
            errors,
            ..Self::default()
        }
    }
}

/// The middle one of an odd number, the mean of the two middle ones of an even number; 0 of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}
