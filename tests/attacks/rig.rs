//! A host with a canary, and images as an attacker makes them.

use crate::harness::{FACTS, Host, Output, pod};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The image of a shell and its tools.
pub(crate) const BUSYBOX: &str = "docker.io/library/busybox";

/// How long podshim may take to refuse something.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// What podshim may take of memory for any of this, in KiB: RLIMIT_DATA, which is its heap and stacks (setrlimit(2)).
const MEMORY: &str = "65536";

/// How often a race is run.
pub(crate) fn rounds() -> u32 {
    let asked = std::env::var("PODSHIM_ATTACK_ROUNDS").ok();
    asked.map_or(20, |text| text.parse().expect("PODSHIM_ATTACK_ROUNDS is not a number"))
}

/// Every file below `dir`: what it is, whose, and what is in it.
pub(crate) fn snapshot(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let m = std::fs::symlink_metadata(&path).unwrap();
        let content = if m.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        let (content, target) = (String::from_utf8_lossy(&content), std::fs::read_link(&path).unwrap_or_default());
        lines.push(format!("{path:?} {:o} {}:{} {} {content} {target:?}", m.mode(), m.uid(), m.gid(), m.nlink()));
        if m.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
    }
    lines.sort();
    lines
}

/// A directory that looks worth attacking.
pub(crate) fn make_victim(dir: &Path) {
    for sub in ["sub", "dev", "dir"] {
        std::fs::create_dir_all(dir.join(sub)).unwrap();
    }
    for file in ["file", "passwd", "hosts", "resolv.conf", "hostname", "dev/ptmx", "dev/keep", "sub/keep"] {
        std::fs::write(dir.join(file), "the host's own").unwrap();
    }
}

/// Where nothing may be mounted by whatever a test does.
const SYSTEM: [&str; 9] = ["/proc", "/sys", "/dev", "/etc", "/usr", "/bin", "/lib", "/root", "/boot"];

fn mounts() -> BTreeSet<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let targets = text.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned);
    targets
        .filter(|t| t == "/" || SYSTEM.iter().any(|s| Path::new(t).starts_with(s)) || t.contains("/victim"))
        .collect()
}

/// Knobs of the kernel that make it run a program, or change what all of it allows.
fn kernel() -> Vec<String> {
    let files = ["core_pattern", "modprobe", "hostname", "domainname", "randomize_va_space", "sysrq"];
    files.iter().map(|f| std::fs::read_to_string(format!("/proc/sys/kernel/{f}")).unwrap_or_default()).collect()
}

/// What changes when a file is written, replaced or only touched.
fn stamp(path: &Path) -> [i64; 5] {
    let m = std::fs::metadata(path).unwrap();
    [m.ino() as i64, m.size() as i64, m.mtime(), m.mtime_nsec(), i64::from(m.mode())]
}

/// The host before.
struct Before {
    victim: Vec<String>,
    mounts: BTreeSet<String>,
    kernel: Vec<String>,
    stamp: [i64; 5],
    binary: (PathBuf, Vec<u8>),
}

/// One test's host. Dropped, it proves that the canary lives.
pub(crate) struct Bench {
    pub(crate) host: Host,
    before: Before,
}

impl Bench {
    /// With the images of all tests; nothing can be imported.
    pub(crate) fn new() -> Option<Bench> {
        Host::new(&[]).map(Bench::on)
    }

    /// Without images.
    pub(crate) fn bare() -> Option<Bench> {
        Host::bare(&[]).map(Bench::on)
    }

    fn on(host: Host) -> Bench {
        let victim = host.path("victim");
        make_victim(&victim);
        let program = PathBuf::from(host.command(&[] as &[&str]).get_program());
        let content = std::fs::read(&program).unwrap();
        let stamp = stamp(&program);
        let before =
            Before { stamp, victim: snapshot(&victim), mounts: mounts(), kernel: kernel(), binary: (program, content) };
        Bench { host, before }
    }

    /// The canary's path, as an attacker who knows it writes it.
    pub(crate) fn victim(&self) -> String {
        self.host.path("victim").to_str().unwrap().to_owned()
    }

    /// A path that goes up to the root first.
    pub(crate) fn up(&self) -> String {
        format!("{}{}", "../".repeat(12), self.victim().trim_start_matches('/'))
    }

    /// Imports one of the images with further files and another config.
    #[track_caller]
    pub(crate) fn image(&self, (base, name): (&str, &str), change: &Value, files: &[Vec<u8>]) {
        self.import((base, name), change, &[tar_of(files)]).expect(0);
    }

    /// As [`Bench::image`], with whole layers; it may be refused.
    #[track_caller]
    pub(crate) fn import(&self, (base, name): (&str, &str), change: &Value, tars: &[Vec<u8>]) -> Output {
        let layout = self.host.changed_image((base, name), change, tars);
        self.run(&["image", "import", &layout])
    }

    /// Runs podshim, which must come to its end soon and with little memory.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let program = self.host.command(&[] as &[&str]).get_program().to_str().unwrap().to_owned();
        let limited = format!("ulimit -d {MEMORY} && exec \"$0\" \"$@\"");
        let before = Instant::now();
        let output = self.host.finish(self.host.command_by(&["sh", "-c", &limited, &program], args));
        assert!(before.elapsed() < SOON, "{args:?} took {:?}", before.elapsed());
        assert_plain(&format!("{args:?}"), &output);
        output
    }

    /// A pod whose container is as given, which must be refused soon, with these words: what was said.
    #[track_caller]
    pub(crate) fn refused(&self, name: &str, container: Value, words: &[&str]) -> Output {
        self.refused_pod(name, json!({ "containers": [container] }), words)
    }

    /// As [`Bench::refused`], of a whole pod.
    #[track_caller]
    pub(crate) fn refused_pod(&self, name: &str, spec: Value, words: &[&str]) -> Output {
        let output = self.run(&["run", "-d", &self.host.manifest(&pod(name, spec))]);
        assert!([125, 126, 127].contains(&output.code), "{name}: {output:?}");
        let output = output.says(words);
        assert_eq!(self.host.ok(&["ps", "-q"]), "", "{name}: nothing of it is left");
        self.assert_unharmed(name);
        output
    }

    /// Fails if anything of the host changed.
    #[track_caller]
    pub(crate) fn assert_unharmed(&self, what: &str) {
        assert_eq!(snapshot(&self.host.path("victim")), self.before.victim, "{what}: the canary changed");
        let new: Vec<_> = mounts().difference(&self.before.mounts).cloned().collect();
        assert!(new.is_empty(), "{what}: mounted on the host: {new:?}");
        assert_eq!(kernel(), self.before.kernel, "{what}: the kernel's settings changed");
        assert_eq!(stamp(&self.before.binary.0), self.before.stamp, "{what}: podshim's own program changed");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_unharmed("at the end");
            let (program, content) = &self.before.binary;
            assert!(std::fs::read(program).unwrap() == *content, "podshim's own program changed");
        }
    }
}

/// Neither a panic nor what a terminal would take for a command.
#[track_caller]
pub(crate) fn assert_plain(what: &str, output: &Output) {
    for text in [&output.out, &output.err] {
        assert!(!text.contains("panicked at") && !text.contains("RUST_BACKTRACE"), "{what}: {text}");
        let harmful = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
        assert!(harmful.is_none(), "{what}: {harmful:?} in {text:?}");
    }
    assert!(output.code == 0 || !output.err.trim().is_empty(), "{what}: an error without a word");
}

/// A container of an image.
pub(crate) fn of(image: &str, args: &[&str]) -> Value {
    let container = json!({ "name": "c", "image": image, "imagePullPolicy": "Never" });
    if args.is_empty() { container } else { crate::harness::with(container, json!({ "args": args })) }
}

/// A pod that ends once its containers do.
pub(crate) fn once(name: &str, containers: Value, volumes: Value) -> Value {
    pod(
        name,
        json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": containers, "volumes": volumes }),
    )
}

/// The bytes of facts(1), the program of [`FACTS`].
pub(crate) fn facts_program(bench: &Bench) -> Vec<u8> {
    bench.host.import(FACTS, "localhost/for-its-program", &json!({}));
    let layers = bench.host.path("root/layers");
    let found = std::fs::read_dir(layers).unwrap().flatten().find_map(|layer| {
        ["facts", "diff/facts", "fs/facts"].iter().map(|f| layer.path().join(f)).find(|p| p.is_file())
    });
    std::fs::read(found.expect("facts in one of the layers")).unwrap()
}

/// A tar entry, byte for byte as given: the tar crate's own setters refuse what is wanted here.
pub(crate) struct Entry<'a> {
    pub(crate) kind: u8,
    pub(crate) name: &'a str,
    pub(crate) link: &'a str,
    pub(crate) mode: u32,
    pub(crate) owner: u64,
    pub(crate) data: &'a [u8],
    pub(crate) device: (u32, u32),
    pub(crate) pax: &'a [(&'a str, &'a [u8])],
}

impl Entry<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(self.mode);
        header.set_uid(self.owner);
        header.set_gid(self.owner);
        header.set_mtime(1_000_000);
        header.set_size(self.data.len() as u64);
        header.set_entry_type(tar::EntryType::new(self.kind));
        header.set_device_major(self.device.0).unwrap();
        header.set_device_minor(self.device.1).unwrap();
        let old = header.as_old_mut();
        old.name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        old.linkname[..self.link.len()].copy_from_slice(self.link.as_bytes());
        header.set_cksum();
        let mut bytes = if self.pax.is_empty() { Vec::new() } else { pax(self.pax) };
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(self.data);
        bytes.resize(bytes.len().div_ceil(512) * 512, 0);
        bytes
    }
}

/// An extended header for the entry that follows.
pub(crate) fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions(records.iter().copied()).unwrap();
    let mut bytes = builder.into_inner().unwrap();
    bytes.truncate(bytes.len() - 1024);
    bytes
}

/// An entry without content of this kind.
pub(crate) fn entry(kind: u8, name: &str) -> Entry<'_> {
    let mode = if kind == b'5' { 0o755 } else { 0o644 };
    Entry { kind, name, link: "", mode, owner: 0, data: b"", device: (0, 0), pax: &[] }
}

/// A regular file.
pub(crate) fn file(name: &str, data: &[u8]) -> Vec<u8> {
    Entry { data, ..entry(b'0', name) }.bytes()
}

/// A symbolic link.
pub(crate) fn link(name: &str, target: &str) -> Vec<u8> {
    Entry { link: target, mode: 0o777, ..entry(b'2', name) }.bytes()
}

/// A whole tar.
pub(crate) fn tar_of(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}
