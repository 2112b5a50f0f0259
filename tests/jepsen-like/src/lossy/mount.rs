//! Where a lossy disk is mounted.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use fuser::{BackgroundSession, Config, MountOption};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::unistd::geteuid;

use super::disk::LossyDisk;
use super::fuse::Fuse;

/// The source of our mounts, by which those of dead processes are found.
const SOURCE: &str = "brama-lossy";
/// Requests that are served at once; slow ones wait elsewhere.
const THREADS: usize = 3;
/// A process that was killed lets go of its files a moment later.
const PATIENCE: Duration = Duration::from_secs(10);

/// A lossy disk, mounted. Dropping it unmounts it, and its content is gone.
#[derive(Debug)]
pub struct LossyMount {
    disk: LossyDisk,
    at: PathBuf,
    session: Option<BackgroundSession>,
}

impl LossyMount {
    /// Why there can be none on this machine; `None`: there can.
    pub fn is_impossible() -> Option<String> {
        if !geteuid().is_root() {
            return Some("only root can mount a file system".into());
        }
        let device = File::options().read(true).write(true).open("/dev/fuse");
        device
            .err()
            .map(|error| format!("/dev/fuse cannot be used: {error}"))
    }

    /// Mounts an empty disk of so many MiB on `at`, which is made. What dead processes left mounted is unmounted.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new(at: &Path, mib: u64) -> anyhow::Result<Self> {
        static CLEAN: Once = Once::new();
        CLEAN.call_once(Self::clean_up);
        fs::create_dir_all(at)?;
        let disk = LossyDisk::new(mib * 1024 * 1024);
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(SOURCE.into()),
            MountOption::Subtype("lossy".into()),
        ];
        config.n_threads = Some(THREADS);
        let session = fuser::spawn_mount(Fuse { disk: disk.clone() }, at, &config)
            .with_context(|| format!("a lossy disk cannot be mounted on {}", at.display()))?;
        Ok(Self {
            disk,
            at: at.to_owned(),
            session: Some(session),
        })
    }

    /// Its switches.
    pub fn disk(&self) -> &LossyDisk {
        &self.disk
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Whether a cut takes what was not synced, and only that, as a program on this machine sees it. Everything else is worth nothing without it.
    ///
    /// # Errors
    /// When it is not so.
    pub fn proves_itself(&self) -> anyhow::Result<()> {
        let (synced, unsynced) = (self.at.join("synced"), self.at.join("unsynced"));
        fs::write(&synced, [7; 5000])?;
        File::open(&synced)?.sync_all()?;
        File::open(&self.at)?.sync_all()?;
        fs::write(&unsynced, [7; 5000])?;
        let kept = File::options().write(true).open(&synced)?;
        kept.write_all_at(&[8; 100], 0)?;
        drop(kept);
        if fs::read(&synced)?[..100] != [8; 100] || fs::read(&unsynced)? != [7; 5000] {
            bail!("what was written cannot be read");
        }
        let lost = self.disk.cut();
        if fs::read(&synced).is_ok() {
            bail!("a disk without power can be read");
        }
        self.disk.power_up();
        if !lost.anything() || fs::read(&synced)? != [7; 5000] {
            bail!("a power cut changed a file that was synced, or took nothing: {lost:?}");
        }
        if unsynced.exists() {
            bail!("a file that was never synced survived a power cut");
        }
        fs::remove_file(&synced)?;
        Ok(())
    }

    /// Unmounts what processes left that were killed with -9, and that nobody serves any more.
    pub fn clean_up() {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for line in mounts.lines() {
            let mut fields = line.split(' ');
            let (Some(SOURCE), Some(at)) = (fields.next(), fields.next()) else {
                continue;
            };
            let at = at.replace("\\040", " ");
            let is_dead =
                fs::metadata(&at).is_err_and(|error| error.raw_os_error() == Some(Errno::ENOTCONN as i32));
            if !is_dead {
                continue;
            }
            match umount2(Path::new(&at), MntFlags::MNT_DETACH) {
                Ok(()) => eprintln!("unmounted {at}, which a run that died had left"),
                Err(error) => eprintln!("{at} was left by a run that died, and cannot be unmounted: {error}"),
            }
        }
    }

    /// # Errors
    /// When it is still in use after a while.
    fn unmount(&self) -> Result<(), Errno> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match umount2(&self.at, MntFlags::empty()) {
                // It is not mounted any more.
                Ok(()) | Err(Errno::EINVAL) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for LossyMount {
    fn drop(&mut self) {
        // Whoever was killed and waits for an answer cannot go before it.
        self.disk.heal();
        self.disk.release();
        let Some(BackgroundSession { guard, .. }) = self.session.take() else {
            return;
        };
        match self.unmount() {
            Ok(()) => {
                let _ = guard.join();
            }
            Err(error) => {
                eprintln!(
                    "{} stays mounted until its last user is gone: {error}",
                    self.at.display()
                );
                let _ = umount2(&self.at, MntFlags::MNT_DETACH);
            }
        }
    }
}
