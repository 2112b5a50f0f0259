//! Between openraft's types and what nodes send each other.

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::raft::{StreamAppendError, StreamAppendResult};
use openraft::vote::RaftLeaderId;

use brama_proto::internal as pb;

use crate::types::{AppendRequest, Entry, LeaderId, LogId, Payload, TypeConfig, Vote};

/// A message of another node that has no meaning.
#[derive(Debug, thiserror::Error)]
#[error("a peer sent {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

pub(crate) fn vote_to_pb(vote: &Vote) -> pb::Vote {
    pb::Vote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_pb(vote: Option<pb::Vote>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(Malformed("no vote"))?;
    Ok(Vote {
        leader_id: LeaderId::new(vote.term, vote.node_id),
        committed: vote.committed,
    })
}

pub(crate) fn log_id_to_pb(log_id: &LogId) -> pb::LogId {
    pb::LogId {
        term: log_id.leader_id.term,
        index: log_id.index,
    }
}

pub(crate) fn log_id_from_pb(log_id: pb::LogId) -> LogId {
    LogId::new(log_id.term.into(), log_id.index)
}

fn entry_to_pb(entry: Entry) -> Result<pb::Entry, serde_json::Error> {
    use pb::entry::Payload as To;
    let payload = match entry.payload {
        EntryPayload::Blank => To::Blank(true),
        EntryPayload::Normal(Payload(bytes)) => To::Batch(bytes),
        EntryPayload::Membership(membership) => To::Membership(Bytes::from(serde_json::to_vec(&membership)?)),
    };
    Ok(pb::Entry {
        log_id: Some(log_id_to_pb(&entry.log_id)),
        payload: Some(payload),
    })
}

fn entry_from_pb(entry: pb::Entry) -> Result<Entry, Malformed> {
    use pb::entry::Payload as From;
    let log_id = log_id_from_pb(entry.log_id.ok_or(Malformed("an entry without a log id"))?);
    let payload = match entry.payload.ok_or(Malformed("an entry without a payload"))? {
        From::Blank(_) => EntryPayload::Blank,
        From::Batch(bytes) => EntryPayload::Normal(Payload(bytes)),
        From::Membership(bytes) => EntryPayload::Membership(
            serde_json::from_slice(&bytes).map_err(|_| Malformed("an unreadable membership"))?,
        ),
    };
    Ok(Entry { log_id, payload })
}

pub(crate) fn append_to_pb(
    request: AppendRequest,
    leader_has_quorum: bool,
) -> Result<pb::AppendRequest, serde_json::Error> {
    Ok(pb::AppendRequest {
        vote: Some(vote_to_pb(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(log_id_to_pb),
        entries: request
            .entries
            .into_iter()
            .map(entry_to_pb)
            .collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.as_ref().map(log_id_to_pb),
        leader_has_quorum,
    })
}

/// Entries that do not follow one another, and what they say they follow, are refused: openraft does not look, and its log would have a hole.
pub(crate) fn append_from_pb(request: pb::AppendRequest) -> Result<AppendRequest, Malformed> {
    let prev_log_id = request.prev_log_id.map(log_id_from_pb);
    let entries: Vec<_> = request
        .entries
        .into_iter()
        .map(entry_from_pb)
        .collect::<Result<_, _>>()?;
    let mut next = prev_log_id.map_or(Some(0), |prev| prev.index.checked_add(1));
    for entry in &entries {
        if Some(entry.log_id.index) != next {
            return Err(Malformed("an entry that does not follow the one before"));
        }
        next = entry.log_id.index.checked_add(1);
    }
    Ok(AppendRequest {
        vote: vote_from_pb(request.vote)?,
        prev_log_id,
        entries,
        leader_commit: request.leader_commit.map(log_id_from_pb),
    })
}

pub(crate) fn append_result_to_pb(result: StreamAppendResult<TypeConfig>) -> pb::AppendResponse {
    use pb::append_response::Result as Kind;
    let (kind, log_id, vote) = match result {
        Ok(log_id) => (Kind::Matched, log_id, None),
        Err(StreamAppendError::Conflict(log_id)) => (Kind::Conflict, Some(log_id), None),
        Err(StreamAppendError::HigherVote(vote)) => (Kind::HigherVote, None, Some(vote)),
    };
    pb::AppendResponse {
        result: kind.into(),
        log_id: log_id.as_ref().map(log_id_to_pb),
        vote: vote.as_ref().map(vote_to_pb),
    }
}

pub(crate) fn append_result_from_pb(
    response: pb::AppendResponse,
) -> Result<StreamAppendResult<TypeConfig>, Malformed> {
    use pb::append_response::Result as Kind;
    let kind = Kind::try_from(response.result).map_err(|_| Malformed("an unknown append result"))?;
    Ok(match kind {
        Kind::Matched => Ok(response.log_id.map(log_id_from_pb)),
        Kind::Conflict => {
            let log_id = response.log_id.ok_or(Malformed("a conflict without a log id"))?;
            Err(StreamAppendError::Conflict(log_id_from_pb(log_id)))
        }
        Kind::HigherVote => Err(StreamAppendError::HigherVote(vote_from_pb(response.vote)?)),
    })
}

pub(crate) fn transfer_response_to_pb(
    response: &openraft::raft::TransferLeaderResponse<TypeConfig>,
) -> Result<pb::TransferResponse, serde_json::Error> {
    Ok(pb::TransferResponse {
        result: Bytes::from(serde_json::to_vec(response)?),
    })
}

pub(crate) fn transfer_response_from_pb(
    response: &pb::TransferResponse,
) -> Result<openraft::raft::TransferLeaderResponse<TypeConfig>, serde_json::Error> {
    serde_json::from_slice(&response.result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_leave_a_hole_are_refused() {
        let log_id = |index| pb::LogId { term: 1, index };
        let entry = |index| pb::Entry {
            log_id: Some(log_id(index)),
            payload: Some(pb::entry::Payload::Blank(true)),
        };
        let read = |prev: Option<u64>, entries: &[u64]| {
            append_from_pb(pb::AppendRequest {
                vote: Some(pb::Vote::default()),
                prev_log_id: prev.map(log_id),
                entries: entries.iter().copied().map(entry).collect(),
                ..Default::default()
            })
        };
        for (prev, right) in [
            (None, &[0, 1][..]),
            (None, &[]),
            (Some(4), &[5, 6, 7]),
            (Some(4), &[]),
        ] {
            read(prev, right).unwrap();
        }
        for (prev, wrong) in [
            (None, &[1][..]),
            (Some(1), &[50]),
            (Some(4), &[5, 7]),
            (Some(4), &[4]),
            (Some(4), &[5, 5]),
            (Some(u64::MAX), &[0]),
        ] {
            read(prev, wrong).unwrap_err();
        }
    }
}
