//! Messages of nfnetlink: a header, the family, and attributes (netlink(7), `linux/netfilter/nfnetlink.h`).

use crate::sys::{SysError, SysResult};
use nix::errno::Errno;

/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The length of `struct nfgenmsg`.
const GENERIC: usize = 4;
/// `NLA_F_NESTED`
const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that are flags.
const ATTRIBUTE_FLAGS: u16 = 0xc000;

/// Writes messages one behind the other.
#[derive(Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    /// Where the last message begins.
    last: usize,
}

/// What a message is, in its header.
#[derive(Clone, Copy)]
pub(super) struct Head {
    /// The type, with the subsystem in its upper byte.
    pub kind: u16,
    /// `NLM_F_*`
    pub flags: u16,
    /// The number that answers have too.
    pub sequence: u32,
    /// `NFPROTO_*`
    pub family: u8,
    /// `res_id`: of a batch's bounds, the subsystem.
    pub resource: u16,
}

impl Writer {
    /// A message with what `body` writes.
    pub(super) fn message(&mut self, head: Head, body: impl FnOnce(&mut Writer)) {
        let start = self.bytes.len();
        self.last = start;
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend(head.kind.to_ne_bytes());
        self.bytes.extend(head.flags.to_ne_bytes());
        self.bytes.extend(head.sequence.to_ne_bytes());
        // nlmsg_pid: the kernel knows whose socket it is.
        self.bytes.extend(0u32.to_ne_bytes());
        // Version 0 of nfnetlink.
        self.bytes.extend([head.family, 0]);
        self.bytes.extend(head.resource.to_be_bytes());
        body(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// An attribute.
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |w| w.bytes.extend(value));
    }

    /// An attribute that is a string with its NUL.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |w| {
            w.bytes.extend(value.as_bytes());
            w.bytes.push(0);
        });
    }

    /// An attribute that is a 32-bit number; nftables' are all big-endian.
    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute that is a 64-bit number.
    pub(super) fn long(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute made of attributes. At most 64 KiB: longer lists are divided by whoever writes them.
    pub(super) fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Writer)) {
        self.attribute(kind | NESTED, body);
    }

    fn attribute(&mut self, kind: u16, body: impl FnOnce(&mut Writer)) {
        let start = self.bytes.len();
        self.bytes.extend(0u16.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        body(self);
        // A length that does not fit is one that the kernel refuses (EINVAL).
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Has the kernel say so if the last message went well.
    pub(super) fn acknowledge_last(&mut self) {
        if let Some(flags) = self.bytes.get_mut(self.last + 6..self.last + 8) {
            let set = u16::from_ne_bytes([flags[0], flags[1]]) | libc::NLM_F_ACK as u16;
            flags.copy_from_slice(&set.to_ne_bytes());
        }
    }

    /// Everything written.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// A message received.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'b> {
    /// Its type.
    pub kind: u16,
    /// `NLM_F_*`
    pub flags: u16,
    /// The number of what it answers.
    pub sequence: u32,
    /// What follows its header.
    payload: &'b [u8],
}

impl<'b> Message<'b> {
    /// The messages of one datagram.
    pub(super) fn all(datagram: &'b [u8]) -> SysResult<Vec<Message<'b>>> {
        let malformed = || SysError::new("recv", "nfnetlink", Errno::EBADMSG);
        let mut messages = Vec::new();
        let mut rest = datagram;
        while !rest.is_empty() {
            let length = u32_at(rest, 0).ok_or_else(malformed)? as usize;
            if length < HEADER || length > rest.len() {
                return Err(malformed());
            }
            messages.push(Message {
                kind: u16_at(rest, 4).ok_or_else(malformed)?,
                flags: u16_at(rest, 6).ok_or_else(malformed)?,
                sequence: u32_at(rest, 8).ok_or_else(malformed)?,
                payload: &rest[HEADER..length],
            });
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        Ok(messages)
    }

    /// The errno of an `NLMSG_ERROR`, where 0 is an acknowledgement, or of an `NLMSG_DONE`; 0 of anything else.
    pub(super) fn errno(&self) -> i32 {
        match i32::from(self.kind) {
            libc::NLMSG_ERROR => u32_at(self.payload, 0).map_or(libc::EBADMSG, |number| (number as i32).wrapping_neg()),
            // A list's length, or less than nothing.
            libc::NLMSG_DONE => u32_at(self.payload, 0).map_or(0, |number| (number as i32).min(0).wrapping_neg()),
            _ => 0,
        }
    }

    /// Its attributes.
    pub(super) fn attributes(&self) -> Attributes<'b> {
        Attributes(self.payload.get(GENERIC..).unwrap_or(&[]))
    }
}

/// Attributes, one behind the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'b>(&'b [u8]);

impl<'b> Attributes<'b> {
    /// Types and values, up to the first that is cut off.
    fn iter(self) -> impl Iterator<Item = (u16, &'b [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (length, kind) = (usize::from(u16_at(rest, 0)?), u16_at(rest, 2)?);
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
            Some((kind & !ATTRIBUTE_FLAGS, value))
        })
    }

    /// The value of the first of this type.
    pub(super) fn get(self, kind: u16) -> Option<&'b [u8]> {
        self.iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// All of this type, each being attributes.
    pub(super) fn all(self, kind: u16) -> impl Iterator<Item = Attributes<'b>> {
        self.iter().filter(move |(found, _)| *found == kind).map(|(_, value)| Attributes(value))
    }

    /// Likewise: a string.
    pub(super) fn text(self, kind: u16) -> Option<&'b str> {
        let bytes = self.get(kind)?;
        std::str::from_utf8(bytes.strip_suffix(b"\0").unwrap_or(bytes)).ok()
    }

    /// Likewise: a 32-bit number.
    pub(super) fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// Likewise: attributes.
    pub(super) fn nested(self, kind: u16) -> Option<Attributes<'b>> {
        self.get(kind).map(Attributes)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::default();
        let head = Head { kind: 0xa03, flags: 5, sequence: 7, family: 1, resource: 10 };
        writer.message(head, |w| {
            w.text(1, "abc");
            w.nested(4, |w| w.number(2, 9));
            w.bytes(3, &[1, 2, 3, 4, 5]);
        });
        writer.message(Head { sequence: 8, ..head }, |_| ());
        let bytes = writer.into_bytes();
        let messages = Message::all(&bytes).unwrap();
        let [first, second] = messages[..] else { panic!("{messages:?}") };
        assert_eq!((first.kind, first.flags, first.sequence), (0xa03, 5, 7));
        assert_eq!(first.attributes().text(1), Some("abc"));
        assert_eq!(first.attributes().nested(4).unwrap().number(2), Some(9));
        assert_eq!(first.attributes().get(3), Some(&[1, 2, 3, 4, 5][..]));
        assert_eq!(first.attributes().get(9), None);
        assert_eq!(second.sequence, 8);
    }

    #[test]
    fn what_is_cut_off_is_an_error_or_nothing() {
        let mut writer = Writer::default();
        writer.message(Head { kind: 1, flags: 0, sequence: 0, family: 0, resource: 0 }, |w| w.text(1, "abcdef"));
        let bytes = writer.into_bytes();
        for length in 1..bytes.len() {
            assert!(Message::all(&bytes[..length]).is_err(), "{length}");
        }
        assert!(Attributes(&[255, 255, 1, 0]).get(1).is_none());
        assert!(Attributes(&[0, 0, 1, 0]).get(2).is_none(), "an attribute of no length does not go on for ever");
    }
}
