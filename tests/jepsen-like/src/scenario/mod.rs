//! Short runs that each measure one promise.
//!
//! | command | promise |
//! | --- | --- |
//! | `kill-leader` | G12: writes go on soon after the leader dies; G7: subscribers miss nothing |
//! | `kill-all` | G8, G3: what was acknowledged survives kill -9 of all nodes at once |
//! | `power` | G8, G3, G7: what was acknowledged survives power cuts of all nodes at once, and of single ones |
//! | `lossy-power` | the same on disks that tear what was not synced, just before and just after syncs and acknowledgements; first starts that are cut short |
//! | `fsync-error` | G8: a node whose sync failed once acknowledges nothing any more, and comes back |
//! | `slow-disk` | G12, G5: a disk that is slow stops neither writes nor timers for long |
//! | `damage` | G8: a damaged file is told, or nothing is lost by it |
//! | `many-due` | G5: many openings that end in the same moment end on time; G4: none early |
//! | `visibility` | G2: an opening is seen elsewhere at once |
//! | `faketime` | section 5: a wrong wall clock moves no timer |
//! | `sigterm` | G12: a leader that is told to stop hands over |
//! | `full-disk` | a full disk costs no acknowledged report, no client an error, and mends by itself |
//! | `membership` | nodes come and go; one that lost its data is refused |
//! | `wiped-voter` | G8: a voter that lost its data is refused under its old id, and gives no vote |
//! | `failpoints` | G8, G3, G12: a node dies before and after each step that something rests on |
//! | `promises` | G2, G3, G6, G7: each on a cluster without a fault, through all nodes |
//! | `lagging` | G1, G3: a follower that needs a snapshot has everything then |
//! | `takeover` | G4, G5: openings that end while nobody leads |
//! | `stale-reads` | G2: a node that was away shows nothing old |
//! | `recovery` | G7: a node that was started again shows nothing older than it had |
//! | `fleet` | a thousand clients all reject soon after the deciding failure; G6: as many pass half-open as there are probes |
//! | `busy` | G3: a million outcomes a second are under a hundred batches, and each counts once though leaders die |
//! | `transfer` | G12: leadership is handed to dead, stopped, lagging and foreign nodes; each is answered, and writes go on |
//! | `churn` | G12, G8: the membership changes while nodes die and stop |
//! | `drain` | G7: a leader with a thousand streams is told to stop; all go on elsewhere |
//! | `hostile` | G10: malformed and hostile input on both ports ends no node, and nothing of it enters the log |
//! | `crowd` | thousands of idle subscribers and readers that do not read cost a watcher nothing |
//! | `starved` | with a twentieth of a processor for each node, few leaders are lost and nothing grows |
//! | `unreachable` | G11: with every node dead, slow or flapping decisions go on, and clients come back without a rush |
//! | `stopped` | G11: with every node stopped decisions go on, nobody waits, and nothing is lost |
//! | `pause-leader` | G2: a leader that was stopped and goes on shows nothing stale; G12: writes go on while it is stopped |
//! | `idle` | G4, G5: openings are not stretched by a quiet log, restarted followers and the leader's death |
//! | `leader-churn` | G3, G4, G5: the leader changes every two seconds, openings end when they are due |
//! | `cursors` | G7: a cursor ahead of the node waits; one at the edge of the log is refused only if what it asks for is gone |
//! | `snapshot-twice` | G1, G3, G7: a follower that needs snapshots, one of them cut short, knows sessions and events as the others do |
//! | `clocks` | section 5: wall clocks jump, flicker, stand and run fast, and no timer notices |
//! | `cold-start` | G4, G5: all nodes start again, one with a clock that is a day wrong, and nothing ends early |
//! | `rolling` | G12, G7: all nodes are restarted under load, writes go on and streams resume |

mod acts;
mod busy;
mod churn;
mod clocks;
mod cold_start;
mod crew;
mod crowd;
mod cursors;
mod damage;
mod drain;
mod failpoints;
mod faketime;
mod fleet;
mod fsync_error;
mod full_disk;
mod hand;
mod hostile;
mod idle;
mod kill_all;
mod kill_leader;
mod lagging;
mod lasting;
mod leader_churn;
mod many_due;
mod membership;
mod memory;
mod pause_leader;
mod power;
mod promises;
mod pulse;
mod recovery;
mod rolling;
mod sigterm;
mod slow_disk;
mod snapshot_twice;
mod stage;
mod stale_reads;
mod starved;
mod stopped;
mod takeover;
mod transfer;
mod unreachable;
mod vigil;
mod visibility;
mod wiped_voter;

pub use busy::busy;
pub use churn::churn;
pub use clocks::clocks;
pub use cold_start::cold_start;
pub use crowd::crowd;
pub use cursors::cursors;
pub use damage::{Extent, damage};
pub use drain::drain;
pub use failpoints::failpoints;
pub use faketime::{Machine, faketime, library};
pub use fleet::{fleet, replicas};
pub use fsync_error::fsync_error;
pub use full_disk::{full_disk, small_disks};
pub use hostile::hostile;
pub use idle::idle;
pub use kill_all::kill_all;
pub use kill_leader::kill_leader;
pub use lagging::lagging;
pub use leader_churn::leader_churn;
pub use many_due::many_due;
pub use membership::membership;
pub use pause_leader::pause_leader;
pub use power::{lossy_power, power};
pub use promises::promises;
pub use recovery::recovery;
pub use rolling::rolling;
pub use sigterm::sigterm;
pub use slow_disk::slow_disk;
pub use snapshot_twice::snapshot_twice;
pub use stale_reads::stale_reads;
pub use starved::{can_starve, starved};
pub use stopped::stopped;
pub use takeover::takeover;
pub use transfer::transfer;
pub use unreachable::unreachable;
pub use visibility::visibility;
pub use wiped_voter::wiped_voter;
