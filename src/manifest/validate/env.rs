//! Rules for environment variables (pod-api.md §12, §15).
//!
//! Source: validateEnv, ValidateEnvFrom and validateEnvVarValueFrom in pkg/apis/core/validation of Kubernetes.

use super::super::defaults::containers;
use super::super::downward::{self, FieldPath};
use super::super::path::Path;
use super::super::syntax;
use super::{Checker, quote};
use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVarSource, FileKeySelector, ObjectFieldSelector, PodSpec, ResourceFieldSelector,
};

pub(super) fn check(c: &mut Checker<'_>, container: &Container, (spec, at): (&PodSpec, &Path)) {
    for (i, env) in container.env.iter().flatten().enumerate() {
        let at = at.field("env").index(i);
        c.grammar(&at.field("name"), (&env.name, syntax::env_name));
        let value = env.value.as_deref().unwrap_or("");
        c.grammar(&at.field("value"), (value, syntax::no_nul));
        let Some(source) = &env.value_from else { continue };
        let at = at.field("valueFrom");
        if !value.is_empty() {
            c.fault(&at, "a variable has a value or a valueFrom, not both");
        }
        value_from(c, source, (spec, &at));
    }
    for (i, source) in container.env_from.iter().flatten().enumerate() {
        env_from(c, source, &at.field("envFrom").index(i));
    }
}

fn value_from(c: &mut Checker<'_>, source: &EnvVarSource, (spec, at): (&PodSpec, &Path)) {
    c.one_source(
        at,
        &[
            ("fieldRef", source.field_ref.is_some()),
            ("resourceFieldRef", source.resource_field_ref.is_some()),
            ("configMapKeyRef", source.config_map_key_ref.is_some()),
            ("secretKeyRef", source.secret_key_ref.is_some()),
            ("fileKeyRef", source.file_key_ref.is_some()),
        ],
    );
    if let Some(field) = &source.field_ref {
        field_ref(c, field, (&at.field("fieldRef"), &FieldPath::IN_ENV, FieldPath::is_in_env));
    }
    if let Some(resource) = &source.resource_field_ref {
        resource_ref(c, resource, (spec, &at.field("resourceFieldRef")));
    }
    let keys = [
        ("configMapKeyRef", source.config_map_key_ref.as_ref().map(|r| (&r.name, &r.key))),
        ("secretKeyRef", source.secret_key_ref.as_ref().map(|r| (&r.name, &r.key))),
    ];
    for (field, (name, key)) in keys.into_iter().filter_map(|(field, r)| Some((field, r?))) {
        c.name(&at.field(field).field("name"), (name, syntax::dns_subdomain));
        c.grammar(&at.field(field).field("key"), (key, syntax::data_key));
    }
    if let Some(file) = &source.file_key_ref {
        file_ref(c, file, (spec, &at.field("fileKeyRef")));
    }
}

/// The paths that are allowed at a place, for a message and as a check.
type Allowed<'a> = (&'a Path, &'a [&'static str], fn(&FieldPath) -> bool);

pub(super) fn field_ref(c: &mut Checker<'_>, field: &ObjectFieldSelector, (at, known, allows): Allowed<'_>) {
    if let Some(version) = field.api_version.as_deref().filter(|v| !matches!(*v, "" | "v1")) {
        c.fault(&at.field("apiVersion"), format!("{} is not v1", quote(version)));
    }
    let path = at.field("fieldPath");
    if FieldPath::parse(&field.field_path).is_some_and(|parsed| allows(&parsed)) {
        return;
    }
    let near = super::hints::nearest(&field.field_path, known.iter().copied());
    let help = format!("one of {}", known.join(", "));
    c.fault_with(&path, format!("{} cannot be referred to here", quote(&field.field_path)), |d| match near {
        Some(near) => d.label(format!("did you mean `{near}`?")),
        None => d.help(help),
    });
}

pub(super) fn resource_ref(c: &mut Checker<'_>, resource: &ResourceFieldSelector, (spec, at): (&PodSpec, &Path)) {
    let names: Vec<&str> = containers(spec).map(|c| c.name.as_str()).collect();
    let name = resource.container_name.as_deref().filter(|name| !name.is_empty());
    if let Some(name) = name.filter(|name| !names.contains(name)) {
        let near = super::hints::nearest(name, names.iter().copied()).map(|near| format!("did you mean `{near}`?"));
        c.fault_with(&at.field("containerName"), format!("{} is not a container of this pod", quote(name)), |d| {
            d.label(near.unwrap_or_else(|| format!("its containers are {}", names.join(", "))))
        });
    }
    let path = at.field("resource");
    let Some((_, name)) = downward::resource(&resource.resource) else {
        let known = "limits or requests of cpu, memory, ephemeral-storage or hugepages-<size>, like limits.memory";
        c.fault_with(&path, format!("{} is not an amount of a resource", quote(&resource.resource)), |d| d.help(known));
        return;
    };
    if let Err(known) = downward::divisor(name, resource.divisor.as_ref()) {
        let written = resource.divisor.as_ref().map_or("", |d| d.0.as_str());
        c.fault(&at.field("divisor"), format!("{} is not {known}", quote(written)));
    }
}

fn file_ref(c: &mut Checker<'_>, file: &FileKeySelector, (spec, at): (&PodSpec, &Path)) {
    c.grammar(&at.field("path"), (&file.path, syntax::relative_path));
    c.grammar(&at.field("key"), (&file.key, syntax::env_name));
    let path = at.field("volumeName");
    if c.volumes_unclear {
        return;
    }
    match spec.volumes.iter().flatten().find(|volume| volume.name == file.volume_name) {
        None => {
            c.fault(&path, format!("{} is not the name of a volume in spec.volumes", quote(&file.volume_name)));
        }
        Some(volume) if volume.empty_dir.is_none() => c.fault(&path, "must be the name of an emptyDir"),
        Some(_) => {}
    }
}

fn env_from(c: &mut Checker<'_>, source: &EnvFromSource, at: &Path) {
    let prefix = source.prefix.as_deref().unwrap_or("");
    if !prefix.is_empty() {
        c.grammar(&at.field("prefix"), (prefix, syntax::env_name));
    }
    c.one_source(at, &[("configMapRef", source.config_map_ref.is_some()), ("secretRef", source.secret_ref.is_some())]);
    let names = [
        ("configMapRef", source.config_map_ref.as_ref().map(|r| &r.name)),
        ("secretRef", source.secret_ref.as_ref().map(|r| &r.name)),
    ];
    for (field, name) in names.into_iter().filter_map(|(field, name)| Some((field, name?))) {
        c.name(&at.field(field).field("name"), (name, syntax::dns_subdomain));
    }
}
