//! The name server: answers questions about the pods and Services of a network, and has all others answered by the host's own
//! name servers.
//!
//! It takes sockets that listen, the directory which a [`View`](super::view::View) is read from, and makes its sockets to other
//! servers in the network namespace that it runs in. One thread; nothing is written but to sockets. What it reads there is
//! hostile: the count and length of everything is bounded, and a packet that makes no sense gets an error or nothing.

mod forward;
pub mod message;
mod watch;

use super::link::{LinkMonitor, LinkName, veth_name};
use super::names::{Names, Question};
use super::view::View;
use crate::paths::NetworkDir;
use crate::plan::network::{BridgeNetwork, Subnet};
use crate::sys::{Called, SysResult, poll};
use anyhow::Result;
use forward::{Bounds, Client, Failure, Forwarder, Source};
use futures_util::FutureExt;
use futures_util::future::{Either, pending, select, select_all};
use message::{Code, MAX_QUERY, Read, Transport};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};

/// The port of name servers.
pub const PORT: u16 = 53;

/// How long a connection may be without a query, and how long one may take to come or an answer to go.
const IDLE: Duration = Duration::from_secs(10);

const FORWARD: Bounds = Bounds { waiting: 1024, per_client: 256, connections: 64 };
/// Connections of clients.
const MAX_CONNECTIONS: usize = 512;
const MAX_CONNECTIONS_PER_CLIENT: usize = 32;
/// Queries of one connection that are worked on at a time.
const MAX_PIPELINED: usize = 16;
/// Answers that connections have not taken yet, in bytes.
const MAX_HELD: usize = 16 << 20;
const MAX_HELD_PER_CLIENT: usize = 1 << 20;

/// The most descriptors that it takes.
pub const MAX_DESCRIPTORS: u64 = 2048;
const _: () = assert!(FORWARD.waiting + MAX_CONNECTIONS + 64 < MAX_DESCRIPTORS as usize);

/// Sockets that listen, for packets and for connections.
#[derive(Debug)]
pub struct Sockets {
    udp: Vec<std::net::UdpSocket>,
    tcp: Vec<std::net::TcpListener>,
}

impl Sockets {
    /// Binds them to these addresses, in the network namespace of the calling thread. They stay in that.
    pub fn bind(addresses: &[SocketAddr]) -> SysResult<Sockets> {
        let mut sockets = Sockets { udp: Vec::new(), tcp: Vec::new() };
        for address in addresses {
            let udp = std::net::UdpSocket::bind(address).called("bind", format_args!("{address}/udp"))?;
            udp.set_nonblocking(true).called("ioctl FIONBIO", address)?;
            let tcp = std::net::TcpListener::bind(address).called("bind", format_args!("{address}/tcp"))?;
            tcp.set_nonblocking(true).called("ioctl FIONBIO", address)?;
            sockets.udp.push(udp);
            sockets.tcp.push(tcp);
        }
        Ok(sockets)
    }
}

/// What is to be done with a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// To send this.
    Send(Vec<u8>),
    /// To ask another server.
    Ask,
    /// Nothing.
    Nothing,
}

/// What is to be done with a packet of somebody, as far as these names tell. `turn` is which of several records comes first.
/// Pure.
pub fn at_once(names: &Names, (turn, asker): (usize, Option<IpAddr>), packet: &[u8], transport: Transport) -> Next {
    let query = match message::read(packet) {
        Read::Nothing => return Next::Nothing,
        Read::Fault(answer) => return Next::Send(answer),
        Read::Query(query) => query,
    };
    match names.answer(Question { asker, ..query.asked() }, turn) {
        Some(answer) if answer.elsewhere.is_some() => Next::Ask,
        Some(answer) => Next::Send(query.answer(&answer, None, transport)),
        None if message::is_transfer(query.asked().kind) => Next::Send(query.fault(Code::Refused)),
        None => Next::Ask,
    }
}

/// Why the server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The network is gone.
    NoNetwork,
    /// No pod is on it any more.
    NoPods,
    /// The bridge is gone, or this server's link to it.
    NoLink,
}

/// A name server at work.
struct Server {
    names: RefCell<Rc<Names>>,
    /// Where pods are.
    pods: Vec<Subnet>,
    /// Addresses there that are none of pods.
    others: Vec<IpAddr>,
    forwarder: Rc<Forwarder>,
    turn: Cell<usize>,
    /// Clients that are connected.
    clients: RefCell<HashMap<IpAddr, Share>>,
}

/// What a client has of what there is for all.
#[derive(Debug, Default, Clone, Copy)]
struct Share {
    connections: usize,
    /// Bytes of answers.
    held: usize,
}

/// A name server that is about to work.
#[derive(Debug)]
pub struct Start {
    /// Where it listens.
    pub sockets: Sockets,
    /// Where it reads the view from, again whenever that changes.
    pub directory: NetworkDir,
    /// The network, which does not change.
    pub network: BridgeNetwork,
    /// The links without which it is of no use.
    pub links: Vec<LinkMonitor>,
}

/// What the name server's link to a bridge is called, at the host's end.
pub fn link_name(network: &BridgeNetwork) -> LinkName {
    veth_name(&format!("the name server of {}", network.bridge))
}

impl Start {
    /// Answers questions, until it is not needed any more. `ready` is called when the first answer can be given.
    ///
    /// # Errors
    /// What is wrong with sockets or inotify. A view that cannot be read is none: the last one stays.
    pub fn serve(self, ready: impl FnOnce() -> Result<()>) -> Result<Ended> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.called("epoll_create1", "the event loop")?;
        let source = Source::Host(super::resolv::HostResolvers::default());
        tokio::task::LocalSet::new().block_on(&runtime, self.work(source, ready))
    }

    async fn work(self, source: Source, ready: impl FnOnce() -> Result<()>) -> Result<Ended> {
        let server = Server::new(&self.network, source);
        let mut changes = watch::Changes::new(&self.directory)?;
        if let Some(view) = View::read(&self.directory)? {
            server.learn(&view);
        }
        for socket in self.sockets.udp {
            let socket = Rc::new(UdpSocket::from_std(socket).called("epoll_ctl", "a UDP socket")?);
            tokio::task::spawn_local(Rc::clone(&server).packets(socket));
        }
        for listener in self.sockets.tcp {
            let listener = TcpListener::from_std(listener).called("epoll_ctl", "a TCP socket")?;
            tokio::task::spawn_local(Rc::clone(&server).accept(listener));
        }
        let lost = self.links.into_iter().map(|link| lost(link).boxed_local());
        let links = lost.chain([pending().boxed_local()]);
        ready()?;
        let follow = pin!(server.follow(&self.directory, &mut changes));
        match select(follow, select_all(links)).await {
            Either::Left((ended, _)) => ended,
            Either::Right(((lost, ..), _)) => lost.map(|()| Ended::NoLink).map_err(Into::into),
        }
    }
}

/// Waits until a link is gone.
async fn lost(mut link: LinkMonitor) -> SysResult<()> {
    let readable = poll::readable(link.as_fd())?;
    loop {
        let mut ready = readable.readable().await.called("epoll_wait", "NETLINK_ROUTE")?;
        if link.is_gone()? {
            return Ok(());
        }
        // All has been read.
        ready.clear_ready();
    }
}

/// How long there may be no pod at the beginning: the first one may still be on its way.
const FIRST_POD: Duration = Duration::from_secs(10);

/// How long until a view is read again that could not be.
const RETRY: Duration = Duration::from_secs(1);

impl Server {
    /// One that does not know a name yet.
    fn new(network: &BridgeNetwork, source: Source) -> Rc<Server> {
        Rc::new(Server {
            names: RefCell::default(),
            pods: network.pods.clone(),
            others: network.gateways().map(|(address, _)| address).chain(network.name_servers()).collect(),
            forwarder: Forwarder::new(FORWARD, source, network.name_servers().collect()),
            turn: Cell::new(0),
            clients: RefCell::default(),
        })
    }

    fn learn(&self, view: &View) {
        *self.names.borrow_mut() = Rc::new(Names::new(view));
    }

    /// Reads the view whenever it changes, until there is no network or nobody on it any more.
    async fn follow(&self, directory: &NetworkDir, changes: &mut watch::Changes) -> Result<Ended> {
        let mut first_pod = pin!(sleep(FIRST_POD));
        let mut had_pods = false;
        loop {
            // One that cannot be read stays as it was, and is tried again though nothing says that it has changed.
            let wait = match View::read(directory) {
                Ok(None) => return Ok(Ended::NoNetwork),
                Ok(Some(view)) => {
                    self.learn(&view);
                    let has_pods = !view.members.is_empty();
                    if !has_pods && (had_pods || first_pod.is_elapsed()) {
                        return Ok(Ended::NoPods);
                    }
                    had_pods |= has_pods;
                    Duration::MAX
                }
                Err(_) => RETRY,
            };
            let changed = pin!(timeout(wait, changes.next(directory)));
            if had_pods {
                changed.await.unwrap_or(Ok(()))?;
            } else if let Either::Left((changed, _)) = select(changed, first_pod.as_mut()).await {
                changed.unwrap_or(Ok(()))?;
            }
        }
    }

    fn client(&self, address: IpAddr) -> Client {
        let is_pod = self.pods.iter().any(|subnet| subnet.contains(address)) && !self.others.contains(&address);
        if is_pod { Client::Pod(address) } else { Client::Host(address) }
    }

    fn at_once(&self, asker: IpAddr, packet: &[u8], transport: Transport) -> Next {
        self.turn.update(|turn| turn.wrapping_add(1));
        at_once(&self.names.borrow(), (self.turn.get(), Some(asker)), packet, transport)
    }

    /// The answer to a packet that another server is to be asked about.
    async fn later(&self, client: Client, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let Read::Query(query) = message::read(packet) else { return None };
        let names = Rc::clone(&self.names.borrow());
        let answered = match names.answer(query.asked(), self.turn.get()) {
            None => {
                let answer = self.forwarder.ask(client, &query, transport).await;
                answer.map(|answer| query.passed_on(&answer, transport))
            }
            Some(answer) => match answer.elsewhere {
                Some(target) => {
                    let rest = self.lead(client, target, query.asked().kind).await;
                    rest.map(|rest| query.answer(&answer, Some(&rest), transport))
                }
                // It was an alias a moment ago.
                None => Ok(query.answer(&answer, None, transport)),
            },
        };
        Some(answered.unwrap_or_else(|_| query.fault(Code::Failure)))
    }

    /// What an alias leads to, as another server says.
    async fn lead(&self, client: Client, target: &str, kind: u16) -> Result<Rc<[u8]>, Failure> {
        let packet = message::query(target, kind).ok_or(Failure::NoServer)?;
        let Read::Query(query) = message::read(&packet) else { return Err(Failure::NoServer) };
        let answer = self.forwarder.ask(client, &query, Transport::Udp).await?;
        if message::is_cut(&answer) { self.forwarder.ask(client, &query, Transport::Tcp).await } else { Ok(answer) }
    }

    /// Answers the packets of a UDP socket.
    async fn packets(self: Rc<Self>, socket: Rc<UdpSocket>) {
        // One more than a query may have, so that a longer one is seen to be.
        let mut buffer = vec![0; MAX_QUERY + 1];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
                // Not at once again: it might be so for long.
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            let packet = &buffer[..length];
            match self.at_once(from.ip(), packet, Transport::Udp) {
                // Who cannot be reached asks again.
                Next::Send(answer) => drop(socket.try_send_to(&answer, from)),
                Next::Nothing => {}
                Next::Ask if self.forwarder.waiting() >= FORWARD.waiting => {
                    if let Read::Query(query) = message::read(packet) {
                        drop(socket.try_send_to(&query.fault(Code::Failure), from));
                    }
                }
                Next::Ask => {
                    let (server, socket, packet) = (Rc::clone(&self), Rc::clone(&socket), packet.to_vec());
                    tokio::task::spawn_local(async move {
                        let client = server.client(from.ip());
                        if let Some(answer) = server.later(client, &packet, Transport::Udp).await {
                            drop(socket.try_send_to(&answer, from));
                        }
                    });
                }
            }
        }
    }

    /// Accepts connections; those that are too many are closed.
    async fn accept(self: Rc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, from)) = listener.accept().await else {
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            let one = Share { connections: 1, held: 0 };
            let Some(counted) = Counted::new(&self, from.ip(), one) else { continue };
            let client = self.client(from.ip());
            tokio::task::spawn_local(Rc::clone(&self).connection(stream, client, counted));
        }
    }

    /// Answers the queries of a connection, each as soon as its answer is there (RFC 7766).
    async fn connection(self: Rc<Self>, stream: TcpStream, client: Client, counted: Counted) {
        // A short answer is not to wait for more.
        let _ = stream.set_nodelay(true);
        let (mut reader, writer) = stream.into_split();
        // It ends when nobody reads from it or writes to it any more.
        let writer = Rc::new((Mutex::new(writer), counted));
        let places = Arc::new(Semaphore::new(MAX_PIPELINED));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let query = async {
                let length = usize::from(reader.read_u16().await.ok()?);
                let mut packet = vec![0; Some(length).filter(|length| *length <= MAX_QUERY)?];
                reader.read_exact(&mut packet).await.ok()?;
                Some(packet)
            };
            let Ok(Some(packet)) = timeout(IDLE, query).await else { return };
            let (server, writer) = (Rc::clone(&self), Rc::clone(&writer));
            tokio::task::spawn_local(async move {
                let answer = match server.at_once(client.address(), &packet, Transport::Tcp) {
                    Next::Send(answer) => Some(answer),
                    Next::Nothing => None,
                    Next::Ask => server.later(client, &packet, Transport::Tcp).await,
                };
                let held = answer.as_ref().map_or(0, Vec::len);
                let counted = Counted::new(&server, client.address(), Share { connections: 0, held });
                match answer {
                    Some(answer) if counted.is_some() => send(&writer.0, answer).await,
                    // It leaves its answers lying: it gets no more.
                    Some(answer) => {
                        drop(answer);
                        let _ = writer.0.lock().await.shutdown().await;
                    }
                    None => {}
                }
                drop(place);
            });
        }
    }
}

/// Sends an answer; a client that does not take it gets no more.
async fn send(writer: &Mutex<OwnedWriteHalf>, answer: Vec<u8>) {
    let mut writer = writer.lock().await;
    if !matches!(timeout(IDLE, writer.write_all(&framed(&answer))).await, Ok(Ok(()))) {
        let _ = writer.shutdown().await;
    }
}

/// A packet after its length, as it goes over TCP. None is longer than that can say.
fn framed(packet: &[u8]) -> Vec<u8> {
    let length = packet.len() as u16;
    [&length.to_be_bytes(), packet].concat()
}

/// A part of a client's share, which it has until this is dropped.
struct Counted {
    server: Rc<Server>,
    client: IpAddr,
    part: Share,
}

impl Counted {
    /// `None` if that is too much, of this client's or of all together.
    fn new(server: &Rc<Server>, client: IpAddr, part: Share) -> Option<Counted> {
        let mut clients = server.clients.borrow_mut();
        let plus =
            |share: Share| Share { connections: share.connections + part.connections, held: share.held + part.held };
        let total = clients.values().fold(Share::default(), |sum, share| Share {
            connections: sum.connections + share.connections,
            held: sum.held + share.held,
        });
        let own = plus(clients.get(&client).copied().unwrap_or_default());
        let is_within = |share: Share, connections, held| share.connections <= connections && share.held <= held;
        if !is_within(own, MAX_CONNECTIONS_PER_CLIENT, MAX_HELD_PER_CLIENT)
            || !is_within(plus(total), MAX_CONNECTIONS, MAX_HELD)
        {
            return None;
        }
        clients.insert(client, own);
        Some(Counted { server: Rc::clone(server), client, part })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut clients = self.server.clients.borrow_mut();
        if let Some(share) = clients.get_mut(&self.client) {
            share.connections -= self.part.connections;
            share.held -= self.part.held;
            if share.connections == 0 && share.held == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests;
