//! Golden scripts: the rules of the breaker, each in a file of its own under `tests/scripts`, readable without knowing the code.
//!
//! A script is commands, `---`, and what came of them: the answer, then the events it caused, each as `#revision`. Times are shown
//! from the beginning of the script (`@10s`). `!` before a command: it must be refused. The runner adds checks of its own to each
//! command: see [`run::Script`].
//!
//! After a change that is meant: `UPDATE_GOLDENFILES=1 cargo test -p brama-core --test golden`, then read the difference.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod arguments;
mod commands;
mod run;
mod show;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;

/// A test a script, so that each is named when it fails.
macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            run_script(stringify!($name));
        })*

        const SCRIPTS: &[&str] = &[$(stringify!($name)),*];
    };
}

scripts! {
    acquire
    available
    batches
    bootstrap
    cleanup
    close_circuit
    closed
    cluster_time
    configure
    event_names
    events_are_bounded
    expiry
    global_options
    half_open
    inheritance
    late_reports
    limits
    list
    names
    never_expires
    open
    open_circuit
    probe_timeout
    progressive_backoff
    refused_changes_nothing
    register
    reset_circuit
    sessions
    stale_timers
    status
    summaries
    unregister
}

#[test]
fn every_script_is_run() {
    let mut found: Vec<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(
        found, SCRIPTS,
        "tests/golden/main.rs lists the files of tests/scripts"
    );
}

fn run_script(name: &str) {
    goldenscript::run(&mut run::Script::new(), folder().join(name)).unwrap();
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts"))
}
