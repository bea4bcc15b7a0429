//! The pod's volumes, and the files that podshim makes for its containers.

use super::quote::quote;
use super::writer::Lines;
use super::{Ground, on_host};
use crate::explain::planned::Planned;
use crate::plan::config::{
    Access, FilesMedium, FilesVolume, FsGroup, FsGroupChangePolicy, HostPathType, ImageSpec, VolumePlan, VolumeSource,
};
use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::path::Path;

/// The function `volumes`.
pub(super) fn volumes(script: &mut Lines, planned: &Planned, ground: Ground<'_>) -> Result<()> {
    let plan = &planned.plan;
    let mut body = Lines::of_function();
    let has_files = plan.volumes.iter().any(|volume| matches!(volume.source, VolumeSource::Files(_)));
    match (plan.volumes.is_empty(), has_files) {
        (true, _) => {}
        (false, true) => body.line("local v name"),
        (false, false) => body.line("local v"),
    }
    for volume in &plan.volumes {
        one(&mut body, volume, planned, ground).with_context(|| format!("volume {}", volume.name))?;
    }
    script.function("volumes", body);
    Ok(())
}

fn one(body: &mut Lines, volume: &VolumePlan, planned: &Planned, ground: Ground<'_>) -> Result<()> {
    let at = on_host(path_of(planned, &volume.name)?, planned)?;
    body.end_note();
    let name = &volume.name;
    let say = |what: &str| format!("Volume {name}: {what}");
    let here = |body: &mut Lines, mode: u32| {
        body.line(format!("v={at}"));
        body.line("mkdir --parents -- \"$v\"");
        body.line(format!("chmod {mode:04o} -- \"$v\""));
    };
    match &volume.source {
        VolumeSource::HostPath { path, kind } => {
            body.note(&say("a path of the host. It is checked to be what the manifest says it is."));
            body.line(format!("v={at}"));
            host_path(body, path, *kind)?;
        }
        VolumeSource::EmptyDir { mode } => {
            body.note(&say("an empty directory on the disk, for everybody to write to."));
            here(body, *mode);
        }
        VolumeSource::Memory { size, mode } => {
            body.note(&say("an empty directory in memory (a tmpfs), which counts as memory of whoever writes."));
            here(body, *mode);
            let size = size.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
            body.line(format!("mount --types tmpfs --options nosuid,nodev,mode={mode:04o}{size} none \"$v\""));
        }
        VolumeSource::HugePages { page_size, size, mode } => {
            body.note(&say("memory in huge pages, of which the kernel has to look after fewer."));
            here(body, *mode);
            let size = size.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
            let options = format!("nosuid,nodev,pagesize={page_size},mode={mode:04o}{size}");
            body.line(format!("mount --types hugetlbfs --options {options} none \"$v\""));
        }
        VolumeSource::Files(wanted) => {
            body.note(&say("files of a ConfigMap, a Secret or the like, which containers can only read."));
            here(body, 0o755);
            files(body, wanted)?;
        }
        VolumeSource::Claim { .. } => {
            body.note(&say("a directory that outlives pods, podshim's own: `down` leaves it."));
            persistent(body, &at);
        }
        VolumeSource::Ephemeral { .. } => {
            body.note(&say("a directory that lives with the pod."));
            persistent(body, &at);
        }
        VolumeSource::Image { reference, .. } => {
            body.note(&say("the content of an image, read-only; nothing in it can be executed."));
            let missing = || format!("the image {reference} of the volume is not here: podshim image pull {reference}");
            let image = ground.volume_images.get(name).with_context(missing)?;
            body.line(format!("v={at}"));
            image_volume(body, image)?;
        }
    }
    give(body, volume, planned.plan.fs_group);
    Ok(())
}

/// Where podshim would have a volume.
pub(super) fn path_of<'a>(planned: &'a Planned, name: &str) -> Result<&'a Path> {
    let found = planned.volumes.iter().find(|volume| volume.name == name);
    Ok(&found.with_context(|| format!("the pod has no volume {name}"))?.path)
}

fn persistent(body: &mut Lines, at: &str) {
    body.line(format!("v={at}"));
    body.line("if [ ! -d \"$v\" ]; then");
    body.line("    mkdir --parents -- \"$v\"");
    body.line("    chmod 0777 -- \"$v\"");
    body.line("fi");
}

fn host_path(body: &mut Lines, path: &Path, kind: HostPathType) -> Result<()> {
    let (test, what) = match kind {
        HostPathType::Unset => ("-e", "there"),
        HostPathType::Directory | HostPathType::DirectoryOrCreate => ("-d", "a directory"),
        HostPathType::File | HostPathType::FileOrCreate => ("-f", "a file"),
        HostPathType::Socket => ("-S", "a socket"),
        HostPathType::CharDevice => ("-c", "a character device"),
        HostPathType::BlockDevice => ("-b", "a block device"),
    };
    match kind {
        HostPathType::DirectoryOrCreate => body.line("[ -e \"$v\" ] || mkdir --parents -- \"$v\""),
        HostPathType::FileOrCreate => body.line("[ -e \"$v\" ] || : >\"$v\""),
        _ => {}
    }
    let message = quote(format!("hostPath {} is not {what}", path.display()))?;
    body.line(format!("[ {test} \"$v\" ] || die {message}"));
    Ok(())
}

/// As a kubelet lays them out.
fn files(body: &mut Lines, volume: &FilesVolume) -> Result<()> {
    if volume.medium == FilesMedium::Memory {
        body.note("In memory, so that a secret never gets to a disk (nor by swapping, where the kernel has noswap: Linux 6.4).");
        let mount =
            |options: &str| format!("mount --types tmpfs --options nosuid,nodev,mode=0755{options} none \"$v\"");
        body.line(format!("{} 2>/dev/null ||", mount(",noswap")));
        body.line(format!("    {}", mount("")));
    }
    body.note(
        "The files are in a directory of this moment; ..data is a link to it. Who changes them makes another directory and \
         replaces the link: an application sees all of the old ones or all of the new ones.",
    );
    body.line("name=$(date +..%Y_%m_%d_%H_%M_%S.%N)");
    body.line("mkdir -- \"$v/$name\"");
    body.line("ln --symbolic -- \"$name\" \"$v/..data\"");
    let mut first: Vec<&str> = Vec::new();
    for file in &volume.files {
        let path = quote(&file.path)?;
        if let Some((parent, _)) = file.path.rsplit_once('/') {
            body.line(format!("mkdir --parents -- \"$v/$name\"/{}", quote(parent)?));
        }
        write(body, &format!("\"$v/$name\"/{path}"), &file.content)?;
        body.line(format!("chown {}:0 -- \"$v/$name\"/{path}", file.user));
        body.line(format!("chmod {:04o} -- \"$v/$name\"/{path}", file.mode & 0o777));
        let name = file.path.split('/').next().unwrap_or_default();
        if !first.contains(&name) {
            first.push(name);
        }
    }
    for name in first {
        body.line(format!("ln --symbolic -- {} \"$v\"/{}", quote(format!("..data/{name}"))?, quote(name)?));
    }
    Ok(())
}

/// Writes a file: as text where it is one.
pub(super) fn write(body: &mut Lines, path: &str, content: &[u8]) -> Result<()> {
    if content.contains(&0) {
        let text = STANDARD.encode(content);
        body.line(format!("base64 --decode <<<'{text}' >{path}"));
    } else {
        body.line(format!("printf '%s' {} >{path}", quote(content)?));
    }
    Ok(())
}

fn image_volume(body: &mut Lines, image: &ImageSpec) -> Result<()> {
    body.line("mkdir --parents -- \"$v\" \"$v.layers\"");
    layers(body, image, "\"$v.layers\"")?;
    if image.layers.len() == 1 {
        body.line("mount --bind -- \"$(realpath -- \"$v.layers/0\")\" \"$v\"");
        body.line("mount --make-private \"$v\"");
        body.line("restrict \"$v\" ro,nosuid,nodev,noexec");
        return Ok(());
    }
    let lower: Vec<String> = (0..image.layers.len()).rev().map(|number| number.to_string()).collect();
    body.line("mkdir --parents -- \"$v\"");
    body.line(format!(
        "(cd -- \"$v.layers\" && mount --types overlay --options nosuid,nodev,noexec,lowerdir={} overlay \"$v\")",
        lower.join(":")
    ));
    body.line("restrict \"$v\" ro");
    Ok(())
}

/// A link per layer, the lowest one being 0.
pub(super) fn layers(body: &mut Lines, image: &ImageSpec, into: &str) -> Result<()> {
    for (number, layer) in image.layers.iter().enumerate() {
        let layer = quote(layer.as_os_str().as_encoded_bytes())?;
        body.line(format!("ln --symbolic -- {layer} {into}/{number}"));
    }
    Ok(())
}

/// `fsGroup`
fn give(body: &mut Lines, volume: &VolumePlan, group: Option<FsGroup>) {
    let Some(group) = group else { return };
    let (access, policy) = match &volume.source {
        VolumeSource::HostPath { .. } | VolumeSource::Image { .. } => return,
        VolumeSource::Files(_) => (Access::ReadOnly, FsGroupChangePolicy::Always),
        VolumeSource::Claim { access, .. } => (*access, group.policy),
        VolumeSource::Ephemeral { .. } => (Access::ReadWrite, group.policy),
        VolumeSource::EmptyDir { .. } | VolumeSource::Memory { .. } | VolumeSource::HugePages { .. } => {
            (Access::ReadWrite, FsGroupChangePolicy::Always)
        }
    };
    let (files, directories) = match access {
        Access::ReadOnly => ("ug+r", "ug+rx,g+s"),
        Access::ReadWrite => ("ug+rw", "ug+rwx,g+s"),
    };
    let gid = group.gid;
    body.note(&format!(
        "fsGroup: everything in it belongs to group {gid}, which every container of the pod is in, and what is made in a \
         directory with the set-group-ID bit (g+s) does so too."
    ));
    let commands = [
        format!("chgrp --recursive --no-dereference -- {gid} \"$v\""),
        format!("find \"$v\" -xdev -type d -exec chmod {directories} {{}} +"),
        format!("find \"$v\" -xdev ! -type d ! -type l -exec chmod {files} {{}} +"),
    ];
    match policy {
        FsGroupChangePolicy::Always => commands.iter().for_each(|command| body.line(command)),
        FsGroupChangePolicy::OnRootMismatch => {
            body.line(format!("if [ \"$(stat --format=%g -- \"$v\")\" != {gid} ]; then"));
            commands.iter().for_each(|command| body.line(format!("    {command}")));
            body.line("fi");
        }
    }
}

/// The function `own_files`.
pub(super) fn own_files(script: &mut Lines, ground: Ground<'_>) -> Result<()> {
    let mut body = Lines::of_function();
    body.note("What containers may write of the host's memory is little: these file systems have a limit.");
    body.line("mkdir --mode=1777 -- \"$POD/shm\"");
    body.line("chmod 1777 -- \"$POD/shm\"");
    body.line("mount --types tmpfs --options nosuid,nodev,mode=1777,size=67108864 none \"$POD/shm\"");
    body.line("mkdir -- \"$POD/etc\"");
    body.line("mount --types tmpfs --options nosuid,nodev,mode=0755,size=16777216,nr_inodes=1024 none \"$POD/etc\"");
    body.note("How the pod's containers find names: files of podshim's, in the place of what their images have.");
    for (name, text) in ground.etc {
        write(&mut body, &format!("\"$POD/etc/{name}\""), text.as_bytes())?;
    }
    body.note("Something empty, to be put over directories that containers shall not see.");
    body.line("mkdir -- \"$POD/empty\"");
    body.line("mount --types tmpfs --options nosuid,nodev,noexec,nr_inodes=1 none \"$POD/empty\"");
    body.line("restrict \"$POD/empty\" ro");
    script.function("own_files", body);
    Ok(())
}
