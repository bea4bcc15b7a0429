//! A socket of rtnetlink(7): requests, their answers, and the list of links.
//!
//! What is sent is made of the crate's types. Of answers only the few attributes that are needed are read, one by one: the
//! crate's own parsing refuses a whole message for one attribute that a newer kernel has in another form.

use super::LinkName;
use crate::sys::net::in_namespace;
use crate::sys::{Called, SysError, SysResult};
use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL,
    NLM_F_REPLACE, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use std::convert::Infallible;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

/// How often a dump is asked for which changed while it was made (`NLM_F_DUMP_INTR`).
const DUMP_ATTEMPTS: u32 = 16;

/// What one datagram of an answer may have: the kernel's own limit for dumps (`NLMSG_GOODSIZE` grows to 32 KiB with the reader's
/// buffer, af_netlink.c).
const DATAGRAM: usize = 32 << 10;

/// linux/if.h
const IF_OPER_UP: u8 = 6;

/// How often and how long apart it is looked whether something is so: a second in all.
const LOOKS: u32 = 500;
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

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
    /// Whether it sends what it is given (`IF_OPER_UP`): up, with the other end up too, and the kernel has taken note of that.
    pub operational: bool,
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
    /// Of one of a veth pair: the number of the other, in its own namespace.
    pub peer: Option<u32>,
    /// The hardware address, if it has one of Ethernet's form.
    pub mac: Option<super::Mac>,
}

/// A request of rtnetlink(7), and what is asked of it: the crate's enum of all requests would bring the code of all into the binary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    name: &'static str,
    number: u16,
    flags: u16,
}

impl Call {
    pub(super) const NEW_LINK: Call = Call::new("RTM_NEWLINK", libc::RTM_NEWLINK);
    pub(super) const CHANGE_LINK: Call = Call { flags: NLM_F_ACK, ..Call::NEW_LINK };
    const DEL_LINK: Call = Call { name: "RTM_DELLINK", number: libc::RTM_DELLINK, flags: NLM_F_ACK };
    pub(super) const GET_LINK: Call = Call { name: "RTM_GETLINK", number: libc::RTM_GETLINK, flags: NLM_F_ACK };
    pub(super) const LINKS: Call = Call { flags: NLM_F_DUMP, ..Call::GET_LINK };
    pub(super) const NEW_ADDRESS: Call = Call::new("RTM_NEWADDR", libc::RTM_NEWADDR);
    pub(super) const ADDRESSES: Call = Call { name: "RTM_GETADDR", number: libc::RTM_GETADDR, flags: NLM_F_DUMP };
    pub(super) const NEW_ROUTE: Call = Call::new("RTM_NEWROUTE", libc::RTM_NEWROUTE);
    pub(super) const ROUTES: Call = Call { name: "RTM_GETROUTE", number: libc::RTM_GETROUTE, flags: NLM_F_DUMP };
    pub(super) const GET_ROUTE: Call = Call { flags: NLM_F_ACK, ..Call::ROUTES };
    pub(super) const PUT_NEIGHBOUR: Call =
        Call { name: "RTM_NEWNEIGH", number: libc::RTM_NEWNEIGH, flags: NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE };
    pub(super) const NEW_QUEUE: Call = Call::new("RTM_NEWQDISC", libc::RTM_NEWQDISC);
    pub(super) const NEW_FILTER: Call = Call::new("RTM_NEWTFILTER", libc::RTM_NEWTFILTER);

    /// Makes something that is not there yet, else EEXIST.
    const fn new(name: &'static str, number: u16) -> Call {
        Call { name, number, flags: NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL }
    }
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
pub(super) fn text(value: &[u8]) -> String {
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

    /// Asks for something to be done; `target` is for the error.
    pub(super) fn request(&mut self, call: Call, message: &impl Emitable, target: impl fmt::Display) -> SysResult<()> {
        self.ask(call, message, target).map(drop)
    }

    /// Asks for all there are; again if they changed meanwhile.
    pub(super) fn dump(&mut self, call: Call, message: &impl Emitable) -> SysResult<Vec<Reply>> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.ask(call, message, "all") {
                Err(error) if error.errno() == Errno::EINTR => continue,
                other => return other,
            }
        }
        Err(SysError::new(call.name, "all: they keep changing", Errno::EINTR))
    }

    /// Sends a request and reads its answer to the end, which is `NLMSG_DONE` of a dump and else the acknowledgement.
    pub(super) fn ask(
        &mut self,
        call: Call,
        message: &impl Emitable,
        target: impl fmt::Display,
    ) -> SysResult<Vec<Reply>> {
        let failed = |errno| SysError::new(call.name, &target, errno);
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.socket, call, message, self.sequence).map_err(failed)?;
        let mut replies = Vec::new();
        let mut interrupted = false;
        loop {
            let messages = receive(&self.socket).map_err(failed)?;
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
                            Some(why) => SysError::new(call.name, format_args!("{target} ({why})"), errno),
                            None => failed(errno),
                        });
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(failed(Errno::from_raw(done.code.saturating_neg())));
                    }
                    NetlinkPayload::Done(_) if interrupted => return Err(failed(Errno::EINTR)),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(replies),
                    _ => {}
                }
            }
        }
    }

    /// All links, in the order of their numbers.
    pub fn links(&mut self) -> SysResult<Vec<Link>> {
        let replies = self.dump(Call::LINKS, &LinkMessage::default())?;
        Ok(replies.iter().filter_map(Link::of).collect())
    }

    /// The link of a name, if there is one.
    pub fn link(&mut self, name: &LinkName) -> SysResult<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_string()));
        match self.ask(Call::GET_LINK, &message, name) {
            Err(error) if error.errno() == Errno::ENODEV => Ok(None),
            other => Ok(other?.first().and_then(Link::of)),
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
        match self.request(Call::DEL_LINK, &message, name) {
            Err(error) if error.errno() == Errno::ENODEV => Ok(()),
            other => other,
        }
    }

    /// Waits until a link whose other end is up is operational too: until then the kernel drops what is to be sent there, and a
    /// neighbour that is asked for in vain is asked for again a second later. It takes note in a work queue (link_watch.c), or,
    /// since Linux 6.8, when the link is looked at.
    pub(super) fn await_operational(&mut self, name: &LinkName) -> SysResult<()> {
        self.look_until(|socket| Ok(socket.link(name)?.is_none_or(|link| link.operational)))
    }

    /// Looks until something is so that the kernel does in a work queue; after a second it is left to itself.
    pub(super) fn look_until(&mut self, is_so: impl Fn(&mut Socket) -> SysResult<bool>) -> SysResult<()> {
        for _ in 0..LOOKS {
            if is_so(self)? {
                break;
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
        Ok(())
    }

    /// Changes a link.
    pub(super) fn set_link(&mut self, name: &LinkName, index: u32, change: LinkChange) -> SysResult<()> {
        let mut message = change.0;
        message.header.index = index;
        self.request(Call::CHANGE_LINK, &message, name)
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

    /// IFF_LOOPBACK
    pub(super) fn is_loopback(&self) -> bool {
        self.flags & libc::IFF_LOOPBACK as u32 != 0
    }
}

impl Link {
    /// Of an RTM_NEWLINK.
    fn of(reply: &Reply) -> Option<Link> {
        let (head, rest) = LinkHead::split(&reply.payload)?;
        let up = head.flags & libc::IFF_UP as u32 != 0;
        let (name, kind) = (String::new(), String::new());
        let index = head.index;
        let mut link = Link { index, name, kind, master: None, up, operational: false, mtu: 0, peer: None, mac: None };
        for (kind, value) in attributes(rest) {
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_MTU => link.mtu = number(value)?,
                libc::IFLA_OPERSTATE => link.operational = value == [IF_OPER_UP],
                libc::IFLA_LINK => link.peer = number(value),
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
pub(super) fn send(
    socket: &netlink_sys::Socket,
    call: Call,
    message: &impl Emitable,
    sequence: u32,
) -> nix::Result<()> {
    let mut header = NetlinkHeader::default();
    let length = header.buffer_len() + message.buffer_len();
    header.length = u32::try_from(length).map_err(|_| Errno::EMSGSIZE)?;
    header.message_type = call.number;
    header.flags = NLM_F_REQUEST | call.flags;
    header.sequence_number = sequence;
    let mut bytes = vec![0; length];
    let (head, rest) = bytes.split_at_mut(header.buffer_len());
    header.emit(head);
    message.emit(rest);
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
