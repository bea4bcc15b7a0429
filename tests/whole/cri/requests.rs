//! What a request asks for is what the container has, as it sees itself.

use super::super::harness::{Host, until};
use super::client::{Cri, Kubelet, container, log, sandbox};
use podshim::cri::api;

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn security(config: &mut api::ContainerConfig) -> &mut api::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

#[test]
fn e7_paths_devices_and_words_are_as_asked_for() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let script = "head -c 2 /dev/given/zero | wc -c; stat -c %t:%T:%a /dev/given/zero; \
                  echo x 2>/dev/null >/etc/x || echo read-only; ls /usr | wc -l; wc -c </etc/passwd; \
                  echo \"$1 $A\"";
    let mut asked = container("c", "");
    asked.command = words(&["sh", "-c", script]);
    asked.args = words(&["sh", "$(A)$$"]);
    asked.envs = ["1", "$(B)"].map(|value| api::KeyValue { key: "A".into(), value: value.into() }).into();
    asked.devices = vec![api::Device {
        host_path: "/dev/zero".into(),
        container_path: "/dev/given/zero".into(),
        permissions: "r".into(),
    }];
    security(&mut asked).masked_paths = words(&["/etc/passwd", "/usr", "/no/such/path"]);
    security(&mut asked).readonly_paths = words(&["/etc"]);
    let made = cri.create((&id, &config), &asked).unwrap();
    cri.start_container(&made).unwrap();
    let ended = cri.until_exited(&made);
    let lines = log(&host, "p", "c");
    assert_eq!(lines[0], "2", "{lines:?} {ended:?}");
    assert_eq!(lines[1], "1:5:666", "{lines:?}");
    assert_eq!(lines[2..], ["read-only", "0", "0", "$(A)$$ $(B)"], "{lines:?}");
}

#[test]
fn e7_numbers_are_told_as_they_were_asked_for() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let config = sandbox(&host, "p");
    let id = cri.sandbox(&config);
    let script = "grep Cpus_allowed_list /proc/self/status; cat /proc/self/oom_score_adj; exec sleep 1000";
    let mut asked = container("c", script);
    asked.linux.get_or_insert_default().resources = Some(api::LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 20_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        oom_score_adj: 500,
        cpuset_cpus: "0".into(),
        ..Default::default()
    });
    let made = cri.create((&id, &config), &asked).unwrap();
    cri.start_container(&made).unwrap();
    let told = |id: &str| cri.status(id).unwrap().resources.unwrap().linux.unwrap();
    assert_eq!(Some(told(&made)), asked.linux.as_ref().unwrap().resources);
    let lines = until("log", || Some(log(&host, "p", "c")).filter(|lines| lines.len() == 2));
    assert_eq!(lines, ["Cpus_allowed_list:\t0", "500"]);
    let request = api::UpdateContainerResourcesRequest {
        container_id: made.clone(),
        linux: Some(api::LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() }),
        ..Default::default()
    };
    cri.call(|mut c| async move { c.update_container_resources(request).await }).unwrap();
    let after = told(&made);
    assert_eq!((after.memory_limit_in_bytes, after.cpu_quota, &*after.cpuset_cpus), (96 << 20, 20_000, "0"));
    assert_eq!(after.memory_swap_limit_in_bytes, 96 << 20, "memory alone has no swap");
}

#[test]
fn e7_of_two_who_change_a_containers_resources_at_once_none_is_forgotten() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let made = cri.sleeper(&host);
    for round in 0..30 {
        let linux = [
            api::LinuxContainerResources { cpu_shares: 100 + round, ..Default::default() },
            api::LinuxContainerResources { memory_limit_in_bytes: (64 + round) << 20, ..Default::default() },
        ];
        std::thread::scope(|scope| {
            for linux in linux.map(Some) {
                let (kubelet, container_id) = (Kubelet::new(cri.socket.clone()), made.clone());
                let request = api::UpdateContainerResourcesRequest { container_id, linux, ..Default::default() };
                scope.spawn(move || {
                    kubelet.call(|mut c| async move { c.update_container_resources(request).await }).unwrap()
                });
            }
        });
        let now = cri.status(&made).unwrap().resources.unwrap().linux.unwrap();
        assert_eq!((now.cpu_shares, now.memory_limit_in_bytes), (100 + round, (64 + round) << 20), "{round}");
    }
}

#[test]
fn e7_a_user_namespace_has_the_ids_that_are_asked_for() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let cri = Cri::start(&host, "");
    let mut config = sandbox(&host, "p");
    let mapping = vec![api::IdMapping { host_id: 1_000_000, container_id: 0, length: 100_000 }];
    let options = api::NamespaceOption {
        userns_options: Some(api::UserNamespace { mode: 0, uids: mapping.clone(), gids: mapping }),
        ..Default::default()
    };
    let linux = config.linux.as_mut().unwrap();
    linux.security_context.get_or_insert_default().namespace_options = Some(options.clone());
    let id = cri.sandbox(&config);
    let mut asked = container("c", "cat /proc/self/uid_map /proc/self/gid_map");
    security(&mut asked).namespace_options = Some(options);
    let made = cri.create((&id, &config), &asked).unwrap();
    cri.start_container(&made).unwrap();
    cri.until_exited(&made);
    for line in log(&host, "p", "c") {
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["0", "1000000", "100000"]);
    }
}
