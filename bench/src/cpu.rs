//! What processes cost, from `/proc` and their folders.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

/// Clock ticks a second in `/proc/PID/stat`: 100 on every Linux that Rust runs on.
const TICKS: u32 = 100;
const PAGE_BYTES: u64 = 4096;
/// The unit in which file systems tell how much a file takes.
const BLOCK_BYTES: u64 = 512;

/// Processor time of these processes until now, in user and kernel mode. One that is gone counts as nothing.
pub(crate) fn time(pids: &[u32]) -> Duration {
    let ticks: u32 = pids.iter().filter_map(|pid| ticks(*pid)).sum();
    Duration::from_secs(1) * ticks / TICKS
}

/// What servers and the load generator itself cost from now on.
pub(crate) struct Meter<'a> {
    pids: &'a [u32],
    begun: Cost,
}

/// Processor time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Of all servers.
    pub(crate) servers: Duration,
    /// Of this process, which has to share the machine with them.
    pub(crate) generator: Duration,
}

impl<'a> Meter<'a> {
    pub(crate) fn start(pids: &'a [u32]) -> Self {
        let begun = Cost::until_now(pids);
        Self { pids, begun }
    }

    pub(crate) fn read(&self) -> Cost {
        let now = Cost::until_now(self.pids);
        Cost {
            servers: now.servers.saturating_sub(self.begun.servers),
            generator: now.generator.saturating_sub(self.begun.generator),
        }
    }
}

impl Cost {
    fn until_now(pids: &[u32]) -> Self {
        Self {
            servers: time(pids),
            generator: time(&[std::process::id()]),
        }
    }
}

/// Memory that these processes hold, in bytes, each.
pub(crate) fn resident_bytes(pids: &[u32]) -> Vec<u64> {
    let resident = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        text.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    pids.iter()
        .map(|pid| resident(pid).unwrap_or(0) * PAGE_BYTES)
        .collect()
}

/// The most memory that these processes ever held, in bytes, each.
pub(crate) fn peak_bytes(pids: &[u32]) -> Vec<u64> {
    let peak = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    pids.iter().map(|pid| peak(pid).unwrap_or(0) * 1024).collect()
}

/// How many descriptors (`fd`) or threads (`task`) a process has; `None`: it is gone.
pub(crate) fn entries(pid: u32, what: &str) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/{what}")).ok()?.count())
}

/// What a folder takes on disk, in bytes; files that go meanwhile count as nothing.
pub(crate) fn disk_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let bytes = entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
            Ok(metadata) => metadata.blocks() * BLOCK_BYTES,
            Err(_) => 0,
        });
    bytes.sum()
}

fn ticks(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything; after it come the fields from the third on.
    let fields: Vec<_> = text.rsplit_once(") ")?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u32>().ok();
    Some(field(14)? + field(15)?)
}
