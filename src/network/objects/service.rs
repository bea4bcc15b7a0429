//! What a Service gets: the families of its addresses, the addresses, and node ports. Pure.
//!
//! Source of the rules: pkg/registry/core/service/storage/alloc.go and pkg/registry/core/service/strategy.go of Kubernetes.
//! What a Service had it keeps, as far as the new document does not ask for something else.

use super::super::view::Member;
use super::{Kept, ObjectKind, ObjectName};
use crate::error::{Kind, failure};
use crate::manifest::NetworkObject;
use crate::plan::network::{BridgeNetwork, Family, Protocol, Subnet};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// kube-apiserver's `--service-node-port-range`
const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;

/// What is taken already.
#[derive(Default)]
struct Taken {
    /// Addresses, each with the Service that has it.
    addresses: BTreeMap<IpAddr, ObjectName>,
    /// Node ports, likewise.
    ports: BTreeMap<u16, ObjectName>,
    /// The `hostPort`s of pods, each with the pod.
    host_ports: BTreeMap<(u16, Protocol), String>,
}

/// Fills in the Services among the wanted objects. First everything that is asked for is taken, then what is left is given
/// to those that do not ask: the order of documents makes no conflicts.
pub(super) fn fill_in(
    wanted: &mut [NetworkObject],
    (kept, members): (&Kept, &[Member]),
    network: &BridgeNetwork,
) -> Result<()> {
    let names: BTreeSet<ObjectName> = wanted.iter().map(ObjectName::of).collect();
    let mut taken = Taken::of(kept.of(ObjectKind::Service).filter(|(name, _)| !names.contains(name)), members);
    let mut services: Vec<(ObjectName, &mut ServiceSpec, Vec<Family>)> = Vec::new();
    for object in wanted {
        let name = ObjectName::of(object);
        let before = match kept.get(&name) {
            Some(NetworkObject::Service(service)) => service.spec.as_ref(),
            _ => None,
        };
        let NetworkObject::Service(service) = object else { continue };
        let spec = service.spec.get_or_insert_default();
        let families = ask(spec, before, (network, &mut taken, &name)).with_context(|| name.to_string())?;
        services.push((name, spec, families));
    }
    for (name, spec, families) in services {
        give(spec, &families, (network, &mut taken, &name)).with_context(|| name.to_string())?;
    }
    Ok(())
}

impl Taken {
    fn of<'k>(services: impl Iterator<Item = (&'k ObjectName, &'k NetworkObject)>, members: &[Member]) -> Taken {
        let mut taken = Taken::default();
        for (name, object) in services {
            let NetworkObject::Service(service) = object else { continue };
            taken.addresses.extend(addresses(service).map(|address| (address, name.clone())));
            let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).filter_map(node_port);
            taken.ports.extend(ports.map(|port| (port, name.clone())));
        }
        for member in members {
            for port in &member.ports {
                if let Some(number) = port.host_port {
                    let pod = format!("{}/{}", member.namespace, member.name);
                    taken.host_ports.insert((number, port.protocol), pod);
                }
            }
        }
        taken
    }
}

fn addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    super::super::endpoints::cluster_ips(service).into_iter()
}

fn node_port(port: &ServicePort) -> Option<u16> {
    port.node_port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
}

fn protocol(port: &ServicePort) -> Protocol {
    super::super::endpoints::protocol(port)
}

fn is(spec: &ServiceSpec, type_: &str) -> bool {
    spec.type_.as_deref() == Some(type_)
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// The addresses that a spec names.
fn named(spec: &ServiceSpec) -> Vec<IpAddr> {
    spec.cluster_ips.iter().flatten().filter_map(|text| text.parse().ok()).collect()
}

fn family_of(word: &str) -> Family {
    if word == "IPv6" { Family::V6 } else { Family::V4 }
}

fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn invalid(message: String) -> anyhow::Error {
    failure(Kind::Invalid, message)
}

/// Decides the families, takes what the Service asks for and what it had. The families whose addresses are still to be
/// given.
fn ask(
    spec: &mut ServiceSpec,
    before: Option<&ServiceSpec>,
    (network, taken, name): (&BridgeNetwork, &mut Taken, &ObjectName),
) -> Result<Vec<Family>> {
    ask_node_ports(spec, before, (taken, name))?;
    if is(spec, "ExternalName") {
        return Ok(Vec::new());
    }
    // One of type ExternalName has nothing that could be kept.
    let before = before.filter(|before| !is(before, "ExternalName"));
    if let Some(before) = before {
        refuse_changes(spec, before)?;
        inherit(spec, before);
    }
    if is_headless(spec) && !is(spec, "ClusterIP") {
        let type_ = spec.type_.as_deref().unwrap_or_default();
        return Err(invalid(format!(
            "spec.type may not become {type_}: the Service has no cluster IP; remove it first"
        )));
    }
    let families = families(spec, network)?;
    spec.ip_families = Some(families.iter().map(|family| word(*family).to_owned()).collect());
    if is_headless(spec) {
        return Ok(Vec::new());
    }
    let asked = named(spec);
    let had = before.map(named).unwrap_or_default();
    let mut chosen = Vec::new();
    let mut missing = Vec::new();
    for family in families {
        let of_family = |list: &[IpAddr]| list.iter().copied().find(|address| Family::of(*address) == family);
        match (of_family(&asked), of_family(&had)) {
            (Some(address), had) => {
                take_address(address, (network, taken, name), had == Some(address))?;
                chosen.push(address);
            }
            (None, Some(address)) => {
                take_address(address, (network, taken, name), true)?;
                chosen.push(address);
            }
            (None, None) => missing.push(family),
        }
    }
    spec.cluster_ips = Some(chosen.iter().map(IpAddr::to_string).collect());
    Ok(missing)
}

/// What cannot change once it is set.
fn refuse_changes(spec: &ServiceSpec, before: &ServiceSpec) -> Result<()> {
    const HOW: &str = "remove the Service first";
    let fixed = |field: &str, before: &str, wanted: &str| {
        Err(invalid(format!("{field} may not change once it is set, from {before} to {wanted}: {HOW}")))
    };
    let pair = |before: &Option<Vec<String>>, wanted: &Option<Vec<String>>| -> Option<(String, String)> {
        let (before, wanted) = (before.iter().flatten().cloned(), wanted.iter().flatten().cloned());
        before.zip(wanted).find(|(before, wanted)| before != wanted)
    };
    if let Some((before, wanted)) = pair(&before.cluster_ips, &spec.cluster_ips) {
        return fixed("spec.clusterIP", &before, &wanted);
    }
    if let Some((before, wanted)) = pair(&before.ip_families, &spec.ip_families) {
        return fixed("spec.ipFamilies", &before, &wanted);
    }
    let balanced = is(before, "LoadBalancer") && is(spec, "LoadBalancer");
    if balanced && before.load_balancer_class != spec.load_balancer_class {
        let shown = |class: &Option<String>| class.clone().unwrap_or_else(|| "none".to_owned());
        return fixed("spec.loadBalancerClass", &shown(&before.load_balancer_class), &shown(&spec.load_balancer_class));
    }
    Ok(())
}

/// What the new document does not speak of stays as it was.
fn inherit(spec: &mut ServiceSpec, before: &ServiceSpec) {
    let count = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
    // Two families say themselves what the policy is.
    if spec.ip_family_policy.is_none() && count(&spec.ip_families).max(count(&spec.cluster_ips)) < 2 {
        spec.ip_family_policy.clone_from(&before.ip_family_policy);
    }
    let is_single = spec.ip_family_policy.as_deref() == Some("SingleStack");
    // From two families to one: the second goes.
    let most = if is_single { 1 } else { 2 };
    if spec.ip_families.is_none() {
        spec.ip_families = before.ip_families.as_ref().map(|families| families.iter().take(most).cloned().collect());
    }
    if spec.cluster_ip.is_none() && is_headless(before) {
        spec.cluster_ip.clone_from(&before.cluster_ip);
        spec.cluster_ips.clone_from(&before.cluster_ips);
    }
}

/// The families of a Service's addresses (initIPFamilyFields), and with them its ipFamilyPolicy.
fn families(spec: &mut ServiceSpec, network: &BridgeNetwork) -> Result<Vec<Family>> {
    let offered: Vec<Family> = network.services.iter().map(|subnet| subnet.family()).collect();
    let first = *offered.first().context("the network has no addresses for Services")?;
    let mut families: Vec<Family> = spec.ip_families.iter().flatten().map(|word| family_of(word)).collect();
    let of_addresses: Vec<Family> = named(spec).into_iter().map(Family::of).collect();
    families.extend(of_addresses.into_iter().skip(families.len()));
    let policy = spec.ip_family_policy.get_or_insert_with(|| {
        let policy = if families.len() > 1 { "RequireDualStack" } else { "SingleStack" };
        policy.to_owned()
    });
    if families.is_empty() {
        families.push(first);
    }
    // A name that somebody else fills with addresses may have both families anywhere.
    let is_free = spec.cluster_ip.as_deref() == Some("None") && spec.selector.is_none();
    if !is_free {
        if policy == "RequireDualStack" && offered.len() < 2 {
            let message = "spec.ipFamilyPolicy is RequireDualStack, and the network has one family of addresses";
            return Err(invalid(format!("{message}, {}", word(first))));
        }
        if let Some(family) = families.iter().find(|family| !offered.contains(family)) {
            return Err(invalid(format!(
                "spec.ipFamilies: the network has no {} addresses for Services",
                word(*family)
            )));
        }
    }
    if policy != "SingleStack" && families.len() == 1 {
        let other = if families[0] == Family::V4 { Family::V6 } else { Family::V4 };
        families.extend(Some(other).filter(|other| is_free || offered.contains(other)));
    }
    Ok(families)
}

type Among<'a> = (&'a BridgeNetwork, &'a mut Taken, &'a ObjectName);

/// Takes an address that a Service asks for. One that it had may be of another network's subnet.
fn take_address(address: IpAddr, (network, taken, name): Among<'_>, is_its_own: bool) -> Result<()> {
    if let Some(owner) = taken.addresses.get(&address) {
        return Err(invalid(format!("spec.clusterIP: {address} is {owner}'s already")));
    }
    let is_usable = |subnet: &Subnet| subnet.contains(address) && offset_is_usable(*subnet, address);
    if !is_its_own && !network.services.iter().any(is_usable) {
        let subnets: Vec<String> = network.services.iter().map(Subnet::to_string).collect();
        return Err(invalid(format!(
            "spec.clusterIP: {address} is no address for Services, which are in {}: without spec.clusterIP (and clusterIPs) it gets one",
            subnets.join(" and ")
        )));
    }
    taken.addresses.insert(address, name.clone());
    Ok(())
}

/// The first address of a subnet means the subnet itself, and the last one of an IPv4 subnet everybody in it.
fn offset_is_usable(subnet: Subnet, address: IpAddr) -> bool {
    let is_last = subnet.family() == Family::V4 && subnet.nth(subnet.size() - 1) == Some(address);
    address != subnet.address() && !is_last
}

/// Takes the node ports that a Service asks for, and those that it had for the same ports.
fn ask_node_ports(
    spec: &mut ServiceSpec,
    before: Option<&ServiceSpec>,
    (taken, name): (&mut Taken, &ObjectName),
) -> Result<()> {
    if is(spec, "ExternalName") {
        spec.ports.iter_mut().flatten().for_each(|port| port.node_port = None);
        return Ok(());
    }
    let had: BTreeMap<(Protocol, i32), u16> = before
        .filter(|before| has_node_ports(before))
        .iter()
        .flat_map(|before| before.ports.iter().flatten())
        .filter_map(|port| Some(((protocol(port), port.port), node_port(port)?)))
        .collect();
    let gives = has_node_ports(spec);
    let Some(ports) = &mut spec.ports else { return Ok(()) };
    let mut used: BTreeSet<u16> = ports.iter().filter_map(node_port).collect();
    for port in ports.iter_mut() {
        let own = had.get(&(protocol(port), port.port)).copied();
        match node_port(port) {
            Some(number) => take_port(number, port, (taken, name), own == Some(number))?,
            None => {
                if let Some(number) = own.filter(|number| gives && used.insert(*number)) {
                    take_port(number, port, (taken, name), true)?;
                    port.node_port = Some(number.into());
                }
            }
        }
    }
    Ok(())
}

/// Whether node ports are given to a Service that does not ask for any.
fn has_node_ports(spec: &ServiceSpec) -> bool {
    is(spec, "NodePort") || is(spec, "LoadBalancer") && spec.allocate_load_balancer_node_ports != Some(false)
}

fn take_port(
    number: u16,
    port: &ServicePort,
    (taken, name): (&mut Taken, &ObjectName),
    is_its_own: bool,
) -> Result<()> {
    // Within a Service the same number may serve several protocols.
    if let Some(owner) = taken.ports.get(&number).filter(|owner| *owner != name) {
        return Err(invalid(format!("spec.ports: the node port {number} is {owner}'s already")));
    }
    let protocol = protocol(port);
    if let Some(pod) = taken.host_ports.get(&(number, protocol)).filter(|_| !is_its_own) {
        return Err(invalid(format!(
            "spec.ports: the node port {number} is the hostPort {number}/{protocol} of pod {pod}"
        )));
    }
    taken.ports.insert(number, name.clone());
    Ok(())
}

/// Gives a Service what it did not ask for.
fn give(spec: &mut ServiceSpec, families: &[Family], (network, taken, name): Among<'_>) -> Result<()> {
    for family in families {
        let subnet = network.services.iter().find(|subnet| subnet.family() == *family);
        let subnet = subnet.with_context(|| format!("the network has no {} addresses for Services", word(*family)))?;
        let address = free_address(*subnet, taken)?;
        taken.addresses.insert(address, name.clone());
        spec.cluster_ips.get_or_insert_default().push(address.to_string());
    }
    if !is(spec, "ExternalName") && !is_headless(spec) {
        // In the order of the families.
        let order: Vec<Family> = spec.ip_families.iter().flatten().map(|word| family_of(word)).collect();
        let place = |text: &String| {
            let family = text.parse().ok().map(Family::of);
            order.iter().position(|other| Some(*other) == family)
        };
        let addresses = spec.cluster_ips.get_or_insert_default();
        addresses.sort_by_key(place);
        spec.cluster_ip = addresses.first().cloned();
    }
    if has_node_ports(spec) { give_node_ports(spec, (taken, name)) } else { Ok(()) }
}

/// The least address that nobody has.
fn free_address(subnet: Subnet, taken: &Taken) -> Result<IpAddr> {
    // One more than are taken must be looked at, and those that nobody may have.
    let most = subnet.size().min(taken.addresses.len() as u128 + 3);
    let free = (1..most)
        .filter_map(|offset| subnet.nth(offset))
        .find(|address| offset_is_usable(subnet, *address) && !taken.addresses.contains_key(address));
    free.ok_or_else(|| failure(Kind::NotReady, format!("all addresses of {subnet} are taken by Services")))
}

/// Ports of the same number, for several protocols, have the same node port if they can.
fn give_node_ports(spec: &mut ServiceSpec, (taken, name): (&mut Taken, &ObjectName)) -> Result<()> {
    let Some(ports) = &mut spec.ports else { return Ok(()) };
    for index in 0..ports.len() {
        if node_port(&ports[index]).is_some() {
            continue;
        }
        let (number, protocol) = (ports[index].port, protocol(&ports[index]));
        let is_used =
            |candidate: u16| ports.iter().any(|p| node_port(p) == Some(candidate) && self::protocol(p) == protocol);
        // One that is a pod's for any protocol could not be shared.
        let is_free = |candidate: &u16| {
            let is_a_pods = taken.host_ports.keys().any(|(port, _)| port == candidate);
            !taken.ports.contains_key(candidate) && !is_a_pods
        };
        let sibling = ports.iter().find(|other| other.port == number && node_port(other).is_some());
        let shared = sibling.and_then(node_port).filter(|shared| !is_used(*shared));
        let chosen = shared.filter(|shared| !taken.host_ports.contains_key(&(*shared, protocol)));
        let chosen = chosen.or_else(|| NODE_PORTS.into_iter().find(is_free));
        let chosen = chosen.ok_or_else(|| {
            let (first, last) = (NODE_PORTS.start(), NODE_PORTS.end());
            failure(Kind::NotReady, format!("all node ports, {first} to {last}, are taken"))
        })?;
        taken.ports.insert(chosen, name.clone());
        ports[index].node_port = Some(chosen.into());
    }
    Ok(())
}
