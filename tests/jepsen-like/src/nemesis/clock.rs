//! Wall clocks that lie, by libfaketime: it is loaded before the node, and reads what to say from a file, each time anew. The monotonic clock
//! stays right.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::scenario::library;

/// A strobe changes so often.
const STROBE_EVERY: Duration = Duration::from_millis(200);
/// The time at which a clock stands.
const STANDS_AT: &str = "2026-06-01 12:00:00";
/// Prints the wall clock at its end, by how much it went on, and by how much the monotonic clock did. One program, because a rate is counted from
/// a program's start; and one that asks the C library, so that it is lied to.
const LOOK: [&str; 3] = [
    "-MTime::HiRes=time,clock_gettime,CLOCK_MONOTONIC",
    "-e",
    "$m = clock_gettime(CLOCK_MONOTONIC); $t = time; select(undef, undef, undef, 0.4); \
     printf '%f %f %f', time, time - $t, clock_gettime(CLOCK_MONOTONIC) - $m",
];

/// A node needs a moment to see that its clock is right again, and to write it down. If all are down sooner, one more clock is wrong.
pub const UNTIL_NOTED: Duration = Duration::from_secs(1);

/// What is wrong with a wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lie {
    /// It is ahead, or behind.
    Jump {
        /// By so much.
        seconds: i64,
    },
    /// A second ahead, a second behind, in turn.
    Strobe,
    /// 10 % too fast.
    Fast,
    /// It stands still.
    Stopped,
}

/// The wall clock of one node.
#[derive(Clone, Debug)]
pub struct FakeClock {
    library: PathBuf,
    file: PathBuf,
}

impl FakeClock {
    /// A clock that is right until it is told to lie.
    ///
    /// # Errors
    /// When libfaketime is not installed, or the file cannot be written.
    pub fn make(file: PathBuf) -> anyhow::Result<Self> {
        let library = library().context("libfaketime is not installed (Debian: apt-get install faketime)")?;
        let clock = Self { library, file };
        clock.say("+0")?;
        Ok(clock)
    }

    /// What a process needs to have this clock.
    pub fn env(&self) -> Vec<(String, String)> {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    /// Begins to lie.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn lie(&self, lie: Lie) -> anyhow::Result<()> {
        match lie {
            Lie::Jump { seconds } => self.say(&format!("{seconds:+}")),
            Lie::Strobe => self.say("+1"),
            Lie::Fast => self.say("+0 x1.1"),
            Lie::Stopped => self.say(STANDS_AT),
        }
    }

    /// Is right again.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn be_right(&self) -> anyhow::Result<()> {
        self.say("+0")
    }

    /// Lies on, for ever: what a lie needs that is not the same all the time.
    pub async fn keep_lying(&self, lie: Lie) -> anyhow::Result<()> {
        if lie != Lie::Strobe {
            return std::future::pending().await;
        }
        for text in ["-1", "+1"].iter().cycle() {
            tokio::time::sleep(STROBE_EVERY).await;
            self.say(text)?;
        }
        Ok(())
    }

    /// Makes sure that a process has this clock and believes the lie; says how that was seen.
    ///
    /// The process itself is not asked what time it is: that it has loaded the library is looked up, and another program that
    /// loads it with the same file says the time.
    ///
    /// # Errors
    /// When it is not so.
    pub async fn prove(&self, process: u32, lie: Lie) -> anyhow::Result<String> {
        let maps = std::fs::read_to_string(format!("/proc/{process}/maps"))?;
        ensure!(
            maps.contains("libfaketimeMT"),
            "process {process} has not loaded libfaketime"
        );
        let Look { off, rate } = self.look().await?;
        let near = |expected: f64| (off - expected).abs() < 1.5;
        let (holds, text) = match lie {
            Lie::Jump { seconds } => (near(seconds as f64), format!("{off:+.1} s off")),
            Lie::Strobe => (off.abs() > 0.5, format!("{off:+.1} s off")),
            Lie::Fast => (rate > 1.05, format!("{rate:.2} times as fast")),
            Lie::Stopped => (rate.abs() < 0.01, format!("standing, {off:+.0} s off")),
        };
        ensure!(holds, "{lie:?} was told, and the clock is {text}");
        Ok(format!("clock of process {process}: {text}"))
    }

    async fn look(&self) -> anyhow::Result<Look> {
        let mut command = Command::new("perl");
        command.args(LOOK).envs(self.env());
        let output = command.kill_on_drop(true).output().await.context("perl")?;
        let real = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let said = String::from_utf8(output.stdout)?;
        let numbers: Vec<f64> = said
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [shown, counted, monotonic] = numbers[..] else {
            bail!("perl says {said:?}");
        };
        Ok(Look {
            off: shown - real,
            rate: counted / monotonic,
        })
    }

    /// At once: who reads must never find half of it.
    fn say(&self, text: &str) -> anyhow::Result<()> {
        let next = self.file.with_extension("next");
        std::fs::write(&next, text)?;
        std::fs::rename(&next, &self.file).with_context(|| show(&self.file))
    }
}

fn show(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// What a program sees that has such a clock.
struct Look {
    /// Seconds.
    off: f64,
    /// Its seconds a second.
    rate: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_lie_is_believed_and_the_truth_is_no_lie() {
        if library().is_none() {
            println!("SKIPPED: libfaketime is not installed (Debian: apt-get install faketime)");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let clock = FakeClock::make(folder.path().join("clock")).unwrap();
        let mut sleeper = Command::new("sleep");
        let sleeper = sleeper.arg("60").envs(clock.env()).kill_on_drop(true);
        let sleeper = sleeper.spawn().unwrap();
        let process = sleeper.id().unwrap();
        // Until it has loaded what it loads.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let jump = Lie::Jump { seconds: -3600 };
        for lie in [jump, Lie::Strobe, Lie::Fast, Lie::Stopped] {
            clock.lie(lie).unwrap();
            println!("{}", clock.prove(process, lie).await.unwrap());
            clock.be_right().unwrap();
            assert!(clock.prove(process, lie).await.is_err(), "{lie:?}");
        }
        assert!(clock.prove(std::process::id(), jump).await.is_err(), "not loaded");
    }
}
