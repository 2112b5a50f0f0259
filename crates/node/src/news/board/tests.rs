use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use brama_core::SharedMetadata;
use brama_core::circuit::StateName;
use brama_core::event::{Cause, Event, EventKind};
use brama_core::time::ClusterTime;

use super::*;

fn name(n: usize) -> CircuitName {
    CircuitName::new(None, &format!("circuit-{n}")).unwrap()
}

fn event(revision: u64, circuit: Option<usize>) -> KeptEvent {
    failure(revision, circuit).into()
}

fn failure(revision: u64, circuit: Option<usize>) -> Event {
    Event {
        revision,
        time: ClusterTime::from_micros(revision),
        name: circuit.map(name),
        kind: EventKind::Failure,
        previous_state: None,
        new_state: Some(StateName::Closed),
        failure_count: 1,
        cause: Cause::Request,
        reason: None,
        metadata: SharedMetadata::default(),
        generation: 1,
        count: 1,
        expires_at: None,
        permit: None,
        openings_in_a_row: 0,
    }
}

/// Mostly a success or a failure.
fn any_event(rng: &mut StdRng, revision: u64, circuit: Option<usize>) -> KeptEvent {
    let kind = [EventKind::Success, EventKind::Failure, EventKind::CircuitOpened][rng.random_range(0..7) % 3];
    KeptEvent::from(Event {
        kind,
        failure_count: u32::from(kind != EventKind::Success),
        ..failure(revision, circuit)
    })
}

fn is_rung(bell: &Notify) -> bool {
    bell.notified().now_or_never().is_some()
}

/// A follower as a subscription uses the board: from the board if it can, else from the log.
struct Reader {
    names: Vec<CircuitName>,
    interest: Interest,
    /// The circuits that it knows to hold failures.
    failing: HashSet<CircuitName>,
    number: u64,
    bell: Arc<Notify>,
    position: u64,
    got: Vec<u64>,
    from_the_log: usize,
}

impl Reader {
    fn new(board: &mut Board, names: Vec<CircuitName>, position: u64) -> Self {
        Self::of(board, names, Interest::Everything, position)
    }

    fn of(board: &mut Board, names: Vec<CircuitName>, interest: Interest, position: u64) -> Self {
        let bell = Arc::new(Notify::new());
        Self {
            number: board.enter(&names, interest, bell.clone()),
            names,
            interest,
            failing: HashSet::new(),
            bell,
            position,
            got: Vec::new(),
            from_the_log: 0,
        }
    }

    /// As a snapshot tells it.
    fn knows(mut self, log: &[KeptEvent]) -> Self {
        let position = usize::try_from(self.position).unwrap();
        for event in &log[..position.min(log.len())] {
            self.wants(event);
        }
        self
    }

    /// Whether it is to be told this event; if so, it was.
    fn wants(&mut self, event: &Event) -> bool {
        let Some(name) = &event.name else {
            return self.names.is_empty();
        };
        let is_news = told::is_news(event, self.failing.contains(name));
        if told::is_failing(event) {
            self.failing.insert(name.clone());
        } else {
            self.failing.remove(name);
        }
        let is_followed = self.names.is_empty() || self.names.contains(name);
        is_followed && (is_news || self.interest == Interest::Everything)
    }

    fn read(&mut self, board: &Board, log: &[KeptEvent]) {
        match board.read(&self.names, self.interest, self.position) {
            Found::Events { events, upto } => {
                for event in events {
                    assert!(event.revision > self.position);
                    self.position = event.revision;
                    if self.wants(&event) {
                        self.got.push(event.revision);
                    }
                }
                assert!(upto >= self.position);
                self.position = upto;
            }
            Found::InTheLog => {
                self.from_the_log += 1;
                let position = self.position;
                for event in log.iter().filter(|event| event.revision > position) {
                    if self.wants(event) {
                        self.got.push(event.revision);
                    }
                }
                self.position = self.position.max(log.len() as u64);
            }
        }
    }
}

#[test]
fn each_follower_gets_its_events_once_in_order_and_is_woken_for_each() {
    for seed in 0..200 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut board = Board::new();
        let mut log: Vec<KeptEvent> = Vec::new();
        let mut readers: Vec<(u64, Reader)> = Vec::new();
        let mut from_the_log = 0;
        for _ in 0..300 {
            match rng.random_range(0..10) {
                0 => {
                    let count = rng.random_range(0..4);
                    let mut names: Vec<_> = (0..count).map(|_| name(rng.random_range(0..5))).collect();
                    names.sort();
                    names.dedup();
                    // From now, from a while ago, or ahead of this node.
                    let newest = log.len() as u64;
                    let from = rng.random_range(newest.saturating_sub(20)..=newest + 3);
                    let interest = if from <= newest && rng.random_bool(0.5) {
                        Interest::Changes
                    } else {
                        Interest::Everything
                    };
                    readers.push((from, Reader::of(&mut board, names, interest, from).knows(&log)));
                }
                1 if !readers.is_empty() => {
                    let (_, gone) = readers.swap_remove(rng.random_range(0..readers.len()));
                    board.leave(gone.number, &gone.names, gone.interest);
                }
                2..6 => {
                    let first = log.len();
                    // Now and then more than is kept of one circuit.
                    let count = if rng.random_bool(0.02) {
                        3 * KEPT
                    } else {
                        rng.random_range(0..6)
                    };
                    for _ in 0..count {
                        let circuit = rng.random_bool(0.9).then(|| rng.random_range(0..5));
                        log.push(any_event(&mut rng, log.len() as u64 + 1, circuit));
                    }
                    board.take_in(&log[first..]);
                    board.wake_concerned();
                }
                _ => {
                    for (_, reader) in &mut readers {
                        if is_rung(&reader.bell) || rng.random_bool(0.2) {
                            reader.read(&board, &log);
                        }
                    }
                }
            }
        }
        for (from, mut reader) in readers {
            if is_rung(&reader.bell) {
                reader.read(&board, &log);
            }
            let mut other = Board::new();
            let mut told = Reader::of(&mut other, reader.names.clone(), reader.interest, from).knows(&log);
            let after = log.iter().filter(|event| event.revision > from);
            let wanted: Vec<_> = after
                .filter(|event| told.wants(event))
                .map(|event| event.revision)
                .collect();
            // Who was not rung for has all; one that began in the past reads once by itself, as a subscription does.
            if reader.got != wanted {
                reader.read(&board, &log);
            }
            assert_eq!(reader.got, wanted, "seed {seed}, from {from}, {:?}", reader.names);
            from_the_log += reader.from_the_log;
        }
        assert!(board.desks.len() <= 5 && from_the_log < 1000);
    }
}

#[test]
fn only_those_whom_an_event_concerns_are_woken() {
    let mut board = Board::new();
    let one = Reader::new(&mut board, vec![name(1)], 0);
    let two = Reader::new(&mut board, vec![name(2), name(3)], 0);
    let all = Reader::new(&mut board, vec![], 0);
    let rung = |readers: [&Reader; 3]| readers.map(|reader| is_rung(&reader.bell));
    board.take_in(&[event(1, Some(1)), event(2, Some(1))]);
    assert_eq!(board.wake_concerned(), 2);
    assert_eq!(rung([&one, &two, &all]), [true, false, true]);
    board.take_in(&[event(3, Some(3)), event(4, None)]);
    assert_eq!(board.wake_concerned(), 2);
    assert_eq!(rung([&one, &two, &all]), [false, true, true]);
    board.take_in(&[event(5, Some(7))]);
    assert_eq!(board.wake_concerned(), 1);
    assert_eq!(rung([&one, &two, &all]), [false, false, true]);
    assert_eq!(board.wake_concerned(), 0);
    board.skip_to(50);
    assert_eq!(rung([&one, &two, &all]), [true, true, true]);
    assert!(matches!(board.read(&two.names, two.interest, 5), Found::InTheLog));
    assert!(matches!(
        board.read(&two.names, two.interest, 50),
        Found::Events { upto: 50, .. }
    ));
    board.leave(two.number, &two.names, two.interest);
    assert_eq!(board.desks.len(), 1);
}

#[test]
fn who_decides_by_a_circuit_is_not_woken_for_what_changes_nothing() {
    let mut board = Board::new();
    let decides = Reader::of(&mut board, vec![name(1)], Interest::Changes, 0);
    let all = Reader::new(&mut board, vec![name(1)], 0);
    let success = |revision| {
        KeptEvent::from(Event {
            kind: EventKind::Success,
            failure_count: 0,
            ..failure(revision, Some(1))
        })
    };
    // Nobody knows yet whether it held failures before.
    board.take_in(&[success(1)]);
    assert_eq!(board.wake_concerned(), 2);
    assert!(is_rung(&decides.bell) && is_rung(&all.bell));
    board.take_in(&(2..1000).map(success).collect::<Vec<_>>());
    assert_eq!(board.wake_concerned(), 1);
    assert!(!is_rung(&decides.bell) && is_rung(&all.bell));
    // It is not behind for that.
    assert!(matches!(
        board.read(&decides.names, decides.interest, 1),
        Found::Events { events, upto: 999 } if events.is_empty()
    ));
    board.take_in(&[event(1000, Some(1)), event(1001, Some(1))]);
    assert_eq!(board.wake_concerned(), 2);
    assert!(is_rung(&decides.bell) && is_rung(&all.bell));
    let Found::Events { events, upto: 1001 } = board.read(&decides.names, decides.interest, 999) else {
        panic!("the board has it");
    };
    assert_eq!(events.len(), 1, "the second failure changes nothing");
}
