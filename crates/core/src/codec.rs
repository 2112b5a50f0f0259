//! The bytes of log entries, commands and answers: one version byte, then postcard.
//!
//! What is written to a log must be readable by every later version: variants of enums are only ever appended, and a struct that
//! has to change gets a new version byte with its own types and a conversion.

use crate::command::{Batch, Command};
use crate::reply::Answer;
use crate::time::ClusterTime;

const VERSION: u8 = 1;

/// Why bytes could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// A newer Brama wrote them.
    #[error("encoding version {found} is unknown, this program reads up to {VERSION}: upgrade this node")]
    Version {
        /// The version byte.
        found: u8,
    },
    /// They are not what they should be.
    #[error("damaged {what}")]
    Damaged {
        /// What they should be.
        what: &'static str,
        /// What was wrong.
        source: postcard::Error,
    },
    /// More follows than belongs there.
    #[error("{bytes} bytes too many after a {what}")]
    TooLong {
        /// What there should be alone.
        what: &'static str,
        /// How many follow.
        bytes: usize,
    },
    /// There is nothing.
    #[error("empty {what}")]
    Empty {
        /// What there should be.
        what: &'static str,
    },
}

macro_rules! codec {
    ($type:ty, $encode:ident, $decode:ident, $what:literal) => {
        #[doc = concat!("The bytes of a ", $what, ".")]
        pub fn $encode(value: &$type) -> Vec<u8> {
            encode(value)
        }

        #[doc = concat!("The ", $what, " that `bytes` hold.")]
        ///
        /// # Errors
        /// [`CodecError`] when they hold none that this version knows.
        pub fn $decode(bytes: &[u8]) -> Result<$type, CodecError> {
            decode(bytes, $what)
        }
    };
}

codec!(Batch, encode_batch, decode_batch, "batch");
codec!(Command, encode_command, decode_command, "command");
codec!(Answer, encode_answer, decode_answer, "answer");

/// Room for a usual command or answer: without it, encoding one moves it some five times to where there is more.
const USUAL_BYTES: usize = 128;

fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    bytes.push(VERSION);
    // Encoding into a growing vector can only fail on types postcard cannot hold (maps of unknown length); ours are none.
    postcard::to_extend(value, bytes).expect("every command and answer has an encoding")
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Empty { what }),
        Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            Ok((_, more)) => Err(CodecError::TooLong {
                what,
                bytes: more.len(),
            }),
            Err(source) => Err(CodecError::Damaged { what, source }),
        },
        Some((&found, _)) => Err(CodecError::Version { found }),
    }
}

/// Puts a batch together from commands that are encoded already, so that a leader never decodes what it only passes on.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    commands: u64,
    body: Vec<u8>,
}

impl BatchBuilder {
    /// Adds a command, as [`encode_command`] wrote it. Of one that came from elsewhere the caller makes sure, with [`decode_command`]:
    /// what is no command makes the whole batch unreadable.
    ///
    /// # Errors
    /// [`CodecError`] when it has another version than this program writes, or is empty; the batch is as before.
    pub fn push(&mut self, command: &[u8]) -> Result<(), CodecError> {
        match command.split_first() {
            None => Err(CodecError::Empty { what: "command" }),
            Some((&VERSION, body)) => {
                self.commands += 1;
                self.body.extend_from_slice(body);
                Ok(())
            }
            Some((&found, _)) => Err(CodecError::Version { found }),
        }
    }

    /// Commands so far.
    pub fn len(&self) -> u64 {
        self.commands
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.commands == 0
    }

    /// Bytes of the commands so far.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// The bytes of the batch that counts at `time`: the same as [`encode_batch`] would write.
    pub fn finish(self, time: ClusterTime) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.body.len() + 24);
        bytes.push(VERSION);
        bytes = postcard::to_extend(&(time, self.commands), bytes).expect("two integers have an encoding");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// The time of an encoded batch, without decoding the rest.
///
/// # Errors
/// [`CodecError`] when `bytes` hold no batch that this version knows.
pub fn peek_time(bytes: &[u8]) -> Result<ClusterTime, CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Empty { what: "batch" }),
        Some((&VERSION, rest)) => postcard::take_from_bytes(rest)
            .map(|(time, _)| time)
            .map_err(|source| CodecError::Damaged {
                what: "batch",
                source,
            }),
        Some((&found, _)) => Err(CodecError::Version { found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_one_command_and_nothing_else_is_refused() {
        let command = encode_command(&Command::Reset {
            name: crate::CircuitName::new(None, "a").unwrap(),
            reason: Some("x".into()),
        });
        decode_command(&command).unwrap();
        for shorter in 0..command.len() {
            decode_command(&command[..shorter]).unwrap_err();
        }
        let longer = [command.as_slice(), &[0, 0]].concat();
        let error = decode_command(&longer).unwrap_err();
        assert_eq!(error.to_string(), "2 bytes too many after a command");
    }

    #[test]
    fn a_built_batch_is_the_encoded_batch() {
        let name = crate::CircuitName::new(Some("s"), "a").unwrap();
        let commands = [
            Command::Unregister {
                name: name.clone(),
                reason: None,
            },
            Command::Reset {
                name,
                reason: Some("x".into()),
            },
        ];
        for n in 0..=commands.len() {
            let mut builder = BatchBuilder::default();
            for command in &commands[..n] {
                builder.push(&encode_command(command)).unwrap();
            }
            let time = ClusterTime::from_micros(1_700_000_000_000_000);
            let bytes = builder.finish(time);
            assert_eq!(
                bytes,
                encode_batch(&Batch {
                    time,
                    commands: commands[..n].to_vec()
                })
            );
            assert_eq!(peek_time(&bytes).unwrap(), time);
        }
    }
}
