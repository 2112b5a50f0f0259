//! Starting and stopping: signals, ports, directories, exit codes.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Dev, brama, signal, wait};

/// `brama serve` as a cluster of one at free ports.
fn serve_alone(directory: &std::path::Path) -> Command {
    let free = || TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (clients, peers) = (free(), free());
    let clients = clients.local_addr().expect("an address").to_string();
    let peers = peers.local_addr().expect("an address").to_string();
    let mut command = brama();
    command
        .args([
            "serve",
            "--id",
            "1",
            "--client-listen",
            &clients,
            "--peer-listen",
            &peers,
            "--log-format",
            "json",
        ])
        .args(["--members", &format!("1={peers}")])
        .arg("--data-dir")
        .arg(directory.join("node1"))
        .stderr(Stdio::piped());
    command
}

#[test]
fn a_node_that_is_told_to_stop_flushes_and_exits_with_0_within_5_seconds() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["TERM", "INT"] {
        let mut process = serve_alone(directory.path()).spawn().expect("brama starts");
        let mut log = Lines::of(process.stderr.take().expect("a pipe"));
        log.until("ready: recovered");
        let begin = Instant::now();
        signal(&process, name);
        let status = wait(&mut process, Duration::from_secs(5));
        log.read_rest();
        assert_eq!(
            status.code(),
            Some(0),
            "after {:?}: {:?}",
            begin.elapsed(),
            log.seen
        );
        let last: serde_json::Value =
            serde_json::from_str(log.seen.last().expect("a line")).expect("the log is JSON");
        assert_eq!(last["message"], serde_json::json!("stopped"), "{:?}", log.seen);
    }
}

#[test]
fn a_node_whose_port_is_taken_says_so_and_exits_with_1() {
    let directory = tempfile::tempdir().expect("a directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let output = serve_alone(directory.path())
        .args(["--set", &format!("node.client_listen={address}")])
        .output();
    let output = output.expect("brama runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("cannot listen for clients at {address}")),
        "{said}"
    );
}

#[test]
fn two_nodes_never_share_a_data_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut first = serve_alone(directory.path()).spawn().expect("brama starts");
    let mut log = Lines::of(first.stderr.take().expect("a pipe"));
    log.until("ready: recovered");
    let second = serve_alone(directory.path()).output().expect("brama runs");
    signal(&first, "TERM");
    wait(&mut first, Duration::from_secs(5));
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("node1"), "names the directory: {said}");
}

#[test]
fn a_configuration_that_is_wrong_is_refused_with_2_before_anything_is_touched() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = serve_alone(directory.path())
        .args(["--set", "raft.snapshot_every=0"])
        .output()
        .expect("brama runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(!directory.path().join("node1").exists());
}

#[test]
fn dev_is_ready_in_three_seconds_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let begin = Instant::now();
    let dev = Dev::start_in(directory.path(), &[]);
    assert!(
        begin.elapsed() < Duration::from_secs(3),
        "ready after {:?}",
        begin.elapsed()
    );
    assert_eq!(dev.endpoints.len(), 3);
    let files = || std::fs::read_dir(directory.path()).expect("readable").count();
    assert_eq!(files(), 1, "its data is in one directory");
    let (status, took) = dev.interrupt();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(5), "gone after {took:?}");
    assert_eq!(files(), 0, "its data is gone");
}

#[test]
fn dev_takes_free_ports_when_the_usual_ones_are_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port();
    let mut process = brama()
        .args(["dev", "--port", &port.min(65_500).to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("brama starts");
    let mut shown = Lines::of(process.stdout.take().expect("a pipe"));
    shown.until("Ctrl-C ends it.");
    signal(&process, "INT");
    assert_eq!(wait(&mut process, Duration::from_secs(10)).code(), Some(0));
    let mut said = Lines::of(process.stderr.take().expect("a pipe"));
    said.read_rest();
    assert!(
        said.seen.contains(&format!(
            "note: port {port} is taken, so the nodes get free ports"
        )),
        "{:?}",
        said.seen
    );
    let shown = shown.seen.join("\n");
    assert!(shown.contains("export BRAMA_ENDPOINTS=127.0.0.1:"), "{shown}");
    assert!(
        shown.contains("brama register payment_api --max-attempts 3 --expiry 10s"),
        "{shown}"
    );
}

/// What a process writes, line by line.
struct Lines<R> {
    reader: BufReader<R>,
    seen: Vec<String>,
}

impl<R: Read> Lines<R> {
    fn of(pipe: R) -> Self {
        Self {
            reader: BufReader::new(pipe),
            seen: Vec::new(),
        }
    }

    /// Reads up to a line that contains this.
    #[track_caller]
    fn until(&mut self, text: &str) {
        while self.next() {
            if self.seen.last().is_some_and(|line| line.contains(text)) {
                return;
            }
        }
        panic!("the process ended and never wrote {text:?}: {:?}", self.seen);
    }

    fn read_rest(&mut self) {
        while self.next() {}
    }

    fn next(&mut self) -> bool {
        let mut line = String::new();
        let more = self.reader.read_line(&mut line).expect("UTF-8") > 0;
        if more {
            self.seen.push(line.trim_end().to_owned());
        }
        more
    }
}

#[test]
fn a_cluster_that_is_not_there_is_6_and_says_what_to_do() {
    let output = brama()
        .args(["status", "x", "--endpoints", "127.0.0.1:1,127.0.0.1:2"])
        .output()
        .expect("brama runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(
        said.contains("127.0.0.1:1: connection refused; 127.0.0.1:2: connection refused"),
        "{said}"
    );
    assert!(said.contains("brama dev"), "{said}");
}

#[test]
fn a_reader_that_has_read_enough_is_no_mistake() {
    let script = format!(
        "set -o pipefail; {} config show --config {}/../../config/node1.toml | head -1",
        env!("CARGO_BIN_EXE_brama"),
        env!("CARGO_MANIFEST_DIR")
    );
    let output = Command::new("bash")
        .args(["-c", &script])
        .output()
        .expect("bash runs");
    assert_eq!(output.status.code(), Some(0));
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
