//! Metrics of consensus: who leads, how far the log is, and how the others follow.

use std::fmt;

use brama_raft::Replica;

use super::sheet::Sheet;

pub(super) fn write(sheet: &mut Sheet<'_>, replica: &Replica) -> fmt::Result {
    let status = replica.status();
    let figures = replica.figures();
    let leads = replica.leadership().borrow().term.is_some();
    sheet.gauge(
        "brama_raft_is_leader",
        "Whether this node leads: 1 on one node of a healthy cluster",
        leads,
    )?;
    sheet.gauge(
        "brama_raft_has_leader",
        "Whether this node knows who leads",
        status.leader_id.is_some(),
    )?;
    sheet.gauge(
        "brama_raft_has_quorum",
        "Whether this node is in touch with a majority",
        status.has_quorum,
    )?;
    sheet.gauge("brama_raft_term", "The term that this node is in", status.term)?;
    sheet.counter(
        "brama_raft_elections_total",
        "Elections in which this node stood",
        figures.elections,
    )?;
    sheet.counter(
        "brama_raft_leader_changes_total",
        "How often this node learned of another leader, or of the same one in a new term",
        figures.leader_changes,
    )?;
    sheet.gauge(
        "brama_raft_last_log_index",
        "Index of the newest entry in this node's log",
        status.last_log_index,
    )?;
    sheet.gauge(
        "brama_raft_committed_index",
        "Index up to which this node knows the log to be on a majority",
        status.committed_index,
    )?;
    sheet.gauge(
        "brama_raft_applied_index",
        "Index up to which this node has applied the log",
        status.applied_index,
    )?;
    sheet.gauge(
        "brama_raft_snapshot_index",
        "Index that the newest snapshot covers; 0: there is none",
        status.snapshot_index,
    )?;
    sheet.gauge(
        "brama_raft_purged_index",
        "Index up to which the log was removed; 0: none was",
        status.purged_index,
    )?;
    let voters = status.members.iter().filter(|member| member.voter).count();
    let learners = status.members.len() - voters;
    sheet.gauges(
        "brama_raft_members",
        "Members of the cluster, as this node knows them",
        ["kind"],
        [(["voter"], voters), (["learner"], learners)],
    )?;
    // Only a leader knows these; nobody shall take what an earlier one knew for what is.
    let others = status
        .members
        .iter()
        .filter(|member| leads && member.node_id != replica.node_id());
    let lags = others.filter_map(|member| {
        let lag = status.last_log_index.saturating_sub(member.matched_index?);
        Some(([member.node_id.to_string()], lag))
    });
    sheet.gauges(
        "brama_raft_peer_lag_entries",
        "On the leader: entries that another member does not have yet",
        ["peer"],
        lags,
    )?;
    let silences = figures
        .peer_silence
        .iter()
        .map(|(id, silence)| ([id.to_string()], *silence));
    sheet.gauges(
        "brama_raft_peer_silence_seconds",
        "On the leader: time since another member last answered",
        ["peer"],
        silences.filter(|_| leads),
    )?;
    sheet.counters(
        "brama_forwarded_total",
        "What this node asked the leader for, and what came of it",
        ["request", "result"],
        figures
            .forwarded
            .iter()
            .map(|(request, result, count)| ([*request, *result], *count)),
    )?;
    agreement(sheet, replica)?;
    sheet.gauges(
        "brama_raft_queue_length",
        "Groups of commands that wait for a place in the log, and requests that wait for their way to the leader",
        ["queue"],
        [
            (["commands"], figures.waiting_commands),
            (["forward"], figures.waiting_forwards),
        ],
    )
}

fn agreement(sheet: &mut Sheet<'_>, replica: &Replica) -> fmt::Result {
    let agreement = replica.agreement();
    sheet.counter(
        "brama_agreement_differences_total",
        "How often another member's state was seen to differ from this node's",
        agreement.differences,
    )?;
    sheet.gauge(
        "brama_agreement_index",
        "Index at which this node's state was last compared with another's; 0: it was not yet",
        agreement.index,
    )?;
    sheet.gauges(
        "brama_agreement_age_seconds",
        "Time since this node's state was last compared with another's",
        [],
        agreement.compared_ago.map(|ago| ([""; 0], ago)),
    )
}
