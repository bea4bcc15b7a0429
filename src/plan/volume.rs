//! `spec.volumes[]` (pod-api.md §16–18). Pure: what is in files that podshim makes is decided here, down to the byte.

use super::config::*;
use super::downward::Subject;
use super::resources;
use crate::manifest::{self, AdmittedPod, ConfigMapData, SecretData, amounts};
use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1 as k8s;
use std::collections::BTreeMap;
use std::path::PathBuf;

const DEFAULT_MODE: i32 = 0o644;

/// Plans a volume.
pub(super) fn volume(volume: &k8s::Volume, admitted: &AdmittedPod, subject: Subject<'_>) -> Result<VolumePlan> {
    let source = source(volume, admitted, subject).with_context(|| format!("volume {}", volume.name))?;
    Ok(VolumePlan { name: volume.name.clone(), source })
}

fn source(volume: &k8s::Volume, admitted: &AdmittedPod, subject: Subject<'_>) -> Result<VolumeSource> {
    if let Some(host) = &volume.host_path {
        let kind = host_path_type(host.type_.as_deref().unwrap_or(""))?;
        return Ok(VolumeSource::HostPath { path: PathBuf::from(&host.path), kind });
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        let access = if claim.read_only == Some(true) { Access::ReadOnly } else { Access::ReadWrite };
        return Ok(VolumeSource::Claim { name: claim.claim_name.clone(), access });
    }
    if volume.ephemeral.is_some() {
        let pod = subject.pod.metadata.name.as_deref().unwrap_or_default();
        return Ok(VolumeSource::Ephemeral { claim: manifest::ephemeral_claim(pod, &volume.name) });
    }
    if let Some(image) = &volume.image {
        let pull_policy = match (subject.choices.pull, image.pull_policy.as_deref()) {
            (Some(policy), _) => policy,
            (None, Some("Never")) => PullPolicy::Never,
            (None, Some("Always")) if admitted.volume_pull_policy_written(&volume.name) => PullPolicy::Always,
            (None, Some("Always")) => PullPolicy::AlwaysByDefault,
            (None, _) => PullPolicy::IfNotPresent,
        };
        let reference = image.reference.clone().unwrap_or_default();
        return Ok(VolumeSource::Image { reference, pull_policy, programs: Programs::Refused });
    }
    if let Some(files) = files(volume, admitted, subject)? {
        return Ok(VolumeSource::Files(files));
    }
    let empty = volume.empty_dir.clone().unwrap_or_default();
    let mode = empty.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o777);
    let size = empty.size_limit.as_ref().map(resources::bytes).transpose()?.filter(|b| *b > 0).map(|b| b as u64);
    Ok(match empty.medium.as_deref() {
        Some("Memory") => VolumeSource::Memory { size, mode },
        Some(medium) if medium.starts_with("HugePages") => {
            VolumeSource::HugePages { page_size: page_size(medium, subject.spec)?, size, mode }
        }
        _ => VolumeSource::EmptyDir { mode },
    })
}

/// The size that `HugePages-<size>` names; of `HugePages` the only one that the pod requests.
fn page_size(medium: &str, spec: &k8s::PodSpec) -> Result<u64> {
    let named = medium.strip_prefix("HugePages-").map(|size| format!("{}{size}", amounts::HUGEPAGES));
    let page_size = match named {
        Some(resource) => amounts::page_size(&resource),
        None => amounts::pod_requests(spec)?.hugepages.keys().next().copied(),
    };
    page_size.with_context(|| format!("no size of pages is known for the medium {medium}"))
}

/// A volume in memory is no larger than what the pod may have, or the host has (pod-api.md §18).
pub(super) fn bound_memory(volumes: &mut [VolumePlan], pod: resources::OfPod<'_>) -> Result<()> {
    let limit = amounts::pod_limits(pod.spec)?.memory.and_then(|bytes| u64::try_from(bytes).ok()).filter(|b| *b > 0);
    let most = limit.unwrap_or(u64::MAX).min(pod.host_memory);
    for volume in volumes {
        if let VolumeSource::Memory { size, .. } = &mut volume.source {
            *size = Some(size.unwrap_or(u64::MAX).min(most));
        }
    }
    Ok(())
}

fn host_path_type(name: &str) -> Result<HostPathType> {
    Ok(match name {
        "" => HostPathType::Unset,
        "DirectoryOrCreate" => HostPathType::DirectoryOrCreate,
        "Directory" => HostPathType::Directory,
        "FileOrCreate" => HostPathType::FileOrCreate,
        "File" => HostPathType::File,
        "Socket" => HostPathType::Socket,
        "CharDevice" => HostPathType::CharDevice,
        "BlockDevice" => HostPathType::BlockDevice,
        other => bail!("hostPath.type {other:?}"),
    })
}

/// A volume's files while they are collected: by path, so that a later source takes the place of an earlier one.
struct Collected<'a> {
    admitted: &'a AdmittedPod,
    subject: Subject<'a>,
    /// `defaultMode` and `defaultUser`
    defaults: (Option<i32>, Option<i64>),
    files: BTreeMap<String, VolumeFile>,
}

/// The files of a configMap, a secret, a downwardAPI or a projected volume; none of another one.
fn files(volume: &k8s::Volume, admitted: &AdmittedPod, subject: Subject<'_>) -> Result<Option<FilesVolume>> {
    let collected = |defaults| Collected { admitted, subject, defaults, files: BTreeMap::new() };
    let (medium, collected) = if let Some(map) = &volume.config_map {
        let mut files = collected((map.default_mode, map.default_user));
        files.config_map((&map.name, map.optional), map.items.as_deref())?;
        (FilesMedium::Disk, files)
    } else if let Some(secret) = &volume.secret {
        let mut files = collected((secret.default_mode, secret.default_user));
        let name = secret.secret_name.as_deref().unwrap_or("");
        files.secret((name, secret.optional), secret.items.as_deref())?;
        (FilesMedium::Memory, files)
    } else if let Some(downward) = &volume.downward_api {
        let mut files = collected((downward.default_mode, downward.default_user));
        files.downward(downward.items.as_deref())?;
        (FilesMedium::Memory, files)
    } else if let Some(projected) = &volume.projected {
        let mut files = collected((projected.default_mode, projected.default_user));
        for source in projected.sources.iter().flatten() {
            if let Some(map) = &source.config_map {
                files.config_map((&map.name, map.optional), map.items.as_deref())?;
            }
            if let Some(secret) = &source.secret {
                files.secret((&secret.name, secret.optional), secret.items.as_deref())?;
            }
            if let Some(downward) = &source.downward_api {
                files.downward(downward.items.as_deref())?;
            }
        }
        (FilesMedium::Memory, files)
    } else {
        return Ok(None);
    };
    Ok(Some(FilesVolume { medium, files: collected.finish()? }))
}

/// An object by name, and whether it may be missing.
type Wanted<'a> = (&'a str, Option<bool>);

impl Collected<'_> {
    fn config_map(&mut self, (name, optional): Wanted<'_>, items: Option<&[k8s::KeyToPath]>) -> Result<()> {
        let found = self.admitted.objects().config_map(self.admitted.namespace(), name);
        let Some(map) = found else { return missing("ConfigMap", (name, optional)) };
        let ConfigMapData { text, binary, .. } = map;
        let text = text.iter().map(|(key, text)| (key, text.as_bytes()));
        let content: BTreeMap<&String, &[u8]> = text.chain(binary.iter().map(|(key, b)| (key, b.as_slice()))).collect();
        self.keys(&content, items, (name, optional))
    }

    fn secret(&mut self, (name, optional): Wanted<'_>, items: Option<&[k8s::KeyToPath]>) -> Result<()> {
        let found = self.admitted.objects().secret(self.admitted.namespace(), name);
        let Some(SecretData { values, .. }) = found else { return missing("Secret", (name, optional)) };
        let content: BTreeMap<&String, &[u8]> = values.iter().map(|(key, value)| (key, value.as_slice())).collect();
        self.keys(&content, items, (name, optional))
    }

    /// The keys that items list, or all of them.
    fn keys(
        &mut self,
        content: &BTreeMap<&String, &[u8]>,
        items: Option<&[k8s::KeyToPath]>,
        (name, optional): Wanted<'_>,
    ) -> Result<()> {
        // An empty list is the same as none: Go's nil and [] are one.
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            for (key, bytes) in content {
                self.add(key, (None, None), bytes);
            }
            return Ok(());
        };
        for item in items {
            match content.get(&item.key) {
                Some(bytes) => self.add(&item.path, (item.mode, item.user), bytes),
                None if optional == Some(true) => {}
                None => bail!("{name} references non-existent config key: {}", item.key),
            }
        }
        Ok(())
    }

    fn downward(&mut self, items: Option<&[k8s::DownwardAPIVolumeFile]>) -> Result<()> {
        for item in items.into_iter().flatten() {
            let text = if let Some(field) = &item.field_ref {
                self.subject.content(field)
            } else {
                let resource = item.resource_field_ref.as_ref().context("an admitted item has a source")?;
                self.subject.amount(resource, None)
            };
            let text = text.with_context(|| format!("file {}", item.path))?;
            self.add(&item.path, (item.mode, item.user), text.as_bytes());
        }
        Ok(())
    }

    fn add(&mut self, path: &str, (mode, user): (Option<i32>, Option<i64>), content: &[u8]) {
        let (default_mode, default_user) = self.defaults;
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let path = parts.join("/");
        let file = VolumeFile {
            mode: mode.or(default_mode).unwrap_or(DEFAULT_MODE) as u32 & 0o777,
            user: user.or(default_user).and_then(|user| u32::try_from(user).ok()).unwrap_or(0),
            content: content.to_vec(),
            path: path.clone(),
        };
        self.files.insert(path, file);
    }

    /// The files in the order of their paths.
    fn finish(self) -> Result<Vec<VolumeFile>> {
        for path in self.files.keys() {
            let above = path.match_indices('/').map(|(i, _)| &path[..i]);
            for directory in above {
                ensure!(!self.files.contains_key(directory), "{directory} would be a file and a directory");
            }
        }
        Ok(self.files.into_values().collect())
    }
}

fn missing(kind: &str, (name, optional): Wanted<'_>) -> Result<()> {
    ensure!(optional == Some(true), "there is no {kind} {name}");
    Ok(())
}
