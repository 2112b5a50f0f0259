//! What is wrong below gRPC: bytes that are no protocol, protocols that are no HTTP, and HTTP/2 that means harm.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A call that costs the node something.
const PATH: &str = "/brama.v1.Circuits/List";
const PATIENCE: Duration = Duration::from_secs(2);
/// The largest frame that nobody has to allow.
const FRAME: usize = 16 * 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// One way to do harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Attack {
    /// Random bytes.
    Noise,
    /// A client that wants TLS.
    Tls,
    /// The preface, then frames of random kinds, lengths and streams.
    RandomFrames,
    /// Calls that are taken back at once, thousands of them (CVE-2023-44487).
    RapidReset,
    /// A head that never ends (CVE-2024-27316).
    Continuations,
    /// Settings that want to be acknowledged, from one who reads nothing.
    Settings,
    /// The same with pings.
    Pings,
    /// Calls whose answers may not be sent.
    NoWindow,
    /// One head of a mebibyte.
    LongHead,
    /// The same in HTTP/1.1.
    LongHead1,
    /// A message that says it is four gibibytes long.
    LongMessage,
    /// A message that says it is compressed, by what nobody knows.
    Compressed,
}

impl Attack {
    pub(super) const ALL: [Self; 12] = [
        Self::Noise,
        Self::Tls,
        Self::RandomFrames,
        Self::RapidReset,
        Self::Continuations,
        Self::Settings,
        Self::Pings,
        Self::NoWindow,
        Self::LongHead,
        Self::LongHead1,
        Self::LongMessage,
        Self::Compressed,
    ];

    fn bytes(self, rng: &mut StdRng) -> Vec<u8> {
        match self {
            Self::Noise => noise(rng, 64 * 1024),
            Self::Tls => [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &noise(rng, 512)].concat(),
            Self::RandomFrames => {
                let mut bytes = begin(&[]);
                for _ in 0..200 {
                    let payload = noise(rng, 1024);
                    let mut head = frame(rng.random(), rng.random(), rng.random(), &payload);
                    if rng.random_bool(0.2) {
                        // It says another length than it has.
                        head[1] = rng.random();
                    }
                    bytes.append(&mut head);
                }
                bytes
            }
            Self::RapidReset => {
                let mut bytes = begin(&[]);
                for stream in (1..4000).step_by(2) {
                    bytes.append(&mut frame(HEADERS, END_HEADERS, stream, &head(PATH)));
                    bytes.append(&mut frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
                }
                bytes
            }
            Self::Continuations => {
                let mut bytes = begin(&[]);
                bytes.append(&mut frame(HEADERS, 0, 1, &head(PATH)));
                for _ in 0..256 {
                    bytes.append(&mut frame(
                        CONTINUATION,
                        0,
                        1,
                        &field("x", &"y".repeat(FRAME - 16)),
                    ));
                }
                bytes
            }
            Self::Settings => [begin(&[]), frame(SETTINGS, 0, 0, &[]).repeat(20_000)].concat(),
            Self::Pings => [begin(&[]), frame(PING, 0, 0, &[7; 8]).repeat(20_000)].concat(),
            Self::NoWindow => {
                let mut bytes = begin(&[(INITIAL_WINDOW_SIZE, 0)]);
                for stream in (1..400).step_by(2) {
                    bytes.append(&mut frame(HEADERS, END_HEADERS, stream, &head(PATH)));
                    bytes.append(&mut frame(DATA, END_STREAM, stream, &[0; 5]));
                }
                bytes
            }
            Self::LongHead => {
                let mut bytes = begin(&[]);
                bytes.append(&mut frame(HEADERS, 0, 1, &head(PATH)));
                for _ in 0..63 {
                    bytes.append(&mut frame(
                        CONTINUATION,
                        0,
                        1,
                        &field("x", &"y".repeat(FRAME - 16)),
                    ));
                }
                bytes.append(&mut frame(CONTINUATION, END_HEADERS, 1, &field("x", "y")));
                bytes
            }
            Self::LongHead1 => {
                let head = format!(
                    "GET /readyz HTTP/1.1\r\nhost: x\r\nx: {}",
                    "y".repeat(1024 * 1024)
                );
                head.into_bytes()
            }
            Self::LongMessage => {
                let mut bytes = begin(&[]);
                bytes.append(&mut frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &head("/brama.v1.Circuits/Report"),
                ));
                bytes.append(&mut frame(DATA, 0, 1, &[0, 0xff, 0xff, 0xff, 0xff]));
                for _ in 0..3 {
                    bytes.append(&mut frame(DATA, 0, 1, &[0; FRAME]));
                }
                bytes
            }
            Self::Compressed => {
                let mut bytes = begin(&[]);
                bytes.append(&mut frame(HEADERS, END_HEADERS, 1, &head(PATH)));
                bytes.append(&mut frame(DATA, END_STREAM, 1, &[1, 0, 0, 0, 3, 1, 2, 3]));
                bytes
            }
        }
    }
}

/// Does it once, on a connection of its own that is held for a moment. Returns whether the node took all of it before it hung up.
///
/// # Errors
/// When there is no connection: then nothing was shown.
pub(super) async fn attack(attack: Attack, address: SocketAddr, rng: &mut StdRng) -> io::Result<bool> {
    let bytes = attack.bytes(rng);
    let hold = Duration::from_millis(rng.random_range(0..500));
    let mut stream = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await??;
    // Nothing is read: what the node says waits in its queues, if it has any.
    let sent = tokio::time::timeout(PATIENCE, stream.write_all(&bytes)).await;
    tokio::time::sleep(hold).await;
    Ok(matches!(sent, Ok(Ok(()))))
}

/// How one keeps a connection without ever saying something.
pub(super) fn slow_bytes(number: usize) -> Vec<u8> {
    match number % 4 {
        0 => format!("GET /livez HTTP/1.1\r\nhost: {}", "x".repeat(4000)).into_bytes(),
        1 => PREFACE.to_vec(),
        2 => [begin(&[]), frame(HEADERS, END_HEADERS, 1, &head(PATH))].concat(),
        _ => Vec::new(),
    }
}

fn begin(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in settings {
        payload.extend(name.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    [PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The head of a gRPC call, without compression.
fn head(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "brama"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields
        .iter()
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

/// A literal field, not indexed, with lengths of seven bits and what is left over in more bytes.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        if text.len() < 127 {
            bytes.push(text.len() as u8);
        } else {
            bytes.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                bytes.push(rest as u8 | 128);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
        bytes.extend(text.as_bytes());
    }
    bytes
}

pub(super) fn noise(rng: &mut StdRng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(1..most)];
    rng.fill(&mut bytes[..]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_fields_are_as_http_2_has_them() {
        assert_eq!(frame(PING, 0, 0, &[1, 2]), [0, 0, 2, 6, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(field("a", "bc"), [0, 1, b'a', 2, b'b', b'c']);
        let long = field("a", &"b".repeat(1337));
        // RFC 7541, C.1.2, with seven bits: 127 + 58 + 9 * 128.
        assert_eq!(long[..6], [0, 1, b'a', 127, 0xba, 9]);
    }
}
