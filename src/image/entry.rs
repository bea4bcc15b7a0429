//! A tar stream, entry by entry, read defensively.
//!
//! Own parser: `tar::Archive::entries()` reads PAX and GNU long-name headers of any size into memory, applies a PAX owner
//! without a range check and expands GNU sparse maps. Formats: POSIX.1-2017 pax, GNU tar manual ("Basic Tar Format"). Where
//! archives are ambiguous this reads as Go's archive/tar does, since images are made and checked with it.

use anyhow::{Context, Result, bail, ensure};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

const BLOCK: u64 = 512;
/// The largest PAX or GNU long-name header, in bytes.
pub const MAX_HEADER: u64 = 1 << 20;
/// How many such headers one entry may have.
const MAX_HEADERS: u32 = 8;
/// Latest time that fits in 64-bit nanoseconds (year 2262); later ones are clamped, as containerd does.
const MAX_SECONDS: i64 = i64::MAX / 1_000_000_000;

/// What kind of file an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// Another name of a file in this archive.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// A point in time, in seconds and nanoseconds since 1970, clamped to 1970…2262.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds, below 1 000 000 000.
    pub nanoseconds: i64,
}

impl Time {
    fn clamped(seconds: i64, nanoseconds: i64) -> Time {
        match seconds {
            ..0 => Time::default(),
            s if s >= MAX_SECONDS => Time { seconds: MAX_SECONDS, nanoseconds: 0 },
            _ => Time { seconds, nanoseconds },
        }
    }
}

/// One entry's header.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its path as stored: any bytes but NUL.
    pub name: OsString,
    /// What it makes.
    pub kind: EntryKind,
    /// Permission bits with set-id and sticky.
    pub mode: u32,
    /// Owner, never 4294967295 (which chown(2) takes for "unchanged").
    pub uid: u32,
    /// Group, with the same range.
    pub gid: u32,
    /// Modification time.
    pub mtime: Time,
    /// Target of a link.
    pub link: OsString,
    /// Bytes that follow (regular files only).
    pub size: u64,
    /// Device number: major, minor.
    pub device: (u64, u64),
    /// Extended attributes as stored.
    pub xattrs: Vec<(OsString, Vec<u8>)>,
}

/// Reads entries from a tar stream.
pub struct Entries<R> {
    inner: R,
    /// Bytes of the current entry's body not yet read, and the padding after it.
    body: u64,
    padding: u64,
    ended: bool,
}

/// What PAX and GNU headers say about the next entry.
#[derive(Default)]
struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Time>,
    xattrs: Vec<(OsString, Vec<u8>)>,
    /// GNU long names give way to PAX ones, whichever comes first.
    gnu_path: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
}

impl<R: Read> Entries<R> {
    /// Starts at the first header of `inner`.
    pub fn new(inner: R) -> Self {
        Entries { inner, body: 0, padding: 0, ended: false }
    }

    /// The next entry, or `None` at the end of the archive, beyond which only zeros may follow.
    ///
    /// What is left of the previous entry's body is skipped.
    pub fn advance(&mut self) -> Result<Option<Entry>> {
        self.skip_body()?;
        let mut overrides = Overrides::default();
        for _ in 0..=MAX_HEADERS {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let kind = header[156];
            if !matches!(kind, b'x' | b'g' | b'L' | b'K') {
                return self.entry(&header, overrides).map(Some);
            }
            let size = number(&header[124..136]).context("size of an extended header")?;
            ensure!(
                (0..=MAX_HEADER as i128).contains(&size),
                "an extended header of {size} bytes (limit {MAX_HEADER})"
            );
            self.set_body(size as u64);
            let mut data = vec![0; size as usize];
            self.inner.read_exact(&mut data).map_err(truncated)?;
            self.body = 0;
            self.skip_body()?;
            match kind {
                b'x' => overrides.pax(&data)?,
                // A name for every later entry makes no sense, and tools differ on it: global headers are ignored.
                b'g' => {}
                b'L' => overrides.gnu_path = Some(until_nul(&data).to_vec()),
                _ => overrides.gnu_link = Some(until_nul(&data).to_vec()),
            }
        }
        bail!("more than {MAX_HEADERS} extended headers before one entry")
    }

    /// The body of the current entry.
    pub fn body(&mut self) -> Body<'_, R> {
        Body(self)
    }

    fn set_body(&mut self, size: u64) {
        self.body = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
    }

    fn skip_body(&mut self) -> Result<()> {
        let rest = self.body.saturating_add(self.padding);
        let skipped = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())?;
        ensure!(skipped == rest, "the archive is truncated");
        (self.body, self.padding) = (0, 0);
        Ok(())
    }

    /// The next header block with a valid checksum, or `None` at the end.
    fn header(&mut self) -> Result<Option<[u8; BLOCK as usize]>> {
        if self.ended {
            return Ok(None);
        }
        let mut block = [0; BLOCK as usize];
        if !self.block(&mut block)? {
            self.ended = true;
            return Ok(None);
        }
        if block.iter().all(|&b| b == 0) {
            self.ended = true;
            self.only_zeros()?;
            return Ok(None);
        }
        let stored = number(&block[148..156]).context("checksum field")?;
        let sum = |read: fn(u8) -> i128| -> i128 {
            let field = 148..156;
            block.iter().enumerate().map(|(i, &b)| if field.contains(&i) { 32 } else { read(b) }).sum()
        };
        // Old tars summed signed bytes.
        ensure!(
            stored == sum(|b| b.into()) || stored == sum(|b| (b as i8).into()),
            "a header's checksum is wrong: not a tar archive, or damaged"
        );
        Ok(Some(block))
    }

    /// Reads one block; false at a clean end of file.
    fn block(&mut self, block: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while filled < block.len() {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => bail!("the archive is truncated"),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(true)
    }

    fn only_zeros(&mut self) -> Result<()> {
        let mut buffer = [0; 8192];
        loop {
            let n = match self.inner.read(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            if n == 0 {
                return Ok(());
            }
            ensure!(buffer[..n].iter().all(|&b| b == 0), "data follow the end of the archive");
        }
    }

    fn entry(&mut self, header: &[u8; BLOCK as usize], over: Overrides) -> Result<Entry> {
        let name = over.path.or(over.gnu_path).unwrap_or_else(|| stored_path(header));
        let shown = OsStr::from_bytes(&name).to_owned();
        let at = || format!("entry {:?}", shown.to_string_lossy());
        ensure!(!name.contains(&0), "{}: a NUL byte in its name", at());
        let kind = match header[156] {
            // The 1979 format knows directories by the slash at the end.
            0 if name.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::Character,
            b'4' => EntryKind::Block,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            b'S' => bail!("{}: sparse files are not supported", at()),
            other => bail!("{}: unknown type {:?}", at(), char::from(other)),
        };
        let size = match over.size {
            Some(size) => i128::from(size),
            None => number(&header[124..136]).with_context(at)?,
        };
        ensure!((0..i128::from(i64::MAX)).contains(&size), "{}: size {size} is out of range", at());
        // As in Go, only regular files have a body, whatever the size field of others says.
        let size = if kind == EntryKind::File { size as u64 } else { 0 };
        self.set_body(size);
        let link = over.link.or(over.gnu_link).unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
        ensure!(!link.contains(&0), "{}: a NUL byte in its link target", at());
        let device = match kind {
            EntryKind::Character | EntryKind::Block => (
                range(&header[329..337], 0xfff).with_context(at)?,
                range(&header[337..345], 0xf_ffff).with_context(at)?,
            ),
            _ => (0, 0),
        };
        let owner = |pax: Option<u32>, field: &[u8]| match pax {
            Some(id) => Ok(id),
            None => owner_id(number(field)?),
        };
        Ok(Entry {
            kind,
            mode: (number(&header[100..108]).with_context(at)? & 0o7777) as u32,
            uid: owner(over.uid, &header[108..116]).with_context(at)?,
            gid: owner(over.gid, &header[116..124]).with_context(at)?,
            mtime: match over.mtime {
                Some(time) => time,
                None => Time::clamped(clamp(number(&header[136..148]).with_context(at)?), 0),
            },
            name: OsString::from_vec(name),
            link: OsString::from_vec(link),
            size,
            device,
            xattrs: over.xattrs,
        })
    }
}

/// Reads the body of the current entry, and no more.
pub struct Body<'a, R>(&'a mut Entries<R>);

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.0.body).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let n = self.0.inner.read(&mut buffer[..most])?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is truncated"));
        }
        self.0.body -= n as u64;
        Ok(n)
    }
}

impl Overrides {
    /// Records of `"%d %s=%s\n"`: length of the whole record, key, value (which may contain newlines).
    fn pax(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let record = (|| {
                let space = data.iter().position(|&b| b == b' ')?;
                let length: usize = std::str::from_utf8(&data[..space]).ok()?.parse().ok()?;
                let body = data.get(space + 1..length)?.strip_suffix(b"\n")?;
                let equals = body.iter().position(|&b| b == b'=')?;
                Some((length, &body[..equals], &body[equals + 1..]))
            })();
            let Some((length, key, value)) = record else { bail!("a malformed PAX header") };
            self.record(key, value)?;
            data = &data[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let text = || std::str::from_utf8(value).ok();
        let bad = || format!("PAX {} is {:?}", key.escape_ascii(), String::from_utf8_lossy(value));
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.push((OsString::from_vec(name.to_vec()), value.to_vec()));
            return Ok(());
        }
        if value.is_empty() {
            return Ok(());
        }
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(text().and_then(digits).with_context(bad)?),
            b"uid" => self.uid = Some(owner_id(text().and_then(digits).with_context(bad)?.into()).with_context(bad)?),
            b"gid" => self.gid = Some(owner_id(text().and_then(digits).with_context(bad)?.into()).with_context(bad)?),
            b"mtime" => self.mtime = Some(text().and_then(decimal_time).with_context(bad)?),
            _ if key.starts_with(b"GNU.sparse.") => bail!("sparse files are not supported"),
            _ => {}
        }
        Ok(())
    }
}

/// Digits only: `u64::from_str` would also take a plus sign.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// `[-]seconds[.fraction]`
fn decimal_time(text: &str) -> Option<Time> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let unsigned = seconds.strip_prefix('-').unwrap_or(seconds);
    if unsigned.is_empty() || !all_digits(unsigned) || !all_digits(fraction) {
        return None;
    }
    if seconds.starts_with('-') {
        return Some(Time::default());
    }
    let nanoseconds = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = nanoseconds.fold(0, |n, digit| n * 10 + i64::from(digit - b'0'));
    Some(Time::clamped(unsigned.parse().unwrap_or(i64::MAX), nanoseconds))
}

/// CVE class of containerd 00f0004be: an ID beyond 32 bits must not wrap round to root.
fn owner_id(id: i128) -> Result<u32> {
    match u32::try_from(id) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => bail!("owner {id} is out of range"),
    }
}

fn range(field: &[u8], most: i128) -> Result<u64> {
    let value = number(field)?;
    ensure!((0..=most).contains(&value), "device number {value} is out of range");
    Ok(value as u64)
}

fn clamp(value: i128) -> i64 {
    value.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// A numeric field: octal digits, or big-endian two's complement if the first bit is set (GNU).
fn number(field: &[u8]) -> Result<i128> {
    if field[0] & 0x80 != 0 {
        let first = if field[0] & 0x40 != 0 { i128::from(field[0] as i8) } else { i128::from(field[0] & 0x3f) };
        return Ok(field[1..].iter().fold(first, |n, &b| (n << 8) | i128::from(b)));
    }
    let text = until_nul(field).trim_ascii();
    if text.is_empty() {
        return Ok(0);
    }
    ensure!(
        text.iter().all(|b| matches!(b, b'0'..=b'7')),
        "{:?} is not an octal number",
        String::from_utf8_lossy(text)
    );
    Ok(text.iter().fold(0, |n, b| n * 8 + i128::from(b - b'0')))
}

fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|&b| b == 0).unwrap_or(field.len())]
}

/// Name field with, in ustar archives (not GNU's), the prefix before it.
fn stored_path(header: &[u8; BLOCK as usize]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    let prefix = if &header[257..263] == b"ustar\0" { until_nul(&header[345..500]) } else { b"" };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn truncated(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => anyhow::anyhow!("the archive is truncated"),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(header: &mut tar::Header, data: &[u8]) -> Vec<u8> {
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().div_ceil(512) * 512, 0);
        bytes
    }

    fn file(name: &str, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(1);
        header.set_gid(2);
        header.set_mtime(3);
        header
    }

    fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions(records.iter().copied()).unwrap();
        let mut bytes = builder.into_inner().unwrap();
        bytes.truncate(bytes.len() - 1024);
        bytes
    }

    fn raw(kind: u8, data: &[u8]) -> Vec<u8> {
        let mut header = file("meta", data.len() as u64);
        header.set_entry_type(tar::EntryType::new(kind));
        one(&mut header, data)
    }

    fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
        let mut entries = Entries::new(bytes);
        let mut list = Vec::new();
        while let Some(entry) = entries.advance()? {
            let mut body = Vec::new();
            entries.body().read_to_end(&mut body)?;
            list.push((entry, body));
        }
        Ok(list)
    }

    #[test]
    fn headers_override_in_the_right_order() {
        let records: [(&str, &[u8]); 5] = [
            ("path", b"long\n\xffname"),
            ("uid", b"4294967294"),
            ("mtime", b"7.25"),
            ("SCHILY.xattr.user.a", b"x\ny"),
            ("comment", b"ignored"),
        ];
        let bytes = [pax(&records), raw(b'L', b"gnu\0"), one(&mut file("short", 3), b"abc"), vec![0; 1024]].concat();
        let list = read(&bytes).unwrap();
        let (entry, body) = &list[0];
        assert_eq!((entry.name.as_bytes(), body.as_slice()), (&b"long\n\xffname"[..], &b"abc"[..]));
        assert_eq!((entry.uid, entry.gid), (4294967294, 2));
        assert_eq!(entry.mtime, Time { seconds: 7, nanoseconds: 250_000_000 });
        assert_eq!(entry.xattrs, [("user.a".into(), b"x\ny".to_vec())]);
    }

    #[test]
    fn a_pax_size_replaces_the_header_s() {
        let bytes = [pax(&[("size", b"3")]), one(&mut file("f", 0), b"abc"), one(&mut file("g", 0), b"")].concat();
        let list = read(&bytes).unwrap();
        assert_eq!((list.len(), list[0].1.as_slice()), (2, &b"abc"[..]));
    }

    #[test]
    fn times_are_clamped() {
        for (text, seconds) in [
            ("100000000000000000", MAX_SECONDS),
            ("-100000000000000000", 0),
            ("-0.5", 0),
            ("9".repeat(40).as_str(), MAX_SECONDS),
        ] {
            let list = read(&[pax(&[("mtime", text.as_bytes())]), one(&mut file("f", 0), b"")].concat()).unwrap();
            assert_eq!(list[0].0.mtime.seconds, seconds, "{text}");
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        let plain = one(&mut file("f", 3), b"abc");
        let mut bad_sum = plain.clone();
        bad_sum[0] ^= 1;
        let sized = |field: [u8; 12]| {
            let mut header = file("f", 0);
            header.as_old_mut().size = field;
            one(&mut header, b"")
        };
        let mut minus = [0xff; 12];
        let owner = |bytes: [u8; 8]| {
            let mut header = file("f", 0);
            header.as_old_mut().uid = bytes;
            one(&mut header, b"")
        };
        let after = |meta: Vec<u8>| [meta, plain.clone()].concat();
        let cases: Vec<(&str, Vec<u8>, &str)> = vec![
            ("truncated header", plain[..100].to_vec(), "truncated"),
            ("truncated body", plain[..513].to_vec(), "truncated"),
            ("checksum", bad_sum, "checksum"),
            ("negative size", sized(minus), "out of range"),
            ("size 2^63-1", after(pax(&[("size", b"9223372036854775807")])), "out of range"),
            ("size 2^64", after(pax(&[("size", b"18446744073709551616")])), "PAX size"),
            ("size -1", after(pax(&[("size", b"-1")])), "PAX size"),
            ("uid 2^32", after(pax(&[("uid", b"4294967296")])), "out of range"),
            ("gid 2^32-1", after(pax(&[("gid", b"4294967295")])), "out of range"),
            ("uid -1", after(pax(&[("uid", b"-1")])), "PAX uid"),
            ("uid +1", after(pax(&[("uid", b"+1")])), "PAX uid"),
            ("base-256 uid 2^32", owner([0x80, 0, 0, 1, 0, 0, 0, 0]), "out of range"),
            ("base-256 uid -1", owner([0xff; 8]), "out of range"),
            ("mtime", after(pax(&[("mtime", b"x")])), "PAX mtime"),
            ("NUL in path", after(pax(&[("path", b"a\0b")])), "NUL"),
            ("NUL in link", after(pax(&[("linkpath", b"a\0b")])), "NUL"),
            ("bad pax length", after(raw(b'x', b"99 path=a\n")), "malformed PAX"),
            ("pax length 0", after(raw(b'x', b"0 path=a\n")), "malformed PAX"),
            ("long pax", after(raw(b'x', &vec![b'1'; (1 << 20) + 1])), "extended header of"),
            ("long name", after(raw(b'L', &vec![b'a'; (1 << 20) + 1])), "extended header of"),
            ("endless headers", after(raw(b'L', b"a\0").repeat(10)), "more than 8 extended headers"),
            ("gnu sparse", raw(b'S', b""), "sparse"),
            ("pax sparse", after(pax(&[("GNU.sparse.major", b"1")])), "sparse"),
            ("unknown type", raw(b'Z', b""), "unknown type"),
            ("junk behind the end", [vec![0; 1024], b"junk".to_vec()].concat(), "data follow"),
            ("not a tar", b"#!/bin/sh\n".repeat(100), "octal"),
        ];
        for (name, bytes, part) in cases {
            let error = read(&bytes).map(|_| panic!("{name} was accepted")).unwrap_err();
            assert!(format!("{error:#}").contains(part), "{name}: {error:#}");
        }
        minus[0] = 0x80;
        assert!(read(&sized(minus)).is_err(), "2^88 bytes");
        let global = [raw(b'g', b"12 path=all\n"), plain.clone(), plain].concat();
        assert!(read(&global).unwrap().iter().all(|(e, _)| e.name == "f"), "global headers name nothing");
    }
}
