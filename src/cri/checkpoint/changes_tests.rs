use super::*;
use crate::cri::checkpoint::Bounded;
use nix::sys::stat::mknod;
use nix::unistd::mkfifo;
use std::collections::BTreeMap;
use std::fs::{create_dir, create_dir_all, hard_link, write as put};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

struct Tree {
    place: tempfile::TempDir,
}

impl Tree {
    fn new() -> Tree {
        let place = tempfile::tempdir().unwrap();
        for name in ["upper", "low", "high"] {
            create_dir(place.path().join(name)).unwrap();
        }
        Tree { place }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn archive(&self, ids: Option<IdRange>, patience: Duration) -> Result<(PathBuf, Vec<PathBuf>)> {
        let path = self.path("out.tar");
        let mut file = Bounded { inner: File::create(&path).unwrap(), deadline: Instant::now() + patience };
        let layers = [self.path("low"), self.path("high")];
        let removed = write(&Source { upper: &self.path("upper"), layers: &layers, ids }, &mut file)?;
        Ok((path, removed))
    }
}

const SOON: Duration = Duration::from_secs(60);

fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    let may_skip = std::env::var("PODSHIM_MAY_SKIP").is_ok_and(|list| list.split(',').any(|word| word == "root"));
    assert!(is_root || may_skip, "needs root (or PODSHIM_MAY_SKIP=root)");
    is_root
}

/// Type, content or target, mode, by name.
fn read(path: &Path) -> BTreeMap<String, (EntryType, Vec<u8>, u32)> {
    let mut archive = tar::Archive::new(File::open(path).unwrap());
    let mut found = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
        entry.read_to_end(&mut content).unwrap();
        let (kind, mode) = (entry.header().entry_type(), entry.header().mode().unwrap());
        found.insert(entry.path().unwrap().display().to_string(), (kind, content, mode));
    }
    found
}

#[test]
fn files_of_all_types_are_as_they_were() {
    if !is_root() {
        return;
    }
    let tree = Tree::new();
    let upper = tree.path("upper");
    put(upper.join("file"), "content").unwrap();
    std::fs::set_permissions(upper.join("file"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    put(upper.join("empty"), "").unwrap();
    hard_link(upper.join("file"), upper.join("second")).unwrap();
    symlink("/etc//passwd", upper.join("link")).unwrap();
    let far = "x/".repeat(120);
    symlink(&far, upper.join("far")).unwrap();
    mkfifo(&upper.join("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
    let null = nix::sys::stat::makedev(1, 3);
    mknod(&upper.join("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), null).unwrap();
    let _socket = UnixListener::bind(upper.join("socket")).unwrap();
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
    create_dir(upper.join("d".repeat(90))).unwrap();
    put(upper.join(&long), "long").unwrap();
    // A whiteout, as overlayfs makes it.
    mknod(&upper.join("gone"), SFlag::S_IFCHR, Mode::empty(), 0).unwrap();

    let (path, removed) = tree.archive(None, SOON).unwrap();
    assert_eq!(removed, [PathBuf::from("/gone")]);
    let found = read(&path);
    let of = |name: &str| (found[name].0, String::from_utf8_lossy(&found[name].1).into_owned());
    assert_eq!(of("file"), (EntryType::Regular, "content".to_owned()));
    assert_eq!(found["file"].2, 0o4755);
    assert_eq!(of("empty"), (EntryType::Regular, String::new()));
    assert_eq!(of("second"), (EntryType::Link, "file".to_owned()));
    assert_eq!(of("link"), (EntryType::Symlink, "/etc//passwd".to_owned()));
    assert_eq!(of("far"), (EntryType::Symlink, far.clone()));
    assert_eq!(of("pipe").0, EntryType::Fifo);
    assert_eq!(of("null").0, EntryType::Char);
    assert_eq!(of(&long), (EntryType::Regular, "long".to_owned()));
    assert!(!found.contains_key("socket") && !found.contains_key("gone"), "{:?}", found.keys());
}

#[test]
fn a_directory_that_was_made_again_hides_what_the_image_has() {
    if !is_root() {
        return;
    }
    let tree = Tree::new();
    for name in ["low/etc/a", "low/etc/sub/b", "low/etc/sub/kept", "low/usr/c", "high/etc/d"] {
        create_dir_all(tree.path(name).parent().unwrap()).unwrap();
        put(tree.path(name), name).unwrap();
    }
    mknod(&tree.path("high/etc/a"), SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
    create_dir_all(tree.path("upper/etc/sub")).unwrap();
    put(tree.path("upper/etc/sub/kept"), "new").unwrap();
    create_dir_all(tree.path("upper/usr")).unwrap();
    let opaque = |directory: &Path| {
        let directory = File::open(directory).unwrap();
        crate::sys::fs::fsetxattr(directory.as_fd(), OsStr::new(OPAQUE), b"y").unwrap();
    };
    opaque(&tree.path("upper/etc"));
    let (path, removed) = tree.archive(None, SOON).unwrap();
    // Not /etc/a, which the image itself has removed; nothing of /usr.
    assert_eq!(removed, ["/etc/d", "/etc/sub/b"].map(PathBuf::from));
    assert_eq!(read(&path)["etc/sub/kept"].1, b"new");
    // What is below an opaque directory of a higher layer is not the image's either.
    opaque(&tree.path("high/etc"));
    assert_eq!(tree.archive(None, SOON).unwrap().1, ["/etc/d"].map(PathBuf::from));
}

#[test]
fn holes_stay_holes() {
    let tree = Tree::new();
    let sparse = |name: &str, pieces: u64| {
        let mut file = File::create(tree.path("upper").join(name)).unwrap();
        for piece in 0..pieces {
            file.seek(SeekFrom::Start(piece * (1 << 20))).unwrap();
            write!(file, "piece {piece}").unwrap();
        }
        file.set_len(pieces.max(1) * (1 << 20)).unwrap();
    };
    sparse("none", 0);
    sparse("few", 3);
    sparse("many", 60);
    put(tree.path("upper/after"), "after").unwrap();
    File::create(tree.path("upper/huge")).unwrap().set_len(1 << 43).unwrap();
    let (path, _) = tree.archive(None, SOON).unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 1 << 20, "not the holes");
    // Read by another's tar, which gives the holes back.
    let out = tree.path("unpacked");
    create_dir(&out).unwrap();
    let mut tar = std::process::Command::new("tar");
    tar.args(["--sparse", "--numeric-owner", "-xf"]).arg(&path).arg("-C").arg(&out);
    let status = tar.status().unwrap();
    assert!(status.success(), "{status}");
    for name in ["none", "few", "many", "after"] {
        assert!(
            std::fs::read(out.join(name)).unwrap() == std::fs::read(tree.path("upper").join(name)).unwrap(),
            "{name}"
        );
    }
    assert_eq!(std::fs::metadata(out.join("huge")).unwrap().len(), 1 << 43);
}

#[test]
fn attributes_go_with_files_but_for_those_of_overlayfs() {
    if !is_root() {
        return;
    }
    let tree = Tree::new();
    put(tree.path("upper/file"), "x").unwrap();
    let file = File::open(tree.path("upper/file")).unwrap();
    let set = |name: &str, value: &[u8]| crate::sys::fs::fsetxattr(file.as_fd(), OsStr::new(name), value).unwrap();
    set("user.note", b"kept\0too");
    set("trusted.overlay.origin", b"x");
    let (path, _) = tree.archive(None, SOON).unwrap();
    let mut archive = tar::Archive::new(File::open(path).unwrap());
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    let found: Vec<(String, Vec<u8>)> = entry
        .pax_extensions()
        .unwrap()
        .unwrap()
        .map(|pair| pair.map(|pair| (pair.key().unwrap().to_owned(), pair.value_bytes().to_vec())).unwrap())
        .collect();
    assert_eq!(found, [("SCHILY.xattr.user.note".to_owned(), b"kept\0too".to_vec())]);
    set("trusted.overlay.redirect", b"/elsewhere");
    let error = format!("{:#}", tree.archive(None, SOON).unwrap_err());
    assert!(error.contains("/file of the container") && error.contains("redirect"), "{error}");
}

#[test]
fn owners_are_the_containers_own_ids() {
    if !is_root() {
        return;
    }
    let tree = Tree::new();
    put(tree.path("upper/file"), "x").unwrap();
    std::os::unix::fs::chown(tree.path("upper/file"), Some(200_007), Some(200_000)).unwrap();
    let (path, _) = tree.archive(Some(IdRange::of(200_000)), SOON).unwrap();
    let mut archive = tar::Archive::new(File::open(path).unwrap());
    let entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (7, 0));
    let error = format!("{:#}", tree.archive(Some(IdRange::of(300_000)), SOON).unwrap_err());
    assert!(error.contains("none of the container's"), "{error}");
}

#[test]
fn what_is_too_deep_or_too_much_is_an_error() {
    let tree = Tree::new();
    let upper = tree.path("upper");
    create_dir_all(upper.join("d/".repeat(MAX_DEPTH))).unwrap();
    tree.archive(None, SOON).unwrap();
    create_dir_all(upper.join("d/".repeat(MAX_DEPTH + 1))).unwrap();
    let error = format!("{:#}", tree.archive(None, SOON).unwrap_err());
    assert!(error.contains("more than 512 deep"), "{error}");
    let error = format!("{:#}", tree.archive(None, Duration::ZERO).unwrap_err());
    assert!(error.contains("in time"), "{error}");
}

#[test]
fn a_file_that_is_cut_off_meanwhile_is_as_long_as_was_said() {
    let tree = Tree::new();
    let path = tree.path("file");
    put(&path, "abc").unwrap();
    let mut file = File::open(&path).unwrap();
    let mut read = Vec::new();
    Exactly { file: &mut file, left: 5 }.read_to_end(&mut read).unwrap();
    assert_eq!(read, b"abc\0\0");
    file.rewind().unwrap();
    read.clear();
    Exactly { file: &mut file, left: 2 }.read_to_end(&mut read).unwrap();
    assert_eq!(read, b"ab");
}
