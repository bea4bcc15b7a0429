//! What a container may use, changed: what is not named stays as it is.
//!
//! A supervisor is told all of a container's resources. Of two who change them at the same time, one must see what the other has made
//! of them, or that is lost.

use super::api::LinuxContainerResources;
use super::{convert, sandboxes};
use crate::control::Request;
use crate::paths::Dirs;
use anyhow::Result;
use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The containers whose resources are being changed.
static CHANGING: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
/// Is told when one of them no longer is.
static CHANGED: Condvar = Condvar::new();

/// Changes the resources of the container of this whole id, after whoever else is doing that. NRI plugins, which may be slow, are asked
/// before.
pub(super) fn resize(dirs: &Dirs, id: &str, wanted: &LinuxContainerResources) -> Result<()> {
    let _turn = Turn::take(id);
    // As it is by now, whenever it was looked at before.
    let (sandbox, container) = sandboxes::container(dirs, id)?;
    let resources = convert::updated(&container.record.config.resources, wanted)?;
    sandbox.ask(&Request::Resize { container: container.id().to_owned(), resources }, &[])
}

/// The right to change a container's resources. Each container has its own: a supervisor that hangs holds up nobody else's.
struct Turn<'a>(&'a str);

impl Turn<'_> {
    fn take(id: &str) -> Turn<'_> {
        let mut changing = changing();
        while changing.contains(id) {
            changing = CHANGED.wait(changing).unwrap_or_else(PoisonError::into_inner);
        }
        changing.insert(id.to_owned());
        Turn(id)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        changing().remove(self.0);
        CHANGED.notify_all();
    }
}

fn changing() -> MutexGuard<'static, BTreeSet<String>> {
    // A set is whole whoever panics.
    CHANGING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_container_is_changed_by_one_at_a_time() {
        let at_work = AtomicUsize::new(0);
        let change = || {
            for _ in 0..100 {
                let _turn = Turn::take("one");
                assert_eq!(at_work.fetch_add(1, Ordering::SeqCst), 0);
                std::thread::yield_now();
                at_work.fetch_sub(1, Ordering::SeqCst);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(change);
            }
        });
        // Nobody waits for another's.
        let _turns = (Turn::take("two"), Turn::take("three"));
    }
}
