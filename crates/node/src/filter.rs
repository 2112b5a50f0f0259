//! Filters of subscriptions: an expression in CEL over the fields of `event`.
//!
//! A filter runs for every event and every subscriber, so it must be cheap. CEL always ends, but nested macros over long lists can
//! take as long as one likes. What could is refused when the subscription begins: an expression is small, a macro runs over
//! `event.metadata` or a literal list, and there is no macro within a macro. Should one be slow all the same, the subscription ends
//! with an error ([`TooSlow`]).

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};
use cel::{Context, Env, Program, Value};

use brama_core::ClusterTime;
use brama_core::circuit::StateName;
use brama_core::event::{Cause, Event, EventKind};
use brama_core::name::CircuitName;

/// Bytes of a filter.
pub const MAX_FILTER_BYTES: usize = 1024;
/// Parts of a filter: names, literals, operators, calls.
const MAX_NODES: usize = 300;
/// How deep its brackets, conditions and negations may be nested.
const MAX_NESTING: usize = 24;
/// Bytes of a regular expression.
const MAX_PATTERN_BYTES: usize = 128;
/// How long a filter may take for one event.
const BUDGET: Duration = Duration::from_millis(20);

/// Functions that a filter may call, beside operators and macros.
const FUNCTIONS: [&str; 23] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "int",
    "uint",
    "double",
    "string",
    "bool",
    "timestamp",
    "duration",
    "type",
    "getFullYear",
    "getMonth",
    "getDayOfYear",
    "getDayOfMonth",
    "getDate",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
];

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A filter that was found to be valid and cheap.
#[derive(Debug)]
pub struct Filter {
    program: Program,
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
        check_nesting(source)?;
        let program = Program::compile(source).map_err(|error| format!("is no CEL expression: {error}"))?;
        let mut check = Check {
            nodes: 0,
            variables: vec!["event".to_owned()],
            in_macro: false,
        };
        check.visit(program.expression())?;
        let filter = Self { program };
        // An expression that can never be true or false is a mistake that its author wants to hear of.
        match filter.run(&sample()) {
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
        let started = Instant::now();
        let value = self.run(event);
        let took = started.elapsed();
        if took > BUDGET {
            Err(TooSlow { took })
        } else {
            Ok(matches!(value, Ok(Value::Bool(true))))
        }
    }

    fn run(&self, event: &Event) -> Result<Value, cel::ExecutionError> {
        let mut context = Context::with_env(ENV.clone());
        context.add_variable_from_value("event", fields(event));
        self.program.execute(&context)
    }
}

/// What a filter sees of an event.
fn fields(event: &Event) -> Value {
    let text = |text: &str| Value::String(Arc::new(text.to_owned()));
    let optional = |value: Option<&str>| value.map_or(Value::Null, text);
    let number = |n: u64| Value::Int(i64::try_from(n).unwrap_or(i64::MAX));
    let state = |state: Option<StateName>| optional(state.map(StateName::name));
    let metadata: std::collections::HashMap<String, Value> = event
        .metadata
        .iter()
        .map(|(key, value)| (key.to_string(), text(value)))
        .collect();
    let fields: std::collections::HashMap<&'static str, Value> = [
        ("revision", number(event.revision)),
        ("time", time(event.time)),
        (
            "scope",
            optional(event.name.as_ref().and_then(|name| name.scope.as_deref())),
        ),
        (
            "identifier",
            optional(event.name.as_ref().map(|name| &*name.identifier)),
        ),
        ("type", text(event.kind.name())),
        ("previous_state", state(event.previous_state)),
        ("new_state", state(event.new_state)),
        ("failure_count", number(event.failure_count.into())),
        ("cause", text(event.cause.name())),
        ("reason", optional(event.reason.as_deref())),
        ("metadata", metadata.into()),
        ("generation", number(event.generation)),
        ("count", number(event.count)),
        ("openings_in_a_row", number(event.openings_in_a_row.into())),
    ]
    .into();
    fields.into()
}

fn time(time: ClusterTime) -> Value {
    let micros = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    chrono::DateTime::from_timestamp_micros(micros)
        .map_or(Value::Null, |time| Value::Timestamp(time.fixed_offset()))
}

fn sample() -> Event {
    Event {
        revision: 1,
        time: ClusterTime::from_micros(1_700_000_000_000_000),
        name: CircuitName::new(Some("scope"), "identifier").ok(),
        kind: EventKind::CircuitOpened,
        previous_state: Some(StateName::Closed),
        new_state: Some(StateName::Open),
        failure_count: 5,
        cause: Cause::Threshold,
        reason: Some("reason".into()),
        metadata: Arc::default(),
        generation: 2,
        count: 0,
        expires_at: None,
        permit: None,
        openings_in_a_row: 1,
    }
}

fn check_nesting(source: &str) -> Result<(), String> {
    let (mut depth, mut deepest, mut conditions, mut signs, mut most_signs) = (0_usize, 0, 0, 0_usize, 0);
    for c in source.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '?' => conditions += 1,
            _ => {}
        }
        signs = match c {
            '!' | '-' => signs + 1,
            c if c.is_whitespace() => signs,
            _ => 0,
        };
        deepest = deepest.max(depth);
        most_signs = most_signs.max(signs);
    }
    if deepest.max(conditions).max(most_signs) > MAX_NESTING {
        return Err(format!(
            "is nested too deeply, at most {MAX_NESTING} levels are allowed"
        ));
    }
    Ok(())
}

/// Walks an expression and refuses what it must not hold.
struct Check {
    nodes: usize,
    variables: Vec<String>,
    in_macro: bool,
}

impl Check {
    fn visit(&mut self, expression: &IdedExpr) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(format!("would run too long: it has more than {MAX_NODES} parts"));
        }
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) if self.variables.contains(name) => Ok(()),
            Expr::Ident(name) => Err(format!("names `{name}`, but there is only `event`")),
            Expr::Select(select) => self.visit(&select.operand),
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.visit(element)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.visit(&entry.key)?;
                    self.visit(&entry.value)
                }
                EntryExpr::StructField(field) => self.visit(&field.value),
            }),
            Expr::Struct(_) => Err("must not make messages".to_owned()),
            Expr::Call(call) => {
                let is_operator = !call.func_name.starts_with(|c: char| c.is_ascii_alphabetic());
                if !is_operator && !FUNCTIONS.contains(&&*call.func_name) {
                    return Err(format!(
                        "calls `{}`, which is no function for filters",
                        call.func_name
                    ));
                }
                if call.func_name == "matches" {
                    check_pattern(call.args.last())?;
                }
                call.target
                    .as_deref()
                    .map_or(Ok(()), |target| self.visit(target))?;
                call.args.iter().try_for_each(|arg| self.visit(arg))
            }
            Expr::Comprehension(comprehension) => {
                if self.in_macro {
                    return Err("would run too long: it has a macro within a macro".to_owned());
                }
                if !is_short(&comprehension.iter_range.expr) {
                    return Err(
                        "would run too long: a macro may run over event.metadata or a list that is written out".to_owned()
                    );
                }
                self.visit(&comprehension.iter_range)?;
                self.in_macro = true;
                let known = self.variables.len();
                self.variables.push(comprehension.iter_var.clone());
                self.variables.extend(comprehension.iter_var2.clone());
                self.variables.push(comprehension.accu_var.clone());
                for part in [
                    &comprehension.accu_init,
                    &comprehension.loop_cond,
                    &comprehension.loop_step,
                    &comprehension.result,
                ] {
                    self.visit(part)?;
                }
                self.variables.truncate(known);
                self.in_macro = false;
                Ok(())
            }
        }
    }
}

fn is_short(range: &Expr) -> bool {
    match range {
        Expr::List(_) => true,
        Expr::Select(select) => {
            select.field == "metadata" && matches!(&select.operand.expr, Expr::Ident(name) if name == "event")
        }
        _ => false,
    }
}

fn check_pattern(pattern: Option<&IdedExpr>) -> Result<(), String> {
    match pattern.map(|pattern| &pattern.expr) {
        // Regular expressions are linear in the text; what could grow is the pattern, by counted repetition.
        Some(Expr::Literal(LiteralValue::String(pattern)))
            if pattern.inner().len() <= MAX_PATTERN_BYTES && !pattern.inner().contains('{') =>
        {
            Ok(())
        }
        _ => Err(format!(
            "would run too long: `matches` takes a pattern that is written out, of at most {MAX_PATTERN_BYTES} bytes, without counted repetition"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(source: &str) -> bool {
        Filter::compile(source)
            .unwrap_or_else(|problem| panic!("{source}: {problem}"))
            .passes(&sample())
            .unwrap()
    }

    #[test]
    fn it_sees_the_fields_of_an_event() {
        for source in [
            "true",
            "event.type == 'circuit_opened' && event.new_state == \"open\" && event.previous_state == 'closed'",
            "event.failure_count >= 5 && event.revision == 1 && event.generation == 2 && event.openings_in_a_row > 0",
            "event.identifier.startsWith('ident') && event.scope == 'scope' && event.reason.contains('eas')",
            "event.cause in ['threshold', 'probe']",
            "event.time < timestamp('2030-01-01T00:00:00Z')",
            "!has(event.metadata.team)",
            "event.identifier.matches('^i.*r$')",
            "event.metadata.all(key, key != 'x')",
            "['a', 'identifier'].exists(name, name == event.identifier)",
        ] {
            assert!(passes(source), "{source}");
        }
        for source in [
            "false",
            "event.metadata.team == 'pay'",
            "event.metadata['team'] == 'pay'",
        ] {
            assert!(!passes(source), "{source}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (source, problem) in [
            ("event.type ==", "is no CEL expression"),
            ("1 + 1", "must be true or false"),
            ("evnt.type == 'x'", "names `evnt`"),
            ("foo(event)", "calls `foo`"),
            ("[1,2].all(x, [1,2].all(y, x > y))", "too long"),
            ("event.reason.matches(event.reason)", "too long"),
            ("event.reason.matches('a{1000}{1000}')", "too long"),
            ("[[1],[2]][0].all(x, x > 0)", "too long"),
        ] {
            let error = Filter::compile(source).expect_err(source);
            assert!(error.contains(problem), "{source}: {error}");
        }
        assert!(Filter::compile(&"(".repeat(1000)).unwrap_err().contains("nested"));
        assert!(Filter::compile(&"!".repeat(1000)).unwrap_err().contains("nested"));
        assert!(
            Filter::compile(&format!("true{}", " && true".repeat(200)))
                .unwrap_err()
                .contains("bytes")
        );
    }

    #[test]
    fn the_largest_filter_is_cheap() {
        let list = (0..100).map(|i| format!("'{i}'")).collect::<Vec<_>>().join(",");
        let filter = Filter::compile(&format!(
            "[{list}].exists(x, x == event.identifier + event.reason)"
        ))
        .unwrap();
        let started = Instant::now();
        for _ in 0..100 {
            assert!(!filter.passes(&sample()).unwrap());
        }
        assert!(started.elapsed() < 100 * BUDGET, "{:?}", started.elapsed());
    }
}
