//! A server whose containers are this machine's processes, and its clients.

pub(crate) use crate::streamclient::client;
use anyhow::{Context, Result};
use futures_util::FutureExt;
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use podshim::cri::streaming::{
    Attach, Backend, Config, Ends, Exec, PortForward, Process, Request, Server, Streams, Timeouts,
};
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long anything may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Runs commands as they are; a container that is attached to is a shell's script.
struct Local {
    ended: Sender<i32>,
    /// Told when a process is let go of.
    released: Sender<()>,
}

/// Tells when it is dropped.
struct Released(Sender<()>);

impl Drop for Released {
    fn drop(&mut self) {
        // A test that does not ask has no receiver any more.
        let _ = self.0.send(());
    }
}

impl Local {
    fn start(&self, command: &[String], streams: Streams) -> Result<Process> {
        let mut child = Command::new(&command[0]);
        child.args(&command[1..]);
        let (child, ends) = if streams.tty {
            let (master, slave) = terminal()?;
            let mut child = Command::new("setsid");
            child.args(["--ctty", "--wait"]).args(command);
            child.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
            (child.spawn()?, Ends::Terminal(master))
        } else {
            child.stdin(if streams.stdin { Stdio::piped() } else { Stdio::null() });
            child.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = child.spawn().with_context(|| format!("starting {}", command[0]))?;
            let stdin = child.stdin.take().map(Into::into);
            let (stdout, stderr) = (child.stdout.take().map(Into::into), child.stderr.take().map(Into::into));
            (child, Ends::Pipes { stdin, stdout, stderr })
        };
        let (tell, told) = oneshot::channel();
        let (ended, released) = (self.ended.clone(), Released(self.released.clone()));
        std::thread::spawn(move || {
            let mut child = child;
            let status = child.wait().unwrap();
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
            let _ = (ended.send(code), tell.send(code));
        });
        let exit = async move {
            let _released = released;
            told.await.context("waiting")
        };
        Ok(Process { ends, exit: exit.boxed() })
    }
}

/// openpty(3), but close-on-exec from the beginning: other tests start processes meanwhile, which would keep it open.
fn terminal() -> Result<(OwnedFd, File)> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let mut options = File::options();
    options.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits());
    let slave = options.open(ptsname_r(&master)?)?;
    Ok((master.as_fd().try_clone_to_owned()?, slave))
}

impl Backend for Local {
    async fn exec(&self, request: &Exec) -> Result<Process> {
        self.start(&request.command, request.streams)
    }

    async fn attach(&self, request: &Attach) -> Result<Process> {
        self.start(&["sh".into(), "-c".into(), request.container_id.clone()], request.streams)
    }

    async fn connect(&self, sandbox_id: &str, port: u16) -> Result<tokio::net::TcpStream> {
        assert_eq!(sandbox_id, "sandbox");
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.with_context(|| format!("connecting to port {port}"))
    }
}

/// A server in a thread of its own.
pub(crate) struct Fixture {
    pub(crate) server: Arc<Server>,
    ended: Receiver<i32>,
    released: Receiver<()>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The server's own, but short where a test waits for them.
pub(crate) fn timeouts() -> Timeouts {
    Timeouts { grace: Duration::from_millis(300), request: Duration::from_secs(5), ..Timeouts::default() }
}

impl Fixture {
    pub(crate) fn start() -> Fixture {
        Fixture::with(&Config { timeouts: timeouts(), ..Config::default() })
    }

    pub(crate) fn with(config: &Config) -> Fixture {
        let server = Server::bind(config).unwrap();
        let (stop, stopped) = oneshot::channel();
        let ((ended_at, ended), (released_at, released)) = (channel(), channel());
        let backend = Arc::new(Local { ended: ended_at, released: released_at });
        let serving = Arc::clone(&server);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    served = serving.serve(backend) => panic!("it ended: {served:?}"),
                    _ = stopped => {}
                }
            });
        });
        Fixture { server, ended, released, stop: Some(stop), thread: Some(thread) }
    }

    /// A URL for a command; `streams` has the letters of those it has.
    pub(crate) fn exec(&self, command: &[&str], streams: &str) -> String {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let exec = Exec { container_id: "c".into(), command, streams: streams_of(streams) };
        self.server.url(Request::Exec(exec)).unwrap()
    }

    /// A URL for a container whose process is a script.
    pub(crate) fn attach(&self, script: &str, streams: &str) -> String {
        let attach = Attach { container_id: script.into(), streams: streams_of(streams) };
        self.server.url(Request::Attach(attach)).unwrap()
    }

    pub(crate) fn forward(&self, ports: &[u16]) -> String {
        let forward = PortForward { sandbox_id: "sandbox".into(), ports: ports.into() };
        self.server.url(Request::PortForward(forward)).unwrap()
    }

    /// The exit code of the next process that ends.
    pub(crate) fn ended(&self) -> i32 {
        self.ended.recv_timeout(DEADLINE).expect("a process that ends")
    }

    /// Waits until the next process is let go of.
    pub(crate) fn released(&self) {
        self.released.recv_timeout(DEADLINE).expect("a process that is let go of");
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        assert!(std::thread::panicking() || ended.is_ok(), "the server panicked");
    }
}

fn streams_of(letters: &str) -> Streams {
    let has = |letter| letters.contains(letter);
    Streams { stdin: has('i'), stdout: has('o'), stderr: has('e'), tty: has('t') }
}

/// Who is asked for what.
pub(crate) struct Client {
    pub(crate) child: Child,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Client {
    pub(crate) fn start(arguments: &[&str]) -> Client {
        let mut command = Command::new(client().expect("built"));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Client { child: command.spawn().unwrap() }
    }

    /// Gives it all its input, and waits for its end.
    pub(crate) fn finish(mut self, input: &[u8]) -> Outcome {
        let (mut stdin, input) = (self.child.stdin.take().unwrap(), input.to_vec());
        let writer = std::thread::spawn(move || {
            // It may end before it has read all.
            let _ = stdin.write_all(&input);
        });
        let outcome = self.wait();
        writer.join().unwrap();
        outcome
    }

    /// Waits for its end; its input stays open.
    pub(crate) fn wait(mut self) -> Outcome {
        let stdin = self.child.stdin.take();
        let reader = |mut from: Box<dyn Read + Send>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                from.read_to_end(&mut bytes).unwrap();
                bytes
            })
        };
        let stdout = reader(Box::new(self.child.stdout.take().unwrap()));
        let stderr = reader(Box::new(self.child.stderr.take().unwrap()));
        let until = Instant::now() + DEADLINE;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > until => {
                    self.child.kill().unwrap();
                    let stderr = String::from_utf8(stderr.join().unwrap()).unwrap();
                    panic!("the client does not end: {stderr}");
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        drop(stdin);
        let code = status.code().unwrap_or(-1);
        let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
        Outcome { code, stdout, stderr: String::from_utf8(stderr).unwrap() }
    }
}

/// A connection to where a URL leads, its path, and a request sent on it.
pub(crate) fn ask(method: &str, url: &str, headers: &str) -> TcpStream {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "{method} /{path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n").unwrap();
    stream
}

/// The head of an answer, in lower case.
pub(crate) fn head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "the answer ended: {:?}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

pub(crate) const SPDY: &str =
    "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n";

/// A WebSocket's handshake.
pub(crate) fn web_socket(protocol: &str) -> String {
    let protocol = if protocol.is_empty() { String::new() } else { format!("Sec-WebSocket-Protocol: {protocol}\r\n") };
    format!(
        "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}"
    )
}
