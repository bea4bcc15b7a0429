//! What is compared, looked up and kept in sets: fields of a packet, and values of them.

use crate::plan::network::{Family, Protocol};
use std::fmt;
use std::net::IpAddr;

/// Something that a rule can read of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `meta nfproto`: the address family, in tables of family inet.
    NfProto,
    /// `meta protocol`: the EtherType.
    EtherType,
    /// `meta l4proto`: the transport protocol, behind all extension headers.
    L4Proto,
    /// `iifname`: the link it came by.
    IifName,
    /// `oifname`: the link it leaves by.
    OifName,
    /// `ip saddr`, `ip6 saddr`
    Saddr(Family),
    /// `ip daddr`, `ip6 daddr`
    Daddr(Family),
    /// `th sport`. The rule must have looked at the protocol.
    Sport,
    /// `th dport`, likewise.
    Dport,
    /// `arp saddr ip`
    ArpSender,
    /// `icmp type`
    IcmpType,
    /// `icmpv6 type`
    Icmp6Type,
    /// `icmpv6 taddr`: the target of a neighbour solicitation or advertisement (RFC 4861 §4.3, §4.4).
    NdTarget,
    /// `ct state`
    CtState,
    /// `meta mark`: a number that goes with the packet through the host.
    Mark,
    /// `fib daddr type`
    DaddrType,
}

/// `IPPROTO_ICMP`
pub const ICMP: u8 = 1;
/// `IPPROTO_ICMPV6`
pub const ICMPV6: u8 = 58;
/// `ETH_P_ARP`
pub const ARP: u16 = 0x0806;

impl Field {
    /// What must hold for the field to be there at all; `None` if it always is.
    pub(super) fn dependency(self, table: super::TableFamily) -> Option<(Field, Value)> {
        use super::TableFamily;
        match (self, table) {
            (Field::Saddr(family) | Field::Daddr(family), TableFamily::Inet) => {
                Some((Field::NfProto, Value::Family(family)))
            }
            (Field::Saddr(family) | Field::Daddr(family), TableFamily::Bridge) => {
                Some((Field::EtherType, Value::EtherType(ether_type(family))))
            }
            (Field::ArpSender, _) => Some((Field::EtherType, Value::EtherType(ARP))),
            (Field::IcmpType, _) => Some((Field::L4Proto, Value::Protocol(ICMP))),
            (Field::Icmp6Type | Field::NdTarget, _) => Some((Field::L4Proto, Value::Protocol(ICMPV6))),
            _ => None,
        }
    }

    /// Its length in bytes.
    pub(super) fn length(self) -> usize {
        match self {
            Field::NfProto | Field::L4Proto | Field::IcmpType | Field::Icmp6Type => 1,
            Field::EtherType | Field::Sport | Field::Dport => 2,
            Field::CtState | Field::Mark | Field::DaddrType | Field::ArpSender => 4,
            Field::Saddr(family) | Field::Daddr(family) => usize::from(family.bits()) / 8,
            Field::IifName | Field::OifName | Field::NdTarget => 16,
        }
    }
}

/// The EtherType of a family's packets.
pub fn ether_type(family: Family) -> u16 {
    match family {
        Family::V4 => 0x0800,
        Family::V6 => 0x86dd,
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = |family: Family| if family == Family::V4 { "ip" } else { "ip6" };
        match self {
            Field::NfProto => f.write_str("meta nfproto"),
            Field::EtherType => f.write_str("meta protocol"),
            Field::L4Proto => f.write_str("meta l4proto"),
            Field::IifName => f.write_str("iifname"),
            Field::OifName => f.write_str("oifname"),
            Field::Saddr(family) => write!(f, "{} saddr", ip(*family)),
            Field::Daddr(family) => write!(f, "{} daddr", ip(*family)),
            Field::Sport => f.write_str("th sport"),
            Field::Dport => f.write_str("th dport"),
            Field::ArpSender => f.write_str("arp saddr ip"),
            Field::IcmpType => f.write_str("icmp type"),
            Field::Icmp6Type => f.write_str("icmpv6 type"),
            Field::NdTarget => f.write_str("icmpv6 taddr"),
            Field::CtState => f.write_str("ct state"),
            Field::Mark => f.write_str("meta mark"),
            Field::DaddrType => f.write_str("fib daddr type"),
        }
    }
}

/// A value of a field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// An address.
    Address(IpAddr),
    /// A port.
    Port(u16),
    /// A transport protocol, by number.
    Protocol(u8),
    /// A link's name.
    Name(String),
    /// `ipv4` or `ipv6`
    Family(Family),
    /// An EtherType.
    EtherType(u16),
    /// A type of ICMP or ICMPv6.
    Type(u8),
    /// Bits of `ct state`: [`ESTABLISHED`] and the like.
    State(u32),
    /// Bits of a mark.
    Mark(u32),
    /// A type of address, `RTN_*` of rtnetlink(7).
    AddressType(u32),
    /// A number that the kernel counts, such as numgen's.
    Number(u32),
}

/// `ct state invalid`
pub const INVALID: u32 = 1;
/// `ct state established`
pub const ESTABLISHED: u32 = 2;
/// `ct state related`
pub const RELATED: u32 = 4;
/// `RTN_LOCAL`: an address of the host itself.
pub const LOCAL: u32 = 2;

impl Value {
    /// A protocol that has ports.
    pub fn transport(protocol: Protocol) -> Value {
        Value::Protocol(protocol.number())
    }

    /// As the kernel has it in a register: what travels in packets is big-endian, what the kernel computes is native.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Value::Address(IpAddr::V4(address)) => address.octets().to_vec(),
            Value::Address(IpAddr::V6(address)) => address.octets().to_vec(),
            Value::Port(number) | Value::EtherType(number) => number.to_be_bytes().to_vec(),
            Value::Protocol(number) | Value::Type(number) => vec![*number],
            Value::Name(name) => {
                let mut bytes = name.as_bytes().to_vec();
                bytes.resize(libc::IFNAMSIZ, 0);
                bytes
            }
            Value::Family(Family::V4) => vec![libc::NFPROTO_IPV4 as u8],
            Value::Family(Family::V6) => vec![libc::NFPROTO_IPV6 as u8],
            Value::State(number) | Value::Mark(number) | Value::AddressType(number) | Value::Number(number) => {
                number.to_ne_bytes().to_vec()
            }
        }
    }
}

/// Several values as one key: each fills whole 32-bit registers.
pub(super) fn concatenated(values: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in values {
        bytes.extend(value.bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Address(address) => write!(f, "{address}"),
            Value::Port(number) => write!(f, "{number}"),
            Value::Name(name) => write!(f, "\"{name}\""),
            Value::Family(Family::V4) => f.write_str("ipv4"),
            Value::Family(Family::V6) => f.write_str("ipv6"),
            Value::EtherType(0x0800) => f.write_str("ip"),
            Value::EtherType(0x86dd) => f.write_str("ip6"),
            Value::EtherType(ARP) => f.write_str("arp"),
            Value::EtherType(number) => write!(f, "{number:#06x}"),
            Value::Protocol(number) => match *number {
                6 => f.write_str("tcp"),
                17 => f.write_str("udp"),
                132 => f.write_str("sctp"),
                ICMP => f.write_str("icmp"),
                ICMPV6 => f.write_str("ipv6-icmp"),
                other => write!(f, "{other}"),
            },
            Value::State(bits) => {
                let names = [(INVALID, "invalid"), (ESTABLISHED, "established"), (RELATED, "related")];
                let set: Vec<&str> = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
                f.write_str(&set.join(","))
            }
            Value::Mark(bits) => write!(f, "{bits:#x}"),
            Value::AddressType(LOCAL) => f.write_str("local"),
            Value::Type(number) => write!(f, "{number}"),
            Value::AddressType(number) | Value::Number(number) => write!(f, "{number}"),
        }
    }
}

/// The type of a key or of what a map leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An address of this family.
    Address(Family),
    /// A transport protocol.
    Protocol,
    /// A port.
    Port,
    /// A link's name.
    Name,
    /// A number that the kernel counts.
    Number,
}

impl Kind {
    /// Whether the kernel has its bytes in the machine's own order, as far as nft is concerned: names count too.
    pub(super) fn is_native(self) -> bool {
        matches!(self, Kind::Name | Kind::Number)
    }

    /// nft's own number of the type, which is kept in the kernel for whoever lists the set (nftables' `datatype.h`).
    pub(super) fn number(self) -> u32 {
        match self {
            Kind::Address(Family::V4) => 7,
            Kind::Address(Family::V6) => 8,
            Kind::Protocol => 12,
            Kind::Port => 13,
            Kind::Name => 41,
            Kind::Number => 19,
        }
    }

    /// Its length in bytes.
    pub(super) fn length(self) -> usize {
        match self {
            Kind::Address(family) => usize::from(family.bits()) / 8,
            Kind::Protocol => 1,
            Kind::Port => 2,
            Kind::Name => libc::IFNAMSIZ,
            Kind::Number => 4,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Address(Family::V4) => "ipv4_addr",
            Kind::Address(Family::V6) => "ipv6_addr",
            Kind::Protocol => "inet_proto",
            Kind::Port => "inet_service",
            Kind::Name => "ifname",
            Kind::Number => "mark",
        })
    }
}
