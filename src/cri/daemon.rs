//! What every call works with.

use crate::host::HostFacts;
use crate::paths::Dirs;

/// The server's own: nothing of it is state.
pub(super) struct Daemon {
    /// Where everything is.
    pub(super) dirs: Dirs,
    /// What the host has.
    pub(super) facts: HostFacts,
}
