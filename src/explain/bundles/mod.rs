//! A plan as OCI bundles that other runtimes run (`crun run`, `runc run`), in one directory:
//!
//! | what | content |
//! |---|---|
//! | `<container>/config.json` | its OCI runtime spec |
//! | `<container>/rootfs/` | where `sandbox.sh up` mounts its root file system |
//! | `sandbox.sh` | makes what the containers share, and takes it away |
//! | `ns/`, `volumes/`, `etc/`, `shm/`, `termination/` | that |
//! | `layers/`, `containers/` | links to the images' layers; the containers' writable layers |
//!
//! What podshim's supervisor does for a pod (the order of starting, restarts, probes, hooks, logs, the network) is in no
//! bundle. What cannot be said in one is refused by its name.

mod refuse;
mod script;

use super::{Planned, PlannedContainer};
use crate::error::{Kind, failure};
use crate::network;
use crate::paths::{Dirs, PodDirs};
use crate::plan::config::{FilesMedium, FilesVolume, VolumePlan, VolumeSource};
use crate::snapshot;
use crate::sys::{Called, SysResult};
use crate::volumes;
use anyhow::{Context, Result};
use oci_spec::runtime::Spec;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The directories that a pod has in `to`, in the place of those in podshim's own directories.
pub fn pod_dirs(to: &Path) -> PodDirs {
    PodDirs { state: to.to_owned(), data: to.to_owned() }
}

/// Writes the bundles of a pod that was planned with [`pod_dirs`] of the absolute path `to`, which must not exist, or be an
/// empty directory: all or nothing.
///
/// # Errors
/// Of kind `Invalid` if something of the pod cannot be said in a bundle; of kind `NotFound` if an image is not here; of kind
/// `AlreadyExists` if there is something at `to`.
pub fn write(planned: &Planned, dirs: &Dirs, to: &Path) -> Result<()> {
    refuse::refuse(planned, to)?;
    let name = to.file_name().with_context(|| format!("{} has no name", to.display()))?;
    check_place(to)?;
    let mut new = OsString::from(".");
    new.push(name);
    new.push(format!(".{}", std::process::id()));
    let new = to.with_file_name(new);
    // For root alone: there are Secrets in it.
    fs::DirBuilder::new().mode(0o700).create(&new).called("mkdir", new.display())?;
    let written = fill(planned, dirs, (&new, to)).and_then(|()| {
        // In the place of an empty directory, too (rename(2)).
        Ok(fs::rename(&new, to).called("rename", format!("{} to {}", new.display(), to.display()))?)
    });
    if written.is_err() {
        // The error that matters is the first one.
        let _ = snapshot::remove_tree(&new);
    }
    written.with_context(|| format!("writing bundles to {}", to.display()))
}

fn check_place(to: &Path) -> Result<()> {
    let exists = |what: &str| Err(failure(Kind::AlreadyExists, format!("--to {}: {what}", to.display())));
    match fs::read_dir(to) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => exists("it exists and is no directory"),
        Err(error) => Err(error).called("opendir", to.display()).map_err(Into::into),
        Ok(entries) => match entries.count() {
            0 => Ok(()),
            _ => exists("the directory is not empty"),
        },
    }
}

/// Everything in the directory `new`, which is to be called `to`.
fn fill(planned: &Planned, dirs: &Dirs, (new, to): (&Path, &Path)) -> Result<()> {
    let sandbox = &planned.plan.sandbox;
    for container in &planned.containers {
        let bundle = new.join(&container.name);
        make(&bundle.join("rootfs"))?;
        write_spec(&spec(container, planned), &bundle.join("config.json"))?;
        let image = container.image.as_ref().context("an image is not here")?;
        link_layers(&image.layers, &new.join("layers").join(&container.name))?;
    }
    for volume in planned.volumes.iter().filter(|volume| !volume.layers.is_empty()) {
        link_layers(&volume.layers, &new.join("layers").join(script::of_volume(&volume.name)))?;
    }
    let pod = pod_dirs(new);
    // Without addresses: the script makes loopback only.
    network::write_files(sandbox, &pod, &[])?;
    write_volumes(planned, dirs, &pod)?;
    let path = new.join("sandbox.sh");
    fs::write(&path, script::script(planned, to)?).called("write", path.display())?;
    Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).called("chmod", path.display())?)
}

/// To be read by people, too.
fn write_spec(spec: &Spec, path: &Path) -> Result<()> {
    let text = serde_json::to_vec_pretty(spec).context("serializing the spec")?;
    Ok(fs::write(path, text).called("write", path.display())?)
}

fn make(path: &Path) -> SysResult<()> {
    fs::create_dir_all(path).called("mkdir", path.display())
}

/// Links `1`, `2`, … to the layers, lowest first: mount(8) has no room for many long paths.
fn link_layers(layers: &[PathBuf], directory: &Path) -> SysResult<()> {
    make(directory)?;
    for (index, layer) in layers.iter().enumerate() {
        let link = directory.join((index + 1).to_string());
        symlink(layer, &link).called("symlink", link.display())?;
    }
    Ok(())
}

/// The files that podshim itself makes are the same for every runtime: they are written now, and are all on disk.
fn write_volumes(planned: &Planned, dirs: &Dirs, pod: &PodDirs) -> Result<()> {
    let plan = &planned.plan;
    let images = BTreeMap::new();
    let namespace = &plan.sandbox.namespace;
    let place = volumes::Place { dirs, pod, namespace, images: &images, group: plan.fs_group };
    for volume in &plan.volumes {
        if let VolumeSource::Files(files) = &volume.source {
            let source = VolumeSource::Files(FilesVolume { medium: FilesMedium::Disk, ..files.clone() });
            volumes::materialize(&VolumePlan { source, ..volume.clone() }, place)?;
        }
    }
    Ok(())
}

/// The spec with what is elsewhere in a bundle: the root beside it, and a cgroup of which podshim's sweeping knows nothing.
fn spec(container: &PlannedContainer, planned: &Planned) -> Spec {
    let sandbox = &planned.plan.sandbox;
    let mut spec = container.spec.clone();
    // What newer versions have is of user namespaces; there are runtimes that take no version which they do not know.
    spec.set_version("1.1.0".to_owned());
    if let Some(root) = spec.root_mut() {
        root.set_path("rootfs".into());
    }
    if let Some(linux) = spec.linux_mut() {
        let parent = sandbox.cgroup.parent.trim_matches('/');
        let path = Path::new("/").join(parent).join(format!("bundle-{}-{}", container.name, sandbox.uid));
        linux.set_cgroups_path(Some(path));
    }
    let images: Vec<&PathBuf> = planned.volumes.iter().filter(|v| !v.layers.is_empty()).map(|v| &v.path).collect();
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let is_of_image = mount.source().as_ref().is_some_and(|source| images.iter().any(|i| source.starts_with(i)));
        if let Some(options) = mount.options_mut().as_mut().filter(|_| is_of_image) {
            // podshim keeps what the source's own mount forbids; others forbid only what is listed.
            options.push("noexec".to_owned());
        }
    }
    spec
}
