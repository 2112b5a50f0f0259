//! Metrics of what a log entry costs here: the disk, the state machine, snapshots.

use std::fmt;

use brama_raft::{DiskState, Replica};

use super::sheet::{Scale, Sheet};

pub(super) fn write(sheet: &mut Sheet<'_>, replica: &Replica) -> fmt::Result {
    disk(sheet, replica.disk_state())?;
    let figures = replica.figures();
    sheet.histogram(
        "brama_log_flush_duration_seconds",
        "How long it took to make entries durable: a write and an fdatasync",
        Scale::Micros,
        &figures.flush_micros,
    )?;
    sheet.histogram(
        "brama_log_flush_entries",
        "Entries that one flush made durable",
        Scale::One,
        &figures.flush_entries,
    )?;
    sheet.histogram(
        "brama_log_flush_bytes",
        "Bytes of entries that one flush made durable",
        Scale::One,
        &figures.flush_bytes,
    )?;
    sheet.counter(
        "brama_log_slow_flushes_total",
        "Flushes that took 100 ms or more; each has a line in the log",
        figures.slow_flushes,
    )?;
    sheet.histogram(
        "brama_apply_duration_seconds",
        "How long it took to apply an entry",
        Scale::Micros,
        &figures.apply_micros,
    )?;
    sheet.histogram(
        "brama_apply_commands",
        "Commands in an entry that was applied; entries that only tell the time have none",
        Scale::One,
        &figures.entry_commands,
    )?;
    sheet.counter(
        "brama_slow_applies_total",
        "Entries that took more than 50 ms to apply; each has a line in the log",
        figures.slow_applies,
    )?;
    let (built, installed) = (figures.snapshots_built, figures.snapshots_installed);
    sheet.counters(
        "brama_snapshot_bytes_total",
        "Bytes of snapshots that this node built, or got from the leader and installed",
        ["kind"],
        [(["built"], built.bytes), (["installed"], installed.bytes)],
    )?;
    sheet.histograms(
        "brama_snapshot_duration_seconds",
        "How long it took to build and write a snapshot, or to read and install one",
        Scale::Micros,
        ["kind"],
        [(["built"], built.micros), (["installed"], installed.micros)],
    )?;
    sheet.gauge(
        "brama_snapshot_size_bytes",
        "Size of the newest snapshot on disk; 0: there is none",
        figures.snapshot_bytes,
    )
}

fn disk(sheet: &mut Sheet<'_>, disk: DiskState) -> fmt::Result {
    let (state, free_bytes) = match disk {
        DiskState::Ok { free_bytes } => ("ok", free_bytes),
        DiskState::Low { free_bytes, .. } => ("low", Some(free_bytes)),
        DiskState::Slow { .. } => ("slow", None),
        DiskState::Full { free_bytes, .. } => ("full", free_bytes),
    };
    sheet.gauges(
        "brama_disk_state",
        "1 for the state in which the disk of the data directory is",
        ["state"],
        ["ok", "low", "slow", "full"].map(|of| ([of], of == state)),
    )?;
    sheet.gauges(
        "brama_disk_free_bytes",
        "Free bytes on the file system of the data directory; missing while they are not known",
        [],
        free_bytes.map(|bytes| ([""; 0], bytes)),
    )
}
