//! Generated from `bench/proto`.

#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications, dead_code)]
pub(crate) mod etcd {
    tonic::include_proto!("etcdserverpb");
}

#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
pub(crate) mod told {
    tonic::include_proto!("bench");
}
