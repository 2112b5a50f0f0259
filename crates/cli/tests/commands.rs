//! Every client command with `--json`, every exit code, and what happens when nodes go away.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::{Dev, brama, signal, wait};

#[test]
fn every_command_speaks_json_with_the_names_of_the_protocol() {
    let dev = Dev::start(&[]);
    let run = |args: &[&str], code: i32| dev.run(&[args, &["--json"]].concat()).expect(code);

    let made = run(
        &[
            "register",
            "a",
            "--scope",
            "s",
            "--max-attempts",
            "2",
            "--expiry",
            "1ms",
            "--metadata",
            "k=v",
        ],
        0,
    )
    .json();
    assert_eq!(made["created"], json!(true));
    assert_eq!(
        made["circuit"]["name"],
        json!({ "scope": "s", "identifier": "a" })
    );
    assert_eq!(made["circuit"]["state"], json!("closed"));
    assert_eq!(made["circuit"]["policy"]["expiry"], json!({ "ms": 1 }));
    assert_eq!(made["circuit"]["policy"]["expiry_strategy"], json!("fixed"));
    assert_eq!(
        made["circuit"]["policy"]["own"],
        json!(["max_attempts", "expiry"])
    );
    assert_eq!(made["circuit"]["metadata"], json!({ "k": "v" }));
    assert_eq!(
        made["circuit"].get("opened_at"),
        None,
        "what is absent is left out"
    );
    let cluster = made["header"]["cluster_id"].clone();
    assert_eq!(cluster.as_str().map(str::len), Some(32));

    let success = run(&["success", "a", "--scope", "s"], 0).json();
    assert_eq!(success["result"], json!("applied"));
    let failure = run(&["failure", "a", "--scope", "s", "--reason", "down"], 0).json();
    assert_eq!(
        (&failure["failure_count"], &failure["state"]),
        (&json!(1), &json!("closed"))
    );
    let report = run(
        &[
            "report",
            "a",
            "--scope",
            "s",
            "--success",
            "1",
            "--failure",
            "2",
            "--rejected",
            "7",
        ],
        0,
    )
    .json();
    assert_eq!(report["items"].as_array().map(Vec::len), Some(1));
    let opened = report["revision"].as_u64().expect("a revision");

    // It half-opens by itself, a millisecond later.
    let admitted = until(|| {
        Some(dev.run(&["acquire", "a", "--scope", "s", "--json"])).filter(|answer| answer.code == 0)
    })
    .json();
    assert_eq!(
        (&admitted["admitted"], &admitted["state"]),
        (&json!(true), &json!("half_open"))
    );
    let permit = admitted["permit_id"].as_str().expect("a permit").to_owned();
    assert_eq!(permit.len(), 32);
    let generation = admitted["generation"].to_string();
    let second = run(&["acquire", "a", "--scope", "s"], 5).json();
    assert_eq!(second["admitted"], json!(false));
    let available = run(
        &["available", "a", "--scope", "s", "--consistency", "linearizable"],
        5,
    )
    .json();
    assert_eq!(
        (&available["available"], &available["state"]),
        (&json!(false), &json!("half_open"))
    );
    let probe = [
        "success",
        "a",
        "--scope",
        "s",
        "--generation",
        &generation,
        "--permit",
        &permit,
    ];
    assert_eq!(run(&probe, 0).json()["state"], json!("closed"));
    assert_eq!(
        run(&probe, 0).json()["result"],
        json!("late"),
        "the permit counts once"
    );

    let at_least = format!("at-least={opened}");
    let status = run(&["status", "a", "--scope", "s", "--consistency", &at_least], 0).json();
    assert_eq!(
        status["circuit"]["totals"],
        json!({ "successes": 4, "failures": 3, "ignored": 0, "rejected": 7 })
    );
    assert!(
        status["circuit"]["last_failure_at"]
            .as_str()
            .is_some_and(|time| time.ends_with('Z'))
    );
    for level in ["local", "linearizable"] {
        run(&["status", "a", "--scope", "s", "--consistency", level], 0);
    }

    let opened = run(
        &[
            "open", "a", "--scope", "s", "--expiry", "never", "--reason", "by hand",
        ],
        0,
    )
    .json();
    assert_eq!(
        (&opened["circuit"]["state"], &opened["circuit"]["last_reason"]),
        (&json!("open"), &json!("by hand"))
    );
    assert_eq!(opened["circuit"].get("expires_at"), None);
    assert_eq!(
        run(&["close", "a", "--scope", "s"], 0).json()["circuit"]["state"],
        json!("closed")
    );
    assert_eq!(
        run(&["reset", "a", "--scope", "s"], 0).json()["circuit"]["failure_count"],
        json!(0)
    );

    let set = run(
        &[
            "configure",
            "a",
            "--scope",
            "s",
            "--max-attempts",
            "4",
            "--clear",
            "expiry",
        ],
        0,
    )
    .json();
    assert_eq!(
        (&set["changed"], &set["policy"]["own"]),
        (&json!(true), &json!(["max_attempts"]))
    );
    let global = run(
        &[
            "configure",
            "--expiry",
            "2s",
            "--inactive-threshold",
            "1h",
            "--cleanup-interval",
            "1s",
        ],
        0,
    )
    .json();
    assert_eq!(global["policy"]["expiry"], json!({ "ms": 2000 }));
    let policy = run(&["policy"], 0).json();
    assert_eq!(policy["own"], json!({ "expiry": { "ms": 2000 } }));
    assert_eq!(
        policy["global"],
        json!({ "inactive_threshold_ms": 3_600_000, "cleanup_interval_ms": 1000 })
    );
    assert_eq!(policy["limits"]["max_circuits"], json!(100_000));
    assert_eq!(
        run(&["policy", "a", "--scope", "s"], 0).json()["policy"]["max_attempts"],
        json!(4)
    );

    run(&["register", "b", "--if-exists", "keep"], 0);
    let names = |args: &[&str]| -> Vec<Value> {
        run(args, 0)
            .json_lines()
            .iter()
            .map(|circuit| circuit["name"]["identifier"].clone())
            .collect()
    };
    assert_eq!(names(&["list"]), [json!("b"), json!("a")], "no scope first");
    assert_eq!(names(&["list", "--scope", "s"]), [json!("a")]);
    assert_eq!(names(&["list", "--prefix", "b"]), [json!("b")]);
    assert_eq!(names(&["list", "--state", "open,half-open"]), [] as [Value; 0]);

    let watched = run(&["watch", "a", "--scope", "s", "--snapshot-only"], 0).json_lines();
    assert_eq!(
        watched[0]["snapshot"]["circuits"][0]["name"]["identifier"],
        json!("a")
    );
    assert_eq!(watched[1]["synced"]["circuits"], json!(1));
    assert!(
        watched[1]["cursor"]
            .as_str()
            .is_some_and(|cursor| !cursor.is_empty())
    );
    let events = run(&["events", "--from", "oldest", "--scope", "s", "--count", "4"], 0).json_lines();
    let types: Vec<_> = events
        .iter()
        .map(|message| message["event"]["type"].clone())
        .collect();
    assert_eq!(
        types,
        ["registration", "success", "failure", "success"].map(|name| json!(name))
    );
    let cursor = events[2]["cursor"].as_str().expect("a cursor");
    let rest = run(&["events", "--from", cursor, "--scope", "s", "--count", "1"], 0).json();
    assert_eq!(
        rest, events[3],
        "a cursor goes on exactly after its event, on every node"
    );

    let nodes = run(&["cluster", "status"], 0).json_lines();
    assert_eq!(nodes.len(), 3);
    let leaders: Vec<_> = nodes
        .iter()
        .filter(|node| node["role"] == json!("leader"))
        .collect();
    assert_eq!(leaders.len(), 1);
    let follower = nodes
        .iter()
        .find(|node| node["role"] == json!("follower"))
        .expect("a follower");
    let to = follower["header"]["node_id"].to_string();
    assert_eq!(
        run(&["cluster", "transfer-leader", &to], 0).json()["leader_id"].to_string(),
        to
    );

    let gone = run(&["unregister", "a", "--scope", "s"], 0).json();
    assert_eq!(
        (&gone["existed"], &gone["header"]["cluster_id"]),
        (&json!(true), &cluster)
    );
}

#[test]
fn a_long_list_comes_in_pages_that_nobody_sees() {
    let dev = Dev::start(&[]);
    for number in 0..12 {
        dev.run(&["register", &format!("c{number:02}")]).expect(0);
    }
    let all = dev
        .run(&["list", "--json", "--page-size", "5"])
        .expect(0)
        .json_lines();
    let names: Vec<_> = all
        .iter()
        .map(|circuit| circuit["name"]["identifier"].as_str().expect("a name").to_owned())
        .collect();
    let expected: Vec<_> = (0..12).map(|number| format!("c{number:02}")).collect();
    assert_eq!(names, expected);
}

#[test]
fn events_that_are_no_longer_kept_are_8_with_the_way_on() {
    let dev = Dev::start(&["--set", "limits.max_events=5"]);
    dev.run(&["register", "a", "--max-attempts", "1000"]).expect(0);
    let first = dev
        .run(&["events", "--from", "oldest", "--count", "1", "--json"])
        .expect(0)
        .json();
    let cursor = first["cursor"].as_str().expect("a cursor");
    for _ in 0..8 {
        dev.run(&["failure", "a"]).expect(0);
    }
    let refused = dev.run(&["events", "--from", cursor, "--count", "1"]).expect(8);
    assert!(refused.err.contains("--from oldest"), "{}", refused.err);
    // The cursor that it names works.
    let oldest = refused
        .err
        .split_once("or --from ")
        .and_then(|(_, rest)| rest.split(',').next())
        .expect("a cursor");
    dev.run(&["events", "--from", oldest, "--count", "1"]).expect(0);
}

#[test]
fn a_change_whose_outcome_nobody_knows_is_7_and_is_not_made_again() {
    let dev = Dev::start(&[]);
    dev.run(&["register", "a"]).expect(0);
    let swallower = Swallower::start();
    let endpoints = format!("{},{}", swallower.address, dev.endpoints.join(","));

    let report = dev.run(&["failure", "a", "--endpoints", &endpoints]).expect(7);
    assert!(report.err.contains("the outcome is unknown"), "{}", report.err);
    let circuit = dev.run(&["status", "a", "--json"]).expect(0).json();
    assert_eq!(
        circuit["circuit"]["totals"]["failures"],
        json!(0),
        "the next node was not asked"
    );

    // A question, and a change that can be made twice, go to the next node.
    dev.run(&["status", "a", "--endpoints", &endpoints]).expect(0);
    dev.run(&["register", "a", "--if-exists", "keep", "--endpoints", &endpoints])
        .expect(0);
    // A node that cannot be connected to has certainly done nothing.
    let endpoints = format!("127.0.0.1:1,{}", dev.endpoints.join(","));
    dev.run(&["failure", "a", "--endpoints", &endpoints]).expect(0);
}

#[test]
fn a_node_without_a_majority_is_6_because_nothing_was_changed() {
    let cluster = Serve::start(&[1]);
    for args in [["status", "a"], ["register", "a"], ["failure", "a"]] {
        let output = brama()
            .args(args)
            .args(["--timeout", "1s", "--endpoints", &cluster.endpoints[0]])
            .output();
        let output = output.expect("brama runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(6), "{args:?}: {said}");
    }
}

#[test]
fn a_subscriber_goes_on_at_another_node_when_its_own_dies() {
    let mut cluster = Serve::start(&[1, 2, 3]);
    let all = cluster.endpoints.join(",");
    let run = |args: &[&str]| {
        let output = brama()
            .args(args)
            .args(["--timeout", "10s"])
            .env("BRAMA_ENDPOINTS", &all)
            .output()
            .expect("brama runs");
        assert_eq!(
            output.status.code(),
            Some(0),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    until(|| {
        let output = brama()
            .args(["register", "a"])
            .env("BRAMA_ENDPOINTS", &all)
            .output()
            .expect("brama runs");
        output.status.success().then_some(())
    });
    let mut follower = brama()
        .args([
            "events",
            "--from",
            "oldest",
            "--count",
            "4",
            "--json",
            "--timeout",
            "20s",
        ])
        .env("BRAMA_ENDPOINTS", &all)
        .stdout(Stdio::piped())
        .spawn()
        .expect("brama starts");
    let mut lines = BufReader::new(follower.stdout.take().expect("a pipe")).lines();
    let mut next = move || -> Value {
        serde_json::from_str(&lines.next().expect("a line").expect("UTF-8")).expect("JSON")
    };
    assert_eq!(next()["event"]["revision"], json!(1));

    // It follows the first endpoint, which is killed without a word.
    cluster.kill(0);
    for name in ["b", "c", "d"] {
        until(|| {
            let args = ["register", name, "--if-exists", "keep", "--timeout", "10s"];
            let output = brama()
                .args(args)
                .env("BRAMA_ENDPOINTS", &all)
                .output()
                .expect("brama runs");
            output.status.success().then_some(())
        });
    }
    for revision in 2..=4 {
        assert_eq!(
            next()["event"]["revision"],
            json!(revision),
            "no gap, nothing twice"
        );
    }
    assert!(wait(&mut follower, Duration::from_secs(5)).success());
    run(&["status", "d"]);
}

/// Tries until it gives something, for at most 20 seconds.
fn until<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    for _ in 0..200 {
        if let Some(done) = attempt() {
            return done;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("it never came to pass");
}

/// Takes connections, reads what is sent, and hangs up without an answer.
struct Swallower {
    address: String,
}

impl Swallower {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(mut connection) = connection else { return };
                // HTTP/2 wants the settings of the server before the request is sent: an empty SETTINGS frame.
                let _ = std::io::Write::write_all(&mut connection, &[0, 0, 0, 4, 0, 0, 0, 0, 0]);
                std::thread::sleep(Duration::from_millis(200));
                let _ = connection.read(&mut [0; 4096]);
            }
        });
        Self { address }
    }
}

/// Some nodes of a cluster of three, as processes of `brama serve`.
struct Serve {
    processes: Vec<Child>,
    endpoints: Vec<String>,
    _data: tempfile::TempDir,
}

impl Serve {
    fn start(ids: &[usize]) -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let held: Vec<_> = (0..6)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"))
            .collect();
        let address = |index: usize| held[index].local_addr().expect("an address").to_string();
        let clients: Vec<_> = (0..3).map(address).collect();
        let peers: Vec<_> = (3..6).map(address).collect();
        drop(held);
        let members = format!("1={},2={},3={}", peers[0], peers[1], peers[2]);
        let start = |id: &usize| -> Child {
            let mut command: Command = brama();
            command
                .args([
                    "serve",
                    "--log-level",
                    "error",
                    "--members",
                    &members,
                    "--id",
                    &id.to_string(),
                ])
                .args([
                    "--client-listen",
                    &clients[id - 1],
                    "--peer-listen",
                    &peers[id - 1],
                    "--data-dir",
                ])
                .arg(data.path().join(format!("node{id}")));
            command.spawn().expect("brama starts")
        };
        let processes = ids.iter().map(start).collect();
        let endpoints: Vec<_> = ids.iter().map(|id| clients[id - 1].clone()).collect();
        until(|| {
            endpoints
                .iter()
                .all(|at| std::net::TcpStream::connect(at).is_ok())
                .then_some(())
        });
        Self {
            processes,
            endpoints,
            _data: data,
        }
    }

    fn kill(&mut self, index: usize) {
        self.processes[index].kill().expect("killed");
        self.processes[index].wait().expect("gone");
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        for process in &mut self.processes {
            if matches!(process.try_wait(), Ok(None)) {
                signal(process, "TERM");
                wait(process, Duration::from_secs(5));
            }
        }
    }
}
