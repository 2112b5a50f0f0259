//! A page of made-up evidence: it has all its sections, is well-formed, and nothing in it is taken for HTML.

use std::collections::BTreeMap;
use std::sync::Arc;

use brama_proto::v1::{self, EventType, State};
use roxmltree::{Document, Node};

use super::{Drawing, FaultBar, Report, page};
use crate::check::Evidence;
use crate::circuits::{Circuits, Opening, Spec, policy_of};
use crate::findings::Findings;
use crate::history::{Action, Answer, Op, Outcome, Shown};
use crate::ledger::Seen;

const HOSTILE: &str = "<script>alert(\"&\")</script>";
const SVG: &str = "http://www.w3.org/2000/svg";
const SECOND: u64 = 1_000_000;

/// Ten seconds: each second an operation of each outcome, and a circuit with a hostile name that opens and half-opens.
pub(super) fn evidence() -> Evidence {
    let name = v1::CircuitName {
        scope: Some(HOSTILE.into()),
        identifier: HOSTILE.into(),
    };
    let opening = Opening::Fixed(500);
    let circuits = Circuits::new(vec![Spec {
        name: name.clone(),
        policy: policy_of(opening),
        opening,
        max_probes: 1,
    }]);
    let mut ops = Vec::new();
    let mut events = BTreeMap::new();
    for second in 0..10_u64 {
        let revision = second * 2 + 1;
        let started = second * SECOND + 1000;
        let outcomes = [
            Outcome::Ok(Answer::Changed {
                revision,
                generation: revision,
                circuit: Shown::of(None, None),
            }),
            Outcome::Refused(HOSTILE.into()),
            Outcome::Unknown("no answer".into()),
        ];
        for outcome in outcomes {
            ops.push(Op {
                id: ops.len(),
                client: 1,
                started,
                ended: started + 2000 * (second + 1),
                floor: 0,
                attempts: 1,
                doubtful: 0,
                again: Vec::new(),
                action: Action::Open {
                    circuit: 0,
                    expiry_ms: None,
                    reason: HOSTILE.into(),
                },
                outcome,
            });
        }
        let due = i64::try_from(second).unwrap() + 1;
        let at = |seconds, nanos| prost_types::Timestamp { seconds, nanos };
        let opened = v1::Event {
            revision,
            name: Some(name.clone()),
            r#type: EventType::CircuitOpened.into(),
            new_state: State::Open.into(),
            expires_at: Some(at(due, 0)),
            ..Default::default()
        };
        let ended = v1::Event {
            revision: revision + 1,
            name: Some(name.clone()),
            r#type: EventType::CircuitHalfOpened.into(),
            new_state: State::HalfOpen.into(),
            time: Some(at(due, 7_000_000)),
            ..Default::default()
        };
        for (event, arrived) in [(opened, started + 30_000), (ended, started + 537_000)] {
            events.insert(event.revision, Seen { event, arrived });
        }
    }
    Evidence {
        circuits: Arc::new(circuits),
        ops,
        events,
        faults: Vec::new(),
        kinds: Vec::new(),
        spans: Vec::new(),
    }
}

fn faults() -> Vec<FaultBar> {
    let fault = |label: &str, proof: Option<&str>| FaultBar {
        label: label.into(),
        nodes: format!("node 2 {HOSTILE}"),
        from: 2 * SECOND,
        until: 4 * SECOND,
        proof: proof.map(str::to_owned),
    };
    vec![fault("kill leader", Some("it was gone")), fault(HOSTILE, None)]
}

fn findings() -> Findings {
    let mut findings = Findings::default();
    findings.checked("G3", "12 batches, each once");
    findings.figure("open", "10 ok");
    findings
}

fn show(evidence: &Evidence, findings: &Findings, faults: Vec<FaultBar>, drawings: Vec<Drawing>) -> String {
    let report = Report {
        title: format!("A run {HOSTILE}"),
        began: "2026-01-02T03:04:05Z".into(),
        seed: 4711,
        command: format!("scripts/faults --seed 4711 --workload '{HOSTILE}'"),
        options: vec![("clients".into(), HOSTILE.into())],
        evidence,
        last_arrivals: evidence
            .events
            .iter()
            .map(|(revision, seen)| (*revision, seen.arrived + 5000))
            .collect(),
        faults,
        findings,
        drawings,
        files: vec![("every operation".into(), "history.jsonl".into())],
    };
    page::page(&report).into_string()
}

/// What of a page can be read by a parser that forgives nothing: all but the elements that HTML never closes.
fn well_formed(page: &str) -> String {
    let page = page.strip_prefix("<!DOCTYPE html>").unwrap();
    let (before, rest) = page.split_once("<meta").unwrap();
    let title = rest.find("<title>").unwrap();
    assert_eq!(
        rest[..title].matches("<meta").count(),
        2,
        "nothing else is cut out"
    );
    format!("{before}{}", &rest[title..])
}

/// Elements of a name and a class, if one is asked for, below the element of this id, or anywhere.
fn find<'a>(page: &'a Document<'_>, id: &str, name: &str, class: &str) -> Vec<Node<'a, 'a>> {
    let below = if id.is_empty() {
        page.root()
    } else {
        let by_id = |node: &Node<'_, '_>| node.attribute("id") == Some(id);
        page.descendants()
            .find(by_id)
            .unwrap_or_else(|| panic!("#{id} is there"))
    };
    let matches = |node: &Node<'_, '_>| {
        let classes = || node.attribute("class").unwrap_or_default().split(' ');
        (name.is_empty() || node.has_tag_name(name) || node.has_tag_name((SVG, name)))
            && class
                .split(' ')
                .all(|class| class.is_empty() || classes().any(|has| has == class))
    };
    below
        .descendants()
        .filter(|node| node.is_element())
        .filter(matches)
        .collect()
}

fn text(nodes: &[Node<'_, '_>]) -> String {
    let texts = nodes.iter().flat_map(Node::descendants).filter(Node::is_text);
    texts.filter_map(|node| node.text()).collect()
}

#[test]
fn a_page_has_every_section_and_needs_nothing_else() {
    let drawing = Drawing {
        title: "No order fits".into(),
        fragment: "<svg class=\"drawn\"><title>here</title></svg>".into(),
    };
    let html = show(&evidence(), &findings(), faults(), vec![drawing]);
    let xml = well_formed(&html);
    let page = Document::parse(&xml).unwrap();
    let links: Vec<_> = find(&page, "", "a", "")
        .iter()
        .filter_map(|a| a.attribute("href"))
        .collect();
    for id in [
        "timeline",
        "latency",
        "lag",
        "lateness",
        "guarantees",
        "figures",
        "again",
        "files",
    ] {
        assert!(find(&page, id, "section", "").len() == 1, "{id}");
        assert!(links.contains(&format!("#{id}").as_str()), "{id}: {links:?}");
    }
    // Ten seconds of operations, one bar a fault, a dot an opening.
    for (chart, name, class, count) in [
        ("timeline-chart", "rect", "acknowledged", 10),
        ("timeline-chart", "rect", "unknown", 10),
        ("timeline-chart", "rect", "bar", 2),
        ("timeline-chart", "rect", "bar unproven", 1),
        ("latency-chart", "circle", "max", 10),
        ("lag-first-chart", "circle", "max", 10),
        ("lag-last-chart", "circle", "max", 10),
        ("lateness-chart", "circle", "late", 10),
    ] {
        assert_eq!(
            find(&page, chart, name, class).len(),
            count,
            "{chart} {name}.{class}"
        );
    }
    assert!(text(&find(&page, "lateness", "p", "note")).contains("10 openings: p50 7.0 ms"));
    assert_eq!(find(&page, "", "svg", "drawn").len(), 1);
    assert!(text(&find(&page, "again", "pre", "command")).contains("scripts/faults --seed 4711"));
    assert!(links.contains(&"history.jsonl"));
    for elsewhere in ["http://", "https://", "@import", "url(", "<script", "<link"] {
        assert!(!html.replace(SVG, "").contains(elsewhere), "{elsewhere}");
    }
}

#[test]
fn a_hostile_name_is_text() {
    let mut findings = findings();
    findings.broken("G9", format!("circuit {HOSTILE} has an effect without a cause"));
    findings.untold(HOSTILE);
    findings.checked("G2", HOSTILE);
    findings.figure(HOSTILE, HOSTILE);
    let html = show(&evidence(), &findings, faults(), Vec::new());
    let xml = well_formed(&html);
    let page = Document::parse(&xml).unwrap();
    assert!(find(&page, "", "script", "").is_empty());
    // In the title, tooltips, tables and what is broken.
    assert!(html.matches("&lt;script&gt;").count() > 20);
    assert!(text(&find(&page, "lateness-chart", "title", "")).contains(HOSTILE));
    assert!(text(&find(&page, "", "section", "problem broken")).contains(HOSTILE));
}

#[test]
fn what_is_broken_or_could_not_be_told_stands_first() {
    let mut findings = findings();
    let told = |findings: &Findings, id: &str, class: &str| {
        let xml = well_formed(&show(&evidence(), findings, faults(), Vec::new()));
        let page = Document::parse(&xml).unwrap();
        text(&find(&page, id, "", class))
    };
    assert_eq!(told(&findings, "", "verdict"), "All of it held");
    assert_eq!(told(&findings, "", "problem"), "");
    assert_eq!(told(&findings, "guarantees", "holds"), "✓ holds");

    findings.untold("the leader never changed");
    assert_eq!(told(&findings, "", "verdict"), "Unknown");
    assert!(told(&findings, "", "problem untold").contains("the leader never changed"));

    for batch in 0..60 {
        findings.broken("G3", format!("batch {batch} counted twice"));
    }
    assert_eq!(told(&findings, "", "verdict"), "Broken");
    let problem = told(&findings, "", "problem broken");
    assert!(
        problem.contains("batch 49 counted twice") && problem.contains("and 10 more"),
        "{problem}"
    );
    assert_eq!(told(&findings, "guarantees", "broken"), "✗ broken, 60 times");
    assert_eq!(
        told(&findings, "guarantees", "holds"),
        "",
        "what was broken does not hold"
    );
}

#[test]
fn a_run_in_which_nothing_happened_has_a_page_too() {
    let mut evidence = evidence();
    evidence.ops.clear();
    evidence.events.clear();
    let xml = well_formed(&show(&evidence, &Findings::default(), Vec::new(), Vec::new()));
    let page = Document::parse(&xml).unwrap();
    assert!(text(&find(&page, "latency", "", "none")).contains("No operation was acknowledged"));
    assert!(text(&find(&page, "lateness", "", "none")).contains("No opening ended"));
    assert!(text(&find(&page, "timeline-chart", "text", "head")).contains("nothing was broken on purpose"));
}
