//! Queries and answers as packets (RFC 1035, RFC 6891). Pure.
//!
//! Packets are built by `simple-dns`, and what another server answers is read with it. A query is read here: the library knows
//! no types but its own, and takes the flags of an OPT record for its version.

use crate::network::names::{Answer, Data, Outcome, Question as Asked, Record};
use crate::plan::network::CLUSTER_DOMAIN;
use simple_dns::rdata::{CNAME, NS, PTR, RData, SOA, SRV, TXT};
use simple_dns::{CLASS, Label, Name, Packet, PacketFlag, Question, RCODE, ResourceRecord, TYPE};
use std::net::IpAddr;

/// The longest query that is looked at, in bytes. They have less than a hundred.
pub const MAX_QUERY: usize = 1232;

/// The longest answer over UDP: what gets through without being split on every network (DNS flag day 2020), in bytes.
pub const MAX_UDP: u16 = 1232;

/// The longest answer over UDP to who does not say how long a packet may be (RFC 1035).
const PLAIN_UDP: u16 = 512;

/// How long an answer holds, in seconds: a pod may be gone the next moment, and who asks often is not far away.
const TTL: u32 = 5;

const HEADER: usize = 12;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// One packet.
    Udp,
    /// One of several, each after its length.
    Tcp,
}

/// Codes of outcomes (IANA).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// FORMERR
    Format = 1,
    /// SERVFAIL
    Failure = 2,
    /// NOTIMP
    NotImplemented = 4,
    /// REFUSED
    Refused = 5,
    /// BADVERS
    Version = 16,
}

/// What a packet turned out to be.
#[derive(Debug)]
pub enum Read<'p> {
    /// A query.
    Query(Query<'p>),
    /// None that can be answered otherwise than by this.
    Fault(Vec<u8>),
    /// Nothing that is to be answered.
    Nothing,
}

/// A query: one question.
#[derive(Debug, Clone)]
pub struct Query<'p> {
    packet: &'p [u8],
    /// Where the question ends.
    end: usize,
    /// Its name as text, lower-case.
    name: String,
    /// What its OPT record says, if it has one.
    extended: Option<Extended>,
}

/// An OPT record (RFC 6891).
#[derive(Debug, Clone, Copy)]
struct Extended {
    /// Where it begins.
    at: usize,
    /// The longest UDP packet that whoever asks can take.
    size: u16,
    version: u8,
    /// Whether signatures are asked for: the flag DO.
    signatures: bool,
}

fn number(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?))
}

/// Reads a packet.
pub fn read(packet: &[u8]) -> Read<'_> {
    // Without a header nobody is there to be answered; answers are not answered, lest two servers do so forever.
    if packet.len() < HEADER || packet[2] & 0x80 != 0 {
        return Read::Nothing;
    }
    if packet[2] & 0x78 != 0 {
        return Read::Fault(header_only(packet, Code::NotImplemented));
    }
    match parse(packet) {
        None => Read::Fault(header_only(packet, Code::Format)),
        Some(query) if query.extended.is_some_and(|e| e.version != 0) => Read::Fault(query.fault(Code::Version)),
        Some(query) => Read::Query(query),
    }
}

/// One question, no answers, and records after it of which an OPT record is the first or none.
fn parse(packet: &[u8]) -> Option<Query<'_>> {
    const MAX_RECORDS: u16 = 4;
    let [questions, answers, authorities, records] = [4, 6, 8, 10].map(|at| number(packet, at).unwrap_or(u16::MAX));
    if packet.len() > MAX_QUERY || (questions, answers, authorities) != (1, 0, 0) || records > MAX_RECORDS {
        return None;
    }
    let (name, name_end) = read_name(packet, HEADER)?;
    let end = name_end + 4;
    let (mut at, mut extended) = (end, None);
    for index in 0..records {
        let record = at;
        let type_at = skip_name(packet, record)?;
        let length = usize::from(number(packet, type_at + 8)?);
        at = type_at + 10 + length;
        if number(packet, type_at)? == u16::from(TYPE::OPT) {
            // The only one, and of no name.
            if index > 0 || type_at != record + 1 {
                return None;
            }
            let [version, flags] = [packet[type_at + 5], packet[type_at + 6]];
            extended = Some(Extended {
                at: record,
                size: number(packet, type_at + 2)?,
                version,
                signatures: flags & 0x80 != 0,
            });
        }
    }
    (at == packet.len()).then_some(Query { packet, end, name, extended })
}

/// A name that is written out, as lower-case text, and where it ends. What ours do not have becomes `?`, so that a dot in a
/// label is none between labels.
fn read_name(packet: &[u8], mut at: usize) -> Option<(String, usize)> {
    const MAX_NAME: usize = 255;
    let (begin, mut text) = (at, String::new());
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            return (at - begin <= MAX_NAME).then_some((text, at));
        }
        let label = packet.get(at..at + length).filter(|_| length < 64)?;
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| match byte.to_ascii_lowercase() {
            byte @ (b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_') => char::from(byte),
            _ => '?',
        }));
        at += length;
    }
}

/// Where a name ends that may be written as a reference to another.
fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            reference if reference >= 0xc0 => return Some(at + 2),
            length if length < 64 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// An answer to a packet whose question could not be read, or is none: its header alone.
fn header_only(packet: &[u8], code: Code) -> Vec<u8> {
    let mut header = vec![0; HEADER];
    header[..2].copy_from_slice(&packet[..2]);
    // The flag of an answer; what was to be done and whether by others, as it was asked.
    header[2] = 0x80 | packet[2] & 0x79;
    header[3] = 0x80 | code as u8;
    header
}

impl<'p> Query<'p> {
    /// The question, for [`crate::network::names`].
    pub fn asked(&self) -> Asked<'_> {
        let at = |offset: usize| number(self.packet, self.end - offset).unwrap_or_default();
        // Both were there when it was read.
        Asked { name: &self.name, kind: at(4), class: at(2), asker: None }
    }

    /// The bytes of the question: name, type and class, the name in lower case.
    pub(super) fn key(&self) -> Box<[u8]> {
        let (name, kind) = self.packet[HEADER..self.end].split_at(self.end - 4 - HEADER);
        [&name.to_ascii_lowercase(), kind].concat().into()
    }

    /// The bytes of everything else that says what is asked for: flags, and what comes after the question.
    pub(super) fn manner(&self) -> Box<[u8]> {
        [&self.packet[2..HEADER], &self.packet[self.end..]].concat().into()
    }

    /// The query for another server: with an answer that is no longer than what is let through here.
    pub(super) fn forwarded(&self) -> Vec<u8> {
        let mut packet = self.packet.to_vec();
        if let Some(extended) = self.extended {
            let size = extended.size.clamp(PLAIN_UDP, MAX_UDP);
            packet[extended.at + 3..extended.at + 5].copy_from_slice(&size.to_be_bytes());
        }
        packet
    }

    /// Another server's answer to [`Query::forwarded`], as the answer to this one.
    pub(super) fn passed_on(&self, answer: &[u8], transport: Transport) -> Vec<u8> {
        let mut packet = answer.to_vec();
        packet[..2].copy_from_slice(&self.packet[..2]);
        if number(&packet, 4) == Some(1) {
            // Written as this one has it, which is how it knows an answer to be its own.
            packet[HEADER..self.end].copy_from_slice(&self.packet[HEADER..self.end]);
        }
        if packet.len() > self.room(transport) {
            let end = if number(&packet, 4) == Some(1) { self.end } else { HEADER };
            packet.truncate(end);
            packet[6..HEADER].fill(0);
            packet[2] |= 0x02;
        }
        packet
    }

    /// How long an answer may be.
    fn room(&self, transport: Transport) -> usize {
        match (transport, self.extended) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => PLAIN_UDP.into(),
            (Transport::Udp, Some(extended)) => extended.size.clamp(PLAIN_UDP, MAX_UDP).into(),
        }
    }

    /// An answer that is none.
    pub fn fault(&self, code: Code) -> Vec<u8> {
        let mut packet = header_only(self.packet, code);
        packet[3] = 0x80 | code as u8 & 0x0f;
        packet.extend(&self.packet[HEADER..self.end]);
        packet[5] = 1;
        self.extend(&mut packet, code as u8 >> 4);
        packet
    }

    /// Adds an OPT record to an answer, if the query has one.
    fn extend(&self, packet: &mut Vec<u8>, upper_code: u8) {
        if let Some(extended) = self.extended {
            extend(packet, upper_code, extended.signatures);
        }
    }

    /// An answer of ours as a packet. What an alias leads to is in `rest`, another server's answer.
    pub fn answer(&self, answer: &Answer<'_>, rest: Option<&[u8]>, transport: Transport) -> Vec<u8> {
        let code = match answer.outcome {
            Outcome::Found => RCODE::NoError,
            Outcome::NoName => RCODE::NameError,
            Outcome::Circle => return self.fault(Code::Failure),
            Outcome::Refused => return self.fault(Code::Refused),
        };
        let rest = match rest.map(read_rest) {
            None => None,
            Some(Some(rest)) => Some(rest),
            Some(None) => return self.fault(Code::Failure),
        };
        let mut packet = Packet::new_reply(number(self.packet, 0).unwrap_or_default());
        *packet.rcode_mut() = rest.as_ref().map_or(code, |rest| rest.rcode());
        packet.set_flags(self.flags());
        if rest.is_none() {
            packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
        }
        let name = self.written();
        // Any type: it is put right below.
        packet.questions.push(Question::new(name.clone(), TYPE::A.into(), CLASS::IN.into(), false));
        // What cannot have room is left out before it is written: writing is the long part.
        let room = self.room(transport);
        let fitting = how_many_fit(&answer.records, room.saturating_sub(self.end));
        packet.answers = answer.records[..fitting].iter().map(|record| resource(record, &name)).collect();
        if fitting < answer.records.len() {
            packet.set_flags(PacketFlag::TRUNCATION);
        } else if how_many_fit(answer.records.iter().chain(&answer.additional), room)
            == fitting + answer.additional.len()
        {
            packet.additional_records = answer.additional.iter().map(|record| resource(record, &name)).collect();
        }
        if let Some(zone) = &answer.zone {
            let start = ResourceRecord::new(Name::new_unchecked(zone), CLASS::IN, TTL, start_of_zone());
            packet.name_servers.push(start);
        }
        if let Some(rest) = rest {
            packet.answers.extend(rest.answers);
            packet.name_servers.extend(rest.name_servers);
        }
        self.fit(packet, room)
    }

    /// Writes an answer, as much of it as there is room for.
    fn fit(&self, mut packet: Packet<'_>, room: usize) -> Vec<u8> {
        let extension = if self.extended.is_some() { 11 } else { 0 };
        let written = |packet: &Packet<'_>| {
            let bytes = packet.build_bytes_vec_compressed().ok()?;
            (bytes.len() + extension <= room).then_some(bytes)
        };
        let mut bytes = written(&packet);
        if bytes.is_none() {
            // Nobody was promised these.
            packet.additional_records.clear();
            bytes = written(&packet);
        }
        if bytes.is_none() {
            packet.set_flags(PacketFlag::TRUNCATION);
            packet.name_servers.clear();
            // Between what fits for sure and what does not: some resolvers are content with a part.
            let (all, mut fits, mut does_not) = (packet.answers.clone(), 0, packet.answers.len());
            while does_not - fits > 1 {
                let half = fits.midpoint(does_not);
                packet.answers = all[..half].to_vec();
                if written(&packet).is_some() { fits = half } else { does_not = half }
            }
            packet.answers = all[..fits].to_vec();
            bytes = written(&packet);
        }
        let Some(mut bytes) = bytes else { return self.fault(Code::Failure) };
        bytes[self.end - 4..self.end].copy_from_slice(&self.packet[self.end - 4..self.end]);
        self.extend(&mut bytes, 0);
        bytes
    }

    /// The name as it was written.
    fn written(&self) -> Name<'p> {
        let (mut labels, mut at) = (Vec::new(), HEADER);
        // It was read before: it ends with an empty label.
        while let Some(length) = self.packet.get(at).map(|length| usize::from(*length)).filter(|length| *length > 0) {
            labels.push(Label::new_unchecked(&self.packet[at + 1..at + 1 + length]));
            at += 1 + length;
        }
        Name::new_with_labels(&labels)
    }

    fn flags(&self) -> PacketFlag {
        let asked = PacketFlag::from_bits_truncate(number(self.packet, 2).unwrap_or_default());
        asked & (PacketFlag::RECURSION_DESIRED | PacketFlag::CHECKING_DISABLED) | PacketFlag::RECURSION_AVAILABLE
    }
}

/// A record of ours for the library. `question` is the owner of what has no other.
fn resource<'a>(record: &Record<'a>, question: &Name<'a>) -> ResourceRecord<'a> {
    let name = |text: &'a str| Name::new_unchecked(text);
    let data = match record.data {
        Data::Address(IpAddr::V4(address)) => RData::A((*address).into()),
        Data::Address(IpAddr::V6(address)) => RData::AAAA((*address).into()),
        Data::Server { port, target } => {
            RData::SRV(SRV { priority: 0, weight: 100, port: *port, target: name(target) })
        }
        Data::Pointer(to) => RData::PTR(PTR(name(to))),
        Data::Alias(to) => RData::CNAME(CNAME(name(to))),
        Data::NameServer(server) => RData::NS(NS(name(server))),
        Data::Text(text) => RData::TXT(TXT::new().with_string(text).unwrap_or_default()),
        Data::Start => start_of_zone(),
    };
    ResourceRecord::new(record.owner.map_or_else(|| question.clone(), name), CLASS::IN, TTL, data)
}

/// How many of these records have room in so many bytes, at the most.
fn how_many_fit<'r>(records: impl IntoIterator<Item = &'r Record<'r>>, room: usize) -> usize {
    let mut length = 0;
    let takes = |record: &Record<'_>| match record.data {
        Data::Address(IpAddr::V4(_)) => 4,
        Data::Address(IpAddr::V6(_)) => 16,
        // The only names that are always written out.
        Data::Server { target, .. } => 8 + target.len(),
        _ => 2,
    };
    let fits = |record: &&Record<'_>| {
        // The owner as a reference, type, class, TTL, length.
        length += 12 + takes(record);
        length <= room
    };
    records.into_iter().take_while(fits).count()
}

/// Of all our zones. Nobody transfers them, so that only `minimum` counts: how long it holds that there is no such name.
fn start_of_zone() -> RData<'static> {
    const SERVER: &str = "ns.dns.cluster.local";
    const HOSTMASTER: &str = "hostmaster.cluster.local";
    debug_assert!(SERVER.ends_with(CLUSTER_DOMAIN) && HOSTMASTER.ends_with(CLUSTER_DOMAIN));
    RData::SOA(SOA {
        mname: Name::new_unchecked(SERVER),
        rname: Name::new_unchecked(HOSTMASTER),
        serial: 1,
        refresh: 7200,
        retry: 1800,
        expire: 86400,
        minimum: TTL,
    })
}

/// Reads another server's answer; `None` if it cannot be understood. The library makes room for as many records as a header
/// says, so that is first held against the length.
fn read_rest(packet: &[u8]) -> Option<Packet<'_>> {
    const SHORTEST_RECORD: usize = 11;
    let records: usize = [6, 8, 10].iter().filter_map(|at| number(packet, *at)).map(usize::from).sum();
    if number(packet, 4) != Some(1) || records * SHORTEST_RECORD > packet.len() {
        return None;
    }
    Packet::parse(packet).ok()
}

/// Adds an OPT record to a packet. (Not by the library, which puts the upper bits of a code where the flags are.)
fn extend(packet: &mut Vec<u8>, upper_code: u8, signatures: bool) {
    let [high, low] = MAX_UDP.to_be_bytes();
    let flags = if signatures { 0x80 } else { 0 };
    packet.extend([0, 0, u16::from(TYPE::OPT) as u8, high, low, upper_code, 0, flags, 0, 0, 0]);
    let count = number(packet, 10).unwrap_or_default() + 1;
    packet[10..HEADER].copy_from_slice(&count.to_be_bytes());
}

/// A query of our own, for what an alias leads to.
pub(super) fn query(name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut packet = Packet::new_query(0);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(Name::new_unchecked(name), TYPE::A.into(), CLASS::IN.into(), false));
    let mut bytes = packet.build_bytes_vec().ok()?;
    let end = bytes.len();
    bytes[end - 4..end - 2].copy_from_slice(&kind.to_be_bytes());
    extend(&mut bytes, 0, false);
    Some(bytes)
}

/// Whether a packet is an answer to this query: the same identification and the same question. Case makes no difference. Who
/// could not make anything of the query may answer without its question.
pub(super) fn is_answer(query: &[u8], packet: &[u8]) -> bool {
    let Some((_, name_end)) = read_name(query, HEADER) else { return false };
    let (name, rest) = (HEADER..name_end, name_end..name_end + 4);
    let Some(head) = packet.get(..HEADER) else { return false };
    // An answer, to an ordinary query.
    if head[..2] != query[..2] || head[2] & 0xf8 != 0x80 {
        return false;
    }
    if number(packet, 4) == Some(0) {
        return packet.len() == HEADER && code(packet) != 0;
    }
    let is_same_name = packet.get(name.clone()).is_some_and(|found| found.eq_ignore_ascii_case(&query[name]));
    number(packet, 4) == Some(1) && is_same_name && packet.get(rest.clone()) == query.get(rest)
}

/// The lower bits of an answer's code.
pub(super) fn code(packet: &[u8]) -> u8 {
    packet[3] & 0x0f
}

/// Whether an answer was cut.
pub(super) fn is_cut(packet: &[u8]) -> bool {
    packet[2] & 0x02 != 0
}

/// Whether records of a type may be transferred zones, which are nobody's business.
pub(super) fn is_transfer(kind: u16) -> bool {
    const IXFR: u16 = 251;
    const AXFR: u16 = 252;
    [IXFR, AXFR].contains(&kind)
}

#[cfg(test)]
#[path = "message_tests.rs"]
pub(super) mod tests;
