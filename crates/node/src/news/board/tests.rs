use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use brama_core::event::{Cause, EventKind};
use brama_core::time::ClusterTime;

use super::*;

fn name(n: usize) -> CircuitName {
    CircuitName::new(None, &format!("circuit-{n}")).unwrap()
}

fn event(revision: u64, circuit: Option<usize>) -> Arc<Event> {
    Arc::new(Event {
        revision,
        time: ClusterTime::from_micros(revision),
        name: circuit.map(name),
        kind: EventKind::Failure,
        previous_state: None,
        new_state: None,
        failure_count: 0,
        cause: Cause::Request,
        reason: None,
        metadata: Arc::default(),
        generation: 1,
        count: 1,
        expires_at: None,
        permit: None,
        openings_in_a_row: 0,
    })
}

fn is_rung(bell: &Notify) -> bool {
    bell.notified().now_or_never().is_some()
}

/// A follower as a subscription uses the board: from the board if it can, else from the log.
struct Reader {
    names: Vec<CircuitName>,
    number: u64,
    bell: Arc<Notify>,
    position: u64,
    got: Vec<u64>,
    from_the_log: usize,
}

impl Reader {
    fn new(board: &mut Board, names: Vec<CircuitName>, position: u64) -> Self {
        let bell = Arc::new(Notify::new());
        Self {
            number: board.enter(&names, bell.clone()),
            names,
            bell,
            position,
            got: Vec::new(),
            from_the_log: 0,
        }
    }

    fn wants(&self, event: &Event) -> bool {
        self.names.is_empty() || event.name.as_ref().is_some_and(|name| self.names.contains(name))
    }

    fn read(&mut self, board: &Board, log: &[Arc<Event>]) {
        match board.read(&self.names, self.position) {
            Found::Events { events, upto } => {
                for event in events {
                    assert!(event.revision > self.position);
                    self.position = event.revision;
                    self.got.push(event.revision);
                }
                assert!(upto >= self.position);
                self.position = upto;
            }
            Found::InTheLog => {
                self.from_the_log += 1;
                for event in log.iter().filter(|event| event.revision > self.position) {
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
        let mut log: Vec<Arc<Event>> = Vec::new();
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
                    readers.push((from, Reader::new(&mut board, names, from)));
                }
                1 if !readers.is_empty() => {
                    let (_, gone) = readers.swap_remove(rng.random_range(0..readers.len()));
                    board.leave(gone.number, &gone.names);
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
                        log.push(event(log.len() as u64 + 1, circuit));
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
            let wanted = log
                .iter()
                .filter(|event| event.revision > from && reader.wants(event))
                .map(|event| event.revision);
            let wanted: Vec<_> = wanted.collect();
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
    assert!(matches!(board.read(&two.names, 5), Found::InTheLog));
    assert!(matches!(
        board.read(&two.names, 50),
        Found::Events { upto: 50, .. }
    ));
    board.leave(two.number, &two.names);
    assert_eq!(board.desks.len(), 1);
}
