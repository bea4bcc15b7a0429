//! Seccomp profiles of type Localhost: files of the host below a directory of the administrator's.

use crate::error::{Kind, failure};
use crate::plan::config::{PodSandboxConfig, SeccompProfile, SecurityContext};
use crate::plan::seccomp_profile::Profile;
use crate::sys::Called;
use crate::sys::fs::{ResolveFlags, openat2};
use anyhow::{Context, Result, ensure};
use nix::fcntl::OFlag;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Component, Path};

/// The largest profile, in bytes; Docker's has 20 KiB.
const MAX_FILE: u64 = 1 << 20;

/// Reads the profile that a container names, if it names one. It is read at each start of the container, as a kubelet's
/// runtime does.
///
/// # Errors
/// Of kind `Invalid`: there is none, it leads elsewhere, or it is not to be understood. No other profile takes its place
/// (CVE-2023-2431).
pub fn of_host(sandbox: &PodSandboxConfig, security: &SecurityContext) -> Result<Option<Profile>> {
    let root = Path::new("/");
    let (root, name) = match &security.seccomp {
        SeccompProfile::RuntimeDefault | SeccompProfile::Unconfined => return Ok(None),
        SeccompProfile::Localhost(name) => (sandbox.seccomp_root.as_path(), Path::new(name)),
        SeccompProfile::File(path) => (root, path.strip_prefix(root).unwrap_or(path)),
    };
    match read(root, name) {
        Ok(profile) => Ok(Some(profile)),
        Err(error) => {
            let path = root.join(name);
            Err(failure(Kind::Invalid, format!("seccomp profile {}: {error:#}", path.display())))
        }
    }
}

fn read(root: &Path, name: &Path) -> Result<Profile> {
    let is_plain = !name.as_os_str().is_empty() && name.components().all(|c| matches!(c, Component::Normal(_)));
    ensure!(is_plain, "it is no relative path without `..`");
    let directory = std::fs::File::open(root).called("open", root.display())?;
    // Links are the administrator's: operators keep their profiles elsewhere and link to them. A FIFO must not hold us up.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    let file = openat2(directory.as_fd(), name, flags, 0, ResolveFlags::RESOLVE_NO_MAGICLINKS)?;
    let file = std::fs::File::from(file);
    let metadata = file.metadata().called("fstat", name.display())?;
    ensure!(metadata.is_file(), "it is not a regular file");
    ensure!(metadata.len() <= MAX_FILE, "it has {} bytes, more than {MAX_FILE}", metadata.len());
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).called("read", name.display())?;
    let text = String::from_utf8(bytes).context("it is not UTF-8")?;
    let profile = Profile::parse(&text)?;
    // What cannot be compiled is found before the container is made, with the rules that hold for any container.
    super::compile(&profile.rules(&Default::default(), "65535.0")?)?;
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_by_its_absolute_path_is_read_or_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let good = dir.path().join("good.json");
        std::fs::write(&good, r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap();
        read(Path::new("/"), good.strip_prefix("/").unwrap()).unwrap();
        assert!(read(Path::new("/"), &good).is_err(), "below the root is what is meant");
        assert!(read(Path::new("/"), Path::new("no/such/profile.json")).is_err());
    }

    #[test]
    fn d14_a_profile_that_cannot_be_had_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        let good = r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#;
        for (name, text) in [
            ("root/good.json", good),
            ("root/sub/good.json", good),
            ("outside.json", good),
            ("root/empty.json", ""),
            ("root/bad.json", "{"),
            ("root/notify.json", r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("../sub/good.json", root.join("sub/link.json")).unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        std::fs::write(root.join("large.json"), good.to_owned() + &" ".repeat(1 << 20)).unwrap();
        std::fs::write(root.join("latin.json"), b"\xff").unwrap();
        for name in ["good.json", "sub/good.json", "sub/link.json"] {
            read(&root, Path::new(name)).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        }
        for name in [
            "",
            ".",
            "none.json",
            "sub",
            "../outside.json",
            "sub/../../outside.json",
            "/etc/passwd",
            "empty.json",
            "bad.json",
            "notify.json",
            "fifo",
            "large.json",
            "latin.json",
        ] {
            assert!(read(&root, Path::new(name)).is_err(), "{name:?}");
        }
    }
}
