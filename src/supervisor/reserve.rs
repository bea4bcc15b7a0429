//! Room that a pod has set aside on the disk of its state, so that a full one does not keep its supervisor from writing down
//! what becomes of the pod: that a container ended, and how, is known to nobody else.

use crate::store;
use crate::sys::{Called, SysError, SysResult};
use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use serde::Serialize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes for the pod, and for each of its containers. What is replaced goes when its successor is whole: so it takes room for one
/// file, and for what it has grown by since.
const OF_POD: usize = 16 << 10;
const OF_CONTAINER: usize = 4 << 10;

/// A file that is there for its size, and for being one.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    size: usize,
}

impl Reserve {
    /// Of a pod with so many containers; nothing is done yet.
    pub(super) fn of(path: PathBuf, containers: usize) -> Reserve {
        Reserve { path, size: OF_POD + containers * OF_CONTAINER }
    }

    /// Sets the room aside, if it is not yet. A file system that cannot do so has what is written take its chance.
    pub(super) fn fill(&self) -> SysResult<()> {
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(&self.path);
        let file = file.called("open", self.path.display())?;
        match fallocate(&file, FallocateFlags::empty(), 0, i64::try_from(self.size).unwrap_or(i64::MAX)) {
            Err(Errno::EOPNOTSUPP) => Ok(()),
            other => other.called("fallocate", self.path.display()),
        }
    }

    /// The pod has so many containers by now. On a full disk it has the room that it had.
    pub(super) fn fit(&mut self, containers: usize) {
        self.size = OF_POD + containers * OF_CONTAINER;
        let _ = self.fill();
    }

    /// Replaces a JSON file atomically; on a full disk, where room was set aside.
    pub(super) fn replace<T: Serialize>(&self, path: &Path, value: &T) -> Result<()> {
        match store::write_json(path, value) {
            // A file that is new would take the room for good.
            Err(error) if is_without_room(&error) && path.exists() && std::fs::remove_file(&self.path).is_ok() => {
                let again = store::write_json(path, value);
                // What was replaced has made room.
                let _ = self.fill();
                again
            }
            other => other,
        }
    }
}

fn is_without_room(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(SysError::is_without_room)
}
