//! SPDY/3.1 as Kubernetes' clients speak it on an upgraded connection (github.com/moby/spdystream): streams that the client
//! opens, with headers that say what each is for; no flow control, no priorities, no push.
//!
//! | file | content |
//! |---|---|
//! | `connection` | the streams of one connection |
//! | `frame` | frames, read and written |
//! | `headers` | their headers, compressed |

mod connection;
mod frame;
mod headers;

pub(super) use connection::{Connection, Output, Stream};
pub(super) use frame::MAX_PIECE;
pub use frame::{Frame, Status, read_all};
pub use headers::Headers;
