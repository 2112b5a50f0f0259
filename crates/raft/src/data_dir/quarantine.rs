//! The note that a data directory must never be used again: its node's state differed from the majority's.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use super::{DataDirError, failed, sync_folder};

/// The file. A person can read it, too.
pub(crate) const NOTE: &str = "out-of-service.txt";
/// A longer one is not read to its end.
const MOST_BYTES: u64 = 4096;

/// Writes down, durably, why this directory is out of service. Blocks.
pub(super) fn write(folder: &Path, why: &str) -> Result<(), DataDirError> {
    let (path, draft) = (folder.join(NOTE), folder.join("out-of-service.new"));
    let mut file = File::create(&draft).map_err(failed("create", &draft))?;
    file.write_all(format!("{why}\n").as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed("write", &draft))?;
    fs::rename(&draft, &path).map_err(failed("rename", &draft))?;
    sync_folder(folder)
}

/// Refuses a directory with a note. That there is one is what counts: one that cannot be read, or is empty, refuses as well.
pub(super) fn check(folder: &Path) -> Result<(), DataDirError> {
    let path = folder.join(NOTE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("open", &path)(error)),
    };
    let mut text = Vec::new();
    file.take(MOST_BYTES)
        .read_to_end(&mut text)
        .map_err(failed("read", &path))?;
    let why = match String::from_utf8_lossy(&text).trim() {
        "" => "its node's state differed from that of the majority".to_owned(),
        text => text.to_owned(),
    };
    Err(DataDirError::OutOfService { path, why })
}
