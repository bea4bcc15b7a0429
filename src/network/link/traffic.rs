//! What went over the links of a network namespace.

use super::Socket;
use super::socket::{Call, LinkHead, attributes, text};
use crate::sys::SysResult;
use netlink_packet_route::link::LinkMessage;

/// What a link has carried since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The link's name.
    pub name: String,
    /// What came.
    pub received: Carried,
    /// What went.
    pub sent: Carried,
}

/// One direction, counted as `/proc/net/dev` does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were faulty.
    pub errors: u64,
    /// Packets that there was no room for.
    pub dropped: u64,
}

impl Socket {
    /// Of all links but loopback, in the order of their numbers.
    pub fn traffic(&mut self) -> SysResult<Vec<Traffic>> {
        let replies = self.dump(Call::LINKS, &LinkMessage::default())?;
        Ok(replies.iter().filter_map(|reply| traffic(&reply.payload)).collect())
    }
}

fn traffic(payload: &[u8]) -> Option<Traffic> {
    let (head, rest) = LinkHead::split(payload)?;
    if head.is_loopback() {
        return None;
    }
    let of = |wanted: u16| attributes(rest).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let (received, sent) = carried(of(libc::IFLA_STATS64)?)?;
    Some(Traffic { name: text(of(libc::IFLA_IFNAME)?), received, sent })
}

/// struct rtnl_link_stats64 of linux/if_link.h; newer kernels have more at its end.
fn carried(stats: &[u8]) -> Option<(Carried, Carried)> {
    let at = |index: usize| Some(u64::from_ne_bytes(stats.get(index * 8..)?.get(..8)?.try_into().ok()?));
    /// `rx_missed_errors`
    const MISSED: usize = 15;
    let received =
        Carried { packets: at(0)?, bytes: at(2)?, errors: at(4)?, dropped: at(6)?.saturating_add(at(MISSED)?) };
    let sent = Carried { packets: at(1)?, bytes: at(3)?, errors: at(5)?, dropped: at(7)? };
    Some((received, sent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_link() {
        let stats: Vec<u8> = (1..=24u64).flat_map(u64::to_ne_bytes).collect();
        let received = Carried { packets: 1, bytes: 3, errors: 5, dropped: 7 + 16 };
        let sent = Carried { packets: 2, bytes: 4, errors: 6, dropped: 8 };
        assert_eq!(carried(&stats), Some((received, sent)));
        assert_eq!(carried(&stats[..100]), None, "of another kernel");
    }

    #[test]
    fn the_hosts_links_are_those_of_proc() {
        let found = Socket::open().unwrap().traffic().unwrap();
        let proc = std::fs::read_to_string("/proc/net/dev").unwrap();
        let names: Vec<&str> = proc.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
        for name in &names {
            let is_there = found.iter().any(|traffic| traffic.name == *name);
            assert_eq!(is_there, *name != "lo", "{name}: {found:?}");
        }
        assert_eq!(found.len(), names.len() - 1, "{found:?} {proc}");
    }
}
