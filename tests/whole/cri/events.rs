//! GetContainerEvents.

use super::super::harness::{Host, until};
use super::client::{Cri, Kubelet, container, sandbox};
use podshim::cri::api;
use podshim::cri::api::ContainerEventType as Kind;
use std::sync::{Arc, Mutex};
use tonic::Code;

/// What one client was told.
type Told = Arc<Mutex<Vec<api::ContainerEventResponse>>>;

/// Listens until the stream ends; what it ended with.
fn listen(cri: &Cri<'_>) -> (Told, std::thread::JoinHandle<Option<Code>>) {
    let told = Told::default();
    let (kubelet, notes, begun) = (Kubelet::new(cri.socket.clone()), told.clone(), std::sync::mpsc::channel());
    let listener = std::thread::spawn(move || {
        let ended = kubelet.call(|mut client| async move {
            let mut events = client.get_container_events(api::GetEventsRequest {}).await?.into_inner();
            begun.0.send(()).unwrap();
            while let Some(event) = events.message().await? {
                notes.lock().unwrap().push(event);
            }
            Ok(tonic::Response::new(()))
        });
        ended.err().map(|status| status.code())
    });
    begun.1.recv().unwrap();
    (told, listener)
}

/// The kinds of the events of a sandbox or container.
fn of(told: &Told, id: &str) -> Vec<Kind> {
    let told = told.lock().unwrap();
    told.iter()
        .filter(|event| event.container_id == id)
        .map(api::ContainerEventResponse::container_event_type)
        .collect()
}

#[test]
fn e7_who_listens_is_told_what_becomes_of_containers() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let before = sandbox(&host, "before");
    let before = (cri.sandbox(&before), before);
    let ends = cri.running((&before.0, &before.1), "ends", "while ! [ -e /end ]; do sleep 0.02; done");
    let (told, listener) = listen(&cri);
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let quick = cri.running((&id, &config), "quick", "exit 3");
    cri.until_exited(&quick);
    let never = cri.create((&id, &config), &container("never", "true")).unwrap();
    let stays = cri.running((&id, &config), "stays", "sleep 1000");
    cri.remove(&never).unwrap();
    cri.remove(&stays).unwrap();
    // By itself, with nobody asking for anything.
    let pid = super::kills::host_pid(&cri, &ends);
    std::fs::write(format!("/proc/{pid}/root/end"), "").unwrap();
    until("the end of a container", || (of(&told, &ends) == [Kind::ContainerStoppedEvent]).then_some(()));
    cri.stop_sandbox(&id).unwrap();
    cri.remove_sandbox(&id).unwrap();
    let whole = [
        Kind::ContainerCreatedEvent,
        Kind::ContainerStartedEvent,
        Kind::ContainerStoppedEvent,
        Kind::ContainerDeletedEvent,
    ];
    until("the end of the sandbox", || (of(&told, &id).len() == 4).then_some(()));
    assert_eq!(
        (of(&told, &id), of(&told, &quick), of(&told, &stays)),
        (whole.to_vec(), whole.to_vec(), whole.to_vec())
    );
    assert_eq!(of(&told, &never), [whole[0], whole[2], whole[3]], "it was never started");
    assert!(of(&told, &before.0).is_empty(), "what was there before is listed, not told");
    let all = told.lock().unwrap().clone();
    let about = |event: &api::ContainerEventResponse| event.pod_sandbox_status.clone().unwrap_or_default().id;
    assert!(all.iter().all(|event| (about(event) == id) != (event.container_id == ends)), "{all:?}");
    let last = all.last().unwrap();
    assert_eq!((&last.container_id, last.container_event_type()), (&id, Kind::ContainerDeletedEvent));

    cri.stop_sandbox(&before.0).unwrap();
    cri.remove_sandbox(&before.0).unwrap();
    cri.server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(listener.join().unwrap(), None, "the stream ends with the server");
}

#[test]
fn e7_of_what_is_removed_at_once_it_is_told_that_it_has_ended() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let (told, listener) = listen(&cri);
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let runs = cri.running((&id, &config), "runs", "sleep 1000");
    cri.remove_sandbox(&id).unwrap();
    let is_deleted = |id: &str| of(&told, id).last() == Some(&Kind::ContainerDeletedEvent);
    until("the end of the sandbox", || (is_deleted(&id) && is_deleted(&runs)).then_some(()));
    for event in told.lock().unwrap().iter().filter(|e| e.container_event_type() == Kind::ContainerDeletedEvent) {
        let states: Vec<i32> = event.containers_statuses.iter().map(|container| container.state).collect();
        assert_eq!(states, [api::ContainerState::ContainerExited as i32], "{event:?}");
        let state = event.pod_sandbox_status.as_ref().map(|sandbox| sandbox.state);
        assert_eq!(state, Some(api::PodSandboxState::SandboxNotready as i32), "{event:?}");
    }
    cri.server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(listener.join().unwrap(), None, "the stream ends with the server");
}
