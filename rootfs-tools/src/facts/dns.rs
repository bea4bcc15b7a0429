//! A name server for tests: A queries over UDP, from a list of names (RFC 1035, section 4).

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};

use super::print;
use crate::sys::Signals;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const NAME_ERROR: u8 = 3;
const FORMAT_ERROR: u8 = 1;

type Records = BTreeMap<String, Vec<Ipv4Addr>>;

/// Answers until TERM. The lines `NAME=IP` of the file `records`, if there is one, are read again for each query, so
/// that a test can make a name appear.
pub(super) fn serve(given: &[&str], bind: Option<&str>, records: Option<&str>) -> Result<u8> {
    let signals = Signals::termination()?;
    let fixed = parse(given.iter().copied())?;
    let address = bind.unwrap_or("0.0.0.0:53");
    let socket = UdpSocket::bind(address).with_context(|| format!("listening on {address}"))?;
    socket.set_nonblocking(true).context("listening")?;
    print(&format!("listening on {}\n", socket.local_addr().context("listening")?))?;
    let mut buffer = [0; 512];
    while signals.wait_for(Duration::from_millis(5))?.is_none() {
        loop {
            let (len, peer) = match socket.recv_from(&mut buffer) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // An answer to one who had gone already comes back as this.
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => continue,
                other => other.context("receiving a query")?,
            };
            let mut known = fixed.clone();
            if let Some(text) = records.and_then(|path| fs::read_to_string(path).ok()) {
                known.extend(parse(text.lines())?);
            }
            if let Some((response, log)) = answer(&buffer[..len], &known) {
                print(&format!("{log}\n"))?;
                // As with any datagram, whether it arrives is not known; the client asks again.
                let _ = socket.send_to(&response, peer);
            }
        }
    }
    Ok(0)
}

fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Records> {
    let mut records = Records::new();
    for line in lines.map(str::trim).filter(|l| !l.is_empty()) {
        let (name, ip) = line.split_once('=').with_context(|| format!("{line:?}: expected NAME=IP"))?;
        let ip = ip.parse().with_context(|| format!("{line:?}: not an IPv4 address"))?;
        records.entry(name.trim_end_matches('.').to_lowercase()).or_default().push(ip);
    }
    Ok(records)
}

/// The response to a query and a line about it; `None` for what is no query.
fn answer(query: &[u8], records: &Records) -> Option<(Vec<u8>, String)> {
    let header = query.get(..HEADER)?;
    let is_response = header[2] & 0x80 != 0;
    if is_response {
        return None;
    }
    let mut response = header.to_vec();
    // A response, authoritative; the operation and "recursion desired" as asked; recursion available.
    response[2] = 0x84 | header[2] & 0x79;
    response[3] = 0x80;
    response[4..].fill(0);
    let Some((name, after_name)) = name_at(query, HEADER) else {
        response[3] |= FORMAT_ERROR;
        return Some((response, "malformed query".to_string()));
    };
    let Some(question) = query.get(HEADER..after_name + 4) else {
        response[3] |= FORMAT_ERROR;
        return Some((response, format!("malformed query for {name}")));
    };
    let query_type = u16::from_be_bytes([query[after_name], query[after_name + 1]]);
    response[5] = 1;
    response.extend_from_slice(question);
    let result = match records.get(&name) {
        None => {
            response[3] |= NAME_ERROR;
            "no such name".to_string()
        }
        Some(_) if query_type != TYPE_A => "no data".to_string(),
        Some(addresses) => {
            response[7] = u8::try_from(addresses.len()).unwrap_or(u8::MAX);
            for ip in addresses.iter().take(usize::from(response[7])) {
                // The name is where the question has it; type A, class IN, 5 seconds, 4 bytes.
                response.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
                response.extend_from_slice(&ip.octets());
            }
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        }
    };
    Some((response, format!("query {name} type {query_type}: {result}")))
}

/// The name at `at` in lower case without a final dot, and where it ends. A question holds no compressed names.
fn name_at(query: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let len = usize::from(*query.get(at)?);
        at += 1;
        if len == 0 {
            return Some((labels.join("."), at));
        }
        if len > 63 {
            return None;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + len)?).to_lowercase());
        at += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, query_type: u16) -> Vec<u8> {
        let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend_from_slice(label.as_bytes());
        }
        query.push(0);
        query.extend_from_slice(&query_type.to_be_bytes());
        query.extend_from_slice(&[0, 1]);
        query
    }

    #[test]
    fn queries_get_the_answer_that_resolvers_expect() {
        let records = parse(["myservice.default.svc=10.0.0.7", "Two=1.2.3.4", "two.=1.2.3.5"].into_iter()).unwrap();
        for (name, asked, query_type, code, answers) in [
            ("A", "MyService.default.svc", 1, 0, 1),
            ("two addresses", "two", 1, 0, 2),
            ("AAAA of a name that is there", "two", 28, 0, 0),
            ("unknown", "mydb", 1, 3, 0),
            ("AAAA of an unknown name", "mydb", 28, 3, 0),
        ] {
            let query = query(asked, query_type);
            let (response, _) = answer(&query, &records).unwrap();
            assert_eq!(response[..2], query[..2], "{name}");
            assert_eq!((response[2], response[3]), (0x85, 0x80 | code), "{name}");
            assert_eq!(response[4..8], [0, 1, 0, answers], "{name}");
            assert_eq!(response[12..query.len()], query[12..], "{name}");
            assert_eq!(response.len(), query.len() + 16 * usize::from(answers), "{name}");
        }
        let (response, _) = answer(&query("myservice.default.svc", 1), &records).unwrap();
        assert_eq!(response[response.len() - 4..], [10, 0, 0, 7]);
    }

    #[test]
    fn nonsense_gets_no_answer_or_an_error() {
        assert!(answer(b"short", &Records::new()).is_none());
        let mut response = query("x", 1);
        response[2] |= 0x80;
        assert!(answer(&response, &Records::new()).is_none(), "a response is not answered");
        let cut = &query("example", 1)[..15];
        assert_eq!(answer(cut, &Records::new()).unwrap().0[3] & 0xf, FORMAT_ERROR);
        assert!(parse(["x"].into_iter()).is_err());
    }
}
