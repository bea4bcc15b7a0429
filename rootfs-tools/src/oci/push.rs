//! Pushing a layout to a registry without TLS or logins (distribution-spec 1.1, "Push"): what a test's loopback registry
//! is filled with. Every byte is pushed as it stands in the layout, so digests and media types stay.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::layout::{Entry, Layout};

/// How long the registry may be silent.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much of an answer's head and body is read.
const MAX_ANSWER: u64 = 1 << 16;
/// The media type of a blob on its way.
const BYTES: &str = "application/octet-stream";

/// A registry that listens at an address, and what it is known to have.
#[derive(Debug)]
pub struct Registry {
    /// `HOST:PORT`.
    address: String,
    /// Blob → a repository that has it, from which another takes it without a second upload.
    known: HashMap<String, String>,
}

/// Where a manifest goes.
#[derive(Clone, Copy)]
struct Target<'a> {
    repository: &'a str,
    /// A tag, or the manifest's own digest.
    name: &'a str,
}

/// What is asked.
struct Request<'a, B> {
    method: &'a str,
    /// Path and query.
    target: &'a str,
    media_type: &'a str,
    body: B,
    /// The body's length in bytes.
    len: u64,
}

/// The parts of an answer that a push looks at.
struct Answer {
    status: u16,
    location: Option<String>,
    body: String,
}

impl Registry {
    /// The registry at `address`, `HOST:PORT`. Nothing is asked of it yet.
    pub fn new(address: &str) -> Self {
        Self { address: address.to_string(), known: HashMap::new() }
    }

    /// Pushes an image or an index of images to the repository and tag of its reference, leaving out the reference's
    /// own domain. Gives `REPOSITORY:TAG`.
    ///
    /// Fails without a reference, and on any answer that the specification does not name for success.
    pub fn push(&mut self, layout: &Layout, entry: &Entry) -> Result<String> {
        let reference = entry.reference.as_deref().context("an image without a name cannot be pushed")?;
        let (_, path) = reference.split_once('/').with_context(|| format!("{reference}: no repository"))?;
        let (repository, tag) = path.rsplit_once(':').with_context(|| format!("{reference}: no tag"))?;
        let target = Target { repository, name: tag };
        self.push_as(layout, &entry.descriptor, target).with_context(|| format!("pushing {reference}"))?;
        Ok(format!("{repository}:{tag}"))
    }

    /// Pushes what `descriptor` leads to, parts first: a registry refuses a manifest whose parts it does not have.
    fn push_as(&mut self, layout: &Layout, descriptor: &Value, to: Target<'_>) -> Result<()> {
        let repository = to.repository;
        let digest = text(descriptor, "digest")?;
        let content = layout.json(digest)?;
        if let Some(members) = content["manifests"].as_array() {
            for member in members {
                self.push_as(layout, member, Target { repository, name: text(member, "digest")? })?;
            }
        } else {
            let layers = content["layers"].as_array().with_context(|| format!("{digest}: no layers"))?;
            for part in [&content["config"]].into_iter().chain(layers) {
                self.push_blob(layout, text(part, "digest")?, repository)?;
            }
        }
        let path = layout.blob(digest)?;
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let target = format!("/v2/{repository}/manifests/{}", to.name);
        let media_type = text(descriptor, "mediaType")?;
        let request = Request { method: "PUT", target: &target, media_type, body: &bytes[..], len: bytes.len() as u64 };
        self.ask(request, &[201]).map(drop)
    }

    fn push_blob(&mut self, layout: &Layout, digest: &str, repository: &str) -> Result<()> {
        let mut target = format!("/v2/{repository}/blobs/uploads/");
        match self.known.get(digest) {
            Some(from) if from == repository => return Ok(()),
            Some(from) => target.push_str(&format!("?mount={digest}&from={from}")),
            None => {}
        }
        let begin = Request { method: "POST", target: &target, media_type: BYTES, body: io::empty(), len: 0 };
        let answer = self.ask(begin, &[201, 202])?;
        if answer.status == 202 {
            let location = answer.location.with_context(|| format!("POST {target}: no Location"))?;
            let joint = if location.contains('?') { '&' } else { '?' };
            let target = format!("{}{joint}digest={digest}", self.path_of(&location)?);
            let path = layout.blob(digest)?;
            let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
            let len = file.metadata().with_context(|| format!("size of {}", path.display()))?.len();
            self.ask(Request { method: "PUT", target: &target, media_type: BYTES, body: file, len }, &[201])?;
        }
        self.known.insert(digest.to_string(), repository.to_string());
        Ok(())
    }

    /// Path and query of a `Location`, which may be relative or absolute; fails if it leads to another server.
    fn path_of<'a>(&self, location: &'a str) -> Result<&'a str> {
        let path = location.strip_prefix("http://").map_or(Some(location), |rest| rest.strip_prefix(&self.address));
        match path {
            Some(path) if path.starts_with('/') => Ok(path),
            _ => bail!("the registry at {} sends uploads to {location}", self.address),
        }
    }

    /// One request on a connection of its own, whose answer has one of the statuses `wanted`.
    fn ask(&self, request: Request<'_, impl Read>, wanted: &[u16]) -> Result<Answer> {
        let Request { method, target, media_type, body, len } = request;
        let what = || format!("{method} {target} at {}", self.address);
        let stream = TcpStream::connect(&self.address).with_context(|| format!("connecting to {}", self.address))?;
        stream.set_read_timeout(Some(PATIENCE)).with_context(what)?;
        stream.set_write_timeout(Some(PATIENCE)).with_context(what)?;
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {media_type}\r\n\
             Content-Length: {len}\r\n\r\n",
            self.address
        );
        let mut out = &stream;
        out.write_all(head.as_bytes()).with_context(what)?;
        let sent = io::copy(&mut body.take(len), &mut out).with_context(what)?;
        ensure!(sent == len, "{}: the body ended after {sent} of {len} bytes", what());
        let answer = Answer::read(&stream).with_context(what)?;
        ensure!(wanted.contains(&answer.status), "{}: HTTP {}: {}", what(), answer.status, answer.body);
        Ok(answer)
    }
}

impl Answer {
    fn read(stream: &TcpStream) -> Result<Answer> {
        let mut reader = BufReader::new(stream.take(MAX_ANSWER));
        let mut line = String::new();
        reader.read_line(&mut line).context("reading the answer")?;
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
        let mut answer = Answer {
            status: status.with_context(|| format!("not HTTP: {line:?}"))?,
            location: None,
            body: String::new(),
        };
        loop {
            line.clear();
            reader.read_line(&mut line).context("reading the answer")?;
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("location") => {
                    answer.location = Some(value.trim().to_string());
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut body = Vec::new();
        reader.read_to_end(&mut body).context("reading the answer")?;
        answer.body = String::from_utf8_lossy(&body).trim().to_string();
        Ok(answer)
    }
}

fn text<'a>(descriptor: &'a Value, field: &str) -> Result<&'a str> {
    descriptor[field].as_str().with_context(|| format!("a descriptor without {field}"))
}
