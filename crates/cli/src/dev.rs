//! `brama dev`: a cluster of three in one process, with data that is thrown away.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use brama_node::config::{Config, LogConfig, Override, Sources};
use brama_node::{Node, config, logging};
use clap::Args;
use futures::future::{join_all, select_all};

use crate::exit::{Code, Failure, Outcome};
use crate::serve::StopSignals;

/// Nodes of the cluster.
const NODES: u16 = 3;
/// From the port for clients to that for other nodes.
const PEER_OFFSET: u16 = 10;
/// What still runs when the cluster ends gets so long.
const LEAVE_WITHIN: Duration = Duration::from_millis(500);
/// A healthy machine needs one or two seconds.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// `brama dev ..`
#[derive(Args, Debug)]
pub(crate) struct DevArgs {
    /// First of three ports for clients in a row; other nodes are reached at the port ten above. If one is taken, free ones are used
    #[arg(long, value_name = "PORT", default_value_t = 7401, value_parser = clap::value_parser!(u16).range(1..=65_500))]
    port: u16,
    /// Use free ports in any case
    #[arg(long, conflicts_with = "port")]
    free_ports: bool,
    /// What the nodes write to standard error
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log_level: String,
    /// Any key of the nodes' configuration, e.g. --set defaults.expiry=5s; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Say where the nodes listen in one line of JSON, for scripts
    #[arg(long)]
    json: bool,
}

/// Runs the cluster until Ctrl-C.
pub(crate) fn run(args: &DevArgs) -> Outcome {
    let general = |error: &dyn std::fmt::Display| Failure::new(Code::General, error.to_string());
    let data = tempfile::Builder::new()
        .prefix("brama-dev-")
        .tempdir()
        .map_err(|error| {
            Failure::new(
                Code::General,
                format!("cannot make a directory for throw-away data: {error}"),
            )
        })?;
    let ports = choose_ports(args)?;
    let configs = (1..=NODES)
        .map(|id| config_of(id, &ports, data.path(), args))
        .collect::<Result<Vec<_>, _>>()?;
    let log = configs
        .first()
        .map(|config| config.log.clone())
        .unwrap_or(LogConfig {
            format: config::LogFormat::Text,
            level: "warn".to_owned(),
        });
    logging::init(&log).map_err(|error| general(&error))?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| general(&error))?;
    let outcome = runtime.block_on(serve(configs, args, &ports));
    // Nothing of it is kept and no node stays, so there is nobody to hand over to and nothing to flush: the nodes are cut off.
    runtime.shutdown_timeout(LEAVE_WITHIN);
    let path = data.path().to_owned();
    if let Err(error) = data.close() {
        eprintln!(
            "warning: the throw-away data in {} could not be removed: {error}",
            path.display()
        );
    }
    outcome
}

async fn serve(configs: Vec<Config>, args: &DevArgs, ports: &Ports) -> Outcome {
    let mut stop = StopSignals::new()?;
    let mut nodes = Vec::new();
    let mut outcome = Ok(());
    for started in join_all(configs.into_iter().map(Node::start)).await {
        match started {
            Ok(node) => nodes.push(node),
            Err(error) => outcome = Err(Failure::new(Code::General, error.to_string())),
        }
    }
    if outcome.is_ok() {
        outcome = tokio::select! {
            done = run_until_failure(&nodes, args, ports) => done,
            () = stop.wait() => Ok(()),
        };
    }
    outcome
}

async fn run_until_failure(nodes: &[Node], args: &DevArgs, ports: &Ports) -> Outcome {
    let ready = join_all(nodes.iter().map(Node::ready));
    if tokio::time::timeout(READY_WITHIN, ready).await.is_err() {
        let text = format!(
            "the cluster was not ready after {}",
            humantime::format_duration(READY_WITHIN)
        );
        return Err(
            Failure::new(Code::General, text).advise("look at what the nodes say with --log-level info")
        );
    }
    if args.json {
        say_json(ports)?
    } else {
        say(ports)?
    }
    let (message, ..) = select_all(nodes.iter().map(|node| Box::pin(node.failed()))).await;
    Err(Failure::new(
        Code::General,
        format!("a node cannot go on: {message}"),
    ))
}

fn say(ports: &Ports) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "Brama is ready: three nodes in this process, with data that is thrown away at the end.\n"
    )?;
    for (id, (client, _)) in (1..).zip(&ports.pairs) {
        writeln!(out, "  node {id}   {}", local(*client))?;
    }
    writeln!(out, "\nTry, in another terminal:\n")?;
    if !ports.wanted {
        writeln!(out, "  export BRAMA_ENDPOINTS={}", ports.endpoints())?;
    }
    writeln!(out, "  brama register payment_api --max-attempts 3 --expiry 10s")?;
    writeln!(out, "  brama watch payment_api")?;
    writeln!(out, "  brama report payment_api --failure 3")?;
    writeln!(out, "\nCtrl-C ends it.")?;
    out.flush()
}

fn say_json(ports: &Ports) -> std::io::Result<()> {
    let nodes: Vec<_> = (1_u64..)
        .zip(&ports.pairs)
        .map(|(id, (client, peer))| {
            serde_json::json!({ "node_id": id, "client_address": local(*client).to_string(), "peer_address": local(*peer).to_string() })
        })
        .collect();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}",
        serde_json::json!({ "ready": true, "endpoints": ports.endpoints(), "nodes": nodes })
    )?;
    out.flush()
}

/// The ports of the nodes.
struct Ports {
    /// For clients, for other nodes; one pair a node.
    pairs: Vec<(u16, u16)>,
    /// They are those where client commands look by themselves.
    wanted: bool,
}

impl Ports {
    fn endpoints(&self) -> String {
        let all: Vec<String> = self
            .pairs
            .iter()
            .map(|(client, _)| local(*client).to_string())
            .collect();
        all.join(",")
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn choose_ports(args: &DevArgs) -> Result<Ports, Failure> {
    let wanted: Vec<_> = (args.port..)
        .zip(args.port + PEER_OFFSET..)
        .take(usize::from(NODES))
        .collect();
    let taken = wanted
        .iter()
        .flat_map(|(client, peer)| [*client, *peer])
        .find(|port| TcpListener::bind(local(*port)).is_err());
    if !args.free_ports {
        match taken {
            None => {
                return Ok(Ports {
                    pairs: wanted,
                    wanted: args.port == 7401,
                });
            }
            Some(port) => eprintln!("note: port {port} is taken, so the nodes get free ports"),
        }
    }
    let free =
        || TcpListener::bind(local(0)).and_then(|listener| Ok((listener.local_addr()?.port(), listener)));
    // All are held until the last one is known, so that none is given twice.
    let held = (0..2 * NODES).map(|_| free()).collect::<Result<Vec<_>, _>>();
    let held = held.map_err(|error| Failure::new(Code::General, format!("no free port: {error}")))?;
    let pairs = held.chunks(2).map(|pair| (pair[0].0, pair[1].0)).collect();
    Ok(Ports { pairs, wanted: false })
}

fn config_of(id: u16, ports: &Ports, data: &Path, args: &DevArgs) -> Result<Config, Failure> {
    let (client, peer) = ports.pairs[usize::from(id) - 1];
    let members: Vec<String> = (1..)
        .zip(&ports.pairs)
        .map(|(id, (_, peer))| format!("{id}={}", local(*peer)))
        .collect();
    let own = |key: &str, value: String| Override {
        key: key.to_owned(),
        value,
        flag: "of brama dev".to_owned(),
    };
    let mut flags = vec![
        own("cluster.name", "dev".to_owned()),
        own("log.level", args.log_level.clone()),
    ];
    for pair in &args.set {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(Failure::usage(format!(
                "--set {pair}: expected KEY=VALUE, such as defaults.expiry=5s"
            )));
        };
        flags.push(Override {
            key: key.to_owned(),
            value: value.to_owned(),
            flag: format!("--set {key}"),
        });
    }
    flags.extend([
        own("node.id", id.to_string()),
        own(
            "node.data_dir",
            data.join(format!("node{id}")).display().to_string(),
        ),
        own("node.client_listen", local(client).to_string()),
        own("node.peer_listen", local(peer).to_string()),
        own("cluster.members", members.join(",")),
    ]);
    // Neither a file nor the environment: what is meant for a real node must not change a throw-away one.
    let sources = Sources {
        flags,
        ..Default::default()
    };
    config::load(&sources)
        .map(|loaded| loaded.config)
        .map_err(|error| Failure::usage(error.to_string()))
}
