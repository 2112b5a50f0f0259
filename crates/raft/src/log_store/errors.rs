//! What can go wrong with the log on disk.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::free_space;

/// Why the log cannot be opened, read or written. Each names the folder or file, and what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A file that every log has is not there. Starting without it would forget votes and entries that were acknowledged.
    #[error("{} is missing or empty: {ADVICE}", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// What was read is not what was written, or something acknowledged is not there any more.
    #[error("{} is damaged ({what}): {ADVICE}", .path.display())]
    Damaged {
        /// The file, or the log's folder if it is not known which.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// It is whole, but it is not this node's.
    #[error(
        "{} is of another log than identity.json (or the file before it) names: put back the file that belongs here, or {ADVICE}",
        .path.display()
    )]
    OtherLog {
        /// The file.
        path: PathBuf,
    },
    /// Written by a newer version of this program.
    #[error(
        "the log in {} has format {found}, but this version reads at most {known}: start the newer version again",
        .path.display()
    )]
    NewerFormat {
        /// The log's folder.
        path: PathBuf,
        /// The format that was found.
        found: u8,
        /// The newest format that is known here.
        known: u8,
    },
    /// The operating system refused. After a failed write or flush nothing is acknowledged any more: the kernel may have dropped what it
    /// could not write, and a second flush that succeeds would say nothing about it.
    #[error("could not {action} {}: {source}; free space or replace the disk, then restart this node", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: Arc<io::Error>,
    },
    /// The log was closed, or its writer ended.
    #[error("the log in {} is closed", .path.display())]
    Closed {
        /// The log's folder.
        path: PathBuf,
    },
    /// The caller asked for what would leave a hole, or for an entry beyond the limits. Nothing was written.
    #[error("the log refuses: {what}")]
    Refused {
        /// What was asked.
        what: String,
    },
}

const ADVICE: &str = "stop this node, move its whole data directory away, and join the cluster again under a new node id \
     (the old id must not come back with an empty log: it could vote twice)";

impl LogError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.into(),
            source: Arc::new(source),
        }
    }

    /// Whether it is for want of room on the disk. That passes, and nothing is lost by it.
    pub(crate) fn is_no_room(&self) -> bool {
        matches!(self, Self::Io { source, .. } if free_space::is_lacking(source))
    }

    /// What the system said, if it is that; else all of it.
    pub(super) fn cause(&self) -> String {
        match self {
            Self::Io { source, .. } => source.to_string(),
            error => error.to_string(),
        }
    }

    pub(super) fn refused(what: impl Into<String>) -> Self {
        Self::Refused { what: what.into() }
    }
}

/// openraft wants `io::Error`; the cause stays inside.
impl From<LogError> for io::Error {
    fn from(error: LogError) -> Self {
        let kind = match &error {
            LogError::Missing { .. } => io::ErrorKind::NotFound,
            LogError::Damaged { .. } | LogError::OtherLog { .. } => io::ErrorKind::InvalidData,
            LogError::Refused { .. } => io::ErrorKind::InvalidInput,
            LogError::Io { source, .. } => source.kind(),
            LogError::NewerFormat { .. } => io::ErrorKind::Unsupported,
            LogError::Closed { .. } => io::ErrorKind::BrokenPipe,
        };
        Self::new(kind, error)
    }
}
