//! The processes of the demo. Each dies with its handle, whatever way the director goes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A process that was told to end gets so long.
const END_WITHIN: Duration = Duration::from_secs(8);

/// A node, run as a user would: `brama serve --config config/nodeN.toml`.
pub(crate) struct Node {
    pub(crate) number: usize,
    child: Option<Child>,
    brama: PathBuf,
    config: PathBuf,
    directory: PathBuf,
}

impl Node {
    /// Not started yet. Its data and its log will be in `directory`, because the example files name paths relative to where the node is started.
    pub(crate) fn new(number: usize, brama: &Path, config: &Path, directory: &Path) -> Self {
        let config = config.join(format!("node{number}.toml"));
        Self {
            number,
            child: None,
            brama: brama.to_owned(),
            config,
            directory: directory.to_owned(),
        }
    }

    /// Starts it, also after it was killed.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let path = self.directory.join(format!("node{}.log", self.number));
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = Command::new(&self.brama);
        // What is meant for a user's own nodes must not change these.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("BRAMA_")) {
            command.env_remove(key);
        }
        command
            .arg("serve")
            .arg("--config")
            .arg(&self.config)
            .current_dir(&self.directory);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {}", self.brama.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// kill -9.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.context("cannot kill a node")?;
        }
        Ok(())
    }

    /// An error if it ended by itself.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait()?
        {
            bail!(
                "node {} ended by itself ({status}), see node{}.log",
                self.number,
                self.number
            );
        }
        Ok(())
    }
}

/// One of our own roles. It ends when its standard input is closed.
pub(crate) struct Role {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
}

impl Role {
    /// Starts it; gives what it says, line by line.
    pub(crate) fn start(name: &str, args: &[String], directory: &Path) -> anyhow::Result<(Self, Said)> {
        let path = directory.join(format!("{name}.log"));
        let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("no standard output")?;
        let said = Said {
            lines: BufReader::new(output).lines(),
        };
        Ok((
            Self {
                name: name.to_owned(),
                child,
                input,
            },
            said,
        ))
    }

    /// Lets it end.
    pub(crate) fn tell_to_end(&mut self) {
        self.input = None;
    }

    /// Waits until it has ended, after it was told to.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        self.tell_to_end();
        match tokio::time::timeout(END_WITHIN, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => bail!("{} ended with {status}, see {}.log", self.name, self.name),
            Ok(Err(error)) => Err(error).context("cannot wait for a process"),
            Err(_) => bail!("{} did not end within {END_WITHIN:?}", self.name),
        }
    }
}

/// What a process says.
pub(crate) struct Said {
    lines: Lines<BufReader<ChildStdout>>,
}

impl Said {
    /// The next object; `None`: it says nothing more.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> anyhow::Result<Option<T>> {
        match self.lines.next_line().await? {
            Some(line) => serde_json::from_str(&line)
                .map(Some)
                .with_context(|| format!("not understood: {line}")),
            None => Ok(None),
        }
    }
}
