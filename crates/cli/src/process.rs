//! What a node asks of the system for its own process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors beside those of clients: files, other nodes, what is on its way.
const OTHER_DESCRIPTORS: u64 = 256;

/// Takes as many descriptors as the system grants, and asks for memory in small pages. Where it cannot, the node runs as well, with less
/// room: it says so.
pub(crate) fn prepare(max_connections: u32) {
    // The soft limit is 1,024 on most systems, for programs that use `select`; none here does.
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => {
            let granted = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
                Ok(()) => hard,
                Err(_) => soft,
            };
            if granted < u64::from(max_connections) + OTHER_DESCRIPTORS {
                tracing::warn!(
                    descriptors = granted,
                    max_connections,
                    "this process may open fewer descriptors than limits.max_connections needs: raise its limit (ulimit -n, LimitNOFILE)"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "the limit of descriptors is unknown"),
    }
    // Where the system gives huge pages to everybody, a few used bytes would hold 2 MiB.
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
}
