//! What a run found out.

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;

use crate::report::Drawing;

/// So many examples of one broken guarantee are shown; the rest is counted.
const SHOWN: usize = 10;

/// Everything a run has to say in the end.
#[derive(Debug, Default)]
pub struct Findings {
    broken: BTreeMap<&'static str, Vec<String>>,
    untold: Vec<String>,
    held: Vec<(&'static str, String)>,
    figures: Vec<(String, String)>,
    drawings: Vec<Drawing>,
}

/// The short form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of it held. Exit code 0.
    Holds,
    /// A guarantee is broken. Exit code 1.
    Broken,
    /// Nothing is known to be broken, but something could not be told. Exit code 3.
    Unknown,
}

impl Findings {
    /// A guarantee of the contract (`"G3"`), or a scenario's bound, is broken.
    pub fn broken(&mut self, guarantee: &'static str, what: impl Into<String>) {
        self.broken.entry(guarantee).or_default().push(what.into());
    }

    /// Something could not be told, so the run proves less than it should.
    pub fn untold(&mut self, what: impl Into<String>) {
        self.untold.push(what.into());
    }

    /// Something was checked; what, and on how much evidence. It shows only if nothing broke it.
    pub fn checked(&mut self, guarantee: &'static str, what: impl Into<String>) {
        self.held.push((guarantee, what.into()));
    }

    /// A number to know.
    pub fn figure(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.figures.push((name.into(), value.into()));
    }

    /// A picture of what is broken.
    pub fn draw(&mut self, drawing: Drawing) {
        self.drawings.push(drawing);
    }

    /// All pictures.
    pub fn drawings(&self) -> &[Drawing] {
        &self.drawings
    }

    /// Breaks `guarantee` unless `holds`.
    pub fn require(&mut self, holds: bool, guarantee: &'static str, what: impl FnOnce() -> String) {
        if !holds {
            self.broken(guarantee, what());
        }
    }

    /// Adds what another part found.
    pub fn merge(&mut self, other: Self) {
        for (guarantee, mut what) in other.broken {
            self.broken.entry(guarantee).or_default().append(&mut what);
        }
        self.untold.extend(other.untold);
        self.held.extend(other.held);
        self.figures.extend(other.figures);
        self.drawings.extend(other.drawings);
    }

    /// Adds what another part found broken, or could not tell, and nothing else of it.
    pub fn merge_failures(&mut self, other: Self) {
        self.merge(Self {
            held: Vec::new(),
            figures: Vec::new(),
            ..other
        });
    }

    /// How often `guarantee` was found broken.
    pub fn count(&self, guarantee: &str) -> usize {
        self.broken.get(guarantee).map_or(0, Vec::len)
    }

    /// What is broken, by guarantee.
    pub fn all_broken(&self) -> impl Iterator<Item = (&'static str, &[String])> {
        self.broken
            .iter()
            .map(|(guarantee, what)| (*guarantee, what.as_slice()))
    }

    /// How many broken promises there are, and things that could not be told.
    pub fn problems(&self) -> usize {
        self.broken.values().map(Vec::len).sum::<usize>() + self.untold.len()
    }

    /// What could not be told.
    pub fn all_untold(&self) -> &[String] {
        &self.untold
    }

    /// What was checked, also of guarantees that are broken.
    pub fn all_checked(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.held
            .iter()
            .map(|(guarantee, what)| (*guarantee, what.as_str()))
    }

    /// The numbers to know: name and value.
    pub fn all_figures(&self) -> &[(String, String)] {
        &self.figures
    }

    /// The short form.
    pub fn verdict(&self) -> Verdict {
        if !self.broken.is_empty() {
            Verdict::Broken
        } else if !self.untold.is_empty() {
            Verdict::Unknown
        } else {
            Verdict::Holds
        }
    }
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        Self::from(match verdict {
            Verdict::Holds => 0,
            Verdict::Broken => 1,
            Verdict::Unknown => 3,
        })
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.figures.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in &self.figures {
            writeln!(f, "  {name:width$}  {value}")?;
        }
        for (guarantee, what) in &self.held {
            if !self.broken.contains_key(guarantee) {
                writeln!(f, "  holds   {guarantee:4} {what}")?;
            }
        }
        for what in &self.untold {
            writeln!(f, "  UNKNOWN {what}")?;
        }
        for (guarantee, all) in &self.broken {
            for what in all.iter().take(SHOWN) {
                writeln!(f, "  BROKEN  {guarantee:4} {what}")?;
            }
            if all.len() > SHOWN {
                writeln!(f, "  BROKEN  {guarantee:4} ... and {} more", all.len() - SHOWN)?;
            }
        }
        write!(
            f,
            "  => {}",
            match self.verdict() {
                Verdict::Holds => "all of it held",
                Verdict::Broken => "BROKEN",
                Verdict::Unknown =>
                    "UNKNOWN: nothing is known to be broken, but not everything could be told",
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_weighs_more_than_unknown_and_unknown_more_than_nothing() {
        let mut findings = Findings::default();
        findings.checked("G3", "12 batches");
        assert_eq!(findings.verdict(), Verdict::Holds);
        findings.untold("no leader was ever paused");
        assert_eq!(findings.verdict(), Verdict::Unknown);
        findings.broken("G3", "batch 1-1-1 counted twice");
        assert_eq!(findings.verdict(), Verdict::Broken);
        let text = findings.to_string();
        assert!(text.contains("BROKEN  G3"), "{text}");
        assert!(!text.contains("holds   G3"), "{text}");
    }
}
