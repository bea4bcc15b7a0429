use super::*;
use crate::network::dns::{Next, at_once};
use crate::network::names::Names;
use crate::network::view::{Member, View};
use crate::plan::network::BridgeNetwork;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::LazyLock;

const A: u16 = 1;
const AAAA: u16 = 28;

/// A network with a headless Service `db` of this many pods.
pub(in crate::network::dns) fn view(pods: u32) -> View {
    let member = |number: u32| Member {
        uid: format!("{number:08}"),
        namespace: "ns".into(),
        name: format!("db-{number}"),
        labels: BTreeMap::from([("app".to_owned(), "db".to_owned())]),
        hostname: format!("db-{number}"),
        subdomain: Some("db".into()),
        addresses: vec![IpAddr::from((0x0a56_0003 + number).to_be_bytes())],
        ports: Vec::new(),
        link: Some(format!("v{number}")),
        ready: true,
        terminating: false,
    };
    let service = |name: &str, spec: serde_json::Value| {
        let document = serde_json::json!({ "metadata": { "name": name, "namespace": "ns" }, "spec": spec });
        serde_json::from_value(document).unwrap()
    };
    let ports = serde_json::json!([{ "name": "sql", "port": 5432 }]);
    let db = serde_json::json!({ "clusterIP": "None", "selector": { "app": "db" }, "ports": ports });
    let out = serde_json::json!({ "type": "ExternalName", "externalName": "www.example.com" });
    View {
        network: BridgeNetwork {
            bridge: "podshim0".into(),
            pods: vec!["10.86.0.0/16".parse().unwrap()],
            services: vec!["10.87.0.0/16".parse().unwrap()],
        },
        members: (0..pods).map(member).collect(),
        services: vec![service("db", db), service("out", out)],
        policies: Vec::new(),
        namespaces: BTreeMap::from([("ns".to_owned(), BTreeMap::new())]),
    }
}

/// A query as resolvers write it.
pub(in crate::network::dns) fn ask(name: &str, kind: u16) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        packet.push(label.len() as u8);
        packet.extend(label.bytes());
    }
    packet.push(0);
    packet.extend(kind.to_be_bytes());
    packet.extend([0, 1]);
    packet
}

/// With an OPT record: the size of packets, the version, and the flag DO.
pub(in crate::network::dns) fn with_opt(mut packet: Vec<u8>, size: u16, version: u8, flags: u8) -> Vec<u8> {
    packet.extend([0, 0, 41]);
    packet.extend(size.to_be_bytes());
    packet.extend([0, version, flags, 0, 0, 0]);
    packet[11] += 1;
    packet
}

fn answered(names: &Names, packet: &[u8], transport: Transport) -> Vec<u8> {
    match at_once(names, (0, None), packet, transport) {
        Next::Send(answer) => answer,
        other => panic!("{other:?} came of {packet:02x?}"),
    }
}

#[test]
fn what_is_no_query() {
    let names = Names::new(&view(3));
    let fine = ask("db.ns.svc.cluster.local", A);
    let set = |at: usize, value: u8| {
        let mut packet = fine.clone();
        packet[at] = value;
        packet
    };
    let and = |more: &[u8]| [&fine, more].concat();
    let twice = with_opt(with_opt(fine.clone(), 1232, 0, 0), 1232, 0, 0);
    let long: String = "a.".repeat(127);
    let too_long = format!("{long}aa");
    for (name, packet, expected) in [
        ("nothing", Vec::new(), None),
        ("no header", fine[..11].to_vec(), None),
        ("an answer", set(2, 0x81), None),
        ("a notification", set(2, 0x20), Some(4)),
        ("an update", set(2, 0x28), Some(4)),
        ("no question", set(5, 0), Some(1)),
        ("two questions", set(5, 2), Some(1)),
        ("an answer in it", set(7, 1), Some(1)),
        ("a record that is not there", set(11, 1), Some(1)),
        ("something after its end", and(&[0]), Some(1)),
        ("a question that is cut", fine[..fine.len() - 1].to_vec(), Some(1)),
        ("a reference in its name", set(12, 0xc0), Some(1)),
        ("a long label", set(12, 64), Some(1)),
        ("the longest name", ask(&long, A), Some(255)),
        ("a name that is too long", ask(&too_long, A), Some(1)),
        ("a long packet", and(&[0; MAX_QUERY]), Some(1)),
        ("two OPT records", twice, Some(1)),
        ("another version of OPT", with_opt(fine.clone(), 1232, 1, 0), Some(0)),
    ] {
        match at_once(&names, (0, None), &packet, Transport::Udp) {
            Next::Nothing => assert_eq!(expected, None, "{name}"),
            Next::Ask => assert_eq!(expected, Some(255), "{name}"),
            Next::Send(answer) => {
                assert_eq!(expected, Some(code(&answer)), "{name}: {answer:02x?}");
                assert_eq!((&answer[..2], answer[2] & 0x81), (&packet[..2], 0x80 | packet[2] & 1), "{name}");
            }
        }
    }
    // BADVERS is 16: its upper bits are in the OPT record (RFC 6891).
    let answer = answered(&names, &with_opt(fine.clone(), 1232, 1, 0), Transport::Udp);
    assert_eq!(answer[fine.len()..], [0, 0, 41, 0x04, 0xd0, 1, 0, 0, 0, 0, 0]);
}

#[test]
fn answers_as_packets() {
    let names = Names::new(&view(2));
    let read = |name: &str, kind: u16| {
        let bytes = answered(&names, &ask(name, kind), Transport::Udp);
        assert_eq!(
            bytes[2..4],
            [0x85, 0x80 | code(&bytes)],
            "an authoritative answer, recursion desired and available"
        );
        let packet = Packet::parse(&bytes).unwrap();
        let data = |list: &[ResourceRecord<'_>]| -> Vec<String> {
            list.iter().map(|r| format!("{} {} {:?}", r.name, r.ttl, r.rdata)).collect()
        };
        (code(&bytes), data(&packet.answers), data(&packet.name_servers), data(&packet.additional_records))
    };
    let (code, answers, zone, _) = read("dB.nS.svc.Cluster.local", A);
    let a = |name: &str, last: u32| format!("{name} 5 A(A {{ address: {} }})", 0x0a56_0000 + last);
    assert_eq!((code, zone.len()), (0, 0));
    assert_eq!(answers, [a("dB.nS.svc.Cluster.local", 3), a("dB.nS.svc.Cluster.local", 4)], "its case is kept");
    let (code, answers, _, additional) = read("_sql._tcp.db.ns.svc.cluster.local", 33);
    assert_eq!((code, answers.len()), (0, 2));
    assert!(answers[0].contains("priority: 0, weight: 100, port: 5432, target: Name(\"db-0.db.ns.svc.cluster.local\""));
    assert_eq!(additional, [a("db-0.db.ns.svc.cluster.local", 3), a("db-1.db.ns.svc.cluster.local", 4)]);
    let (code, answers, zone, _) = read("db.ns.svc.cluster.local", AAAA);
    assert_eq!((code, answers.len()), (0, 0));
    assert!(zone[0].starts_with("cluster.local 5 SOA(") && zone[0].contains("minimum: 5"), "{zone:?}");
    let (code, _, zone, _) = read("nobody.ns.svc.cluster.local", A);
    assert_eq!((code, zone.len()), (3, 1));
    let (code, _, zone, _) = read("9.9.86.10.in-addr.arpa", 12);
    assert!(code == 3 && zone[0].starts_with("86.10.in-addr.arpa 5 SOA("), "{zone:?}");
    let (_, answers, ..) = read("4.0.86.10.in-addr.arpa", 12);
    assert!(answers[0].contains("PTR(PTR(Name(\"db-1.db.ns.svc.cluster.local\""), "{answers:?}");
    // Types that the library does not know, and all that DNSSEC asks for.
    for kind in [0, 43, 48, 52, 64, 65, 250, 65535] {
        let bytes = answered(&names, &ask("db.ns.svc.cluster.local", kind), Transport::Udp);
        assert_eq!(bytes[12..][..29], ask("db.ns.svc.cluster.local", kind)[12..], "{kind}: its own question");
        assert_eq!((super::code(&bytes), number(&bytes, 6), number(&bytes, 8)), (0, Some(0), Some(1)), "{kind}");
    }
    let refused = |packet: &[u8]| super::code(&answered(&names, packet, Transport::Udp));
    let mut chaos = ask("version.bind", 16);
    *chaos.last_mut().unwrap() = 3;
    assert_eq!(refused(&chaos), 5, "a class other than IN");
    assert_eq!(refused(&ask("example.com", 252)), 5, "a transfer of a zone");
}

#[test]
fn answers_have_the_room_that_there_is() {
    let names = Names::new(&view(200));
    let plain = ask("db.ns.svc.cluster.local", A);
    let server = ask("_sql._tcp.db.ns.svc.cluster.local", 33);
    for (name, packet, transport, least, most) in [
        ("plain", plain.clone(), Transport::Udp, 480, 512),
        ("a size that is less than all can take", with_opt(plain.clone(), 100, 0, 0), Transport::Udp, 480, 512),
        ("600", with_opt(plain.clone(), 600, 0, 0), Transport::Udp, 570, 600),
        ("too much", with_opt(plain.clone(), 65535, 0, 0), Transport::Udp, 1200, 1232),
        ("TCP", plain.clone(), Transport::Tcp, 3200, 3300),
        ("TCP, with OPT", with_opt(plain, 512, 0, 0x80), Transport::Tcp, 3200, 3300),
        ("SRV", with_opt(server.clone(), 1232, 0, 0), Transport::Udp, 1150, 1232),
        ("SRV, TCP", server, Transport::Tcp, 10_000, 20_000),
    ] {
        let bytes = answered(&names, &packet, transport);
        assert!((least..=most).contains(&bytes.len()), "{name}: {} bytes", bytes.len());
        assert_eq!(is_cut(&bytes), transport == Transport::Udp, "{name}");
        let read = Packet::parse(&bytes).unwrap();
        let has_opt = packet[11] == 1;
        assert_eq!(read.opt().map(|opt| opt.udp_packet_size), has_opt.then_some(MAX_UDP), "{name}");
        if transport == Transport::Tcp {
            assert_eq!(read.answers.len(), 200, "{name}");
        }
    }
    // What was not asked for goes first, and is no loss.
    let names = Names::new(&view(7));
    let bytes = answered(&names, &ask("_sql._tcp.db.ns.svc.cluster.local", 33), Transport::Udp);
    let read = Packet::parse(&bytes).unwrap();
    assert_eq!((is_cut(&bytes), read.answers.len(), read.additional_records.len()), (false, 7, 0));
    assert!(bytes.len() <= 512);
}

fn query(packet: &[u8]) -> Query<'_> {
    match read(packet) {
        Read::Query(query) => query,
        other => panic!("{other:?}"),
    }
}

/// The answer of a server: flags, code, and these bytes after the question.
pub(in crate::network::dns) fn reply(to: &[u8], (flags, code): (u8, u8), counts: [u8; 3], more: &[u8]) -> Vec<u8> {
    let (_, name_end) = read_name(to, HEADER).unwrap();
    let mut packet = to[..name_end + 4].to_vec();
    (packet[2], packet[3]) = (flags, 0x80 | code);
    (packet[7], packet[9], packet[11]) = (counts[0], counts[1], counts[2]);
    packet.extend(more);
    packet
}

/// A record of the question's name.
pub(in crate::network::dns) const ADDRESS: [u8; 16] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 192, 0, 2, 7];

#[test]
fn whose_answer_it_is() {
    let asked = ask("Www.example.com", A);
    let fine = reply(&asked, (0x81, 0), [1, 0, 0], &ADDRESS);
    let set = |at: usize, value: u8| {
        let mut packet = fine.clone();
        packet[at] = value;
        packet
    };
    for (name, packet, expected) in [
        ("its answer", fine.clone(), true),
        ("another's identification", set(0, 0xff), false),
        ("a query", set(2, 0x01), false),
        ("an answer to something else", set(2, 0xa9), false),
        ("in another case", set(13, b'w'), true),
        ("another name", set(13, b'x'), false),
        ("another type", set(30, 28), false),
        ("two questions", set(5, 2), false),
        ("no question", set(5, 0), false),
        ("an error without the question", vec![0x12, 0x34, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0], true),
        ("no error, without the question", vec![0x12, 0x34, 0x81, 0x80, 0, 0, 0, 0, 0, 0, 0, 0], false),
        ("a header that is cut", fine[..11].to_vec(), false),
        ("a question that is cut", fine[..20].to_vec(), false),
    ] {
        assert_eq!(is_answer(&asked, &packet), expected, "{name}");
    }
}

#[test]
fn answers_of_others_are_passed_on() {
    let packet = with_opt(ask("wWw.example.com", A), 4096, 0, 0x80);
    let query = query(&packet);
    let sent = query.forwarded();
    assert_eq!(sent[33..][..11], [0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0], "no more than is let through here");
    let mut answer = reply(&ask("www.example.COM", A), (0x81, 0), [1, 0, 0], &ADDRESS);
    answer[..2].copy_from_slice(&[9, 9]);
    let passed = query.passed_on(&answer, Transport::Udp);
    assert_eq!((&passed[..2], &passed[12..33]), (&packet[..2], &packet[12..33]), "its own id and case");
    assert_eq!(passed[33..], ADDRESS);
    let cut = query.passed_on(&[&answer[..], &[0; 1232]].concat(), Transport::Udp);
    assert_eq!((cut.len(), is_cut(&cut), number(&cut, 6)), (33, true, Some(0)), "one that is too long");
    let bare = query.passed_on(&[9, 9, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0], Transport::Udp);
    assert_eq!(bare, [0x12, 0x34, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn what_an_alias_leads_to() {
    let names = Names::new(&view(1));
    let packet = ask("out.ns.svc.cluster.local", A);
    let query = query(&packet);
    let answer = names.answer(query.asked(), 0).unwrap();
    assert_eq!(at_once(&names, (0, None), &packet, Transport::Udp), Next::Ask);
    let own = super::query("www.example.com", A).unwrap();
    let with = |rest: &[u8]| query.answer(&answer, Some(rest), Transport::Udp);
    let bytes = with(&reply(&own, (0x81, 0), [1, 0, 0], &ADDRESS));
    let read = Packet::parse(&bytes).unwrap();
    let shown: Vec<String> = read.answers.iter().map(|r| format!("{} {:?}", r.name, r.rdata.type_code())).collect();
    assert_eq!(shown, ["out.ns.svc.cluster.local CNAME", "www.example.com A"]);
    assert_eq!((bytes[2], code(&bytes)), (0x81, 0), "not all of it is ours");
    let bytes = with(&reply(&own, (0x81, 3), [0, 0, 0], &[]));
    assert_eq!((code(&bytes), number(&bytes, 6)), (3, Some(1)), "an alias of a name that is not there");
    for (name, rest) in [
        ("records that are not there", reply(&own, (0x81, 0), [200, 200, 200], &[])),
        ("half a record", reply(&own, (0x81, 0), [1, 0, 0], &ADDRESS[..14])),
        ("a name that refers to itself", reply(&own, (0x81, 0), [1, 0, 0], &[0xc0, 33, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0])),
    ] {
        assert_eq!(code(&with(&rest)), 2, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes, what goes out is an answer to it that fits.
    #[test]
    fn any_packet(
        changes in prop::collection::vec((0usize..60, any::<u8>()), 0..6),
        cut in 0usize..80,
        more in prop::collection::vec(any::<u8>(), 0..40),
        is_tcp in any::<bool>(),
    ) {
        let mut packet = with_opt(ask("_sql._tcp.db.ns.svc.cluster.local", 33), 1232, 0, 0);
        packet.truncate(packet.len().saturating_sub(cut.saturating_sub(20)));
        packet.extend(more);
        for (at, value) in changes {
            if let Some(byte) = packet.get_mut(at) {
                *byte = value;
            }
        }
        let transport = if is_tcp { Transport::Tcp } else { Transport::Udp };
        static NAMES: LazyLock<Names> = LazyLock::new(|| Names::new(&view(40)));
        let names = &*NAMES;
        if let Next::Send(answer) = at_once(names, (0, None), &packet, transport) {
            let mut known = answer.clone();
            if number(&known, 4) == Some(1) {
                // The library does not take all types and classes.
                let (_, name_end) = read_name(&known, HEADER).unwrap();
                known[name_end..name_end + 4].copy_from_slice(&[0, 1, 0, 1]);
            }
            prop_assert!(Packet::parse(&known).is_ok(), "{packet:02x?}");
            prop_assert_eq!(&answer[..2], &packet[..2]);
            prop_assert_eq!(answer[2] & 0x80, 0x80);
            prop_assert!(is_tcp || answer.len() <= usize::from(MAX_UDP));
        }
        if let Read::Query(query) = read(&packet) {
            let rest = query.forwarded();
            prop_assert_eq!(rest.len(), packet.len());
            let _ = query.answer(&names.answer(query.asked(), 0).unwrap_or(Answer {
                outcome: Outcome::Found, records: Vec::new(), additional: Vec::new(), zone: None, elsewhere: None,
            }), Some(&rest), transport);
        }
    }
}
