//! What a subject writes its metrics on.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;

use brama_raft::histogram::Distribution;

/// Metrics of one subject, written anew at each scrape. Names are whole, with unit and `_total`, as they are found in the document.
pub(super) struct Sheet<'a>(DescriptorEncoder<'a>);

/// A value of a gauge or a counter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Number {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<u32> for Number {
    fn from(value: u32) -> Self {
        Self::Whole(value.into())
    }
}

impl From<bool> for Number {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<std::time::Duration> for Number {
    /// Seconds.
    fn from(value: std::time::Duration) -> Self {
        Self::Real(value.as_secs_f64())
    }
}

/// In which unit a histogram's whole numbers are shown.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scale {
    /// As they are.
    One,
    /// Microseconds, shown as seconds.
    Micros,
}

impl Sheet<'_> {
    /// A gauge without labels.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Into<Number>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        gauge(&mut metric, value.into())
    }

    /// A gauge with labels: a row a series.
    pub(super) fn gauges<const N: usize, L: AsRef<str>, V: Into<Number>>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        rows: impl IntoIterator<Item = ([L; N], V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (values, number) in rows {
            let labels = pairs(&labels, &values);
            gauge(&mut metric.encode_family(&labels.as_slice())?, number.into())?;
        }
        Ok(())
    }

    /// A counter without labels.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl Into<Number>) -> fmt::Result {
        let name = counter_name(name);
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        counter(&mut metric, value.into())
    }

    /// A counter with labels: a row a series.
    pub(super) fn counters<const N: usize, L: AsRef<str>, V: Into<Number>>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        rows: impl IntoIterator<Item = ([L; N], V)>,
    ) -> fmt::Result {
        let name = counter_name(name);
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (values, number) in rows {
            let labels = pairs(&labels, &values);
            counter(&mut metric.encode_family(&labels.as_slice())?, number.into())?;
        }
        Ok(())
    }

    /// A histogram without labels.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        scale: Scale,
        seen: &Distribution,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        histogram(&mut metric, scale, seen)
    }

    /// A histogram with labels.
    pub(super) fn histograms<const N: usize, L: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        scale: Scale,
        labels: [&str; N],
        rows: impl IntoIterator<Item = ([L; N], Distribution)>,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (values, seen) in rows {
            let labels = pairs(&labels, &values);
            histogram(&mut metric.encode_family(&labels.as_slice())?, scale, &seen)?;
        }
        Ok(())
    }
}

/// The encoder adds the ending where the format wants it.
fn counter_name(name: &str) -> &str {
    debug_assert!(name.ends_with("_total"), "{name} is a counter");
    name.strip_suffix("_total").unwrap_or(name)
}

fn pairs<'p, const N: usize, L: AsRef<str>>(
    names: &[&'p str; N],
    values: &'p [L; N],
) -> Vec<(&'p str, &'p str)> {
    names
        .iter()
        .copied()
        .zip(values.iter().map(AsRef::as_ref))
        .collect()
}

fn gauge(metric: &mut MetricEncoder<'_>, value: Number) -> fmt::Result {
    match value {
        // The encoder knows no larger whole number.
        Number::Whole(value) => metric.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX)),
        Number::Real(value) => metric.encode_gauge(&value),
    }
}

fn counter(metric: &mut MetricEncoder<'_>, value: Number) -> fmt::Result {
    let no_exemplar = None::<&Exemplar<NoLabelSet, f64>>;
    match value {
        Number::Whole(value) => metric.encode_counter(&value, no_exemplar),
        Number::Real(value) => metric.encode_counter(&value, no_exemplar),
    }
}

fn histogram(metric: &mut MetricEncoder<'_>, scale: Scale, seen: &Distribution) -> fmt::Result {
    let shown = |value: u64| match scale {
        Scale::One => value as f64,
        Scale::Micros => value as f64 / 1e6,
    };
    let mut buckets: Vec<_> = seen
        .buckets
        .iter()
        .map(|(bound, count)| (shown(*bound), *count))
        .collect();
    let within: u64 = seen.buckets.iter().map(|(_, count)| count).sum();
    buckets.push((f64::INFINITY, seen.count - within));
    metric.encode_histogram::<NoLabelSet>(shown(seen.sum), seen.count, &buckets, None)
}

/// One subject's metrics, as the registry keeps them.
pub(super) struct Subject<F>(pub(super) &'static str, pub(super) F);

impl<F> fmt::Debug for Subject<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Subject").field(&self.0).finish()
    }
}

impl<F: Fn(&mut Sheet<'_>) -> fmt::Result + Send + Sync + 'static> Collector for Subject<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.1)(&mut Sheet(encoder))
    }
}
