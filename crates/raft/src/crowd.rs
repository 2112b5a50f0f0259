//! Whether an entry is worth a short wait for those who were just answered.
//!
//! Callers who ask again as soon as they are answered fall into two halves: while the entry of one half is on its way, the other half gathers,
//! and goes without those who are answered at that moment. Each entry then holds half of them, and an entry costs three nodes much more than a
//! command in it. So where a crowd comes back again and again, the next entry waits until most of it is there.
//!
//! That there is such a crowd is seen, not configured: those who were answered and those who wait at that moment are as many as after the entry
//! before, many times in a row. Callers that come by chance are not, and nobody waits for them. Where the crowd did not come back in time, it has to be seen
//! twice as often before it is waited for again. (PostgreSQL's `commit_delay` with `commit_siblings` has the same aim.)

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Fewer do not save what a wait costs.
const FEW: usize = 8;
/// More are busy for longer than an entry needs: without them both processors and disk would have nothing to do.
const MANY: usize = 512;
/// The longest wait; the runtime's timer may add a millisecond.
const PATIENCE: Duration = Duration::from_millis(1);
/// How often in a row a crowd must be seen before it is waited for, at first and at most.
const SEEN: [u32; 2] = [8, 4096];

/// So many of a crowd are waited for.
fn most(crowd: usize) -> usize {
    crowd - crowd / 8
}

/// Two that differ by no more than this are one crowd.
fn difference(crowd: usize) -> usize {
    crowd / 8
}

/// The commands that wait on the leader, counted. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queued {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    commands: AtomicUsize,
    /// The batcher wants to hear when there are so many; 0: it does not.
    wanted: AtomicUsize,
    enough: Notify,
}

impl Queued {
    /// So many commands wait now.
    pub(crate) fn enter(&self, commands: usize) {
        let before = self.inner.commands.fetch_add(commands, SeqCst);
        let wanted = self.inner.wanted.load(SeqCst);
        if wanted > before && wanted <= before + commands {
            self.inner.enough.notify_one();
        }
    }

    /// So many wait no more.
    pub(crate) fn leave(&self, commands: usize) {
        self.inner.commands.fetch_sub(commands, SeqCst);
    }

    fn len(&self) -> usize {
        self.inner.commands.load(SeqCst)
    }
}

/// What the batcher knows of those who ask.
#[derive(Debug)]
pub(crate) struct Crowd {
    queued: Queued,
    /// Those who were answered last, and those who waited then.
    size: usize,
    /// So often in a row it was of this size.
    seen: u32,
    /// So often it has to be.
    needed: u32,
    /// The end of the wait.
    until: Option<Instant>,
}

impl Crowd {
    pub(crate) fn new(queued: Queued) -> Self {
        Self {
            queued,
            size: 0,
            seen: 0,
            needed: SEEN[0],
            until: None,
        }
    }

    /// An entry with so many commands has been answered.
    pub(crate) fn answered(&mut self, commands: usize, now: Instant) {
        let size = commands + self.queued.len();
        let same = size.abs_diff(self.size) <= difference(self.size);
        self.seen = if same { self.seen.saturating_add(1) } else { 0 };
        self.size = size;
        if (FEW..=MANY).contains(&size) && self.seen >= self.needed {
            self.until = Some(now + PATIENCE);
            self.queued.inner.wanted.store(most(size), SeqCst);
        }
    }

    /// Whether the next entry shall wait.
    pub(crate) fn is_awaited(&mut self) -> bool {
        if self.until.is_some() && self.queued.len() >= most(self.size) {
            self.needed = (self.needed / 2).max(SEEN[0]);
            self.go();
        }
        self.until.is_some()
    }

    /// Ready when most are there, or it has taken too long.
    pub(crate) async fn gathered(&mut self) {
        let Some(until) = self.until else { return };
        let enough = self.queued.inner.enough.notified();
        if tokio::time::timeout_at(until, enough).await.is_err() {
            self.seen = 0;
            self.needed = (self.needed * 2).min(SEEN[1]);
            self.go();
        }
    }

    /// Nothing is waited for.
    pub(crate) fn go(&mut self) {
        self.until = None;
        self.queued.inner.wanted.store(0, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crowd of `size` that was answered `times` times, half of it each time, all of it waiting again.
    fn seen(crowd: &mut Crowd, queued: &Queued, size: usize, times: u32) {
        for _ in 0..times {
            crowd.go();
            queued.enter(size / 2);
            crowd.answered(size - size / 2, Instant::now());
            queued.leave(size / 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_that_comes_again_and_again_is_waited_for_until_most_of_it_is_there() {
        let queued = Queued::default();
        let mut crowd = Crowd::new(queued.clone());
        seen(&mut crowd, &queued, 64, SEEN[0]);
        assert!(!crowd.is_awaited(), "not yet seen often enough");
        seen(&mut crowd, &queued, 64, 1);
        queued.enter(32);
        assert!(crowd.is_awaited());
        let began = Instant::now();
        let late = async {
            for _ in 0..24 {
                tokio::task::yield_now().await;
                queued.enter(1);
            }
        };
        tokio::join!(crowd.gathered(), late);
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(!crowd.is_awaited(), "56 of 64 are there");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_come_back_is_not_waited_for_again_soon() {
        let queued = Queued::default();
        let mut crowd = Crowd::new(queued.clone());
        seen(&mut crowd, &queued, 64, 1);
        for needed in [8, 16, 32] {
            seen(&mut crowd, &queued, 64, needed - 1);
            assert!(!crowd.is_awaited());
            seen(&mut crowd, &queued, 64, 1);
            assert!(crowd.is_awaited());
            let began = Instant::now();
            crowd.gathered().await;
            assert!(began.elapsed() >= PATIENCE && began.elapsed() <= 2 * PATIENCE);
            assert!(!crowd.is_awaited());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_few_for_many_or_for_those_who_come_by_chance() {
        let queued = Queued::default();
        for size in [1, 2, FEW - 1, MANY + 1] {
            let mut crowd = Crowd::new(queued.clone());
            seen(&mut crowd, &queued, size, 100);
            assert!(!crowd.is_awaited(), "{size}");
        }
        let mut crowd = Crowd::new(queued.clone());
        for n in 0..100 {
            seen(&mut crowd, &queued, 40 + 30 * (n % 2), 1);
            assert!(!crowd.is_awaited());
        }
    }
}
