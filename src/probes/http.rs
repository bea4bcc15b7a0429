//! A GET request as a kubelet sends it: Go's net/http, by its own rules for headers and redirects. Bytes in, bytes out; no socket.

use super::body::Body;
use super::{Place, Purpose, text};
use crate::lifecycle::Outcome;
use crate::plan::config::HttpGet;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use url::{Position, Url};

/// The Kubernetes version whose prober this is.
pub(super) const VERSION: &str = "1.37";

/// A GET request; after a redirect, the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Get {
    purpose: Purpose,
    pub(super) tls: bool,
    pub(super) http2: bool,
    pub(super) place: Place,
    /// Go's `URL.Host`: host and port as the URL has them.
    pub(super) authority: String,
    /// Path and query.
    pub(super) target: String,
    /// The manifest's `Host` header.
    host: Option<String>,
    /// Canonical names, sorted, as Go writes them.
    headers: Vec<(String, String)>,
    /// The URL that redirected here.
    referer: Option<String>,
    /// How many were sent before this one.
    sent: u32,
}

/// Go's limit (`CheckRedirect`): the tenth request's redirect is not followed any more.
const MAX_REQUESTS: u32 = 10;

/// Go's words for a server that answers to TLS in HTTP.
pub(super) const NOT_TLS: &str = "http: server gave HTTP response to HTTPS client";

/// The most bytes of heads, those of 1xx answers included. Go allows 10 MB; nobody needs them.
const MAX_HEAD: usize = 64 << 10;

/// After so many bytes without a line end it is no HTTP.
const MAX_LINE: usize = 4096;

/// The most header lines.
const MAX_HEADERS: usize = 1024;

/// What follows from the head of an answer.
#[derive(Debug)]
pub(super) enum Next {
    /// The body is read, then [`Get::verdict`] is given.
    Read,
    /// A redirect: this is to be sent.
    Again(Box<Get>),
    /// That was it.
    Done(Outcome),
}

impl Get {
    /// The request of a handler.
    pub(super) fn new(handler: &HttpGet, place: Place, purpose: Purpose) -> Get {
        let mut headers: Vec<(String, String)> =
            handler.headers.iter().map(|(name, value)| (canonical(name), value.clone())).collect();
        let first = |headers: &[(String, String)], name: &str| {
            headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone())
        };
        if first(&headers, "User-Agent").is_none() {
            let purpose = if purpose == Purpose::Probe { "probe" } else { "lifecycle" };
            headers.push(("User-Agent".into(), format!("kube-{purpose}/{VERSION}")));
        }
        match first(&headers, "Accept").as_deref() {
            None => headers.push(("Accept".into(), "*/*".into())),
            // So it can be taken away.
            Some("") => headers.retain(|(name, _)| name != "Accept"),
            Some(_) => {}
        }
        let host = first(&headers, "Host").filter(|host| !host.is_empty());
        headers.sort_by(|a, b| a.0.cmp(&b.0));
        Get {
            purpose,
            tls: handler.tls,
            http2: handler.http2,
            authority: place.join(),
            place,
            target: target(&handler.path),
            host,
            headers,
            referer: None,
            sent: 0,
        }
    }

    /// Where to connect to, if that takes neither a lookup nor anything but HTTP/1.1.
    pub(super) fn plain_address(&self) -> Option<SocketAddr> {
        if self.tls || self.http2 { None } else { self.place.address() }
    }

    pub(super) fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.target)
    }

    /// Go's `url.Error`.
    pub(super) fn failure(&self, what: impl std::fmt::Display) -> Outcome {
        Outcome::Failure(text(format!("Get \"{}\": {what}", self.url()).as_bytes()))
    }

    /// The failure of an answer that is no HTTP, or not all of it.
    fn broken(&self, what: impl std::fmt::Display) -> Outcome {
        self.failure(format_args!("net/http: HTTP/1.x transport connection broken: {what}"))
    }

    /// A hook's request once more without TLS: the server does not speak it (a kubelet's `LifecycleHTTPFallback`). What
    /// authorizes does not go over the wire in clear text.
    pub(super) fn without_tls(&self) -> Get {
        let mut plain = self.clone();
        plain.tls = false;
        plain.headers.retain(|(name, _)| name != "Authorization");
        plain
    }

    pub(super) fn is_hook(&self) -> bool {
        self.purpose == Purpose::Hook
    }

    /// What Go refuses to send. Nothing of a manifest ends a line of the request early.
    pub(super) fn check(&self) -> Result<(), Outcome> {
        for (name, value) in &self.headers {
            if !is_token(name) {
                return Err(self.failure(format_args!("net/http: invalid header field name {name:?}")));
            }
            if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
                return Err(self.failure(format_args!("net/http: invalid header field value for {name:?}")));
            }
        }
        Ok(())
    }

    /// The `Host` header, or HTTP/2's `:authority`; `None` for one that cannot be sent.
    pub(super) fn host(&self) -> Option<String> {
        host(self.host.as_deref().unwrap_or(&self.authority))
    }

    /// The header fields that are sent, `Host` and `Connection` apart, and without those which Go leaves out because they are
    /// about the body.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        const LEFT_OUT: [&str; 4] = ["Host", "Content-Length", "Transfer-Encoding", "Trailer"];
        let once = |at: usize, name: &str| name != "User-Agent" || self.headers[..at].iter().all(|(n, _)| n != name);
        let own_referer = self.headers.iter().any(|(name, _)| name == "Referer");
        let referer = self.referer.as_deref().filter(|_| !own_referer);
        self.headers
            .iter()
            .enumerate()
            .filter(move |(at, (name, value))| {
                !LEFT_OUT.contains(&name.as_str()) && once(*at, name) && (name != "User-Agent" || !value.is_empty())
            })
            .map(|(_, (name, value))| (name.as_str(), value.trim_matches([' ', '\t'])))
            .chain(referer.map(|url| ("Referer", url)))
    }

    /// The request as HTTP/1.1.
    pub(super) fn bytes(&self) -> Vec<u8> {
        // As Go does, a server is left to say what it thinks of no host.
        let mut head = format!("GET {} HTTP/1.1\r\nHost: {}\r\n", self.target, self.host().unwrap_or_default());
        let mut closes = false;
        let agent_first = |(name, _): &(&str, &str)| *name == "User-Agent";
        for (name, value) in self.fields().filter(agent_first).chain(self.fields().filter(|f| !agent_first(f))) {
            let closing = |token: &str| token.trim().eq_ignore_ascii_case("close");
            closes |= name == "Connection" && value.split(',').any(closing);
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !closes {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// What an answer's head means; not for 1xx.
    pub(super) fn answered(&self, status: u16, location: Option<&[u8]>) -> Next {
        match (status, location) {
            (301 | 302 | 303 | 307 | 308, Some(location)) if !location.is_empty() => {
                self.redirected(status, &String::from_utf8_lossy(location))
            }
            _ => self.last(status),
        }
    }

    /// An answer that is not followed by another request. A hook's body says nothing.
    fn last(&self, status: u16) -> Next {
        match status {
            _ if !self.is_hook() => Next::Read,
            200..=399 => Next::Done(Outcome::Success),
            // A kubelet takes any answer: a hook that is not there, or does not work, goes unnoticed (pod-api.md part D).
            _ => Next::Done(Outcome::Failure(format!("HTTP hook failed with statuscode: {status}"))),
        }
    }

    fn redirected(&self, status: u16, location: &str) -> Next {
        let fails = |what: String| Next::Done(Outcome::Failure(text(what.as_bytes())));
        let Ok(base) = Url::parse(&self.url()) else {
            return Next::Done(self.failure(format_args!("failed to parse Location header {location:?}")));
        };
        let next = match base.join(location) {
            Ok(next) => next,
            Err(error) => {
                let what = format_args!("failed to parse Location header {location:?}: {error}");
                return Next::Done(self.failure(what));
            }
        };
        if next.host_str() != base.host_str() {
            // A redirect that is not followed is the answer.
            return self.last(status);
        }
        if self.sent + 1 >= MAX_REQUESTS {
            return fails(format!("Get {location:?}: stopped after {MAX_REQUESTS} redirects"));
        }
        if !["http", "https"].contains(&next.scheme()) {
            return fails(format!("Get {:?}: unsupported protocol scheme {:?}", next.as_str(), next.scheme()));
        }
        let tls = next.scheme() == "https";
        let is_same = next[..Position::BeforePath] == base[..Position::BeforePath];
        let authority = || match next.port() {
            Some(port) => format!("{}:{port}", next.host_str().unwrap_or_default()),
            None => next.host_str().unwrap_or_default().to_owned(),
        };
        // Go keeps the manifest's Host only for a location that names no host.
        let is_relative = Url::parse(location).is_err();
        Next::Again(Box::new(Get {
            tls,
            http2: self.http2 && tls == self.tls,
            place: Place { port: next.port_or_known_default().unwrap_or(80), ..self.place.clone() },
            authority: if is_same { self.authority.clone() } else { authority() },
            target: next[Position::BeforePath..Position::AfterQuery].to_owned(),
            host: self.host.clone().filter(|_| is_relative),
            referer: if self.tls && !tls { None } else { Some(self.url()) },
            sent: self.sent + 1,
            ..self.clone()
        }))
    }

    /// The outcome of a probe.
    pub(super) fn verdict(&self, status: u16, body: &[u8]) -> Outcome {
        match status {
            200..=299 => Outcome::Success,
            300..=399 => {
                let body = String::from_utf8_lossy(body);
                Outcome::Warning(text(format!("Probe terminated redirects, Response body: {body}").as_bytes()))
            }
            _ => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        }
    }
}

/// Go's `CanonicalMIMEHeaderKey`: `x-probe` is `X-Probe`.
fn canonical(name: &str) -> String {
    if !is_token(name) {
        return name.to_owned();
    }
    let mut upper = true;
    name.chars()
        .map(|c| {
            let c = if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
            upper = c == '-';
            c
        })
        .collect()
}

/// RFC 9110 §5.6.2
fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// A `Host` header as Go sends it: in ASCII and without the zone of an IPv6 address.
fn host(text: &str) -> Option<String> {
    let is_fine = |b: u8| b.is_ascii_alphanumeric() || b"!$%&()*+,-.:;=[]'_~".contains(&b);
    let mut host = match text.is_ascii() {
        true => text.to_owned(),
        false => {
            let (name, port) = text.rsplit_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
            let name = url::Host::parse(name).ok()?;
            port.map_or_else(|| name.to_string(), |port| format!("{name}:{port}"))
        }
    };
    if let (true, Some(end)) = (host.starts_with('['), host.rfind(']'))
        && let Some(zone) = host[..end].rfind('%')
    {
        host.replace_range(zone..end, "");
    }
    Some(host).filter(|host| host.bytes().all(is_fine))
}

/// The request target of a manifest's path: what Go's `url.Parse` and `URL.RequestURI` make of it. The fragment stays here, what
/// has no place in a request is escaped (in a query Go leaves even blanks), a host is not the one that is asked, and a path that
/// is no URL is taken for a path as a whole.
fn target(path: &str) -> String {
    let escape = |text: &str, is_kept: &dyn Fn(u8) -> bool| -> String {
        text.bytes().map(|b| if is_kept(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
    };
    let in_path = |b: u8| b.is_ascii_alphanumeric() || b"-_.~/!$&'()*+,;=:@[]".contains(&b);
    let (url, _fragment) = path.split_once('#').unwrap_or((path, ""));
    let (before, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
    let escapes_are_fine = before.split('%').skip(1).all(|rest| {
        let hex = rest.as_bytes();
        hex.len() >= 2 && hex[..2].iter().all(u8::is_ascii_hexdigit)
    });
    let before = match before.strip_prefix("//") {
        Some(rest) if !rest.starts_with('/') => rest.find('/').map_or("", |at| &rest[at..]),
        _ => before,
    };
    let mut target = if escapes_are_fine && !path.bytes().any(|b| b.is_ascii_control()) {
        let query = query.map_or(String::new(), |query| format!("?{}", escape(query, &|b| b.is_ascii_graphic())));
        escape(before, &|b| in_path(b) || b == b'%') + &query
    } else {
        escape(path, &in_path)
    };
    if !target.starts_with('/') {
        target.insert(0, '/');
    }
    target
}

/// An answer in HTTP/1.1 that is being read.
#[derive(Debug, Default)]
pub(super) struct Answer {
    head: Vec<u8>,
    /// Bytes of 1xx answers.
    skipped: usize,
    body: Option<(u16, Body)>,
}

/// What follows from what was read.
#[derive(Debug)]
pub(super) enum Step {
    /// More is to be read.
    More,
    /// A redirect: this is to be sent, over a new connection.
    Again(Box<Get>),
    /// That was it.
    Done(Outcome),
}

/// What a head says.
struct Head {
    status: u16,
    location: Option<Vec<u8>>,
    body: Body,
}

impl Answer {
    /// Whether the head is there, and the body is not yet.
    pub(super) fn is_halfway(&self) -> bool {
        self.body.is_some()
    }

    /// Takes more of it; `get` is what it answers.
    pub(super) fn feed(&mut self, get: &Get, bytes: &[u8]) -> Step {
        if self.body.is_some() {
            return self.feed_body(get, bytes);
        }
        let mut unread = self.head.len().saturating_sub(2);
        self.head.extend_from_slice(bytes);
        loop {
            let Some(end) = head_end(&self.head, unread) else {
                let is_endless = self.head.len() > MAX_LINE && !self.head.starts_with(b"HTTP/");
                if (is_endless || self.head.contains(&b'\n'))
                    && let Err(what) = status_line(first_line(&self.head))
                {
                    return Step::Done(get.broken(what));
                }
                return if self.skipped + self.head.len() > MAX_HEAD { too_long(get) } else { Step::More };
            };
            unread = 0;
            if self.skipped + end > MAX_HEAD {
                return too_long(get);
            }
            let head = match parse(&self.head[..end]) {
                Ok(head) => head,
                Err(what) => return Step::Done(get.broken(what)),
            };
            self.head.drain(..end);
            // 101 is an answer: nothing else follows it.
            if (100..200).contains(&head.status) && head.status != 101 {
                self.skipped += end;
                continue;
            }
            return match get.answered(head.status, head.location.as_deref()) {
                Next::Done(outcome) => Step::Done(outcome),
                Next::Again(next) => Step::Again(next),
                Next::Read => {
                    self.body = Some((head.status, head.body));
                    let rest = std::mem::take(&mut self.head);
                    self.feed_body(get, &rest)
                }
            };
        }
    }

    fn feed_body(&mut self, get: &Get, bytes: &[u8]) -> Step {
        let Some((status, body)) = &mut self.body else { return Step::More };
        match body.feed(bytes) {
            Ok(true) => Step::Done(get.verdict(*status, body.kept())),
            Ok(false) => Step::More,
            // A kubelet's prober error: neither good nor bad.
            Err(what) => Step::Done(Outcome::Error(what.into())),
        }
    }

    /// The connection was closed by the other end.
    pub(super) fn end(&mut self, get: &Get) -> Outcome {
        match &self.body {
            Some((status, body)) => match body.end() {
                Ok(()) => get.verdict(*status, body.kept()),
                Err(what) => Outcome::Error(what.into()),
            },
            None if self.head.is_empty() && self.skipped == 0 => get.failure("EOF"),
            None if self.head.is_empty() => get.broken("unexpected EOF"),
            None => get.broken(status_line(first_line(&self.head)).err().unwrap_or("unexpected EOF".into())),
        }
    }
}

fn too_long(get: &Get) -> Step {
    Step::Done(get.broken(format_args!("net/http: server response headers exceeded {MAX_HEAD} bytes; aborted")))
}

/// The index after the empty line that ends a head, looked for from `from` on.
fn head_end(head: &[u8], from: usize) -> Option<usize> {
    let line_ends = head.iter().enumerate().skip(from).filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    line_ends
        .filter_map(|at| match &head[at + 1..] {
            [b'\n', ..] => Some(at + 2),
            [b'\r', b'\n', ..] => Some(at + 3),
            _ => None,
        })
        .next()
}

/// Without its end.
fn first_line(head: &[u8]) -> &[u8] {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Major and minor.
type Version = (u8, u8);

/// Version and status; Go's words if it is malformed.
fn status_line(line: &[u8]) -> Result<(Version, u16), String> {
    let shown = |bytes: &[u8]| quoted(&bytes[..bytes.len().min(256)]);
    let Some(space) = line.iter().position(|byte| *byte == b' ') else {
        return Err(format!("malformed HTTP response {}", shown(line)));
    };
    let (version, rest) = line.split_at(space);
    let status = rest.trim_ascii_start().split(|byte| *byte == b' ').next().unwrap_or_default();
    let number = std::str::from_utf8(status).ok().and_then(|text| text.parse().ok());
    let Some(number) = number.filter(|_| status.len() == 3 && status.iter().all(u8::is_ascii_digit)) else {
        return Err(format!("malformed HTTP status code {}", shown(status)));
    };
    match version {
        [b'H', b'T', b'T', b'P', b'/', major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9'] => {
            Ok(((major - b'0', minor - b'0'), number))
        }
        _ => Err(format!("malformed HTTP version {}", shown(version))),
    }
}

/// Parses a complete head; Go's words if it is malformed.
fn parse(bytes: &[u8]) -> Result<Head, String> {
    let (version, status) = status_line(first_line(bytes))?;
    // Of the status line the parser has views of its own.
    let fields = bytes.split_inclusive(|byte| *byte == b'\n').skip(1);
    let bytes: Vec<u8> = [&b"HTTP/1.1 200 OK\r\n"[..]].into_iter().chain(fields).flatten().copied().collect();
    let mut config = httparse::ParserConfig::default();
    config.allow_obsolete_multiline_headers_in_responses(true).allow_spaces_after_header_name_in_responses(true);
    let mut headers = vec![httparse::EMPTY_HEADER; 64];
    loop {
        let mut response = httparse::Response::new(&mut headers);
        match config.parse_response(&mut response, &bytes) {
            Ok(httparse::Status::Complete(_)) => {
                let location = find(response.headers, "Location").next().map(<[u8]>::to_vec);
                return Ok(Head { status, location, body: framing((version, status), response.headers)? });
            }
            Err(httparse::Error::TooManyHeaders) if headers.len() < MAX_HEADERS => {
                headers = vec![httparse::EMPTY_HEADER; MAX_HEADERS];
            }
            Err(httparse::Error::TooManyHeaders) => return Err(format!("more than {MAX_HEADERS} header lines")),
            Err(error) => return Err(format!("malformed MIME header: {error}")),
            Ok(httparse::Status::Partial) => return Err("malformed MIME header".into()),
        }
    }
}

fn find<'h>(headers: &'h [httparse::Header<'_>], name: &'h str) -> impl Iterator<Item = &'h [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// RFC 9112 §6.3, as strict as Go and in its words.
fn framing((version, status): (Version, u16), headers: &[httparse::Header<'_>]) -> Result<Body, String> {
    let list = |values: &[&[u8]]| values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(" ");
    let encodings: Vec<&[u8]> = find(headers, "Transfer-Encoding").collect();
    let is_chunked = match &encodings[..] {
        // HTTP/1.0 has no chunks.
        _ if version < (1, 1) => false,
        [] => false,
        [one] if one.eq_ignore_ascii_case(b"chunked") => true,
        [one] => return Err(format!("unsupported transfer encoding: {}", quoted(one))),
        many => return Err(format!("too many transfer encodings: [{}]", list(many))),
    };
    let lengths: Vec<&[u8]> = find(headers, "Content-Length").collect();
    if lengths.iter().any(|other| *other != lengths[0]) {
        let list = list(&lengths);
        return Err(format!("http: message cannot contain multiple Content-Length headers; got [{list}]"));
    }
    let length = match lengths.first() {
        None => None,
        Some([]) => return Err("invalid empty Content-Length \"\"".into()),
        Some(value) => {
            let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
            let number = digits.and_then(|digits| digits.parse().ok()).filter(|number| i64::try_from(*number).is_ok());
            Some(number.ok_or_else(|| format!("bad Content-Length {}", quoted(value)))?)
        }
    };
    Ok(match (status, length) {
        (100..=199 | 204 | 304, _) => Body::of_length(0),
        _ if is_chunked => Body::chunked(),
        (_, Some(length)) => Body::of_length(length),
        (_, None) => Body::until_close(),
    })
}

/// Go's `%q`.
fn quoted(bytes: &[u8]) -> String {
    let escape = |c: char| match c {
        '\x07' => "\\a".to_owned(),
        '\x08' => "\\b".to_owned(),
        '\x0b' => "\\v".to_owned(),
        '\x0c' => "\\f".to_owned(),
        '\'' => "'".to_owned(),
        '\n' | '\r' | '\t' => c.escape_debug().to_string(),
        '\0'..' ' | '\x7f' => format!("\\x{:02x}", u32::from(c)),
        '"' | '\\' => format!("\\{c}"),
        _ if c.escape_debug().len() == 1 => c.to_string(),
        '\0'..='\u{ffff}' => format!("\\u{:04x}", u32::from(c)),
        _ => format!("\\U{:08x}", u32::from(c)),
    };
    let chunk = |chunk: std::str::Utf8Chunk<'_>| {
        let invalid = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
        chunk.valid().chars().map(escape).chain(invalid).collect::<String>()
    };
    format!("\"{}\"", bytes.utf8_chunks().map(chunk).collect::<String>())
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
