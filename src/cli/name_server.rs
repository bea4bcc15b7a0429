//! `podshim name-server`, the process that answers questions about the names of a network's pods. Hidden; whoever attaches the
//! first pod starts it, and it ends by itself when there is none any more (0), or when its link is lost (1).
//!
//! It listens in a network namespace of its own, which is attached to the bridge as a pod's is, and asks the host's name servers
//! from the host's. A socket belongs for good to the namespace that it was made in: those that listen are made at the beginning,
//! and the namespace is there as long as they are. Then the process gives up all that it does not need any more, which is nearly
//! everything: what it reads from then on is hostile, but for the view of the network.

use super::confine;
use crate::error::{Kind, failure};
use crate::network::dns::{self, Ended, MAX_DESCRIPTORS, Sockets, Start};
use crate::network::link::{Attachment, LinkMonitor, LinkName, Mac, Port, Socket};
use crate::paths::NetworkDir;
use crate::plan::network::BridgeNetwork;
use crate::runtime::open_namespace;
use crate::store::read_json;
use crate::sys::{Called, net, process};
use anyhow::{Context, Result};
use clap::Args;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::Resource;
use oci_spec::runtime::LinuxSyscall;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct NameServerArgs {
    /// The network's directory
    directory: PathBuf,
}

/// What it may take, in the units of getrlimit(2). 200 pods take a few megabytes.
const LIMITS: [confine::Limit; 7] = [
    (Resource::RLIMIT_CORE, 0, "RLIMIT_CORE"),
    // No process and no thread besides this one.
    (Resource::RLIMIT_NPROC, 0, "RLIMIT_NPROC"),
    (Resource::RLIMIT_NOFILE, MAX_DESCRIPTORS, "RLIMIT_NOFILE"),
    // Nothing is written to files.
    (Resource::RLIMIT_FSIZE, 0, "RLIMIT_FSIZE"),
    (Resource::RLIMIT_MEMLOCK, 0, "RLIMIT_MEMLOCK"),
    (Resource::RLIMIT_DATA, 128 << 20, "RLIMIT_DATA"),
    // Shared memory counts only here. A build with debug information is large itself.
    (Resource::RLIMIT_AS, 512 << 20, "RLIMIT_AS"),
];

pub(super) fn run(args: NameServerArgs) -> Result<u8> {
    process::close_inherited(3)?;
    // As nobody it cannot go through the directories above.
    std::env::set_current_dir(&args.directory).called("chdir", args.directory.display())?;
    let directory = NetworkDir(PathBuf::from("."));
    let Some(network) = read_json::<BridgeNetwork>(&directory.config())? else {
        return Err(failure(Kind::NotFound, format!("there is no network in {}", args.directory.display())));
    };
    let (sockets, links) = attach(&network).context("setting up the name server's network")?;
    let null = File::options().write(true).open("/dev/null").called("open", "/dev/null")?;
    confine::give_up_privileges(&LIMITS)?;
    confine::give_up_calls(rules())?;
    let ended = Start { sockets, directory, network, links }.serve(|| say_ready(null))?;
    Ok(match ended {
        Ended::NoNetwork | Ended::NoPods => 0,
        Ended::NoLink => 1,
    })
}

/// Makes the network namespace and its link to the bridge, and the sockets that listen there.
fn attach(network: &BridgeNetwork) -> Result<(Sockets, Vec<LinkMonitor>)> {
    let namespace = new_namespace()?;
    let name = |text: &str| text.parse::<LinkName>().map_err(|error| failure(Kind::Invalid, error));
    let (link, bridge) = (dns::link_name(network), name(&network.bridge)?);
    let mut host = Socket::open()?;
    let on = host.link(&bridge)?.ok_or_else(|| failure(Kind::NotFound, format!("there is no link {bridge}")))?;
    // Of one before this, whose namespace the kernel has not removed yet. There is one name server at a time.
    host.remove_link(&link)?;
    let gateways = network.gateways().map(|(gateway, _)| gateway);
    let addresses: Vec<(IpAddr, IpAddr)> = network.name_servers().zip(gateways).collect();
    let Some((first, _)) = addresses.first() else {
        return Err(failure(Kind::Invalid, "the network has no subnet with an address for a name server"));
    };
    host.attach_veth(&Attachment {
        port: Port { link: &link, bridge: &bridge, mac: Mac::of(first) },
        namespace: namespace.as_fd(),
        addresses: &addresses,
        mtu: on.mtu,
    })?;
    let own = host.link(&link)?.ok_or_else(|| failure(Kind::NotFound, format!("there is no link {link}")))?;
    let links = [own.index, on.index].into_iter().map(LinkMonitor::open).collect::<Result<Vec<_>, _>>()?;
    let listen: Vec<SocketAddr> = addresses.iter().map(|(address, _)| SocketAddr::new(*address, dns::PORT)).collect();
    let sockets = net::in_namespace(namespace.as_fd(), || Sockets::bind(&listen))??;
    Ok((sockets, links))
}

/// A new network namespace. The process stays in its own.
fn new_namespace() -> Result<OwnedFd> {
    let path = "/proc/thread-self/ns/net";
    let host = open_namespace(path)?;
    unshare(CloneFlags::CLONE_NEWNET).called("unshare", "CLONE_NEWNET")?;
    let namespace = open_namespace(path);
    setns(host, CloneFlags::CLONE_NEWNET).called("setns", "the host's network")?;
    Ok(namespace?)
}

/// Tells whoever started it, who may go away then.
fn say_ready(null: File) -> Result<()> {
    std::io::stdout().write_all(b"ready\n").and_then(|()| std::io::stdout().flush()).called("write", "stdout")?;
    Ok(process::set_standard(null.as_fd(), 1)?)
}

/// Which system calls are allowed: to speak and listen, and to read the view and the host's resolv.conf.
fn rules() -> Vec<LinuxSyscall> {
    let mut rules = vec![
        confine::allow(confine::CALLS),
        confine::allow("accept4 inotify_init1 inotify_add_watch dup2 dup3"),
        confine::memory_without_code(),
    ];
    rules.extend(confine::internet_sockets());
    rules.extend(confine::files_for_reading());
    rules
}
