//! `Status`: whether the node can run pods, and what it can do for them.

use super::update_runtime_config::Told;
use crate::cri::api::{
    RuntimeCondition, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StatusRequest,
    StatusResponse,
};
use crate::cri::config::WithoutCni;
use crate::cri::daemon::Daemon;
use crate::host::{self, HostFacts};
use crate::network::cni;
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// What a kubelet waits for before it starts pods, and the features that it tells the cluster of.
pub(in crate::cri) async fn run(daemon: &Arc<Daemon>, request: StatusRequest) -> Result<StatusResponse> {
    daemon.blocking(move |daemon| status(daemon, request.verbose)).await
}

fn status(daemon: &Daemon, verbose: bool) -> Result<StatusResponse> {
    let facts = host::probe();
    let features = facts.as_ref().ok().map(|facts| handler_features(&facts.kernel));
    let handler = |name: &str| RuntimeHandler {
        name: name.to_owned(),
        features: features.map(|features| RuntimeHandlerFeatures {
            // See RunPodSandbox.
            user_namespaces: features.user_namespaces && matches!(daemon.config.runtime(name), Ok(None)),
            ..features
        }),
    };
    let info = if verbose { info(daemon, facts.as_ref().ok())? } else { HashMap::new() };
    Ok(StatusResponse {
        status: Some(RuntimeStatus { conditions: vec![runtime_ready(&facts), network_ready(daemon)] }),
        info,
        runtime_handlers: daemon.config.handlers().map(handler).collect(),
        features: Some(RuntimeFeatures {
            supplemental_groups_policy: true,
            // A user namespace cannot own the host's network.
            user_namespaces_host_network: false,
            mount_options: true,
        }),
    })
}

fn runtime_ready(facts: &Result<HostFacts>) -> RuntimeCondition {
    condition("RuntimeReady", facts.as_ref().err().map(|error| ("HostUnreadable", format!("{error:#}"))))
}

fn network_ready(daemon: &Daemon) -> RuntimeCondition {
    let network = &daemon.config.network;
    let cni = network.cni();
    let fault = match (cni::is_configured(&cni), network.without_cni) {
        (Ok(true), _) => cni::status(&cni).err(),
        (Ok(false), WithoutCni::Bridge) => None,
        // Its error tells what is missing where.
        (Ok(false), WithoutCni::Wait) => cni::status(&cni).err(),
        (Err(error), _) => Some(error),
    };
    condition("NetworkReady", fault.map(|error| ("NetworkPluginNotReady", format!("{error:#}"))))
}

/// A condition that is met unless there is a fault: its reason and message.
fn condition(kind: &str, fault: Option<(&str, String)>) -> RuntimeCondition {
    let status = fault.is_none();
    let (reason, message) = fault.map(|(reason, message)| (reason.to_owned(), message)).unwrap_or_default();
    RuntimeCondition { r#type: kind.to_owned(), status, reason, message }
}

/// Both take mount_setattr(2) with `AT_RECURSIVE` and `MOUNT_ATTR_IDMAP`: Linux 5.12.
fn handler_features(kernel: &str) -> RuntimeHandlerFeatures {
    let is_new = release(kernel).is_some_and(|release| release >= (5, 12));
    RuntimeHandlerFeatures { recursive_read_only_mounts: is_new, user_namespaces: is_new }
}

/// The first two numbers of `uname -r`.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

/// What a person who looks for a fault wants to see; there are no secrets in it.
fn info(daemon: &Daemon, facts: Option<&HostFacts>) -> Result<HashMap<String, String>> {
    let mut info = HashMap::new();
    let mut add = |key: &str, value: serde_json::Result<String>| -> Result<()> {
        info.insert(key.to_owned(), value.with_context(|| format!("writing {key}"))?);
        Ok(())
    };
    let mut config = serde_json::to_value(&*daemon.config).context("writing config")?;
    // As containerd calls the directory on whose file system the containers' own files are.
    config["stateDir"] = serde_json::json!(daemon.dirs.root);
    add("config", serde_json::to_string(&config))?;
    add("dirs", serde_json::to_string(&daemon.dirs))?;
    add("runtimeConfig", serde_json::to_string(&Told::read(daemon)?))?;
    if let Some(facts) = facts {
        add("host", serde_json::to_string(facts))?;
    }
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_go_by_the_kernel() {
        for (kernel, expected) in
            [("5.11.0-generic", false), ("5.12", true), ("6.1.0-13-amd64", true), ("4.19.1", false), ("x", false)]
        {
            let features = handler_features(kernel);
            assert_eq!(
                (features.recursive_read_only_mounts, features.user_namespaces),
                (expected, expected),
                "{kernel}"
            );
        }
    }
}
