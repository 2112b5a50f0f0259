//! What an operator sees: every metric that `docs/metrics.md` lists, with plausible values, and pages that say whether a node is alive and
//! ready.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use brama_proto::v1;
use common::http::{get, get_accepting};
use common::scrape::Scrape;
use common::{Cluster, Subscriber, fragile, ms, name, scoped, within};

/// Successes that the test reports.
const SUCCESSES: u64 = 7;

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_metric_is_there_and_no_other() {
    // Soon there are snapshots, and comparisons of states.
    let often = [("raft.snapshot_every", "10"), ("raft.compare_interval", "1s")];
    let cluster = Cluster::start_with(&often).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let mut subscriber = Subscriber::new(cluster.events(follower), v1::SubscribeRequest::default())
        .await
        .unwrap();
    work(&cluster, follower).await;
    // Subscribers are where the node is.
    while subscriber.revision < cluster.revision(follower).await {
        subscriber.message().await.unwrap();
    }

    let documented = documented();
    let mut sampled: Vec<String> = Vec::new();
    let mut scrapes = Vec::new();
    for i in 0..3 {
        // A linearizable read: this node has applied what the others have.
        cluster.revision(i).await;
        let scrape = until(&cluster, i, |scrape| {
            scrape.value("brama_raft_snapshot_index") > 0.0 && scrape.value("brama_agreement_index") > 0.0
        })
        .await;
        assert_eq!(scrape.types, documented, "node {i} and docs/metrics.md");
        sampled.extend(scrape.sampled.iter().cloned());
        histograms_add_up(&scrape);
        scrapes.push(scrape);
    }
    for name in documented.keys() {
        assert!(sampled.contains(name), "{name} has no sample on any node");
    }

    // All have applied the same.
    for scrape in &scrapes {
        let value = |series: &str| scrape.value(series);
        assert_eq!(
            value(r#"brama_report_outcomes_total{outcome="success"}"#),
            (SUCCESSES + 1) as f64
        );
        assert_eq!(value(r#"brama_report_outcomes_total{outcome="failure"}"#), 1.0);
        assert_eq!(value(r#"brama_report_items_total{result="not_found"}"#), 1.0);
        assert_eq!(value(r#"brama_report_batches_total{result="refused"}"#), 1.0);
        assert_eq!(
            value(r#"brama_transitions_total{kind="circuit_opened",cause="threshold"}"#),
            1.0
        );
        assert_eq!(
            value(r#"brama_transitions_total{kind="circuit_half_opened",cause="expiry"}"#),
            1.0
        );
        assert_eq!(
            value(r#"brama_transitions_total{kind="circuit_closed",cause="probe"}"#),
            1.0
        );
        assert_eq!(
            value(r#"brama_transitions_total{kind="circuit_opened",cause="manual"}"#),
            1.0
        );
        assert_eq!(value(r#"brama_circuits{state="closed"}"#), 1.0);
        assert_eq!(value(r#"brama_circuits{state="open"}"#), 1.0);
        assert_eq!(value(r#"brama_circuits{state="half_open"}"#), 0.0);
        assert_eq!(value(r#"brama_events_total{kind="registration"}"#), 2.0);
        let events: f64 = scrape
            .starting("brama_events_total{")
            .map(|(_, count)| count)
            .sum();
        assert_eq!(events, value("brama_event_log_newest_revision"));
        assert_eq!(events, value("brama_event_log_events"), "none is gone yet");
        assert_eq!(value("brama_event_log_oldest_revision"), 1.0);
        assert_eq!(value("brama_agreement_differences_total"), 0.0);
        assert_eq!(value("brama_raft_has_quorum"), 1.0);
        assert_eq!(value(r#"brama_raft_members{kind="voter"}"#), 3.0);
        assert_eq!(value("brama_ready"), 1.0);
        assert_eq!(value(r#"brama_check_ok{check="quorum"}"#), 1.0);
        let fsyncs = value("brama_log_flush_duration_seconds_count");
        assert!(
            fsyncs >= 10.0 && value("brama_log_flush_duration_seconds_sum") > 0.0,
            "{fsyncs}"
        );
        assert!(value("brama_apply_duration_seconds_count") >= 10.0);
        assert!(value(r#"brama_snapshot_duration_seconds_count{kind="built"}"#) >= 1.0);
        assert!(value("brama_snapshot_size_bytes") > 100.0);
        assert!(value(r#"brama_snapshot_bytes_total{kind="built"}"#) >= value("brama_snapshot_size_bytes"));
        assert_eq!(value(r#"brama_snapshot_bytes_total{kind="installed"}"#), 0.0);
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_open_fds") > 10.0 && value("process_threads") > 2.0);
        assert!(value("brama_runtime_tasks") > 10.0);
        let cluster_time = value("brama_cluster_time_seconds");
        let began = value("process_start_time_seconds");
        assert!(
            (0.0..600.0).contains(&(cluster_time - began)),
            "{cluster_time} after {began}"
        );
    }

    // What the leader alone knows, or does.
    let leaders: Vec<f64> = scrapes
        .iter()
        .map(|scrape| scrape.value("brama_raft_is_leader"))
        .collect();
    assert_eq!(leaders.iter().sum::<f64>(), 1.0);
    assert_eq!(leaders[leader], 1.0);
    for (i, scrape) in scrapes.iter().enumerate() {
        let peers = scrape.starting("brama_raft_peer_lag_entries{").count();
        let fired = scrape.value("brama_timer_lateness_seconds_count");
        assert_eq!((peers, fired), if i == leader { (2, 1.0) } else { (0, 0.0) });
    }
    let late = scrapes[leader].value("brama_timer_lateness_seconds_sum");
    assert!((0.0..1.0).contains(&late), "{late}");
    let terms: Vec<f64> = scrapes
        .iter()
        .map(|scrape| scrape.value("brama_raft_term"))
        .collect();
    assert!(
        terms.iter().all(|term| *term == terms[0] && *term >= 1.0),
        "{terms:?}"
    );
    assert!(scrapes[leader].value("brama_raft_elections_total") >= 1.0);

    // What was asked of the follower alone.
    let asked = &scrapes[follower];
    let calls = |method: &str, code: &str| {
        let labels = format!(r#"service="brama.v1.Circuits",method="{method}",code="{code}""#);
        asked.or_zero(&format!("brama_grpc_requests_total{{{labels}}}"))
    };
    assert_eq!(calls("Success", "OK"), SUCCESSES as f64);
    assert_eq!(calls("Failure", "OK"), 1.0);
    assert_eq!(calls("Failure", "NOT_FOUND"), 1.0);
    assert_eq!(calls("ReportStream", "OK"), 1.0);
    let took = r#"brama_grpc_request_duration_seconds_count{service="brama.v1.Circuits",method="Success"}"#;
    assert_eq!(asked.value(took), SUCCESSES as f64);
    let open = r#"brama_grpc_requests_in_flight{service="brama.v1.Events",method="Subscribe"}"#;
    assert_eq!(asked.value(open), 1.0);
    assert_eq!(
        asked.value(r#"brama_refusals_total{reason="CIRCUIT_NOT_FOUND"}"#),
        1.0
    );
    assert_eq!(
        asked.value(r#"brama_refusals_total{reason="SESSION_EXPIRED"}"#),
        1.0,
        "in a stream"
    );
    assert_eq!(asked.value("brama_subscribers"), 1.0);
    assert_eq!(asked.value("brama_subscriber_lag_max_events"), 0.0);
    assert!(asked.value("brama_connections") >= 1.0);
    let forwarded = asked.value(r#"brama_forwarded_total{request="command",result="answered"}"#);
    assert!(forwarded >= (SUCCESSES + 5) as f64, "{forwarded}");
    let forwarded = scrapes[leader].value(r#"brama_forwarded_total{request="command",result="answered"}"#);
    assert_eq!(forwarded, 0.0);

    drop(subscriber);
    let cancelled =
        r#"brama_grpc_requests_total{service="brama.v1.Events",method="Subscribe",code="CANCELLED"}"#;
    let asked = until(&cluster, follower, |scrape| scrape.or_zero(cancelled) > 0.0).await;
    assert_eq!(asked.or_zero(cancelled), 1.0);
    assert_eq!(asked.value(open), 0.0);
    assert_eq!(asked.value("brama_subscribers"), 0.0);
    openmetrics_for_those_who_ask(&cluster).await;
    cluster.stop().await;
}

/// A scrape of node `i` as soon as one shows this.
async fn until(cluster: &Cluster, i: usize, shows: impl Fn(&Scrape) -> bool) -> Scrape {
    within("the metrics show it", async {
        loop {
            let scrape = Scrape::of(cluster.node(i).client_address()).await;
            if shows(&scrape) {
                return scrape;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// Something of everything, through node `i`.
async fn work(cluster: &Cluster, i: usize) {
    let circuit = name("payments");
    cluster.register(i, &circuit, fragile(ms(300))).await;
    for _ in 0..SUCCESSES {
        cluster.succeed(i, &circuit).await;
    }
    cluster.fail(i, &circuit).await;
    cluster.until(i, &circuit, v1::State::HalfOpen).await;
    let permit = cluster.acquire(i, &circuit).await;
    assert!(permit.admitted);
    // A session that never began is refused, and the stream goes on.
    let item = v1::ReportItem {
        name: Some(circuit.clone()),
        permit_id: permit.permit_id,
        generation: Some(permit.generation),
        outcomes: vec![v1::Outcome::Success.into()],
        ..Default::default()
    };
    let report = |sequence| v1::ReportRequest {
        session: Some(v1::Session {
            id: vec![5; 16],
            sequence,
        }),
        items: vec![item.clone()],
    };
    let requests = futures::stream::iter([report(9), report(1)]);
    let mut answers = cluster
        .circuits(i)
        .report_stream(requests)
        .await
        .unwrap()
        .into_inner();
    for refused in [true, false] {
        let answer = common::next(&mut answers).await.unwrap();
        let is_error = matches!(answer.result, Some(v1::report_stream_response::Result::Error(_)));
        assert_eq!(is_error, refused, "{answer:?}");
    }
    assert!(answers.message().await.unwrap().is_none());
    cluster.until(i, &circuit, v1::State::Closed).await;

    let by_hand = scoped("shop", "stock");
    cluster.register(i, &by_hand, v1::Policy::default()).await;
    cluster.open(i, &by_hand).await;
    let unknown = v1::FailureRequest {
        name: Some(name("unknown")),
        ..Default::default()
    };
    cluster.circuits(i).failure(unknown).await.unwrap_err();
}

/// Name and type of every metric in the tables of the document.
fn documented() -> BTreeMap<String, String> {
    let document = include_str!("../../../docs/metrics.md");
    let rows = document.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.strip_suffix('`')?;
        let kind = cells.next()?;
        ["counter", "gauge", "histogram"]
            .contains(&kind)
            .then(|| (name.to_owned(), kind.to_owned()))
    });
    let mut documented = BTreeMap::new();
    for (name, kind) in rows {
        assert!(
            name.ends_with("_total") == (kind == "counter"),
            "{name} is a {kind}"
        );
        assert!(
            documented.insert(name.clone(), kind).is_none(),
            "{name} is there twice"
        );
    }
    assert!(documented.len() > 50, "the tables were found");
    documented
}

/// Buckets rise, and the last one holds all.
fn histograms_add_up(scrape: &Scrape) {
    let mut last: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    let mut buckets: Vec<(String, f64, f64)> = Vec::new();
    for (series, count) in &scrape.samples {
        if let Some((family, bound)) = series
            .strip_suffix("\"}")
            .and_then(|series| series.rsplit_once("le=\""))
        {
            buckets.push((family.to_owned(), bound.parse().unwrap(), *count));
        }
    }
    assert!(buckets.len() > 50, "there are buckets");
    buckets.sort_by(|a, b| (&a.0, a.1).partial_cmp(&(&b.0, b.1)).unwrap());
    for (family, bound, count) in buckets {
        if let Some((_, before)) = last.insert(family.clone(), (bound, count)) {
            assert!(count >= before, "{family} at {bound}");
        }
    }
    for (family, (bound, count)) in last {
        assert_eq!(bound, f64::INFINITY, "{family}");
        let (name, labels) = family.split_once("_bucket{").unwrap();
        let labels = labels.trim_end_matches(',');
        let all = if labels.is_empty() {
            format!("{name}_count")
        } else {
            format!("{name}_count{{{labels}}}")
        };
        assert_eq!(scrape.value(&all), count, "{family}");
    }
}

async fn openmetrics_for_those_who_ask(cluster: &Cluster) {
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
    let page = get_accepting(cluster.node(0).client_address(), "/metrics", accept).await;
    assert_eq!(page.status, 200);
    assert_eq!(
        page.content_type,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(page.body.ends_with("# EOF\n"));
    assert!(page.body.contains("# TYPE brama_transitions counter\n"));
    assert!(page.body.contains("\nbrama_raft_term "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_majority_is_alive_but_not_ready() {
    let mut cluster = Cluster::start().await;
    for i in 0..3 {
        let address = cluster.node(i).client_address();
        let ready = get(address, "/readyz").await;
        assert_eq!(
            (ready.status, ready.content_type.as_str()),
            (200, "text/plain; charset=utf-8")
        );
        assert_eq!(
            ready.body,
            "[+]core ok\n[+]consensus ok\n[+]log ok\n[+]disk ok\n[+]recovered ok\n[+]quorum ok\n[+]shutdown ok\nreadyz check passed\n"
        );
        assert_eq!(get(address, "/readyz?verbose").await.body, ready.body);
        let live = get(address, "/livez").await;
        assert_eq!(
            (live.status, live.body.as_str()),
            (200, "[+]core ok\n[+]consensus ok\nlivez check passed\n")
        );
    }

    let lone = cluster.leader().await;
    for i in (0..3).filter(|i| *i != lone) {
        cluster.down(i).await;
    }
    let address = cluster.node(lone).client_address();
    let not_ready = within("it is not ready", async {
        loop {
            let page = get(address, "/readyz").await;
            if page.status == 503 {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let lines: Vec<&str> = not_ready.body.lines().collect();
    assert_eq!(lines.len(), 8, "{}", not_ready.body);
    assert!(lines[5].starts_with("[-]quorum failed: "), "{}", not_ready.body);
    assert_eq!(lines[7], "readyz check failed");
    assert_eq!(lines.iter().filter(|line| line.starts_with("[+]")).count(), 6);
    assert_eq!(
        get(address, "/livez").await.status,
        200,
        "a restart would not help"
    );

    let without = get(address, "/readyz?exclude=quorum").await;
    assert_eq!(without.status, 200, "{}", without.body);
    assert!(
        without.body.contains("\n[ ]quorum excluded\n"),
        "{}",
        without.body
    );
    assert_eq!(
        get(address, "/readyz?exclude=log&exclude=quorum").await.status,
        200
    );
    assert_eq!(get(address, "/readyz?exclude=log").await.status, 503);

    // A slip is no check that is left out.
    let unknown = get(address, "/readyz?exclude=quorum&exclude=qourum").await;
    assert_eq!(unknown.status, 400);
    assert!(
        unknown.body.contains("\"qourum\"") && unknown.body.contains("quorum, shutdown"),
        "{}",
        unknown.body
    );
    assert_eq!(get(address, "/readyz?exlude=quorum").await.status, 400);
    assert_eq!(
        get(address, "/livez?exclude=quorum").await.status,
        400,
        "there it is no check"
    );

    let scrape = Scrape::of(address).await;
    assert_eq!(scrape.value("brama_ready"), 0.0);
    assert_eq!(scrape.value(r#"brama_check_ok{check="quorum"}"#), 0.0);
    assert_eq!(scrape.value(r#"brama_check_ok{check="core"}"#), 1.0);
    assert_eq!(scrape.value("brama_raft_has_quorum"), 0.0);

    for i in (0..3).filter(|i| *i != lone) {
        cluster.up(i).await;
    }
    within("it is ready again", async {
        while get(address, "/readyz").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    cluster.stop().await;
}

/// Both protocols share the port, and neither lets a client hold a connection for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_silent_is_given_up_whatever_it_speaks() {
    let cluster = Cluster::start().await;
    let address = cluster.node(0).client_address();
    let page = get(address, "/").await;
    assert_eq!(page.status, 404);
    assert!(page.body.contains("/metrics"), "{}", page.body);

    let silent: [&[u8]; 4] = [
        b"",
        // It might be HTTP/2, and it might not.
        b"PRI * HT",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n",
        // Answered, and then nothing more.
        b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    let began = Instant::now();
    let given_up = silent.map(|said| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut heard = Vec::new();
        // An end or a reset, as long as the connection is over.
        let _ = within("it is given up", stream.read_to_end(&mut heard)).await;
        assert_eq!(heard.starts_with(b"HTTP/1.1 200 OK"), said.ends_with(b"\r\n\r\n"));
        began.elapsed()
    });
    // One that asks again and again keeps its connection beyond that time.
    let busy = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        while began.elapsed() < Duration::from_secs(13) {
            stream
                .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"livez check passed\n") {
                assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "it is answered");
            }
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
    };
    // So does one of HTTP/2, which answers the pings of the node by itself.
    let mut circuits = cluster.circuits(0);
    circuits
        .get_config(v1::GetConfigRequest::default())
        .await
        .unwrap();
    let (given_up, ()) = tokio::join!(futures::future::join_all(given_up), busy);
    for after in given_up {
        assert!((9..14).contains(&after.as_secs()), "{after:?}");
    }
    let scrape = Scrape::of(address).await;
    let silence = scrape.value("brama_core_silence_seconds");
    assert!(silence < 5.0, "it is asked for signs of life: {silence}");
    assert_eq!(
        scrape.value(r#"brama_connections_refused_total{reason="silent"}"#),
        4.0
    );
    let accepted = scrape.value("brama_connections_accepted_total");
    circuits
        .get_config(v1::GetConfigRequest::default())
        .await
        .unwrap();
    let scrape = Scrape::of(address).await;
    assert_eq!(
        scrape.value("brama_connections_accepted_total"),
        accepted + 1.0,
        "the channel kept its connection, and only this scrape came on a new one"
    );
    cluster.stop().await;
}
