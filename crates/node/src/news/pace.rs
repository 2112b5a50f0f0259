//! How often subscribers are woken.

use tokio::time::{Duration, Instant};

/// What it takes to tell one subscriber, about, with what it costs at the subscriber's end and leaves for other work.
const TELLING_ONE: Duration = Duration::from_micros(130);
/// But nobody waits longer than this for those who were told before.
const LONGEST_PAUSE: Duration = Duration::from_millis(45);
/// A change of state does not wait, so long as no more than this is to be paid for.
const OVERDRAFT: Duration = Duration::from_millis(100);
/// A pause shorter than the timer's grain is none.
const GRAIN: Duration = Duration::from_millis(1);

/// Each waking is paid for with time, in which what happens gathers: so a crowd on a busy circuit is told several events at once, which costs
/// hardly more than one, instead of falling behind.
#[derive(Debug)]
pub(super) struct Pace {
    /// When everything will be paid for.
    paid: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { paid: now }
    }

    /// When the next waking may be; `urgent`: a circuit has changed its state.
    pub(super) fn next(&self, urgent: bool) -> Instant {
        let early = if urgent { OVERDRAFT } else { GRAIN };
        self.paid.checked_sub(early).unwrap_or(self.paid)
    }

    /// So many were woken.
    pub(super) fn woke(&mut self, now: Instant, subscribers: u32) {
        let pause = (TELLING_ONE * subscribers).min(LONGEST_PAUSE);
        self.paid = self.paid.max(now) + pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_woken_at_once_and_a_crowd_after_a_pause() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.woke(now, 5);
        assert!(pace.next(false) <= now);
        let mut pace = Pace::new(now);
        pace.woke(now, 10_000);
        assert_eq!(pace.next(false), now + LONGEST_PAUSE - GRAIN);
        let later = now + LONGEST_PAUSE;
        assert!(pace.next(false) <= later);
        pace.woke(later, 100);
        assert_eq!(pace.next(false), later + 100 * TELLING_ONE - GRAIN);
    }

    #[test]
    fn changes_of_state_do_not_wait_until_there_are_too_many() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let at_once = (0..100)
            .take_while(|_| {
                let may = pace.next(true) <= now;
                pace.woke(now, 10_000);
                may
            })
            .count();
        assert_eq!(
            at_once, 3,
            "what one waking costs, until the overdraft is used up"
        );
    }
}
