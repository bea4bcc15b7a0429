//! What a sandbox is to whoever asks: where it is, whether it can be used, and what keeps it from ending.

use super::super::cni::one_plugin;
use super::super::harness::{Host, until};
use super::super::leaks;
use super::client::{Cri, container, sandbox};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podshim::cri::api;
use tonic::Code;

fn options(config: &mut api::PodSandboxConfig) -> &mut api::NamespaceOption {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default()
}

#[test]
fn e7_a_sandbox_without_its_first_process_is_not_ready_and_another_one_takes_its_place() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let mut config = sandbox(&host, "p");
    options(&mut config).pid = api::NamespaceMode::Pod.into();
    let id = cri.sandbox(&config);
    let made = cri.running((&id, &config), "c", "sleep 1000");
    let first = leaks::processes_in(&format!("{}/podshim/{id}/_pause", host.cgroup_parent));
    kill(Pid::from_raw(first[0]), Signal::SIGKILL).unwrap();
    assert_eq!(cri.until_exited(&made).exit_code, 137, "with its pid namespace");
    let state = || cri.sandbox_status(&id).unwrap().state();
    until("the loss", || (state() == api::PodSandboxState::SandboxNotready).then_some(()));
    assert_eq!(cri.sandboxes()[0].state(), api::PodSandboxState::SandboxNotready);
    let error = cri.create((&id, &config), &container("again", "true")).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    // As a kubelet goes on.
    config.metadata.as_mut().unwrap().attempt = 1;
    let another = cri.sandbox(&config);
    cri.running((&another, &config), "c", "sleep 1000");
    for id in [&id, &another] {
        cri.stop_sandbox(id).unwrap();
        cri.remove_sandbox(id).unwrap();
    }
}

#[test]
fn e7_the_hosts_addresses_are_the_kubelets_to_tell() {
    let Some(host) = Host::new(&[]) else { return };
    let network = host.own_network();
    crate::harness::ip(&["-n", &network, "link", "add", "uplink", "type", "veth", "peer", "name", "other"]);
    crate::harness::ip(&["-n", &network, "address", "add", "192.0.2.1/24", "dev", "uplink"]);
    let cri = Cri::start(&host, "");
    let mut config = sandbox(&host, "p");
    options(&mut config).network = api::NamespaceMode::Node.into();
    let id = cri.sandbox(&config);
    let status = cri.sandbox_status(&id).unwrap().network.unwrap();
    assert_eq!((status.ip.as_str(), status.additional_ips.len()), ("", 0));
    cri.stop_sandbox(&id).unwrap();
    cri.remove_sandbox(&id).unwrap();
}

#[test]
fn e7_a_sandbox_that_is_not_off_its_network_has_not_been_stopped() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let (conf, bin) = one_plugin(&host);
    let cri = Cri::start(&host, &format!("[network]\nconf_dir = {conf:?}\nbin_dirs = [{bin:?}]\n"));
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    assert_eq!(cri.sandbox_status(&id).unwrap().network.unwrap().ip, "10.0.0.2");
    let environment = std::fs::read_to_string(host.path("bin/log/000.env")).unwrap();
    let uid = config.metadata.as_ref().unwrap().uid.clone();
    let told = format!("K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={uid}\n");
    assert!(environment.contains(&told), "{environment}");
    std::fs::write(host.path("bin/one.DEL"), "echo '{\"code\":11,\"msg\":\"try later\"}'; exit 1").unwrap();
    for _ in 0..2 {
        let error = cri.stop_sandbox(&id).unwrap_err();
        assert!(error.message().contains("try later"), "{error}");
    }
    assert!(cri.remove_sandbox(&id).unwrap_err().message().contains("try later"));
    assert_eq!(cri.sandbox_status(&id).unwrap().state(), api::PodSandboxState::SandboxNotready);
    std::fs::remove_file(host.path("bin/one.DEL")).unwrap();
    cri.stop_sandbox(&id).unwrap();
    cri.remove_sandbox(&id).unwrap();
    assert!(cri.sandboxes().is_empty());
}

#[test]
fn e7_a_handler_whose_program_is_not_there_makes_no_sandbox() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "[runtime_handlers.gone]\npath = \"/no/such/runtime\"\n");
    let config = Some(sandbox(&host, "p"));
    let request = api::RunPodSandboxRequest { config, runtime_handler: "gone".to_owned() };
    let error = cri.call(|mut c| async move { c.run_pod_sandbox(request).await }).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert!(error.message().contains("/no/such/runtime"), "{error}");
    assert!(cri.sandboxes().is_empty());
}
