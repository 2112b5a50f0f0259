//! Points at which a node can be told to die, to wait or to fail, in a build with the cargo feature `failpoints`; in every other build
//! [`pass`] is empty.
//!
//! Such a node reads the variable `FAILPOINTS`: what to do, or `@` and the path of a file that says so. The file may come later; it is
//! looked for at each point until it is there, so that a node can be told while it runs.
//!
//! ```text
//! append.before=7->abort              dies when it comes there for the seventh time, as by kill -9
//! flush.before=1+->sleep(30)          waits for 30 ms each time
//! flush.before=20->error              the 20th `fdatasync` fails, and no other
//! ```
//! Several are separated by `;`. Who does something says so first, on standard error: `FAILPOINT append.before: abort at pass 7`.
//!
//! Why not a crate: `fail` (TiKV's) knows no death without unwinding, and no file to be told by.

/// Where a node passes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The log is asked to take entries.
    AppendBefore,
    /// It has them in memory; nothing is written.
    AppendAfter,
    /// A group is about to be written to the journal.
    WriteBefore,
    /// It is written, and not synced.
    FlushBefore,
    /// It is on disk; nobody knows yet.
    FlushAfter,
    /// The log is asked to keep a vote.
    VoteBefore,
    /// The vote is on disk, and not given yet.
    VoteAfter,
    /// Entries are about to be taken back.
    TruncateBefore,
    /// That they are is on disk.
    TruncateAfter,
    /// Entries are about to be purged.
    PurgeBefore,
    /// That they are is on disk.
    PurgeAfter,
    /// A snapshot is about to be written.
    SnapshotBefore,
    /// It is complete, under another name.
    RenameBefore,
    /// It has its name; older ones are still there.
    RenameAfter,
    /// A snapshot has come from the leader.
    InstallBefore,
    /// The state is the snapshot's.
    InstallAfter,
    /// An entry is about to be applied.
    ApplyBefore,
    /// It is; whoever waits for it does not know yet.
    ApplyAfter,
    /// Events are about to be told to subscribers.
    PublishBefore,
    /// Subscribers are awake.
    PublishAfter,
    /// A timer is about to be proposed.
    TimerBefore,
    /// Its effect is applied.
    TimerAfter,
    /// A follower is about to send commands to the leader.
    ForwardBefore,
    /// Their answers came; whoever waits for them does not know yet.
    ForwardAfter,
    /// A leader has commands of a follower.
    ForwardedBefore,
    /// They are applied, and not answered.
    ForwardedAfter,
}

impl Point {
    /// Every one.
    pub const ALL: [Self; 26] = [
        Self::AppendBefore,
        Self::AppendAfter,
        Self::WriteBefore,
        Self::FlushBefore,
        Self::FlushAfter,
        Self::VoteBefore,
        Self::VoteAfter,
        Self::TruncateBefore,
        Self::TruncateAfter,
        Self::PurgeBefore,
        Self::PurgeAfter,
        Self::SnapshotBefore,
        Self::RenameBefore,
        Self::RenameAfter,
        Self::InstallBefore,
        Self::InstallAfter,
        Self::ApplyBefore,
        Self::ApplyAfter,
        Self::PublishBefore,
        Self::PublishAfter,
        Self::TimerBefore,
        Self::TimerAfter,
        Self::ForwardBefore,
        Self::ForwardAfter,
        Self::ForwardedBefore,
        Self::ForwardedAfter,
    ];

    /// What it is called outside of the code.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AppendBefore => "append.before",
            Self::AppendAfter => "append.after",
            Self::WriteBefore => "write.before",
            Self::FlushBefore => "flush.before",
            Self::FlushAfter => "flush.after",
            Self::VoteBefore => "vote.before",
            Self::VoteAfter => "vote.after",
            Self::TruncateBefore => "truncate.before",
            Self::TruncateAfter => "truncate.after",
            Self::PurgeBefore => "purge.before",
            Self::PurgeAfter => "purge.after",
            Self::SnapshotBefore => "snapshot.before",
            Self::RenameBefore => "rename.before",
            Self::RenameAfter => "rename.after",
            Self::InstallBefore => "install.before",
            Self::InstallAfter => "install.after",
            Self::ApplyBefore => "apply.before",
            Self::ApplyAfter => "apply.after",
            Self::PublishBefore => "publish.before",
            Self::PublishAfter => "publish.after",
            Self::TimerBefore => "timer.before",
            Self::TimerAfter => "timer.after",
            Self::ForwardBefore => "forward.before",
            Self::ForwardAfter => "forward.after",
            Self::ForwardedBefore => "forwarded.before",
            Self::ForwardedAfter => "forwarded.after",
        }
    }
}

/// Passes a point that cannot fail.
#[inline]
pub fn pass(point: Point) {
    // Only `fallible` points take an error; see `Rule::read`.
    let _ = fallible(point);
}

/// Passes a point.
///
/// # Errors
/// When it was told to fail.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn fallible(_: Point) -> std::io::Result<()> {
    Ok(())
}

#[cfg(feature = "failpoints")]
pub(crate) use self::rules::fallible;
#[cfg(feature = "failpoints")]
pub use self::rules::listen_to;

#[cfg(feature = "failpoints")]
mod rules {
    use std::fs;
    use std::io;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
    use std::time::Duration;

    use super::Point;

    /// What this process was told to look at.
    static SOURCE: OnceLock<String> = OnceLock::new();
    /// What it was told to do.
    static RULES: OnceLock<Vec<Rule>> = OnceLock::new();
    /// A sync was told to fail.
    static FAILED: AtomicBool = AtomicBool::new(false);

    #[derive(Debug)]
    struct Rule {
        point: Point,
        /// The number of the pass.
        at: u64,
        /// Also at all passes after it.
        and_later: bool,
        action: Action,
        passes: AtomicU64,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Action {
        Abort,
        Sleep(Duration),
        Error,
    }

    /// Takes the value of `FAILPOINTS`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn listen_to(source: String) -> Result<(), String> {
        if !source.starts_with('@') {
            // A second call would come too late.
            let _ = RULES.set(read(&source)?);
        }
        let _ = SOURCE.set(source);
        Ok(())
    }

    pub(crate) fn fallible(point: Point) -> io::Result<()> {
        let mut outcome = Ok(());
        for rule in rules().iter().filter(|rule| rule.point == point) {
            let pass = rule.passes.fetch_add(1, SeqCst) + 1;
            if pass == rule.at || (rule.and_later && pass > rule.at) {
                outcome = rule.act(pass);
            }
        }
        // The kernel may have thrown away what it could not write: whoever asks again and believes the answer loses it.
        if point == Point::FlushAfter && FAILED.load(SeqCst) {
            eprintln!("FAILPOINT flush.after: passed although a flush had failed");
        }
        outcome
    }

    fn rules() -> &'static [Rule] {
        if let Some(rules) = RULES.get() {
            return rules;
        }
        let Some(path) = SOURCE.get().and_then(|source| source.strip_prefix('@')) else {
            return &[];
        };
        let Ok(text) = fs::read_to_string(path) else {
            return &[];
        };
        match read(&text) {
            Ok(rules) => RULES.get_or_init(|| rules),
            Err(problem) => {
                // Whoever wrote it waits for something that would never happen.
                eprintln!("FAILPOINTS: {problem}");
                std::process::exit(2);
            }
        }
    }

    fn read(text: &str) -> Result<Vec<Rule>, String> {
        let rules = text.trim().split(';').filter(|rule| !rule.trim().is_empty());
        rules.map(|rule| Rule::read(rule.trim())).collect()
    }

    impl Rule {
        fn read(text: &str) -> Result<Self, String> {
            let wrong = |what: &str| format!("{text:?} {what}; e.g. append.before=7->abort");
            let (name, rest) = text.split_once('=').ok_or_else(|| wrong("has no ="))?;
            let (at, action) = rest.split_once("->").ok_or_else(|| wrong("has no ->"))?;
            let point = Point::ALL.into_iter().find(|point| point.name() == name);
            let point = point.ok_or_else(|| wrong("names no point"))?;
            let (at, and_later) = match at.strip_suffix('+') {
                Some(at) => (at, true),
                None => (at, false),
            };
            let at = at.parse().ok().filter(|at| *at > 0);
            let sleep = || action.strip_prefix("sleep(")?.strip_suffix(')')?.parse().ok();
            let action = match action {
                "abort" => Some(Action::Abort),
                // The only one whose callers look.
                "error" if point == Point::FlushBefore => Some(Action::Error),
                _ => sleep().map(|ms| Action::Sleep(Duration::from_millis(ms))),
            };
            Ok(Self {
                point,
                at: at.ok_or_else(|| wrong("does not say at which pass"))?,
                and_later,
                action: action.ok_or_else(|| wrong("says nothing that can be done there"))?,
                passes: AtomicU64::new(0),
            })
        }

        fn act(&self, pass: u64) -> io::Result<()> {
            let name = self.point.name();
            match self.action {
                Action::Abort => {
                    eprintln!("FAILPOINT {name}: abort at pass {pass}");
                    std::process::abort()
                }
                Action::Sleep(time) => {
                    if pass == self.at {
                        eprintln!("FAILPOINT {name}: sleep at pass {pass}");
                    }
                    std::thread::sleep(time);
                    Ok(())
                }
                Action::Error => {
                    FAILED.store(true, SeqCst);
                    eprintln!("FAILPOINT {name}: error at pass {pass}");
                    Err(io::Error::other("FAILPOINT: the disk did not take it"))
                }
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn rules_are_read_and_nonsense_is_refused() {
            let rules =
                read("append.before=7->abort; flush.before=1+->sleep(30);flush.before=2->error").unwrap();
            let told: Vec<_> = rules
                .iter()
                .map(|rule| (rule.point, rule.at, rule.and_later, rule.action))
                .collect();
            let sleep = Action::Sleep(Duration::from_millis(30));
            assert_eq!(
                told,
                [
                    (Point::AppendBefore, 7, false, Action::Abort),
                    (Point::FlushBefore, 1, true, sleep),
                    (Point::FlushBefore, 2, false, Action::Error),
                ]
            );
            for nonsense in [
                "append.before",
                "append.before=7",
                "append.before=0->abort",
                "append.before=x->abort",
                "append.before=1->panic",
                "append.before=1->error",
                "nowhere=1->abort",
                "append.before=1->sleep(x)",
            ] {
                assert!(read(nonsense).is_err(), "{nonsense}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = Point::ALL.iter().map(|point| point.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Point::ALL.len());
    }
}
