//! A state at one moment: cheap to take, written and read in a versioned encoding.
//!
//! ```text
//! magic (8) · version (4, big-endian) · head · circuits · sessions · events · xxh3 of all before (8, big-endian)
//! ```
//!
//! Head, circuits, sessions and events are records: their length (4, big-endian) and their postcard encoding. They are written and read one by
//! one, so a snapshot never stands in memory as a whole, and a damaged length is never believed.

use std::io::{self, Read, Write};
use std::sync::Arc;

use imbl::OrdMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::circuit::Circuit;
use crate::command::{Bootstrap, CircuitId};
use crate::event::Event;
use crate::event_log::EventLog;
use crate::machine::{Machine, State, Sweeps};
use crate::mutants::{self, Mutant};
use crate::policies::Policies;
use crate::policy::{GlobalOptions, Policy};
use crate::session::Session;
use crate::time::ClusterTime;

const MAGIC: &[u8; 8] = b"BRAMASTA";
/// 1 was of builds before the first release, whose rolling hash was another.
const VERSION: u32 = 2;
/// No record is longer: the largest is an event or a circuit with all its texts at their limits.
const MAX_RECORD_BYTES: u32 = 1024 * 1024;

/// A state at one moment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Frozen {
    pub(crate) state: State,
}

/// Why a snapshot could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Reading failed.
    #[error("the snapshot cannot be read")]
    Io(#[from] io::Error),
    /// It is not a snapshot, or damaged.
    #[error("the snapshot is damaged: {0}")]
    Damaged(String),
    /// A newer Brama wrote it.
    #[error("the snapshot has format version {found}, this program reads up to {newest}")]
    Version {
        /// In the file.
        found: u32,
        /// That this program knows.
        newest: u32,
    },
    /// A build from before the first release wrote it.
    #[error(
        "the snapshot has format version {found}, of a build before the first release, which this program does not read"
    )]
    Outdated {
        /// In the file.
        found: u32,
    },
}

/// Everything that is not a list.
#[derive(Serialize, Deserialize)]
struct Head {
    cluster: Option<Arc<Bootstrap>>,
    global: Arc<Policy>,
    global_options: GlobalOptions,
    time: ClusterTime,
    hash: u64,
    next_circuit: u64,
    generation_floor: u64,
    sweeps: Sweeps,
    revision: u64,
    circuits: u64,
    sessions: u64,
    events: u64,
}

impl Frozen {
    /// Takes the newest event out, as nothing ever may: see [`crate::mutants`].
    #[cfg(feature = "mutants")]
    pub fn lose_newest_event(&mut self) {
        self.state.events.lose_newest();
    }

    /// The machine that this state is of, for reading only: it has no timers. O(1).
    pub fn reader(&self) -> Machine {
        Machine::reading(self.clone())
    }

    /// Writes the state in the newest version, piece by piece.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut out = Hashing {
            inner: out,
            hash: Xxh3::new(),
        };
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_be_bytes())?;
        let state = &self.state;
        let mut sessions = &state.sessions;
        let none = OrdMap::new();
        if mutants::active(Mutant::SessionsNotInSnapshot) {
            sessions = &none;
        }
        let head = Head {
            cluster: state.cluster.clone(),
            global: state.global.clone(),
            global_options: state.global_options,
            time: state.time,
            hash: state.hash,
            next_circuit: state.next_circuit,
            generation_floor: state.generation_floor,
            sweeps: state.sweeps,
            revision: state.events.revision(),
            circuits: state.circuits.len() as u64,
            sessions: sessions.len() as u64,
            events: state.events.len() as u64,
        };
        write_record(&mut out, &head)?;
        for (id, circuit) in state.circuits.iter() {
            write_record(&mut out, &(id, &**circuit))?;
        }
        for (id, session) in sessions {
            write_record(&mut out, &(id, &**session))?;
        }
        for event in state.events.iter() {
            write_record(&mut out, event)?;
        }
        let digest = out.hash.digest();
        out.inner.write_all(&digest.to_be_bytes())
    }

    /// Reads what [`Frozen::write_to`] wrote; `input` stands behind it then.
    ///
    /// # Errors
    /// [`SnapshotError`]; whatever the bytes are, it neither panics nor allocates beyond what they hold.
    pub fn read_from(input: &mut impl Read) -> Result<Self, SnapshotError> {
        let mut input = Hashing {
            inner: input,
            hash: Xxh3::new(),
        };
        let mut start = [0; 12];
        read_all(&mut input, &mut start)?;
        let (magic, version) = start.split_at(8);
        if magic != MAGIC {
            return Err(SnapshotError::Damaged("it does not begin as one".into()));
        }
        let found = version.iter().fold(0, |n, &byte| n << 8 | u32::from(byte));
        if found < VERSION {
            return Err(SnapshotError::Outdated { found });
        }
        if found > VERSION {
            return Err(SnapshotError::Version {
                found,
                newest: VERSION,
            });
        }
        let head: Head = read_record(&mut input)?;
        let mut state = State {
            cluster: head.cluster,
            global: head.global,
            global_options: head.global_options,
            time: head.time,
            hash: head.hash,
            next_circuit: head.next_circuit,
            generation_floor: head.generation_floor,
            sweeps: head.sweeps,
            ..State::default()
        };
        let mut policies = Policies::default();
        for _ in 0..head.circuits {
            let (id, mut circuit): (CircuitId, Circuit) = read_record(&mut input)?;
            circuit.own = circuit.own.as_deref().and_then(|own| policies.share(own));
            state.census.enter(&circuit);
            let known = state.names.insert(circuit.name.clone(), id).is_some();
            if state.circuits.insert(id, Arc::new(circuit)).is_some() || known || id.0 >= head.next_circuit {
                return Err(SnapshotError::Damaged("a circuit is there twice".into()));
            }
        }
        for _ in 0..head.sessions {
            let (id, session): (u128, Session) = read_record(&mut input)?;
            state.sessions.insert(id, Arc::new(session));
        }
        let mut events = Vec::new();
        for _ in 0..head.events {
            let mut event = read_record::<Event>(&mut input)?;
            state.share(&mut event);
            events.push(event);
        }
        let digest = input.hash.digest();
        let mut end = [0; 8];
        read_all(&mut input, &mut end)?;
        if u64::from_be_bytes(end) != digest {
            return Err(SnapshotError::Damaged("its checksum is wrong".into()));
        }
        // Only now, when the checksum vouches for the numbers: they must still fit each other.
        state.events = EventLog::restore(head.revision, events.into_iter())
            .map_err(|what| SnapshotError::Damaged(what.into()))?;
        Ok(Self { state })
    }

    /// Hash over the canonical encoding of the whole state; O(n). Equal states have equal hashes.
    pub fn content_hash(&self) -> u64 {
        let mut out = Hashing {
            inner: io::sink(),
            hash: Xxh3::new(),
        };
        // A sink takes everything.
        let _ = self.write_to(&mut out);
        out.hash.digest()
    }
}

impl State {
    /// Lets an event that was read have its texts from its circuit, as one that was applied has: a restored state takes no more memory than the
    /// one that was written.
    fn share(&self, event: &mut Event) {
        let Some((name, id)) = event
            .name
            .as_ref()
            .and_then(|name| self.names.get_key_value(name))
        else {
            return;
        };
        event.name = Some(name.clone());
        if let Some(circuit) = self
            .circuits
            .get(id)
            .filter(|circuit| circuit.metadata == event.metadata)
        {
            event.metadata = circuit.metadata.clone();
        }
    }
}

/// Passes bytes on, and hashes them.
struct Hashing<T> {
    inner: T,
    hash: Xxh3,
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }
}

fn write_record(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let bytes = postcard::to_stdvec(value).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len())
        .ok()
        .filter(|length| *length <= MAX_RECORD_BYTES);
    let length =
        length.ok_or_else(|| io::Error::other(format!("a record of {} bytes is too long", bytes.len())))?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(&bytes)
}

fn read_record<T: DeserializeOwned>(input: &mut impl Read) -> Result<T, SnapshotError> {
    let mut length = [0; 4];
    read_all(input, &mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_RECORD_BYTES {
        return Err(SnapshotError::Damaged(format!(
            "a record would have {length} bytes"
        )));
    }
    let mut bytes = vec![0; length as usize];
    read_all(input, &mut bytes)?;
    match postcard::take_from_bytes(&bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(SnapshotError::Damaged("a record is too long".into())),
        Err(error) => Err(SnapshotError::Damaged(format!(
            "a record is unreadable ({error})"
        ))),
    }
}

fn read_all(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), SnapshotError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::Damaged("it ends too early".into()),
        _ => SnapshotError::Io(error),
    })
}
