//! Who subscribes: at most so many, and how far each is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// The subscribers of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Subscribers {
    room: Arc<Room>,
}

#[derive(Debug)]
struct Room {
    limit: u32,
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    taken: HashMap<u64, Arc<AtomicU64>>,
}

/// A subscriber's place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    number: u64,
    position: Position,
    room: Arc<Room>,
}

/// The revision up to which a subscriber has everything: told by its subscription, seen by metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Position(Arc<AtomicU64>);

/// Of a subscriber that has not begun.
const NOWHERE: u64 = u64::MAX;

impl Subscribers {
    pub(crate) fn new(limit: u32) -> Self {
        let seats = Mutex::default();
        Self {
            room: Arc::new(Room { limit, seats }),
        }
    }

    /// A place, unless all are taken.
    pub(crate) fn take(&self) -> Option<Seat> {
        let mut seats = self.room.seats.lock();
        if seats.taken.len() >= self.room.limit as usize {
            return None;
        }
        let number = seats.next;
        seats.next += 1;
        let position = Arc::new(AtomicU64::new(NOWHERE));
        seats.taken.insert(number, position.clone());
        Some(Seat {
            number,
            position: Position(position),
            room: self.room.clone(),
        })
    }

    /// How many may be.
    pub(crate) fn limit(&self) -> u32 {
        self.room.limit
    }

    /// How many are.
    pub(crate) fn count(&self) -> usize {
        self.room.seats.lock().taken.len()
    }

    /// How far each is, in no order; one that has not begun is at the end.
    pub(crate) fn positions(&self) -> Vec<u64> {
        let seats = self.room.seats.lock();
        seats
            .taken
            .values()
            .map(|position| position.load(Relaxed))
            .collect()
    }
}

impl Seat {
    pub(crate) fn position(&self) -> Position {
        self.position.clone()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.seats.lock().taken.remove(&self.number);
    }
}

impl Position {
    /// The subscriber has everything up to this revision.
    pub(crate) fn set(&self, revision: u64) {
        self.0.store(revision, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_and_its_position_forgotten() {
        let subscribers = Subscribers::new(2);
        let first = subscribers.take().unwrap();
        let second = subscribers.take().unwrap();
        assert!(subscribers.take().is_none());
        first.position().set(7);
        let mut positions = subscribers.positions();
        positions.sort_unstable();
        assert_eq!(positions, [7, NOWHERE]);
        drop(first);
        assert_eq!((subscribers.count(), subscribers.positions()), (1, vec![NOWHERE]));
        assert!(subscribers.take().is_some());
        drop(second);
        assert_eq!(subscribers.count(), 0);
    }
}
