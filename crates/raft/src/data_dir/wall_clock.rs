//! `clock.json`: how far cluster time is from this machine's wall clock.

use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{DataDirError, read_short, write_json};
use crate::types::Incarnation;

/// The file. It is not there before the node has heard cluster time for the first time.
pub(crate) const FILE: &str = "clock.json";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// Cluster time minus wall clock.
    ahead_of_wall_us: i64,
    checksum: String,
}

/// With the directory's incarnation: the file of another machine says nothing about this one's clock.
fn checksum(of: Incarnation, ahead_us: i64) -> String {
    format!("{:016x}", xxh3_64(format!("{of}\n{ahead_us}").as_bytes()))
}

/// What was last written; `None` if nothing was. Blocks.
pub(super) fn read(folder: &Path, of: Incarnation) -> Result<Option<i64>, DataDirError> {
    let path = folder.join(FILE);
    let Some(text) = read_short(&path)? else {
        return Ok(None);
    };
    let damaged = |what: String| DataDirError::DamagedClock {
        path: path.clone(),
        what,
    };
    let stored: Stored = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if stored.checksum != checksum(of, stored.ahead_of_wall_us) {
        return Err(damaged(
            "its checksum does not match: was it edited, or is it of another directory?".into(),
        ));
    }
    Ok(Some(stored.ahead_of_wall_us))
}

/// Writes it durably. Blocks.
pub(super) fn write(folder: &Path, of: Incarnation, ahead_us: i64) -> Result<(), DataDirError> {
    let stored = Stored {
        ahead_of_wall_us: ahead_us,
        checksum: checksum(of, ahead_us),
    };
    write_json(folder, FILE, &stored)
}
