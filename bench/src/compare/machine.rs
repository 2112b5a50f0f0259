//! Where it was measured: figures mean little without it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde::Serialize;

/// Facts, as the system tells them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    /// Device and kind of the file system that the nodes write to.
    pub(crate) file_system: String,
    pub(crate) brama: String,
    pub(crate) etcd: String,
}

impl Machine {
    /// # Errors
    /// When one of the two systems is not installed.
    pub(crate) fn look(data: &Path) -> anyhow::Result<Self> {
        let brama = brama_faults::cluster::find_binary()?;
        let etcd = first_line(Command::new("etcd").arg("--version"))
            .context("there is no etcd (Debian: apt-get install etcd-server)")?;
        let version = first_line(Command::new(&brama).arg("--version"))
            .with_context(|| format!("{} does not run", brama.display()))?;
        // Known only where it is run from the sources, as scripts/bench does.
        let describe = ["describe", "--always", "--dirty", "--abbrev=10"];
        let commit = first_line(Command::new("git").args(describe)).unwrap_or_default();
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field("/proc/cpuinfo", "model name").unwrap_or_default(),
            memory_gib: memory_gib().unwrap_or(0),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            file_system: file_system(data).unwrap_or_default(),
            brama: [version, commit].join(" ").trim().to_owned(),
            etcd: etcd.replace(" Version:", ""),
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            cores,
            processor,
            memory_gib,
            kernel,
            file_system,
            brama,
            etcd,
        } = self;
        write!(
            f,
            "{cores} cores ({processor}), {memory_gib} GiB, Linux {kernel}, {file_system}; {brama}, {etcd}"
        )
    }
}

/// Of the first line `name : value` in a file of `/proc`.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_gib() -> Option<u64> {
    let kib: u64 = field("/proc/meminfo", "MemTotal")?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    // What the kernel keeps for itself is missing: the next whole number is what was meant.
    Some(kib.div_ceil(1 << 20))
}

fn file_system(data: &Path) -> Option<String> {
    let output = Command::new("df")
        .arg("--output=fstype,source")
        .arg(data)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words: Vec<_> = text.lines().nth(1)?.split_whitespace().collect();
    Some(words.join(" on "))
}

fn first_line(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}
