//! Consensus and storage of a node: openraft on a journal, with cluster time.
//!
//! The only crate that knows openraft. The node sees a [`Replica`]: it proposes commands (from whatever node), waits for
//! reads to be allowed, and reads the local copy of the state.

mod admin;
mod agreement;
mod batcher;
mod clock;
mod convert;
mod crowd;
mod data_dir;
mod disk_watch;
mod drift;
pub mod environment;
pub mod errors;
pub mod failpoints;
pub mod fault_build;
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

pub use data_dir::DataDirError;
pub use errors::{AdminError, ProposeError, ReadError};
pub use figures::{Figures, SnapshotFigures};
pub use log_store::errors::LogError;
pub use options::{Options, Origin, TimeSource, Timing};
pub use replica::{Replica, StartError};
pub use state_store::SnapshotFileError;
pub use status::{Agreement, Applied, ClusterStatus, Compared, DiskState, Leadership, MemberStatus, Role};
