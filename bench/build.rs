//! Compiles what the load generator needs of etcd's protocol, and its own short form of Brama's events.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/etcd.proto", "proto/told.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(protox::compile(files, ["proto"])?)?;
    Ok(())
}
