//! A web server for tests of probes and hooks: HTTP/1.1, a request a connection.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::journal::{Answers, Journal};
use super::print;
use crate::sys::Signals;

/// How long a client may take over its request.
const PATIENCE: Duration = Duration::from_secs(10);
const MAX_REQUEST: usize = 64 << 10;

/// Answers until TERM.
pub(super) fn serve(port: u16, answers: Answers, journal: Journal) -> Result<u8> {
    let signals = Signals::termination()?;
    let listener = TcpListener::bind(("0.0.0.0", port)).with_context(|| format!("listening on port {port}"))?;
    print(&format!("listening on {}\n", listener.local_addr().context("listening")?))?;
    let shared = Arc::new((answers, journal));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = Arc::clone(&shared);
            // One that has gone already is no failure of the server.
            thread::spawn(move || answer(stream, &shared.0, &shared.1));
        }
    });
    signals.wait()?;
    Ok(0)
}

fn answer(mut stream: TcpStream, answers: &Answers, journal: &Journal) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE)).context("waiting for a request")?;
    let Some(request) = read_head(&mut stream)? else { return Ok(()) };
    let (method, target, headers) = parse(&request);
    let (code, location) = decide(target, answers);
    // Noted before it is answered: whoever has the answer finds the entry.
    let peer = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
    journal.write(json!({ "method": method, "target": target, "headers": headers, "code": code, "peer": peer }))?;
    if let Some(time) = target.strip_prefix("/slow/").and_then(|ms| ms.parse().ok()) {
        thread::sleep(Duration::from_millis(time));
    }
    let location = location.map(|to| format!("Location: {to}\r\n")).unwrap_or_default();
    let body = format!("answer {code} to {target}\n");
    let head =
        format!("HTTP/1.1 {code} Whatever\r\n{location}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).context("answering")
}

/// The request without a body; `None` if the client went away before its end, as a TCP probe does.
fn read_head(stream: &mut TcpStream) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
        let len = stream.read(&mut buffer).context("reading a request")?;
        if len == 0 || bytes.len() > MAX_REQUEST {
            return Ok(None);
        }
        bytes.extend_from_slice(&buffer[..len]);
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Method, target and header fields.
fn parse(request: &str) -> (&str, &str, Vec<(&str, &str)>) {
    let mut lines = request.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers = lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect();
    (method, target, headers)
}

/// The status code, and where to go instead.
fn decide(target: &str, answers: &Answers) -> (u16, Option<String>) {
    let number = |text: &str| text.split(['/', '?']).next().and_then(|text| text.parse::<u16>().ok());
    if let Some(code) = target.strip_prefix("/code/").and_then(number) {
        return (code, None);
    }
    if let Some(to) = target.strip_prefix("/to?") {
        return (302, Some(to.to_owned()));
    }
    match target.strip_prefix("/hop/").and_then(number) {
        Some(0) => return (200, None),
        Some(left) => return (302, Some(format!("/hop/{}", left - 1))),
        None => {}
    }
    let words = answers.next("503");
    let (code, location) = words.split_once(' ').map_or((words.as_str(), None), |(code, to)| (code, Some(to)));
    (code.parse().unwrap_or(200), location.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_and_decided_by_their_path() {
        let (method, target, headers) = parse("GET /x?y HTTP/1.1\r\nHost: a:80\r\nX-Two:  b \r\n\r\n");
        assert_eq!((method, target, headers), ("GET", "/x?y", vec![("Host", "a:80"), ("X-Two", "b")]));
        let answers = Answers::new(None, 1);
        for (target, code, location) in [
            ("/code/404", 404, None),
            ("/to?http://other.example/z", 302, Some("http://other.example/z")),
            ("/hop/2", 302, Some("/hop/1")),
            ("/hop/0", 200, None),
            ("/", 503, None),
            ("/", 200, None),
        ] {
            assert_eq!(decide(target, &answers), (code, location.map(str::to_owned)), "{target}");
        }
    }
}
