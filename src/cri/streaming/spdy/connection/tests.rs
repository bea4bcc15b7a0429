use super::super::frame::{Encoder, read_all};
use super::*;
use crate::cri::streaming::Timeouts;
use tokio::io::{AsyncReadExt, duplex};
use tokio::net::{TcpListener, TcpStream};

/// A client of frames.
struct Client {
    io: TcpStream,
    encoder: Encoder,
    received: Vec<u8>,
}

impl Client {
    async fn send(&mut self, frames: &[Frame]) {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| self.encoder.encode(frame, &mut bytes).unwrap());
        self.io.write_all(&bytes).await.unwrap();
    }

    /// All frames so far, when there are as many.
    async fn received(&mut self, count: usize) -> Vec<Frame> {
        loop {
            let (frames, _) = read_all(&self.received);
            if frames.len() >= count {
                return frames;
            }
            let mut buffer = [0; 1024];
            let read = timeout(Duration::from_secs(10), self.io.read(&mut buffer)).await;
            let read = read.unwrap_or_else(|_| panic!("{} of {count} frames", frames.len())).unwrap();
            assert!(read > 0, "it ended after {frames:?}");
            self.received.extend_from_slice(&buffer[..read]);
        }
    }
}

fn syn(stream: u32) -> Frame {
    Frame::SynStream { stream, fin: false, unidirectional: false, headers: Headers::new(&[("streamtype", "data")]) }
}

fn data(stream: u32, fin: bool, bytes: &[u8]) -> Frame {
    Frame::Data { stream, fin, bytes: Bytes::copy_from_slice(bytes) }
}

fn reset(stream: u32, status: Status) -> Frame {
    Frame::Reset { stream, status: status as u32 }
}

fn run(test: impl AsyncFnOnce(Connection, Client)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let timeouts = Timeouts { grace: Duration::from_millis(100), ..Timeouts::default() };
        let liveness = Arc::new(Liveness::of(&accepted, timeouts).unwrap());
        let connection = Connection::start(accepted, liveness).unwrap();
        test(connection, Client { io, encoder: Encoder::new().unwrap(), received: Vec::new() }).await;
    });
}

#[test]
fn a_stream_is_opened_used_and_ended_each_way() {
    run(async |mut connection, mut client| {
        client.send(&[syn(1), data(1, false, b"a"), data(1, true, b"b")]).await;
        let mut stream = connection.next().await.unwrap();
        assert_eq!(stream.headers.get("streamtype"), "data");
        stream.output.accept().await.unwrap();
        assert_eq!(stream.input.recv().await.unwrap(), "a");
        assert_eq!(stream.input.recv().await.unwrap(), "b");
        assert_eq!(stream.input.recv().await, None);
        stream.output.write("c".into()).await.unwrap();
        stream.output.finish().await.unwrap();
        stream.output.finish().await.unwrap();
        stream.output.write("d".into()).await.unwrap_err();
        let expected = [Frame::SynReply { stream: 1 }, data(1, false, b"c"), data(1, true, b"")];
        assert_eq!(client.received(3).await, expected);
        assert!(connection.shared.lock().is_empty(), "it is forgotten");
    });
}

#[test]
fn ids_are_odd_and_grow() {
    run(async |mut connection, mut client| {
        client.send(&[syn(5), syn(3), syn(5), syn(6), syn(7)]).await;
        for id in [5, 7] {
            assert_eq!(connection.next().await.unwrap().output.id(), id);
        }
        let error = |stream| reset(stream, Status::ProtocolError);
        assert_eq!(client.received(3).await, [error(3), error(5), error(6)]);
    });
}

#[test]
fn there_are_not_too_many_streams() {
    run(async |mut connection, mut client| {
        let mut streams = Vec::new();
        for number in 0..MAX_STREAMS as u32 {
            client.send(&[syn(2 * number + 1)]).await;
            streams.push(connection.next().await.unwrap());
        }
        let next = 2 * MAX_STREAMS as u32 + 1;
        client.send(&[syn(next)]).await;
        assert_eq!(client.received(1).await, [reset(next, Status::Refused)]);
        client.send(&[reset(1, Status::Cancel), syn(next + 2)]).await;
        assert_eq!(connection.next().await.unwrap().output.id(), next + 2);
        timeout(Duration::from_secs(10), streams[0].output.over()).await.expect("the client has reset it");
    });
}

#[test]
fn a_stream_that_nobody_reads_stops_its_client_until_it_goes() {
    run(async |mut connection, mut client| {
        client.send(&[syn(1)]).await;
        let stream = connection.next().await.unwrap();
        let piece = vec![0; MAX_PIECE];
        let sending = async {
            for _ in 0..10_000 {
                client.send(&[data(1, false, &piece)]).await;
            }
        };
        timeout(Duration::from_millis(500), sending).await.expect_err("160 MB were taken that nobody reads");
        assert!(stream.input.len() <= QUEUE);
        assert!(timeout(Duration::from_millis(200), connection.shared.liveness.gone()).await.is_err());
        drop(client);
        timeout(Duration::from_secs(10), connection.shared.liveness.gone()).await.expect("that it is gone is noticed");
        assert!(connection.next().await.is_none());
    });
}

#[test]
fn what_nobody_wants_is_dropped() {
    run(async |mut connection, mut client| {
        client.send(&[syn(1)]).await;
        let mut stream = connection.next().await.unwrap();
        let (_, none) = mpsc::channel(1);
        drop(std::mem::replace(&mut stream.input, none));
        let piece = vec![0; MAX_PIECE];
        for _ in 0..100 {
            client.send(&[data(1, false, &piece), data(99, false, &piece)]).await;
        }
        client.send(&[Frame::Ping { id: 2 }, Frame::Ping { id: 3 }]).await;
        assert_eq!(client.received(1).await, [Frame::Ping { id: 3 }]);
    });
}

#[test]
fn an_end_in_order_resets_what_is_open() {
    run(async |mut connection, mut client| {
        client.send(&[syn(1), syn(3)]).await;
        let (first, _second) = (connection.next().await.unwrap(), connection.next().await.unwrap());
        first.output.reset(Status::Cancel).await.unwrap();
        first.output.finish().await.unwrap();
        let closing = tokio::spawn(connection.close());
        let expected = [reset(1, Status::Cancel), reset(3, Status::Cancel), Frame::GoAway { last_good: 3 }];
        assert_eq!(client.received(3).await, expected);
        drop(client);
        timeout(Duration::from_secs(3), closing).await.expect("it does not wait for long").unwrap();
    });
}

#[test]
fn a_client_that_reads_nothing_is_not_written_to() {
    run(async |mut connection, mut client| {
        client.send(&[syn(1)]).await;
        let stream = connection.next().await.unwrap();
        let writing = async {
            for _ in 0..10_000 {
                stream.output.write(Bytes::from(vec![0; MAX_PIECE])).await.unwrap();
            }
        };
        timeout(Duration::from_millis(500), writing).await.expect_err("160 MB were taken that nobody reads");
    });
}

#[test]
fn bytes_that_end_early_end_every_stream() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let watched = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let liveness = Arc::new(Liveness::of(&watched, Timeouts::default()).unwrap());
        // Tunnelled: what is read is not the socket that is watched.
        let (near, mut far) = duplex(1024);
        let mut connection = Connection::start(near, Arc::clone(&liveness)).unwrap();
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new().unwrap();
        [syn(1), data(1, false, b"a")].iter().for_each(|frame| encoder.encode(frame, &mut bytes).unwrap());
        far.write_all(&bytes).await.unwrap();
        far.write_all(b"\0\0\0\x01\0\0\0\x09xy").await.unwrap();
        drop(far);
        let mut stream = connection.next().await.unwrap();
        for expected in ["a", "xy"] {
            assert_eq!(stream.input.recv().await.unwrap(), expected);
        }
        assert_eq!(stream.input.recv().await, None);
        liveness.gone().await;
        assert!(stream.output.write(Bytes::new()).await.is_err());
    });
}
