//! Putting the layers together, and remembering where each value came from.

use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::Config;
use super::check::check;
use super::error::ConfigError;
use super::keys::{self, Kind};
use super::raw::Raw;
use super::show::{Setting, settings};

/// Where a configuration is read from. The environment is handed in, so that nothing here depends on the process.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file; none: everything comes from the other layers.
    pub file: Option<PathBuf>,
    /// Name and value of environment variables; those that do not begin with `BRAMA_` are ignored.
    pub environment: Vec<(String, String)>,
    /// Flags, later ones over earlier ones.
    pub flags: Vec<Override>,
}

/// A key that a flag sets.
#[derive(Clone, Debug)]
pub struct Override {
    /// As in the file, e.g. `node.id`.
    pub key: String,
    /// As an environment variable would hold it.
    pub value: String,
    /// The flag, for messages: `--id`.
    pub flag: String,
}

/// A configuration, and where its values came from.
#[derive(Debug)]
pub struct Loaded {
    /// What holds.
    pub config: Config,
    /// Every key with its value and origin, in the order of the documentation.
    pub settings: Vec<Setting>,
}

impl Sources {
    /// The given file and this process's environment.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Override>) -> Self {
        // A variable that is not Unicode cannot be one of ours: their names and values are.
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        };
        let environment = std::env::vars_os().filter_map(text).collect();
        Self {
            file,
            environment,
            flags,
        }
    }
}

/// Reads all layers and checks what they give.
///
/// # Errors
/// [`ConfigError`]; the first problem that was found, in the order file, environment, flags, then the whole.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut figment = Figment::new();
    if let Some(path) = &sources.file {
        figment = figment.merge(file_layer(path)?);
    }
    for layer in environment_layers(&sources.environment)? {
        figment = figment.merge(layer);
    }
    for flag in &sources.flags {
        figment = figment.merge(flag_layer(flag)?);
    }
    let origins = Origins { figment: &figment };
    // Each layer could be read by itself, so this can only fail if one of them is at fault in a way that was not seen there.
    let raw: Raw = figment.extract().map_err(|error| origins.blame(&error))?;
    let config = check(raw, &origins)?;
    let settings = settings(&config, &origins);
    Ok(Loaded { config, settings })
}

/// Where values came from.
pub(super) struct Origins<'a> {
    figment: &'a Figment,
}

impl Origins<'_> {
    /// The origin of a key, for people; `default` if no layer has it.
    pub(super) fn of(&self, key: &str) -> String {
        self.figment
            .find_metadata(key)
            .map_or_else(|| "default".to_owned(), |metadata| metadata.name.to_string())
    }

    fn blame(&self, error: &figment::Error) -> ConfigError {
        let key = error.path.join(".");
        ConfigError::Invalid {
            origin: self.of(&key),
            key,
            problem: format!("is not allowed: {}", error.kind),
        }
    }
}

/// One layer, or one key of it.
struct Layer {
    /// What [`Origins::of`] says.
    origin: String,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

fn file_layer(path: &Path) -> Result<Layer, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let in_file = |source| ConfigError::File {
        path: path.to_owned(),
        source: Box::new(source),
    };
    // Read strictly first: this error shows the line, and the merged values no longer know theirs.
    toml::from_str::<Raw>(&text).map_err(in_file)?;
    let values = toml::from_str(&text).map_err(in_file)?;
    Ok(Layer {
        origin: format!("file {}", path.display()),
        values,
    })
}

fn environment_layers(environment: &[(String, String)]) -> Result<Vec<Layer>, ConfigError> {
    let mut ours: Vec<_> = environment
        .iter()
        .filter(|(name, _)| name.starts_with(keys::PREFIX) && !keys::OTHER_VARIABLES.contains(&name.as_str()))
        .collect();
    // In whatever order the process has them, the first problem is always the same one.
    ours.sort();
    ours.into_iter()
        .map(|(name, text)| {
            let known = keys::KEYS.iter().find(|(key, _)| keys::variable(key) == *name);
            let Some((key, kind)) = known else {
                let suggestion = keys::similar(&name[keys::PREFIX.len()..]).map(keys::variable);
                return Err(ConfigError::UnknownVariable {
                    variable: name.clone(),
                    suggestion,
                });
            };
            layer_of(key, *kind, text, format!("environment {name}"))
        })
        .collect()
}

fn flag_layer(flag: &Override) -> Result<Layer, ConfigError> {
    let origin = format!("flag {}", flag.flag);
    let Some((key, kind)) = keys::find(&flag.key) else {
        let suggestion = keys::similar(&flag.key).map(str::to_owned);
        return Err(ConfigError::UnknownKey {
            key: flag.key.clone(),
            origin,
            suggestion,
        });
    };
    layer_of(key, kind, &flag.value, origin)
}

/// The layer that sets one key to a text, which is checked here, where its origin is known.
fn layer_of(key: &'static str, kind: Kind, text: &str, origin: String) -> Result<Layer, ConfigError> {
    let invalid = |problem: String| ConfigError::Invalid {
        key: key.to_owned(),
        origin: origin.clone(),
        problem,
    };
    let value = parse(kind, text).map_err(|expected| invalid(format!("is {text:?}, not {expected}")))?;
    let values = figment::util::nest(key, value).into_dict().unwrap_or_default();
    let layer = Layer {
        origin: origin.clone(),
        values,
    };
    let alone = Figment::from(&layer).extract::<Raw>();
    alone.map_err(|error| invalid(format!("is not allowed: {}", error.kind)))?;
    Ok(layer)
}

/// The value that a text stands for, or what was expected.
fn parse(kind: Kind, text: &str) -> Result<Value, &'static str> {
    match kind {
        Kind::Text => Ok(Value::from(text)),
        Kind::Number => text
            .trim()
            .parse::<u64>()
            .map(Value::from)
            .map_err(|_| "a whole number"),
        Kind::Fraction => text
            .trim()
            .parse::<f64>()
            .map(Value::from)
            .map_err(|_| "a number"),
        Kind::List => Ok(Value::from(parts(text).map(Value::from).collect::<Vec<_>>())),
        Kind::Members => {
            let expected = "a list like 1=host:port,2=host:port,3=host:port";
            let member = |part: &str| {
                let (id, peer) = part.split_once('=').ok_or(expected)?;
                let id: u64 = id.trim().parse().map_err(|_| expected)?;
                let peer = Value::from(peer.trim());
                Ok(Value::from(Dict::from([
                    ("id".to_owned(), Value::from(id)),
                    ("peer".to_owned(), peer),
                ])))
            };
            parts(text)
                .map(member)
                .collect::<Result<Vec<_>, _>>()
                .map(Value::from)
        }
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}
