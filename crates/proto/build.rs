//! Compiles the `.proto` files with `protox`, so that no `protoc` has to be installed.

use prost::Message;
use tonic_prost_build::manual;

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
    compile_encoded_events();
    Ok(())
}

/// The server of `brama.v1.Events` again, with answers that are encoded already: see `src/encoded.rs`.
fn compile_encoded_events() {
    let stream = |name: &str, route: &str, request: &str| {
        manual::Method::builder()
            .name(name)
            .route_name(route)
            .input_type(request)
            .output_type("crate::encoded::Encoded")
            .codec_path("crate::encoded::EncodedCodec")
            .server_streaming()
            .build()
    };
    let service = manual::Service::builder()
        .name("Events")
        .package("brama.v1")
        .method(stream("subscribe", "Subscribe", "crate::v1::SubscribeRequest"))
        .method(stream("watch", "Watch", "crate::v1::WatchRequest"))
        .build();
    manual::Builder::new().build_client(false).compile(&[service]);
}
