//! A node whose state is not that of the others, as the one who runs it sees it.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brama_core::snapshot::Frozen;
use brama_core::{Batch, CircuitName, Machine};

use support::{brama, signal, wait};

/// Three nodes, a process each.
struct Nodes {
    directory: tempfile::TempDir,
    clients: Vec<String>,
    peers: Vec<String>,
    running: Vec<Option<Running>>,
}

struct Running {
    process: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Nodes {
    fn start() -> Self {
        let held: Vec<_> = (0..6)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"))
            .collect();
        let address = |listener: &TcpListener| listener.local_addr().expect("an address").to_string();
        let mut nodes = Self {
            directory: tempfile::tempdir().expect("a directory"),
            clients: held[..3].iter().map(address).collect(),
            peers: held[3..].iter().map(address).collect(),
            running: vec![None, None, None],
        };
        drop(held);
        for i in 0..3 {
            nodes.up(i);
        }
        for i in 0..3 {
            nodes.until(i, "ready: recovered");
        }
        nodes
    }

    fn serve(&self, i: usize) -> Command {
        let members: Vec<_> = (1..)
            .zip(&self.peers)
            .map(|(id, peer)| format!("{id}={peer}"))
            .collect();
        let mut command = brama();
        command
            .args([
                "serve",
                "--id",
                &(i + 1).to_string(),
                "--members",
                &members.join(","),
            ])
            .args([
                "--client-listen",
                &self.clients[i],
                "--peer-listen",
                &self.peers[i],
            ])
            .args([
                "--set",
                "raft.compare_interval=1s",
                "--set",
                "raft.snapshot_every=20",
            ])
            .arg("--data-dir")
            .arg(self.data_dir(i))
            .stderr(Stdio::piped());
        command
    }

    fn data_dir(&self, i: usize) -> std::path::PathBuf {
        self.directory.path().join(format!("node{}", i + 1))
    }

    fn up(&mut self, i: usize) {
        let mut process = self.serve(i).spawn().expect("brama starts");
        let log = Arc::<Mutex<Vec<String>>>::default();
        let (pipe, lines) = (process.stderr.take().expect("a pipe"), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                lines.lock().expect("no panic").push(line);
            }
        });
        self.running[i] = Some(Running { process, log });
    }

    /// Waits until a node has written this, and returns the line.
    #[track_caller]
    fn until(&self, i: usize, text: &str) -> String {
        let log = &self.running[i].as_ref().expect("it runs").log;
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let lines = log.lock().expect("no panic").clone();
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            assert!(
                Instant::now() < end,
                "node {} never wrote {text:?}: {lines:#?}",
                i + 1
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        let output = brama()
            .args(args)
            .env("BRAMA_ENDPOINTS", self.clients.join(","))
            .output();
        let output = output.expect("brama runs");
        assert!(output.status.success(), "brama {args:?}: {}", errors_of(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for running in self.running.iter_mut().flatten() {
            let _ = running.process.kill();
            let _ = running.process.wait();
        }
    }
}

fn errors_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Makes the newest snapshot of a node that is down one of a state that no other node has; nothing about the file is wrong.
fn diverge(data_dir: &Path) {
    let files = fs::read_dir(data_dir.join("snapshots")).expect("snapshots");
    let newest = files
        .map(|file| file.expect("a file").path())
        .max()
        .expect("a snapshot");
    let bytes = fs::read(&newest).expect("readable");
    let state = bytes
        .windows(8)
        .position(|bytes| bytes == b"BRAMASTA")
        .expect("a state");
    let mut machine = Machine::thaw(Frozen::read_from(&mut &bytes[state..]).expect("a good snapshot"));
    let foreign = brama_core::Command::Unregister {
        name: CircuitName::new(None, "never_there").expect("a name"),
        reason: None,
    };
    let time = machine.time();
    machine.apply(
        1,
        &Batch {
            time,
            commands: vec![foreign],
        },
    );
    let mut changed = bytes[..state].to_vec();
    machine.freeze().write_to(&mut changed).expect("written");
    fs::write(&newest, changed).expect("written");
}

#[test]
fn a_node_that_differs_exits_with_1_says_what_to_do_and_does_not_come_back() {
    let mut nodes = Nodes::start();
    nodes.run(&["register", "payment_api"]);
    for _ in 0..30 {
        nodes.run(&["failure", "payment_api"]);
    }
    // Healthy nodes have compared, and say so.
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let shown = nodes.run(&["cluster", "status"]);
        if shown.lines().filter(|line| line.ends_with("  equal")).count() == 2 {
            assert!(shown.contains("COMPARED") && shown.contains("STATE"), "{shown}");
            break;
        }
        assert!(Instant::now() < end, "{shown}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let status: Vec<serde_json::Value> = nodes
        .run(&["cluster", "status", "--json"])
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(
        status[0]["agreement"]["differences"],
        serde_json::json!(0),
        "{status:#?}"
    );
    assert!(status[0]["agreement"]["compared_at"].is_string(), "{status:#?}");

    // The third is made to differ while it is down.
    let mut third = nodes.running[2].take().expect("it runs");
    signal(&third.process, "TERM");
    assert_eq!(wait(&mut third.process, Duration::from_secs(6)).code(), Some(0));
    diverge(&nodes.data_dir(2));
    nodes.up(2);
    let said = nodes.until(2, "error: this node cannot go on");
    let third = nodes.running[2].as_mut().expect("it ran");
    assert_eq!(wait(&mut third.process, Duration::from_secs(6)).code(), Some(1));
    for part in [
        "error: this node cannot go on: node 3 differs from the majority: its hash of what was applied at log index ",
        "that of node 1 and node 2 is ",
        "Its data is in ",
        "`brama cluster remove 3`",
        "under a new node id",
    ] {
        assert!(said.contains(part), "{said} does not say {part:?}");
    }

    // The others name it, in their logs and in the status, and go on.
    for i in 0..2 {
        nodes.until(i, "node 3 differs from this one");
    }
    nodes.run(&["failure", "payment_api"]);
    assert!(nodes.run(&["cluster", "status"]).contains("  DIFFERS at "));

    // The same directory is refused.
    let again = nodes.serve(2).output().expect("brama runs");
    let said = errors_of(&again);
    assert_eq!(again.status.code(), Some(1), "{said}");
    for part in [
        "out-of-service.txt",
        "node 3 differs from the majority",
        "`brama cluster remove`",
        "under a new node id",
    ] {
        assert!(said.contains(part), "{said} does not say {part:?}");
    }
}
