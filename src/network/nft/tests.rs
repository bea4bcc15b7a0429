//! As root, in network namespaces of their own: what the kernel takes, and what it says of what it does not take.

use super::message::Attributes;
use super::transport::Question;
use super::*;
use crate::network::ground::Namespace;
use crate::plan::network::Family;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

fn address(text: &str) -> Value {
    Value::Address(text.parse().unwrap())
}

fn name(text: &str) -> String {
    text.to_owned()
}

fn chain(name: &str, base: Option<Base>, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_owned(), base, rules }
}

fn base(kind: ChainKind, hook: Hook, priority: i32) -> Option<Base> {
    Some(Base { kind, hook, priority })
}

fn set(name: &str, key: Vec<Kind>, content: Content) -> Set {
    Set { name: name.to_owned(), key, content }
}

fn table(name: &str, sets: Vec<Set>, chains: Vec<Chain>) -> Table {
    Table { family: TableFamily::Inet, name: name.to_owned(), sets, chains }
}

fn one(table: Table) -> Ruleset {
    Ruleset { tables: vec![table] }
}

/// Every kind of set and every statement, of both families.
fn everything() -> Ruleset {
    let v4 = Kind::Address(Family::V4);
    let v6 = Kind::Address(Family::V6);
    let goto = |chain: &str| Verdict::Goto(chain.to_owned());
    let service = |text: &str| vec![address(text), Value::Protocol(6), Value::Port(80)];
    let target = |text: &str| vec![address(text), Value::Port(8080)];
    let range = |from: &str, to: &str| (from.parse::<IpAddr>().unwrap(), to.parse::<IpAddr>().unwrap());
    let mut sets = vec![
        set("learned", vec![v4], Content::Learned(vec![v4, Kind::Port], Duration::from_secs(10))),
        set(
            "turn4",
            vec![Kind::Number],
            Content::Map(vec![v4, Kind::Port], vec![(vec![Value::Number(0)], target("10.0.0.1"))]),
        ),
        set(
            "turn6",
            vec![Kind::Number],
            Content::Map(vec![v6, Kind::Port], vec![(vec![Value::Number(0)], target("fd00::1"))]),
        ),
        set("targets", vec![v4, Kind::Port], Content::Keys(vec![target("10.0.0.1")])),
        set("pods", vec![v4], Content::Keys(vec![vec![address("10.0.0.1")]])),
        set("pairs", vec![v6, v6], Content::Keys(vec![vec![address("fd00::1"), address("fd00::1")]])),
        set(
            "blocks4",
            vec![v4],
            Content::Ranges(vec![range("0.0.0.0", "9.255.255.255"), range("11.0.0.0", "255.255.255.255")]),
        ),
        set(
            "blocks6",
            vec![v6],
            Content::Ranges(vec![
                range("fd00::", "fd00::ff"),
                range("fe00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ]),
        ),
    ];
    for (family, name, text) in [(v4, "services4", "10.1.0.1"), (v6, "services6", "fd01::1")] {
        let key = vec![family, Kind::Protocol, Kind::Port];
        sets.push(set(name, key, Content::Verdicts(vec![(service(text), goto("service"))])));
    }
    let key = |fields: &[Field]| Key::Fields(fields.to_vec());
    let by = |family| vec![Field::Daddr(family), Field::L4Proto, Field::Dport];
    let service_rules: Vec<Rule> = vec![
        vec![
            Statement::Leads(Field::Saddr(Family::V4), name("learned"), name("targets")),
            Statement::Learn(Field::Saddr(Family::V4), name("learned"), Key::Turn(1), name("turn4")),
            Statement::Relearn(Field::Saddr(Family::V4), name("learned"), Key::Turn(1), name("turn4")),
        ]
        .into(),
        vec![Statement::Dnat(Family::V4, Key::Turn(1), name("turn4"))].into(),
        vec![
            Statement::Is(Field::L4Proto, Value::Protocol(17)),
            Statement::Dnat(Family::V6, Key::Turn(1), name("turn6")),
        ]
        .into(),
    ];
    let nat_rules = vec![
        vec![Statement::Verdicts(key(&by(Family::V4)), name("services4"))].into(),
        vec![Statement::Verdicts(key(&by(Family::V6)), name("services6"))].into(),
        Rule {
            statements: vec![
                Statement::Is(Field::DaddrType, Value::AddressType(LOCAL)),
                Statement::Verdict(Verdict::Jump(name("service"))),
            ],
            comment: Some(name("default/web: http")),
        },
    ];
    let forward_rules = vec![
        vec![
            Statement::AnyBit(Field::CtState, Value::State(ESTABLISHED | RELATED)),
            Statement::Verdict(Verdict::Accept),
        ]
        .into(),
        vec![
            Statement::IsNot(Field::IifName, Value::Name(name("lo"))),
            Statement::Within(Field::Daddr(Family::V4), "127.0.0.0/8".parse().unwrap()),
            Statement::NotWithin(Field::Saddr(Family::V4), "10.0.0.0/9".parse().unwrap()),
            Statement::Verdict(Verdict::Drop),
        ]
        .into(),
        vec![
            Statement::Within(Field::Daddr(Family::V6), "fe80::/10".parse().unwrap()),
            Statement::NotIn(vec![Field::Saddr(Family::V6)], name("blocks6")),
            Statement::In(vec![Field::Saddr(Family::V6), Field::Daddr(Family::V6)], name("pairs")),
            Statement::Unreachable,
        ]
        .into(),
        vec![
            Statement::In(vec![Field::Saddr(Family::V4)], name("blocks4")),
            Statement::NotIn(vec![Field::Saddr(Family::V4)], name("pods")),
            Statement::Is(Field::L4Proto, Value::Protocol(6)),
            Statement::Between(Field::Dport, Value::Port(80), Value::Port(90)),
            Statement::Reset,
        ]
        .into(),
        vec![Statement::Is(Field::Icmp6Type, Value::Type(134)), Statement::Verdict(Verdict::Goto(name("nothing")))]
            .into(),
        vec![Statement::AnyBit(Field::Mark, Value::Mark(1)), Statement::Mark(2), Statement::Verdict(Verdict::Accept)]
            .into(),
    ];
    let chains = vec![
        chain("service", None, service_rules),
        chain("nothing", None, Vec::new()),
        chain("prerouting", base(ChainKind::Nat, Hook::Prerouting, -100), nat_rules.clone()),
        chain("output", base(ChainKind::Nat, Hook::Output, -100), nat_rules),
        chain("postrouting", base(ChainKind::Nat, Hook::Postrouting, 100), vec![vec![Statement::Masquerade].into()]),
        chain("forward", base(ChainKind::Filter, Hook::Forward, 0), forward_rules),
    ];
    let own = vec![Kind::Name, v4];
    let frames = vec![
        vec![Statement::In(vec![Field::IifName, Field::ArpSender], name("own")), Statement::Verdict(Verdict::Accept)]
            .into(),
        vec![
            Statement::In(vec![Field::IifName, Field::Saddr(Family::V4)], name("own")),
            Statement::Verdict(Verdict::Accept),
        ]
        .into(),
        vec![
            Statement::Is(Field::Icmp6Type, Value::Type(136)),
            Statement::Within(Field::NdTarget, "fe80::/10".parse().unwrap()),
            Statement::Verdict(Verdict::Drop),
        ]
        .into(),
    ];
    let bridge = Table {
        family: TableFamily::Bridge,
        name: name("t"),
        sets: vec![set("own", own, Content::Keys(vec![vec![Value::Name(name("veth0")), address("10.0.0.1")]]))],
        chains: vec![chain("prerouting", base(ChainKind::Filter, Hook::Prerouting, -300), frames)],
    };
    Ruleset { tables: vec![table("t", sets, chains), bridge] }
}

fn names_of(family: TableFamily) -> (BTreeSet<String>, BTreeSet<String>) {
    let socket = Socket::open().unwrap();
    let chains = socket.chains(family, "t").unwrap().into_iter().map(|chain| chain.name).collect();
    (socket.sets(family, "t").unwrap(), chains)
}

#[test]
fn every_statement_is_taken_and_tables_are_replaced_and_removed() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.run(|| {
        let ruleset = everything();
        // The second time there are sets that are kept.
        for _ in 0..3 {
            apply(&ruleset).unwrap();
            let own = &ruleset.tables[0];
            let (sets, chains) = names_of(TableFamily::Inet);
            assert_eq!(sets, own.sets.iter().map(|set| set.name.clone()).collect());
            assert_eq!(chains, own.chains.iter().map(|chain| chain.name.clone()).collect());
            assert_eq!(names_of(TableFamily::Bridge).1, BTreeSet::from([name("prerouting")]));
        }
        apply(&one(table("t", Vec::new(), vec![chain("other", None, Vec::new())]))).unwrap();
        assert_eq!(names_of(TableFamily::Inet), (BTreeSet::new(), BTreeSet::from([name("other")])));
        for family in [TableFamily::Inet, TableFamily::Bridge, TableFamily::Inet] {
            remove(&[(family, "t".to_owned())]).unwrap();
            assert!(Socket::open().unwrap().tables(family).unwrap().is_empty());
        }
    });
}

#[test]
fn an_error_names_the_object_and_nothing_is_changed() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.run(|| {
        apply(&one(table("t", Vec::new(), vec![chain("first", None, Vec::new())]))).unwrap();
        let to_nowhere = vec![
            vec![Statement::Verdict(Verdict::Accept)].into(),
            vec![Statement::Verdict(Verdict::Jump(name("no")))].into(),
        ];
        let faulty: [(Vec<Set>, Vec<Chain>, &str); 3] = [
            (
                Vec::new(),
                vec![chain("a", None, Vec::new()), chain("b", None, to_nowhere)],
                "NFT_MSG_NEWRULE inet t/b: No such file",
            ),
            (
                Vec::new(),
                vec![chain("a", None, Vec::new()), chain("a", None, Vec::new())],
                "NFT_MSG_NEWCHAIN inet t/a: File exists",
            ),
            (
                vec![set("s", vec![Kind::Port], Content::Keys(vec![vec![address("::1")]]))],
                Vec::new(),
                "NFT_MSG_NEWSETELEM inet t/s: Invalid argument",
            ),
        ];
        for (sets, chains, expected) in faulty {
            let error = apply(&one(table("t", sets, chains))).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{error}");
            assert_eq!(names_of(TableFamily::Inet).1, BTreeSet::from([name("first")]));
        }
    });
}

#[test]
fn two_who_change_their_tables_at_once_both_succeed() {
    let Some(namespace) = Namespace::new() else { return };
    std::thread::scope(|scope| {
        for own in ["a", "b", "c"] {
            let namespace = &namespace;
            scope.spawn(move || {
                namespace.run(|| {
                    for n in 0..40 {
                        let chains = (0..n).map(|n| chain(&format!("c{n}"), None, Vec::new())).collect();
                        apply(&one(table(own, Vec::new(), chains))).unwrap();
                    }
                    remove(&[(TableFamily::Inet, own.to_owned())]).unwrap();
                });
            });
        }
    });
}

#[test]
fn what_was_learned_stays_when_the_table_is_replaced() {
    let Some(namespace) = Namespace::new() else { return };
    let learning = |timeout: u64, port: u16| {
        let learned = set(
            &format!("seen{timeout}"),
            vec![Kind::Address(Family::V4)],
            Content::Learned(vec![Kind::Port], Duration::from_secs(timeout)),
        );
        let one_port = Content::Map(vec![Kind::Port], vec![(vec![Value::Number(0)], vec![Value::Port(9)])]);
        let ports = set("ports", vec![Kind::Number], one_port);
        let rules = vec![
            vec![
                Statement::Is(Field::L4Proto, Value::Protocol(17)),
                Statement::Is(Field::Dport, Value::Port(port)),
                Statement::Learn(Field::Saddr(Family::V4), learned.name.clone(), Key::Turn(1), name("ports")),
            ]
            .into(),
        ];
        one(table("t", vec![learned, ports], vec![chain("input", base(ChainKind::Filter, Hook::Input, 0), rules)]))
    };
    namespace.run(|| {
        let count = |set: &str| elements(set).len();
        apply(&learning(60, 7)).unwrap();
        assert_eq!(count("seen60"), 0);
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", "127.0.0.1:7").unwrap();
        assert_eq!(count("seen60"), 1);
        apply(&learning(60, 8)).unwrap();
        assert_eq!(elements("seen60"), [vec![127, 0, 0, 1]], "it is kept");
        apply(&learning(61, 8)).unwrap();
        assert_eq!(
            (names_of(TableFamily::Inet).0, count("seen61")),
            (BTreeSet::from([name("ports"), name("seen61")]), 0)
        );
    });
}

/// The keys in a set of the table `t`, as the kernel lists them.
fn elements(set: &str) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let socket = Socket::open().unwrap();
    let request = |w: &mut super::message::Writer| {
        w.text(1, "t");
        w.text(2, set);
    };
    let answer = |message: super::message::Message<'_>| {
        let list: Option<Attributes<'_>> = message.attributes().nested(3);
        keys.extend(list.into_iter().flat_map(|list| list.all(1)).filter_map(|e| Some(e.nested(1)?.get(1)?.to_vec())));
    };
    socket.ask(Question::list("NFT_MSG_GETSETELEM", TableFamily::Inet), request, answer).unwrap();
    keys
}

#[test]
fn sets_may_have_many_elements() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.run(|| {
        let keys: Vec<Vec<Value>> =
            (0..20_000u32).map(|n| vec![Value::Address(IpAddr::V6((u128::from(n)).into()))]).collect();
        let many = set("many", vec![Kind::Address(Family::V6)], Content::Keys(keys));
        apply(&one(table("t", vec![many], Vec::new()))).unwrap();
        assert_eq!(elements("many").len(), 20_000);
    });
}

/// A forwarding host between two others, with a firewall in the way as docker makes it.
struct Crossing {
    host: Namespace,
    pod: Namespace,
    outside: Namespace,
}

impl Crossing {
    fn new() -> Option<Crossing> {
        let crossing = Crossing { host: Namespace::new()?, pod: Namespace::new()?, outside: Namespace::new()? };
        let (pod, outside) = (crossing.pod.path(), crossing.outside.path());
        crossing.host.ip(&format!(
            "link add br0 type bridge
             link add veth0 type veth peer name eth0 netns {pod}
             link set veth0 master br0 up
             link set br0 up
             addr add 10.9.0.1/24 dev br0
             link add up0 type veth peer name eth0 netns {outside}
             addr add 192.0.2.1/24 dev up0
             link set up0 up"
        ));
        crossing.host.sysctl("net/ipv4/ip_forward", "1");
        crossing.pod.ip("addr add 10.9.0.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.9.0.1");
        crossing.outside.ip("addr add 192.0.2.2/24 dev eth0\nlink set eth0 up\nroute add default via 192.0.2.1");
        Some(crossing)
    }

    /// Whether a connection from one to the other comes about.
    fn connects(from: &Namespace, to: &Namespace, address: &str) -> bool {
        let address: SocketAddr = address.parse().unwrap();
        let _listener = to.run(|| TcpListener::bind(address).unwrap());
        from.run(|| TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok())
    }

    /// Likewise; links that were just made take up to a second until they work.
    fn connects_soon(from: &Namespace, to: &Namespace, address: &str) -> bool {
        (0..20).any(|_| Crossing::connects(from, to, address))
    }
}

/// `table ip filter` with a FORWARD chain whose policy is to drop, and a chain for users.
fn docker_like(family: TableFamily, chains: &[(&str, bool)]) {
    let socket = Socket::open().unwrap();
    let mut batch = Batch::new(socket.generation().unwrap());
    batch.push(Object::table("NFT_MSG_NEWTABLE", family, "filter"), |w| w.text(1, "filter"));
    for (chain, is_base) in chains {
        batch.push(Object::rule("NFT_MSG_NEWCHAIN", family, "filter", chain), |w| {
            w.text(1, "filter");
            w.text(3, chain);
            if *is_base {
                w.nested(4, |w| {
                    w.number(1, 2);
                    w.number(2, 0);
                });
                w.number(5, libc::NF_DROP as u32);
                w.text(7, "filter");
            }
        });
    }
    if chains.len() > 1 {
        batch.push(Object::rule("NFT_MSG_NEWRULE", family, "filter", "FORWARD"), |w| {
            let jump = Rule::from(vec![Statement::Verdict(Verdict::Jump(name("DOCKER-USER")))]);
            let table = Table { family, name: name("filter"), sets: Vec::new(), chains: Vec::new() };
            encode::rule(w, &table, "FORWARD", &jump);
        });
    }
    socket.commit(batch).unwrap();
}

/// How many rules a chain has.
fn rules_in(family: TableFamily, wanted: &str) -> usize {
    let mut count = 0;
    let each =
        |message: super::message::Message<'_>| count += usize::from(message.attributes().text(2) == Some(wanted));
    Socket::open().unwrap().list("NFT_MSG_GETRULE", family, each).unwrap();
    count
}

#[test]
fn forwarding_is_permitted_past_a_firewall_that_drops_it() {
    for chains in [&[("FORWARD", true)][..], &[("FORWARD", true), ("DOCKER-USER", false)]] {
        let Some(crossing) = Crossing::new() else { return };
        let Crossing { host, pod, outside } = &crossing;
        assert!(Crossing::connects_soon(pod, outside, "192.0.2.2:80"), "nothing is in the way yet");
        let entrance = chains[chains.len() - 1].0;
        let published = table(
            "t",
            vec![set(
                "ports",
                vec![Kind::Port],
                Content::Map(
                    vec![Kind::Address(Family::V4), Kind::Port],
                    vec![(vec![Value::Port(8080)], vec![address("10.9.0.2"), Value::Port(80)])],
                ),
            )],
            vec![chain(
                "prerouting",
                base(ChainKind::Nat, Hook::Prerouting, -100),
                vec![
                    vec![
                        Statement::Is(Field::Daddr(Family::V4), address("192.0.2.1")),
                        Statement::Is(Field::L4Proto, Value::Protocol(6)),
                        Statement::Dnat(Family::V4, Key::Fields(vec![Field::Dport]), name("ports")),
                    ]
                    .into(),
                ],
            )],
        );
        host.run(|| {
            apply(&one(published)).unwrap();
            [TableFamily::Ip, TableFamily::Ip6].into_iter().for_each(|family| docker_like(family, chains));
        });
        assert!(!Crossing::connects(pod, outside, "192.0.2.2:80"));
        let before = host.run(|| rules_in(TableFamily::Ip, entrance));
        for _ in 0..2 {
            assert_eq!(host.run(|| permit_forwarding("br0")).unwrap(), None);
            host.run(|| permit_forwarding("br1")).unwrap();
            for family in [TableFamily::Ip, TableFamily::Ip6] {
                assert_eq!(host.run(|| rules_in(family, entrance)), before + 4, "two for each bridge, and no more");
            }
        }
        assert!(Crossing::connects_soon(pod, outside, "192.0.2.2:80"));
        assert!(!Crossing::connects(outside, pod, "10.9.0.2:80"), "what is sent to a pod unasked is still dropped");
        let _listener = pod.run(|| TcpListener::bind("10.9.0.2:80").unwrap());
        let port: SocketAddr = "192.0.2.1:8080".parse().unwrap();
        outside.run(|| TcpStream::connect_timeout(&port, Duration::from_secs(5))).expect("a published port is reached");
        for _ in 0..2 {
            host.run(|| forbid_forwarding("br0")).unwrap();
            assert_eq!(host.run(|| rules_in(TableFamily::Ip, entrance)), before + 2);
        }
        assert!(!Crossing::connects(pod, outside, "192.0.2.2:80"));
    }
}

#[test]
fn firewalld_is_told_about_until_the_bridge_is_in_a_zone() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.run(|| {
        assert_eq!(permit_forwarding("br0").unwrap(), None);
        let zones = |link: &str| {
            let rule =
                vec![Statement::Is(Field::IifName, Value::Name(name(link))), Statement::Verdict(Verdict::Accept)];
            let chains = vec![chain("filter_FORWARD", base(ChainKind::Filter, Hook::Forward, 10), vec![rule.into()])];
            one(table("firewalld", Vec::new(), chains))
        };
        apply(&zones("eth0")).unwrap();
        let hindrance = permit_forwarding("br0").unwrap().unwrap();
        assert!(hindrance.to_string().contains("firewall-cmd --zone=trusted --add-interface=br0"), "{hindrance}");
        apply(&zones("br0")).unwrap();
        assert_eq!(permit_forwarding("br0").unwrap(), None);
    });
}
