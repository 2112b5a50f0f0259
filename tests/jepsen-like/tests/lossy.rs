//! The lossy disk as programs see it, through the kernel: it is a file system, and it forgets what it should.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use brama_faults::lossy::{Failing, LossyMount, Mode, Moment, Trigger};
use tempfile::TempDir;

/// A mounted disk; `None`, and it says why, where there can be none.
fn mounted() -> Option<(LossyMount, TempDir)> {
    if let Some(why) = LossyMount::is_impossible() {
        println!("SKIPPED: {why}");
        return None;
    }
    let folder = TempDir::new().expect("there are temporary folders");
    let mount = LossyMount::new(&folder.path().join("disk"), 64).expect("it can be mounted");
    Some((mount, folder))
}

fn sync(path: &Path) {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.expect("it can be synced");
}

/// Writes a file and makes it durable, name and all.
fn durable(path: &Path, content: &[u8]) {
    fs::write(path, content).expect("it can be written");
    sync(path);
    sync(path.parent().expect("it is in a folder"));
}

fn os_error(error: &std::io::Error) -> Option<nix::errno::Errno> {
    error.raw_os_error().map(nix::errno::Errno::from_raw)
}

fn cut(mount: &LossyMount) {
    assert!(mount.disk().cut().anything(), "there was nothing to lose");
    mount.disk().power_up();
}

#[test]
fn it_is_a_file_system() {
    let Some((mount, _folder)) = mounted() else { return };
    let at = mount.path();
    let big: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
    fs::write(at.join("big"), &big).unwrap();
    assert_eq!(fs::read(at.join("big")).unwrap(), big);
    let file = File::options()
        .read(true)
        .write(true)
        .open(at.join("big"))
        .unwrap();
    file.write_all_at(b"in place", 1_000_001).unwrap();
    let mut found = [0; 10];
    file.read_exact_at(&mut found, 1_000_000).unwrap();
    assert_eq!(found[1..9], *b"in place");
    file.set_len(4_000_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4_000_000);
    file.read_exact_at(&mut found, 3_999_990).unwrap();
    assert_eq!(found, [0; 10]);

    fs::create_dir_all(at.join("a/b/c")).unwrap();
    for number in 0..300 {
        fs::write(at.join(format!("a/b/c/{number}")), number.to_string()).unwrap();
    }
    // Names that go while they are listed.
    let mut seen = 0;
    for entry in fs::read_dir(at.join("a/b/c")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
        seen += 1;
    }
    assert_eq!(seen, 300);
    let not_empty = fs::remove_dir(at.join("a")).unwrap_err();
    assert_eq!(os_error(&not_empty), Some(nix::errno::Errno::ENOTEMPTY));
    fs::write(at.join("a/old"), "old").unwrap();
    fs::write(at.join("a/new"), "new").unwrap();
    fs::rename(at.join("a/new"), at.join("a/old")).unwrap();
    assert_eq!(fs::read_to_string(at.join("a/old")).unwrap(), "new");
    assert!(!at.join("a/new").exists());
    let exists = File::create_new(at.join("a/old")).unwrap_err();
    assert_eq!(exists.kind(), ErrorKind::AlreadyExists);

    // A file that has no name any more is there for whoever has it open.
    let unlinked = File::options()
        .read(true)
        .write(true)
        .open(at.join("a/old"))
        .unwrap();
    fs::remove_file(at.join("a/old")).unwrap();
    unlinked.write_all_at(b"N", 0).unwrap();
    let mut found = [0; 3];
    unlinked.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(found, *b"New");

    let lock = File::create(at.join("lock")).unwrap();
    lock.try_lock().unwrap();
    let other = File::open(at.join("lock")).unwrap();
    assert!(matches!(other.try_lock(), Err(fs::TryLockError::WouldBlock)));
    drop(lock);
    other.try_lock().unwrap();
    fs::remove_dir_all(at.join("a")).unwrap();
}

#[test]
fn after_a_cut_what_was_synced_is_there_and_the_rest_is_not() {
    let Some((mount, _folder)) = mounted() else { return };
    let at = mount.path();
    durable(&at.join("kept"), b"synced");
    let file = File::options().write(true).open(at.join("kept")).unwrap();
    file.write_all_at(b"UN", 0).unwrap();
    fs::write(at.join("lost"), "never synced").unwrap();
    assert_eq!(fs::read(at.join("kept")).unwrap(), b"UNnced");
    let lost = mount.disk().cut();
    assert_eq!((lost.pages, lost.names), (2, 1));
    for error in [
        fs::read(at.join("kept")).unwrap_err(),
        file.write_all_at(b"x", 0).unwrap_err(),
        file.sync_data().unwrap_err(),
        fs::write(at.join("more"), "x").unwrap_err(),
    ] {
        assert_eq!(
            os_error(&error),
            Some(nix::errno::Errno::EIO),
            "there is no power"
        );
    }
    assert!(mount.disk().counts().unpowered >= 3);
    mount.disk().power_up();
    assert_eq!(fs::read(at.join("kept")).unwrap(), b"synced");
    assert!(!at.join("lost").exists());
    let from_before = file.write_all_at(b"x", 0).unwrap_err();
    assert_eq!(
        os_error(&from_before),
        Some(nix::errno::Errno::EIO),
        "no file is open any more"
    );
}

#[test]
fn a_rename_is_durable_only_with_its_folder() {
    let Some((mount, _folder)) = mounted() else { return };
    let at = mount.path();
    let (draft, path) = (at.join("draft"), at.join("file"));
    durable(&path, b"old");
    durable(&draft, b"new");
    fs::rename(&draft, &path).unwrap();
    sync(&path);
    cut(&mount);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read(&draft).unwrap(), b"new");
    fs::rename(&draft, &path).unwrap();
    sync(at);
    fs::write(at.join("other"), "so that something is lost").unwrap();
    cut(&mount);
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert!(!draft.exists());
}

#[test]
fn a_torn_cut_leaves_old_or_new_sectors_and_the_first_changes_of_names() {
    let Some((mount, _folder)) = mounted() else { return };
    let at = mount.path();
    let path = at.join("file");
    let (mut old, mut new, mut mixed, mut names) = (0, 0, 0, [0; 3]);
    for seed in 0..60 {
        durable(&path, &[1; 5 * 4096]);
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[2; 5 * 4096], 0).unwrap();
        fs::write(at.join("a"), "").unwrap();
        fs::rename(at.join("a"), at.join("b")).unwrap();
        drop(file);
        mount.disk().torn(seed);
        mount.disk().power_up();
        let found = fs::read(&path).unwrap();
        assert_eq!(found.len(), 5 * 4096);
        assert!(
            found
                .chunks(512)
                .all(|sector| sector == [1; 512] || sector == [2; 512])
        );
        match found.iter().filter(|byte| **byte == 2).count() {
            0 => old += 1,
            n if n == found.len() => new += 1,
            _ => mixed += 1,
        }
        match (at.join("a").exists(), at.join("b").exists()) {
            (false, false) => names[0] += 1,
            (true, false) => names[1] += 1,
            (false, true) => names[2] += 1,
            (true, true) => panic!("a rename is there as a whole or not at all"),
        }
        let _ = fs::remove_file(at.join("a"));
        let _ = fs::remove_file(at.join("b"));
        sync(at);
    }
    assert!(new > 0 && mixed > 10, "{old} old, {new} new, {mixed} mixed");
    assert!(names.iter().all(|times| *times > 5), "{names:?}");
}

#[test]
fn a_sync_fails_once_and_what_it_did_not_write_is_never_written() {
    let Some((mount, _folder)) = mounted() else { return };
    let (path, disk) = (mount.path().join("file"), mount.disk());
    durable(&path, &[1; 100]);
    let file = File::options().write(true).open(&path).unwrap();
    disk.fail_fsync(2, Failing::Unwritten);
    file.sync_data().unwrap();
    file.write_all_at(&[2; 100], 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[3; 100], 0).unwrap();
    let failed = file.sync_data().unwrap_err();
    assert_eq!(os_error(&failed), Some(nix::errno::Errno::EIO));
    file.sync_data().unwrap();
    assert_eq!(fs::read(&path).unwrap(), [3; 100], "the cache has it");
    assert_eq!(disk.counts().failed, ["file"]);
    drop(file);
    disk.cut();
    disk.power_up();
    assert_eq!(fs::read(&path).unwrap(), [2; 100], "the disk does not");

    let file = File::options().write(true).open(&path).unwrap();
    disk.fail_fsync(1, Failing::Written);
    file.write_all_at(&[4; 100], 0).unwrap();
    file.sync_data().unwrap_err();
    drop(file);
    disk.cut();
    disk.power_up();
    assert_eq!(fs::read(&path).unwrap(), [4; 100], "it was written after all");
}

#[test]
fn a_slow_sync_stops_nobody_else_and_ends_when_the_disk_is_well() {
    let Some((mount, _folder)) = mounted() else { return };
    let (path, disk) = (mount.path().join("file"), mount.disk());
    durable(&path, b"x");
    let slow = Duration::from_millis(300);
    let sync_one = |path: PathBuf| {
        std::thread::spawn(move || {
            fs::write(&path, "more").unwrap();
            let begun = Instant::now();
            sync(&path);
            begun.elapsed()
        })
    };
    disk.slow_fsync(slow);
    let syncing: Vec<_> = (0..8)
        .map(|number| sync_one(path.with_file_name(number.to_string())))
        .collect();
    std::thread::sleep(Duration::from_millis(50));
    let begun = Instant::now();
    assert_eq!(fs::read(&path).unwrap(), b"x");
    assert!(begun.elapsed() < slow / 2, "{:?}", begun.elapsed());
    for thread in syncing {
        assert!(thread.join().unwrap() >= slow);
    }
    disk.slow_fsync(Duration::from_secs(60));
    let syncing = sync_one(path);
    std::thread::sleep(Duration::from_millis(100));
    assert!(!syncing.is_finished());
    disk.heal();
    assert!(syncing.join().unwrap() < Duration::from_secs(30));
    assert_eq!(disk.counts().slowed, 9);
}

#[test]
fn a_full_disk_takes_what_has_its_room_already() {
    let Some((mount, _folder)) = mounted() else { return };
    let (at, disk) = (mount.path(), mount.disk());
    durable(&at.join("file"), &[1; 4096]);
    let free = || {
        let told = Command::new("stat")
            .args(["-f", "-c", "%a"])
            .arg(at)
            .output()
            .unwrap();
        String::from_utf8(told.stdout)
            .unwrap()
            .trim()
            .parse::<u64>()
            .unwrap()
    };
    assert!(free() > 10_000);
    disk.fill();
    assert_eq!(free(), 0);
    let file = File::options().write(true).open(at.join("file")).unwrap();
    file.write_all_at(&[2; 4096], 0).unwrap();
    file.sync_all().unwrap();
    for error in [
        file.write_all_at(&[2], 4096).unwrap_err(),
        File::create(at.join("other")).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
    assert_eq!(disk.counts().refused, 2);
    disk.heal();
    file.write_all_at(&[2], 4096).unwrap();
}

#[test]
fn the_power_goes_just_before_or_just_after_a_sync() {
    for (moment, expected) in [
        (Moment::BeforeSync, b"old"),
        (Moment::AfterSync, b"new"),
        (Moment::AfterAnswer, b"new"),
    ] {
        let (Some((mount, _folder)), Some((other, _other_folder))) = (mounted(), mounted()) else {
            return;
        };
        let (path, disk) = (mount.path().join("file"), mount.disk());
        durable(&path, b"old");
        disk.cut_at(Trigger {
            moment,
            sync: 1,
            mode: Some(Mode::Clear),
            others: vec![(other.disk().clone(), Mode::Clear)],
        });
        let (done, answer) = mpsc::channel();
        let writing = path.clone();
        let thread = std::thread::spawn(move || {
            let file = File::options().write(true).open(writing).unwrap();
            file.write_all_at(b"new", 0).unwrap();
            done.send(file.sync_data().is_ok()).unwrap();
        });
        let answered = answer.recv_timeout(Duration::from_millis(500));
        if moment == Moment::AfterAnswer {
            assert_eq!(answered, Ok(true));
        } else {
            assert!(
                answered.is_err(),
                "{moment:?}: a machine without power does not answer"
            );
            assert!(disk.holds());
        }
        assert!(!disk.is_on() && !other.disk().is_on(), "both in one moment");
        disk.release();
        thread.join().unwrap();
        disk.power_up();
        assert_eq!(fs::read(&path).unwrap(), expected, "{moment:?}");
    }
}

#[test]
fn a_process_can_be_killed_in_the_middle_of_a_sync() {
    let Some((mount, _folder)) = mounted() else { return };
    let (path, disk) = (mount.path().join("file"), mount.disk());
    durable(&path, b"old");
    disk.cut_at(Trigger {
        moment: Moment::BeforeSync,
        sync: 1,
        mode: None,
        others: Vec::new(),
    });
    let mut writer = Command::new("dd")
        .args(["if=/dev/zero", "bs=3", "count=1", "conv=notrunc,fdatasync"])
        .arg(format!("of={}", path.display()))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !disk.holds() {
        assert!(Instant::now() < deadline, "it never syncs");
        std::thread::sleep(Duration::from_millis(2));
    }
    writer.kill().unwrap();
    disk.release();
    assert!(!writer.wait().unwrap().success());
    assert_eq!(
        fs::read(&path).unwrap(),
        [0; 3],
        "the power was there all the time"
    );
    disk.cut();
    disk.power_up();
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn it_is_unmounted_also_while_it_is_used_and_what_dead_processes_left_too() {
    let Some((mount, folder)) = mounted() else { return };
    let at = mount.path().to_owned();
    let is_mounted = |at: &Path| {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.contains(&format!("brama-lossy {} ", at.display()))
    };
    assert!(is_mounted(&at));
    drop(mount);
    assert!(!is_mounted(&at));

    // A process that is killed with -9 leaves its mount.
    let mut other = Command::new(env!("CARGO_BIN_EXE_brama-faults"))
        .args(["on-lossy-disk", "--", "sh", "-c", "echo $TMPDIR; sleep 60"])
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut left = String::new();
    let mut lines = std::io::BufReader::new(other.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut lines, &mut left).unwrap();
    let left = PathBuf::from(left.trim());
    assert!(is_mounted(&left), "{}", left.display());
    LossyMount::clean_up();
    assert!(is_mounted(&left), "somebody serves it");
    other.kill().unwrap();
    other.wait().unwrap();
    LossyMount::clean_up();
    assert!(!is_mounted(&left), "nobody serves it");
}
