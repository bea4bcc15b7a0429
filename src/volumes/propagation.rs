//! Whether mounts that are made later below a path of the host reach those who have it mounted (mount_namespaces(7)).

use crate::error::{Kind, failure};
use crate::plan::config::MountPropagation;
use crate::sys::Called;
use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// Checks that the mount which a path is on is shared (for `Bidirectional`), or shared or a slave (for `HostToContainer`), in this
/// process's mount namespace. What does not exist yet is where its nearest directory is.
///
/// # Errors
/// Of kind `Invalid`, in containerd's words: it is not.
pub fn check_propagation(path: &Path, wanted: MountPropagation) -> Result<()> {
    let (needed, word): (&[&str], &str) = match wanted {
        MountPropagation::None => return Ok(()),
        MountPropagation::HostToContainer => (&["shared:", "master:"], "a shared or slave mount"),
        MountPropagation::Bidirectional => (&["shared:"], "a shared mount"),
    };
    let opened = path.ancestors().find_map(|there| open(there, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok());
    let id = mount_id(&opened.with_context(|| format!("nothing of {} can be opened", path.display()))?)?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").called("read", "/proc/self/mountinfo")?;
    let mount = mounts.lines().filter_map(Mounted::read).find(|mount| mount.id == id);
    let mount = mount.with_context(|| format!("the mount that {} is on is not in mountinfo", path.display()))?;
    if mount.optional.iter().any(|field| needed.iter().any(|tag| field.starts_with(tag))) {
        return Ok(());
    }
    let message = format!("path {:?} is mounted on {:?} but it is not {word}", path.display(), mount.point);
    Err(failure(Kind::Invalid, message))
}

/// The id of the mount that a descriptor is on (proc_pid_fdinfo(5)).
fn mount_id(fd: &OwnedFd) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = std::fs::read_to_string(&path).called("read", &path)?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.with_context(|| format!("{path} has no mnt_id"))
}

/// A line of mountinfo (proc_pid_mountinfo(5)).
struct Mounted<'a> {
    id: u64,
    point: &'a str,
    optional: Vec<&'a str>,
}

impl<'a> Mounted<'a> {
    fn read(line: &'a str) -> Option<Mounted<'a>> {
        let mut fields = line.split(' ');
        let id = fields.next()?.parse().ok()?;
        let point = fields.nth(3)?;
        // After the mount options, up to a lone hyphen.
        let optional = fields.skip(1).take_while(|field| *field != "-").collect();
        Some(Mounted { id, point, optional })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields() {
        let of = |line: &'static str| Mounted::read(line).map(|mount| (mount.id, mount.point, mount.optional)).unwrap();
        let shared = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue";
        assert_eq!(of(shared), (36, "/mnt2", vec!["master:1", "shared:2"]));
        assert_eq!(of("36 35 98:0 / / rw - ext3 /dev/root rw").2, Vec::<&str>::new());
    }

    #[test]
    fn the_mount_of_a_path_is_found_and_procfs_is_judged_by_its_own_line() {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let proc = mounts.lines().filter_map(Mounted::read).rfind(|mount| mount.point == "/proc").unwrap();
        let is_shared = proc.optional.iter().any(|field| field.starts_with("shared:"));
        let path = Path::new("/proc/self/no/such/file");
        match check_propagation(path, MountPropagation::Bidirectional) {
            Ok(()) => assert!(is_shared),
            Err(error) => {
                assert!(!is_shared, "{error}");
                assert_eq!(
                    error.to_string(),
                    format!("path {path:?} is mounted on \"/proc\" but it is not a shared mount")
                );
            }
        }
        check_propagation(path, MountPropagation::None).unwrap();
    }
}
