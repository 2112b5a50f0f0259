//! The Rust of docs/client.md is in the example that it takes apart, so it compiles, and runs.

const GUIDE: &str = include_str!("../../../docs/client.md");
const EXAMPLE: &str = include_str!("../examples/quickstart.rs");

#[test]
fn every_snippet_of_the_guide_is_a_piece_of_the_example() {
    let example = squeezed(EXAMPLE);
    let snippets: Vec<_> = GUIDE
        .split("```rust\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(snippets.len() > 5, "the guide has snippets");
    for snippet in snippets {
        assert!(
            example.contains(&squeezed(snippet)),
            "not in the example:\n{snippet}"
        );
    }
}

/// Without white space: the guide indents otherwise.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect()
}
