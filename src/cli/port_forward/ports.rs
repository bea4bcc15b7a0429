//! Which port leads where: what a user writes, and what a pod or a Service makes of it. Pure.

use crate::error::{Kind, failure};
use crate::network::endpoints;
use crate::network::view::Member;
use crate::plan::network::{ContainerPort, Protocol};
use anyhow::Result;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use std::fmt;

/// `[LOCAL:]REMOTE`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    local: Local,
    remote: Remote,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Local {
    /// The number of the remote one.
    Same,
    /// This one; 0 for any that is free.
    Port(u16),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Remote {
    Number(u16),
    Name(String),
}

/// From a port of this host to one of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forward {
    /// 0 for any that is free.
    pub(super) local: u16,
    pub(super) remote: u16,
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.local, self.remote)
    }
}

/// Reads `8080:80`, `80`, `:80`, `8080:http`, `http`.
pub(super) fn parse(text: &str) -> Result<Wanted, String> {
    if let Some((_, protocol)) = text.split_once('/') {
        return Err(match protocol.to_ascii_lowercase().as_str() {
            "tcp" => "write it without /tcp: nothing but TCP can be forwarded".into(),
            _ => format!("{} cannot be forwarded, only TCP", protocol.to_ascii_uppercase()),
        });
    }
    match text.split_once(':') {
        None => Ok(Wanted { local: Local::Same, remote: remote(text)? }),
        Some(("", text)) => Ok(Wanted { local: Local::Port(0), remote: remote(text)? }),
        Some((local, text)) => {
            let local = local.parse().map_err(|_| format!("{local:?} is no local port: it takes 0 to 65535"))?;
            Ok(Wanted { local: Local::Port(local), remote: remote(text)? })
        }
    }
}

fn remote(text: &str) -> Result<Remote, String> {
    let is_name = |text: &str| {
        let is_fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        text.len() <= 15 && text.bytes().all(is_fine) && text.bytes().any(|byte| byte.is_ascii_lowercase())
    };
    match text.parse::<u16>() {
        Ok(number) if number > 0 => Ok(Remote::Number(number)),
        _ if is_name(text) => Ok(Remote::Name(text.to_owned())),
        _ => Err(format!("{text:?} is no remote port: it takes 1 to 65535, or a port's name")),
    }
}

fn invalid(message: String) -> anyhow::Error {
    failure(Kind::Invalid, message)
}

/// Names for a message: `a, b`, or `none`.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn require_tcp(protocol: Protocol, what: fmt::Arguments<'_>) -> Result<()> {
    if protocol == Protocol::Tcp {
        return Ok(());
    }
    Err(invalid(format!("{what} is of {protocol}: it cannot be forwarded, only TCP")))
}

impl Wanted {
    /// What it means of a pod, which is called `pod`.
    pub(super) fn of_pod(&self, pod: &str, ports: &[ContainerPort]) -> Result<Forward> {
        let remote = match &self.remote {
            Remote::Number(number) => {
                // Any port can be forwarded to, whether it is written or not; what is written says what it is not.
                let mut written = ports.iter().filter(|port| port.container_port == *number).peekable();
                if let Some(first) = written.peek().copied()
                    && written.all(|port| port.protocol != Protocol::Tcp)
                {
                    require_tcp(first.protocol, format_args!("port {number} of pod {pod}"))?;
                }
                *number
            }
            Remote::Name(name) => {
                let Some(port) = ports.iter().find(|port| port.name.as_ref() == Some(name)) else {
                    let known = list(ports.iter().filter_map(|port| port.name.as_deref()));
                    return Err(invalid(format!("pod {pod} has no port of the name {name:?}; its names are: {known}")));
                };
                require_tcp(port.protocol, format_args!("port {name:?} of pod {pod}"))?;
                port.container_port
            }
        };
        let local = if let Local::Port(port) = self.local { port } else { remote };
        Ok(Forward { local, remote })
    }

    /// What it means of a Service, which is called `name`, and leads to this pod.
    pub(super) fn of_service(&self, name: &str, service: &Service, member: &Member) -> Result<Forward> {
        let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let (port, number) = self.service_port(name, ports)?;
        require_tcp(endpoints::protocol(port), format_args!("port {number} of Service {name}"))?;
        // A headless one translates nothing: its names lead to the pods themselves.
        let remote = if endpoints::is_headless(service) { Some(number) } else { endpoints::target_port(port, member) };
        let Some(remote) = remote else {
            let message = format!(
                "port {number} of Service {name} leads to a port by name that pod {}/{} does not have",
                member.namespace, member.name
            );
            return Err(failure(Kind::NotReady, message));
        };
        let local = if let Local::Port(port) = self.local { port } else { number };
        Ok(Forward { local, remote })
    }

    fn service_port<'s>(&self, name: &str, ports: &'s [ServicePort]) -> Result<(&'s ServicePort, u16)> {
        let is_meant = |port: &&ServicePort| match &self.remote {
            Remote::Number(number) => port.port == i32::from(*number),
            Remote::Name(name) => port.name.as_ref() == Some(name),
        };
        let of = |port: &'s ServicePort| Some((port, u16::try_from(port.port).ok()?));
        // One number may be there once for each protocol.
        let is_tcp = |port: &&ServicePort| endpoints::protocol(port) == Protocol::Tcp;
        let found = ports.iter().filter(is_meant).find(is_tcp).or_else(|| ports.iter().find(is_meant));
        found.and_then(of).ok_or_else(|| {
            let wanted = match &self.remote {
                Remote::Number(number) => number.to_string(),
                Remote::Name(name) => format!("{name:?}"),
            };
            let known: Vec<String> = ports.iter().map(|port| port.port.to_string()).collect();
            invalid(format!("Service {name} has no port {wanted}; it has {}", list(known.iter().map(String::as_str))))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod_ports() -> Vec<ContainerPort> {
        let port = |name: &str, container_port, protocol| ContainerPort {
            name: Some(name.into()),
            container_port,
            protocol,
            host_port: None,
            host_ip: None,
        };
        vec![
            port("http", 8080, Protocol::Tcp),
            port("dns", 53, Protocol::Udp),
            port("dns-tcp", 53, Protocol::Tcp),
            port("log", 514, Protocol::Udp),
        ]
    }

    #[test]
    fn ports_of_pods() {
        for (text, expected) in [
            ("80", Ok((80, 80))),
            ("8000:80", Ok((8000, 80))),
            (":80", Ok((0, 80))),
            ("0:80", Ok((0, 80))),
            ("http", Ok((8080, 8080))),
            ("80:http", Ok((80, 8080))),
            (":http", Ok((0, 8080))),
            ("53", Ok((53, 53))),
            ("514", Err("port 514 of pod a/b is of UDP: it cannot be forwarded, only TCP")),
            ("1:log", Err("port \"log\" of pod a/b is of UDP")),
            ("web", Err("pod a/b has no port of the name \"web\"; its names are: http, dns, dns-tcp, log")),
            ("53/udp", Err("UDP cannot be forwarded, only TCP")),
            ("80/TCP", Err("write it without /tcp")),
            ("", Err("\"\" is no remote port")),
            ("1:", Err("\"\" is no remote port")),
            ("0", Err("\"0\" is no remote port")),
            ("65536", Err("\"65536\" is no remote port")),
            ("x:80", Err("\"x\" is no local port")),
            ("1:2:3", Err("\"2:3\" is no remote port")),
            ("-1", Err("\"-1\" is no remote port")),
        ] {
            let found = parse(text).map_err(anyhow::Error::msg).and_then(|wanted| wanted.of_pod("a/b", &pod_ports()));
            match (found, expected) {
                (Ok(forward), Ok(expected)) => assert_eq!((forward.local, forward.remote), expected, "{text}"),
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{text}: {error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn ports_of_services() {
        let member = Member {
            uid: "u".into(),
            namespace: "a".into(),
            name: "b".into(),
            labels: Default::default(),
            hostname: "b".into(),
            subdomain: None,
            addresses: Vec::new(),
            ports: pod_ports(),
            link: None,
            ready: true,
            terminating: false,
        };
        let service = |cluster_ip: &str| -> Service {
            serde_json::from_value(json!({ "spec": { "clusterIP": cluster_ip, "ports": [
                { "name": "web", "port": 80, "targetPort": "http" },
                { "name": "lost", "port": 81, "targetPort": "nothing" },
                { "name": "d", "port": 53, "protocol": "UDP", "targetPort": 5353 },
                { "name": "t", "port": 53, "protocol": "TCP", "targetPort": 1053 },
                { "name": "same", "port": 90 },
            ] } }))
            .unwrap()
        };
        for (text, ip, expected) in [
            ("80", "10.87.0.9", Ok((80, 8080))),
            ("8000:80", "10.87.0.9", Ok((8000, 8080))),
            (":web", "10.87.0.9", Ok((0, 8080))),
            ("web", "10.87.0.9", Ok((80, 8080))),
            ("90", "10.87.0.9", Ok((90, 90))),
            ("53", "10.87.0.9", Ok((53, 1053))),
            ("web", "None", Ok((80, 80))),
            ("d", "10.87.0.9", Err("port 53 of Service s is of UDP")),
            ("81", "10.87.0.9", Err("port 81 of Service s leads to a port by name that pod a/b does not have")),
            ("8080", "10.87.0.9", Err("Service s has no port 8080; it has 80, 81, 53, 53, 90")),
            ("x", "10.87.0.9", Err("Service s has no port \"x\"")),
        ] {
            let found = parse(text).unwrap().of_service("s", &service(ip), &member);
            match (found, expected) {
                (Ok(forward), Ok(expected)) => assert_eq!((forward.local, forward.remote), expected, "{text}"),
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{text}: {error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
