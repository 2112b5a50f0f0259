//! What the hashes of several nodes at one position mean. Pure: numbers in, a verdict out.

use std::collections::{BTreeMap, BTreeSet};

/// What this node has to make of the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Whoever answered has this node's hash.
    Equal,
    /// A majority of the voters has this node's hash. These members have another, and are wrong.
    OthersDiffer(Vec<u64>),
    /// A majority of the voters has `right`, and this node has not. These voters are it.
    ThisDiffers { right: u64, majority: Vec<u64> },
    /// These members have another hash than this node, and no majority says who is wrong.
    Undecided(Vec<u64>),
}

/// Judges `own`, this node's hash, by those that `others` gave for the same position.
///
/// `configs` are the sets of voters: one, or two while the membership is changing, and then a majority is one of both. Learners
/// are judged, and have no vote. Members that gave no answer count for nobody: to be away, behind or of another version is not
/// to differ.
pub(crate) fn judge(me: u64, own: u64, others: &BTreeMap<u64, u64>, configs: &[BTreeSet<u64>]) -> Verdict {
    let differing: Vec<u64> = others
        .iter()
        .filter(|(_, hash)| **hash != own)
        .map(|(id, _)| *id)
        .collect();
    if differing.is_empty() {
        return Verdict::Equal;
    }
    let having = |hash: u64| {
        let others = others.iter().filter(move |(_, other)| **other == hash);
        others.map(|(id, _)| *id).chain((own == hash).then_some(me))
    };
    let is_right = |hash: u64| {
        let nodes: BTreeSet<u64> = having(hash).collect();
        let majority = |voters: &BTreeSet<u64>| 2 * voters.intersection(&nodes).count() > voters.len();
        !configs.is_empty() && configs.iter().all(majority)
    };
    if is_right(own) {
        return Verdict::OthersDiffer(differing);
    }
    let found: BTreeSet<u64> = others.values().copied().collect();
    match found.into_iter().find(|hash| is_right(*hash)) {
        Some(right) => {
            let votes = |id: &u64| configs.iter().any(|voters| voters.contains(id));
            let majority = having(right).filter(votes).collect();
            Verdict::ThisDiffers { right, majority }
        }
        None => Verdict::Undecided(differing),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RIGHT: u64 = 0xa;
    const WRONG: u64 = 0xb;
    const WRONG_TOO: u64 = 0xc;

    fn voters(ids: impl IntoIterator<Item = u64>) -> Vec<BTreeSet<u64>> {
        vec![ids.into_iter().collect()]
    }

    fn judged(own: u64, others: &[(u64, u64)], configs: &[BTreeSet<u64>]) -> Verdict {
        judge(1, own, &others.iter().copied().collect(), configs)
    }

    #[test]
    fn of_three_the_two_that_agree_are_right() {
        let three = voters(1..=3);
        assert_eq!(judged(RIGHT, &[(2, RIGHT), (3, RIGHT)], &three), Verdict::Equal);
        assert_eq!(
            judged(RIGHT, &[(2, RIGHT), (3, WRONG)], &three),
            Verdict::OthersDiffer(vec![3])
        );
        let lost = Verdict::ThisDiffers {
            right: RIGHT,
            majority: vec![2, 3],
        };
        assert_eq!(judged(WRONG, &[(2, RIGHT), (3, RIGHT)], &three), lost);
    }

    #[test]
    fn without_a_majority_nobody_is_right() {
        let three = voters(1..=3);
        assert_eq!(judged(RIGHT, &[(3, WRONG)], &three), Verdict::Undecided(vec![3]));
        let all_differ = [(2, WRONG), (3, WRONG_TOO)];
        assert_eq!(judged(RIGHT, &all_differ, &three), Verdict::Undecided(vec![2, 3]));
        assert_eq!(
            judged(RIGHT, &[(2, WRONG)], &voters(1..=2)),
            Verdict::Undecided(vec![2])
        );
        assert_eq!(judged(RIGHT, &[(2, WRONG)], &[]), Verdict::Undecided(vec![2]));
    }

    #[test]
    fn silence_is_not_a_difference() {
        assert_eq!(judged(RIGHT, &[], &voters(1..=3)), Verdict::Equal);
        assert_eq!(judged(RIGHT, &[(2, RIGHT)], &voters(1..=5)), Verdict::Equal);
    }

    #[test]
    fn a_learner_is_judged_and_does_not_judge() {
        let others = voters(2..=4);
        let lost = Verdict::ThisDiffers {
            right: RIGHT,
            majority: vec![2, 3],
        };
        assert_eq!(judged(WRONG, &[(2, RIGHT), (3, RIGHT)], &others), lost);
        let learners = [(2, RIGHT), (5, WRONG), (6, WRONG), (7, WRONG)];
        assert_eq!(
            judged(RIGHT, &learners, &voters([1, 2, 3])),
            Verdict::OthersDiffer(vec![5, 6, 7])
        );
    }

    #[test]
    fn while_the_membership_changes_both_majorities_are_needed() {
        let joint = [voters(1..=3), voters(3..=5)].concat();
        assert_eq!(
            judged(WRONG, &[(2, RIGHT), (3, RIGHT)], &joint),
            Verdict::Undecided(vec![2, 3])
        );
        let both = [(2, RIGHT), (3, RIGHT), (4, RIGHT)];
        assert!(matches!(
            judged(WRONG, &both, &joint),
            Verdict::ThisDiffers { right: RIGHT, .. }
        ));
    }

    proptest! {
        /// Whoever hears what of whom: only a node that a majority contradicts goes, and those who stay are never a minority.
        #[test]
        fn only_a_minority_goes(
            hashes in prop::collection::vec(0_u64..3, 1..8),
            learners in 0_usize..3,
            heard in prop::collection::vec(any::<bool>(), 64),
        ) {
            let nodes: BTreeMap<u64, u64> = (1..).zip(hashes.iter().copied()).collect();
            let voting = nodes.len().saturating_sub(learners).max(1) as u64;
            let configs = voters(1..=voting);
            let votes = |hash: u64| (1..=voting).filter(|id| nodes[id] == hash).count() as u64;
            let mut gone = Vec::new();
            for (me, own) in &nodes {
                let heard = |id: u64| heard[(me * 8 + id) as usize % heard.len()];
                let others = nodes.iter().filter(|(id, _)| *id != me && heard(**id));
                let others = others.map(|(id, hash)| (*id, *hash)).collect();
                match judge(*me, *own, &others, &configs) {
                    Verdict::ThisDiffers { right, majority } => {
                        prop_assert!(right != *own && 2 * votes(right) > voting);
                        prop_assert!(majority.iter().all(|id| nodes[id] == right && *id <= voting));
                        gone.push(*me);
                    }
                    Verdict::OthersDiffer(differing) => {
                        prop_assert!(2 * votes(*own) > voting);
                        prop_assert!(differing.iter().all(|id| nodes[id] != *own));
                    }
                    Verdict::Equal => prop_assert!(others.values().all(|hash| hash == own)),
                    Verdict::Undecided(differing) => prop_assert!(!differing.is_empty()),
                }
            }
            let gone = gone.into_iter().filter(|id| *id <= voting).count() as u64;
            prop_assert!(2 * gone < voting.max(1));
        }

        /// When all hear all, each that differs from a majority goes.
        #[test]
        fn a_minority_goes_as_soon_as_it_hears_the_majority(hashes in prop::collection::vec(0_u64..3, 3..8)) {
            let nodes: BTreeMap<u64, u64> = (1..).zip(hashes.iter().copied()).collect();
            let configs = voters(nodes.keys().copied());
            let right = (0..3).find(|hash| 2 * nodes.values().filter(|other| *other == hash).count() > nodes.len());
            for (me, own) in &nodes {
                let others = nodes.iter().filter(|(id, _)| *id != me).map(|(id, hash)| (*id, *hash)).collect();
                let goes = matches!(judge(*me, *own, &others, &configs), Verdict::ThisDiffers { .. });
                prop_assert_eq!(goes, right.is_some_and(|right| right != *own));
            }
        }
    }
}
