//! What the arguments of commands in scripts mean.

use std::error::Error;
use std::str::FromStr;
use std::sync::Arc;

use brama_core::Metadata;
use brama_core::command::PermitId;
use brama_core::policy::{Expiry, ExpiryStrategy, GlobalOptions, Policy, PolicyOption};
use goldenscript::ArgumentConsumer;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The arguments of one command, each taken once.
pub(crate) struct Arguments<'a>(pub(crate) ArgumentConsumer<'a>);

impl<'a> Arguments<'a> {
    /// The next argument without a key.
    pub(crate) fn next(&mut self) -> Option<&'a str> {
        self.0.next_pos()
    }

    pub(crate) fn required(&mut self, what: &str) -> Result<&'a str> {
        self.next().ok_or_else(|| format!("{what} is missing").into())
    }

    pub(crate) fn text(&mut self, key: &str) -> Option<&'a str> {
        self.0.take_key(key)
    }

    pub(crate) fn number<T: FromStr<Err: Error + 'static>>(&mut self, key: &str) -> Result<Option<T>> {
        Ok(self.text(key).map(str::parse).transpose()?)
    }

    pub(crate) fn duration(&mut self, key: &str) -> Result<Option<u64>> {
        self.text(key).map(duration).transpose()
    }

    pub(crate) fn expiry(&mut self, key: &str) -> Result<Option<Expiry>> {
        self.text(key)
            .map(|text| match text {
                "never" => Ok(Expiry::Never),
                text => Ok(Expiry::Ms(duration(text)?)),
            })
            .transpose()
    }

    pub(crate) fn permit(&mut self) -> Result<Option<PermitId>> {
        Ok(self.number("permit")?.map(PermitId))
    }

    pub(crate) fn reason(&mut self) -> Option<Arc<str>> {
        self.text("reason").map(Arc::from)
    }

    /// `metadata="key:value, key:value"`.
    pub(crate) fn metadata(&mut self) -> Result<Metadata> {
        let text = self.text("metadata").unwrap_or_default();
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        entries
            .map(|entry| {
                let (key, value) = entry.split_once(':').ok_or("metadata is key:value")?;
                Ok((key, value))
            })
            .collect()
    }

    pub(crate) fn policy(&mut self) -> Result<Policy> {
        let expiry_strategy = match self.text("expiry_strategy") {
            None => None,
            Some("fixed") => Some(ExpiryStrategy::Fixed),
            Some("progressive") => Some(ExpiryStrategy::Progressive),
            Some(other) => return Err(format!("{other} is no strategy").into()),
        };
        Ok(Policy {
            max_attempts: self.number("max_attempts")?,
            expiry: self.expiry("expiry")?,
            expiry_strategy,
            initial_expiry_ms: self.duration("initial_expiry")?,
            max_expiry_ms: self.duration("max_expiry")?,
            backoff_factor: self.number("backoff_factor")?,
            half_open_max_probes: self.number("half_open_max_probes")?,
            half_open_successes: self.number("half_open_successes")?,
            probe_timeout_ms: self.duration("probe_timeout")?,
        })
    }

    pub(crate) fn global(&mut self) -> Result<GlobalOptions> {
        Ok(GlobalOptions {
            inactive_threshold_ms: self.duration("inactive_threshold")?,
            cleanup_interval_ms: self.duration("cleanup_interval")?,
        })
    }

    /// `clear="max_attempts, expiry"`.
    pub(crate) fn clear(&mut self) -> Result<Vec<PolicyOption>> {
        let text = self.text("clear").unwrap_or_default();
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        names
            .map(|name| PolicyOption::parse(name).ok_or_else(|| format!("{name} is no option").into()))
            .collect()
    }

    /// What is left must be nothing.
    pub(crate) fn end(&self) -> Result<()> {
        self.0.reject_next()
    }
}

/// `0s`, `10s`, `500ms`, `5m`, `24h`, `30d`; in milliseconds.
pub(crate) fn duration(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        other => return Err(format!("{other:?} is no unit of time").into()),
    };
    Ok(digits.parse::<u64>()? * unit)
}
