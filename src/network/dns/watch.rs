//! Changes of the view's files: inotify(7).

use crate::network::view::{NAMESPACES, SERVICES};
use crate::paths::NetworkDir;
use crate::sys::{Called, SysResult, poll};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// How long is waited for more changes that come with one: starting a pod writes several files.
const TOGETHER: Duration = Duration::from_millis(10);

/// Tells of changes.
#[derive(Debug)]
pub(super) struct Changes {
    inotify: Inotify,
    readable: AsyncFd<OwnedFd>,
}

impl Changes {
    /// Of what is there from now on.
    pub(super) fn new(directory: &NetworkDir) -> SysResult<Changes> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).called("inotify_init1", "")?;
        watch_all(&inotify, directory)?;
        Ok(Changes { readable: poll::readable(inotify.as_fd())?, inotify })
    }

    /// Waits until something has changed. What changes after the return is told by the next call.
    pub(super) async fn next(&mut self, directory: &NetworkDir) -> SysResult<()> {
        let mut is_meant = self.events().await?;
        while !is_meant {
            is_meant = self.events().await?;
        }
        tokio::time::sleep(TOGETHER).await;
        while read(&self.inotify)?.is_some() {}
        // A directory may be new. This is before the files are read, so that none is missed in between.
        watch_all(&self.inotify, directory)
    }

    /// Waits for events, and tells whether one is about a file of the view.
    async fn events(&mut self) -> SysResult<bool> {
        let mut ready = self.readable.readable().await.called("epoll_wait", "inotify")?;
        match read(&self.inotify)? {
            Some(events) => Ok(events.iter().any(is_meant)),
            None => {
                ready.clear_ready();
                Ok(false)
            }
        }
    }
}

/// Reads events; `None` if there are none.
fn read(inotify: &Inotify) -> SysResult<Option<Vec<InotifyEvent>>> {
    match inotify.read_events() {
        Err(Errno::EAGAIN) => Ok(None),
        Err(Errno::EINTR) => Ok(Some(Vec::new())),
        other => other.called("read", "inotify").map(Some),
    }
}

/// About anything but other files, like the lock, which is closed each time that somebody has written.
fn is_meant(event: &InotifyEvent) -> bool {
    let is_other = |name: &OsString| !name.as_encoded_bytes().ends_with(b".json");
    event.mask.contains(AddWatchFlags::IN_ISDIR) || !event.name.as_ref().is_some_and(is_other)
}

/// Watches the directories that names are made from, as far as they are there.
fn watch_all(inotify: &Inotify, directory: &NetworkDir) -> SysResult<()> {
    // Files are written elsewhere and renamed.
    let files = AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    let of = |path: PathBuf| match inotify.add_watch(&path, files) {
        Err(Errno::ENOENT) => Ok(()),
        other => other.called("inotify_add_watch", path.display()).map(drop),
    };
    [PathBuf::from(&directory.0), directory.members(), directory.objects(SERVICES), directory.objects(NAMESPACES)]
        .into_iter()
        .try_for_each(of)
}
