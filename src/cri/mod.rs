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
//! | `container_events` | what becomes of sandboxes and containers, for who wants to be told |
//! | `daemon` | what every RPC is given; how it is answered |
//! | `status` | errors as gRPC codes |
//! | `sandboxes` | the sandboxes and containers that there are |
//! | `checkpoint` | checkpoints of containers, by criu |
//! | [`convert`] | requests as `plan`'s configs |
//! | `runtime` | RuntimeService, one file per RPC |
//! | `image` | ImageService, one file per RPC |
//! | [`nri`] | plugins that are told of pods and containers, and that may change containers |
//! | `plugins` | what NRI plugins are told of what there is, and do to it |
//! | `resize` | what a container may use, changed by one at a time |
//! | `framing` | what is answered without tonic |
//! | `streams` | the commands, containers and ports behind the streaming server |
//! | [`streaming`] | what Exec, Attach and PortForward lead to: SPDY and WebSocket |

pub mod api;
mod checkpoint;
pub mod config;
mod container_events;
pub mod convert;
mod daemon;
mod files;
mod framing;
mod image;
pub mod nri;
mod plugins;
mod resize;
mod runtime;
mod sandboxes;
mod server;
mod status;
pub mod streaming;
mod streams;

pub use config::Config;
pub use server::{Options, parse_endpoint, serve};

use daemon::Daemon;
