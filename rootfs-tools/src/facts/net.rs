//! TCP both ways, for tests of a pod's network.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::print;
use crate::sys::Signals;

/// How often to look for a connection, or to try again for one.
const LOOK: Duration = Duration::from_millis(20);

/// Answers each connection with the line `reply`, and logs it, until TERM.
pub(super) fn listen(port: u16, reply: &str, bind: Option<&str>) -> Result<u8> {
    let signals = Signals::termination()?;
    let host = bind.unwrap_or("0.0.0.0");
    let listener = TcpListener::bind((host, port)).with_context(|| format!("listening on {host} port {port}"))?;
    listener.set_nonblocking(true).context("listening")?;
    print(&format!("listening on {}\n", listener.local_addr().context("listening")?))?;
    while signals.wait_for(LOOK)?.is_none() {
        loop {
            let (mut stream, peer) = match listener.accept() {
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                other => other.context("accepting")?,
            };
            // One that has gone already is no failure of the listener.
            let said = stream.write_all(format!("{reply}\n").as_bytes());
            let result = said.map_or_else(|e| e.to_string(), |()| "replied".to_string());
            print(&format!("connection from {peer}: {result}\n"))?;
        }
    }
    Ok(0)
}

/// Prints what `host` sends on `port` until it closes. Code 1 when there is no connection, for as long as `patience`
/// says to try.
pub(super) fn connect(host: &str, port: u16, patience: Option<Duration>) -> Result<u8> {
    let signals = Signals::termination()?;
    let start = Instant::now();
    loop {
        match exchange(host, port) {
            Ok(text) => {
                print(&text)?;
                return Ok(0);
            }
            Err(error) if patience.is_none_or(|p| start.elapsed() >= p) => {
                print(&format!("{error:#}\n"))?;
                return Ok(1);
            }
            Err(_) => {}
        }
        if let Some(signal) = signals.wait_for(LOOK)? {
            return Ok(128 + u8::try_from(signal).unwrap_or(0));
        }
    }
}

fn exchange(host: &str, port: u16) -> Result<String> {
    let mut stream = TcpStream::connect((host, port)).with_context(|| format!("connecting to {host} port {port}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).context("connecting")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(|| format!("reading from {host} port {port}"))?;
    Ok(text)
}
