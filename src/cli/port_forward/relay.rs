//! One connection: what one end says is said to the other.

use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

/// Bytes on their way in one direction.
const BUFFER: usize = 16 << 10;

/// Which end went wrong.
enum Side {
    Client,
    Pod,
}

/// Passes on what either end says until both have said all; one may go on after the other's end. What goes wrong at the
/// pod's end is an error; a client may go when it likes.
pub(super) async fn relay(mut client: TcpStream, mut pod: TcpStream) -> io::Result<()> {
    for stream in [&client, &pod] {
        stream.set_nodelay(true)?;
    }
    let (from_client, to_client) = client.split();
    let (from_pod, to_pod) = pod.split();
    let there = pass((from_client, Side::Client), (to_pod, Side::Pod));
    let back = pass((from_pod, Side::Pod), (to_client, Side::Client));
    let Err((side, error)) = futures_util::future::try_join(there, back).await else { return Ok(()) };
    // Aborted, not ended: the other end must not take what it has for all there was.
    for stream in [&client, &pod] {
        stream.set_zero_linger()?;
    }
    match side {
        Side::Client => Ok(()),
        Side::Pod => Err(error),
    }
}

async fn pass(
    (mut from, source): (ReadHalf<'_>, Side),
    (mut to, sink): (WriteHalf<'_>, Side),
) -> Result<(), (Side, io::Error)> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => {
                if let Err(error) = to.write_all(&buffer[..count]).await {
                    return Err((sink, error));
                }
            }
            Err(error) => return Err((source, error)),
        }
    }
    match to.shutdown().await {
        // It is gone altogether, which the other direction tells.
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err((sink, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::time::Duration;

    /// A client, the pod's end, and what the relay between them comes to.
    fn connected() -> (std::net::TcpStream, std::net::TcpStream, std::thread::JoinHandle<io::Result<()>>) {
        let listeners = [0, 1].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let ends = listeners.each_ref().map(|l| std::net::TcpStream::connect(l.local_addr().unwrap()).unwrap());
        let inner = listeners.map(|l| l.accept().unwrap().0);
        let relaying = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let [client, pod] = inner.map(|stream| {
                    stream.set_nonblocking(true).unwrap();
                    TcpStream::from_std(stream).unwrap()
                });
                relay(client, pod).await
            })
        });
        let [client, pod] = ends;
        for end in [&client, &pod] {
            end.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        }
        (client, pod, relaying)
    }

    #[test]
    fn either_end_may_have_said_all_first() {
        let (mut first, mut second, relaying) = connected();
        first.write_all(b"question").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        second.read_to_string(&mut text).unwrap();
        assert_eq!(text, "question");
        second.write_all(b"answer").unwrap();
        second.shutdown(Shutdown::Write).unwrap();
        text.clear();
        first.read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer");
        relaying.join().unwrap().unwrap();
        let (mut first, mut second, relaying) = connected();
        second.shutdown(Shutdown::Write).unwrap();
        text.clear();
        first.read_to_string(&mut text).unwrap();
        first.write_all(b"late").unwrap();
        drop(first);
        second.read_to_string(&mut text).unwrap();
        assert_eq!(text, "late");
        relaying.join().unwrap().unwrap();
    }

    #[test]
    fn an_aborted_connection_is_aborted_at_the_other_end() {
        let abort = |stream: std::net::TcpStream| {
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).unwrap();
        };
        let (mut client, pod, relaying) = connected();
        client.write_all(b"x").unwrap();
        abort(pod);
        let error = client.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(relaying.join().unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let (client, mut pod, relaying) = connected();
        abort(client);
        assert_eq!(pod.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(relaying.join().unwrap().is_ok(), "a client may go");
    }
}
