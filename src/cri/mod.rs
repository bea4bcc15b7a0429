//! The Container Runtime Interface, v1: a gRPC server on a unix socket that a kubelet drives (`podshim cri`).
//!
//! Each sandbox has a supervisor like any other pod; this process holds nothing that is not on disk or with one of them, so that
//! it can be killed and started again at any moment.
//!
//! | file | content |
//! |---|---|
//! | [`api`] | the messages and services, generated |
//! | [`config`] | `cri.toml` |
//! | `server` | the socket, its connections, their end |
//! | `daemon` | what every RPC is given; how it is answered |
//! | `status` | errors as gRPC codes |
//! | `image` | ImageService, one file per RPC |
//! | `runtime` | RuntimeService, one file per RPC |

pub mod api;
pub mod config;
mod daemon;
mod image;
mod runtime;
mod server;
mod status;

pub use config::Config;
pub use server::{Options, parse_endpoint, serve};
