//! What a fault does, given who leads: the seed decides the rest.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::clock::Lie;
use super::fault::Fault;
use super::part::Part;
use crate::hosts::End;
use crate::links::{Cut, CutKind, Link, Shape};
use crate::lossy::Mode;

const LOSS_PERCENT: u8 = 30;
/// Twice the longest election timeout.
const SLOW_SYNC: Duration = Duration::from_secs(2);
/// How often a node that is cut off from the others is from clients too.
const ALSO_FROM_CLIENTS: f64 = 0.3;

/// Everybody, and who leads; ids.
pub(super) struct Roles {
    pub(super) leader: u64,
    /// In the order in which they are to be hit.
    pub(super) followers: Vec<u64>,
}

impl Roles {
    pub(super) fn new(all: impl IntoIterator<Item = u64>, leader: u64, rng: &mut StdRng) -> Self {
        let mut followers: Vec<u64> = all.into_iter().filter(|id| *id != leader).collect();
        followers.shuffle(rng);
        Self { leader, followers }
    }

    fn all(&self) -> Vec<u64> {
        [&[self.leader], &self.followers[..]].concat()
    }

    fn majority(&self) -> usize {
        self.all().len() / 2 + 1
    }

    /// The leader, or the first follower.
    fn any(&self, rng: &mut StdRng) -> u64 {
        if rng.random_bool(0.5) {
            self.leader
        } else {
            self.followers[0]
        }
    }

    /// So many, the leader mostly among them.
    fn some(&self, count: usize, rng: &mut StdRng) -> Vec<u64> {
        if rng.random_bool(0.6) {
            self.all().into_iter().take(count).collect()
        } else {
            let leader = std::iter::once(self.leader);
            self.followers.iter().copied().chain(leader).take(count).collect()
        }
    }
}

/// The parts of a fault.
pub(super) fn plan(fault: Fault, roles: &Roles, rng: &mut StdRng) -> Vec<Part> {
    let leader = roles.leader;
    let followers = &roles.followers;
    match fault {
        Fault::KillLeader => vec![Part::Kill(vec![leader])],
        Fault::KillFollower => vec![Part::Kill(vec![followers[0]])],
        Fault::KillMinority => vec![Part::Kill(
            roles.all().into_iter().take(roles.majority() - 1).collect(),
        )],
        Fault::KillMajority => vec![Part::Kill(roles.some(roles.majority(), rng))],
        Fault::KillAll => vec![Part::Kill(roles.all())],
        Fault::PauseLeader => vec![Part::Pause(vec![leader])],
        Fault::PauseFollower => vec![Part::Pause(vec![followers[0]])],
        Fault::PauseMajority => vec![Part::Pause(roles.some(roles.majority(), rng))],
        Fault::PauseLeaderKillOther => {
            let others = followers.iter().copied().take(roles.majority() - 1).collect();
            vec![Part::Pause(vec![leader]), Part::Kill(others)]
        }
        Fault::IsolateLeader => vec![isolate(leader, roles, rng)],
        Fault::IsolateFollower => vec![isolate(followers[0], roles, rng)],
        Fault::SplitOffLeader => vec![silent(split(&[leader, followers[0]], &followers[1..]))],
        Fault::SplitOffFollowers => {
            let side = [leader, followers[0], followers[1]];
            vec![silent(split(&side, &followers[2..]))]
        }
        Fault::Shatter => vec![silent(among(&roles.all()))],
        Fault::LeaderUnheard => vec![silent(one_way(&[leader], followers))],
        Fault::LeaderDeaf => vec![silent(one_way(followers, &[leader]))],
        Fault::OneLink => vec![silent(split(&[roles.any(rng)], &[followers[1]]))],
        Fault::OneLinkOneWay => {
            let (one, other) = (roles.any(rng), followers[1]);
            let (from, to) = if rng.random_bool(0.5) {
                (one, other)
            } else {
                (other, one)
            };
            vec![silent(one_way(&[from], &[to]))]
        }
        Fault::Bridge => {
            // The leader is the bridge, or on one side of it.
            let mut all = roles.all();
            let bridge = rng.random_range(0..2);
            all.swap(0, bridge);
            vec![silent(split(&all[1..3], &all[3..]))]
        }
        Fault::Loss => {
            let cuts = if rng.random_bool(0.5) {
                among(&roles.all())
            } else {
                let one = roles.any(rng);
                split(&[one], &others(one, roles))
            };
            let kind = CutKind::Loss(LOSS_PERCENT);
            vec![Part::Cuts { cuts, kind }]
        }
        Fault::RepliesLost => {
            let from = End::Node(roles.any(rng));
            vec![silent(vec![Cut {
                from,
                to: End::Clients,
            }])]
        }
        Fault::ClientsCutOff => vec![silent(Cut::both(End::Node(roles.any(rng)), End::Clients).into())],
        Fault::SlowLinks => {
            let delay = Duration::from_millis(rng.random_range(10..150));
            let jitter = Duration::from_millis(rng.random_range(0..200));
            shaped(Shape::Slow { delay, jitter }, roles, rng)
        }
        Fault::ThrottledLinks => {
            let bytes_per_second = rng.random_range(4_000..100_000);
            shaped(Shape::Throttled { bytes_per_second }, roles, rng)
        }
        Fault::FrozenLinks => shaped(Shape::Frozen, roles, rng),
        Fault::ResetLinks => shaped(Shape::Reset, roles, rng),
        Fault::CutLinks => {
            let bytes = rng.random_range(100..50_000);
            shaped(Shape::CutAfter { bytes }, roles, rng)
        }
        Fault::ClockJumps => {
            let lie = Lie::Jump {
                seconds: if rng.random_bool(0.5) { 3600 } else { -3600 },
            };
            wrong(lie, roles, rng)
        }
        Fault::ClockStrobes => wrong(Lie::Strobe, roles, rng),
        Fault::ClockRuns => wrong(Lie::Fast, roles, rng),
        Fault::ClockStands => wrong(Lie::Stopped, roles, rng),
        Fault::LeaderLosesPower => vec![no_power(vec![leader], rng)],
        Fault::FollowerLosesPower => vec![no_power(vec![followers[0]], rng)],
        Fault::AllLosePower => vec![no_power(roles.all(), rng)],
        Fault::SyncFails => vec![Part::SyncFails { node: roles.any(rng) }],
        Fault::SlowDiskOfLeader => vec![slow_syncs(leader, roles)],
        Fault::SlowDiskOfFollower => vec![slow_syncs(followers[0], roles)],
        Fault::TransferLeader => vec![Part::Transfer { to: followers[0] }],
        Fault::RollingRestart => {
            let mut order = roles.all();
            // The leader last, as an operator would; or whenever its turn is.
            if rng.random_bool(0.5) {
                order.rotate_left(1);
            } else {
                order.shuffle(rng);
            }
            vec![Part::Restart { order }]
        }
    }
}

fn others(one: u64, roles: &Roles) -> Vec<u64> {
    roles.all().into_iter().filter(|id| *id != one).collect()
}

fn isolate(one: u64, roles: &Roles, rng: &mut StdRng) -> Part {
    let mut cuts = split(&[one], &others(one, roles));
    if rng.random_bool(ALSO_FROM_CLIENTS) {
        cuts.extend(Cut::both(End::Node(one), End::Clients));
    }
    silent(cuts)
}

fn silent(cuts: Vec<Cut>) -> Part {
    Part::Cuts {
        cuts,
        kind: CutKind::Silent,
    }
}

fn one_way(from: &[u64], to: &[u64]) -> Vec<Cut> {
    let pairs = from
        .iter()
        .flat_map(|from| to.iter().map(move |to| (End::Node(*from), End::Node(*to))));
    pairs.map(|(from, to)| Cut { from, to }).collect()
}

fn split(one: &[u64], other: &[u64]) -> Vec<Cut> {
    let mut cuts = one_way(one, other);
    cuts.extend(one_way(other, one));
    cuts
}

fn among(all: &[u64]) -> Vec<Cut> {
    all.iter()
        .flat_map(|one| {
            let others: Vec<u64> = all.iter().copied().filter(|other| other != one).collect();
            one_way(&[*one], &others)
        })
        .collect()
}

/// One link from the leader, both links between it and a follower, or all links of one node.
fn shaped(shape: Shape, roles: &Roles, rng: &mut StdRng) -> Vec<Part> {
    let (leader, follower) = (roles.leader, roles.followers[0]);
    let links: Vec<Link> = match rng.random_range(0..3) {
        0 => vec![(leader, follower)],
        1 => vec![(leader, follower), (follower, leader)],
        _ => {
            let one = roles.any(rng);
            let to = others(one, roles).into_iter();
            to.flat_map(|other| [(one, other), (other, one)]).collect()
        }
    };
    vec![Part::Links { links, shape }]
}

/// Mostly torn.
fn no_power(nodes: Vec<u64>, rng: &mut StdRng) -> Part {
    let mode = if rng.random_bool(0.3) {
        Mode::Clear
    } else {
        Mode::Torn(rng.random())
    };
    Part::NoPower { nodes, mode }
}

fn slow_syncs(node: u64, roles: &Roles) -> Part {
    Part::SlowSyncs {
        node,
        others: others(node, roles),
        takes: SLOW_SYNC,
    }
}

/// The leader's clock, or all.
fn wrong(lie: Lie, roles: &Roles, rng: &mut StdRng) -> Vec<Part> {
    let nodes = if rng.random_bool(0.6) {
        vec![roles.leader]
    } else {
        roles.all()
    };
    vec![Part::Clocks { nodes, lie }]
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::nemesis::fault::Family;
    use crate::nemesis::world::{Standing, World};

    /// For any seed, what is said of a fault is what is planned.
    #[test]
    fn a_fault_leaves_a_majority_or_not_as_it_says() {
        for seed in 0..200 {
            let rng = &mut StdRng::seed_from_u64(seed);
            for nodes in [3, 5] {
                for fault in Family::ALL
                    .into_iter()
                    .flat_map(|family| Fault::of(family, nodes))
                {
                    let count = u64::try_from(nodes).unwrap();
                    let roles = Roles::new(1..=count, rng.random_range(1..=count), rng);
                    let parts = plan(fault, &roles, rng);
                    let mut world = World::new(1..=count, 0);
                    world.worsen(&parts, 1);
                    let standing = world.spans(2).last().unwrap().standing;
                    assert_eq!(
                        standing > Standing::None,
                        fault.leaves_majority(),
                        "{fault:?} of {nodes}: {parts:?}"
                    );
                }
            }
        }
    }
}
