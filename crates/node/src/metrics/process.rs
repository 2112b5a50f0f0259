//! Metrics of the process: the build, what the system says of it, and its runtime.

use std::fmt;

use brama_raft::Replica;
use tokio::runtime::Handle;

use super::sheet::{Number, Sheet};
use crate::config::Config;

pub(super) struct Process {
    node_id: String,
    cluster: String,
    replica: Replica,
    runtime: Handle,
}

impl Process {
    pub(super) fn new(config: &Config, replica: Replica) -> Self {
        Self {
            node_id: config.node.id.to_string(),
            cluster: config.cluster.name.clone(),
            replica,
            runtime: Handle::current(),
        }
    }

    pub(super) fn write(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        sheet.gauges(
            "brama_build_info",
            "1, with the version that runs",
            ["version"],
            [([env!("CARGO_PKG_VERSION")], 1_u64)],
        )?;
        let cluster_id = self.replica.cluster_id().map(|id| id.to_string());
        let cluster_id = cluster_id.unwrap_or_default();
        let labels = [self.node_id.as_str(), self.cluster.as_str(), cluster_id.as_str()];
        sheet.gauges(
            "brama_node_info",
            "1, with who this node is; the id is empty until it belongs to a cluster",
            ["node_id", "cluster", "cluster_id"],
            [(labels, 1_u64)],
        )?;
        if let Some(seen) = system::look() {
            seen.write(sheet)?;
        }
        let runtime = self.runtime.metrics();
        sheet.gauge(
            "brama_runtime_tasks",
            "Tasks of the asynchronous runtime that are alive",
            runtime.num_alive_tasks(),
        )?;
        sheet.gauge(
            "brama_runtime_workers",
            "Threads that run tasks",
            runtime.num_workers(),
        )?;
        sheet.gauge(
            "brama_runtime_queued_tasks",
            "Tasks that wait in the queue that all threads share",
            runtime.global_queue_depth(),
        )
    }
}

/// What the system says of this process, under the names that every exporter of Prometheus uses. In `brama dev`, all nodes are one.
#[derive(Debug)]
struct Seen {
    cpu_seconds: f64,
    start_seconds: Option<f64>,
    resident_bytes: u64,
    virtual_bytes: u64,
    threads: u64,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
}

impl Seen {
    fn write(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        sheet.counter(
            "process_cpu_seconds_total",
            "Processor time that the process has used, by itself and in the kernel",
            self.cpu_seconds,
        )?;
        sheet.gauge(
            "process_resident_memory_bytes",
            "Resident memory",
            self.resident_bytes,
        )?;
        sheet.gauge(
            "process_virtual_memory_bytes",
            "Virtual memory",
            self.virtual_bytes,
        )?;
        sheet.gauge("process_threads", "Threads", self.threads)?;
        let optional = [
            (
                "process_start_time_seconds",
                "When the process began, since the Unix epoch",
                self.start_seconds.map(Number::Real),
            ),
            (
                "process_open_fds",
                "File descriptors that are open",
                self.open_fds.map(Number::Whole),
            ),
            (
                "process_max_fds",
                "File descriptors that may be open",
                self.max_fds.map(Number::Whole),
            ),
        ];
        for (name, help, value) in optional {
            if let Some(value) = value {
                sheet.gauge(name, help, value)?;
            }
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
mod system {
    use procfs::process::{LimitValue, Process};
    use procfs::{boot_time_secs, page_size, ticks_per_second};

    use super::Seen;

    /// `None` when `/proc` cannot be read: then these metrics are missing.
    pub(super) fn look() -> Option<Seen> {
        let me = Process::myself().ok()?;
        let stat = me.stat().ok()?;
        let ticks = ticks_per_second() as f64;
        let limit = me.limits().ok().and_then(|limits| {
            let LimitValue::Value(limit) = limits.max_open_files.soft_limit else {
                return None;
            };
            Some(limit)
        });
        Some(Seen {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
            start_seconds: boot_time_secs()
                .ok()
                .map(|boot| boot as f64 + stat.starttime as f64 / ticks),
            resident_bytes: stat.rss * page_size(),
            virtual_bytes: stat.vsize,
            threads: u64::try_from(stat.num_threads).unwrap_or(0),
            open_fds: me.fd_count().ok().map(|count| count as u64),
            max_fds: limit,
        })
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    /// Only Linux has these.
    pub(super) fn look() -> Option<super::Seen> {
        None
    }
}
