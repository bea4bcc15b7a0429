//! NetworkPolicies: who may send what to a pod, and a pod to whom (networking.k8s.io/v1).
//!
//! A policy is a chain in each of its directions that ends in the verdict for what it allows, and returns for the rest. A pod that
//! policies select has a chain that tries them all and then drops. Allowed to go is not yet allowed to come: the two directions are
//! looked at by two base chains, one after the other. (One chain that went on into the other would make the kernel's check of a
//! new table, which follows each way through it, take time by the product of both.)

use super::ranges::Ranges;
use super::{Parts, accept, chain, drop, families, jump, masked, of, unique};
use crate::network::nft::{Content, Field, Key, Kind, Rule, Statement, Value, Verdict};
use crate::network::view::{Member, View};
use crate::network::{endpoints, selectors};
use crate::plan::network::{ContainerPort, Family, Protocol, Subnet};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

/// The chain of what pods send.
pub(super) const EGRESS: &str = "egress";
/// The chain of what is sent to pods.
pub(super) const INGRESS: &str = "ingress";

/// The namespace that the name server is in, as far as policies go.
const SYSTEM_NAMESPACE: &str = "kube-system";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    /// The short form for names.
    fn tag(self) -> &'static str {
        if self == Direction::Ingress { "in" } else { "out" }
    }

    /// Where the pod's own address is.
    fn own(self, family: Family) -> Field {
        if self == Direction::Ingress { Field::Daddr(family) } else { Field::Saddr(family) }
    }

    /// Where the other's is.
    fn peer(self, family: Family) -> Field {
        if self == Direction::Ingress { Field::Saddr(family) } else { Field::Daddr(family) }
    }
}

/// Everything that policies are evaluated over.
struct World<'v> {
    view: &'v View,
    /// Pods that policies apply to: those with the host's network are the host.
    pods: Vec<&'v Member>,
    /// Whom selectors of peers mean: the same, and the name server.
    peers: Vec<&'v Member>,
}

pub(super) fn add(parts: &mut Parts, view: &View) {
    let name_server = name_server(view);
    let pods: Vec<&Member> = view.members.iter().filter(|member| member.link.is_some()).collect();
    let peers = pods.iter().copied().chain([&name_server]).collect();
    let world = World { view, pods, peers };
    for direction in [Direction::Egress, Direction::Ingress] {
        let mut selected: BTreeMap<&str, (&Member, Vec<String>)> = BTreeMap::new();
        for policy in &view.policies {
            let pods = selected_by(&world, policy, direction);
            if !pods.is_empty() {
                let name = add_policy(parts, &world, (policy, direction), &pods);
                for pod in pods {
                    selected.entry(&pod.uid).or_insert((pod, Vec::new())).1.push(name.clone());
                }
            }
        }
        add_direction(parts, view, direction, selected.into_values().collect());
    }
}

/// The name server as the pod that it is in a cluster.
fn name_server(view: &View) -> Member {
    let port = |name: &str, protocol| ContainerPort {
        name: Some(name.to_owned()),
        container_port: 53,
        protocol,
        host_port: None,
        host_ip: None,
    };
    Member {
        uid: String::new(),
        namespace: SYSTEM_NAMESPACE.to_owned(),
        name: "kube-dns".to_owned(),
        labels: BTreeMap::from([("k8s-app".to_owned(), "kube-dns".to_owned())]),
        hostname: String::new(),
        subdomain: None,
        addresses: view.network.name_servers().collect(),
        ports: vec![port("dns", Protocol::Udp), port("dns-tcp", Protocol::Tcp)],
        link: None,
        ready: true,
        terminating: false,
    }
}

fn namespace(policy: &NetworkPolicy) -> &str {
    policy.metadata.namespace.as_deref().unwrap_or("default")
}

/// The pods that a policy isolates in a direction; an empty selector means all of its namespace.
fn selected_by<'v>(world: &World<'v>, policy: &NetworkPolicy, direction: Direction) -> Vec<&'v Member> {
    let Some(spec) = &policy.spec else { return Vec::new() };
    if !is_about(spec, direction) {
        return Vec::new();
    }
    let selector = spec.pod_selector.clone().unwrap_or_default();
    let pods = world.pods.iter().copied().filter(|pod| pod.namespace == namespace(policy));
    pods.filter(|pod| selectors::matches(&selector, &pod.labels)).collect()
}

/// `policyTypes`, whose default is Ingress, and Egress too if there are rules for it.
fn is_about(spec: &NetworkPolicySpec, direction: Direction) -> bool {
    match (&spec.policy_types, direction) {
        (Some(types), _) if !types.is_empty() => {
            let word = if direction == Direction::Ingress { "Ingress" } else { "Egress" };
            types.iter().any(|written| written == word)
        }
        (_, Direction::Ingress) => true,
        (_, Direction::Egress) => spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
    }
}

/// The chains that a direction's packets go through.
fn add_direction(parts: &mut Parts, view: &View, direction: Direction, selected: Vec<(&Member, Vec<String>)>) {
    let entrance = if direction == Direction::Ingress { INGRESS } else { EGRESS };
    // Pods that the same policies select have one chain.
    let mut chains: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let mut elements: BTreeMap<Family, Vec<(Vec<Value>, Verdict)>> = BTreeMap::new();
    for (pod, policies) in selected {
        let name = chains.entry(policies).or_insert_with_key(|policies| {
            let all: Vec<&str> = policies.iter().map(String::as_str).collect();
            let name = unique(direction.tag(), "isolated", &all);
            let tried = policies.iter().map(|policy| vec![jump(policy)].into());
            let rules: Vec<Rule> = tried.chain([vec![drop()].into()]).collect();
            parts.chains.push(chain(&name, rules));
            name
        });
        for address in &pod.addresses {
            let element = (vec![Value::Address(*address)], Verdict::Goto(name.clone()));
            elements.entry(Family::of(*address)).or_default().push(element);
        }
    }
    let mut rules: Vec<Rule> = Vec::new();
    for family in families(&view.network) {
        let Some(mut elements) = elements.remove(&family) else { continue };
        elements.sort_by(|a, b| a.0.cmp(&b.0));
        let set = of(entrance, family);
        parts.add_set(&set, vec![Kind::Address(family)], Content::Verdicts(elements));
        rules.push(vec![Statement::Verdicts(Key::Fields(vec![direction.own(family)]), set)].into());
    }
    rules.push(vec![accept()].into());
    parts.chains.push(chain(entrance, rules));
}

/// The chain of a policy, and its name.
fn add_policy(
    parts: &mut Parts,
    world: &World<'_>,
    (policy, direction): (&NetworkPolicy, Direction),
    pods: &[&Member],
) -> String {
    let readable = format!("{}/{}", namespace(policy), policy.metadata.name.as_deref().unwrap_or_default());
    let spec = policy.spec.clone().unwrap_or_default();
    type Lists = (Option<Vec<NetworkPolicyPeer>>, Option<Vec<NetworkPolicyPort>>);
    let lists: Vec<Lists> = match direction {
        Direction::Ingress => spec.ingress.into_iter().flatten().map(|rule| (rule.from, rule.ports)).collect(),
        Direction::Egress => spec.egress.into_iter().flatten().map(|rule| (rule.to, rule.ports)).collect(),
    };
    let mut rules: Vec<Rule> = Vec::new();
    for (n, (peers, ports)) in lists.into_iter().enumerate() {
        let n = n.to_string();
        let mut maker = Maker { parts: &mut *parts, world, direction, readable: &readable, number: &n };
        let others = maker.peers(namespace(policy), peers.as_deref().unwrap_or_default());
        // The pods whose names for ports count: those that are sent to.
        let named = if direction == Direction::Ingress { pods } else { &world.peers[..] };
        let ports = maker.ports(named, ports.as_deref().unwrap_or_default());
        for (family, other) in &others {
            for (port_family, port) in &ports {
                if family.is_none() || port_family.is_none() || family == port_family {
                    let statements = [other.clone(), port.clone(), vec![accept()]].concat();
                    rules.push(Rule { statements, comment: Some(readable.clone()) });
                }
            }
        }
    }
    let name = unique(direction.tag(), &readable, &["policy"]);
    parts.chains.push(chain(&name, rules));
    name
}

/// Statements that any of must match, with the family that they are of, if of one.
type Alternatives = Vec<(Option<Family>, Vec<Statement>)>;

/// Makes the statements and sets of one rule of a policy.
struct Maker<'a, 'v> {
    parts: &'a mut Parts,
    world: &'a World<'v>,
    direction: Direction,
    readable: &'a str,
    /// Which of the policy's rules it is.
    number: &'a str,
}

impl Maker<'_, '_> {
    /// Who may be at the other end. Nobody said is everybody.
    fn peers(&mut self, namespace: &str, peers: &[NetworkPolicyPeer]) -> Alternatives {
        if peers.is_empty() {
            return vec![(None, Vec::new())];
        }
        let mut alternatives = Alternatives::new();
        for family in families(&self.world.view.network) {
            let mut all = Ranges::default();
            for peer in peers {
                match &peer.ip_block {
                    Some(written) => all.extend(block(written, family)),
                    None => self.selected(namespace, peer, family).for_each(|address| all.add(address)),
                }
            }
            let ranges = all.merged(family);
            if !ranges.is_empty() {
                let set = self.name("peers", &[self.number, &of("", family)]);
                self.parts.add_set(&set, vec![Kind::Address(family)], Content::Ranges(ranges));
                alternatives.push((Some(family), vec![Statement::In(vec![self.direction.peer(family)], set)]));
            }
        }
        alternatives
    }

    /// The addresses of pods that a peer selects: in the policy's own namespace, unless it selects namespaces.
    fn selected<'s>(
        &'s self,
        own_namespace: &'s str,
        peer: &'s NetworkPolicyPeer,
        family: Family,
    ) -> impl Iterator<Item = std::net::IpAddr> + 's {
        let in_namespace = move |pod: &&&Member| match &peer.namespace_selector {
            Some(selector) => selectors::matches(selector, &self.namespace_labels(&pod.namespace)),
            None => peer.pod_selector.is_some() && pod.namespace == own_namespace,
        };
        let everyone = LabelSelector::default();
        let is_meant =
            move |pod: &&&Member| selectors::matches(peer.pod_selector.as_ref().unwrap_or(&everyone), &pod.labels);
        let pods = self.world.peers.iter().filter(in_namespace).filter(is_meant);
        pods.flat_map(|pod| pod.addresses.iter().copied()).filter(move |address| Family::of(*address) == family)
    }

    fn namespace_labels(&self, name: &str) -> BTreeMap<String, String> {
        let by_name = || BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), name.to_owned())]);
        self.world.view.namespaces.get(name).cloned().unwrap_or_else(by_name)
    }

    /// Which ports of the destination. None said are all, of whatever protocol.
    fn ports(&mut self, named: &[&Member], ports: &[NetworkPolicyPort]) -> Alternatives {
        if ports.is_empty() {
            return vec![(None, Vec::new())];
        }
        let mut alternatives = Alternatives::new();
        for (n, port) in ports.iter().enumerate() {
            // Validation admits no other words.
            let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { continue };
            let of_protocol = Statement::Is(Field::L4Proto, Value::transport(protocol));
            let number = |number: i32| u16::try_from(number).ok().map(Value::Port);
            match &port.port {
                None => alternatives.push((None, vec![of_protocol])),
                Some(IntOrString::Int(first)) => {
                    let last = number(port.end_port.unwrap_or(*first));
                    if let (Some(first), Some(last)) = (number(*first), last) {
                        let within = match first == last {
                            true => Statement::Is(Field::Dport, first),
                            false => Statement::Between(Field::Dport, first, last),
                        };
                        alternatives.push((None, vec![of_protocol, within]));
                    }
                }
                Some(IntOrString::String(name)) => {
                    for family in families(&self.world.view.network) {
                        let set = self.name("ports", &[self.number, &n.to_string(), &of("", family)]);
                        if self.named(&set, (named, name, protocol), family) {
                            let pair = vec![Field::Daddr(family), Field::Dport];
                            alternatives.push((Some(family), vec![of_protocol.clone(), Statement::In(pair, set)]));
                        }
                    }
                }
            }
        }
        alternatives
    }

    /// Makes the set of the addresses of pods, each with its port of that name. Whether there are any.
    fn named(&mut self, set: &str, (pods, name, protocol): (&[&Member], &str, Protocol), family: Family) -> bool {
        let mut keys: Vec<Vec<Value>> = Vec::new();
        for pod in pods {
            if let Some(port) = endpoints::named_port(pod, name, protocol) {
                let own = pod.addresses.iter().filter(|address| Family::of(**address) == family);
                keys.extend(own.map(|address| vec![Value::Address(*address), Value::Port(port)]));
            }
        }
        keys.sort();
        self.parts.add_set(set, vec![Kind::Address(family), Kind::Port], Content::Keys(keys));
        self.parts.has_set(set)
    }

    fn name(&self, prefix: &str, parts: &[&str]) -> String {
        unique(prefix, self.readable, &[&[self.direction.tag()], parts].concat())
    }
}

/// The addresses of a block of this family. One that is no block is nobody's.
fn block(written: &IPBlock, family: Family) -> Ranges {
    let exceptions: Option<Vec<Subnet>> = written.except.iter().flatten().map(|text| masked(text)).collect();
    match (masked(&written.cidr), exceptions) {
        (Some(block), Some(exceptions)) if block.family() == family => Ranges::block(block, &exceptions),
        _ => Ranges::default(),
    }
}
