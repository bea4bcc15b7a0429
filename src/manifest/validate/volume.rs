//! Rules for volumes.

use super::super::amounts;
use super::super::documents::claim;
use super::super::path::Path;
use super::super::quantity;
use super::super::syntax;
use super::super::tree::Value;
use super::{Checker, files, quote};
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodSpec};
use std::collections::BTreeMap;

/// What a hostPath may have to be; `""` is not checked.
const HOST_PATH_TYPES: [&str; 8] =
    ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];

pub(super) fn check(c: &mut Checker<'_>, spec: &PodSpec) {
    let list = Path::of("spec.volumes");
    let mut seen: BTreeMap<&str, Path> = BTreeMap::new();
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        let at = list.index(i);
        let path = at.field("name");
        c.name(&path, (&volume.name, syntax::dns_label));
        if let Some(first) = seen.get(volume.name.as_str()) {
            c.twice(
                &path,
                (&first.clone(), format!("{} is the name of another volume of this pod", quote(&volume.name))),
            );
        } else {
            seen.insert(&volume.name, path);
        }
        one_source(c, &at, i);
        if let Some(host_path) = &volume.host_path {
            let at = at.field("hostPath");
            c.grammar(&at.field("path"), (&host_path.path, syntax::absolute_path));
            c.one_of(&at.field("type"), (host_path.type_.as_deref(), &HOST_PATH_TYPES));
        }
        files::check(c, volume, (spec, &at));
        if let Some(claim) = &volume.persistent_volume_claim {
            let path = at.field("persistentVolumeClaim").field("claimName");
            c.name(&path, (&claim.claim_name, syntax::dns_subdomain));
        }
        if let Some(ephemeral) = &volume.ephemeral {
            let at = at.field("ephemeral").field("volumeClaimTemplate");
            // Without a template there is a fault already.
            if let Some(template) = &ephemeral.volume_claim_template {
                template.metadata.iter().for_each(|metadata| c.labels(metadata, &at.field("metadata")));
                claim::check(c, &template.spec, &at.field("spec"));
            }
        }
        if let Some(image) = &volume.image {
            let at = at.field("image");
            let reference = image.reference.as_deref().unwrap_or("");
            if !reference.is_empty() {
                c.grammar(&at.field("reference"), (reference, syntax::image));
            }
            let policies = ["Always", "IfNotPresent", "Never"];
            c.one_of(&at.field("pullPolicy"), (image.pull_policy.as_deref(), &policies));
        }
        if let Some(empty_dir) = &volume.empty_dir {
            empty(c, empty_dir, (spec, &at.field("emptyDir")));
        }
    }
}

fn one_source(c: &mut Checker<'_>, at: &Path, index: usize) {
    let volumes = c.document.get("spec").and_then(|s| s.get("volumes"));
    let Some(volume) = volumes.and_then(|v| v.items().get(index)) else { return };
    let is_source = |(key, node): &&(_, super::Node)| {
        let key: &super::super::tree::Key = key;
        key.name != "name" && node.value != Value::Null
    };
    let sources: Vec<String> = volume.entries().iter().filter(is_source).map(|(k, _)| k.name.clone()).collect();
    if sources.len() > 1 {
        c.fault(at, format!("a volume has one source, found {}: {}", sources.len(), sources.join(", ")));
    }
}

fn empty(c: &mut Checker<'_>, empty_dir: &EmptyDirVolumeSource, (spec, at): (&PodSpec, &Path)) {
    let medium = empty_dir.medium.as_deref().unwrap_or("");
    if medium.starts_with("HugePages") {
        huge_pages(c, medium, (spec, &at.field("medium")));
    } else {
        c.one_of(&at.field("medium"), (Some(medium), &["", "Memory", "HugePages"]));
    }
    if let Some(mode) = empty_dir.mode {
        let path = at.field("mode");
        if !(0..=0o1777).contains(&mode) {
            c.fault(&path, format!("{mode} is not between 0 and 01777 (1023)"));
        }
    }
    let Some(limit) = &empty_dir.size_limit else { return };
    let path = at.field("sizeLimit");
    match quantity::bytes(limit) {
        Err(error) => c.fault(&path, format!("{} is {error}", quote(&limit.0))),
        Ok(bytes) if bytes < 0 => c.fault(&path, format!("{} is negative", quote(&limit.0))),
        Ok(_) => {}
    }
}

/// Pages that nobody requests, nobody can use.
fn huge_pages(c: &mut Checker<'_>, medium: &str, (spec, path): (&PodSpec, &Path)) {
    // What cannot be read has its own fault.
    let Ok(requests) = amounts::pod_requests(spec) else { return };
    let requested: Vec<String> = requests.hugepages.keys().map(|size| amounts::hugepages_name(*size)).collect();
    match medium.strip_prefix("HugePages-") {
        Some(size) => {
            let resource = format!("{}{size}", amounts::HUGEPAGES);
            if !amounts::page_size(&resource).is_some_and(|size| requests.hugepages.contains_key(&size)) {
                c.fault(path, format!("{} needs a container that requests {}", quote(medium), quote(&resource)));
            }
        }
        None if medium != "HugePages" => {
            c.fault(path, format!("{} is none of \"\", Memory, HugePages, HugePages-<size>", quote(medium)));
        }
        None if requested.is_empty() => {
            c.fault(path, "HugePages needs a container that requests hugepages-<size>, like hugepages-2Mi");
        }
        None if requested.len() > 1 => {
            let message = format!("the pod requests {}: say which, as HugePages-<size>", requested.join(" and "));
            c.fault(path, message);
        }
        None => {}
    }
}
