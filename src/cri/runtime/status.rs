//! Status: whether pods can be run, by which handlers, and with which features.

use crate::cri::{Daemon, api};
use crate::network::cni;
use crate::plan::config::NetworkMode;
use anyhow::Result;
use std::collections::HashMap;

/// What is done.
pub(in crate::cri) fn run(daemon: &Daemon, request: &api::StatusRequest) -> Result<api::StatusResponse> {
    let handlers = ["".to_owned(), "podshim".to_owned()].into_iter().chain(daemon.config.runtime_handlers.keys().cloned());
    Ok(api::StatusResponse {
        status: Some(api::RuntimeStatus { conditions: vec![condition("RuntimeReady", Ok(())), network(daemon)] }),
        info: if request.verbose { info(daemon) } else { HashMap::new() },
        runtime_handlers: handlers.map(|name| handler(daemon, name)).collect(),
        features: Some(api::RuntimeFeatures {
            supplemental_groups_policy: true,
            ..api::RuntimeFeatures::default()
        }),
    })
}

fn condition(name: &str, holds: Result<()>) -> api::RuntimeCondition {
    let (status, reason, message) = match holds {
        Ok(()) => (true, String::new(), String::new()),
        Err(error) => (false, format!("{name}False"), format!("{error:#}")),
    };
    api::RuntimeCondition { r#type: name.to_owned(), status, reason, message }
}

/// The built-in bridge is made when it is needed; CNI plugins have to be there.
fn network(daemon: &Daemon) -> api::RuntimeCondition {
    let ready = match daemon.config.network_mode() {
        NetworkMode::Cni(network) => cni::status(&network).map(drop),
        _ => Ok(()),
    };
    condition("NetworkReady", ready)
}

fn handler(daemon: &Daemon, name: String) -> api::RuntimeHandler {
    let features = api::RuntimeHandlerFeatures {
        // mount_setattr(2) with AT_RECURSIVE: Linux 5.12, as all that podshim runs on.
        recursive_read_only_mounts: true,
        user_namespaces: true,
        ..api::RuntimeHandlerFeatures::default()
    };
    api::RuntimeHandler { name, features: Some(features) }
}

fn info(daemon: &Daemon) -> HashMap<String, String> {
    let info = serde_json::json!({
        "root": daemon.dirs.root,
        "state": daemon.dirs.state,
        "kernel": daemon.facts.kernel,
    });
    [("info".to_owned(), info.to_string())].into()
}
