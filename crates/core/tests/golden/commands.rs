//! The commands of scripts.

use brama_core::circuit::StateName;
use brama_core::command::{
    Bootstrap, CircuitId, ClusterId, Configure, Due, IfExists, Register, ReportBatch, ReportItem,
    SessionStamp,
};
use brama_core::event::EventName;
use brama_core::limits::Limits;
use brama_core::query::ListQuery;
use brama_core::report::Outcome;
use brama_core::{CircuitName, Command, Metadata, Summary};

use crate::arguments::{Arguments, Result, duration};
use crate::run::Script;
use crate::show;
use crate::support::{TERM, outcomes};

/// Runs one command; `Err` is what `!` expects.
pub(crate) fn run(script: &mut Script, command: &str, arguments: &mut Arguments<'_>) -> Result<String> {
    match command {
        "at" => {
            script.ms = duration(arguments.required("the time")?)?;
            Ok(String::new())
        }
        "tick" => script.tick(),
        "next" => Ok(script
            .machine
            .next_due()
            .map_or("no timer".to_owned(), show::time)),
        "time" => Ok(show::time(script.machine.time())),
        "remember" => {
            script.remembered = script.machine.due(script.now(), usize::MAX);
            Ok(format!("{} due", script.remembered.len()))
        }
        "fire" => {
            let due = match arguments.next() {
                None => std::mem::take(&mut script.remembered),
                Some(what) => vec![due(what, arguments)?],
            };
            let term = arguments.number("term")?.unwrap_or(TERM);
            let events = script.apply(Command::Fire { term, due })?;
            Ok(if events.is_empty() {
                "nothing".to_owned()
            } else {
                events
            })
        }
        "status" | "policy" | "available" | "list" | "events" | "count" => look(script, command, arguments),
        "many" => many(script, arguments),
        _ => {
            let command = parse(command, arguments)?;
            script.apply(command)
        }
    }
}

fn due(what: &str, arguments: &mut Arguments<'_>) -> Result<Due> {
    let circuit = CircuitId(arguments.number("circuit")?.unwrap_or(0));
    let generation = arguments.number("generation")?.unwrap_or(0);
    match what {
        "expiry" => Ok(Due::Expiry { circuit, generation }),
        "probe" => Ok(Due::Probe {
            circuit,
            generation,
            permit: arguments.permit()?.ok_or("permit is missing")?,
        }),
        "cleanup" => Ok(Due::Cleanup),
        "sessions" => Ok(Due::Sessions),
        other => Err(format!("{other} is no timer").into()),
    }
}

/// `many 501 register`: registers `c-0`, `c-1` and so on, without showing it.
fn many(script: &mut Script, arguments: &mut Arguments<'_>) -> Result<String> {
    let n: u32 = arguments.required("how many")?.parse()?;
    for i in 0..n {
        script.apply(Command::Register(Register {
            name: CircuitName::new(None, &format!("c-{i}"))?,
            policy: Default::default(),
            metadata: Metadata::new(),
            if_exists: IfExists::Refuse,
        }))?;
    }
    Ok(format!("{n} registered"))
}

/// What only reads.
fn look(script: &Script, command: &str, arguments: &mut Arguments<'_>) -> Result<String> {
    let machine = &script.machine;
    match command {
        "status" => Ok(match machine.status(&name(arguments.required("the circuit")?)) {
            Some(status) => show::status(&status),
            None => "not found".to_owned(),
        }),
        "policy" => match arguments.next() {
            Some(circuit) => Ok(match machine.circuit_config(&name(circuit)) {
                Some((_, policy)) => show::policy(&policy),
                None => "not found".to_owned(),
            }),
            None => {
                let (_, policy, global) = machine.global_config();
                Ok(format!(
                    "{}\n  inactive_threshold={} cleanup_interval={}",
                    show::policy(&policy),
                    show::length(global.inactive_threshold()),
                    show::length(global.cleanup_interval()),
                ))
            }
        },
        "available" => {
            let circuit = name(arguments.required("the circuit")?);
            Ok(match machine.available(&circuit, script.now()) {
                Some(availability) => show::availability(&availability),
                None => "not found".to_owned(),
            })
        }
        "list" => {
            let query = ListQuery {
                scope: arguments.text("scope").map(str::to_owned),
                states: arguments
                    .text("state")
                    .map(state)
                    .transpose()?
                    .into_iter()
                    .collect(),
                identifier_prefix: arguments.text("prefix").unwrap_or_default().to_owned(),
                after: arguments.text("after").map(name),
                limit: arguments.number("limit")?.unwrap_or(usize::MAX),
            };
            let found = machine.list(&query);
            let names: Vec<_> = found.iter().map(|circuit| circuit.name.to_string()).collect();
            Ok(if names.is_empty() {
                "none".to_owned()
            } else {
                names.join("\n")
            })
        }
        "events" => {
            let after = arguments
                .number("after")?
                .unwrap_or(machine.oldest_revision() - 1);
            let max = arguments.number("max")?.unwrap_or(usize::MAX);
            let named = arguments
                .text("named")
                .map(|name| EventName::parse(name).ok_or("no such event"));
            let named = named.transpose()?;
            let events = machine.events_after(after, max)?;
            let lines: Vec<_> = events
                .iter()
                .filter(|event| named.is_none_or(|named| named.selects(event)))
                .map(|event| show::event(event))
                .collect();
            Ok(if lines.is_empty() {
                "none".to_owned()
            } else {
                lines.join("\n")
            })
        }
        _ => Ok(format!(
            "circuits={} sessions={} revision={} oldest={}",
            machine.circuit_count(),
            machine.session_count(),
            machine.revision(),
            machine.oldest_revision()
        )),
    }
}

fn parse(command: &str, arguments: &mut Arguments<'_>) -> Result<Command> {
    Ok(match command {
        "bootstrap" => bootstrap(arguments)?,
        "register" => Command::Register(Register {
            name: name(arguments.required("the circuit")?),
            policy: arguments.policy()?,
            metadata: arguments.metadata()?,
            if_exists: match arguments.text("if_exists") {
                None => IfExists::Refuse,
                Some("keep") => IfExists::Keep,
                Some("update") => IfExists::Update,
                Some(other) => return Err(format!("if_exists={other}").into()),
            },
        }),
        "configure" => Command::Configure(Configure {
            name: arguments.next().map(name),
            set: arguments.policy()?,
            clear: arguments.clear()?,
            global: arguments.global()?,
        }),
        "success" | "failure" | "ignored" | "report" | "summary" => report(command, arguments)?,
        "batch" => batch(arguments)?,
        "acquire" => Command::Acquire {
            name: name(arguments.required("the circuit")?),
            permit: arguments.permit()?.ok_or("permit is missing")?,
        },
        "open" => Command::Open {
            name: name(arguments.required("the circuit")?),
            expiry: arguments.expiry("expiry")?,
            reason: arguments.reason(),
        },
        "close" | "reset" | "unregister" => {
            let name = name(arguments.required("the circuit")?);
            let reason = arguments.reason();
            match command {
                "close" => Command::Close { name, reason },
                "reset" => Command::Reset { name, reason },
                _ => Command::Unregister { name, reason },
            }
        }
        other => return Err(format!("{other} is no command").into()),
    })
}

fn bootstrap(arguments: &mut Arguments<'_>) -> Result<Command> {
    let built_in = Limits::default();
    Ok(Command::Bootstrap(Bootstrap {
        cluster_id: ClusterId(arguments.number("cluster")?.unwrap_or(1)),
        defaults: arguments.policy()?,
        global_defaults: arguments.global()?,
        limits: Limits {
            max_circuits: arguments.number("max_circuits")?.unwrap_or(built_in.max_circuits),
            max_sessions: arguments.number("max_sessions")?.unwrap_or(built_in.max_sessions),
            max_events: arguments.number("max_events")?.unwrap_or(built_in.max_events),
            max_event_bytes: arguments
                .number("max_event_bytes")?
                .unwrap_or(built_in.max_event_bytes),
        },
    }))
}

/// One item: `success a`, `failure a n=2`, `report a outcomes=SFFS`, or `summary a failures=2 ...` number by number.
fn report(command: &str, arguments: &mut Arguments<'_>) -> Result<Command> {
    let name = name(arguments.required("the circuit")?);
    let n = arguments.number("n")?.unwrap_or(1);
    let one = |outcome| Summary::of_all(std::iter::repeat_n(outcome, n));
    let mut summary = match command {
        "success" => one(Outcome::Success),
        "failure" => one(Outcome::Failure),
        "ignored" => one(Outcome::Ignored),
        "report" => Summary::of_all(outcomes(arguments.text("outcomes").unwrap_or_default())),
        _ => {
            let mut number = |key| arguments.number(key).map(Option::unwrap_or_default);
            Summary {
                failures: number("failures")?,
                successes: number("successes")?,
                leading_failures: number("leading_failures")?,
                longest_failures: number("longest_failures")?,
                trailing_failures: number("trailing_failures")?,
                leading_successes: number("leading_successes")?,
                ignored: number("ignored")?,
                rejected: 0,
            }
        }
    };
    summary.rejected = arguments.number("rejected")?.unwrap_or(0);
    let item = ReportItem {
        name,
        generation: arguments.number("generation")?,
        permit: arguments.permit()?,
        summary,
        reason: arguments.reason(),
        metadata: arguments.metadata()?,
    };
    Ok(Command::Report(ReportBatch {
        session: session(arguments)?,
        items: vec![item],
    }))
}

/// `batch a=SFF b=S session=1 sequence=2`: items in order, at face value.
fn batch(arguments: &mut Arguments<'_>) -> Result<Command> {
    let session = session(arguments)?;
    let mut items = Vec::new();
    while let Some((circuit, text)) = arguments.0.next_key() {
        items.push(ReportItem {
            name: name(circuit),
            generation: None,
            permit: None,
            summary: Summary::of_all(outcomes(text)),
            reason: None,
            metadata: Metadata::new(),
        });
    }
    Ok(Command::Report(ReportBatch { session, items }))
}

fn session(arguments: &mut Arguments<'_>) -> Result<Option<SessionStamp>> {
    let sequence = arguments.number("sequence")?.unwrap_or(1);
    let id: Option<u128> = arguments.number("session")?;
    Ok(id.map(|id| SessionStamp { id, sequence }))
}

fn state(name: &str) -> Result<StateName> {
    let states = [StateName::Closed, StateName::Open, StateName::HalfOpen];
    let found = states.into_iter().find(|state| state.name() == name);
    found.ok_or_else(|| format!("{name} is no state").into())
}

/// `identifier`, or `scope/identifier`; unchecked, so that the machine checks it.
fn name(text: &str) -> CircuitName {
    let (scope, identifier) = match text.split_once('/') {
        Some((scope, identifier)) => (Some(scope), identifier),
        None => (None, text),
    };
    CircuitName {
        scope: scope.map(Into::into),
        identifier: identifier.into(),
    }
}
