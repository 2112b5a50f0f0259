//! The note that a data directory must never be used again: its node's state differed from the majority's.

use std::path::Path;

use super::{DataDirError, read_short, write_whole};

/// The file. A person can read it, too.
pub(crate) const NOTE: &str = "out-of-service.txt";

/// Writes down, durably, why this directory is out of service. Blocks.
pub(super) fn write(folder: &Path, why: &str) -> Result<(), DataDirError> {
    write_whole(folder, NOTE, format!("{why}\n").as_bytes())
}

/// Refuses a directory with a note. That there is one is what counts: one that cannot be read, or is empty, refuses as well.
pub(super) fn check(folder: &Path) -> Result<(), DataDirError> {
    let path = folder.join(NOTE);
    let Some(text) = read_short(&path)? else {
        return Ok(());
    };
    let why = match String::from_utf8_lossy(&text).trim() {
        "" => "its node's state differed from that of the majority".to_owned(),
        text => text.to_owned(),
    };
    Err(DataDirError::OutOfService { path, why })
}
