//! The host's resolv.conf(5): what pods' own are made from, and whom the name server asks.

use crate::sys::{Called, SysResult};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved keeps the servers behind its stub, which a pod cannot reach at 127.0.0.53.
const SYSTEMD_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// How many servers count (`MAXNS`).
pub(super) const MAX_NAMESERVERS: usize = 3;

/// The host's resolv.conf; where that names only systemd-resolved's stub, the one with the servers behind it.
pub(super) fn host_resolv_conf() -> SysResult<String> {
    let read = |path: &str| match std::fs::read_to_string(path) {
        // A host without the file resolves by 127.0.0.1, and so does the pod; see resolv.conf(5).
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other.called("read", path),
    };
    let text = read(HOST_RESOLV_CONF)?;
    let stub_only = Parsed::new(&text).servers == ["127.0.0.53"];
    if stub_only && Path::new(SYSTEMD_RESOLV_CONF).exists() { read(SYSTEMD_RESOLV_CONF) } else { Ok(text) }
}

/// What a resolv.conf says.
#[derive(Default)]
pub(super) struct Parsed {
    pub(super) servers: Vec<String>,
    pub(super) searches: Vec<String>,
    pub(super) options: Vec<String>,
}

impl Parsed {
    /// resolv.conf(5): the last `search` (or `domain`) line counts; `options` add up, of those with one name the last counts.
    pub(super) fn new(text: &str) -> Parsed {
        let mut parsed = Parsed::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => parsed.servers.extend(words.next()),
                Some("search" | "domain") => {
                    parsed.searches =
                        words.map(|d| d.trim_end_matches('.').to_owned()).filter(|d| !d.is_empty()).collect();
                }
                Some("options") => words.for_each(|option| set_option(&mut parsed.options, option)),
                _ => {}
            }
        }
        parsed
    }
}

/// Adds an option, in the place of an earlier one of its name.
fn set_option(options: &mut Vec<String>, option: String) {
    options.retain(|earlier| option_name(earlier) != option_name(&option));
    options.push(option);
}

/// `ndots` of `ndots:5`.
pub(super) fn option_name(option: &str) -> &str {
    option.split(':').next().unwrap_or(option)
}

/// Which file it is, and when it was written.
type Stamp = Option<(u64, u64, i64, i64)>;

/// The name servers of the host, read again when the files have changed.
#[derive(Debug, Default)]
pub(super) struct HostResolvers {
    stamps: Option<[Stamp; 2]>,
    servers: Vec<SocketAddr>,
}

impl HostResolvers {
    /// The servers in their order, at port 53. If the files cannot be read it is those of the last time.
    pub(super) fn servers(&mut self) -> &[SocketAddr] {
        let stamps = [HOST_RESOLV_CONF, SYSTEMD_RESOLV_CONF].map(|path| {
            let is = std::fs::metadata(path).ok()?;
            Some((is.dev(), is.ino(), is.mtime(), is.mtime_nsec()))
        });
        if self.stamps != Some(stamps)
            && let Ok(text) = host_resolv_conf()
        {
            self.servers = servers(&text);
            self.stamps = Some(stamps);
        }
        &self.servers
    }
}

/// The servers that a resolv.conf names; without any, that of the host itself.
fn servers(text: &str) -> Vec<SocketAddr> {
    let parsed = Parsed::new(text);
    if parsed.servers.is_empty() {
        return vec![SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))];
    }
    parsed.servers.iter().take(MAX_NAMESERVERS).filter_map(|text| server(text)).collect()
}

const PORT: u16 = 53;

/// An address, a link-local one with its link, like `fe80::1%eth0`.
fn server(text: &str) -> Option<SocketAddr> {
    let Some((address, link)) = text.split_once('%') else {
        return text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, PORT));
    };
    let index = link.parse().ok().or_else(|| {
        let is_name = !link.contains('/') && ![".", ".."].contains(&link);
        let path = Path::new("/sys/class/net").join(link).join("ifindex");
        is_name.then(|| std::fs::read_to_string(path).ok()?.trim().parse().ok()).flatten()
    })?;
    Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, index).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s14_options_of_all_lines_count() {
        for (name, text, expected) in [
            ("one line", "options ndots:1 edns0\n", "ndots:1 edns0"),
            ("two lines", "options timeout:2\nnameserver 192.0.2.1\noptions rotate\n", "timeout:2 rotate"),
            ("a later one of the name", "options ndots:1 edns0\noptions ndots:5\n", "edns0 ndots:5"),
            ("an empty line", "options edns0\noptions\n", "edns0"),
        ] {
            assert_eq!(Parsed::new(text).options.join(" "), expected, "{name}");
        }
    }

    #[test]
    fn servers_of_the_host() {
        let shown = |text: &str| servers(text).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        for (name, text, expected) in [
            ("none", "search example.com\n", "127.0.0.1:53"),
            ("two", "nameserver 192.0.2.1\nnameserver 2001:db8::1\n", "192.0.2.1:53 [2001:db8::1]:53"),
            (
                "more than count",
                "nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4",
                "1.1.1.1:53 1.1.1.2:53 1.1.1.3:53",
            ),
            ("by a link", "nameserver fe80::1%lo", "[fe80::1%1]:53"),
            ("by a link's number", "nameserver fe80::1%7", "[fe80::1%7]:53"),
            ("no link, no address", "nameserver fe80::1%../x\nnameserver fe80::1%none\nnameserver example.com", ""),
        ] {
            assert_eq!(shown(text), expected, "{name}");
        }
        let mut host = HostResolvers::default();
        assert_eq!(host.servers().to_vec(), servers(&host_resolv_conf().unwrap()));
    }
}
