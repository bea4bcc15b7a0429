//! What criu has to know of a container: its first process, and what of it belongs to others, which is to be named in the
//! images and not to be dumped.
//!
//! - the sandbox's network, and its pid namespace if containers share one;
//! - volumes, `/etc/hosts` and whatever else is bound into it, and what is mounted below that; cgroups;
//! - its standard input and output, whose files (FIFOs, perhaps /dev/null) are in nobody's mount namespace but the host's. Any of its
//!   processes may have them open, by any number, so that they are looked for when all are stopped.

use crate::cri::sandboxes::Container;
use crate::error::{Kind, failure};
use crate::lifecycle::commanded::Stage;
use crate::sys::mountinfo::Mount;
use crate::sys::{Called, process};
use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::Spec;
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The longest mountinfo that is read, in bytes.
const MAX_MOUNTINFO: u64 = 16 << 20;
/// File systems that criu dumps and mounts again; what is on any other belongs to somebody else.
const DUMPED: [&str; 5] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue"];

/// A container's first process, which is known to be it.
pub(super) struct Target {
    /// Its pid.
    pub(super) pid: i32,
    pidfd: OwnedFd,
}

impl Target {
    /// Of a container that runs.
    pub(super) fn of(container: &Container) -> Result<Target> {
        let stopped = || failure(Kind::NotReady, format!("container {} does not run", container.id()));
        let pid = container.report.pid.filter(|_| container.report.stage == Stage::Running).ok_or_else(stopped)?;
        let pidfd = process::open_pid(pid.unsigned_abs()).map_err(|_| stopped())?;
        let target = Target { pid, pidfd };
        // It may have ended since, and another may have its pid. That one is in another cgroup.
        let path = format!("/proc/{pid}/cgroup");
        let groups = fs::read_to_string(&path).called("read", &path).map_err(|_| stopped())?;
        let is_it = groups.lines().any(|line| line.split('/').any(|part| part == container.id()));
        if is_it && target.is_alive()? { Ok(target) } else { Err(stopped()) }
    }

    /// Whether it has not ended. A pid stays with a process as long as this is true.
    pub(super) fn is_alive(&self) -> Result<bool> {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::ZERO).called("poll", "a container's process")? == 0)
    }

    /// What of it belongs to others, in criu's words.
    pub(super) fn external(&self, spec: &Spec) -> Result<Vec<Vec<u8>>> {
        let mut external = self.namespaces()?;
        external.extend(mounts(&self.mounts(&self.mountinfo()?)?, &bound(spec)));
        Ok(external)
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.pid)).join(name)
    }

    fn namespaces(&self) -> Result<Vec<Vec<u8>>> {
        let id = |path: &Path| fs::metadata(path).called("stat", path.display()).map(|found| found.ino());
        let mut external = Vec::new();
        for kind in ["net", "pid"] {
            let (theirs, ours) = (id(&self.proc("ns").join(kind))?, id(&Path::new("/proc/self/ns").join(kind))?);
            // The host's own is none that criu would dump.
            let is_shared = kind == "net" || !self.is_first_of_namespace()?;
            if theirs != ours && is_shared {
                external.push(format!("{kind}[{theirs}]:{kind}").into_bytes());
            }
        }
        Ok(external)
    }

    /// Whether it is pid 1 where it is.
    fn is_first_of_namespace(&self) -> Result<bool> {
        let path = self.proc("status");
        let status = fs::read_to_string(&path).called("read", path.display())?;
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        Ok(pids.and_then(|pids| pids.split_whitespace().last()) == Some("1"))
    }

    /// The open files of these processes which are its standard input and output, from its run state: `file[<mount id>:<inode>]`,
    /// both hexadecimal. None of them is looked at itself: its file system may be the container's to serve.
    pub(super) fn files(&self, (state, pids): (&Path, &[i32])) -> Result<BTreeSet<Vec<u8>>> {
        let state = fs::canonicalize(state).called("realpath", state.display())?;
        let mut known: HashSet<PathBuf> = ["stdin", "stdout", "stderr"].map(|name| state.join(name)).into();
        // The host's, of who has none of his own: it is the root of a mount that is nowhere.
        known.extend(["/dev/null", "/"].map(PathBuf::from));
        let text = self.mountinfo()?;
        let own: HashSet<u64> = self.mounts(&text)?.iter().map(|mount| mount.id).collect();
        let mut external = BTreeSet::new();
        for pid in pids {
            let process = PathBuf::from(format!("/proc/{pid}"));
            // It may have ended; and it has closed what is not there any more.
            let Ok(descriptors) = fs::read_dir(process.join("fd")) else { continue };
            for descriptor in descriptors.flatten() {
                if !fs::read_link(descriptor.path()).is_ok_and(|path| known.contains(&path)) {
                    continue;
                }
                let info = fs::read_to_string(process.join("fdinfo").join(descriptor.file_name())).unwrap_or_default();
                let Some((mount, inode)) = place(&info) else { continue };
                // The container's own /dev/null, and whatever it names like our files, is on a mount of its own.
                if !own.contains(&mount) {
                    external.insert(format!("file[{mount:x}:{inode:x}]").into_bytes());
                }
            }
        }
        Ok(external)
    }

    fn mountinfo(&self) -> Result<Vec<u8>> {
        let path = self.proc("mountinfo");
        let file = fs::File::open(&path).called("open", path.display())?;
        let mut text = Vec::new();
        file.take(MAX_MOUNTINFO).read_to_end(&mut text).called("read", path.display())?;
        Ok(text)
    }

    /// What such a text says.
    fn mounts<'a>(&self, text: &'a [u8]) -> Result<Vec<Mount<'a>>> {
        parsed(text)
            .with_context(|| format!("{}: a line that is not to be understood", self.proc("mountinfo").display()))
    }
}

/// The mount and the inode of a descriptor (proc_pid_fdinfo(5); `ino` since Linux 5.14).
fn place(info: &str) -> Option<(u64, u64)> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Some((field("mnt_id:")?.parse().ok()?, field("ino:")?.parse().ok()?))
}

/// Where something of the host's is bound into it.
fn bound(spec: &Spec) -> HashSet<PathBuf> {
    let is_bind = |mount: &&oci_spec::runtime::Mount| {
        let by_option = mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind");
        by_option || mount.typ().as_deref() == Some("bind")
    };
    spec.mounts().iter().flatten().filter(is_bind).map(|mount| mount.destination().clone()).collect()
}

/// Every line of mountinfo.
fn parsed(mountinfo: &[u8]) -> Option<Vec<Mount<'_>>> {
    let lines = mountinfo.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(Mount::parse).collect()
}

/// The mounts that belong to others, by mount point: `mnt[/data]:/data`.
fn mounts(all: &[Mount<'_>], bound: &HashSet<PathBuf>) -> Vec<Vec<u8>> {
    let mut foreign = HashSet::new();
    // A mount can be listed before its parent: again until there is nothing new.
    loop {
        let before = foreign.len();
        let is_foreign = |mount: &&Mount| {
            let is_own = DUMPED.contains(&&*mount.fs_type) && !bound.contains(&mount.point);
            mount.point != Path::new("/") && (!is_own || foreign.contains(&mount.parent))
        };
        let found: Vec<u64> = all.iter().filter(is_foreign).map(|mount| mount.id).collect();
        foreign.extend(found);
        if foreign.len() == before {
            break;
        }
    }
    let named = all.iter().filter(|mount| foreign.contains(&mount.id)).map(|mount| {
        let point = mount.point.as_os_str().as_bytes();
        [b"mnt[", point, b"]:", point].concat()
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_others_is_told_from_what_is_mounted_anew() {
        let text = concat!(
            "51 60 0:42 / / rw,relatime - overlay overlay rw\n",
            "70 53 0:60 / /data/below rw - tmpfs none rw\n",
            "53 51 254:0 /x /data rw,nosuid shared:3 - ext4 /dev/vda rw\n",
            "54 51 0:40 /hosts /etc/hosts rw - tmpfs none rw\n",
            "57 62 0:39 / /dev/shm rw - tmpfs none rw\n",
            "59 61 0:6 /null /proc/keys rw - devtmpfs devtmpfs rw\n",
            "61 51 0:45 / /proc rw - proc none rw\n",
            "62 51 0:46 / /dev rw - tmpfs none rw\n",
            "64 62 0:48 / /dev/pts rw - devpts none rw\n",
            "67 63 0:38 /a /sys/fs/cgroup ro - cgroup2 none rw\n",
            "71 51 254:0 /y /a\\040b\\134]:c rw - ext4 /dev/vda rw\n",
            "78 61 0:50 / /proc/acpi ro - tmpfs none rw\n",
        );
        let bound = ["/data", "/etc/hosts", "/dev/shm", "/a b\\]:c"].map(PathBuf::from).into();
        let found = mounts(&parsed(text.as_bytes()).unwrap(), &bound);
        let found: Vec<String> = found.into_iter().map(|name| String::from_utf8(name).unwrap()).collect();
        let expected = ["/data/below", "/data", "/etc/hosts", "/dev/shm", "/proc/keys", "/sys/fs/cgroup", "/a b\\]:c"];
        assert_eq!(found, expected.map(|point| format!("mnt[{point}]:{point}")));
        assert!(parsed(b"51 60 0:42 / /\n").is_none());
    }

    #[test]
    fn where_a_descriptor_is() {
        assert_eq!(place("pos:\t0\nflags:\t02\nmnt_id:\t27\nino:\t10715603\n"), Some((27, 10_715_603)));
        assert_eq!(place("pos:\t0\nflags:\t02\nmnt_id:\t27\n"), None);
        assert_eq!(place(""), None);
    }

    #[test]
    fn binds_are_known_by_type_and_by_option() {
        let spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.0.2",
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/a", "type": "bind", "source": "/x" },
                { "destination": "/b", "source": "/x", "options": ["ro", "rbind"] },
                { "destination": "/c", "type": "none", "source": "/x", "options": ["bind"] },
                { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" },
            ],
        }))
        .unwrap();
        assert_eq!(bound(&spec), ["/a", "/b", "/c"].map(PathBuf::from).into());
    }
}
