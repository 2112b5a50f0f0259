//! The bytes of log entries, commands and answers: one version byte, then postcard.
//!
//! What is written to a log must be readable by every later version: variants of enums are only ever appended, and a struct that
//! has to change gets a new version byte with its own types and a conversion.

use crate::command::{Batch, Command};
use crate::reply::Answer;

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

fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    // Encoding into a growing vector can only fail on types postcard cannot hold (maps of unknown length); ours are none.
    postcard::to_extend(value, vec![VERSION]).expect("every command and answer has an encoding")
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Empty { what }),
        Some((&VERSION, rest)) => {
            postcard::from_bytes(rest).map_err(|source| CodecError::Damaged { what, source })
        }
        Some((&found, _)) => Err(CodecError::Version { found }),
    }
}
