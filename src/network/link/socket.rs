//! A socket of rtnetlink(7): requests, their answers, and the list of links.
//!
//! What is sent is made of the crate's types. Of answers only the few attributes that are needed are read, one by one: the
//! crate's own parsing refuses a whole message for one attribute that a newer kernel has in another form.

use super::LinkName;
use crate::sys::net::in_namespace;
use crate::sys::{Called, SysError, SysResult};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use std::convert::Infallible;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};

/// How often a dump is asked for which changed while it was made (`NLM_F_DUMP_INTR`).
const DUMP_ATTEMPTS: u32 = 16;

/// What one datagram of an answer may have: the kernel's own limit for dumps (`NLMSG_GOODSIZE` grows to 32 KiB with the reader's
/// buffer, af_netlink.c).
const DATAGRAM: usize = 32 << 10;

/// A socket of rtnetlink, and with it the network namespace that it is of.
#[derive(Debug)]
pub struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
    /// `None` is the caller's own.
    namespace: Option<OwnedFd>,
}

/// A link, as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number, `ifindex`.
    pub index: u32,
    /// Its name. It may have bytes that a [`LinkName`] may not.
    pub name: String,
    /// `bridge`, `veth`, `ifb`, …; empty for hardware and loopback.
    pub kind: String,
    /// The number of the bridge (or bond, …) that it is a port of.
    pub master: Option<u32>,
    /// Whether it is administratively up (`IFF_UP`).
    pub up: bool,
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
    /// The hardware address, if it has one of Ethernet's form.
    pub mac: Option<super::Mac>,
}

/// A message of the kernel: its type and what follows the netlink header.
#[derive(Debug)]
pub(super) struct Reply {
    pub kind: u16,
    pub payload: Vec<u8>,
}

impl NetlinkDeserializable for Reply {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Reply, Infallible> {
        Ok(Reply { kind: header.message_type, payload: payload.to_vec() })
    }
}

/// The attributes of a message or of a nest: types (without the flags `NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`) and values.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).map(|attribute| {
        let whole: &[u8] = attribute.into_inner();
        (attribute.kind(), &whole[netlink_packet_core::NLA_HEADER_SIZE..usize::from(attribute.length())])
    })
}

/// A number of an attribute, in the machine's byte order.
pub(super) fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

/// A text of an attribute, without the NUL.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

impl Socket {
    /// Of the calling thread's network namespace.
    pub fn open() -> SysResult<Socket> {
        Ok(Socket { socket: make()?, sequence: 0, namespace: None })
    }

    /// Of another network namespace.
    pub fn in_namespace(namespace: BorrowedFd<'_>) -> SysResult<Socket> {
        let socket = in_namespace(namespace, make)??;
        let namespace = namespace.try_clone_to_owned().called("fcntl F_DUPFD_CLOEXEC", "a network namespace")?;
        Ok(Socket { socket, sequence: 0, namespace: Some(namespace) })
    }

    /// Does something in the socket's namespace.
    pub(super) fn inside<T>(&self, work: impl FnOnce() -> SysResult<T>) -> SysResult<T> {
        use std::os::fd::AsFd;
        match &self.namespace {
            None => work(),
            Some(namespace) => in_namespace(namespace.as_fd(), work)?,
        }
    }

    /// Asks for something to be done. `flags` are `NLM_F_CREATE` and the like; `target` is for the error.
    pub(super) fn request(&mut self, message: Message, flags: u16, target: impl fmt::Display) -> SysResult<()> {
        self.ask(message, flags | NLM_F_ACK, target).map(drop)
    }

    /// Asks for one thing.
    fn get(&mut self, message: Message, target: impl fmt::Display) -> SysResult<Reply> {
        let call = call(&message);
        let found = self.ask(message, NLM_F_ACK, &target)?;
        found.into_iter().next().ok_or_else(|| SysError::new(call, target, Errno::EBADMSG))
    }

    /// Asks for all there are; again if they changed meanwhile.
    pub(super) fn dump(&mut self, message: Message) -> SysResult<Vec<Reply>> {
        let call = call(&message);
        for _ in 0..DUMP_ATTEMPTS {
            match self.ask(message.clone(), NLM_F_DUMP, "all") {
                Err(error) if error.errno() == Errno::EINTR => continue,
                other => return other,
            }
        }
        Err(SysError::new(call, "all: they keep changing", Errno::EINTR))
    }

    /// Sends a request and reads its answer to the end, which is `NLMSG_DONE` of a dump and else the acknowledgement.
    fn ask(&mut self, message: Message, flags: u16, target: impl fmt::Display) -> SysResult<Vec<Reply>> {
        let call = call(&message);
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.socket, message, flags, self.sequence).map_err(|errno| SysError::new(call, &target, errno))?;
        let mut replies = Vec::new();
        let mut interrupted = false;
        loop {
            let messages = receive(&self.socket).map_err(|errno| SysError::new(call, &target, errno))?;
            for (header, payload) in messages {
                // What is left of an earlier dump that failed half-way.
                if header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match payload {
                    NetlinkPayload::InnerMessage(reply) => replies.push(reply),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        let errno = Errno::from_raw(error.raw_code().saturating_neg());
                        return Err(match explanation(&header, &error.header) {
                            Some(why) => SysError::new(call, format_args!("{target} ({why})"), errno),
                            None => SysError::new(call, &target, errno),
                        });
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(SysError::new(call, &target, Errno::from_raw(done.code.saturating_neg())));
                    }
                    NetlinkPayload::Done(_) if interrupted => return Err(SysError::new(call, &target, Errno::EINTR)),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(replies),
                    _ => {}
                }
            }
        }
    }

    /// All links, in the order of their numbers.
    pub fn links(&mut self) -> SysResult<Vec<Link>> {
        let replies = self.dump(Message::GetLink(LinkMessage::default()))?;
        Ok(replies.iter().filter_map(Link::of).collect())
    }

    /// The link of a name, if there is one.
    pub fn link(&mut self, name: &LinkName) -> SysResult<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_string()));
        match self.get(Message::GetLink(message), name) {
            Err(error) if error.errno() == Errno::ENODEV => Ok(None),
            other => Ok(Link::of(&other?)),
        }
    }

    /// The number of a link that has to be there.
    pub(super) fn index(&mut self, name: &LinkName) -> SysResult<u32> {
        let link = self.link(name)?;
        link.map(|link| link.index).ok_or_else(|| SysError::new("RTM_GETLINK", name, Errno::ENODEV))
    }

    /// Removes a link, and with it its other end if it is one of a veth pair. One that is gone already is no error.
    pub fn remove_link(&mut self, name: &LinkName) -> SysResult<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_string()));
        match self.request(Message::DelLink(message), 0, name) {
            Err(error) if error.errno() == Errno::ENODEV => Ok(()),
            other => other,
        }
    }

    /// Changes a link.
    pub(super) fn set_link(&mut self, name: &LinkName, index: u32, change: LinkChange) -> SysResult<()> {
        let mut message = change.0;
        message.header.index = index;
        self.request(Message::NewLink(message), 0, name)
    }
}

/// What to change of a link.
pub(super) struct LinkChange(LinkMessage);

impl LinkChange {
    /// These attributes.
    pub(super) fn of(attributes: Vec<LinkAttribute>) -> LinkChange {
        let mut message = LinkMessage::default();
        message.attributes = attributes;
        LinkChange(message)
    }

    /// Administratively up.
    pub(super) fn up() -> LinkChange {
        let mut message = LinkMessage::default();
        message.header.flags = netlink_packet_route::link::LinkFlags::Up;
        message.header.change_mask = netlink_packet_route::link::LinkFlags::Up;
        LinkChange(message)
    }

    /// Administratively down.
    pub(super) fn down() -> LinkChange {
        let mut message = LinkMessage::default();
        message.header.change_mask = netlink_packet_route::link::LinkFlags::Up;
        LinkChange(message)
    }
}

/// struct ifinfomsg of rtnetlink(7): family, padding, type, index, flags, change.
pub(super) struct LinkHead {
    pub family: u8,
    pub index: u32,
    flags: u32,
}

impl LinkHead {
    const LENGTH: usize = 16;

    /// Of a message about a link, with the attributes.
    pub(super) fn split(payload: &[u8]) -> Option<(LinkHead, &[u8])> {
        let (head, attributes) = payload.split_at_checked(Self::LENGTH)?;
        Some((LinkHead { family: head[0], index: number(&head[4..])?, flags: number(&head[8..])? }, attributes))
    }
}

impl Link {
    /// Of an RTM_NEWLINK.
    fn of(reply: &Reply) -> Option<Link> {
        let (head, rest) = LinkHead::split(&reply.payload)?;
        let up = head.flags & libc::IFF_UP as u32 != 0;
        let mut link =
            Link { index: head.index, name: String::new(), kind: String::new(), master: None, up, mtu: 0, mac: None };
        for (kind, value) in attributes(rest) {
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_MTU => link.mtu = number(value)?,
                libc::IFLA_MASTER => link.master = number(value),
                libc::IFLA_ADDRESS => link.mac = value.try_into().ok().map(super::Mac),
                libc::IFLA_LINKINFO => {
                    let info = attributes(value).find(|(kind, _)| *kind == libc::IFLA_INFO_KIND);
                    link.kind = info.map(|(_, value)| text(value)).unwrap_or_default();
                }
                _ => {}
            }
        }
        Some(link)
    }
}

fn make() -> SysResult<netlink_sys::Socket> {
    let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE).called("socket", "NETLINK_ROUTE")?;
    socket.bind_auto().called("bind", "NETLINK_ROUTE")?;
    // Errors come with the kernel's own words, and without the request repeated.
    socket.set_ext_ack(true).called("setsockopt", "NETLINK_EXT_ACK")?;
    socket.set_cap_ack(true).called("setsockopt", "NETLINK_CAP_ACK")?;
    Ok(socket)
}

/// Sends a request to the kernel.
pub(super) fn send(socket: &netlink_sys::Socket, message: Message, flags: u16, sequence: u32) -> nix::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let kernel = netlink_sys::SocketAddr::new(0, 0);
    retried(|| socket.send_to(&bytes, &kernel, 0)).map(drop)
}

/// The messages of the next datagram.
pub(super) fn receive(socket: &netlink_sys::Socket) -> nix::Result<Vec<(NetlinkHeader, NetlinkPayload<Reply>)>> {
    let mut bytes = Vec::with_capacity(DATAGRAM);
    let (length, sender) = retried(|| socket.recv_from(&mut bytes, libc::MSG_TRUNC))?;
    if length > bytes.len() {
        return Err(Errno::EMSGSIZE);
    }
    // Another process may send to this port too.
    if sender.port_number() != 0 {
        return Ok(Vec::new());
    }
    let mut messages = Vec::new();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let message = NetlinkMessage::<Reply>::deserialize(rest).map_err(|_| Errno::EBADMSG)?;
        // Netlink aligns messages to 4 bytes (NLMSG_ALIGN).
        let length = (message.header.length as usize).next_multiple_of(4);
        messages.push(message.into_parts());
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(messages)
}

fn retried<T>(mut call: impl FnMut() -> std::io::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
            Ok(done) => return Ok(done),
        }
    }
}

/// What the kernel says in words about an error (`NLMSGERR_ATTR_MSG` of linux/netlink.h), which follows the request's header or,
/// unless it was capped, the whole request.
fn explanation(header: &NetlinkHeader, request: &[u8]) -> Option<String> {
    const NLMSG_HEADER: usize = 16;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    if header.flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let repeated = match header.flags & NLM_F_CAPPED {
        0 => (number(request)? as usize).next_multiple_of(4),
        _ => NLMSG_HEADER,
    };
    let mut found = attributes(request.get(repeated..)?).filter(|(kind, _)| *kind == NLMSGERR_ATTR_MSG);
    found.next().map(|(_, value)| text(value))
}

/// A request's name in rtnetlink(7).
fn call(message: &Message) -> &'static str {
    match message {
        Message::NewLink(_) => "RTM_NEWLINK",
        Message::DelLink(_) => "RTM_DELLINK",
        Message::GetLink(_) => "RTM_GETLINK",
        Message::NewAddress(_) => "RTM_NEWADDR",
        Message::GetAddress(_) => "RTM_GETADDR",
        Message::NewRoute(_) => "RTM_NEWROUTE",
        Message::GetRoute(_) => "RTM_GETROUTE",
        Message::NewNeighbour(_) => "RTM_NEWNEIGH",
        Message::DelNeighbour(_) => "RTM_DELNEIGH",
        Message::NewQueueDiscipline(_) => "RTM_NEWQDISC",
        Message::NewTrafficFilter(_) => "RTM_NEWTFILTER",
        _ => "rtnetlink",
    }
}
