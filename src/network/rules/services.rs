//! Where a connection to a Service, or to a port of the host, goes.
//!
//! `externalTrafficPolicy` and `internalTrafficPolicy` make no difference: all pods are on this host, and none of them sees any but
//! the client's own address.

use super::targets::{self, Front};
use super::{Parts, REFUSE, chain, drop, families, goto, jump, masked, of, unique};
use crate::network::endpoints;
use crate::network::nft::{Content, Field, Key, Kind, LOCAL, Rule, Statement, Value, Verdict};
use crate::network::view::View;
use crate::plan::network::{Family, Subnet};
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

/// The chain that everything goes through which may be for a Service.
pub(super) const CHAIN: &str = "services";
const HOST_PORTS: &str = "host_ports";

/// Maps from address, protocol and port.
const SERVICES: &str = "services";
/// From protocol and port, of whatever address the host has.
const NODE_PORTS: &str = "node_ports";
/// Ports of the host for single pods, likewise; and those of one of its addresses.
const POD_PORTS: &str = "pod_ports";
const POD_PORTS_AT: &str = "pod_ports_at";
/// Addresses of Services with nobody behind them, and such ports of the host.
const NOBODY: &str = "nobody";
const NOBODY_PORTS: &str = "nobody_ports";

/// What is looked up, in one family. The first of two that claim the same has it.
#[derive(Default)]
struct Book {
    services: BTreeMap<Vec<Value>, Verdict>,
    node_ports: BTreeMap<Vec<Value>, Verdict>,
    nobody: BTreeSet<Vec<Value>>,
    nobody_ports: BTreeSet<Vec<Value>>,
}

pub(super) fn add(parts: &mut Parts, view: &View) {
    for family in families(&view.network) {
        let mut book = Book::default();
        for service in &view.services {
            enter(parts, &mut book, view, (service, family));
        }
        let (address, protocol, port) = (Kind::Address(family), Kind::Protocol, Kind::Port);
        let at = || vec![address, protocol, port];
        let keys = |keys: BTreeSet<Vec<Value>>| Content::Keys(keys.into_iter().collect());
        let verdicts = |map: BTreeMap<Vec<Value>, Verdict>| Content::Verdicts(map.into_iter().collect());
        parts.add_set(&of(SERVICES, family), at(), verdicts(book.services));
        parts.add_set(&of(NODE_PORTS, family), vec![protocol, port], verdicts(book.node_ports));
        parts.add_set(&of(NOBODY, family), at(), keys(book.nobody));
        parts.add_set(&of(NOBODY_PORTS, family), vec![protocol, port], keys(book.nobody_ports));
        let (anywhere, somewhere) = pod_ports(view, family);
        let target = || vec![address, port];
        parts.add_set(&of(POD_PORTS_AT, family), at(), Content::Map(target(), somewhere.into_iter().collect()));
        parts.add_set(
            &of(POD_PORTS, family),
            vec![protocol, port],
            Content::Map(target(), anywhere.into_iter().collect()),
        );
    }
    let rules = |rules: Vec<Vec<Statement>>| rules.into_iter().map(Rule::from).collect();
    let (services, host_ports) = (rules(services_chain(view, parts)), rules(host_ports_chain(view, parts)));
    parts.chains.push(chain(CHAIN, services));
    parts.chains.push(chain(HOST_PORTS, host_ports));
}

/// Enters one Service. Those without a cluster IP have names only.
fn enter(parts: &mut Parts, book: &mut Book, view: &View, (service, family): (&Service, Family)) {
    let Some(spec) = &service.spec else { return };
    let cluster: Vec<IpAddr> =
        endpoints::cluster_ips(service).into_iter().filter(|address| Family::of(*address) == family).collect();
    if cluster.is_empty() || endpoints::external_name(service).is_some() {
        return;
    }
    let external = spec.external_ips.iter().flatten().filter_map(|text| text.parse::<IpAddr>().ok());
    let open: Vec<IpAddr> = cluster.into_iter().chain(external.filter(|ip| Family::of(*ip) == family)).collect();
    for port in spec.ports.iter().flatten() {
        let front = Front { service, port, family };
        let protocol = Value::transport(endpoints::protocol(port));
        let key = |address: IpAddr| Some(vec![Value::Address(address), protocol.clone(), number(port.port)?]);
        let node_port = port.node_port.filter(|port| *port != 0).and_then(number).map(|n| vec![protocol.clone(), n]);
        let balanced = load_balancer(service, family);
        let Some(target) = targets::add(parts, view, &front) else {
            book.nobody.extend(open.iter().chain(&balanced).filter_map(|address| key(*address)));
            book.nobody_ports.extend(node_port);
            continue;
        };
        let mut to = |key: Option<Vec<Value>>, chain: &str| {
            key.map(|key| book.services.entry(key).or_insert_with(|| Verdict::Goto(chain.to_owned())));
        };
        open.iter().for_each(|address| to(key(*address), &target));
        if !balanced.is_empty() {
            let entrance = source_ranges(parts, spec, &front, &target);
            balanced.iter().for_each(|address| to(key(*address), &entrance));
        }
        if let Some(node_port) = node_port {
            book.node_ports.entry(node_port).or_insert(Verdict::Goto(target));
        }
    }
}

fn number(port: i32) -> Option<Value> {
    u16::try_from(port).ok().map(Value::Port)
}

/// The addresses that a load balancer passes on as they are.
fn load_balancer(service: &Service, family: Family) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    // With ipMode Proxy the packets come from the balancer and go to node ports (KEP-1860).
    let direct = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let addresses = direct.filter_map(|ingress| ingress.ip.as_deref()?.parse::<IpAddr>().ok());
    addresses.filter(|address| Family::of(*address) == family).collect()
}

/// The chain for a load balancer's addresses: `loadBalancerSourceRanges` says whom it serves, everybody if it says nothing.
fn source_ranges(parts: &mut Parts, spec: &ServiceSpec, front: &Front<'_>, target: &str) -> String {
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    let ranges: Vec<Option<Subnet>> = ranges.map(|text| masked(text.trim())).collect();
    if ranges.is_empty() {
        return target.to_owned();
    }
    let own = ranges.into_iter().flatten().filter(|range| range.family() == front.family);
    let mut rules: Vec<Rule> =
        own.map(|range| vec![Statement::Within(Field::Saddr(front.family), range), goto(target)].into()).collect();
    rules.push(vec![drop()].into());
    let name = unique("from", &front.name(), &[target]);
    parts.chains.push(chain(&name, rules));
    name
}

type Pairs = BTreeMap<Vec<Value>, Vec<Value>>;

/// `hostPort`s: those on every address of the host, and those on one.
fn pod_ports(view: &View, family: Family) -> (Pairs, Pairs) {
    let (mut anywhere, mut somewhere) = (Pairs::new(), Pairs::new());
    for member in view.members.iter().filter(|member| member.link.is_some()) {
        let Some(address) = endpoints::address(member, family) else { continue };
        for port in &member.ports {
            let Some(host_port) = port.host_port else { continue };
            let target = vec![Value::Address(address), Value::Port(port.container_port)];
            let key = vec![Value::transport(port.protocol), Value::Port(host_port)];
            match port.host_ip {
                // All addresses of its family.
                Some(ip) if Family::of(ip) != family => {}
                Some(ip) if !ip.is_unspecified() => {
                    somewhere.entry([vec![Value::Address(ip)], key].concat()).or_insert(target);
                }
                _ => {
                    anywhere.entry(key).or_insert(target);
                }
            }
        }
    }
    (anywhere, somewhere)
}

fn by_address(family: Family) -> Vec<Field> {
    vec![Field::Daddr(family), Field::L4Proto, Field::Dport]
}

fn by_port() -> Vec<Field> {
    vec![Field::L4Proto, Field::Dport]
}

fn is_local() -> Statement {
    Statement::Is(Field::DaddrType, Value::AddressType(LOCAL))
}

fn is_of(family: Family) -> Statement {
    Statement::Is(Field::NfProto, Value::Family(family))
}

fn services_chain(view: &View, parts: &Parts) -> Vec<Vec<Statement>> {
    let known =
        families(&view.network).map(|family| (family, of(SERVICES, family))).filter(|(_, set)| parts.has_set(set));
    let mut rules: Vec<Vec<Statement>> =
        known.map(|(family, set)| vec![Statement::Verdicts(Key::Fields(by_address(family)), set)]).collect();
    rules.push(vec![is_of(Family::V4), is_local(), jump(HOST_PORTS)]);
    // Answers to ::1 are dropped where they come from the bridge; what is sent there is for the host's own processes.
    let loopback = Value::Address(Ipv6Addr::LOCALHOST.into());
    rules.push(vec![Statement::IsNot(Field::Daddr(Family::V6), loopback), is_local(), jump(HOST_PORTS)]);
    rules
}

fn host_ports_chain(view: &View, parts: &Parts) -> Vec<Vec<Statement>> {
    let mut rules = Vec::new();
    for family in families(&view.network) {
        let mut add = |set: &str, rule: &dyn Fn(String) -> Vec<Statement>| {
            let set = of(set, family);
            if parts.has_set(&set) {
                rules.push(rule(set));
            }
        };
        add(POD_PORTS_AT, &|set| vec![Statement::Dnat(family, Key::Fields(by_address(family)), set)]);
        add(POD_PORTS, &|set| vec![is_of(family), Statement::Dnat(family, Key::Fields(by_port()), set)]);
        add(NODE_PORTS, &|set| vec![is_of(family), Statement::Verdicts(Key::Fields(by_port()), set)]);
    }
    rules
}

/// What is still on its way to a Service where nobody can take it: it was given no other destination.
pub(super) fn refusals(view: &View, parts: &Parts) -> Vec<Vec<Statement>> {
    let mut rules: Vec<Vec<Statement>> = view
        .network
        .services
        .iter()
        .map(|subnet| vec![Statement::Within(Field::Daddr(subnet.family()), *subnet), goto(REFUSE)])
        .collect();
    for family in families(&view.network) {
        let (nobody, ports) = (of(NOBODY, family), of(NOBODY_PORTS, family));
        if parts.has_set(&nobody) {
            rules.push(vec![Statement::In(by_address(family), nobody), goto(REFUSE)]);
        }
        if parts.has_set(&ports) {
            rules.push(vec![is_local(), is_of(family), Statement::In(by_port(), ports), goto(REFUSE)]);
        }
    }
    rules
}
