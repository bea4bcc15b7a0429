//! What a container sees mounted: its first process's proc_pid_mountinfo(5), sorted by what it is for.

use super::super::model::{Mount, Mounts, Root, VolumeMount};
use super::super::text::plain;
use crate::plan::config::{self, ContainerConfig};
use crate::sys::{Called, SysResult};
use std::fs::File;
use std::io::Read;

/// A container that may mount can make the file as long as it likes.
const MOST_BYTES: u64 = 1 << 20;
const MOST_LINES: usize = 500;
/// The longest path, in characters.
const PATH: usize = 200;

pub(super) fn of(pid: i32, config: &ContainerConfig) -> SysResult<Mounts> {
    let path = format!("/proc/{pid}/mountinfo");
    let mut bytes = Vec::new();
    let file = File::open(&path).called("open", &path)?;
    file.take(MOST_BYTES).read_to_end(&mut bytes).called("read", &path)?;
    Ok(sort(&String::from_utf8_lossy(&bytes), &config.mounts, &config.termination_message_path))
}

/// One line of the file.
struct Line<'a> {
    /// What of the file system is mounted.
    root: &'a str,
    at: String,
    read_only: bool,
    fs_type: &'a str,
    options: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Line<'a>> {
        // Fields in between are optional, and end with a dash.
        let (mount, fs) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at, flags) = (fields.next()?, fields.next()?, fields.next()?);
        let mut fs = fs.split(' ');
        let (fs_type, options) = (fs.next()?, fs.nth(1).unwrap_or(""));
        let has_ro = |list: &str| list.split(',').any(|word| word == "ro");
        Some(Line { root, at: unescape(at), read_only: has_ro(flags) || has_ro(options), fs_type, options })
    }

    fn mount(&self) -> Mount {
        Mount { path: plain(&self.at, PATH), fs_type: plain(self.fs_type, PATH), read_only: self.read_only }
    }

    /// Whether it is there to hide something of the kernel's, or to make it read-only.
    fn is_mask(&self) -> bool {
        let in_kernel = self.at.starts_with("/proc/") || self.at.starts_with("/sys/");
        let part = matches!(self.fs_type, "proc" | "sysfs") && self.root != "/";
        in_kernel && (part || matches!(self.fs_type, "tmpfs" | "devtmpfs"))
    }
}

/// Blanks and the like are written as octal numbers: `\040`.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.as_bytes();
    while let [first, rest @ ..] = bytes {
        let digits = rest.get(..3).filter(|_| *first == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                bytes = &rest[3..];
            }
            None => {
                out.push(*first);
                bytes = rest;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn sort(mountinfo: &str, volumes: &[config::VolumeMount], termination_message: &str) -> Mounts {
    let mut mounts = Mounts::default();
    let lines: Vec<Line<'_>> = mountinfo.lines().filter_map(Line::parse).collect();
    mounts.more = lines.len().saturating_sub(MOST_LINES);
    let ours = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/shm", termination_message];
    let kernels = [
        "proc",
        "sysfs",
        "devpts",
        "mqueue",
        "cgroup",
        "cgroup2",
        "bpf",
        "tracefs",
        "debugfs",
        "securityfs",
        "devtmpfs",
    ];
    for line in lines.iter().take(MOST_LINES) {
        let volume = volumes.iter().find(|mount| same(&mount.container_path, &line.at));
        match volume {
            Some(volume) => mounts.volumes.push(VolumeMount {
                volume: plain(&volume.volume, PATH),
                path: plain(&line.at, PATH),
                read_only: line.read_only,
                fs_type: plain(line.fs_type, PATH),
            }),
            // The last one is on top.
            None if line.at == "/" => {
                mounts.root = Some(Root {
                    fs_type: plain(line.fs_type, PATH),
                    lower: lower(line.options),
                    read_only: line.read_only,
                });
            }
            None if ours.contains(&line.at.as_str()) => mounts.files.push(line.mount()),
            None if line.is_mask() => mounts.masks += 1,
            None if kernels.contains(&line.fs_type) || line.at == "/dev" || line.at.starts_with("/dev/") => {
                mounts.kernel.push(line.mount());
            }
            None if line.at.starts_with("/sys/fs/cgroup") => mounts.kernel.push(line.mount()),
            None => mounts.other.push(line.mount()),
        }
    }
    mounts
}

fn same(a: &str, b: &str) -> bool {
    a.trim_end_matches('/') == b.trim_end_matches('/')
}

/// How many lower layers overlayfs has: `lowerdir=a:b`, since Linux 6.5 also `lowerdir+=a` for each.
fn lower(options: &str) -> usize {
    let of = |word: &str| match word.split_once('=') {
        Some(("lowerdir", list)) => list.replace("::", ":").split(':').count(),
        Some(("lowerdir+" | "datadir+", _)) => 1,
        _ => 0,
    };
    options.split(',').map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, path: &str) -> config::VolumeMount {
        let text = serde_json::json!({ "volume": name, "sub_path": "", "container_path": path, "access": "ReadWrite",
            "submounts": "Unchanged", "propagation": "None", "options": [] });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn sorted_by_what_they_are_for() {
        let text = "1 0 0:1 / / rw,relatime - overlay overlay rw,lowerdir=/b:/a,upperdir=/u,workdir=/w\n\
            2 1 0:2 / /proc rw,nosuid - proc proc rw\n\
            3 2 0:2 /bus /proc/bus ro,nosuid - proc proc rw\n\
            4 2 0:3 /null /proc/kcore rw - devtmpfs devtmpfs rw\n\
            5 2 0:4 / /proc/acpi ro - tmpfs tmpfs ro\n\
            6 1 0:5 / /dev rw - tmpfs tmpfs rw\n\
            7 6 0:6 / /dev/shm rw - tmpfs shm rw\n\
            8 1 0:7 /etc/hosts /etc/hosts rw - ext4 /dev/sda rw\n\
            9 1 0:7 /vol /data\\040dir rw - ext4 /dev/sda ro,x\n\
            10 1 0:8 / /sys ro - sysfs sysfs ro\n\
            11 1 0:9 / /mnt/x rw shared:1 master:2 - tmpfs \x1b[2J rw\n\
            damaged\n";
        let found = sort(text, &[volume("data", "/data dir/")], "/dev/termination-log");
        let paths = |mounts: &[Mount]| mounts.iter().map(|m| m.path.clone()).collect::<Vec<_>>();
        assert_eq!(found.root, Some(Root { fs_type: "overlay".into(), lower: 2, read_only: false }));
        assert_eq!(found.volumes.len(), 1);
        assert_eq!((found.volumes[0].path.as_str(), found.volumes[0].read_only), ("/data dir", true));
        assert_eq!(paths(&found.kernel), ["/proc", "/dev", "/sys"]);
        assert_eq!(paths(&found.files), ["/dev/shm", "/etc/hosts"]);
        assert_eq!(paths(&found.other), ["/mnt/x"]);
        assert_eq!((found.masks, found.more), (3, 0));
        assert_eq!(lower("rw,lowerdir+=/a,lowerdir+=/b"), 2);
        let many = "11 1 0:9 / /mnt/x rw - tmpfs x rw\n".repeat(MOST_LINES + 7);
        assert_eq!(sort(&many, &[], "").more, 7);
    }
}
