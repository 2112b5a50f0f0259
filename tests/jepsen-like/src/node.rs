//! One `brama serve` process: started, killed, paused, and watched for an end that nobody asked for.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::hosts::Namespace;

/// How often a process that should end is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// A process that was killed with -9 is gone after this, or the machine is in trouble.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How to start a node.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// `node.id`.
    pub id: u64,
    /// `node.client_listen`.
    pub client: SocketAddr,
    /// `node.peer_listen`.
    pub peer: SocketAddr,
    /// Holds the configuration, the log and the data.
    pub folder: PathBuf,
    /// `node.peer_address`, where it is not the address at which it listens.
    pub peer_address: SocketAddr,
    /// Set for the process, beside the environment of the harness.
    pub env: Vec<(String, String)>,
    /// Where it runs; `None`: where the harness does.
    pub host: Option<Arc<Namespace>>,
}

/// A node, running or not. Dropping it kills the process.
#[derive(Debug)]
pub struct Node {
    /// How it is started.
    pub spec: NodeSpec,
    binary: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Killed by the harness, or never started.
    Down,
    Running(Child),
    /// Stopped with SIGSTOP.
    Paused(Child),
    /// Killed, and perhaps not gone yet.
    Dying(Child),
    /// Told to end.
    Stopping(Child),
    /// Ended without `kill`.
    Ended(ExitStatus),
}

impl Node {
    /// A node that is not started yet.
    pub fn new(binary: PathBuf, spec: NodeSpec) -> Self {
        Self {
            spec,
            binary,
            state: Mutex::new(State::Down),
        }
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.spec.folder.join("node.toml")
    }

    /// What the process writes to standard error, of all its lives.
    pub fn log_path(&self) -> PathBuf {
        self.spec.folder.join("node.log")
    }

    /// `node.data_dir`.
    pub fn data_dir(&self) -> PathBuf {
        self.spec.folder.join("data")
    }

    /// Starts the process; does not wait until it serves. Nothing happens if it runs.
    ///
    /// # Errors
    /// When the binary cannot be started, or the log not be written.
    pub fn start(&self) -> anyhow::Result<()> {
        let mut state = self.state.lock();
        if matches!(
            *state,
            State::Running(_) | State::Paused(_) | State::Dying(_) | State::Stopping(_)
        ) {
            return Ok(());
        }
        let log = append_to(&self.log_path())?;
        let mut command = Command::new(&self.binary);
        // A node takes every BRAMA_ variable for a setting; one that is meant for the harness must not reach it.
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("BRAMA_") {
                command.env_remove(key);
            }
        }
        command
            .arg("serve")
            .arg("--config")
            .arg(self.config_path())
            .envs(self.spec.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        let child = match &self.spec.host {
            None => command.spawn(),
            Some(host) => {
                let runtime = tokio::runtime::Handle::current();
                host.run(move || {
                    let _in_runtime = runtime.enter();
                    command.spawn()
                })?
            }
        };
        let child = child.with_context(|| format!("cannot start {}", self.binary.display()))?;
        *state = State::Running(child);
        Ok(())
    }

    /// Kills the process with -9, and returns when it is gone.
    ///
    /// # Errors
    /// When it does not go.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.send_kill()?;
        let deadline = Instant::now() + KILL_PATIENCE;
        while !self.is_reaped()? {
            if Instant::now() > deadline {
                bail!("node {} survives kill -9", self.spec.id);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let mut state = self.state.lock();
        if matches!(*state, State::Dying(_)) {
            *state = State::Down;
        }
        Ok(())
    }

    /// Sends -9 without waiting: several nodes can be killed in the same moment. [`Node::kill`] must follow.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn send_kill(&self) -> anyhow::Result<()> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Down) {
            State::Running(mut child) | State::Paused(mut child) | State::Stopping(mut child) => {
                let sent = child.start_kill();
                *state = State::Dying(child);
                Ok(sent?)
            }
            other => {
                *state = other;
                Ok(())
            }
        }
    }

    /// Stops the process with SIGSTOP; connections stay, nothing answers.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Down) {
            State::Running(child) => {
                let sent = signal(&child, Signal::SIGSTOP);
                *state = State::Paused(child);
                sent
            }
            other => {
                *state = other;
                bail!("node {} does not run, so it cannot be paused", self.spec.id)
            }
        }
    }

    /// Lets a paused process go on.
    ///
    /// # Errors
    /// When it is not paused.
    pub fn resume(&self) -> anyhow::Result<()> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Down) {
            State::Paused(child) => {
                let sent = signal(&child, Signal::SIGCONT);
                *state = State::Running(child);
                sent
            }
            other => {
                *state = other;
                bail!("node {} is not paused", self.spec.id)
            }
        }
    }

    /// Asks the process to end, with SIGTERM.
    ///
    /// # Errors
    /// When it does not run.
    pub fn terminate(&self) -> anyhow::Result<()> {
        match &*self.state.lock() {
            State::Running(child) => signal(child, Signal::SIGTERM),
            _ => bail!("node {} does not run", self.spec.id),
        }
    }

    /// Asks the process to end, with SIGTERM, and waits until it has: that is no end by itself.
    ///
    /// # Errors
    /// When it does not run, or does not end in time; then it is killed.
    pub async fn stop(&self, within: Duration) -> anyhow::Result<ExitStatus> {
        {
            let mut state = self.state.lock();
            match std::mem::replace(&mut *state, State::Down) {
                State::Running(child) => {
                    let sent = signal(&child, Signal::SIGTERM);
                    *state = State::Stopping(child);
                    sent?;
                }
                other => {
                    *state = other;
                    bail!("node {} does not run", self.spec.id);
                }
            }
        }
        self.end_expected(within).await
    }

    /// From now on it is no surprise if the process ends by itself.
    ///
    /// # Errors
    /// When it does not run.
    pub fn expect_end(&self) -> anyhow::Result<()> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Down) {
            State::Running(child) => {
                *state = State::Stopping(child);
                Ok(())
            }
            other => {
                *state = other;
                bail!("node {} does not run", self.spec.id)
            }
        }
    }

    /// Takes [`Node::expect_end`] back.
    pub fn expect_nothing(&self) {
        let mut state = self.state.lock();
        *state = match std::mem::replace(&mut *state, State::Down) {
            State::Stopping(child) => State::Running(child),
            other => other,
        };
    }

    /// Returns when a process has ended that was expected to.
    ///
    /// # Errors
    /// When it has not within this time: then it is killed.
    pub async fn end_expected(&self, within: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.stopped()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.kill().await?;
                bail!(
                    "node {} should have ended, and did not within {within:?}",
                    self.spec.id
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn stopped(&self) -> anyhow::Result<Option<ExitStatus>> {
        let mut state = self.state.lock();
        let State::Stopping(child) = &mut *state else {
            bail!("node {} was killed while it ended", self.spec.id);
        };
        let status = child.try_wait()?;
        if status.is_some() {
            *state = State::Down;
        }
        Ok(status)
    }

    /// Waits until the process has ended by itself; `None`: it has not, `within` this time.
    ///
    /// # Errors
    /// When the system does not say.
    pub async fn ended(&self, within: Duration) -> anyhow::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.exit_status()? {
                return Ok(Some(status));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How the process ended, if it did so without being killed by the harness.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn exit_status(&self) -> anyhow::Result<Option<ExitStatus>> {
        let mut state = self.state.lock();
        if let State::Running(child) = &mut *state
            && let Some(status) = child.try_wait()?
        {
            *state = State::Ended(status);
        }
        Ok(match &*state {
            State::Ended(status) => Some(*status),
            State::Down | State::Running(_) | State::Paused(_) | State::Dying(_) | State::Stopping(_) => None,
        })
    }

    /// The number of the process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        match &*self.state.lock() {
            State::Running(child) | State::Paused(child) | State::Dying(child) | State::Stopping(child) => {
                child.id()
            }
            State::Down | State::Ended(_) => None,
        }
    }

    /// Whether it runs and is not paused.
    pub fn is_up(&self) -> bool {
        matches!(*self.state.lock(), State::Running(_))
    }

    /// The end of its log, for a person.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<_> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn is_reaped(&self) -> anyhow::Result<bool> {
        match &mut *self.state.lock() {
            State::Dying(child) => Ok(child.try_wait()?.is_some()),
            State::Down | State::Ended(_) | State::Running(_) | State::Paused(_) | State::Stopping(_) => {
                Ok(true)
            }
        }
    }
}

fn signal(child: &Child, signal: Signal) -> anyhow::Result<()> {
    // A child that was not waited for keeps its number, so this cannot hit another process.
    let id = child.id().context("the process has ended")?;
    kill(Pid::from_raw(i32::try_from(id)?), signal).with_context(|| format!("cannot send {signal}"))
}

fn append_to(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))
}
