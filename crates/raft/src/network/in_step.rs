//! Keeps the answers of a follower in step with what it was asked.
//!
//! openraft sends many requests on one stream, and takes an answer that a follower has everything up to some entry for the answer to *each*
//! unanswered request that ends there or before; the follower was heard, it believes, when the newest of them was sent. But the
//! newest may be one without entries, sent later, to tell what was committed. If the answer to an earlier one has been on its way for
//! seconds, the leader believes that it leads still, when another has long been elected, and answers linearizable reads from what it has
//! (simulation, seed 1020 of the build that it was found with).
//!
//! So an answer is kept back while a request that it could be mistaken for is unanswered. Nothing is lost by that: the answer to that one says the
//! same, and if there is none, the stream breaks and openraft asks anew.

use std::collections::VecDeque;
use std::sync::Arc;

use openraft::raft::StreamAppendResult;
use parking_lot::Mutex;

use crate::types::{AppendRequest, LogId, TypeConfig};

/// Where each unanswered request ends. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct InStep {
    unanswered: Arc<Mutex<VecDeque<Option<LogId>>>>,
}

impl InStep {
    /// openraft has made this request: whether it is sent or not, it counts for unanswered from here on.
    pub(super) fn asked(&self, request: &AppendRequest) {
        let last = request.entries.last().map(|entry| entry.log_id);
        self.unanswered.lock().push_back(last.or(request.prev_log_id));
    }

    /// The next answer, in the order of the requests. False: keep it back.
    pub(super) fn may_tell(&self, answer: &StreamAppendResult<TypeConfig>) -> bool {
        let mut unanswered = self.unanswered.lock();
        unanswered.pop_front();
        match answer {
            Ok(matching) => !unanswered.iter().any(|last| last <= matching),
            Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;
    use openraft::raft::StreamAppendError;
    use openraft::vote::RaftLeaderId as _;

    use super::*;
    use crate::types::{Entry, LeaderId, Vote};

    fn log_id(index: u64) -> LogId {
        LogId::new(LeaderId::new(1, 1).to_committed(), index)
    }

    fn vote(term: u64) -> Vote {
        Vote {
            leader_id: LeaderId::new(term, 1),
            committed: true,
        }
    }

    fn request(prev: u64, entries: &[u64]) -> AppendRequest {
        let entries = entries.iter().map(|index| Entry {
            log_id: log_id(*index),
            payload: EntryPayload::Blank,
        });
        AppendRequest {
            vote: vote(1),
            prev_log_id: Some(log_id(prev)),
            entries: entries.collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn an_answer_waits_for_the_requests_that_it_could_be_mistaken_for() {
        let in_step = InStep::default();
        in_step.asked(&request(1, &[2, 3]));
        in_step.asked(&request(3, &[]));
        in_step.asked(&request(3, &[4]));
        assert!(
            !in_step.may_tell(&Ok(Some(log_id(3)))),
            "the second is unanswered"
        );
        assert!(in_step.may_tell(&Ok(Some(log_id(3)))), "the third ends behind it");
        assert!(in_step.may_tell(&Ok(Some(log_id(4)))));
        in_step.asked(&request(4, &[]));
        assert!(in_step.may_tell(&Ok(Some(log_id(4)))));
    }

    #[test]
    fn a_refusal_is_told_at_once() {
        let in_step = InStep::default();
        in_step.asked(&request(3, &[]));
        in_step.asked(&request(3, &[]));
        assert!(in_step.may_tell(&Err(StreamAppendError::HigherVote(vote(2)))));
    }
}
