//! `brama-faults`: see the library.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use brama_faults::check;
use brama_faults::findings::{Findings, Verdict};
use brama_faults::lossy::LossyMount;
use brama_faults::mutants::mutants;
use brama_faults::nemesis::Family;
use brama_faults::progress;
use brama_faults::recorded;
use brama_faults::report::Folder;
use brama_faults::run::{Keep, RunOptions, run};
use brama_faults::scenario;
use brama_faults::workload::Mix;
use clap::{Args, Parser, Subcommand};

/// Breaks real brama processes, and says what held
///
/// Exit codes: 0 all of it held; 1 something is broken; 2 wrong usage; 3 it could not be told.
#[derive(Parser, Debug)]
#[command(name = "brama-faults", version, max_term_width = 100)]
struct Faults {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Break things at random while clients work, then check everything that was seen
    ///
    /// As root, each node is on a host of its own (a network namespace), and so are the clients. Else all are on loopback, and the network
    /// stays as it is.
    Run(RunArgs),
    /// Check again what a run left in its folder
    Check {
        /// The folder, as the run printed it
        folder: PathBuf,
    },
    /// The leader is killed; writes go on soon, and subscribers miss nothing
    KillLeader {
        #[arg(long, default_value_t = 20)]
        times: u32,
    },
    /// All nodes are killed at once; nothing that was acknowledged is lost
    KillAll {
        #[arg(long, default_value_t = 5)]
        times: u32,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// The power is cut, of all nodes at once and of single ones; nothing that was acknowledged is lost (needs root)
    Power {
        /// Cuts of all nodes at once
        #[arg(long, default_value_t = 50)]
        times: u32,
        /// Cuts of single nodes
        #[arg(long, default_value_t = 20)]
        singles: u32,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// The same on disks that forget or tear what was not synced; needs root, and /dev/fuse
    LossyPower {
        /// Cuts of all nodes at once
        #[arg(long, default_value_t = 50)]
        times: u32,
        /// Cuts of single nodes
        #[arg(long, default_value_t = 20)]
        singles: u32,
        /// First starts are cut short at every n-th of their syncs
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        stride: u32,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// A sync fails once: the node stops, the others go on, and it comes back; needs root, and /dev/fuse
    FsyncError {
        /// How often each kind is played
        #[arg(long, default_value_t = 3)]
        times: u32,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// The disk of one node is slow; needs root, and /dev/fuse
    SlowDisk {
        /// How long each is slow
        #[arg(long, default_value_t = 15)]
        seconds: u64,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Every file of a node is damaged; it says so, or nothing is lost
    Damage {
        /// Fewer places, and only after kill -9
        #[arg(long)]
        short: bool,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// A node dies at each point of its code that something rests on (needs a build that can be told to)
    Failpoints {
        /// Only this one, e.g. append.before
        #[arg(long)]
        point: Option<String>,
        /// In each role
        #[arg(long, default_value_t = 1)]
        times: u32,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// What holds on a cluster without any fault, through all nodes
    Promises,
    /// A follower needs a snapshot, and has everything then
    Lagging {
        #[arg(long, default_value_t = 3)]
        times: u32,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Openings end while nobody leads
    Takeover {
        #[arg(long, default_value_t = 5)]
        times: u32,
    },
    /// A node that was away shows nothing old
    StaleReads {
        #[arg(long, default_value_t = 5)]
        times: u32,
    },
    /// A node that is started again alone shows nothing older than it had
    Recovery {
        #[arg(long, default_value_t = 3)]
        times: u32,
    },
    /// Many openings end in the same moment, on time; also when the leader dies then
    ManyDue {
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        circuits: u16,
    },
    /// An opening is seen on other nodes at once
    Visibility {
        #[arg(long, default_value_t = 100)]
        times: usize,
    },
    /// A leader's wall clock is an hour wrong; timers do not notice
    Faketime,
    /// The leader is told to stop; it hands over
    Sigterm,
    /// The disk of one node after the other is full; needs root, to mount small file systems
    FullDisk {
        /// How long each is full, after the node has noticed
        #[arg(long, default_value_t = 15)]
        seconds: u64,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Nodes join, are removed, and lose their data
    Membership,
    /// A voter loses its data, and comes back under its old id
    WipedVoter {
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// The leader is stopped (SIGSTOP) for a while, and shows nothing stale when it goes on
    PauseLeader {
        /// Only short stops
        #[arg(long)]
        short: bool,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// A quiet log, restarted followers, then the leader dies: openings end when they are due
    Idle {
        /// How long nothing is written
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// The leader changes every two seconds; openings end when they are due
    LeaderChurn {
        /// How long
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Subscribers resume on nodes that are behind, and at the edge of the event log
    Cursors {
        /// How long they race with the log's end
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// A follower needs a snapshot, is killed while it gets it, and needs two more
    SnapshotTwice {
        /// How often, each follower
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Wall clocks jump, flicker, stand still and run fast; timers do not notice
    Clocks {
        /// Only three of the lies
        #[arg(long)]
        short: bool,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// All nodes are started again, one of them with a clock that is a day wrong
    ColdStart {
        /// Each of the four kinds so many times
        #[arg(long, default_value_t = 2)]
        times: u8,
    },
    /// All nodes are restarted under load, one after the other
    Rolling {
        /// How often all of them: the leader first, the leader last, in turn
        #[arg(long, default_value_t = 4)]
        rounds: u32,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Many clients share a circuit: how soon all of them reject, and how many pass half-open
    Fleet {
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=5000))]
        clients: u16,
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
        processes: u16,
        #[arg(long, default_value_t = 100)]
        times: usize,
    },
    /// One client counts a million outcomes a second, and leaders die
    Busy {
        /// Outcomes a second
        #[arg(long, default_value_t = 1_000_000)]
        rate: u64,
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// Every node is stopped (SIGSTOP) while clients make calls
    Stopped {
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// Runs a program whose temporary files (TMPDIR) are on a lossy disk; needs root, and /dev/fuse
    #[command(hide = true)]
    OnLossyDisk {
        /// Room on the disk
        #[arg(long, default_value_t = 1024)]
        mib: u64,
        /// The program, and what it is told
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<std::ffi::OsString>,
    },
    /// Breaks the nodes on purpose, one promise after the other; each is noticed (needs a build that can be told to)
    Mutants {
        /// Which [default: all]
        names: Vec<String>,
    },
    /// Leadership is handed to nodes that can and cannot take it
    Transfer {
        /// Times of each
        #[arg(long, default_value_t = 3)]
        times: u32,
    },
    /// Nodes join and are removed while others die and stop
    Churn {
        /// Times that three nodes become five and three again
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// A leader with many open streams is told to stop
    Drain {
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=5000))]
        streams: u16,
    },
    /// Strangers send what is malformed, oversized or meant to harm, on both ports
    Hostile {
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Thousands of subscribers, some that do not read, and a client that lists all the time, on one node
    Crowd {
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(1..=20_000))]
        subscribers: u16,
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=90_000))]
        circuits: u32,
    },
    /// Every node gets a small part of a processor; needs root, for control groups
    Starved {
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Of one processor, for each node; or as much less as makes it wait
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
        percent: u64,
    },
    /// Every node is dead, slow or flapping while clients make calls
    Unreachable {
        /// Each of the three for so long
        #[arg(long, default_value_t = 15)]
        seconds: u64,
        /// [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// One process of `fleet`
    #[command(hide = true)]
    Replicas {
        #[arg(long, value_delimiter = ',', required = true)]
        endpoints: Vec<String>,
        #[arg(long)]
        first: usize,
        #[arg(long)]
        clients: usize,
    },
}

#[derive(Args, Debug)]
struct RunArgs {
    /// How long things are broken
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The same in minutes
    #[arg(long, conflicts_with = "seconds")]
    minutes: Option<u64>,
    /// What goes wrong [default: all that this machine can do]
    #[arg(long, value_delimiter = ',', value_enum, value_name = "KIND,...")]
    faults: Vec<Chosen>,
    /// Members of the cluster
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(3..=5))]
    nodes: u64,
    /// Repeats a run, as far as processes repeat anything [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Clients at once
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// What the clients do: everything, registers, reports, manual, probes, timers or reads
    #[arg(long, default_value = "everything")]
    workload: Mix,
    /// Take snapshots every few entries and keep few events
    #[arg(long)]
    small_log: bool,
    /// Keep the folder of a run in which everything held, too
    #[arg(long)]
    keep: bool,
    /// Where the page about the run is written [default: target/faults/<time>-<seed>/report.html]
    #[arg(long, value_name = "PATH")]
    report: Option<PathBuf>,
}

/// A family of faults, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chosen {
    One(Family),
    All,
}

impl clap::ValueEnum for Chosen {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [Chosen; Family::ALL.len() + 1] = {
            let mut all = [Chosen::All; Family::ALL.len() + 1];
            let mut at = 0;
            while at < Family::ALL.len() {
                all[at] = Chosen::One(Family::ALL[at]);
                at += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        match self {
            Self::One(family) => family.to_possible_value(),
            Self::All => Some(clap::builder::PossibleValue::new("all").help("Every kind")),
        }
    }
}

impl RunArgs {
    fn families(&self) -> Option<Vec<Family>> {
        if self.faults.is_empty() {
            return None;
        }
        let chosen = |family: &Family| {
            self.faults.contains(&Chosen::All) || self.faults.contains(&Chosen::One(*family))
        };
        Some(Family::ALL.into_iter().filter(chosen).collect())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Faults::parse().command;
    if let Command::Replicas {
        endpoints,
        first,
        clients,
    } = command
    {
        return match scenario::replicas(&endpoints, first, clients).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    if let Command::OnLossyDisk { mib, program } = command {
        return match on_lossy_disk(mib, &program).await {
            Ok(code) => code,
            Err(error) => {
                eprintln!("{error:#}");
                Verdict::Unknown.into()
            }
        };
    }
    let outcome = tokio::select! {
        outcome = dispatch(command) => outcome,
        never = progress::show() => match never {},
        // Dropping what runs kills the processes, and removes their folder and their hosts.
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        () = terminated() => Err(anyhow::anyhow!("told to end")),
    };
    match outcome {
        Ok(findings) => {
            println!("{findings}");
            findings.verdict().into()
        }
        Err(error) => {
            eprintln!("the run could not be done: {error:#}");
            Verdict::Unknown.into()
        }
    }
}

async fn terminated() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut signals) => {
            signals.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

async fn dispatch(command: Command) -> anyhow::Result<Findings> {
    match command {
        Command::Run(args) => {
            let seed = args.seed.unwrap_or_else(random_seed);
            let options = RunOptions {
                seconds: args.minutes.map_or(args.seconds, |minutes| minutes * 60),
                faults: args.families(),
                nodes: args.nodes,
                seed,
                clients: args.clients,
                mix: args.workload,
                small_log: args.small_log,
                keep: if args.keep {
                    Keep::Always
                } else {
                    Keep::UnlessItHolds
                },
                report: Some(match args.report {
                    Some(page) => Folder::with_page(page),
                    None => Folder::of_run(seed)?,
                }),
            };
            println!("fault run: seed {seed}; again with: {}", options.command());
            run(options).await
        }
        Command::Check { folder } => {
            // It keeps both processors busy; nothing else is to be done.
            let checked = move || anyhow::Ok(check::all(&recorded::read(&folder)?));
            tokio::task::spawn_blocking(checked).await?
        }
        Command::KillLeader { times } => {
            println!("kill-leader: {times} times");
            scenario::kill_leader(times).await
        }
        Command::KillAll { times, seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            println!("kill-all: again with: kill-all --times {times} --seed {seed}");
            scenario::kill_all(times, seed).await
        }
        Command::Power { times, singles, seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            println!("power: again with: power --times {times} --singles {singles} --seed {seed}");
            scenario::power(times, singles, seed).await
        }
        Command::LossyPower {
            times,
            singles,
            stride,
            seed,
        } => {
            let seed = seed.unwrap_or_else(random_seed);
            println!(
                "lossy-power: again with: lossy-power --times {times} --singles {singles} --stride {stride} --seed {seed}"
            );
            scenario::lossy_power(times, singles, stride, seed).await
        }
        Command::FsyncError { times, seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            println!("fsync-error: again with: fsync-error --times {times} --seed {seed}");
            scenario::fsync_error(times, seed).await
        }
        Command::SlowDisk { seconds, seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            println!("slow-disk: again with: slow-disk --seconds {seconds} --seed {seed}");
            scenario::slow_disk(Duration::from_secs(seconds), seed).await
        }
        Command::Damage { short, seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            let (extent, flag) = if short {
                (scenario::Extent::Short, " --short")
            } else {
                (scenario::Extent::Full, "")
            };
            println!("damage: again with: damage{flag} --seed {seed}");
            scenario::damage(extent, seed).await
        }
        Command::Failpoints { point, times, seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            let only = point
                .as_ref()
                .map_or_else(String::new, |point| format!(" --point {point}"));
            println!("failpoints: again with: failpoints{only} --times {times} --seed {seed}");
            scenario::failpoints(point.as_deref(), times, seed).await
        }
        Command::Promises => {
            println!("promises");
            scenario::promises().await
        }
        Command::Lagging { times, seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            println!("lagging: again with: lagging --times {times} --seed {seed}");
            scenario::lagging(times, seed).await
        }
        Command::Takeover { times } => {
            println!("takeover: {times} times");
            scenario::takeover(times).await
        }
        Command::StaleReads { times } => {
            println!("stale-reads: {times} times");
            scenario::stale_reads(times).await
        }
        Command::Recovery { times } => {
            println!("recovery: {times} times");
            scenario::recovery(times).await
        }
        Command::ManyDue { circuits } => {
            println!("many-due: {circuits} circuits");
            scenario::many_due(circuits.into()).await
        }
        Command::Visibility { times } => {
            println!("visibility: {times} times");
            scenario::visibility(times).await
        }
        Command::Faketime => {
            println!("faketime");
            scenario::faketime(scenario::Machine::Quiet).await
        }
        Command::Sigterm => {
            println!("sigterm");
            scenario::sigterm().await
        }
        Command::FullDisk { seconds, seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            println!("full-disk: again with: full-disk --seconds {seconds} --seed {seed}");
            scenario::full_disk(Duration::from_secs(seconds), seed).await
        }
        Command::Membership => {
            println!("membership");
            scenario::membership().await
        }
        Command::WipedVoter { seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            println!("wiped-voter: again with: wiped-voter --seed {seed}");
            scenario::wiped_voter(seed).await
        }
        Command::PauseLeader { short, seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            let (seconds, flag): (&[u64], _) = if short {
                (&[1, 2, 4], " --short")
            } else {
                (&[1, 2, 5, 10, 30, 60], "")
            };
            println!("pause-leader: again with: pause-leader{flag} --seed {seed}");
            let lengths: Vec<_> = seconds.iter().copied().map(Duration::from_secs).collect();
            scenario::pause_leader(&lengths, seed).await
        }
        Command::Idle { seconds } => {
            println!("idle: {seconds} s");
            scenario::idle(Duration::from_secs(seconds)).await
        }
        Command::LeaderChurn { seconds, seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            println!("leader-churn: again with: leader-churn --seconds {seconds} --seed {seed}");
            scenario::leader_churn(Duration::from_secs(seconds), seed).await
        }
        Command::Cursors { seconds, seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            println!("cursors: again with: cursors --seconds {seconds} --seed {seed}");
            scenario::cursors(Duration::from_secs(seconds), seed).await
        }
        Command::SnapshotTwice { rounds, seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            println!("snapshot-twice: again with: snapshot-twice --rounds {rounds} --seed {seed}");
            scenario::snapshot_twice(rounds, seed).await
        }
        Command::Clocks { short, seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            let flag = if short { " --short" } else { "" };
            println!("clocks: again with: clocks{flag} --seed {seed}");
            scenario::clocks(short, seed).await
        }
        Command::ColdStart { times } => {
            println!("cold-start: each kind {times} times");
            scenario::cold_start(times.into()).await
        }
        Command::Rolling { rounds, seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            println!("rolling: again with: rolling --rounds {rounds} --seed {seed}");
            scenario::rolling(rounds, seed).await
        }
        Command::Fleet {
            clients,
            processes,
            times,
        } => {
            println!("fleet: {clients} clients in {processes} processes, {times} openings");
            scenario::fleet(clients.into(), processes.into(), times).await
        }
        Command::Busy { rate, seconds } => {
            println!("busy: {rate} outcomes a second for {seconds} s");
            scenario::busy(rate, seconds).await
        }
        Command::Stopped { seconds } => {
            println!("stopped: every node, for {seconds} s");
            scenario::stopped(seconds).await
        }
        Command::Mutants { names } => {
            println!(
                "mutants: {}",
                if names.is_empty() {
                    "all".to_owned()
                } else {
                    names.join(" ")
                }
            );
            mutants(&names).await
        }
        Command::Transfer { times } => {
            println!("transfer: {times} times");
            scenario::transfer(times).await
        }
        Command::Churn { rounds, seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            println!("churn: again with: churn --rounds {rounds} --seed {seed}");
            scenario::churn(rounds, seed).await
        }
        Command::Drain { streams } => {
            println!("drain: {streams} streams");
            scenario::drain(streams.into()).await
        }
        Command::Hostile { seconds, seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            println!("hostile: again with: hostile --seconds {seconds} --seed {seed}");
            scenario::hostile(seconds, seed).await
        }
        Command::Crowd {
            subscribers,
            circuits,
        } => {
            println!("crowd: {subscribers} subscribers, {circuits} circuits");
            scenario::crowd(subscribers.into(), usize::try_from(circuits)?).await
        }
        Command::Starved { seconds, percent } => {
            println!("starved: {percent} % of a processor for each node, for {seconds} s");
            scenario::starved(seconds, percent).await
        }
        Command::Unreachable { seconds, seed } => {
            let seed = seed.unwrap_or_else(random_seed);
            println!("unreachable: again with: unreachable --seconds {seconds} --seed {seed}");
            scenario::unreachable(seconds, seed).await
        }
        Command::OnLossyDisk { .. } | Command::Replicas { .. } => anyhow::bail!("it was begun before"),
    }
}

/// The program's own exit code, when it has one.
async fn on_lossy_disk(mib: u64, program: &[std::ffi::OsString]) -> anyhow::Result<ExitCode> {
    if let Some(why) = LossyMount::is_impossible() {
        anyhow::bail!("there can be no lossy disk here: {why}");
    }
    let folder = tempfile::Builder::new().prefix("brama-lossy-").tempdir()?;
    let mount = LossyMount::new(&folder.path().join("disk"), mib)?;
    let mut running = tokio::process::Command::new(&program[0])
        .args(&program[1..])
        .env("TMPDIR", mount.path())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", program[0].display()))?;
    let ended = tokio::select! {
        ended = running.wait() => ended?,
        // What ran is killed, and then the disk is unmounted.
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    };
    let counts = mount.disk().counts();
    println!(
        "the lossy disk saw {} writes and {} syncs",
        counts.writes, counts.syncs
    );
    let code = ended.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Short enough to be typed again.
fn random_seed() -> u64 {
    u64::from(rand::random::<u32>())
}
