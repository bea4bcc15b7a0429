//! `podshim port-forward`: kubectl's, without a port of the host that belongs to the pod. It connects inside the pod's network
//! namespace, so it takes no network that this host reaches, and programs that listen on loopback only are reached too.

mod listen;
mod ports;
mod relay;

use super::attach::require_not_over;
use super::follow::{Waited, Watch};
use super::named;
use super::output;
use super::recover;
use super::terminal::Interrupts;
use super::wait::duration;
use crate::error::{Kind, failure, say};
use crate::lifecycle::status::Phase;
use crate::network::view::{self, Member};
use crate::network::{self, endpoints};
use crate::paths::Dirs;
use crate::plan::config::NetworkMode;
use crate::runtime::{self, NamespaceKind};
use crate::store::{self, Pod};
use crate::sys::{Called, SysResult};
use anyhow::{Context, Result};
use clap::Args;
use k8s_openapi::api::core::v1::Service;
use listen::Address;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use ports::{Forward, Wanted};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

/// The most connections at once; further ones wait.
const MAX_CONNECTIONS: usize = 512;

#[derive(Debug, Args)]
pub(super) struct PortForwardArgs {
    /// NAME, NAMESPACE/NAME or the beginning of a uid; service/NAME for one of its pods that is ready
    #[arg(value_name = "POD")]
    target: String,
    /// [LOCAL:]REMOTE, by number or name; `:REMOTE` takes a free local port
    #[arg(required = true, value_name = "PORT", value_parser = ports::parse)]
    ports: Vec<Wanted>,
    /// The namespace of the pod or the Service
    #[arg(short, long)]
    namespace: Option<String>,
    /// Where to listen: addresses of this host, or localhost
    #[arg(long, value_name = "ADDRESS", default_value = "localhost", value_delimiter = ',', value_parser = Address::parse)]
    address: Vec<Address>,
    /// How long to wait until the pod runs (30, 30s, 5m, 1h)
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    pod_running_timeout: Duration,
}

pub(super) fn run(args: PortForwardArgs, dirs: &Dirs) -> Result<()> {
    let interrupts = Interrupts::catch()?;
    let (pod, forwards) = match target(&args.target, args.namespace.as_deref())? {
        Target::Pod(name) => of_pod(dirs, &name, &args.ports)?,
        Target::Service { namespace, name } => of_service(dirs, (&namespace, &name), &args.ports)?,
    };
    require_not_over(&pod)?;
    let mut watch = recover::watch(&pod)?;
    until_running(&pod, &mut watch, (args.pod_running_timeout, &interrupts))?;
    let place = place(&pod)?;
    for forward in &forwards {
        place.refuse_circles(&pod, &args.address, *forward)?;
    }
    raise_descriptor_limit()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting tokio")?;
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let shared = Arc::new(Shared { pod: pod.full_name(), place, connections });
    runtime.block_on(async {
        for (listener, forward) in listen_for_all(&args.address, &forwards)? {
            tokio::spawn(accept(listener, forward, Arc::clone(&shared)));
        }
        Ok::<_, anyhow::Error>(())
    })?;
    // The descriptors that end it are waited for beside the runtime: a thread of its own enters no other network.
    let (tell, told) = oneshot::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| tell.send(wait_for_end(&mut watch, &interrupts)));
        runtime.block_on(told)
    })
    .context("waiting for the pod's end")??
    .map_or_else(|| Err(end_of(&pod)), |Interrupted| Ok(()))
}

/// What is forwarded to.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// As [`store::find`] takes it.
    Pod(String),
    Service {
        namespace: String,
        name: String,
    },
}

fn target(text: &str, namespace: Option<&str>) -> Result<Target> {
    let after = |prefixes: &[&str]| prefixes.iter().find_map(|prefix| text.strip_prefix(prefix));
    let service = after(&["service/", "services/", "svc/"]);
    let name = service.or_else(|| after(&["pod/", "pods/", "po/"])).unwrap_or(text);
    let full = named::in_namespace(name, namespace)?;
    if service.is_none() {
        return Ok(Target::Pod(full));
    }
    let (namespace, name) = full.split_once('/').unwrap_or(("default", &full));
    Ok(Target::Service { namespace: namespace.into(), name: name.into() })
}

fn of_pod(dirs: &Dirs, name: &str, ports: &[Wanted]) -> Result<(Pod, Vec<Forward>)> {
    let pod = recover::find(dirs, name)?;
    let known = &pod.record.plan.sandbox.ports;
    let forwards = ports.iter().map(|port| port.of_pod(&pod.full_name(), known)).collect::<Result<_>>()?;
    Ok((pod, forwards))
}

fn of_service(dirs: &Dirs, (namespace, name): (&str, &str), ports: &[Wanted]) -> Result<(Pod, Vec<Forward>)> {
    let directory = dirs.network();
    let full_name = format!("{namespace}/{name}");
    let services: Vec<Service> = view::objects(&directory, view::SERVICES)?;
    let is_meant = |service: &&Service| {
        let metadata = &service.metadata;
        metadata.name.as_deref() == Some(name) && metadata.namespace.as_deref().unwrap_or("default") == namespace
    };
    let Some(service) = services.iter().find(is_meant) else {
        return Err(failure(Kind::NotFound, format!("Service {full_name} not found")));
    };
    if let Some(elsewhere) = endpoints::external_name(service) {
        let message = format!("Service {full_name} leads to {elsewhere}, not to pods");
        return Err(failure(Kind::Invalid, message));
    }
    let members: Vec<Member> = view::read_all(&directory.members())?;
    let endpoints = endpoints::endpoints(service, &members);
    let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.ready) else {
        let others: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.member.name.as_str()).collect();
        let others =
            if others.is_empty() { "it selects none".into() } else { format!("not ready: {}", others.join(", ")) };
        return Err(failure(Kind::NotReady, format!("Service {full_name} has no pod that is ready; {others}")));
    };
    let of_service = |port: &Wanted| port.of_service(&full_name, service, endpoint.member);
    let forwards = ports.iter().map(of_service).collect::<Result<_>>()?;
    Ok((recover::find(dirs, &endpoint.member.uid)?, forwards))
}

fn until_running(pod: &Pod, watch: &mut Watch<'_>, (timeout, interrupts): (Duration, &Interrupts)) -> Result<()> {
    let runs = |report: &store::Report| Ok((report.status.phase != Phase::Pending).then_some(()));
    match watch.until_or_interrupted(Some(timeout), interrupts, runs)? {
        Waited::Found(()) => require_not_over(pod),
        Waited::Gone => Err(end_of(pod)),
        Waited::TimedOut => {
            let message = format!(
                "pod {} does not run after the time given by --pod-running-timeout: `podshim events {0}` tells what it waits for",
                pod.full_name()
            );
            Err(failure(Kind::NotReady, message))
        }
    }
}

/// Why there is nothing more to forward to.
fn end_of(pod: &Pod) -> anyhow::Error {
    let why = match pod.report() {
        Ok(Some(report)) if report.over => format!("it has ended ({})", report.status.phase.as_str()),
        Ok(Some(_)) => "its supervisor is gone".into(),
        _ => "it is gone".into(),
    };
    failure(Kind::NotReady, format!("lost connection to pod {}: {why}", pod.full_name()))
}

/// Where connections are made.
struct Place {
    /// The path of the pod's network namespace; `None` with the host's.
    namespace: Option<PathBuf>,
    /// Whether that is the one in which this command listens.
    is_own: bool,
}

fn place(pod: &Pod) -> Result<Place> {
    if pod.record.plan.sandbox.namespaces.network == NetworkMode::Host {
        return Ok(Place { namespace: None, is_own: true });
    }
    let path = pod.dirs.namespace(NamespaceKind::Network.file());
    let identity = |path: &std::path::Path| -> SysResult<(u64, u64)> {
        let found = std::fs::metadata(path).called("stat", path.display())?;
        Ok((found.dev(), found.ino()))
    };
    let is_own = identity(&path)? == identity("/proc/self/ns/net".as_ref())?;
    Ok(Place { namespace: Some(path), is_own })
}

impl Place {
    /// A port that leads to itself would make connections without end.
    fn refuse_circles(&self, pod: &Pod, addresses: &[Address], forward: Forward) -> Result<()> {
        let is_loopback = |address: &Address| match address {
            Address::Localhost => true,
            Address::Ip(ip) => {
                ip.is_unspecified() || *ip == IpAddr::from([127, 0, 0, 1]) || ip.is_loopback() && ip.is_ipv6()
            }
        };
        if !self.is_own || forward.local != forward.remote || !addresses.iter().any(is_loopback) {
            return Ok(());
        }
        let message = format!(
            "pod {} has this host's network: its port {} is here without being forwarded",
            pod.full_name(),
            forward.remote
        );
        Err(failure(Kind::Invalid, message))
    }
}

/// Two descriptors for each connection, and some more.
fn raise_descriptor_limit() -> SysResult<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).called("getrlimit", "NOFILE")?;
    let wanted = (2 * MAX_CONNECTIONS as u64 + 256).min(hard);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).called("setrlimit", "NOFILE")?;
    }
    Ok(())
}

/// A port that cannot be listened on is told; it is an error if there is no other.
fn listen_for_all(addresses: &[Address], forwards: &[Forward]) -> Result<Vec<(TcpListener, Forward)>> {
    let mut all = Vec::new();
    for forward in forwards {
        match listen::listen(addresses, *forward) {
            Ok(listeners) => {
                for listener in listeners {
                    let address = listener.local_addr().called("getsockname", "listener")?;
                    output::line(format_args!("Forwarding from {address} -> {}", forward.remote))?;
                    all.push((listener, Forward { local: address.port(), ..*forward }));
                }
            }
            Err(error) => say!("podshim: unable to listen on port {}: {error:#}", forward.local),
        }
    }
    if all.is_empty() {
        let wanted: Vec<String> = forwards.iter().map(Forward::to_string).collect();
        let message = format!("unable to listen on any of the requested ports: {}", wanted.join(", "));
        return Err(failure(Kind::NotReady, message));
    }
    Ok(all)
}

/// What all connections have in common.
struct Shared {
    pod: String,
    place: Place,
    connections: Arc<Semaphore>,
}

async fn accept(listener: TcpListener, forward: Forward, shared: Arc<Shared>) {
    let mut told = false;
    loop {
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                // Of the connection, or of what this process has too little of: the next one may fare better.
                say!("podshim: accepting a connection on port {}: {error}", forward.local);
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if shared.connections.available_permits() == 0 && !told {
            told = true;
            say!("podshim: there are {MAX_CONNECTIONS} connections: further ones wait for the end of others");
        }
        // It is never closed.
        let Ok(permit) = Arc::clone(&shared.connections).acquire_owned().await else { return };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            handle(client, forward, &shared).await;
            drop(permit);
        });
    }
}

/// The namespace is opened anew for each connection: a pod may be given another sandbox.
async fn dial(namespace: Option<&PathBuf>, port: u16) -> Result<TcpStream> {
    let namespace = namespace.map(runtime::open_namespace).transpose().context("the pod's network namespace")?;
    network::dial::dial(namespace.as_ref().map(AsFd::as_fd), port).await
}

/// One connection, whose errors are its own.
async fn handle(client: TcpStream, forward: Forward, shared: &Shared) {
    // Whoever has closed standard output does not want to be told.
    let _ = output::line(format_args!("Handling connection for {}", forward.local));
    let dialled = dial(shared.place.namespace.as_ref(), forward.remote).await;
    let result = match dialled.with_context(|| format!("connecting to port {} in pod {}", forward.remote, shared.pod)) {
        Ok(pod) => relay::relay(client, pod).await.with_context(|| format!("pod {}", shared.pod)),
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        say!("podshim: an error occurred forwarding {forward}: {error:#}");
    }
}

/// The user ended it: as with kubectl, that is how this ends.
struct Interrupted;

/// Waits for an interrupt, or for the supervisor's end (`None`).
fn wait_for_end(watch: &mut Watch<'_>, interrupts: &Interrupts) -> Result<Option<Interrupted>> {
    loop {
        let mut fds =
            [PollFd::new(watch.as_fd(), PollFlags::POLLIN), PollFd::new(interrupts.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => Err(errno).called("poll", "control socket")?,
        }
        if interrupts.next()?.is_some() {
            return Ok(Some(Interrupted));
        }
        if fds[0].any() == Some(true) && !watch.goes_on()? {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let pod = |name: &str| Target::Pod(name.into());
        let service = |namespace: &str, name: &str| Target::Service { namespace: namespace.into(), name: name.into() };
        for (text, namespace, expected) in [
            ("web", None, pod("web")),
            ("pod/web", None, pod("web")),
            ("web", Some("a"), pod("a/web")),
            ("a/web", Some("a"), pod("a/web")),
            ("pods/a/web", None, pod("a/web")),
            ("service/web", None, service("default", "web")),
            ("svc/web", Some("a"), service("a", "web")),
            ("svc/a/web", None, service("a", "web")),
        ] {
            assert_eq!(target(text, namespace).unwrap(), expected, "{text} {namespace:?}");
        }
        let error = target("b/web", Some("a")).unwrap_err().to_string();
        assert_eq!(error, "b/web is not in the namespace \"a\" of --namespace");
    }
}
