//! One probe or network hook: http, tcp and grpc, in the kubelet's ways and words (pod-api.md §6 and §7).
//!
//! Duty: what a handler asks, sent once, and its answer as an [`Outcome`]. In: a [`Request`], made from a plan's handler and the
//! pod's address. It knows no period, no threshold and no clock: who asks ends what takes too long, and [`Request::timed_out`]
//! has the words for that. Commands are executed by the supervisor as any exec; they are not known here.
//!
//! There are two ways to perform a request. An [`Attempt`] is a non-blocking socket for a caller's event loop; it speaks TCP and
//! HTTP/1.1 to an IP address, with no thread, no runtime and a few kilobytes. Everything else (TLS, HTTP/2, gRPC, names to be
//! looked up) is [`perform`]ed by a process of its own, which tells its caller one line of JSON a [`Said`]: none of that is to
//! come into a supervisor's memory.
//!
//! Who answers is hostile: heads, bodies and texts are bounded, and nothing is believed.
//!
//! | file | content |
//! |---|---|
//! | `http` | a GET request, HTTP/1.1 as bytes, redirects, the verdict; no socket |
//! | `body` | where a body of HTTP/1.1 ends |
//! | `attempt` | the non-blocking socket |
//! | `perform` | the process: connections, TLS |
//! | `http2` | GET and gRPC's health check over HTTP/2 |

mod attempt;
mod body;
mod http;
mod http2;
mod perform;

pub use attempt::{Attempt, Begun, Interest, Network, Progress};
pub use http::Get;
pub use perform::perform;

use crate::lifecycle::Outcome;
use crate::plan::config::Handler;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The most bytes of an answer that are kept; a kubelet's `maxRespBodyLength` and `maxReadLength`.
pub const MAX_OUTPUT: usize = 10 << 10;

/// What the request is made for: it is in the `User-Agent`, and in the words of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// A startup, liveness or readiness probe.
    Probe,
    /// A lifecycle hook.
    Hook,
}

/// The network that a request goes out from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// The pod's own: the handler has no `host`.
    Pod,
    /// The host's, as a kubelet's requests do: the handler has a `host`.
    Host,
}

/// A request, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Where it goes out.
    pub origin: Origin,
    /// The time that it has; only for its words and for what gRPC tells the server. Zero for a hook, which has no limit.
    pub timeout: Duration,
    ask: Ask,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Ask {
    Tcp(Place),
    Http(Get),
    Grpc { place: Place, service: String, tls: bool },
}

/// A host, by address or name, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    host: String,
    port: u16,
}

impl Place {
    /// Without looking anything up.
    fn address(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }

    /// Go's `net.JoinHostPort`.
    fn join(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// What a handler is used for.
#[derive(Debug, Clone, Copy)]
pub struct Use {
    /// Probe or hook.
    pub purpose: Purpose,
    /// Where a handler without `host` goes.
    pub pod: IpAddr,
    /// The time that a probe has; zero for a hook.
    pub timeout: Duration,
}

impl Request {
    /// The request of a handler; `None` for one that sends nothing (exec, sleep).
    pub fn new(handler: &Handler, used: Use) -> Option<Request> {
        let to = |host: &Option<String>, port: u16| {
            let host = host.as_ref().filter(|host| !host.is_empty());
            let origin = if host.is_some() { Origin::Host } else { Origin::Pod };
            (origin, Place { host: host.map_or_else(|| used.pod.to_string(), String::clone), port })
        };
        let (origin, ask) = match handler {
            Handler::Exec { .. } | Handler::Sleep { .. } => return None,
            Handler::HttpGet(get) => {
                let (origin, place) = to(&get.host, get.port);
                (origin, Ask::Http(Get::new(get, place, used.purpose)))
            }
            Handler::TcpSocket { host, port } => {
                let (origin, place) = to(host, *port);
                (origin, Ask::Tcp(place))
            }
            Handler::Grpc { port, service, tls } => {
                let (origin, place) = to(&None, *port);
                (origin, Ask::Grpc { place, service: service.clone(), tls: *tls })
            }
        };
        Some(Request { origin, timeout: used.timeout, ask })
    }

    /// Whether an [`Attempt`] can perform it.
    pub fn is_plain(&self) -> bool {
        match &self.ask {
            Ask::Tcp(place) => place.address().is_some(),
            Ask::Http(get) => get.plain_address().is_some(),
            Ask::Grpc { .. } => false,
        }
    }

    /// Whether a name is to be looked up to [`perform`] it. A redirect does not change that: it stays on its host.
    pub fn looks_up(&self) -> bool {
        let (Ask::Tcp(place) | Ask::Http(Get { place, .. }) | Ask::Grpc { place, .. }) = &self.ask;
        place.address().is_none()
    }

    /// What it comes to when its time is over, `halfway` if [`Said::Halfway`] was heard: Go's words, and the kubelet's.
    pub fn timed_out(&self, halfway: bool) -> Outcome {
        let timeout = go_duration(self.timeout);
        match &self.ask {
            Ask::Tcp(place) => Outcome::Failure(format!("dial tcp {}: i/o timeout", place.join())),
            Ask::Http(get) if !halfway => {
                get.failure("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")
            }
            // An answer that began well and does not end is neither good nor bad to a kubelet.
            Ask::Http(_) => {
                let text = "context deadline exceeded (Client.Timeout or context cancellation while reading body)";
                Outcome::Error(text.into())
            }
            Ask::Grpc { .. } if halfway => {
                Outcome::Failure(format!("timeout: health rpc did not complete within {timeout}"))
            }
            Ask::Grpc { place, .. } => Outcome::Failure(format!(
                "timeout: failed to connect service {:?} within {timeout}: context deadline exceeded",
                place.join()
            )),
        }
    }
}

/// What a process that [`perform`]s a request says, each as one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// gRPC: it is connected. HTTP: the head of the answer is there.
    Halfway,
    /// The end.
    Done(Outcome),
}

/// The most bytes that such a process says: two lines, whose text may be escaped.
pub const MAX_SAID: usize = 8 * MAX_OUTPUT;

impl Said {
    /// The last thing that was said in full.
    pub fn last(lines: &[u8]) -> Option<Said> {
        let mut complete = lines.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        complete.next_back().and_then(|line| serde_json::from_slice(line).ok())
    }
}

/// Text of whoever answered, cut to [`MAX_OUTPUT`] bytes.
pub fn text(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_OUTPUT)]).into_owned();
    // A byte that is no UTF-8 takes three.
    text.truncate(text.floor_char_boundary(MAX_OUTPUT));
    text
}

/// Go's `time.Duration.String` of whole milliseconds: `0s`, `250ms`, `1.5s`, `1m30s`, `1h0m0s`.
pub fn go_duration(duration: Duration) -> String {
    let (seconds, milliseconds) = (duration.as_secs(), duration.subsec_millis());
    if seconds == 0 && milliseconds > 0 {
        return format!("{milliseconds}ms");
    }
    let fraction = if milliseconds == 0 { String::new() } else { format!(".{milliseconds:03}") };
    let fraction = fraction.trim_end_matches('0');
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}{fraction}s"),
        (0, m, s) => format!("{m}m{s}{fraction}s"),
        (h, m, s) => format!("{h}h{m}m{s}{fraction}s"),
    }
}

/// Go's words for an errno: the C library's, in lower case.
fn errno_text(errno: nix::errno::Errno) -> String {
    errno.desc().to_lowercase()
}

#[cfg(test)]
mod tests;
