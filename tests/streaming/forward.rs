//! PortForward.

use crate::fixture::{Client, DEADLINE, Fixture, ask, client, head, timeouts, web_socket};
use crate::raw::Raw;
use podshim::cri::streaming::{Config, Timeouts};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A port that sends back what it is sent, from its first to its last byte, and then says farewell.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                // A client may go when it likes.
                let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
                let _ = stream.write_all(b"farewell");
            });
        }
    });
    port
}

/// A port that nobody listens on.
fn closed() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The client, and the local ports of those that it forwards to.
fn forward(way: &[&str], url: &str, ports: &[u16]) -> (Client, Vec<u16>) {
    let texts: Vec<String> = ports.iter().map(u16::to_string).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut client = Client::start(&[way, &["forward", url], &texts].concat());
    let mut lines = BufReader::new(client.child.stdout.take().unwrap());
    let local = ports.iter().map(|port| {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let (local, remote) = line.trim().split_once(' ').expect("two ports");
        assert_eq!(remote, port.to_string());
        local.parse().unwrap()
    });
    let local = local.collect();
    client.child.stdout = Some(lines.into_inner());
    (client, local)
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

#[test]
fn connections_go_side_by_side_each_way_to_its_end() {
    if client().is_none() {
        return;
    }
    let (server, ports) = (Fixture::start(), [echo(), echo()]);
    for way in [&[][..], &["-websocket"]] {
        let (client, local) = forward(way, &server.forward(&[]), &ports);
        // Open all the while, and used at last.
        let mut patient = connect(local[0]);
        let threads: Vec<_> = (0..12u8)
            .map(|number| {
                let mut stream = connect(local[usize::from(number) % 2]);
                std::thread::spawn(move || {
                    let sent = vec![number; (1 << 20) + usize::from(number)];
                    let (mut writer, bytes) = (stream.try_clone().unwrap(), sent.clone());
                    let writing = std::thread::spawn(move || {
                        writer.write_all(&bytes).unwrap();
                        writer.shutdown(Shutdown::Write).unwrap();
                    });
                    let mut received = Vec::new();
                    stream.read_to_end(&mut received).unwrap();
                    writing.join().unwrap();
                    let echoed = received.strip_suffix(b"farewell").expect("what comes after the client's end");
                    assert!(echoed == sent, "{} of {}", echoed.len(), sent.len());
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        patient.write_all(b"x").unwrap();
        patient.read_exact(&mut [0]).unwrap();
        let outcome = client.finish(b"");
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{way:?}");
    }
}

#[test]
fn many_connections_leave_no_stream_behind() {
    if client().is_none() {
        return;
    }
    let (server, port) = (Fixture::start(), echo());
    for way in [&[][..], &["-websocket"]] {
        let (client, local) = forward(way, &server.forward(&[]), &[port]);
        // More than there may be streams at once, two to a connection.
        for _ in 0..400 {
            let mut stream = connect(local[0]);
            stream.shutdown(Shutdown::Write).unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            assert_eq!(received, b"farewell");
        }
        let outcome = client.finish(b"");
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{way:?}");
    }
}

#[test]
fn a_port_that_refuses_is_told_on_the_error_stream() {
    if client().is_none() {
        return;
    }
    let server = Fixture::start();
    for way in [&[][..], &["-websocket"]] {
        let refused = closed();
        let (client, local) = forward(way, &server.forward(&[]), &[refused]);
        let received = connect(local[0]).read_to_end(&mut Vec::new());
        assert!(matches!(received, Ok(0) | Err(_)), "{received:?}");
        let outcome = client.wait();
        let expected =
            format!("error forwarding port {refused} to pod sandbox, uid : connecting to port {refused}: Conn");
        assert!(outcome.stderr.contains(&expected), "{way:?}: {}", outcome.stderr);
    }
}

/// A message of a client, masked with zeros.
fn message(payload: &[u8]) -> Vec<u8> {
    [&[0x82, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0], payload].concat()
}

#[test]
fn the_old_websocket_protocol_has_a_pair_of_channels_for_each_port() {
    let (server, port, refused) = (Fixture::start(), echo(), closed());
    for protocol in ["", "v4.channel.k8s.io"] {
        let mut stream = ask("GET", &server.forward(&[port, refused]), &web_socket(protocol));
        let answer = head(&mut stream);
        assert!(answer.starts_with("http/1.1 101 ") && answer.contains(protocol), "{answer}");
        assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "RFC 6455, 1.3: {answer}");
        stream.write_all(&message(b"\0hello")).unwrap();
        let (mut channels, until) = (vec![Vec::new(); 4], Instant::now() + DEADLINE);
        while channels[0].len() < 7 || channels[3].len() < 12 {
            assert!(Instant::now() < until, "{channels:?}");
            let mut start = [0; 2];
            stream.read_exact(&mut start).unwrap();
            let mut length = usize::from(start[1]);
            if length == 126 {
                let mut long = [0; 2];
                stream.read_exact(&mut long).unwrap();
                length = usize::from(u16::from_be_bytes(long));
            }
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).unwrap();
            assert_eq!(start[0], 0x82, "a binary message");
            channels[usize::from(payload[0])].extend_from_slice(&payload[1..]);
        }
        assert_eq!(channels[0], [&port.to_le_bytes()[..], b"hello"].concat());
        assert_eq!(channels[1], port.to_le_bytes());
        assert_eq!(channels[2], refused.to_le_bytes());
        let error = [&refused.to_le_bytes()[..], b"error forwarding port"].concat();
        assert!(channels[3].starts_with(&error[..12]), "{}", String::from_utf8_lossy(&channels[3]));
    }
    for ports in [vec![], vec![port; 128]] {
        let mut stream = ask("GET", &server.forward(&ports), &web_socket("v4.channel.k8s.io"));
        assert!(head(&mut stream).starts_with("http/1.1 400 "));
    }
}

const SYN_REPLY: u8 = 2;
const RST_STREAM: u8 = 3;

#[test]
fn a_stream_that_says_no_port_is_reset() {
    let server = Fixture::start();
    let mut client = Raw::open(&server.forward(&[]), "portforward.k8s.io");
    let cases: [&[(&str, &str)]; 7] = [
        &[],
        &[("streamtype", "data")],
        &[("streamtype", "data"), ("port", "0")],
        &[("streamtype", "data"), ("port", "65536")],
        &[("streamtype", "data"), ("port", "-1")],
        &[("port", "80")],
        &[("streamtype", "stdin"), ("port", "80")],
    ];
    for (number, headers) in cases.into_iter().enumerate() {
        let id = 2 * number as u32 + 1;
        client.syn(id, headers);
        assert_eq!(client.next(), (RST_STREAM, id, vec![0, 0, 0, 5]), "{headers:?}");
    }
    client.syn(99, &[("streamtype", "error"), ("port", "80")]);
    let (kind, stream, _) = client.next();
    assert_eq!((kind, stream), (SYN_REPLY, 99), "the connection goes on");
}

#[test]
fn streams_find_each_other_by_their_request_or_by_their_ids() {
    let (server, port) = (Fixture::start(), echo().to_string());
    let mut client = Raw::open(&server.forward(&[]), "portforward.k8s.io");
    let with = |kind, id| [("streamtype", kind), ("port", port.as_str()), ("requestid", id)];
    // Two at once, the second one's streams the other way round.
    client.syn(1, &with("error", "first"));
    client.syn(3, &with("data", "second"));
    client.syn(5, &with("error", "second"));
    client.syn(7, &with("data", "first"));
    // An old client's.
    client.syn(9, &with("error", "")[..2]);
    client.syn(11, &with("data", "")[..2]);
    for (data, text) in [(3, "b"), (7, "a"), (11, "c")] {
        client.last(data, text.as_bytes());
        assert_eq!(client.all_of(data), format!("{text}farewell"));
    }
    // One too many of a kind does not harm the one that waits.
    client.syn(13, &with("error", "third"));
    client.syn(15, &with("error", "third"));
    assert_eq!(client.all_of(15), "error processing stream for request third: error stream already assigned");
    client.syn(17, &with("data", "third"));
    client.last(17, b"");
    assert_eq!(client.all_of(17), "farewell");
}

#[test]
fn half_a_pair_is_not_waited_for() {
    let creation = Duration::from_millis(200);
    let server = Fixture::with(&Config { timeouts: Timeouts { creation, ..timeouts() }, ..Config::default() });
    let mut client = Raw::open(&server.forward(&[]), "portforward.k8s.io");
    client.syn(1, &[("streamtype", "error"), ("port", "80"), ("requestid", "7")]);
    assert_eq!(client.all_of(1), "(request=7) timed out waiting for streams");
    client.syn(3, &[("streamtype", "data"), ("port", "80"), ("requestid", "8")]);
    assert_eq!(client.all_of(3), "");
}
