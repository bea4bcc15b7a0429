//! Where a body of HTTP/1.1 ends (RFC 9112 §6), and its first bytes.

use super::MAX_OUTPUT;

/// How long it is.
#[derive(Debug)]
enum Framing {
    /// `Content-Length`: so many bytes are still to come.
    Length(u64),
    /// `Transfer-Encoding: chunked`
    Chunked(Chunk),
    /// Until the connection is closed.
    Close,
}

/// Where in a chunked body we are.
#[derive(Debug)]
enum Chunk {
    /// In the line with the next chunk's size, of which this was read.
    Size(Vec<u8>),
    /// So many bytes of the chunk are still to come.
    Data(u64),
    /// In the line end after a chunk's data.
    DataEnd,
    /// In the middle of that.
    LineFeed,
    /// In a line of the trailer, of which so many bytes were read.
    Trailer(usize),
}

/// A body that is being read.
#[derive(Debug)]
pub(super) struct Body {
    framing: Framing,
    kept: Vec<u8>,
}

/// Go's `maxLineLength` of a chunk's size line.
const MAX_LINE: usize = 4096;

impl Body {
    pub(super) fn of_length(length: u64) -> Body {
        Body { framing: Framing::Length(length), kept: Vec::new() }
    }

    pub(super) fn chunked() -> Body {
        Body { framing: Framing::Chunked(Chunk::Size(Vec::new())), kept: Vec::new() }
    }

    pub(super) fn until_close() -> Body {
        Body { framing: Framing::Close, kept: Vec::new() }
    }

    /// What was read of it, at most [`MAX_OUTPUT`] bytes.
    pub(super) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Takes more of it; whether it is complete, or enough of it is here. Go's words if it is malformed.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<bool, &'static str> {
        loop {
            if self.kept.len() >= MAX_OUTPUT {
                return Ok(true);
            }
            match &mut self.framing {
                Framing::Length(0) => return Ok(true),
                Framing::Length(left) => *left -= keep(&mut self.kept, &mut bytes, *left),
                Framing::Close => {
                    keep(&mut self.kept, &mut bytes, u64::MAX);
                }
                Framing::Chunked(Chunk::Trailer(length)) if !bytes.is_empty() => {
                    let (byte, rest) = (bytes[0], &bytes[1..]);
                    bytes = rest;
                    match byte {
                        b'\n' if *length == 0 => return Ok(true),
                        b'\n' => *length = 0,
                        b'\r' => {}
                        _ if *length >= MAX_LINE => return Err("http: suspiciously long trailer after chunked body"),
                        _ => *length += 1,
                    }
                }
                Framing::Chunked(chunk) => chunk.step(&mut self.kept, &mut bytes)?,
            }
            if bytes.is_empty() {
                let done = self.kept.len() >= MAX_OUTPUT || matches!(self.framing, Framing::Length(0));
                return Ok(done);
            }
        }
    }

    /// The connection was closed. Go's words if that was too early.
    pub(super) fn end(&self) -> Result<(), &'static str> {
        match self.framing {
            Framing::Close => Ok(()),
            Framing::Chunked(Chunk::Trailer(_)) => Err("http: unexpected EOF reading trailer"),
            _ => Err("unexpected EOF"),
        }
    }
}

impl Chunk {
    fn step(&mut self, kept: &mut Vec<u8>, bytes: &mut &[u8]) -> Result<(), &'static str> {
        match self {
            Chunk::Size(line) => {
                let end = bytes.iter().position(|byte| *byte == b'\n');
                let (part, rest) = bytes.split_at(end.map_or(bytes.len(), |at| at + 1));
                line.extend_from_slice(part);
                *bytes = rest;
                if line.len() > MAX_LINE {
                    return Err("http: header line too long");
                }
                if end.is_some() {
                    *self = match chunk_size(line)? {
                        0 => Chunk::Trailer(0),
                        size => Chunk::Data(size),
                    };
                }
            }
            Chunk::Data(left) => {
                *left -= keep(kept, bytes, *left);
                if *left == 0 {
                    *self = Chunk::DataEnd;
                }
            }
            Chunk::DataEnd | Chunk::LineFeed => match (&self, bytes.split_first()) {
                (Chunk::DataEnd, Some((b'\r', rest))) => (*bytes, *self) = (rest, Chunk::LineFeed),
                (Chunk::LineFeed, Some((b'\n', rest))) => (*bytes, *self) = (rest, Chunk::Size(Vec::new())),
                (_, Some(_)) => return Err("malformed chunked encoding"),
                (_, None) => {}
            },
            Chunk::Trailer(_) => {}
        }
        Ok(())
    }
}

/// The size in a line like `1a; name=value`, with its end.
fn chunk_size(line: &[u8]) -> Result<u64, &'static str> {
    let line = match line.iter().position(|byte| *byte == b'\r') {
        None => return Err("chunked line ends with bare LF"),
        Some(at) if at != line.len() - 2 => return Err("invalid CR in chunked line"),
        Some(at) => &line[..at],
    };
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    let digits = std::str::from_utf8(digits).unwrap_or("no digits");
    match u64::from_str_radix(digits, 16) {
        _ if digits.is_empty() => Err("empty hex number for chunk length"),
        // Not from_str_radix alone: it takes a sign.
        _ if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => Err("invalid byte in chunk length"),
        _ if digits.len() > 16 => Err("http chunk length too large"),
        Ok(size) => Ok(size),
        Err(_) => Err("http chunk length too large"),
    }
}

/// Moves at most `limit` bytes, keeping no more than [`MAX_OUTPUT`]; how many were moved.
fn keep(kept: &mut Vec<u8>, bytes: &mut &[u8], limit: u64) -> u64 {
    let count = bytes.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
    let (part, rest) = bytes.split_at(count);
    kept.extend_from_slice(&part[..part.len().min(MAX_OUTPUT.saturating_sub(kept.len()))]);
    *bytes = rest;
    count as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_end_where_their_framing_says() {
        let big = format!("{:x}\r\n{}", 20_000, "x".repeat(20_000));
        type Row<'a> = (&'a str, Body, &'a str, Result<bool, &'a str>, &'a str);
        let rows: [Row<'_>; 17] = [
            ("length", Body::of_length(5), "hello", Ok(true), "hello"),
            ("no more than the length", Body::of_length(2), "hello", Ok(true), "he"),
            ("less than the length", Body::of_length(9), "hello", Ok(false), "hello"),
            ("empty", Body::of_length(0), "", Ok(true), ""),
            ("close", Body::until_close(), "hello", Ok(false), "hello"),
            ("chunked", Body::chunked(), "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", Ok(true), "abcde"),
            ("chunked with trailer", Body::chunked(), "1\r\na\r\n0\r\nX: y\r\n\r\n", Ok(true), "a"),
            ("chunked, trailer missing", Body::chunked(), "1\r\na\r\n0\r\nX: y\r\n", Ok(false), "a"),
            ("no size", Body::chunked(), "x\r\n", Err("invalid byte in chunk length"), ""),
            ("signed size", Body::chunked(), "+1\r\n", Err("invalid byte in chunk length"), ""),
            ("size of 2^64", Body::chunked(), "10000000000000000\r\n", Err("http chunk length too large"), ""),
            ("an empty size", Body::chunked(), "\r\n", Err("empty hex number for chunk length"), ""),
            ("bare line feed", Body::chunked(), "1\na", Err("chunked line ends with bare LF"), ""),
            ("return within a size line", Body::chunked(), "1\ra\r\n", Err("invalid CR in chunked line"), ""),
            ("line feed after data", Body::chunked(), "1\r\na\n", Err("malformed chunked encoding"), "a"),
            ("two returns after data", Body::chunked(), "1\r\na\r\r\n", Err("malformed chunked encoding"), "a"),
            ("no line end after data", Body::chunked(), "1\r\nab", Err("malformed chunked encoding"), "a"),
        ];
        for (name, mut whole, text, done, kept) in rows {
            assert_eq!((whole.feed(text.as_bytes()), whole.kept()), (done, kept.as_bytes()), "{name}");
        }
        let mut body = Body::chunked();
        assert_eq!((body.feed(big.as_bytes()), body.kept().len()), (Ok(true), MAX_OUTPUT));
    }

    #[test]
    fn a_body_may_come_byte_by_byte() {
        let mut body = Body::chunked();
        let text = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        for (at, byte) in text.iter().enumerate() {
            assert_eq!(body.feed(&[*byte]), Ok(at == text.len() - 1), "{at}");
        }
        assert_eq!(body.kept(), b"abcde");
    }

    #[test]
    fn lines_are_bounded() {
        let mut body = Body::chunked();
        assert_eq!(body.feed(&[b'1'; MAX_LINE + 1]), Err("http: header line too long"));
        let mut body = Body::chunked();
        assert_eq!(body.feed(b"0\r\n"), Ok(false));
        assert!(body.feed(&[b'x'; MAX_LINE + 2]).is_err());
    }

    #[test]
    fn only_a_body_without_framing_ends_with_the_connection() {
        assert_eq!(Body::until_close().end(), Ok(()));
        assert_eq!(Body::of_length(1).end(), Err("unexpected EOF"));
        assert_eq!(Body::chunked().end(), Err("unexpected EOF"));
        let mut body = Body::chunked();
        assert_eq!(body.feed(b"0\r\nX: y\r\n"), Ok(false));
        assert_eq!(body.end(), Err("http: unexpected EOF reading trailer"));
    }
}
