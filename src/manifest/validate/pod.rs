//! Rules for the pod as a whole.

use super::super::defaults::containers;
use super::super::path::Path;
use super::super::syntax;
use super::security::{self, MAX_ID};
use super::{Checker, container, lifecycle, network, quote, resources, volume};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A file name may have 255 bytes; that of a pod's log directory holds two `_` and a uid of 36 besides these names.
const MAX_NAMES: usize = 255 - 2 - 36;

pub(super) fn check(c: &mut Checker<'_>, pod: &Pod) {
    // A template's name is not the pods'.
    if c.at.0.is_empty() {
        metadata(c, pod);
    }
    c.labels(&pod.metadata, &Path::of("metadata"));
    let Some(spec) = &pod.spec else { return };
    let at = Path::of("spec");
    c.one_of(&at.field("restartPolicy"), (spec.restart_policy.as_deref(), &["Always", "OnFailure", "Never"]));
    if let Some(grace) = spec.termination_grace_period_seconds {
        c.between(&at.field("terminationGracePeriodSeconds"), (grace, 0, MAX_ID));
    }
    lifecycle::pod(c, spec, &at);
    namespaces(c, spec, &at);
    dns(c, spec, &at);
    security::pod(c, pod, (spec, &at));
    volume::check(c, spec);
    resources::pod(c, spec);
    network::annotations(c, pod);
    network::host_ports(c, spec);
    names(c, spec, &at);
    for (list, all) in
        [("initContainers", spec.init_containers.as_deref().unwrap_or(&[])), ("containers", &spec.containers)]
    {
        for (i, one) in all.iter().enumerate() {
            let at = at.field(list).index(i);
            container::check(c, one, (spec, &at));
            lifecycle::container(c, one, (spec, &at));
        }
    }
}

fn metadata(c: &mut Checker<'_>, pod: &Pod) {
    let at = Path::of("metadata");
    let name = pod.metadata.name.as_deref().unwrap_or("");
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
    c.name(&at.field("name"), (name, syntax::dns_subdomain));
    c.name(&at.field("namespace"), (namespace, syntax::dns_label));
    if name.len() + namespace.len() > MAX_NAMES && name.len() <= 253 && namespace.len() <= 63 {
        c.fault(
            &at.field("name"),
            format!("name and namespace together must have at most {MAX_NAMES} characters: they name a directory"),
        );
    }
}

fn namespaces(c: &mut Checker<'_>, spec: &PodSpec, at: &Path) {
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        c.fault(&at.field("shareProcessNamespace"), "cannot be true together with hostPID");
    }
    host_names(c, spec, at);
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let at = at.field("hostAliases").index(i);
        ip(c, &at.field("ip"), &alias.ip);
        for (j, hostname) in alias.hostnames.iter().flatten().enumerate() {
            c.name(&at.field("hostnames").index(j), (hostname, syntax::dns_subdomain));
        }
    }
}

/// `__NEW_UTS_LEN`, and the API's own limit of hostnameOverride.
const MAX_HOST_NAME: usize = 64;

fn host_names(c: &mut Checker<'_>, spec: &PodSpec, at: &Path) {
    for (field, name) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(name) = name.as_deref().filter(|name| !name.is_empty()) {
            c.name(&at.field(field), (name, syntax::dns_label));
        }
    }
    let Some(name) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) else { return };
    let path = at.field("hostnameOverride");
    c.name(&path, (name, syntax::dns_subdomain));
    if name.len() > MAX_HOST_NAME {
        c.fault(&path, format!("{} characters are more than {MAX_HOST_NAME}", name.len()));
    }
    for (field, set) in [("hostNetwork", spec.host_network), ("setHostnameAsFQDN", spec.set_hostname_as_fqdn)] {
        if set == Some(true) {
            c.fault(&at.field(field), "cannot be true together with hostnameOverride");
        }
    }
}

fn ip(c: &mut Checker<'_>, path: &Path, text: &str) {
    if text.parse::<IpAddr>().is_err() {
        c.fault(path, format!("{} is not an IP address", quote(text)));
    }
}

fn dns(c: &mut Checker<'_>, spec: &PodSpec, at: &Path) {
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    c.one_of(&at.field("dnsPolicy"), (spec.dns_policy.as_deref(), &policies));
    let config = spec.dns_config.as_ref();
    let nameservers = config.and_then(|d| d.nameservers.as_deref()).unwrap_or(&[]);
    if spec.dns_policy.as_deref() == Some("None") && nameservers.is_empty() {
        c.fault(&at.field("dnsPolicy"), "None needs at least one of spec.dnsConfig.nameservers");
    }
    let Some(config) = config else { return };
    let at = at.field("dnsConfig");
    if nameservers.len() > 3 {
        c.fault(&at.field("nameservers"), format!("{} nameservers are more than 3", nameservers.len()));
    }
    for (i, nameserver) in nameservers.iter().enumerate() {
        ip(c, &at.field("nameservers").index(i), nameserver);
    }
    let searches = config.searches.as_deref().unwrap_or(&[]);
    let length = searches.iter().map(|s| s.len() + 1).sum::<usize>().saturating_sub(1);
    if searches.len() > 32 || length > 2048 {
        c.fault(&at.field("searches"), "at most 32 domains with 2048 characters are possible");
    }
    for (i, search) in searches.iter().enumerate() {
        c.grammar(&at.field("searches").index(i), (search, syntax::search_domain));
    }
    for (i, option) in config.options.iter().flatten().enumerate() {
        let at = at.field("options").index(i);
        match option.name.as_deref() {
            None | Some("") => c.fault(&at.field("name"), "required, but missing"),
            Some(name) => c.grammar(&at.field("name"), (name, syntax::word)),
        }
        c.grammar(&at.field("value"), (option.value.as_deref().unwrap_or(""), syntax::word));
    }
}

fn names(c: &mut Checker<'_>, spec: &PodSpec, at: &Path) {
    let mut seen: BTreeMap<&str, Path> = BTreeMap::new();
    let init = spec.init_containers.as_ref().map_or(0, Vec::len);
    for (i, container) in containers(spec).enumerate() {
        let list = if i < init { at.field("initContainers").index(i) } else { at.field("containers").index(i - init) };
        let path = list.field("name");
        c.name(&path, (&container.name, syntax::dns_label));
        if let Some(first) = seen.get(container.name.as_str()) {
            c.twice(
                &path,
                (&first.clone(), format!("{} is the name of another container of this pod", quote(&container.name))),
            );
        } else {
            seen.insert(&container.name, path);
        }
    }
}
