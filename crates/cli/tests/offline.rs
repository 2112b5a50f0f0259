//! Commands that need no cluster, as a person sees them. `TRYCMD=overwrite cargo test` writes the files anew; read the difference.

#[test]
fn commands_without_a_cluster() {
    trycmd::TestCases::new().case("tests/offline/*.trycmd");
}
