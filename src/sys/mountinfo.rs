//! What is mounted in a mount namespace: the lines of mountinfo (proc_pid_mountinfo(5)).

use super::{Called, SysResult};
use std::borrow::Cow;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// That of the calling process.
pub const OWN: &str = "/proc/self/mountinfo";

/// A mount. Paths are whatever the host's users like, so a line need not be UTF-8; in what is no path here, what is not is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Unique among the mounts that there are.
    pub id: u64,
    /// The mount that it is on.
    pub parent: u64,
    /// `major:minor` of its file system.
    pub device: Cow<'a, str>,
    /// What of the file system is mounted.
    pub root: PathBuf,
    /// Where, seen from the process's root directory.
    pub point: PathBuf,
    /// `rw,nosuid`: of the mount itself.
    pub options: Cow<'a, str>,
    /// `shared:3`, `master:2`; none if it is private.
    pub propagation: Vec<Cow<'a, str>>,
    /// `ext4`
    pub fs_type: Cow<'a, str>,
    /// `/dev/vda1`, `tmpfs`; it may be empty.
    pub source: Cow<'a, str>,
    /// Of the file system.
    pub super_options: Cow<'a, str>,
}

impl<'a> Mount<'a> {
    /// A line, without its end; `None` if it is no line of mountinfo.
    pub fn parse(line: &'a [u8]) -> Option<Mount<'a>> {
        let mut fields = line.split(|byte| *byte == b' ');
        let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
        let text = String::from_utf8_lossy;
        Some(Mount {
            id: number(fields.next()?)?,
            parent: number(fields.next()?)?,
            device: text(fields.next()?),
            root: unescaped(fields.next()?),
            point: unescaped(fields.next()?),
            options: text(fields.next()?),
            // Optional fields end with a hyphen.
            propagation: fields.by_ref().take_while(|field| *field != b"-").map(text).collect(),
            fs_type: text(fields.next()?),
            source: text(fields.next()?),
            super_options: text(fields.next()?),
        })
    }

    /// Whether nothing can be written by it.
    pub fn is_read_only(&self) -> bool {
        let has_ro = |list: &str| list.split(',').any(|word| word == "ro");
        has_ro(&self.options) || has_ro(&self.super_options)
    }

    /// Whether what is mounted on it is seen in other mount namespaces as well (`MS_SHARED`).
    pub fn is_shared(&self) -> bool {
        self.propagation.iter().any(|field| field.starts_with("shared:"))
    }

    /// Whether what is mounted elsewhere is seen here (`MS_SLAVE`).
    pub fn is_slave(&self) -> bool {
        self.propagation.iter().any(|field| field.starts_with("master:"))
    }
}

/// The text of [`OWN`].
pub fn read() -> SysResult<Vec<u8>> {
    std::fs::read(OWN).called("read", OWN)
}

/// The mounts of a text; what is no line of mountinfo is left out.
pub fn mounts(text: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    text.split(|byte| *byte == b'\n').filter_map(Mount::parse)
}

/// Mount points at or below a directory, deepest first.
pub fn points_below(directory: &Path) -> SysResult<Vec<PathBuf>> {
    let text = read()?;
    let points = mounts(&text).map(|mount| mount.point);
    let mut found: Vec<PathBuf> = points.filter(|point| point.starts_with(directory)).collect();
    found.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    Ok(found)
}

/// Blanks, ends of lines and backslashes are three octal digits: `\040`.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let escaped = if *first == b'\\' { octal(after) } else { None };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes).into()
}

/// The byte of three octal digits.
fn octal(text: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(text.get(..3)?).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_line_is_read_as_its_manual_says() {
        let text = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue";
        let mount = Mount::parse(text).unwrap();
        assert_eq!((mount.id, mount.parent, &*mount.device), (36, 35, "98:0"));
        assert_eq!((&*mount.root, &*mount.point), (Path::new("/mnt1"), Path::new("/mnt2")));
        assert_eq!((&*mount.options, &*mount.fs_type), ("rw,noatime", "ext3"));
        assert_eq!((&*mount.source, &*mount.super_options), ("/dev/root", "rw,errors=continue"));
        assert!(mount.is_shared() && mount.is_slave() && !mount.is_read_only());
        let private = Mount::parse(b"36 35 98:0 / /a ro - cgroup2  rw").unwrap();
        assert!(!private.is_shared() && !private.is_slave() && private.is_read_only());
        assert_eq!((&*private.source, &*private.super_options), ("", "rw"));
    }

    #[test]
    fn paths_are_any_bytes_and_escapes_are_octal() {
        let point = |line: &'static [u8]| Mount::parse(line).unwrap().point.as_os_str().as_bytes().to_owned();
        assert_eq!(point(b"1 1 0:1 / /a\\040b\\134\\011c rw - x y z"), b"/a b\\\tc");
        assert_eq!(point(b"1 1 0:1 / /a\\04 rw - x y z"), b"/a\\04", "not three");
        assert_eq!(point(b"1 1 0:1 / /a\\999 rw - x y z"), b"/a\\999", "not octal");
        assert_eq!(point(b"1 1 0:1 / /\xff\xfe rw - x y z"), b"/\xff\xfe", "not UTF-8");
        assert_eq!(
            &*Mount::parse(b"1 1 0:1 / / rw - overlay o rw,upperdir=/\xff").unwrap().super_options,
            "rw,upperdir=/\u{fffd}"
        );
    }

    #[test]
    fn what_is_cut_off_is_no_line() {
        for text in ["", "1", "1 x 0:1 / / rw - x y z", "1 1 0:1 / / rw", "1 1 0:1 / / rw -", "1 1 0:1 / / rw - x y"] {
            assert_eq!(Mount::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(mounts(b"nonsense\n1 1 0:1 / / rw - x y z\n\n").count(), 1);
    }
}
