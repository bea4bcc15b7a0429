//! Requests against servers of this process, on loopback addresses; the words of what comes to no end.

mod attempt;
mod grpc;
mod perform;

use super::*;
use crate::plan::config::HttpGet;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// How long to wait for what must happen; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server with a thread of its own. It is over when it is dropped.
struct Server {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// On 127.0.0.1: `answer` has each connection, one after the other, and its number.
    fn start(answer: impl FnMut(TcpStream, usize) + Send + 'static) -> Server {
        Server::at(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), answer)
    }

    fn at(listener: TcpListener, mut answer: impl FnMut(TcpStream, usize) + Send + 'static) -> Server {
        let address = listener.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = is_over.clone();
        let thread = std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                answer(stream, number);
            }
        });
        Server { address, is_over, thread: Some(thread) }
    }

    fn place(&self) -> Place {
        Place { host: self.address.ip().to_string(), port: self.address.port() }
    }

    fn tcp(&self) -> Request {
        request(Ask::Tcp(self.place()))
    }

    fn get(&self, path: &str) -> Request {
        request(Ask::Http(Get::new(&handler(path), self.place(), Purpose::Probe)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes it up.
        drop(TcpStream::connect(self.address));
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

/// A port of 127.0.0.1 that is taken and where nobody listens.
fn unheard() -> (OwnedFd, SocketAddr) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, socket};
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))).unwrap();
    let address = crate::sys::net::address_of(fd.as_fd(), crate::sys::net::TcpEnd::Own).unwrap();
    (fd, address)
}

/// The head of a request, or what there was of it.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Reads until the other end closes, or resets, the connection.
fn read_to_end(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
}

fn request(ask: Ask) -> Request {
    Request { origin: Origin::Host, timeout: Duration::from_secs(3), ask }
}

fn handler(path: &str) -> HttpGet {
    HttpGet { tls: false, http2: false, host: None, port: 0, path: path.into(), headers: Vec::new() }
}

#[track_caller]
fn failure(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Failure(what) => what,
        other => panic!("no failure: {other:?}"),
    }
}

fn place(host: &str) -> Place {
    Place { host: host.into(), port: 80 }
}

#[test]
fn s6_a_handler_without_host_goes_to_the_pod() {
    let pod = "fd00::1".parse().unwrap();
    let used = Use { purpose: Purpose::Probe, pod, timeout: Duration::from_secs(1) };
    let host = |name: &str| Some(name.to_owned());
    let http = |host| Handler::HttpGet(HttpGet { host, port: 80, ..handler("/") });
    // (handler, where it goes out, where to, plain, looks up)
    let rows = [
        (Handler::TcpSocket { host: None, port: 80 }, Origin::Pod, "[fd00::1]:80", true, false),
        (Handler::TcpSocket { host: host(""), port: 80 }, Origin::Pod, "[fd00::1]:80", true, false),
        (Handler::TcpSocket { host: host("10.0.0.1"), port: 80 }, Origin::Host, "10.0.0.1:80", true, false),
        (Handler::TcpSocket { host: host("a.example"), port: 80 }, Origin::Host, "a.example:80", false, true),
        (http(None), Origin::Pod, "[fd00::1]:80", true, false),
        (http(host("a.example")), Origin::Host, "a.example:80", false, true),
        (Handler::Grpc { port: 80, service: String::new(), tls: false }, Origin::Pod, "[fd00::1]:80", false, false),
    ];
    for (handler, origin, to, is_plain, looks_up) in rows {
        let request = Request::new(&handler, used).unwrap();
        let (Ask::Tcp(place) | Ask::Http(Get { place, .. }) | Ask::Grpc { place, .. }) = &request.ask;
        assert_eq!((request.origin, &place.join()[..]), (origin, to), "{handler:?}");
        assert_eq!((request.is_plain(), request.looks_up()), (is_plain, looks_up), "{handler:?}");
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    }
    let secure = Handler::HttpGet(HttpGet { tls: true, port: 443, ..handler("/") });
    let clear = Handler::HttpGet(HttpGet { http2: true, port: 80, ..handler("/") });
    for handler in [secure, clear] {
        assert!(!Request::new(&handler, used).unwrap().is_plain(), "{handler:?}");
    }
    for handler in [Handler::Exec { command: vec!["true".into()] }, Handler::Sleep { seconds: 1 }] {
        assert_eq!(Request::new(&handler, used), None);
    }
}

#[test]
fn s6_each_kind_says_in_its_own_words_that_its_time_is_over() {
    let get = |path: &str| Ask::Http(Get::new(&handler(path), place("10.0.0.1"), Purpose::Probe));
    let grpc = |host: &str| Ask::Grpc { place: place(host), service: "s".into(), tls: false };
    let failure = |what: &str| Outcome::Failure(what.into());
    let reading = "context deadline exceeded (Client.Timeout or context cancellation while reading body)";
    let rows = [
        (Ask::Tcp(place("10.0.0.1")), false, failure("dial tcp 10.0.0.1:80: i/o timeout")),
        (Ask::Tcp(place("fd00::1")), false, failure("dial tcp [fd00::1]:80: i/o timeout")),
        (
            get("/x?y"),
            false,
            failure(
                "Get \"http://10.0.0.1:80/x?y\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            ),
        ),
        // Neither good nor bad.
        (get("/"), true, Outcome::Error(reading.into())),
        (
            grpc("10.0.0.1"),
            false,
            failure("timeout: failed to connect service \"10.0.0.1:80\" within 3s: context deadline exceeded"),
        ),
        (grpc("10.0.0.1"), true, failure("timeout: health rpc did not complete within 3s")),
    ];
    for (ask, halfway, outcome) in rows {
        assert_eq!(request(ask.clone()).timed_out(halfway), outcome, "{ask:?}");
    }
    let long = Get::new(&handler(&"x".repeat(MAX_OUTPUT)), place("10.0.0.1"), Purpose::Probe);
    assert!(matches!(request(Ask::Http(long)).timed_out(false), Outcome::Failure(what) if what.len() == MAX_OUTPUT));
}

#[test]
fn the_last_thing_said_in_full_counts() {
    let done = Said::Done(Outcome::Failure("a\nb".into()));
    let line = |said: &Said| format!("{}\n", serde_json::to_string(said).unwrap());
    let (halfway, done_line) = (line(&Said::Halfway), line(&done));
    let rows = [
        ("nothing", String::new(), None),
        ("half a line", halfway.trim_end().to_owned(), None),
        ("a line", halfway.clone(), Some(Said::Halfway)),
        ("two lines", format!("{halfway}{done_line}"), Some(done.clone())),
        ("one and a half", format!("{halfway}{}", done_line.trim_end()), Some(Said::Halfway)),
        ("something else", format!("{halfway}thread panicked\n"), None),
        ("an empty line", format!("{halfway}\n"), None),
    ];
    for (name, lines, said) in rows {
        assert_eq!(Said::last(lines.as_bytes()), said, "{name}");
    }
    // The longest: every byte is escaped.
    let longest = Said::Done(Outcome::Failure(text(&[1; MAX_OUTPUT])));
    let lines = format!("{halfway}{}", line(&longest));
    assert!(lines.len() <= MAX_SAID, "{}", lines.len());
    assert_eq!(Said::last(lines.as_bytes()), Some(longest));
}

#[test]
fn texts_are_bounded() {
    let rows: [(&str, Vec<u8>, usize); 5] = [
        ("short", b"abc".to_vec(), 3),
        ("long", vec![b'a'; MAX_OUTPUT + 1], MAX_OUTPUT),
        ("no UTF-8, of which each byte takes three", vec![0xff; MAX_OUTPUT], MAX_OUTPUT - MAX_OUTPUT % 3),
        ("a character at the end", [&[b'a'; MAX_OUTPUT - 2][..], "€€".as_bytes()].concat(), MAX_OUTPUT - 2),
        ("very long", vec![0xff; 1 << 20], MAX_OUTPUT - MAX_OUTPUT % 3),
    ];
    for (name, bytes, length) in rows {
        assert_eq!(text(&bytes).len(), length, "{name}");
    }
}

#[test]
fn durations_are_written_as_go_does() {
    let rows = [
        (0, "0s"),
        (1, "1s"),
        (59, "59s"),
        (60, "1m0s"),
        (90, "1m30s"),
        (3600, "1h0m0s"),
        (3661, "1h1m1s"),
        (360_000, "100h0m0s"),
    ];
    for (seconds, text) in rows {
        assert_eq!(go_duration(Duration::from_secs(seconds)), text);
    }
    for (milliseconds, text) in [(5, "5ms"), (999, "999ms"), (1050, "1.05s"), (61_500, "1m1.5s")] {
        assert_eq!(go_duration(Duration::from_millis(milliseconds)), text);
    }
}
