//! The Rust client of Brama: what a replica of a service uses to share its circuit breakers with the whole fleet.
//!
//! ```no_run
//! # async fn ask_the_bank() -> Result<u32, std::io::Error> { Ok(1) }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use brama_client::{CallError, Client, Policy};
//!
//! let client = Client::builder().endpoints(["10.0.0.1:7401", "10.0.0.2:7401", "10.0.0.3:7401"]).connect().await?;
//! let payments = client.circuit("payment_api");
//! payments.register_with(Policy { max_attempts: Some(3), ..Policy::default() }).await?;
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
//! - [`Circuit`] is a handle on one circuit: questions, manual acts, and calls: [`Circuit::call`], [`Circuit::try_acquire`] and [`Permit`],
//!   [`Circuit::wrap`] for tower services.
//! - The circuits in use are kept in the process: one task follows them by a watch, so that a decision is a read of one word.
//! - Outcomes are added up per circuit; another task sends what there is as one batch of an exactly-once session ([`Reporter`]), one at a time.
//! - While the cluster is out of reach, the client decides as [`OnUnreachable`] says; [`Client::health`] tells.
//! - [`Client::subscribe`] and [`Client::watch`] go on through other nodes with their cursor: in order, no gap, no duplicate.
//!
//! Everything needs a tokio runtime; programs without one use [`blocking`].

pub mod blocking;
mod builder;
mod call;
mod circuit;
mod client;
mod error;
#[cfg(feature = "metrics")]
mod figures;
mod follow;
#[cfg(feature = "macros")]
mod installed;
#[cfg(feature = "tower")]
mod layer;
mod local;
mod outbox;
mod pace;
mod permit;
mod pool;
mod reach;
mod registry;
mod report;
mod retry;
mod session;
mod subscribe;
#[cfg(feature = "testing")]
pub mod testing;
mod watch;
mod wire;

pub use brama_core::circuit::StateName;
pub use brama_core::command::{IfExists, PermitId};
pub use brama_core::event::{Cause, Event, EventKind};
pub use brama_core::policy::{EffectivePolicy, Expiry, ExpiryStrategy, GlobalOptions, Policy, PolicyOption};
pub use brama_core::query::{Availability, CircuitStatus, Totals};
pub use brama_core::reply::{Admission, BatchReply, ItemReply};
pub use brama_core::report::Outcome;
pub use brama_core::{CircuitName, ClusterTime, Metadata, Name, Summary};

pub use crate::builder::ClientBuilder;
pub use crate::call::{CallError, Classified, NotMade, Rejection};
pub use crate::circuit::{Circuit, Configure, Decision, Register, Registered, TryAcquire};
pub use crate::client::{Client, Config, Consistency, List, Page};
pub use crate::error::Error;
#[cfg(feature = "macros")]
pub use crate::installed::{Installed, install, installed};
#[cfg(feature = "tower")]
pub use crate::layer::{
    CircuitLayer, Classify, ErrorIsFailure, GrpcStatus, Guarded, GuardedFuture, HttpStatus,
};
pub use crate::outbox::ReportStats;
pub use crate::permit::{OwnedPermit, Permit};
pub use crate::reach::{Health, HealthEvent, Mode, OnUnreachable};
pub use crate::report::Item;
pub use crate::session::{ReportError, Reporter};
pub use crate::subscribe::{ClientEvent, Cursor, Events, From, Subscription};
pub use crate::watch::{Watch, WatchItem};
#[cfg(feature = "macros")]
pub use brama_macros::circuit_breaker;

/// What `#[circuit_breaker]` writes; not for programs.
#[cfg(feature = "macros")]
#[doc(hidden)]
pub mod __guard {
    pub use crate::installed::{acquire, acquire_blocking, classify, classify_with};
}
