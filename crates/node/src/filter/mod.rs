//! Filters of subscriptions: an expression in CEL over the fields of `event`.
//!
//! A filter runs for every event and every subscriber, so it must be cheap, whoever wrote it. CEL always ends, but nested macros over long
//! lists can take as long as one likes. So [`check`] looks at an expression before it ever runs, and refuses what could be dear; regular
//! expressions are compiled once and run in time linear in pattern and text. Should a filter be slow all the same, the subscription ends
//! with an error ([`TooSlow`]).

mod check;
mod fields;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use cel::extractors::This;
use cel::{Context, Env, ExecutionError, Program, Value};
use regex_lite::Regex;

use brama_core::event::Event;

/// Bytes of a filter.
pub const MAX_FILTER_BYTES: usize = 1024;
/// Bytes of a text that `matches` looks at: as many as the longest text of an event has.
const MAX_MATCHED_BYTES: usize = 1024;
/// How long a filter may take for one event.
const BUDGET: Duration = Duration::from_millis(20);
/// A filter is too slow when it was so this often in a row: once may be the fault of a machine that had other things to do.
const ATTEMPTS: usize = 3;

/// The functions and macros of CEL, without optional values.
static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// A filter that was found to be valid and cheap.
#[derive(Debug)]
pub struct Filter {
    program: Program,
    /// Those of `matches`, by their text.
    patterns: Arc<HashMap<String, Regex>>,
}

/// A filter took too long for one event.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("took {took:?} for one event, at most {BUDGET:?} are allowed")]
pub struct TooSlow {
    /// How long.
    pub took: Duration,
}

impl Filter {
    /// Compiles a filter.
    ///
    /// # Errors
    /// What is wrong with it, to be read after `filter`.
    pub fn compile(source: &str) -> Result<Self, String> {
        if source.len() > MAX_FILTER_BYTES {
            return Err(format!(
                "has {} bytes, at most {MAX_FILTER_BYTES} are allowed",
                source.len()
            ));
        }
        // Before the parser, which recurses.
        check::nesting(source)?;
        let program = ENV
            .compile(source)
            .map_err(|error| format!("is no CEL expression: {error}"))?;
        let patterns = Arc::new(check::expression(program.expression())?);
        let filter = Self { program, patterns };
        // A filter that confuses types would never match anything: its author wants to hear of it.
        match filter.run(&fields::sample()) {
            Err(
                error @ (ExecutionError::NoSuchOverload(_)
                | ExecutionError::UndeclaredReference(_)
                | ExecutionError::InvalidArgumentCount { .. }
                | ExecutionError::MissingArgumentOrTarget
                | ExecutionError::UnexpectedType { .. }
                | ExecutionError::NotSupportedAsMethod { .. }
                | ExecutionError::UnsupportedTargetType { .. }
                | ExecutionError::ValuesNotComparable(..)
                | ExecutionError::UnsupportedBinaryOperator(..)),
            ) => Err(format!("cannot be evaluated: {error}")),
            Ok(Value::Bool(_)) | Err(_) => Ok(filter),
            Ok(other) => Err(format!(
                "must be true or false, but is of type {}",
                other.type_of()
            )),
        }
    }

    /// Whether an event passes. What cannot be evaluated for an event (a key that its metadata do not have) does not pass.
    ///
    /// # Errors
    /// [`TooSlow`].
    pub fn passes(&self, event: &Event) -> Result<bool, TooSlow> {
        let mut shortest = Duration::MAX;
        for _ in 0..ATTEMPTS {
            let started = Instant::now();
            let value = self.run(event);
            let took = started.elapsed();
            if took <= BUDGET {
                return Ok(matches!(value, Ok(Value::Bool(true))));
            }
            shortest = shortest.min(took);
        }
        Err(TooSlow { took: shortest })
    }

    fn run(&self, event: &Event) -> Result<Value, ExecutionError> {
        let mut context = Context::with_env(ENV.clone());
        context.add_variable_from_value("event", fields::of(event));
        if !self.patterns.is_empty() {
            let patterns = self.patterns.clone();
            let matches =
                move |This(text): This<Arc<String>>, pattern: Arc<String>| match patterns.get(&*pattern) {
                    Some(pattern) if text.len() <= MAX_MATCHED_BYTES => Ok(pattern.is_match(&text)),
                    _ => Err(ExecutionError::function_error("matches", "the text is too long")),
                };
            context
                .add_function("matches", matches)
                .map_err(|error| ExecutionError::InternalError(error.to_string()))?;
        }
        self.program.execute(&context)
    }
}
