use super::*;

fn config() -> ContainerConfig {
    ContainerConfig {
        name: "c".into(),
        kind: ContainerKind::App,
        image: "busybox".into(),
        pull_policy: PullPolicy::IfNotPresent,
        command: None,
        args: None,
        working_dir: None,
        envs: vec![],
        mounts: vec![],
        resources: LinuxContainerResources::default(),
        security: SecurityContext::default(),
        stdio: Stdio::Null,
        termination_message_path: "/dev/termination-log".into(),
        termination_message_policy: TerminationMessagePolicy::File,
        restart: ContainerRestart::default(),
        lifecycle: Lifecycle::default(),
        target: None,
    }
}

fn sandbox() -> PodSandboxConfig {
    PodSandboxConfig {
        name: "p".into(),
        namespace: "default".into(),
        uid: "u".into(),
        hostname: "p".into(),
        log_directory: "/logs".into(),
        dns: Dns::default(),
        host_aliases: vec![],
        namespaces: NamespaceOptions {
            network: NetworkMode::None,
            pid: NamespaceMode::Container,
            ipc: NamespaceMode::Pod,
        },
        cgroup: CgroupPath { parent: String::new(), pod: "podu".into() },
        labels: Default::default(),
        annotations: Default::default(),
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[test]
fn s13_command_and_args_against_entrypoint_and_cmd() {
    let image = ImageConfig { entrypoint: words(&["E"]), cmd: words(&["C"]), ..ImageConfig::default() };
    let none = ImageConfig { cmd: words(&["C"]), ..ImageConfig::default() };
    let blank = ImageConfig { entrypoint: words(&[""]), cmd: words(&["C"]), ..ImageConfig::default() };
    type Row<'a> = (&'a str, &'a ImageConfig, Option<&'a [&'a str]>, Option<&'a [&'a str]>, &'a [&'a str]);
    let rows: &[Row<'_>] = &[
        ("neither", &image, None, None, &["E", "C"]),
        ("args", &image, None, Some(&["a"]), &["E", "a"]),
        ("command drops CMD", &image, Some(&["c"]), None, &["c"]),
        ("both", &image, Some(&["c"]), Some(&["a"]), &["c", "a"]),
        ("no ENTRYPOINT", &none, None, None, &["C"]),
        ("args without ENTRYPOINT", &none, None, Some(&["a"]), &["a"]),
        ("ENTRYPOINT [\"\"] is none", &blank, None, None, &["C"]),
    ];
    for (name, image, command, args, expected) in rows {
        let config = ContainerConfig { command: command.map(words), args: args.map(words), ..config() };
        assert_eq!(arguments(&config, image).unwrap(), *expected, "{name}");
    }
    let error = arguments(&config(), &ImageConfig::default()).unwrap_err();
    assert!(error.to_string().starts_with("no command specified"), "{error}");
}

#[test]
fn s12_each_variable_once_and_the_manifest_wins() {
    let image = ImageConfig { env: words(&["A=image", "PATH=/x", "A=again", "EMPTY"]), ..ImageConfig::default() };
    let envs = vec![
        KeyValue { key: "A".into(), value: "m".into() },
        KeyValue { key: "HOSTNAME".into(), value: "mine".into() },
    ];
    let config = ContainerConfig { envs, stdio: Stdio::Terminal, ..config() };
    let user = User { uid: 0, gid: 0, groups: vec![], home: "/root".into() };
    let list = environment(&sandbox(), &config, &image, &user);
    assert_eq!(list, ["A=m", "PATH=/x", "EMPTY=", "HOSTNAME=mine", "TERM=xterm", "HOME=/root"]);
}

#[test]
fn mounts_below_others_come_after_them_and_volumes_replace_defaults() {
    let bind = |destination: &str| Bind {
        source: "/s".into(),
        destination: destination.into(),
        access: Access::ReadOnly,
        propagation: MountPropagation::None,
        special: Special::Honoured,
    };
    let binds = [bind("/a/b/c"), bind("/dev/shm"), bind("/a"), bind("/dev"), bind("/a/b")];
    let list = mounts(&sandbox(), &config(), &binds).unwrap();
    let destinations: Vec<_> = list.iter().map(|m| m.destination().to_str().unwrap()).collect();
    let expected =
        ["/proc", "/sys", "/a", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/a/b", "/sys/fs/cgroup", "/a/b/c"];
    assert_eq!(destinations, expected);
    let dev = list.iter().find(|m| m.destination() == Path::new("/dev")).unwrap();
    assert_eq!(dev.typ().as_deref(), Some("bind"), "the volume took the place of the tmpfs");
}

#[test]
fn s23_capabilities() {
    let available = (1u64 << 41) - 1;
    let names = |security: &SecurityContext| {
        let mut list: Vec<String> =
            capabilities::container(security, available).unwrap().iter().map(ToString::to_string).collect();
        list.sort();
        list
    };
    assert_eq!(names(&SecurityContext::default()).len(), 14);
    let only = SecurityContext {
        drop_capabilities: words(&["ALL"]),
        add_capabilities: words(&["NET_BIND_SERVICE"]),
        ..SecurityContext::default()
    };
    assert_eq!(names(&only), ["NET_BIND_SERVICE"]);
    let less = SecurityContext { drop_capabilities: words(&["MKNOD"]), ..SecurityContext::default() };
    assert_eq!(names(&less).len(), 13);
    let all = SecurityContext {
        add_capabilities: words(&["ALL"]),
        drop_capabilities: words(&["SYS_ADMIN"]),
        ..SecurityContext::default()
    };
    assert_eq!(names(&all).len(), 40);
    let privileged = SecurityContext { privileged: Privilege::Privileged, ..SecurityContext::default() };
    assert_eq!(names(&privileged).len(), 41);
    let restricted = capabilities::container(&privileged, available & !(1 << 24)).unwrap();
    assert!(!restricted.contains(&Capability::SysResource), "what the caller cannot have is no part of all");
    let unknown = SecurityContext { add_capabilities: words(&["BOGUS"]), ..SecurityContext::default() };
    assert!(capabilities::container(&unknown, available).is_err());
}

#[test]
fn devices_are_denied_but_for_a_few() {
    let rules = device_rules(Privilege::Default).unwrap();
    assert!(!rules[0].allow() && rules[0].typ() == Some(LinuxDeviceType::A), "deny comes first");
    let opened = rules.iter().filter(|r| r.allow() && r.access().as_deref() == Some("rwm"));
    assert!(opened.clone().all(|r| r.major().is_some()), "no wildcard may be opened");
    assert_eq!(opened.count(), DEVICES.len() + 2);
    assert!(device_rules(Privilege::Privileged).unwrap()[0].allow());
}
