//! Layers as an attacker makes them (attacks.md B), and what honest ones must become. A canary lies beside each layer.

use super::entry::MAX_HEADER;
use super::layer::{self, Target};
use super::manifest::Compression;
use super::reference::Digest;
use super::tree::{Below, OPAQUE};
use super::unpack::Limits;
use crate::sys::fs::lgetxattrat;
use crate::sys::fs::names;
use anyhow::Result;
use nix::fcntl::{AT_FDCWD, openat};
use nix::sys::stat::Mode;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Whether the test can run: it needs root, and its absence is a failure unless `PODSHIM_MAY_SKIP` names `root`.
pub(super) fn root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let may = std::env::var("PODSHIM_MAY_SKIP").unwrap_or_default();
    assert!(may.split(',').any(|w| w.trim() == "root"), "needs root (or PODSHIM_MAY_SKIP=root)");
    false
}

/// One entry, byte for byte as given: the tar crate's own setters refuse what is tested here.
pub(super) struct Item<'a> {
    kind: u8,
    name: &'a [u8],
    link: &'a [u8],
    mode: u32,
    owner: (u64, u64),
    data: &'a [u8],
    device: (u32, u32),
}

pub(super) fn item(kind: u8, name: &str) -> Item<'_> {
    let mode = if kind == b'5' { 0o755 } else { 0o644 };
    Item { kind, name: name.as_bytes(), link: b"", mode, owner: (0, 0), data: b"", device: (0, 0) }
}

pub(super) fn file<'a>(name: &'a str, data: &'a str) -> Item<'a> {
    Item { data: data.as_bytes(), ..item(b'0', name) }
}

fn link<'a>(kind: u8, name: &'a str, target: &'a str) -> Item<'a> {
    Item { link: target.as_bytes(), ..item(kind, name) }
}

impl Item<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(self.mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(1_000_000);
        header.set_size(self.data.len() as u64);
        header.set_entry_type(tar::EntryType::new(self.kind));
        header.set_device_major(self.device.0).unwrap();
        header.set_device_minor(self.device.1).unwrap();
        let mut bytes = Vec::new();
        let mut records: Vec<(&str, &[u8])> = Vec::new();
        let old = header.as_old_mut();
        if self.name.len() <= 100 {
            old.name[..self.name.len()].copy_from_slice(self.name);
        } else {
            records.push(("path", self.name));
        }
        if self.link.len() <= 100 {
            old.linkname[..self.link.len()].copy_from_slice(self.link);
        } else {
            records.push(("linkpath", self.link));
        }
        if !records.is_empty() {
            bytes = pax(&records);
        }
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(self.data);
        bytes.resize(bytes.len().div_ceil(512) * 512, 0);
        bytes
    }
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions(records.iter().copied()).unwrap();
    let mut bytes = builder.into_inner().unwrap();
    bytes.truncate(bytes.len() - 1024);
    bytes
}

pub(super) fn tar_of(items: &[Item]) -> Vec<u8> {
    let mut bytes: Vec<u8> = items.iter().flat_map(Item::bytes).collect();
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

/// Layers beside a canary.
struct Bench {
    dir: tempfile::TempDir,
    before: Vec<String>,
    count: usize,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::create_dir_all(victim.join("sub")).unwrap();
        fs::create_dir_all(victim.join("dev")).unwrap();
        for file in ["file", "passwd", "sub/keep", "dev/keep"] {
            fs::write(victim.join(file), "canary").unwrap();
        }
        symlink("file", victim.join("link")).unwrap();
        let before = snapshot(&victim);
        Bench { dir, before, count: 0 }
    }

    fn victim(&self) -> PathBuf {
        self.dir.path().join("victim")
    }

    fn path(&self, layer: usize) -> PathBuf {
        self.dir.path().join(format!("layer{layer}"))
    }

    fn fd(&self, layer: usize) -> OwnedFd {
        openat(AT_FDCWD, &self.path(layer), super::tree::dir_flags(), Mode::empty()).unwrap()
    }

    /// Unpacks another layer on top of those before.
    fn add(&mut self, tar: &[u8]) -> Result<PathBuf> {
        let at = self.count;
        fs::create_dir(self.path(at)).unwrap();
        let mut below = Below::default();
        (0..at).for_each(|i| below.push(self.fd(i)));
        let diff_id = Digest::of(tar);
        let target = Target { root: self.fd(at), below: &below, diff_id: &diff_id, limits: Limits::default() };
        self.count += 1;
        layer::unpack(tar, Compression::Plain, target).map(|()| self.path(at))
    }

    fn unharmed(&self, name: &str) {
        assert_eq!(snapshot(&self.victim()), self.before, "{name}: the canary changed");
        let mut beside: Vec<_> = fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        beside.retain(|n| !n.to_string_lossy().starts_with("layer"));
        assert_eq!(beside, ["victim"], "{name}: something new beside the layers");
    }
}

fn snapshot(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let m = fs::symlink_metadata(&path).unwrap();
        let content = if m.is_file() { fs::read_to_string(&path).unwrap() } else { String::new() };
        let target = fs::read_link(&path).unwrap_or_default();
        lines.push(format!("{path:?} {:o} {}:{} {} {content} {target:?}", m.mode(), m.uid(), m.gid(), m.nlink()));
        if m.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
    }
    lines.sort();
    lines
}

/// A case: its layers in order, and a part of the error of the last one, or that it must succeed.
type Case<'a> = (&'a str, Vec<Vec<u8>>, Option<&'a str>);

fn hold(cases: impl Fn(&str) -> Vec<Case<'static>>) {
    if !root() {
        return;
    }
    let count = cases("").len();
    for i in 0..count {
        let mut bench = Bench::new();
        let victim = bench.victim().display().to_string();
        let (name, layers, expected) = cases(&victim).swap_remove(i);
        let mut results: Vec<Result<PathBuf>> = layers.iter().map(|tar| bench.add(tar)).collect();
        bench.unharmed(name);
        match (results.pop().unwrap(), expected) {
            (Ok(_), None) => {}
            (Err(e), Some(part)) => assert!(format!("{e:#}").contains(part), "{name}: {e:#}"),
            (Ok(_), Some(part)) => panic!("{name} was accepted, expected {part:?}"),
            (Err(e), None) => panic!("{name} was refused: {e:#}"),
        }
    }
}

#[test]
fn names_and_links_that_lead_out_stay_inside() {
    hold(|victim| {
        let up = "../".repeat(12);
        let out = format!("{up}{}", victim.trim_start_matches('/'));
        let (victim_file, out_file) = (format!("{victim}/file"), format!("{out}/file"));
        let chain: Vec<u8> =
            (0..60).flat_map(|i| link(b'2', &format!("s{i}"), &format!("s{}", i + 1)).bytes()).collect();
        let one = |items: &[Item]| vec![tar_of(items)];
        vec![
            ("B1 dot dot", one(&[file(&out_file, "x")]), None),
            ("B1 absolute", one(&[file(&victim_file, "x")]), None),
            ("B2 symlink parent", one(&[link(b'2', "a", victim), file("a/file", "x"), file("a/sub/new", "x")]), None),
            ("B2 relative", one(&[link(b'2', "a", &out), file("a/file", "x")]), None),
            ("B2 layer before", vec![tar_of(&[link(b'2', "a", victim)]), tar_of(&[file("a/file", "x")])], None),
            ("B2 later link", one(&[file("a/file", "x"), link(b'2', "a", victim), file("a/file", "y")]), None),
            ("B3 hard link absolute", one(&[link(b'1', "h", &victim_file)]), Some("ENOENT")),
            ("B3 hard link up", one(&[link(b'1', "h", &out_file)]), Some("ENOENT")),
            ("B3 via link", one(&[link(b'2', "a", victim), link(b'1', "h", "a/file")]), Some("ENOENT")),
            (
                "B4 hard link to symlink",
                one(&[link(b'2', "s", &victim_file), Item { mode: 0o6777, ..link(b'1', "h", "s") }]),
                None,
            ),
            (
                "B5 dir becomes link becomes dir",
                one(&[
                    item(b'5', "d"),
                    link(b'2', "d", victim),
                    file("d/file", "x"),
                    item(b'5', "d"),
                    file("d/file", "y"),
                ]),
                None,
            ),
            ("B6 root as link", one(&[link(b'2', ".", victim)]), Some("root of a layer")),
            ("B6 root as link 2", one(&[link(b'2', "..", victim)]), Some("root of a layer")),
            ("B6 root as file", one(&[file("./", "x")]), Some("root of a layer")),
            (
                "B6 odd root",
                one(&[Item { mode: 0o6000, owner: (1000, 1000), ..item(b'5', "./") }, file("f", "x")]),
                None,
            ),
            ("B7 chain", vec![[chain, file("s0/x", "x").bytes(), vec![0; 1024]].concat()], Some("symbolic links")),
            ("B7 loop", one(&[link(b'2', "l", "l"), file("l/x", "x")]), Some("symbolic links")),
            ("B8 overlay's separators", one(&[item(b'5', "a:b,c\\d=e"), file("a:b,c\\d=e/f:g", "x")]), None),
            ("B10 whiteout via link", one(&[link(b'2', "a", victim), item(b'0', "a/.wh.file")]), None),
            ("B10 layer before", vec![tar_of(&[link(b'2', "a", victim)]), tar_of(&[item(b'0', "a/.wh.file")])], None),
            ("B10 opaque via link", one(&[link(b'2', "a", victim), item(b'0', "a/.wh..wh..opq")]), None),
            ("B10 up", one(&[item(b'0', &format!("{out}/.wh.file"))]), None),
            ("B14 self", one(&[link(b'1', "h", "h")]), Some("ENOENT")),
            ("B14 existing self", one(&[file("h", "x"), link(b'1', "h", "h")]), Some("this entry itself")),
            ("B14 directory", one(&[item(b'5', "d"), link(b'1', "h", "d")]), Some("a directory")),
            (
                "B15 duplicates",
                one(&[file("x", "1"), file("x", "2"), item(b'5', "x"), link(b'2', "x", &victim_file), file("x", "3")]),
                None,
            ),
            (
                "device over link",
                one(&[link(b'2', "n", &victim_file), Item { device: (1, 3), ..item(b'3', "n") }]),
                None,
            ),
            ("fifo over link", one(&[link(b'2', "n", &victim_file), item(b'6', "n")]), None),
            ("dir over link", one(&[link(b'2', "n", victim), Item { mode: 0, ..item(b'5', "n") }]), None),
        ]
    });
}

#[test]
fn broken_entries_are_refused() {
    hold(|_| {
        let one = |items: &[Item]| vec![tar_of(items)];
        let with_pax = |records: &[(&str, &[u8])]| vec![[pax(records), tar_of(&[file("f", "x")])].concat()];
        let long = "a".repeat(300);
        let deep = "abcdefghi/".repeat(500);
        let wide = format!("{}/", "a".repeat(200));
        let half = wide.repeat(10);
        let links = [link(b'2', "s", &half), link(b'2', "s/s", &half), link(b'2', "s/s/s", &half)];
        let behind = |name: &str| {
            let links = links.iter().flat_map(Item::bytes).collect::<Vec<u8>>();
            vec![[links, tar_of(&[file(name, "x")])].concat()]
        };
        let many: Vec<u8> = vec![b'x'; MAX_HEADER as usize + 1];
        vec![
            ("B9 .wh.", one(&[item(b'0', ".wh.")]), Some("invalid whiteout")),
            ("B9 .wh..", one(&[item(b'0', ".wh..")]), Some("invalid whiteout")),
            ("B9 .wh...", one(&[item(b'0', "d/.wh...")]), Some("invalid whiteout")),
            ("B11 children", one(&[item(b'5', ".wh.x"), file(".wh.x/y", "z")]), Some("cannot have children")),
            ("B11 plnk", one(&[item(b'5', ".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "z")]), None),
            ("B11 char 0:0", one(&[item(b'3', "c")]), Some("0:0")),
            ("B13 attribute", with_pax(&[("SCHILY.xattr.bogus.a", b"1")]), Some("no known kind")),
            ("B13 acl", with_pax(&[("SCHILY.xattr.system.posix_acl_access", b"bad")]), Some("lsetxattr")),
            ("B12 overlay attributes", with_pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/x")]), None),
            ("B14 type", one(&[item(b'Z', "z")]), Some("unknown type")),
            ("B16 uid", with_pax(&[("uid", b"4294967296")]), Some("out of range")),
            ("B19 sparse", with_pax(&[("GNU.sparse.major", b"1")]), Some("sparse")),
            ("B20 long", with_pax(&[("comment", &many)]), Some("extended header")),
            ("B21 component", one(&[file(&long, "x")]), Some("ENAMETOOLONG")),
            ("B21 path", one(&[file(&deep, "x")]), Some("name too long")),
            ("B21 path behind links", behind(&format!("s/{}x", wide.repeat(11))), Some("its path without links has")),
            ("B21 links behind links", behind("s/s/s/x"), Some("the links up to there have 6030 bytes")),
            ("B21 links that are not too long", behind("s/s/x"), None),
            ("B23 odd names", one(&[file("a\nb\x1b[31m", "x")]), None),
            ("parent is a file", one(&[file("f", "x"), file("f/g", "x")]), Some("ENOTDIR")),
            ("device range", one(&[Item { device: (4096, 0), ..item(b'3', "c") }]), Some("out of range")),
        ]
    });
}

/// The twin of the cases above without their protection: it must change the canary, or they could not fail.
#[test]
fn joined_paths_would_have_left_the_layer() {
    let bench = Bench::new();
    let layer = bench.path(0);
    fs::create_dir(&layer).unwrap();
    symlink(bench.victim(), layer.join("a")).unwrap();
    fs::write(layer.join("a/file"), "x").unwrap();
    assert_ne!(snapshot(&bench.victim()), bench.before);
}

#[test]
fn parents_that_are_links_are_followed_inside_the_root() {
    if !root() {
        return;
    }
    let mut bench = Bench::new();
    let base = [
        item(b'5', "usr"),
        Item { mode: 0o1777, owner: (7, 8), ..item(b'5', "usr/lib") },
        link(b'2', "lib", "/usr/lib"),
    ];
    let first = bench.add(&tar_of(&[&base[..], &[file("lib/a", "1")]].concat_items())).unwrap();
    assert_eq!(fs::read_to_string(first.join("usr/lib/a")).unwrap(), "1");
    let second = bench.add(&tar_of(&[file("lib/b", "2")])).unwrap();
    assert!(!second.join("lib").exists(), "the link below still leads there");
    let made = fs::metadata(second.join("usr/lib")).unwrap();
    assert_eq!((made.mode() & 0o7777, made.uid(), made.gid()), (0o1777, 7, 8), "as below, not as umask has it");
    assert_eq!(made.mtime(), 1_000_000);
    let third = bench.add(&tar_of(&[item(b'0', "lib/.wh.b"), item(b'0', "usr/lib/.wh.absent")])).unwrap();
    assert!(is_whiteout(&third.join("usr/lib/b")));
    assert!(!third.join("usr/lib/absent").exists(), "nothing below: no device that readdir would show");
}

trait ConcatItems<'a> {
    fn concat_items(self) -> Vec<Item<'a>>;
}

impl<'a, const N: usize> ConcatItems<'a> for [&[Item<'a>]; N] {
    fn concat_items(self) -> Vec<Item<'a>> {
        self.iter().flat_map(|list| list.iter()).map(|i| Item { ..*i }).collect()
    }
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}

fn opaque(dir: &Path) -> bool {
    let fd = File::open(dir).unwrap();
    lgetxattrat(fd.as_fd(), OsStr::new("."), OsStr::new(OPAQUE)).unwrap().as_deref() == Some(b"y")
}

#[test]
fn whiteouts_become_overlayfs_own() {
    if !root() {
        return;
    }
    let mut bench = Bench::new();
    let base = [
        item(b'5', "d"),
        file("d/x", "1"),
        item(b'5', "e"),
        file("e/x", "1"),
        item(b'5', "f"),
        file("f/x", "1"),
        file("g", "1"),
    ];
    let first = bench.add(&tar_of(&[&base[..], &[item(b'0', ".wh.g")]].concat_items())).unwrap();
    assert!(first.join("g").is_file(), "a whiteout does not hide its own layer's file");
    let top = [
        item(b'0', ".wh.g"),
        item(b'0', "d/.wh..wh..opq"),
        file("d/y", "2"),
        // Removed and made again, whiteout first and last.
        item(b'0', ".wh.e"),
        item(b'5', "e"),
        file("f/y", "2"),
        item(b'0', ".wh.f"),
    ];
    let second = bench.add(&tar_of(&top)).unwrap();
    assert!(is_whiteout(&second.join("g")));
    for dir in ["d", "e", "f"] {
        assert!(opaque(&second.join(dir)), "{dir}");
    }
    assert!(second.join("d/y").is_file() && second.join("f/y").is_file());
    let third = bench.add(&tar_of(&[item(b'0', ".wh..wh..opq"), file("e/z", "3")])).unwrap();
    let mut here = names(File::open(&third).unwrap().as_fd()).unwrap();
    here.sort();
    assert_eq!(here, ["d", "e", "f"], "what the root showed is hidden, and g was hidden before");
    assert!(is_whiteout(&third.join("d")) && opaque(&third.join("e")) && is_whiteout(&third.join("f")));
}

#[test]
fn attributes_of_every_kind_of_file_arrive() {
    if !root() {
        return;
    }
    let mut bench = Bench::new();
    // VFS_CAP_REVISION_2, cap_net_raw.
    let capability: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let records: [(&str, &[u8]); 5] = [
        ("SCHILY.xattr.security.capability", &capability),
        ("SCHILY.xattr.security.selinux", b"x"),
        ("SCHILY.xattr.trusted.overlay.metacopy", b""),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("mtime", b"5.000000007"),
    ];
    let head = [pax(&records), Item { mode: 0o6755, owner: (1000, 4294967294), ..file("suid", "x") }.bytes()].concat();
    let rest = tar_of(&[
        link(b'1', "hard", "suid"),
        Item { owner: (5, 6), ..link(b'2', "soft", "nowhere") },
        Item { device: (1, 3), mode: 0o666, ..item(b'3', "null") },
        Item { device: (7, 0), ..item(b'4', "loop") },
        item(b'6', "fifo"),
        Item { mode: 0o1777, ..item(b'5', "d") },
        file("d/inside", "x"),
    ]);
    let layer = bench.add(&[head, rest].concat()).unwrap();
    let stat = |name: &str| fs::symlink_metadata(layer.join(name)).unwrap();
    let suid = stat("suid");
    assert_eq!((suid.mode() & 0o7777, suid.uid(), suid.gid(), suid.nlink()), (0o6755, 1000, 4294967294, 2));
    assert_eq!((suid.mtime(), suid.mtime_nsec()), (5, 7));
    assert_eq!(stat("hard").ino(), suid.ino());
    assert_eq!((stat("soft").uid(), stat("soft").mtime()), (5, 1_000_000));
    assert_eq!((stat("null").rdev(), stat("null").mode() & 0o777), (nix::sys::stat::makedev(1, 3), 0o666));
    assert!(stat("loop").file_type().is_block_device() && stat("fifo").file_type().is_fifo());
    assert_eq!((stat("d").mode() & 0o7777, stat("d").mtime()), (0o1777, 1_000_000), "set after what is inside");
    assert_eq!((stat(".").mode() & 0o7777, stat(".").mtime()), (0o755, 0));
    let fd = File::open(&layer).unwrap();
    let attribute = |name: &str| lgetxattrat(fd.as_fd(), OsStr::new("suid"), OsStr::new(name)).unwrap();
    assert_eq!(attribute("security.capability").as_deref(), Some(&capability[..]));
    for name in ["security.selinux", "trusted.overlay.metacopy", "user.overlay.opaque"] {
        assert_ne!(attribute(name).as_deref(), Some(&b"x"[..]), "{name}");
        assert_ne!(attribute(name).as_deref(), Some(&b"y"[..]), "{name}");
    }
}

#[test]
fn depth_and_number_cost_linear_time() {
    if !root() {
        return;
    }
    let start = Instant::now();
    let mut bench = Bench::new();
    let mut items = Vec::new();
    let paths: Vec<String> = (1..=1500).map(|depth| "d/".repeat(depth)).collect();
    paths.iter().for_each(|p| items.push(item(b'5', p)));
    bench.add(&tar_of(&items)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "1500 deep took {:?}", start.elapsed());
    super::session::remove_path(bench.dir.path(), OsStr::new("layer0")).unwrap();
    assert!(!bench.path(0).exists());
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn packing_is_by_label_and_verified() {
    if !root() {
        return;
    }
    let tar = tar_of(&[file("f", "x")]);
    let diff_id = Digest::of(&tar);
    let zipped = gzip(&tar);
    let half = tar.len() / 2;
    let members = [gzip(&tar[..half]), gzip(&tar[half..])].concat();
    let zstd = zstd::encode_all(&tar[..], 1).unwrap();
    let mut bad_crc = zipped.clone();
    let at = bad_crc.len() - 6;
    bad_crc[at] ^= 1;
    let other = tar_of(&[file("g", "x")]);
    let bomb = gzip(&vec![0; 32 << 20]);
    let cases: Vec<(&str, Vec<u8>, Compression, Option<&str>)> = vec![
        ("plain", tar.clone(), Compression::Plain, None),
        ("gzip", zipped.clone(), Compression::Gzip, None),
        ("gzip in two members", members, Compression::Gzip, None),
        ("zstd", zstd.clone(), Compression::Zstd, None),
        ("gzip labelled plain", zipped.clone(), Compression::Plain, Some("labelled Plain")),
        ("plain labelled gzip", tar.clone(), Compression::Gzip, Some("labelled Gzip")),
        ("zstd labelled gzip", zstd.clone(), Compression::Gzip, Some("labelled Gzip")),
        ("gzip with junk", [zipped.clone(), b"junk".to_vec()].concat(), Compression::Gzip, Some("")),
        ("zstd with junk", [zstd.clone(), b"junkjunk".to_vec()].concat(), Compression::Zstd, Some("")),
        ("bad checksum", bad_crc, Compression::Gzip, Some("")),
        ("gzip cut", zipped[..zipped.len() - 9].to_vec(), Compression::Gzip, Some("")),
        ("zstd cut", zstd[..zstd.len() - 3].to_vec(), Compression::Zstd, Some("")),
        ("other content", other, Compression::Plain, Some("image's config says")),
        ("empty", Vec::new(), Compression::Gzip, Some("labelled Gzip")),
        ("bomb", bomb, Compression::Gzip, Some("more than the limit")),
    ];
    for (name, bytes, label, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let root = OwnedFd::from(File::open(dir.path()).unwrap());
        let limits = Limits { entries: 10, bytes: 1 << 20 };
        let result =
            layer::unpack(&bytes[..], label, Target { root, below: &Below::default(), diff_id: &diff_id, limits });
        match (result, expected) {
            (Ok(()), None) => {}
            (Err(e), Some(part)) => assert!(format!("{e:#}").contains(part), "{name}: {e:#}"),
            (Ok(()), Some(_)) => panic!("{name} was accepted"),
            (Err(e), None) => panic!("{name} was refused: {e:#}"),
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let root = OwnedFd::from(File::open(dir.path()).unwrap());
    let many = tar_of(&[file("a", ""), file("b", "")]);
    let limits = Limits { entries: 1, bytes: 1 << 20 };
    let target = Target { root, below: &Below::default(), diff_id: &Digest::of(&many), limits };
    assert!(
        format!("{:#}", layer::unpack(&many[..], Compression::Plain, target).unwrap_err())
            .contains("more than 1 entries")
    );
}

/// What the kernel makes of it, mounted read-only in a mount namespace of its own: nothing deleted shows, not even as a
/// device in a listing, and what was made again is empty but for what is new.
#[test]
fn overlayfs_merges_the_layers_as_one_tree() {
    if !root() {
        return;
    }
    let mut bench = Bench::new();
    let base = [item(b'5', "d"), file("d/old", "1"), file("gone", "1"), file("only/whiteout", "1"), item(b'5', "keep")];
    bench.add(&tar_of(&base)).unwrap();
    bench
        .add(&tar_of(&[
            item(b'0', ".wh.gone"),
            item(b'0', ".wh.never"),
            item(b'0', "new/.wh.never"),
            file("new/f", "2"),
        ]))
        .unwrap();
    bench.add(&tar_of(&[item(b'0', ".wh.d"), file("d/fresh", "3"), item(b'0', "only/.wh.whiteout")])).unwrap();
    let list = || -> String {
        let lower: Vec<String> = (0..bench.count).rev().map(|i| bench.path(i).display().to_string()).collect();
        let script = format!(
            "mkdir {0}/m && mount -t overlay none -o ro,lowerdir={1} {0}/m && cd {0}/m && find . -mindepth 1 | sort && umount -l {0}/m",
            bench.dir.path().display(),
            lower.join(":")
        );
        let output = std::process::Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(list(), "./d\n./d/fresh\n./keep\n./new\n./new/f\n./only\n");
}
