//! Whether something grows.
//!
//! A process that was started fills up first, and what it holds goes up with its log and down with each snapshot, in teeth. A slope within a
//! tooth says nothing, and the mean over some teeth says which part of a tooth was cut off. So two lines are judged, of a process that has filled up:
//! the height of its teeth, and their foot, each the most or least that it held, but for single moments, in the time of some teeth that ends then.
//!
//! - Whoever leaks has more at the foot of each tooth, and needs more at its height: both rise.
//! - A busier machine makes higher teeth, for a while: the foot stays. What no tooth may reach has a limit of its own.
//! - An allocator keeps more or less of what was freed for the next tooth: the height stays.
//!
//! So the growth is that of the line that rises less, by the median slope of all pairs (Theil and Sen's estimate, which single peaks do not move),
//! and only of a process that lived for most of the time: the slope of a short life would have to be multiplied, and its noise with it. The
//! soak lets some live (see `restarts`).
//!
//! The slope over the time that was judged is the growth. It is too much when it is more than a part of the level and more than an amount that is
//! nothing for this quantity.

use std::time::Duration;

use crate::figures::median;

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
/// The foot and the height of a tooth: of all samples, so many are below.
const ENDS: [f64; 2] = [0.05, 0.95];
/// Pairs closer than this say more of noise than of growth.
const APART: Duration = Duration::from_secs(30);
/// A life is judged if there are teeth for this part of the judged time.
const LONG: f64 = 0.5;

/// Judges the points at and after `from`.
pub(super) fn judge(points: &[Point], from: Duration, bound: Bound) -> Growth {
    let judged: Vec<_> = points.iter().filter(|point| point.at >= from).collect();
    let (Some(first), Some(last)) = (judged.first(), judged.last()) else {
        return Growth::Untold;
    };
    let window = (last.at - first.at).as_secs_f64();
    let mut slopes = [Vec::new(), Vec::new()];
    for life in judged.chunk_by(|a, b| a.life == b.life) {
        let teeth = teeth(life);
        let (Some(begin), Some(end)) = (teeth.first(), teeth.last()) else {
            continue;
        };
        if end.at - begin.at < LONG * window {
            continue;
        }
        for (line, slopes) in slopes.iter_mut().enumerate() {
            for (i, a) in teeth.iter().enumerate() {
                let later = teeth[i + 1..]
                    .iter()
                    .filter(|b| b.at - a.at >= APART.as_secs_f64());
                slopes.extend(later.map(|b| (b.ends[line] - a.ends[line]) / (b.at - a.at)));
            }
        }
    }
    if slopes.iter().any(Vec::is_empty) {
        return Growth::Untold;
    }
    let level = median(judged.iter().map(|point| point.value).collect());
    let by = slopes.map(median).into_iter().fold(f64::MAX, f64::min) * window;
    if by > bound.amount && by > bound.part * level {
        Growth::Grows { by, level }
    } else {
        Growth::Flat { by, level }
    }
}

/// The foot and the height of the teeth in the time of some that ends at a moment.
struct Teeth {
    /// In seconds.
    at: f64,
    ends: [f64; 2],
}

/// Those of a life, moment by moment; only once the process had filled up before.
fn teeth(life: &[&Point]) -> Vec<Teeth> {
    let filled = &life[life.partition_point(|point| point.age < FILLED)..];
    let moments = filled
        .iter()
        .enumerate()
        .filter(|(_, end)| end.age >= FILLED + TOOTH);
    let teeth = moments.map(|(n, end)| {
        let recent = filled[..=n]
            .iter()
            .rev()
            .take_while(|point| end.at - point.at < TOOTH);
        let mut values: Vec<_> = recent.map(|point| point.value).collect();
        values.sort_by(f64::total_cmp);
        Teeth {
            at: end.at.as_secs_f64(),
            ends: ENDS.map(|part| values[((values.len() - 1) as f64 * part) as usize]),
        }
    });
    teeth.collect()
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
    /// Longer than the soak.
    const LONG_LIFE: u64 = 10_000;

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

    #[track_caller]
    fn untold(points: &[Point]) {
        assert_eq!(verdict(points), Growth::Untold);
    }

    /// Full after a minute and a half.
    fn filling(age: f64) -> f64 {
        40.0 + 80.0 * (age / 90.0).min(1.0)
    }

    /// What a node shows: its log grows until the next snapshot.
    fn tooth(at: f64, tooth: f64) -> f64 {
        40.0 * (at % tooth) / tooth
    }

    #[test]
    fn what_stays_is_flat() {
        flat(&series(LONG_LIFE, |_, _, _| 200.0));
    }

    #[test]
    fn what_fills_up_after_a_start_is_flat() {
        flat(&series(LONG_LIFE, |_, age, _| filling(age)));
        // Started shortly before the judging begins, and then not any more.
        let late = series(LONG_LIFE, |at, _, _| filling((at - 300.0).max(0.0)));
        let late = late.into_iter().map(|point| Point {
            age: point.at.saturating_sub(Duration::from_secs(300)),
            ..point
        });
        flat(&late.collect::<Vec<_>>());
    }

    #[test]
    fn short_lives_are_not_judged() {
        untold(&series(150, |_, age, _| filling(age)));
        untold(&series(300, |at, age, _| filling(age) + at / 10.0));
    }

    #[test]
    fn a_peak_is_no_growth() {
        flat(&series(LONG_LIFE, |at, age, _| {
            filling(age) + if (900.0..960.0).contains(&at) { 300.0 } else { 0.0 }
        }));
    }

    #[test]
    fn what_shrinks_is_flat() {
        flat(&series(LONG_LIFE, |at, _, _| 300.0 - at / 10.0));
    }

    #[test]
    fn teeth_are_flat_and_a_leak_below_them_of_a_mebibyte_a_minute_is_not() {
        for length in [20.0, 40.0, 45.0, 61.0, 77.0, 100.0, 120.0] {
            flat(&series(LONG_LIFE, |at, age, _| filling(age) + tooth(at, length)));
            grows(&series(LONG_LIFE, |at, age, _| {
                filling(age) + tooth(at, length) + at / 60.0
            }));
        }
    }

    #[test]
    fn teeth_that_are_higher_while_the_machine_is_busy_are_flat() {
        flat(&series(LONG_LIFE, |at, age, _| {
            let busy = (750.0..930.0).contains(&at) || at > 1000.0;
            filling(age) + tooth(at, 45.0) * if busy { 1.6 } else { 1.0 }
        }));
    }

    #[test]
    fn an_allocator_that_keeps_ever_more_of_a_tooth_for_the_next_one_is_flat() {
        flat(&series(LONG_LIFE, |at, age, _| {
            let kept = 35.0 * (at / 900.0).min(1.0);
            filling(age) + tooth(at, 45.0).max(kept)
        }));
    }

    #[test]
    fn steps_up_are_growth_and_one_at_the_beginning_is_not() {
        grows(&series(LONG_LIFE, |at, _, _| 200.0 + 20.0 * (at / 200.0).floor()));
        flat(&series(LONG_LIFE, |at, _, _| {
            200.0 + if at > 300.0 { 50.0 } else { 0.0 }
        }));
    }

    #[test]
    fn a_little_of_much_and_much_of_little_are_no_growth() {
        // 6 of 500, and a quarter of 20.
        flat(&series(LONG_LIFE, |at, _, _| 500.0 + at / 130.0));
        flat(&series(LONG_LIFE, |at, _, _| 20.0 + at / 160.0));
    }

    #[test]
    fn too_little_is_not_judged() {
        assert_eq!(judge(&[], Duration::ZERO, BOUND), Growth::Untold);
        let short: Vec<_> = series(LONG_LIFE, |_, _, _| 1.0).into_iter().take(20).collect();
        assert_eq!(judge(&short, Duration::ZERO, BOUND), Growth::Untold);
    }
}
