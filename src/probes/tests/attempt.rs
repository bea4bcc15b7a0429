//! [`Attempt`], driven as an event loop drives it.

use super::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::Write;
use std::sync::mpsc;
use std::time::Instant;

/// How an attempt ended.
#[derive(Debug)]
enum End {
    Done(Outcome),
    Elsewhere(Request),
    TimedOut(Outcome),
}

const HERE: Network<'_> = Network { namespace: None };

/// Drives an attempt; its time is over when `is_over` says so before a wait.
fn drive(request: Request, time: Duration, mut is_over: impl FnMut(&Attempt) -> bool) -> End {
    let deadline = Instant::now() + time;
    let mut attempt = match Attempt::begin(request, HERE).unwrap() {
        Begun::Done(outcome) => return End::Done(outcome),
        Begun::Waiting(attempt) => attempt,
    };
    loop {
        if is_over(&attempt) {
            return End::TimedOut(attempt.timed_out());
        }
        let interest = match attempt.interest() {
            Interest::Read => PollFlags::POLLIN,
            Interest::Write => PollFlags::POLLOUT,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let ready = poll(&mut [PollFd::new(attempt.fd(), interest)], PollTimeout::try_from(left).unwrap()).unwrap();
        if ready == 0 {
            return End::TimedOut(attempt.timed_out());
        }
        match attempt.ready(HERE).unwrap() {
            Progress::Waiting => {}
            Progress::Moved(old) => assert_ne!(old.as_raw_fd(), attempt.fd().as_raw_fd()),
            Progress::Elsewhere(request) => return End::Elsewhere(request),
            Progress::Done(outcome) => return End::Done(outcome),
        }
    }
}

/// Whether it would be neither good nor bad if its time were over.
fn is_halfway(attempt: &Attempt) -> bool {
    matches!(attempt.timed_out(), Outcome::Error(_))
}

/// Its outcome, which must come.
#[track_caller]
fn outcome(request: Request) -> Outcome {
    match drive(request, PATIENCE, |_| false) {
        End::Done(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

/// A server that reads a request and answers it with these bytes.
fn answering(answer: impl Into<Vec<u8>>) -> Server {
    let answer = answer.into();
    Server::start(move |mut stream, _| {
        read_head(&mut stream);
        let _ = stream.write_all(&answer);
    })
}

/// A server that writes the same again and again.
fn flooding(first: &'static str, then: impl Into<Vec<u8>>) -> Server {
    let then = then.into();
    Server::start(move |mut stream, _| {
        read_head(&mut stream);
        let mut result = stream.write_all(first.as_bytes());
        while result.is_ok() {
            result = stream.write_all(&then);
        }
    })
}

#[test]
fn s6_a_tcp_socket_that_takes_a_connection_is_fine() {
    for host in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(host).unwrap();
        let server = Server::at(listener, |mut stream, _| read_to_end(&mut stream));
        assert_eq!(outcome(server.tcp()), Outcome::Success, "{host}");
    }
}

#[test]
fn s6_a_port_where_nobody_listens_refuses() {
    let (_taken, address) = unheard();
    let place = Place { host: address.ip().to_string(), port: address.port() };
    let words = format!("dial tcp {address}: connect: connection refused");
    assert_eq!(outcome(request(Ask::Tcp(place.clone()))), Outcome::Failure(words.clone()));
    let get = Get::new(&handler("/x"), place, Purpose::Probe);
    let words = format!("Get \"http://{address}/x\": {words}");
    assert_eq!(outcome(request(Ask::Http(get))), Outcome::Failure(words));
}

#[test]
fn an_address_without_a_way_is_a_failure_and_no_error_of_ours() {
    // Of documentation, and unspecified: no connection comes about, whatever this host's routes are.
    let place = Place { host: "255.255.255.255".into(), port: 1 };
    let outcome = outcome(request(Ask::Tcp(place)));
    assert!(failure(&outcome).starts_with("dial tcp 255.255.255.255:1: connect: "), "{outcome:?}");
}

#[test]
fn what_it_cannot_perform_is_an_error() {
    let name = request(Ask::Tcp(place("localhost")));
    let grpc = request(Ask::Grpc { place: place("127.0.0.1"), service: String::new(), tls: false });
    let secure = HttpGet { tls: true, ..handler("/") };
    let https = request(Ask::Http(Get::new(&secure, place("127.0.0.1"), Purpose::Probe)));
    for request in [name, grpc, https] {
        assert!(!request.is_plain());
        assert!(Attempt::begin(request, HERE).is_err());
    }
}

#[test]
fn s6_http_answers() {
    let failed = |status: u16| Outcome::Failure(format!("HTTP probe failed with statuscode: {status}"));
    let rows = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Outcome::Success),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", failed(404)),
        ("HTTP/1.0 503 Busy\r\n\r\nlater", failed(503)),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", Outcome::Success),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://other.example/\r\nContent-Length: 3\r\n\r\nwhy",
            Outcome::Warning("Probe terminated redirects, Response body: why".into()),
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", Outcome::Error("unexpected EOF".into())),
    ];
    for (answer, expected) in rows {
        let server = answering(answer);
        assert_eq!(outcome(server.get("/")), expected, "{answer}");
    }
}

#[test]
fn s6_the_server_sees_one_whole_request() {
    let (tell, told) = mpsc::channel();
    let server = Server::start(move |mut stream, _| {
        tell.send(read_head(&mut stream)).unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    let address = server.address;
    assert_eq!(outcome(server.get("/a?b")), Outcome::Success);
    let head = format!(
        "GET /a?b HTTP/1.1\r\nHost: {address}\r\nUser-Agent: kube-probe/1.37\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), head);
    drop(server);
    assert!(told.recv().is_err(), "it was asked once");
}

#[test]
fn a_request_may_be_larger_than_what_a_socket_takes() {
    let (go_on, may_go_on) = mpsc::channel();
    let server = Server::start(move |mut stream, _| {
        may_go_on.recv_timeout(PATIENCE).unwrap();
        let head = read_to_blank_line(&mut stream);
        let answer = if head > 8 << 20 { "HTTP/1.1 200 OK\r\n\r\n" } else { "HTTP/1.1 400 Bad\r\n\r\n" };
        let _ = stream.write_all(answer.as_bytes());
    });
    let large = HttpGet { headers: vec![("X".into(), "x".repeat(8 << 20))], ..handler("/") };
    let get = Get::new(&large, server.place(), Purpose::Probe);
    let mut turns = 0;
    let end = drive(request(Ask::Http(get)), PATIENCE, |attempt| {
        turns += usize::from(attempt.interest() == Interest::Write);
        // It is connected, and what nobody reads does not fit.
        if turns == 2 {
            go_on.send(()).unwrap();
        }
        false
    });
    assert!(matches!(end, End::Done(Outcome::Success)), "{end:?}");
}

/// How many bytes there are up to a blank line.
fn read_to_blank_line(stream: &mut TcpStream) -> usize {
    let (mut count, mut last) = (0, Vec::new());
    let mut buffer = vec![0; 64 << 10];
    while !last.ends_with(b"\r\n\r\n") {
        let size = stream.read(&mut buffer).unwrap();
        assert!(size > 0, "it broke off");
        count += size;
        last.extend_from_slice(&buffer[..size]);
        last.drain(..last.len().saturating_sub(4));
    }
    count
}

#[test]
fn an_answer_may_come_before_the_request_was_read_or_in_single_bytes() {
    let server = Server::start(|mut stream, number| {
        let answer =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        stream.set_nodelay(true).unwrap();
        if number == 0 {
            stream.write_all(answer).unwrap();
            read_to_end(&mut stream);
            return;
        }
        read_head(&mut stream);
        answer.iter().for_each(|byte| stream.write_all(&[*byte]).unwrap());
        read_to_end(&mut stream);
    });
    assert_eq!(outcome(server.get("/")), Outcome::Success);
    assert_eq!(outcome(server.get("/")), Outcome::Success);
}

#[test]
fn s6_redirects_take_new_connections() {
    let server = Server::start(|mut stream, number| {
        let head = read_head(&mut stream);
        assert!(head.starts_with(&format!("GET /{number} HTTP/1.1\r\n")), "{head}");
        let next = number + 1;
        let answer = match number {
            0..5 => format!("HTTP/1.1 302 Found\r\nLocation: {next}\r\nContent-Length: 99\r\n\r\nhalf of the body"),
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).unwrap();
        // The answer of a redirect is not read to its end.
        read_to_end(&mut stream);
    });
    assert_eq!(outcome(server.get("/0")), Outcome::Success);
}

#[test]
fn s6_redirects_without_an_end_are_given_up() {
    let (tell, told) = mpsc::channel();
    let server = Server::start(move |mut stream, number| {
        tell.send(number).unwrap();
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 307 X\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n");
    });
    assert_eq!(outcome(server.get("/")), Outcome::Failure("Get \"/again\": stopped after 10 redirects".into()));
    drop(server);
    assert_eq!(told.iter().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
}

#[test]
fn s6_a_redirect_to_a_port_where_nobody_listens_fails() {
    let (_taken, address) = unheard();
    let server = answering(format!("HTTP/1.1 302 X\r\nLocation: http://{address}/x\r\n\r\n"));
    let words = format!("Get \"http://{address}/x\": dial tcp {address}: connect: connection refused");
    assert_eq!(outcome(server.get("/")), Outcome::Failure(words));
}

#[test]
fn a_redirect_to_https_goes_on_elsewhere() {
    let server = answering("HTTP/1.1 302 X\r\nLocation: https://127.0.0.1:1/x\r\n\r\n");
    let End::Elsewhere(next) = drive(server.get("/"), PATIENCE, |_| false) else { panic!("not elsewhere") };
    assert!(!next.is_plain());
    assert_eq!((next.origin, next.timeout), (Origin::Host, Duration::from_secs(3)));
    assert!(failure(&next.timed_out(false)).starts_with("Get \"https://127.0.0.1:1/x\": context deadline exceeded"));
}

#[test]
fn floods_are_ended() {
    let broken = |what: &str| format!("net/http: HTTP/1.x transport connection broken: {what}");
    let too_long = broken("net/http: server response headers exceeded 65536 bytes; aborted");
    let rows = [
        ("endless fields", flooding("HTTP/1.1 200 OK\r\n", "A: b\r\n".repeat(500)), &too_long[..]),
        ("an endless field", flooding("HTTP/1.1 200 OK\r\nA: ", vec![b'x'; 4096]), &too_long),
        ("an endless reason", flooding("HTTP/1.1 200 ", vec![b'x'; 4096]), &too_long),
        ("endless 1xx", flooding("", "HTTP/1.1 100 Continue\r\n\r\n".repeat(100)), &too_long),
        ("endless garbage", flooding("", vec![b'x'; 4096]), "malformed HTTP response \"xxxx"),
        ("endless zeros", flooding("", vec![0; 4096]), "malformed HTTP response \"\\x00\\x00"),
        ("endless lines", flooding("", vec![b'\n'; 4096]), "malformed HTTP response \"\""),
    ];
    for (name, server, words) in rows {
        let outcome = outcome(server.get("/"));
        let what = failure(&outcome);
        assert!(what.contains(words), "{name}: {what}");
    }
    // Of a body as much is read as is kept.
    let rows = [
        ("an endless body", flooding("HTTP/1.1 200 OK\r\n\r\n", vec![b'x'; 4096])),
        (
            "an endless length",
            flooding("HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n", vec![b'x'; 4096]),
        ),
        (
            "an endless chunk",
            flooding("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", vec![b'x'; 4096]),
        ),
        ("endless chunks", flooding("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n".repeat(700))),
    ];
    for (name, server) in rows {
        assert_eq!(outcome(server.get("/")), Outcome::Success, "{name}");
    }
    let long_size = flooding("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", vec![b'0'; 4096]);
    assert_eq!(outcome(long_size.get("/")), Outcome::Error("http: header line too long".into()));
}

#[test]
fn who_closes_at_once_or_speaks_something_else_fails() {
    let get = |server: &Server| format!("Get \"http://{}/\": ", server.address);
    let server = answering("");
    assert_eq!(outcome(server.get("/")), Outcome::Failure(format!("{}EOF", get(&server))));
    let server = answering("220 mail.example ESMTP\r\n");
    let outcome = outcome(server.get("/"));
    assert!(failure(&outcome).ends_with("broken: malformed HTTP status code \"mail.example\""), "{outcome:?}");
}

/// Has a connection reset when it is closed.
fn reset(stream: TcpStream) {
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
}

#[test]
fn a_connection_that_is_reset_fails_before_the_head_and_says_nothing_after_it() {
    let server = Server::start(|mut stream, _| {
        read_head(&mut stream);
        reset(stream);
    });
    let before = outcome(server.get("/"));
    let address = server.address;
    assert!(failure(&before).starts_with(&format!("Get \"http://{address}/\": read tcp 127.0.0.1:")), "{before:?}");
    assert!(failure(&before).ends_with(&format!("->{address}: read: connection reset by peer")), "{before:?}");

    let (tell, told) = mpsc::channel();
    let server = Server::start(move |mut stream, _| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").unwrap();
        // What was not read yet would be lost with the connection.
        told.recv_timeout(PATIENCE).unwrap();
        reset(stream);
    });
    let end = drive(server.get("/"), PATIENCE, |attempt| {
        if is_halfway(attempt) {
            let _ = tell.send(());
        }
        false
    });
    assert!(
        matches!(&end, End::Done(Outcome::Error(what)) if what.starts_with("read tcp") && what.ends_with("connection reset by peer")),
        "{end:?}"
    );
}

#[test]
fn s6_the_words_for_who_takes_too_long_tell_how_far_it_came() {
    let soon = Duration::from_millis(150);
    let silent = Server::start(|mut stream, _| read_to_end(&mut stream));
    let waiting = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    let End::TimedOut(outcome) = drive(silent.get("/"), soon, |_| false) else { panic!("it was answered") };
    assert_eq!(outcome, Outcome::Failure(format!("Get \"http://{}/\": {waiting}", silent.address)));
    let partly = |part: &'static str| {
        Server::start(move |mut stream, _| {
            stream.write_all(part.as_bytes()).unwrap();
            read_to_end(&mut stream);
        })
    };
    let half_head = partly("HTTP/1.1 200 OK\r\nA: b\r\n");
    let End::TimedOut(outcome) = drive(half_head.get("/"), soon, |_| false) else { panic!("it was answered") };
    assert_eq!(outcome, Outcome::Failure(format!("Get \"http://{}/\": {waiting}", half_head.address)));
    let half_body = partly("HTTP/1.1 500 Bad\r\nContent-Length: 9\r\n\r\nhalf");
    let End::TimedOut(outcome) = drive(half_body.get("/"), PATIENCE, is_halfway) else { panic!("it was answered") };
    let reading = "context deadline exceeded (Client.Timeout or context cancellation while reading body)";
    assert_eq!(outcome, Outcome::Error(reading.into()));
}

#[test]
fn s7_a_hook_is_done_with_the_head_of_its_answer() {
    let server = Server::start(|mut stream, _| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n").unwrap();
        read_to_end(&mut stream);
    });
    let get = Get::new(&handler("/"), server.place(), Purpose::Hook);
    assert_eq!(outcome(request(Ask::Http(get))), Outcome::Success);
}
