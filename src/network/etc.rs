//! The files that podshim writes for a pod's containers (pod-api.md §14).

use super::resolv::{MAX_NAMESERVERS, Parsed, host_resolv_conf, option_name};
use crate::paths::PodDirs;
use crate::plan::config::{Dns, DnsBase, HostAlias, NetworkMode, PodSandboxConfig};
use crate::plan::network::CLUSTER_DOMAIN;
use crate::sys::fs::allow_removal;
use crate::sys::{Called, SysResult};
use nix::errno::Errno;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const MAX_SEARCHES: usize = 32;

/// Writes `hosts`, `resolv.conf` and `hostname`. They are written anew at each start of a container, as a kubelet does.
pub fn write_files(config: &PodSandboxConfig, dirs: &PodDirs, addresses: &[IpAddr]) -> SysResult<()> {
    let directory = dirs.etc_files();
    std::fs::create_dir_all(&directory).called("mkdir", directory.display())?;
    files(config, addresses)?.iter().try_for_each(|(name, text)| put(&dirs.etc(name), text))
}

/// The names of those files and what is in them, now: they depend on the host's own.
pub fn files(config: &PodSandboxConfig, addresses: &[IpAddr]) -> SysResult<[(&'static str, String); 3]> {
    let host_network = config.namespaces.network == NetworkMode::Host;
    let hosts = if host_network {
        let host = std::fs::read_to_string("/etc/hosts").called("read", "/etc/hosts")?;
        format!("# Kubernetes-managed hosts file (host network).\n{host}{}", aliases(&config.host_aliases))
    } else {
        pod_hosts(&config.hosts_names, &config.host_aliases, addresses)
    };
    let hostname = if host_network {
        let name = nix::unistd::gethostname().called("gethostname", "")?;
        name.to_string_lossy().into_owned()
    } else {
        config.hostname.clone()
    };
    let base = match &config.dns.base {
        DnsBase::Empty => String::new(),
        DnsBase::File(path) => std::fs::read_to_string(path).called("read", path.display())?,
        DnsBase::HostFile => host_resolv_conf()?,
        DnsBase::Cluster { servers, host_file } => {
            let host = match host_file {
                Some(path) => std::fs::read_to_string(path).called("read", path.display())?,
                None => host_resolv_conf()?,
            };
            cluster(servers, &config.namespace, &host)
        }
    };
    Ok([("hosts", hosts), ("resolv.conf", resolv_conf(&base, &config.dns)), ("hostname", format!("{hostname}\n"))])
}

/// What ClusterFirst starts from: the network's own name server, and of the host's file only the search list.
fn cluster(servers: &[IpAddr], namespace: &str, host: &str) -> String {
    let own = [format!("{namespace}.svc.{CLUSTER_DOMAIN}"), format!("svc.{CLUSTER_DOMAIN}"), CLUSTER_DOMAIN.into()];
    let mut searches = own.to_vec();
    append(&mut searches, &Parsed::new(host).searches);
    let servers: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    format!("{servers}search {}\noptions ndots:5\n", searches.join(" "))
}

/// Writes a file in place, as containers that run have this very file mounted. What they did to it holds nobody up: one that
/// is immutable is not so any more, and in the place of one that has a lease on it (fcntl(2), F_SETLEASE: whoever opens it
/// for writing waits for 45 seconds) there is another one, for the containers that start.
fn put(path: &Path, text: &str) -> SysResult<()> {
    let open = || {
        let options = || std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).to_owned();
        options().custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path).called("open", path.display())
    };
    let opened = match open() {
        Err(error) if error.errno() == Errno::EPERM => {
            let to_read = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
            allow_removal(to_read.called("open", path.display())?.as_fd())?;
            open()
        }
        other => other,
    };
    let mut file = match opened {
        Err(error) if error.errno() == Errno::EAGAIN => {
            std::fs::remove_file(path).called("unlink", path.display())?;
            open()?
        }
        other => other?,
    };
    file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).called("write", path.display())
}

fn pod_hosts(names: &[String], host_aliases: &[HostAlias], addresses: &[IpAddr]) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    let names = names.join("\t");
    if addresses.is_empty() {
        // A pod with loopback only still finds itself by its name.
        text.push_str(&format!("127.0.0.1\t{names}\n"));
    }
    for address in addresses {
        text.push_str(&format!("{address}\t{names}\n"));
    }
    text + &aliases(host_aliases)
}

fn aliases(list: &[HostAlias]) -> String {
    if list.is_empty() {
        return String::new();
    }
    let lines: String = list.iter().map(|alias| format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t"))).collect();
    format!("\n# Entries added by HostAliases.\n{lines}")
}

fn append(list: &mut Vec<String>, more: &[String]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

/// The base with dnsConfig appended; the kernel's resolver limits are kept, what is over them is dropped.
fn resolv_conf(base: &str, dns: &Dns) -> String {
    let mut parsed = Parsed::new(base);
    append(&mut parsed.servers, &dns.servers);
    append(&mut parsed.searches, &dns.searches);
    parsed.options.retain(|o| dns.options.iter().all(|own| option_name(own) != option_name(o)));
    parsed.options.extend(dns.options.iter().cloned());
    parsed.servers.truncate(MAX_NAMESERVERS);
    parsed.searches.truncate(MAX_SEARCHES);
    let mut text = String::new();
    for (keyword, words) in [("search", &parsed.searches), ("options", &parsed.options)] {
        if !words.is_empty() {
            text.push_str(&format!("{keyword} {}\n", words.join(" ")));
        }
    }
    let servers: String = parsed.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    servers + &text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s14_hosts() {
        let alias = HostAlias { ip: "10.0.0.9".into(), hostnames: vec!["a".into(), "b".into()] };
        let web = ["web.sub.ns.svc.cluster.local".to_owned(), "web".to_owned()];
        let text = pod_hosts(&web[1..], &[alias], &["10.1.2.3".parse().unwrap(), "fd00::1".parse().unwrap()]);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.1.2.3\tweb\nfd00::1\tweb\n\n# Entries added by HostAliases.\n10.0.0.9\ta\tb\n"));
        assert!(pod_hosts(&web[1..], &[], &[]).ends_with("127.0.0.1\tweb\n"));
        let text = pod_hosts(&web, &[], &["10.1.2.3".parse().unwrap()]);
        assert!(text.ends_with("10.1.2.3\tweb.sub.ns.svc.cluster.local\tweb\n"), "{text}");
    }

    #[test]
    fn s14_cluster_first() {
        let host = "search a.example cluster.local\nnameserver 10.0.0.1\noptions edns0\n";
        let expected = "nameserver 10.86.0.2\nsearch ns.svc.cluster.local svc.cluster.local cluster.local a.example\n\
                        options ndots:5\n";
        let base = cluster(&["10.86.0.2".parse().unwrap()], "ns", host);
        assert_eq!(base, expected, "the host's servers and options are not the pod's");
        assert_eq!(resolv_conf(&base, &Dns::default()), expected);
    }

    #[test]
    fn s14_resolv_conf() {
        let base = "domain old.example.\nsearch a.example. .\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:1 edns0\n";
        let dns = Dns {
            base: DnsBase::HostFile,
            servers: vec!["10.0.0.2".into(), "10.0.0.3".into(), "10.0.0.4".into()],
            searches: vec!["a.example".into(), "b.example".into()],
            options: vec!["ndots:5".into()],
        };
        let expected = "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n\
                        search a.example b.example\noptions edns0 ndots:5\n";
        assert_eq!(resolv_conf(base, &dns), expected);
        assert_eq!(resolv_conf("", &Dns { servers: vec!["9.9.9.9".into()], ..Dns::default() }), "nameserver 9.9.9.9\n");
    }
}
