//! A state at one moment: cheap to take, written and read in a versioned encoding.

use std::io::{self, Read, Write};

use crate::machine::Machine;

/// A state at one moment.
#[derive(Clone, Debug)]
pub struct Frozen {}

/// Why a snapshot could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Reading failed.
    #[error("the snapshot cannot be read")]
    Io(#[from] io::Error),
    /// It is not a snapshot, or damaged.
    #[error("the snapshot is damaged: {0}")]
    Damaged(String),
    /// A newer Brama wrote it.
    #[error("the snapshot has format version {found}, this program reads up to {newest}")]
    Version {
        /// In the file.
        found: u32,
        /// That this program knows.
        newest: u32,
    },
}

#[allow(missing_docs, unused_variables)]
impl Frozen {
    /// All circuits etc. can be read as from a machine.
    pub fn machine(&self) -> Machine {
        Machine::thaw(self.clone())
    }
    /// Writes it in the newest version, in pieces (never one buffer of the whole).
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        Ok(())
    }
    pub fn read_from(input: &mut impl Read) -> Result<Self, SnapshotError> {
        Ok(Self {})
    }
    /// Hash over the canonical encoding of the whole state; O(n). Equal states have equal hashes.
    pub fn content_hash(&self) -> u64 {
        0
    }
}
