//! The Container Runtime Interface, v1: a gRPC server on a unix socket that a kubelet drives (`podshim cri`).
//!
//! Each sandbox has a supervisor like any other pod; this process holds nothing that is not on disk or with one of them, so that
//! it can be killed and started again at any moment.
//!
//! | file | content |
//! |---|---|
//! | [`api`] | the messages and services, generated |
//! | [`nri`] | plugins that are told of pods and containers, and that may change containers |

pub mod api;
pub mod nri;
