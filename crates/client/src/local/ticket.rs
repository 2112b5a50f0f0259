//! What an admitted call remembers until it ends.

use brama_core::command::PermitId;

use super::word::Word;

/// How a call was admitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    /// When it was admitted, without the flag.
    pub(crate) word: Word,
    pub(crate) kind: Kind,
}

/// By whom.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// The circuit was closed.
    Plain,
    /// The cluster gave it a permit.
    Probe(PermitId),
    /// This replica decided alone.
    Alone {
        /// Which breaker did.
        number: u64,
        /// That breaker's.
        generation: u64,
        permit: Option<PermitId>,
    },
}

impl Kind {
    pub(crate) fn is_probe(&self) -> bool {
        match self {
            Self::Plain => false,
            Self::Probe(_) => true,
            Self::Alone { permit, .. } => permit.is_some(),
        }
    }
}

impl Ticket {
    #[inline]
    pub(crate) fn plain(word: Word) -> Self {
        Self {
            word: word.holding_failures(false),
            kind: Kind::Plain,
        }
    }
}
