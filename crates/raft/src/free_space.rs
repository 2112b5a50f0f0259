//! How much room a file system has.

use std::io;
use std::path::Path;

/// Bytes that a process without privileges may still write to the file system that holds `path`. Blocks, on some network file systems for
/// long.
///
/// # Errors
/// The system's.
pub(crate) fn of(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Whether the system refused a write because there is no room for it: on the disk, or in the user's share of it.
pub(crate) fn is_lacking(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
