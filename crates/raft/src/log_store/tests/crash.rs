//! A process that writes a log is killed at random moments; and one runs out of space.
//!
//! The writer is this test binary, started again with [`child`] as its only test. It tells on its standard output what was acknowledged,
//! and, before it removes anything, what it is about to remove.
//!
//! A process that is killed leaves its writes to the kernel; a power cut does not. `tests/log_store_power_cut.sh` tests that with the same
//! writer, on a disk image that is copied while it runs, and with [`checker`].

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

const FOLDER: &str = "BRAMA_TEST_CRASH_FOLDER";
const SEED: &str = "BRAMA_TEST_CRASH_SEED";
/// A file with what the writer told, for [`checker`].
const TOLD: &str = "BRAMA_TEST_CRASH_TOLD";

const SIZES: Sizes = Sizes {
    file_bytes: 256 * 1024,
    cache_bytes: 100_000,
};

/// What the writer told.
#[derive(Debug, Default)]
struct Told {
    /// Everything up to here is there.
    last: Option<(u64, u64)>,
    /// The newest purge that was begun.
    purging: Option<u64>,
    vote: u64,
    appends: u64,
    failed: bool,
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("log");
    crate::log_store::Disk::create(&folder, SIZES.file_bytes).unwrap();
    let seed = std::env::var(SEED).map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("seed: {SEED}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut appends = 0;
    for round in 0..15 {
        let mut writer = start(&folder, random.random(), None);
        let life = Duration::from_millis(random.random_range(20..400));
        let mut output = writer.stdout.take().unwrap();
        let told = std::thread::spawn(move || listen(&mut output));
        tokio::time::sleep(life).await;
        writer.kill().unwrap();
        writer.wait().unwrap();
        let told = told.join().unwrap();
        check(&folder, &told, &format!("round {round}")).await;
        appends += told.appends;
    }
    assert!(
        appends > 20,
        "the writers wrote too little to test anything: {appends} appends"
    );
}

/// A limit of the file size makes writes fail, for another reason than want of room: what was acknowledged stays.
#[tokio::test]
async fn a_write_that_fails_is_an_error_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("log");
    crate::log_store::Disk::create(&folder, SIZES.file_bytes).unwrap();
    let mut writer = start(&folder, 1, Some(512));
    let mut output = writer.stdout.take().unwrap();
    let told = tokio::task::spawn_blocking(move || listen(&mut output));
    let told = tokio::time::timeout(Duration::from_secs(60), told).await;
    // It may hang, and must not outlive the test.
    writer.kill().unwrap();
    writer.wait().unwrap();
    let told = told.expect("the writer hangs").unwrap();
    assert!(told.failed, "its writes were to fail: {told:?}");
    check(&folder, &told, "failed write").await;
}

async fn check(folder: &Path, told: &Told, context: &str) {
    let store =
        LogStore::open_with(folder, SIZES).unwrap_or_else(|error| panic!("{context}: {error}; {told:?}"));
    let (purged, last) = store.shared.tail.lock().ends();
    let found = all(&store).await;
    let begin = purged.map_or(0, |purged| purged.index + 1);
    for (entry, index) in found.iter().zip(begin..) {
        assert_eq!(
            *entry,
            made(entry.log_id.leader_id.term, index),
            "{context}: entry {index}"
        );
    }
    assert_eq!(
        found.len() as u64,
        last.map_or(0, |last| last.index + 1) - begin,
        "{context}"
    );
    if let Some((term, index)) = told.last {
        assert!(
            last.unwrap().index >= index,
            "{context}: up to {last:?}, but {index} was acknowledged"
        );
        if let Some(entry) = found.iter().find(|entry| entry.log_id.index == index) {
            assert_eq!(
                entry.log_id.leader_id.term, term,
                "{context}: entry {index} is another"
            );
        }
    }
    assert!(
        purged.map(|purged| purged.index) <= told.purging.or(purged.map(|p| p.index)),
        "{context}: purged {purged:?}"
    );
    let vote = store
        .reader()
        .read_vote()
        .await
        .unwrap()
        .map_or(0, |vote| vote.leader_id.term);
    assert!(
        vote >= told.vote,
        "{context}: vote {vote}, but {} was acknowledged",
        told.vote
    );
    store.handle().close().await.unwrap();
}

fn start(folder: &Path, seed: u64, most_kib: Option<u64>) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut command = match most_kib {
        None => Command::new(program),
        Some(kib) => {
            // The signal is ignored, so the write fails with EFBIG as it would with ENOSPC. `ulimit -f` counts blocks of 512 bytes.
            let mut shell = Command::new("sh");
            shell
                .args([
                    "-c",
                    &format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", kib * 2),
                ])
                .arg(program);
            shell
        }
    };
    command
        .args(["log_store::tests::crash::child", "--exact", "--nocapture"])
        .env(FOLDER, folder)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn listen(output: &mut impl std::io::Read) -> Told {
    let mut told = Told::default();
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let mut words = line.split(' ');
        let word = words.next();
        let mut number = || words.next().and_then(|number| number.parse::<u64>().ok());
        match (word, number(), number()) {
            (Some("appended"), Some(term), Some(index)) => {
                told.last = Some((term, index));
                told.appends += 1;
            }
            (Some("truncating"), Some(term), Some(index)) => told.last = told.last.min(Some((term, index))),
            (Some("purging"), Some(index), None) => told.purging = Some(index),
            (Some("voted"), Some(term), None) => told.vote = term,
            (Some("failed"), ..) => told.failed = true,
            _ => {}
        }
    }
    told
}

/// An entry of a size that depends on its place: most are small, some take many chunks.
fn made(term: u64, index: u64) -> Entry {
    let bytes = match index % 50 {
        7 => 100_000,
        33 => 20_000,
        _ => 200,
    };
    let bytes = if index % 300 == 299 { 1024 * 1024 } else { bytes };
    entry(term, index, bytes)
}

/// Not a test: the process that [`what_was_acknowledged_survives_kill_9`] kills.
#[tokio::test]
async fn child() {
    let (Ok(folder), Ok(seed)) = (std::env::var(FOLDER), std::env::var(SEED)) else {
        return;
    };
    let mut random = StdRng::seed_from_u64(seed.parse().unwrap());
    let folder = Path::new(&folder);
    if !folder.exists() {
        crate::log_store::Disk::create(folder, SIZES.file_bytes).unwrap();
    }
    let mut store = LogStore::open_with(folder, SIZES).unwrap();
    if let Err(error) = write_for_ever(&mut store, &mut random).await {
        tell(&format!("failed {error}"));
    }
}

/// Not a test either: checks a log against what its writer told. For `tests/log_store_power_cut.sh`.
#[tokio::test]
async fn checker() {
    let (Ok(folder), Ok(told)) = (std::env::var(FOLDER), std::env::var(TOLD)) else {
        return;
    };
    let told = listen(&mut std::fs::File::open(told).unwrap());
    check(Path::new(&folder), &told, "power cut").await;
    tell(&format!(
        "checked {} appends, up to {:?}",
        told.appends, told.last
    ));
}

async fn write_for_ever(store: &mut LogStore, random: &mut StdRng) -> std::io::Result<()> {
    let mut term = store
        .shared
        .tail
        .lock()
        .ends()
        .1
        .map_or(1, |last| last.leader_id.term + 1);
    loop {
        let (purged, last) = store.shared.tail.lock().ends();
        let next = last.map_or(0, |last| last.index + 1);
        match random.random_range(0..20) {
            0 => {
                term += 1;
                store.save_vote(&vote(term, 1)).await?;
                tell(&format!("voted {term}"));
            }
            1 if last.map(|last| last.index) > purged.map(|purged| purged.index + 5) => {
                let begin = purged.map_or(0, |purged| purged.index + 1);
                let keep = random.random_range(begin..next);
                let keep = store.reader().try_get_log_entries(keep..=keep).await?[0].log_id;
                tell(&format!("truncating {} {}", keep.leader_id.term, keep.index));
                store.truncate_after(Some(keep)).await?;
                term += 1;
            }
            2 if next > 100 => {
                let index = random.random_range(next - 100..next);
                if purged.is_some_and(|purged| purged.index >= index) {
                    continue;
                }
                let upto = store.reader().try_get_log_entries(index..=index).await?[0].log_id;
                tell(&format!("purging {index}"));
                store.purge(upto).await?;
            }
            _ => {
                let count = random.random_range(1..30);
                append(
                    store,
                    (next..next + count).map(|index| made(term, index)).collect(),
                )
                .await?;
                tell(&format!("appended {term} {}", next + count - 1));
            }
        }
    }
}

/// Past the capture of the test harness.
fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).unwrap();
}
