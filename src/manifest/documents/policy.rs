//! NetworkPolicies. Source of the rules: pkg/apis/networking/validation.

use super::super::cidr::Cidr;
use super::super::diagnostics::quote;
use super::super::path::Path;
use super::super::syntax;
use super::super::validate::Checker;
use super::network::{NetworkObject, kept};
use super::read::Subject;
use super::{Content, selector};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

const TYPES: [&str; 2] = ["Ingress", "Egress"];

/// Reads a NetworkPolicy.
pub(super) fn policy(subject: &mut Subject<'_>) -> Content {
    let policy: NetworkPolicy = subject.typed(vec![]);
    let mut spec = policy.spec.unwrap_or_default();
    let root = Path::root();
    let mut c = subject.checker(&root);
    check(&mut c, &spec);
    let (namespace, _) = c.named(&policy.metadata, syntax::dns_subdomain);
    defaults(&mut spec);
    notes_on(&spec, subject.notes);
    whole_blocks(&mut spec, subject.notes);
    let metadata = kept(policy.metadata, Some(namespace));
    Content::Network(NetworkObject::Policy(Box::new(NetworkPolicy { metadata, spec: Some(spec) })))
}

fn check(c: &mut Checker<'_>, spec: &NetworkPolicySpec) {
    let at = Path::of("spec");
    if let Some(selector) = &spec.pod_selector {
        selector::check(c, selector, &at.field("podSelector"));
    }
    for (i, rule) in spec.ingress.iter().flatten().enumerate() {
        let at = at.field("ingress").index(i);
        ports(c, rule.ports.as_deref(), &at.field("ports"));
        peers(c, rule.from.as_deref(), &at.field("from"));
    }
    for (i, rule) in spec.egress.iter().flatten().enumerate() {
        let at = at.field("egress").index(i);
        ports(c, rule.ports.as_deref(), &at.field("ports"));
        peers(c, rule.to.as_deref(), &at.field("to"));
    }
    let types = spec.policy_types.as_deref().unwrap_or(&[]);
    if types.len() > TYPES.len() {
        c.fault(&at.field("policyTypes"), "may hold at most two types");
    }
    for (i, one) in types.iter().enumerate() {
        c.one_of(&at.field("policyTypes").index(i), (Some(one), &TYPES));
    }
}

fn ports(c: &mut Checker<'_>, ports: Option<&[NetworkPolicyPort]>, at: &Path) {
    for (i, port) in ports.into_iter().flatten().enumerate() {
        let at = at.index(i);
        let protocol = port.protocol.as_deref();
        c.one_of(&at.field("protocol"), (protocol, &["TCP", "UDP", "SCTP"]));
        let end = at.field("endPort");
        match (&port.port, port.end_port) {
            (None, None) => {}
            (Some(IntOrString::Int(first)), last) => {
                c.between(&at.field("port"), ((*first).into(), 1, 65535));
                if let Some(last) = last {
                    c.between(&end, (last.into(), 1, 65535));
                    if last < *first {
                        c.fault(&end, format!("{last} is less than `port`, {first}"));
                    }
                }
            }
            (Some(IntOrString::String(name)), last) => {
                c.grammar(&at.field("port"), (name, syntax::port_name));
                if last.is_some() {
                    c.fault(&end, "goes with a `port` that is a number");
                }
            }
            (None, Some(_)) => c.fault(&end, "goes with a `port`, where the range begins"),
        }
    }
}

fn peers(c: &mut Checker<'_>, peers: Option<&[NetworkPolicyPeer]>, at: &Path) {
    for (i, peer) in peers.into_iter().flatten().enumerate() {
        let at = at.index(i);
        let selectors = [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)];
        for (name, selector) in selectors {
            if let Some(selector) = selector {
                selector::check(c, selector, &at.field(name));
            }
        }
        let has_selector = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match &peer.ip_block {
            None if !has_selector => {
                c.fault(&at, "names nobody: one of podSelector, namespaceSelector, ipBlock is needed");
            }
            Some(_) if has_selector => {
                c.fault(&at.field("ipBlock"), "cannot be combined with podSelector or namespaceSelector");
            }
            Some(block) => ip_block(c, block, &at.field("ipBlock")),
            None => {}
        }
    }
}

fn ip_block(c: &mut Checker<'_>, block: &IPBlock, at: &Path) {
    let whole = cidr(c, &block.cidr, &at.field("cidr"));
    for (i, text) in block.except.iter().flatten().enumerate() {
        let at = at.field("except").index(i);
        let (Some(whole), Some(except)) = (whole, cidr(c, text, &at)) else { continue };
        if !whole.strictly_contains(except) {
            c.fault(&at, format!("{} is no smaller part of `cidr`, {whole}", quote(text)));
        }
    }
}

/// A block of addresses, if it is one.
pub(super) fn cidr(c: &mut Checker<'_>, text: &str, at: &Path) -> Option<Cidr> {
    match Cidr::parse(text) {
        Ok((cidr, _)) => Some(cidr),
        Err(rule) => {
            c.fault(at, format!("{} {rule}", quote(text)));
            None
        }
    }
}

/// SetDefaults_NetworkPolicy and SetDefaults_NetworkPolicyPort in pkg/apis/networking/v1/defaults.go.
fn defaults(spec: &mut NetworkPolicySpec) {
    spec.pod_selector.get_or_insert_default();
    let of_ingress = spec.ingress.iter_mut().flatten().filter_map(|rule| rule.ports.as_mut());
    let of_egress = spec.egress.iter_mut().flatten().filter_map(|rule| rule.ports.as_mut());
    for port in of_ingress.chain(of_egress).flatten() {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
    if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
        let has_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
        let types = TYPES.iter().take(1 + usize::from(has_egress));
        spec.policy_types = Some(types.map(|one| (*one).to_owned()).collect());
    }
}

/// Rules for a direction that the policy is not about.
fn notes_on(spec: &NetworkPolicySpec, notes: &mut Vec<String>) {
    let names = |one: &str| spec.policy_types.iter().flatten().any(|named| named == one);
    let has_ingress = spec.ingress.as_ref().is_some_and(|rules| !rules.is_empty());
    let has_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
    for (field, has_rules, direction) in [("ingress", has_ingress, "Ingress"), ("egress", has_egress, "Egress")] {
        if has_rules && !names(direction) {
            notes.push(format!("spec.{field} has no effect: policyTypes does not name {direction}"));
        }
    }
}

/// Blocks without bits behind their prefixes.
fn whole_blocks(spec: &mut NetworkPolicySpec, notes: &mut Vec<String>) {
    let of_ingress = spec.ingress.iter_mut().flatten().enumerate().flat_map(|(i, rule)| {
        let peers = rule.from.iter_mut().flatten().enumerate();
        peers.map(move |(n, peer)| (format!("spec.ingress[{i}].from[{n}].ipBlock"), peer))
    });
    let of_egress = spec.egress.iter_mut().flatten().enumerate().flat_map(|(i, rule)| {
        let peers = rule.to.iter_mut().flatten().enumerate();
        peers.map(move |(n, peer)| (format!("spec.egress[{i}].to[{n}].ipBlock"), peer))
    });
    for (at, peer) in of_ingress.chain(of_egress) {
        let Some(block) = &mut peer.ip_block else { continue };
        whole(&mut block.cidr, &format!("{at}.cidr"), notes);
        for (i, except) in block.except.iter_mut().flatten().enumerate() {
            whole(except, &format!("{at}.except[{i}]"), notes);
        }
    }
}

fn whole(text: &mut String, at: &str, notes: &mut Vec<String>) {
    let Ok((cidr, has_bits)) = Cidr::parse(text) else { return };
    if has_bits {
        notes.push(format!("{at}: {text} has bits behind its prefix, which do not count: it is {cidr}"));
    }
    *text = cidr.to_string();
}
