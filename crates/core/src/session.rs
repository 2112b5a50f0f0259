//! Sessions: what makes a batch count exactly once.
//!
//! A session is remembered with its newest sequence number and the reply to it. A batch of that number is a retry: it changes nothing and
//! gets the same reply. After [`SESSION_IDLE_MS`] without a batch a session has ended, whether it was removed yet or not,
//! so that what a retry gets does not depend on when the cluster cleans up.

use serde::{Deserialize, Serialize};

use crate::limits::SESSION_IDLE_MS;
use crate::reply::BatchReply;
use crate::time::ClusterTime;

/// One client's session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The newest sequence number that was applied.
    pub(crate) newest: u64,
    /// The reply to it, encoded: a hundred thousand of them should be small.
    reply: Box<[u8]>,
    /// Cluster time of its newest batch.
    pub(crate) used_at: ClusterTime,
}

impl Session {
    pub(crate) fn new(newest: u64, reply: &BatchReply, used_at: ClusterTime) -> Self {
        let reply = postcard::to_stdvec(reply)
            .expect("a reply of plain numbers has an encoding")
            .into_boxed_slice();
        Self {
            newest,
            reply,
            used_at,
        }
    }

    /// The reply to the newest batch.
    pub(crate) fn reply(&self) -> BatchReply {
        postcard::from_bytes(&self.reply).expect("this type wrote it, and snapshots are checksummed")
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self, now: ClusterTime) -> bool {
        self.used_at.plus_ms(SESSION_IDLE_MS) <= now
    }
}
