//! The floor: what one replicated write cannot beat on this machine at this minute.
//!
//! A client's round trip, a node's round trip, and one `fdatasync` of three at once (the leader's own runs beside the followers').

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

/// Bytes of one write and of one message.
const BYTES: usize = 256;

/// Medians.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Floor {
    pub(crate) round_trip: Duration,
    pub(crate) sync_of_three: Duration,
}

impl Floor {
    /// Measures for about three seconds. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be written, or there is no port.
    pub(crate) fn measure(folder: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            round_trip: round_trip(Duration::from_secs(1))?,
            sync_of_three: sync_of_three(folder, Duration::from_secs(2))?,
        })
    }

    /// One client's write, at best.
    pub(crate) fn write(&self) -> Duration {
        2 * self.round_trip + self.sync_of_three
    }
}

fn round_trip(how_long: Duration) -> anyhow::Result<Duration> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port")?;
    let address = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut message = [0; BYTES];
        while stream.read_exact(&mut message).is_ok() {
            stream.write_all(&message)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut message = [7; BYTES];
    let took = repeat(how_long, || {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)
    })?;
    drop(stream);
    let _ = echo.join();
    Ok(took)
}

fn sync_of_three(folder: &Path, how_long: Duration) -> anyhow::Result<Duration> {
    let writers = ["a", "b", "c"].map(|name| {
        let path = folder.join(format!("floor-{name}"));
        std::thread::spawn(move || -> anyhow::Result<Duration> {
            let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
            let took = repeat(how_long, || {
                file.write_all(&[7; BYTES])?;
                file.sync_data()
            });
            std::fs::remove_file(&path)?;
            took
        })
    });
    let mut medians = Vec::new();
    for writer in writers {
        medians.push(
            writer
                .join()
                .map_err(|_| anyhow::anyhow!("a writer panicked"))??,
        );
    }
    medians.sort();
    Ok(medians[1])
}

/// The median of what `step` takes.
fn repeat(how_long: Duration, mut step: impl FnMut() -> std::io::Result<()>) -> anyhow::Result<Duration> {
    let end = Instant::now() + how_long;
    let mut took = Vec::new();
    while Instant::now() < end {
        let began = Instant::now();
        step()?;
        took.push(began.elapsed());
    }
    took.sort();
    Ok(took[took.len() / 2])
}
