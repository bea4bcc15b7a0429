//! The two framings of an NRI connection, pure: ttrpc's messages inside the multiplexer's frames.
//!
//! ```text
//! multiplexer:  connection u32 | length u32 | a piece of that connection's byte stream       (at most 10 B + 4 MiB)
//! ttrpc:        length u32 | stream u32 | type u8 | flags u8 | a protobuf message             (at most 4 MiB)
//! ```
//!
//! All numbers are big-endian. Sources: pkg/net/multiplex of github.com/containerd/nri, PROTOCOL.md of github.com/containerd/ttrpc.

use anyhow::{Result, bail, ensure};

/// The logical connection on which the runtime asks and the plugin answers.
pub(super) const PLUGIN_SERVICE: u32 = 1;
/// The logical connection on which the plugin asks and the runtime answers.
pub(super) const RUNTIME_SERVICE: u32 = 2;
/// Largest ttrpc message without its header, in bytes.
pub(super) const MAX_MESSAGE: usize = 4 << 20;
/// Length of a ttrpc header, in bytes.
pub(super) const MESSAGE_HEADER: usize = 10;
/// Length of a multiplexer's header, in bytes.
pub(super) const FRAME_HEADER: usize = 8;
/// What a Go plugin reads at once: the first frame of a message must not be longer (see [`frames`]).
const FIRST_FRAME: usize = 4096;
/// ttrpc's flag of a last message of a stream.
pub(super) const REMOTE_CLOSED: u8 = 1;
/// ttrpc's flag of a stream of several messages.
pub(super) const REMOTE_OPEN: u8 = 2;

/// What a ttrpc message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A `Request`, the first message of a stream.
    Request,
    /// A `Response`, the last message of a stream.
    Response,
}

/// A ttrpc message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// Which call it belongs to: odd, chosen by who asks.
    pub(super) stream: u32,
    /// What it is.
    pub(super) kind: Kind,
    /// Its flags.
    pub(super) flags: u8,
    /// The protobuf message.
    pub(super) body: Vec<u8>,
}

/// A message as frames of a logical connection.
///
/// A Go plugin refuses a frame that is longer than the buffer it reads into, which has 4096 bytes while it looks for a header
/// and the rest of the message from then on; and it closes the connection if 256 frames wait. So a long message is two frames:
/// one of 4096 bytes and one of the rest, as Go's own writer makes them.
pub(super) fn frames(connection: u32, message: &Message) -> Result<Vec<u8>> {
    ensure!(
        message.body.len() <= MAX_MESSAGE,
        "a message of {} bytes is longer than ttrpc's 4 MiB",
        message.body.len()
    );
    let mut bytes = Vec::with_capacity(MESSAGE_HEADER + message.body.len() + 2 * FRAME_HEADER);
    let mut stream = Vec::with_capacity(MESSAGE_HEADER + message.body.len());
    stream.extend((message.body.len() as u32).to_be_bytes());
    stream.extend(message.stream.to_be_bytes());
    stream.push(match message.kind {
        Kind::Request => 1,
        Kind::Response => 2,
    });
    stream.push(message.flags);
    stream.extend(&message.body);
    let (first, rest) = stream.split_at(stream.len().min(FIRST_FRAME));
    for piece in [first, rest].into_iter().filter(|piece| !piece.is_empty()) {
        bytes.extend(connection.to_be_bytes());
        bytes.extend((piece.len() as u32).to_be_bytes());
        bytes.extend(piece);
    }
    Ok(bytes)
}

/// The connection and the length that a multiplexer's header tells.
///
/// # Errors
/// If the frame is of no connection that NRI has, or longer than any can be.
pub(super) fn frame_header(header: [u8; FRAME_HEADER]) -> Result<(u32, usize)> {
    let [a, b, c, d, e, f, g, h] = header;
    let connection = u32::from_be_bytes([a, b, c, d]);
    let length = u32::from_be_bytes([e, f, g, h]) as usize;
    ensure!(
        [PLUGIN_SERVICE, RUNTIME_SERVICE].contains(&connection),
        "a frame is of the logical connection {connection}, which NRI does not have"
    );
    ensure!(length <= MESSAGE_HEADER + MAX_MESSAGE, "a frame has {length} bytes, more than ttrpc's longest message");
    Ok((connection, length))
}

/// One direction of a logical connection: pieces in, messages out.
#[derive(Debug, Default)]
pub(super) struct Messages {
    bytes: Vec<u8>,
}

impl Messages {
    /// A further piece of the byte stream. Take the messages out after each, so that what waits stays below two messages.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    /// The next message, if it has arrived whole.
    ///
    /// # Errors
    /// If what arrived is no ttrpc message, or one that is too long.
    pub(super) fn next(&mut self) -> Result<Option<Message>> {
        let Some((header, rest)) = self.bytes.split_first_chunk::<MESSAGE_HEADER>() else { return Ok(None) };
        let [a, b, c, d, e, f, g, h, kind, flags] = *header;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        ensure!(length <= MAX_MESSAGE, "a message has {length} bytes, more than ttrpc's 4 MiB");
        let kind = match kind {
            1 => Kind::Request,
            2 => Kind::Response,
            other => bail!("a message is of type {other}, which NRI has no use for"),
        };
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = Message { stream: u32::from_be_bytes([e, f, g, h]), kind, flags, body: body.to_vec() };
        self.bytes.drain(..MESSAGE_HEADER + length);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Message {
        let body = (0..length).map(|i| i as u8).collect();
        Message { stream: 7, kind: Kind::Request, flags: REMOTE_CLOSED, body }
    }

    /// The lengths of the frames in `bytes`, and the byte stream that they carry.
    fn unframed(mut bytes: &[u8]) -> (Vec<usize>, Vec<u8>) {
        let (mut lengths, mut stream) = (Vec::new(), Vec::new());
        while let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER>() {
            let (connection, length) = frame_header(*header).unwrap();
            assert_eq!(connection, PLUGIN_SERVICE);
            lengths.push(length);
            stream.extend(&rest[..length]);
            bytes = &rest[length..];
        }
        (lengths, stream)
    }

    #[test]
    fn a_message_is_one_frame_or_two_and_is_read_back_from_pieces_of_any_size() {
        for (length, expected) in [
            (0, vec![10]),
            (1, vec![11]),
            (4086, vec![4096]),
            (4087, vec![4096, 1]),
            (100_000, vec![4096, 95_914]),
            (MAX_MESSAGE, vec![4096, MAX_MESSAGE - 4086]),
        ] {
            let message = message(length);
            let (lengths, stream) = unframed(&frames(PLUGIN_SERVICE, &message).unwrap());
            assert_eq!(lengths, expected, "{length}");
            for piece in [3, 4096, stream.len()] {
                if stream.len() / piece > 100_000 {
                    continue;
                }
                let (mut messages, mut found) = (Messages::default(), Vec::new());
                for bytes in stream.chunks(piece) {
                    messages.push(bytes);
                    found.extend(messages.next().unwrap());
                }
                assert_eq!(found, std::slice::from_ref(&message), "{length} in pieces of {piece}");
                assert_eq!(messages.next().unwrap(), None);
            }
        }
        assert!(frames(PLUGIN_SERVICE, &message(MAX_MESSAGE + 1)).is_err());
    }

    #[test]
    fn two_messages_in_one_piece_are_two() {
        let (_, stream) = unframed(&frames(PLUGIN_SERVICE, &message(5)).unwrap());
        let mut messages = Messages::default();
        messages.push(&stream.repeat(2));
        assert_eq!(messages.next().unwrap(), Some(message(5)));
        assert_eq!(messages.next().unwrap(), Some(message(5)));
        assert_eq!(messages.next().unwrap(), None);
    }

    #[test]
    fn nonsense_is_refused_before_anything_is_kept_for_it() {
        let frame = |connection: u32, length: u32| {
            let mut header = [0; FRAME_HEADER];
            header[..4].copy_from_slice(&connection.to_be_bytes());
            header[4..].copy_from_slice(&length.to_be_bytes());
            frame_header(header).map_err(|e| e.to_string())
        };
        assert_eq!(frame(1, 4_194_314), Ok((1, 4_194_314)));
        assert_eq!(frame(2, 0), Ok((2, 0)));
        assert!(frame(2, 4_194_315).unwrap_err().contains("4194315 bytes"));
        assert!(frame(1, u32::MAX).unwrap_err().contains("4294967295 bytes"));
        assert!(frame(0, 1).unwrap_err().contains("logical connection 0"));
        assert!(frame(3, 1).unwrap_err().contains("logical connection 3"));
        for (header, told) in [
            ([0, 0x40, 0, 1, 0, 0, 0, 1, 1, 0], "4194305 bytes"),
            ([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 2, 0], "4294967295 bytes"),
            ([0, 0, 0, 0, 0, 0, 0, 1, 3, 4], "type 3"),
            ([0, 0, 0, 0, 0, 0, 0, 1, 0, 0], "type 0"),
            (*b"GET / HTTP", "bytes"),
        ] {
            let mut messages = Messages::default();
            messages.push(&header);
            assert!(messages.next().unwrap_err().to_string().contains(told), "{header:?}");
        }
    }
}
