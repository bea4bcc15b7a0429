//! The Container Runtime Interface, v1: a gRPC server on a unix socket that a kubelet drives (`podshim cri`).
//!
//! Each sandbox has a supervisor like any other pod; this process holds nothing that is not on disk or with one of them, so that
//! it can be killed and started again at any moment.
//!
//! | file | content |
//! |---|---|
//! | [`api`] | the messages and services, generated |
//! | [`config`] | the server's configuration |
//! | `server` | the process: socket, connections, signals |
//! | `daemon` | what every call works with |
//! | `status` | errors as gRPC has them |
//! | `sandboxes` | the sandboxes and containers that there are |
//! | `convert` | requests as `plan`'s configs |
//! | `runtime` | the RuntimeService, one file per call |
//! | `image` | the ImageService |
//! | [`nri`] | plugins that are told, and may change containers |
//! | `streams` | the commands, containers and ports behind the streaming server |
//! | [`streaming`] | what Exec, Attach and PortForward lead to: SPDY and WebSocket |

pub mod api;
pub mod config;
mod convert;
mod daemon;
mod image;
pub mod nri;
mod runtime;
mod sandboxes;
mod server;
mod status;
pub mod streaming;
mod streams;

pub use config::Config;
pub use server::{SOCKET, serve};

use daemon::Daemon;
