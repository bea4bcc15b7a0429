//! A container's variables, from the manifest and from the objects that came with it (pod-api.md §12). Pure.

use super::config::{EnvValue, EnvVar, FileKey, Presence};
use super::downward::Subject;
use crate::manifest::Objects;
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1 as k8s;

/// What `envFrom` and then `env` come to, in the order in which later ones win. An optional one that is missing is left out.
pub(super) fn variables(container: &k8s::Container, subject: Subject<'_>, objects: &Objects) -> Result<Vec<EnvVar>> {
    let namespace = subject.pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut list = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or("");
        let named = |key: &str, text: String| EnvVar { name: format!("{prefix}{key}"), value: EnvValue::Text(text) };
        if let Some(map) = &source.config_map_ref
            && let Some(found) = found(objects.config_map(namespace, &map.name), map.optional, &map.name)?
        {
            list.extend(found.text.iter().map(|(key, text)| named(key, text.clone())));
        }
        if let Some(secret) = &source.secret_ref
            && let Some(found) = found(objects.secret(namespace, &secret.name), secret.optional, &secret.name)?
        {
            for (key, value) in &found.values {
                list.push(named(key, text(value, key)?));
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let name = variable.name.clone();
        let value = match &variable.value_from {
            None => Some(EnvValue::Template(variable.value.clone().unwrap_or_default())),
            Some(source) => value_from(source, container, (subject, objects)).with_context(|| format!("env {name}"))?,
        };
        list.extend(value.map(|value| EnvVar { name, value }));
    }
    Ok(list)
}

fn value_from(
    source: &k8s::EnvVarSource,
    container: &k8s::Container,
    (subject, objects): (Subject<'_>, &Objects),
) -> Result<Option<EnvValue>> {
    let namespace = subject.pod.metadata.namespace.as_deref().unwrap_or("default");
    if let Some(field) = &source.field_ref {
        return subject.variable(field).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return subject.amount(resource, Some(container)).map(|amount| Some(EnvValue::Text(amount)));
    }
    if let Some(wanted) = &source.config_map_key_ref {
        let map = found(objects.config_map(namespace, &wanted.name), wanted.optional, &wanted.name)?;
        let value = map.and_then(|map| map.text.get(&wanted.key));
        return Ok(found(value, wanted.optional, &wanted.key)?.cloned().map(EnvValue::Text));
    }
    if let Some(wanted) = &source.secret_key_ref {
        let secret = found(objects.secret(namespace, &wanted.name), wanted.optional, &wanted.name)?;
        let value = secret.and_then(|secret| secret.values.get(&wanted.key));
        let value = found(value, wanted.optional, &wanted.key)?;
        return value.map(|value| text(value, &wanted.key).map(EnvValue::Text)).transpose();
    }
    let file = source.file_key_ref.as_ref().context("an admitted valueFrom has a source")?;
    Ok(Some(EnvValue::File(FileKey {
        volume: file.volume_name.clone(),
        path: file.path.clone(),
        key: file.key.clone(),
        presence: if file.optional == Some(true) { Presence::Optional } else { Presence::Required },
    })))
}

/// Validation found what is required; this says so where it did not.
fn found<'t, T>(value: Option<&'t T>, optional: Option<bool>, name: &str) -> Result<Option<&'t T>> {
    anyhow::ensure!(value.is_some() || optional == Some(true), "{name:?} is missing");
    Ok(value)
}

fn text(value: &[u8], key: &str) -> Result<String> {
    String::from_utf8(value.to_vec()).map_err(|_| anyhow::anyhow!("the value of the key {key:?} is not text"))
}
