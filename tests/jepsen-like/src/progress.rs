//! What is going on, for those who wait for it: a line that changes on a terminal; elsewhere plain lines, and not many of them.
//!
//! There is one terminal, so there is one thing that is going on: whoever does it says so with [`step`] or [`follow`], and [`show`] shows it.

use std::convert::Infallible;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use tokio::time::Instant;

/// How often a line on a terminal changes.
const REDRAW: Duration = Duration::from_millis(250);
/// Elsewhere nothing is said more often.
const PLAIN: Duration = Duration::from_secs(10);
const BAR: &str = "  {spinner} [{bar:24}] {msg}";
const STEP: &str = "  {spinner} {msg}";

static DOING: Mutex<Doing> = Mutex::new(Doing::Nothing);

enum Doing {
    Nothing,
    Step(String),
    Run {
        began: Instant,
        lasts: Duration,
        look: Box<dyn Fn() -> Now + Send>,
    },
}

/// How far a run is.
#[derive(Clone, Debug, Default)]
pub struct Now {
    /// Acknowledged so far.
    pub operations: u64,
    /// What is broken at the moment.
    pub active: Vec<String>,
    /// Faults so far.
    pub faults: usize,
    /// What was found so far that is not as it should be.
    pub findings: usize,
}

/// Ends what [`follow`] began when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Following(());

impl Drop for Following {
    fn drop(&mut self) {
        *DOING.lock() = Doing::Nothing;
    }
}

/// A scenario is at this step.
pub fn step(text: impl Into<String>) {
    *DOING.lock() = Doing::Step(text.into());
}

/// A run has begun that lasts so long; `look` says how far it is, and must not take long.
pub fn follow(lasts: Duration, look: impl Fn() -> Now + Send + 'static) -> Following {
    *DOING.lock() = Doing::Run {
        began: Instant::now(),
        lasts,
        look: Box::new(look),
    };
    Following(())
}

/// Shows what is going on; never ends. When it is dropped the line is gone.
pub async fn show() -> Infallible {
    let is_terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    let mut rate = Rate::default();
    if is_terminal {
        let line = Line(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()));
        loop {
            line.draw(&mut rate);
            tokio::time::sleep(REDRAW).await;
        }
    }
    let mut plain = Plain::default();
    loop {
        let said = say(&mut rate);
        if let Some(text) = plain.due(Instant::now(), said) {
            println!("  ... {text}");
        }
        tokio::time::sleep(REDRAW).await;
    }
}

/// What is to be said now; `None`: nothing goes on.
fn say(rate: &mut Rate) -> Option<String> {
    match &*DOING.lock() {
        Doing::Nothing => None,
        Doing::Step(text) => Some(text.clone()),
        Doing::Run { began, lasts, look } => {
            let now = look();
            let a_second = rate.now(Instant::now(), now.operations);
            Some(describe(began.elapsed(), *lasts, &now, a_second))
        }
    }
}

fn describe(elapsed: Duration, lasts: Duration, now: &Now, a_second: f64) -> String {
    let active = if now.active.is_empty() {
        "nothing broken now".to_owned()
    } else {
        now.active.join(" + ")
    };
    let findings = match now.findings {
        0 => "no findings".to_owned(),
        count => format!("{count} FINDINGS"),
    };
    format!(
        "{} of {} s: {a_second:.0} operations a second, {active}, {} faults so far, {findings}",
        elapsed.as_secs(),
        lasts.as_secs(),
        now.faults
    )
}

/// The line on a terminal.
struct Line(ProgressBar);

impl Line {
    fn draw(&self, rate: &mut Rate) {
        let Some(text) = say(rate) else {
            return self.0.set_message("");
        };
        let template = match &*DOING.lock() {
            Doing::Run { began, lasts, .. } => {
                self.0.set_length(lasts.as_secs());
                self.0.set_position(began.elapsed().min(*lasts).as_secs());
                BAR
            }
            Doing::Nothing | Doing::Step(_) => STEP,
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style);
        }
        self.0.set_message(text);
        self.0.tick();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Operations a second, over about the last second.
#[derive(Debug, Default)]
struct Rate {
    before: Option<(Instant, u64)>,
    a_second: f64,
}

impl Rate {
    fn now(&mut self, at: Instant, operations: u64) -> f64 {
        let (since, before) = *self.before.get_or_insert((at, operations));
        let passed = at.saturating_duration_since(since);
        if passed >= Duration::from_secs(1) || operations < before {
            self.a_second = operations.saturating_sub(before) as f64 / passed.as_secs_f64().max(1.0);
            self.before = Some((at, operations));
        }
        self.a_second
    }
}

/// Lines for a file or a pipe: the first at once, then one in a while, and none twice.
#[derive(Debug, Default)]
struct Plain {
    last: Option<(Instant, String)>,
}

impl Plain {
    fn due(&mut self, now: Instant, text: Option<String>) -> Option<String> {
        let text = text?;
        if let Some((at, last)) = &self.last
            && (*last == text || now.saturating_duration_since(*at) < PLAIN)
        {
            return None;
        }
        self.last = Some((now, text.clone()));
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_are_few_and_different() {
        let mut plain = Plain::default();
        let begin = Instant::now();
        let mut said = |seconds: u64, text: &str| {
            plain
                .due(begin + Duration::from_secs(seconds), Some(text.to_owned()))
                .is_some()
        };
        assert!(said(0, "one"));
        assert!(!said(9, "two"), "too soon");
        assert!(said(10, "two"));
        assert!(!said(50, "two"), "it was said");
        assert!(said(51, "three"));
        assert_eq!(plain.due(begin + Duration::from_secs(99), None), None);
    }

    #[test]
    fn the_rate_is_that_of_the_last_second() {
        let mut rate = Rate::default();
        let begin = Instant::now();
        assert_eq!(rate.now(begin, 500), 0.0, "what was before does not count");
        assert_eq!(rate.now(begin + Duration::from_secs(2), 700), 100.0);
        assert_eq!(rate.now(begin + Duration::from_millis(2500), 900), 100.0);
        assert_eq!(rate.now(begin + Duration::from_secs(4), 700), 0.0);
    }

    #[test]
    fn a_line_says_what_is_broken_and_what_was_found() {
        let mut now = Now {
            operations: 12,
            active: vec!["kill leader".into(), "pause 2".into()],
            faults: 7,
            findings: 0,
        };
        let line = |now: &Now| describe(Duration::from_secs(3), Duration::from_secs(60), now, 99.6);
        assert_eq!(
            line(&now),
            "3 of 60 s: 100 operations a second, kill leader + pause 2, 7 faults so far, no findings"
        );
        now.active.clear();
        now.findings = 2;
        assert!(line(&now).ends_with("nothing broken now, 7 faults so far, 2 FINDINGS"));
    }
}
