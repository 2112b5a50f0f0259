//! The lines of the result: what was measured of both, what they are to each other, and whether that reaches the bar.

use std::fmt;

use serde::Serialize;

use super::plan::{CHANGES, CROWDS, GATHERING, SOME, SUBSCRIBERS, SWEEPS, Topic};
use super::round::{Round, Turn};
use crate::figures::{Figures, median};
use crate::workload::Workload;

/// One line.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) topic: Topic,
    pub(crate) what: String,
    pub(crate) unit: Unit,
    /// Of each round that has it.
    pub(crate) brama: Vec<f64>,
    pub(crate) etcd: Vec<f64>,
    /// Brama's figure divided by etcd's, of each round that has both.
    pub(crate) ratios: Vec<f64>,
    pub(crate) bar: Option<Bar>,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    PerSecond,
    Milliseconds,
    /// Microseconds of all servers' processors.
    ProcessorUs,
    /// So many times something else, which the line names.
    Times,
    Count,
}

/// What is asked of a line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bar {
    /// The median of the rounds' ratios.
    RatioAtLeast(f64),
    RatioBelow(f64),
    /// The median of Brama's own figures.
    AtMost(f64),
    AtLeast(f64),
    /// Brama's figure, in every round.
    Always(f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Yes,
    No,
    /// Nothing was measured that could tell.
    Unknown,
    /// There is no bar.
    Shown,
}

/// All lines of these topics, in the order of the acceptance list.
pub(crate) fn lines(topics: &[Topic], rounds: &[Round]) -> Vec<Line> {
    let sheet = Sheet { rounds };
    let mut lines = Vec::new();
    for topic in topics {
        sheet.of(*topic, &mut lines);
    }
    lines
}

impl Bar {
    /// Whether what was measured reaches it.
    pub(crate) fn verdict(self, brama: &[f64], ratios: &[f64]) -> Verdict {
        let values = match self {
            Self::RatioAtLeast(_) | Self::RatioBelow(_) => ratios,
            Self::AtMost(_) | Self::AtLeast(_) | Self::Always(_) => brama,
        };
        if values.is_empty() {
            return Verdict::Unknown;
        }
        let middle = median(values.to_vec());
        let holds = match self {
            Self::RatioAtLeast(bar) | Self::AtLeast(bar) => middle >= bar,
            Self::RatioBelow(bar) => middle < bar,
            Self::AtMost(bar) => middle <= bar,
            Self::Always(bar) => values.iter().all(|value| *value == bar),
        };
        if holds { Verdict::Yes } else { Verdict::No }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RatioAtLeast(bar) => write!(f, "at least {bar} x etcd's"),
            Self::RatioBelow(bar) if *bar == 1.0 => write!(f, "below etcd's"),
            Self::RatioBelow(bar) => write!(f, "below {bar} x etcd's"),
            Self::AtMost(bar) => write!(f, "at most {bar}"),
            Self::AtLeast(bar) => write!(f, "at least {bar}"),
            Self::Always(bar) => write!(f, "{bar} in every round"),
        }
    }
}

/// Writes lines from rounds.
struct Sheet<'a> {
    rounds: &'a [Round],
}

impl Sheet<'_> {
    fn of(&self, topic: Topic, lines: &mut Vec<Line>) {
        let mut push = |what: String,
                        unit: Unit,
                        bar: Option<Bar>,
                        brama: &dyn Fn(&Turn) -> Option<f64>,
                        etcd: &dyn Fn(&Turn) -> Option<f64>| {
            lines.push(self.line(topic, what, unit, bar, brama, etcd));
        };
        let per_second = |workload| move |turn: &Turn| figure(turn, workload, |f| f.per_second);
        let p50 = |workload| move |turn: &Turn| figure(turn, workload, |f| f.p50_ms);
        let p99 = |workload| move |turn: &Turn| figure(turn, workload, |f| f.p99_ms);
        let server = |workload| move |turn: &Turn| figure(turn, workload, |f| f.server_us);
        let below = Some(Bar::RatioBelow(1.0));
        match topic {
            Topic::One => {
                let one = Workload::Report(1);
                let floors = |turn: &Turn| Some(p50(one)(turn)? / (turn.floor?.write().as_secs_f64() * 1e3));
                push(
                    "one client's write, p50".into(),
                    Unit::Milliseconds,
                    None,
                    &p50(one),
                    &p50(one),
                );
                push(
                    "one client's write, p50 / the floor of that minute".into(),
                    Unit::Times,
                    Some(Bar::AtMost(2.0)),
                    &floors,
                    &floors,
                );
                push(
                    "one client's write, p99".into(),
                    Unit::Milliseconds,
                    below,
                    &p99(one),
                    &p99(one),
                );
            }
            Topic::Report => {
                for n in CROWDS {
                    let work = Workload::Report(n);
                    let what = |of: &str| format!("{n} reports (puts) in flight{of}");
                    let bar = Some(Bar::RatioAtLeast(3.0));
                    push(
                        what(""),
                        Unit::PerSecond,
                        bar,
                        &per_second(work),
                        &per_second(work),
                    );
                    push(what(", p99"), Unit::Milliseconds, below, &p99(work), &p99(work));
                    push(
                        what(", servers' processor each"),
                        Unit::ProcessorUs,
                        below,
                        &server(work),
                        &server(work),
                    );
                }
            }
            Topic::OneCircuit => {
                let (one, many) = (Workload::OneCircuit(SOME), Workload::Report(SOME));
                push(
                    format!("{SOME} reports on one circuit (increments of one key)"),
                    Unit::PerSecond,
                    None,
                    &per_second(one),
                    &per_second(one),
                );
                let share = |turn: &Turn| Some(per_second(one)(turn)? / per_second(many)(turn)?);
                push(
                    "the same / over many circuits".into(),
                    Unit::Times,
                    Some(Bar::AtLeast(0.9)),
                    &share,
                    &|_| None,
                );
            }
            Topic::Stream => {
                for n in CROWDS {
                    let batch = n / GATHERING;
                    for (how, batch) in [(String::new(), 1), (format!(", {batch} a batch"), batch)] {
                        push(
                            format!("{n} in flight on `ReportStream`{how} (puts)"),
                            Unit::PerSecond,
                            Some(Bar::RatioAtLeast(10.0)),
                            &per_second(Workload::Stream(n, batch)),
                            &per_second(Workload::Report(n)),
                        );
                    }
                }
            }
            Topic::Reads => {
                let reads = [
                    ("linearizable", Workload::Linearizable(SOME), 4.0),
                    ("local", Workload::Local(SOME), 5.0),
                ];
                for (name, work, bar) in reads {
                    push(
                        format!("{SOME} {name} reads in flight"),
                        Unit::PerSecond,
                        Some(Bar::RatioAtLeast(bar)),
                        &per_second(work),
                        &per_second(work),
                    );
                }
            }
            Topic::Rate => {
                for rate in self.rates() {
                    let work = Workload::Rate(rate);
                    for (name, figure) in [("p50", &p50(work) as &dyn Fn(&Turn) -> _), ("p99", &p99(work))] {
                        push(
                            format!("{rate} reports (puts) a second, {name}"),
                            Unit::Milliseconds,
                            None,
                            figure,
                            figure,
                        );
                    }
                }
            }
            Topic::Fanout => {
                let work = Workload::Fanout(SUBSCRIBERS, CHANGES);
                let what = |of: &str| format!("{SUBSCRIBERS} subscribers, {CHANGES} changes a second: {of}");
                let last =
                    |pick: fn((f64, f64)) -> f64| move |turn: &Turn| turn.of(work)?.last_told_ms.map(pick);
                let missing = |turn: &Turn| Some(turn.of(work)?.missing? as f64);
                push(
                    what("not delivered"),
                    Unit::Count,
                    Some(Bar::Always(0.0)),
                    &missing,
                    &missing,
                );
                push(
                    what("last one told, p50"),
                    Unit::Milliseconds,
                    Some(Bar::AtMost(50.0)),
                    &last(|(p50, _)| p50),
                    &last(|(p50, _)| p50),
                );
                push(
                    what("last one told, p99"),
                    Unit::Milliseconds,
                    Some(Bar::AtMost(150.0)),
                    &last(|(_, p99)| p99),
                    &last(|(_, p99)| p99),
                );
                push(
                    what("servers' processor a delivery"),
                    Unit::ProcessorUs,
                    None,
                    &server(work),
                    &server(work),
                );
            }
            Topic::Beside => {
                let (alone, told) = (
                    Workload::Beside(SOME, 0, CHANGES),
                    Workload::Beside(SOME, SUBSCRIBERS, CHANGES),
                );
                push(
                    format!(
                        "{SOME} reports (puts) in flight while {SUBSCRIBERS} are told {CHANGES} changes a second"
                    ),
                    Unit::PerSecond,
                    None,
                    &per_second(told),
                    &per_second(told),
                );
                let share = |turn: &Turn| Some(per_second(told)(turn)? / per_second(alone)(turn)?);
                push(
                    "the same / without subscribers".into(),
                    Unit::Times,
                    Some(Bar::AtLeast(0.8)),
                    &share,
                    &share,
                );
            }
            Topic::Sweep => {
                for (subscribers, _) in SWEEPS {
                    let highest = |turn: &Turn| turn.highest(subscribers);
                    push(
                        format!("highest fan-out to {subscribers} with p99 below 250 ms, deliveries"),
                        Unit::PerSecond,
                        Some(Bar::RatioAtLeast(3.0)),
                        &highest,
                        &highest,
                    );
                }
            }
            Topic::Kill => lines.extend(self.kills()),
        }
    }

    fn line(
        &self,
        topic: Topic,
        what: String,
        unit: Unit,
        bar: Option<Bar>,
        brama: &dyn Fn(&Turn) -> Option<f64>,
        etcd: &dyn Fn(&Turn) -> Option<f64>,
    ) -> Line {
        let ratio = |round: &Round| {
            let (brama, etcd) = (brama(&round.brama)?, etcd(&round.etcd)?);
            (etcd > 0.0).then_some(brama / etcd)
        };
        Line::new(
            topic,
            what,
            unit,
            bar,
            self.rounds
                .iter()
                .filter_map(|round| brama(&round.brama))
                .collect(),
            self.rounds.iter().filter_map(|round| etcd(&round.etcd)).collect(),
            self.rounds.iter().filter_map(ratio).collect(),
        )
    }

    /// A round has few kills: those of all rounds are one sample, with one ratio.
    fn kills(&self) -> [Line; 2] {
        let all = |of: fn(&Round) -> &Turn| -> Vec<f64> {
            let turns = self.rounds.iter().map(of);
            turns
                .flat_map(|turn| turn.workloads.iter())
                .filter(|(name, _)| name.starts_with("kill:"))
                .flat_map(|(_, figures)| figures.each_ms.iter().copied())
                .collect()
        };
        let (brama, etcd) = (all(|round| &round.brama), all(|round| &round.etcd));
        let times = brama.len();
        let line = |what: String, bar, of: fn(&[f64]) -> Option<f64>| {
            let (a, b) = (of(&brama), of(&etcd));
            let ratio = a.zip(b).map(|(a, b)| a / b);
            let vec = |value: Option<f64>| value.into_iter().collect();
            Line::new(
                Topic::Kill,
                what,
                Unit::Milliseconds,
                bar,
                vec(a),
                vec(b),
                vec(ratio),
            )
        };
        let worst = |values: &[f64]| values.iter().copied().max_by(f64::total_cmp);
        let middle = |values: &[f64]| (!values.is_empty()).then(|| median(values.to_vec()));
        [
            line(
                format!("leader killed {times} times: next acknowledged write, median"),
                Some(Bar::RatioBelow(1.0)),
                middle,
            ),
            line("the same, worst".into(), None, worst),
        ]
    }

    /// The open loops that were run.
    fn rates(&self) -> Vec<f64> {
        let mut rates: Vec<f64> = self
            .rounds
            .iter()
            .flat_map(|round| round.brama.workloads.keys().chain(round.etcd.workloads.keys()))
            .filter_map(|name| name.strip_prefix("rate:")?.parse().ok())
            .collect();
        rates.sort_by(f64::total_cmp);
        rates.dedup();
        rates
    }
}

impl Line {
    fn new(
        topic: Topic,
        what: String,
        unit: Unit,
        bar: Option<Bar>,
        brama: Vec<f64>,
        etcd: Vec<f64>,
        ratios: Vec<f64>,
    ) -> Self {
        let verdict = bar.map_or(Verdict::Shown, |bar| bar.verdict(&brama, &ratios));
        Self {
            topic,
            what,
            unit,
            brama,
            etcd,
            ratios,
            bar,
            verdict,
        }
    }
}

fn figure(turn: &Turn, workload: Workload, pick: fn(&Figures) -> f64) -> Option<f64> {
    turn.of(workload).map(pick)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::compare::sweep::Sweep;
    use crate::floor::Floor;
    use crate::system::Kind;

    fn turn(figures: &[(Workload, Figures)]) -> Turn {
        Turn {
            floor: Some(Floor {
                round_trip: Duration::from_micros(100),
                sync_of_three: Duration::from_micros(300),
            }),
            workloads: figures
                .iter()
                .map(|(workload, figures)| (workload.to_string(), figures.clone()))
                .collect(),
            ..Turn::default()
        }
    }

    fn per_second(per_second: f64) -> Figures {
        Figures {
            per_second,
            ..Figures::default()
        }
    }

    fn rounds(each: impl IntoIterator<Item = (Turn, Turn)>) -> Vec<Round> {
        let round = |(brama, etcd)| Round {
            first: Kind::Brama,
            brama,
            etcd,
        };
        each.into_iter().map(round).collect()
    }

    fn find<'a>(lines: &'a [Line], what: &str) -> &'a Line {
        let found = lines.iter().find(|line| line.what.contains(what));
        found.unwrap_or_else(|| panic!("no line {what:?}"))
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() {
        let stream = |n| (Workload::Stream(64, 1), per_second(n));
        let puts = |n| (Workload::Report(64), per_second(n));
        // Ratios 9, 11, 12; the medians, 9,900 and 1,000, would give 9.9.
        let rounds = rounds([
            (turn(&[stream(9_000.0)]), turn(&[puts(1_000.0)])),
            (turn(&[stream(9_900.0)]), turn(&[puts(900.0)])),
            (turn(&[stream(24_000.0)]), turn(&[puts(2_000.0)])),
        ]);
        let lines = lines(&[Topic::Stream], &rounds);
        let line = find(&lines, "64 in flight on");
        assert_eq!(line.ratios, [9.0, 11.0, 12.0]);
        assert_eq!(line.verdict, Verdict::Yes);
        // Nobody measured the other one.
        assert_eq!(find(&lines, "1024 in flight on").verdict, Verdict::Unknown);
    }

    #[test]
    fn a_round_without_one_of_the_two_has_no_ratio() {
        let local = |n| turn(&[(Workload::Local(64), per_second(n))]);
        let rounds = rounds([
            (local(10.0), Turn::default()),
            (Turn::default(), local(10.0)),
            (local(40.0), local(10.0)),
        ]);
        let lines = lines(&[Topic::Reads], &rounds);
        let line = find(&lines, "local");
        assert_eq!((line.brama.len(), line.etcd.len()), (2, 2));
        assert_eq!(line.ratios, [4.0]);
        assert_eq!(line.verdict, Verdict::No);
    }

    #[test]
    fn the_floor_is_the_one_of_the_same_turn() {
        let one = |p50_ms| {
            let figures = Figures {
                p50_ms,
                p99_ms: 3.0 * p50_ms,
                ..Figures::default()
            };
            turn(&[(Workload::Report(1), figures)])
        };
        let lines = lines(&[Topic::One], &rounds([(one(1.0), one(1.5))]));
        let line = find(&lines, "floor");
        assert_eq!((line.brama[0], line.etcd[0]), (2.0, 3.0));
        assert_eq!(line.verdict, Verdict::Yes);
        assert_eq!(find(&lines, "p99").verdict, Verdict::Yes);
    }

    #[test]
    fn bars_are_reached_exactly_where_they_are() {
        let ratio = |bar: Bar, ratio: f64| bar.verdict(&[], &[ratio]);
        assert_eq!(ratio(Bar::RatioAtLeast(3.0), 3.0), Verdict::Yes);
        assert_eq!(ratio(Bar::RatioAtLeast(3.0), 2.999), Verdict::No);
        assert_eq!(ratio(Bar::RatioBelow(1.0), 0.999), Verdict::Yes);
        assert_eq!(ratio(Bar::RatioBelow(1.0), 1.0), Verdict::No);
        let own = |bar: Bar, values: &[f64]| bar.verdict(values, &[]);
        assert_eq!(own(Bar::AtMost(50.0), &[50.0]), Verdict::Yes);
        assert_eq!(own(Bar::AtMost(50.0), &[10.0, 50.1, 60.0]), Verdict::No);
        assert_eq!(own(Bar::AtLeast(0.9), &[0.9]), Verdict::Yes);
        assert_eq!(own(Bar::AtLeast(0.9), &[0.89]), Verdict::No);
        assert_eq!(own(Bar::AtMost(50.0), &[]), Verdict::Unknown);
    }

    #[test]
    fn one_lost_delivery_in_one_round_is_one_too_many() {
        assert_eq!(Bar::Always(0.0).verdict(&[0.0, 0.0, 0.0], &[]), Verdict::Yes);
        assert_eq!(Bar::Always(0.0).verdict(&[0.0, 1.0, 0.0], &[]), Verdict::No);
    }

    #[test]
    fn kills_of_all_rounds_are_one_sample() {
        let killed = |each: &[f64]| {
            let figures = Figures {
                each_ms: each.to_vec(),
                ..Figures::default()
            };
            turn(&[(Workload::Kill(each.len()), figures)])
        };
        let rounds = rounds([
            (killed(&[700.0, 900.0]), killed(&[1_000.0, 1_200.0])),
            (killed(&[800.0]), killed(&[1_600.0])),
        ]);
        let lines = lines(&[Topic::Kill], &rounds);
        let line = find(&lines, "killed 3 times");
        assert_eq!((line.brama[0], line.etcd[0]), (800.0, 1_200.0));
        assert_eq!(line.verdict, Verdict::Yes);
        assert_eq!(find(&lines, "worst").etcd, [1_600.0]);
    }

    #[test]
    fn a_sweep_gives_what_was_delivered_at_its_highest_rate() {
        let swept = |held: f64| {
            let mut sweep = Sweep::new(100.0, 2.0, 1);
            sweep.record(100.0, true, per_second(held));
            sweep.record(200.0, false, per_second(1e9));
            let mut turn = Turn::default();
            turn.sweeps.insert(100, sweep);
            turn
        };
        let lines = lines(&[Topic::Sweep], &rounds([(swept(30_000.0), swept(10_000.0))]));
        let line = find(&lines, "to 100 ");
        assert_eq!(line.brama, [30_000.0]);
        assert_eq!(line.verdict, Verdict::Yes);
    }
}
