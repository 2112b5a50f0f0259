//! A disk of a node's own: ext4 in an image file, whose power can be cut.
//!
//! A process that is killed leaves its writes in the kernel's memory, from where they reach the disk. A power cut does not. Here the cut
//! is the file system's own: a request that makes ext4 write nothing any more, in one moment, whatever it is in the middle of
//! (`EXT4_IOC_SHUTDOWN` without a flush of its journal, which file system developers test themselves with). What the image holds then is copied, and the copy is
//! mounted as a machine would after the cut: ext4 repeats its journal, and what was never synced is not there. [`Disk::proves_itself`] shows
//! that this is so on this machine.
//!
//! It needs root, loop devices, and the commands `mkfs.ext4`, `mount`, `umount`, `cp` and `perl`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::unistd::geteuid;

/// A process that was killed lets go of its files a moment later.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(10);

/// A mounted file system in an image file. Dropping it unmounts it; the image stays.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
    is_mounted: bool,
}

impl Disk {
    /// Why there can be none on this machine; `None`: there can.
    pub fn is_impossible() -> Option<String> {
        if !geteuid().is_root() {
            return Some("only root can mount a disk".into());
        }
        if !Path::new("/dev/loop-control").exists() {
            return Some("this machine has no loop devices".into());
        }
        let missing = ["mkfs.ext4", "mount", "umount", "cp", "perl"]
            .into_iter()
            .find(|name| {
                let told = Command::new("sh")
                    .args(["-c", "command -v \"$0\"", name])
                    .output();
                !told.is_ok_and(|told| told.status.success())
            });
        missing.map(|name| format!("the command {name} is not there"))
    }

    /// Makes an image of so many MiB, sparse, and mounts it on `mount`, which is made.
    ///
    /// # Errors
    /// When the system refuses; nothing is mounted then.
    pub fn make(image: &Path, mount: &Path, mib: u32) -> anyhow::Result<Self> {
        File::create(image)
            .and_then(|file| file.set_len(u64::from(mib) * 1024 * 1024))
            .with_context(|| format!("cannot make {}", image.display()))?;
        fs::create_dir_all(mount)?;
        run(Command::new("mkfs.ext4").arg("-q").arg(image))?;
        let mut disk = Self {
            image: image.to_owned(),
            mount: mount.to_owned(),
            is_mounted: false,
        };
        disk.mount()?;
        Ok(disk)
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Cuts the power of all of these: from one moment on, which is about the same for all, nothing is written any more. Whoever tries gets an error.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn cut(disks: &[&Self]) -> anyhow::Result<()> {
        let mounts = disks.iter().map(|disk| &disk.mount);
        run(Command::new("perl").arg("-e").arg(SHUTDOWN).args(mounts))
    }

    /// After [`Disk::cut`], and when nobody has a file open: puts a copy of what the image held in its place, and mounts that.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn power_up(&mut self) -> anyhow::Result<()> {
        let copy = self.image.with_extension("copy");
        run(Command::new("cp")
            .arg("--sparse=always")
            .arg(&self.image)
            .arg(&copy))?;
        self.unmount()?;
        fs::rename(&copy, &self.image)?;
        self.mount()
    }

    /// Whether a cut takes what was not synced, and only that. Everything else is worth nothing without it. Leaves the disk as after a cut.
    ///
    /// # Errors
    /// When it is not so, or the system refuses.
    pub fn proves_itself(&mut self) -> anyhow::Result<()> {
        let (synced, unsynced) = (self.mount.join("synced"), self.mount.join("unsynced"));
        fs::write(&synced, [7; 5000])?;
        File::open(&synced)?.sync_all()?;
        File::open(&self.mount)?.sync_all()?;
        fs::write(&unsynced, [7; 5000])?;
        // In place too: there is no news for the file system's journal in it, only for the file.
        let kept = File::options().write(true).open(&synced)?;
        std::os::unix::fs::FileExt::write_all_at(&kept, &[8; 100], 0)?;
        drop(kept);
        Self::cut(&[self])?;
        self.power_up()?;
        let found = fs::read(&synced).unwrap_or_default();
        if found != [7; 5000] {
            bail!("a power cut changed a file that was synced: its disk is no disk");
        }
        if fs::read(&unsynced).is_ok_and(|found| !found.is_empty()) {
            bail!("a file that was never synced survived a power cut: it is none");
        }
        fs::remove_file(&synced)?;
        Ok(())
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        let mut mount = Command::new("mount");
        run(mount
            .args(["-t", "ext4", "-o", "loop"])
            .arg(&self.image)
            .arg(&self.mount))?;
        self.is_mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + UNMOUNT_PATIENCE;
        while let Err(error) = run(Command::new("umount").arg(&self.mount)) {
            if Instant::now() > deadline {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.is_mounted = false;
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted
            && let Err(error) = self.unmount()
        {
            eprintln!(
                "{} stays mounted until its last user is gone: {error:#}",
                self.mount.display()
            );
            let _ = run(Command::new("umount").arg("--lazy").arg(&self.mount));
        }
    }
}

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, on each folder that is named; all are opened first, so that the requests follow one another at once.
const SHUTDOWN: &str = r#"my @disks = map { open(my $disk, "<", $_) or die "$_: $!\n"; $disk } @ARGV;
my $flags = pack("L", 2);
for my $disk (@disks) { defined ioctl($disk, 0x8004587D, $flags) or die "EXT4_IOC_SHUTDOWN: $!\n"; }"#;

fn run(command: &mut Command) -> anyhow::Result<()> {
    let told = command
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !told.status.success() {
        let text = String::from_utf8_lossy(&told.stderr);
        bail!("{} failed: {}", command.get_program().display(), text.trim());
    }
    Ok(())
}
