//! The Container Runtime Interface, v1: a gRPC server on a unix socket that a kubelet drives (`podshim cri`).
//!
//! Each sandbox has a supervisor like any other pod; this process holds nothing that is not on disk or with one of them, so that
//! it can be killed and started again at any moment.
//!
//! | file | content |
//! |---|---|
//! | [`api`] | the messages and services, generated |
//! | `daemon` | what every call works with |
//! | `sandboxes` | the sandboxes and containers that there are |
//! | `runtime` | the RuntimeService, one file per call |
//! | `streams` | the commands, containers and ports behind the streaming server |
//! | [`streaming`] | what Exec, Attach and PortForward lead to: SPDY and WebSocket |

pub mod api;
mod daemon;
mod runtime;
mod sandboxes;
pub mod streaming;
mod streams;

use daemon::Daemon;
