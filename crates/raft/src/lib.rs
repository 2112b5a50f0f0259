//! Consensus and storage of a node: openraft on sled, with cluster time.
//!
//! The only crate that knows openraft or sled. The node sees a [`Replica`]: it proposes commands (from whatever node), waits for
//! reads to be allowed, and reads the local copy of the state.

mod admin;
mod batcher;
mod clock;
mod convert;
mod data_dir;
pub mod errors;
mod forward;
mod log_store;
mod network;
mod office;
mod origin;
mod peers;
mod quorum;
mod reads;
mod replica;
mod state_store;
pub mod types;

pub use data_dir::DataDirError;
pub use errors::{AdminError, ProposeError, ReadError};
pub use log_store::errors::LogError;
pub use replica::{
    Applied, ClusterStatus, Leadership, MemberStatus, Options, Origin, Replica, Role, StartError, TimeSource,
    Timing,
};
pub use state_store::SnapshotFileError;
