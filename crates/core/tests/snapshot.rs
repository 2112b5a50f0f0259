//! Snapshots and hashes: what is read back goes on as the original would; what is damaged is refused; and hashes tell machines
//! apart that applied different things.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{self, Read};

use brama_core::codec::{decode_batch, encode_batch};
use brama_core::command::{Bootstrap, ClusterId, ReportItem};
use brama_core::event::Event;
use brama_core::limits::Limits;
use brama_core::policy::{Expiry, ExpiryStrategy, GlobalOptions, Policy};
use brama_core::snapshot::{Frozen, SnapshotError};
use brama_core::{Batch, ClusterTime, Command, Machine};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use support::{
    START, TERM, acquire, close, configure, item, open, register, reset, session_report, unregister,
};

fn command() -> impl Strategy<Value = Command> {
    let circuit = || select(vec!["a", "b", "shop/a"]);
    let policy = (
        1_u32..4,
        select(vec![Expiry::Ms(1000), Expiry::Ms(3000), Expiry::Never]),
    )
        .prop_map(|(max_attempts, expiry)| Policy {
            max_attempts: Some(max_attempts),
            expiry: Some(expiry),
            expiry_strategy: Some(ExpiryStrategy::Progressive),
            initial_expiry_ms: Some(500),
            ..Policy::default()
        });
    let outcomes = || "[SFI]{1,6}";
    prop_oneof![
        4 => (circuit(), policy.clone()).prop_map(|(circuit, policy)| register(circuit, policy)),
        1 => (proptest::option::of(circuit()), policy).prop_map(|(circuit, policy)| configure(circuit, policy)),
        6 => (circuit(), outcomes(), 1_u128..4, 1_u64..4).prop_map(|(circuit, outcomes, id, sequence)| {
            let item = ReportItem { reason: Some("down".into()), ..item(circuit, &outcomes) };
            session_report(id, sequence, vec![item])
        }),
        4 => (circuit(), 1_u128..4).prop_map(|(circuit, permit)| acquire(circuit, permit)),
        1 => circuit().prop_map(open),
        1 => circuit().prop_map(close),
        1 => circuit().prop_map(reset),
        1 => circuit().prop_map(unregister),
    ]
}

/// Reports of one to six items, some of circuits that are not there.
fn reports() -> impl Strategy<Value = Command> {
    let items = vec((select(vec!["a", "b", "c", "shop/a"]), "[SFI]{1,3}"), 1..7);
    (items, 1_u128..4, 1_u64..4).prop_map(|(items, id, sequence)| {
        let items = items.iter().map(|(circuit, outcomes)| item(circuit, outcomes));
        session_report(id, sequence, items.collect())
    })
}

/// Commands, and how many milliseconds later each is.
fn story(longest: usize) -> impl Strategy<Value = Vec<(u64, Command)>> {
    vec((select(vec![0, 1, 400, 1000, 700_000]), command()), 0..longest)
}

/// Applies a story, firing before each command what is due.
struct Teller {
    machine: Machine,
    ms: u64,
}

impl Teller {
    /// A machine with a small log, so that the oldest events are gone soon.
    fn new() -> Self {
        let mut teller = Self {
            machine: Machine::new(),
            ms: 0,
        };
        teller.apply(bootstrap(1));
        teller.apply(register("a", Policy::default()));
        teller
    }

    fn apply(&mut self, command: Command) {
        self.machine.apply(TERM, &batch(self.ms, vec![command]));
    }

    fn tell(&mut self, story: &[(u64, Command)]) {
        for (later, command) in story {
            self.ms += later;
            for _ in 0..10 {
                let due = self.machine.due(START.plus_ms(self.ms), 100);
                if due.is_empty() {
                    break;
                }
                self.apply(Command::Fire { term: TERM, due });
            }
            self.apply(command.clone());
        }
    }

    fn told(story: &[(u64, Command)]) -> Self {
        let mut teller = Self::new();
        teller.tell(story);
        teller
    }
}

fn bootstrap(cluster: u128) -> Command {
    Command::Bootstrap(Bootstrap {
        cluster_id: ClusterId(cluster),
        defaults: Policy::default(),
        global_defaults: GlobalOptions::default(),
        limits: Limits {
            max_events: 20,
            ..Limits::default()
        },
    })
}

fn batch(ms: u64, commands: Vec<Command>) -> Batch {
    Batch {
        time: START.plus_ms(ms),
        commands,
    }
}

fn written(machine: &Machine) -> Vec<u8> {
    let mut bytes = Vec::new();
    machine.freeze().write_to(&mut bytes).unwrap();
    bytes
}

fn read(bytes: &[u8]) -> Result<Frozen, SnapshotError> {
    Frozen::read_from(&mut &bytes[..])
}

fn events(machine: &Machine) -> Vec<Event> {
    let all = machine.events_after(machine.oldest_revision() - 1, usize::MAX);
    all.unwrap().iter().map(|event| (**event).clone()).collect()
}

proptest! {
    #[test]
    fn what_is_read_back_goes_on_as_the_original(first in story(40), rest in story(20)) {
        let mut original = Teller::told(&first);
        let bytes = written(&original.machine);
        let frozen = read(&bytes).unwrap();
        prop_assert_eq!(frozen.content_hash(), original.machine.freeze().content_hash());
        let mut copy = Teller { machine: Machine::thaw(frozen), ms: original.ms };
        prop_assert_eq!(&written(&copy.machine), &bytes, "the same state has the same bytes");
        prop_assert_eq!(copy.machine.state_hash(), original.machine.state_hash());
        prop_assert_eq!(copy.machine.next_due(), original.machine.next_due());

        original.tell(&rest);
        copy.tell(&rest);
        prop_assert_eq!(copy.machine.state_hash(), original.machine.state_hash());
        prop_assert_eq!(events(&copy.machine), events(&original.machine));
        prop_assert_eq!(written(&copy.machine), written(&original.machine));
    }

    /// Later applies do not touch what was frozen.
    #[test]
    fn a_frozen_state_stays_as_it_was(first in story(30), rest in story(20)) {
        let mut teller = Teller::told(&first);
        let frozen = teller.machine.freeze();
        let (hash, bytes) = (frozen.content_hash(), written(&teller.machine));
        teller.tell(&rest);
        prop_assert_eq!(frozen.content_hash(), hash);
        let mut later = Vec::new();
        frozen.write_to(&mut later).unwrap();
        prop_assert_eq!(later, bytes);
    }

    #[test]
    fn the_same_entries_give_the_same_hash(story in story(40)) {
        let (a, b) = (Teller::told(&story), Teller::told(&story));
        prop_assert_eq!(a.machine.state_hash(), b.machine.state_hash());
        prop_assert_eq!(written(&a.machine), written(&b.machine));
    }

    /// The log holds encoded entries: decoding them gives the same machine.
    #[test]
    fn entries_that_were_encoded_do_the_same(story in story(20)) {
        let (mut plain, mut encoded) = (Machine::new(), Machine::new());
        for (later, command) in story {
            let entry = batch(later, vec![command]);
            plain.apply(TERM, &entry);
            encoded.apply(TERM, &decode_batch(&encode_batch(&entry)).unwrap());
        }
        prop_assert_eq!(plain.state_hash(), encoded.state_hash());
    }

    /// One command left out, or another one at its place, shows in the hash, also long after.
    #[test]
    fn different_entries_give_different_hashes(story in story(30), at: Index, other in command()) {
        prop_assume!(!story.is_empty());
        let at = at.index(story.len());
        let told = Teller::told(&story).machine.state_hash();
        let mut without = story.clone();
        without.remove(at);
        prop_assert_ne!(told, Teller::told(&without).machine.state_hash());
        let mut replaced = story.clone();
        prop_assume!(replaced[at].1 != other);
        replaced[at].1 = other;
        prop_assert_ne!(told, Teller::told(&replaced).machine.state_hash());
        let mut delayed = story;
        delayed[at].0 += 1;
        prop_assert_ne!(told, Teller::told(&delayed).machine.state_hash());
    }

    /// What reports touch is looked up for many at once, before the first of them is applied: that must change nothing.
    #[test]
    fn commands_that_share_an_entry_come_to_the_same_as_one_by_one(commands in vec(prop_oneof![command(), reports()], 0..150)) {
        let (mut together, mut alone) = (Machine::new(), Machine::new());
        let answers = together.apply(TERM, &batch(0, commands.clone()));
        let one_by_one = commands.into_iter().flat_map(|command| alone.apply(TERM, &batch(0, vec![command])));
        prop_assert_eq!(answers, one_by_one.collect::<Vec<_>>());
        let events = |machine: &Machine| machine.events_after(0, usize::MAX).unwrap();
        prop_assert_eq!(events(&together), events(&alone));
    }

    #[test]
    fn garbage_is_refused(bytes in vec(any::<u8>(), 0..400)) {
        prop_assert!(read(&bytes).is_err());
    }

    /// The same behind a true beginning, where lengths and counts are read from it.
    #[test]
    fn garbage_behind_a_true_beginning_is_refused(story in story(10), cut: Index, garbage in vec(any::<u8>(), 0..400)) {
        let mut bytes = written(&Teller::told(&story).machine);
        let original = bytes.clone();
        bytes.truncate(12 + cut.index(bytes.len() - 12));
        bytes.extend(garbage);
        prop_assume!(bytes != original && !bytes.starts_with(&original));
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn a_snapshot_that_ends_early_is_refused(story in story(20), cut: Index) {
        let bytes = written(&Teller::told(&story).machine);
        prop_assert!(read(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn a_flipped_bit_is_refused(story in story(20), at: Index, bit in 0..8) {
        let mut bytes = written(&Teller::told(&story).machine);
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(read(&bytes).is_err(), "byte {} of {}", at, bytes.len());
    }
}

#[test]
fn reading_stops_behind_the_snapshot() {
    let mut bytes = written(&Teller::new().machine);
    let length = bytes.len();
    bytes.extend(*b"what follows");
    let mut rest = &bytes[..];
    Frozen::read_from(&mut rest).unwrap();
    assert_eq!(rest, &bytes[length..]);
}

#[test]
fn another_version_is_told_from_damage() {
    let mut bytes = written(&Teller::new().machine);
    bytes[11] += 1;
    match read(&bytes) {
        Err(SnapshotError::Version { found: 3, newest: 2 }) => {}
        other => panic!("{other:?}"),
    }
    bytes[11] = 1;
    match read(&bytes) {
        Err(SnapshotError::Outdated { found: 1 }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reader_that_fails_is_told_from_damage() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    let bytes = written(&Teller::new().machine);
    let mut input = (&bytes[..bytes.len() / 2]).chain(Failing);
    match Frozen::read_from(&mut input) {
        Err(SnapshotError::Io(error)) => assert_eq!(error.to_string(), "the disk is gone"),
        other => panic!("{other:?}"),
    }
}

/// What differs in an entry only in passing must show too: its time, its term, its limits, the order in it.
#[test]
fn everything_that_is_applied_is_in_the_hash() {
    let hash = |term, entry: &Batch| {
        let mut machine = Machine::new();
        machine.apply(term, entry);
        machine.state_hash()
    };
    let entry = |cluster, ms, circuits: [&str; 2]| {
        let mut commands = vec![bootstrap(cluster)];
        commands.extend(circuits.map(|circuit| register(circuit, Policy::default())));
        batch(ms, commands)
    };
    let hashes = [
        hash(1, &entry(1, 0, ["a", "b"])),
        hash(2, &entry(1, 0, ["a", "b"])),
        hash(1, &entry(2, 0, ["a", "b"])),
        hash(1, &entry(1, 1, ["a", "b"])),
        hash(1, &entry(1, 0, ["b", "a"])),
        hash(1, &batch(0, Vec::new())),
        Machine::new().state_hash(),
    ];
    for (i, one) in hashes.iter().enumerate() {
        assert!(hashes[..i].iter().all(|other| other != one), "{i}: {hashes:x?}");
    }
}

/// A clock entry moves time and the hash, and nothing else.
#[test]
fn a_clock_entry_only_moves_time() {
    let mut teller = Teller::new();
    let before = (teller.machine.state_hash(), teller.machine.revision());
    teller.machine.apply(TERM, &batch(5000, Vec::new()));
    assert_eq!(teller.machine.time(), START.plus_ms(5000));
    assert_eq!(teller.machine.revision(), before.1);
    assert_ne!(teller.machine.state_hash(), before.0);
    assert_ne!(teller.machine.time(), ClusterTime::ZERO);
}
