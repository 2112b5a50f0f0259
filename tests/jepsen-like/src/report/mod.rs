//! One page about a run, for a person: what was done and what came of it over time, what was broken meanwhile, how long answers and events took, what
//! was checked, and how to do it again.
//!
//! The page is one HTML file that needs nothing else: no network, no scripts. Where it lies, histories and logs lie beside it ([`Folder`]).
//!
//! ```text
//!   Evidence, Findings, options  ->  Report  ->  page          the sections
//!                                                 figures      numbers and tables
//!                                                 timeline     operations by second and by kind, faults below
//!                                                 delays       latency, events behind acknowledgements, openings that end late
//!                                                   bins       what happened in each interval
//!                                                   chart      axes and marks, as SVG
//! ```

mod bins;
mod chart;
mod delays;
mod faults;
mod figures;
mod folder;
mod page;
#[cfg(test)]
mod tests;
mod timeline;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;

pub use faults::FaultBar;
pub(crate) use folder::began;
pub use folder::{Folder, Keeps};

use crate::check::Evidence;
use crate::findings::Findings;
use crate::time::Micros;

/// All that the page says.
#[derive(Debug)]
pub struct Report<'a> {
    /// What it was, in a few words.
    pub title: String,
    /// When it began, as people write it.
    pub began: String,
    /// Decided what happened.
    pub seed: u64,
    /// Does the same again.
    pub command: String,
    /// Name and value of everything that could have been otherwise.
    pub options: Vec<(String, String)>,
    /// What was seen.
    pub evidence: &'a Evidence,
    /// By revision, when the last subscriber got the event. May be empty.
    pub last_arrivals: BTreeMap<u64, Micros>,
    /// What went wrong on purpose.
    pub faults: Vec<FaultBar>,
    /// What was found.
    pub findings: &'a Findings,
    /// Pictures of what is broken.
    pub drawings: Vec<Drawing>,
    /// What lies beside the page: what it is, and its name from there.
    pub files: Vec<(String, String)>,
}

/// A picture of what is broken, e.g. of operations that fit no order.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// Of what.
    pub title: String,
    /// A piece of HTML or SVG, as it goes into the page: whoever makes it escapes what is in it.
    pub fragment: String,
}

/// Writes the page.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, report: &Report<'_>) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let page = page::page(report).into_string();
    std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))
}
