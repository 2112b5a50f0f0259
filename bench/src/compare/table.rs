//! The result for people: as a table for the terminal, and the same in Markdown.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use super::lines::{Line, Unit, Verdict};
use crate::figures::median;

/// For the terminal.
pub(crate) fn text(lines: &[Line]) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic);
    fill(&mut table, lines);
    table.to_string()
}

/// For a document.
pub(crate) fn markdown(lines: &[Line]) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::ASCII_MARKDOWN)
        .set_content_arrangement(ContentArrangement::Disabled);
    fill(&mut table, lines);
    table.to_string()
}

fn fill(table: &mut Table, lines: &[Line]) {
    table.set_header(["", "Brama", "etcd", "ratio (rounds)", "bar", "reached"]);
    for line in lines {
        let numbers = [
            value(line.unit, &line.brama),
            value(line.unit, &line.etcd),
            ratio(&line.ratios),
        ];
        let mut row = vec![Cell::new(&line.what)];
        row.extend(numbers.map(|text| Cell::new(text).set_alignment(CellAlignment::Right)));
        row.push(Cell::new(line.bar.map(|bar| bar.to_string()).unwrap_or_default()));
        row.push(Cell::new(match line.verdict {
            Verdict::Yes => "yes",
            Verdict::No => "NO",
            Verdict::Unknown => "not measured",
            Verdict::Shown => "",
        }));
        table.add_row(row);
    }
}

/// The median.
fn value(unit: Unit, values: &[f64]) -> String {
    if values.is_empty() {
        return "-".into();
    }
    let middle = median(values.to_vec());
    match unit {
        Unit::PerSecond => format!("{}/s", thousands(middle)),
        Unit::Milliseconds if middle < 10.0 => format!("{middle:.2} ms"),
        Unit::Milliseconds if middle < 100.0 => format!("{middle:.1} ms"),
        Unit::Milliseconds => format!("{} ms", thousands(middle)),
        Unit::ProcessorUs => format!("{middle:.1} us"),
        Unit::Times => format!("{middle:.2} x"),
        Unit::Count => thousands(middle),
    }
}

/// The median, and between which the rounds were.
fn ratio(ratios: &[f64]) -> String {
    let mut sorted = ratios.to_vec();
    sorted.sort_by(f64::total_cmp);
    let short = |ratio: f64| match ratio {
        ratio if ratio < 10.0 => format!("{ratio:.2}"),
        ratio if ratio < 100.0 => format!("{ratio:.1}"),
        ratio => thousands(ratio),
    };
    match sorted[..] {
        [] => "-".into(),
        [one] => format!("{} x", short(one)),
        [least, .., most] => format!(
            "{} x ({} to {})",
            short(median(sorted.clone())),
            short(least),
            short(most)
        ),
    }
}

/// `12,345`.
fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(thousands(0.0), "0");
        assert_eq!(thousands(999.4), "999");
        assert_eq!(thousands(999.6), "1,000");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
        assert_eq!(value(Unit::PerSecond, &[3.0, 45_000.2, 50_000.0]), "45,000/s");
        assert_eq!(value(Unit::Milliseconds, &[1.006]), "1.01 ms");
        assert_eq!(value(Unit::Milliseconds, &[]), "-");
    }

    #[test]
    fn a_ratio_says_how_far_the_rounds_are_apart() {
        assert_eq!(ratio(&[]), "-");
        assert_eq!(ratio(&[3.456]), "3.46 x");
        assert_eq!(ratio(&[12.0, 9.0, 11.0]), "11.0 x (9.00 to 12.0)");
    }
}
