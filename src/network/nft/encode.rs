//! From statements to the expressions that the kernel executes (`linux/netfilter/nf_tables.h`), and from sets to their elements.

use super::TableFamily;
use super::message::Writer;
use super::table::{Chain, ChainKind, Content, Key, Rule, Set, Statement, Table, Verdict};
use super::value::{Field, Kind, Value, concatenated};
use crate::plan::network::{Family, Subnet};
use std::net::IpAddr;

/// The most keys of a set of kind [`Content::Learned`].
pub(super) const LEARNED_SIZE: u32 = 65535;

/// The verdict register, `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;
/// The first 32-bit register, `NFT_REG32_00`: keys are loaded from here on.
const KEY: u32 = 8;
/// `NFT_REG32_08`: where what a map has is put, behind the longest key that is looked up in one (32 bytes).
const FOUND: u32 = KEY + 8;

/// `NFT_DYNSET_OP_UPDATE`: adds an element, or lets it last for another while.
const UPDATE: u32 = 1;
/// `NFT_DYNSET_OP_DELETE` (since Linux 5.5).
const DELETE: u32 = 2;

/// The number of elements in one message: none is longer than 128 bytes, and an attribute has at most 65535.
const ELEMENTS_PER_MESSAGE: usize = 256;

/// `NFTA_CHAIN_*` of a chain in a table.
pub(super) fn chain(w: &mut Writer, table: &str, chain: &Chain) {
    w.text(1, table);
    w.text(3, &chain.name);
    if let Some(base) = chain.base {
        w.nested(4, |w| {
            w.number(1, base.hook.number());
            w.bytes(2, &base.priority.to_be_bytes());
        });
        w.number(5, libc::NF_ACCEPT as u32);
        w.text(7, if base.kind == ChainKind::Nat { "nat" } else { "filter" });
    }
}

/// `NFTA_SET_*`. `id` is any number that no other set of the batch has.
pub(super) fn set(w: &mut Writer, table: &str, set: &Set, id: u32) {
    const INTERVAL: u32 = 0x4;
    const MAP: u32 = 0x8;
    const TIMEOUT: u32 = 0x10;
    const EVAL: u32 = 0x20;
    const CONCAT: u32 = 0x80;
    let flags = match &set.content {
        Content::Keys(_) => 0,
        Content::Ranges(_) => INTERVAL,
        Content::Map(..) | Content::Verdicts(_) => MAP,
        Content::Learned(..) => MAP | TIMEOUT | EVAL,
    };
    w.text(1, table);
    w.text(2, &set.name);
    w.number(3, flags | if set.key.len() > 1 { CONCAT } else { 0 });
    w.number(4, type_number(&set.key));
    w.number(5, type_length(&set.key));
    match &set.content {
        Content::Map(to, _) | Content::Learned(to, _) => {
            w.number(6, type_number(to));
            w.number(7, type_length(to));
        }
        // NFT_DATA_VERDICT
        Content::Verdicts(_) => w.number(6, 0xffff_ff00),
        _ => {}
    }
    w.nested(9, |w| {
        if let Content::Learned(..) = set.content {
            w.number(1, LEARNED_SIZE);
        }
        if set.key.len() > 1 {
            w.nested(2, |w| set.key.iter().for_each(|kind| w.nested(1, |w| w.number(1, kind.length() as u32))));
        }
    });
    w.number(10, id);
    if set.key.len() == 1 && set.key[0].is_native() {
        // For whoever lists it: NFTNL_UDATA_SET_KEYBYTEORDER, its length, BYTEORDER_HOST_ENDIAN.
        w.bytes(13, &[&[0, 4][..], &1u32.to_ne_bytes()].concat());
    }
    if let Content::Learned(_, timeout) = set.content {
        w.long(11, u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    }
}

/// nft's number of several types in one: six bits for each.
fn type_number(kinds: &[Kind]) -> u32 {
    kinds.iter().fold(0, |number, kind| number << 6 | kind.number())
}

/// The length of a key of these types: of several, each fills whole registers.
fn type_length(kinds: &[Kind]) -> u32 {
    let length = match kinds {
        [kind] => kind.length(),
        several => several.iter().map(|kind| kind.length().next_multiple_of(4)).sum(),
    };
    length as u32
}

/// A set's elements, in as many parts as it takes messages.
pub(super) fn elements(set: &Set) -> Vec<Vec<Element<'_>>> {
    let elements: Vec<Element<'_>> = match &set.content {
        Content::Keys(keys) => keys.iter().map(|key| Element::of(key_bytes(key))).collect(),
        Content::Ranges(ranges) => ranges.iter().flat_map(|(from, to)| range(*from, *to)).collect(),
        Content::Map(_, elements) => elements
            .iter()
            .map(|(key, to)| Element { value: Some(key_bytes(to)), ..Element::of(key_bytes(key)) })
            .collect(),
        Content::Verdicts(elements) => {
            elements.iter().map(|(key, to)| Element { verdict: Some(to), ..Element::of(key_bytes(key)) }).collect()
        }
        Content::Learned(..) => Vec::new(),
    };
    elements.chunks(ELEMENTS_PER_MESSAGE).map(<[_]>::to_vec).collect()
}

/// `NFTA_SET_ELEM_LIST_*` of one part.
pub(super) fn part(w: &mut Writer, table: &str, set: &str, elements: &[Element<'_>]) {
    w.text(1, table);
    w.text(2, set);
    w.nested(3, |w| elements.iter().for_each(|element| w.nested(1, |w| element.write(w))));
}

/// An element of a set.
#[derive(Clone)]
pub(super) struct Element<'s> {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    verdict: Option<&'s Verdict>,
    ends_range: bool,
}

impl Element<'_> {
    fn of(key: Vec<u8>) -> Self {
        Element { key, value: None, verdict: None, ends_range: false }
    }

    fn write(&self, w: &mut Writer) {
        if self.ends_range {
            // NFT_SET_ELEM_INTERVAL_END
            w.number(3, 1);
        }
        w.nested(1, |w| w.bytes(1, &self.key));
        if let Some(value) = &self.value {
            w.nested(2, |w| w.bytes(1, value));
        }
        if let Some(to) = self.verdict {
            w.nested(2, |w| verdict(w, to));
        }
    }
}

/// A range as the kernel has it: its first address, and an end that is not in it; none at the end of all addresses.
fn range(from: IpAddr, to: IpAddr) -> impl Iterator<Item = Element<'static>> {
    let behind = match to {
        IpAddr::V4(to) => u32::from(to).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(to) => u128::from(to).checked_add(1).map(|n| IpAddr::V6(n.into())),
    };
    let end = behind.map(|end| Element { ends_range: true, ..Element::of(Value::Address(end).bytes()) });
    [Element::of(Value::Address(from).bytes())].into_iter().chain(end)
}

fn key_bytes(values: &[Value]) -> Vec<u8> {
    if let [value] = values { value.bytes() } else { concatenated(values) }
}

/// `NFTA_DATA_VERDICT`
fn verdict(w: &mut Writer, to: &Verdict) {
    const JUMP: u32 = -3i32 as u32;
    const GOTO: u32 = -4i32 as u32;
    w.nested(2, |w| match to {
        Verdict::Accept => w.number(1, libc::NF_ACCEPT as u32),
        Verdict::Drop => w.number(1, libc::NF_DROP as u32),
        Verdict::Jump(chain) => {
            w.number(1, JUMP);
            w.text(2, chain);
        }
        Verdict::Goto(chain) => {
            w.number(1, GOTO);
            w.text(2, chain);
        }
    });
}

/// `NFTA_RULE_*` of a rule in a chain.
pub(super) fn rule(w: &mut Writer, table: &Table, chain: &str, rule: &Rule) {
    w.text(1, &table.name);
    w.text(2, chain);
    w.nested(4, |w| {
        let mut expressions = Expressions { w, table: table.family, known: Vec::new() };
        rule.statements.iter().for_each(|statement| expressions.statement(statement));
    });
    if let Some(comment) = &rule.comment {
        w.bytes(7, &comment_data(comment));
    }
}

/// `NFTA_RULE_USERDATA` of a comment, as libnftnl has it: type 0, its length, and the text with its NUL.
pub(super) fn comment_data(comment: &str) -> Vec<u8> {
    let mut end = comment.len().min(128);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    let text = &comment[..end];
    let mut data = vec![0, text.len() as u8 + 1];
    data.extend(text.as_bytes());
    data.push(0);
    data
}

/// Writes the expressions of one rule.
struct Expressions<'w> {
    w: &'w mut Writer,
    table: TableFamily,
    /// What the rule has compared already, so that what depends on it needs not do so again.
    known: Vec<(Field, Value)>,
}

impl Expressions<'_> {
    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Is(field, value) => {
                if self.known.contains(&(*field, value.clone())) {
                    return;
                }
                self.load(*field, KEY);
                self.compare(0, &value.bytes());
                self.known.push((*field, value.clone()));
            }
            Statement::IsNot(field, value) => {
                self.load(*field, KEY);
                self.compare(1, &value.bytes());
            }
            Statement::Within(field, subnet) => self.within(*field, *subnet, 0),
            Statement::NotWithin(field, subnet) => self.within(*field, *subnet, 1),
            Statement::Between(field, from, to) => {
                self.load(*field, KEY);
                expression(self.w, "range", |w| {
                    w.number(1, KEY);
                    w.number(2, 0);
                    w.nested(3, |w| w.bytes(1, &from.bytes()));
                    w.nested(4, |w| w.bytes(1, &to.bytes()));
                });
            }
            Statement::AnyBit(field, value) => {
                self.load(*field, KEY);
                self.mask(&value.bytes(), &[0; 4]);
                self.compare(1, &[0; 4]);
            }
            Statement::In(fields, set) => self.look_up(fields, set, 0),
            // NFT_LOOKUP_F_INV
            Statement::NotIn(fields, set) => self.look_up(fields, set, 1),
            Statement::Verdicts(key, map) => self.find(key, map, VERDICT),
            Statement::Leads(field, map, set) => {
                self.find(&Key::Fields(vec![*field]), map, FOUND);
                expression(self.w, "lookup", |w| {
                    w.text(1, set);
                    w.number(2, FOUND);
                });
            }
            Statement::Learn(field, map, key, from) => {
                self.find(key, from, FOUND);
                self.load(*field, KEY);
                self.change(map, UPDATE);
            }
            Statement::Relearn(field, map, key, from) => {
                self.find(key, from, FOUND);
                self.load(*field, KEY);
                // An update alone leaves an element's data as it is.
                self.change(map, DELETE);
                self.change(map, UPDATE);
            }
            Statement::Mark(bits) => {
                self.load(Field::Mark, KEY);
                self.mask(&(!bits).to_ne_bytes(), &bits.to_ne_bytes());
                expression(self.w, "meta", |w| {
                    // NFT_META_MARK, NFTA_META_SREG
                    w.number(2, 3);
                    w.number(3, KEY);
                });
            }
            Statement::Dnat(family, key, map) => {
                self.depend(Field::Daddr(*family));
                self.find(key, map, FOUND);
                self.dnat(*family);
            }
            // NF_NAT_RANGE_PROTO_RANDOM_FULLY: many connections at once do not race for one source port.
            Statement::Masquerade => expression(self.w, "masq", |w| w.number(1, 1 << 4)),
            Statement::Reset => expression(self.w, "reject", |w| {
                // NFT_REJECT_TCP_RST
                w.number(1, 1);
                w.bytes(2, &[0]);
            }),
            Statement::Unreachable => expression(self.w, "reject", |w| {
                // NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_PORT_UNREACH
                w.number(1, 2);
                w.bytes(2, &[1]);
            }),
            Statement::Verdict(to) => expression(self.w, "immediate", |w| {
                w.number(1, VERDICT);
                w.nested(2, |w| verdict(w, to));
            }),
        }
    }

    /// Compares what a field needs to be there.
    fn depend(&mut self, field: Field) {
        if let Some((on, value)) = field.dependency(self.table) {
            self.statement(&Statement::Is(on, value));
        }
    }

    /// Loads a field into a register and those behind it.
    fn load(&mut self, field: Field, register: u32) {
        self.depend(field);
        load(self.w, field, register);
    }

    /// Loads fields as one key.
    fn load_all(&mut self, fields: &[Field]) {
        fields.iter().for_each(|field| self.depend(*field));
        let mut register = KEY;
        for field in fields {
            load(self.w, *field, register);
            register += field.length().div_ceil(4) as u32;
        }
    }

    /// `op` is NFT_CMP_EQ or NFT_CMP_NEQ.
    fn compare(&mut self, op: u32, value: &[u8]) {
        expression(self.w, "cmp", |w| {
            w.number(1, KEY);
            w.number(2, op);
            w.nested(3, |w| w.bytes(1, value));
        });
    }

    /// Keeps those bits only that the mask has, and turns over those of the other.
    fn mask(&mut self, mask: &[u8], turned: &[u8]) {
        expression(self.w, "bitwise", |w| {
            w.number(1, KEY);
            w.number(2, KEY);
            w.number(3, mask.len() as u32);
            w.nested(4, |w| w.bytes(1, mask));
            w.nested(5, |w| w.bytes(1, turned));
        });
    }

    fn within(&mut self, field: Field, subnet: Subnet, op: u32) {
        let bits = u32::from(subnet.family().bits() - subnet.prefix());
        let mask = u128::MAX.checked_shl(bits).unwrap_or(0).to_be_bytes();
        let address = Value::Address(subnet.address()).bytes();
        self.load(field, KEY);
        self.mask(&mask[mask.len() - address.len()..], &vec![0; address.len()]);
        self.compare(op, &address);
    }

    fn look_up(&mut self, fields: &[Field], set: &str, flags: u32) {
        self.load_all(fields);
        expression(self.w, "lookup", |w| {
            w.text(1, set);
            w.number(2, KEY);
            w.number(5, flags);
        });
    }

    /// Puts what a map has for the key into a register.
    fn find(&mut self, key: &Key, map: &str, to: u32) {
        match key {
            Key::Fields(fields) => self.load_all(fields),
            Key::Turn(modulus) => expression(self.w, "numgen", |w| {
                w.number(1, KEY);
                w.number(2, *modulus);
                // NFT_NG_INCREMENTAL
                w.number(3, 0);
            }),
        }
        expression(self.w, "lookup", |w| {
            w.text(1, map);
            w.number(2, KEY);
            w.number(3, to);
        });
    }

    /// Has a map lead from the key to what is at `FOUND`, or not any more.
    fn change(&mut self, map: &str, op: u32) {
        expression(self.w, "dynset", |w| {
            w.text(1, map);
            w.number(3, op);
            w.number(4, KEY);
            w.number(5, FOUND);
        });
    }

    /// To the address at `FOUND` and the port behind it.
    fn dnat(&mut self, family: Family) {
        expression(self.w, "nat", |w| {
            // NFT_NAT_DNAT
            w.number(1, 1);
            w.number(2, if family == Family::V4 { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 } as u32);
            w.number(3, FOUND);
            w.number(5, FOUND + u32::from(family.bits()) / 32);
        });
    }
}

/// `NFTA_LIST_ELEM` with an expression.
pub(super) fn expression(w: &mut Writer, name: &str, data: impl FnOnce(&mut Writer)) {
    w.nested(1, |w| {
        w.text(1, name);
        w.nested(2, data);
    });
}

/// The expression that loads a field.
fn load(w: &mut Writer, field: Field, register: u32) {
    // NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    let meta = |w: &mut Writer, key: u32| {
        expression(w, "meta", |w| {
            w.number(1, register);
            w.number(2, key);
        });
    };
    let payload = |w: &mut Writer, base: u32, offset: u32| {
        expression(w, "payload", |w| {
            w.number(1, register);
            w.number(2, base);
            w.number(3, offset);
            w.number(4, field.length() as u32);
        });
    };
    match field {
        Field::EtherType => meta(w, 1),
        Field::Mark => meta(w, 3),
        Field::IifName => meta(w, 6),
        Field::OifName => meta(w, 7),
        Field::NfProto => meta(w, 15),
        Field::L4Proto => meta(w, 16),
        Field::Saddr(Family::V4) => payload(w, NETWORK, 12),
        Field::Daddr(Family::V4) => payload(w, NETWORK, 16),
        Field::Saddr(Family::V6) => payload(w, NETWORK, 8),
        Field::Daddr(Family::V6) => payload(w, NETWORK, 24),
        // RFC 826: two lengths of hardware type and protocol, lengths, operation; then the sender's MAC of 6 bytes.
        Field::ArpSender => payload(w, NETWORK, 14),
        Field::Sport | Field::IcmpType | Field::Icmp6Type => payload(w, TRANSPORT, 0),
        Field::Dport => payload(w, TRANSPORT, 2),
        Field::NdTarget => payload(w, TRANSPORT, 8),
        Field::CtState => expression(w, "ct", |w| {
            w.number(1, register);
            // NFT_CT_STATE
            w.number(2, 0);
        }),
        Field::DaddrType => expression(w, "fib", |w| {
            w.number(1, register);
            // NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR
            w.number(2, 3);
            w.number(3, 2);
        }),
    }
}
