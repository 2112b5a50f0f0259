//! How load is made: closed (so many operations in flight, each followed by the next) and open (so many a second, whatever the answers do).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cpu::Meter;
use crate::figures::{Figures, Latencies};

/// Not measured: connections are made and caches filled.
pub(crate) const WARM_UP: Duration = Duration::from_secs(1);

/// Something that can be done again and again, by many at once.
pub(crate) trait Operation: Clone + Send + Sync + 'static {
    /// Does it once; `worker` and `turn` may choose what.
    fn run(&self, worker: usize, turn: u64) -> impl Future<Output = Result<(), String>> + Send;
}

/// `workers` operations in flight. Latency counts from when the operation was begun.
pub(crate) async fn closed<O: Operation>(
    operation: O,
    workers: usize,
    how_long: Duration,
    pids: &[u32],
) -> Figures {
    let operation = Arc::new(operation);
    let latencies = Arc::new(Latencies::new());
    let errors = Arc::new(AtomicU64::new(0));
    let measure_from = Instant::now() + WARM_UP;
    let end = measure_from + how_long;
    let mut tasks = JoinSet::new();
    for worker in 0..workers {
        let (operation, latencies, errors) = (operation.clone(), latencies.clone(), errors.clone());
        tasks.spawn(async move {
            for turn in 0.. {
                let began = Instant::now();
                if began >= end {
                    return;
                }
                let outcome = operation.run(worker, turn).await;
                // Counted by when it ended, as a rate is.
                let now = Instant::now();
                if now < measure_from || now >= end {
                    continue;
                }
                count(outcome, now - began, &latencies, &errors);
            }
        });
    }
    tokio::time::sleep_until(measure_from).await;
    let meter = Meter::start(pids);
    tokio::time::sleep_until(end).await;
    let cost = meter.read();
    tasks.join_all().await;
    Figures::new(&latencies, how_long, cost, errors.load(Ordering::Relaxed))
}

/// `rate` operations a second. Latency counts from when the operation should have begun: an answer that is late delays no question, and
/// what a stall holds up counts in full (coordinated omission).
pub(crate) async fn open<O: Operation>(operation: O, rate: f64, how_long: Duration, pids: &[u32]) -> Figures {
    let operation = Arc::new(operation);
    let latencies = Arc::new(Latencies::new());
    let errors = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let measure_from = begin + WARM_UP;
    let end = measure_from + how_long;
    let mut meter = None;
    let mut tasks = JoinSet::new();
    for turn in 0.. {
        let intended = begin + Duration::from_secs_f64(turn as f64 / rate);
        if intended >= end {
            break;
        }
        // The timer has milliseconds: what became due meanwhile is sent together, and its lateness counts.
        if intended > Instant::now() {
            tokio::time::sleep_until(intended).await;
        }
        if intended >= measure_from && meter.is_none() {
            meter = Some(Meter::start(pids));
        }
        let (operation, latencies, errors) = (operation.clone(), latencies.clone(), errors.clone());
        tasks.spawn(async move {
            let worker = usize::try_from(turn).unwrap_or(0);
            let outcome = operation.run(worker, turn).await;
            if intended >= measure_from {
                count(outcome, intended.elapsed(), &latencies, &errors);
            }
        });
        while tasks.try_join_next().is_some() {}
    }
    tasks.join_all().await;
    let cost = meter.map(|meter| meter.read()).unwrap_or_default();
    Figures::new(&latencies, how_long, cost, errors.load(Ordering::Relaxed))
}

fn count(outcome: Result<(), String>, took: Duration, latencies: &Latencies, errors: &AtomicU64) {
    match outcome {
        Ok(()) => latencies.record(took),
        Err(error) => {
            // The first tells what is wrong; the others would hide it.
            if errors.fetch_add(1, Ordering::Relaxed) == 0 {
                eprintln!("    an operation failed: {error}");
            }
        }
    }
}
