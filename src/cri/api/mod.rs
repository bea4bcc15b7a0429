//! Generated from `api.proto` of k8s.io/cri-api and of github.com/containerd/nri by `scripts/generate-protos.sh`.

#[allow(missing_docs, clippy::all, rustdoc::all, unreachable_pub)]
#[rustfmt::skip]
mod generated {
    include!("runtime.v1.rs");
}

/// `nri.pkg.api.v1alpha1`
#[allow(missing_docs, clippy::all, rustdoc::all, unreachable_pub)]
#[rustfmt::skip]
pub mod nri {
    include!("nri.v1alpha1.rs");
}

pub use generated::*;

/// The message of `api.proto`, whose containers are encoded already: on the wire a message in a message is bytes in it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListContainersResponse {
    /// Each a [`Container`].
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub containers: Vec<bytes::Bytes>,
}
