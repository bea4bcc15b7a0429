//! Many at once, and much at once: each has what it asked for, or is told why not, and nobody else waits for it.

use super::super::harness::{Host, until};
use super::client::{BUSYBOX, Cri, Kubelet, container, sandbox};
use super::kills::kill_supervisor;
use crate::leaks;
use futures_util::future::join_all;
use podshim::control::{Connection, Request};
use podshim::cri::api;
use podshim::cri::api::runtime_service_client::RuntimeServiceClient;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

#[test]
fn of_containers_of_one_name_and_attempt_one_is_made() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let mut cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let request = api::CreateContainerRequest {
        pod_sandbox_id: id.clone(),
        config: Some(container("c", "sleep 1000")),
        sandbox_config: Some(config.clone()),
    };
    let answers = cri.call(|client| async move {
        let calls = (0..12).map(|_| {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.create_container(request).await }
        });
        Ok(Response::new(join_all(calls).await))
    });
    let (made, refused): (Vec<_>, Vec<_>) = answers.unwrap().into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), cri.containers().len()), (1, 1));
    for error in refused {
        assert_eq!(error.unwrap_err().code(), Code::AlreadyExists);
    }
    // Whoever supervises it knows it.
    cri.kill();
    kill_supervisor(&host, &id);
    cri.restart();
    let error = cri.create((&id, &config), &container("c", "true")).unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists, "{error}");
    let mut next = container("c", "true");
    next.metadata.as_mut().unwrap().attempt = 1;
    cri.create((&id, &config), &next).unwrap();
}

#[test]
fn commands_that_wait_hold_nobody_up_and_end_with_their_clients() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let pods: Vec<_> = ["p", "q", "r"]
        .into_iter()
        .map(|name| {
            let config = sandbox(&host, name);
            let id = cri.sandbox(&config);
            let made = cri.running((&id, &config), "c", "sleep 1000");
            (id, made)
        })
        .collect();
    // More than there are threads for by tokio's default, and more than one pod takes.
    let is_over = Arc::new(AtomicBool::new(false));
    let mut waiting = Vec::new();
    for (index, (_, made)) in pods.iter().enumerate() {
        let (kubelet, made, is_over) = (Kubelet::new(cri.socket.clone()), made.clone(), is_over.clone());
        let cmd = vec!["sleep".to_owned(), seconds(index)];
        let calls = |client: RuntimeServiceClient<Channel>| async move {
            let calls = (0..200).map(|_| {
                let request = api::ExecSyncRequest { container_id: made.clone(), cmd: cmd.clone(), timeout: 0 };
                let mut client = client.clone();
                async move { client.exec_sync(request).await }
            });
            let mut calls = tokio::task::spawn(join_all(calls.collect::<Vec<_>>()));
            while !is_over.load(Ordering::Relaxed) && !calls.is_finished() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            calls.abort();
            Ok(Response::new((&mut calls).await.is_err()))
        };
        waiting.push(std::thread::spawn(move || kubelet.call(calls)));
    }
    // Whole: an id of a pod, which its supervisor's arguments name, may have the same digits.
    let commands =
        |index: usize| leaks::processes(|p| p.cmdline.trim_end() == format!("sleep {}", seconds(index))).len();
    until("as many commands as are taken", || (0..3).all(|index| commands(index) > 180).then_some(()));
    let begin = Instant::now();
    assert_eq!((cri.sandboxes().len(), cri.containers().len()), (3, 3));
    let error = cri.exec(&pods[0].1, &["true"], 5).unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    // What ends is not held up by what lasts.
    cri.stop(&pods[2].1, 0).unwrap();
    assert_eq!(cri.status(&pods[2].1).unwrap().state(), api::ContainerState::ContainerExited);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    is_over.store(true, Ordering::Relaxed);
    for client in waiting {
        client.join().unwrap().unwrap();
    }
    until("the end of the commands", || (0..3).all(|index| commands(index) == 0).then_some(()));
    assert_eq!(cri.exec(&pods[0].1, &["true"], 5).unwrap().exit_code, 0);
}

/// How long the commands of a pod sleep, by which they are known.
fn seconds(pod: usize) -> String {
    format!("987{pod}")
}

#[test]
fn a_supervisor_that_listens_to_nobody_else_is_asked_again() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let [stopped, removed] = ["s", "r"].map(|name| cri.running((&id, &config), name, "sleep 1000"));
    // As many as it takes, and no more are listened to.
    let socket = host.path(&format!("state/pods/{id}/control.sock"));
    let clients: Vec<_> = (0..600).map_while(|_| Connection::open(&socket, &Request::Watch, &[]).ok()).collect();
    assert!(clients.len() > 500, "{} clients", clients.len());
    let call = |id: &str, ask: fn(&Kubelet, &str) -> Result<(), Status>| {
        let (kubelet, id) = (Kubelet::new(cri.socket.clone()), id.to_owned());
        std::thread::spawn(move || ask(&kubelet, &id))
    };
    let calls = [call(&stopped, |cri, id| cri.stop(id, 0)), call(&removed, Kubelet::remove)];
    std::thread::sleep(Duration::from_millis(300));
    for id in [&stopped, &removed] {
        assert_eq!(cri.status(id).unwrap().state(), api::ContainerState::ContainerRunning);
    }
    assert!(calls.iter().all(|call| !call.is_finished()), "nothing has been done");
    drop(clients);
    for call in calls {
        call.join().unwrap().unwrap();
    }
    assert_eq!(cri.status(&stopped).unwrap().state(), api::ContainerState::ContainerExited);
    assert_eq!(cri.status(&removed).unwrap_err().code(), Code::NotFound);
}

#[test]
fn what_a_command_says_is_cut_and_what_it_is_told_is_not() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let made = cri.sleeper(&host);
    let one = cri.exec(&made, &["head", "-c", "20000000", "/dev/zero"], 60).unwrap();
    assert!(one.stdout.len() > 16_000_000 && one.exit_code == 0, "{} bytes", one.stdout.len());
    let both = "head -c 12000000 /dev/zero; head -c 12000000 /dev/zero >&2; exit 3";
    let both = cri.exec(&made, &["sh", "-c", both], 60).unwrap();
    assert!(both.stdout.len() + both.stderr.len() > 16_000_000 && both.exit_code == 3);
    let long = "x".repeat(120_000);
    let answer = cri.exec(&made, &["sh", "-c", "echo ${#1} ${#2}", "sh", &long, &long], 20).unwrap();
    assert_eq!(answer.stdout, b"120000 120000\n");
}

#[test]
fn a_beginning_of_several_ids_is_refused() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    // Two of seventeen begin with one digit.
    let ids: Vec<String> =
        (0..17).map(|n| cri.create((&id, &config), &container(&format!("c{n}"), "true")).unwrap()).collect();
    let mut seen = BTreeSet::new();
    let shared = ids.iter().map(|id| &id[..1]).find(|first| !seen.insert(*first)).unwrap();
    for error in [cri.stop(shared, 0), cri.remove(shared), cri.status(shared).map(drop), cri.remove("")] {
        assert_eq!(error.as_ref().unwrap_err().code(), Code::InvalidArgument, "{error:?}");
    }
    assert_eq!(cri.containers().len(), ids.len());
    assert_eq!(cri.stop_sandbox("").unwrap_err().code(), Code::InvalidArgument);
    cri.remove(&ids[0][..20]).unwrap();
    assert_eq!(cri.status(&ids[0]).unwrap_err().code(), Code::NotFound);
}

#[test]
fn an_image_is_told_by_name_and_digest() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let request = api::ImageStatusRequest {
        image: Some(api::ImageSpec { image: BUSYBOX.to_owned(), ..Default::default() }),
        verbose: false,
    };
    let known = cri.call_images(|mut client| async move { client.image_status(request).await }).unwrap().image.unwrap();
    for (name, image) in [("by-name", BUSYBOX), ("by-id", &*known.id)] {
        let mut wanted = container(name, "sleep 1000");
        wanted.image.as_mut().unwrap().image = image.to_owned();
        let made = cri.create((&id, &config), &wanted).unwrap();
        let status = cri.status(&made).unwrap();
        assert_eq!((&status.image_id, &status.image_ref), (&known.id, &known.repo_digests[0]), "{name}");
        let told = status.image.unwrap().image;
        assert!(told == BUSYBOX || known.repo_tags.contains(&told), "{name}: {told}");
        let listed = cri.containers().into_iter().find(|container| container.id == made).unwrap();
        assert_eq!((listed.image_id, listed.image_ref), (status.image_id, status.image_ref), "{name}");
    }
}
