//! The director: sets the stage, plays the story, shows the outcome, and clears the stage in any case.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::checks::Check;
use crate::screen::{Colour, Screen};
use crate::story::Story;

/// Of the example files: where clients and other nodes reach the three.
const PORTS: [u16; 6] = [7401, 7402, 7403, 7411, 7412, 7413];

/// Plays the demo. Success only if everything held.
pub(crate) async fn run(brama: &Path, config: &Path) -> ExitCode {
    let screen = Screen::new();
    let directory = match stage(brama, config).await {
        Ok(directory) => directory,
        Err(error) => {
            eprintln!("the demo cannot start: {error:#}");
            return ExitCode::from(2);
        }
    };
    let outcome = tokio::select! {
        outcome = play(screen, brama, config, directory.path()) => outcome,
        () = interrupted() => {
            // With the story go its processes, and with the directory their data.
            println!("\n  interrupted, everything is cleaned up");
            return ExitCode::from(130);
        }
    };
    let problem = match outcome {
        Ok(checks) if checks.iter().all(|check| check.held) => return ExitCode::SUCCESS,
        Ok(_) => None,
        Err(error) => Some(error),
    };
    let screen = Screen::new();
    if let Some(error) = problem {
        screen.line(&format!("\n  {}  {error:#}", screen.paint(Colour::Red, "✗")));
    }
    screen.line(&format!(
        "  logs and data are kept in {}",
        directory.keep().display()
    ));
    ExitCode::FAILURE
}

/// Checks what the demo needs, and makes a place for its data.
async fn stage(brama: &Path, config: &Path) -> anyhow::Result<tempfile::TempDir> {
    if !brama.is_file() {
        bail!(
            "there is no {}: run scripts/demo, which builds it",
            brama.display()
        );
    }
    for number in 1..=3 {
        let file = config.join(format!("node{number}.toml"));
        if !file.is_file() {
            bail!("there is no {}: run it where the project is", file.display());
        }
    }
    let mut taken = Vec::new();
    for port in PORTS {
        if TcpListener::bind(("127.0.0.1", port)).await.is_err() {
            taken.push(port.to_string());
        }
    }
    if !taken.is_empty() {
        bail!(
            "the ports of config/node*.toml must be free, and these are taken: {} (another demo, or `brama dev`?)",
            taken.join(", ")
        );
    }
    tempfile::Builder::new()
        .prefix("brama-demo-")
        .tempdir()
        .context("no place for temporary data")
}

async fn play(screen: Screen, brama: &Path, config: &Path, directory: &Path) -> anyhow::Result<Vec<Check>> {
    let (brama, config) = (brama.canonicalize()?, config.canonicalize()?);
    let mut story = Story::begin(screen, &brama, &config, directory).await?;
    story.play().await?;
    story.end().await
}

/// Ctrl-C, or SIGTERM.
async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
