//! Axes and marks, as SVG.
//!
//! Scales and ticks are those of plotters. The marks are written here: its own SVG has neither classes, which a page needs to be read in the
//! dark, nor titles, which show a mark's numbers under the pointer.

use maud::{Markup, html};
use plotters::coord::combinators::{IntoLogRange, LogCoord};
use plotters::coord::ranged1d::{BoldPoints, Ranged};
use plotters::coord::types::RangedCoordf64;

use super::FaultBar;
use super::bins::seconds;

/// Of all charts, in units that are pixels on a page wide enough.
pub(super) const WIDTH: f64 = 1000.0;
/// Where time begins: left of it are the names of rows and the numbers of the axis.
pub(super) const LEFT: f64 = 190.0;
const RIGHT: f64 = 985.0;
/// Below an axis of time: its numbers, and its name.
pub(super) const FOOT: f64 = 40.0;
const TICKS_OF_TIME: usize = 12;
const TICKS_OF_VALUES: usize = 5;
/// plotters maps to whole numbers; so many of them are one unit of the chart.
const FINE: f64 = 10.0;

/// From values to places.
pub(super) struct Axis {
    scale: Scale,
    /// Where the lowest and the highest value are.
    places: (f64, f64),
}

enum Scale {
    Linear(RangedCoordf64),
    Log(LogCoord<f64>),
}

impl Axis {
    /// Seconds, from the left to the right.
    pub(super) fn time(lasts: f64) -> Self {
        Self {
            scale: Scale::Linear((0.0..lasts).into()),
            places: (LEFT, RIGHT),
        }
    }

    /// From zero, upwards.
    pub(super) fn from_zero(most: f64, top: f64, bottom: f64) -> Self {
        Self {
            scale: Scale::Linear((0.0..most.max(1.0)).into()),
            places: (bottom, top),
        }
    }

    /// Powers of ten that hold all of these values, upwards.
    pub(super) fn logarithmic(least: f64, most: f64, top: f64, bottom: f64) -> Self {
        // A hair below it, so that no rounding takes its tick away.
        let low = 10_f64.powf(least.log10().floor()) * (1.0 - 1e-9);
        let high = 10_f64.powf(most.log10().ceil()).max(low * 10.0);
        Self {
            scale: Scale::Log((low..high).log_scale().into()),
            places: (bottom, top),
        }
    }

    pub(super) fn at(&self, value: f64) -> f64 {
        let fine = |place: f64| (place * FINE) as i32;
        let limits = (fine(self.places.0), fine(self.places.1));
        let place = match &self.scale {
            Scale::Linear(scale) => scale.map(&value, limits),
            Scale::Log(scale) => scale.map(&value, limits),
        };
        f64::from(place) / FINE
    }

    fn ticks(&self, most: usize) -> Vec<f64> {
        match &self.scale {
            Scale::Linear(scale) => scale.key_points(BoldPoints(most)),
            Scale::Log(scale) => scale.key_points(BoldPoints(most)),
        }
    }

    /// Lines and numbers of an axis that goes up, and what it counts.
    pub(super) fn upwards(&self, name: &str) -> Markup {
        let (bottom, top) = self.places;
        let middle = (bottom + top) / 2.0;
        html! {
            @for tick in self.ticks(TICKS_OF_VALUES) {
                @let y = self.at(tick);
                line class="grid" x1=(LEFT) x2=(RIGHT) y1=(y) y2=(y) {}
                text class="tick" x=(LEFT - 6.0) y=(y + 4.0) text-anchor="end" { (number(tick)) }
            }
            text class="axis" text-anchor="middle" transform={ "translate(" (LEFT - 62.0) " " (middle) ") rotate(-90)" } { (name) }
        }
    }

    /// Numbers of the axis of time below a chart, with lines up to `top`.
    pub(super) fn along(&self, top: f64, bottom: f64) -> Markup {
        html! {
            @for tick in self.ticks(TICKS_OF_TIME) {
                @let x = self.at(tick);
                line class="grid" x1=(x) x2=(x) y1=(top) y2=(bottom) {}
                text class="tick" x=(x) y=(bottom + 16.0) text-anchor="middle" { (number(tick)) }
            }
            line class="frame" x1=(LEFT) x2=(RIGHT) y1=(bottom) y2=(bottom) {}
            text class="axis" x=((LEFT + RIGHT) / 2.0) y=(bottom + 34.0) text-anchor="middle" { "time since the run began (s)" }
        }
    }
}

/// A chart, with what it shows for those who cannot see it.
pub(super) fn chart(id: &str, title: &str, says: &str, height: f64, content: Markup) -> Markup {
    html! {
        div class="chart" {
            svg id=(id) viewBox={ "0 0 " (WIDTH) " " (height) } width=(WIDTH) height=(height) role="img"
                aria-labelledby={ (id) "-title " (id) "-says" } xmlns="http://www.w3.org/2000/svg" {
                title id={ (id) "-title" } { (title) }
                desc id={ (id) "-says" } { (says) }
                (content)
            }
        }
    }
}

/// What the colours of a chart mean: class and name.
pub(super) fn legend(entries: &[(&str, &str)]) -> Markup {
    html! {
        ul class="legend" {
            @for (class, name) in entries {
                li {
                    svg class="key" viewBox="0 0 24 12" width="24" height="12" aria-hidden="true" {
                        @if class.starts_with("line") {
                            line class=(class) x1="1" x2="23" y1="6" y2="6" {}
                        } @else if class.starts_with("dot") {
                            circle class=(class) cx="12" cy="6" r="4" {}
                        } @else {
                            rect class=(class) x="1" y="1" width="22" height="10" {}
                        }
                    }
                    " " (name)
                }
            }
        }
    }
}

/// Where something was broken, behind a chart.
pub(super) fn shades(faults: &[FaultBar], time: &Axis, top: f64, bottom: f64) -> Markup {
    html! {
        @for fault in faults {
            @let from = time.at(seconds(fault.from));
            @let width = tenths((time.at(seconds(fault.until)) - from).max(1.0));
            rect class="shade" x=(from) y=(top) width=(width) height=(bottom - top) {
                title { (fault.label) ", " (fault.nodes) }
            }
        }
    }
}

/// A line through these points.
pub(super) fn line(class: &str, points: &[(f64, f64)]) -> Markup {
    let path: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    html! { polyline class=(class) points=(path.join(" ")) {} }
}

/// Nobody sees more of a place.
pub(super) fn tenths(place: f64) -> f64 {
    (place * 10.0).round() / 10.0
}

/// As short as it goes.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 10_000.0 => format!("{}k", trimmed(value / 1000.0)),
        _ => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.001, 0.5, 7.0, 1500.0, 10_000.0, 12_500.0].map(number);
        assert_eq!(shown, ["0", "0.001", "0.5", "7", "1500", "10k", "12.5k"]);
    }

    #[test]
    fn a_logarithmic_axis_has_its_powers_of_ten_at_equal_distances() {
        let axis = Axis::logarithmic(0.3, 700.0, 0.0, 400.0);
        let places: Vec<_> = [0.1, 1.0, 10.0, 100.0, 1000.0].map(|v| axis.at(v).round()).into();
        assert_eq!(places, [400.0, 300.0, 200.0, 100.0, 0.0]);
        let ticks: Vec<_> = axis.ticks(TICKS_OF_VALUES).into_iter().map(number).collect();
        assert_eq!(ticks, ["0.1", "1", "10", "100", "1000"]);
    }
}
