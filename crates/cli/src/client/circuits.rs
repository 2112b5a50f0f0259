//! Commands that make, remove, configure and switch circuits.

use std::io::Write;
use std::time::SystemTime;

use brama_proto::v1;
use clap::{Args, ValueEnum};

use super::args::ConsistencyArg;
use super::args::{MaybeNameArg, NameArg, PolicyArgs, consistency, expect, expiry, key_value, milliseconds};
use super::remote::{Remote, Repeat, client};
use super::{print_json, text};
use crate::exit::Outcome;

/// `brama register ..`
#[derive(Args, Debug)]
pub(crate) struct Register {
    #[command(flatten)]
    name: NameArg,
    /// Metadata of the circuit, shown with it and in its events; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// What to do if there is such a circuit already, instead of failing
    #[arg(long, value_name = "WHAT")]
    if_exists: Option<IfExists>,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum IfExists {
    /// Leave it as it is
    Keep,
    /// Give it exactly this policy and metadata; its state stays
    Update,
}

/// `brama unregister ..`
#[derive(Args, Debug)]
pub(crate) struct Unregister {
    #[command(flatten)]
    name: NameArg,
    /// Why; goes into the event
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// `brama configure ..`
#[derive(Args, Debug)]
pub(crate) struct Configure {
    #[command(flatten)]
    name: MaybeNameArg,
    /// An option to inherit again, e.g. max_attempts; may be repeated
    #[arg(long, value_name = "OPTION", value_delimiter = ',')]
    clear: Vec<String>,
    /// Global only: a circuit that nobody used for so long is removed
    #[arg(long, value_name = "TIME", value_parser = milliseconds, conflicts_with = "identifier")]
    inactive_threshold: Option<u64>,
    /// Global only: how often the cluster looks for such circuits
    #[arg(long, value_name = "TIME", value_parser = milliseconds, conflicts_with = "identifier")]
    cleanup_interval: Option<u64>,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    remote: Remote,
}

/// `brama policy ..`
#[derive(Args, Debug)]
pub(crate) struct ShowPolicy {
    #[command(flatten)]
    name: MaybeNameArg,
    /// How fresh the answer must be: linearizable (default), local, or at-least=REVISION
    #[arg(long, value_name = "LEVEL", value_parser = consistency)]
    consistency: Option<ConsistencyArg>,
    #[command(flatten)]
    remote: Remote,
}

/// `brama open ..`
#[derive(Args, Debug)]
pub(crate) struct Open {
    #[command(flatten)]
    name: NameArg,
    /// How long it stays open this time, or never; without it, what the policy says
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    expiry: Option<v1::Expiry>,
    /// Why; shown with the circuit and in the event
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// `brama close ..` and `brama reset ..`
#[derive(Args, Debug)]
pub(crate) struct Switch {
    #[command(flatten)]
    name: NameArg,
    /// Why; shown with the circuit and in the event
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

pub(crate) async fn register(args: Register) -> Outcome {
    let (if_exists, repeat) = match args.if_exists {
        None => (v1::IfExists::Unspecified, Repeat::IfNotDone),
        Some(IfExists::Keep) => (v1::IfExists::Keep, Repeat::Always),
        Some(IfExists::Update) => (v1::IfExists::Update, Repeat::Always),
    };
    let request = v1::RegisterRequest {
        name: Some(args.name.name()),
        policy: Some(args.policy.policy()),
        metadata: args.metadata.into_iter().collect(),
        if_exists: if_exists.into(),
    };
    let send = async |channel, request| {
        client!(circuits_client::CircuitsClient, channel)
            .register(request)
            .await
    };
    let response = args.remote.call(repeat, request, send).await?;
    if args.remote.json {
        return print_json("RegisterResponse", &response);
    }
    let circuit = expect(response.circuit.as_ref(), "circuit")?;
    let done = match (response.created, args.if_exists) {
        (true, _) => "registered",
        (false, Some(IfExists::Update)) => "was there, and has this policy and metadata now",
        (false, _) => "was there, and stays as it is",
    };
    print_circuit(
        &format!("{} {done}: ", text::name(circuit.name.as_ref())),
        circuit,
    )
}

pub(crate) async fn unregister(args: Unregister) -> Outcome {
    let request = v1::UnregisterRequest {
        name: Some(args.name.name()),
        reason: args.reason,
    };
    let send = async |channel, request| {
        client!(circuits_client::CircuitsClient, channel)
            .unregister(request)
            .await
    };
    let response = args.remote.call(Repeat::Always, request, send).await?;
    if args.remote.json {
        return print_json("UnregisterResponse", &response);
    }
    let done = if response.existed {
        "is gone"
    } else {
        "was not there"
    };
    Ok(writeln!(
        std::io::stdout(),
        "{} {done}",
        text::name(Some(&args.name.name()))
    )?)
}

pub(crate) async fn configure(args: Configure) -> Outcome {
    let name = args.name.name();
    let global = v1::GlobalOptions {
        inactive_threshold_ms: args.inactive_threshold,
        cleanup_interval_ms: args.cleanup_interval,
    };
    let request = v1::ConfigureRequest {
        policy: Some(args.policy.policy()),
        clear: args.clear,
        global: name.is_none().then_some(global),
        name,
    };
    let send = async |channel, request| {
        client!(circuits_client::CircuitsClient, channel)
            .configure(request)
            .await
    };
    let response = args.remote.call(Repeat::Always, request.clone(), send).await?;
    if args.remote.json {
        return print_json("ConfigureResponse", &response);
    }
    let policy = expect(response.policy.as_ref(), "policy")?;
    let done = if response.changed { "now" } else { "as before" };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}, {done}:", text::name(request.name.as_ref()))?;
    print_policy(&mut out, policy)
}

pub(crate) async fn policy(args: ShowPolicy) -> Outcome {
    let name = args.name.name();
    let request = v1::GetConfigRequest {
        name: name.clone(),
        consistency: args.consistency.map(ConsistencyArg::level),
    };
    let send = async |channel, request| {
        client!(circuits_client::CircuitsClient, channel)
            .get_config(request)
            .await
    };
    let response = args.remote.call(Repeat::Always, request, send).await?;
    if args.remote.json {
        return print_json("GetConfigResponse", &response);
    }
    let policy = expect(response.policy.as_ref(), "policy")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}:", text::name(name.as_ref()))?;
    print_policy(&mut out, policy)?;
    if let Some(global) = &response.global {
        let ms = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), text::exact);
        print_pair(
            &mut out,
            "inactive_threshold",
            &ms(global.inactive_threshold_ms),
            "",
        )?;
        print_pair(&mut out, "cleanup_interval", &ms(global.cleanup_interval_ms), "")?;
    }
    if let Some(limits) = &response.limits {
        writeln!(out, "limits of the cluster:")?;
        print_pair(&mut out, "max_circuits", &limits.max_circuits.to_string(), "")?;
        print_pair(&mut out, "max_sessions", &limits.max_sessions.to_string(), "")?;
        print_pair(&mut out, "max_events", &limits.max_events.to_string(), "")?;
        print_pair(
            &mut out,
            "max_event_bytes",
            &limits.max_event_bytes.to_string(),
            "",
        )?;
    }
    Ok(())
}

pub(crate) async fn open(args: Open) -> Outcome {
    let request = v1::OpenCircuitRequest {
        name: Some(args.name.name()),
        expiry: args.expiry,
        reason: args.reason,
    };
    let send = async |channel, request| {
        client!(circuits_client::CircuitsClient, channel)
            .open_circuit(request)
            .await
    };
    changed(
        &args.remote,
        &args.remote.call(Repeat::IfNotDone, request, send).await?,
    )
}

pub(crate) async fn close(args: Switch) -> Outcome {
    let request = v1::CloseCircuitRequest {
        name: Some(args.name.name()),
        reason: args.reason,
    };
    let send = async |channel, request| {
        client!(circuits_client::CircuitsClient, channel)
            .close_circuit(request)
            .await
    };
    changed(
        &args.remote,
        &args.remote.call(Repeat::IfNotDone, request, send).await?,
    )
}

pub(crate) async fn reset(args: Switch) -> Outcome {
    let request = v1::ResetCircuitRequest {
        name: Some(args.name.name()),
        reason: args.reason,
    };
    let send = async |channel, request| {
        client!(circuits_client::CircuitsClient, channel)
            .reset_circuit(request)
            .await
    };
    changed(
        &args.remote,
        &args.remote.call(Repeat::IfNotDone, request, send).await?,
    )
}

fn changed(remote: &Remote, response: &v1::ManualResponse) -> Outcome {
    if remote.json {
        return print_json("ManualResponse", response);
    }
    let circuit = expect(response.circuit.as_ref(), "circuit")?;
    print_circuit(&format!("{}: ", text::name(circuit.name.as_ref())), circuit)
}

fn print_circuit(before: &str, circuit: &v1::Circuit) -> Outcome {
    Ok(writeln!(
        std::io::stdout(),
        "{before}{}",
        text::situation(circuit, SystemTime::now())
    )?)
}

/// Each option; a star marks those of the circuit's own.
pub(super) fn print_policy(out: &mut impl Write, policy: &v1::EffectivePolicy) -> Outcome {
    for (option, value) in text::policy(policy) {
        let own = policy.own.iter().any(|own| own == option);
        print_pair(out, option, &value, if own { "(its own)" } else { "" })?;
    }
    Ok(())
}

/// One line of a list of things and what they are.
pub(super) fn print_pair(out: &mut impl Write, what: &str, value: &str, note: &str) -> Outcome {
    Ok(writeln!(
        out,
        "{}",
        format!("  {what:<21} {value} {note}").trim_end()
    )?)
}
