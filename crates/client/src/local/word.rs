//! All that deciding needs, in one word.
//!
//! ```text
//!  63                                4    3     2 .. 0
//! ┌───────────────────────────────────┬───────┬────────┐
//! │ generation                        │ holds │  tag   │
//! └───────────────────────────────────┴───────┴────────┘
//! ```
//! A call reads it when it begins and again when it ends: if it is the same, nothing has happened in between that the outcome could matter to.

/// What a circuit lets pass, its generation, and whether a success would change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(u64);

/// What is to be done with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    /// The cluster has not told yet.
    Unknown,
    /// The cluster knows no such circuit.
    Missing,
    /// Let it pass.
    Closed,
    /// Reject it.
    Open,
    /// Ask the cluster for a permit.
    HalfOpen,
    /// The cluster is out of reach: this replica decides alone.
    Alone,
}

const TAG_BITS: u32 = 3;
const TAG: u64 = (1 << TAG_BITS) - 1;
/// The circuit holds failures, of ours or of others: the next success ends their run.
const HOLDS_FAILURES: u64 = 1 << TAG_BITS;
const GENERATION_SHIFT: u32 = TAG_BITS + 1;
const CLOSED: u64 = Tag::Closed as u64;

impl Word {
    pub(crate) const UNKNOWN: Self = Self::new(Tag::Unknown, 0, false);

    pub(crate) const fn new(tag: Tag, generation: u64, holds_failures: bool) -> Self {
        let flag = if holds_failures { HOLDS_FAILURES } else { 0 };
        Self(generation << GENERATION_SHIFT | flag | tag as u64)
    }

    /// The number of a ticket that its circuit keeps, in place of a closed circuit's word.
    pub(crate) const fn of_ticket(number: u64) -> Self {
        Self::new(Tag::Unknown, number, false)
    }

    /// What [`Word::of_ticket`] was given; `None`: it is the word of a closed circuit.
    pub(crate) const fn ticket(self) -> Option<u64> {
        if self.is_closed() {
            None
        } else {
            Some(self.0 >> GENERATION_SHIFT)
        }
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    pub(crate) const fn tag(self) -> Tag {
        match self.0 & TAG {
            0 => Tag::Unknown,
            1 => Tag::Missing,
            2 => Tag::Closed,
            3 => Tag::Open,
            4 => Tag::HalfOpen,
            _ => Tag::Alone,
        }
    }

    pub(crate) const fn is_closed(self) -> bool {
        self.0 & TAG == CLOSED
    }

    pub(crate) const fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT
    }

    /// For a report; `None`: no generation is known, so it is taken at face value.
    pub(crate) const fn reported_generation(self) -> Option<u64> {
        match self.generation() {
            0 => None,
            generation => Some(generation),
        }
    }

    pub(crate) const fn holds_failures(self) -> bool {
        self.0 & HOLDS_FAILURES != 0
    }

    pub(crate) const fn holding_failures(self, holds: bool) -> Self {
        if holds {
            Self(self.0 | HOLDS_FAILURES)
        } else {
            Self(self.0 & !HOLDS_FAILURES)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_again() {
        let tags = [
            Tag::Unknown,
            Tag::Missing,
            Tag::Closed,
            Tag::Open,
            Tag::HalfOpen,
            Tag::Alone,
        ];
        for tag in tags {
            for generation in [0, 1, 77, (1 << 60) - 1] {
                for holds in [false, true] {
                    let word = Word::new(tag, generation, holds);
                    assert_eq!(
                        (word.tag(), word.generation(), word.holds_failures()),
                        (tag, generation, holds)
                    );
                    assert_eq!(word.is_closed(), tag == Tag::Closed);
                    assert_eq!(Word::from_bits(word.bits()), word);
                    assert_eq!(word.holding_failures(!holds), Word::new(tag, generation, !holds));
                }
            }
        }
    }
}
