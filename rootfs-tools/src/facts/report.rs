//! What this process sees, as one JSON object. A fact that cannot be had is null, not missing.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::{env, fs, io, process};

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::sys;

/// Names and numbers of the resource limits (`getrlimit(2)`; the numbers are those of x86 and arm).
const RLIMITS: &[(&str, u32)] = &[
    ("cpu", 0),
    ("fsize", 1),
    ("data", 2),
    ("stack", 3),
    ("core", 4),
    ("rss", 5),
    ("nproc", 6),
    ("nofile", 7),
    ("memlock", 8),
    ("as", 9),
    ("locks", 10),
    ("sigpending", 11),
    ("msgqueue", 12),
    ("nice", 13),
    ("rtprio", 14),
    ("rttime", 15),
];

/// The report. `words` may ask for more: `--file=PATH`, `--list=DIR`, `--stat=PATH`, `--sysctl=NAME`.
pub(super) fn report(words: &[String]) -> Result<Value> {
    // First, before anything else is opened.
    let fds = fds();
    let (users, groups) = sys::ids();
    let (ppid, sid, pgid) = sys::relations();
    let [hostname, domainname, release] = sys::names()?;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| status_field(&status, name);
    let number = |name: &str| field(name).and_then(|v| v.parse::<i64>().ok());
    let asked = |prefix: &str, read: &dyn Fn(&str) -> Value| -> Value {
        let names = words.iter().filter_map(|w| w.strip_prefix(prefix));
        Value::Object(names.map(|name| (name.to_string(), read(name))).collect())
    };
    Ok(json!({
        "uid": users[0], "euid": users[1], "suid": users[2],
        "gid": groups[0], "egid": groups[1], "sgid": groups[2],
        "groups": sys::groups()?,
        "umask": format!("{:04o}", sys::umask()),
        "pid": process::id(), "ppid": ppid, "sid": sid, "pgid": pgid,
        "cwd": env::current_dir().ok(),
        "exe": fs::read_link("/proc/self/exe").ok(),
        "args": env::args_os().map(|a| text(a.as_bytes())).collect::<Vec<_>>(),
        "env": env::vars_os().map(|(k, v)| text(&[k.as_bytes(), b"=", v.as_bytes()].concat())).collect::<Vec<_>>(),
        "hostname": hostname, "domainname": domainname, "kernel": release,
        "caps": {
            "inheritable": field("CapInh"), "permitted": field("CapPrm"), "effective": field("CapEff"),
            "bounding": field("CapBnd"), "ambient": field("CapAmb"),
        },
        "no_new_privs": number("NoNewPrivs"),
        "seccomp": number("Seccomp"), "seccomp_filters": number("Seccomp_filters"),
        "signals": { "blocked": field("SigBlk"), "ignored": field("SigIgn"), "caught": field("SigCgt") },
        "threads": number("Threads"),
        "oom_score_adj": file("/proc/self/oom_score_adj").as_str().and_then(|v| v.trim().parse::<i64>().ok()),
        "rlimits": RLIMITS.iter().map(|(name, id)| (name.to_string(), rlimit(*id))).collect::<Map<_, _>>(),
        "namespaces": namespaces(),
        "uid_map": table("/proc/self/uid_map"), "gid_map": table("/proc/self/gid_map"),
        "mounts": mounts(),
        "fds": fds,
        "tty": [sys::is_terminal(0), sys::is_terminal(1), sys::is_terminal(2)],
        "cgroup": file("/proc/self/cgroup").as_str().map(|s| s.lines().map(str::to_string).collect::<Vec<_>>()),
        "lsm": file("/proc/self/attr/current").as_str().map(|s| s.trim_end_matches(['\n', '\0'])),
        "net": interfaces(),
        "dev": list("/dev"),
        "files": asked("--file=", &file),
        "lists": asked("--list=", &list),
        "stats": asked("--stat=", &|path| describe(Path::new(path))),
        "sysctls": asked("--sysctl=", &|name| {
            let value = file(&format!("/proc/sys/{}", name.replace('.', "/")));
            value.as_str().map_or(value.clone(), |v| json!(v.trim_end()))
        }),
    }))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A line of `/proc/self/status` (proc(5)).
fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The content of a file, or `{"error": …, "errno": …}`.
fn file(path: &str) -> Value {
    match fs::read(path) {
        Ok(bytes) => json!(text(&bytes)),
        Err(error) => failed(&error),
    }
}

fn failed(error: &io::Error) -> Value {
    json!({ "error": error.to_string(), "errno": error.raw_os_error() })
}

fn rlimit(number: u32) -> Value {
    let value = |n: u64| if n == libc::RLIM_INFINITY { json!("unlimited") } else { json!(n) };
    match sys::rlimit(number) {
        Ok((soft, hard)) => json!({ "soft": value(soft), "hard": value(hard) }),
        Err(error) => failed(&error),
    }
}

/// Kind → inode number, from links such as `mnt:[4026531841]` (namespaces(7)).
fn namespaces() -> Value {
    let Ok(entries) = fs::read_dir("/proc/self/ns") else { return Value::Null };
    let mut found: Vec<(String, Value)> = Vec::new();
    for entry in entries.flatten() {
        let link = fs::read_link(entry.path()).map(|l| l.display().to_string()).unwrap_or_default();
        let inode = link.split_once('[').and_then(|(_, n)| n.trim_end_matches(']').parse::<u64>().ok());
        found.push((entry.file_name().display().to_string(), json!(inode)));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Value::Object(found.into_iter().collect())
}

/// Rows of numbers.
fn table(path: &str) -> Value {
    let Ok(content) = fs::read_to_string(path) else { return Value::Null };
    let rows = content.lines().map(|l| l.split_whitespace().map(|n| json!(n.parse::<u64>().ok())).collect::<Vec<_>>());
    json!(rows.collect::<Vec<_>>())
}

/// The lines of `/proc/self/mountinfo` (proc(5)), parsed.
fn mounts() -> Value {
    let Ok(content) = fs::read_to_string("/proc/self/mountinfo") else { return Value::Null };
    json!(content.lines().filter_map(mount).collect::<Vec<_>>())
}

fn mount(line: &str) -> Option<Value> {
    let (head, tail) = line.split_once(" - ")?;
    let head: Vec<&str> = head.split(' ').collect();
    let tail: Vec<&str> = tail.split(' ').collect();
    let [id, parent, device, root, target, options, propagation @ ..] = head.as_slice() else { return None };
    let [fstype, source, super_options @ ..] = tail.as_slice() else { return None };
    Some(json!({
        "id": id.parse::<u64>().ok()?, "parent": parent.parse::<u64>().ok()?,
        "device": device, "root": unescape(root), "target": unescape(target),
        "options": options.split(',').collect::<Vec<_>>(), "propagation": propagation,
        "fstype": fstype, "source": unescape(source),
        "super_options": super_options.join(" ").split(',').map(str::to_string).collect::<Vec<_>>(),
    }))
}

/// Takes back the kernel's octal escapes of space, tab, newline and backslash (`\040`).
fn unescape(field: &str) -> String {
    let bytes = field.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let octal =
            bytes.get(at + 1..at + 4).filter(|d| bytes[at] == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        if let Some(digits) = octal {
            let value = digits.iter().fold(0_u32, |n, d| n * 8 + u32::from(d - b'0'));
            out.push(u8::try_from(value).unwrap_or(b'?'));
            at += 4;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    text(&out)
}

/// Open descriptors with what they lead to, without the one that this listing needs.
fn fds() -> Value {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Value::Null };
    let mut found: Vec<(u64, String)> = Vec::new();
    let own = format!("/proc/{}/fd", process::id());
    for entry in entries.flatten() {
        let Ok(number) = entry.file_name().display().to_string().parse() else { continue };
        let target = fs::read_link(entry.path()).map(|t| t.display().to_string()).unwrap_or_default();
        if target != own {
            found.push((number, target));
        }
    }
    found.sort();
    json!(found.into_iter().map(|(fd, target)| json!({ "fd": fd, "target": target })).collect::<Vec<_>>())
}

/// Interfaces by name: up or not, loopback or not, addresses with prefix length.
fn interfaces() -> Value {
    let mut found: Map<String, Value> = Map::new();
    // /proc/net/dev knows every interface, also one without addresses.
    let dev = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    for name in dev.lines().skip(2).filter_map(|l| l.split_once(':')) {
        found.insert(name.0.trim().to_string(), json!({ "addresses": [] }));
    }
    for (name, flags, address) in sys::addresses().unwrap_or_default() {
        let set = |bit: i32| flags & bit.cast_unsigned() != 0;
        let entry = found.entry(name).or_insert_with(|| json!({ "addresses": [] }));
        entry["up"] = json!(set(libc::IFF_UP));
        entry["loopback"] = json!(set(libc::IFF_LOOPBACK));
        if let (Some(address), Some(list)) = (address, entry["addresses"].as_array_mut()) {
            list.push(json!(address));
        }
    }
    Value::Object(found)
}

/// What is in a folder, sorted by name.
fn list(dir: &str) -> Value {
    match fs::read_dir(dir) {
        Err(error) => failed(&error),
        Ok(entries) => {
            let mut names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
            names.sort();
            Value::Object(names.iter().map(|n| (text(n.as_bytes()), describe(&Path::new(dir).join(n)))).collect())
        }
    }
}

/// What a path is, without following it.
fn describe(path: &Path) -> Value {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) => return failed(&error),
    };
    let kind = meta.file_type();
    let name = match () {
        () if kind.is_dir() => "directory",
        () if kind.is_symlink() => "symlink",
        () if kind.is_char_device() => "char",
        () if kind.is_block_device() => "block",
        () if kind.is_fifo() => "fifo",
        () if kind.is_socket() => "socket",
        () => "file",
    };
    let mut described = json!({
        "type": name, "mode": format!("{:04o}", meta.mode() & 0o7777), "uid": meta.uid(), "gid": meta.gid(),
        "size": meta.size(), "nlink": meta.nlink(), "dev": meta.dev(), "ino": meta.ino(), "mtime": meta.mtime(),
    });
    if kind.is_char_device() || kind.is_block_device() {
        described["rdev"] = json!([libc::major(meta.rdev()), libc::minor(meta.rdev())]);
    }
    if kind.is_symlink() {
        described["target"] = json!(fs::read_link(path).ok().map(|t| text(t.as_os_str().as_bytes())));
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountinfo_line_is_taken_apart() {
        let parsed =
            mount(r"36 35 98:0 /mnt1 /mnt\040two rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue")
                .unwrap();
        assert_eq!(parsed["target"], "/mnt two");
        assert_eq!(parsed["options"], json!(["rw", "noatime"]));
        assert_eq!(parsed["propagation"], json!(["master:1", "shared:2"]));
        assert_eq!((&parsed["fstype"], &parsed["source"]), (&json!("ext3"), &json!("/dev/root")));
        assert_eq!(mount("nonsense"), None);
    }

    #[test]
    fn the_report_tells_of_this_process() {
        let words = ["--sysctl=kernel.ostype", "--file=/no/such", "--stat=/dev/null"].map(String::from);
        let report = report(&words).unwrap();
        assert_eq!(report["pid"], process::id());
        assert_eq!(report["sysctls"]["kernel.ostype"], "Linux");
        assert_eq!(report["files"]["/no/such"]["errno"], libc::ENOENT);
        assert_eq!(report["stats"]["/dev/null"]["rdev"], json!([1, 3]));
        assert!(report["namespaces"]["mnt"].is_u64());
        assert!(report["rlimits"]["nofile"]["soft"].is_u64() || report["rlimits"]["nofile"]["soft"] == "unlimited");
        assert_eq!(report["caps"]["effective"].as_str().unwrap().len(), 16);
        assert_eq!(report["net"]["lo"]["loopback"], true);
    }
}
