//! A subscriber of one node: it writes each event to a file, and tells the director of those that matter to the story.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use brama_client::{Client, ClientEvent, Event, EventKind, Events, From, Subscription};
use futures::StreamExt;
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};

use crate::lines::{Told, director_is_gone, tell};

/// The file is written to the disk at least so often.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// `brama-demo subscriber`
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The one node that it listens to; when that dies, it waits for it and goes on with its cursor
    #[arg(long)]
    endpoint: String,
    /// Where the events go
    #[arg(long)]
    log: PathBuf,
}

/// Listens until the director is gone.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::builder()
        .endpoints([args.endpoint])
        .timeout(Duration::from_secs(20))
        .connect_lazy()?;
    let events = client.subscribe(Subscription::new().from(From::Oldest)).await?;
    let file = File::create(&args.log)
        .await
        .with_context(|| format!("cannot write {}", args.log.display()))?;
    let mut log = BufWriter::new(file);
    let outcome = tokio::select! {
        outcome = write(events, &mut log) => outcome,
        () = director_is_gone() => Ok(()),
    };
    log.flush().await?;
    outcome
}

async fn write(mut events: Events, log: &mut BufWriter<File>) -> anyhow::Result<()> {
    loop {
        match tokio::time::timeout(FLUSH_INTERVAL, events.next()).await {
            Err(_) => log.flush().await?,
            Ok(None) => return Ok(()),
            Ok(Some(Ok(ClientEvent::Event { event, .. }))) => {
                // Everything there is to an event, so that equal files mean equal events.
                log.write_all(format!("{event:?}\n").as_bytes()).await?;
                if !matches!(event.kind, EventKind::Success | EventKind::Failure) {
                    log.flush().await?;
                    tell(&told(&event));
                }
            }
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(error))) => return Err(error.into()),
        }
    }
}

fn told(event: &Event) -> Told {
    Told {
        revision: event.revision,
        time: event.time.as_micros(),
        kind: event.kind.name().to_owned(),
        cause: event.cause.name().to_owned(),
        failure_count: event.failure_count,
        reason: event.reason.as_deref().map(str::to_owned),
        expires_at: event.expires_at.map(brama_client::ClusterTime::as_micros),
    }
}
