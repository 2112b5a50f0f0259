//! Commands against a cluster, as a person sees them. `TRYCMD=overwrite cargo test` writes the files anew; read the difference.

mod support;

use support::Dev;

#[test]
fn commands_with_a_cluster() {
    let dev = Dev::start(&[]);
    trycmd::TestCases::new()
        .env("BRAMA_ENDPOINTS", dev.endpoints.join(","))
        .timeout(std::time::Duration::from_secs(30))
        .case("tests/golden/*.trycmd")
        // The files run at the same time: each has circuits of its own.
        .run();
}
