//! The table of family bridge: from a pod's port come frames with the pod's own addresses only, and nothing that tells others how
//! the network is; and they go to the host only.
//!
//! The exception to the latter: where `net.bridge.bridge-nf-call-iptables` is 1 the chains of the other table see what is on the
//! bridge too, and what they give another destination on the bridge goes there at once. They mark what they have seen and let pass.
//!
//! Hardware addresses are not looked at: ports of the bridge are locked to one each.

use super::{SEEN, accept, base_chain, chain, drop, goto, icmp6, link_local, protocol, unspecified};
use crate::network::nft::{
    ARP, ChainKind, Content, Field, Hook, ICMPV6, Kind, Set, Statement, Table, TableFamily, Value, ether_type,
};
use crate::network::view::View;
use crate::plan::network::Family;

const LINKS: &str = "links";
const OWN: &str = "own";
const PORT: &str = "port";
const BETWEEN: &str = "between";

pub(super) fn table(view: &View, family: TableFamily, name: String) -> Table {
    let link = |name: &str| Value::Name(name.to_owned());
    let mut links: Vec<Vec<Value>> = view.members.iter().filter_map(|m| Some(vec![link(m.link.as_ref()?)])).collect();
    links.sort();
    let mut sets = vec![Set { name: LINKS.to_owned(), key: vec![Kind::Name], content: Content::Keys(links) }];
    for family in Family::ALL {
        let mut keys: Vec<Vec<Value>> = Vec::new();
        for member in &view.members {
            let own = member.addresses.iter().filter(|address| Family::of(**address) == family);
            let of_link = |name: &String| own.map(|address| vec![link(name), Value::Address(*address)]).collect();
            keys.extend(member.link.as_ref().map_or(Vec::new(), of_link));
        }
        keys.sort();
        let key = vec![Kind::Name, Kind::Address(family)];
        sets.push(Set { name: super::of(OWN, family), key, content: Content::Keys(keys) });
    }
    let entry = vec![vec![Statement::In(vec![Field::IifName], LINKS.to_owned()), goto(PORT)]];
    let port = port().into_iter().map(Into::into).collect();
    let crossing = [Field::IifName, Field::OifName];
    let crossing = crossing.map(|end| vec![Statement::In(vec![end], LINKS.to_owned()), goto(BETWEEN)]).to_vec();
    let seen = vec![Statement::AnyBit(Field::Mark, Value::Mark(SEEN)), accept()];
    let chains = vec![
        base_chain("prerouting", (ChainKind::Filter, Hook::Prerouting, -300), entry),
        // Behind what calls the other table's chains (NF_BR_PRI_BRNF).
        base_chain("forward", (ChainKind::Filter, Hook::Forward, 200), crossing),
        chain(PORT, port),
        chain(BETWEEN, vec![seen.into(), vec![drop()].into()]),
    ];
    Table { family, name, sets, chains }
}

/// The field together with the port is one of the port's own addresses.
fn own(field: Field, family: Family) -> Statement {
    Statement::In(vec![Field::IifName, field], super::of(OWN, family))
}

fn port() -> Vec<Vec<Statement>> {
    let udp = |port: u16| [protocol(17), Statement::Is(Field::Sport, Value::Port(port))];
    let v4 = Statement::Is(Field::EtherType, Value::EtherType(ether_type(Family::V4)));
    let v6 = Statement::Is(Field::EtherType, Value::EtherType(ether_type(Family::V6)));
    let arp = Statement::Is(Field::EtherType, Value::EtherType(ARP));
    let [udp_4, port_4] = udp(67);
    let [udp_6, port_6] = udp(547);
    let (source, target) = (Field::Saddr(Family::V6), Field::NdTarget);
    vec![
        vec![arp, own(Field::ArpSender, Family::V4), accept()],
        // The port of DHCP servers.
        vec![v4.clone(), udp_4, port_4, drop()],
        vec![v4, own(Field::Saddr(Family::V4), Family::V4), accept()],
        vec![v6.clone(), udp_6, port_6, drop()],
        // Router advertisement, redirect.
        vec![icmp6(134), drop()],
        vec![icmp6(137), drop()],
        // A neighbour advertisement speaks for its target, whoever its source is.
        vec![
            icmp6(136),
            Statement::NotWithin(target, link_local()),
            Statement::NotIn(vec![Field::IifName, target], super::of(OWN, Family::V6)),
            drop(),
        ],
        vec![v6, own(source, Family::V6), accept()],
        // Each host has link-local addresses of its own choice, and none beyond the link.
        vec![Statement::Within(source, link_local()), accept()],
        // Duplicate address detection.
        vec![Statement::Is(source, unspecified(Family::V6)), protocol(ICMPV6), accept()],
        vec![drop()],
    ]
}
