//! `NamespaceOption`: a sandbox's, and that of a container in it.

use super::fields::{At, short};
use crate::cri::api;
use crate::cri::api::NamespaceMode as Mode;
use crate::plan::config::{IdRange, NamespaceMode, NamespaceOptions, NetworkMode};
use anyhow::Result;
use std::collections::BTreeSet;

/// The namespaces of a sandbox: `network` is what it has unless that is the host's.
pub(super) fn of_sandbox(
    options: &api::NamespaceOption,
    network: NetworkMode,
    at: &At,
) -> Result<(NamespaceOptions, Option<IdRange>)> {
    let no_target = |what: &str| format!("{what} of a sandbox is no container's");
    if !options.target_id.is_empty() {
        return at.field("target_id").refuse(no_target("a namespace"));
    }
    let shared = |name: &str, value: i32| -> Result<NamespaceMode> {
        let at = at.field(name);
        match at.known(value)? {
            Mode::Pod => Ok(NamespaceMode::Pod),
            Mode::Node => Ok(NamespaceMode::Node),
            other => at.refuse(format!("{}: a sandbox's is POD or NODE", other.as_str_name())),
        }
    };
    let is_of_host = shared("network", options.network)? == NamespaceMode::Node;
    let ipc = shared("ipc", options.ipc)?;
    let at_pid = at.field("pid");
    let pid = match at_pid.known(options.pid)? {
        Mode::Pod => NamespaceMode::Pod,
        Mode::Container => NamespaceMode::Container,
        Mode::Node => NamespaceMode::Node,
        Mode::Target => return at_pid.refuse(no_target("the pid namespace")),
    };
    let users = at.field("userns_options");
    let range = user_namespace(options.userns_options.as_ref(), &users)?;
    if range.is_some() && (is_of_host || [ipc, pid].contains(&NamespaceMode::Node)) {
        return users.refuse("a sandbox with a user namespace of its own has none of the host's other namespaces");
    }
    let namespaces = NamespaceOptions {
        network: if is_of_host { NetworkMode::Host } else { network },
        pid,
        ipc,
        user: if range.is_some() { NamespaceMode::Pod } else { NamespaceMode::Node },
    };
    Ok((namespaces, range))
}

/// The ids of a sandbox's own user namespace; `None` without one.
fn user_namespace(options: Option<&api::UserNamespace>, at: &At) -> Result<Option<IdRange>> {
    let Some(options) = options else { return Ok(None) };
    let mode = at.field("mode");
    match mode.known(options.mode)? {
        Mode::Node if options.uids.is_empty() && options.gids.is_empty() => Ok(None),
        Mode::Node => at.refuse("the host's user namespace has no mappings of its own"),
        Mode::Pod => {
            let users = mapping(&options.uids, &at.field("uids"))?;
            let groups = mapping(&options.gids, &at.field("gids"))?;
            if users != groups {
                return at.refuse("podshim maps users and groups alike: uids and gids must be the same");
            }
            Ok(Some(users))
        }
        other => mode.refuse(format!("{}: a user namespace is of the POD or of the NODE", other.as_str_name())),
    }
}

/// The one mapping that a user namespace has here.
fn mapping(list: &[api::IdMapping], at: &At) -> Result<IdRange> {
    let [one] = list else {
        return at.refuse(format!("there are {} mappings, and a user namespace has one", list.len()));
    };
    let (first, size) = (one.host_id, one.length);
    if one.container_id != 0 {
        return at.refuse(format!("it maps from container_id {} on: id 0 must be mapped", one.container_id));
    }
    if first == 0 {
        return at.refuse("host_id 0: the container's root would be the host's");
    }
    if size < IdRange::SIZE {
        return at.refuse(format!("length {size}: a container has ids up to {}", IdRange::SIZE - 1));
    }
    // -1 is no id.
    match first.checked_add(size) {
        Some(_) => Ok(IdRange { first, size }),
        None => at.refuse(format!("host_id {first} and length {size} go beyond the last id")),
    }
}

/// Checks a container's namespaces, which are the sandbox's: POD is the pod's own mode, whichever that is, and without options
/// everything is the sandbox's. What comes back is the container whose pid namespace it joins, if it is to join one's. In a
/// sandbox that shares its processes that is the sandbox's.
pub(super) fn of_container(
    own: Option<&api::NamespaceOption>,
    sandbox: &api::NamespaceOption,
    others: &BTreeSet<String>,
    at: &At,
) -> Result<Option<String>> {
    let Some(own) = own else { return Ok(None) };
    for (name, own, of_sandbox) in [("network", own.network, sandbox.network), ("ipc", own.ipc, sandbox.ipc)] {
        let at = at.field(name);
        let mode: Mode = at.known(own)?;
        if mode != Mode::Pod && own != of_sandbox {
            return at.refuse(format!("{}: it must be the sandbox's", mode.as_str_name()));
        }
    }
    if own.userns_options.is_some() && own.userns_options != sandbox.userns_options {
        return at.field("userns_options").refuse("they must be the sandbox's");
    }
    let at_pid = at.field("pid");
    let mode: Mode = at_pid.known(own.pid)?;
    let target = at.field("target_id");
    match (mode, sandbox.pid.try_into().unwrap_or(Mode::Pod)) {
        (Mode::Target, _) if !is_id(&own.target_id) => {
            target.refuse(format!("{} is no container's id", short(&own.target_id)))
        }
        (Mode::Target, _) if !others.contains(&own.target_id) => {
            target.refuse(format!("the sandbox has no container {}", short(&own.target_id)))
        }
        (Mode::Target, _) => Ok(Some(own.target_id.clone())),
        _ if !own.target_id.is_empty() => target.refuse("it is for pid TARGET only"),
        (own, of_sandbox) if own == of_sandbox => Ok(None),
        (Mode::Container, _) => at_pid.refuse("CONTAINER: the containers of this sandbox share their processes"),
        (Mode::Pod, Mode::Node) => Ok(None),
        (Mode::Pod, _) => at_pid.refuse("POD: the sandbox was made without a pid namespace for its containers"),
        (Mode::Node, _) => at_pid.refuse("NODE: the sandbox's is not the host's"),
    }
}

/// Whether it may be the id of a container: hexadecimal digits.
fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}
