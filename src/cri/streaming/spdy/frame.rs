//! Frames of SPDY/3.1: eight bytes and a payload. What is read is bounded before it is: a control frame is small, the bytes of
//! a data frame come in pieces.

use super::headers::{Deflater, Headers, Inflater};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The largest payload of a control frame: a client's headers, compressed, have some ten bytes.
const MAX_CONTROL: usize = 16 << 10;
/// The largest piece of a data frame.
pub(crate) const MAX_PIECE: usize = 16 << 10;
/// The first bit of a frame, and the version.
const CONTROL: u16 = 0x8003;
/// FLAG_FIN: the sender's last frame of a stream.
const FIN: u8 = 1;
/// FLAG_UNIDIRECTIONAL: there is nothing to be sent back.
const UNIDIRECTIONAL: u8 = 2;

/// Why a stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// PROTOCOL_ERROR
    ProtocolError = 1,
    /// REFUSED_STREAM
    Refused = 3,
    /// CANCEL: as Go's `Stream.Reset` says whatever the reason.
    Cancel = 5,
}

/// A frame, or a piece of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// SYN_STREAM
    SynStream {
        /// The new stream.
        stream: u32,
        /// Nothing will come.
        fin: bool,
        /// Nothing can be sent.
        unidirectional: bool,
        /// What it is for.
        headers: Headers,
    },
    /// SYN_REPLY, without headers: nothing that is spoken here has any.
    SynReply {
        /// The stream that is accepted.
        stream: u32,
    },
    /// RST_STREAM
    Reset {
        /// The stream.
        stream: u32,
        /// A [`Status`], or another one.
        status: u32,
    },
    /// PING
    Ping {
        /// A client's are odd.
        id: u32,
    },
    /// GOAWAY
    GoAway {
        /// The newest stream that was served.
        last_good: u32,
    },
    /// Data of a stream.
    Data {
        /// The stream.
        stream: u32,
        /// These are the last bytes.
        fin: bool,
        /// At most 16 KiB when read: a frame may come in pieces.
        bytes: Bytes,
    },
    /// HEADERS, which mean nothing here but for the end of a stream that they may be.
    Headers {
        /// The stream.
        stream: u32,
        /// Nothing more will come.
        fin: bool,
    },
    /// SETTINGS, WINDOW_UPDATE: read, and without consequence; Go's library has no flow control either. Written, it is SETTINGS
    /// without any, which each client reads and drops. (A PING would have Go's answer, and wait for that with other streams.)
    Other,
}

/// Reads the frames of the other end.
#[derive(Debug)]
pub(super) struct Reader<R> {
    from: R,
    inflater: Inflater,
    /// The data frame that is being read: what is left of it.
    rest: Option<Rest>,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    stream: u32,
    fin: bool,
    length: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(from: R) -> Reader<R> {
        Reader { from, inflater: Inflater::new(), rest: None }
    }

    /// The next frame, or piece of one; `None` at the end of the connection. Not to be given up and called again.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>> {
        if let Some(rest) = self.rest {
            return self.piece(rest).await.map(Some);
        }
        let mut head = [0; 8];
        match self.from.read(&mut head[..1]).await.context("reading a frame")? {
            0 => return Ok(None),
            _ => self.from.read_exact(&mut head[1..]).await.context("reading a frame's head")?,
        };
        let [a, b, c, d, flags, length @ ..] = head;
        let length = u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize;
        if a & 0x80 == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            if stream == 0 {
                bail!("a data frame of stream 0");
            }
            return self.piece(Rest { stream, fin: flags & FIN != 0, length }).await.map(Some);
        }
        let (version, kind) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        if version != CONTROL {
            bail!("a control frame of version {}: SPDY/3.1 has version 3", version & 0x7fff);
        }
        if length > MAX_CONTROL {
            bail!("a control frame of {length} bytes: at most {MAX_CONTROL} are taken");
        }
        let mut payload = vec![0; length];
        self.from.read_exact(&mut payload).await.context("reading a control frame")?;
        self.control(kind, flags, &payload).map(Some)
    }

    async fn piece(&mut self, rest: Rest) -> Result<Frame> {
        let mut bytes = vec![0; rest.length.min(MAX_PIECE)];
        let mut count = 0;
        if !bytes.is_empty() {
            count = self.from.read(&mut bytes).await.context("reading a data frame")?;
            if count == 0 {
                bail!("the connection ended within a data frame");
            }
            bytes.truncate(count);
            // What waits to be taken is counted in pieces: a small one must not hold a large buffer.
            bytes.shrink_to_fit();
        }
        let left = rest.length - count;
        self.rest = (left > 0).then_some(Rest { length: left, ..rest });
        Ok(Frame::Data { stream: rest.stream, fin: rest.fin && left == 0, bytes: bytes.into() })
    }

    fn control(&mut self, kind: u16, flags: u8, mut payload: &[u8]) -> Result<Frame> {
        let fin = flags & FIN != 0;
        let frame = match kind {
            1 => {
                let (stream, _associated) = (stream(&mut payload)?, word(&mut payload)?);
                let [_priority, _slot, block @ ..] = payload else { bail!("a SYN_STREAM frame ends early") };
                let headers = self.inflater.read(block)?;
                return Ok(Frame::SynStream { stream, fin, unidirectional: flags & UNIDIRECTIONAL != 0, headers });
            }
            2 | 8 => {
                let stream = stream(&mut payload)?;
                self.inflater.read(payload)?;
                return Ok(if kind == 2 { Frame::SynReply { stream } } else { Frame::Headers { stream, fin } });
            }
            3 => Frame::Reset { stream: stream(&mut payload)?, status: word(&mut payload)? },
            4 | 9 => return Ok(Frame::Other),
            6 => Frame::Ping { id: word(&mut payload)? },
            7 => {
                let (last_good, _status) = (word(&mut payload)?, word(&mut payload)?);
                Frame::GoAway { last_good }
            }
            _ => bail!("a control frame of the unknown type {kind}"),
        };
        if !payload.is_empty() {
            bail!("{} bytes too many in a control frame of type {kind}", payload.len());
        }
        Ok(frame)
    }
}

fn word(payload: &mut &[u8]) -> Result<u32> {
    let (word, rest) = payload.split_first_chunk::<4>().context("a control frame ends early")?;
    *payload = rest;
    Ok(u32::from_be_bytes(*word))
}

fn stream(payload: &mut &[u8]) -> Result<u32> {
    match word(payload)? & 0x7fff_ffff {
        0 => bail!("a control frame of stream 0"),
        stream => Ok(stream),
    }
}

/// All frames of what a client might send, and why there are no more.
pub fn read_all(bytes: &[u8]) -> (Vec<Frame>, Result<()>) {
    let mut reader = Reader::new(bytes);
    let mut frames = Vec::new();
    loop {
        // What is in memory is there at once.
        match reader.next().now_or_never() {
            Some(Ok(Some(frame))) => frames.push(frame),
            Some(Ok(None)) => return (frames, Ok(())),
            Some(Err(error)) => return (frames, Err(error)),
            None => unreachable!("memory was waited for"),
        }
    }
}

/// Writes frames for the other end.
#[derive(Debug)]
pub(super) struct Encoder(Deflater);

impl Encoder {
    pub(super) fn new() -> Result<Encoder> {
        Deflater::new().map(Encoder)
    }

    /// The bytes of a frame, put behind those of `into`. What only a reader has a use for is no bytes.
    pub(super) fn encode(&mut self, frame: &Frame, into: &mut Vec<u8>) -> Result<()> {
        match frame {
            Frame::SynStream { stream, fin, unidirectional, headers } => {
                let block = self.0.write(headers)?;
                let flags = if *fin { FIN } else { 0 } | if *unidirectional { UNIDIRECTIONAL } else { 0 };
                control(into, (1, flags), &[&stream.to_be_bytes(), &[0; 6], &block]);
            }
            Frame::SynReply { stream } => {
                let block = self.0.write(&Headers::default())?;
                control(into, (2, 0), &[&stream.to_be_bytes(), &block]);
            }
            Frame::Reset { stream, status } => control(into, (3, 0), &[&stream.to_be_bytes(), &status.to_be_bytes()]),
            Frame::Ping { id } => control(into, (6, 0), &[&id.to_be_bytes()]),
            Frame::GoAway { last_good } => control(into, (7, 0), &[&last_good.to_be_bytes(), &[0; 4]]),
            Frame::Data { stream, fin, bytes } => {
                into.extend(stream.to_be_bytes());
                into.extend(((u32::from(*fin) << 24) | bytes.len() as u32).to_be_bytes());
                into.extend_from_slice(bytes);
            }
            Frame::Other => control(into, (4, 0), &[&[0; 4]]),
            Frame::Headers { .. } => {}
        }
        Ok(())
    }
}

fn control(into: &mut Vec<u8>, (kind, flags): (u16, u8), payload: &[&[u8]]) {
    let length: usize = payload.iter().map(|part| part.len()).sum();
    into.extend(CONTROL.to_be_bytes());
    into.extend(kind.to_be_bytes());
    into.extend(((u32::from(flags) << 24) | length as u32).to_be_bytes());
    payload.iter().for_each(|part| into.extend_from_slice(part));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(stream: u32, fin: bool, bytes: &[u8]) -> Frame {
        Frame::Data { stream, fin, bytes: Bytes::copy_from_slice(bytes) }
    }

    fn syn(stream: u32, fin: bool, headers: &[(&str, &str)]) -> Frame {
        Frame::SynStream { stream, fin, unidirectional: false, headers: Headers::new(headers) }
    }

    /// Written by github.com/moby/spdystream/spdy 0.5.1, a frame of each kind.
    #[test]
    fn what_gos_framer_writes_is_understood() {
        let (frames, end) = read_all(include_bytes!("../../../../fuzz/seeds/spdy/go-framer"));
        end.unwrap();
        let expected = [
            syn(1, false, &[("streamtype", "error")]),
            syn(3, true, &[("streamtype", "stdin")]),
            Frame::SynReply { stream: 1 },
            Frame::Headers { stream: 3, fin: false },
            Frame::Other,
            Frame::Other,
            Frame::Ping { id: 1 },
            data(1, false, b"hello"),
            data(1, true, b""),
            Frame::Reset { stream: 3, status: 5 },
            Frame::GoAway { last_good: 3 },
        ];
        assert_eq!(frames, expected);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let frames = vec![
            syn(5, false, &[("port", "80"), ("streamtype", "data")]),
            Frame::SynStream { stream: 7, fin: true, unidirectional: true, headers: Headers::default() },
            Frame::SynReply { stream: 5 },
            data(5, false, b"\0\xff"),
            Frame::Reset { stream: 7, status: Status::Refused as u32 },
            Frame::Ping { id: 2 },
            Frame::Other,
            data(5, true, b""),
            Frame::GoAway { last_good: 7 },
        ];
        let (mut encoder, mut bytes) = (Encoder::new().unwrap(), Vec::new());
        for frame in &frames {
            encoder.encode(frame, &mut bytes).unwrap();
        }
        let (read, end) = read_all(&bytes);
        end.unwrap();
        assert_eq!(read, frames);
        for length in 0..bytes.len() {
            // Cut off anywhere: what was whole is read, and there is no more.
            let (read, _) = read_all(&bytes[..length]);
            assert!(
                read.len() <= frames.len()
                    && read[..read.len().saturating_sub(1)] == frames[..read.len().saturating_sub(1)]
            );
        }
    }

    #[test]
    fn a_large_data_frame_comes_in_pieces_and_ends_once() {
        let content: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let mut bytes = Vec::new();
        Encoder::new().unwrap().encode(&data(1, true, &content), &mut bytes).unwrap();
        let (frames, end) = read_all(&bytes);
        end.unwrap();
        let mut joined = Vec::new();
        for (at, frame) in frames.iter().enumerate() {
            let Frame::Data { stream: 1, fin, bytes } = frame else { panic!("{frame:?}") };
            assert!(bytes.len() <= MAX_PIECE && *fin == (at + 1 == frames.len()));
            joined.extend_from_slice(bytes);
        }
        assert_eq!(joined, content);
    }

    #[test]
    fn hostile_frames_are_refused() {
        let cases: [(&str, &[u8]); 10] = [
            ("stream 0", b"\0\0\0\0\0\0\0\0"),
            ("at most 16384", b"\x80\x03\0\x01\0\xff\xff\xff"),
            ("version 2", b"\x80\x02\0\x01\0\0\0\x0a"),
            ("unknown type 5", b"\x80\x03\0\x05\0\0\0\0"),
            ("ends early", b"\x80\x03\0\x01\0\0\0\x09\0\0\0\x01\0\0\0\0\0"),
            ("stream 0", b"\x80\x03\0\x03\0\0\0\x08\0\0\0\0\0\0\0\x01"),
            ("too many", b"\x80\x03\0\x06\0\0\0\x05\0\0\0\x01\0"),
            ("frame's head", b"\x80\x03\0"),
            ("within a data frame", b"\0\0\0\x01\0\0\0\x02x"),
            ("decompressing", b"\x80\x03\0\x08\0\0\0\x06\0\0\0\x01\xff\xff"),
        ];
        for (expected, bytes) in cases {
            let error = format!("{:#}", read_all(bytes).1.unwrap_err());
            assert!(error.contains(expected), "{error} for {bytes:?}");
        }
    }

    proptest::proptest! {
        /// Bytes of Go's framer with some of them changed: never more comes of them than there is, and no panic.
        #[test]
        fn changed_bytes_are_read_or_refused(changes in proptest::collection::vec((0usize..234, proptest::num::u8::ANY), 1..6)) {
            let mut bytes = include_bytes!("../../../../fuzz/seeds/spdy/go-framer").to_vec();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            let total: usize = read_all(&bytes).0.iter().map(|frame| match frame {
                Frame::Data { bytes, .. } => 8 + bytes.len(),
                _ => 8,
            }).sum();
            assert!(total <= bytes.len());
        }
    }
}
