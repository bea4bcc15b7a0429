//! URLs that are not good, and clients that mean ill: the server refuses, lets go of what it held, and serves the next one.

use crate::fixture::{DEADLINE, Fixture, SPDY, ask, head, timeouts, web_socket};
use podshim::cri::streaming::{Config, Server, Timeouts};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn status(method: &str, url: &str, headers: &str) -> String {
    head(&mut ask(method, url, headers)).split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn a_url_is_good_once_for_its_verb_and_for_its_time() {
    let server = Fixture::start();
    let url = server.exec(&["true"], "o");
    assert!(url.rsplit('/').next().unwrap().len() >= 22, "128 bits: {url}");
    assert_eq!(status("POST", &url, SPDY), "101");
    assert_eq!(status("POST", &url, SPDY), "404", "used");
    let url = server.exec(&["true"], "o");
    assert_eq!(status("POST", &url.replace("/exec/", "/attach/"), SPDY), "404", "another verb");
    assert_eq!(status("POST", &url, SPDY), "404", "it is used up");
    let url = server.exec(&["true"], "o");
    for wrong in ["/exec/", "/exec", "/", "/exec/x", "//", "/exec/../exec/x"] {
        let base = url.split("/exec/").next().unwrap();
        assert_eq!(status("POST", &format!("{base}{wrong}"), SPDY), "404", "{wrong}");
    }
    assert_eq!(status("PUT", &url, SPDY), "405");
    assert_eq!(status("GET", &format!("{url}/"), SPDY), "404");
    assert_eq!(status("GET", &url, SPDY), "101", "and nothing of that has used it up");
    let token = Duration::from_millis(1);
    let server = Fixture::with(&Config { timeouts: Timeouts { token, ..timeouts() }, ..Config::default() });
    let url = server.exec(&["true"], "o");
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(status("POST", &url, SPDY), "404", "expired");
}

#[test]
fn protocols_that_nobody_speaks_are_refused() {
    let server = Fixture::start();
    let asked = |headers: &str| head(&mut ask("GET", &server.exec(&["true"], "o"), headers));
    let answer = asked("Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v9\r\n");
    assert!(answer.starts_with("http/1.1 403 "), "{answer}");
    assert!(answer.contains("\r\nx-accepted-stream-protocol-versions: v4.channel.k8s.io\r\n"), "{answer}");
    assert!(answer.contains("\r\nx-accepted-stream-protocol-versions: channel.k8s.io\r\n"), "{answer}");
    let cases = [
        ("400", "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n".to_owned()),
        ("400", "Connection: Upgrade\r\nUpgrade: h2c\r\n".to_owned()),
        ("400", "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n".to_owned()),
        ("400", String::new()),
        ("403", web_socket("v9.channel.k8s.io")),
        ("403", web_socket("SPDY/3.1+portforward.k8s.io")),
        ("400", web_socket("v5.channel.k8s.io").replace("13", "12")),
        ("400", web_socket("v5.channel.k8s.io").replace("dGhl", "")),
    ];
    for (expected, headers) in cases {
        assert!(asked(&headers).starts_with(&format!("http/1.1 {expected} ")), "{headers}");
    }
    // The client's own preference counts, in whatever form it lists it.
    let answer = asked(&web_socket("v9, v4.channel.k8s.io\r\nSec-WebSocket-Protocol: v5.channel.k8s.io"));
    assert!(answer.contains("sec-websocket-protocol: v4.channel.k8s.io\r\n"), "{answer}");
    let answer = asked(&SPDY.replace(": v4", ": v3"));
    assert!(answer.contains("x-stream-protocol-version: v3.channel.k8s.io\r\n"), "{answer}");
}

/// Reads until the server ends the connection, one way or the other.
fn ends(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    let until = Instant::now() + DEADLINE;
    loop {
        assert!(Instant::now() < until, "it goes on");
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("it does not end: {error}"),
        }
    }
}

#[test]
fn strangers_have_little_time_and_little_room() {
    let request = Duration::from_millis(500);
    let server = Fixture::with(&Config { timeouts: Timeouts { request, ..timeouts() }, ..Config::default() });
    let url = server.exec(&["true"], "o");
    let address = url.split('/').nth(2).unwrap();
    // More than are let in at once, and none of them says anything, or anything whole.
    let mut silent: Vec<TcpStream> = (0..300)
        .map(|number| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            if number % 2 == 0 {
                stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX: ").unwrap();
            }
            stream
        })
        .collect();
    assert_eq!(status("POST", &url, SPDY), "101", "behind them");
    silent.iter_mut().for_each(ends);
    let mut large = TcpStream::connect(address).unwrap();
    large.set_read_timeout(Some(DEADLINE)).unwrap();
    // It may end while this is written.
    let _ = write!(large, "GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    ends(&mut large);
    let mut many = TcpStream::connect(address).unwrap();
    many.set_read_timeout(Some(DEADLINE)).unwrap();
    let _ = write!(many, "GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    ends(&mut many);
}

#[test]
fn an_answer_waits_for_nothing_more_than_the_head_of_a_request() {
    let server = Fixture::start();
    let begin = Instant::now();
    let mut stream = ask("POST", &server.exec(&["true"], "o"), "Content-Length: 1000\r\n");
    assert!(head(&mut stream).starts_with("http/1.1 400 "));
    ends(&mut stream);
    // One that is refused does not hold its place until its time is up.
    assert!(begin.elapsed() < timeouts().request / 2, "{:?}", begin.elapsed());
}

#[test]
fn what_is_no_spdy_ends_the_connection() {
    let server = Fixture::start();
    let long_data = [&b"\0\0\0\x63\0\xff\xff\xff"[..], &vec![0; 1 << 20]].concat();
    let cases: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\0\0\0\0\0\0\0\0",
        b"\x80\x03\0\x01\0\xff\xff\xff",
        b"\x80\x03\0\x01\0\0\0\x0c\0\0\0\x01\0\0\0\0\0\0\xff\xff",
        b"\x80\x03\0\x07\0\0\0\x08\0\0\0\0\0\0\0\0",
        &long_data,
    ];
    for (number, bytes) in cases.into_iter().enumerate() {
        let url = if number % 2 == 0 { server.exec(&["true"], "o") } else { server.forward(&[]) };
        let spdy = SPDY.replace("v4.channel", if number % 2 == 0 { "v4.channel" } else { "portforward" });
        let mut stream = ask("POST", &url, &spdy);
        assert!(head(&mut stream).starts_with("http/1.1 101 "), "{number}");
        // It may end while this is written.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        ends(&mut stream);
    }
}

#[test]
fn a_client_that_opens_no_streams_is_not_waited_for() {
    let creation = Duration::from_secs(2);
    let server = Fixture::with(&Config { timeouts: Timeouts { creation, ..timeouts() }, ..Config::default() });
    let mut stream = ask("POST", &server.exec(&["true"], "o"), SPDY);
    assert!(head(&mut stream).starts_with("http/1.1 101 "));
    // A ping is answered all the while, with the same bytes.
    let ping = b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x07";
    stream.write_all(ping).unwrap();
    let mut pong = [0; 12];
    stream.read_exact(&mut pong).unwrap();
    assert_eq!(&pong, ping);
    ends(&mut stream);
}

#[test]
fn a_connection_on_which_nothing_is_said_ends() {
    let idle = Duration::from_millis(300);
    let server = Fixture::with(&Config { timeouts: Timeouts { idle, ..timeouts() }, ..Config::default() });
    let mut stream = ask("GET", &server.exec(&["cat"], "io"), &web_socket("v4.channel.k8s.io"));
    assert!(head(&mut stream).starts_with("http/1.1 101 "));
    ends(&mut stream);
    assert_eq!(server.ended(), 0, "cat has seen the end of its input");
}

#[test]
fn what_is_no_websocket_ends_the_connection_and_the_input() {
    let server = Fixture::start();
    let large = b"\x82\xff\0\0\0\0\x40\0\0\0\0\0\0\0";
    let cases: [(&str, &[u8]); 6] = [
        ("v5.channel.k8s.io", b"\x82\x02\xff\0"),
        ("v5.channel.k8s.io", b"\x82\x81\0\0\0\0\xff"),
        ("v5.channel.k8s.io", b"\x82\x82\0\0\0\0\xff\x09"),
        ("v4.base64.channel.k8s.io", b"\x81\x82\0\0\0\0\x30!"),
        ("", large),
        ("channel.k8s.io", b"GET / HTTP/1.1\r\n\r\n"),
    ];
    for (protocol, bytes) in cases {
        let mut stream = ask("GET", &server.exec(&["cat"], "io"), &web_socket(protocol));
        assert!(head(&mut stream).starts_with("http/1.1 101 "));
        stream.write_all(bytes).unwrap();
        ends(&mut stream);
        assert_eq!(server.ended(), 0, "{protocol}: cat has seen the end of its input");
    }
}

#[test]
fn base64_channels_carry_text() {
    let server = Fixture::start();
    let mut stream = ask("GET", &server.exec(&["head", "-c", "2"], "io"), &web_socket("v4.base64.channel.k8s.io"));
    head(&mut stream);
    stream.write_all(b"\x81\x85\0\0\0\x000aGk=").unwrap();
    let mut received = Vec::new();
    // A close that nobody answers is not waited for for long.
    stream.read_to_end(&mut received).unwrap();
    let expected =
        [&b"\x81\x011\x81\x051aGk=\x81\x1d3"[..], b"eyJzdGF0dXMiOiJTdWNjZXNzIn0=", b"\x88\x02\x03\xe8"].concat();
    assert_eq!(received, expected, "{}", String::from_utf8_lossy(&received));
}

#[test]
fn only_tls_leaves_loopback() {
    for address in ["0.0.0.0:0", "10.0.0.1:0", "[::]:0"] {
        let config = Config { address: address.parse().unwrap(), ..Config::default() };
        let error = Server::bind(&config).err().expect("refused").to_string();
        assert!(error.contains("takes TLS"), "{error}");
    }
    Server::bind(&Config { address: "127.0.0.2:0".parse().unwrap(), ..Config::default() }).unwrap();
}
