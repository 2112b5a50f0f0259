//! How often subscribers are woken.

use tokio::time::{Duration, Instant};

use brama_core::ClusterTime;

/// What it takes to tell one subscriber, about, with what it costs at the subscriber's end and leaves for other work.
const TELLING_ONE: Duration = Duration::from_micros(130);
/// But nobody waits longer than this for those who were told before.
const LONGEST_PAUSE: Duration = Duration::from_millis(56);
/// Pauses are halves of the longest, halves of those, and so on; shorter than the timer's grain there are none.
const GRAIN: Duration = Duration::from_millis(1);
/// A change of state does not wait, so long as no more than this is to be paid for.
const OVERDRAFT: Duration = Duration::from_millis(100);

/// Each waking is paid for with time, in which what happens gathers: so a crowd on a busy circuit is told several events at once, which costs
/// hardly more than one, instead of falling behind.
///
/// A pause ends when cluster time is a multiple of it. So the nodes tell their parts of a crowd at the same moment, and those who are told last wait
/// for half a pause in the mean; three nodes with moments of their own would make it three quarters, and a pause that costs the subscribers as
/// little time would have to be a third shorter, and cost the nodes half as much again.
#[derive(Debug)]
pub(super) struct Pace {
    /// When everything will be paid for.
    paid: Instant,
    /// When what changes no state may be told.
    next: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { paid: now, next: now }
    }

    /// When the next waking may be; `urgent`: a circuit has changed its state.
    pub(super) fn next(&self, urgent: bool) -> Instant {
        if urgent {
            self.paid.checked_sub(OVERDRAFT).unwrap_or(self.paid)
        } else {
            self.next
        }
    }

    /// So many were woken, at this moment of cluster time.
    pub(super) fn woke(&mut self, now: Instant, time: ClusterTime, subscribers: u32) {
        let pause = pause(subscribers);
        self.paid = self.paid.max(now) + pause;
        // The multiple that is nearest to when it is paid for: wakings are a little late, and that must not add up.
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let earliest = self.paid - pause / 2;
        let at = time.as_micros().saturating_add(micros(earliest - now));
        let wait = match micros(pause) {
            0 => 0,
            pause => at.next_multiple_of(pause) - at,
        };
        self.next = earliest + Duration::from_micros(wait);
    }
}

/// What there is between two wakings of so many.
fn pause(subscribers: u32) -> Duration {
    let costs = TELLING_ONE * subscribers;
    let mut pause = LONGEST_PAUSE;
    while pause / 2 >= costs && pause >= GRAIN {
        pause /= 2;
    }
    if pause < GRAIN { Duration::ZERO } else { pause }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: ClusterTime = ClusterTime::from_micros(1_700_000_000_000_000);

    fn after(micros: u64) -> ClusterTime {
        ClusterTime::from_micros(TIME.as_micros() + micros)
    }

    #[test]
    fn a_few_are_woken_at_once_and_a_crowd_after_a_pause() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.woke(now, TIME, 5);
        assert!(pace.next(false) <= now);
        for crowd in [300, 500, 10_000, u32::MAX] {
            let mut pace = Pace::new(now);
            pace.woke(now, TIME, crowd);
            assert!(pace.next(false) >= now + LONGEST_PAUSE / 2, "{crowd}");
            assert!(pace.next(false) <= now + 3 * LONGEST_PAUSE / 2, "{crowd}");
        }
        for subscribers in 0..2000 {
            let (shorter, longer) = (pause(subscribers), pause(subscribers + 1));
            assert!(shorter <= longer && longer <= LONGEST_PAUSE);
            let costs = (TELLING_ONE * subscribers).min(LONGEST_PAUSE);
            assert!(shorter >= costs || costs < GRAIN, "{subscribers}: {shorter:?}");
        }
    }

    #[test]
    fn nodes_tell_their_parts_of_a_crowd_at_the_same_moments_however_late_their_timers_are() {
        let begin = Instant::now();
        let paces = [(0, 400), (13_000, 10_000), (21_001, 500)].map(|(first, lateness)| {
            let mut pace = Pace::new(begin);
            let mut moments = Vec::new();
            let mut at = first;
            for _ in 0..50 {
                let now = begin + Duration::from_micros(at);
                pace.woke(now, after(at), 334);
                let next = pace.next(false) - begin;
                at = u64::try_from(next.as_micros()).unwrap() + lateness;
                moments.push(next);
            }
            moments
        });
        for moments in &paces {
            assert!(moments.windows(2).all(|two| two[1] - two[0] == LONGEST_PAUSE));
            assert!(moments[5..40].iter().all(|moment| paces[0].contains(moment)));
        }
    }

    #[test]
    fn changes_of_state_do_not_wait_until_there_are_too_many() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let at_once = (0..100)
            .take_while(|_| {
                let may = pace.next(true) <= now;
                pace.woke(now, TIME, 10_000);
                may
            })
            .count();
        assert_eq!(
            at_once, 2,
            "what one waking costs, until the overdraft is used up"
        );
        assert!(
            pace.next(false) > now + LONGEST_PAUSE,
            "the others wait for those"
        );
    }
}
