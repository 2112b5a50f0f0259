//! What an operator measures: `/metrics`, in the format of Prometheus.
//!
//! One file a subject, and in it every metric of that subject; `docs/metrics.md` lists them all, and a test compares the two. Nothing is
//! added up at a scrape that could be large: the state machine counts its circuits as they change, the parts of a node count for
//! themselves with atomics, and a scrape reads what they have counted.
//!
//! | subject | counted in |
//! | --- | --- |
//! | [`circuits`] | the state machine: what it holds (`census`), what this node applied (`tally`) |
//! | [`raft`], [`storage`] | `brama_raft::Figures` |
//! | [`requests`] | the port for clients, whatever answers |
//! | [`clients`] | [`Subscribers`], the port for clients |
//! | [`process`] | `/proc`, the runtime |
//! | [`health`] | [`crate::health`] |

mod circuits;
mod clients;
mod health;
mod process;
mod raft;
pub(crate) mod requests;
mod sheet;
mod storage;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::Registry;

use brama_raft::Replica;

use self::process::Process;
use self::requests::Requests;
use self::sheet::{Sheet, Subject};
use crate::config::Config;
use crate::connections::Door;
use crate::health::Health;
use crate::subscribers::Subscribers;

/// How a scrape is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The text format of Prometheus, version 0.0.4, which everybody reads.
    Text,
    /// OpenMetrics 1.0, for those who ask for it.
    OpenMetrics,
}

impl Format {
    /// For the header `Content-Type`.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Text => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// All metrics of a node.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// How long the newest scrape took, in microseconds.
    scrape_micros: Arc<AtomicU64>,
}

/// What is measured.
pub(crate) struct Measured {
    pub(crate) replica: Replica,
    pub(crate) health: Arc<Health>,
    pub(crate) requests: Arc<Requests>,
    pub(crate) subscribers: Subscribers,
    pub(crate) door: Arc<Door>,
}

impl Metrics {
    /// Knows every metric of a node; inside a runtime, whose tasks it counts.
    pub(crate) fn new(config: &Config, measured: Measured) -> Self {
        let Measured {
            replica,
            health,
            requests,
            subscribers,
            door,
        } = measured;
        let scrape_micros = Arc::new(AtomicU64::new(0));
        let mut registry = Registry::default();
        let mut add = Subjects(&mut registry);

        let process = Process::new(config, replica.clone());
        add.subject("process", move |sheet| process.write(sheet));
        add.subject("health", move |sheet| health::write(sheet, &health));
        let of = replica.clone();
        add.subject("circuits", move |sheet| circuits::write(sheet, &of));
        let of = replica.clone();
        add.subject("raft", move |sheet| raft::write(sheet, &of));
        let of = replica.clone();
        add.subject("storage", move |sheet| storage::write(sheet, &of));
        add.subject("clients", move |sheet| {
            clients::write(sheet, &replica, &subscribers, &door)
        });
        add.subject("requests", move |sheet| requests.write(sheet));
        let micros = scrape_micros.clone();
        add.subject("scrape", move |sheet| {
            sheet.gauge(
                "brama_scrape_duration_seconds",
                "How long the scrape before this one took to write",
                Duration::from_micros(micros.load(Relaxed)),
            )
        });
        Self {
            registry,
            scrape_micros,
        }
    }

    /// Every metric as it is now. Some milliseconds at most; it may read files of `/proc`, so not for a runtime's thread.
    ///
    /// # Errors
    /// When a value has no representation, which none of ours is.
    pub(crate) fn render(&self, format: Format) -> Result<String, fmt::Error> {
        let began = Instant::now();
        let mut page = String::with_capacity(64 * 1024);
        match format {
            Format::Text => prometheus_text::encode(&mut page, &self.registry)?,
            Format::OpenMetrics => text::encode(&mut page, &self.registry)?,
        }
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.scrape_micros.store(micros, Relaxed);
        Ok(page)
    }
}

struct Subjects<'a>(&'a mut Registry);

impl Subjects<'_> {
    fn subject(
        &mut self,
        name: &'static str,
        write: impl Fn(&mut Sheet<'_>) -> fmt::Result + Send + Sync + 'static,
    ) {
        self.0.register_collector(Box::new(Subject(name, write)));
    }
}
