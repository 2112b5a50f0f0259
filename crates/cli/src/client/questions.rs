//! Commands that ask: what is, and may I?

use std::io::Write;
use std::time::{Duration, SystemTime};

use brama_proto::v1;
use clap::Args;

use super::args::{ConsistencyArg, NameArg, consistency, expect, state};
use super::circuits::{print_pair, print_policy};
use super::remote::{Remote, Repeat, client};
use super::{print_json, text};
use crate::exit::{Code, Failure, Outcome};

/// Circuits asked for at once.
const PAGE: u32 = 500;

/// `brama status ..`
#[derive(Args, Debug)]
pub(crate) struct Status {
    #[command(flatten)]
    name: NameArg,
    /// How fresh the answer must be: linearizable (default), local, or at-least=REVISION
    #[arg(long, value_name = "LEVEL", value_parser = consistency)]
    consistency: Option<ConsistencyArg>,
    #[command(flatten)]
    remote: Remote,
}

/// `brama list ..`
#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only circuits of this scope
    #[arg(long, value_name = "SCOPE")]
    scope: Option<String>,
    /// Only circuits in this state: closed, open or half-open; may be repeated
    #[arg(long, value_name = "STATE", value_parser = state, value_delimiter = ',')]
    state: Vec<v1::State>,
    /// Only identifiers that begin with this
    #[arg(long, value_name = "TEXT", default_value = "")]
    prefix: String,
    /// How many to ask for at once, 1 to 1000; all are shown in any case
    #[arg(long, value_name = "N", default_value_t = PAGE)]
    page_size: u32,
    /// How fresh the answer must be: linearizable (default), local, or at-least=REVISION
    #[arg(long, value_name = "LEVEL", value_parser = consistency)]
    consistency: Option<ConsistencyArg>,
    #[command(flatten)]
    remote: Remote,
}

/// `brama available ..`
#[derive(Args, Debug)]
pub(crate) struct Available {
    #[command(flatten)]
    name: NameArg,
    /// How fresh the answer must be: local (default), linearizable, or at-least=REVISION
    #[arg(long, value_name = "LEVEL", value_parser = consistency)]
    consistency: Option<ConsistencyArg>,
    #[command(flatten)]
    remote: Remote,
}

/// `brama acquire ..`
#[derive(Args, Debug)]
pub(crate) struct Acquire {
    #[command(flatten)]
    name: NameArg,
    #[command(flatten)]
    remote: Remote,
}

pub(crate) async fn status(args: Status) -> Outcome {
    let request = v1::StatusRequest {
        name: Some(args.name.name()),
        consistency: args.consistency.map(ConsistencyArg::level),
    };
    let send = async |channel, request| {
        client!(circuits_client::CircuitsClient, channel)
            .status(request)
            .await
    };
    let response = args.remote.call(Repeat::Always, request, send).await?;
    if args.remote.json {
        return print_json("StatusResponse", &response);
    }
    let circuit = expect(response.circuit.as_ref(), "circuit")?;
    let now = SystemTime::now();
    let totals = circuit.totals.unwrap_or_default();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}: {}",
        text::name(circuit.name.as_ref()),
        text::situation(circuit, now)
    )?;
    print_pair(&mut out, "generation", &circuit.generation.to_string(), "")?;
    print_pair(&mut out, "failure_count", &circuit.failure_count.to_string(), "")?;
    if circuit.openings_in_a_row > 0 {
        print_pair(
            &mut out,
            "openings_in_a_row",
            &circuit.openings_in_a_row.to_string(),
            "",
        )?;
    }
    print_pair(
        &mut out,
        "last_success",
        &text::ago(circuit.last_success_at.as_ref(), now),
        "",
    )?;
    print_pair(
        &mut out,
        "last_failure",
        &text::ago(circuit.last_failure_at.as_ref(), now),
        "",
    )?;
    if let Some(reason) = &circuit.last_reason {
        print_pair(&mut out, "last_reason", reason, "")?;
    }
    let counted = format!(
        "{} successes, {} failures, {} ignored, {} rejected",
        totals.successes, totals.failures, totals.ignored, totals.rejected
    );
    print_pair(&mut out, "totals", &counted, "")?;
    print_pair(
        &mut out,
        "registered",
        &text::ago(circuit.registered_at.as_ref(), now),
        "",
    )?;
    print_pair(
        &mut out,
        "changed",
        &text::ago(circuit.changed_at.as_ref(), now),
        "",
    )?;
    print_pair(&mut out, "revision", &circuit.revision.to_string(), "")?;
    if !circuit.metadata.is_empty() {
        writeln!(out, "metadata:")?;
        for (key, value) in &circuit.metadata {
            print_pair(&mut out, key, value, "")?;
        }
    }
    writeln!(out, "policy:")?;
    print_policy(&mut out, &circuit.policy.clone().unwrap_or_default())
}

pub(crate) async fn list(args: List) -> Outcome {
    let mut request = v1::ListRequest {
        scope: args.scope,
        states: args.state.iter().map(|state| i32::from(*state)).collect(),
        identifier_prefix: args.prefix,
        page_size: args.page_size,
        page_token: String::new(),
        consistency: args.consistency.map(ConsistencyArg::level),
    };
    let now = SystemTime::now();
    let mut table = text::table([
        "SCOPE",
        "NAME",
        "STATE",
        "FAILED CALLS",
        "LAST FAILURE",
        "CHANGED",
    ]);
    let mut count = 0_usize;
    loop {
        let send = async |channel, request| {
            client!(circuits_client::CircuitsClient, channel)
                .list(request)
                .await
        };
        let page = args.remote.call(Repeat::Always, request.clone(), send).await?;
        for circuit in &page.circuits {
            count += 1;
            if args.remote.json {
                print_json("Circuit", circuit)?;
                continue;
            }
            let name = circuit.name.clone().unwrap_or_default();
            table.add_row([
                name.scope.unwrap_or_else(|| "-".to_owned()),
                name.identifier,
                text::situation(circuit, now),
                format!(
                    "{} of {}",
                    circuit.totals.unwrap_or_default().failures,
                    calls(circuit)
                ),
                text::ago(circuit.last_failure_at.as_ref(), now),
                text::ago(circuit.changed_at.as_ref(), now),
            ]);
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if args.remote.json {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    if count == 0 {
        return Ok(writeln!(out, "no circuits")?);
    }
    for line in text::lines(&table) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn calls(circuit: &v1::Circuit) -> String {
    let totals = circuit.totals.unwrap_or_default();
    totals
        .successes
        .saturating_add(totals.failures)
        .saturating_add(totals.ignored)
        .to_string()
}

pub(crate) async fn available(args: Available) -> Outcome {
    let request = v1::AvailableRequest {
        name: Some(args.name.name()),
        consistency: args.consistency.map(ConsistencyArg::level),
    };
    let send = async |channel, request| {
        client!(circuits_client::CircuitsClient, channel)
            .available(request)
            .await
    };
    let response = args.remote.call(Repeat::Always, request, send).await?;
    if args.remote.json {
        print_json("AvailableResponse", &response)?;
    } else {
        let (state, reason) = (response.state(), response.reason.as_deref());
        let line = if response.available {
            format!("available: {}", text::state(state))
        } else {
            no("not available", state, response.retry_after_ms, reason)
        };
        writeln!(std::io::stdout(), "{line}")?;
    }
    if response.available {
        Ok(())
    } else {
        Err(Failure::silent(Code::Rejected))
    }
}

pub(crate) async fn acquire(args: Acquire) -> Outcome {
    // Chosen here, so that asking the next node takes no second permit.
    let permit: [u8; 16] = rand::random();
    let request = v1::AcquireRequest {
        name: Some(args.name.name()),
        permit_id: permit.to_vec(),
    };
    let send = async |channel, request| {
        client!(circuits_client::CircuitsClient, channel)
            .acquire(request)
            .await
    };
    let response = args.remote.call(Repeat::Always, request, send).await?;
    if args.remote.json {
        print_json("AcquireResponse", &response)?;
    } else {
        let mut out = std::io::stdout().lock();
        let (state, reason) = (response.state(), response.reason.as_deref());
        if !response.admitted {
            writeln!(out, "{}", no("rejected", state, response.retry_after_ms, reason))?;
        } else if response.permit_id.is_empty() {
            writeln!(
                out,
                "admitted: {}, generation {}",
                text::state(state),
                response.generation
            )?;
        } else {
            let permit = hex::encode(&response.permit_id);
            let left = response
                .permit_expires_at
                .as_ref()
                .map(|at| text::span(text::until(at, SystemTime::now())));
            let left = left.map_or_else(String::new, |left| format!(", for {left}"));
            writeln!(out, "admitted as a probe{left}; report it with")?;
            writeln!(
                out,
                "  brama success {name} --generation {generation} --permit {permit}",
                name = args.name.as_typed(),
                generation = response.generation
            )?;
        }
    }
    if response.admitted {
        Ok(())
    } else {
        Err(Failure::silent(Code::Rejected))
    }
}

/// "rejected: open, ask again in 6.8s (it was down)"
fn no(what: &str, state: v1::State, retry_after_ms: Option<u64>, reason: Option<&str>) -> String {
    let retry = match retry_after_ms {
        Some(ms) => format!(", ask again in {}", text::span(Duration::from_millis(ms))),
        None => ", until somebody closes it".to_owned(),
    };
    let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
    format!("{what}: {}{retry}{reason}", text::state(state))
}
