//! Namespaces of runs that are no more.
//!
//! A run that is killed with -9 removes nothing. Its namespaces are known by their names: the process that made them, and when that
//! began, because numbers of processes come again.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PREFIX: &str = "brama-faults";

/// Names of this process begin so; each call gives another prefix.
pub(super) fn new_prefix() -> anyhow::Result<String> {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let me = std::process::id();
    let began = began(me).context("this process is in /proc")?;
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    Ok(format!("{PREFIX}-{me}-{began}-{run}"))
}

/// Removes all namespaces whose run is dead, and kills what still runs in them.
///
/// # Errors
/// When the namespaces cannot be listed.
pub(super) fn remove() -> anyhow::Result<()> {
    let names = match std::fs::read_dir("/run/netns") {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context("cannot list /run/netns"),
    };
    for name in names.flatten() {
        let name = name.file_name().to_string_lossy().into_owned();
        let Some((process, then)) = maker(&name) else {
            continue;
        };
        if began(process) != Some(then) {
            kill_inside(&name);
            delete(&name);
        }
    }
    Ok(())
}

/// Deletes one namespace; says so if it cannot.
pub(super) fn delete(name: &str) {
    let deleted = Command::new("ip").args(["netns", "delete", name]).output();
    match deleted {
        Ok(output) if output.status.success() => {}
        Ok(output) => eprintln!(
            "cannot remove the network namespace {name}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ),
        Err(error) => eprintln!("cannot remove the network namespace {name}: {error}"),
    }
}

fn kill_inside(name: &str) {
    let Ok(listed) = Command::new("ip").args(["netns", "pids", name]).output() else {
        return;
    };
    for pid in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
        if let Ok(pid) = pid.parse() {
            // It may have ended in between.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Which process made it, and when that began; `None`: it is none of ours.
fn maker(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// When a process began, in ticks since the machine did; `None`: there is none.
fn began(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name of the program may hold anything; what follows its last parenthesis is regular. Field 22.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_who_made_them() {
        let prefix = new_prefix().unwrap();
        let me = std::process::id();
        assert_eq!(maker(&format!("{prefix}-node1")), Some((me, began(me).unwrap())));
        assert_eq!(maker("brama-faults-7-hub"), None);
        assert_eq!(maker("somebody-else-7-8-hub"), None);
    }
}
