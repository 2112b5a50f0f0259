//! What a process holds.

use anyhow::Context;
use procfs::process::Process;

use crate::node::Node;

/// Memory of this node, in MiB.
pub(super) fn of(node: &Node) -> anyhow::Result<f64> {
    let pid = node
        .pid()
        .with_context(|| format!("node {} does not run", node.spec.id))?;
    let status = Process::new(i32::try_from(pid)?)?.status()?;
    let kib = status
        .vmrss
        .context("the system does not say what a process holds")?;
    Ok(kib as f64 / 1024.0)
}

/// Descriptors that this node has open.
pub(super) fn descriptors(node: &Node) -> anyhow::Result<usize> {
    let pid = node
        .pid()
        .with_context(|| format!("node {} does not run", node.spec.id))?;
    Ok(Process::new(i32::try_from(pid)?)?.fd_count()?)
}
