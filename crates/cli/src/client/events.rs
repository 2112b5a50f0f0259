//! Commands that follow what happens: `events`, and `watch`, which begins with how things are.
//!
//! Both go on at another node when theirs goes away, from the cursor of the last message: no event is missing or printed twice.

use std::io::Write;
use std::time::{Duration, SystemTime};

use brama_proto::v1;
use clap::Args;
use tonic::{Request, Streaming};

use super::errors::{explain, resumable};
use super::remote::{Remote, Repeat, client};
use super::{print_json, text};
use crate::exit::{Failure, Outcome};

use v1::subscribe_request::From;
use v1::subscribe_response::Message as Subscribed;
use v1::watch_response::Message as Watched;

/// Before a stream that ended is opened again: a node that ends each one at once must not be asked without end.
const RESUME_AFTER: Duration = Duration::from_millis(100);

/// `brama events ..`
#[derive(Args, Debug)]
pub(crate) struct Events {
    /// Where to begin: now, oldest, or after a cursor that was printed with --json or --cursors
    #[arg(long, value_name = "WHERE", default_value = "now")]
    from: String,
    /// Only the circuit of this name (and --name-scope); may be repeated
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// The scope of every --name
    #[arg(long, value_name = "SCOPE", requires = "names")]
    name_scope: Option<String>,
    /// Only circuits of this scope ("": of none); may be repeated
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Only these events, e.g. circuit_opened or state_change; may be repeated
    #[arg(long = "event", value_name = "EVENT", value_delimiter = ',')]
    events: Vec<String>,
    /// A CEL expression, e.g. 'event.metadata["team"] == "pay"'
    #[arg(long, value_name = "CEL", default_value = "")]
    filter: String,
    /// End after so many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print the cursor after each event
    #[arg(long)]
    cursors: bool,
    /// With --json: print progress messages too
    #[arg(long, requires = "json")]
    progress: bool,
    #[command(flatten)]
    remote: Remote,
}

/// `brama watch ..`
#[derive(Args, Debug)]
pub(crate) struct Watch {
    /// Only these circuits, whether they exist yet or not
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The scope of every NAME
    #[arg(long, value_name = "SCOPE", requires = "names")]
    scope: Option<String>,
    /// End once the circuits were printed
    #[arg(long)]
    snapshot_only: bool,
    /// End after so many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

pub(crate) async fn events(args: Events) -> Outcome {
    let name = |identifier| v1::CircuitName {
        scope: args.name_scope.clone(),
        identifier,
    };
    let request = v1::SubscribeRequest {
        names: args.names.into_iter().map(name).collect(),
        scopes: args.scopes,
        events: args.events,
        filter: args.filter,
        from: match args.from.as_str() {
            "now" => None,
            "oldest" => Some(From::Oldest(true)),
            cursor => Some(From::After(cursor.to_owned())),
        },
    };
    let printer = Printer {
        json: args.remote.json,
        follows: true,
        cursors: args.cursors,
        progress: args.progress,
        left: args.count,
    };
    follow(&args.remote, request, printer, false).await
}

pub(crate) async fn watch(args: Watch) -> Outcome {
    let name = |identifier| v1::CircuitName {
        scope: args.scope.clone(),
        identifier,
    };
    let names: Vec<_> = args.names.into_iter().map(name).collect();
    let request = v1::WatchRequest {
        names: names.clone(),
        snapshot_only: args.snapshot_only,
        changes_only: false,
    };
    let mut printer = Printer {
        json: args.remote.json,
        follows: !args.snapshot_only,
        cursors: false,
        progress: false,
        left: args.count,
    };
    let mut cursor = None;
    // Until the snapshot is complete, a lost connection means to begin again: nothing of it was printed.
    while cursor.is_none() {
        let open = async |channel| {
            client!(events_client::EventsClient, channel)
                .watch(Request::new(request.clone()))
                .await
        };
        let mut stream = args.remote.open(false, open).await?;
        let Some((circuits, synced)) = snapshot(&mut stream).await? else {
            tokio::time::sleep(RESUME_AFTER).await;
            continue;
        };
        printer.circuits(&circuits, &synced)?;
        cursor = Some(synced.cursor);
        if args.snapshot_only {
            return Ok(());
        }
        while let Some(message) = next(&mut stream).await? {
            if !message.cursor.is_empty() {
                cursor = Some(message.cursor.clone());
            }
            if let Some(Watched::Event(event)) = &message.message
                && printer.watched(&message, event)?
            {
                return Ok(());
            }
        }
    }
    // The rest is a subscription.
    let request = v1::SubscribeRequest {
        names,
        from: cursor.map(From::After),
        ..Default::default()
    };
    follow(&args.remote, request, printer, true).await
}

/// Prints a subscription, through whichever nodes there are. `resumed`: it was open before.
async fn follow(
    remote: &Remote,
    mut request: v1::SubscribeRequest,
    mut printer: Printer,
    mut resumed: bool,
) -> Outcome {
    loop {
        let open = async |channel| {
            client!(events_client::EventsClient, channel)
                .subscribe(Request::new(request.clone()))
                .await
        };
        let mut stream: Streaming<v1::SubscribeResponse> = remote.open(resumed, open).await?;
        resumed = true;
        while let Some(message) = next(&mut stream).await? {
            request.from = Some(From::After(message.cursor.clone()));
            if printer.subscribed(&message)? {
                return Ok(());
            }
        }
        tokio::time::sleep(RESUME_AFTER).await;
    }
}

/// The next message; `None` when the stream can be resumed elsewhere.
async fn next<M>(stream: &mut Streaming<M>) -> Result<Option<M>, Failure> {
    match stream.message().await {
        Ok(message) => Ok(message),
        Err(status) if resumable(&status) => Ok(None),
        Err(status) => Err(explain(&status, Repeat::Always)),
    }
}

/// The whole snapshot and the message that completes it; `None` if the connection was lost before.
async fn snapshot(
    stream: &mut Streaming<v1::WatchResponse>,
) -> Result<Option<(Vec<v1::Circuit>, v1::WatchResponse)>, Failure> {
    let mut circuits = Vec::new();
    while let Some(message) = next(stream).await? {
        match message.message {
            Some(Watched::Snapshot(part)) => circuits.extend(part.circuits),
            Some(Watched::Synced(_)) => return Ok(Some((circuits, message))),
            _ => {}
        }
    }
    Ok(None)
}

struct Printer {
    json: bool,
    /// Events come after the snapshot.
    follows: bool,
    cursors: bool,
    progress: bool,
    /// Events until the end.
    left: Option<u64>,
}

impl Printer {
    fn circuits(&self, circuits: &[v1::Circuit], synced: &v1::WatchResponse) -> Outcome {
        let now = SystemTime::now();
        for circuit in circuits {
            if self.json {
                let part = v1::WatchSnapshot {
                    circuits: vec![circuit.clone()],
                };
                let message = v1::WatchResponse {
                    cursor: String::new(),
                    message: Some(Watched::Snapshot(part)),
                };
                print_json("WatchResponse", &message)?;
            } else {
                let time = circuit
                    .changed_at
                    .as_ref()
                    .map(text::time_of_day)
                    .unwrap_or_default();
                let (name, situation) = (text::name(circuit.name.as_ref()), text::situation(circuit, now));
                writeln!(std::io::stdout(), "{time}  {name:<24}  {situation}")?;
            }
        }
        if self.json {
            return print_json("WatchResponse", synced);
        }
        if self.follows {
            let circuits = text::count(circuits.len() as u64, "circuit");
            writeln!(std::io::stdout(), "-- {circuits}; what happens from here on:")?;
        }
        Ok(())
    }

    /// True when this was the last one.
    fn watched(&mut self, message: &v1::WatchResponse, event: &v1::Event) -> Result<bool, Failure> {
        if self.json {
            print_json("WatchResponse", message)?;
        } else {
            self.event(event, &message.cursor)?;
        }
        Ok(self.was_last())
    }

    /// True when this was the last one.
    fn subscribed(&mut self, message: &v1::SubscribeResponse) -> Result<bool, Failure> {
        match &message.message {
            Some(Subscribed::Event(event)) => {
                if self.json {
                    print_json("SubscribeResponse", message)?;
                } else {
                    self.event(event, &message.cursor)?;
                }
                Ok(self.was_last())
            }
            Some(Subscribed::Progress(_)) if self.progress => {
                print_json("SubscribeResponse", message).map(|()| false)
            }
            _ => Ok(false),
        }
    }

    fn event(&self, event: &v1::Event, cursor: &str) -> Outcome {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", text::event(event))?;
        if self.cursors {
            writeln!(out, "    --from {cursor}")?;
        }
        Ok(())
    }

    fn was_last(&mut self) -> bool {
        match &mut self.left {
            Some(left) => {
                *left = left.saturating_sub(1);
                *left == 0
            }
            None => false,
        }
    }
}
