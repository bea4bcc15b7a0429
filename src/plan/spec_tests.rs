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
        resize: ResizePolicy::default(),
        security: SecurityContext::default(),
        stdio: Stdio::Null,
        log: Log::OfInstance,
        termination_message_path: "/dev/termination-log".into(),
        termination_message_policy: TerminationMessagePolicy::File,
        restart: ContainerRestart::default(),
        lifecycle: Lifecycle::default(),
        target: None,
        devices: vec![],
    }
}

fn sandbox() -> PodSandboxConfig {
    PodSandboxConfig {
        name: "p".into(),
        namespace: "default".into(),
        uid: "u".into(),
        pod_uid: None,
        hostname: "p".into(),
        hosts_names: vec!["p".into()],
        log_directory: "/logs".into(),
        dns: Dns::default(),
        host_aliases: vec![],
        namespaces: NamespaceOptions {
            network: NetworkMode::None,
            pid: NamespaceMode::Container,
            ipc: NamespaceMode::Pod,
            user: NamespaceMode::Node,
        },
        network: None,
        subdomain: None,
        ports: vec![],
        bandwidth: Bandwidth::default(),
        cgroup: CgroupPath { parent: String::new(), pod: "podu".into() },
        resources: LinuxContainerResources::default(),
        labels: Default::default(),
        annotations: Default::default(),
        sysctls: vec![],
        seccomp_root: SECCOMP_ROOT.into(),
        id_range: None,
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
        assert_eq!(arguments(&config, image, &[]).unwrap(), *expected, "{name}");
    }
    let error = arguments(&config(), &ImageConfig::default(), &[]).unwrap_err();
    assert!(error.to_string().starts_with("no command specified"), "{error}");
}

#[test]
fn s12_references_in_command_and_args_are_to_the_manifests_variables() {
    let config = ContainerConfig {
        command: Some(words(&["$(A)", "$(PATH)", "$$(A)"])),
        args: Some(words(&["$(A)$(A)"])),
        ..config()
    };
    let image = ImageConfig { env: words(&["PATH=/bin"]), ..ImageConfig::default() };
    let variables = [KeyValue { key: "A".into(), value: "$(A)".into() }];
    assert_eq!(arguments(&config, &image, &variables).unwrap(), ["$(A)", "$(PATH)", "$(A)", "$(A)$(A)"]);
    let image = ImageConfig { cmd: words(&["$(A)"]), ..ImageConfig::default() };
    let config = ContainerConfig { command: None, args: None, ..config };
    assert_eq!(arguments(&config, &image, &variables).unwrap(), ["$(A)"], "the image's own words are not expanded");
}

#[test]
fn s12_each_variable_once_and_the_manifest_wins() {
    let image = ImageConfig { env: words(&["A=image", "PATH=/x", "A=again", "EMPTY"]), ..ImageConfig::default() };
    let variables =
        [KeyValue { key: "A".into(), value: "m".into() }, KeyValue { key: "HOSTNAME".into(), value: "mine".into() }];
    let config = ContainerConfig { stdio: Stdio::Terminal, ..config() };
    let user = User { uid: 0, gid: 0, groups: vec![], home: "/root".into() };
    let resolved = Resolved {
        user: &user,
        variables: &variables,
        rootfs: "/rootfs".into(),
        cgroup: String::new(),
        binds: &[],
        pins: vec![],
        thermal_throttle: vec![],
        available_capabilities: 0,
        cgroups: Default::default(),
        localhost_seccomp: None,
        kernel: "6.1.0",
        lsms: Default::default(),
    };
    let list = environment(&sandbox(), &config, &image, &resolved);
    assert_eq!(list, ["A=m", "PATH=/x", "EMPTY=", "HOSTNAME=mine", "TERM=xterm", "HOME=/root"]);
}

#[test]
fn mounts_below_others_come_after_them_and_volumes_replace_defaults() {
    let bind = |destination: &str| Bind { access: Access::ReadOnly, ..Bind::file("/s".into(), destination) };
    let binds = [bind("/a/b/c"), bind("/dev/shm"), bind("/a"), bind("/dev"), bind("/a/b")];
    let list = mounts(&sandbox(), &config(), &binds).unwrap();
    let destinations: Vec<_> = list.iter().map(|m| m.destination().to_str().unwrap()).collect();
    // What somebody mounts at /dev has its own.
    assert_eq!(destinations, ["/proc", "/sys", "/a", "/dev", "/dev/shm", "/a/b", "/sys/fs/cgroup", "/a/b/c"]);
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
    let rules = devices::rules(Privilege::Default, &[]).unwrap();
    assert!(!rules[0].allow() && rules[0].typ() == Some(LinuxDeviceType::A), "deny comes first");
    let opened = rules.iter().filter(|r| r.allow() && r.access().as_deref() == Some("rwm"));
    assert!(opened.clone().all(|r| r.major().is_some()), "no wildcard may be opened");
    assert_eq!(opened.count(), DEVICES.len() + 2);
    assert!(devices::rules(Privilege::Privileged, &[]).unwrap()[0].allow());
}

#[test]
fn s16_a_mounts_options_are_words_of_the_runtime_spec() {
    let bind = Bind {
        access: Access::ReadOnly,
        submounts: Submounts::ReadOnly,
        options: vec![BindOption::NoExec, BindOption::NoSuid],
        ..Bind::file("/s".into(), "/v")
    };
    let list = mounts(&sandbox(), &config(), &[bind]).unwrap();
    let mount = list.iter().find(|m| m.destination() == Path::new("/v")).unwrap();
    assert_eq!(mount.options().as_deref(), Some(&words(&["rbind", "rprivate", "rro", "noexec", "nosuid"])[..]));
}

#[test]
fn s23_apparmor_is_performed_or_refused() {
    let (on, off) = (Lsms { apparmor: true, selinux: false }, Lsms::default());
    let of = |profile: Option<AppArmorProfile>, privileged, lsms| {
        apparmor(&SecurityContext { apparmor: profile, privileged, ..SecurityContext::default() }, lsms)
    };
    let localhost = || Some(AppArmorProfile::Localhost("mine".into()));
    let default = || Some(AppArmorProfile::RuntimeDefault);
    let name = |text: &str| Some(text.to_owned());
    use Privilege::{Default, Privileged};
    assert_eq!(of(None, Default, on).unwrap(), name(APPARMOR_DEFAULT));
    assert_eq!(of(None, Default, off).unwrap(), None);
    assert_eq!(of(None, Privileged, on).unwrap(), None);
    assert_eq!(of(default(), Default, on).unwrap(), name(APPARMOR_DEFAULT));
    assert_eq!(of(localhost(), Default, on).unwrap(), name("mine"));
    assert_eq!(of(localhost(), Privileged, on).unwrap(), name("mine"));
    assert_eq!(of(Some(AppArmorProfile::Unconfined), Default, off).unwrap(), None);
    for profile in [default(), localhost()] {
        for privileged in [Default, Privileged] {
            let error = of(profile.clone(), privileged, off).unwrap_err();
            assert!(error.to_string().contains("AppArmor is not enabled on the host"), "{error}");
        }
    }
}

#[test]
fn s23_selinux_labels_take_the_place_of_the_policys_parts() {
    let options = SeLinuxOptions { type_: "spc_t".into(), level: "s0:c1,c2".into(), ..SeLinuxOptions::default() };
    assert_eq!(selinux_label(&options), "system_u:system_r:spc_t:s0:c1,c2");
}

const V1: Cgroups = Cgroups { cpu_is_unified: false, memory_is_unified: false, page_sizes: vec![] };

fn v2() -> Cgroups {
    Cgroups { cpu_is_unified: true, memory_is_unified: true, page_sizes: vec![2 << 20, 1 << 30] }
}

fn file(resources: &LinuxResources, name: &str) -> Option<String> {
    resources.unified().as_ref().and_then(|files| files.get(name).cloned())
}

#[test]
fn s20_swap_is_what_was_given_and_else_nothing() {
    let of = |memory_limit, swap| LinuxContainerResources { memory_limit, swap, ..LinuxContainerResources::default() };
    let both = |given: &LinuxContainerResources, cgroups: &Cgroups| {
        let resources = adjustable(given, cgroups).unwrap();
        (resources.memory().as_ref().and_then(|memory| memory.swap()), file(&resources, "memory.swap.max"))
    };
    let words = |text: &str| Some(text.to_owned());
    let rows = [
        ("limited", of(Some(100), 0), (Some(100), None), (Some(100), None)),
        ("limited, with swap", of(Some(100), 30), (Some(100), None), (Some(130), None)),
        ("free", of(None, 0), (None, None), (None, words("0"))),
        ("free, with swap", of(None, 30), (None, None), (None, words("30"))),
    ];
    for (name, given, of_v1, of_v2) in rows {
        assert_eq!((both(&given, &V1), both(&given, &v2())), (of_v1, of_v2), "{name}");
    }
}

#[test]
fn s20_a_pods_own_cgroup() {
    let given = LinuxContainerResources {
        cpu_shares: Some(1024),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        memory_limit: Some(1 << 20),
        hugepages: [(2 << 20, 4 << 20)].into(),
        ..LinuxContainerResources::default()
    };
    let pages = |resources: &LinuxResources| -> Vec<(String, i64)> {
        let limits = resources.hugepage_limits().iter().flatten();
        limits.map(|limit| (limit.page_size().clone(), limit.limit())).collect()
    };
    let (old, new) = (pod_resources(&given, &V1).unwrap(), pod_resources(&given, &v2()).unwrap());
    let shares = |resources: &LinuxResources| resources.cpu().as_ref().and_then(LinuxCpu::shares);
    assert_eq!((shares(&old), file(&old, "cpu.weight")), (Some(1024), None));
    assert_eq!((shares(&new), file(&new, "cpu.weight").as_deref()), (None, Some("39")), "the linear formula");
    for resources in [&old, &new] {
        assert_eq!(resources.cpu().as_ref().and_then(LinuxCpu::quota), Some(50_000));
        let memory = resources.memory().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(1 << 20), Some(-1)), "swap is each container's own");
    }
    assert_eq!(pages(&old), [("2MB".to_owned(), 4 << 20)], "asked for, though it will be refused");
    assert_eq!(pages(&new), [("2MB".to_owned(), 4 << 20), ("1GB".to_owned(), 0)]);
}

#[test]
fn what_is_not_named_is_limited_for_manifests_only() {
    let limits = LinuxContainerResources {
        memory_limit: Some(100),
        hugepages: [(2 << 20, 0), (64 << 10, 0)].into(),
        cpuset_cpus: "0-3".into(),
        unified: [("memory.high".to_owned(), "50".to_owned())].into(),
        ..LinuxContainerResources::default()
    };
    let of = |given: &LinuxContainerResources, cgroups: &Cgroups| {
        let config = ContainerConfig { resources: given.clone(), ..config() };
        let all = resources::of(&config, cgroups).unwrap();
        let pages: Vec<String> = all.hugepage_limits().iter().flatten().map(|l| l.page_size().clone()).collect();
        let swap = all.memory().as_ref().and_then(|memory| memory.swap());
        let mut files: Vec<String> = all.unified().iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
        files.sort();
        assert_eq!(all.cpu().as_ref().and_then(|cpu| cpu.cpus().clone()).as_deref(), Some("0-3"));
        (pages, swap, files)
    };
    let both = words(&["memory.high=50", "memory.oom.group=1"]);
    assert_eq!(of(&limits, &v2()), (words(&["2MB", "1GB"]), Some(100), both), "none of 64KB: no cgroup limits it");
    let asked = LinuxContainerResources { unnamed: Unnamed::Unlimited, swap: 30, ..limits.clone() };
    let only = words(&["memory.high=50"]);
    assert_eq!(of(&asked, &v2()), (words(&["2MB"]), Some(130), only.clone()));
    assert_eq!(of(&asked, &V1), (vec![], Some(130), only.clone()), "v1 counts memory and swap together");
    let free = LinuxContainerResources { memory_limit: None, swap: -1, ..asked.clone() };
    assert_eq!(of(&free, &v2()), (words(&["2MB"]), None, only.clone()), "swap is not spoken of");
    let unlimited = LinuxContainerResources { swap: -1, ..asked };
    assert_eq!(of(&unlimited, &v2()).1, Some(-1));
}

fn resolved(user: &User) -> Resolved<'_> {
    Resolved {
        user,
        variables: &[],
        rootfs: "/rootfs".into(),
        cgroup: String::new(),
        binds: &[],
        pins: vec![],
        thermal_throttle: vec!["/sys/throttle".into()],
        available_capabilities: u64::MAX,
        cgroups: Default::default(),
        localhost_seccomp: None,
        kernel: "6.1.0",
        lsms: Default::default(),
    }
}

#[test]
fn paths_that_are_given_take_the_place_of_kubernetes_own() {
    let given = CoveredPaths { masked: words(&["/bin/ls"]), readonly: words(&["/tmp"]) };
    let throttle = words(&["/sys/throttle"]);
    let of = |security: SecurityContext| covered_paths(&security, &throttle);
    let own = SecurityContext { paths: Some(given.clone()), ..SecurityContext::default() };
    assert_eq!(of(own.clone()), given);
    assert_eq!(of(SecurityContext { privileged: Privilege::Privileged, ..own }), CoveredPaths::default());
    let default = of(SecurityContext::default());
    assert!(default.masked.contains(&throttle[0]) && default.masked.contains(&"/proc/kcore".to_owned()));
    let unmasked = SecurityContext { proc_mount: ProcMount::Unmasked, ..SecurityContext::default() };
    assert_eq!(of(unmasked), CoveredPaths::default());
}

#[test]
fn devices_of_the_host_have_a_node_and_a_rule() {
    let user = User { uid: 0, gid: 0, groups: vec![], home: "/".into() };
    let kvm = HostDevice {
        path: "/dev/kvm".into(),
        kind: DeviceKind::Character,
        major: 10,
        minor: 232,
        mode: 0o660,
        uid: 0,
        gid: 109,
        access: "rw".into(),
    };
    let config = ContainerConfig { devices: vec![kvm], command: Some(words(&["c"])), ..config() };
    let spec = container(&sandbox(), &config, &ImageConfig::default(), resolved(&user)).unwrap();
    let linux = spec.linux().as_ref().unwrap();
    let node = &linux.devices().as_ref().unwrap()[0];
    assert_eq!((node.path().as_path(), node.typ()), (Path::new("/dev/kvm"), LinuxDeviceType::C));
    assert_eq!((node.major(), node.minor(), node.file_mode(), node.gid()), (10, 232, Some(0o660), Some(109)));
    let rules = linux.resources().as_ref().unwrap().devices().clone().unwrap();
    let rule = rules.last().unwrap();
    assert!(rule.allow() && rule.major() == Some(10) && rule.minor() == Some(232));
    assert_eq!(rule.access().as_deref(), Some("rw"));
}
