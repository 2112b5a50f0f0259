//! Cluster time on this node.
//!
//! Cluster time runs with monotonic clocks only. A *base* pairs a cluster time with the moment of this machine's monotonic clock at which
//! it held; from there the monotonic clock counts on. Each entry that arrives from a leader offers a base, and the latest one
//! wins: an entry takes time to arrive, so a base can only be behind the leader's clock, never ahead, and a timer can be late by a
//! network delay but never early.
//!
//! A leader leans towards its wall clock by at most [`LEAN_PER_MILLION`] millionths of the time that passes, so that cluster time follows the
//! calendar in the long run, and a wall clock that is wrong by an hour moves a ten-second timer by 2 ms.
//!
//! Entries that a node reads from its own disk say nothing about *now*. So a node that has heard no leader since it started has no base
//! (it is not *live*), and a new leader without one asks the others: see [`crate::office`]. If nobody has one, the whole cluster was down, and wall
//! clocks have to say for how long. But cluster time goes on as it was: to set it to the calendar, from which it may have fallen behind, would be a jump
//! that ends openings early. So each node remembers, on disk, how far cluster time was from its own wall clock ([`crate::drift`]), and
//! offers the earlier of two times: its wall clock's, and that with this distance. If one of them is wrong (the clock jumped forward while the node was
//! down; it was set right just before), the other stands, or time goes on late.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use brama_core::ClusterTime;
use brama_core::mutants::{self, Mutant};

use crate::options::TimeSource;

/// How much a leader's clock leans towards its wall clock: 200 millionths (0.02 %), more than a quartz drifts and a fifth of
/// what the contract allows.
pub(crate) const LEAN_PER_MILLION: i64 = 200;

/// This node's estimate of cluster time. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ClusterClock {
    source: Arc<dyn TimeSource>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    base: Option<Base>,
    /// Nothing this clock said was later; nothing it says will be earlier.
    latest: ClusterTime,
    /// How far cluster time was ahead of this machine's wall clock when an earlier process last knew, in microseconds.
    remembered: i64,
}

#[derive(Clone, Copy)]
struct Base {
    time: ClusterTime,
    at: Duration,
}

impl Base {
    fn now(self, monotonic: Duration) -> ClusterTime {
        ClusterTime::from_micros(self.time.as_micros() + micros(monotonic.saturating_sub(self.at)))
    }
}

impl ClusterClock {
    pub(crate) fn new(source: Arc<dyn TimeSource>) -> Self {
        Self {
            source,
            state: Arc::default(),
        }
    }

    /// From here on [`ClusterClock::wall`] reckons with what an earlier process knew: see [`ClusterClock::ahead_of_wall_us`].
    pub(crate) fn remember(&self, ahead_us: i64) {
        self.state.lock().remembered = ahead_us;
    }

    /// How far cluster time is ahead of this machine's wall clock, in microseconds; `None` while this node has not heard cluster time.
    pub(crate) fn ahead_of_wall_us(&self) -> Option<i64> {
        self.is_live().then(|| {
            let now = self.now().as_micros().cast_signed();
            now.saturating_sub(micros(self.source.wall()).cast_signed())
        })
    }

    /// Whether this node heard cluster time since it started.
    pub(crate) fn is_live(&self) -> bool {
        self.state.lock().base.is_some()
    }

    /// Cluster time now; without a base the newest that was ever seen.
    pub(crate) fn now(&self) -> ClusterTime {
        let monotonic = self.source.monotonic();
        let mut state = self.state.lock();
        let now = state.base.map_or(state.latest, |base| base.now(monotonic));
        state.latest = state.latest.max(now);
        state.latest
    }

    /// What this machine's wall clock makes of cluster time: as far from it as it was when an earlier process last knew, or what it shows, if
    /// that is earlier. For the one case in which wall clocks count: see [`crate::office`].
    pub(crate) fn wall(&self) -> ClusterTime {
        let behind = self.state.lock().remembered.min(0);
        ClusterTime::from_micros(micros(self.source.wall()).saturating_add_signed(behind))
    }

    /// A leader sent an entry of this time just now.
    pub(crate) fn heard(&self, time: ClusterTime) {
        let at = self.source.monotonic();
        let mut state = self.state.lock();
        if state.base.is_none_or(|base| base.now(at) < time) {
            state.base = Some(Base { time, at });
        }
        state.latest = state.latest.max(time);
    }

    /// An entry of this time was applied, whenever it was sent: time has at least come so far.
    pub(crate) fn applied(&self, time: ClusterTime) {
        let mut state = self.state.lock();
        state.latest = state.latest.max(time);
    }

    /// The time for a new entry; leader only. Never before an earlier one.
    pub(crate) fn stamp(&self) -> ClusterTime {
        let at = self.source.monotonic();
        let wall = micros(self.source.wall());
        let mut state = self.state.lock();
        if let Some(base) = state.base {
            let unleant = base.now(at);
            let passed = i64::try_from(micros(at.saturating_sub(base.at))).unwrap_or(i64::MAX);
            let bound = if mutants::active(Mutant::WallClockTimers) {
                i64::MAX
            } else {
                passed.saturating_mul(LEAN_PER_MILLION) / 1_000_000
            };
            // The remainder of the division must not be lost with each stamp, so the base moves only when there is something to lean.
            if bound > 0 {
                let wanted = wall
                    .cast_signed()
                    .saturating_sub(unleant.as_micros().cast_signed());
                let leant = unleant
                    .as_micros()
                    .saturating_add_signed(wanted.clamp(-bound, bound));
                state.base = Some(Base {
                    time: ClusterTime::from_micros(leant),
                    at,
                });
            }
        }
        let now = state.base.map_or(state.latest, |base| base.now(at));
        state.latest = state.latest.max(now);
        state.latest
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose clocks the test moves.
    #[derive(Default)]
    struct Hands {
        monotonic: Mutex<Duration>,
        wall: Mutex<Duration>,
    }

    impl Hands {
        fn pass(&self, time: Duration) {
            *self.monotonic.lock() += time;
            *self.wall.lock() += time;
        }
    }

    impl TimeSource for Hands {
        fn monotonic(&self) -> Duration {
            *self.monotonic.lock()
        }
        fn wall(&self) -> Duration {
            *self.wall.lock()
        }
    }

    const START: ClusterTime = ClusterTime::from_micros(1_700_000_000_000_000);

    fn clock() -> (Arc<Hands>, ClusterClock) {
        let hands = Arc::new(Hands::default());
        *hands.wall.lock() = Duration::from_micros(START.as_micros());
        let clock = ClusterClock::new(hands.clone());
        (hands, clock)
    }

    #[test]
    fn a_wall_clock_that_jumps_moves_ten_seconds_by_two_milliseconds_at_most() {
        for jump_s in [3600_i64, -3600, 86_400 * 365, -86_400 * 365] {
            let (hands, clock) = clock();
            clock.heard(START);
            let jumped = hands.wall.lock().as_secs().saturating_add_signed(jump_s);
            *hands.wall.lock() = Duration::from_secs(jumped);
            for _ in 0..10_000 {
                hands.pass(Duration::from_millis(1));
                clock.stamp();
            }
            let passed = clock.now().since(START);
            assert!(
                passed.abs_diff(Duration::from_secs(10)) <= Duration::from_millis(2),
                "{jump_s} s: {passed:?}"
            );
            assert_ne!(passed, Duration::from_secs(10), "it leans");
        }
    }

    #[test]
    fn time_never_goes_back_whatever_the_wall_clock_and_the_leaders_say() {
        let (hands, clock) = clock();
        clock.heard(START);
        let mut before = ClusterTime::ZERO;
        for i in 0..1000_u64 {
            hands.pass(Duration::from_micros(i % 7));
            *hands.wall.lock() = Duration::from_secs(i * 7919 % 4_000_000_000);
            match i % 3 {
                0 => clock.heard(ClusterTime::from_micros(START.as_micros() + i * 31 % 500)),
                1 => clock.applied(ClusterTime::from_micros(START.as_micros() + i)),
                _ => {}
            }
            let now = if i % 2 == 0 { clock.stamp() } else { clock.now() };
            assert!(now >= before);
            before = now;
        }
    }

    #[test]
    fn a_late_entry_does_not_hold_the_clock_back() {
        let (hands, clock) = clock();
        clock.heard(START);
        hands.pass(Duration::from_secs(5));
        clock.heard(START.plus_ms(100));
        assert_eq!(clock.now(), START.plus_ms(5000));
        clock.heard(START.plus_ms(6000));
        assert_eq!(clock.now(), START.plus_ms(6000));
    }

    #[test]
    fn what_was_read_from_disk_gives_no_base() {
        let (hands, clock) = clock();
        clock.applied(START);
        hands.pass(Duration::from_secs(60));
        assert!(!clock.is_live());
        assert_eq!(clock.now(), START, "time stands still until a leader speaks");
    }

    #[test]
    fn a_new_process_goes_on_where_the_one_before_would_be_or_earlier() {
        for (wrong_by_s, late_s) in [(0_i64, 0), (3, 0), (86_400, 0), (-86_400, 86_400)] {
            let (hands, before) = clock();
            let wrong = hands.wall.lock().as_secs().saturating_add_signed(wrong_by_s);
            *hands.wall.lock() = Duration::from_secs(wrong);
            assert_eq!(before.ahead_of_wall_us(), None, "it has not heard the time");
            before.heard(START);
            let ahead = before.ahead_of_wall_us().unwrap();
            assert_eq!(ahead, -wrong_by_s * 1_000_000);

            hands.pass(Duration::from_secs(60));
            let after = ClusterClock::new(hands.clone());
            assert_eq!(after.wall().as_micros(), micros(*hands.wall.lock()), "a new node");
            after.remember(ahead);
            let late = START.plus_ms(60_000).since(after.wall());
            assert_eq!(late, Duration::from_secs(late_s), "{wrong_by_s} s");
        }
    }

    #[test]
    fn a_leader_follows_the_calendar_in_the_long_run() {
        let (hands, clock) = clock();
        clock.heard(START);
        *hands.wall.lock() += Duration::from_millis(500);
        for _ in 0..5000 {
            hands.pass(Duration::from_secs(1));
            clock.stamp();
        }
        assert!(clock.now().as_micros().abs_diff(micros(hands.wall())) < 2000);
    }
}
