//! The pods' ends: which of them gets the next connection of a Service's port, and which client stays with which.

use super::{Parts, chain, unique};
use crate::network::endpoints;
use crate::network::nft::{Content, Field, Key, Kind, Rule, Statement, Value, Verdict};
use crate::network::view::{Member, View};
use crate::plan::network::Family;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use std::net::IpAddr;
use std::time::Duration;

/// A port of a Service, in one family.
pub(super) struct Front<'v> {
    /// The Service.
    pub service: &'v Service,
    /// Its port.
    pub port: &'v ServicePort,
    /// The family.
    pub family: Family,
}

/// Where a connection may go.
struct Target<'v> {
    member: &'v Member,
    address: IpAddr,
    port: u16,
}

impl Front<'_> {
    /// `default/web:http`, by which rules and chains are known.
    pub(super) fn name(&self) -> String {
        let metadata = &self.service.metadata;
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        let port = self.port.name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| self.port.port.to_string());
        format!("{namespace}/{}:{port}", metadata.name.as_deref().unwrap_or_default())
    }

    /// What sets it apart from all others.
    fn identity(&self) -> [&'static str; 2] {
        let family = if self.family == Family::V4 { "4" } else { "6" };
        [endpoints::protocol(self.port).as_str(), family]
    }

    /// How long a client stays with a pod, with `sessionAffinity: ClientIP`.
    fn affinity(&self) -> Option<Duration> {
        // The API server's default.
        const THREE_HOURS: i32 = 10800;
        let spec = self.service.spec.as_ref()?;
        let config = |spec: &ServiceSpec| spec.session_affinity_config.clone()?.client_ip?.timeout_seconds;
        let seconds = config(spec).and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(THREE_HOURS as u64);
        (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| Duration::from_secs(seconds.max(1)))
    }

    /// The pods that get new connections: those that are ready; if there are none, those that are being ended and still serve
    /// (KEP-1669). One without the port, or without an address of the family, is none.
    fn targets<'v>(&self, view: &'v View) -> Vec<Target<'v>> {
        let all = endpoints::endpoints(self.service, &view.members);
        let target = |member: &'v Member| {
            let port = endpoints::target_port(self.port, member)?;
            Some(Target { member, address: endpoints::address(member, self.family)?, port })
        };
        let ready: Vec<Target<'v>> = all.iter().filter(|e| e.ready).filter_map(|e| target(e.member)).collect();
        if !ready.is_empty() {
            return ready;
        }
        all.iter().filter(|e| e.member.ready && e.member.terminating).filter_map(|e| target(e.member)).collect()
    }
}

/// Makes the chain that gives a connection to one of the pods. Its name; `None` if there is no pod.
pub(super) fn add(parts: &mut Parts, view: &View, front: &Front<'_>) -> Option<String> {
    let targets = front.targets(view);
    if targets.is_empty() {
        return None;
    }
    let name = unique("svc", &front.name(), &front.identity());
    let turns = unique("turns", &front.name(), &front.identity());
    let turn = || Key::Turn(targets.len() as u32);
    let index = |n: usize| vec![Value::Number(n as u32)];
    let comment = Some(front.name());
    let rules = match front.affinity() {
        None => {
            let to = |target: &Target<'_>| vec![Value::Address(target.address), Value::Port(target.port)];
            let elements = targets.iter().enumerate().map(|(n, target)| (index(n), to(target))).collect();
            let kinds = vec![Kind::Address(front.family), Kind::Port];
            parts.add_set(&turns, vec![Kind::Number], Content::Map(kinds, elements));
            vec![Rule { statements: vec![Statement::Dnat(front.family, turn(), turns)], comment }]
        }
        Some(timeout) => {
            let chains: Vec<Staying> = targets.iter().map(|target| staying(parts, front, target, timeout)).collect();
            let stays = |staying: &Staying| {
                let known = Statement::In(vec![Field::Saddr(front.family)], staying.set.clone());
                Rule::from(vec![known, Statement::Verdict(Verdict::Goto(staying.chain.clone()))])
            };
            let elements = chains
                .iter()
                .enumerate()
                .map(|(n, staying)| (index(n), Verdict::Goto(staying.chain.clone())))
                .collect();
            parts.add_set(&turns, vec![Kind::Number], Content::Verdicts(elements));
            let last = Rule { statements: vec![Statement::Verdicts(turn(), turns)], comment };
            chains.iter().map(stays).chain([last]).collect()
        }
    };
    parts.chains.push(chain(&name, rules));
    Some(name)
}

/// The chain of a pod that clients stay with, and the set of those who do.
struct Staying {
    chain: String,
    set: String,
}

fn staying(parts: &mut Parts, front: &Front<'_>, target: &Target<'_>, timeout: Duration) -> Staying {
    let (address, port) = (target.address.to_string(), target.port.to_string());
    // A set of this name is kept when the rules change, so everything that it depends on is in the name.
    let seconds = timeout.as_secs().to_string();
    let [protocol, family] = front.identity();
    let identity = [protocol, family, &target.member.uid, &address, &port, &seconds];
    let (chain_name, set) = (unique("pod", &front.name(), &identity), unique("stay", &front.name(), &identity));
    parts.add_set(&set, vec![Kind::Address(front.family)], Content::Learned(timeout));
    let rules = vec![
        vec![Statement::Learn(Field::Saddr(front.family), set.clone())].into(),
        // What the kernel needs to know for changing a port too.
        vec![
            Statement::Is(Field::L4Proto, Value::transport(endpoints::protocol(front.port))),
            Statement::DnatTo(target.address, target.port),
        ]
        .into(),
    ];
    parts.chains.push(chain(&chain_name, rules));
    Staying { chain: chain_name, set }
}
