//! PodSandboxStatus.

use super::container_status;
use crate::cri::sandboxes::{self, Sandbox};
use crate::cri::{Daemon, api};
use crate::error::{Kind, failure};
use crate::plan::config::NetworkMode;
use anyhow::Result;
use std::collections::HashMap;

/// What is done.
pub(in crate::cri) fn run(
    daemon: &Daemon,
    request: &api::PodSandboxStatusRequest,
) -> Result<api::PodSandboxStatusResponse> {
    let sandbox = sandboxes::sandbox(&daemon.dirs, &request.pod_sandbox_id)?;
    if daemon.plugins.hides(sandbox.id()) {
        return Err(failure(Kind::NotFound, format!("sandbox {} is being made", sandbox.id())));
    }
    let containers = sandbox.containers()?;
    Ok(api::PodSandboxStatusResponse {
        status: Some(status(&sandbox)),
        info: if request.verbose { info(&sandbox)? } else { HashMap::new() },
        containers_statuses: containers.iter().map(|c| container_status::status(&sandbox, c)).collect::<Result<_>>()?,
        timestamp: super::now()?,
    })
}

/// As the API has it.
pub(in crate::cri) fn status(sandbox: &Sandbox) -> api::PodSandboxStatus {
    // The host's own are the kubelet's to tell.
    let is_hosts = sandbox.pod.record.plan.sandbox.namespaces.network == NetworkMode::Host;
    let mut addresses = sandbox.addresses().into_iter().filter(|_| !is_hosts);
    let linux = sandbox.config.linux.as_ref();
    let options = linux.and_then(|linux| linux.security_context.as_ref()?.namespace_options.clone());
    api::PodSandboxStatus {
        id: sandbox.id().to_owned(),
        metadata: Some(sandbox.metadata()),
        state: sandbox.state() as i32,
        created_at: sandbox.asked.created_at,
        network: Some(api::PodSandboxNetworkStatus {
            ip: addresses.next().unwrap_or_default(),
            additional_ips: addresses.map(|ip| api::PodIp { ip }).collect(),
        }),
        linux: Some(api::LinuxPodSandboxStatus {
            namespaces: Some(api::Namespace { options: Some(options.unwrap_or_default()) }),
        }),
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: sandbox.asked.handler.clone(),
    }
}

/// For people and tools that know podshim: where things are, and what was planned.
fn info(sandbox: &Sandbox) -> Result<HashMap<String, String>> {
    let pod = &sandbox.pod;
    let plan = &pod.record.plan.sandbox;
    let info = serde_json::json!({
        "networkNamespace": pod.dirs.namespace("net"),
        "stateDirectory": pod.dirs.state,
        "cgroupParent": plan.cgroup.parent,
        "runtimeHandler": sandbox.asked.handler,
        "plan": plan,
    });
    Ok([("info".to_owned(), info.to_string())].into())
}
