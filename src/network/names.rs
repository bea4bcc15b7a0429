//! What the names of pods and Services stand for: Kubernetes' DNS-based service discovery (kubernetes/dns, specification
//! 1.1.0), answered from a [`View`]. Pure.
//!
//! Below `<namespace>.svc.cluster.local`:
//!
//! | name | records |
//! |---|---|
//! | `<service>` | A, AAAA: the cluster IPs; headless: the addresses of its ready pods, and if there are none, no such name |
//! | `<service>` | SRV: all of its ports, named or not (as CoreDNS has it: programs of StatefulSets find their peers so) |
//! | `<service>` of type ExternalName | CNAME, and what that leads to |
//! | `_<port>._<protocol>.<service>` | SRV: to the Service; headless: to each ready pod, with its own port |
//! | `<hostname>.<service>` | A, AAAA: the pods behind a headless Service with that host name, if their subdomain is its name |
//! | `<a-b-c-d>.<service>` | A, AAAA: the other pods behind a headless Service, by their address |
//! | `<hostname>`, `<pod>` | A, AAAA: podshim's own convenience, see below |
//!
//! `<a-b-c-d>.<namespace>.pod.cluster.local` is a pod of that namespace by its address (what CoreDNS calls `pods verified`),
//! `dns-version.cluster.local` the specification's version. Addresses of the network's subnets lead back (PTR): a cluster IP to
//! its Service, a pod's address to its names behind headless Services, else to its own name.
//!
//! A pod alone has no name on Kubernetes. Here it has, as people know it from podman: while it is ready, its host name and its
//! own name are found in its namespace, by the search list as plainly as `web`. What is called so on Kubernetes too comes first:
//! a Service keeps its name even while nobody is behind it, then come host names, then pods' names. `<hostname>.<subdomain>` is
//! Kubernetes' own idea and is as there: it takes a headless Service which selects the pod.

use super::endpoints::{Endpoint, cluster_ips, endpoints, external_name, is_headless, protocol, target_port};
use super::view::{Member, View};
use crate::plan::network::{CLUSTER_DOMAIN, Family, Subnet};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The version of the specification, which `dns-version.cluster.local` tells.
const SPECIFICATION: &str = "1.1.0";

/// How many names an alias may lead through before it is taken for a circle.
const MAX_ALIASES: usize = 8;

/// Numbers of record types (IANA).
pub mod kind {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// A name server.
    pub const NS: u16 = 2;
    /// An alias.
    pub const CNAME: u16 = 5;
    /// The start of a zone.
    pub const SOA: u16 = 6;
    /// A name for an address.
    pub const PTR: u16 = 12;
    /// Text.
    pub const TXT: u16 = 16;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// A host and port of a service.
    pub const SRV: u16 = 33;
    /// All there are.
    pub const ANY: u16 = 255;
}

/// The class of everything here (IANA): the Internet.
pub const CLASS_IN: u16 = 1;

/// A question.
#[derive(Debug, Clone, Copy)]
pub struct Question<'q> {
    /// Lower-case labels joined by dots, without one at the end. What no name of ours has is `?`, like a dot in a label.
    pub name: &'q str,
    /// The type of the records.
    pub kind: u16,
    /// Their class.
    pub class: u16,
    /// Who asks.
    pub asker: Option<IpAddr>,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// A or AAAA
    Address(IpAddr),
    /// SRV. All have the same priority and weight.
    Server {
        /// The port.
        port: u16,
        /// The name that has the addresses.
        target: Box<str>,
    },
    /// PTR
    Pointer(Box<str>),
    /// CNAME
    Alias(Box<str>),
    /// TXT
    Text(&'static str),
    /// NS
    NameServer(Box<str>),
    /// SOA
    Start,
}

impl Data {
    /// The number of its type.
    pub fn kind(&self) -> u16 {
        match self {
            Data::Address(IpAddr::V4(_)) => kind::A,
            Data::Address(IpAddr::V6(_)) => kind::AAAA,
            Data::Server { .. } => kind::SRV,
            Data::Pointer(_) => kind::PTR,
            Data::Alias(_) => kind::CNAME,
            Data::Text(_) => kind::TXT,
            Data::NameServer(_) => kind::NS,
            Data::Start => kind::SOA,
        }
    }
}

/// A record: a name, and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'n> {
    /// The name; `None` for the question's.
    pub owner: Option<&'n str>,
    /// What it stands for.
    pub data: &'n Data,
}

/// How a question came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The name is there. If there are no records, it has none of that type.
    Found,
    /// There is no such name.
    NoName,
    /// The name is an alias that leads in a circle.
    Circle,
    /// Not a question that is answered here.
    Refused,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<'n> {
    /// How the question came out.
    pub outcome: Outcome,
    /// The answer itself: aliases, each leading to the next one's owner, then records.
    pub records: Vec<Record<'n>>,
    /// The addresses of names in `records`.
    pub additional: Vec<Record<'n>>,
    /// The zone whose SOA goes with an answer that has no records of the type.
    pub zone: Option<Cow<'n, str>>,
    /// A name that is not ours, which the last alias leads to: the rest is to be asked for elsewhere.
    pub elsewhere: Option<&'n str>,
}

impl Answer<'_> {
    fn bare(outcome: Outcome) -> Self {
        Answer { outcome, records: Vec::new(), additional: Vec::new(), zone: None, elsewhere: None }
    }
}

/// All names of a view, ready to be looked up.
#[derive(Debug, Default)]
pub struct Names {
    /// Name below the cluster's domain → what it stands for; nothing, if there are only names below it.
    nodes: HashMap<Box<str>, Vec<Data>>,
    /// Address → PTR.
    reverse: HashMap<IpAddr, Vec<Data>>,
    /// Address of who may ask → the namespaces of the pods that may be it: its own; for the bridge's, as which the host asks, those
    /// of all pods with the host's network.
    askers: HashMap<IpAddr, HashSet<Box<str>>>,
    /// Whose addresses are ours.
    subnets: Vec<Subnet>,
}

impl Names {
    /// The names of everything on a network.
    pub fn new(view: &View) -> Names {
        let network = &view.network;
        let mut names =
            Names { subnets: network.pods.iter().chain(&network.services).copied().collect(), ..Names::default() };
        let server = format!("ns.dns.{CLUSTER_DOMAIN}");
        names.add(CLUSTER_DOMAIN, Data::Start);
        names.add(CLUSTER_DOMAIN, Data::NameServer(server.as_str().into()));
        for address in network.name_servers() {
            names.add(&server, Data::Address(address));
            names.point(address, &server);
        }
        names.add(&format!("dns-version.{CLUSTER_DOMAIN}"), Data::Text(SPECIFICATION));
        names.exist(&format!("svc.{CLUSTER_DOMAIN}"));
        names.exist(&format!("pod.{CLUSTER_DOMAIN}"));
        for namespace in view.namespaces.keys().filter(|namespace| is_label(namespace)) {
            names.exist(&format!("{namespace}.svc.{CLUSTER_DOMAIN}"));
        }
        for service in &view.services {
            names.add_service(service, &view.members);
        }
        names.add_pods(view);
        names
    }

    /// Answers a question; `None` if it is about a name that is not ours. `turn` is which of several records comes first.
    pub fn answer<'n>(&'n self, question: Question<'_>, turn: usize) -> Option<Answer<'n>> {
        if question.class != CLASS_IN {
            return Some(Answer::bare(Outcome::Refused));
        }
        if is_below(question.name, CLUSTER_DOMAIN) {
            return Some(self.forward(question, turn));
        }
        let prefix = reverse_prefix(question.name)?;
        let ours = self
            .subnets
            .iter()
            .find(|subnet| subnet.contains(prefix.address()) && subnet.prefix() <= prefix.prefix())?;
        Some(self.backward(prefix, *ours, question.kind))
    }

    /// Of a name below the cluster's domain.
    fn forward<'n>(&'n self, question: Question<'_>, turn: usize) -> Answer<'n> {
        let mut answer = Answer::bare(Outcome::Found);
        let (mut owner, mut found) = (None, self.nodes.get(question.name));
        loop {
            let Some(node) = found else {
                let is_behind = owner.is_none() && self.was_found_before(question);
                answer.outcome = if is_behind { Outcome::Found } else { Outcome::NoName };
                answer.zone = Some(CLUSTER_DOMAIN.into());
                return answer;
            };
            let alias =
                node.iter().find_map(|data| if let Data::Alias(to) = data { Some((data, &**to)) } else { None });
            let Some((data, to)) = alias.filter(|_| ![kind::CNAME, kind::ANY].contains(&question.kind)) else {
                self.pick((owner, node), (question.kind, turn), &mut answer);
                return answer;
            };
            answer.records.push(Record { owner, data });
            if !is_below(to, CLUSTER_DOMAIN) {
                answer.elsewhere = Some(to);
                return answer;
            }
            if answer.records.len() > MAX_ALIASES {
                return Answer::bare(Outcome::Circle);
            }
            (owner, found) = (Some(to), self.nodes.get(to));
        }
    }

    /// Whether a name is one further on in a pod's search list, whose first name is found: `web.svc.cluster.local` and
    /// `web.cluster.local` behind `web.default.svc.cluster.local`. busybox's nslookup asks for all of them, and fails if there
    /// is no such name as one of them; those who stop at the first never ask. So to this pod, and to no other, they are there
    /// and have no addresses.
    fn was_found_before(&self, question: Question<'_>) -> bool {
        let Some(namespaces) = question.asker.and_then(|asker| self.askers.get(&asker)) else { return false };
        let Some((label, rest)) = question.name.split_once('.') else { return false };
        let is_searched = rest == CLUSTER_DOMAIN || rest.strip_suffix(CLUSTER_DOMAIN) == Some("svc.");
        let is_there =
            |namespace: &Box<str>| self.nodes.contains_key(&*format!("{label}.{namespace}.svc.{CLUSTER_DOMAIN}"));
        is_searched && namespaces.iter().any(is_there)
    }

    /// Adds a node's records of a type, and the addresses of the names in them.
    fn pick<'n>(
        &'n self,
        (owner, node): (Option<&'n str>, &'n [Data]),
        (wanted, turn): (u16, usize),
        answer: &mut Answer<'n>,
    ) {
        let mut found: Vec<&Data> = node.iter().filter(|data| wanted == kind::ANY || data.kind() == wanted).collect();
        if found.is_empty() {
            answer.zone = Some(CLUSTER_DOMAIN.into());
            return;
        }
        let first = turn % found.len();
        found.rotate_left(first);
        let mut seen = HashSet::new();
        for data in found {
            if let Data::Server { target, .. } | Data::NameServer(target) = data
                && seen.insert(target)
                && let Some((key, node)) = self.nodes.get_key_value(target)
            {
                let addresses = node.iter().filter(|data| matches!(data, Data::Address(_)));
                let records = addresses.map(|data| Record { owner: Some(key), data });
                answer.additional.extend(records);
            }
            answer.records.push(Record { owner, data });
        }
    }

    /// Of a name below in-addr.arpa or ip6.arpa, which means this prefix.
    fn backward<'n>(&'n self, prefix: Subnet, ours: Subnet, wanted: u16) -> Answer<'n> {
        let family = prefix.family();
        let is_whole = prefix.prefix() == family.bits();
        let zone = Some(Cow::Owned(zone_of(prefix.address(), ours)));
        match self.reverse.get(&prefix.address()).filter(|_| is_whole) {
            None if is_whole => Answer { zone, ..Answer::bare(Outcome::NoName) },
            Some(list) if [kind::PTR, kind::ANY].contains(&wanted) => {
                let records = list.iter().map(|data| Record { owner: None, data }).collect();
                Answer { records, ..Answer::bare(Outcome::Found) }
            }
            // Part of an address: whether there are names below it makes no difference to anybody.
            _ => Answer { zone, ..Answer::bare(Outcome::Found) },
        }
    }

    /// Adds a name, if it is not there yet, and those it is below of.
    fn exist(&mut self, name: &str) -> &mut Vec<Data> {
        let mut above = name;
        while let Some((_, rest)) = above.split_once('.').filter(|(_, rest)| is_below(rest, CLUSTER_DOMAIN)) {
            above = rest;
            if !self.nodes.contains_key(above) {
                self.nodes.insert(above.into(), Vec::new());
            }
        }
        self.nodes.entry(name.into()).or_default()
    }

    fn add(&mut self, name: &str, data: Data) {
        let node = self.exist(name);
        if !node.contains(&data) {
            node.push(data);
        }
    }

    fn point(&mut self, address: IpAddr, name: &str) {
        let list = self.reverse.entry(address).or_default();
        let data = Data::Pointer(name.into());
        if !list.contains(&data) {
            list.push(data);
        }
    }

    fn add_service(&mut self, service: &Service, members: &[Member]) {
        let Some((namespace, name)) = service_name(service) else { return };
        let full = format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}");
        if let Some(target) = external_name(service) {
            let target = target.trim_end_matches('.').to_ascii_lowercase();
            if is_name(&target) {
                self.add(&full, Data::Alias(target.into()));
            }
            return;
        }
        if is_headless(service) {
            self.add_headless(service, &full, members);
            return;
        }
        self.exist(&full);
        for address in cluster_ips(service) {
            self.add(&full, Data::Address(address));
            self.point(address, &full);
        }
        for port in ports(service) {
            if let Ok(number) = u16::try_from(port.port) {
                self.add_server(port, &full, (number, &full));
            }
        }
    }

    fn add_headless(&mut self, service: &Service, full: &str, members: &[Member]) {
        let families = families(service);
        for Endpoint { member, .. } in endpoints(service, members).into_iter().filter(|endpoint| endpoint.ready) {
            let hostname = own_hostname(member).filter(|_| member.subdomain == service.metadata.name);
            for &address in member.addresses.iter().filter(|address| families.contains(&Family::of(**address))) {
                let label = hostname.clone().unwrap_or_else(|| dashed(address));
                let own = format!("{label}.{full}");
                self.add(full, Data::Address(address));
                self.add(&own, Data::Address(address));
                self.point(address, &own);
                for port in ports(service) {
                    // A pod without a port of the name that is meant has none.
                    if let Some(number) = target_port(port, member) {
                        self.add_server(port, full, (number, &own));
                    }
                }
            }
        }
    }

    /// The SRV records of a Service's port: where it is found by its name, and where all of the Service's are.
    fn add_server(&mut self, port: &ServicePort, service: &str, (number, target): (u16, &str)) {
        let data = Data::Server { port: number, target: target.into() };
        if let Some(name) = port.name.as_deref().filter(|name| is_label(name)) {
            let protocol = protocol(port).as_str().to_ascii_lowercase();
            self.add(&format!("_{name}._{protocol}.{service}"), data.clone());
        }
        self.add(service, data);
    }

    /// The names that pods have without any Service.
    fn add_pods(&mut self, view: &View) {
        let services: HashSet<(&str, &str)> = view.services.iter().filter_map(service_name).collect();
        let hostnames: HashSet<(&str, String)> =
            view.members.iter().filter_map(|member| Some((member.namespace.as_str(), own_hostname(member)?))).collect();
        for member in view.members.iter().filter(|member| is_label(&member.namespace)) {
            let gateways = view.network.gateways().map(|(gateway, _)| gateway).filter(|_| member.link.is_none());
            for address in member.addresses.iter().copied().chain(gateways) {
                self.askers.entry(address).or_default().insert(member.namespace.as_str().into());
            }
            let namespace = member.namespace.as_str();
            let is_free = |label: &str| !services.contains(&(namespace, label));
            let hostname = own_hostname(member).filter(|label| is_free(label));
            let name = Some(member.name.clone())
                .filter(|label| is_label(label) && is_free(label) && !hostnames.contains(&(namespace, label.clone())));
            let is_found = member.ready && !member.terminating;
            let mut labels = hostname.into_iter().chain(name).filter(|_| is_found).peekable();
            let by_address = |address| format!("{}.{namespace}.pod.{CLUSTER_DOMAIN}", dashed(address));
            let first = labels.peek().map(|label| format!("{label}.{namespace}.svc.{CLUSTER_DOMAIN}"));
            for &address in &member.addresses {
                self.add(&by_address(address), Data::Address(address));
                // Its names behind headless Services come first.
                if !self.reverse.contains_key(&address) {
                    self.point(address, &first.clone().unwrap_or_else(|| by_address(address)));
                }
            }
            for label in labels {
                for &address in &member.addresses {
                    self.add(&format!("{label}.{namespace}.svc.{CLUSTER_DOMAIN}"), Data::Address(address));
                }
            }
        }
    }
}

/// The namespace and name of a Service.
fn service_name(service: &Service) -> Option<(&str, &str)> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
    let name = service.metadata.name.as_deref()?;
    (is_label(namespace) && is_label(name)).then_some((namespace, name))
}

fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
}

/// `spec.ipFamilies`, or both.
fn families(service: &Service) -> Vec<Family> {
    let listed = service.spec.as_ref().and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let is_listed = |family: &Family| match family {
        Family::V4 => listed.iter().any(|text| text == "IPv4"),
        Family::V6 => listed.iter().any(|text| text == "IPv6"),
    };
    Family::ALL.into_iter().filter(|family| listed.is_empty() || is_listed(family)).collect()
}

/// A pod's host name, if it can be a label. (`hostnameOverride` may be a name of several.)
fn own_hostname(member: &Member) -> Option<String> {
    let hostname = member.hostname.to_ascii_lowercase();
    is_label(&hostname).then_some(hostname)
}

/// An address as a label: `10-86-0-3`, `fd86--3`.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// Whether this can be a label of a name: up to 63 lower-case letters, digits, `-` and `_`.
fn is_label(text: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    (1..=63).contains(&text.len()) && text.bytes().all(is_fine)
}

/// Whether this can be a name: labels and dots, 253 bytes at most.
fn is_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Whether a name is this domain, or below it.
fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// What a name below in-addr.arpa or ip6.arpa means: an address, or all that begin so; `None` for other names.
fn reverse_prefix(name: &str) -> Option<Subnet> {
    if let Some(rest) = name.strip_suffix("in-addr.arpa") {
        let mut bytes = [0; 4];
        let count = units(rest, &mut bytes, |label| label.parse().ok().filter(|n: &u8| n.to_string() == label))?;
        return Subnet::of(IpAddr::V4(Ipv4Addr::from(bytes)), count * 8);
    }
    let rest = name.strip_suffix("ip6.arpa")?;
    let mut nibbles = [0; 32];
    let is_digit = |label: &str| label.len() == 1;
    let count = units(rest, &mut nibbles, |label| u8::from_str_radix(label, 16).ok().filter(|_| is_digit(label)))?;
    let number = nibbles.iter().fold(0, |number: u128, nibble| number << 4 | u128::from(*nibble));
    Subnet::of(IpAddr::V6(Ipv6Addr::from(number)), count * 4)
}

/// Reads labels, the last one first, and counts them; `None` if one is none of these or there are too many.
fn units(labels: &str, units: &mut [u8], read: impl Fn(&str) -> Option<u8>) -> Option<u8> {
    let Some(labels) = labels.strip_suffix('.') else { return labels.is_empty().then_some(0) };
    let mut count = 0;
    for label in labels.rsplit('.') {
        *units.get_mut(usize::from(count))? = read(label)?;
        count += 1;
    }
    Some(count)
}

/// The zone that an address of a subnet is taken to be in: the largest inside of the subnet that ends at a label.
fn zone_of(address: IpAddr, subnet: Subnet) -> String {
    match address {
        IpAddr::V4(v4) => {
            let count = usize::from(subnet.prefix().div_ceil(8));
            let labels: String = v4.octets()[..count].iter().rev().map(|byte| format!("{byte}.")).collect();
            format!("{labels}in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let count = usize::from(subnet.prefix().div_ceil(4));
            let digits: Vec<char> = format!("{:032x}", u128::from(v6)).chars().take(count).collect();
            let labels: String = digits.iter().rev().map(|digit| format!("{digit}.")).collect();
            format!("{labels}ip6.arpa")
        }
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
