//! How often batches begin by themselves.

use std::time::Duration;

use tokio::time::Instant;

/// On average, batches begin no closer together than this. What is added up costs the cluster the same whether it is one outcome or a million.
const GAP: Duration = Duration::from_millis(15);
/// But so many may, one right after the other: what happens now and then waits for nothing.
const BURST: u32 = 8;

/// Lets a few batches begin at once, and then as many as keep a distance.
#[derive(Debug)]
pub(crate) struct Pace {
    /// When the next one would begin if each had kept its distance.
    due: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Self { due: Instant::now() }
    }
}

impl Pace {
    /// When the next batch may begin.
    pub(crate) fn next(&self) -> Instant {
        self.due.checked_sub(GAP * (BURST - 1)).unwrap_or(self.due)
    }

    /// One begins now.
    pub(crate) fn take(&mut self) {
        self.due = self.due.max(Instant::now()) + GAP;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_few_begin_at_once_and_less_than_a_hundred_a_second() {
        let began = Instant::now();
        let mut pace = Pace::default();
        let mut at_once = 0;
        let mut in_a_second = 0;
        while began.elapsed() < Duration::from_secs(1) {
            tokio::time::sleep_until(pace.next()).await;
            pace.take();
            at_once += u32::from(began.elapsed().is_zero());
            in_a_second += 1;
        }
        assert_eq!(at_once, BURST);
        assert!((60..90).contains(&in_a_second), "{in_a_second}");
        // After a rest there are some at once again.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(pace.next() <= Instant::now());
    }
}
