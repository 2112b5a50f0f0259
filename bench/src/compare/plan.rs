//! What is run on each system for each topic.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::connect;
use crate::system::Kind;
use crate::workload::Workload;

/// Subscribers, and changes a second, that the bars name.
pub(crate) const SUBSCRIBERS: u32 = 1000;
pub(crate) const CHANGES: f64 = 100.0;
/// In flight, where the bars name one number only.
pub(crate) const SOME: usize = 64;
/// In flight, where they name two.
pub(crate) const CROWDS: [usize; 2] = [64, 1024];
/// Clients whose reports are gathered: each sends what it has in one batch, and the next when that is answered.
pub(crate) const GATHERING: usize = connect::MOST;
/// Subscribers of each search for the highest fan-out, and where it begins, in changes a second.
pub(crate) const SWEEPS: [(u32, f64); 2] = [(100, 800.0), (1000, 40.0)];

/// A group of lines in the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Topic {
    /// One client's write
    One,
    /// 64 and 1,024 reports, or puts, in flight
    Report,
    /// 64 reports on one circuit, or increments of one key
    OneCircuit,
    /// `ReportStream` against as many puts
    Stream,
    /// Linearizable and local reads, 64 in flight
    Reads,
    /// So many writes a second, whatever the answers do
    Rate,
    /// A thousand subscribers to one circuit
    Fanout,
    /// Reports while a thousand subscribers are told
    Beside,
    /// The highest fan-out
    Sweep,
    /// A leader that is killed
    Kill,
}

/// How much of everything.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    /// What is measured, a workload.
    pub(crate) seconds: Duration,
    /// The same, a step of a sweep.
    pub(crate) sweep_seconds: Duration,
    /// Open loop, operations a second.
    pub(crate) rates: Vec<f64>,
    /// See [`super::sweep::Sweep::new`].
    pub(crate) resolution: f64,
    pub(crate) tries: usize,
    /// A round.
    pub(crate) kills: usize,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step {
    Measure(Workload),
    /// Searches the highest rate of changes, beginning with the one that is given.
    Sweep(u32, f64),
}

/// Everything to do on one system, in order, each once: what two topics need is shared.
pub(crate) fn steps(topics: &[Topic], kind: Kind, scale: &Scale) -> Vec<Step> {
    let mut steps = Vec::new();
    for topic in Topic::value_variants() {
        if !topics.contains(topic) {
            continue;
        }
        for step in of(*topic, kind, scale) {
            if !steps.contains(&step) {
                steps.push(step);
            }
        }
    }
    steps
}

fn of(topic: Topic, kind: Kind, scale: &Scale) -> Vec<Step> {
    let workloads = match topic {
        Topic::One => vec![Workload::Report(1)],
        Topic::Report => CROWDS.map(Workload::Report).to_vec(),
        // The same reports over many circuits are what one circuit is held against.
        Topic::OneCircuit => match kind {
            Kind::Brama => vec![Workload::Report(SOME), Workload::OneCircuit(SOME)],
            Kind::Etcd => vec![Workload::OneCircuit(SOME)],
        },
        // etcd has nothing of the kind: its puts are what there is.
        Topic::Stream => match kind {
            Kind::Brama => CROWDS
                .iter()
                .flat_map(|n| [Workload::Stream(*n, 1), Workload::Stream(*n, n / GATHERING)])
                .collect(),
            Kind::Etcd => CROWDS.map(Workload::Report).to_vec(),
        },
        Topic::Reads => vec![Workload::Linearizable(SOME), Workload::Local(SOME)],
        Topic::Rate => scale.rates.iter().copied().map(Workload::Rate).collect(),
        Topic::Fanout => vec![Workload::Fanout(SUBSCRIBERS, CHANGES)],
        Topic::Beside => vec![
            Workload::Beside(SOME, 0, CHANGES),
            Workload::Beside(SOME, SUBSCRIBERS, CHANGES),
        ],
        Topic::Sweep => return SWEEPS.map(|(n, start)| Step::Sweep(n, start)).to_vec(),
        Topic::Kill => vec![Workload::Kill(scale.kills)],
    };
    workloads.into_iter().map(Step::Measure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale() -> Scale {
        Scale {
            seconds: Duration::from_secs(1),
            sweep_seconds: Duration::from_secs(1),
            rates: vec![100.0],
            resolution: 2.0,
            tries: 1,
            kills: 1,
        }
    }

    #[test]
    fn what_two_topics_need_is_run_once() {
        let steps = steps(&[Topic::Stream, Topic::Report], Kind::Etcd, &scale());
        assert_eq!(steps, CROWDS.map(|n| Step::Measure(Workload::Report(n))));
    }

    #[test]
    fn a_topic_alone_brings_what_it_is_held_against() {
        let steps = steps(&[Topic::OneCircuit], Kind::Brama, &scale());
        assert!(steps.contains(&Step::Measure(Workload::Report(SOME))));
    }
}
