//! Texts that the binary has with it and seldom needs: `build.rs` compresses them.

use std::io::Read;

/// The compressed text of a name that `build.rs` knows.
macro_rules! compressed {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".zst"))
    };
}
pub(crate) use compressed;

/// Such a text.
pub(crate) fn text(compressed: &[u8]) -> String {
    let mut text = String::new();
    let read = zstd::Decoder::with_buffer(compressed).and_then(|mut decoder| decoder.read_to_string(&mut text));
    read.expect("build.rs has compressed a text");
    text
}
