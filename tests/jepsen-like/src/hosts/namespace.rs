//! One network namespace, and a thread that lives in it.
//!
//! A thread can enter a namespace, and what it makes there stays there: sockets, and processes. So the harness itself stays where it is, and
//! asks this thread for each socket that must be on the host.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, setns};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Waiting connections of a listener.
const BACKLOG: u32 = 128;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace that this process made. Dropping it removes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    jobs: Mutex<Option<std::sync::mpsc::Sender<Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    /// Makes an empty one.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn make(name: &str) -> anyhow::Result<Self> {
        said(Command::new("ip").args(["netns", "add", name]).output()?)
            .with_context(|| format!("cannot make the network namespace {name}"))?;
        // From here on, dropping it removes it.
        let mut made = Self {
            name: name.to_owned(),
            jobs: Mutex::new(None),
            thread: None,
        };
        let file = File::open(made.path()).context("a new namespace has a file")?;
        let (jobs, inbox) = std::sync::mpsc::channel::<Job>();
        let (entered, has_entered) = std::sync::mpsc::sync_channel(1);
        let live = move || {
            let result = setns(file, CloneFlags::CLONE_NEWNET);
            let failed = result.is_err();
            let told = entered.send(result);
            if failed || told.is_err() {
                return;
            }
            while let Ok(job) = inbox.recv() {
                job();
            }
        };
        made.thread = Some(std::thread::Builder::new().name(name.to_owned()).spawn(live)?);
        *made.jobs.lock() = Some(jobs);
        has_entered
            .recv()
            .context("the thread of a namespace has ended")?
            .with_context(|| format!("cannot enter the network namespace {name}"))?;
        Ok(made)
    }

    /// As `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does this on the thread in the namespace, and waits for it: it should be quick.
    ///
    /// # Errors
    /// When the thread has ended: it panicked.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
        let (done, is_done) = std::sync::mpsc::sync_channel(1);
        let job = Box::new(move || {
            // Who asked may be gone.
            let _ = done.send(job());
        });
        let sent = match &*self.jobs.lock() {
            Some(jobs) => jobs.send(job).is_ok(),
            None => false,
        };
        if !sent {
            bail!("the thread of the namespace {} has ended", self.name);
        }
        is_done
            .recv()
            .with_context(|| format!("a job in the namespace {} panicked", self.name))
    }

    /// A socket that is not connected yet.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn socket(&self) -> anyhow::Result<TcpSocket> {
        Ok(self.run(TcpSocket::new_v4)??)
    }

    /// Connects from here.
    ///
    /// # Errors
    /// As connecting does.
    pub async fn connect(&self, to: SocketAddr) -> anyhow::Result<TcpStream> {
        Ok(self.socket()?.connect(to).await?)
    }

    /// Listens here.
    ///
    /// # Errors
    /// When the address is taken, or not one of this host.
    pub fn listen(&self, at: SocketAddr) -> anyhow::Result<TcpListener> {
        let socket = self.socket()?;
        socket.set_reuseaddr(true)?;
        socket
            .bind(at)
            .with_context(|| format!("cannot listen at {at} in {}", self.name))?;
        Ok(socket.listen(BACKLOG)?)
    }

    /// Runs `ip` with these arguments here.
    ///
    /// # Errors
    /// When it fails.
    pub fn ip(&self, arguments: &str) -> anyhow::Result<String> {
        let mut command = Command::new("ip");
        command.args(arguments.split_whitespace());
        let output = self.run(move || command.output())?;
        said(output?).with_context(|| format!("ip {arguments} (in {})", self.name))
    }

    /// Gives `nft` this script here: all of it, or nothing, takes effect.
    ///
    /// # Errors
    /// When it fails.
    pub fn nft(&self, script: &str) -> anyhow::Result<()> {
        let owned = script.to_owned();
        let output = self.run(move || {
            let mut child = Command::new("nft")
                .args(["-f", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(owned.as_bytes())?;
            }
            child.wait_with_output()
        })?;
        said(output?).with_context(|| format!("nft (in {}): {script}", self.name))?;
        Ok(())
    }

    /// What `nft` has in a chain of the table `brama`, as JSON.
    ///
    /// # Errors
    /// When it fails.
    pub fn chain(&self, chain: &str) -> anyhow::Result<serde_json::Value> {
        let mut command = Command::new("nft");
        command.args(["-j", "list", "chain", "ip", "brama", chain]);
        let output = self.run(move || command.output())?;
        let listed = said(output?).with_context(|| format!("nft (in {}): list {chain}", self.name))?;
        Ok(serde_json::from_str(&listed)?)
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs.lock().take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the thread of the namespace {} panicked", self.name);
        }
        super::leftovers::delete(&self.name);
    }
}

/// What a program printed; its complaint, if it failed.
fn said(output: Output) -> anyhow::Result<String> {
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
