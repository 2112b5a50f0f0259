//! The protocol `brama.v1`, and its conversions to and from the core's types.

pub mod convert;
pub mod encoded;

/// What clients speak; see `proto/brama/v1`.
#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("brama.v1");
}

/// What nodes speak among themselves; see `proto/brama/internal/v1`.
#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
pub mod internal {
    tonic::include_proto!("brama.internal.v1");
}

/// The compiled descriptors of `brama.v1` alone, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/brama_v1_descriptor.bin"));
