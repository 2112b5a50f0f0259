//! `ReportStream`: so many batches in flight, over as many streams as a unary load has connections.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use brama_proto::v1;
use brama_proto::v1::circuits_client::CircuitsClient;
use brama_proto::v1::report_stream_response::Result as Answer;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::cpu::Meter;
use crate::figures::{Figures, Latencies};
use crate::load::WARM_UP;
use crate::operations::{MANY, circuit};

/// Keeps `in_flight` one-failure batches unanswered, closed loop.
///
/// # Errors
/// When a stream cannot be opened or breaks.
pub(crate) async fn reports(
    channels: Vec<Channel>,
    in_flight: usize,
    how_long: Duration,
    pids: &[u32],
) -> anyhow::Result<Figures> {
    let latencies = Arc::new(Latencies::new());
    let errors = Arc::new(AtomicU64::new(0));
    let measure_from = Instant::now() + WARM_UP;
    let end = measure_from + how_long;
    let streams = channels.len();
    let mut tasks = JoinSet::new();
    for (n, channel) in channels.into_iter().enumerate() {
        // What does not divide evenly goes to the first ones.
        let window = in_flight / streams + usize::from(n < in_flight % streams);
        let (latencies, errors) = (latencies.clone(), errors.clone());
        tasks.spawn(one_stream(
            channel,
            n,
            window,
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
    channel: Channel,
    worker: usize,
    window: usize,
    measure_from: Instant,
    end: Instant,
    latencies: Arc<Latencies>,
    errors: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let (sender, receiver) = mpsc::channel(window.max(1));
    let mut turn = 0;
    let mut batch = || {
        turn += 1;
        v1::ReportRequest {
            session: None,
            items: vec![v1::ReportItem {
                name: Some(circuit((worker as u64 * 7919 + turn * 104_729) % MANY)),
                outcomes: vec![v1::Outcome::Failure.into()],
                ..Default::default()
            }],
        }
    };
    let mut begun = VecDeque::with_capacity(window);
    for _ in 0..window {
        sender.send(batch()).await?;
        begun.push_back(Instant::now());
    }
    let mut client = CircuitsClient::new(channel);
    let mut answers = client
        .report_stream(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    while let Some(answer) = answers.message().await? {
        let now = Instant::now();
        let Some(began) = begun.pop_front() else {
            anyhow::bail!("an answer that nobody asked for")
        };
        if now >= measure_from && now < end {
            match answer.result {
                Some(Answer::Response(_)) => latencies.record(now - began),
                _ => {
                    errors.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        if now < end {
            sender.send(batch()).await?;
            begun.push_back(now);
        } else if begun.is_empty() {
            break;
        }
    }
    Ok(())
}
