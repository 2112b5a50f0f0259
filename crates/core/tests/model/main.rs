//! Random commands, with time, against a naive model: every answer, every status, every event and every deadline must agree.
//!
//! The machine counts summaries, keeps an index of timers and sweeps seldom. The model ([`naive`]) does none of that: it counts one
//! outcome after the other, looks at every circuit whenever it is asked, and has all of it in plain vectors.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod compare;
mod naive;
mod operation;
#[path = "../support/mod.rs"]
mod support;

use proptest::prelude::*;

use compare::Pair;

proptest! {
    // More cases: PROPTEST_CASES=10000 cargo test -p brama-core --test model
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn the_machine_does_what_the_naive_model_does(operations in operation::sequence(120)) {
        let mut pair = Pair::new();
        for operation in &operations {
            pair.step(operation)?;
        }
    }

    /// One circuit with a low threshold, and nothing but reports and acts on it: the corners of counting.
    #[test]
    fn counting_agrees_in_its_corners(operations in operation::counting(60)) {
        let mut pair = Pair::new();
        for operation in &operations {
            pair.step(operation)?;
        }
    }
}
