//! What each node says of the vote on its disk: it must never go back, and within a term it changes once at
//! most: to the node that was elected.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use brama_proto::v1;

use crate::findings::Findings;

/// Term, for whom, whether that node was elected.
type Vote = (u64, u64, bool);

/// The newest vote of each node.
#[derive(Debug, Default)]
pub struct Votes {
    newest: BTreeMap<u64, Vote>,
    terms: u64,
    findings: Findings,
}

impl Votes {
    /// Takes one status into account.
    pub fn hear(&mut self, status: &v1::ClusterStatusResponse) {
        let id = status.header.as_ref().map_or(0, |header| header.node_id);
        let vote = (status.voted_term, status.voted_for, status.vote_won);
        let newest = self.newest.entry(id).or_default();
        self.terms = self.terms.max(vote.0);
        let may_follow = match vote.0.cmp(&newest.0) {
            Ordering::Less => false,
            Ordering::Equal => vote == *newest || (vote.2 && !newest.2),
            Ordering::Greater => true,
        };
        self.findings.require(may_follow, "G8", || {
            format!("node {id} had vote {newest:?} (term, for whom, elected), and now it has {vote:?}")
        });
        *newest = vote;
    }

    /// What was wrong, and the newest term.
    pub fn take(&mut self) -> (Findings, u64) {
        (std::mem::take(&mut self.findings), self.terms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(votes: &[Vote]) -> usize {
        let mut all = Votes::default();
        for (voted_term, voted_for, vote_won) in votes {
            all.hear(&v1::ClusterStatusResponse {
                voted_term: *voted_term,
                voted_for: *voted_for,
                vote_won: *vote_won,
                ..Default::default()
            });
        }
        all.take().0.count("G8")
    }

    #[test]
    fn a_vote_that_is_forgotten_or_changed_is_found() {
        let (yes, no) = (true, false);
        assert_eq!(
            broken(&[(0, 0, no), (1, 2, no), (1, 3, yes), (1, 3, yes), (4, 1, no)]),
            0
        );
        assert_eq!(broken(&[(4, 1, no), (3, 1, no)]), 1, "it went back");
        assert_eq!(broken(&[(4, 1, no), (0, 0, no)]), 1, "it is gone");
        assert_eq!(broken(&[(4, 1, no), (4, 2, no)]), 1, "two votes in one term");
        assert_eq!(broken(&[(4, 1, yes), (4, 2, yes)]), 1, "two leaders in one term");
        assert_eq!(broken(&[(4, 1, yes), (4, 1, no)]), 1, "an election is forgotten");
    }
}
