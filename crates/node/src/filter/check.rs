//! What a filter must not hold, found by looking at the expression.
//!
//! Every part costs one. The parts of a macro's body cost one for each element that it runs over, so it may only run over what has a known
//! length: `event.metadata` or a list that is written out; and no macro may stand in the body of another. What `matches` costs is a
//! charge of its own. The sum is bounded, and with it the time of one run.

use std::collections::HashMap;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators,
};
use regex_lite::Regex;

use brama_core::limits::MAX_METADATA_ENTRIES;

use super::fields;

/// What a filter may cost.
const MAX_COST: usize = 3000;
/// Parts of a filter outside of macros, and of the body of one macro.
const MAX_PARTS: usize = 300;
const MAX_BODY_PARTS: usize = 100;
/// How deep its brackets, conditions and negations may be nested.
const MAX_NESTING: usize = 24;
/// What one `matches` costs: so much, and so much a byte of its pattern.
const MATCHES_COST: usize = 50;
const PATTERN_BYTE_COST: usize = 16;
const MAX_PATTERN_BYTES: usize = 128;

/// Functions that a filter may call, beside operators and macros.
const FUNCTIONS: [&str; 22] = [
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
/// Those of them that answer true or false, and the operators that do.
const PREDICATES: [&str; 15] = [
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "bool",
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER,
    operators::GREATER_EQUALS,
    operators::LESS,
    operators::LESS_EQUALS,
    operators::IN,
];

/// Checks how deep an expression is nested, before it is parsed.
///
/// # Errors
/// What is wrong with it.
pub(super) fn nesting(source: &str) -> Result<(), String> {
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

/// Checks an expression; returns the patterns of its `matches`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn expression(expression: &IdedExpr) -> Result<HashMap<String, Regex>, String> {
    let mut check = Check {
        parts: 0,
        cost: 0,
        variables: Vec::new(),
        in_macro: false,
        patterns: HashMap::new(),
    };
    check.visit(expression)?;
    if !is_predicate(&expression.expr) {
        return Err("must be true or false: compare something".to_owned());
    }
    Ok(check.patterns)
}

/// Whether an expression is true or false when it has a value at all. No field of an event is.
fn is_predicate(expression: &Expr) -> bool {
    match expression {
        Expr::Literal(literal) => matches!(literal, LiteralValue::Boolean(_)),
        Expr::Select(select) => select.test,
        Expr::Call(call) if call.func_name == operators::CONDITIONAL => {
            call.args.iter().skip(1).all(|arg| is_predicate(&arg.expr))
        }
        Expr::Call(call) => PREDICATES.contains(&&*call.func_name),
        Expr::Comprehension(comprehension) => match &comprehension.result.expr {
            Expr::Ident(_) => is_predicate(&comprehension.accu_init.expr),
            result => is_predicate(result),
        },
        _ => false,
    }
}

struct Check {
    /// Of what is being looked at: all that is outside of macros, or the body of one.
    parts: usize,
    cost: usize,
    /// What macros have named, beside `event`.
    variables: Vec<String>,
    in_macro: bool,
    patterns: HashMap<String, Regex>,
}

impl Check {
    fn visit(&mut self, expression: &IdedExpr) -> Result<(), String> {
        self.parts += 1;
        let most = if self.in_macro { MAX_BODY_PARTS } else { MAX_PARTS };
        if self.parts > most {
            return Err(format!("would run too long: it has more than {most} parts"));
        }
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) if name == "event" || self.variables.contains(name) => Ok(()),
            Expr::Ident(name) => Err(format!("names `{name}`, but there is only `event`")),
            Expr::Select(select) => self.select(select),
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.visit(element)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.visit(&entry.key)?;
                    self.visit(&entry.value)
                }
                EntryExpr::StructField(field) => self.visit(&field.value),
            }),
            Expr::Struct(_) => Err("must not make messages".to_owned()),
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
        }?;
        if self.in_macro { Ok(()) } else { self.charge(1) }
    }

    fn charge(&mut self, cost: usize) -> Result<(), String> {
        self.cost += cost;
        if self.cost > MAX_COST {
            return Err("would run too long: make it smaller, or run macros over less".to_owned());
        }
        Ok(())
    }

    fn select(&mut self, select: &SelectExpr) -> Result<(), String> {
        if is_event(&select.operand) {
            check_field(&select.field)?;
        }
        self.visit(&select.operand)
    }

    fn call(&mut self, call: &CallExpr) -> Result<(), String> {
        let is_operator = !call.func_name.starts_with(|c: char| c.is_ascii_alphabetic());
        if !is_operator && !FUNCTIONS.contains(&&*call.func_name) {
            return Err(format!(
                "calls `{}`, which is no function for filters",
                call.func_name
            ));
        }
        match (&*call.func_name, call.args.as_slice()) {
            ("matches", args) => self.pattern(args.last())?,
            (operators::INDEX, [map, key]) if is_event(map) => {
                if let Some(field) = literal(key) {
                    check_field(field)?;
                }
            }
            _ => {}
        }
        let target = call.target.as_deref();
        target.map_or(Ok(()), |target| self.visit(target))?;
        call.args.iter().try_for_each(|arg| self.visit(arg))
    }

    fn pattern(&mut self, pattern: Option<&IdedExpr>) -> Result<(), String> {
        if self.in_macro {
            return Err("would run too long: it has `matches` within a macro".to_owned());
        }
        // A written-out pattern is compiled once. Counted repetition would let a short one become large.
        let text = pattern
            .and_then(literal)
            .filter(|pattern| pattern.len() <= MAX_PATTERN_BYTES && !pattern.contains('{'))
            .ok_or_else(|| {
                format!(
                    "would run too long: `matches` takes a pattern that is written out, of at most {MAX_PATTERN_BYTES} bytes, \
                     without counted repetition"
                )
            })?;
        self.charge(MATCHES_COST + PATTERN_BYTE_COST * text.len())?;
        let compiled = Regex::new(text)
            .map_err(|error| format!("has a pattern that cannot be read, {text:?}: {error}"))?;
        self.patterns.insert(text.to_owned(), compiled);
        Ok(())
    }

    fn comprehension(&mut self, comprehension: &ComprehensionExpr) -> Result<(), String> {
        if self.in_macro {
            return Err("would run too long: it has a macro within a macro".to_owned());
        }
        let length = length(&comprehension.iter_range.expr)
            .ok_or("would run too long: a macro may run over event.metadata or a list that is written out")?;
        self.visit(&comprehension.iter_range)?;
        let names = [Some(&comprehension.iter_var), comprehension.iter_var2.as_ref()];
        let names = names.into_iter().flatten().chain([&comprehension.accu_var]);
        self.variables = names.cloned().collect();
        if self.variables.iter().any(|name| name == "event") {
            return Err("gives the name `event` to something else".to_owned());
        }
        let outside = std::mem::take(&mut self.parts);
        self.in_macro = true;
        for part in [
            &comprehension.accu_init,
            &comprehension.loop_cond,
            &comprehension.loop_step,
            &comprehension.result,
        ] {
            self.visit(part)?;
        }
        self.in_macro = false;
        let body = std::mem::replace(&mut self.parts, outside);
        self.variables.clear();
        self.charge(body * length)
    }
}

fn is_event(expression: &IdedExpr) -> bool {
    matches!(&expression.expr, Expr::Ident(name) if name == "event")
}

fn literal(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

fn check_field(name: &str) -> Result<(), String> {
    if fields::NAMES.contains(&name) {
        Ok(())
    } else {
        let all = fields::NAMES.join(", ");
        Err(format!("names `event.{name}`, but an event has only {all}"))
    }
}

/// Elements of what a macro runs over; `None` if that is not known before it runs.
fn length(range: &Expr) -> Option<usize> {
    match range {
        Expr::List(list) => Some(list.elements.len()),
        // Of the circuit and of the report.
        Expr::Select(select) if select.field == "metadata" && is_event(&select.operand) => {
            Some(2 * MAX_METADATA_ENTRIES)
        }
        _ => None,
    }
}
