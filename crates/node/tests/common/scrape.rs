//! A scrape, read as Prometheus reads it: the text format, version 0.0.4.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::http;

/// One node's metrics at one moment.
#[derive(Debug, Default)]
pub struct Scrape {
    /// The type of each metric that is announced.
    pub types: BTreeMap<String, String>,
    /// Each sample: its name with labels, as it stands there, and its value.
    pub samples: BTreeMap<String, f64>,
    /// Metrics that have a sample.
    pub sampled: BTreeSet<String>,
}

impl Scrape {
    /// What the node at this address shows, checked for the rules of the format.
    pub async fn of(address: SocketAddr) -> Self {
        let page = http::get(address, "/metrics").await;
        assert_eq!(page.status, 200, "{}", page.body);
        assert_eq!(page.content_type, "text/plain; version=0.0.4; charset=utf-8");
        let mut scrape = Self::default();
        let mut helped = BTreeSet::new();
        for line in page.body.lines() {
            scrape.read(line, &mut helped);
        }
        scrape
    }

    fn read(&mut self, line: &str, helped: &mut BTreeSet<String>) {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').expect("a name and a text");
            assert!(text.len() > 3, "{line}");
            assert!(helped.insert(name.to_owned()), "twice: {line}");
        } else if let Some(announced) = line.strip_prefix("# TYPE ") {
            let (name, kind) = announced.split_once(' ').expect("a name and a type");
            assert!(helped.contains(name), "without help: {line}");
            assert!(
                self.types.insert(name.to_owned(), kind.to_owned()).is_none(),
                "twice: {line}"
            );
        } else {
            assert!(!line.starts_with('#') && !line.is_empty(), "{line:?}");
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            let name = series.split('{').next().unwrap_or_default();
            let family = self
                .family(name)
                .unwrap_or_else(|| panic!("of no metric: {line}"));
            self.sampled.insert(family);
            assert!(
                self.samples.insert(series.to_owned(), value).is_none(),
                "twice: {line}"
            );
        }
    }

    /// The metric that a sample of this name belongs to.
    fn family(&self, name: &str) -> Option<String> {
        let parts = ["_bucket", "_sum", "_count"];
        let histogram = parts.iter().find_map(|part| {
            let family = name.strip_suffix(part)?;
            (self.types.get(family)? == "histogram").then(|| family.to_owned())
        });
        histogram.or_else(|| self.types.contains_key(name).then(|| name.to_owned()))
    }

    /// A sample that must be there.
    pub fn value(&self, series: &str) -> f64 {
        let value = self.samples.get(series);
        *value.unwrap_or_else(|| panic!("no {series} among {:#?}", self.samples.keys()))
    }

    /// A sample, or 0 if it is not there.
    pub fn or_zero(&self, series: &str) -> f64 {
        self.samples.get(series).copied().unwrap_or(0.0)
    }

    /// The samples whose series begin so.
    pub fn starting<'a>(&'a self, start: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let all = self.samples.iter();
        all.filter(move |(series, _)| series.starts_with(start))
            .map(|(series, value)| (series.as_str(), *value))
    }
}
