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
    let filter = filter(&config.level)?;
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

/// Libraries whose lines at `info` and below are for those who work on them.
const CHATTY: [&str; 4] = ["openraft", "h2", "hyper_util", "tower"];

/// The level for us, and warnings from [`CHATTY`] libraries; a directive that names one of them (`info,openraft=info`) still counts.
fn filter(level: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    let least = match level.trim().to_ascii_lowercase().as_str() {
        "off" => "off",
        "error" => "error",
        _ => "warn",
    };
    // openraft tells the end of each heartbeat task as an error, also when it asked for it, and warns of each attempt to reach a node
    // that is away, of which `brama_raft` tells once.
    let errors = if least == "off" { "off" } else { "error" };
    let noise = if level.contains("openraft") {
        String::new()
    } else {
        let of_replication = [
            "replication",
            "proposer::leader",
            "engine::handler::replication_handler",
        ];
        let quiet: String = of_replication
            .map(|module| format!("openraft::{module}={errors},"))
            .concat();
        format!("openraft::core::heartbeat::worker=off,{quiet}")
    };
    let quiet: Vec<String> = CHATTY
        .iter()
        .map(|library| format!("{library}={least}"))
        .collect();
    EnvFilter::try_new(format!("{noise}{},{level}", quiet.join(",")))
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn libraries_are_quiet_unless_they_are_asked() {
        let text = |level| filter(level).expect("a filter").to_string();
        assert!(text("info").contains("openraft=warn"));
        assert!(text("error").contains("openraft=error"));
        assert!(text("off").contains("openraft=off"));
        let asked = text("info,openraft=debug");
        assert!(
            asked.contains("openraft=debug") && !asked.contains("openraft=warn"),
            "{asked}"
        );
        assert!(filter("loud=louder").is_err());
    }
}
