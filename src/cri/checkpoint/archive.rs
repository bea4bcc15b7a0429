//! The archive: where it is to be, what is in it, and how it gets there: as a file without a name (mode 0600), which gets its name
//! when it is whole. Whatever happens before that leaves nothing.

use super::Bounded;
use crate::error::{Kind, failure};
use crate::sys::fs::{ResolveFlags, names, openat2, proc_fd_path};
use crate::sys::{Called, SysError};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, fchmod, fstatat};
use nix::unistd::linkat;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::Instant;
use tar::{Builder, EntryType, Header};

/// The longest path and the longest name in bytes (`PATH_MAX`, `NAME_MAX`).
const MAX_PATH: usize = 4095;
const MAX_NAME: usize = 255;

/// Where an archive is to be.
#[derive(Debug)]
pub(super) struct Location {
    directory: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl Location {
    /// A file that is not there yet, in a directory that is.
    pub(super) fn check(text: &str) -> Result<Location> {
        let (parent, name) = parts("location", text)?;
        let invalid = |error: SysError| failure(Kind::Invalid, format!("location: {error}"));
        let directory = open_directory(&parent).map_err(invalid)?;
        Location { directory, name, path: text.into() }.unless_taken()
    }

    /// A file of this name in a directory.
    pub(super) fn within(directory: &Directory, name: &str) -> Result<Location> {
        let Directory { fd, path } = directory;
        let fd = fd.try_clone().called("fcntl", path.display())?;
        Location { directory: fd, name: name.into(), path: path.join(name) }.unless_taken()
    }

    fn unless_taken(self) -> Result<Location> {
        match fstatat(&self.directory, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => Ok(self),
            Err(errno) => Err(errno).called("fstatat", self.path.display()).map_err(Into::into),
            Ok(_) => Err(self.taken()),
        }
    }

    fn taken(&self) -> anyhow::Error {
        failure(Kind::AlreadyExists, format!("{} is there already", self.path.display()))
    }

    /// The archive, without a name yet.
    pub(super) fn create(self, deadline: Instant) -> Result<Archive> {
        let file = Bounded { inner: self.open()?, deadline };
        Ok(Archive { builder: Builder::new(file), location: self })
    }

    /// A document in the place of an archive.
    pub(super) fn put(self, bytes: &[u8], deadline: Instant) -> Result<Published> {
        let mut file = Bounded { inner: self.open()?, deadline };
        file.write_all(bytes).called("write", self.path.display())?;
        self.publish(&file.inner)
    }

    fn open(&self) -> Result<File> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = openat(&self.directory, ".", flags, mode).called("openat O_TMPFILE", self.path.display())?;
        fchmod(&file, mode).called("fchmod", self.path.display())?;
        Ok(file.into())
    }

    /// Gives a file its name, unless somebody else has taken that meanwhile.
    fn publish(self, file: &File) -> Result<Published> {
        file.sync_all().called("fsync", self.path.display())?;
        let (from, name) = (proc_fd_path(file), self.name.as_os_str());
        match linkat(AT_FDCWD, &from, &self.directory, name, AtFlags::AT_SYMLINK_FOLLOW) {
            Ok(()) => Ok(Published { location: self }),
            Err(Errno::EEXIST) => Err(self.taken()),
            Err(errno) => Err(errno).called("linkat", self.path.display()).map_err(Into::into),
        }
    }
}

/// A directory that archives go into.
pub(super) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// One that is there, and empty.
    pub(super) fn check(text: &str) -> Result<Directory> {
        parts("output_path", text)?;
        let invalid = |error: SysError| failure(Kind::Invalid, format!("output_path: {error}"));
        let directory = Directory { fd: open_directory(Path::new(text)).map_err(invalid)?, path: text.into() };
        match names(directory.fd.as_fd())?.is_empty() {
            true => Ok(directory),
            false => Err(failure(Kind::Invalid, format!("output_path: {text} is not empty"))),
        }
    }
}

/// An absolute path in the form that it has anyway, as its directory and its last name.
fn parts(field: &str, text: &str) -> Result<(PathBuf, OsString)> {
    let invalid = |what: &str| failure(Kind::Invalid, format!("{field}: {text:?}: {what}"));
    if text.len() > MAX_PATH {
        return Err(failure(Kind::Invalid, format!("{field} is longer than {MAX_PATH} bytes")));
    }
    if !text.starts_with('/') {
        return Err(invalid("it takes an absolute path"));
    }
    if text.contains('\0') {
        return Err(invalid("there is a NUL in it"));
    }
    let path = Path::new(text);
    let is_plain = text[1..].split('/').all(|part| !["", ".", ".."].contains(&part));
    if !is_plain || path.components().any(|part| matches!(part, Component::ParentDir | Component::CurDir)) {
        return Err(invalid("there is an empty part, a . or a .. in it"));
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if name.len() <= MAX_NAME => Ok((parent.to_owned(), name.to_owned())),
        _ => Err(invalid("its last name is too long")),
    }
}

/// A directory of the host's. Links in it are its administrator's, but none of /proc.
fn open_directory(path: &Path) -> Result<OwnedFd, SysError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open("/", flags, Mode::empty()).called("open", "/")?;
    openat2(root.as_fd(), path, flags, 0, ResolveFlags::RESOLVE_NO_MAGICLINKS)
}

/// An archive that is being written.
pub(super) struct Archive {
    builder: Builder<Bounded<File>>,
    location: Location,
}

impl Archive {
    /// A document.
    pub(super) fn document(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut header = header(EntryType::Regular, bytes.len() as u64);
        self.builder.append_data(&mut header, name, bytes).context(name.to_owned())
    }

    /// A file of our own.
    pub(super) fn file(&mut self, name: &str, path: &Path) -> Result<()> {
        let file = File::open(path).called("open", path.display())?;
        let size = file.metadata().called("fstat", path.display())?.len();
        let mut header = header(EntryType::Regular, size);
        self.builder.append_data(&mut header, name, file.take(size)).context(name.to_owned())
    }

    /// The files of a directory of our own.
    pub(super) fn files(&mut self, name: &str, path: &Path) -> Result<()> {
        let mut header = header(EntryType::Directory, 0);
        header.set_mode(0o700);
        self.builder.append_data(&mut header, format!("{name}/"), std::io::empty()).context(name.to_owned())?;
        let entries = std::fs::read_dir(path).called("opendir", path.display())?;
        let names = entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<OsString>>>();
        let mut names = names.called("getdents64", path.display())?;
        names.sort();
        for entry in &names {
            let entry: &OsStr = entry;
            let shown = entry.to_str().with_context(|| format!("{}: a name of criu's", entry.display()))?;
            self.file(&format!("{name}/{shown}"), &path.join(entry))?;
        }
        Ok(())
    }

    /// Gives it its name, unless somebody else has taken that meanwhile.
    pub(super) fn publish(self) -> Result<Published> {
        let file = self.builder.into_inner().context("the end of the archive")?;
        self.location.publish(&file.inner)
    }
}

/// An archive that has its name.
pub(super) struct Published {
    location: Location,
}

impl Published {
    /// Takes it away again.
    pub(super) fn withdraw(&self) -> Result<(), SysError> {
        let Location { directory, name, path } = &self.location;
        match nix::unistd::unlinkat(directory, name.as_os_str(), nix::unistd::UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno).called("unlinkat", path.display()),
        }
    }
}

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_mtime(std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()));
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::kind_of;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn a_location_is_a_new_file_by_its_plain_path() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().to_str().unwrap();
        std::fs::write(place.path().join("there"), "kept").unwrap();
        symlink("/nowhere", place.path().join("link")).unwrap();
        let long = format!("{path}/{}", "x".repeat(256));
        for (text, kind, part) in [
            ("", Kind::Invalid, "absolute"),
            ("a.tar", Kind::Invalid, "absolute"),
            ("registry/image:tag", Kind::Invalid, "absolute"),
            ("/", Kind::Invalid, "empty part"),
            (&format!("{path}/"), Kind::Invalid, "empty part"),
            (&format!("{path}//a"), Kind::Invalid, "empty part"),
            (&format!("{path}/../a"), Kind::Invalid, ".."),
            (&format!("{path}/./a"), Kind::Invalid, ". or a .."),
            (&format!("{path}/.."), Kind::Invalid, ".."),
            (&format!("{path}/a\0b"), Kind::Invalid, "NUL"),
            (&long, Kind::Invalid, "too long"),
            (&format!("/{}", "x/".repeat(3000)), Kind::Invalid, "longer than 4095"),
            (&format!("{path}/no/a"), Kind::Invalid, "ENOENT"),
            (&format!("{path}/there/a"), Kind::Invalid, "ENOTDIR"),
            ("/proc/self/root/tmp/a", Kind::Invalid, "ELOOP"),
            (&format!("{path}/there"), Kind::AlreadyExists, "there already"),
            (&format!("{path}/link"), Kind::AlreadyExists, "there already"),
        ] {
            let error = Location::check(text).unwrap_err();
            assert_eq!(kind_of(&error), Some(kind), "{text}: {error:#}");
            assert!(format!("{error:#}").contains(part), "{text}: {error:#}");
        }
        assert_eq!(std::fs::read_to_string(place.path().join("there")).unwrap(), "kept");
        Location::check(&format!("{path}/new")).unwrap();
    }

    #[test]
    fn an_archive_is_there_when_it_is_whole_and_for_root_only() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("a.tar");
        let entries = || std::fs::read_dir(place.path()).unwrap().count();
        let images = tempfile::tempdir().unwrap();
        std::fs::write(images.path().join("core-1.img"), "core").unwrap();
        let mut archive = Location::check(target.to_str().unwrap()).unwrap().create(soon()).unwrap();
        archive.document("spec.dump", b"{}").unwrap();
        archive.files("checkpoint", images.path()).unwrap();
        assert_eq!(entries(), 0, "not before it is whole");
        archive.publish().unwrap();
        assert_eq!(std::fs::metadata(&target).unwrap().mode() & 0o7777, 0o600);
        let mut read = tar::Archive::new(File::open(&target).unwrap());
        let found: Vec<(String, String)> = read
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                (entry.path().unwrap().display().to_string(), text)
            })
            .collect();
        let expected = [("spec.dump", "{}"), ("checkpoint/", ""), ("checkpoint/core-1.img", "core")];
        assert_eq!(found, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }

    #[test]
    fn nothing_is_left_of_one_that_fails_and_nothing_is_replaced() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("a.tar");
        let location = || Location::check(target.to_str().unwrap());
        let mut late = location().unwrap().create(Instant::now()).unwrap();
        let error = late.document("spec.dump", b"{}").unwrap_err();
        assert!(format!("{error:#}").contains("in time"), "{error:#}");
        drop(late);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);

        let archive = location().unwrap().create(soon()).unwrap();
        std::fs::write(&target, "another's").unwrap();
        assert_eq!(archive.publish().err().and_then(|error| kind_of(&error)), Some(Kind::AlreadyExists));
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "another's");
        std::fs::remove_file(&target).unwrap();
        let published = location().unwrap().create(soon()).unwrap().publish().unwrap();
        published.withdraw().unwrap();
        published.withdraw().unwrap();
        assert!(!target.exists());
    }
}
