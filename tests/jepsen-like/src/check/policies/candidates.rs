//! Which events an operation can have, where events do not name their operations.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::history::Op;

/// An operation that should have one of the events, or can have.
pub(super) struct Asked<'a> {
    pub(super) op: &'a Op,
    /// It happened after this revision.
    pub(super) after: u64,
    /// And not after this.
    pub(super) until: u64,
    /// Whether it happened at all.
    pub(super) certain: bool,
}

/// By operation: the events that can be its own. Whoever certainly has one and can have only one takes it from the others; and who is in doubt can
/// have only what those that are certain can do without.
pub(super) fn candidates(asked: &[Asked<'_>], revisions: &[u64]) -> Vec<Vec<u64>> {
    let mut possible: Vec<Vec<u64>> = asked
        .iter()
        .map(|asked| {
            let first = revisions.partition_point(|revision| *revision <= asked.after);
            let end = revisions.partition_point(|revision| *revision <= asked.until);
            revisions[first.min(end)..end].to_vec()
        })
        .collect();
    let spare = spare(asked, &possible, revisions);
    for (asked, revisions) in asked.iter().zip(&mut possible) {
        if !asked.certain {
            revisions.retain(|revision| spare.contains(revision));
        }
    }
    let mut settled = vec![false; asked.len()];
    while let Some(n) =
        (0..asked.len()).find(|n| !settled[*n] && asked[*n].certain && possible[*n].len() == 1)
    {
        settled[n] = true;
        let taken = possible[n][0];
        for (other, revisions) in possible.iter_mut().enumerate() {
            if other != n {
                revisions.retain(|revision| *revision != taken);
            }
        }
    }
    possible
}

/// The events without which each certain operation can still have one of its own.
///
/// Each certain operation takes an event, as soon as it must; what is left is spare. And so is the event of an operation that could take a spare one
/// instead (alternating paths: Berge, "Two theorems in graph theory", 1957).
fn spare(asked: &[Asked<'_>], possible: &[Vec<u64>], revisions: &[u64]) -> HashSet<u64> {
    let mut by_beginning: Vec<usize> = (0..asked.len()).filter(|n| asked[*n].certain).collect();
    by_beginning.sort_by_key(|n| asked[*n].after);
    let mut begun = by_beginning.iter().copied().peekable();
    let mut waiting = BTreeSet::new();
    let mut taken: HashMap<usize, u64> = HashMap::new();
    let mut spare = HashSet::new();
    let mut found = Vec::new();
    for revision in revisions {
        while let Some(n) = begun.next_if(|n| asked[*n].after < *revision) {
            waiting.insert((asked[n].until, n));
        }
        // Whoever should have had one before is for the check to find.
        while waiting.first().is_some_and(|(until, _)| until < revision) {
            waiting.pop_first();
        }
        match waiting.pop_first() {
            Some((_, n)) => {
                taken.insert(n, *revision);
            }
            None => {
                spare.insert(*revision);
                found.push(*revision);
            }
        }
    }
    let mut could_take: HashMap<u64, Vec<usize>> = HashMap::new();
    for n in by_beginning {
        for revision in &possible[n] {
            could_take.entry(*revision).or_default().push(n);
        }
    }
    while let Some(revision) = found.pop() {
        for n in could_take.remove(&revision).unwrap_or_default() {
            if let Some(instead) = taken.remove(&n)
                && spare.insert(instead)
            {
                found.push(instead);
            }
        }
    }
    spare
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::check::samples::Story;
    use crate::history::{Action, Outcome};

    fn op() -> Op {
        let mut story = Story::new(1);
        let action = Action::Configure {
            circuit: None,
            set: crate::rules::Options::default(),
            clear: Vec::new(),
        };
        story.op(action, Outcome::Unknown("lost".into()));
        story.last_op().clone()
    }

    /// `(after, until, certain)`
    fn of(windows: &[(u64, u64, bool)], revisions: &[u64]) -> Vec<Vec<u64>> {
        let op = op();
        let asked: Vec<_> = windows
            .iter()
            .map(|(after, until, certain)| Asked {
                op: &op,
                after: *after,
                until: *until,
                certain: *certain,
            })
            .collect();
        candidates(&asked, revisions)
    }

    #[test]
    fn who_is_in_doubt_has_what_is_left() {
        let certain = [(0, 4, true), (0, 4, true)];
        let doubtful = (0, u64::MAX, false);
        // Two must share two, although each could have either.
        let windows = [certain[0], certain[1], doubtful];
        assert_eq!(of(&windows, &[2, 3])[2], [0; 0]);
        // One of three is left over, and nobody knows which.
        assert_eq!(of(&windows, &[2, 3, 4])[2], [2, 3, 4]);
        // Later, nobody else could have had it.
        assert_eq!(of(&windows, &[2, 3, 9])[2], [9]);
    }

    #[test]
    fn it_agrees_with_trying_everything() {
        let mut spares = 0;
        for seed in 0..2000 {
            let mut rng = StdRng::seed_from_u64(seed);
            let revisions: Vec<u64> = (1..=12).filter(|_| rng.random_bool(0.6)).collect();
            let windows: Vec<_> = (0..rng.random_range(0..6))
                .map(|_| {
                    let after = rng.random_range(0..12);
                    (after, after + rng.random_range(1..5), true)
                })
                .collect();
            if !all_have_one(&windows, &revisions) {
                continue;
            }
            let mut with_doubt = windows.clone();
            with_doubt.push((0, u64::MAX, false));
            let possible = of(&with_doubt, &revisions).pop().unwrap();
            for revision in &revisions {
                let mut without = revisions.clone();
                without.retain(|other| other != revision);
                let is_spare = all_have_one(&windows, &without);
                assert_eq!(
                    possible.contains(revision),
                    is_spare,
                    "seed {seed}: revision {revision} of {revisions:?} for {windows:?}"
                );
                spares += u32::from(is_spare);
            }
        }
        assert!(spares > 1000, "{spares}");
    }

    fn all_have_one(windows: &[(u64, u64, bool)], revisions: &[u64]) -> bool {
        let Some(((after, until, _), others)) = windows.split_first() else {
            return true;
        };
        revisions
            .iter()
            .filter(|revision| after < *revision && *revision <= until)
            .any(|taken| {
                let left: Vec<u64> = revisions.iter().copied().filter(|r| r != taken).collect();
                all_have_one(others, &left)
            })
    }
}
