//! Every file of a log, damaged in many ways: it opens and holds everything, or it says what is wrong. It never panics, and
//! never opens with less than was acknowledged.

use std::fs;
use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::*;
use crate::environment::System;
use crate::log_store::errors::LogError;

#[derive(Clone, Debug)]
enum Damage {
    Removed,
    CutTo(u64),
    Flipped(u64),
    Zeroed(u64, u64),
}

impl Damage {
    fn apply(&self, path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        match self {
            Self::Removed => return fs::remove_file(path).unwrap(),
            Self::CutTo(length) => bytes.truncate(*length as usize),
            Self::Flipped(at) => bytes[*at as usize] ^= 0x10,
            Self::Zeroed(from, to) => bytes[*from as usize..*to as usize].fill(0),
        }
        fs::write(path, bytes).unwrap();
    }

    /// Flips and zeros in the first `used` bytes: beyond them there is nothing.
    fn all(length: u64, used: u64) -> Vec<Self> {
        let mut all = vec![Self::Removed, Self::CutTo(0)];
        if length == 0 {
            return all;
        }
        all.extend([1, 2, 3, 4, 8, 64].map(|parts| Self::CutTo(length - length.div_ceil(parts + 1))));
        all.push(Self::CutTo(length - 1));
        let used = used.min(length);
        let step = (used / 40).max(1);
        all.extend((0..used).step_by(step as usize).map(Self::Flipped));
        all.extend((0..8).map(|eighth| Self::Zeroed(used * eighth / 8, used * (eighth + 1) / 8)));
        all
    }
}

/// A log with several files, long entries, a vote, a purge and a truncation, closed in order.
async fn sample() -> (TestLog, Vec<Entry>) {
    let (log, expected) = filled().await;
    log.store.handle().close().await.unwrap();
    (log, expected)
}

/// The same, still open.
async fn filled() -> (TestLog, Vec<Entry>) {
    let mut log = TestLog::new(SMALL);
    log.append(entries(1, 0..60, 300)).await;
    log.append(vec![entry(1, 60, 40_000)]).await;
    log.store.save_vote(&vote(5, 2)).await.unwrap();
    log.store.purge(log_id(1, 20)).await.unwrap();
    log.append(entries(2, 61..90, 300)).await;
    log.store.truncate_after(Some(log_id(2, 80))).await.unwrap();
    log.append(entries(5, 81..120, 300)).await;
    let expected = all(&log.store).await;
    (log, expected)
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(Result::unwrap)
        .filter(|file| file.file_type().unwrap().is_file())
        .map(|file| file.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A copy, also of a log that is open: its writer tidies up after the answer, so the same files must be there before and afterwards.
fn copy(from: &Path, to: &Path) {
    loop {
        fs::create_dir_all(to).unwrap();
        let names = files(from);
        let copied = names.iter().map(|name| fs::copy(from.join(name), to.join(name)));
        let copied = copied.collect::<io::Result<Vec<_>>>();
        if copied.is_ok() && files(from) == names {
            return;
        }
        fs::remove_dir_all(to).unwrap();
    }
}

/// Opens and reads everything; on a thread of its own, so that a panic or a wait shows.
fn open(folder: PathBuf) -> Result<(Vec<Entry>, Option<Vote>), LogError> {
    let (done, outcome) = mpsc::channel();
    let name = folder.display().to_string();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let opened = LogStore::open_with(&folder, SMALL).map(|store| {
            runtime.block_on(async {
                let found = (all(&store).await, store.reader().read_vote().await.unwrap());
                store.handle().close().await.unwrap();
                found
            })
        });
        let _ = done.send(opened);
    });
    outcome
        .recv_timeout(Duration::from_secs(30))
        .unwrap_or_else(|_| panic!("opening {name} panicked or hangs"))
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_or_does_not_matter() {
    let (log, expected) = sample().await;
    let noticed = damage_each_file(&log, &expected);
    assert!(
        noticed["journal-1"].0 > 10 && noticed["durable-mark"].0 > 10,
        "{noticed:?}"
    );
}

/// The same without a close.
#[tokio::test(flavor = "multi_thread")]
async fn damage_after_a_crash_is_told_or_does_not_matter() {
    let (log, expected) = filled().await;
    let crashed = log.dir.path().join("crashed");
    copy(&log.folder, &crashed);
    log.store.handle().close().await.unwrap();
    let log = TestLog {
        folder: crashed,
        ..log
    };
    let noticed = damage_each_file(&log, &expected);
    assert!(noticed["journal-0"].0 > 10, "{noticed:?}");
}

/// Opens a copy for each damage to each file. Gives how many were noticed, and how many there were, a file.
fn damage_each_file(log: &TestLog, expected: &[Entry]) -> std::collections::BTreeMap<String, (u32, u32)> {
    let mut noticed = std::collections::BTreeMap::<String, (u32, u32)>::new();
    for (number, name) in files(&log.folder).into_iter().enumerate() {
        let length = file_size(&log.folder.join(&name));
        let used = used(&log.folder.join(&name));
        for (case, damage) in Damage::all(length, used).into_iter().enumerate() {
            let folder = log.dir.path().join(format!("{number}-{case}"));
            copy(&log.folder, &folder);
            damage.apply(&folder.join(&name));
            let counts = noticed.entry(name.clone()).or_default();
            counts.1 += 1;
            match open(folder.clone()) {
                Ok((found, found_vote)) => {
                    assert_eq!(found_vote, Some(vote(5, 2)), "{name} {damage:?}");
                    assert_eq!(found, expected, "{name} {damage:?}");
                }
                Err(error) => {
                    counts.0 += 1;
                    let text = error.to_string();
                    assert!(
                        text.contains(folder.to_str().unwrap()),
                        "names the folder: {text}"
                    );
                    assert!(
                        text.contains("new node id"),
                        "says what to do: {name} {damage:?}: {text}"
                    );
                }
            }
            fs::remove_dir_all(folder).unwrap();
        }
    }
    println!("noticed, of all: {noticed:?}");
    noticed
}

/// A power cut can leave the mark as it was long before. Then damage to any group but the newest must show by itself.
#[tokio::test(flavor = "multi_thread")]
async fn damage_before_the_end_is_told_without_the_mark() {
    let (log, expected) = filled().await;
    let crashed = log.dir.path().join("crashed");
    copy(&log.folder, &crashed);
    log.store.handle().close().await.unwrap();
    let log = TestLog {
        folder: crashed,
        ..log
    };
    let other = TestLog::new(SMALL);
    fs::copy(other.folder.join("durable-mark"), log.folder.join("durable-mark")).unwrap();
    let mut lost = 0;
    for (number, name) in journal_files(&log.folder).into_iter().enumerate() {
        let used = used(&log.folder.join(&name));
        for (case, at) in (40..used).step_by(97).enumerate() {
            let folder = log.dir.path().join(format!("stale-{number}-{case}"));
            copy(&log.folder, &folder);
            Damage::Flipped(at).apply(&folder.join(&name));
            match open(folder.clone()) {
                Ok((found, found_vote)) if found == expected => {
                    assert_eq!(found_vote, Some(vote(5, 2)), "{name} at {at}");
                }
                // The newest group, from the truncation on, cannot be told from one that was cut short.
                Ok((found, _)) => {
                    assert_eq!(found[..60], expected[..60], "{name} at {at}");
                    lost += 1;
                }
                Err(LogError::Damaged { .. }) => {}
                Err(error) => panic!("{name} at {at}: {error}"),
            }
            fs::remove_dir_all(folder).unwrap();
        }
    }
    assert!(lost > 0, "the newest group was never hit");
}

#[tokio::test]
async fn another_log_and_files_of_another_log_are_refused() {
    let (log, _) = sample().await;
    let other = TestLog::new(SMALL);
    other.store.handle().close().await.unwrap();
    let name = journal_files(&log.folder)[1].clone();
    fs::copy(other.folder.join("journal-0"), log.folder.join(&name)).unwrap();
    let error = open(log.folder.clone()).unwrap_err();
    assert!(
        error.to_string().contains(&format!("{name} is of another log")),
        "{error}"
    );
    let Err(error) = LogStore::open(&other.folder, &[1; 16], Arc::new(System)) else {
        panic!("it was opened for another")
    };
    assert!(matches!(error, LogError::OtherLog { .. }), "{error}");
    assert!(error.to_string().contains("journal-0"), "{error}");
}

/// What a power cut may leave: a group that was never acknowledged is there in part, at either end.
#[tokio::test]
async fn a_group_that_was_cut_short_is_removed() {
    let (log, expected) = sample().await;
    let contents = |folder: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let names = journal_files(folder).into_iter();
        names
            .map(|name| (folder.join(&name), fs::read(folder.join(name)).unwrap()))
            .collect()
    };
    let before = contents(&log.folder);
    let mut log = TestLog {
        store: LogStore::open_with(&log.folder, SMALL).unwrap(),
        ..log
    };
    log.append(entries(6, 120..122, 300)).await;
    let after = contents(&log.folder);
    log.store.handle().close().await.unwrap();
    let changed = after
        .into_iter()
        .zip(before)
        .find(|((_, after), (_, before))| after != before);
    let ((path, after), (_, before)) = changed.unwrap();
    let differs = |at: &usize| after[*at] != before[*at];
    let first = (0..after.len()).find(differs).unwrap();
    let last = (0..after.len()).rfind(differs).unwrap();
    let mark = log.folder.join("durable-mark");
    let other = TestLog::new(SMALL);
    for lost in [
        first..first + 1,
        first + 100..last - 100,
        last..last + 1,
        first..last + 1,
    ] {
        let mut torn = after.clone();
        torn[lost.clone()].copy_from_slice(&before[lost]);
        fs::write(&path, torn).unwrap();
        fs::copy(other.folder.join("durable-mark"), &mark).unwrap();
        let again = LogStore::open_with(&log.folder, SMALL).unwrap();
        assert_eq!(all(&again).await, expected);
        again.handle().close().await.unwrap();
    }
}

fn journal_files(folder: &Path) -> Vec<String> {
    files(folder)
        .into_iter()
        .filter(|name| name.starts_with("journal-"))
        .collect()
}

/// Up to the last byte that is not zero.
fn used(path: &Path) -> u64 {
    let content = fs::read(path).unwrap();
    content
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last as u64 + 1)
}
