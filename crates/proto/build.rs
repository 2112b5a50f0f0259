//! Compiles the `.proto` files with `protox`, so that no `protoc` has to be installed.

use prost::Message;

const PUBLIC: [&str; 4] = [
    "proto/brama/v1/types.proto",
    "proto/brama/v1/circuits.proto",
    "proto/brama/v1/events.proto",
    "proto/brama/v1/cluster.proto",
];
const INTERNAL: &str = "proto/brama/internal/v1/peer.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in PUBLIC.iter().chain([&INTERNAL]) {
        println!("cargo:rerun-if-changed={file}");
    }
    // Reflection shows what clients may speak, and nothing else.
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("brama_v1_descriptor.bin"),
        protox::compile(PUBLIC, ["proto"])?.encode_to_vec(),
    )?;
    let all = protox::compile(PUBLIC.iter().chain([&INTERNAL]), ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".brama.internal.v1")
        .btree_map(".")
        .compile_fds(all)?;
    Ok(())
}
