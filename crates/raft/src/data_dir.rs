//! A node's data directory: whose it is, and that only one process uses it.
//!
//! ```text
//! <dir>/lock            held by the running process
//! <dir>/identity.json   which node this is, of which cluster, and the directory's incarnation
//! <dir>/log/            see `log_store`
//! <dir>/snapshots/      plain files, see `state_store`
//! <dir>/clock.json      how far cluster time is from this machine's wall clock, once it is known: see `clock`
//! <dir>/out-of-service.txt   only if the node's state differed from the majority's: see `agreement`
//! ```
//! A node that voted or acknowledged something must remember it. So a directory that is there in part is never taken for a
//! new one: whatever is missing, damaged, or another's stops the start, with the advice of what to do.
//!
//! The first start makes things in this order, each durable before the next, so that it may be cut short anywhere:
//! an empty log under another name, `snapshots/`, `identity.json`, and the log's name. The next start goes on from there.

mod quarantine;
mod wall_clock;

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use brama_core::command::ClusterId;

use crate::log_store::{self, LogIdentity, errors::LogError};
use crate::types::Incarnation;

/// Version of the directory's layout.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// A data directory in use by this process. Others are kept out until it is dropped.
pub(crate) struct DataDir {
    path: PathBuf,
    identity: Mutex<Identity>,
    /// The lock ends with the descriptor, also when the process is killed.
    _lock: File,
}

/// Whose data this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The node.
    pub(crate) node_id: u64,
    /// Drawn when the directory was made: a node that lost its data does not pass for its former self.
    pub(crate) incarnation: Incarnation,
    /// The log beside it: one that belongs to other data must not pass for it.
    pub(crate) log: LogIdentity,
    /// The name that people give the cluster.
    pub(crate) cluster_name: String,
    /// `None` until the node belongs to a cluster.
    pub(crate) cluster_id: Option<ClusterId>,
}

/// Why a data directory cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// Another process has it.
    #[error("{} is in use by another process: stop that one, or give this node a directory of its own", .path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// It belongs to another node.
    #[error("{} belongs to node {found}, but this is node {configured}: correct the node id or the data directory", .path.display())]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Its node.
        found: u64,
        /// The node that was started.
        configured: u64,
    },
    /// It belongs to a cluster of another name.
    #[error(
        "{} belongs to cluster {found:?}, but this node is configured for {configured:?}: correct the cluster name or the data directory",
        .path.display()
    )]
    OtherClusterName {
        /// The directory.
        path: PathBuf,
        /// Its cluster.
        found: String,
        /// The cluster in the configuration.
        configured: String,
    },
    /// It belongs to a cluster of another id.
    #[error(
        "{} belongs to cluster {found}, but the node was asked into cluster {asked}: correct the addresses of the other nodes, \
         or join with a new data directory and a new node id",
        .path.display()
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Its cluster.
        found: ClusterId,
        /// The other one.
        asked: ClusterId,
    },
    /// A newer version of this program wrote it.
    #[error("{} has format {found}, but this version reads at most {FORMAT_VERSION}: start the newer version again", .path.display())]
    NewerFormat {
        /// The file that says so.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The file that says whose it is does not hold what was written.
    #[error("{} is damaged ({what}): restore it from a copy, or {ADVICE}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The file with the difference between cluster time and the wall clock does not hold what was written.
    #[error("{} is damaged ({what}): if this machine's wall clock is right, remove that file, and the node goes by it; else restore the file \
         from a copy", .path.display())]
    DamagedClock {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// Something that every data directory has is not there.
    #[error("{} is missing, though the directory was in use: {ADVICE}", .path.display())]
    Missing {
        /// The file or folder.
        path: PathBuf,
    },
    /// There is data, but nothing says whose.
    #[error("{} is missing, but {} is there: restore the file from a copy, or {ADVICE}", .identity.display(), .found.display())]
    Unidentified {
        /// The file that should say whose data it is.
        identity: PathBuf,
        /// The data.
        found: PathBuf,
    },
    /// The node found that its state differed from the majority's, and never uses this directory again.
    #[error("{} says that this data must not be used any more: {why}. Remove the node from the cluster, if it is a member still \
         (`brama cluster remove`), then {ADVICE}", .path.display())]
    OutOfService {
        /// The note.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// The operating system refused.
    #[error("could not {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// An empty log could not be made.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What to do with a directory that is of no use any more.
pub(crate) const ADVICE: &str = "move the whole data directory away and join the cluster again under a new node id \
     (the old id must not come back without its data: it could vote twice)";

impl DataDir {
    /// Opens the directory of this node, or makes it if there is none. Blocks.
    ///
    /// # Errors
    /// When it is not this node's, not this cluster's, in use, or not whole.
    pub(crate) fn open(path: &Path, node_id: u64, cluster_name: &str) -> Result<Self, DataDirError> {
        make_folder(path)?;
        let lock = lock(path)?;
        quarantine::check(path)?;
        let identity = match read_identity(&path.join(IDENTITY_FILE))? {
            Some(identity) => {
                check_owner(path, &identity, node_id, cluster_name)?;
                identity
            }
            None => make(path, node_id, cluster_name)?,
        };
        finish(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            identity: Mutex::new(identity),
            _lock: lock,
        })
    }

    /// Whose it is.
    pub(crate) fn identity(&self) -> Identity {
        self.identity.lock().clone()
    }

    /// Where the log is.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.path.join(LOG_FOLDER)
    }

    /// Where snapshots are.
    pub(crate) fn snapshots_path(&self) -> PathBuf {
        self.path.join(SNAPSHOTS_FOLDER)
    }

    /// Writes down, durably, that the node belongs to this cluster. Nothing happens if it does already. Blocks.
    ///
    /// # Errors
    /// When it belongs to another.
    pub(crate) fn adopt_cluster(&self, cluster: ClusterId) -> Result<(), DataDirError> {
        let mut identity = self.identity.lock();
        match identity.cluster_id {
            Some(found) if found == cluster => Ok(()),
            Some(found) => Err(DataDirError::OtherCluster {
                path: self.path.clone(),
                found,
                asked: cluster,
            }),
            None => {
                let adopted = Identity {
                    cluster_id: Some(cluster),
                    ..identity.clone()
                };
                write_identity(&self.path, &adopted)?;
                *identity = adopted;
                Ok(())
            }
        }
    }

    /// How far cluster time was ahead of the wall clock when it was last written down, in microseconds; `None` if it never was. Blocks.
    ///
    /// # Errors
    /// When the file is damaged, or cannot be read.
    pub(crate) fn ahead_of_wall_us(&self) -> Result<Option<i64>, DataDirError> {
        wall_clock::read(&self.path, self.identity().incarnation)
    }

    /// Writes that down, durably. Blocks.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn note_ahead_of_wall_us(&self, ahead_us: i64) -> Result<(), DataDirError> {
        wall_clock::write(&self.path, self.identity().incarnation, ahead_us)
    }

    /// Writes down, durably, that this directory must never be used again, and why. It refuses to be opened from then on. Blocks.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn take_out_of_service(&self, why: &str) -> Result<(), DataDirError> {
        quarantine::write(&self.path, why)
    }
}

fn make_folder(path: &Path) -> Result<(), DataDirError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(failed("create", path))?;
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .map_or(Ok(()), sync_folder)
}

fn lock(path: &Path) -> Result<File, DataDirError> {
    let file_path = path.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&file_path);
    let file = file.map_err(failed("open", &file_path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(DataDirError::Locked {
            path: path.to_path_buf(),
        }),
        Err(fs::TryLockError::Error(source)) => Err(failed("lock", &file_path)(source)),
    }
}

fn check_owner(path: &Path, found: &Identity, node_id: u64, cluster_name: &str) -> Result<(), DataDirError> {
    let path = path.to_path_buf();
    if found.node_id != node_id {
        return Err(DataDirError::OtherNode {
            path,
            found: found.node_id,
            configured: node_id,
        });
    }
    if found.cluster_name != cluster_name {
        let (found, configured) = (found.cluster_name.clone(), cluster_name.to_owned());
        return Err(DataDirError::OtherClusterName {
            path,
            found,
            configured,
        });
    }
    Ok(())
}

/// The first start, up to the identity.
fn make(path: &Path, node_id: u64, cluster_name: &str) -> Result<Identity, DataDirError> {
    let (log, snapshots) = (path.join(LOG_FOLDER), path.join(SNAPSHOTS_FOLDER));
    let unidentified = |found| DataDirError::Unidentified {
        identity: path.join(IDENTITY_FILE),
        found,
    };
    if exists(&log)? {
        return Err(unidentified(log));
    }
    if exists(&snapshots)? {
        let mut files = fs::read_dir(&snapshots).map_err(failed("list", &snapshots))?;
        if files.next().is_some() {
            return Err(unidentified(snapshots));
        }
    }
    let new_log = path.join(NEW_LOG_FOLDER);
    if exists(&new_log)? {
        // The rest of a first start that was cut short: no node ever used it.
        fs::remove_dir_all(&new_log).map_err(failed("remove", &new_log))?;
    }
    let log = log_store::create(&new_log)?;
    fs::create_dir_all(&snapshots).map_err(failed("create", &snapshots))?;
    sync_folder(path)?;
    let incarnation = Incarnation(rand::random());
    let identity = Identity {
        node_id,
        incarnation,
        log,
        cluster_name: cluster_name.to_owned(),
        cluster_id: None,
    };
    write_identity(path, &identity)?;
    Ok(identity)
}

/// The first start, after the identity; and on every start the check that all is there.
fn finish(path: &Path) -> Result<(), DataDirError> {
    let (log, new_log, snapshots) = (
        path.join(LOG_FOLDER),
        path.join(NEW_LOG_FOLDER),
        path.join(SNAPSHOTS_FOLDER),
    );
    if !exists(&log)? {
        if !exists(&new_log)? {
            return Err(DataDirError::Missing { path: log });
        }
        fs::rename(&new_log, &log).map_err(failed("rename", &new_log))?;
    }
    // Also what was named by a process that was killed before it could sync the name: the node builds on it from now on.
    sync_folder(path)?;
    if exists(&snapshots)? {
        Ok(())
    } else {
        Err(DataDirError::Missing { path: snapshots })
    }
}

/// `identity.json`. Numbers of 128 bits are hexadecimal text, which every JSON reader can read.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    format_version: u32,
    node_id: u64,
    incarnation: String,
    log: String,
    cluster_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    checksum: String,
}

/// What is read of a file whose version is not known.
#[derive(Deserialize)]
struct AnyVersion {
    format_version: u32,
}

impl IdentityFile {
    fn expected_checksum(&self) -> String {
        let cluster = self.cluster_id.as_deref().unwrap_or("none");
        let Self {
            format_version,
            node_id,
            incarnation,
            log,
            cluster_name,
            ..
        } = self;
        let text = format!("{format_version}\n{node_id}\n{incarnation}\n{log}\n{cluster}\n{cluster_name}");
        format!("{:016x}", xxh3_64(text.as_bytes()))
    }
}

fn read_identity(path: &Path) -> Result<Option<Identity>, DataDirError> {
    let damaged = |what: String| DataDirError::Damaged {
        path: path.to_path_buf(),
        what,
    };
    let Some(text) = read_short(path)? else {
        return Ok(None);
    };
    let any: AnyVersion = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    if any.format_version > FORMAT_VERSION {
        return Err(DataDirError::NewerFormat {
            path: path.to_path_buf(),
            found: any.format_version,
        });
    }
    let stored: IdentityFile = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    if stored.checksum != stored.expected_checksum() {
        return Err(damaged("its checksum does not match: was it edited?".into()));
    }
    let number = |text: &str| u128::from_str_radix(text, 16).map_err(|e| damaged(format!("{text:?}: {e}")));
    Ok(Some(Identity {
        node_id: stored.node_id,
        incarnation: Incarnation(number(&stored.incarnation)?),
        log: number(&stored.log)?.to_be_bytes(),
        cluster_id: stored
            .cluster_id
            .as_deref()
            .map(number)
            .transpose()?
            .map(ClusterId),
        cluster_name: stored.cluster_name,
    }))
}

fn write_identity(folder: &Path, identity: &Identity) -> Result<(), DataDirError> {
    let mut stored = IdentityFile {
        format_version: FORMAT_VERSION,
        node_id: identity.node_id,
        incarnation: identity.incarnation.to_string(),
        log: hex::encode(identity.log),
        cluster_name: identity.cluster_name.clone(),
        cluster_id: identity.cluster_id.map(|id| id.to_string()),
        checksum: String::new(),
    };
    stored.checksum = stored.expected_checksum();
    write_json(folder, IDENTITY_FILE, &stored)
}

/// Writes a file durably, under another name first: it is there as a whole, as it was before, or not at all.
fn write_whole(folder: &Path, name: &str, text: &[u8]) -> Result<(), DataDirError> {
    let (path, draft) = (folder.join(name), folder.join(format!("{name}.new")));
    let mut file = File::create(&draft).map_err(failed("create", &draft))?;
    file.write_all(text)
        .and_then(|()| file.sync_all())
        .map_err(failed("write", &draft))?;
    fs::rename(&draft, &path).map_err(failed("rename", &draft))?;
    sync_folder(folder)
}

fn write_json(folder: &Path, name: &str, value: &impl Serialize) -> Result<(), DataDirError> {
    let json = serde_json::to_vec_pretty(value).map_err(|e| failed("write", &folder.join(name))(e.into()));
    let mut text = json?;
    text.push(b'\n');
    write_whole(folder, name, &text)
}

/// The text of a file of ours, none of which is long; `None` if there is no such file.
fn read_short(path: &Path) -> Result<Option<Vec<u8>>, DataDirError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let mut text = Vec::new();
    file.take(MOST_BYTES)
        .read_to_end(&mut text)
        .map_err(failed("read", path))?;
    Ok(Some(text))
}

fn exists(path: &Path) -> Result<bool, DataDirError> {
    path.try_exists().map_err(failed("look at", path))
}

fn sync_folder(path: &Path) -> Result<(), DataDirError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("sync", path))
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> DataDirError {
    move |source| DataDirError::Io {
        action,
        path: path.to_path_buf(),
        source,
    }
}

const IDENTITY_FILE: &str = "identity.json";
const LOG_FOLDER: &str = "log";
const NEW_LOG_FOLDER: &str = "log.new";
const SNAPSHOTS_FOLDER: &str = "snapshots";
/// A longer file is not one that was written here.
const MOST_BYTES: u64 = 64 * 1024;

#[cfg(test)]
mod tests;
