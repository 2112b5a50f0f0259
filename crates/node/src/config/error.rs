//! What can be wrong with a configuration.

use std::path::PathBuf;

/// Why a configuration is refused. Each message names the key, where its value came from, and what is allowed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// As given.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key that does not exist or a value of the wrong kind. The cause names the line.
    #[error("in the configuration file {}: {source}", path.display())]
    File {
        /// As given.
        path: PathBuf,
        /// Line, column, and what was expected there.
        source: Box<toml::de::Error>,
    },
    /// A variable that begins with `BRAMA_` and means nothing.
    #[error(
        "the environment variable {variable} is not a setting of Brama{}",
        hint(suggestion)
    )]
    UnknownVariable {
        /// Its name.
        variable: String,
        /// What may have been meant.
        suggestion: Option<String>,
    },
    /// A flag `--set` with a key that does not exist.
    #[error("{origin}: `{key}` is not a setting of Brama{}", hint(suggestion))]
    UnknownKey {
        /// As given.
        key: String,
        /// The flag.
        origin: String,
        /// What may have been meant.
        suggestion: Option<String>,
    },
    /// A key that must be given is not.
    #[error("{key} is missing: {problem}")]
    Missing {
        /// The key, e.g. `node.id`.
        key: &'static str,
        /// What it is for, and how to give it.
        problem: String,
    },
    /// A value that is not allowed.
    #[error("{key} ({origin}) {problem}")]
    Invalid {
        /// The key, e.g. `node.id`.
        key: String,
        /// Where the value came from.
        origin: String,
        /// What is wrong, and what is allowed.
        problem: String,
    },
}

fn hint(suggestion: &Option<String>) -> String {
    match suggestion {
        Some(name) => format!("; did you mean {name}?"),
        None => "; docs/configuration.md lists them all".to_owned(),
    }
}
