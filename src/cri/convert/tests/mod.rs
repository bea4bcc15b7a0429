//! Requests → configs, and what is refused.

mod containers;
mod hostile;
mod numbers;
mod sandboxes;

use super::{ContainerContext, Converted, SandboxContext, planned, sandbox};
use crate::cri::api;
use crate::error::{Kind, kind_of};
use crate::host::cgroup::{CgroupSetup, Hierarchy, Mode, Version};
use crate::host::lsm::Lsms;
use crate::plan::config::{NetworkMode, PodPlan};
use crate::plan::spec::Cgroups;
use anyhow::Result;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Of a container that is in the sandbox already.
const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

fn sandbox_context() -> SandboxContext {
    SandboxContext {
        id: ID.into(),
        network: NetworkMode::Bridge,
        bridge: Some(Default::default()),
        seccomp_root: "/profiles".into(),
        cgroup_parent: "default".into(),
    }
}

/// A host with cgroup v2 and huge pages of two sizes.
fn container_context() -> ContainerContext {
    let controllers = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"].map(str::to_owned).into();
    let unified = Hierarchy {
        mount: "/sys/fs/cgroup".into(),
        controllers,
        version: Version::V2,
        own: "/".into(),
        read_only: false,
    };
    ContainerContext {
        id: ID.into(),
        lsms: Lsms::default(),
        cgroups: CgroupSetup { mode: Mode::V2, hierarchies: vec![unified] },
        numbers: Cgroups { cpu_is_unified: true, memory_is_unified: true, page_sizes: vec![2 << 20, 1 << 30] },
        others: [OTHER.to_owned()].into(),
        handlers: Default::default(),
    }
}

/// A sandbox as critest asks for it.
fn sandbox_request() -> api::PodSandboxConfig {
    let metadata =
        api::PodSandboxMetadata { name: "pod".into(), uid: "uid".into(), namespace: "ns".into(), attempt: 0 };
    api::PodSandboxConfig {
        metadata: Some(metadata),
        log_directory: "/var/log/pods/ns_pod_uid".into(),
        linux: Some(api::LinuxPodSandboxConfig::default()),
        ..Default::default()
    }
}

fn container_request() -> api::ContainerConfig {
    api::ContainerConfig {
        metadata: Some(api::ContainerMetadata { name: "c".into(), attempt: 0 }),
        image: Some(api::ImageSpec { image: "busybox".into(), ..Default::default() }),
        log_path: "c/0.log".into(),
        ..Default::default()
    }
}

fn linux(request: &mut api::PodSandboxConfig) -> &mut api::LinuxPodSandboxConfig {
    request.linux.get_or_insert_default()
}

fn sandbox_security(request: &mut api::PodSandboxConfig) -> &mut api::LinuxSandboxSecurityContext {
    linux(request).security_context.get_or_insert_default()
}

fn sandbox_namespaces(request: &mut api::PodSandboxConfig) -> &mut api::NamespaceOption {
    sandbox_security(request).namespace_options.get_or_insert_default()
}

fn security(request: &mut api::ContainerConfig) -> &mut api::LinuxContainerSecurityContext {
    request.linux.get_or_insert_default().security_context.get_or_insert_default()
}

fn namespaces(request: &mut api::ContainerConfig) -> &mut api::NamespaceOption {
    security(request).namespace_options.get_or_insert_default()
}

fn resources(request: &mut api::ContainerConfig) -> &mut api::LinuxContainerResources {
    request.linux.get_or_insert_default().resources.get_or_insert_default()
}

/// The plan of the usual sandbox, changed.
fn planned_sandbox(change: impl FnOnce(&mut api::PodSandboxConfig)) -> Result<PodPlan> {
    let mut request = sandbox_request();
    change(&mut request);
    sandbox(&request, &sandbox_context())
}

/// What the usual container, changed, comes to in the usual sandbox.
fn planned_container(change: impl FnOnce(&mut api::ContainerConfig)) -> Result<Converted> {
    planned_in(&sandbox_request(), change)
}

fn planned_in(sandbox: &api::PodSandboxConfig, change: impl FnOnce(&mut api::ContainerConfig)) -> Result<Converted> {
    let mut request = container_request();
    change(&mut request);
    planned(&request, sandbox, &container_context())
}

/// It is refused as wrong, by its field.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(name: &str, result: Result<T>, expected: &str) {
    let error = result.expect_err(name);
    assert_eq!(kind_of(&error), Some(Kind::Invalid), "{name}: {error:#}");
    let text = format!("{error:#}");
    assert!(text.starts_with(expected), "{name}: {text:?} does not begin with {expected:?}");
}
