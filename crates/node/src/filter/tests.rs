//! What filters can say, what is refused, and that the dearest one that is allowed is cheap.

use std::panic::catch_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use brama_core::event::{Event, EventKind};
use brama_core::{Metadata, SharedMetadata};

use super::{BUDGET, Filter, fields};

fn sample() -> Event {
    let metadata = [("team", "pay"), ("tries", "3")];
    Event {
        metadata: Metadata::from(metadata).into(),
        ..fields::sample()
    }
}

/// A change of the global configuration: no circuit, no states, no reason.
fn bare() -> Event {
    Event {
        name: None,
        kind: EventKind::Configured,
        previous_state: None,
        new_state: None,
        reason: None,
        metadata: SharedMetadata::default(),
        ..fields::sample()
    }
}

fn passes(source: &str, event: &Event) -> bool {
    let filter = Filter::compile(source).unwrap_or_else(|problem| panic!("{source}: {problem}"));
    filter.passes(event).unwrap()
}

#[test]
fn it_sees_every_field_of_an_event() {
    for source in [
        "true",
        "event.type == 'circuit_opened' && event.new_state == \"open\" && event.previous_state == 'closed'",
        "event.failure_count >= 5 && event.revision == 1 && event.generation == 2 && event.openings_in_a_row > 0",
        "event.count == 1",
        "event.identifier.startsWith('ident') && event.scope == 'scope' && event.reason.contains('eas')",
        "event['identifier'].endsWith('fier')",
        "event.cause in ['threshold', 'probe']",
        "event.time < timestamp('2030-01-01T00:00:00Z') && event.time.getFullYear() == 2023",
        "has(event.metadata.team) && !has(event.metadata.owner)",
        "event.metadata.team == 'pay' && event.metadata['team'] == 'pay' && 'team' in event.metadata",
        "int(event.metadata.tries) > 2 ? true : false",
        "event.identifier.matches('^i.*r$') && !event.identifier.matches('^r')",
        "event.metadata.all(key, key != 'x') && event.metadata.exists(key, event.metadata[key] == 'pay')",
        "['a', 'identifier'].exists(name, name == event.identifier)",
        "['a', 'identifier'].exists_one(name, name == event.identifier)",
        "size(['a', 'b'].filter(name, name != 'a')) == 1",
    ] {
        assert!(passes(source, &sample()), "{source}");
    }
    for source in [
        "false",
        "event.type == 'registration'",
        "event.metadata.team == 'ops'",
    ] {
        assert!(!passes(source, &sample()), "{source}");
    }
}

#[test]
fn what_an_event_does_not_have_does_not_match() {
    for source in [
        "event.metadata.team == 'pay'",
        "event.metadata['team'] != 'pay'",
        "event.reason.contains('eas')",
        "event.scope == 'scope'",
        "event.new_state == 'open'",
        "event.identifier.matches('.*')",
    ] {
        assert!(!passes(source, &bare()), "{source}");
    }
    assert!(passes(
        "event.scope == null && event.new_state == null && event.reason == null",
        &bare()
    ));
    assert!(passes(
        "!has(event.metadata.team) || event.metadata.team == 'pay'",
        &bare()
    ));
}

#[test]
fn what_is_wrong_is_said() {
    for (source, problem) in [
        ("event.type ==", "is no CEL expression"),
        ("", "is no CEL expression"),
        ("event.type == 'x' event", "is no CEL expression"),
        ("1 + 1", "must be true or false"),
        ("event.type", "must be true or false"),
        ("event", "must be true or false"),
        ("event.metadata.team", "must be true or false"),
        ("true ? event.type : event.cause", "must be true or false"),
        ("['a'].map(x, x)", "must be true or false"),
        ("evnt.type == 'x'", "names `evnt`"),
        ("event.typ == 'x'", "names `event.typ`"),
        ("event['typ'] == 'x'", "names `event.typ`"),
        ("has(event.permit)", "names `event.permit`"),
        ("type(event.count) == int", "calls `type`"),
        ("foo(event)", "calls `foo`"),
        ("event.metadata.team.foo() == 1", "calls `foo`"),
        ("event.type == x", "names `x`"),
        ("['a'].exists(event, event.type == 'a')", "gives the name `event`"),
        ("event.type > 5", "cannot be evaluated"),
        ("event.type && true", "cannot be evaluated"),
        ("event.identifier.matches('(')", "pattern that cannot be read"),
    ] {
        let error = Filter::compile(source).expect_err(source);
        assert!(error.contains(problem), "{source}: {error}");
    }
}

#[test]
fn what_would_run_too_long_is_refused() {
    let long_list = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    let nested = format!("[{0}].all(x, [{0}].all(y, x >= 0 && y >= 0))", long_list(50));
    let wide = format!("[{}].all(x, {})", long_list(140), "x>0&&".repeat(20) + "x>0");
    let body = format!("['a'].all(x, {})", "x>'a'&&".repeat(60) + "x>'a'");
    let patterns = "event.type.matches('aaaaaaaaaaaaaaaa')||".repeat(20) + "true";
    let parts = "event.count>0||".repeat(60) + "true";
    for source in [
        nested.as_str(),
        wide.as_str(),
        body.as_str(),
        patterns.as_str(),
        parts.as_str(),
        "[1,2].all(x, [1,2].all(y, x > y))",
        "event.reason.matches(event.reason)",
        "event.reason.matches('a{1000}{1000}')",
        "event.metadata.all(key, key.matches('a'))",
        "[[1],[2]][0].all(x, x > 0)",
        "event.metadata.map(k, k + k).all(x, x != '')",
        "['a'].map(x, x).all(x, x != '')",
    ] {
        let error = Filter::compile(source).expect_err(source);
        assert!(error.contains("would run too long"), "{source}: {error}");
    }
    let pattern = format!("event.reason.matches('{}')", "a".repeat(129));
    assert!(Filter::compile(&pattern).unwrap_err().contains("128 bytes"));
    for deep in [
        "(".repeat(1000),
        "!".repeat(1000),
        "[".repeat(500),
        "true?".repeat(200),
        "-".repeat(1000),
    ] {
        let error = Filter::compile(&deep).expect_err(&deep);
        assert!(error.contains("nested"), "{deep}: {error}");
    }
    let long = format!("true{}", " && true".repeat(200));
    assert!(Filter::compile(&long).unwrap_err().contains("bytes"));
}

/// Neither an odd value nor an odd text may take the node down.
#[test]
fn odd_filters_do_not_panic() {
    let mut sources: Vec<String> = [
        "event.revision + 9223372036854775807 > 0",
        "-9223372036854775808 / -1 == 1",
        "-9223372036854775808 % -1 == 1",
        "-(-9223372036854775808) == 1",
        "9223372036854775807 * event.generation > 1",
        "1 / 0 == 1 || 1 % 0 == 1",
        "1.0 / 0.0 > 1.0",
        "int(1e300) == 1 || uint(-1) == 1u || int('x') == 1",
        "18446744073709551615u + 1u > 0u",
        "0u - 1u == 0u",
        "timestamp('9999-12-31T23:59:59Z') + duration('9999999h') > event.time",
        "event.time - timestamp('0001-01-01T00:00:00Z') > duration('1h')",
        "event.time + duration('2562047h') + duration('2562047h') > event.time",
        "duration('9223372036854775807s') == duration('1s')",
        "duration('-1ns') - duration('2562047h') < duration('1s')",
        "timestamp(9223372036854775807) == event.time",
        "int(timestamp('0001-01-01T00:00:00Z')) == 1",
        "event.time.getHours('Nowhere/At_all') == 1",
        "'abc'[5] == 'a'",
        "[1][5] == 1 || [1][-1] == 1",
        "{'a': 1}['b'] == 1",
        "{'a': 1, 'a': 2} == {'a': 2}",
        "b'\\xff' == b'\\xff' && string(b'\\xff') == ''",
        "'\\U0010ffff' == '\\ud800'",
        "size(event) == 14 && event == event",
        "event.metadata == {}",
        "double('nan') == double('nan') || double('inf') > 1.0",
        "event.reason.contains('') && ''.startsWith('')",
        "has(event)",
        "event.?reason == 1",
        ".event.type == 'a'",
        "a.b.c.d()",
        "event.metadata.all(k)",
        "\u{0}",
        "é == '🦀'",
        "'unterminated",
        "// only a comment",
        "event.type == 'a' // comment",
        "in in in",
        "[1, 2",
        "0x == 1 || 1e == 1",
        "99999999999999999999 == 1",
    ]
    .map(str::to_owned)
    .into();
    for long in [
        "event.type.",
        "a.",
        "1+",
        "1,",
        "event.type+",
        "true&&",
        "''==",
        "\"",
        "\\",
        "`",
        "1 in ",
    ] {
        sources.push(long.repeat(1024 / long.len()));
        sources.push(long.repeat(1020 / long.len()) + "1");
    }
    for source in sources {
        let checked = catch_unwind(|| {
            let started = Instant::now();
            if let Ok(filter) = Filter::compile(&source) {
                let _ = filter.passes(&sample());
                let _ = filter.passes(&bare());
            }
            started.elapsed()
        });
        let took = checked.unwrap_or_else(|_| panic!("{source:?} panics"));
        assert!(took < Duration::from_secs(1), "{source:?} took {took:?}");
    }
}

/// The dearest filters that are allowed, on the largest event that is allowed.
#[test]
fn the_dearest_filters_are_cheap() {
    let largest = Event {
        reason: Some("a".repeat(1024).into()),
        metadata: (0..64)
            .map(|i| (format!("{i:a>64}"), "a".repeat(1024)))
            .collect::<Metadata>()
            .into(),
        ..sample()
    };
    let reasons = vec!["event.reason"; 28].join(",");
    let numbers = (0..140).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    let evil = "(a*)*(a*)*(a*)*(a*)*(a*)*(a*)*b";
    let filters = [
        format!("[{reasons}].all(x, size({}) > 0)", vec!["x"; 40].join("+")),
        format!("size({}) > 0", vec!["event.reason"; 70].join("+")),
        format!("[{numbers}].all(x, x >= 0 && x < 1000)"),
        format!("[{numbers}].exists(x, string(x) == event.reason)"),
        "event.metadata.all(k, event.metadata[k] + event.metadata[k] != k)".to_owned(),
        vec![format!("event.reason.matches('{evil}')"); 5].join("||"),
        format!("event.reason.matches('{}b')", "a*".repeat(60)),
    ];
    for source in filters {
        let filter = Filter::compile(&source).unwrap_or_else(|problem| panic!("{source}: {problem}"));
        // The quickest of some runs: the machine may have other things to do.
        let took = (0..10)
            .map(|_| {
                let started = Instant::now();
                let _ = filter.run(&largest);
                started.elapsed()
            })
            .min()
            .unwrap();
        println!("{took:?} {source:.60}");
        assert!(took < BUDGET / 2, "{source} took {took:?}");
    }
}

/// A filter that is slow all the same is found out.
#[test]
fn a_filter_beyond_its_budget_is_found_out() {
    let numbers = (0..400).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    let source = format!("[{numbers}].all(x, [{numbers}].all(y, x + y >= 0))");
    let unchecked = Filter {
        program: super::ENV.compile(&source).unwrap(),
        patterns: Arc::default(),
    };
    let slow = unchecked.passes(&sample()).unwrap_err();
    assert!(slow.took > BUDGET, "{slow}");
}
