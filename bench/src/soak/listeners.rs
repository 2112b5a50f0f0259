//! Subscribers that come and go, each to another node, with another selection; some go on where they were.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use brama_faults::findings::Findings;
use brama_faults::rpc::{endpoint, reason};
use brama_proto::v1;
use brama_proto::v1::events_client::EventsClient;
use brama_proto::v1::subscribe_request::From;
use brama_proto::v1::subscribe_response::Message;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::traffic::{SCOPES, scope};

/// How long one stays, in milliseconds.
const STAYS: std::ops::Range<u64> = 2_000..40_000;
/// Of so many, one hears everything.
const ALL_OF: u64 = 16;
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Default)]
pub(super) struct Listeners {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    subscriptions: AtomicU64,
    events: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

/// One that listens, again and again.
struct Listener {
    shared: Arc<Shared>,
    rng: SmallRng,
    hears_all: bool,
    selection: v1::SubscribeRequest,
    /// Of the newest event.
    revision: Option<u64>,
}

impl Listeners {
    pub(super) fn start(
        addresses: Vec<SocketAddr>,
        number: u64,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let listeners = Self::default();
        for n in 0..number {
            let listener = Listener {
                shared: listeners.shared.clone(),
                rng: SmallRng::seed_from_u64(n),
                hears_all: n % ALL_OF == 0,
                selection: v1::SubscribeRequest::default(),
                revision: None,
            };
            tasks.spawn(
                stop.clone()
                    .run_until_cancelled_owned(listener.run(addresses.clone())),
            );
        }
        listeners
    }

    pub(super) fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (subscriptions, events) = (load(&self.shared.subscriptions), load(&self.shared.events));
        findings.figure(
            "subscriptions",
            format!("{subscriptions}, which heard {events} events"),
        );
        for wrong in self.shared.wrong.lock().drain(..) {
            findings.broken("G7", wrong);
        }
        if events == 0 {
            findings.untold("no subscriber heard anything");
        }
        findings.checked("G7", format!("{events} events in order"));
        findings
    }
}

impl Listener {
    async fn run(mut self, addresses: Vec<SocketAddr>) {
        loop {
            if self.selection.from.is_none() || self.rng.random_bool(0.5) {
                self.choose();
            }
            let address = addresses[self.rng.random_range(0..addresses.len())];
            let stay = Duration::from_millis(self.rng.random_range(STAYS));
            // It goes without a word; how it ended before that was heard.
            let _ = tokio::time::timeout(stay, self.listen(address)).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Another selection, from now on.
    fn choose(&mut self) {
        self.revision = None;
        self.selection = v1::SubscribeRequest::default();
        if self.hears_all {
            return;
        }
        match self.rng.random_range(0..3) {
            0 => self.selection.scopes = vec![scope(self.rng.random_range(0..SCOPES))],
            1 => self.selection.events = vec!["circuit_opened".to_owned(), "circuit_closed".to_owned()],
            _ => {
                self.selection.scopes = vec![scope(self.rng.random_range(0..SCOPES))];
                self.selection.filter = r#"event.type == "failure" && event.failure_count > 1"#.to_owned();
            }
        }
    }

    async fn listen(&mut self, address: SocketAddr) {
        self.shared.subscriptions.fetch_add(1, Ordering::Relaxed);
        let Ok(endpoint) = endpoint(address) else {
            return;
        };
        let mut client = EventsClient::new(endpoint.connect_lazy());
        let mut messages = match client.subscribe(self.selection.clone()).await {
            Ok(messages) => messages.into_inner(),
            Err(status) => return self.ended(&status),
        };
        loop {
            match messages.message().await {
                Ok(Some(message)) => self.hear(message),
                Ok(None) => return,
                Err(status) => return self.ended(&status),
            }
        }
    }

    fn hear(&mut self, message: v1::SubscribeResponse) {
        self.selection.from = Some(From::After(message.cursor));
        if let Some(Message::Event(event)) = message.message {
            self.shared.events.fetch_add(1, Ordering::Relaxed);
            let in_order = self.revision.is_none_or(|before| {
                event.revision > before && (!self.hears_all || event.revision == before + 1)
            });
            if !in_order {
                let text = format!("revision {} came after {:?}", event.revision, self.revision);
                self.shared.wrong.lock().push(text);
            }
            self.revision = Some(event.revision);
        }
    }

    fn ended(&mut self, status: &tonic::Status) {
        // One that was away for too long begins anew.
        if reason(status).as_deref() == Some("EVENTS_COMPACTED") {
            self.selection.from = None;
        }
    }
}
