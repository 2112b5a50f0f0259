//! A disk that forgets what was not synced: a file system of our own (FUSE), in memory.
//!
//! ```text
//!   a node ── system calls ──► kernel ── FUSE ──► fuse ──► disk     power, failing and slow syncs, no room
//!                                                           │
//!                                                         store ──► file, folder     what programs see, and what is durable
//!                                                                     └── loss       what a power cut leaves of the difference
//! ```
//! A write, a truncation, a new or changed name is seen by every program at once, and durable only after `fsync` or `fdatasync` of the file, or of the folder
//! that holds the name. [`LossyDisk::cut`] takes the power away in one moment: the rest is gone, or partly there ([`loss`] says how). The power can also go
//! just before or just after a sync ([`Trigger`]), of several disks at once.
//!
//! Beside that a sync can fail once, with what it means on Linux: the cache takes for written what was not; syncs and writes can be slow; there can be no room.
//!
//! It is stricter than the ext4 images of [`crate::disk`]: a new file's `fsync` does not make its name durable, nothing is written by itself after a while, and
//! a write is torn at any sector. It does not have what nodes do not need: links, memory maps, preallocation. Renames between folders are durable at once, and times are not lost.
//!
//! It needs root, and `/dev/fuse`.

mod disk;
mod file;
mod folder;
mod fuse;
pub mod loss;
mod mount;
mod store;

pub use disk::{Counts, Failing, LossyDisk, Moment, Trigger};
pub use loss::{Lost, Mode};
pub use mount::LossyMount;
