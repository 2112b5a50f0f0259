//! `ReportStream`: so many reports in flight, over as many streams as a unary load has connections.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use brama_proto::v1;
use brama_proto::v1::report_stream_response::Result as Answer;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::connect;
use crate::cpu::Meter;
use crate::figures::{Figures, Latencies};
use crate::load::WARM_UP;
use crate::operations::{MANY, circuit};
use crate::wire::Messages;

/// Keeps `in_flight` failures unanswered, closed loop, in batches of `batch`.
///
/// # Errors
/// When a stream cannot be opened or breaks.
pub(crate) async fn reports(
    addresses: &[SocketAddr],
    in_flight: usize,
    batch: usize,
    how_long: Duration,
    pids: &[u32],
) -> anyhow::Result<Figures> {
    anyhow::ensure!(
        batch > 0 && in_flight.is_multiple_of(batch),
        "{in_flight} in flight are not so many batches of {batch}"
    );
    let in_flight = in_flight / batch;
    let latencies = Arc::new(Latencies::new());
    let errors = Arc::new(AtomicU64::new(0));
    let measure_from = Instant::now() + WARM_UP;
    let end = measure_from + how_long;
    let streams = in_flight.clamp(1, connect::MOST);
    let mut tasks = JoinSet::new();
    for n in 0..streams {
        // What does not divide evenly goes to the first ones.
        let window = in_flight / streams + usize::from(n < in_flight % streams);
        let (latencies, errors) = (latencies.clone(), errors.clone());
        tasks.spawn(one_stream(
            addresses[n % addresses.len()],
            n,
            (window, batch),
            measure_from,
            end,
            latencies,
            errors,
        ));
    }
    tokio::time::sleep_until(measure_from).await;
    let meter = Meter::start(pids);
    tokio::time::sleep_until(end).await;
    let cost = meter.read();
    for done in tasks.join_all().await {
        done?;
    }
    Ok(Figures::new(
        &latencies,
        how_long,
        cost,
        errors.load(Ordering::Relaxed),
    ))
}

async fn one_stream(
    address: SocketAddr,
    worker: usize,
    (window, size): (usize, usize),
    measure_from: Instant,
    end: Instant,
    latencies: Arc<Latencies>,
    errors: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let mut turn = 0;
    let mut batch = || {
        let mut item = || {
            turn += 1;
            v1::ReportItem {
                name: Some(circuit((worker as u64 * 7919 + turn * 104_729) % MANY)),
                outcomes: vec![v1::Outcome::Failure.into()],
                ..Default::default()
            }
        };
        v1::ReportRequest {
            session: None,
            items: (0..size).map(|_| item()).collect(),
        }
    };
    let mut begun = VecDeque::with_capacity(window);
    begun.push_back(Instant::now());
    let path = "/brama.v1.Circuits/ReportStream";
    let mut stream = Messages::open(address, path, &batch(), false).await?;
    for _ in 1..window {
        stream.send(&batch())?;
        begun.push_back(Instant::now());
    }
    while !begun.is_empty() {
        let answer: v1::ReportStreamResponse = stream.next().await?;
        let now = Instant::now();
        let Some(began) = begun.pop_front() else { break };
        if now >= measure_from && now < end {
            match answer.result {
                Some(Answer::Response(answers)) if answers.items.len() == size => {
                    (0..size).for_each(|_| latencies.record(now - began));
                }
                _ => {
                    errors.fetch_add(size as u64, Ordering::Relaxed);
                }
            }
        }
        if now < end {
            stream.send(&batch())?;
            begun.push_back(now);
        }
    }
    Ok(())
}
