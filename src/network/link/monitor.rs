//! When a link goes: a socket in the multicast group `RTNLGRP_LINK` of rtnetlink(7), which needs no privilege.

use super::socket::{Call, LinkHead, Reply, receive, send};
use crate::sys::{Called, SysError, SysResult};
use netlink_packet_core::{NetlinkHeader, NetlinkPayload};
use netlink_packet_route::link::LinkMessage;
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd};

/// The number of the request that asks whether the link is still there.
const ASKED: u32 = 1;

/// A pod can have messages sent by setting its link up and down as fast as it can.
const DATAGRAMS_AT_ONCE: u32 = 256;

/// Watches one link of the network namespace that it was made in: when its descriptor is readable, ask [`LinkMonitor::is_gone`].
#[derive(Debug)]
pub struct LinkMonitor {
    socket: netlink_sys::Socket,
    index: u32,
    gone: bool,
    /// Whether messages were lost since the link was last asked for.
    lost: bool,
}

impl LinkMonitor {
    /// Watches the link of this number in the calling thread's network namespace. That it is gone already is seen too.
    pub fn open(index: u32) -> SysResult<LinkMonitor> {
        let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE).called("socket", "NETLINK_ROUTE")?;
        socket.set_non_blocking(true).called("ioctl FIONBIO", "NETLINK_ROUTE")?;
        let group = libc::RTMGRP_LINK.cast_unsigned();
        socket.bind(&SocketAddr::new(0, group)).called("bind", "NETLINK_ROUTE RTMGRP_LINK")?;
        let monitor = LinkMonitor { socket, index, gone: false, lost: false };
        // After joining the group: what happens from now on is told, what happened before is asked.
        monitor.ask()?;
        Ok(monitor)
    }

    /// Reads what there is to read, without waiting; not all of it if it is much. Once a link is gone it stays so.
    ///
    /// Calls recvfrom(2), and sendto(2) when so much happened that messages were lost.
    pub fn is_gone(&mut self) -> SysResult<bool> {
        for _ in 0..DATAGRAMS_AT_ONCE {
            match receive(&self.socket) {
                Ok(messages) => self.gone |= messages.iter().any(|(header, payload)| self.is_end(header, payload)),
                // The answer would be lost too before the rest is read.
                Err(Errno::ENOBUFS) => self.lost = true,
                Err(Errno::EAGAIN) if self.lost => {
                    self.lost = false;
                    self.ask()?;
                }
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(SysError::new("recvfrom", "NETLINK_ROUTE", errno)),
            }
        }
        Ok(self.gone)
    }

    fn is_end(&self, header: &NetlinkHeader, payload: &NetlinkPayload<Reply>) -> bool {
        match payload {
            // The answer to what was asked: no such link.
            NetlinkPayload::Error(error) => header.sequence_number == ASKED && error.code.is_some(),
            // Of the family of bridges the same message says that a link is a port no more.
            NetlinkPayload::InnerMessage(reply) if reply.kind == libc::RTM_DELLINK => LinkHead::split(&reply.payload)
                .is_some_and(|(head, _)| i32::from(head.family) == libc::AF_UNSPEC && head.index == self.index),
            _ => false,
        }
    }

    fn ask(&self) -> SysResult<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.index;
        let target = format_args!("number {}", self.index);
        send(&self.socket, Call::GET_LINK, &message, ASKED).map_err(|errno| SysError::new("RTM_GETLINK", target, errno))
    }
}

impl AsFd for LinkMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
