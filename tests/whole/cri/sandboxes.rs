//! What a sandbox is to whoever asks: where it is, whether it can be used, and what keeps it from ending.

use super::super::cni::one_plugin;
use super::super::harness::{Host, until};
use super::super::leaks;
use super::client::{BUSYBOX, Cri, container, sandbox};
use super::kills::{host_pid, kill_supervisor};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podshim::cri::api;
use std::collections::BTreeSet;
use tonic::{Code, Status};

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

/// A container's record is torn: it can be ended and removed, and nobody else's lists and lives depend on it.
#[test]
fn a_damaged_container_is_in_nobody_elses_way() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let mut cri = Cri::start(&host, "");
    for how in ["the container is removed", "the sandbox is removed", "server and supervisor are killed"] {
        let (config, other) = (sandbox(&host, "p"), sandbox(&host, "q"));
        let (id, whole) = (cri.sandbox(&config), cri.sandbox(&other));
        let torn = cri.running((&id, &config), "torn", "sleep 1000");
        let beside = cri.running((&id, &config), "beside", "sleep 1000");
        let runs = cri.running((&whole, &other), "runs", "sleep 1000");
        let pid = i32::try_from(host_pid(&cri, &torn)).unwrap();
        let state = host.path("state/pods").join(&id).join("containers").join(&torn);
        std::fs::write(state.join("new"), "{\"config\":").unwrap();
        std::fs::rename(state.join("new"), state.join("container.json")).unwrap();
        let is_killed = how.contains("killed");
        if is_killed {
            cri.kill();
            kill_supervisor(&host, &id);
            cri.restart();
        }

        let listed: BTreeSet<String> = cri.containers().into_iter().map(|found| found.id).collect();
        assert_eq!(listed, BTreeSet::from([beside.clone(), runs.clone()]), "{how}");
        assert_eq!(cri.sandboxes().len(), 2, "{how}");
        let is_ready = cri.sandbox_status(&id).unwrap().state() == api::PodSandboxState::SandboxReady;
        assert_eq!(is_ready, !is_killed, "{how}: nobody can take it over");
        assert_eq!(cri.exec(&runs, &["sh", "-c", "exit 7"], 10).unwrap().exit_code, 7, "{how}");
        let note = |line: &&str| line.contains("is in no list") && line.contains(&torn);
        let notes = || cri.server.err().lines().filter(note).count();
        until("the note", || (notes() > 0).then_some(()));
        assert_eq!(notes(), 1, "{how}");
        // What it is, and which image it has, is not known.
        let names_it = |error: Status| assert!(error.message().contains("container.json is damaged"), "{how}: {error}");
        names_it(cri.status(&torn).unwrap_err());
        let image = Some(api::ImageSpec { image: BUSYBOX.to_owned(), ..api::ImageSpec::default() });
        let request = api::RemoveImageRequest { image };
        names_it(cri.call_images(|mut c| async move { c.remove_image(request).await }).unwrap_err());
        let remedy = format!("podshim rm -f {id}");
        host.run(&["image", "rm", "none:1"]).expect(125).says(&["container.json is damaged", &remedy]);
        host.ok(&["image", "ls"]);

        if !is_killed {
            // A kubelet makes again what it does not see: there would be two.
            names_it(cri.create((&id, &config), &container("torn", "sleep 1000")).unwrap_err());
        }
        if how.contains("container") {
            cri.stop(&torn, 0).unwrap();
            cri.remove(&torn).unwrap();
            assert!(leaks::has_ended(pid) && !state.exists());
            cri.running((&id, &config), "torn", "sleep 1000");
        }
        cri.stop_sandbox(&id).unwrap();
        assert!(leaks::has_ended(pid), "{how}");
        cri.remove_sandbox(&id).unwrap();
        let left: Vec<String> = host.leaks().into_iter().filter(|left| left.contains(&id)).collect();
        assert_eq!(left, [] as [String; 0], "{how}");
        assert_eq!((cri.sandboxes().len(), &cri.containers()[0].id), (1, &runs), "{how}");
        cri.remove_sandbox(&whole).unwrap();
    }
}
