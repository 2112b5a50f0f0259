//! Whether something grows.
//!
//! A node that was restarted begins small and fills up again, and snapshots make teeth of the disk. So like is compared with like:
//!
//! - within a life of a process, once it has filled up: the mean over the last tooth or so, and of that the median slope of all pairs (Theil
//!   and Sen's estimate, which single peaks do not move). It shows what a process loses.
//! - between two lives: their medians over the ages that both had. It shows what stays, on disk or in the replicated state.
//!
//! The larger of both slopes, over the time that was judged, is the growth. It is too much when it is more than a part of the level and more than
//! an amount that is nothing for this quantity.

use std::time::Duration;

/// One sample of one node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// Since the soak began.
    pub(super) at: Duration,
    /// Which life of the process: 0, 1, ...
    pub(super) life: u32,
    /// Since this life began.
    pub(super) age: Duration,
    pub(super) value: f64,
}

/// What is too much.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    /// Of the level.
    pub(super) part: f64,
    /// In the quantity's unit.
    pub(super) amount: f64,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Growth {
    /// Over the time that was judged, so much, of this level.
    Flat {
        by: f64,
        level: f64,
    },
    Grows {
        by: f64,
        level: f64,
    },
    /// There is not enough to judge.
    Untold,
}

/// A process has filled up when it is so old.
pub(super) const FILLED: Duration = Duration::from_secs(90);
/// Teeth up to about this long are levelled.
const TOOTH: Duration = Duration::from_secs(120);
/// Pairs closer than this say more of noise than of growth.
const APART: Duration = Duration::from_secs(30);
/// Fewer pairs say nothing.
const PAIRS: usize = 30;
/// Two lives can be compared that had this part of the judged time in common: less would compare one tooth with another.
const IN_COMMON: f64 = 0.125;

/// Judges the points at and after `from`.
pub(super) fn judge(points: &[Point], from: Duration, bound: Bound) -> Growth {
    let judged: Vec<_> = points.iter().filter(|point| point.at >= from).collect();
    let (Some(first), Some(last)) = (judged.first(), judged.last()) else {
        return Growth::Untold;
    };
    let window = (last.at - first.at).as_secs_f64();
    let lives: Vec<_> = judged.chunk_by(|a, b| a.life == b.life).collect();
    let slopes = [
        within_lives(&lives),
        between_lives(&lives, Duration::from_secs_f64(window * IN_COMMON)),
    ];
    let Some(slope) = slopes.into_iter().flatten().reduce(f64::max) else {
        return Growth::Untold;
    };
    let level = median(judged.iter().map(|point| point.value).collect());
    let by = slope * window;
    if by > bound.amount && by > bound.part * level {
        Growth::Grows { by, level }
    } else {
        Growth::Flat { by, level }
    }
}

/// The median slope, a second, within lives; `None`: there is too little.
fn within_lives(lives: &[&[&Point]]) -> Option<f64> {
    let mut slopes = Vec::new();
    for life in lives {
        let level = levelled(life);
        for (i, a) in level.iter().enumerate() {
            let later = level[i + 1..].iter().filter(|b| b.0 - a.0 >= APART.as_secs_f64());
            slopes.extend(later.map(|b| (b.1 - a.1) / (b.0 - a.0)));
        }
    }
    (slopes.len() >= PAIRS).then(|| median(slopes))
}

/// When (in seconds), and the mean over the time of a tooth that ends then; only once the process had filled up before.
fn levelled(life: &[&Point]) -> Vec<(f64, f64)> {
    let filled = &life[life.partition_point(|point| point.age < FILLED)..];
    let ends = filled
        .iter()
        .enumerate()
        .filter(|(_, end)| end.age >= FILLED + TOOTH);
    let level = ends.map(|(n, end)| {
        let tooth = filled[..=n]
            .iter()
            .rev()
            .take_while(|point| end.at - point.at < TOOTH);
        let values: Vec<_> = tooth.map(|point| point.value).collect();
        (
            end.at.as_secs_f64(),
            values.iter().sum::<f64>() / values.len() as f64,
        )
    });
    level.collect()
}

/// The median slope, a second, between lives; `None`: no two had enough in common.
fn between_lives(lives: &[&[&Point]], in_common: Duration) -> Option<f64> {
    let mut slopes = Vec::new();
    for (i, a) in lives.iter().enumerate() {
        for b in &lives[i + 1..] {
            let ages = |life: &[&Point]| Some((life.first()?.age, life.last()?.age));
            let (Some(ages_a), Some(ages_b)) = (ages(a), ages(b)) else {
                continue;
            };
            let (youngest, oldest) = (ages_a.0.max(ages_b.0), ages_a.1.min(ages_b.1));
            if oldest.saturating_sub(youngest) < in_common {
                continue;
            }
            let middle = |life: &[&Point]| {
                let common = life
                    .iter()
                    .filter(|point| (youngest..=oldest).contains(&point.age));
                let (at, values) = common.map(|point| (point.at.as_secs_f64(), point.value)).unzip();
                (median(at), median(values))
            };
            let (a, b) = (middle(a), middle(b));
            slopes.push((b.1 - a.1) / (b.0 - a.0));
        }
    }
    (!slopes.is_empty()).then(|| median(slopes))
}

fn median(values: Vec<f64>) -> f64 {
    crate::figures::median(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Bound = Bound {
        part: 0.05,
        amount: 8.0,
    };
    const SOAK: u64 = 1200;
    const EVERY: usize = 4;
    /// A life of a node of three that are restarted in turn.
    const LIFE: u64 = 450;

    /// What a node shows over a soak; `value` gets the time, the age and the life.
    fn series(life: u64, value: impl Fn(f64, f64, u32) -> f64) -> Vec<Point> {
        let points = (0..SOAK).step_by(EVERY).map(|at| {
            let (nth, age) = ((at / life) as u32, at % life);
            // Noise, the same in each run.
            let noise = f64::from((at as u32).wrapping_mul(2_654_435_761) >> 24) / 255.0 - 0.5;
            Point {
                at: Duration::from_secs(at),
                life: nth,
                age: Duration::from_secs(age),
                value: value(at as f64, age as f64, nth) + 4.0 * noise,
            }
        });
        points.collect()
    }

    fn verdict(points: &[Point]) -> Growth {
        judge(points, Duration::from_secs(SOAK / 3), BOUND)
    }

    #[track_caller]
    fn flat(points: &[Point]) {
        let verdict = verdict(points);
        assert!(matches!(verdict, Growth::Flat { .. }), "{verdict:?}");
    }

    #[track_caller]
    fn grows(points: &[Point]) {
        let verdict = verdict(points);
        assert!(matches!(verdict, Growth::Grows { .. }), "{verdict:?}");
    }

    /// Full after a minute and a half.
    fn filling(age: f64) -> f64 {
        120.0 + 80.0 * (age / 90.0).min(1.0)
    }

    #[test]
    fn what_stays_is_flat() {
        flat(&series(10_000, |_, _, _| 200.0));
        flat(&series(LIFE, |_, _, _| 200.0));
    }

    #[test]
    fn what_fills_up_after_each_start_is_flat() {
        flat(&series(10_000, |_, age, _| filling(age)));
        flat(&series(LIFE, |_, age, _| filling(age)));
        flat(&series(150, |_, age, _| filling(age)));
    }

    #[test]
    fn a_peak_is_no_growth() {
        flat(&series(LIFE, |at, age, _| {
            filling(age) + if (900.0..960.0).contains(&at) { 300.0 } else { 0.0 }
        }));
    }

    #[test]
    fn what_shrinks_is_flat() {
        flat(&series(10_000, |at, _, _| 300.0 - at / 10.0));
    }

    #[test]
    fn teeth_are_flat_and_teeth_that_grow_are_not() {
        for tooth in [20.0, 40.0, 77.0, 100.0, 120.0] {
            let teeth = |at: f64| 100.0 + 60.0 * (at % tooth) / tooth;
            flat(&series(10_000, |at, _, _| teeth(at)));
            flat(&series(LIFE, |at, _, _| teeth(at)));
            grows(&series(10_000, |at, _, _| teeth(at) + at / 25.0));
            grows(&series(LIFE, |at, _, _| teeth(at) + at / 25.0));
        }
    }

    #[test]
    fn what_a_process_loses_grows_although_a_restart_ends_it() {
        grows(&series(LIFE, |_, age, _| filling(age) + age / 20.0));
        grows(&series(10_000, |_, age, _| filling(age) + age / 40.0));
    }

    #[test]
    fn what_stays_over_restarts_grows_although_lives_are_short() {
        grows(&series(150, |at, age, _| filling(age) + at / 20.0));
        grows(&series(LIFE, |_, age, life| {
            filling(age) + 30.0 * f64::from(life)
        }));
    }

    #[test]
    fn steps_up_are_growth_and_one_at_the_beginning_is_not() {
        grows(&series(10_000, |at, _, _| 200.0 + 20.0 * (at / 200.0).floor()));
        flat(&series(10_000, |at, _, _| {
            200.0 + if at > 300.0 { 50.0 } else { 0.0 }
        }));
    }

    #[test]
    fn a_little_of_much_and_much_of_little_are_no_growth() {
        // 6 of 500, and a quarter of 20.
        flat(&series(10_000, |at, _, _| 500.0 + at / 130.0));
        flat(&series(10_000, |at, _, _| 20.0 + at / 160.0));
    }

    #[test]
    fn too_little_is_not_judged() {
        assert_eq!(judge(&[], Duration::ZERO, BOUND), Growth::Untold);
        let short: Vec<_> = series(10_000, |_, _, _| 1.0).into_iter().take(20).collect();
        assert_eq!(judge(&short, Duration::ZERO, BOUND), Growth::Untold);
    }
}
