//! A name server on real sockets, as root, in a network namespace that each test makes; other servers are threads of the test.

mod bounds;
mod changes;
mod elsewhere;

use super::message::tests::{ADDRESS, ask, reply, view, with_opt};
use super::*;
use crate::network::view::{Member, SERVICES};
use nix::sched::{CloneFlags, unshare};
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

const A: u16 = 1;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the name server is, and a pod: every address of 127.0.0.0/8 is the loopback interface's.
const SERVER: &str = "127.64.0.2:53";
const POD: &str = "127.64.0.10:0";
/// Other name servers.
const UPSTREAM: &str = "127.0.0.53:53";
const SECOND: &str = "127.0.0.54:53";

/// Runs a test in a network namespace of its own, in a thread: a test may run in the main one.
fn in_a_network(test: impl FnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        let skip = std::env::var("PODSHIM_MAY_SKIP").unwrap_or_default();
        assert!(skip.split([',', ' ']).any(|w| w == "root"), "needs root (or PODSHIM_MAY_SKIP=root)");
        return;
    }
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        crate::sys::net::loopback_up().unwrap();
        test();
    };
    if let Err(panic) = std::thread::scope(|scope| scope.spawn(run).join()) {
        std::panic::resume_unwind(panic);
    }
}

/// A name server at work in a thread, and the files of its network.
struct Running {
    files: tempfile::TempDir,
    thread: Option<JoinHandle<Result<Ended>>>,
}

impl Running {
    /// With pods `db-0`… of a headless Service, which asks these servers.
    fn start(pods: u32, servers: &[&str]) -> Running {
        let files = tempfile::tempdir().unwrap();
        for directory in ["members", SERVICES] {
            std::fs::create_dir(files.path().join(directory)).unwrap();
        }
        let mut view = view(pods);
        view.network.pods = vec!["127.64.0.0/16".parse().unwrap()];
        for member in &view.members {
            put(&files.path().join(format!("members/{}.json", member.uid)), member);
        }
        for service in &view.services {
            put(&files.path().join(format!("services/ns_{}.json", service.metadata.name.as_deref().unwrap())), service);
        }
        put(&files.path().join("network.json"), &view.network);
        let start = Start {
            sockets: Sockets::bind(&[SERVER.parse().unwrap()]).unwrap(),
            directory: NetworkDir(files.path().into()),
            network: view.network,
            links: Vec::new(),
        };
        let source = Source::Fixed(servers.iter().map(|server| server.parse().unwrap()).collect());
        let (ready, is_ready) = mpsc::channel();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
            let say = move || Ok(ready.send(())?);
            tokio::task::LocalSet::new().block_on(&runtime, start.work(source, say))
        };
        let thread = std::thread::spawn(serve);
        is_ready.recv_timeout(PATIENCE).expect("it gets ready");
        Running { files, thread: Some(thread) }
    }

    fn member(&self, number: u32) -> (std::path::PathBuf, Member) {
        (self.files.path().join(format!("members/{number:08}.json")), view(number + 1).members.remove(number as usize))
    }

    fn ended(&mut self) -> Ended {
        self.thread.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        std::fs::remove_file(self.files.path().join("network.json")).unwrap();
        let ended = thread.join();
        if !std::thread::panicking() {
            assert_eq!(ended.unwrap().unwrap(), Ended::NoNetwork);
        }
    }
}

/// Writes a file as podshim does: it is there all at once.
fn put(path: &Path, value: &impl serde::Serialize) {
    let unfinished = path.with_extension("new");
    std::fs::write(&unfinished, serde_json::to_vec(value).unwrap()).unwrap();
    std::fs::rename(unfinished, path).unwrap();
}

/// A socket of a pod, or of whoever has that address, connected to the name server.
fn client(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.connect(SERVER).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65536];
    let length = socket.recv(&mut buffer).expect("an answer");
    buffer.truncate(length);
    buffer
}

fn over_udp(from: &str, query: &[u8]) -> Vec<u8> {
    let socket = client(from);
    socket.send(query).unwrap();
    receive(&socket)
}

fn connect() -> TcpStream {
    let stream = TcpStream::connect(SERVER).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn next_of(mut stream: &TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("an answer");
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).unwrap();
    answer
}

fn over_tcp(query: &[u8]) -> Vec<u8> {
    let mut stream = connect();
    stream.write_all(&framed(query)).unwrap();
    next_of(&stream)
}

/// The code of an answer, and the addresses in it.
fn addresses(answer: &[u8]) -> (u8, Vec<String>) {
    let packet = simple_dns::Packet::parse(answer).unwrap();
    let mut list: Vec<String> = packet
        .answers
        .iter()
        .filter_map(|record| match &record.rdata {
            simple_dns::rdata::RData::A(a) => Some(std::net::Ipv4Addr::from(a.address).to_string()),
            _ => None,
        })
        .collect();
    list.sort();
    (message::code(answer), list)
}

const FAILURE: (u8, Vec<String>) = (2, Vec::new());

fn found(list: &[&str]) -> (u8, Vec<String>) {
    (0, list.iter().map(|text| (*text).to_owned()).collect())
}

#[test]
fn answers_over_both_transports() {
    in_a_network(|| {
        let _server = Running::start(50, &[]);
        for name in ["db-7.db.ns.svc.cluster.local", "DB-7.ns.SVC.cluster.local"] {
            assert_eq!(addresses(&over_udp(POD, &ask(name, A))), found(&["10.86.0.10"]), "{name}");
            assert_eq!(addresses(&over_tcp(&ask(name, A))), found(&["10.86.0.10"]), "{name}");
        }
        let all = ask("db.ns.svc.cluster.local", A);
        let part = over_udp(POD, &all);
        assert!(message::is_cut(&part) && addresses(&part).1.len() > 20);
        assert_eq!(addresses(&over_tcp(&all)).1.len(), 50);
        let nobody = over_udp(POD, &with_opt(ask("nobody.ns.svc.cluster.local", A), 4096, 0, 0));
        assert_eq!(addresses(&nobody), (3, Vec::new()));
        // Several over one connection, at once.
        let mut stream = connect();
        let queries: Vec<u8> = (0..30u8)
            .flat_map(|id| {
                let mut query = ask("db-1.ns.svc.cluster.local", A);
                query[1] = id;
                framed(&query)
            })
            .collect();
        stream.write_all(&queries).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut ids: Vec<u8> = (0..30).map(|_| next_of(&stream)[1]).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..30).collect::<Vec<u8>>());
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it ends with its last answer");
    });
}

#[test]
fn several_addresses_take_turns() {
    in_a_network(|| {
        let _server = Running::start(3, &[]);
        let first = || {
            let answer = over_udp(POD, &ask("db.ns.svc.cluster.local", A));
            let packet = simple_dns::Packet::parse(&answer).unwrap();
            format!("{:?}", packet.answers[0].rdata)
        };
        let firsts: std::collections::HashSet<String> = (0..3).map(|_| first()).collect();
        assert_eq!(firsts.len(), 3, "{firsts:?}");
    });
}
