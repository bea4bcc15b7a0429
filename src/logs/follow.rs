//! Follows the logs of a pod's containers as they are written.

use super::chain::{Chain, Joined, Stopped};
use super::dir::{self, Listing};
use super::{Query, Record};
use crate::sys::{Called, SysError, SysResult};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What to begin with, of what is there already. Whatever comes later is given whole.
#[derive(Debug, Clone)]
pub enum Start {
    /// Everything of every instance.
    Beginning,
    /// What the query says of each container's newest instance. (Its limit of bytes is the caller's to keep.)
    Newest(Query),
}

/// Several containers' logs, each line of them once and in its container's order: over rotations, restarts, and from
/// directories that do not exist yet.
///
/// A rotated file is removed when there are enough newer ones; a follower so far behind misses it ([`Follow::gaps`]).
pub struct Follow {
    inotify: Inotify,
    pod_logs: PathBuf,
    pod: Option<OwnedFd>,
    /// Before the pod's directory exists: its nearest parent that does.
    parent: Option<(PathBuf, WatchDescriptor)>,
    start: Start,
    followed: Vec<Followed>,
    gaps: u64,
}

/// One container.
struct Followed {
    name: String,
    dir: Option<(OwnedFd, WatchDescriptor)>,
    /// Its instances, oldest first: the newest two, as a leftover process may write to the older one's pipe for a while.
    instances: Vec<Chain>,
    newest: Option<u32>,
    look: Look,
}

/// What may be new in a container's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    Nothing,
    AtFiles,
    ForFiles,
}

/// What one container gives at most before the others' turn, in bytes.
const SHARE: usize = 64 * 1024;

impl Follow {
    /// Follows `containers` (a record's `container` is an index into them) in the pod's log directory.
    pub fn open(pod_logs: &Path, containers: &[String], start: Start) -> SysResult<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).called("inotify_init1", "")?;
        let followed = |name: &String| Followed {
            name: name.clone(),
            dir: None,
            instances: Vec::new(),
            newest: None,
            look: Look::ForFiles,
        };
        let mut follow = Follow {
            inotify,
            pod_logs: pod_logs.to_owned(),
            pod: None,
            parent: None,
            start,
            followed: containers.iter().map(followed).collect(),
            gaps: 0,
        };
        follow.look_for_files()?;
        // What appears from now on is followed from its beginning.
        follow.start = Start::Beginning;
        Ok(follow)
    }

    /// The next records; waits for some until `timeout` is over (None: for ever). Empty only then.
    ///
    /// Where the descriptor ([`AsFd`]) is polled, call with a timeout of zero until nothing comes: records may be left that
    /// it does not tell of.
    pub fn next(&mut self, timeout: Option<Duration>) -> SysResult<Vec<Record>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            self.read_events()?;
            let records = self.collect()?;
            if !records.is_empty() {
                return Ok(records);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(records);
            }
            // Rounded up, so as not to spin through the last millisecond.
            let wait = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            });
            match poll(&mut [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)], wait) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(SysError::new("poll", "inotify", errno)),
            }
        }
    }

    /// How many times files were removed before they were read to their end: so often, an unknown number of lines is missing.
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    fn read_events(&mut self) -> SysResult<()> {
        loop {
            match self.inotify.read_events() {
                Ok(events) => events.iter().for_each(|event| self.note(event)),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(SysError::new("read", "inotify", errno)),
            }
        }
    }

    fn note(&mut self, event: &InotifyEvent) {
        let overflow = event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
        let new = event.mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO);
        for followed in &mut self.followed {
            match &followed.dir {
                Some((_, watch)) if *watch == event.wd => {
                    followed.look = followed.look.max(if new { Look::ForFiles } else { Look::AtFiles });
                    if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                        // The directory is gone; one of that name may come again.
                        followed.dir = None;
                        followed.look = Look::ForFiles;
                    }
                }
                Some(_) if !overflow => {}
                // A directory that is waited for may be what an event of another directory is about.
                _ => followed.look = Look::ForFiles,
            }
        }
    }

    /// Reads what is new, each container its share, in the order of time.
    fn collect(&mut self) -> SysResult<Vec<Record>> {
        self.look_for_files()?;
        let mut all = Vec::new();
        for (index, followed) in self.followed.iter_mut().enumerate() {
            if followed.look == Look::Nothing {
                continue;
            }
            let mut records = Vec::new();
            let (stopped, gaps) = followed.read(&mut records)?;
            self.gaps += gaps;
            if stopped == Stopped::AtEnd {
                followed.look = Look::Nothing;
            }
            records.iter_mut().for_each(|record| record.container = index);
            all.push(records);
        }
        Ok(merge(all))
    }

    fn look_for_files(&mut self) -> SysResult<()> {
        if self.pod.is_none() && !self.find_pod()? {
            return Ok(());
        }
        let Some(pod) = &self.pod else { return Ok(()) };
        for followed in &mut self.followed {
            if followed.look != Look::ForFiles {
                continue;
            }
            followed.look = Look::AtFiles;
            if followed.dir.is_none() {
                let dir = match dir::open_container_dir(pod, &followed.name) {
                    Ok(dir) => dir,
                    Err(error) if error.errno() == Errno::ENOENT => continue,
                    Err(error) => return Err(error),
                };
                let mask = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
                let watch = watch_dir(&self.inotify, dir.as_fd(), mask)?;
                followed.dir = Some((dir, watch));
            }
            followed.find_instances(&self.start)?;
        }
        Ok(())
    }

    /// Opens and watches the pod's directory, or waits for it by watching its nearest parent. Whether it is there.
    fn find_pod(&mut self) -> SysResult<bool> {
        let mask = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        loop {
            match dir::open_dir(&self.pod_logs) {
                Ok(pod) => {
                    if let Some((_, watch)) = self.parent.take() {
                        // It may have ended by itself, with its directory.
                        let _ = self.inotify.rm_watch(watch);
                    }
                    watch_dir(&self.inotify, pod.as_fd(), mask)?;
                    self.pod = Some(pod);
                    return Ok(true);
                }
                Err(error) if error.errno() == Errno::ENOENT => {}
                Err(error) => return Err(error),
            }
            let parent = self.pod_logs.ancestors().skip(1).find(|path| path.exists()).unwrap_or(Path::new("."));
            if self.parent.as_ref().is_some_and(|(watched, _)| watched == parent) {
                return Ok(false);
            }
            if let Some((_, watch)) = self.parent.take() {
                let _ = self.inotify.rm_watch(watch);
            }
            match self.inotify.add_watch(parent, mask | AddWatchFlags::IN_ONLYDIR) {
                Ok(watch) => self.parent = Some((parent.to_owned(), watch)),
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(SysError::new("inotify_add_watch", parent.display(), errno)),
            }
            // Once more: it may have come before the watch.
        }
    }
}

impl AsFd for Follow {
    /// Readable when something may be new: an inotify instance.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// By the descriptor, not by its path, which might lead elsewhere by now.
fn watch_dir(inotify: &Inotify, dir: BorrowedFd<'_>, mask: AddWatchFlags) -> SysResult<WatchDescriptor> {
    let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
    inotify.add_watch(path.as_str(), mask | AddWatchFlags::IN_ONLYDIR).called("inotify_add_watch", path)
}

impl Followed {
    fn find_instances(&mut self, start: &Start) -> SysResult<()> {
        let Some((dir, _)) = &self.dir else { return Ok(()) };
        let found = Listing::read(dir)?.instances;
        let first = match start {
            Start::Newest(_) => found.last().copied(),
            Start::Beginning => self.newest.map_or(Some(0), |newest| newest.checked_add(1)),
        };
        for count in found.into_iter().filter(|count| first.is_some_and(|first| *count >= first)) {
            let mut chain =
                match dir.try_clone().called("fcntl", "F_DUPFD_CLOEXEC").and_then(|dir| Chain::open(dir, count)) {
                    Ok(chain) => chain,
                    Err(error) if error.errno() == Errno::ENOENT => continue,
                    Err(error) => return Err(error),
                };
            if let Start::Newest(query) = start {
                chain.since(query.since);
                if let Some(lines) = query.tail {
                    chain.tail(lines)?;
                }
            }
            self.newest = Some(count);
            self.instances.push(chain);
        }
        Ok(())
    }

    /// Reads on in its instances, oldest first. How often a file was missed.
    fn read(&mut self, out: &mut Vec<Record>) -> SysResult<(Stopped, u64)> {
        let mut gaps = 0;
        for chain in &mut self.instances {
            loop {
                if chain.read(out, SHARE)? == Stopped::Enough {
                    return Ok((Stopped::Enough, gaps));
                }
                match chain.follow_rotation()? {
                    Joined::NoNews => break,
                    Joined::Seamlessly => {}
                    Joined::AfterGap => gaps += 1,
                }
            }
        }
        let ended = self.instances.len().saturating_sub(2);
        self.instances.drain(..ended);
        Ok((Stopped::AtEnd, gaps))
    }
}

/// Merges containers' records by time. None of them changes its own order, whatever the clock did, and none is interrupted
/// within a line.
fn merge(lists: Vec<Vec<Record>>) -> Vec<Record> {
    let mut lists: Vec<_> = lists.into_iter().map(|list| list.into_iter().peekable()).collect();
    let mut merged: Vec<Record> = Vec::new();
    loop {
        let going_on = merged.last().filter(|last| !last.complete).map(|last| last.container);
        let heads = lists.iter_mut().enumerate().filter_map(|(at, list)| Some((at, list.peek()?)));
        let next = heads.min_by_key(|(_, head)| (Some(head.container) != going_on, head.time)).map(|(at, _)| at);
        match next.and_then(|at| lists[at].next()) {
            Some(record) => merged.push(record),
            None => return merged,
        }
    }
}
