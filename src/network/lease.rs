//! Who is on the network: one file per pod, which is its lease of addresses too. The caller holds the network's lock.
//!
//! An address is a pod's as long as its file is there, and the file goes with the pod; one whose pod went without (its host
//! crashed, its maker was killed) is taken away by the next who joins.

use super::mend;
use super::view::{self, Member};
use crate::error::{Kind, failure};
use crate::paths::{Dirs, NetworkDir};
use crate::plan::network::{BridgeNetwork, Family, Subnet};
use crate::store;
use crate::sys::{SysResult, fs};
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

/// Makes the directories that the name server reads as nobody.
pub(super) fn make_directories(directory: &NetworkDir) -> SysResult<()> {
    for path in [directory.0.clone(), directory.members()] {
        fs::make_directory(&path, 0o755)?;
    }
    Ok(())
}

/// Writes a file as a whole: whoever reads it sees the old or the new one.
pub(super) fn write<T: serde::Serialize>(path: &Path, value: &T) -> Result<()> {
    store::write_readable(path, &serde_json::to_vec(value)?)
}

/// The uids of the members whose pods are there; the files of others are removed, whatever is in them.
pub(super) fn uids(dirs: &Dirs) -> Result<Vec<String>> {
    let (directory, pods) = (dirs.network(), dirs.pods());
    let mut uids = view::names(&directory.members())?;
    for gone in uids.extract_if(.., |uid| !pods.join(uid).exists()) {
        store::remove_written(&directory.member(&gone))?;
    }
    Ok(uids)
}

/// These members, with notes for the user: a file that is damaged is made anew.
pub(super) fn sweep(dirs: &Dirs) -> Result<(Vec<Member>, Vec<String>)> {
    let directory = dirs.network();
    let (mut members, mut notes) = (Vec::new(), Vec::new());
    for uid in uids(dirs)? {
        let path = directory.member(&uid);
        match store::read_json::<Member>(&path) {
            Err(error) if store::is_damaged(&error) => {
                let Some(member) = mend::member(dirs, &uid) else {
                    return Err(error.context(format!(
                        "nobody knows which addresses pod {uid} has, so no other pod is given any: `podshim rm -f {uid}` ends \
                         and removes it"
                    )));
                };
                write(&path, &member)?;
                notes.push(mend::note(&error));
                members.push(member);
            }
            other => members.extend(other?),
        }
    }
    Ok((members, notes))
}

/// Where the search for a free address goes on: behind the one that was given last, so that one which a pod has given back is
/// not another pod's at once, while peers still have it in their caches.
type Cursors = BTreeMap<Family, IpAddr>;

/// Addresses that no member has, one of each subnet.
pub(super) fn lease(directory: &NetworkDir, network: &BridgeNetwork, members: &[Member]) -> Result<Vec<IpAddr>> {
    let path = directory.0.join("last-addresses.json");
    // Without it the search only begins elsewhere.
    let mut cursors: Cursors = store::read_json(&path).ok().flatten().unwrap_or_default();
    let taken: BTreeSet<IpAddr> = members.iter().flat_map(|member| &member.addresses).copied().collect();
    let mut addresses = Vec::new();
    for subnet in &network.pods {
        let Some(address) = free(*subnet, &taken, cursors.get(&subnet.family()).copied()) else {
            let message = format!(
                "all {} addresses of {subnet} are in use by pods: end some, or run them with another --pod-cidr (which takes \
                 the end of all pods of this network)",
                last_offset(*subnet) + 1 - BridgeNetwork::FIRST_POD
            );
            return Err(failure(Kind::NotReady, message));
        };
        cursors.insert(subnet.family(), address);
        addresses.push(address);
    }
    write(&path, &cursors)?;
    Ok(addresses)
}

/// The offset of the last address that a pod may have: in IPv4 the very last is the subnet's broadcast address.
fn last_offset(subnet: Subnet) -> u128 {
    match subnet.family() {
        Family::V4 => subnet.size() - 2,
        Family::V6 => subnet.size() - 1,
    }
}

fn free(subnet: Subnet, taken: &BTreeSet<IpAddr>, last: Option<IpAddr>) -> Option<IpAddr> {
    let (first, end) = (BridgeNetwork::FIRST_POD, last_offset(subnet) + 1);
    let behind = last.filter(|last| subnet.contains(*last)).map_or(first, |last| (offset(subnet, last) + 1).max(first));
    // No more than one address more than are taken has to be looked at, from wherever it begins.
    (behind..end).chain(first..behind.min(end)).filter_map(|n| subnet.nth(n)).find(|address| !taken.contains(address))
}

fn offset(subnet: Subnet, address: IpAddr) -> u128 {
    let number = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    number(address) - number(subnet.address())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(uid: &str, addresses: &[IpAddr]) -> Member {
        Member {
            uid: uid.into(),
            namespace: "default".into(),
            name: uid.into(),
            labels: BTreeMap::new(),
            hostname: uid.into(),
            subdomain: None,
            addresses: addresses.to_vec(),
            ports: Vec::new(),
            link: None,
            ready: false,
            terminating: false,
        }
    }

    fn network(pods: &[&str]) -> BridgeNetwork {
        let pods = pods.iter().map(|text| text.parse().unwrap()).collect();
        BridgeNetwork { bridge: "br".into(), pods, services: vec!["10.87.0.0/16".parse().unwrap()] }
    }

    #[test]
    fn addresses_go_round_and_are_never_given_twice() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = NetworkDir(temporary.path().to_owned());
        let network = network(&["10.0.0.0/29", "fd00::/125"]);
        let mut members = Vec::new();
        for uid in ["a", "b", "c", "d"] {
            members.push(member(uid, &lease(&directory, &network, &members).unwrap()));
        }
        let all: Vec<String> = members.iter().map(|m| format!("{} {}", m.addresses[0], m.addresses[1])).collect();
        assert_eq!(all, ["10.0.0.3 fd00::3", "10.0.0.4 fd00::4", "10.0.0.5 fd00::5", "10.0.0.6 fd00::6"]);
        let error = lease(&directory, &network, &members).unwrap_err().to_string();
        assert!(error.contains("all 4 addresses of 10.0.0.0/29"), "{error}");
        members.remove(1);
        let again = lease(&directory, &network, &members).unwrap();
        assert_eq!(again[0].to_string(), "10.0.0.4", "the only one that is free");
        members.clear();
        let next = lease(&directory, &network, &members).unwrap();
        assert_eq!(next[0].to_string(), "10.0.0.5", "behind the last, though the first is free");
        assert_eq!(next[1].to_string(), "fd00::3", "behind the last there is none: from the beginning again");
    }

    #[test]
    fn another_subnet_begins_at_its_beginning() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = NetworkDir(temporary.path().to_owned());
        lease(&directory, &network(&["10.0.0.0/24"]), &[]).unwrap();
        let other = lease(&directory, &network(&["10.9.0.0/24"]), &[]).unwrap();
        assert_eq!(other[0].to_string(), "10.9.0.3");
        let wide = lease(&directory, &network(&["fd00::/64"]), &[]).unwrap();
        assert_eq!(wide[0].to_string(), "fd00::3", "a subnet that nobody counts to the end of");
    }

    #[test]
    fn members_without_a_pod_are_swept() {
        let temporary = tempfile::tempdir().unwrap();
        let dirs = Dirs { state: temporary.path().to_owned(), ..Dirs::default() };
        let directory = dirs.network();
        std::fs::create_dir_all(dirs.pods().join("here")).unwrap();
        make_directories(&directory).unwrap();
        for uid in ["here", "gone", "torn"] {
            write(&directory.member(uid), &member(uid, &[])).unwrap();
        }
        // Somebody was killed while he wrote.
        std::fs::write(directory.member("gone").with_extension("json.tmp"), "{").unwrap();
        std::fs::write(directory.member("torn"), "{").unwrap();
        let (left, notes) = sweep(&dirs).unwrap();
        assert_eq!(left.iter().map(|m| m.uid.as_str()).collect::<Vec<_>>(), ["here"]);
        assert_eq!(view::names(&directory.members()).unwrap(), ["here"]);
        assert_eq!(std::fs::read_dir(directory.members()).unwrap().count(), 1);
        assert!(notes.is_empty(), "{notes:?}");
    }

    #[test]
    fn what_is_damaged_and_known_from_nowhere_is_told_by_its_name() {
        let temporary = tempfile::tempdir().unwrap();
        let dirs = Dirs { state: temporary.path().to_owned(), ..Dirs::default() };
        let directory = dirs.network();
        std::fs::create_dir_all(dirs.pods().join("here")).unwrap();
        make_directories(&directory).unwrap();
        for damaged in ["", "{", "[]", "{}", "{}{}", "\0\u{1}"] {
            std::fs::write(directory.config(), damaged).unwrap();
            assert_eq!(mend::network(&dirs, None).unwrap(), None, "nobody's");
            std::fs::write(directory.member("here"), damaged).unwrap();
            for (error, file) in [
                (sweep(&dirs).unwrap_err(), directory.member("here")),
                (mend::network(&dirs, None).unwrap_err(), directory.config()),
            ] {
                let text = format!("{error:#}");
                assert!(store::is_damaged(&error) && text.contains(file.to_str().unwrap()), "{damaged:?}: {text}");
                assert!(text.contains("`podshim rm -f"), "{damaged:?}: {text}");
            }
            std::fs::remove_file(directory.member("here")).unwrap();
            std::fs::write(directory.0.join("last-addresses.json"), damaged).unwrap();
            assert_eq!(lease(&directory, &network(&["10.0.0.0/29"]), &[]).unwrap()[0].to_string(), "10.0.0.3");
        }
    }
}
