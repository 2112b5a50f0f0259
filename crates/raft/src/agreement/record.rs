//! What comparisons have shown, for people and for metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use brama_core::ClusterTime;

use super::{Position, What};
use crate::status::{Agreement, Compared};

/// What comparisons have shown since the start. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Record {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    newest: Option<(ClusterTime, Instant)>,
    index: u64,
    content_index: u64,
    differences: u64,
    members: BTreeMap<u64, Pair>,
}

/// The newest comparison with a member of each kind: to be equal in one does not make up for the other.
#[derive(Default)]
struct Pair {
    applied: Option<Compared>,
    content: Option<Compared>,
}

impl Pair {
    fn told(&self) -> Option<Compared> {
        let both = || self.applied.iter().chain(&self.content);
        Some(Compared {
            equal: both().all(|compared| compared.equal),
            index: both().map(|compared| compared.index).max()?,
        })
    }
}

impl Record {
    /// A member's hash was compared with this node's, at `now`.
    pub(super) fn enter(&self, member: u64, own: Position, theirs: u64, now: ClusterTime) {
        let compared = Compared {
            equal: own.hash == theirs,
            index: own.index,
        };
        let mut seen = self.seen.lock();
        seen.newest = Some((now, Instant::now()));
        seen.differences += u64::from(!compared.equal);
        let pair = seen.members.entry(member).or_default();
        match own.what {
            What::Applied => {
                pair.applied = Some(compared);
                seen.index = seen.index.max(own.index);
            }
            What::Content => {
                pair.content = Some(compared);
                seen.content_index = seen.content_index.max(own.index);
            }
        }
    }

    /// Forgets those who are members no more.
    pub(super) fn keep(&self, is_member: impl Fn(u64) -> bool) {
        self.seen.lock().members.retain(|id, _| is_member(*id));
    }

    pub(crate) fn told(&self) -> Agreement {
        let seen = self.seen.lock();
        let members = seen.members.iter();
        Agreement {
            compared_at: seen.newest.map(|(time, _)| time),
            compared_ago: seen.newest.map(|(_, at)| at.elapsed()),
            index: seen.index,
            content_index: seen.content_index,
            differences: seen.differences,
            members: members
                .filter_map(|(id, pair)| Some((*id, pair.told()?)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(what: What, index: u64) -> Position {
        Position { what, index, hash: 1 }
    }

    #[test]
    fn a_difference_in_content_stays_until_the_content_is_equal() {
        let record = Record::default();
        assert_eq!(record.told(), Agreement::default());
        let enter =
            |what, index, theirs| record.enter(2, at(what, index), theirs, ClusterTime::from_micros(index));
        enter(What::Applied, 10, 1);
        assert_eq!(
            record.told().members[&2],
            Compared {
                equal: true,
                index: 10
            }
        );
        enter(What::Content, 9, 7);
        enter(What::Applied, 20, 1);
        let told = record.told();
        assert_eq!(
            told.members[&2],
            Compared {
                equal: false,
                index: 20
            }
        );
        assert_eq!((told.index, told.content_index, told.differences), (20, 9, 1));
        assert_eq!(told.compared_at, Some(ClusterTime::from_micros(20)));
        enter(What::Content, 15, 1);
        assert_eq!(
            record.told().members[&2],
            Compared {
                equal: true,
                index: 20
            }
        );
        record.keep(|id| id != 2);
        assert!(record.told().members.is_empty());
    }
}
