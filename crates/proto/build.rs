//! Compiles the `.proto` files with `protox`, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/brama/v1/types.proto",
        "proto/brama/v1/circuits.proto",
        "proto/brama/v1/events.proto",
        "proto/brama/v1/cluster.proto",
        "proto/brama/internal/v1/peer.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("brama_descriptor.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    tonic_prost_build::configure()
        .bytes(".brama.internal.v1")
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
