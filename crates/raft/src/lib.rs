//! Consensus and storage of a node: openraft on sled, with cluster time.
//!
//! The only crate that knows openraft or sled. The node sees a [`Replica`]: it proposes commands (from whatever node), waits for
//! reads to be allowed, and reads the local copy of the state.

pub mod errors;
mod replica;
pub mod types;

pub use errors::{AdminError, ProposeError, ReadError};
pub use replica::{
    Applied, ClusterStatus, Leadership, MemberStatus, Options, Origin, Replica, Role, StartError, TimeSource,
    Timing,
};
