//! Circuits as this process has them: decisions and outcomes that wait for nobody.
//!
//! ```text
//!   events of a watch ──► word, view ──► decide()            an answer, or: ask the cluster
//!                            │
//!   success() ── closed, no failures held ──► shards ─┐ fold
//!   everything else ──────────────────────────────► ledger ──► batches of the outbox
//! ```
//!
//! **Order.** What the cluster is told of a circuit is one sequence, in an order in which it may have happened: of two calls of which one ended
//! before the other ended *because* of it, the first comes first, whatever threads they ended on. Successes of a closed circuit that holds no
//! failures change nothing wherever they stand between two failures, so they are only counted ([`shards`]). A failure takes the lock, folds
//! what was counted before it, stands behind that, and sets the flag in the [`word`]. A success that sees the flag takes the lock too, and
//! stands behind the failure. So only one success per failure is slow.
//!
//! **Generations.** An outcome belongs to the generation at which its call was admitted. Before the word changes, what was counted under the old
//! generation is folded under it.

mod breaker;
mod deciding;
pub(crate) mod hub;
mod learning;
mod ledger;
mod outcomes;
pub(crate) mod shards;
pub(crate) mod ticket;
mod view;
pub(crate) mod word;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use arc_swap::ArcSwap;
use brama_core::CircuitName;
use brama_core::circuit::StateName;
use crossbeam_utils::CachePadded;
use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;

use self::breaker::Breaker;
pub(crate) use self::deciding::Verdict;
use self::hub::Hub;
use self::ledger::Ledger;
use self::shards::Shards;
use self::ticket::Ticket;
pub(crate) use self::view::Clock;
use self::view::View;
use self::word::{Tag, Word};
use crate::circuit::Register;

/// One circuit, as this process has it.
#[derive(Debug)]
pub(crate) struct Local {
    name: CircuitName,
    me: Weak<Self>,
    hub: Arc<Hub>,
    /// A [`Word`]; written under the lock of `inner` only.
    word: CachePadded<AtomicU64>,
    shards: Shards,
    view: ArcSwap<View>,
    inner: Mutex<Inner>,
    /// Rings when the cluster has told for the first time.
    told: Notify,
    /// Asks for a permit that are under way.
    asking: AtomicU32,
}

#[derive(Debug, Default)]
struct Inner {
    /// Of permits that are out and are not of a closed circuit.
    tickets: Slab<Ticket>,
    ledger: Ledger,
    /// While the cluster is out of reach, from the first call on.
    breaker: Option<Breaker>,
    /// Raised with each breaker, so that an outcome finds only its own.
    breakers: u64,
    /// A failure of ours came after our last success of this generation.
    fails: bool,
    not_before: Option<Instant>,
    /// How often the cluster had no permit to give since the last news.
    refusals: u32,
    /// How this program has registered the circuit, unless somebody has unregistered it since.
    registration: Option<Arc<Register>>,
    /// The program has said, once, how it would register the circuit.
    is_offered: bool,
}

impl Local {
    pub(crate) fn new(name: CircuitName, hub: Arc<Hub>) -> Arc<Self> {
        let tag = if hub.reach.is_degraded() {
            Tag::Alone
        } else {
            Tag::Unknown
        };
        Arc::new_cyclic(|me| Self {
            name,
            me: me.clone(),
            hub,
            word: CachePadded::new(AtomicU64::new(Word::new(tag, 0, false).bits())),
            shards: Shards::new(),
            view: ArcSwap::from_pointee(View::unknown()),
            inner: Mutex::default(),
            told: Notify::new(),
            asking: AtomicU32::new(0),
        })
    }

    pub(crate) fn name(&self) -> &CircuitName {
        &self.name
    }

    pub(crate) fn known_state(&self) -> Option<StateName> {
        match self.word().tag() {
            // What decides: the view is there a moment before.
            Tag::Missing => None,
            Tag::Closed => Some(StateName::Closed),
            Tag::Open => Some(StateName::Open),
            Tag::HalfOpen => Some(StateName::HalfOpen),
            Tag::Unknown | Tag::Alone => self.view.load().state,
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn is_told(&self) -> bool {
        self.word().tag() != Tag::Unknown
    }

    #[inline]
    pub(crate) fn word(&self) -> Word {
        Word::from_bits(self.word.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests;
