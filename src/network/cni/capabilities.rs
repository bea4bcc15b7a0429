//! What of a pod is told to plugins that say they can do something about it: `capabilities` and `runtimeConfig` (CNI's
//! CONVENTIONS.md).

use super::config::{NetworkConfig, Object};
use crate::error::{Kind, failure};
use crate::plan::config::{Bandwidth, ContainerPort, PodSandboxConfig};
use anyhow::Result;
use serde_json::{Value, json};

/// Leads ports of the host to the pod.
const PORT_MAPPINGS: &str = "portMappings";
/// Limits its traffic.
const BANDWIDTH: &str = "bandwidth";
/// Knows its resolver settings.
const DNS: &str = "dns";

/// What there is to be said of a pod: an entry for each capability. What a pod must have is refused if no plugin has the
/// capability, as nobody would perform it.
pub(super) fn of(pod: &PodSandboxConfig, network: &NetworkConfig) -> Result<Object> {
    let mut all = Object::new();
    let has = |name: &str| network.plugins.iter().any(|plugin| plugin.has_capability(name));
    let require = |name: &str, what: String| {
        if has(name) {
            return Ok(());
        }
        let message = format!(
            "{what} needs a CNI plugin with the capability {name:?}, and network {} ({}) has none",
            network.name,
            network.file.display()
        );
        Err(failure(Kind::Invalid, message))
    };
    let mappings: Vec<Value> = pod.ports.iter().filter_map(mapping).collect();
    if let Some(first) = mappings.first() {
        require(PORT_MAPPINGS, format!("hostPort {}", first["hostPort"]))?;
        all.insert(PORT_MAPPINGS.into(), Value::Array(mappings));
    }
    if pod.bandwidth != Bandwidth::default() {
        require(BANDWIDTH, "a limit of bandwidth (metadata.annotations)".into())?;
        all.insert(BANDWIDTH.into(), bandwidth(pod.bandwidth));
    }
    let dns = &pod.dns;
    if !(dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty()) {
        // Not required: the pod's resolv.conf says it in any case.
        let value = json!({ "servers": dns.servers, "searches": dns.searches, "options": dns.options });
        all.insert(DNS.into(), value);
    }
    Ok(all)
}

fn mapping(port: &ContainerPort) -> Option<Value> {
    let mut mapping = json!({
        "hostPort": port.host_port?,
        "containerPort": port.container_port,
        "protocol": port.protocol.as_str().to_ascii_lowercase(),
    });
    if let Some(address) = port.host_ip {
        mapping["hostIP"] = json!(address);
    }
    Some(mapping)
}

/// Rates in bits per second, bursts in bits.
fn bandwidth(limits: Bandwidth) -> Value {
    let mut value = Object::new();
    for (direction, rate) in [("ingress", limits.ingress), ("egress", limits.egress)] {
        if let Some(rate) = rate {
            value.insert(format!("{direction}Rate"), rate.into());
            value.insert(format!("{direction}Burst"), burst(rate).into());
        }
    }
    Value::Object(value)
}

/// What may go through at once: the tenth of a second, and at least two of the largest packets that the kernel makes before it
/// segments them (64 KiB each). The plugin takes fewer than 2³² bytes; container runtimes that give it nearly as much have
/// slow pods transfer half a gigabyte unlimited.
fn burst(rate: u64) -> u64 {
    const LEAST: u64 = 2 * (64 << 10) * 8;
    const MOST: u64 = u32::MAX as u64;
    (rate / 10).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::cni::tests::sandbox_config;
    use crate::plan::network::Protocol;

    fn network(capabilities: Value) -> NetworkConfig {
        serde_json::from_value(json!({ "file": "/etc/cni/net.d/1.conflist", "name": "n", "versions": ["1.0.0"],
            "disable_check": false, "disable_gc": false,
            "plugins": [{ "kind": "a", "config": {} }, { "kind": "b", "config": { "capabilities": capabilities } }] }))
        .unwrap()
    }

    #[test]
    fn ports_bandwidth_and_resolver_settings_are_told() {
        let mut pod = sandbox_config("uid");
        let port = |host_port, protocol, host_ip: Option<&str>| ContainerPort {
            name: None,
            container_port: 80,
            protocol,
            host_port,
            host_ip: host_ip.map(|text| text.parse().unwrap()),
        };
        pod.ports = vec![
            port(None, Protocol::Tcp, None),
            port(Some(8080), Protocol::Tcp, None),
            port(Some(53), Protocol::Udp, Some("10.0.0.1")),
        ];
        pod.bandwidth = Bandwidth { ingress: Some(1_000_000_000), egress: Some(1000) };
        pod.dns.searches = vec!["a.example".into()];
        let all = of(&pod, &network(json!({ "portMappings": true, "bandwidth": true }))).unwrap();
        assert_eq!(
            Value::Object(all),
            json!({
                "portMappings": [
                    { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
                    { "hostPort": 53, "containerPort": 80, "protocol": "udp", "hostIP": "10.0.0.1" },
                ],
                "bandwidth": { "ingressRate": 1_000_000_000, "ingressBurst": 100_000_000,
                    "egressRate": 1000, "egressBurst": 1_048_576 },
                "dns": { "servers": [], "searches": ["a.example"], "options": [] },
            })
        );
    }

    #[test]
    fn what_no_plugin_can_do_is_refused() {
        let mut pod = sandbox_config("uid");
        assert!(of(&pod, &network(json!({}))).unwrap().is_empty());
        pod.bandwidth.egress = Some(1000);
        let error = of(&pod, &network(json!({ "bandwidth": false }))).unwrap_err().to_string();
        assert!(
            error.contains("capability \"bandwidth\", and network n (/etc/cni/net.d/1.conflist) has none"),
            "{error}"
        );
    }
}
