//! Rules for ports, and for what annotations say of the network.

use super::super::path::Path;
use super::super::{NETWORK_ANNOTATION, quantity, syntax};
use super::{Checker, quote};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The bounds of bandwidth annotations, in bits per second (kubelet, `pkg/util/bandwidth`): 1k and 1P.
const BANDWIDTH: (i64, i64) = (1000, 1_000_000_000_000_000);

/// What the annotations say.
pub(super) fn annotations(c: &mut Checker<'_>, pod: &Pod) {
    for (key, value) in pod.metadata.annotations.iter().flatten() {
        let path = Path::of("metadata.annotations").field(key);
        match key.as_str() {
            NETWORK_ANNOTATION => c.one_of(&path, (Some(value), &["bridge", "none", "cni"])),
            "kubernetes.io/ingress-bandwidth" | "kubernetes.io/egress-bandwidth" => {
                match quantity::bytes(&Quantity(value.clone())) {
                    Ok(bits) if (BANDWIDTH.0..=BANDWIDTH.1).contains(&bits) => {}
                    Ok(_) => c.fault(&path, "must be between 1k and 1P bits per second"),
                    Err(error) => c.fault(&path, error.to_string()),
                }
            }
            _ => {}
        }
    }
}

/// The ports of one container.
pub(super) fn ports(c: &mut Checker<'_>, container: &Container, (spec, at): (&PodSpec, &Path)) {
    let mut names: BTreeMap<&str, Path> = BTreeMap::new();
    for (i, port) in container.ports.iter().flatten().enumerate() {
        let at = at.field("ports").index(i);
        c.between(&at.field("containerPort"), (port.container_port.into(), 1, 65535));
        c.one_of(&at.field("protocol"), (port.protocol.as_deref(), &["TCP", "UDP", "SCTP"]));
        if let Some(host_port) = port.host_port {
            c.between(&at.field("hostPort"), (host_port.into(), 0, 65535));
        }
        if spec.host_network == Some(true) && port.host_port.is_some_and(|p| p != port.container_port) {
            c.fault(&at.field("hostPort"), "must equal containerPort, because the pod uses the host's network");
        }
        if let Some(ip) = port.host_ip.as_deref().filter(|text| !text.is_empty()) {
            let path = at.field("hostIP");
            if ip.parse::<IpAddr>().is_err() {
                c.fault(&path, format!("{} is no IP address", quote(ip)));
            } else if port.host_port.unwrap_or(0) == 0 {
                c.fault(&path, "has no effect without hostPort");
            }
        }
        let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) else { continue };
        let path = at.field("name");
        c.name(&path, (name, syntax::port_name));
        if let Some(first) = names.get(name) {
            c.twice(&path, (&first.clone(), format!("{} is the name of another port of this container", quote(name))));
        } else {
            names.insert(name, path);
        }
    }
}

/// No two containers of a pod have the same port of the host: sidecars run beside app containers, so theirs count too.
pub(super) fn host_ports(c: &mut Checker<'_>, spec: &PodSpec) {
    let mut taken: BTreeMap<(i32, String, String), Path> = BTreeMap::new();
    let at = Path::of("spec");
    let sidecars = spec.init_containers.iter().flatten().enumerate();
    let sidecars = sidecars.filter(|(_, one)| one.restart_policy.as_deref() == Some("Always"));
    let sidecars = sidecars.map(|(i, one)| (at.field("initContainers").index(i), one));
    let apps = spec.containers.iter().enumerate().map(|(i, one)| (at.field("containers").index(i), one));
    for (at, container) in sidecars.chain(apps) {
        for (i, port) in container.ports.iter().flatten().enumerate() {
            let Some(number) = port.host_port.filter(|number| *number != 0) else { continue };
            let written = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
            let protocol = written(&port.protocol).unwrap_or_else(|| "TCP".into());
            let path = at.field("ports").index(i).field("hostPort");
            let key = (number, protocol.clone(), written(&port.host_ip).unwrap_or_default());
            match taken.get(&key) {
                Some(first) => {
                    c.twice(
                        &path,
                        (&first.clone(), format!("{number}/{protocol} is the host port of another port too")),
                    );
                }
                None => {
                    taken.insert(key, path);
                }
            }
        }
    }
}
