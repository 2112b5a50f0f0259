//! Keeps on disk how far cluster time is from this machine's wall clock, so that a cluster that was down as a whole knows for how long: see
//! [`crate::clock`].

use std::sync::Arc;
use std::time::Duration;

use crate::data_dir::{DataDir, DataDirError};
use crate::inner::Inner;

/// Short: what is opened in the time after a whole cluster's restart must not end early if the cluster is down again at once.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A wall clock that runs at a wrong speed must not keep the disk busy.
const PAUSE_AFTER_WRITING: Duration = Duration::from_millis(200);
/// What is on disk is written anew when it is wrong by more than this. A leader leans towards its wall clock by 0.2 ms a second at most, so a
/// machine whose clock is right writes once a minute at most.
const TOLERANCE_US: i64 = 10_000;

/// What an earlier process wrote down. Rather less than that: cluster time may go on a little late, never early. Blocks.
///
/// # Errors
/// When the file is damaged, or cannot be read.
pub(crate) fn remembered_us(data_dir: &DataDir) -> Result<i64, DataDirError> {
    let ahead = data_dir.ahead_of_wall_us()?;
    Ok(ahead.map_or(0, |ahead| ahead.saturating_sub(TOLERANCE_US)))
}

/// Runs for as long as the node does.
pub(crate) async fn run(node: Arc<Inner>) {
    let mut written: Option<i64> = None;
    let mut was_refused = false;
    let mut pause = LOOK_EVERY;
    loop {
        tokio::select! {
            () = node.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = LOOK_EVERY;
        let Some(ahead) = node.clock.ahead_of_wall_us() else {
            continue;
        };
        if written.is_some_and(|written| written.abs_diff(ahead) <= TOLERANCE_US.unsigned_abs()) {
            continue;
        }
        let Some(data_dir) = node.data_dir.lock().clone() else {
            return;
        };
        pause = PAUSE_AFTER_WRITING;
        let write = move || data_dir.note_ahead_of_wall_us(ahead);
        match node.options.environment.blocking(write).await {
            Ok(Ok(())) => {
                written = Some(ahead);
                was_refused = false;
            }
            // A full disk, say. It is tried again, and until then one clock of several is less sure.
            Ok(Err(error)) if !std::mem::replace(&mut was_refused, true) => {
                tracing::warn!(%error, "could not note how far cluster time is from the wall clock");
            }
            // The runtime ends, or it was told.
            Ok(Err(_)) | Err(_) => {}
        }
    }
}
