//! Header blocks: names and values with their lengths, compressed by zlib with the protocol's dictionary (SPDY/3, 2.6.10).
//! Each direction of a connection is one zlib stream, so that blocks are read and written in their order, none left out.

use anyhow::{Context, Result, bail};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// What both ends have in mind before the first block (SPDY/3, 2.6.10.1).
const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");
/// The most headers in a block: Go's framer's bound.
const MAX_HEADERS: u32 = 1000;
/// The largest block, in bytes, once decompressed. Go's framer takes a megabyte for each name and value; nothing that is spoken
/// here needs a hundred bytes.
const MAX_BLOCK: usize = 64 << 10;
/// What HTTP/1.1 has to say to the next hop only, and Go's framer refuses.
const FORBIDDEN: [&str; 5] = ["connection", "host", "keep-alive", "proxy-connection", "transfer-encoding"];

/// Headers in the order in which they came. Names are in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The (first) value of a header, whose name is given in lower case; empty if there is none.
    pub fn get(&self, name: &str) -> &str {
        let value = self.0.iter().find(|(is, _)| is == name).map_or("", |(_, value)| value);
        value.split('\0').next().unwrap_or_default()
    }

    /// From names in lower case and values.
    pub fn new(headers: &[(&str, &str)]) -> Headers {
        Headers(headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }

    fn parse(mut block: &[u8]) -> Result<Headers> {
        let count = take_u32(&mut block)?;
        if count > MAX_HEADERS {
            bail!("{count} headers in a block: at most {MAX_HEADERS} are taken");
        }
        let mut headers: Vec<(String, String)> = Vec::new();
        for _ in 0..count {
            let (name, value) = (take_text(&mut block)?, take_text(&mut block)?);
            if name != name.to_lowercase() {
                bail!("header {name:?} is not in lower case");
            }
            if FORBIDDEN.contains(&name.as_str()) || headers.iter().any(|(is, _)| *is == name) {
                bail!("header {name:?} comes twice, or is none of SPDY's");
            }
            headers.push((name, value));
        }
        if !block.is_empty() {
            bail!("{} bytes after the headers of a block", block.len());
        }
        Ok(Headers(headers))
    }

    fn block(&self) -> Vec<u8> {
        let mut block = (self.0.len() as u32).to_be_bytes().to_vec();
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.extend((text.len() as u32).to_be_bytes());
            block.extend(text.as_bytes());
        }
        block
    }
}

fn take_u32(block: &mut &[u8]) -> Result<u32> {
    let (number, rest) = block.split_first_chunk::<4>().context("a header block ends early")?;
    *block = rest;
    Ok(u32::from_be_bytes(*number))
}

fn take_text(block: &mut &[u8]) -> Result<String> {
    let length = take_u32(block)? as usize;
    let (text, rest) = block.split_at_checked(length).context("a header block ends early")?;
    *block = rest;
    Ok(std::str::from_utf8(text).context("a header is not UTF-8")?.to_owned())
}

/// The headers that the other end sends.
#[derive(Debug)]
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub(super) fn new() -> Inflater {
        Inflater(Decompress::new(true))
    }

    /// Reads the block of one frame.
    pub(super) fn read(&mut self, compressed: &[u8]) -> Result<Headers> {
        Headers::parse(&self.inflate(compressed)?)
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>> {
        let mut block = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let done = self.0.decompress(input, &mut piece, FlushDecompress::Sync);
            let (read, written) = ((self.0.total_in() - read) as usize, (self.0.total_out() - written) as usize);
            input = &input[read..];
            block.extend_from_slice(&piece[..written]);
            if block.len() > MAX_BLOCK {
                bail!("a header block has more than {MAX_BLOCK} bytes");
            }
            match done {
                Ok(Status::StreamEnd) => bail!("the compressed headers of a connection ended"),
                Ok(_) if written == piece.len() => {}
                Ok(_) if input.is_empty() => return Ok(block),
                Ok(_) if read + written == 0 => bail!("compressed headers are cut off"),
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(DICTIONARY).context("the dictionary of compressed headers is another one")?;
                }
                Err(error) => return Err(error).context("decompressing headers"),
            }
        }
    }
}

/// The headers that this end sends.
#[derive(Debug)]
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Result<Deflater> {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(DICTIONARY).context("setting the dictionary of compressed headers")?;
        Ok(Deflater(compress))
    }

    /// The block of one frame.
    pub(super) fn write(&mut self, headers: &Headers) -> Result<Vec<u8>> {
        let block = headers.block();
        let mut rest = block.as_slice();
        let mut compressed = Vec::new();
        let mut piece = [0; 1024];
        loop {
            let (read, written) = (self.0.total_in(), self.0.total_out());
            self.0.compress(rest, &mut piece, FlushCompress::Sync).context("compressing headers")?;
            let (read, written) = ((self.0.total_in() - read) as usize, (self.0.total_out() - written) as usize);
            rest = &rest[read..];
            compressed.extend_from_slice(&piece[..written]);
            // It fills what it is given while it has more (deflate() of zlib.h).
            if written < piece.len() && rest.is_empty() {
                return Ok(compressed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_protocols() {
        // Adler-32, as the first frame of each client has it.
        let (mut a, mut b) = (1u32, 0u32);
        for byte in DICTIONARY {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((b << 16) | a, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_of_one_connection_refer_to_those_before() {
        let (mut deflater, mut inflater) = (Deflater::new().unwrap(), Inflater::new());
        let mut sizes = Vec::new();
        // The last one is longer than what is remembered.
        for length in [1, 1, 1, 60_000] {
            let long = "x".repeat(length);
            let headers = Headers::new(&[("streamtype", "data"), ("port", "8080"), ("requestid", "0"), ("x", &long)]);
            let block = deflater.write(&headers).unwrap();
            sizes.push(block.len());
            assert_eq!(inflater.read(&block).unwrap(), headers);
        }
        assert!(sizes[1] < sizes[0], "{sizes:?}");
        let empty = deflater.write(&Headers::default()).unwrap();
        assert_eq!(inflater.read(&empty).unwrap(), Headers::default());
    }

    /// What a client could send in place of honest headers, and what is said about it.
    #[test]
    fn hostile_blocks_are_refused() {
        let text = |text: &str| [(text.len() as u32).to_be_bytes().as_slice(), text.as_bytes()].concat();
        let pair = |name: &str| [text(name), text("v")].concat();
        let block = |count: u32, rest: &[Vec<u8>]| [count.to_be_bytes().as_slice(), &rest.concat()].concat();
        let cases = [
            ("at most 1000", block(1001, &[])),
            ("ends early", block(1, &[])),
            ("ends early", block(1, &[u32::MAX.to_be_bytes().to_vec()])),
            ("ends early", vec![0, 0]),
            ("lower case", block(1, &[pair("Port")])),
            ("twice", block(2, &[pair("a"), pair("a")])),
            ("none of SPDY's", block(1, &[pair("transfer-encoding")])),
            ("bytes after", block(0, &[vec![0]])),
            ("UTF-8", block(1, &[vec![0, 0, 0, 1, 0xff]])),
            ("more than 65536", vec![0; 1 << 20]),
        ];
        for (expected, block) in cases {
            let mut deflater = Compress::new(Compression::best(), true);
            deflater.set_dictionary(DICTIONARY).unwrap();
            let mut compressed = Vec::with_capacity(1 << 20);
            deflater.compress_vec(&block, &mut compressed, FlushCompress::Sync).unwrap();
            let error = format!("{:#}", Inflater::new().read(&compressed).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
        for garbage in [&b"\x78\xf9\0\0\0\0"[..], b"garbage", b""] {
            assert!(Inflater::new().read(garbage).is_err());
        }
    }
}
