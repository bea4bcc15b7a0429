//! What is hostile.

use super::elsewhere::Upstream;
use super::*;

/// Asks again when nothing comes, as resolvers do: where much is sent at once something is lost.
fn is_alive() {
    let socket = client(POD);
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let (since, mut buffer) = (Instant::now(), [0; 512]);
    loop {
        socket.send(&ask("db-0.ns.svc.cluster.local", A)).unwrap();
        if let Ok(length) = socket.recv(&mut buffer) {
            assert_eq!(addresses(&buffer[..length]), found(&["10.86.0.3"]));
            return;
        }
        assert!(since.elapsed() < PATIENCE);
    }
}

/// Numbers that look random and are the same each time (xorshift64).
fn random() -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

#[test]
fn ten_thousand_packets_of_noise() {
    in_a_network(|| {
        let _server = Running::start(3, &[]);
        let socket = client(POD);
        socket.set_nonblocking(true).unwrap();
        let mut next = random();
        let whole = with_opt(ask("_sql._tcp.db.ns.svc.cluster.local", 33), 1232, 0, 0);
        let mut buffer = [0; 65536];
        for round in 0..10_000 {
            let packet: Vec<u8> = if round % 2 == 0 {
                (0..next() % 600).map(|_| next() as u8).collect()
            } else {
                let mut packet = whole.clone();
                for _ in 0..1 + next() % 4 {
                    let at = next() as usize % packet.len();
                    packet[at] = next() as u8;
                }
                packet.truncate(packet.len() - (next() % 8) as usize);
                packet
            };
            let _ = socket.send(&packet);
            while let Ok(length) = socket.recv(&mut buffer) {
                assert!(buffer[2] & 0x80 != 0 && (12..=1232).contains(&length), "{:02x?}", &buffer[..length]);
            }
        }
        is_alive();
        let mut oversized = whole.clone();
        oversized.resize(60_000, 0);
        assert_eq!(message::code(&over_udp(POD, &oversized)), 1);
        is_alive();
    });
}

#[test]
fn connections_that_make_no_sense() {
    in_a_network(|| {
        let _server = Running::start(3, &[]);
        let ends = |bytes: &[u8]| {
            let mut stream = connect();
            stream.write_all(bytes).unwrap();
            let mut rest = Vec::new();
            let since = Instant::now();
            // It may be reset, as not all was read.
            let _ = stream.read_to_end(&mut rest);
            assert!(since.elapsed() < IDLE + Duration::from_secs(5));
            rest
        };
        assert!(ends(&[0xff; 1000]).is_empty(), "a length that no query has");
        assert!(ends(&framed(&[7; 5000])).is_empty(), "a query that is too long");
        let answer = ends(&framed(&[7; 40]));
        assert_eq!((answer.len(), answer[4] & 0x80), (14, 0x80), "an error, and the end when nothing more comes");
        assert!(ends(&[0, 40, 1]).is_empty(), "half a query");
        is_alive();
    });
}

#[test]
fn connections_are_counted() {
    in_a_network(|| {
        let _server = Running::start(3, &[]);
        let query = framed(&ask("db-0.ns.svc.cluster.local", A));
        let open = || -> Option<TcpStream> {
            let mut stream = connect();
            // One that is too many is closed.
            stream.write_all(&query).ok()?;
            let mut answer = [0; 2];
            stream.read_exact(&mut answer).ok()?;
            Some(stream)
        };
        let streams: Vec<Option<TcpStream>> = (0..MAX_CONNECTIONS_PER_CLIENT + 8).map(|_| open()).collect();
        assert_eq!(streams.iter().flatten().count(), MAX_CONNECTIONS_PER_CLIENT);
        is_alive();
        drop(streams);
        let since = Instant::now();
        while open().is_none() {
            assert!(since.elapsed() < PATIENCE, "there is room again");
        }
    });
}

#[test]
fn each_client_has_its_share_of_what_is_asked_elsewhere() {
    in_a_network(|| {
        let _silent = Upstream::silent(UPSTREAM);
        let _server = Running::start(3, &[UPSTREAM]);
        let socket = client(POD);
        let others = client("127.64.0.11:0");
        let over = 20;
        for number in 0..FORWARD.per_client + over {
            // One after the other: the kernel has room for some only.
            socket.send(&ask(&format!("{number}.example.com"), A)).unwrap();
            if number % 50 == 0 {
                is_alive();
            }
        }
        for _ in 0..over {
            assert_eq!(addresses(&receive(&socket)), FAILURE, "at once");
        }
        is_alive();
        others.send(&ask("other.example.com", A)).unwrap();
        others.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        assert!(others.recv(&mut [0; 512]).is_err(), "another client's is still being asked");
        others.set_read_timeout(Some(PATIENCE)).unwrap();
        for _ in 0..FORWARD.per_client {
            assert_eq!(addresses(&receive(&socket)), FAILURE);
        }
        assert_eq!(addresses(&receive(&others)), FAILURE);
        is_alive();
    });
}

#[test]
fn answers_that_nobody_takes_are_counted() {
    let server = Server::new(&view(0).network, Source::Fixed(Vec::new()));
    let client = |number: usize| IpAddr::from([10, 86, 0, number as u8]);
    let take = |number, held| Counted::new(&server, client(number), Share { connections: 0, held });
    let most = take(3, MAX_HELD_PER_CLIENT - 1);
    assert!(most.is_some() && take(3, 2).is_none() && take(3, 1).is_some(), "a client's share");
    assert!(Counted::new(&server, client(3), Share { connections: 1, held: 0 }).is_some(), "connections are another");
    let others: Vec<_> = (4..40).map_while(|number| take(number, MAX_HELD_PER_CLIENT)).collect();
    assert_eq!(others.len(), MAX_HELD / MAX_HELD_PER_CLIENT - 1, "all together");
    drop((most, others));
    assert!(take(3, MAX_HELD_PER_CLIENT).is_some());
    assert!(server.clients.borrow().is_empty(), "nothing is kept of who is gone");
}
