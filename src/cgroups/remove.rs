//! Removing a cgroup from every hierarchy.

use super::Cgroup;
use super::processes::tree;
use crate::sys::{Called, SysError, SysResult};
use anyhow::Context;
use nix::errno::Errno;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

impl Cgroup {
    /// Removes its directories and those below them, deepest first, in every hierarchy, each tried whatever the others
    /// said. A directory that is busy (a process that has been killed may take a moment) is tried again, for at most
    /// `patience`. Gone already counts as done. With the last pod goes podshim's own directory.
    ///
    /// It kills nothing: see [`Cgroup::kill`].
    ///
    /// # Errors
    /// If a directory stays; the error names it and the processes in it.
    pub fn remove(&self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let failed: Vec<SysError> = self.dirs().iter().filter_map(|dir| remove_tree(dir).err()).collect();
            let Some(first) = failed.first() else {
                break;
            };
            let busy = failed.iter().all(|e| e.errno() == Errno::EBUSY);
            if !busy || Instant::now() >= deadline {
                let pids: Vec<String> = self.pids()?.iter().map(ToString::to_string).collect();
                let holds =
                    if pids.is_empty() { "no process".to_owned() } else { format!("processes {}", pids.join(", ")) };
                return Err(first.clone()).with_context(|| format!("remove cgroup {} (holds {holds})", self.path()));
            }
            // Empty for its files and yet busy: the kernel is about to let go of a process.
            if self.wait_empty(deadline)? {
                super::processes::pause(None, Duration::from_millis(1));
            }
        }
        if self.is_top() {
            for hierarchy in &self.setup.hierarchies {
                // Busy as long as another pod is there; whoever makes one at this moment tries again.
                let _ = fs::remove_dir(self.subtree(hierarchy));
            }
            if let Some(unified) = self.setup.unified() {
                // Busy as long as a supervisor is in it.
                let _ = fs::remove_dir(self.leaf_of_supervisors(unified));
            }
        }
        Ok(())
    }

    /// Kills the processes in it, and removes it. As a rule there are none, which the kernel knows best: it is tried to be removed first.
    ///
    /// # Errors
    /// Those of [`Cgroup::kill`] and [`Cgroup::remove`]; if processes do not end.
    pub fn end(&self, patience: Duration) -> anyhow::Result<()> {
        if self.remove(Duration::ZERO).is_ok() {
            return Ok(());
        }
        let left = self.kill(patience)?;
        anyhow::ensure!(left.is_empty(), "processes {left:?} do not end");
        self.remove(patience)
    }
}

fn remove_tree(dir: &Path) -> SysResult<()> {
    match remove_one(dir) {
        // It may be busy with those below it.
        Err(e) if e.errno() == Errno::EBUSY => tree(dir).iter().rev().try_for_each(|dir| remove_one(dir)),
        result => result,
    }
}

/// cgroupfs wants rmdir(2) of a directory whose files are still in it.
fn remove_one(dir: &Path) -> SysResult<()> {
    match fs::remove_dir(dir).called("rmdir", dir.display()) {
        Err(e) if e.errno() == Errno::ENOENT => Ok(()),
        result => result,
    }
}
