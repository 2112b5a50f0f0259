//! A connection that waits for the answers of its other calls before it writes.
//!
//! Reports that came together are answered together: one log entry holds them all. But the first answer wakes its connection, and the runtime
//! runs what was woken last before what has waited longer, so each answer would be written on its own. A connection with other
//! calls unanswered lets the tasks that are ready run first, once, and finds more to write then; a lone call waits for nothing. `brama-bench run
//! report:64 local:64` shows what that is worth.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

/// The calls of one connection that have no answer yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unanswered {
    calls: Arc<AtomicUsize>,
}

impl Unanswered {
    /// Counts a call until it has its answer.
    pub(crate) fn count<F>(&self, call: F) -> Counted<F> {
        self.calls.fetch_add(1, Relaxed);
        let calls = self.calls.clone();
        Counted {
            call,
            one: Some(One { calls }),
        }
    }

    fn any(&self) -> bool {
        self.calls.load(Relaxed) > 0
    }
}

/// One that has no answer yet.
struct One {
    calls: Arc<AtomicUsize>,
}

impl Drop for One {
    fn drop(&mut self) {
        self.calls.fetch_sub(1, Relaxed);
    }
}

pin_project! {
    /// A call that is counted until it has its answer, or is given up.
    pub(crate) struct Counted<F> {
        #[pin]
        call: F,
        one: Option<One>,
    }
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let answer = ready!(this.call.poll(cx));
        this.one.take();
        Poll::Ready(answer)
    }
}

pin_project! {
    /// See above.
    pub(crate) struct Gathering<F> {
        #[pin]
        connection: F,
        unanswered: Unanswered,
        let_others_run: bool,
    }
}

impl<F> Gathering<F> {
    pub(crate) fn new(connection: F, unanswered: Unanswered) -> Self {
        Self {
            connection,
            unanswered,
            let_others_run: false,
        }
    }
}

impl<F: Future> Future for Gathering<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if !*this.let_others_run && this.unanswered.any() {
            *this.let_others_run = true;
            // Behind all that are ready: a task that wakes itself while it runs yields.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        *this.let_others_run = false;
        this.connection.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn, ready};
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn it_lets_others_run_once_while_a_call_is_unanswered() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let unanswered = Unanswered::default();
        let note = |what: &'static str| {
            let order = order.clone();
            async move { order.lock().expect("whole").push(what) }
        };
        let waiting = unanswered.count(pending::<()>());
        let first = tokio::spawn(Gathering::new(note("connection"), unanswered.clone()));
        let second = tokio::spawn(note("other"));
        first.await.expect("it ends");
        second.await.expect("it ends");
        assert_eq!(*order.lock().expect("whole"), ["other", "connection"]);

        drop(waiting);
        let first = tokio::spawn(Gathering::new(note("alone"), unanswered));
        let second = tokio::spawn(note("after"));
        first.await.expect("it ends");
        second.await.expect("it ends");
        assert_eq!(order.lock().expect("whole")[2..], ["alone", "after"]);
    }

    #[tokio::test]
    async fn a_call_counts_until_it_is_answered_or_given_up() {
        let unanswered = Unanswered::default();
        let (mut answered, given_up) = (unanswered.count(ready(7)), unanswered.count(pending::<()>()));
        assert!(unanswered.any());
        let answer = poll_fn(|cx| Pin::new(&mut answered).poll(cx)).await;
        assert_eq!(answer, 7);
        assert!(unanswered.any(), "one is still open");
        drop(given_up);
        assert!(!unanswered.any());
    }
}
