//! Who follows what, and the newest events of what is followed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;

use brama_core::event_log::KeptEvent;
use brama_core::name::CircuitName;

use crate::told;

/// Newest events that are kept of one circuit.
const KEPT: usize = 256;
/// A subscriber that follows more circuits than this by name looks through the log: to ask for each of them would cost more.
const MOST_NAMES: usize = 32;

/// What a look at the board gives.
#[derive(Debug)]
pub(crate) enum Found {
    /// All that there is, in order, up to a revision; perhaps nothing.
    Events { events: VecDeque<KeptEvent>, upto: u64 },
    /// The board does not go back so far, or does not keep what is asked for: the log does.
    InTheLog,
}

/// The board.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// Everything up to here was taken in.
    position: u64,
    bells: HashMap<u64, Arc<Notify>>,
    /// Who gets the next number.
    next: u64,
    /// Those who are concerned by every event.
    all: HashSet<u64>,
    desks: HashMap<CircuitName, Desks>,
    /// Names with events that their followers have not been woken for.
    rung: Vec<CircuitName>,
    /// Anything was taken in since anybody was woken.
    any: bool,
}

/// What of a circuit a follower by name is woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Each of its events.
    Everything,
    /// Not successes and failures that change nothing for who decides by the circuit ([`told::is_news`]).
    Changes,
}

/// A circuit that somebody follows.
#[derive(Debug, Default)]
struct Desks {
    everything: Desk,
    changes: Desk,
    /// Whether it held failures after the newest event; `None`: there was none yet.
    failing: Option<bool>,
}

/// Those who follow a circuit for the same.
#[derive(Debug, Default)]
struct Desk {
    followers: HashSet<u64>,
    /// All its events after `since` that are of interest here; none is kept for nobody.
    recent: VecDeque<KeptEvent>,
    since: u64,
    rung: bool,
}

impl Desks {
    fn at(&self, interest: Interest) -> &Desk {
        match interest {
            Interest::Everything => &self.everything,
            Interest::Changes => &self.changes,
        }
    }

    fn at_mut(&mut self, interest: Interest) -> &mut Desk {
        match interest {
            Interest::Everything => &mut self.everything,
            Interest::Changes => &mut self.changes,
        }
    }

    fn both(&mut self) -> [&mut Desk; 2] {
        [&mut self.everything, &mut self.changes]
    }

    /// Whether anybody is to be woken for it who was not before.
    fn take_in(&mut self, event: &KeptEvent) -> bool {
        let is_failing = told::is_failing(event);
        let is_news = self
            .failing
            .is_none_or(|was_failing| told::is_news(event, was_failing));
        self.failing = Some(is_failing);
        // It stays here for longer than in the log.
        let event = &event.alone();
        let rings = self.everything.take_in(event);
        (is_news && self.changes.take_in(event)) || rings
    }
}

impl Desk {
    fn take_in(&mut self, event: &KeptEvent) -> bool {
        if self.followers.is_empty() {
            return false;
        }
        if self.recent.len() == KEPT
            && let Some(oldest) = self.recent.pop_front()
        {
            self.since = oldest.revision;
        }
        self.recent.push_back(event.clone());
        !std::mem::replace(&mut self.rung, true)
    }

    fn enter(&mut self, number: u64, position: u64) {
        if self.followers.is_empty() {
            self.since = position;
        }
        self.followers.insert(number);
    }

    fn leave(&mut self, number: u64) {
        self.followers.remove(&number);
        if self.followers.is_empty() {
            *self = Self::default();
        }
    }
}

impl Board {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Enters a follower of these names, or of everything.
    pub(super) fn enter(&mut self, names: &[CircuitName], interest: Interest, bell: Arc<Notify>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.bells.insert(number, bell);
        if !is_by_name(names) {
            self.all.insert(number);
            return number;
        }
        for name in names {
            let desks = self.desks.entry(name.clone()).or_default();
            desks.at_mut(interest).enter(number, self.position);
        }
        number
    }

    /// Strikes out a follower.
    pub(super) fn leave(&mut self, number: u64, names: &[CircuitName], interest: Interest) {
        self.bells.remove(&number);
        if !is_by_name(names) {
            self.all.remove(&number);
            return;
        }
        for name in names {
            if let Some(desks) = self.desks.get_mut(name) {
                desks.at_mut(interest).leave(number);
                if desks.both().iter().all(|desk| desk.followers.is_empty()) {
                    self.desks.remove(name);
                }
            }
        }
    }

    /// Takes in the events that follow its position.
    pub(super) fn take_in(&mut self, events: &[KeptEvent]) {
        for event in events {
            assert_eq!(event.revision, self.position + 1, "the log of events has no gap");
            self.position = event.revision;
            self.any = true;
            let desks = event.name.as_ref().and_then(|name| self.desks.get_mut(name));
            if desks.is_some_and(|desks| desks.take_in(event)) {
                self.rung.extend(event.name.clone());
            }
        }
    }

    /// Goes on from another position, without what is between.
    pub(super) fn skip_to(&mut self, position: u64) {
        self.position = position;
        self.any = true;
        for desks in self.desks.values_mut() {
            desks.failing = None;
            for desk in desks.both() {
                desk.recent.clear();
                desk.since = position;
            }
        }
        self.wake_all();
    }

    /// Wakes those whom an event concerns that was taken in since the last time; gives how many.
    pub(super) fn wake_concerned(&mut self) -> u32 {
        let mut woken = 0;
        if std::mem::take(&mut self.any) {
            woken += self.all.len();
            self.all.iter().for_each(|number| ring(&self.bells, *number));
        }
        for name in self.rung.drain(..) {
            // Its followers may all have left.
            let Some(desks) = self.desks.get_mut(&name) else {
                continue;
            };
            for desk in desks.both() {
                if std::mem::take(&mut desk.rung) {
                    woken += desk.followers.len();
                    desk.followers
                        .iter()
                        .for_each(|number| ring(&self.bells, *number));
                }
            }
        }
        u32::try_from(woken).unwrap_or(u32::MAX)
    }

    pub(super) fn wake_all(&self) {
        self.bells.values().for_each(|bell| bell.notify_one());
    }

    /// What these circuits have had after revision `after` that is of interest. Names and interest are those of a follower.
    pub(super) fn read(&self, names: &[CircuitName], interest: Interest, after: u64) -> Found {
        if !is_by_name(names) {
            return Found::InTheLog;
        }
        let mut events = VecDeque::new();
        for name in names {
            let desk = self.desks.get(name).map(|desks| desks.at(interest));
            let Some(desk) = desk.filter(|desk| desk.since <= after) else {
                return Found::InTheLog;
            };
            // What is new is at the end.
            let new = desk
                .recent
                .iter()
                .rev()
                .take_while(|event| event.revision > after);
            new.for_each(|event| events.push_front(event.clone()));
        }
        if names.len() > 1 {
            events
                .make_contiguous()
                .sort_unstable_by_key(|event| event.revision);
        }
        Found::Events {
            events,
            upto: self.position.max(after),
        }
    }
}

fn is_by_name(names: &[CircuitName]) -> bool {
    !names.is_empty() && names.len() <= MOST_NAMES
}

fn ring(bells: &HashMap<u64, Arc<Notify>>, number: u64) {
    if let Some(bell) = bells.get(&number) {
        bell.notify_one();
    }
}

#[cfg(test)]
mod tests;
