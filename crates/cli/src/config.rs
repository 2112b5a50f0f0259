//! `--config` and the flags over it; `brama config check` and `brama config show`.

use std::io::Write;
use std::path::PathBuf;

use brama_node::config::{self, Loaded, Override, Sources};
use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::NOTHING;

use crate::exit::{Failure, Outcome};

/// Where a node's configuration comes from.
#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    /// The configuration file
    #[arg(long, short, env = "BRAMA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// This node's number in the cluster (node.id)
    #[arg(long, value_name = "N")]
    id: Option<String>,
    /// Directory of the node's data (node.data_dir)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Where to listen for clients (node.client_listen)
    #[arg(long, value_name = "IP:PORT")]
    client_listen: Option<String>,
    /// Where to listen for other nodes (node.peer_listen)
    #[arg(long, value_name = "IP:PORT")]
    peer_listen: Option<String>,
    /// Where clients reach this node (node.client_address)
    #[arg(long, value_name = "HOST:PORT")]
    client_address: Option<String>,
    /// Where other nodes reach this node (node.peer_address)
    #[arg(long, value_name = "HOST:PORT")]
    peer_address: Option<String>,
    /// Name of the cluster (cluster.name)
    #[arg(long, value_name = "NAME")]
    cluster_name: Option<String>,
    /// Make a new cluster with these, this node included: 1=host:port,2=host:port (cluster.members)
    #[arg(long, value_name = "ID=HOST:PORT,..")]
    members: Option<String>,
    /// Join the cluster of one of these peer addresses (cluster.join)
    #[arg(long, value_name = "HOST:PORT,..")]
    join: Option<String>,
    /// text or json (log.format)
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// error, warn, info, debug, trace, or directives such as info,brama_raft=debug (log.level)
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Any other key, e.g. --set raft.snapshot_every=10000; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// `brama config ..`
#[derive(Subcommand, Debug)]
pub(crate) enum ConfigCommand {
    /// Check a node's configuration without starting it: prints ok, or what is wrong (exit code 2)
    Check(ConfigArgs),
    /// Show every setting with the value that holds and where it comes from
    Show {
        #[command(flatten)]
        from: ConfigArgs,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
}

impl ConfigArgs {
    /// Reads and checks all layers.
    pub(crate) fn load(self) -> Result<Loaded, Failure> {
        let named = [
            ("node.id", "--id", self.id),
            ("node.data_dir", "--data-dir", self.data_dir),
            ("node.client_listen", "--client-listen", self.client_listen),
            ("node.peer_listen", "--peer-listen", self.peer_listen),
            ("node.client_address", "--client-address", self.client_address),
            ("node.peer_address", "--peer-address", self.peer_address),
            ("cluster.name", "--cluster-name", self.cluster_name),
            ("cluster.members", "--members", self.members),
            ("cluster.join", "--join", self.join),
            ("log.format", "--log-format", self.log_format),
            ("log.level", "--log-level", self.log_level),
        ];
        let mut flags: Vec<Override> = Vec::new();
        for (key, flag, value) in named {
            flags.extend(value.map(|value| Override {
                key: key.to_owned(),
                value,
                flag: flag.to_owned(),
            }));
        }
        for pair in self.set {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(Failure::usage(format!(
                    "--set {pair}: expected KEY=VALUE, such as raft.keep_entries=500"
                )));
            };
            let (key, value) = (key.trim().to_owned(), value.to_owned());
            flags.push(Override {
                flag: format!("--set {key}"),
                key,
                value,
            });
        }
        config::load(&Sources::of_process(self.config, flags))
            .map_err(|error| Failure::usage(error.to_string()))
    }
}

/// `brama config ..`
pub(crate) fn run(command: ConfigCommand) -> Outcome {
    let mut out = std::io::stdout().lock();
    match command {
        ConfigCommand::Check(from) => {
            from.load()?;
            writeln!(out, "ok")?;
        }
        ConfigCommand::Show { from, json: true } => {
            for setting in from.load()?.settings {
                let line = serde_json::json!({
                    "key": setting.key, "value": setting.value, "origin": setting.origin,
                });
                writeln!(out, "{line}")?;
            }
        }
        ConfigCommand::Show { from, json: false } => {
            let mut table = Table::new();
            table.load_preset(NOTHING).set_header(["KEY", "VALUE", "FROM"]);
            for setting in from.load()?.settings {
                table.add_row([
                    setting.key,
                    setting.value.as_deref().unwrap_or("-"),
                    &setting.origin,
                ]);
            }
            for line in table.lines() {
                writeln!(out, "{}", line.trim())?;
            }
        }
    }
    Ok(())
}
