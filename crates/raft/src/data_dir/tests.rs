//! Whatever is wrong with a data directory stops the start, and says what to do; a first start that was cut short goes on.

use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::environment::System;
use crate::log_store::LogStore;

const CLUSTER: ClusterId = ClusterId(0xfeed);

fn open(dir: &TempDir) -> Result<DataDir, DataDirError> {
    DataDir::open(&dir.path().join("node"), 7, "fleet")
}

fn made() -> TempDir {
    let dir = TempDir::new().unwrap();
    open(&dir).unwrap();
    dir
}

fn identity_file(dir: &TempDir) -> PathBuf {
    dir.path().join("node").join(IDENTITY_FILE)
}

/// Each message names the file, and what to do.
fn refused(dir: &TempDir, expected: &str) -> DataDirError {
    let Err(error) = open(dir) else {
        panic!("it was to be refused: {expected}")
    };
    let text = error.to_string();
    assert!(text.contains(expected), "{text:?} does not say {expected:?}");
    assert!(
        text.contains(dir.path().join("node").to_str().unwrap()),
        "{text:?} does not name the directory"
    );
    error
}

#[test]
fn a_new_directory_has_an_identity_that_stays() {
    let dir = TempDir::new().unwrap();
    let first = open(&dir).unwrap().identity();
    assert_eq!(
        (first.node_id, first.cluster_name.as_str(), first.cluster_id),
        (7, "fleet", None)
    );
    assert_ne!(first.incarnation, Incarnation(0));
    let again = open(&dir).unwrap();
    assert_eq!(again.identity(), first);
    LogStore::open(&again.log_path(), &first.log, Arc::new(System)).unwrap();
    assert!(again.snapshots_path().is_dir());
    let other = made();
    assert_ne!(open(&other).unwrap().identity().incarnation, first.incarnation);
}

#[test]
fn a_cluster_is_adopted_once() {
    let dir = TempDir::new().unwrap();
    let data = open(&dir).unwrap();
    data.adopt_cluster(CLUSTER).unwrap();
    data.adopt_cluster(CLUSTER).unwrap();
    let error = data.adopt_cluster(ClusterId(2)).unwrap_err();
    assert!(
        matches!(
            error,
            DataDirError::OtherCluster {
                found: CLUSTER,
                asked: ClusterId(2),
                ..
            }
        ),
        "{error}"
    );
    let expected = data.identity();
    drop(data);
    let again = open(&dir).unwrap();
    assert_eq!(again.identity(), expected);
    assert_eq!(again.identity().cluster_id, Some(CLUSTER));
}

#[test]
fn two_processes_never_share_it() {
    let dir = TempDir::new().unwrap();
    let data = open(&dir).unwrap();
    assert!(matches!(
        refused(&dir, "in use by another process"),
        DataDirError::Locked { .. }
    ));
    drop(data);
    open(&dir).unwrap();
}

#[test]
fn another_node_and_another_cluster_are_refused() {
    let dir = made();
    let path = dir.path().join("node");
    assert!(matches!(
        DataDir::open(&path, 8, "fleet"),
        Err(DataDirError::OtherNode {
            found: 7,
            configured: 8,
            ..
        })
    ));
    assert!(matches!(
        DataDir::open(&path, 7, "other"),
        Err(DataDirError::OtherClusterName { .. })
    ));
    open(&dir).unwrap();
}

#[test]
fn a_damaged_identity_is_refused() {
    let dir = made();
    let good = fs::read(identity_file(&dir)).unwrap();
    let text = String::from_utf8(good.clone()).unwrap();
    let edited = text.replace("\"node_id\": 7", "\"node_id\": 8");
    assert_ne!(edited, text);
    let mut bad = vec![Vec::new(), b"{}".to_vec(), b"null".to_vec(), edited.into_bytes()];
    bad.push(text.replace("\"fleet\"", "\"fleet2\"").into_bytes());
    bad.push(
        text.replace("\"format_version\": 1", "\"format_version\": 0")
            .into_bytes(),
    );
    bad.push(vec![b' '; 1_000_000]);
    bad.extend((1..good.len() - 2).map(|length| good[..length].to_vec()));
    for bad in bad {
        fs::write(identity_file(&dir), &bad).unwrap();
        refused(&dir, "is damaged");
    }
    // A flipped bit may make text that means the same, as in a space between two fields, but never another identity.
    fs::write(identity_file(&dir), &good).unwrap();
    let expected = open(&dir).unwrap().identity();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x04;
        fs::write(identity_file(&dir), &bytes).unwrap();
        match open(&dir) {
            Ok(data) => assert_eq!(data.identity(), expected, "byte {at}"),
            Err(error) => assert!(
                matches!(
                    error,
                    DataDirError::Damaged { .. } | DataDirError::NewerFormat { .. }
                ),
                "byte {at}: {error}"
            ),
        }
    }
}

#[test]
fn a_newer_format_is_refused_as_such() {
    let dir = made();
    fs::write(
        identity_file(&dir),
        r#"{"format_version": 2, "things": "to come"}"#,
    )
    .unwrap();
    assert!(matches!(
        refused(&dir, "start the newer version"),
        DataDirError::NewerFormat { found: 2, .. }
    ));
}

#[test]
fn data_without_an_identity_is_never_a_new_node() {
    let dir = made();
    fs::remove_file(identity_file(&dir)).unwrap();
    assert!(matches!(
        refused(&dir, "new node id"),
        DataDirError::Unidentified { .. }
    ));

    let dir = TempDir::new().unwrap();
    let snapshots = dir.path().join("node").join(SNAPSHOTS_FOLDER);
    fs::create_dir_all(&snapshots).unwrap();
    fs::write(snapshots.join("some"), b"thing").unwrap();
    assert!(matches!(
        refused(&dir, "new node id"),
        DataDirError::Unidentified { .. }
    ));
}

#[test]
fn a_missing_part_is_never_made_again() {
    for part in [LOG_FOLDER, SNAPSHOTS_FOLDER] {
        let dir = made();
        fs::remove_dir_all(dir.path().join("node").join(part)).unwrap();
        assert!(matches!(
            refused(&dir, "new node id"),
            DataDirError::Missing { .. }
        ));
    }
}

#[test]
fn a_first_start_may_be_cut_short_anywhere() {
    let cut = |prepare: &dyn Fn(&Path)| {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("node");
        fs::create_dir(&path).unwrap();
        prepare(&path);
        let data = open(&dir).unwrap();
        LogStore::open(&data.log_path(), &data.identity().log, Arc::new(System)).unwrap();
    };
    cut(&|_| {});
    cut(&|path| fs::write(path.join("lock"), b"").unwrap());
    // In the midst of making the log.
    cut(&|path| {
        fs::create_dir(path.join(NEW_LOG_FOLDER)).unwrap();
        fs::write(path.join(NEW_LOG_FOLDER).join("conf"), b"").unwrap();
    });
    cut(&|path| {
        log_store::create(&path.join(NEW_LOG_FOLDER)).unwrap();
        fs::create_dir(path.join(SNAPSHOTS_FOLDER)).unwrap();
        fs::write(path.join("identity.json.new"), b"{").unwrap();
    });
    // The identity is there, and the log still has its first name.
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("node");
    let written = open(&dir).unwrap().identity();
    fs::rename(path.join(LOG_FOLDER), path.join(NEW_LOG_FOLDER)).unwrap();
    let data = open(&dir).unwrap();
    assert_eq!(data.identity(), written);
    LogStore::open(&data.log_path(), &data.identity().log, Arc::new(System)).unwrap();
}

#[test]
fn a_mount_point_with_files_of_the_system_is_fine() {
    let dir = TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("node").join("lost+found")).unwrap();
    open(&dir).unwrap();
}

#[test]
fn a_directory_out_of_service_stays_so_and_says_why() {
    let dir = made();
    let data = open(&dir).unwrap();
    data.take_out_of_service("node 7 differs").unwrap();
    drop(data);
    for _ in 0..2 {
        let error = refused(&dir, "node 7 differs");
        assert!(matches!(error, DataDirError::OutOfService { .. }), "{error:?}");
        refused(&dir, "under a new node id");
    }
    // A note that lost its text is one still.
    fs::write(dir.path().join("node").join(quarantine::NOTE), "").unwrap();
    refused(&dir, "differed from that of the majority");
}

#[test]
fn the_distance_to_the_wall_clock_is_kept_and_a_damaged_one_is_refused() {
    let dir = made();
    let data = open(&dir).unwrap();
    assert_eq!(data.ahead_of_wall_us().unwrap(), None);
    for ahead in [0, 86_400_000_000, -7] {
        data.note_ahead_of_wall_us(ahead).unwrap();
        assert_eq!(data.ahead_of_wall_us().unwrap(), Some(ahead));
    }
    let file = dir.path().join("node").join(wall_clock::FILE);
    let right = fs::read(&file).unwrap();
    for (i, byte) in right.iter().enumerate() {
        let mut damaged = right.clone();
        damaged[i] = byte ^ 1;
        fs::write(&file, &damaged).unwrap();
        if let Ok(read) = data.ahead_of_wall_us() {
            assert_eq!(read, Some(-7), "byte {i}");
        }
    }
    let other = made();
    let other = open(&other).unwrap();
    other.note_ahead_of_wall_us(5).unwrap();
    fs::copy(other.path.join(wall_clock::FILE), &file).unwrap();
    for wrong in [None, Some(&b""[..]), Some(&right[..right.len() / 2])] {
        if let Some(wrong) = wrong {
            fs::write(&file, wrong).unwrap();
        }
        let text = data.ahead_of_wall_us().unwrap_err().to_string();
        assert!(
            text.contains(file.to_str().unwrap()) && text.contains("remove that file"),
            "{text}"
        );
    }
}
