//! Processes of the binary under test.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// The binary `brama`, without what the environment of the test says to it.
pub(crate) fn brama() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brama"));
    for variable in ["BRAMA_CONFIG", "BRAMA_ENDPOINTS", "BRAMA_TIMEOUT"] {
        command.env_remove(variable);
    }
    command
}

/// A cluster of `brama dev` that ends with this value.
pub(crate) struct Dev {
    process: Child,
    /// `host:port`, one a node.
    pub(crate) endpoints: Vec<String>,
}

impl Dev {
    /// Starts one at free ports and waits until it is ready.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::start_in(&std::env::temp_dir(), options)
    }

    /// Likewise, with its throw-away data in this directory.
    pub(crate) fn start_in(directory: &Path, options: &[&str]) -> Self {
        let mut process = brama()
            .args(["dev", "--free-ports", "--json"])
            .args(options)
            .env("TMPDIR", directory)
            .stdout(Stdio::piped())
            .spawn()
            .expect("brama starts");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let ready: serde_json::Value = serde_json::from_str(&line).expect("JSON once it is ready");
        let endpoints = ready["endpoints"]
            .as_str()
            .expect("endpoints")
            .split(',')
            .map(str::to_owned)
            .collect();
        Self { process, endpoints }
    }

    /// A client command against it.
    pub(crate) fn run(&self, args: &[&str]) -> Answer {
        let output = brama()
            .args(args)
            .env("BRAMA_ENDPOINTS", self.endpoints.join(","))
            .output()
            .expect("brama runs");
        Answer::of(args, &output)
    }

    /// Asks it to end as Ctrl-C does, and waits.
    pub(crate) fn interrupt(mut self) -> (ExitStatus, Duration) {
        let begin = Instant::now();
        signal(&self.process, "INT");
        (wait(&mut self.process, Duration::from_secs(10)), begin.elapsed())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It removes its data when it is asked to end, not when it is killed.
        if matches!(self.process.try_wait(), Ok(None)) {
            signal(&self.process, "TERM");
            wait(&mut self.process, Duration::from_secs(10));
        }
    }
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) command: String,
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Answer {
    fn of(args: &[&str], output: &Output) -> Self {
        Self {
            command: args.join(" "),
            code: output.status.code().expect("an exit code"),
            out: String::from_utf8(output.stdout.clone()).expect("UTF-8"),
            err: String::from_utf8(output.stderr.clone()).expect("UTF-8"),
        }
    }

    /// Itself, if the code is this one.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "brama {}\n{}{}",
            self.command, self.out, self.err
        );
        self
    }

    /// Its only line as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        let mut lines = self.json_lines();
        assert_eq!(lines.len(), 1, "brama {}: {}", self.command, self.out);
        lines.remove(0)
    }

    /// Its lines as JSON.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<serde_json::Value> {
        self.out
            .lines()
            .map(|line| serde_json::from_str(line).expect("each line is JSON"))
            .collect()
    }
}

/// Sends a signal by its name.
pub(crate) fn signal(process: &Child, name: &str) {
    let status = Command::new("kill")
        .args([format!("-{name}"), process.id().to_string()])
        .status();
    assert!(status.expect("kill runs").success());
}

/// Waits for the end of a process; kills it and fails when it takes longer.
#[track_caller]
pub(crate) fn wait(process: &mut Child, within: Duration) -> ExitStatus {
    let end = Instant::now() + within;
    while Instant::now() < end {
        if let Some(status) = process.try_wait().expect("a child") {
            return status;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    process.kill().expect("killed");
    process.wait().expect("gone");
    panic!("the process was still running after {within:?}");
}
