//! The directories of a layer that is being unpacked, and the times that they get at last, since every new entry changes them.
//!
//! Each is known once, by the one that it is in and its name there: a small image may lead a million entries through links to
//! paths of [`MAX_PATH`] bytes, and name each directory a million times.

use super::entry::Time;
use anyhow::{Result, ensure};
use nix::errno::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};

/// The longest path, in bytes (PATH_MAX without the NUL): a longer one could not be named in a container.
pub(super) const MAX_PATH: usize = 4095;

/// The layer's own directory.
pub(super) const ROOT: DirectoryId = DirectoryId(0);

/// One of the directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DirectoryId(usize);

struct Directory {
    /// The one that it is in; the root is in itself.
    above: DirectoryId,
    name: OsString,
    /// How long its path is, in bytes.
    length: usize,
    /// `None` as long as nobody has said.
    time: Option<Time>,
}

/// The directories of one layer, by their paths without links.
pub(super) struct Directories {
    all: Vec<Directory>,
    known: HashMap<(DirectoryId, OsString), DirectoryId>,
}

impl Directories {
    /// The root, as of 1970.
    pub(super) fn new() -> Directories {
        let root = Directory { above: ROOT, name: OsString::from("."), length: 0, time: Some(Time::default()) };
        Directories { all: vec![root], known: HashMap::new() }
    }

    /// How long the path of `name` in a directory is, which must not be too long.
    pub(super) fn length(&self, above: DirectoryId, name: &OsStr) -> Result<usize> {
        let above = self.all[above.0].length;
        let length = above + usize::from(above > 0) + name.len();
        ensure!(length <= MAX_PATH, "its path without links has {length} bytes: {}", Errno::ENAMETOOLONG.desc());
        Ok(length)
    }

    /// The directory `name` in another one.
    pub(super) fn enter(&mut self, above: DirectoryId, name: &OsStr) -> Result<DirectoryId> {
        let length = self.length(above, name)?;
        let next = DirectoryId(self.all.len());
        let id = *self.known.entry((above, name.to_owned())).or_insert(next);
        if id == next {
            self.all.push(Directory { above, name: name.to_owned(), length, time: None });
        }
        Ok(id)
    }

    pub(super) fn above(&self, id: DirectoryId) -> DirectoryId {
        self.all[id.0].above
    }

    /// The name in the directory above; `.` of the root.
    pub(super) fn name(&self, id: DirectoryId) -> &OsStr {
        &self.all[id.0].name
    }

    /// The path, empty of the root.
    pub(super) fn path(&self, mut id: DirectoryId) -> Vec<OsString> {
        let mut path = Vec::new();
        while id != ROOT {
            path.push(self.name(id).to_owned());
            id = self.above(id);
        }
        path.reverse();
        path
    }

    /// What is said last holds.
    pub(super) fn set_time(&mut self, id: DirectoryId, time: Time) {
        self.all[id.0].time = Some(time);
    }

    /// The times that were set, those of directories in the same one after each other.
    pub(super) fn times(&self) -> Vec<(DirectoryId, Time)> {
        let each = self.all.iter().enumerate();
        let mut times: Vec<_> = each.filter_map(|(n, d)| Some((DirectoryId(n), d.time?))).collect();
        times.sort_by_key(|(id, _)| self.above(*id));
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Time {
        Time { seconds, nanoseconds: 0 }
    }

    #[test]
    fn a_directory_is_known_once_however_often_it_is_named() {
        let mut directories = Directories::new();
        let [a, b] = ["a", "b"].map(|name| directories.enter(ROOT, OsStr::new(name)).unwrap());
        let inner = directories.enter(a, OsStr::new("b")).unwrap();
        assert!(inner != b && inner != a);
        for seconds in 0..1000 {
            assert_eq!(directories.enter(a, OsStr::new("b")).unwrap(), inner);
            directories.set_time(inner, at(seconds));
        }
        directories.set_time(b, at(7));
        assert_eq!(directories.path(inner), ["a", "b"]);
        assert_eq!((directories.above(inner), directories.above(a), directories.above(ROOT)), (a, ROOT, ROOT));
        assert!(directories.path(ROOT).is_empty());
        assert_eq!(directories.times(), [(ROOT, at(0)), (b, at(7)), (inner, at(999))], "the last one holds");
    }

    #[test]
    fn a_path_is_as_long_as_it_can_be_written() {
        let mut directories = Directories::new();
        let mut deep = ROOT;
        for _ in 0..2047 {
            deep = directories.enter(deep, OsStr::new("d")).unwrap();
        }
        // "d/d/…/d" has 4093 bytes.
        assert_eq!(directories.length(deep, OsStr::new("x")).unwrap(), MAX_PATH);
        let error = directories.enter(deep, OsStr::new("xy")).unwrap_err();
        assert!(format!("{error:#}").contains("4096 bytes: File name too long"), "{error:#}");
    }
}
