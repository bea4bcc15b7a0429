//! No request, however made, is the end of the server.

use super::*;
use proptest::prelude::*;
use prost::Message as _;

/// A request whose bytes were tampered with, decoded again.
fn tampered<M: prost::Message + Default>(request: &M, changes: &[(prop::sample::Index, u8)]) -> Option<M> {
    let mut bytes = request.encode_to_vec();
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    M::decode(&bytes[..]).ok()
}

/// Requests with something in every field.
fn full_sandbox() -> api::PodSandboxConfig {
    let mut request = sandbox_request();
    request.hostname = "web".into();
    request.dns_config = Some(api::DnsConfig { servers: vec!["1.1.1.1".into()], ..Default::default() });
    request.port_mappings = vec![api::PortMapping { container_port: 80, host_port: 8080, ..Default::default() }];
    request.labels = [("a".to_owned(), "b".to_owned())].into();
    linux(&mut request).cgroup_parent = "/kubepods/pod".into();
    linux(&mut request).sysctls = [("net.ipv4.x".to_owned(), "1".to_owned())].into();
    let mapping = vec![api::IdMapping { host_id: 65_536, container_id: 0, length: 65_536 }];
    sandbox_namespaces(&mut request).userns_options =
        Some(api::UserNamespace { mode: 0, uids: mapping.clone(), gids: mapping });
    request
}

fn full_container() -> api::ContainerConfig {
    let mut request = container_request();
    request.command = vec!["sh".into(), "$(A)".into()];
    request.envs = vec![api::KeyValue { key: "A".into(), value: b"a".to_vec() }];
    let mapping = vec![api::IdMapping { host_id: 65_536, container_id: 0, length: 65_536 }];
    request.mounts = vec![api::Mount {
        container_path: "/m".into(),
        host_path: "/tmp".into(),
        uid_mappings: mapping.clone(),
        gid_mappings: mapping,
        mount_options: vec!["noexec".into()],
        ..Default::default()
    }];
    let own = security(&mut request);
    own.capabilities = Some(api::Capability { add_capabilities: vec!["NET_ADMIN".into()], ..Default::default() });
    own.masked_paths = vec!["/proc/kcore".into()];
    own.supplemental_groups = vec![1, 2];
    own.seccomp = Some(api::SecurityProfile { profile_type: 2, localhost_ref: "/a/b".into() });
    let numbers = resources(&mut request);
    (numbers.cpu_shares, numbers.memory_limit_in_bytes, numbers.cpuset_cpus) = (100, 1 << 30, "0-1".into());
    numbers.hugepage_limits = vec![api::HugepageLimit { page_size: "2MB".into(), limit: 0 }];
    request
}

/// What holds of every request: an error is of kind `Invalid` and of bounded length, and what is accepted stays where it belongs.
fn check(sandbox_request: &api::PodSandboxConfig, request: &api::ContainerConfig) {
    let refused = |error: anyhow::Error| {
        assert_eq!(kind_of(&error), Some(Kind::Invalid), "{error:#}");
        assert!(format!("{error:#}").len() < 4096, "an error is no echo");
    };
    let plan = match sandbox(sandbox_request, &sandbox_context()) {
        Ok(plan) => plan,
        Err(error) => return refused(error),
    };
    assert!(!format!("/{}/", plan.sandbox.cgroup.parent).contains("/../"));
    match planned(request, sandbox_request, &container_context()) {
        Ok(converted) => {
            if let crate::plan::config::Log::File(path) = &converted.config.log {
                assert!(path.starts_with(&plan.sandbox.log_directory), "{}", path.display());
            }
            assert_eq!(converted.volumes.len(), converted.config.mounts.len());
        }
        Err(error) => refused(error),
    }
}

#[test]
fn the_full_requests_are_fine() {
    sandbox(&full_sandbox(), &sandbox_context()).unwrap();
    planned(&full_container(), &full_sandbox(), &container_context()).unwrap();
}

proptest! {
    #[test]
    fn any_bytes_are_a_config_or_an_error(
        of_sandbox in prop::collection::vec(any::<u8>(), 0..512),
        of_container in prop::collection::vec(any::<u8>(), 0..512),
    ) {
        let sandbox_request = api::PodSandboxConfig::decode(&of_sandbox[..]).unwrap_or_else(|_| full_sandbox());
        let request = api::ContainerConfig::decode(&of_container[..]).unwrap_or_else(|_| full_container());
        check(&sandbox_request, &request);
    }

    #[test]
    fn any_tampered_request_is_a_config_or_an_error(
        of_sandbox in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4),
        of_container in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4),
    ) {
        let sandbox_request = tampered(&full_sandbox(), &of_sandbox).unwrap_or_else(full_sandbox);
        let request = tampered(&full_container(), &of_container).unwrap_or_else(full_container);
        check(&sandbox_request, &request);
    }
}
