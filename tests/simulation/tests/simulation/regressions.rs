//! Seeds that once failed, by what they found. A seed draws other faults once the simulation, or what it runs, has changed: what was found has a
//! test of its own beside the code that was mended.

/// What it found, and the seed.
pub(crate) const ALL: [(&str, u64); 0] = [];
