//! What is looked at when a log is opened.

use super::scan::{Scanner, Trouble};
use super::{Disk, META_TREE, SEGMENT_PREFIX, Segment, damaged};
use crate::log_store::codec;
use crate::log_store::errors::LogError;
use crate::log_store::record::Record;
use crate::types::LogId;

/// The default tree that every sled database has.
const SLED_TREE: &[u8] = b"__sled__default";

impl Disk {
    /// Reads every entry. Up to the one that the record promises, all must be there and be what was written. What comes after was never
    /// acknowledged: the whole entries that follow without a gap are kept, because a crash may have come between the flush and the
    /// acknowledgement, and the rest is removed.
    pub(super) fn recover(&self, mut record: Record) -> Result<Record, LogError> {
        let mut walk = Walk {
            record: &record,
            next: record.begin,
            last: record.purged,
            broken: None,
        };
        let mut kept = Vec::new();
        let mut useless = Vec::new();
        for (first, tree) in self.segment_trees()? {
            let before = walk.next;
            let mut segment = Segment {
                tree,
                first,
                next: first,
                bytes: 0,
            };
            if walk.broken.is_none() {
                self.guarded(|| walk.segment(&mut segment))?;
            }
            if walk.next == before {
                useless.push(first)
            } else {
                kept.push(segment)
            }
        }
        let (next, last) = (walk.next, walk.last);
        if let Some(promised) = record.last.filter(|promised| promised.index >= next) {
            let what = walk
                .broken
                .unwrap_or_else(|| format!("entry {next} is not there"));
            return Err(damaged(
                &self.folder,
                format!("{what}, and entries up to {promised} were durable"),
            ));
        }
        if let Some(what) = walk.broken {
            tracing::warn!(folder = %self.folder.display(), next, what, "removing the rest of a write that was cut short");
        }
        // From the end backwards, as always.
        for first in useless.into_iter().rev() {
            self.drop_tree(first)?;
        }
        if let Some(segment) = kept.last() {
            self.remove_keys_from(&segment.tree, next)?;
        }
        *self.segments.write() = kept;
        record.last = last;
        Ok(record)
    }

    /// Removes the entries after the newest that this record promises.
    pub(super) fn remove_rest(&self, record: &Record) -> Result<(), LogError> {
        let next = record.last.map_or(record.begin, |last| last.index + 1);
        self.drop_from(next.max(record.begin))
    }

    /// The trees of segments, in order.
    fn segment_trees(&self) -> Result<Vec<(u64, sled::Tree)>, LogError> {
        let db = self.sled()?.db;
        self.guarded(|| {
            let mut trees = Vec::new();
            for name in db.tree_names() {
                if name == SLED_TREE || name == META_TREE.as_bytes() {
                    continue;
                }
                let number = std::str::from_utf8(&name)
                    .ok()
                    .and_then(|name| name.strip_prefix(SEGMENT_PREFIX));
                let Some(first) = number.and_then(|number| number.parse().ok()) else {
                    return Err(Trouble::Damaged {
                        what: "it has a tree with a name that no log gives".into(),
                    });
                };
                trees.push((first, db.open_tree(name)?));
            }
            trees.sort_unstable_by_key(|(first, _)| *first);
            Ok(trees)
        })
    }
}

/// How far the entries are whole.
struct Walk<'a> {
    record: &'a Record,
    /// The index that must come next.
    next: u64,
    last: Option<LogId>,
    /// Why it ended.
    broken: Option<String>,
}

impl Walk<'_> {
    /// Goes through a segment, from the first entry that is not purged.
    fn segment(&mut self, segment: &mut Segment) -> Result<(), Trouble> {
        for entry in Scanner::new(&segment.tree, segment.first.max(self.record.begin)..u64::MAX) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(Trouble::Damaged { what }) => {
                    self.broken = Some(what);
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let id = entry.log_id;
            if id.index != self.next {
                self.broken = Some(format!("entry {} is not there", self.next));
                return Ok(());
            }
            if let Some(promised) = self
                .record
                .last
                .filter(|last| last.index == id.index && *last != id)
            {
                return Err(Trouble::Damaged {
                    what: format!("entry {id} is in the place of {promised}"),
                });
            }
            if Some(id) < self.last {
                return Err(Trouble::Damaged {
                    what: format!("entry {id} follows one of a later term"),
                });
            }
            segment.bytes += codec::weight(&entry);
            self.next += 1;
            self.last = Some(id);
            segment.next = self.next;
        }
        Ok(())
    }
}
