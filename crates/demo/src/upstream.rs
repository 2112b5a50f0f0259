//! The upstream: an HTTP server that fails when it is told to, and remembers each request that reached it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use crate::lines::{Listening, Seen, director_is_gone, now, tell};

/// How long an answer takes: long enough that calls overlap, as they do in life.
const WORK: Duration = Duration::from_millis(30);
/// The demo makes about 10,000 requests.
const MAX_SEEN: usize = 200_000;

#[derive(Default)]
struct Upstream {
    failing: AtomicBool,
    seen: Mutex<Vec<Seen>>,
}

#[derive(Deserialize)]
struct Caller {
    replica: usize,
}

#[derive(Deserialize)]
struct Mode {
    failing: bool,
}

#[derive(Deserialize)]
struct Since {
    index: usize,
}

/// Serves until the director is gone.
pub(crate) async fn run() -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .await
        .context("no port for the upstream")?;
    let address = listener.local_addr()?.to_string();
    let upstream = Arc::new(Upstream::default());
    let routes = Router::new()
        .route("/pay", post(pay))
        .route("/mode", post(set_mode))
        .route("/seen", get(seen))
        .with_state(upstream);
    tell(&Listening { address });
    axum::serve(listener, routes)
        .with_graceful_shutdown(director_is_gone())
        .await?;
    Ok(())
}

async fn pay(
    State(upstream): State<Arc<Upstream>>,
    Query(caller): Query<Caller>,
) -> (StatusCode, &'static str) {
    let arrived = now();
    // Decided on arrival, as the phases of the closing table are: what arrives while the upstream is well succeeds.
    let failed = upstream.failing.load(Ordering::SeqCst);
    tokio::time::sleep(WORK).await;
    let mut seen = upstream.seen.lock().await;
    if seen.len() < MAX_SEEN {
        seen.push(Seen {
            replica: caller.replica,
            arrived,
            answered: now(),
            failed,
        });
    }
    if failed {
        (StatusCode::SERVICE_UNAVAILABLE, "no payments today")
    } else {
        (StatusCode::OK, "paid")
    }
}

/// Answers with the time from which on it holds.
async fn set_mode(State(upstream): State<Arc<Upstream>>, Query(mode): Query<Mode>) -> String {
    upstream.failing.store(mode.failing, Ordering::SeqCst);
    now().to_string()
}

async fn seen(State(upstream): State<Arc<Upstream>>, Query(since): Query<Since>) -> axum::Json<Vec<Seen>> {
    axum::Json(
        upstream
            .seen
            .lock()
            .await
            .iter()
            .skip(since.index)
            .copied()
            .collect(),
    )
}
