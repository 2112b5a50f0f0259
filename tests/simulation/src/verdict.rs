//! The history of the clients against the events of the cluster.

use std::collections::{BTreeMap, BTreeSet};

use brama_core::event::{Cause, Event, EventKind};
use brama_core::query::Totals;

use crate::{Broken, History, Ms, Nodes, Seen};

/// What all circuits of a run have in common.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `half_open_max_probes`.
    pub max_probes: usize,
    /// `probe_timeout`.
    pub probe_timeout_ms: u64,
    /// `expiry`.
    pub expiry_ms: u64,
}

/// How much faster cluster time may run than real time: 0.1 %.
const LEAN: u64 = 1000;
/// Moments are noted to the millisecond.
const SLOP_MS: u64 = 2;

/// Everything that the history says against the cluster.
pub fn judge(history: &History, nodes: &Nodes, settings: &Settings) -> Vec<Broken> {
    let mut broken = Vec::new();
    order(history, &mut broken);
    counts(history, &mut broken);
    batches(history, nodes, &mut broken);
    manual(history, nodes, &mut broken);
    causes(history, nodes, &mut broken);
    openings(history, nodes, settings, &mut broken);
    permits(history, settings, &mut broken);
    broken
}

/// G2 and G8: who asks after somebody else was answered comes after him in the log, through whatever failed in between.
fn order(history: &History, broken: &mut Vec<Broken>) {
    let mut by_end: Vec<_> = history.positions.iter().collect();
    by_end.sort_by_key(|position| position.ended);
    let mut by_begin = by_end.clone();
    by_begin.sort_by_key(|position| position.invoked);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<&crate::Position> = None;
    for position in by_begin {
        while let Some(earlier) = ended.next_if(|earlier| earlier.ended < position.invoked) {
            if newest.is_none_or(|newest| newest.index < earlier.index) {
                newest = Some(earlier);
            }
        }
        let Some(newest) = newest else { continue };
        let least = newest.index + u64::from(position.writes);
        if position.index < least {
            let what = format!(
                "{} ({}..{} ms) is at log index {}, though {} was answered before, at {} ms, with {}",
                position.what,
                position.invoked,
                position.ended,
                position.index,
                newest.what,
                newest.ended,
                newest.index
            );
            broken.push(Broken::new("G2/G8", what));
        }
    }
}

/// G2 and G3: a read shows exactly the batches that were applied before.
fn counts(history: &History, broken: &mut Vec<Broken>) {
    for read in &history.reads {
        for (circuit, shown) in &read.totals {
            let (mut least, mut most) = (Totals::default(), Totals::default());
            for batch in &history.batches {
                let mut items = batch.items.iter().filter(|(of, _)| of == circuit);
                let Some((_, summary)) = items.next() else {
                    continue;
                };
                match batch.done {
                    Some(revision) if revision <= read.revision => {
                        add(&mut least, summary);
                        add(&mut most, summary);
                    }
                    Some(_) => {}
                    None => add(&mut most, summary),
                }
            }
            let fits = |shown: u64, least: u64, most: u64| (least..=most).contains(&shown);
            if !fits(shown.failures, least.failures, most.failures)
                || !fits(shown.successes, least.successes, most.successes)
            {
                let what = format!(
                    "at revision {} ({} ms) {circuit} has {} failures and {} successes; the batches up to there make {}..={} and {}..={}",
                    read.revision,
                    read.invoked,
                    shown.failures,
                    shown.successes,
                    least.failures,
                    most.failures,
                    least.successes,
                    most.successes
                );
                broken.push(Broken::new("G2/G3", what));
            }
        }
    }
}

fn add(totals: &mut Totals, summary: &brama_core::Summary) {
    totals.failures += summary.failures;
    totals.successes += summary.successes;
}

/// G3: the failures of a batch are in one event a circuit.
fn batches(history: &History, nodes: &Nodes, broken: &mut Vec<Broken>) {
    let seen = by_reason(nodes, |event| event.kind == EventKind::Failure);
    for batch in &history.batches {
        let wanted = batch
            .items
            .iter()
            .filter(|(_, summary)| summary.failures > 0)
            .count();
        let found = seen.get(batch.reason.as_str()).map_or(0, Vec::len);
        let right = match batch.done {
            Some(_) => found == wanted,
            // All of it or nothing.
            None => found == 0 || found == wanted,
        };
        if !right {
            let what = format!(
                "batch {} ({:?}) has {found} events of failures, not {wanted}",
                batch.reason, batch.done
            );
            broken.push(Broken::new("G3", what));
        }
    }
}

/// A manual act has one event, at or before the revision that its answer gives; and none if it was refused.
fn manual(history: &History, nodes: &Nodes, broken: &mut Vec<Broken>) {
    let seen = by_reason(nodes, |event| event.cause == Cause::Manual);
    for act in &history.manual {
        let found = seen.get(act.reason.as_str()).map_or(&[][..], Vec::as_slice);
        let right = match (act.done, found) {
            (_, [_, _, ..]) => false,
            (Some(revision), [one]) => one.event.revision <= revision && one.event.kind == act.kind,
            // Unregistering what is not there makes none.
            (Some(_), []) => act.kind == EventKind::ConnectionUnregistered,
            (None, [one]) => !act.refused && one.event.kind == act.kind,
            (None, []) => true,
        };
        if !right {
            let revisions: Vec<_> = found.iter().map(|seen| seen.event.revision).collect();
            let what = format!(
                "{:?} of {} ({}, answered with {:?}, refused: {}) has its events at {revisions:?}",
                act.kind, act.circuit, act.reason, act.done, act.refused
            );
            broken.push(Broken::new("G3/G9", what));
        }
    }
}

fn by_reason(nodes: &Nodes, wanted: impl Fn(&Event) -> bool) -> BTreeMap<&str, Vec<&Seen>> {
    let mut found: BTreeMap<&str, Vec<&Seen>> = BTreeMap::new();
    for seen in nodes.events().values().filter(|seen| wanted(&seen.event)) {
        if let Some(reason) = &seen.event.reason {
            found.entry(reason).or_default().push(seen);
        }
    }
    found
}

/// G9: nothing happens that nobody asked for.
fn causes(history: &History, nodes: &Nodes, broken: &mut Vec<Broken>) {
    let names: BTreeMap<&str, Ms> = history
        .registered
        .iter()
        .rev()
        .map(|(name, at)| (name.as_str(), *at))
        .collect();
    let batches: BTreeSet<&str> = history
        .batches
        .iter()
        .map(|batch| batch.reason.as_str())
        .collect();
    let acts: BTreeSet<&str> = history.manual.iter().map(|act| act.reason.as_str()).collect();
    let probes: BTreeSet<u128> = history.probes.iter().map(|probe| probe.permit).collect();
    let mut previous = None;
    for (revision, seen) in nodes.events() {
        let event = &seen.event;
        let reason = event.reason.as_deref().unwrap_or_default();
        let known = match (event.kind, event.cause) {
            (EventKind::Registration, _) => event.name.as_ref().is_some_and(|name| {
                names
                    .get(name.identifier.as_str())
                    .is_some_and(|at| *at <= seen.at)
            }),
            (EventKind::Failure, _) => batches.contains(reason),
            (_, Cause::Manual) => acts.contains(reason),
            (EventKind::ProbeGranted | EventKind::ProbeExpired, _) => {
                event.permit.is_some_and(|permit| probes.contains(&permit.0))
            }
            _ => true,
        };
        if !known {
            broken.push(Broken::new("G9", format!("nobody asked for {event:?}")));
        }
        if previous.is_some_and(|previous| previous + 1 != *revision) {
            broken.push(Broken::new(
                "G7",
                format!("no node ever showed the events before {revision}"),
            ));
        }
        previous = Some(*revision);
    }
}

/// G4: what opened stays open for its time, in cluster time and in real time.
fn openings(history: &History, nodes: &Nodes, settings: &Settings, broken: &mut Vec<Broken>) {
    let acts: BTreeMap<&str, &crate::Manual> = history
        .manual
        .iter()
        .map(|act| (act.reason.as_str(), act))
        .collect();
    let mut open: BTreeMap<&str, &Seen> = BTreeMap::new();
    for seen in nodes.events().values() {
        let event = &*seen.event;
        let Some(name) = event.name.as_ref().map(|name| name.identifier.as_str()) else {
            continue;
        };
        match event.kind {
            EventKind::CircuitOpened => {
                let act = event.reason.as_deref().and_then(|reason| acts.get(reason));
                let expiry = act.and_then(|act| act.expiry_ms).unwrap_or(settings.expiry_ms);
                if event.expires_at != Some(event.time.plus_ms(expiry)) {
                    broken.push(Broken::new(
                        "G4",
                        format!("{event:?} should last for {expiry} ms"),
                    ));
                }
                open.insert(name, seen);
            }
            EventKind::CircuitHalfOpened => {
                let Some(opened) = open.get(name) else {
                    broken.push(Broken::new("G9", format!("it was not open: {event:?}")));
                    continue;
                };
                if opened.event.expires_at.is_none_or(|end| event.time < end) {
                    let what = format!("{event:?} comes before the end of {:?}", opened.event);
                    broken.push(Broken::new("G4", what));
                }
                let act = opened.event.reason.as_deref().and_then(|reason| acts.get(reason));
                if let Some((act, expiry)) = act.and_then(|act| Some((act, act.expiry_ms?))) {
                    let lasted = seen.at.saturating_sub(act.invoked);
                    if lasted + SLOP_MS + expiry / LEAN < expiry {
                        let what = format!(
                            "{name} was opened for {expiry} ms not before {} ms, and half-opened at {} ms",
                            act.invoked, seen.at
                        );
                        broken.push(Broken::new("G4", what));
                    }
                }
            }
            _ => {}
        }
        if event.new_state != Some(brama_core::circuit::StateName::Open) {
            open.remove(name);
        }
    }
}

/// G6: no more permits at once than there may be, as those see it who hold them.
fn permits(history: &History, settings: &Settings, broken: &mut Vec<Broken>) {
    let mut held: BTreeMap<(&str, u64), Vec<(Ms, Ms)>> = BTreeMap::new();
    for probe in &history.probes {
        let Some((granted, generation)) = probe.granted else {
            continue;
        };
        let lasts = settings.probe_timeout_ms - settings.probe_timeout_ms / LEAN;
        let mut end = (probe.invoked + lasts).saturating_sub(SLOP_MS);
        end = end.min(probe.reported.unwrap_or(Ms::MAX));
        if granted < end {
            let key = (probe.circuit.as_str(), generation);
            held.entry(key).or_default().push((granted, end));
        }
    }
    for ((circuit, generation), held) in held {
        for (begin, _) in &held {
            let at_once = held
                .iter()
                .filter(|(from, to)| from <= begin && begin < to)
                .count();
            if at_once > settings.max_probes {
                let what =
                    format!("{at_once} permits of {circuit}, generation {generation}, are out at {begin} ms");
                broken.push(Broken::new("G6", what));
                break;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use brama_core::Summary;
    use brama_core::report::Outcome;

    use super::*;
    use crate::{Batch, Position, Probe, Read};

    const SETTINGS: Settings = Settings {
        max_probes: 1,
        probe_timeout_ms: 1000,
        expiry_ms: 500,
    };

    fn guarantees(history: &History) -> Vec<&'static str> {
        let broken = judge(history, &Nodes::default(), &SETTINGS);
        broken.iter().map(|broken| broken.guarantee).collect()
    }

    fn position(invoked: Ms, ended: Ms, index: u64, writes: bool) -> Position {
        Position {
            invoked,
            ended,
            index,
            writes,
            what: String::new(),
        }
    }

    #[test]
    fn a_stale_read_and_a_lost_write_are_refused() {
        let mut history = History {
            positions: vec![position(0, 10, 5, true), position(11, 12, 5, false)],
            ..History::default()
        };
        assert!(guarantees(&history).is_empty());
        history.positions.push(position(11, 14, 4, false));
        assert_eq!(guarantees(&history), ["G2/G8"]);
        history.positions[2] = position(11, 14, 5, true);
        assert_eq!(
            guarantees(&history),
            ["G2/G8"],
            "two writes cannot be one after the other, and at one place"
        );
        history.positions[2] = position(9, 14, 5, true);
        assert!(guarantees(&history).is_empty(), "they overlap");
    }

    fn batch(done: Option<u64>) -> Batch {
        let items = vec![("a".to_owned(), Summary::of(Outcome::Success))];
        Batch {
            reason: "r".into(),
            invoked: 0,
            items,
            done,
        }
    }

    fn read(revision: u64, successes: u64) -> Read {
        let totals = Totals {
            successes,
            ..Totals::default()
        };
        Read {
            invoked: 50,
            revision,
            totals: [("a".to_owned(), totals)].into(),
        }
    }

    #[test]
    fn a_batch_that_is_lost_or_counted_twice_is_refused() {
        let mut history = History {
            batches: vec![batch(Some(3)), batch(Some(7)), batch(None)],
            ..History::default()
        };
        for (revision, successes, right) in [
            (2, 0, true),
            (2, 1, true),
            (2, 2, false),
            (3, 0, false),
            (7, 1, false),
            (7, 2, true),
            (7, 3, true),
            (7, 4, false),
        ] {
            history.reads = vec![read(revision, successes)];
            assert_eq!(
                guarantees(&history).is_empty(),
                right,
                "{successes} at {revision}"
            );
        }
    }

    #[test]
    fn two_permits_at_once_are_refused() {
        let probe = |invoked, granted, reported| Probe {
            circuit: "a".into(),
            permit: 1,
            invoked,
            granted: Some((granted, 4)),
            reported,
        };
        let mut history = History {
            probes: vec![probe(0, 10, None), probe(300, 310, None)],
            ..History::default()
        };
        assert_eq!(guarantees(&history), ["G6"]);
        history.probes[0] = probe(0, 10, Some(305));
        assert!(guarantees(&history).is_empty(), "the first was given back");
        history.probes = vec![probe(0, 10, None), probe(1200, 1210, None)];
        assert!(guarantees(&history).is_empty(), "the first ran out");
    }
}
