//! The pods' ends: which of them gets the next connection of a Service's port, and which client stays with which.

use super::{Parts, chain, unique};
use crate::network::endpoints;
use crate::network::nft::{Content, Field, Key, Kind, Rule, Statement, Value};
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
struct Target {
    address: IpAddr,
    port: u16,
}

impl Target {
    fn values(&self) -> Vec<Value> {
        vec![Value::Address(self.address), Value::Port(self.port)]
    }
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

    /// The types of an address and a port.
    fn target_kinds(&self) -> Vec<Kind> {
        vec![Kind::Address(self.family), Kind::Port]
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
    fn targets(&self, view: &View) -> Vec<Target> {
        let all = endpoints::endpoints(self.service, &view.members);
        let target = |member: &Member| {
            let port = endpoints::target_port(self.port, member)?;
            Some(Target { address: endpoints::address(member, self.family)?, port })
        };
        let ready: Vec<Target> = all.iter().filter(|e| e.ready).filter_map(|e| target(e.member)).collect();
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
    let index = |n: usize| vec![Value::Number(n as u32)];
    let elements = targets.iter().enumerate().map(|(n, target)| (index(n), target.values())).collect();
    parts.add_set(&turns, vec![Kind::Number], Content::Map(front.target_kinds(), elements));
    let in_turn = Key::Turn(targets.len() as u32);
    let mut rules = match front.affinity() {
        Some(timeout) => staying(parts, front, (&targets, timeout), (&in_turn, &turns)),
        None => Vec::new(),
    };
    let comment = Some(front.name());
    rules.push(Rule { statements: vec![Statement::Dnat(front.family, in_turn, turns)], comment });
    parts.chains.push(chain(&name, rules));
    Some(name)
}

/// The rules by which clients stay with their pods. What follows them is for those whom there is no room to remember.
fn staying(
    parts: &mut Parts,
    front: &Front<'_>,
    (targets, timeout): (&[Target], Duration),
    (in_turn, turns): (&Key, &String),
) -> Vec<Rule> {
    let present = unique("pods", &front.name(), &front.identity());
    let mut keys: Vec<Vec<Value>> = targets.iter().map(Target::values).collect();
    keys.sort();
    keys.dedup();
    parts.add_set(&present, front.target_kinds(), Content::Keys(keys));
    // A map of this name is kept when the rules change, so everything that it depends on is in the name.
    let [protocol, family] = front.identity();
    let stays = unique("stay", &front.name(), &[protocol, family, &timeout.as_secs().to_string()]);
    let client = Field::Saddr(front.family);
    parts.add_set(&stays, vec![Kind::Address(front.family)], Content::Learned(front.target_kinds(), timeout));
    let by_client = || Key::Fields(vec![client]);
    let remembered = || Statement::Dnat(front.family, by_client(), stays.clone());
    let known = vec![
        // Its pod is still among those that get new connections.
        Statement::Leads(client, stays.clone(), present),
        Statement::Learn(client, stays.clone(), by_client(), stays.clone()),
        remembered(),
    ];
    let new = vec![Statement::Relearn(client, stays.clone(), in_turn.clone(), turns.clone()), remembered()];
    vec![known.into(), new.into()]
}
