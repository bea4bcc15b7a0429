//! The script that makes what the containers of a pod share, with the programs of util-linux and iproute2.

use crate::explain::{Planned, PlannedContainer, PlannedVolume};
use crate::manifest::sysctl::{self, SysctlNamespace};
use crate::plan::config::{FsGroup, HostPathType, NetworkMode, VolumePlan, VolumeSource};
use crate::plan::spec::APPARMOR_DEFAULT;
use crate::runtime::NamespaceKind;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The name of a volume's directory of layers: no container is called so.
pub(super) fn of_volume(name: &str) -> String {
    format!("volume.{name}")
}

/// The text of `sandbox.sh` in the directory `to`.
pub(super) fn script(planned: &Planned, to: &Path) -> Result<String> {
    let dir = to.to_str().context("the path is no text")?;
    let sandbox = &planned.plan.sandbox;
    let first = planned.containers.first().map_or("", |container| &container.name);
    let mut text = HEAD
        .replace("@POD@", &format!("{}/{}", sandbox.namespace, sandbox.name))
        .replace("@FIRST@", first)
        .replace("@DIR@", &quote(dir));
    let mut up = vec![needs_apparmor(planned)];
    up.push(namespaces(planned));
    for (volume, place) in planned.plan.volumes.iter().zip(&planned.volumes) {
        up.push(volume_lines(volume, place, planned.plan.fs_group)?);
    }
    up.push(files(planned)?);
    for container in &planned.containers {
        up.push(rootfs(container)?);
    }
    text.push_str("up() {\n    [ ! -e up ] || fail \"it is up already\"\n    : >up\n    trap down EXIT\n");
    text.push_str(&up.concat());
    text.push_str("    trap - EXIT\n}\n\n");
    text.push_str(&down(planned)?);
    text.push_str(FOOT);
    Ok(text)
}

const HEAD: &str = r#"#!/bin/bash
# What the containers of pod @POD@ share: namespaces, volumes, root file systems. As root:
#
#     ./sandbox.sh up                        makes it
#     runc run --bundle @FIRST@ @FIRST@      runs a container of it (crun takes the same words); in another terminal, the next one
#     ./sandbox.sh down                      takes everything away that `up` made
#
# Written by `podshim plan -o oci`. What podshim does beside is not done: init containers come first, containers are started again,
# probed and logged; the pod is joined to a network (here it has loopback only).
set -euo pipefail
umask 022
dir=@DIR@
fail() {
    echo "sandbox.sh: $*" >&2
    exit 1
}
[ "$(id -u)" = 0 ] || fail "this takes root"
[ "$0" -ef "$dir/sandbox.sh" ] || fail "the bundles name $dir: they work there only"
cd "$dir"
# At most one mount is at each of these places.
unmount() {
    if findmnt --mountpoint "$1" >/dev/null; then umount "$1"; fi
}

"#;

const FOOT: &str = r#"
case ${1-} in
up | down) "$1" ;;
*) fail "it takes up or down" ;;
esac
"#;

fn needs_apparmor(planned: &Planned) -> String {
    let is_default = |container: &PlannedContainer| {
        let process = container.spec.process().as_ref();
        process.and_then(|process| process.apparmor_profile().as_deref()) == Some(APPARMOR_DEFAULT)
    };
    if !planned.containers.iter().any(is_default) {
        return String::new();
    }
    format!(
        "    # No container starts with less confinement than podshim gives it.\n    \
         grep -q '^{APPARMOR_DEFAULT} ' /sys/kernel/security/apparmor/profiles ||\n        \
         fail \"the AppArmor profile {APPARMOR_DEFAULT} is not loaded: podshim loads it when it runs a pod\"\n"
    )
}

/// Namespaces live as long as something refers to them: a process in them, or a mount of their file in /proc.
fn namespaces(planned: &Planned) -> String {
    let config = &planned.plan.sandbox;
    let joined = match &config.namespaces.network {
        NetworkMode::Path(path) => Some(path.display().to_string()),
        _ => None,
    };
    let is_made = |kind: &&NamespaceKind| **kind != NamespaceKind::Network || joined.is_none();
    let files: Vec<String> = planned.namespaces.iter().map(|kind| format!("ns/{}", kind.file())).collect();
    if files.is_empty() {
        return String::new();
    }
    let mut out = format!(
        "    # Namespaces live as long as something refers to them: here, mounts of their files.\n    \
         mkdir -p ns\n    touch {}\n",
        files.join(" ")
    );
    let options: Vec<String> =
        planned.namespaces.iter().filter(is_made).map(|kind| format!("--{}=ns/{}", kind.file(), kind.file())).collect();
    if !options.is_empty() {
        out.push_str(&format!("    unshare {} -- true\n", options.join(" ")));
    }
    match &joined {
        Some(path) => out.push_str(&format!("    mount --bind {} ns/net\n", quote(path))),
        None if planned.namespaces.contains(&NamespaceKind::Network) => {
            out.push_str("    nsenter --net=ns/net ip link set lo up\n");
        }
        None => {}
    }
    let write = |option: &str, path: &str, value: &str| {
        format!("    nsenter {option} -- sh -c 'printf %s \"$2\" >\"$1\"' sh {} {}\n", quote(path), quote(value))
    };
    if planned.namespaces.contains(&NamespaceKind::Uts) {
        out.push_str(&write("--uts=ns/uts", "/proc/sys/kernel/hostname", &config.hostname));
    }
    for parameter in &config.sysctls {
        let option = match sysctl::namespace(&parameter.key) {
            Some(SysctlNamespace::Ipc) => "--ipc=ns/ipc",
            Some(SysctlNamespace::Network) | None => "--net=ns/net",
        };
        out.push_str(&write(option, &format!("/proc/sys/{}", sysctl::path(&parameter.key)), &parameter.value));
    }
    out
}

fn volume_lines(volume: &VolumePlan, place: &PlannedVolume, group: Option<FsGroup>) -> Result<String> {
    let path = quoted(&place.path)?;
    let size = |size: &Option<u64>| size.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
    let directory = |mode: u32| format!("    mkdir -p {path}\n    chmod {mode:04o} {path}\n");
    let own = match &volume.source {
        VolumeSource::HostPath { kind, .. } => return Ok(host_path(*kind, &path)),
        // Written already, or refused.
        VolumeSource::Files(_) | VolumeSource::Claim { .. } => return Ok(String::new()),
        VolumeSource::Image { .. } => return Ok(image(volume, place, &path)),
        VolumeSource::EmptyDir { mode } => directory(*mode),
        VolumeSource::Ephemeral { .. } => directory(0o777),
        VolumeSource::Memory { size: bytes, mode } => format!(
            "    mkdir -p {path}\n    mount -t tmpfs -o nosuid,nodev,mode={mode:04o}{} tmpfs {path}\n",
            size(bytes)
        ),
        VolumeSource::HugePages { page_size, size: bytes, mode } => format!(
            "    mkdir -p {path}\n    \
             mount -t hugetlbfs -o nosuid,nodev,pagesize={page_size},mode={mode:04o}{} hugetlbfs {path}\n",
            size(bytes)
        ),
    };
    let group = group.map(|group| format!("    chgrp {} {path}\n    chmod g+rwxs {path}\n", group.gid));
    Ok(format!("    # Volume {}.\n{own}{}", volume.name, group.unwrap_or_default()))
}

fn host_path(kind: HostPathType, path: &str) -> String {
    let test = |flag: &str, what: &str| format!("    [ {flag} {path} ] || fail {path}\" is no {what}\"\n");
    match kind {
        HostPathType::Unset => format!("    [ -e {path} ] || fail {path}\" does not exist\"\n"),
        HostPathType::DirectoryOrCreate => format!("    mkdir -p {path}\n"),
        HostPathType::Directory => test("-d", "directory"),
        HostPathType::FileOrCreate => format!("    [ -e {path} ] || : >{path}\n"),
        HostPathType::File => test("-f", "file"),
        HostPathType::Socket => test("-S", "socket"),
        HostPathType::CharDevice => test("-c", "character device"),
        HostPathType::BlockDevice => test("-b", "block device"),
    }
}

fn image(volume: &VolumePlan, place: &PlannedVolume, path: &str) -> String {
    let layers = format!("layers/{}", of_volume(&volume.name));
    const OPTIONS: &str = "ro,nosuid,nodev,noexec";
    let mount = match place.layers.len() {
        // overlayfs takes at least two without an upper directory.
        1 => format!("    mount --bind {layers}/1 {path}\n    mount -o remount,bind,{OPTIONS} {path}\n"),
        count => {
            format!("    (cd {layers} && mount -t overlay -o {OPTIONS},lowerdir={} overlay {path})\n", lower(count))
        }
    };
    format!("    # Volume {}: an image.\n    mkdir -p {path}\n{mount}", volume.name)
}

/// overlayfs lists the topmost layer first.
fn lower(count: usize) -> String {
    let names: Vec<String> = (1..=count).rev().map(|number| number.to_string()).collect();
    names.join(":")
}

/// Shared memory, termination messages, and the sub-paths that are to be mounted.
fn files(planned: &Planned) -> Result<String> {
    let mut out = String::from("    # The memory that the containers share as /dev/shm.\n    mkdir -p shm\n");
    out.push_str("    mount -t tmpfs -o nosuid,nodev,mode=1777,size=64m tmpfs shm\n");
    out.push_str("    # Where each container may write why it ended.\n");
    for container in &planned.containers {
        let name = &container.name;
        out.push_str(&format!("    mkdir -p termination/{name}\n    : >termination/{name}/0\n"));
        out.push_str(&format!("    chmod 0666 termination/{name}/0\n"));
    }
    for path in sub_paths(planned) {
        let path = quoted(&path)?;
        out.push_str(&format!("    [ -e {path} ] || mkdir -p {path}\n"));
    }
    Ok(out)
}

fn sub_paths(planned: &Planned) -> Vec<PathBuf> {
    let is_below =
        |source: &Path| planned.volumes.iter().any(|volume| source.starts_with(&volume.path) && source != volume.path);
    let sources = planned.containers.iter().flat_map(|container| &container.binds).map(|bind| &bind.source);
    let mut found: Vec<PathBuf> = sources.filter(|source| is_below(source)).cloned().collect();
    found.sort();
    found.dedup();
    found
}

fn rootfs(container: &PlannedContainer) -> Result<String> {
    let name = &container.name;
    let count = container.image.as_ref().context("an image is not here")?.layers.len();
    Ok(format!(
        "    # The root file system of {name}: its image's layers under a directory of its own.\n    \
         mkdir -p containers/{name}/0/upper containers/{name}/0/work\n    \
         (cd layers/{name} && mount -t overlay -o lowerdir={},upperdir=../../containers/{name}/0/upper,workdir=../../containers/{name}/0/work \
         overlay ../../{name}/rootfs)\n",
        lower(count)
    ))
}

/// The other way round; what is gone already is passed over.
fn down(planned: &Planned) -> Result<String> {
    let mut out = String::from("down() {\n");
    for container in planned.containers.iter().rev() {
        out.push_str(&format!("    unmount {}/rootfs\n", container.name));
    }
    out.push_str("    unmount shm\n");
    for (volume, place) in planned.plan.volumes.iter().zip(&planned.volumes).rev() {
        let path = quoted(&place.path)?;
        match &volume.source {
            VolumeSource::HostPath { .. } | VolumeSource::Files(_) | VolumeSource::Claim { .. } => {}
            VolumeSource::EmptyDir { .. } | VolumeSource::Ephemeral { .. } => {
                out.push_str(&format!("    rm -rf --one-file-system {path}\n"));
            }
            VolumeSource::Memory { .. } | VolumeSource::HugePages { .. } | VolumeSource::Image { .. } => {
                out.push_str(&format!("    unmount {path}\n    rm -rf --one-file-system {path}\n"));
            }
        }
    }
    for kind in planned.namespaces.iter().rev() {
        out.push_str(&format!("    unmount ns/{}\n", kind.file()));
    }
    out.push_str("    rm -rf --one-file-system containers termination shm ns up\n}\n");
    Ok(out)
}

fn quoted(path: &Path) -> Result<String> {
    Ok(quote(path.to_str().with_context(|| format!("{} is no text", path.display()))?))
}

/// A word for a shell, whatever is in it.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_any_text_as_one_word() {
        for text in ["", "a b", "it's", "$(touch /x)", "`x`", "a\nb", "-n", "\\", "'\"'\"'"] {
            let script = format!("printf %s {}", quote(text));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }

    #[test]
    fn the_topmost_layer_is_first() {
        assert_eq!((lower(1).as_str(), lower(3).as_str()), ("1", "3:2:1"));
    }
}
