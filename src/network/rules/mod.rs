//! The packet filter's rules, made of the view of the network. Pure: what comes out is for `nft` to put in place.
//!
//! Two tables of the bridge's name: one of family `bridge` in which each port has but its own addresses ([`guard`]), and one of
//! family `inet` with everything else: Services and ports of the host ([`services`], [`targets`]) by DNAT, what leaves the network
//! with the host's address, and NetworkPolicies ([`policies`]). All that goes from pod to pod is routed by the host, so it passes
//! here. What is neither from nor to the bridge, nor for an address of a Service, is let alone.

mod guard;
mod policies;
mod ranges;
mod services;
mod targets;
#[cfg(test)]
mod tests;

use super::nft::{
    Base, Chain, ChainKind, Content, ESTABLISHED, Field, Hook, ICMP, ICMPV6, INVALID, Kind, RELATED, Rule, Ruleset,
    Set, Statement, Table, TableFamily, Value, Verdict,
};
use super::view::View;
use crate::plan::network::{BridgeNetwork, Family, Subnet};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The tables that a bridge has, which [`ruleset`] makes.
pub fn tables(bridge: &str) -> [(TableFamily, String); 2] {
    [TableFamily::Inet, TableFamily::Bridge].map(|family| (family, format!("podshim_{bridge}")))
}

/// All rules of a network.
pub fn ruleset(view: &View) -> Ruleset {
    let [inet, bridge] = tables(&view.network.bridge);
    let mut parts = Parts::default();
    services::add(&mut parts, view);
    policies::add(&mut parts, view);
    parts.sets.extend(sets(view));
    let mut chains = base_chains(view, &parts);
    chains.append(&mut parts.chains);
    Ruleset {
        tables: vec![
            Table { family: inet.0, name: inet.1, sets: parts.sets, chains },
            guard::table(view, bridge.0, bridge.1),
        ],
    }
}

/// What the parts have made so far.
#[derive(Default)]
struct Parts {
    sets: Vec<Set>,
    chains: Vec<Chain>,
}

impl Parts {
    /// Adds a set, unless there is nothing in it.
    fn add_set(&mut self, name: &str, key: Vec<Kind>, content: Content) {
        let is_empty = match &content {
            Content::Keys(elements) => elements.is_empty(),
            Content::Ranges(elements) => elements.is_empty(),
            Content::Map(_, elements) => elements.is_empty(),
            Content::Verdicts(elements) => elements.is_empty(),
            Content::Learned(..) => false,
        };
        if !is_empty {
            self.sets.push(Set { name: name.to_owned(), key, content });
        }
    }

    fn has_set(&self, name: &str) -> bool {
        self.sets.iter().any(|set| set.name == name)
    }
}

/// The families that pods have addresses of.
fn families(network: &BridgeNetwork) -> impl Iterator<Item = Family> {
    Family::ALL.into_iter().filter(|family| network.pods.iter().any(|subnet| subnet.family() == *family))
}

/// The name of a family's own set.
fn of(name: &str, family: Family) -> String {
    format!("{name}{}", if family == Family::V4 { 4 } else { 6 })
}

/// A name for something: at most 31 bytes, in nft's alphabet, readable as far as that goes, and different for different things.
fn unique(prefix: &str, readable: &str, parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in [readable].iter().chain(parts) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let hash: String = hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let room = 31 - prefix.len() - hash.len() - 2;
    let letters = readable.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' });
    format!("{prefix}_{}_{hash}", letters.take(room).collect::<String>())
}

/// A block whose address may have bits behind its prefix, as the API admits it.
fn masked(text: &str) -> Option<Subnet> {
    let (address, prefix) = text.split_once('/')?;
    Subnet::of(address.parse().ok()?, prefix.parse().ok()?)
}

fn subnet(text: &str) -> Subnet {
    text.parse().expect("a subnet")
}

/// `127.0.0.0/8`
fn loopback() -> Subnet {
    subnet("127.0.0.0/8")
}

/// `fe80::/10`
fn link_local() -> Subnet {
    subnet("fe80::/10")
}

fn multicast(family: Family) -> Subnet {
    subnet(if family == Family::V4 { "224.0.0.0/4" } else { "ff00::/8" })
}

fn unspecified(family: Family) -> Value {
    Value::Address(match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    })
}

fn drop() -> Statement {
    Statement::Verdict(Verdict::Drop)
}

fn accept() -> Statement {
    Statement::Verdict(Verdict::Accept)
}

fn jump(chain: &str) -> Statement {
    Statement::Verdict(Verdict::Jump(chain.to_owned()))
}

fn goto(chain: &str) -> Statement {
    Statement::Verdict(Verdict::Goto(chain.to_owned()))
}

fn icmp6(number: u8) -> Statement {
    Statement::Is(Field::Icmp6Type, Value::Type(number))
}

fn protocol(number: u8) -> Statement {
    Statement::Is(Field::L4Proto, Value::Protocol(number))
}

/// A chain that is only gone to.
fn chain(name: &str, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_owned(), base: None, rules }
}

/// A base chain.
fn base_chain(name: &str, (kind, hook, priority): (ChainKind, Hook, i32), rules: Vec<Vec<Statement>>) -> Chain {
    let rules = rules.into_iter().map(Rule::from).collect();
    Chain { name: name.to_owned(), base: Some(Base { kind, hook, priority }), rules }
}

/// The addresses that may come from the bridge: those of pods, and of the name server.
fn addresses(view: &View, family: Family) -> BTreeSet<IpAddr> {
    let pods = view.members.iter().filter(|member| member.link.is_some()).flat_map(|member| member.addresses.clone());
    pods.chain(view.network.name_servers()).filter(|address| Family::of(*address) == family).collect()
}

/// Sets that several parts use.
fn sets(view: &View) -> Vec<Set> {
    let mut parts = Parts::default();
    for family in families(&view.network) {
        let kind = Kind::Address(family);
        let addresses: Vec<Value> = addresses(view, family).into_iter().map(Value::Address).collect();
        let keys = addresses.iter().map(|address| vec![address.clone()]).collect();
        let pairs = addresses.iter().map(|address| vec![address.clone(), address.clone()]).collect();
        parts.add_set(&of("pods", family), vec![kind], Content::Keys(keys));
        parts.add_set(&of("itself", family), vec![kind, kind], Content::Keys(pairs));
    }
    parts.sets
}

fn base_chains(view: &View, parts: &Parts) -> Vec<Chain> {
    use ChainKind::{Filter, Nat};
    vec![
        // Ahead of conntrack's changes of the destination, so that what is seen is what is on the wire.
        base_chain("arriving", (Filter, Hook::Prerouting, -300), arriving(view)),
        base_chain("prerouting", (Nat, Hook::Prerouting, -100), vec![vec![jump(services::CHAIN)]]),
        base_chain("output_nat", (Nat, Hook::Output, -100), vec![vec![jump(services::CHAIN)]]),
        base_chain("forward", (Filter, Hook::Forward, 0), forward(view, parts)),
        base_chain("forward_in", (Filter, Hook::Forward, 1), forward_in(view)),
        base_chain("forward_seen", (Filter, Hook::Forward, 2), forward_seen(view)),
        base_chain("input", (Filter, Hook::Input, 0), input(view, parts)),
        base_chain("output", (Filter, Hook::Output, 0), output(view, parts)),
        base_chain("postrouting", (Nat, Hook::Postrouting, 100), postrouting(view)),
        chain(REFUSE, refuse().into_iter().map(Rule::from).collect()),
    ]
}

fn from_bridge(view: &View) -> Statement {
    Statement::Is(Field::IifName, Value::Name(view.network.bridge.clone()))
}

fn to_bridge(view: &View) -> Statement {
    Statement::Is(Field::OifName, Value::Name(view.network.bridge.clone()))
}

/// What is dropped before anything else looks at it.
fn arriving(view: &View) -> Vec<Vec<Statement>> {
    // With route_localnet, which the bridge has, whoever is on the link reaches what listens on 127.0.0.1 only (CVE-2020-8558).
    let mut rules = vec![vec![
        Statement::IsNot(Field::IifName, Value::Name("lo".to_owned())),
        Statement::Within(Field::Daddr(Family::V4), loopback()),
        drop(),
    ]];
    // The other table has each port use its own addresses only; this one knows of no port, and lets none through that is nobody's.
    for family in Family::ALL {
        let source = Field::Saddr(family);
        let mut rule = vec![from_bridge(view)];
        if family == Family::V6 {
            // Duplicate address detection, and its reports to multicast routers (RFC 4862, RFC 3810).
            rules.push(vec![from_bridge(view), Statement::Is(source, unspecified(family)), protocol(ICMPV6), accept()]);
            rule.push(Statement::NotWithin(source, link_local()));
        }
        match families(&view.network).any(|known| known == family) {
            true => rule.push(Statement::NotIn(vec![source], of("pods", family))),
            false => rule.push(Statement::Is(Field::NfProto, Value::Family(family))),
        }
        rule.push(drop());
        rules.push(rule);
    }
    rules
}

fn established() -> Vec<Statement> {
    vec![Statement::AnyBit(Field::CtState, Value::State(ESTABLISHED | RELATED)), accept()]
}

fn invalid() -> Statement {
    Statement::AnyBit(Field::CtState, Value::State(INVALID))
}

fn forward(view: &View, parts: &Parts) -> Vec<Vec<Statement>> {
    let mut rules = vec![established()];
    // Else answers that conntrack does not know go out with an address that nobody asked, and end the connection.
    rules.push(vec![from_bridge(view), invalid(), drop()]);
    rules.push(vec![to_bridge(view), invalid(), drop()]);
    rules.extend(services::refusals(view, parts));
    rules.extend(to_itself(view));
    rules.push(vec![from_bridge(view), goto(policies::EGRESS)]);
    rules
}

/// What the first chain lets go: may it come?
fn forward_in(view: &View) -> Vec<Vec<Statement>> {
    let mut rules = vec![established()];
    rules.extend(to_itself(view));
    rules.push(vec![to_bridge(view), goto(policies::INGRESS)]);
    rules
}

/// A bit of the mark of packets from pod to pod that the rules for forwarding have let pass ([`guard`]). It is none of those that
/// Kubernetes, docker, podman, Calico, Cilium and Tailscale use.
const SEEN: u32 = 0x10;

fn forward_seen(view: &View) -> Vec<Vec<Statement>> {
    let to_pod = |family| Statement::In(vec![Field::Daddr(family)], of("pods", family));
    families(&view.network)
        .map(|family| vec![from_bridge(view), to_bridge(view), to_pod(family), Statement::Mark(SEEN)])
        .collect()
}

/// A pod always reaches itself, also by a Service.
fn to_itself(view: &View) -> impl Iterator<Item = Vec<Statement>> {
    families(&view.network).map(|family| {
        let pair = vec![Field::Saddr(family), Field::Daddr(family)];
        vec![from_bridge(view), Statement::In(pair, of("itself", family)), accept()]
    })
}

fn input(view: &View, parts: &Parts) -> Vec<Vec<Statement>> {
    let mut rules = vec![established()];
    rules.extend(services::refusals(view, parts));
    rules.push(vec![from_bridge(view), invalid(), drop()]);
    // Router and neighbour solicitation, advertisement: without them there are no other packets.
    rules.extend([133, 135, 136].map(|kind| vec![from_bridge(view), icmp6(kind), accept()]));
    // Policies go by pods' addresses, which these are not.
    let source = Statement::Within(Field::Saddr(Family::V6), link_local());
    rules.push(vec![from_bridge(view), source.clone(), protocol(ICMPV6), accept()]);
    rules.push(vec![from_bridge(view), source, drop()]);
    rules.push(vec![from_bridge(view), goto(policies::EGRESS)]);
    rules
}

fn output(view: &View, parts: &Parts) -> Vec<Vec<Statement>> {
    // That pods reach each other by the host although they are on one link is as it should be.
    let mut rules = vec![
        vec![to_bridge(view), protocol(ICMP), Statement::Is(Field::IcmpType, Value::Type(5)), drop()],
        vec![to_bridge(view), icmp6(137), drop()],
        established(),
    ];
    rules.extend(services::refusals(view, parts));
    rules
}

fn postrouting(view: &View) -> Vec<Vec<Statement>> {
    let mut rules = Vec::new();
    for family in families(&view.network) {
        let source = Field::Saddr(family);
        // A pod that reached itself by a Service: with its own address as the source it would answer itself, past the host.
        let pair = vec![source, Field::Daddr(family)];
        rules.push(vec![to_bridge(view), Statement::In(pair, of("itself", family)), Statement::Masquerade]);
        if family == Family::V4 {
            rules.push(vec![to_bridge(view), Statement::Within(source, loopback()), Statement::Masquerade]);
        }
        rules.push(vec![
            Statement::IsNot(Field::OifName, Value::Name(view.network.bridge.clone())),
            Statement::In(vec![source], of("pods", family)),
            Statement::NotWithin(Field::Daddr(family), multicast(family)),
            Statement::Masquerade,
        ]);
    }
    rules
}

/// The chain that answers for addresses of Services behind which is nobody.
const REFUSE: &str = "refuse";

fn refuse() -> Vec<Vec<Statement>> {
    vec![
        // A packet that conntrack does not know had no chance of getting another destination.
        vec![invalid(), drop()],
        // A reset is not subject to the kernel's limit of ICMP errors.
        vec![protocol(6), Statement::Reset],
        vec![Statement::Unreachable],
    ]
}
