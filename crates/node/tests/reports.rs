//! Reports: in order on a stream, once in a session, seen by whoever asks for at least their revision.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use futures::future::join_all;
use tonic::Code;

use brama_proto::v1;
use common::{Cluster, Refused, at_least, name, next, within};
use v1::report_stream_response::Result as Answer;

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_in_order_and_outlives_refused_batches() {
    let cluster = Cluster::start().await;
    let name = name("streamed");
    let policy = v1::Policy {
        max_attempts: Some(1_000_000),
        ..Default::default()
    };
    cluster.register(0, &name, policy).await;
    // Also on a node that does not lead.
    let leader = cluster.leader().await;
    for (round, i) in [leader, (leader + 1) % 3].into_iter().enumerate() {
        let id = vec![round as u8 + 1; 16];
        let mut expected = Vec::new();
        let mut batches = Vec::new();
        for sequence in 1..=300 {
            let good = session_batch(&id, sequence, &name, v1::Outcome::Failure);
            let bad = match sequence % 60 {
                10 => Some((
                    v1::ReportRequest {
                        items: Vec::new(),
                        ..good.clone()
                    },
                    "INVALID_ARGUMENT",
                    Code::InvalidArgument,
                )),
                20 => {
                    let mut large = good.clone();
                    large.items[0].reason = Some("x".repeat(2 << 20));
                    Some((large, "REQUEST_TOO_LARGE", Code::ResourceExhausted))
                }
                // Long answered, and forgotten since.
                30 => Some((
                    session_batch(&id, sequence - 20, &name, v1::Outcome::Failure),
                    "STALE_SEQUENCE",
                    Code::FailedPrecondition,
                )),
                _ => None,
            };
            if let Some((batch, reason, code)) = bad {
                expected.push((
                    batch.session.as_ref().unwrap().sequence,
                    Err((reason.to_owned(), i32::from(code))),
                ));
                batches.push(batch);
            }
            let failures = round as u32 * 300 + sequence as u32;
            expected.push((sequence, Ok(failures)));
            batches.push(good);
        }
        let mut client = cluster.circuits(i);
        let mut answers = client
            .report_stream(futures::stream::iter(batches))
            .await
            .unwrap()
            .into_inner();
        for (n, (sequence, outcome)) in expected.into_iter().enumerate() {
            let answer = next(&mut answers).await.unwrap();
            let got = match answer.result.unwrap() {
                Answer::Response(response) => {
                    assert_eq!(response.items[0].result(), v1::ItemResult::Applied);
                    Ok(response.items[0].failure_count)
                }
                Answer::Error(error) => {
                    assert!(!error.message.is_empty());
                    Err((error.reason, error.code))
                }
            };
            assert_eq!((answer.sequence, got), (sequence, outcome), "answer {n}");
        }
        // All is answered, so the stream ends as the client's did.
        assert!(within("the end", answers.message()).await.unwrap().is_none());
    }
    assert_eq!(cluster.status(2, &name).await.failure_count, 600);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_a_session_counts_once_through_whatever_nodes() {
    let cluster = Cluster::start().await;
    let name = name("once");
    let policy = v1::Policy {
        max_attempts: Some(1_000),
        ..Default::default()
    };
    cluster.register(0, &name, policy).await;
    for sequence in 1..=5 {
        // At once, 30 times, through all nodes; and then once more.
        let batch = session_batch(&[9; 16], sequence, &name, v1::Outcome::Failure);
        let send = |i: usize| {
            let (mut client, batch) = (cluster.circuits(i % 3), batch.clone());
            async move { client.report(batch).await.unwrap().into_inner() }
        };
        let mut answers = join_all((0..30).map(send)).await;
        answers.push(send(sequence as usize).await);
        for answer in &answers {
            assert_eq!(answer.items, answers[0].items, "the first answer again");
            assert_eq!(answer.revision, answers[0].revision, "the first answer again");
        }
        assert_eq!(answers[0].items[0].failure_count, sequence as u32);
        assert_eq!(cluster.status(1, &name).await.totals.unwrap().failures, sequence);
    }
    // An older one is not applied again, nor answered as if it were the newest.
    let before = cluster.status(0, &name).await;
    for i in 0..3 {
        let batch = session_batch(&[9; 16], 4, &name, v1::Outcome::Failure);
        let status = cluster.circuits(i).report(batch).await.unwrap_err();
        let expected = Refused::new(Code::FailedPrecondition, "STALE_SEQUENCE", None);
        assert_eq!(Refused::of(&status), expected);
    }
    assert_eq!(cluster.status(2, &name).await, before);

    // The single calls take sessions too, and another session is another.
    for i in 0..3 {
        let request = v1::FailureRequest {
            name: Some(name.clone()),
            session: Some(v1::Session {
                id: vec![8; 16],
                sequence: 1,
            }),
            ..Default::default()
        };
        let answer = cluster.circuits(i).failure(request).await.unwrap().into_inner();
        assert_eq!(answer.failure_count, 6, "node {}", i + 1);
    }
    // Without one, each counts.
    for i in 0..3 {
        assert_eq!(cluster.fail(i, &name).await.failure_count, 7 + i as u32);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_apply_in_order_and_are_answered_one_by_one() {
    let cluster = Cluster::start().await;
    let (a, b) = (name("a"), name("b"));
    for name in [&a, &b] {
        let policy = v1::Policy {
            max_attempts: Some(3),
            ..Default::default()
        };
        cluster.register(0, name, policy).await;
    }
    use v1::Outcome::{Failure, Ignored, Success};
    let summary = v1::Summary {
        successes: 4,
        leading_successes: 4,
        ignored: 1,
        rejected: 7,
        ..Default::default()
    };
    let request = v1::ReportRequest {
        session: None,
        items: vec![
            item(&a, &[Failure, Failure, Success, Failure]),
            item(&b, &[Failure, Failure, Failure, Success]),
            item(&name("nobody"), &[Failure]),
            item(&a, &[Ignored, Failure]),
            v1::ReportItem {
                name: Some(a.clone()),
                summary: Some(summary),
                ..Default::default()
            },
            v1::ReportItem {
                generation: Some(99),
                ..item(&a, &[Failure])
            },
        ],
    };
    let answer = cluster.circuits(1).report(request).await.unwrap().into_inner();
    let got: Vec<_> = answer
        .items
        .iter()
        .map(|item| (item.result(), item.state(), item.failure_count))
        .collect();
    use v1::ItemResult::{Applied, Late, NotFound};
    let (closed, open) = (v1::State::Closed, v1::State::Open);
    assert_eq!(
        got,
        [
            (Applied, closed, 1),
            (Applied, open, 3),
            (NotFound, v1::State::Unspecified, 0),
            (Applied, closed, 2),
            (Applied, closed, 0),
            (Late, closed, 0),
        ]
    );
    let totals = cluster.status(2, &a).await.totals.unwrap();
    let counts = (totals.failures, totals.successes, totals.ignored, totals.rejected);
    assert_eq!(counts, (5, 5, 2, 7));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_at_least_a_writes_revision_sees_the_write() {
    let cluster = Cluster::start().await;
    let name = name("fresh");
    let policy = v1::Policy {
        max_attempts: Some(1_000_000),
        ..Default::default()
    };
    cluster.register(0, &name, policy).await;
    for round in 1..=60_u32 {
        let writer = round as usize % 3;
        let answer = cluster.fail(writer, &name).await;
        let revision = answer.header.unwrap().revision;
        assert_eq!(answer.failure_count, round);
        assert!(revision >= answer.revision);
        for i in 0..3 {
            // The node that passed the write on may not have it yet either.
            let request = v1::StatusRequest {
                name: Some(name.clone()),
                consistency: Some(at_least(revision)),
            };
            let answer = cluster.circuits(i).status(request).await.unwrap().into_inner();
            assert_eq!(answer.circuit.unwrap().failure_count, round, "node {}", i + 1);
            let header = answer.header.unwrap();
            assert!(header.revision >= revision);
            assert_eq!(header.node_id, i as u64 + 1);
        }
        // Linearizable is the default, and needs no revision.
        assert_eq!(cluster.status((writer + 1) % 3, &name).await.failure_count, round);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_reporters_at_once_lose_nothing_and_double_nothing() {
    const REPORTERS: usize = 64;
    const BATCHES: u64 = 15;
    let cluster = Cluster::start().await;
    let names: Vec<_> = (0..4).map(|n| name(&format!("shared{n}"))).collect();
    for name in &names {
        let policy = v1::Policy {
            max_attempts: Some(1_000_000),
            ..Default::default()
        };
        cluster.register(0, name, policy).await;
    }
    let report = |reporter: usize| {
        let (cluster, names) = (&cluster, &names);
        async move {
            for sequence in 1..=BATCHES {
                let id = vec![reporter as u8 + 1; 16];
                let items = names
                    .iter()
                    .map(|name| item(name, &[v1::Outcome::Failure, v1::Outcome::Success]))
                    .collect();
                let batch = v1::ReportRequest {
                    session: Some(v1::Session { id, sequence }),
                    items,
                };
                // Each batch through another node, and every third one twice.
                let times = if sequence % 3 == 0 { 2 } else { 1 };
                for time in 0..times {
                    let i = (reporter + sequence as usize + time) % 3;
                    cluster.circuits(i).report(batch.clone()).await.unwrap();
                }
            }
        }
    };
    join_all((0..REPORTERS).map(report)).await;
    let expected = REPORTERS as u64 * BATCHES;
    for (i, name) in names.iter().enumerate() {
        let totals = cluster.status(i % 3, name).await.totals.unwrap();
        assert_eq!((totals.failures, totals.successes), (expected, expected));
    }
    cluster.stop().await;
}

fn item(name: &v1::CircuitName, outcomes: &[v1::Outcome]) -> v1::ReportItem {
    v1::ReportItem {
        name: Some(name.clone()),
        outcomes: outcomes.iter().map(|outcome| (*outcome).into()).collect(),
        ..Default::default()
    }
}

fn session_batch(
    id: &[u8],
    sequence: u64,
    name: &v1::CircuitName,
    outcome: v1::Outcome,
) -> v1::ReportRequest {
    v1::ReportRequest {
        session: Some(v1::Session {
            id: id.to_vec(),
            sequence,
        }),
        items: vec![item(name, &[outcome])],
    }
}
