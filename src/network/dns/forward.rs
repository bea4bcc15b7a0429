//! What is not ours is asked for elsewhere: of the host's name servers, in the host's network namespace.
//!
//! Packets go out as they came, with an identification and a port of their own, so that nobody can guess either. The same
//! question asked twice at the same time is sent once.

use super::message::{self, Query, Transport};
use crate::network::resolv::HostResolvers;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Result};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a server has for its answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a server that did not answer is asked after the others.
const REST: Duration = Duration::from_secs(10);

/// The longest packet of a server that is looked at, in bytes. It was asked for less.
const MAX_PACKET: usize = 4096;

/// What is given to whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The most queries that wait for an answer.
    pub(super) waiting: usize,
    /// The most of one client.
    pub(super) per_client: usize,
    /// The most that are asked over TCP at a time. An answer may have 64 KiB.
    pub(super) connections: usize,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// No server had one.
    NoServer,
    /// Too many wait for theirs.
    TooMany,
    /// A server of the host asks us what we asked it for.
    Circle,
}

/// Where the servers are from.
#[derive(Debug)]
pub(super) enum Source {
    /// The host's resolv.conf.
    Host(HostResolvers),
    /// These.
    #[cfg(test)]
    Fixed(Vec<SocketAddr>),
}

/// One question that servers are being asked: in which manner, and who waits.
struct Exchange {
    manner: (Transport, Box<[u8]>),
    waiting: Vec<oneshot::Sender<Option<Rc<[u8]>>>>,
}

/// Asks elsewhere.
pub(super) struct Forwarder {
    bounds: Bounds,
    source: RefCell<Source>,
    /// Addresses of ours, which are not asked.
    own: Vec<IpAddr>,
    /// Who did not answer, and until when that counts.
    silent: RefCell<HashMap<SocketAddr, Instant>>,
    /// Question → its exchanges.
    exchanges: RefCell<HashMap<Box<[u8]>, Vec<Exchange>>>,
    clients: RefCell<HashMap<IpAddr, usize>>,
    waiting: Cell<usize>,
    /// To servers, over TCP.
    connections: Cell<usize>,
    /// Keys from the kernel's random numbers; a counter makes each of its hashes another.
    random: (RandomState, Cell<u64>),
    packet: RefCell<Box<[u8]>>,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    /// A pod.
    Pod(IpAddr),
    /// The host, or somebody beyond it. Its own server may be among those.
    Host(IpAddr),
}

impl Client {
    pub(super) fn address(self) -> IpAddr {
        match self {
            Client::Pod(address) | Client::Host(address) => address,
        }
    }
}

/// A place among those that wait; given back when dropped.
struct Place<'f> {
    forwarder: &'f Forwarder,
    client: IpAddr,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.forwarder.waiting.update(|count| count - 1);
        let mut clients = self.forwarder.clients.borrow_mut();
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

impl Forwarder {
    pub(super) fn new(bounds: Bounds, source: Source, own: Vec<IpAddr>) -> Rc<Forwarder> {
        Rc::new(Forwarder {
            bounds,
            source: RefCell::new(source),
            own,
            silent: RefCell::default(),
            exchanges: RefCell::default(),
            clients: RefCell::default(),
            waiting: Cell::new(0),
            connections: Cell::new(0),
            random: (RandomState::new(), Cell::new(0)),
            packet: RefCell::new(vec![0; MAX_PACKET].into()),
        })
    }

    /// How many wait for an answer.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// Has a query of a client answered elsewhere.
    pub(super) async fn ask(
        self: &Rc<Self>,
        client: Client,
        query: &Query<'_>,
        transport: Transport,
    ) -> std::result::Result<Rc<[u8]>, Failure> {
        let _place = self.take_place(client.address())?;
        let (key, manner) = (query.key(), (transport, query.manner()));
        let answered = {
            let mut exchanges = self.exchanges.borrow_mut();
            let of_question = exchanges.entry(key.clone()).or_default();
            if !of_question.is_empty() && matches!(client, Client::Host(_)) {
                return Err(Failure::Circle);
            }
            let (sender, answered) = oneshot::channel();
            match of_question.iter_mut().find(|exchange| exchange.manner == manner) {
                Some(exchange) => exchange.waiting.push(sender),
                None => {
                    of_question.push(Exchange { manner: manner.clone(), waiting: vec![sender] });
                    tokio::task::spawn_local(Rc::clone(self).exchange(key, manner, query.forwarded()));
                }
            }
            answered
        };
        answered.await.ok().flatten().ok_or(Failure::NoServer)
    }

    fn take_place(&self, client: IpAddr) -> std::result::Result<Place<'_>, Failure> {
        let mut clients = self.clients.borrow_mut();
        let count = clients.get(&client).copied().unwrap_or_default();
        if count >= self.bounds.per_client || self.waiting.get() >= self.bounds.waiting {
            return Err(Failure::TooMany);
        }
        clients.insert(client, count + 1);
        self.waiting.update(|count| count + 1);
        Ok(Place { forwarder: self, client })
    }

    /// Asks for all who wait. It goes on when they have given up: the next who asks the same has it the sooner.
    async fn exchange(self: Rc<Self>, key: Box<[u8]>, manner: (Transport, Box<[u8]>), packet: Vec<u8>) {
        let answer = self.servers_answer(packet, manner.0).await.map(Rc::from);
        let mut exchanges = self.exchanges.borrow_mut();
        let Some(of_question) = exchanges.get_mut(&key) else { return };
        let position = of_question.iter().position(|exchange| exchange.manner == manner);
        let ended = position.map(|position| of_question.swap_remove(position));
        if of_question.is_empty() {
            exchanges.remove(&key);
        }
        for sender in ended.into_iter().flat_map(|exchange| exchange.waiting) {
            // Who is not there any more does without.
            let _ = sender.send(answer.clone());
        }
    }

    /// Asks one server after the other, until one has an answer that is more than a failure.
    async fn servers_answer(&self, mut packet: Vec<u8>, transport: Transport) -> Option<Vec<u8>> {
        let _connection = match transport {
            Transport::Udp => None,
            Transport::Tcp => Some(Connection::count(self)?),
        };
        let mut failure = None;
        for server in self.servers() {
            packet[..2].copy_from_slice(&self.random_number().to_be_bytes());
            let answer = match transport {
                Transport::Udp => timeout(PATIENCE, self.over_udp(server, &packet)).await,
                Transport::Tcp => timeout(PATIENCE, self.over_tcp(server, &packet)).await,
            };
            match answer.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
                Ok(answer) if is_failure(&answer) => failure = failure.or(Some(answer)),
                Ok(answer) => return Some(answer),
                Err(_) => {
                    self.silent.borrow_mut().insert(server, Instant::now() + REST);
                }
            }
        }
        failure
    }

    /// Whom to ask, in order: never ourselves, and who was silent lately last.
    fn servers(&self) -> Vec<SocketAddr> {
        let mut servers: Vec<SocketAddr> = match &mut *self.source.borrow_mut() {
            Source::Host(resolvers) => resolvers.servers().to_vec(),
            #[cfg(test)]
            Source::Fixed(list) => list.clone(),
        };
        servers.retain(|server| !self.own.contains(&server.ip()));
        let mut silent = self.silent.borrow_mut();
        let now = Instant::now();
        silent.retain(|server, until| *until > now && servers.contains(server));
        servers.sort_by_key(|server| silent.contains_key(server));
        servers
    }

    fn random_number(&self) -> u16 {
        let (keys, count) = &self.random;
        count.update(|count| count.wrapping_add(1));
        keys.hash_one(count.get()) as u16
    }

    async fn over_udp(&self, server: SocketAddr, packet: &[u8]) -> Result<Vec<u8>> {
        let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = UdpSocket::from_std(socket(family, SockType::Datagram, flags, None)?.into())?;
        // Gives it a random port, and has the kernel take only what is from this server.
        socket.connect(server).await?;
        socket.send(packet).await?;
        loop {
            socket.readable().await?;
            let mut buffer = self.packet.borrow_mut();
            match socket.try_recv(&mut buffer) {
                Ok(length) if message::is_answer(packet, &buffer[..length]) => return Ok(buffer[..length].to_vec()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn over_tcp(&self, server: SocketAddr, packet: &[u8]) -> Result<Vec<u8>> {
        let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        let mut stream = socket.connect(server).await?;
        stream.write_all(&super::framed(packet)).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        if message::is_answer(packet, &answer) { Ok(answer) } else { Err(ErrorKind::InvalidData.into()) }
    }
}

/// A connection to a server, counted as long as it is there.
struct Connection<'f>(&'f Cell<usize>);

impl Connection<'_> {
    /// `None` if there are too many.
    fn count(forwarder: &Forwarder) -> Option<Connection<'_>> {
        let connections = &forwarder.connections;
        (connections.get() < forwarder.bounds.connections).then(|| {
            connections.update(|count| count + 1);
            Connection(connections)
        })
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.0.update(|count| count - 1);
    }
}

/// SERVFAIL, NOTIMP, REFUSED: another server may know better (as the C libraries have it).
fn is_failure(answer: &[u8]) -> bool {
    [2, 4, 5].contains(&message::code(answer))
}
