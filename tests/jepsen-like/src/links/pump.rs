//! Carries the bytes of one connection both ways, as the shape of its link wants it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::shape::{Effects, Shape};

/// One read.
const PIECE: usize = 16 * 1024;
/// Pieces on their way in one direction: 1 MiB, as kernels hold for a link that is long.
const ON_THE_WAY: usize = 64;

/// How a connection ended.
pub(super) enum End {
    /// Both sides had said that they have no more to say.
    Finished,
    /// One side broke it, or the shape did.
    Broken,
}

/// A connection was broken, by a side or by the shape.
struct Broken;

/// Carries bytes until the connection ends.
pub(super) async fn pump(
    near: &TcpStream,
    far: &TcpStream,
    shapes: watch::Receiver<Shape>,
    effects: &Effects,
) -> End {
    let carried = AtomicU64::new(0);
    let there = one_way(near, far, shapes.clone(), effects, &carried);
    let back = one_way(far, near, shapes.clone(), effects, &carried);
    let carry = async { tokio::try_join!(there, back) };
    tokio::select! {
        result = carry => match result {
            Ok(_) => End::Finished,
            Err(Broken) => End::Broken,
        },
        () = until_reset(shapes) => {
            Effects::count(&effects.resets);
            End::Broken
        }
    }
}

/// A piece, and when it may arrive.
struct Piece {
    bytes: Vec<u8>,
    due: Instant,
}

async fn one_way(
    from: &TcpStream,
    to: &TcpStream,
    shapes: watch::Receiver<Shape>,
    effects: &Effects,
    carried: &AtomicU64,
) -> Result<(), Broken> {
    let (pieces, arriving) = mpsc::channel(ON_THE_WAY);
    tokio::try_join!(
        take(from, pieces, shapes.clone()),
        give(to, arriving, shapes, effects, carried)
    )?;
    Ok(())
}

/// Reads until the side has no more to say.
async fn take(
    from: &TcpStream,
    pieces: mpsc::Sender<Piece>,
    shapes: watch::Receiver<Shape>,
) -> Result<(), Broken> {
    let mut newest = Instant::now();
    loop {
        from.readable().await.map_err(|_| Broken)?;
        let mut bytes = vec![0; PIECE];
        match from.try_read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(read) => bytes.truncate(read),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(Broken),
        }
        // Nothing overtakes.
        newest = newest.max(Instant::now() + lateness(*shapes.borrow()));
        let piece = Piece { bytes, due: newest };
        pieces.send(piece).await.map_err(|_| Broken)?;
    }
}

fn lateness(shape: Shape) -> Duration {
    match shape {
        Shape::Slow { delay, jitter } => delay + jitter.mul_f64(rand::rng().random_range(0.0..=1.0)),
        _ => Duration::ZERO,
    }
}

/// Writes what has arrived, when it may; then says that there is no more.
async fn give(
    to: &TcpStream,
    mut arriving: mpsc::Receiver<Piece>,
    mut shapes: watch::Receiver<Shape>,
    effects: &Effects,
    carried: &AtomicU64,
) -> Result<(), Broken> {
    while let Some(piece) = arriving.recv().await {
        if piece.due > Instant::now() {
            Effects::count(&effects.held_back);
        }
        tokio::time::sleep_until(piece.due).await;
        if *shapes.borrow() == Shape::Frozen {
            Effects::count(&effects.held_back);
        }
        while *shapes.borrow_and_update() == Shape::Frozen {
            // The proxy is gone: so is the connection.
            shapes.changed().await.map_err(|_| Broken)?;
        }
        let shape = *shapes.borrow();
        let length = piece.bytes.len() as u64;
        let before = carried.fetch_add(length, Ordering::Relaxed);
        if let Shape::CutAfter { bytes } = shape
            && before + length > bytes
        {
            let rest = usize::try_from(bytes.saturating_sub(before)).unwrap_or(0);
            write(to, &piece.bytes[..rest.min(piece.bytes.len())]).await?;
            Effects::count(&effects.resets);
            return Err(Broken);
        }
        write(to, &piece.bytes).await?;
        if let Shape::Throttled { bytes_per_second } = shape {
            Effects::count(&effects.held_back);
            tokio::time::sleep(Duration::from_secs_f64(
                length as f64 / f64::from(bytes_per_second.max(1)),
            ))
            .await;
        }
    }
    socket2::SockRef::from(to)
        .shutdown(std::net::Shutdown::Write)
        .map_err(|_| Broken)
}

async fn write(to: &TcpStream, mut bytes: &[u8]) -> Result<(), Broken> {
    while !bytes.is_empty() {
        to.writable().await.map_err(|_| Broken)?;
        match to.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Broken),
        }
    }
    Ok(())
}

async fn until_reset(mut shapes: watch::Receiver<Shape>) {
    while *shapes.borrow_and_update() != Shape::Reset {
        if shapes.changed().await.is_err() {
            // Who ends the proxy ends this too.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Two ends of a connection that goes through a pump.
    struct Rig {
        near: TcpStream,
        far: TcpStream,
        shape: watch::Sender<Shape>,
        effects: std::sync::Arc<Effects>,
        _pump: tokio::task::JoinSet<()>,
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (one, other) = tokio::join!(TcpStream::connect(address), listener.accept());
        (one.unwrap(), other.unwrap().0)
    }

    async fn rig() -> Rig {
        let (near, inner_near) = pair().await;
        let (inner_far, far) = pair().await;
        let (shape, shapes) = watch::channel(Shape::Clean);
        let effects = std::sync::Arc::<Effects>::default();
        let of_pump = effects.clone();
        let mut pumps = tokio::task::JoinSet::new();
        pumps.spawn(async move {
            if let End::Broken = pump(&inner_near, &inner_far, shapes, &of_pump).await {
                for stream in [&inner_near, &inner_far] {
                    socket2::SockRef::from(stream)
                        .set_linger(Some(Duration::ZERO))
                        .unwrap();
                }
            }
        });
        Rig {
            near,
            far,
            shape,
            effects,
            _pump: pumps,
        }
    }

    impl Rig {
        async fn send(&mut self, text: &str) -> Duration {
            let began = Instant::now();
            self.near.write_all(text.as_bytes()).await.unwrap();
            let mut buffer = vec![0; text.len()];
            self.far.read_exact(&mut buffer).await.unwrap();
            assert_eq!(buffer, text.as_bytes());
            began.elapsed()
        }
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_an_end_is_told() {
        let mut rig = rig().await;
        rig.send("there").await;
        rig.far.write_all(b"back").await.unwrap();
        rig.far.shutdown().await.unwrap();
        let mut all = String::new();
        rig.near.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "back");
        rig.send("one way is still open").await;
    }

    #[tokio::test]
    async fn what_is_slow_arrives_later_and_in_order() {
        let mut rig = rig().await;
        let delay = Duration::from_millis(50);
        let jitter = Duration::from_millis(20);
        rig.shape.send_replace(Shape::Slow { delay, jitter });
        for text in ["a", "bc", "def"] {
            assert!(rig.send(text).await >= delay);
        }
        assert_eq!(rig.effects.counts().held_back, 3);
    }

    #[tokio::test]
    async fn what_is_frozen_arrives_when_it_thaws() {
        let mut rig = rig().await;
        rig.shape.send_replace(Shape::Frozen);
        rig.near.write_all(b"x").await.unwrap();
        let mut buffer = [0];
        let waited = tokio::time::timeout(Duration::from_millis(100), rig.far.read_exact(&mut buffer));
        assert!(waited.await.is_err(), "nothing passes");
        assert_eq!(rig.effects.counts().held_back, 1, "while it is frozen");
        rig.shape.send_replace(Shape::Clean);
        rig.far.read_exact(&mut buffer).await.unwrap();
    }

    #[tokio::test]
    async fn a_throttled_link_takes_its_time() {
        let mut rig = rig().await;
        rig.shape.send_replace(Shape::Throttled {
            bytes_per_second: 10_000,
        });
        rig.send(&"x".repeat(1000)).await;
        assert!(
            rig.send("y").await >= Duration::from_millis(80),
            "it waits for the thousand"
        );
    }

    #[tokio::test]
    async fn a_reset_breaks_both_sides() {
        let mut rig = rig().await;
        rig.send("x").await;
        rig.shape.send_replace(Shape::Reset);
        for stream in [&mut rig.near, &mut rig.far] {
            let error = stream.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        assert_eq!(rig.effects.counts().resets, 1);
    }

    #[tokio::test]
    async fn a_connection_is_cut_within_a_message() {
        let mut rig = rig().await;
        rig.shape.send_replace(Shape::CutAfter { bytes: 6 });
        rig.send("1234").await;
        rig.near.write_all(b"5678").await.unwrap();
        let mut rest = Vec::new();
        assert!(rig.far.read_to_end(&mut rest).await.is_err(), "{rest:?}");
        assert!(b"56".starts_with(&rest[..]), "an RST may overtake: {rest:?}");
        assert_eq!(rig.effects.counts().resets, 1);
    }
}
