//! `volumeMounts[]` (pod-api.md §16). Pure.

use super::config::{Access, BindOption, KeyValue, MountPropagation, Submounts, VolumeMount};
use super::env;
use crate::error::{Kind, failure};
use crate::manifest;
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1 as k8s;

/// A container's mounts, in the manifest's order.
pub(super) fn of(container: &k8s::Container) -> Result<Vec<VolumeMount>> {
    let list = container.volume_mounts.iter().flatten().enumerate();
    list.map(|(index, one)| mount(one).with_context(|| format!("volumeMounts[{index}]"))).collect()
}

/// The mounts of a container that starts: `envs` are its variables by now.
///
/// # Errors
/// Of kind `Invalid`: a `subPathExpr` names a variable that is missing or empty, or comes to a path that may not be.
pub fn expanded(mounts: &[VolumeMount], envs: &[KeyValue]) -> Result<Vec<VolumeMount>> {
    let expand = |(index, mount): (usize, &VolumeMount)| -> Result<VolumeMount> {
        let Some(text) = &mount.sub_path_expr else { return Ok(mount.clone()) };
        let sub_path =
            sub_path_expr(text, envs).context("subPathExpr").with_context(|| format!("volumeMounts[{index}]"))?;
        Ok(VolumeMount { sub_path, sub_path_expr: None, ..mount.clone() })
    };
    mounts.iter().enumerate().map(expand).collect()
}

fn mount(mount: &k8s::VolumeMount) -> Result<VolumeMount> {
    let access = if mount.read_only == Some(true) { Access::ReadOnly } else { Access::ReadWrite };
    Ok(VolumeMount {
        volume: mount.name.clone(),
        sub_path: mount.sub_path.clone().unwrap_or_default(),
        sub_path_expr: mount.sub_path_expr.clone().filter(|text| !text.is_empty()),
        // A relative mountPath is taken from the root, as every CRI runtime does.
        container_path: format!("/{}", mount.mount_path.trim_matches('/')),
        access,
        // Every kernel that podshim runs on has mount_setattr(2): what is possible is always done.
        submounts: match mount.recursive_read_only.as_deref() {
            Some("IfPossible" | "Enabled") if access == Access::ReadOnly => Submounts::ReadOnly,
            _ => Submounts::Unchanged,
        },
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => MountPropagation::HostToContainer,
            Some("Bidirectional") => MountPropagation::Bidirectional,
            _ => MountPropagation::None,
        },
        options: mount.bind_mount_options.iter().flatten().map(|word| option(word)).collect::<Result<_>>()?,
    })
}

fn option(word: &str) -> Result<BindOption> {
    let all = [BindOption::NoExec, BindOption::NoDev, BindOption::NoSuid];
    let known = all.into_iter().find(|option| option.word() == word);
    known.with_context(|| format!("bindMountOptions: {word:?} is none of noexec, nodev, nosuid"))
}

/// Expands a `subPathExpr`. A variable that is missing or empty is an error, in the kubelet's words: the volume's root, or
/// another pod's directory, would be mounted in the place of this one's. What comes out is held to the rules of `subPath`
/// again, as a variable's value is not checked for them.
fn sub_path_expr(text: &str, envs: &[KeyValue]) -> Result<String> {
    let missing: Vec<&str> = env::references(text)
        .filter(|name| envs.iter().rev().find(|pair| pair.key == *name).is_none_or(|pair| pair.value.is_empty()))
        .collect();
    if !missing.is_empty() {
        return Err(failure(Kind::Invalid, format!("missing value for {}", missing.join(", "))));
    }
    let path = env::expand(text, envs)?;
    match manifest::relative_path(&path) {
        Ok(()) => Ok(path),
        Err(rule) => Err(failure(Kind::Invalid, format!("{text:?} is {path:?}, which {rule}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> KeyValue {
        KeyValue { key: key.into(), value: value.into() }
    }

    #[test]
    fn s16_sub_path_expr() {
        let envs = [pair("POD", "web-1"), pair("UP", "../up"), pair("ROOT", "/etc"), pair("EMPTY", "")];
        let rows = [
            ("known", "logs/$(POD)", Ok("logs/web-1")),
            ("no variable", "logs", Ok("logs")),
            ("escaped", "$$(POD)", Ok("$(POD)")),
            ("missing", "$(NONE)/a", Err("missing value for NONE")),
            ("empty", "a/$(EMPTY)", Err("missing value for EMPTY")),
            ("two missing", "$(X)$(Y)", Err("missing value for X, Y")),
            ("out of the volume", "a/$(UP)", Err("must not hold `..`")),
            ("absolute", "$(ROOT)", Err("must be a relative path")),
        ];
        for (name, text, expected) in rows {
            match (sub_path_expr(text, &envs), expected) {
                (Ok(path), Ok(wanted)) => assert_eq!(path, wanted, "{name}"),
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{name}: {error}"),
                (result, _) => panic!("{name}: {result:?}"),
            }
        }
    }

    #[test]
    fn s16_recursive_read_only_needs_a_read_only_mount() {
        let of = |read_only, depth: Option<&str>| {
            let written = k8s::VolumeMount {
                name: "v".into(),
                mount_path: "/v".into(),
                read_only,
                recursive_read_only: depth.map(str::to_owned),
                bind_mount_options: Some(vec!["nosuid".into(), "noexec".into()]),
                ..Default::default()
            };
            mount(&written).unwrap()
        };
        assert_eq!(of(Some(true), Some("IfPossible")).submounts, Submounts::ReadOnly);
        assert_eq!(of(Some(true), Some("Enabled")).submounts, Submounts::ReadOnly);
        assert_eq!(of(Some(true), Some("Disabled")).submounts, Submounts::Unchanged);
        assert_eq!(of(Some(true), None).submounts, Submounts::Unchanged);
        assert_eq!(of(None, Some("Enabled")).submounts, Submounts::Unchanged);
        assert_eq!(of(None, None).options, [BindOption::NoSuid, BindOption::NoExec]);
    }
}
