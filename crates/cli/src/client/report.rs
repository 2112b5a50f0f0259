//! Commands that report what came of calls.

use std::io::Write;

use brama_core::Summary;
use brama_proto::v1;
use clap::Args;

use super::args::{NameArg, Permit, expect, key_value, permit};
use super::remote::{Remote, Repeat, client};
use super::{print_json, text};
use crate::exit::{Code, Failure, Outcome};

/// What every report may say beside its outcomes.
#[derive(Args, Debug)]
pub(crate) struct Details {
    /// At which the calls were admitted, as acquire or status printed it; if the circuit has moved on, they decide nothing
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
    /// The permit that the call held, as acquire printed it
    #[arg(long, value_name = "HEX", value_parser = permit)]
    permit: Option<Permit>,
    /// Goes into the event, beside the circuit's own; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
}

/// `brama report ..`
#[derive(Args, Debug)]
pub(crate) struct Report {
    #[command(flatten)]
    name: NameArg,
    /// Calls that succeeded; they count as made before the failures
    #[arg(long, value_name = "N", default_value_t = 0)]
    success: u64,
    /// Calls that failed, in a row
    #[arg(long, value_name = "N", default_value_t = 0)]
    failure: u64,
    /// Calls that are neither
    #[arg(long, value_name = "N", default_value_t = 0)]
    ignored: u64,
    /// Calls that were not made because the circuit did not let them
    #[arg(long, value_name = "N", default_value_t = 0)]
    rejected: u64,
    /// Why the last failure failed
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    details: Details,
    #[command(flatten)]
    remote: Remote,
}

/// `brama success ..`
#[derive(Args, Debug)]
pub(crate) struct Success {
    #[command(flatten)]
    name: NameArg,
    #[command(flatten)]
    details: Details,
    #[command(flatten)]
    remote: Remote,
}

/// `brama failure ..`
#[derive(Args, Debug)]
pub(crate) struct Failed {
    #[command(flatten)]
    name: NameArg,
    /// Why it failed
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    details: Details,
    #[command(flatten)]
    remote: Remote,
}

pub(crate) async fn report(args: Report) -> Outcome {
    let summary = summary(&args);
    if summary == Summary::default() {
        return Err(Failure::usage(
            "nothing to report: give --success, --failure, --ignored or --rejected",
        ));
    }
    let item = v1::ReportItem {
        name: Some(args.name.name()),
        generation: args.details.generation,
        summary: Some(v1::Summary {
            failures: summary.failures,
            successes: summary.successes,
            leading_failures: summary.leading_failures,
            longest_failures: summary.longest_failures,
            trailing_failures: summary.trailing_failures,
            leading_successes: summary.leading_successes,
            ignored: summary.ignored,
            rejected: summary.rejected,
        }),
        permit_id: args.details.permit.map(|Permit(bytes)| bytes).unwrap_or_default(),
        reason: args.reason,
        metadata: args.details.metadata.into_iter().collect(),
        ..Default::default()
    };
    let request = v1::ReportRequest {
        items: vec![item],
        ..Default::default()
    };
    let send = async |channel, request| {
        client!(circuits_client::CircuitsClient, channel)
            .report(request)
            .await
    };
    let response = args.remote.call(Repeat::IfNotDone, request, send).await?;
    if args.remote.json {
        print_json("ReportResponse", &response)?;
    }
    let item = expect(response.items.first(), "result")?;
    counted(
        &args.remote,
        &args.name,
        item.result(),
        item.state(),
        item.failure_count,
    )
}

/// As if the successes came first, then the failures.
fn summary(args: &Report) -> Summary {
    let successes = Summary {
        successes: args.success,
        leading_successes: args.success,
        ..Default::default()
    };
    let failures = Summary {
        failures: args.failure,
        leading_failures: args.failure,
        longest_failures: args.failure,
        trailing_failures: args.failure,
        ..Default::default()
    };
    let others = Summary {
        ignored: args.ignored,
        rejected: args.rejected,
        ..Default::default()
    };
    successes.then(&failures).then(&others)
}

pub(crate) async fn success(args: Success) -> Outcome {
    let request = v1::SuccessRequest {
        name: Some(args.name.name()),
        generation: args.details.generation,
        permit_id: args.details.permit.map(|Permit(bytes)| bytes).unwrap_or_default(),
        metadata: args.details.metadata.into_iter().collect(),
        session: None,
    };
    let send = async |channel, request| {
        client!(circuits_client::CircuitsClient, channel)
            .success(request)
            .await
    };
    let response = args.remote.call(Repeat::IfNotDone, request, send).await?;
    outcome(&args.remote, &args.name, &response)
}

pub(crate) async fn failure(args: Failed) -> Outcome {
    let request = v1::FailureRequest {
        name: Some(args.name.name()),
        generation: args.details.generation,
        permit_id: args.details.permit.map(|Permit(bytes)| bytes).unwrap_or_default(),
        reason: args.reason,
        metadata: args.details.metadata.into_iter().collect(),
        session: None,
    };
    let send = async |channel, request| {
        client!(circuits_client::CircuitsClient, channel)
            .failure(request)
            .await
    };
    let response = args.remote.call(Repeat::IfNotDone, request, send).await?;
    outcome(&args.remote, &args.name, &response)
}

fn outcome(remote: &Remote, name: &NameArg, response: &v1::OutcomeResponse) -> Outcome {
    if remote.json {
        print_json("OutcomeResponse", response)?;
    }
    counted(
        remote,
        name,
        response.result(),
        response.state(),
        response.failure_count,
    )
}

fn counted(
    remote: &Remote,
    name: &NameArg,
    result: v1::ItemResult,
    state: v1::State,
    failures: u32,
) -> Outcome {
    if result == v1::ItemResult::NotFound {
        let text = format!("there is no circuit {}", text::name(Some(&name.name())));
        return Err(Failure::new(Code::NotFound, text).advise(format!("brama register {}", name.as_typed())));
    }
    if remote.json {
        return Ok(());
    }
    let late = if result == v1::ItemResult::Late {
        "counted in the totals only, the circuit had moved on: "
    } else {
        ""
    };
    let name = text::name(Some(&name.name()));
    Ok(writeln!(
        std::io::stdout(),
        "{name}: {late}{}, {} in a row",
        text::state(state),
        text::count(u64::from(failures), "failure")
    )?)
}
