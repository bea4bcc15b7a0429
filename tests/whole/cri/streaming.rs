//! The streaming server behind a real `podshim cri`: with client-go's client (`tests/cri/streamclient`), in the network namespace
//! that the server is in.

use super::super::harness::{Host, Live, until};
use super::super::network::inside;
use super::client::{Cri, container, log, sandbox};
use crate::streamclient::client;
use podshim::cri::api;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// SPDY and WebSocket.
const WAYS: [&[&str]; 2] = [&[], &["-websocket"]];
/// How long a connection may take to end that should.
const PATIENCE: Duration = Duration::from_secs(30);

/// client-go's client where the server is; what is written to it is the command's input.
fn start(host: &Host, way: &[&str], flags: &[&str], url: &str) -> Live {
    let program = [client().expect("it is built").to_str().unwrap()];
    let mut command = host.beside(&[&program[..], way, flags, &["exec", url]].concat());
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

/// How many SYNs were sent again in this thread's network namespace (`TcpExt` of /proc/net/netstat).
fn syns_sent_again() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
    let at = lines.next().unwrap().position(|name| name == "TCPSynRetrans").unwrap();
    lines.next().unwrap().nth(at).unwrap().parse().unwrap()
}

#[test]
fn connections_that_say_nothing_hold_nobody_up() {
    let Some(host) = Host::new(&["go"]) else { return };
    // Built before anything is timed.
    let (network, _) = (host.own_network(), client());
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let made = cri.running((&cri.sandbox(&config), &config), "c", "sleep 1000");
    let echo = || {
        let begin = Instant::now();
        let mut echo = start(&host, &[], &["-streams", "io"], &exec(&cri, &made, "read word; echo got $word"));
        writeln!(echo.stdin(), "one").unwrap();
        assert_eq!((echo.wait(), &*echo.out()), (0, "got one\n"), "{}", echo.err());
        begin.elapsed()
    };
    let quiet = echo();
    let url = exec(&cri, &made, "exec cat");
    let address = address(&url);
    let mut session = start(&host, &[], &["-streams", "io"], &url);
    let mut input = session.stdin();
    writeln!(input, "before").unwrap();
    session.until_has("before");
    // More than are let in at once: they send nothing, or half a request.
    let begin = Instant::now();
    let (mut silent, sent_again) = inside(&network, move || {
        let before = syns_sent_again();
        let open = |number: usize| {
            let mut stream = connect(&address);
            // It may have had to go already.
            let _ = stream.write_all(["", "GET / HTTP/1.1\r\nHost: x\r\nX: "][number % 2].as_bytes());
            stream
        };
        let silent = (0..300).map(open).collect::<Vec<_>>();
        (silent, syns_sent_again() - before)
    });
    assert_eq!(sent_again, 0);
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

/// A certificate for 127.0.0.1 that is its own authority, and its key.
fn certificate(host: &Host) -> (String, String) {
    let path = |name| host.path(name).to_str().unwrap().to_owned();
    let (certificate, key) = (path("server.crt"), path("server.key"));
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=podshim"]);
    make.args(["-addext", "subjectAltName=IP:127.0.0.1", "-out", &certificate, "-keyout", &key]);
    host.finish(make).expect(0);
    (certificate, key)
}

#[test]
fn the_configuration_gives_it_tls_and_says_how_long_urls_are_good() {
    let Some(host) = Host::new(&["go", "openssl"]) else { return };
    let network = host.own_network();
    let (ca, key) = certificate(&host);
    let ttl = Duration::from_secs(5);
    let lines = format!("url_ttl_seconds = {}\ntls_cert_file = {ca:?}\ntls_key_file = {key:?}", ttl.as_secs());
    let cri = Cri::start(&host, &format!("[streaming]\n{lines}\n"));
    let config = sandbox(&host, "p");
    let made = cri.running((&cri.sandbox(&config), &config), "c", "sleep 1000");
    let late = exec(&cri, &made, "touch /late");
    let since = Instant::now();
    let flags = ["-streams", "io", "-ca", &ca];
    for way in WAYS {
        let url = exec(&cri, &made, "read word; echo got $word; exit 3");
        assert!(url.starts_with("https://127.0.0.1:"), "{url}");
        let mut first = start(&host, way, &flags, &url);
        writeln!(first.stdin(), "one").unwrap();
        assert_eq!((first.wait(), &*first.out()), (3, "got one\n"), "{way:?}: {}", first.err());
        refused(start(&host, way, &flags, &url), way, "404");
    }
    // Neither who does not know the authority nor who speaks without TLS comes so far that the URL is used up.
    let url = exec(&cri, &made, "echo still good");
    refused(start(&host, &[], &["-streams", "o"], &url), &[], "certificate");
    let (to, path) = (address(&url), url.splitn(4, '/').nth(3).unwrap().to_owned());
    let answer = inside(&network, move || {
        let mut stream = connect(&to);
        let _ =
            write!(stream, "POST /{path} HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n");
        rest(stream)
    });
    // At most an alert of TLS.
    assert!(answer.is_empty() || answer[0] == 21, "{:?}", String::from_utf8_lossy(&answer));
    let mut good = start(&host, &[], &flags, &url);
    assert_eq!((good.wait(), &*good.out()), (0, "still good\n"), "{}", good.err());
    // What is to be seen is that time passes.
    std::thread::sleep((ttl + Duration::from_millis(10)).saturating_sub(since.elapsed()));
    refused(start(&host, &[], &flags, &late), &[], "404 page not found");
    assert_eq!(cri.exec(&made, &["test", "-e", "/late"], 10).unwrap().exit_code, 1, "the command was not run");
}

/// Fails unless a client ends with an error that says this.
#[track_caller]
fn refused(mut client: Live, way: &[&str], why: &str) {
    assert_eq!((client.wait(), &*client.out()), (250, ""), "{way:?}: {}", client.err());
    assert!(client.err().contains(why), "{way:?}: {}", client.err());
}

#[test]
fn a_terminal_that_is_attached_to_follows_its_window() {
    let Some(host) = Host::new(&["go"]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let script = "stty -echo; trap 'echo now $(stty size)' WINCH; echo up; \
                  while [ \"$word\" != end ]; do read word && echo \"got $word\"; done; exit 5";
    let mut wanted = container("c", script);
    (wanted.tty, wanted.stdin) = (true, true);
    let made = cri.create((&id, &config), &wanted).unwrap();
    cri.start_container(&made).unwrap();
    until("trap", || log(&host, "p", "c").iter().any(|line| line.starts_with("up")).then_some(()));
    for (way, sizes, word) in [(WAYS[0], ["91x31", "93x33"], "more"), (WAYS[1], ["95x35", "97x37"], "end")] {
        let (container_id, tty, stdin, stdout) = (made.clone(), true, true, true);
        let request = api::AttachRequest { container_id, tty, stdin, stdout, stderr: false };
        let url = cri.call(|mut c| async move { c.attach(request).await }).unwrap().url;
        let mut client = start(&host, way, &["-tty", "-streams", "io", "-sizes", &sizes.join(",")], &url);
        for (number, size) in sizes.into_iter().enumerate() {
            if number > 0 {
                client.signal(nix::sys::signal::Signal::SIGUSR1);
            }
            // As the container itself sees it, told by a signal: rows first.
            let (columns, rows) = size.split_once('x').unwrap();
            client.until_has(&format!("now {rows} {columns}\r\n"));
        }
        writeln!(client.stdin(), "{word}").unwrap();
        client.until_has(&format!("got {word}\r\n"));
        if word == "end" {
            assert_eq!(client.wait(), 0, "{}", client.err());
        }
    }
    assert_eq!(cri.until_exited(&made).exit_code, 5);
}
