//! What a container sees mounted: its first process's proc_pid_mountinfo(5), sorted by what it is for.

use super::super::model::{Mount, Mounts, Root, VolumeMount};
use super::super::text::plain;
use crate::plan::config::{self, ContainerConfig};
use crate::sys::{Called, SysResult, mountinfo};
use std::fs::File;
use std::io::Read;
use std::path::Path;

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
    Ok(sort(&bytes, &config.mounts, &config.termination_message_path))
}

/// As it is shown.
fn shown(line: &mountinfo::Mount<'_>) -> Mount {
    Mount { path: path(line), fs_type: plain(&line.fs_type, PATH), read_only: line.is_read_only() }
}

fn path(line: &mountinfo::Mount<'_>) -> String {
    plain(&line.point.to_string_lossy(), PATH)
}

/// Whether it is there to hide something of the kernel's, or to make it read-only.
fn is_mask(line: &mountinfo::Mount<'_>) -> bool {
    let in_kernel = ["/proc", "/sys"].iter().any(|top| line.point != Path::new(top) && line.point.starts_with(top));
    let part = matches!(&*line.fs_type, "proc" | "sysfs") && line.root != Path::new("/");
    in_kernel && (part || matches!(&*line.fs_type, "tmpfs" | "devtmpfs"))
}

fn sort(text: &[u8], volumes: &[config::VolumeMount], termination_message: &str) -> Mounts {
    let mut mounts = Mounts::default();
    let lines: Vec<_> = mountinfo::mounts(text).collect();
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
        let volume = volumes.iter().find(|mount| line.point == Path::new(&mount.container_path));
        match volume {
            Some(volume) => mounts.volumes.push(VolumeMount {
                volume: plain(&volume.volume, PATH),
                path: path(line),
                read_only: line.is_read_only(),
                fs_type: plain(&line.fs_type, PATH),
            }),
            // The last one is on top.
            None if line.point == Path::new("/") => {
                mounts.root = Some(Root {
                    fs_type: plain(&line.fs_type, PATH),
                    lower: lower(&line.super_options),
                    read_only: line.is_read_only(),
                });
            }
            None if ours.iter().any(|own| line.point == Path::new(own)) => mounts.files.push(shown(line)),
            None if is_mask(line) => mounts.masks += 1,
            None if kernels.contains(&&*line.fs_type) || line.point.starts_with("/dev") => {
                mounts.kernel.push(shown(line));
            }
            None if line.point.starts_with("/sys/fs/cgroup") => mounts.kernel.push(shown(line)),
            None => mounts.other.push(shown(line)),
        }
    }
    mounts
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
        let found = sort(text.as_bytes(), &[volume("data", "/data dir/")], "/dev/termination-log");
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
        assert_eq!(sort(many.as_bytes(), &[], "").more, 7);
    }
}
