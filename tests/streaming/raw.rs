//! A client of SPDY frames, written anew from the specification: what no Go client would send can be sent.

use crate::fixture::{SPDY, ask, head};
use flate2::{Compress, Compression, FlushCompress};
use std::io::{Read, Write};
use std::net::TcpStream;

pub(crate) struct Raw {
    stream: TcpStream,
    compress: Compress,
}

/// Kind (0 of data), stream and the payload after it.
pub(crate) type Frame = (u8, u32, Vec<u8>);

impl Raw {
    pub(crate) fn open(url: &str, protocol: &str) -> Raw {
        let mut stream = ask("POST", url, &SPDY.replace("v4.channel.k8s.io", protocol));
        assert!(head(&mut stream).starts_with("http/1.1 101 "));
        let mut compress = Compress::new(Compression::default(), true);
        compress.set_dictionary(include_bytes!("../../src/cri/streaming/spdy/dictionary.bin")).unwrap();
        Raw { stream, compress }
    }

    /// SYN_STREAM
    pub(crate) fn syn(&mut self, stream: u32, headers: &[(&str, &str)]) {
        let mut block = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend((text.len() as u32).to_be_bytes());
            block.extend(text.as_bytes());
        }
        let mut compressed = Vec::with_capacity(4096);
        self.compress.compress_vec(&block, &mut compressed, FlushCompress::Sync).unwrap();
        let payload = [&stream.to_be_bytes()[..], &[0; 6], &compressed].concat();
        let frame = [&[0x80, 3, 0, 1][..], &(payload.len() as u32).to_be_bytes(), &payload].concat();
        self.stream.write_all(&frame).unwrap();
    }

    /// Data, the last of a stream.
    pub(crate) fn last(&mut self, stream: u32, bytes: &[u8]) {
        let length = (1 << 24) | bytes.len() as u32;
        let frame = [&stream.to_be_bytes()[..], &length.to_be_bytes(), bytes].concat();
        self.stream.write_all(&frame).unwrap();
    }

    /// The next frame.
    pub(crate) fn next(&mut self) -> Frame {
        let mut start = [0; 8];
        self.stream.read_exact(&mut start).unwrap();
        let [a, b, c, kind, _, length @ ..] = start;
        let mut payload = vec![0; u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize];
        self.stream.read_exact(&mut payload).unwrap();
        if a & 0x80 == 0 {
            return (0, u32::from_be_bytes([a, b, c, kind]), payload);
        }
        let rest = payload.split_off(4);
        (kind, u32::from_be_bytes(payload.try_into().unwrap()), rest)
    }

    /// What is sent on a stream until it ends, one way or the other; frames of others are passed over.
    pub(crate) fn all_of(&mut self, stream: u32) -> String {
        let mut bytes = Vec::new();
        loop {
            let (kind, of, payload) = self.next();
            match kind {
                _ if of != stream => {}
                0 if payload.is_empty() => break,
                0 => bytes.extend(payload),
                3 => break,
                _ => {}
            }
        }
        String::from_utf8(bytes).unwrap()
    }
}
