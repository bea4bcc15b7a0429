//! The ids of a pod's own user namespace.

use serde::{Deserialize, Serialize};

/// The host's ids of a pod's own user namespace, of users and of groups: id n of the pod is `first + n` of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The host's id of the pod's root.
    pub first: u32,
    /// How many ids the pod has; `first + size` is an id, too.
    #[serde(default = "IdRange::usual", skip_serializing_if = "IdRange::is_usual")]
    pub size: u32,
}

impl IdRange {
    /// How many ids a pod has that podshim gives them to (pod-api.md §24).
    pub const SIZE: u32 = 65536;

    /// So many ids from this one on.
    pub fn of(first: u32) -> IdRange {
        IdRange { first, size: IdRange::SIZE }
    }

    /// The host's id of a pod's; `None` if the pod has no such id.
    pub fn on_host(self, id: u32) -> Option<u32> {
        (id < self.size).then(|| self.first + id)
    }

    /// The pod's id of a host's; `None` if it is not in the range.
    pub fn in_pod(self, id: u32) -> Option<u32> {
        id.checked_sub(self.first).filter(|id| *id < self.size)
    }

    fn usual() -> u32 {
        IdRange::SIZE
    }

    fn is_usual(size: &u32) -> bool {
        *size == IdRange::SIZE
    }
}
