//! What goes wrong, and when: drawn one after the other, and overlapping.

use std::sync::atomic::Ordering::Relaxed;

use brama_simulation::Ms;

use crate::machine::{End, Machine};
use crate::network::Network;
use crate::world::World;

/// A fault that lasts, and when it ends.
struct Lasting {
    until: Ms,
    what: What,
}

enum What {
    Cut(Vec<(u64, u64)>),
    Slow(Vec<(u64, u64)>),
    Down(u64),
    SlowDisk(u64),
}

/// Draws faults, and ends them.
pub(crate) struct Faults {
    next: Ms,
    /// The longest pause between two of them.
    pause: Ms,
    /// The only one whose wall clock is ever wrong.
    wrong_clock: u64,
    lasting: Vec<Lasting>,
    usual_flush_ms: u64,
    pub(crate) count: u64,
}

impl Faults {
    pub(crate) fn new(world: &World, members: u64, usual_flush_ms: u64) -> Self {
        Self {
            next: world.now() + world.draw(100..=1500),
            pause: *world.pick(&[400, 1000, 2500]),
            wrong_clock: world.draw(1..=members),
            lasting: Vec::new(),
            usual_flush_ms,
            count: 0,
        }
    }

    /// To be called each millisecond.
    pub(crate) fn tick(&mut self, world: &World, network: &Network, machines: &mut [Machine]) {
        let now = world.now();
        while let Some(at) = self.lasting.iter().position(|lasting| lasting.until <= now) {
            let lasting = self.lasting.swap_remove(at);
            self.undo(lasting.what, world, network, machines);
        }
        if now >= self.next {
            self.next = now + world.draw(1..=self.pause);
            self.count += 1;
            self.draw(world, network, machines);
        }
    }

    /// Ends all of them.
    pub(crate) fn heal(&mut self, world: &World, network: &Network, machines: &mut [Machine]) {
        world.say("all faults end");
        for lasting in std::mem::take(&mut self.lasting) {
            self.undo(lasting.what, world, network, machines);
        }
        for machine in machines {
            machine.heal();
        }
    }

    fn undo(&self, what: What, world: &World, network: &Network, machines: &mut [Machine]) {
        match what {
            What::Cut(links) => {
                world.say(format!("links are whole: {links:?}"));
                // Unless another fault cuts them too.
                let still_cut = |link: &(u64, u64)| {
                    self.lasting
                        .iter()
                        .any(|lasting| matches!(&lasting.what, What::Cut(cut) if cut.contains(link)))
                };
                for link in links.into_iter().filter(|link| !still_cut(link)) {
                    network.heal(link);
                }
            }
            What::Slow(links) => {
                world.say(format!("links are fast again: {links:?}"));
                links.into_iter().for_each(|link| network.speed_up(link));
            }
            What::Down(node) => machine(machines, node).start(),
            What::SlowDisk(node) => {
                world.say(format!("the disk of {node} is fast again"));
                let disk = &machine(machines, node).disk;
                disk.slowest_ms.store(self.usual_flush_ms, Relaxed);
            }
        }
    }

    fn last(&mut self, world: &World, least: Ms, most: Ms, what: What) {
        let until = world.now() + world.draw(least..=most);
        self.lasting.push(Lasting { until, what });
    }

    fn draw(&mut self, world: &World, network: &Network, machines: &mut [Machine]) {
        let members = machines.len() as u64;
        let node = world.draw(1..=members);
        let other = 1 + (node - 1 + world.draw(1..=members - 1)) % members;
        match world.draw(0..=99) {
            0..=17 => self.end(node, world, machines),
            18..=23 => {
                world.say("all nodes end");
                for node in 1..=members {
                    self.end(node, world, machines);
                }
                world.history.lock().all_down.push(world.now());
            }
            24..=28 => {
                machine(machines, node).ask_to_stop();
                self.last(world, 500, 8000, What::Down(node));
            }
            29..=43 => {
                let (here, there): (Vec<u64>, Vec<u64>) = (1..=members).partition(|_| world.chance(50));
                let links = here.iter().flat_map(|a| there.iter().map(|b| (*a, *b)));
                self.cut(
                    links.flat_map(|(a, b)| [(a, b), (b, a)]).collect(),
                    world,
                    network,
                );
            }
            44..=53 => {
                let others = (1..=members).filter(|other| *other != node);
                let links = others.flat_map(|other| [(node, other), (other, node)]);
                self.cut(links.collect(), world, network);
            }
            54..=65 => self.cut(vec![(node, other)], world, network),
            66..=71 => {
                world.say(format!("connections between {node} and {other} are reset"));
                network.reset(node, other);
            }
            72..=79 => {
                let links = vec![(node, other), (other, node)];
                let most = world.draw(20..=700);
                world.say(format!("links are slow, up to {most} ms: {links:?}"));
                for link in &links {
                    network.slow_down(*link, (most / 4, most));
                }
                self.last(world, 300, 4000, What::Slow(links));
            }
            80..=87 => {
                let lasts = world.draw(20..=3000);
                world.say(format!("node {node} pauses for {lasts} ms"));
                machine(machines, node).paused_for = lasts;
            }
            88..=93 => {
                let most = world.draw(20..=400);
                world.say(format!("the disk of {node} is slow, up to {most} ms"));
                machine(machines, node).disk.slowest_ms.store(most, Relaxed);
                self.last(world, 300, 4000, What::SlowDisk(node));
            }
            _ => {
                let off = i64::try_from(world.draw(0..=200_000_000)).unwrap() - 100_000_000;
                world.say(format!(
                    "the wall clock of {} is off by {off} ms",
                    self.wrong_clock
                ));
                let clocks = &machine(machines, self.wrong_clock).clocks;
                clocks.wall_is_off_ms.store(off, Relaxed);
            }
        }
    }

    fn end(&mut self, node: u64, world: &World, machines: &mut [Machine]) {
        let how = if world.chance(50) {
            End::Killed
        } else {
            End::PowerCut
        };
        machine(machines, node).end(how);
        self.last(world, 5, 3000, What::Down(node));
    }

    fn cut(&mut self, links: Vec<(u64, u64)>, world: &World, network: &Network) {
        world.say(format!("links are cut: {links:?}"));
        for link in &links {
            network.cut(*link);
        }
        self.last(world, 100, 5000, What::Cut(links));
    }
}

pub(crate) fn machine(machines: &mut [Machine], node: u64) -> &mut Machine {
    &mut machines[usize::try_from(node - 1).unwrap()]
}
