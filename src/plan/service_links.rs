//! The variables by which a pod's containers know the Services of its namespace: Kubernetes' own, and those that Docker's
//! links had. Pure. Source: pkg/kubelet/envvars and getServiceEnvVarMap in pkg/kubelet/kubelet_pods.go.

use super::config::{EnvValue, EnvVar};
use k8s_openapi::api::core::v1 as k8s;
use std::net::IpAddr;

/// The variables for the Services of a namespace that have a cluster IP, by the Services' names.
pub(super) fn variables(services: &[k8s::Service], namespace: &str) -> Vec<EnvVar> {
    let is_of = |service: &&k8s::Service| service.metadata.namespace.as_deref().unwrap_or("default") == namespace;
    let mut of_pod: Vec<&k8s::Service> = services.iter().filter(is_of).collect();
    of_pod.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    of_pod.into_iter().flat_map(of_service).collect()
}

/// None of a headless Service, one of type ExternalName, and one that has no address yet.
fn of_service(service: &k8s::Service) -> Vec<EnvVar> {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let spec = service.spec.as_ref();
    let address = spec.and_then(|spec| spec.cluster_ip.as_deref()?.parse::<IpAddr>().ok());
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let (Some(address), Some(first)) = (address, ports.first()) else { return Vec::new() };
    let prefix = in_capitals(name);
    let variable = |name: String, text: String| EnvVar { name, value: EnvValue::Text(text) };
    let mut list = vec![
        variable(format!("{prefix}_SERVICE_HOST"), address.to_string()),
        variable(format!("{prefix}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            list.push(variable(format!("{prefix}_SERVICE_PORT_{}", in_capitals(name)), port.port.to_string()));
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("TCP");
        let scheme = protocol.to_lowercase();
        let url = format!("{scheme}://{}", joined(address, port.port));
        if index == 0 {
            // Docker had one variable for the first port.
            list.push(variable(format!("{prefix}_PORT"), url.clone()));
        }
        let of_port = format!("{prefix}_PORT_{}_{protocol}", port.port);
        list.push(variable(of_port.clone(), url));
        list.push(variable(format!("{of_port}_PROTO"), scheme));
        list.push(variable(format!("{of_port}_PORT"), port.port.to_string()));
        list.push(variable(format!("{of_port}_ADDR"), address.to_string()));
    }
    list
}

/// `my-db` is `MY_DB`.
fn in_capitals(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

/// Go's `net.JoinHostPort`.
fn joined(address: IpAddr, port: i32) -> String {
    match address {
        IpAddr::V4(v4) => format!("{v4}:{port}"),
        IpAddr::V6(v6) => format!("[{v6}]:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(namespace: &str, name: &str, spec: Value) -> k8s::Service {
        let document = json!({ "metadata": { "namespace": namespace, "name": name }, "spec": spec });
        serde_json::from_value(document).unwrap()
    }

    fn pairs(list: Vec<EnvVar>) -> Vec<(String, String)> {
        let pair = |v: EnvVar| match v.value {
            EnvValue::Text(text) => (v.name, text),
            other => panic!("{other:?}"),
        };
        list.into_iter().map(pair).collect()
    }

    fn of(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn a_service_has_a_kubelets_variables_and_dockers() {
        let ports = json!([{ "name": "http-alt", "port": 80, "protocol": "TCP" }, { "name": "dns", "port": 53, "protocol": "UDP" }]);
        let services = [service("default", "my-web", json!({ "clusterIP": "10.87.0.1", "ports": ports }))];
        let expected = of(&[
            ("MY_WEB_SERVICE_HOST", "10.87.0.1"),
            ("MY_WEB_SERVICE_PORT", "80"),
            ("MY_WEB_SERVICE_PORT_HTTP_ALT", "80"),
            ("MY_WEB_SERVICE_PORT_DNS", "53"),
            ("MY_WEB_PORT", "tcp://10.87.0.1:80"),
            ("MY_WEB_PORT_80_TCP", "tcp://10.87.0.1:80"),
            ("MY_WEB_PORT_80_TCP_PROTO", "tcp"),
            ("MY_WEB_PORT_80_TCP_PORT", "80"),
            ("MY_WEB_PORT_80_TCP_ADDR", "10.87.0.1"),
            ("MY_WEB_PORT_53_UDP", "udp://10.87.0.1:53"),
            ("MY_WEB_PORT_53_UDP_PROTO", "udp"),
            ("MY_WEB_PORT_53_UDP_PORT", "53"),
            ("MY_WEB_PORT_53_UDP_ADDR", "10.87.0.1"),
        ]);
        assert_eq!(pairs(variables(&services, "default")), expected);
    }

    #[test]
    fn ipv6_has_brackets_in_urls_only() {
        let services = [service("a", "db", json!({ "clusterIP": "fd87::1", "ports": [{ "port": 5432 }] }))];
        let expected = of(&[
            ("DB_SERVICE_HOST", "fd87::1"),
            ("DB_SERVICE_PORT", "5432"),
            ("DB_PORT", "tcp://[fd87::1]:5432"),
            ("DB_PORT_5432_TCP", "tcp://[fd87::1]:5432"),
            ("DB_PORT_5432_TCP_PROTO", "tcp"),
            ("DB_PORT_5432_TCP_PORT", "5432"),
            ("DB_PORT_5432_TCP_ADDR", "fd87::1"),
        ]);
        assert_eq!(pairs(variables(&services, "a")), expected);
    }

    #[test]
    fn only_services_of_the_namespace_with_an_address_count() {
        let port = json!([{ "port": 80 }]);
        let with = |address: &str| json!({ "clusterIP": address, "ports": port });
        let services = [
            service("default", "z", with("10.87.0.3")),
            service("other", "a", with("10.87.0.2")),
            service("default", "b", with("None")),
            service("default", "c", json!({ "type": "ExternalName", "externalName": "example.com", "ports": port })),
            service("default", "d", json!({ "ports": port })),
            service("default", "a", with("10.87.0.1")),
        ];
        let hosts: Vec<(String, String)> =
            pairs(variables(&services, "default")).into_iter().filter(|(name, _)| name.ends_with("_HOST")).collect();
        assert_eq!(hosts, of(&[("A_SERVICE_HOST", "10.87.0.1"), ("Z_SERVICE_HOST", "10.87.0.3")]));
        assert_eq!(variables(&[], "default"), []);
    }
}
