//! The sheet: one figure a quantity, one line a node, over time.

use std::path::Path;

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::samples::{Quantity, Sample, Samples};

const WIDTH: u32 = 1100;
const HEIGHT: u32 = 190;
const COLOURS: [RGBColor; 3] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 96, 20),
    RGBColor(44, 140, 44),
];
const GREY: RGBColor = RGBColor(130, 130, 130);

/// One line: a name, and pieces without a gap.
struct Line {
    name: String,
    colour: RGBColor,
    pieces: Vec<Vec<(f64, f64)>>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws it.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn draw(samples: &Samples, path: &Path) -> anyhow::Result<()> {
    let told =
        |quantity: &Quantity| (0..samples.nodes()).any(|node| !samples.points(node, *quantity).is_empty());
    let quantities: Vec<_> = Quantity::ALL.into_iter().filter(told).collect();
    let mut figures: Vec<_> = quantities
        .into_iter()
        .map(|quantity| (quantity.name(), of_nodes(samples, quantity)))
        .collect();
    figures.push((
        "commands a second",
        of_all(samples, |sample| sample.commands_per_second),
    ));
    figures.push(("latency p99, ms", of_all(samples, |sample| sample.p99_ms)));
    let root = SVGBackend::new(path, (WIDTH, HEIGHT * figures.len() as u32)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    for (area, (name, lines)) in root.split_evenly((figures.len(), 1)).iter().zip(&figures) {
        figure(area, name, lines, samples.lasted / 60.0)?;
    }
    root.present().map_err(failed)
}

fn figure(area: &Area<'_>, name: &str, lines: &[Line], minutes: f64) -> anyhow::Result<()> {
    let caption = format!("{name} (what grows is judged to the right of the grey line)");
    // Of the load nothing is judged.
    let caption = if lines.len() > 1 { &caption } else { name };
    let values = lines.iter().flat_map(|line| line.pieces.iter().flatten());
    let most = values.map(|(_, value)| *value).fold(1.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 15))
        .margin(6)
        .margin_right(30)
        .x_label_area_size(20)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..minutes, 0.0..most)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(12)
        .y_labels(5)
        .label_style(("sans-serif", 11))
        .x_label_formatter(&|minute| format!("{minute:.1} min"))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()
        .map_err(failed)?;
    // Where the judging begins.
    let third = [(minutes / 3.0, 0.0), (minutes / 3.0, most)];
    chart.draw_series(LineSeries::new(third, GREY)).map_err(failed)?;
    for line in lines {
        for (n, piece) in line.pieces.iter().enumerate() {
            let drawn = chart
                .draw_series(LineSeries::new(
                    piece.iter().copied(),
                    line.colour.stroke_width(2),
                ))
                .map_err(failed)?;
            if n == 0 && lines.len() > 1 {
                let colour = line.colour;
                drawn
                    .label(&line.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
            }
        }
    }
    if lines.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .label_font(("sans-serif", 11))
            .draw()
            .map_err(failed)?;
    }
    Ok(())
}

/// A line breaks where a process ended.
fn of_nodes(samples: &Samples, quantity: Quantity) -> Vec<Line> {
    let line = |node: usize| {
        let points = samples.points(node, quantity);
        let lives = points.chunk_by(|a, b| a.life == b.life);
        Line {
            name: format!("node {}", node + 1),
            colour: COLOURS[node % COLOURS.len()],
            pieces: lives
                .map(|life| {
                    life.iter()
                        .map(|point| (point.at.as_secs_f64() / 60.0, point.value))
                        .collect()
                })
                .collect(),
        }
    };
    (0..samples.nodes()).map(line).collect()
}

fn of_all(samples: &Samples, value: impl Fn(&Sample) -> f64) -> Vec<Line> {
    let points = samples.all.iter().map(|sample| (sample.at / 60.0, value(sample)));
    vec![Line {
        name: String::new(),
        colour: COLOURS[0],
        pieces: vec![points.collect()],
    }]
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("the sheet cannot be drawn: {error}")
}
