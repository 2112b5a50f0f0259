//! The Rust client of Brama: what a replica of a service uses to share its circuit breakers with the whole fleet.
//!
//! ```no_run
//! # async fn ask_the_bank() -> Result<u32, std::io::Error> { Ok(1) }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use brama_client::{CallError, Client, Policy};
//!
//! let client = Client::builder().endpoints(["10.0.0.1:7401", "10.0.0.2:7401", "10.0.0.3:7401"]).connect().await?;
//! let payments = client.circuit("payment_api");
//! payments.register(Policy { max_attempts: Some(3), ..Policy::default() }).await?;
//!
//! match payments.call(ask_the_bank()).await {
//!     Ok(receipt) => println!("paid: {receipt}"),
//!     Err(CallError::Rejected { retry_after, .. }) => println!("not now; again in {retry_after:?}"),
//!     Err(CallError::Inner(error)) => println!("the bank said {error}"),
//!     Err(CallError::Cluster(error)) => println!("could not ask whether to call: {error}"),
//! }
//! client.close().await;
//! # Ok(()) }
//! ```
//!
//! # How it is built
//! - [`Client`] keeps one connection a node and asks the node that answered last; when it fails, the next one. What
//!   may have been applied is repeated only if that changes nothing. It is cheap to clone.
//! - [`Circuit`] is a handle on one circuit: questions, manual acts, and [`Circuit::call`], which asks, runs and reports.
//! - Outcomes go into a bounded queue; one task a client sends what is waiting as one batch of an exactly-once session ([`Reporter`]), one at a time.
//! - [`Client::subscribe`] and [`Client::watch`] go on through other nodes with their cursor: in order, no gap, no duplicate.
//!
//! This version asks the cluster before each call. Everything needs a tokio runtime.

mod builder;
mod call;
mod circuit;
mod client;
mod error;
mod outbox;
mod pool;
mod report;
mod retry;
mod session;
mod subscribe;
mod watch;
mod wire;

pub use brama_core::circuit::StateName;
pub use brama_core::command::{IfExists, PermitId};
pub use brama_core::event::{Cause, Event, EventKind};
pub use brama_core::policy::{EffectivePolicy, Expiry, ExpiryStrategy, GlobalOptions, Policy, PolicyOption};
pub use brama_core::query::{Availability, CircuitStatus, Totals};
pub use brama_core::reply::{Admission, BatchReply, ItemReply};
pub use brama_core::report::Outcome;
pub use brama_core::{CircuitName, ClusterTime, Metadata, Summary};

pub use crate::builder::ClientBuilder;
pub use crate::call::{CallError, Classified};
pub use crate::circuit::{Circuit, Configure, Register, Registered};
pub use crate::client::{Client, Config, Consistency, List, Page};
pub use crate::error::Error;
pub use crate::outbox::ReportStats;
pub use crate::report::Item;
pub use crate::session::{ReportError, Reporter};
pub use crate::subscribe::{ClientEvent, Cursor, Events, From, Subscription};
pub use crate::watch::{Watch, WatchItem};
