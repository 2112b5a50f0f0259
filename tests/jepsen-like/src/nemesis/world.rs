//! What the nemesis has left of the cluster, at each moment: so a checker knows when writes must go on.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::part::Part;
use crate::hosts::End;
use crate::links::{Cut, Link, Shape};
use crate::time::Micros;

/// Whether writes must be possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// No majority is up and hears each other.
    None,
    /// One is, and some link between nodes that are up is slow, lossy or breaks now and then. Whoever leads over such a link goes on to lead, as long
    /// as its heartbeats come through, however little else does.
    Hampered,
    /// One is, all its members hear each other well, and clients reach one of them.
    Majority,
}

/// A time in which nothing was broken or mended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Span {
    /// From here.
    pub from: Micros,
    /// To there.
    pub until: Micros,
    /// All the time.
    pub standing: Standing,
    /// How many faults there were.
    pub faults: usize,
}

/// What only one fault at a time may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    /// The process of a node.
    Process(u64),
    /// What the host of the second drops of the first.
    Cut(Cut),
    /// A proxy.
    Link(Link),
    /// A wall clock.
    Clock(u64),
    /// The disk of a node.
    Disk(u64),
    /// Who leads.
    Office,
}

/// The state of the cluster, as far as the nemesis made it.
#[derive(Debug)]
pub(super) struct World {
    nodes: BTreeSet<u64>,
    taken: BTreeSet<Resource>,
    down: BTreeSet<u64>,
    /// How links are that are not clean; from, to.
    links: BTreeMap<(End, End), Vec<Standing>>,
    faults: usize,
    since: Micros,
    spans: Vec<Span>,
}

impl World {
    pub(super) fn new(nodes: impl IntoIterator<Item = u64>, now: Micros) -> Self {
        Self {
            nodes: nodes.into_iter().collect(),
            taken: BTreeSet::new(),
            down: BTreeSet::new(),
            links: BTreeMap::new(),
            faults: 0,
            since: now,
            spans: Vec::new(),
        }
    }

    /// Takes all of these, or none. While a majority of the wall clocks is wrong, no majority of the processes is touched: a cluster that was
    /// down as a whole has nothing else to know the time by, and promises nothing then.
    pub(super) fn claim(&mut self, resources: &BTreeSet<Resource>) -> bool {
        let wanted = || self.taken.union(resources);
        let is_minority = |count: usize| 2 * count < self.nodes.len();
        let clocks = wanted().filter(|one| matches!(one, Resource::Clock(_)));
        let processes = wanted().filter(|one| matches!(one, Resource::Process(_)));
        let knows_the_time = is_minority(clocks.count()) || is_minority(processes.count());
        let free = knows_the_time && self.taken.is_disjoint(resources);
        if free {
            self.taken.extend(resources);
        }
        free
    }

    pub(super) fn release(&mut self, resources: &BTreeSet<Resource>) {
        self.taken.retain(|taken| !resources.contains(taken));
    }

    /// From now on this is broken.
    pub(super) fn worsen(&mut self, parts: &[Part], now: Micros) {
        self.change(now, |world| {
            world.faults += 1;
            for part in parts {
                world.down.extend(part.takes_down());
                for (from, to, standing) in part.hampers() {
                    world.links.entry((from, to)).or_default().push(standing);
                }
            }
        });
    }

    /// All of it is mended.
    pub(super) fn mend(&mut self, parts: &[Part], now: Micros) {
        self.change(now, |world| {
            world.faults = world.faults.saturating_sub(1);
            for part in parts {
                world.down.retain(|id| !part.takes_down().contains(id));
                for (from, to, standing) in part.hampers() {
                    if let Some(all) = world.links.get_mut(&(from, to))
                        && let Some(at) = all.iter().position(|one| *one == standing)
                    {
                        all.swap_remove(at);
                    }
                }
            }
        });
    }

    /// A node is down, or up again, while a fault goes on.
    pub(super) fn set_down(&mut self, id: u64, is_down: bool, now: Micros) {
        self.change(now, |world| {
            if is_down {
                world.down.insert(id);
            } else {
                world.down.remove(&id);
            }
        });
    }

    /// All times so far, without a hole.
    pub(super) fn spans(&mut self, now: Micros) -> Vec<Span> {
        self.change(now, |_| {});
        self.spans.clone()
    }

    fn change(&mut self, now: Micros, change: impl FnOnce(&mut Self)) {
        self.spans.push(Span {
            from: self.since,
            until: now,
            standing: self.standing(),
            faults: self.faults,
        });
        self.since = now;
        change(self);
    }

    fn standing(&self) -> Standing {
        let up: Vec<u64> = self.nodes.difference(&self.down).copied().collect();
        let groups = (0_u32..1 << up.len()).filter(|members| {
            let count = usize::try_from(members.count_ones()).unwrap_or(0);
            count > self.nodes.len() / 2
        });
        let members = |set: u32| -> Vec<u64> {
            let all = up.iter().enumerate();
            all.filter(|(bit, _)| set & (1 << bit) != 0)
                .map(|(_, id)| *id)
                .collect()
        };
        let best = groups.map(|set| self.standing_of(&members(set))).max();
        let anywhere = up.iter().flat_map(|one| up.iter().map(|other| (*one, *other)));
        let is_hampered = |(one, other)| self.link(End::Node(one), End::Node(other)) == Standing::Hampered;
        match best {
            None => Standing::None,
            Some(Standing::Majority) if anywhere.into_iter().any(is_hampered) => Standing::Hampered,
            Some(best) => best,
        }
    }

    fn standing_of(&self, group: &[u64]) -> Standing {
        let pairs = group.iter().flat_map(|one| {
            let others = group.iter().filter(move |other| *other != one);
            others.map(|other| self.link(End::Node(*one), End::Node(*other)))
        });
        let within = pairs.min().unwrap_or(Standing::Majority);
        let from_clients = group
            .iter()
            .map(|id| {
                let there = self.link(End::Clients, End::Node(*id));
                there.min(self.link(End::Node(*id), End::Clients))
            })
            .max();
        within.min(from_clients.unwrap_or(Standing::None))
    }

    fn link(&self, from: End, to: End) -> Standing {
        let all = self.links.get(&(from, to)).into_iter().flatten();
        all.min().copied().unwrap_or(Standing::Majority)
    }
}

impl Standing {
    /// What is left of a link of this shape.
    pub(super) fn over(shape: Shape) -> Self {
        match shape {
            Shape::Clean => Self::Majority,
            Shape::Slow { .. } | Shape::Throttled { .. } | Shape::CutAfter { .. } => Self::Hampered,
            Shape::Frozen | Shape::Reset => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::CutKind;

    fn after(nodes: u64, parts: &[Part]) -> Standing {
        let mut world = World::new(1..=nodes, 0);
        world.worsen(parts, 1);
        world.spans(2).last().unwrap().standing
    }

    fn cut(pairs: &[(u64, u64)], kind: CutKind) -> Part {
        let cuts = pairs
            .iter()
            .map(|(from, to)| Cut {
                from: End::Node(*from),
                to: End::Node(*to),
            })
            .collect();
        Part::Cuts { cuts, kind }
    }

    #[test]
    fn no_majority_of_the_processes_is_touched_while_one_of_the_clocks_is_wrong() {
        let clocks = |ids: &[u64]| ids.iter().map(|id| Resource::Clock(*id)).collect();
        let processes = |ids: &[u64]| ids.iter().map(|id| Resource::Process(*id)).collect();
        let mut world = World::new(1..=3, 0);
        assert!(world.claim(&clocks(&[2])) && world.claim(&processes(&[1, 2, 3])));
        assert!(!world.claim(&clocks(&[1])), "two of three");
        world.release(&processes(&[1, 2, 3]));
        assert!(world.claim(&clocks(&[1])) && !world.claim(&processes(&[1, 3])));
        assert!(world.claim(&processes(&[3])), "one of three");
        assert!(!world.claim(&processes(&[1])), "the second");
        world.release(&clocks(&[1]));
        assert!(world.claim(&processes(&[1])));
    }

    #[test]
    fn a_majority_that_hears_each_other_is_seen() {
        assert_eq!(after(3, &[]), Standing::Majority);
        assert_eq!(after(3, &[Part::Kill(vec![1])]), Standing::Majority);
        assert_eq!(after(3, &[Part::Pause(vec![1, 2])]), Standing::None);
        assert_eq!(after(5, &[Part::Kill(vec![1, 2])]), Standing::Majority);
        assert_eq!(after(3, &[cut(&[(1, 2)], CutKind::Silent)]), Standing::Majority);
        let shattered = cut(&[(1, 2), (2, 3), (3, 1)], CutKind::Silent);
        assert_eq!(after(3, &[shattered]), Standing::None);
        let down_and_cut = [Part::Kill(vec![3]), cut(&[(1, 2)], CutKind::Silent)];
        assert_eq!(after(3, &down_and_cut), Standing::None);
        let bridge = [(1, 4), (1, 5), (2, 4), (2, 5)];
        assert_eq!(after(5, &[cut(&bridge, CutKind::Silent)]), Standing::Majority);
        let lossy = cut(&[(1, 2), (2, 3), (3, 1)], CutKind::Loss(30));
        assert_eq!(after(3, &[lossy]), Standing::Hampered);
        let one_lossy = cut(&[(1, 2)], CutKind::Loss(30));
        assert_eq!(
            after(3, std::slice::from_ref(&one_lossy)),
            Standing::Hampered,
            "1 may lead"
        );
        assert_eq!(after(3, &[one_lossy, Part::Kill(vec![1])]), Standing::Majority);
    }

    #[test]
    fn a_majority_that_no_client_reaches_need_not_write() {
        let cuts = (1..=3).map(|id| Cut {
            from: End::Node(id),
            to: End::Clients,
        });
        let part = |cuts: Vec<Cut>| Part::Cuts {
            cuts,
            kind: CutKind::Silent,
        };
        assert_eq!(after(3, &[part(cuts.clone().collect())]), Standing::None);
        assert_eq!(after(3, &[part(cuts.skip(1).collect())]), Standing::Majority);
    }

    #[test]
    fn what_two_faults_broke_is_well_when_both_are_mended() {
        let mut world = World::new(1..=3, 0);
        let all = || [cut(&[(1, 2), (2, 3), (3, 1)], CutKind::Silent)];
        world.worsen(&all(), 10);
        world.worsen(&all(), 20);
        world.mend(&all(), 30);
        world.mend(&all(), 40);
        let spans = world.spans(50);
        let told: Vec<_> = spans.iter().map(|span| (span.until, span.standing)).collect();
        assert_eq!(
            told,
            [
                (10, Standing::Majority),
                (20, Standing::None),
                (30, Standing::None),
                (40, Standing::None),
                (50, Standing::Majority)
            ]
        );
    }

    #[test]
    fn what_is_taken_is_not_given_twice() {
        let mut world = World::new(1..=3, 0);
        let one: BTreeSet<_> = [Resource::Process(1), Resource::Process(2)].into();
        let other: BTreeSet<_> = [Resource::Process(2), Resource::Process(3)].into();
        assert!(world.claim(&one));
        assert!(!world.claim(&other));
        assert!(world.claim(&[Resource::Process(3)].into()), "all or none");
        world.release(&one);
        assert!(world.claim(&[Resource::Process(2)].into()));
    }
}
