//! What is not ours.

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Another name server, in threads: what it makes of a query are packets that it sends. It is over when it is dropped.
pub(super) struct Upstream {
    address: String,
    is_over: Arc<AtomicBool>,
    /// The packets that it got over UDP, and where from.
    got: mpsc::Receiver<(Vec<u8>, SocketAddr)>,
    threads: Vec<JoinHandle<()>>,
}

/// What it is asked.
struct Asked<'q> {
    query: &'q [u8],
    transport: Transport,
    from: SocketAddr,
}

impl Upstream {
    fn start(at: &str, answer: impl Fn(&Asked<'_>) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Upstream {
        let (is_over, answer) = (Arc::new(AtomicBool::new(false)), Arc::new(answer));
        let (udp, tcp) = (UdpSocket::bind(at).unwrap(), std::net::TcpListener::bind(at).unwrap());
        let (got, gets) = mpsc::channel();
        let ends = is_over.clone();
        let packets = {
            let answer = Arc::clone(&answer);
            move || {
                let mut buffer = [0; 4096];
                while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                    if ends.load(Ordering::SeqCst) {
                        return;
                    }
                    // Nobody may want to know.
                    let _ = got.send((buffer[..length].to_vec(), from));
                    for packet in answer(&Asked { query: &buffer[..length], transport: Transport::Udp, from }) {
                        udp.send_to(&packet, from).unwrap();
                    }
                }
            }
        };
        let ends = is_over.clone();
        let connections = move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let (query, from) = (next_of(&stream), stream.peer_addr().unwrap());
                for packet in answer(&Asked { query: &query, transport: Transport::Tcp, from }) {
                    stream.write_all(&framed(&packet)).unwrap();
                }
            }
        };
        let threads = vec![std::thread::spawn(packets), std::thread::spawn(connections)];
        Upstream { address: at.into(), is_over, got: gets, threads }
    }

    /// One that has an address for every name.
    fn fine(at: &str) -> Upstream {
        Upstream::start(at, |asked| vec![fine(asked.query)])
    }

    /// One that says nothing.
    pub(super) fn silent(at: &str) -> Upstream {
        Upstream::start(at, |_| Vec::new())
    }

    /// One that has this code for every name.
    fn failing(at: &str, code: u8) -> Upstream {
        Upstream::start(at, move |asked| vec![reply(asked.query, (0x81, code), [0, 0, 0], &[])])
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes it up.
        let _ = UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[0], &self.address);
        drop(TcpStream::connect(&self.address));
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

fn fine(query: &[u8]) -> Vec<u8> {
    reply(query, (0x81, 0), [1, 0, 0], &ADDRESS)
}

fn theirs() -> (u8, Vec<String>) {
    found(&["192.0.2.7"])
}

#[test]
fn questions_of_others_names() {
    in_a_network(|| {
        let upstream = Upstream::fine(UPSTREAM);
        let _server = Running::start(1, &[UPSTREAM]);
        let query = ask("Www.Example.com", A);
        let answers: Vec<Vec<u8>> = (0..20).map(|_| over_udp(POD, &query)).collect();
        for answer in &answers {
            assert_eq!(addresses(answer), theirs());
            assert_eq!((&answer[..2], &answer[12..29]), (&query[..2], &query[12..29]), "its identification and case");
        }
        let got: Vec<_> = upstream.got.try_iter().collect();
        assert!(got.iter().all(|(packet, _)| packet[2..] == query[2..]), "as it came");
        let ids: std::collections::HashSet<_> = got.iter().map(|(packet, _)| packet[..2].to_vec()).collect();
        let ports: std::collections::HashSet<_> = got.iter().map(|(_, from)| from.port()).collect();
        assert!(got.len() == 20 && ids.len() > 15 && ports.len() > 15, "each with its own: {ids:?} {ports:?}");
        assert_eq!(addresses(&over_tcp(&query)), theirs());
        assert_eq!(upstream.got.try_iter().count(), 0, "what came by TCP is asked by TCP");
        let own = over_udp(POD, &ask("99.1.64.127.in-addr.arpa", 12));
        assert_eq!((message::code(&own), upstream.got.try_iter().count()), (3, 0), "ours is not asked for elsewhere");
    });
}

#[test]
fn the_target_of_an_external_name() {
    in_a_network(|| {
        let _upstream = Upstream::start(UPSTREAM, |asked| match asked.transport {
            // Too much for this.
            Transport::Udp => vec![reply(asked.query, (0x83, 0), [0, 0, 0], &[])],
            Transport::Tcp => vec![fine(asked.query)],
        });
        let _server = Running::start(1, &[UPSTREAM]);
        let answer = over_udp(POD, &ask("out.ns.svc.cluster.local", A));
        assert_eq!(addresses(&answer), theirs());
        let packet = simple_dns::Packet::parse(&answer).unwrap();
        assert_eq!(packet.answers[0].rdata.type_code(), simple_dns::TYPE::CNAME);
    });
}

#[test]
fn what_is_no_answer_does_not_count() {
    in_a_network(|| {
        let stranger = UdpSocket::bind("127.0.0.99:53").unwrap();
        let _upstream = Upstream::start(UPSTREAM, move |asked| {
            let right = fine(asked.query);
            let (mut id, mut name, mut kind) = (right.clone(), right.clone(), right.clone());
            id[1] ^= 1;
            name[14] ^= 1;
            kind[30] ^= 3;
            let lie = |mut packet: Vec<u8>| {
                *packet.last_mut().unwrap() = 66;
                packet
            };
            stranger.send_to(&lie(right.clone()), asked.from).unwrap();
            vec![lie(id), lie(name), lie(kind), vec![0; 3], Vec::new(), right]
        });
        let _server = Running::start(1, &[UPSTREAM]);
        assert_eq!(addresses(&over_udp(POD, &ask("www.example.com", A))), theirs());
    });
}

#[test]
fn answers_that_are_cut_are_passed_on_so() {
    in_a_network(|| {
        let _upstream = Upstream::start(UPSTREAM, |asked| vec![reply(asked.query, (0x83, 0), [0, 0, 0], &[])]);
        let _server = Running::start(1, &[UPSTREAM]);
        assert!(message::is_cut(&over_udp(POD, &ask("www.example.com", A))));
    });
}

#[test]
fn the_next_server_is_asked() {
    in_a_network(|| {
        let _second = Upstream::fine(SECOND);
        let server = Running::start(1, &["127.0.0.98:53", SECOND]);
        // Nobody is there: the kernel says so.
        assert_eq!(addresses(&over_udp(POD, &ask("a.example.com", A))), theirs());
        assert_eq!(addresses(&over_tcp(&ask("a.example.com", A))), theirs());
        drop(server);
        // Does not answer.
        let silent = Upstream::silent(UPSTREAM);
        let server = Running::start(1, &[UPSTREAM, SECOND]);
        let since = Instant::now();
        assert_eq!(addresses(&over_udp(POD, &ask("a.example.com", A))), theirs());
        assert!(since.elapsed() >= Duration::from_secs(2));
        let since = Instant::now();
        assert_eq!(addresses(&over_udp(POD, &ask("b.example.com", A))), theirs());
        assert!(since.elapsed() < Duration::from_secs(2), "the silent one is asked last for a while");
        drop((server, silent));
        // Says that it cannot.
        let _broken = Upstream::failing(UPSTREAM, 5);
        let _server = Running::start(1, &[UPSTREAM, SECOND]);
        assert_eq!(addresses(&over_udp(POD, &ask("a.example.com", A))), theirs());
    });
}

#[test]
fn no_server_answers() {
    in_a_network(|| {
        let server = Running::start(1, &[]);
        assert_eq!(addresses(&over_udp(POD, &ask("a.example.com", A))), FAILURE, "there is none");
        drop(server);
        let _silent = [Upstream::silent(UPSTREAM), Upstream::silent(SECOND)];
        let _server = Running::start(1, &[UPSTREAM, SECOND]);
        let since = Instant::now();
        let socket = client(POD);
        socket.send(&ask("a.example.com", A)).unwrap();
        // Meanwhile it answers others.
        assert_eq!(addresses(&over_udp(POD, &ask("db-0.ns.svc.cluster.local", A))), found(&["10.86.0.3"]));
        assert!(since.elapsed() < Duration::from_secs(2));
        assert_eq!(addresses(&receive(&socket)), FAILURE);
        assert!((4..6).contains(&since.elapsed().as_secs()), "two seconds each: {:?}", since.elapsed());
    });
}

#[test]
fn failures_are_told_as_they_are() {
    in_a_network(|| {
        let _upstream = Upstream::failing(UPSTREAM, 5);
        let _server = Running::start(1, &[UPSTREAM]);
        assert_eq!(message::code(&over_udp(POD, &ask("a.example.com", A))), 5);
    });
}

#[test]
fn circles() {
    in_a_network(|| {
        // A server of the host that asks us.
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let _upstream = Upstream::start(UPSTREAM, move |asked| {
            count.fetch_add(1, Ordering::SeqCst);
            let ours = over_udp("127.0.0.53:0", asked.query);
            vec![reply(asked.query, (0x81, message::code(&ours)), [0, 0, 0], &[])]
        });
        let server = Running::start(1, &[UPSTREAM]);
        let since = Instant::now();
        for name in ["a.example.com", "b.example.com", "out.ns.svc.cluster.local"] {
            assert_eq!(addresses(&over_udp(POD, &ask(name, A))), FAILURE, "{name}");
        }
        assert!(since.elapsed() < Duration::from_secs(2), "nobody waits: {:?}", since.elapsed());
        assert_eq!(asked.load(Ordering::SeqCst), 3);
        drop(server);
        // We ourselves are one of the host's servers.
        let _second = Upstream::fine(SECOND);
        let _server = Running::start(1, &[SERVER, SECOND]);
        let since = Instant::now();
        assert_eq!(addresses(&over_udp(POD, &ask("a.example.com", A))), theirs());
        assert!(since.elapsed() < Duration::from_secs(1));
    });
}

#[test]
fn the_same_question_is_asked_once() {
    in_a_network(|| {
        let upstream = Upstream::start(UPSTREAM, |asked| {
            std::thread::sleep(Duration::from_millis(500));
            vec![fine(asked.query)]
        });
        let _server = Running::start(1, &[UPSTREAM]);
        let sockets: Vec<UdpSocket> = (0..50).map(|_| client(POD)).collect();
        for (socket, name) in sockets.iter().zip(["a.example.com", "A.example.com"].into_iter().cycle()) {
            socket.send(&ask(name, A)).unwrap();
        }
        for (socket, name) in sockets.iter().zip(["a.example.com", "A.example.com"].into_iter().cycle()) {
            let answer = receive(socket);
            assert_eq!(addresses(&answer), theirs());
            assert_eq!(answer[12..28], ask(name, A)[12..28]);
        }
        assert_eq!(upstream.got.try_iter().count(), 1);
    });
}
