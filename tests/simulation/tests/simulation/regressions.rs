//! Seeds that once failed, by what they found. A seed draws other faults once the simulation, or what it runs, has changed: what was found has a
//! test of its own beside the code that was mended. (The first four failed when what was sent later on a connection could overtake what a cut link
//! had held back. The last one fails still where answers are not kept in step.)

/// What it found, and the seed.
pub(crate) const ALL: [(&str, u64); 5] = [
    ("what is left of a purged range is sent with a hole before it", 28),
    (
        "what is left of a purged range is sent with a hole before it",
        358,
    ),
    (
        "what is left of a purged range is sent with a hole before it",
        788,
    ),
    (
        "a leader that hears nobody keeps the others from electing one",
        625,
    ),
    (
        "a late answer is taken for the answer to a later request, and a read is stale",
        1942,
    ),
];
