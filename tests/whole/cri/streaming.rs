//! The streaming server behind a real `podshim cri`: with client-go's client (`tests/cri/streamclient`), in the network namespace
//! that the server is in.

use super::super::harness::{Host, Live};
use super::super::network::inside;
use super::client::{Cri, sandbox};
use crate::streamclient::client;
use podshim::cri::api;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long a connection may take to end that should.
const PATIENCE: Duration = Duration::from_secs(30);

/// client-go's client where the server is; what is written to it is the command's input.
fn start(host: &Host, flags: &[&str], url: &str) -> Live {
    let program = [client().expect("it is built").to_str().unwrap()];
    let mut command = host.beside(&[&program[..], flags, &["exec", url]].concat());
    command.stdin(Stdio::piped());
    Live::start(command)
}

/// A URL for a command, without a terminal.
#[track_caller]
fn exec(cri: &Cri<'_>, id: &str, script: &str) -> String {
    let cmd = ["sh", "-c", script].map(str::to_owned).to_vec();
    let (container_id, stdin, stdout) = (id.to_owned(), true, true);
    let request = api::ExecRequest { container_id, cmd, stdin, stdout, ..api::ExecRequest::default() };
    cri.call(|mut c| async move { c.exec(request).await }).unwrap().url
}

/// The host and port of a URL.
fn address(url: &str) -> String {
    url.split('/').nth(2).unwrap().to_owned()
}

/// A connection to the server.
fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What comes on a connection until the server ends it, one way or the other.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    match stream.read_to_end(&mut received) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("it does not end: {error}"),
        _ => received,
    }
}

#[test]
fn connections_that_say_nothing_hold_nobody_up() {
    let Some(host) = Host::new(&["go"]) else { return };
    let (network, _) = (host.own_network(), client());
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let made = cri.running((&cri.sandbox(&config), &config), "c", "sleep 1000");
    let echo = || {
        let begin = Instant::now();
        let mut echo = start(&host, &["-streams", "io"], &exec(&cri, &made, "read word; echo got $word"));
        writeln!(echo.stdin(), "one").unwrap();
        assert_eq!((echo.wait(), &*echo.out()), (0, "got one\n"), "{}", echo.err());
        begin.elapsed()
    };
    let quiet = echo();
    let url = exec(&cri, &made, "exec cat");
    let address = address(&url);
    let mut session = start(&host, &["-streams", "io"], &url);
    let mut input = session.stdin();
    writeln!(input, "before").unwrap();
    session.until_has("before");
    // More than are let in at once: they send nothing, or half a request.
    let begin = Instant::now();
    let mut silent = inside(&network, move || {
        let open = |number: usize| {
            let mut stream = connect(&address);
            // It may have had to go already.
            let _ = stream.write_all(["", "GET / HTTP/1.1\r\nHost: x\r\nX: "][number % 2].as_bytes());
            stream
        };
        (0..300).map(open).collect::<Vec<_>>()
    });
    // None of them has had to send its SYN again.
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    let took = echo();
    assert!(took < Duration::from_secs(2).max(quiet * 2), "{took:?}, and {quiet:?} without them");
    // The oldest of them has made room long before its time is up; a session never does.
    assert_eq!(rest(silent.swap_remove(0)), b"");
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    writeln!(input, "after").unwrap();
    session.until_has("after");
    drop(input);
    assert_eq!(session.wait(), 0, "{}", session.err());
}
