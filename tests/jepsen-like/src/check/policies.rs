//! Which policies a circuit can have had when an event happened, and whether each configuration has its event.
//!
//! An event says that a circuit was configured, not how. But each answer says between which revisions its operation took effect: after what
//! was acknowledged before it began, and not after the revision that it names. Whoever changed something has an event there. That leaves mostly
//! one configuration an event; where it leaves several, what an event shows must follow from one of them.

use std::collections::{BTreeMap, HashMap};

use brama_proto::v1::EventType;

use self::candidates::{Asked, candidates};
use super::{Evidence, label};
use crate::circuits::CircuitIndex;
use crate::findings::Findings;
use crate::history::{Action, Answer, Outcome};
use crate::rules::{Lasts, OptionName, Options, Rules};

mod candidates;

/// Beyond so many possible policies nothing is said.
const MOST: usize = 256;

/// A circuit, or the runtime global options.
type Target = Option<CircuitIndex>;

/// What was asked of the options of each circuit, and of all.
pub(super) struct Policies {
    changes: HashMap<Target, Vec<Change>>,
}

/// A registration or configuration that changed something, or can have.
struct Change {
    /// It happened after this revision.
    after: u64,
    /// And not after this.
    until: u64,
    /// Whether it happened at all.
    certain: bool,
    options: Options,
    /// Sets what it does not name to "inherited".
    replaces: bool,
    clear: Vec<OptionName>,
}

impl Policies {
    pub(super) fn of(evidence: &Evidence) -> Self {
        let events = configured_events(evidence);
        let mut changes: HashMap<Target, Vec<Change>> = HashMap::new();
        for (target, asked) in asked(evidence) {
            let none = Vec::new();
            let revisions = events.get(&target).unwrap_or(&none);
            for (n, possible) in candidates(&asked, revisions).into_iter().enumerate() {
                let (Some(first), Some(last)) = (possible.first(), possible.last()) else {
                    continue;
                };
                if let Action::Configure { set, clear, .. } = &asked[n].op.action {
                    changes.entry(target).or_default().push(Change {
                        after: first - 1,
                        until: *last,
                        certain: asked[n].certain,
                        options: *set,
                        replaces: false,
                        clear: clear.clone(),
                    });
                }
            }
        }
        let labels = new_labels(evidence);
        for op in &evidence.ops {
            if let Action::Register {
                circuit,
                policy,
                label,
                ..
            } = &op.action
            {
                // Without labels, all registrations of a circuit have one policy.
                let told = match labels.get(label.as_str()) {
                    Some(revision) => *revision,
                    None if label.is_empty() => 1,
                    None => continue,
                };
                changes.entry(Some(*circuit)).or_default().push(Change {
                    after: told - 1,
                    until: told,
                    certain: true,
                    options: *policy,
                    replaces: true,
                    clear: Vec::new(),
                });
            }
        }
        Self { changes }
    }

    /// The rules that can have been in effect for a circuit when this revision was written, as far as `what` goes: all else is as it
    /// is by default. `None`: too many to say.
    pub(super) fn at(&self, circuit: CircuitIndex, revision: u64, what: What) -> Option<Vec<Rules>> {
        let own = self.possible(Some(circuit), revision, what)?;
        let global = self.possible(None, revision, what)?;
        let mut all: Vec<Rules> = Vec::new();
        for own in &own {
            for global in &global {
                let rules = Rules::of(own, global);
                if !all.contains(&rules) {
                    all.push(rules);
                }
            }
        }
        (all.len() <= MOST).then_some(all)
    }

    /// Every combination of what each option can have been.
    fn possible(&self, target: Target, revision: u64, what: What) -> Option<Vec<Options>> {
        let none = Vec::new();
        let changes = self.changes.get(&target).unwrap_or(&none);
        let mut all = vec![Options::default()];
        let combine = |all: &mut Vec<Options>, with: Vec<Options>| {
            *all = all
                .iter()
                .flat_map(|options| with.iter().map(|one| one.over(options)))
                .collect();
            all.len() <= MOST
        };
        for field in what.fields() {
            let values = values(changes, revision, *field);
            if !combine(&mut all, values) {
                return None;
            }
        }
        Some(all)
    }
}

/// One option of a policy, with nothing else set.
type Field = fn(&Options) -> Options;

/// Which part of a policy is asked for: the fewer options, the fewer ways they can be combined.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// How long openings last.
    Openings,
    /// How many permits are out at once, and for how long.
    Permits,
}

impl What {
    fn fields(self) -> &'static [Field] {
        match self {
            Self::Openings => &[
                |from| Options {
                    expiry: from.expiry,
                    ..Options::default()
                },
                |from| Options {
                    progressive: from.progressive,
                    ..Options::default()
                },
                |from| Options {
                    initial_ms: from.initial_ms,
                    ..Options::default()
                },
                |from| Options {
                    max_ms: from.max_ms,
                    ..Options::default()
                },
                |from| Options {
                    factor: from.factor,
                    ..Options::default()
                },
            ],
            Self::Permits => &[
                |from| Options {
                    probes: from.probes,
                    ..Options::default()
                },
                |from| Options {
                    probe_timeout_ms: from.probe_timeout_ms,
                    ..Options::default()
                },
            ],
        }
    }
}

/// What one option can have been when a revision was written: what was set last, or perhaps last.
fn values(changes: &[Change], revision: u64, field: Field) -> Vec<Options> {
    // Sets everything, so that clearing it shows which options `clear` names.
    const FULL: Options = Options {
        max_attempts: Some(0),
        expiry: Some(Lasts::Never),
        progressive: Some(false),
        initial_ms: Some(0),
        max_ms: Some(0),
        factor: Some(0),
        probes: Some(0),
        successes: Some(0),
        probe_timeout_ms: Some(0),
    };
    let nothing = Options::default();
    let touches = |change: &&Change| {
        let cleared = field(&FULL.configured(&nothing, &change.clear)) == nothing;
        change.replaces || cleared || field(&change.options) != nothing
    };
    let begun: Vec<&Change> = changes
        .iter()
        .filter(|change| change.after + 1 < revision)
        .filter(touches)
        .collect();
    // Whatever ended before the last certain one began does not matter any more.
    let last = begun
        .iter()
        .filter(|change| change.certain && change.until < revision)
        .map(|change| change.after)
        .max();
    let mut values: Vec<Options> = Vec::new();
    if last.is_none() {
        values.push(nothing);
    }
    for change in begun {
        let value = field(&change.options);
        if last.is_none_or(|last| change.until > last) && !values.contains(&value) {
            values.push(value);
        }
    }
    values
}

/// Whether each configuration that changed something has an event, and each event a configuration.
pub(super) fn check(evidence: &Evidence) -> Findings {
    let mut findings = Findings::default();
    let mut events = configured_events(evidence);
    let mut configured = 0;
    for (target, asked) in asked(evidence) {
        let revisions = events.remove(&target).unwrap_or_default();
        configured += revisions.len();
        // Each event takes the operation that must have one soonest: if there is a way at all, this is one.
        let mut left: Vec<&Asked<'_>> = asked.iter().collect();
        for revision in revisions {
            let possible = left
                .iter()
                .enumerate()
                .filter(|(_, asked)| asked.after < revision && revision <= asked.until)
                .min_by_key(|(_, asked)| asked.until)
                .map(|(n, _)| n);
            match possible {
                Some(n) => {
                    left.remove(n);
                }
                None => findings.broken(
                    "G9",
                    format!("revision {revision}: nobody configured {} then", show(target)),
                ),
            }
        }
        for lost in left.into_iter().filter(|asked| asked.certain) {
            findings.broken(
                "G8",
                format!(
                    "operation {} configured {} between revision {} and {}, and no event says so",
                    lost.op.id,
                    show(target),
                    lost.after,
                    lost.until
                ),
            );
        }
    }
    for (target, revisions) in events {
        findings.broken(
            "G9",
            format!("revisions {revisions:?}: nobody ever configured {}", show(target)),
        );
    }
    if configured > 0 {
        findings.checked(
            "G9",
            format!("{configured} configurations, each asked for, and each that was acknowledged"),
        );
    }
    findings
}

/// By operation: the events that a configuration without an answer can have, in order; who can have none is not there.
pub(super) fn possible(evidence: &Evidence) -> HashMap<usize, Vec<u64>> {
    let events = configured_events(evidence);
    let none = Vec::new();
    let mut possible = HashMap::new();
    for (target, asked) in asked(evidence) {
        let revisions = events.get(&target).unwrap_or(&none);
        for (asked, events) in asked.iter().zip(candidates(&asked, revisions)) {
            if !asked.certain && !events.is_empty() {
                possible.insert(asked.op.id, events);
            }
        }
    }
    possible
}

fn show(target: Target) -> String {
    target.map_or("all circuits".into(), |circuit| format!("circuit {circuit}"))
}

/// Revisions of the events that tell of `Configure`, and not of a registration that updates.
fn configured_events(evidence: &Evidence) -> BTreeMap<Target, Vec<u64>> {
    let labels = new_labels(evidence);
    let mut events: BTreeMap<Target, Vec<u64>> = BTreeMap::new();
    for seen in evidence.events.values() {
        let event = &seen.event;
        let is_update = label(event).and_then(|label| labels.get(label)) == Some(&event.revision);
        if event.r#type() == EventType::Configured && !is_update {
            let target = evidence.circuit_of(event);
            // One of a circuit that is none of the run is for `effects` to find.
            if target.is_some() || event.name.is_none() {
                events.entry(target).or_default().push(event.revision);
            }
        }
    }
    events
}

/// By label: the revision of the event in which it was new.
pub(super) fn new_labels(evidence: &Evidence) -> HashMap<&str, u64> {
    let mut labels = HashMap::new();
    for seen in evidence.events.values() {
        let event = &seen.event;
        if matches!(event.r#type(), EventType::Registration | EventType::Configured)
            && let Some(label) = label(event)
        {
            labels.entry(label).or_insert(event.revision);
        }
    }
    labels
}

/// Configurations that changed something, or can have.
fn asked(evidence: &Evidence) -> BTreeMap<Target, Vec<Asked<'_>>> {
    let mut all: BTreeMap<Target, Vec<Asked<'_>>> = BTreeMap::new();
    for op in &evidence.ops {
        let Action::Configure { circuit, .. } = &op.action else {
            continue;
        };
        let (until, certain) = match &op.outcome {
            Outcome::Ok(Answer::Configured {
                changed: true, at, ..
            }) => (*at, true),
            Outcome::Unknown(_) => (u64::MAX, false),
            _ => continue,
        };
        all.entry(*circuit).or_default().push(Asked {
            op,
            after: op.floor,
            until,
            certain,
        });
    }
    all
}
