//! Every file of a log, damaged in many ways: it opens and holds everything, or it says what is wrong. It never panics, and
//! never opens with less than was acknowledged.

use std::fs;
use std::sync::mpsc;
use std::time::Duration;

use super::*;
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

/// A log with several segments, long entries, a vote, a purge and a truncation, closed in order. All of it is in sled, and none of it only
/// in the journal.
async fn sample() -> (TestLog, Vec<Entry>) {
    let (log, expected) = filled().await;
    // The journal begins anew when a log is opened.
    let log = log.reopen(SMALL).await;
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

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("blobs")).unwrap();
    for name in files(from) {
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

/// Opens and reads everything; on a thread of its own, because sled might wait for ever.
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
        noticed["db"].0 > 10 && noticed["durable-mark"].0 > 10,
        "{noticed:?}"
    );
}

/// The journal has what sled has not: neither of them may lose it.
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
        // The samples write some 90 KB; the journal's files have their full length from the beginning.
        let used = if name.starts_with("journal") {
            80_000
        } else {
            length
        };
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

#[tokio::test]
async fn a_log_of_a_newer_version_is_left_alone() {
    let (log, _) = sample().await;
    {
        let db = sled::Config::new().path(&log.folder).open().unwrap();
        let meta = db.open_tree("meta").unwrap();
        let mut record = meta.get("record").unwrap().unwrap().to_vec();
        record[0] = 99;
        let body = record.len() - 8;
        let checksum = xxhash_rust::xxh3::xxh3_64(&record[..body]);
        record[body..].copy_from_slice(&checksum.to_le_bytes());
        meta.insert("record", record).unwrap();
        db.flush().unwrap();
    }
    let error = open(log.folder).unwrap_err();
    assert!(
        matches!(error, LogError::NewerFormat { found: 99, .. }),
        "{error}"
    );
}

/// What a crash may leave: whole entries, parts of entries and whole segments beyond what was promised. It goes away without a word of alarm.
#[tokio::test]
async fn the_rest_of_a_write_that_was_cut_short_is_removed() {
    let (log, expected) = sample().await;
    {
        let db = sled::Config::new().path(&log.folder).open().unwrap();
        let newest = db
            .tree_names()
            .into_iter()
            .filter(|name| name.starts_with(b"seg-"))
            .max()
            .unwrap();
        let tree = db.open_tree(newest).unwrap();
        let frame = crate::log_store::codec::encode(&entry(5, 120, 30_000)).unwrap();
        // The second chunk never came.
        for number in [0, 2, 3] {
            let chunk = frame
                .chunks(crate::log_store::codec::CHUNK_BYTES)
                .nth(number)
                .unwrap();
            tree.insert(crate::log_store::codec::key(120, number as u16), chunk)
                .unwrap();
        }
        let frame = crate::log_store::codec::encode(&entry(5, 121, 10)).unwrap();
        db.open_tree("seg-00000000000000000121")
            .unwrap()
            .insert(crate::log_store::codec::key(121, 0), frame)
            .unwrap();
        db.open_tree("seg-00000000000000000500").unwrap();
        db.flush().unwrap();
    }
    let mut log = TestLog {
        store: LogStore::open_with(&log.folder, SMALL).unwrap(),
        ..log
    };
    assert_eq!(log.all().await, expected);
    log.append(entries(6, 120..125, 10)).await;
    let log = log.reopen(SMALL).await;
    assert_eq!(log.all().await[expected.len()..], entries(6, 120..125, 10)[..]);
}

/// A hole in what was promised is not a rest.
#[tokio::test]
async fn a_missing_entry_is_damage() {
    let (log, _) = sample().await;
    {
        let db = sled::Config::new().path(&log.folder).open().unwrap();
        for name in db
            .tree_names()
            .into_iter()
            .filter(|name| name.starts_with(b"seg-"))
        {
            db.open_tree(name)
                .unwrap()
                .remove(crate::log_store::codec::key(70, 0))
                .unwrap();
        }
        db.flush().unwrap();
    }
    let error = open(log.folder).unwrap_err();
    assert!(error.to_string().contains("entry 70 is not there"), "{error}");
}
