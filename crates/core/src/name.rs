//! Names and reasons: text that was checked once and is cheap to share.

use std::fmt;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::limits::{MAX_NAME_BYTES, MAX_REASON_BYTES};
use crate::reply::Refusal;

/// A scope or an identifier: 1..=255 bytes of UTF-8 without control characters. Its clone is O(1) and allocates nothing.
pub type Name = SmolStr;

/// What a circuit is called: a pair, never a joined string, so that `("a", "b:c")` is not `("a:b", "c")`.
///
/// The order is that of listings: no scope first, then by scope, then by identifier.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CircuitName {
    /// No scope is different from every scope.
    pub scope: Option<Name>,
    /// Unique within its scope.
    pub identifier: Name,
}

impl CircuitName {
    /// A checked name.
    ///
    /// # Errors
    /// [`Refusal::InvalidArgument`] that names `scope` or `identifier` if it is empty, too long or has a control character.
    pub fn new(scope: Option<&str>, identifier: &str) -> Result<Self, Refusal> {
        if let Some(scope) = scope {
            check_name("scope", scope)?;
        }
        check_name("identifier", identifier)?;
        Ok(Self {
            scope: scope.map(Name::new),
            identifier: Name::new(identifier),
        })
    }

    /// Checks a name that came ready-made, e.g. from another node.
    ///
    /// # Errors
    /// As [`CircuitName::new`].
    pub fn validate(&self) -> Result<(), Refusal> {
        if let Some(scope) = &self.scope {
            check_name("scope", scope)?;
        }
        check_name("identifier", &self.identifier)
    }
}

impl fmt::Display for CircuitName {
    /// For people: `identifier`, or `scope / identifier`. Never parsed back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scope {
            Some(scope) => write!(f, "{scope} / {}", self.identifier),
            None => f.write_str(&self.identifier),
        }
    }
}

fn check_name(field: &'static str, text: &str) -> Result<(), Refusal> {
    if text.is_empty() {
        return Err(Refusal::invalid(field, "must not be empty"));
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(Refusal::invalid(
            field,
            format!("has {} bytes, at most {MAX_NAME_BYTES} are allowed", text.len()),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(Refusal::invalid(field, "must not contain control characters"));
    }
    Ok(())
}

/// Checks a reason against its limit.
///
/// # Errors
/// [`Refusal::InvalidArgument`] that names `reason`.
pub fn check_reason(reason: Option<&str>) -> Result<(), Refusal> {
    match reason {
        Some(text) if text.len() > MAX_REASON_BYTES => Err(Refusal::invalid(
            "reason",
            format!("has {} bytes, at most {MAX_REASON_BYTES} are allowed", text.len()),
        )),
        _ => Ok(()),
    }
}
