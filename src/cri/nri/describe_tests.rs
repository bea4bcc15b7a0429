use super::*;
use serde_json::json;

#[test]
fn a_spec_is_told_and_its_resources_come_back_as_they_were() {
    let spec: oci::Spec = serde_json::from_value(json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": { "uid": 1, "gid": 2, "additionalGids": [3] }, "args": ["run"], "env": ["A=1"], "cwd": "/",
            "oomScoreAdj": -7, "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 5, "hard": 6 }],
        },
        "mounts": [{ "destination": "/m", "type": "bind", "source": "/srv", "options": ["rbind"] }],
        "linux": {
            "cgroupsPath": "/cg", "namespaces": [{ "type": "network", "path": "/n" }],
            "resources": {
                "memory": { "limit": 9, "swap": 10 }, "cpu": { "shares": 8, "cpus": "0" }, "pids": { "limit": 7 },
                "hugepageLimits": [{ "pageSize": "2MB", "limit": 6 }], "unified": { "a": "b" },
                "devices": [{ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw" }],
            },
        },
    }))
    .unwrap();
    let known = Known {
        id: "c",
        pod_sandbox_id: "p",
        name: "n",
        stage: Stage::Running { pid: 42, started_at: 2 },
        created_at: 1,
        image: ["i", "sha256:m", "sha256:c"],
        ..Known::default()
    };
    let told = container(&known, &spec);
    assert_eq!((told.id.as_str(), told.pod_sandbox_id.as_str(), told.name.as_str()), ("c", "p", "n"));
    assert_eq!(
        (told.state(), told.pid, told.created_at, told.started_at),
        (nri::ContainerState::ContainerRunning, 42, 1, 2)
    );
    assert_eq!((&told.args, &told.env), (&vec!["run".to_owned()], &vec!["A=1".to_owned()]));
    assert_eq!(told.user.unwrap().additional_gids, [3]);
    assert_eq!(told.rlimits[0].r#type, "RLIMIT_NOFILE");
    assert_eq!((told.mounts[0].source.as_str(), told.image.unwrap().config_digest.as_str()), ("/srv", "sha256:c"));
    let linux = told.linux.unwrap();
    assert_eq!((linux.namespaces[0].r#type.as_str(), linux.cgroups_path.as_str()), ("network", "/cg"));
    assert_eq!(linux.oom_score_adj.unwrap().value, -7);
    let back = super::super::convert::resources(&linux.resources.unwrap()).unwrap();
    assert_eq!(Some(&back), spec.linux().as_ref().unwrap().resources().as_ref());
}

#[test]
fn a_config_is_told_before_there_is_a_spec() {
    let config = api::ContainerConfig {
        command: vec!["run".into()],
        args: vec!["x".into()],
        envs: vec![api::KeyValue { key: "A".into(), value: b"1".to_vec() }],
        mounts: vec![api::Mount {
            container_path: "/m".into(),
            host_path: "/srv".into(),
            readonly: true,
            ..Default::default()
        }],
        linux: Some(api::LinuxContainerConfig {
            resources: Some(api::LinuxContainerResources { cpu_shares: 5, cpu_quota: 0, ..Default::default() }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let told = planned(&Known::default(), &config);
    assert_eq!((told.args.join(" "), told.env.join(" ")), ("run x".into(), "A=1".into()));
    assert_eq!((told.mounts[0].destination.as_str(), told.mounts[0].options.join(",")), ("/m", "rbind,ro".into()));
    let cpu = told.linux.unwrap().resources.unwrap().cpu.unwrap();
    assert_eq!((cpu.shares.map(|n| n.value), cpu.quota), (Some(5), None));
    assert_eq!(told.state, 0);
}

#[test]
fn a_pod_and_an_ended_container_are_told() {
    let pod = Pod { id: "p", name: "n", uid: "u", namespace: "ns", ips: vec!["10.0.0.1".into()], ..Pod::default() };
    let told = pod.message();
    assert_eq!((told.id.as_str(), told.uid.as_str(), told.namespace.as_str(), told.ips.len()), ("p", "u", "ns", 1));
    let (reason, message) = ("Error".to_owned(), "why".to_owned());
    let stage = Stage::Stopped { started_at: 1, finished_at: 2, exit_code: 3, reason, message };
    let told = planned(&Known { stage, ..Known::default() }, &api::ContainerConfig::default());
    assert_eq!((told.state(), told.exit_code, told.finished_at), (nri::ContainerState::ContainerStopped, 3, 2));
    assert_eq!((told.status_reason.as_str(), told.status_message.as_str()), ("Error", "why"));
}
