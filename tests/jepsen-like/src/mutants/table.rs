//! What came of the trials, for a person.

use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};

use super::plan::Mutant;
use super::trial::{Caught, Trial};

/// The table is as wide as this, whatever shows it.
const WIDTH: u16 = 150;

/// What came of one trial.
#[derive(Clone, Debug)]
pub struct Row {
    /// `None`: the build as it should be.
    pub mutant: Option<Mutant>,
    /// What was played.
    pub trial: Trial,
    /// What it found.
    pub caught: Caught,
    /// How long that took, with the start of the cluster.
    pub took: Duration,
}

impl Row {
    /// Whether it is a mutant, and was found for what it is.
    pub fn is_caught(&self) -> bool {
        self.mutant.is_some() && matches!(&self.caught, Caught::By(broken) if self.expected(broken).is_some())
    }

    /// In short, while the others are still played.
    pub(super) fn line(&self) -> String {
        format!(
            "  {:25} {:6.1} s  {}",
            self.name(),
            self.took.as_secs_f64(),
            self.outcome().0
        )
    }

    fn name(&self) -> &'static str {
        self.mutant.map_or("(none)", |mutant| mutant.name)
    }

    /// The first finding that is what this mutant does.
    fn expected<'a>(&self, broken: &'a [(String, String)]) -> Option<&'a (String, String)> {
        let breaks = self.mutant.map_or(&[][..], |mutant| mutant.breaks);
        broken
            .iter()
            .find(|(guarantee, _)| breaks.contains(&guarantee.as_str()))
    }

    /// What it means, and what was seen.
    fn outcome(&self) -> (String, &str) {
        match (&self.caught, self.mutant) {
            (Caught::Nothing, None) => ("holds".into(), ""),
            (Caught::Nothing, Some(_)) => ("NOT NOTICED".into(), ""),
            (Caught::Untold(why), _) => ("UNKNOWN".into(), why),
            (Caught::By(broken), _) => match (self.expected(broken), broken.first()) {
                (Some((guarantee, finding)), _) => (format!("caught by {guarantee}"), finding),
                (None, Some((guarantee, finding))) => (format!("BROKEN {guarantee}"), finding),
                (None, None) => ("BROKEN".into(), ""),
            },
        }
    }
}

pub(super) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
        .set_header(["mutant", "trial", "", "after", "first finding"]);
    for row in rows {
        let (what, finding) = row.outcome();
        table.add_row([
            row.name().to_owned(),
            row.trial.to_string(),
            what,
            format!("{:.0} s", row.took.as_secs_f64()),
            finding.chars().take(220).collect(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::MUTANTS;

    #[test]
    fn a_mutant_is_caught_only_for_what_it_does() {
        let mutant = MUTANTS.iter().find(|mutant| mutant.name == "no-session-dedup");
        let row = |mutant: Option<&Mutant>, broken: &[(&str, &str)]| Row {
            mutant: mutant.copied(),
            trial: MUTANTS[0].trial,
            caught: Caught::By(
                broken
                    .iter()
                    .map(|(guarantee, finding)| ((*guarantee).to_owned(), (*finding).to_owned()))
                    .collect(),
            ),
            took: Duration::ZERO,
        };
        assert!(row(mutant, &[("G3", "counted twice")]).is_caught());
        assert!(row(mutant, &[("G12", "no write"), ("G3", "counted twice")]).is_caught());
        assert!(!row(mutant, &[("G12", "no write")]).is_caught());
        assert!(!row(None, &[("G3", "counted twice")]).is_caught());
    }
}
