//! The lines that a node writes, for people or for machines, to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoggingError {
    /// `log.level` cannot be read; a checked configuration never gets here.
    #[error("log.level is not a level or a list of directives: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// This process has a log already.
    #[error("the log was set up before: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends all of this process's log to standard error, once and for good.
///
/// # Errors
/// [`LoggingError`].
pub fn init(config: &LogConfig) -> Result<(), LoggingError> {
    let filter = EnvFilter::try_new(&config.level)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => lines
            .with_ansi(std::io::stderr().is_terminal())
            .finish()
            .try_init()?,
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}
