//! Seeds as processes.
//!
//! A process that simulates has no other clock than the simulated one, and neither has this program, which is the same: the system's uptime
//! says how long something takes.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::seed::{self, Wanted};
use crate::world::World;

/// A seed that takes longer hangs.
const PATIENCE_S: f64 = 300.0;

/// In so many seeds everything should have happened.
const ENOUGH: usize = 25;

/// How seeds are to be run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Order {
    pub(crate) lying_disks: bool,
    /// With what the nodes log, to standard error.
    pub(crate) log: bool,
}

/// How a seed ended.
pub(crate) enum Ended {
    Well {
        hash: String,
        summary: String,
        /// What happened in it, and how often.
        seen: Vec<(String, u64)>,
    },
    Broken {
        hash: String,
        text: String,
    },
    /// Not as a run should, whatever came of it.
    Badly {
        text: String,
    },
}

impl Ended {
    pub(crate) fn is_well(&self) -> bool {
        matches!(self, Self::Well { .. })
    }

    pub(crate) fn hash(&self) -> Option<&str> {
        match self {
            Self::Well { hash, .. } | Self::Broken { hash, .. } => Some(hash),
            Self::Badly { .. } => None,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Well { hash, summary, .. } => write!(f, "well, {hash}: {summary}"),
            Self::Broken { text, .. } | Self::Badly { text } => f.write_str(text),
        }
    }
}

/// Runs a seed in this process, which does nothing else.
pub(crate) fn worker(seed: u64, order: Order) -> ExitCode {
    let world = Arc::new(World::new(seed));
    if order.log {
        let time = LogTime(world.clone());
        let filter =
            tracing_subscriber::EnvFilter::try_from_env("BRAMA_LOG").unwrap_or_else(|_| "info".into());
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_timer(time)
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .init();
    }
    // A task that panics ends alone; here it ends the run.
    let of_panic = world.clone();
    std::panic::set_hook(Box::new(move |panic| {
        eprintln!("{panic}");
        of_panic.breaks(brama_simulation::Broken::new("no panic", panic.to_string()));
    }));
    let folder = tempfile::Builder::new()
        .prefix("brama-simulation-")
        .tempdir_in(memory())
        .unwrap();
    let wanted = Wanted {
        lying_disks: order.lying_disks,
    };
    mad_turmoil::rand::set_rng(StdRng::seed_from_u64(seed));
    let _clocks = mad_turmoil::time::SimClocksGuard::init();
    let path = folder.path().to_owned();
    // A thread of its own: what a thread has drawn for its hash tables, to log or to read arguments, changes what comes next.
    let thread = std::thread::Builder::new().stack_size(64 << 20);
    let running = thread.spawn(move || seed::run(seed, wanted, &path, world));
    let outcome = running.unwrap().join().unwrap();
    let _ = folder.close();
    println!("hash {:016x}", outcome.hash);
    println!("summary {}", outcome.summary);
    for (what, count) in &outcome.seen {
        println!("seen {count} {what}");
    }
    if outcome.broken.is_empty() {
        return ExitCode::SUCCESS;
    }
    for line in &outcome.end {
        println!("{line}");
    }
    for broken in &outcome.broken {
        println!("BROKEN {broken}");
    }
    println!("{}", outcome.summary);
    println!(
        "again: scripts/simulate --seed {seed}{}",
        if order.lying_disks { " --lying-disks" } else { "" }
    );
    ExitCode::from(BROKEN)
}

const BROKEN: u8 = 9;

/// Where files cost nothing.
fn memory() -> std::path::PathBuf {
    let memory = std::path::PathBuf::from("/dev/shm");
    if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    }
}

struct LogTime(Arc<World>);

impl tracing_subscriber::fmt::time::FormatTime for LogTime {
    fn format_time(&self, writer: &mut tracing_subscriber::fmt::format::Writer<'_>) -> fmt::Result {
        write!(writer, "{:>6}", self.0.now())
    }
}

/// Runs a seed in a process of its own.
pub(crate) fn run_one(seed: u64, order: Order) -> Ended {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--worker", &seed.to_string()]);
    if order.lying_disks {
        command.arg("--lying-disks");
    }
    if order.log {
        command.arg("--log");
    }
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    });
    let began = uptime();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if uptime() - began > PATIENCE_S {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = reader.join().unwrap().unwrap_or_default();
    let line = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default()
            .to_owned()
    };
    let (hash, summary) = (line("hash "), line("summary "));
    let seen = text.lines().filter_map(|line| {
        let (count, what) = line.strip_prefix("seen ")?.split_once(' ')?;
        Some((what.to_owned(), count.parse().ok()?))
    });
    let seen = seen.collect();
    match status {
        Some(status) if status.success() => Ended::Well { hash, summary, seen },
        Some(status) if status.code() == Some(BROKEN.into()) => Ended::Broken { hash, text },
        Some(status) => Ended::Badly {
            text: format!("{text}\nseed {seed} ended with {status}"),
        },
        None => Ended::Badly {
            text: format!("{text}\nseed {seed} has not ended within {PATIENCE_S} s"),
        },
    }
}

/// Runs seeds, as many at once as there are processors; until the first that fails, or for so many seconds. Whether all of them were well.
pub(crate) fn run_all(seeds: Vec<u64>, order: Order, seconds: Option<f64>, verbose: bool) -> bool {
    let total = seeds.len();
    let began = uptime();
    let left = Mutex::new(seeds.into_iter());
    let ended = Mutex::new((0_usize, Vec::new()));
    let seen = Mutex::new(BTreeMap::<String, u64>::new());
    let work = || loop {
        let in_time = seconds.is_none_or(|seconds| uptime() - began < seconds);
        let well = verbose || ended.lock().unwrap().1.is_empty();
        let Some(seed) = left.lock().unwrap().next().filter(|_| in_time && well) else {
            return;
        };
        let outcome = run_one(seed, order);
        let mut ended = ended.lock().unwrap();
        ended.0 += 1;
        if let Ended::Well { seen: of_one, .. } = &outcome {
            for (what, count) in of_one {
                *seen.lock().unwrap().entry(what.clone()).or_default() += count;
            }
        } else {
            println!("{outcome}\n");
            ended.1.push(seed);
        }
        if verbose && ended.0.is_multiple_of(50) {
            let per_minute = ended.0 as f64 / (uptime() - began) * 60.0;
            println!(
                "{} of {total} seeds, {} failed, {per_minute:.0} a minute",
                ended.0,
                ended.1.len()
            );
        }
    };
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    let (count, failed) = ended.into_inner().unwrap();
    let took = uptime() - began;
    println!(
        "{count} of {total} seeds in {took:.0} s ({:.0} a minute): {}",
        count as f64 / took.max(0.01) * 60.0,
        if failed.is_empty() {
            "all of them held".to_owned()
        } else {
            format!("{} failed: {failed:?}", failed.len())
        }
    );
    let seen = seen.into_inner().unwrap();
    let told: Vec<_> = seen
        .iter()
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    println!("in them: {}", told.join(", "));
    // Where nothing happened, nothing is shown.
    let missing: Vec<_> = seen.iter().filter(|(_, count)| **count == 0).collect();
    if count >= ENOUGH && !missing.is_empty() {
        println!("it cannot be told whether all held: {missing:?} did not happen at all");
        return false;
    }
    failed.is_empty()
}

/// Seconds.
fn uptime() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}
