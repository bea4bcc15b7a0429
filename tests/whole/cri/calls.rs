//! Lives of sandboxes and containers, and calls that are repeated.

use super::super::harness::{Host, Live, until};
use super::super::leaks;
use super::client::{Cri, Kubelet, container, log, sandbox};
use nix::sys::signal::Signal;
use podshim::cri::api;
use std::path::Path;
use std::process::Command;
use tonic::Code;

#[test]
fn e7_a_container_lives_as_it_is_told_and_nothing_is_left() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let status = cri.sandbox_status(&id).unwrap();
    assert_eq!(status.state, api::PodSandboxState::SandboxReady as i32);
    assert!(status.network.unwrap().ip.starts_with("10.86."), "the built-in bridge, as no CNI is configured");
    assert_eq!((status.labels, status.annotations), (config.labels.clone(), config.annotations.clone()));

    let made = cri.create((&id, &config), &container("c", "echo out; echo err >&2; read x; exit 3")).unwrap();
    let status = cri.status(&made).unwrap();
    assert_eq!(status.state, api::ContainerState::ContainerCreated as i32);
    assert_eq!((status.started_at, status.finished_at), (0, 0));
    assert!(log(&host, "p", "c").is_empty(), "its command is not executed before it is started");
    cri.start_container(&made).unwrap();
    let ended = cri.until_exited(&made);
    assert_eq!((ended.exit_code, &*ended.reason), (3, "Error"), "{ended:?}");
    assert!(ended.created_at < ended.started_at && ended.started_at < ended.finished_at, "{ended:?}");
    let mut lines = log(&host, "p", "c");
    lines.sort();
    assert_eq!(lines, ["err", "out"]);

    // What has ended stays to be seen, also when its sandbox has ended.
    cri.stop_sandbox(&id).unwrap();
    assert_eq!(cri.sandbox_status(&id).unwrap().state, api::PodSandboxState::SandboxNotready as i32);
    assert_eq!(cri.status(&made).unwrap(), ended);
    cri.remove_sandbox(&id).unwrap();
    assert!(cri.sandboxes().is_empty() && cri.containers().is_empty());
    assert_eq!(log(&host, "p", "c").len(), 2, "logs are the kubelet's");
}

#[test]
fn e7_calls_can_be_repeated() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    assert_eq!(cri.run_sandbox(&config).unwrap_err().code(), Code::AlreadyExists, "the same identity");
    let mut next = config.clone();
    next.metadata.as_mut().unwrap().attempt = 1;
    let second = cri.sandbox(&next);

    let made = cri.create((&id, &config), &container("c", "sleep 1000")).unwrap();
    let again = cri.create((&id, &config), &container("c", "sleep 1000")).unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists, "{again}");
    cri.stop(&made, 0).unwrap();
    assert_eq!(cri.status(&made).unwrap().state, api::ContainerState::ContainerCreated as i32, "it did not run");
    cri.start_container(&made).unwrap();
    let twice = cri.start_container(&made).unwrap_err();
    assert_eq!(twice.code(), Code::FailedPrecondition, "{twice}");
    for _ in 0..2 {
        cri.stop(&made, 0).unwrap();
        assert_eq!(cri.status(&made).unwrap().exit_code, 137);
    }
    for _ in 0..2 {
        cri.remove(&made).unwrap();
        cri.stop(&made, 0).unwrap();
    }
    for sandbox in [&id, &second] {
        for _ in 0..2 {
            cri.stop_sandbox(sandbox).unwrap();
        }
        for _ in 0..2 {
            cri.remove_sandbox(sandbox).unwrap();
        }
        cri.stop_sandbox(sandbox).unwrap();
    }
}

#[test]
fn e7_a_grace_period_is_kept_and_can_be_shortened() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let script = "trap 'echo term' TERM; echo up; while :; do sleep 0.05; done";
    let stubborn = cri.running((&id, &config), "stubborn", script);
    until("trap", || log(&host, "p", "stubborn").contains(&"up".to_owned()).then_some(()));
    let begin = std::time::Instant::now();
    let (socket, asked) = (cri.socket.clone(), stubborn.clone());
    let patient = std::thread::spawn(move || Kubelet::new(socket).stop(&asked, 60));
    until("signal", || log(&host, "p", "stubborn").contains(&"term".to_owned()).then_some(()));
    cri.stop(&stubborn, 1).unwrap();
    patient.join().unwrap().unwrap();
    let took = begin.elapsed().as_secs_f64();
    assert!((1.0..20.0).contains(&took), "{took} s: neither at once nor after a minute");
    assert_eq!(log(&host, "p", "stubborn").iter().filter(|line| *line == "term").count(), 1, "one signal");
    assert_eq!(cri.status(&stubborn).unwrap().exit_code, 137);
}

#[test]
fn e7_a_failed_creation_and_a_failed_start_are_told_apart() {
    let Some(host) = Host::new(&["strace"]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let mut missing = container("c", "");
    missing.image.as_mut().unwrap().image = "no.such/image:1".to_owned();
    let error = cri.create((&id, &config), &missing).unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    assert!(cri.containers().is_empty(), "nothing is left of it");

    let mut command = container("c", "");
    command.command = vec!["/no/such/command".to_owned()];
    let made = cri.create((&id, &config), &command).unwrap();
    // What is told is what is kept, also if that takes a while.
    let supervisor = leaks::supervisors(&host.path("state/pods").join(&id))[0].pid;
    let mut strace = Command::new("strace");
    strace.args(["-p", &supervisor.to_string(), "-o", "/dev/null", "-e", "trace=rename"]);
    strace.args(["-e", "inject=rename:delay_enter=300000"]);
    let mut slow = Live::start(strace);
    until("strace", || slow.err().contains("attached").then_some(()));
    let error = cri.start_container(&made).unwrap_err();
    assert!(error.message().contains("/no/such/command"), "{error}");
    let status = cri.status(&made).unwrap();
    assert_eq!((status.exit_code, &*status.reason), (128, "StartError"), "{status:?}");
    slow.signal(Signal::SIGTERM);
    slow.wait();
}

#[test]
fn e7_commands_have_output_codes_and_time_limits() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let made = cri.sleeper(&host);
    let answer = cri.exec(&made, &["sh", "-c", "echo out; echo err >&2; exit 7"], 0).unwrap();
    assert_eq!((&*answer.stdout, &*answer.stderr, answer.exit_code), (&b"out\n"[..], &b"err\n"[..], 7));
    // What is started in the background holds the output, and is not waited for.
    let answer = cri.exec(&made, &["sh", "-c", "sleep 500 & echo on"], 20).unwrap();
    assert_eq!((&*answer.stdout, answer.exit_code), (&b"on\n"[..], 0));
    let large = cri.exec(&made, &["sh", "-c", "head -c 3000000 /dev/zero"], 20).unwrap();
    assert_eq!(large.stdout.len(), 3_000_000);
    let begin = std::time::Instant::now();
    let late = cri.exec(&made, &["sleep", "77"], 1).unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    assert!(begin.elapsed().as_secs() < 10);
    until("end of the command", || {
        let answer = cri.exec(&made, &["sh", "-c", "ps | grep -c '[s]leep 77'"], 5).unwrap();
        (answer.stdout == b"0\n").then_some(())
    });
    let error = cri.exec(&made, &["no-such-command"], 5).unwrap_err();
    assert!(error.message().contains("no-such-command"), "{error}");
}

#[test]
fn e7_a_handler_stands_for_an_oci_runtime() {
    let Some(host) = Host::new(&["runc"]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "[runtime_handlers.other]\npath = \"/usr/sbin/runc\"\n");
    let config = sandbox(&host, "p");
    let mut mapped = config.clone();
    let whole = api::IdMapping { host_id: 1 << 20, container_id: 0, length: 1 << 16 };
    let users = api::UserNamespace { mode: 0, uids: vec![whole], gids: vec![whole] };
    let options = api::NamespaceOption { userns_options: Some(users), ..Default::default() };
    mapped.linux.get_or_insert_default().security_context.get_or_insert_default().namespace_options = Some(options);
    let request = api::RunPodSandboxRequest { config: Some(mapped), runtime_handler: "other".to_owned() };
    let error = cri.call(|mut c| async move { c.run_pod_sandbox(request).await }).unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unimplemented, "{error}");
    assert!(error.message().contains("userns_options: handler other"), "{error}");
    let request = api::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: "other".to_owned() };
    let id = cri.call(|mut c| async move { c.run_pod_sandbox(request).await }).unwrap().pod_sandbox_id;
    assert_eq!(cri.sandbox_status(&id).unwrap().runtime_handler, "other");

    let made = cri
        .create((&id, &config), &container("c", "echo out; while ! [ -e /end ]; do sleep 0.05; done; exit 5"))
        .unwrap();
    let bundle = host.path(&format!("state/pods/{id}/containers/{made}"));
    until("runc's own state of it", || bundle.join("oci").join(&made).exists().then_some(()));
    assert!(log(&host, "p", "c").is_empty(), "created, not started");
    cri.start_container(&made).unwrap();
    let answer = cri.exec(&made, &["sh", "-c", "hostname; touch /end"], 10).unwrap();
    assert_eq!((&*answer.stdout, answer.exit_code), (&b"p\n"[..], 0));
    assert_eq!(cri.until_exited(&made).exit_code, 5);
    assert_eq!(log(&host, "p", "c"), ["out"]);
    cri.remove(&made).unwrap();
    assert!(!bundle.exists());

    let killed = cri.running((&id, &config), "killed", "sleep 1000");
    cri.stop(&killed, 0).unwrap();
    assert_eq!(cri.status(&killed).unwrap().exit_code, 137);
    let mut wrong = container("wrong", "");
    wrong.command = vec!["/no/such/command".to_owned()];
    let made = cri.create((&id, &config), &wrong);
    // runc looks for the command when it creates the container, crun when it starts it.
    let error = made.and_then(|made| cri.start_container(&made)).unwrap_err();
    assert!(error.message().contains("/no/such/command"), "{error}");
    let waits = cri.create((&id, &config), &container("waits", "true")).unwrap();
    cri.remove(&waits).unwrap();
    cri.stop_sandbox(&id).unwrap();
    cri.remove_sandbox(&id).unwrap();
    cri.call(|mut c| async move { c.version(api::VersionRequest::default()).await }).unwrap();
}

#[test]
fn e7_the_kubelet_says_which_addresses_pods_have() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let mut cri = Cri::start(&host, "");
    let tell = |cri: &Cri<'_>, cidr: &str| {
        let network_config = Some(api::NetworkConfig { pod_cidr: cidr.to_owned() });
        let request = api::UpdateRuntimeConfigRequest { runtime_config: Some(api::RuntimeConfig { network_config }) };
        cri.call(|mut c| async move { c.update_runtime_config(request).await }).map(drop)
    };
    let address = |cri: &Cri<'_>, id: &str| cri.sandbox_status(id).unwrap().network.unwrap().ip;
    tell(&cri, "10.99.1.0/24").unwrap();
    let (first, second) = (sandbox(&host, "first"), sandbox(&host, "second"));
    let id = cri.sandbox(&first);
    assert!(address(&cri, &id).starts_with("10.99.1."), "{}", address(&cri, &id));
    assert_eq!(tell(&cri, "10.99.1.0/31").unwrap_err().code(), Code::InvalidArgument);
    tell(&cri, "10.99.2.0/24").unwrap();
    let error = cri.run_sandbox(&second).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert!(error.message().contains("10.99.1.0/24") && error.message().contains("10.99.2.0/24"), "{error}");
    cri.kill();
    cri.restart();
    cri.stop_sandbox(&id).unwrap();
    cri.remove_sandbox(&id).unwrap();
    let id = cri.sandbox(&second);
    assert!(address(&cri, &id).starts_with("10.99.2."), "{}", address(&cri, &id));
    cri.stop_sandbox(&id).unwrap();
    cri.remove_sandbox(&id).unwrap();
}

/// The first process of a pid namespace does not end before all others of it are waited for.
#[test]
fn e7_what_a_failed_runtime_leaves_holds_nothing_up() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let runtime = host.path("failing-runtime");
    let script = r#"#!/bin/sh
while [ "$1" != --bundle ]; do shift; done
nsenter --pid="$2/../../ns/pid" sleep 1000 </dev/null >/dev/null 2>&1 &
until [ -n "$(cat /proc/$!/task/$!/children)" ]; do sleep 0.01; done
echo $! >"$2/../../../../../left"
exit 1
"#;
    std::fs::write(&runtime, script).unwrap();
    std::fs::set_permissions(&runtime, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let cri = Cri::start(&host, &format!("[runtime_handlers.failing]\npath = {runtime:?}\n"));
    let mut config = sandbox(&host, "p");
    let options = api::NamespaceOption { pid: api::NamespaceMode::Pod.into(), ..Default::default() };
    config.linux.get_or_insert_default().security_context.get_or_insert_default().namespace_options =
        Some(options.clone());
    let request = api::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: "failing".to_owned() };
    let id = cri.call(|mut c| async move { c.run_pod_sandbox(request).await }).unwrap().pod_sandbox_id;
    let mut wanted = container("c", "true");
    wanted.linux.get_or_insert_default().security_context.get_or_insert_default().namespace_options = Some(options);
    let error = cri.refused((&id, &config), &wanted);
    assert!(error.message().contains("failing-runtime ended with 1"), "{error}");
    let left = std::fs::read_to_string(host.path("left")).unwrap();
    assert!(!Path::new("/proc").join(left.trim()).exists(), "{left} is there");
    cri.stop_sandbox(&id).unwrap();
    cri.remove_sandbox(&id).unwrap();
}

#[test]
fn e7_many_ask_at_once() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let threads: Vec<_> = (0..24)
        .map(|n| {
            let (socket, id, config) = (cri.socket.clone(), id.clone(), config.clone());
            std::thread::spawn(move || {
                let kubelet = Kubelet::new(socket);
                let made = kubelet.create((&id, &config), &container(&format!("c{n}"), "sleep 1000")).unwrap();
                kubelet.start_container(&made).unwrap();
                if n % 2 == 0 {
                    kubelet.remove(&made).unwrap();
                }
                made
            })
        })
        .collect();
    let made: Vec<String> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let mut left: Vec<String> = cri.containers().into_iter().map(|container| container.id).collect();
    let mut expected: Vec<String> = made.into_iter().skip(1).step_by(2).collect();
    left.sort();
    expected.sort();
    assert_eq!(left, expected);
    for container in &left {
        assert_eq!(cri.status(container).unwrap().state, api::ContainerState::ContainerRunning as i32);
    }
    assert_eq!(host.path("state/pods").join(&id).join("containers").read_dir().unwrap().count(), 12);
}
