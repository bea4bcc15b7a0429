//! Files of the network that are damaged: what they said is known from the records and the reports of the pods that they are about. What
//! is known from nowhere is an error that names the file.

use super::bridge;
use super::lease;
use super::view::{self, Member};
use crate::paths::{Dirs, NetworkDir};
use crate::plan::config::BridgeNetwork;
use crate::store::{self, Pod};
use anyhow::Result;
use std::net::IpAddr;

/// podshim's own network, if there is one. One whose file is damaged is that of the pods on it, among them the one that is `leaving`.
pub(super) fn network(dirs: &Dirs, leaving: Option<&str>) -> Result<Option<BridgeNetwork>> {
    let directory = dirs.network();
    let error = match store::read_json(&directory.config()) {
        Err(error) if store::is_damaged(&error) => error,
        other => return other,
    };
    let uids = view::names(&directory.members())?;
    let of_pod = |uid: &str| {
        let sandbox = store::load(&dirs.pod(uid)).ok()??.plan.sandbox;
        // What others asked for need not be what there is.
        sandbox.network.clone().filter(|_| bridge::is_needed_by(&sandbox))
    };
    match uids.iter().map(String::as_str).chain(leaving).find_map(of_pod) {
        // It is nobody's: who comes next makes another one.
        None if uids.is_empty() && leaving.is_none() => Ok(None),
        None => Err(error.context(
            "nobody knows which network this is: no pod can be put on it, and when `podshim rm -f` has removed those that are, \
             its bridge and rules stay",
        )),
        known => Ok(known),
    }
}

/// Reads something under the network's lock, with notes for the user: what is damaged is made anew first.
pub(super) fn read<T>(dirs: &Dirs, read: impl Fn(&NetworkDir) -> Result<T>) -> Result<(T, Vec<String>)> {
    let directory = dirs.network();
    match read(&directory) {
        Err(error) if store::is_damaged(&error) => {}
        other => return Ok((other?, Vec::new())),
    }
    let notes = mend(dirs)?;
    Ok((read(&directory)?, notes))
}

fn mend(dirs: &Dirs) -> Result<Vec<String>> {
    let config = dirs.network().config();
    let mut notes = Vec::new();
    if let Err(error) = store::read_json::<BridgeNetwork>(&config) {
        match network(dirs, None)? {
            Some(network) => lease::write(&config, &network)?,
            None => store::remove_written(&config)?,
        }
        notes.push(note(&error));
    }
    notes.extend(lease::sweep(dirs)?.1);
    Ok(notes)
}

/// A pod's own file, as its record and its last report have it; `None` if they do not tell its addresses.
pub(super) fn member(dirs: &Dirs, uid: &str) -> Option<Member> {
    let dirs = dirs.pod(uid);
    let record = store::load(&dirs).ok()??;
    let pod = Pod { dirs, record };
    let report = pod.report().ok()??;
    let addresses: Vec<IpAddr> = report.status.pod_ips.iter().filter_map(|ip| ip.ip.parse().ok()).collect();
    let member = Member {
        ready: report.status.is_ready(),
        terminating: report.deletion.is_some(),
        ..bridge::member(&pod.record.plan.sandbox, addresses)
    };
    (member.link.is_none() || !member.addresses.is_empty()).then_some(member)
}

/// What the user should know of a file that was damaged.
pub(super) fn note(error: &anyhow::Error) -> String {
    format!("{error:#}: it was made anew from what is known of the pods")
}
