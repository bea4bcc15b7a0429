//! Services: read and checked; nothing of the network is made of them yet.

use super::super::path::Path;
use super::super::syntax;
use super::super::validate::Checker;
use super::Content;
use super::objects::{Object, What};
use super::read::Subject;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use std::collections::BTreeMap;

const TYPES: [&str; 4] = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];

/// Reads a Service.
pub(super) fn service(subject: &mut Subject<'_>) -> Content {
    let service: Service = subject.typed(vec![]);
    let root = Path::root();
    let mut c = subject.checker(&root);
    if let Some(spec) = &service.spec {
        check(&mut c, spec);
    }
    let (namespace, name) = c.named(&service.metadata, syntax::dns_label);
    Content::Object(Object { namespace, name, what: What::Other })
}

fn check(c: &mut Checker<'_>, spec: &ServiceSpec) {
    let at = Path::of("spec");
    c.one_of(&at.field("type"), (spec.type_.as_deref(), &TYPES));
    for (key, value) in spec.selector.iter().flatten() {
        let path = at.field("selector").field(key);
        c.key_grammar(&path, (key, syntax::qualified_key));
        c.grammar(&path, (value, syntax::label_value));
    }
    let external = spec.type_.as_deref() == Some("ExternalName");
    if external && spec.external_name.as_deref().is_none_or(str::is_empty) {
        c.fault(&at.field("externalName"), "a Service of type ExternalName needs it");
    }
    let ports = spec.ports.as_deref().unwrap_or(&[]);
    let headless = spec.cluster_ip.as_deref() == Some("None");
    if ports.is_empty() && !external && !headless {
        c.fault(&at.field("ports"), "a Service needs at least one port");
    }
    let mut names: BTreeMap<&str, Path> = BTreeMap::new();
    for (i, port) in ports.iter().enumerate() {
        let at = at.field("ports").index(i);
        c.between(&at.field("port"), (port.port.into(), 1, 65535));
        c.one_of(&at.field("protocol"), (port.protocol.as_deref(), &["TCP", "UDP", "SCTP"]));
        let name = port.name.as_deref().unwrap_or("");
        let path = at.field("name");
        if name.is_empty() && ports.len() > 1 {
            c.fault(&path, "required where a Service has several ports");
        } else if !name.is_empty() {
            c.name(&path, (name, syntax::dns_label));
        }
        if let Some(first) = names.get(name).cloned().filter(|_| !name.is_empty()) {
            c.twice(&path, (&first, "is the name of another port of this Service".to_owned()));
        } else {
            names.insert(name, path);
        }
    }
}
