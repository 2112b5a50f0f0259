//! Consensus and storage of a node: openraft on a journal, with cluster time.
//!
//! The only crate that knows openraft. The node sees a [`Replica`]: it proposes commands (from whatever node), waits for
//! reads to be allowed, and reads the local copy of the state.

mod admin;
mod agreement;
mod batcher;
mod clock;
mod convert;
mod data_dir;
mod disk_watch;
pub mod environment;
pub mod errors;
mod figures;
mod forward;
mod free_space;
pub mod histogram;
mod inner;
mod log_store;
mod network;
mod office;
mod options;
mod origin;
mod peers;
mod quorum;
mod reads;
mod replica;
mod state_store;
mod status;
pub mod types;

/// What this build does wrong, so that a test can show that it would notice; `None` in every other build.
pub const BROKEN_ON_PURPOSE: Option<&str> = if cfg!(feature = "mutant-no-fdatasync") {
    Some("BROKEN ON PURPOSE: this build acknowledges what is not on disk (mutant-no-fdatasync)")
} else {
    None
};

pub use data_dir::DataDirError;
pub use errors::{AdminError, ProposeError, ReadError};
pub use figures::{Figures, SnapshotFigures};
pub use log_store::errors::LogError;
pub use options::{Options, Origin, TimeSource, Timing};
pub use replica::{Replica, StartError};
pub use state_store::SnapshotFileError;
pub use status::{Agreement, Applied, ClusterStatus, Compared, DiskState, Leadership, MemberStatus, Role};
