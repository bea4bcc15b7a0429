//! Rules for volumes whose files podshim makes: configMap, secret, downwardAPI, projected.
//!
//! Source: validateConfigMapVolumeSource and its neighbours in pkg/apis/core/validation of Kubernetes.

use super::super::downward::FieldPath;
use super::super::path::Path;
use super::super::syntax;
use super::security::MAX_ID;
use super::{Checker, env};
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, PodSpec, ProjectedVolumeSource, Volume};
use std::collections::BTreeMap;

const MAX_MODE: i32 = 0o777;

/// Where each path of a volume is written.
type Paths = BTreeMap<String, Path>;

pub(super) fn check(c: &mut Checker<'_>, volume: &Volume, (spec, at): (&PodSpec, &Path)) {
    let mut paths = Paths::new();
    if let Some(map) = &volume.config_map {
        let at = at.field("configMap");
        c.name(&at.field("name"), (&map.name, syntax::dns_subdomain));
        owner(c, (map.default_mode, map.default_user), (&at, "defaultMode", "defaultUser"));
        items(c, map.items.as_deref(), (&at, &mut paths));
    }
    if let Some(secret) = &volume.secret {
        let at = at.field("secret");
        c.name(&at.field("secretName"), (secret.secret_name.as_deref().unwrap_or(""), syntax::dns_subdomain));
        owner(c, (secret.default_mode, secret.default_user), (&at, "defaultMode", "defaultUser"));
        items(c, secret.items.as_deref(), (&at, &mut paths));
    }
    if let Some(downward) = &volume.downward_api {
        let at = at.field("downwardAPI");
        owner(c, (downward.default_mode, downward.default_user), (&at, "defaultMode", "defaultUser"));
        fields(c, downward.items.as_deref(), (spec, &at, &mut paths));
    }
    if let Some(projected) = &volume.projected {
        let at = at.field("projected");
        owner(c, (projected.default_mode, projected.default_user), (&at, "defaultMode", "defaultUser"));
        sources(c, projected, (spec, &at, &mut paths));
    }
}

fn sources(c: &mut Checker<'_>, projected: &ProjectedVolumeSource, (spec, at, paths): (&PodSpec, &Path, &mut Paths)) {
    for (i, source) in projected.sources.iter().flatten().enumerate() {
        let at = at.field("sources").index(i);
        c.one_source(
            &at,
            &[
                ("configMap", source.config_map.is_some()),
                ("secret", source.secret.is_some()),
                ("downwardAPI", source.downward_api.is_some()),
                // These are refused by name.
                ("serviceAccountToken", source.service_account_token.is_some()),
                ("clusterTrustBundle", source.cluster_trust_bundle.is_some()),
                ("podCertificate", source.pod_certificate.is_some()),
            ],
        );
        if let Some(map) = &source.config_map {
            let at = at.field("configMap");
            c.name(&at.field("name"), (&map.name, syntax::dns_subdomain));
            items(c, map.items.as_deref(), (&at, paths));
        }
        if let Some(secret) = &source.secret {
            let at = at.field("secret");
            c.name(&at.field("name"), (&secret.name, syntax::dns_subdomain));
            items(c, secret.items.as_deref(), (&at, paths));
        }
        if let Some(downward) = &source.downward_api {
            fields(c, downward.items.as_deref(), (spec, &at.field("downwardAPI"), paths));
        }
    }
}

fn items(c: &mut Checker<'_>, items: Option<&[KeyToPath]>, (at, paths): (&Path, &mut Paths)) {
    for (i, item) in items.into_iter().flatten().enumerate() {
        let at = at.field("items").index(i);
        c.grammar(&at.field("key"), (&item.key, syntax::data_key));
        owner(c, (item.mode, item.user), (&at, "mode", "user"));
        file(c, &item.path, (&at.field("path"), paths));
    }
}

fn fields(
    c: &mut Checker<'_>,
    items: Option<&[DownwardAPIVolumeFile]>,
    (spec, at, paths): (&PodSpec, &Path, &mut Paths),
) {
    for (i, item) in items.into_iter().flatten().enumerate() {
        let at = at.field("items").index(i);
        owner(c, (item.mode, item.user), (&at, "mode", "user"));
        file(c, &item.path, (&at.field("path"), paths));
        c.one_source(
            &at,
            &[("fieldRef", item.field_ref.is_some()), ("resourceFieldRef", item.resource_field_ref.is_some())],
        );
        if let Some(field) = &item.field_ref {
            env::field_ref(c, field, (&at.field("fieldRef"), &FieldPath::IN_VOLUME, FieldPath::is_in_volume));
        }
        if let Some(resource) = &item.resource_field_ref {
            let at = at.field("resourceFieldRef");
            if resource.container_name.as_deref().is_none_or(str::is_empty) {
                c.fault(&at.field("containerName"), "required in a volume, which belongs to no container");
            }
            env::resource_ref(c, resource, (spec, &at));
        }
    }
}

fn owner(
    c: &mut Checker<'_>,
    (mode, user): (Option<i32>, Option<i64>),
    (at, mode_field, user_field): (&Path, &str, &str),
) {
    if let Some(mode) = mode.filter(|mode| !(0..=MAX_MODE).contains(mode)) {
        let help = "in YAML modes are octal if they begin with 0: 0644; in JSON they are decimal: 420";
        let message = format!("{mode} is not between 0 and {MAX_MODE} (0777)");
        c.fault_with(&at.field(mode_field), message, |d| d.help(help));
    }
    if let Some(user) = user {
        c.between(&at.field(user_field), (user, 0, MAX_ID));
    }
}

/// A path of a file, which no other entry may have, as a file or as a directory.
fn file(c: &mut Checker<'_>, path: &str, (at, paths): (&Path, &mut Paths)) {
    c.grammar(at, (path, syntax::volume_path));
    let normal = syntax::normal_path(path);
    let below = |outer: &str, inner: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
    if let Some(first) = paths.get(&normal) {
        c.twice(at, (&first.clone(), format!("{} is the path of another file of this volume", super::quote(path))));
        return;
    }
    if let Some((_, first)) = paths.iter().find(|(other, _)| below(other, &normal) || below(&normal, other)) {
        c.twice(at, (&first.clone(), "a file and a directory of this volume have the same path".to_owned()));
        return;
    }
    paths.insert(normal, at.clone());
}
