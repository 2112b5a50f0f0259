//! The workloads by name, each for both systems.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::connect;
use crate::failover;
use crate::fanout::Fanout;
use crate::figures::{Figures, median};
use crate::load;
use crate::operations::{Failure, Get, Increment, Look, MANY, Put};
use crate::stream;
use crate::system::{Kind, System};

/// What is done, and by how many at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Workload {
    /// `Failure` over many circuits; puts over many keys.
    Report(usize),
    /// `Failure` on one circuit; an increment of one key.
    OneCircuit(usize),
    /// `ReportStream`, so many reports in flight, in batches of so many; puts.
    Stream(usize, usize),
    /// Linearizable `Status`; linearizable gets.
    Linearizable(usize),
    /// Local `Status`; serializable gets.
    Local(usize),
    /// Reports, or puts, so many a second.
    Rate(f64),
    /// So many subscribers, and so many changes a second.
    Fanout(u32, f64),
    /// Reports, or puts, of so many workers, beside so many subscribers to one circuit that changes so often a second.
    Beside(usize, u32, f64),
    /// The leader is killed so many times. Latencies are until the next acknowledged write.
    Kill(usize),
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || -> Option<Self> {
            let (name, size) = text.split_once(':')?;
            Some(match name {
                "report" => Self::Report(size.parse().ok()?),
                "one-circuit" => Self::OneCircuit(size.parse().ok()?),
                "stream" => {
                    let (reports, batch) = size.split_once('x').unwrap_or((size, "1"));
                    Self::Stream(reports.parse().ok()?, batch.parse().ok()?)
                }
                "linearizable" => Self::Linearizable(size.parse().ok()?),
                "local" => Self::Local(size.parse().ok()?),
                "rate" => Self::Rate(size.parse().ok()?),
                "fanout" => {
                    let (subscribers, rate) = size.split_once('x')?;
                    Self::Fanout(subscribers.parse().ok()?, rate.parse().ok()?)
                }
                "beside" => {
                    let (workers, fanout) = size.split_once('x')?;
                    let (subscribers, rate) = fanout.split_once('x')?;
                    Self::Beside(
                        workers.parse().ok()?,
                        subscribers.parse().ok()?,
                        rate.parse().ok()?,
                    )
                }
                "kill" => Self::Kill(size.parse().ok()?),
                _ => return None,
            })
        };
        parse().ok_or_else(|| format!("{text:?} is no workload, such as report:64 or fanout:1000x100"))
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Report(n) => write!(f, "report:{n}"),
            Self::OneCircuit(n) => write!(f, "one-circuit:{n}"),
            Self::Stream(n, 1) => write!(f, "stream:{n}"),
            Self::Stream(n, batch) => write!(f, "stream:{n}x{batch}"),
            Self::Linearizable(n) => write!(f, "linearizable:{n}"),
            Self::Local(n) => write!(f, "local:{n}"),
            Self::Rate(rate) => write!(f, "rate:{rate}"),
            Self::Fanout(subscribers, rate) => write!(f, "fanout:{subscribers}x{rate}"),
            Self::Beside(workers, subscribers, rate) => write!(f, "beside:{workers}x{subscribers}x{rate}"),
            Self::Kill(n) => write!(f, "kill:{n}"),
        }
    }
}

impl Workload {
    /// Runs it.
    ///
    /// # Errors
    /// When the system does not do what the workload needs at all; single failed operations are counted instead.
    pub(crate) async fn run(self, system: &mut System, how_long: Duration) -> anyhow::Result<Figures> {
        let pids = system.pids();
        let addresses = system.addresses();
        let spread = |in_flight| connect::lanes(&addresses, in_flight);
        let closed = async |workers| -> anyhow::Result<Figures> {
            let lanes = spread(workers);
            Ok(load::closed(Put { lanes }, workers, how_long, &pids).await)
        };
        Ok(match (self, system.kind()) {
            (Self::Report(n), Kind::Brama) => {
                let operation = Failure {
                    lanes: spread(n),
                    circuits: MANY,
                };
                load::closed(operation, n, how_long, &pids).await
            }
            (Self::OneCircuit(n), Kind::Brama) => {
                let operation = Failure {
                    lanes: spread(n),
                    circuits: 1,
                };
                load::closed(operation, n, how_long, &pids).await
            }
            (Self::OneCircuit(n), Kind::Etcd) => {
                load::closed(Increment { lanes: spread(n) }, n, how_long, &pids).await
            }
            (Self::Stream(n, batch), Kind::Brama) => {
                stream::reports(&addresses, n, batch, how_long, &pids).await?
            }
            (Self::Report(n) | Self::Stream(n, _), Kind::Etcd) => closed(n).await?,
            (Self::Linearizable(n) | Self::Local(n), Kind::Brama) => {
                let operation = Look {
                    lanes: spread(n),
                    linearizable: matches!(self, Self::Linearizable(_)),
                };
                load::closed(operation, n, how_long, &pids).await
            }
            (Self::Linearizable(n) | Self::Local(n), Kind::Etcd) => {
                let operation = Get {
                    lanes: spread(n),
                    serializable: matches!(self, Self::Local(_)),
                };
                load::closed(operation, n, how_long, &pids).await
            }
            (Self::Rate(rate), Kind::Brama) => {
                let operation = Failure {
                    lanes: spread(16),
                    circuits: MANY,
                };
                load::open(operation, rate, how_long, &pids).await
            }
            (Self::Rate(rate), Kind::Etcd) => {
                load::open(Put { lanes: spread(16) }, rate, how_long, &pids).await
            }
            (Self::Fanout(subscribers, rate), kind) => {
                let fanout = Fanout::open(kind, &addresses, subscribers).await?;
                fanout.drive(rate, how_long, &pids).await?
            }
            (Self::Beside(workers, subscribers, rate), kind) => {
                let fanout = Fanout::open(kind, &addresses, subscribers).await?;
                let load = async {
                    match kind {
                        Kind::Brama => {
                            let operation = Failure {
                                lanes: spread(workers),
                                circuits: MANY,
                            };
                            Ok(load::closed(operation, workers, how_long, &pids).await)
                        }
                        Kind::Etcd => closed(workers).await,
                    }
                };
                // The changes begin half a second later than the load, and end after it.
                let changes = fanout.drive(rate, how_long + Duration::from_secs(1), &pids);
                let (load, told) = tokio::try_join!(load, changes)?;
                Figures {
                    last_told_ms: told.last_told_ms,
                    missing: told.missing,
                    ..load
                }
            }
            (Self::Kill(times), _) => {
                let mut took = Vec::new();
                for _ in 0..times {
                    took.push(failover::kill_leader(system).await?.as_secs_f64() * 1e3);
                }
                Figures {
                    p99_ms: took.iter().copied().fold(0.0, f64::max),
                    p50_ms: median(took.clone()),
                    each_ms: took,
                    ..Figures::default()
                }
            }
        })
    }
}

/// One line for a person.
pub(crate) fn line(on: Kind, workload: &Workload, figures: &Figures) -> String {
    let mut line = format!(
        "{:5} {:18} {:>9.0}/s  p50 {:>8.2} ms  p99 {:>8.2} ms  server {:>6.1} us/op  errors {}",
        format!("{on:?}").to_lowercase(),
        workload.to_string(),
        figures.per_second,
        figures.p50_ms,
        figures.p99_ms,
        figures.server_us,
        figures.errors
    );
    if let Some((p50, p99)) = figures.last_told_ms {
        line += &format!("  last told p50 {p50:.1} p99 {p99:.1} ms");
    }
    if let Some(missing) = figures.missing {
        line += &format!("  missing {missing}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_written_as_it_is_read() {
        for text in [
            "report:64",
            "stream:64",
            "stream:64x4",
            "beside:64x1000x100",
            "rate:0.5",
        ] {
            assert_eq!(text.parse::<Workload>().expect("one").to_string(), text);
        }
        assert_eq!("stream:64x4".parse(), Ok(Workload::Stream(64, 4)));
        for text in [
            "stream",
            "stream:",
            "stream:x4",
            "stream:64x",
            "stream:64x4x2",
            "streams:64",
        ] {
            assert!(text.parse::<Workload>().is_err(), "{text}");
        }
    }
}
