//! `ContainerConfig`.

use super::super::{container, make_host_directory, stop_signal_told};
use super::*;
use crate::control::ContainerRecord;
use crate::plan::config::{
    Access, AppArmorProfile, BindOption, CoveredPaths, DeviceKind, EnvValue, Escalation, GroupsPolicy, ImageSpec, Log,
    MountPropagation, Privilege, PullPolicy, SeLinuxOptions, SeccompProfile, Stdio, Submounts, VolumeSource,
};
use std::path::Path;

fn mount(host_path: &str, container_path: &str) -> api::Mount {
    api::Mount { host_path: host_path.into(), container_path: container_path.into(), ..Default::default() }
}

fn variable(key: &str, value: &[u8]) -> api::KeyValue {
    api::KeyValue { key: key.into(), value: value.to_vec() }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn profile(profile_type: i32, localhost_ref: &str) -> Option<api::SecurityProfile> {
    Some(api::SecurityProfile { profile_type, localhost_ref: localhost_ref.into() })
}

#[test]
fn the_least_that_is_asked_for() {
    let converted = planned_container(|_| {}).unwrap();
    let config = converted.config;
    assert_eq!((config.name.as_str(), config.image.as_str(), config.pull_policy), (ID, "busybox", PullPolicy::Never));
    assert_eq!((config.command, config.args, config.working_dir), (None, None, None));
    assert_eq!((config.stdio, config.target), (Stdio::Null, None));
    assert_eq!(config.log, Log::File("/var/log/pods/ns_pod_uid/c/0.log".into()));
    assert!(config.termination_message_path.is_empty() && config.lifecycle.stop_signal.is_none());
    assert_eq!(config.security.seccomp, SeccompProfile::Unconfined, "so says the API");
    assert_eq!(config.security.paths, Some(CoveredPaths::default()), "nothing is masked that is not named");
    assert!(converted.volumes.is_empty() && converted.host_directories.is_empty());
}

#[test]
fn words_and_variables_are_taken_as_they_are() {
    let config = planned_container(|request| {
        (request.command, request.args) = (words(&["sh", "$(A)$$"]), words(&["-c"]));
        request.envs = vec![
            variable("A", b"$(B)"),
            variable("odd name;", "é".as_bytes()),
            variable("A", b"2"),
            variable("EMPTY", b""),
        ];
        request.working_dir = "/a/../b".into();
    })
    .unwrap()
    .config;
    assert_eq!((config.command, config.args), (Some(words(&["sh", "$$(A)$$$$"])), Some(words(&["-c"]))));
    let shown: Vec<_> = config.envs.iter().map(|v| (v.name.as_str(), v.value.clone())).collect();
    let text = |text: &str| EnvValue::Text(text.to_owned());
    let expected = [("A", text("$(B)")), ("odd name;", text("é")), ("A", text("2")), ("EMPTY", text(""))];
    assert_eq!(shown, expected);
    assert_eq!(config.working_dir.as_deref(), Some("/a/../b"));
}

#[test]
fn standard_descriptors() {
    for (tty, stdin, once, expected) in [
        (false, false, false, Stdio::Null),
        (false, false, true, Stdio::Null),
        (false, true, false, Stdio::Stdin),
        (false, true, true, Stdio::StdinOnce),
        (true, true, true, Stdio::Terminal),
        (true, false, false, Stdio::Terminal),
    ] {
        let config = planned_container(|r| (r.tty, r.stdin, r.stdin_once) = (tty, stdin, once)).unwrap().config;
        assert_eq!(config.stdio, expected, "{tty} {stdin} {once}");
    }
}

#[test]
fn logs_go_nowhere_without_a_directory_or_a_path() {
    let mut silent = sandbox_request();
    silent.log_directory.clear();
    assert_eq!(planned_in(&silent, |_| {}).unwrap().config.log, Log::Nowhere);
    assert_eq!(planned_container(|r| r.log_path.clear()).unwrap().config.log, Log::Nowhere);
    assert_refused("even then", planned_in(&silent, |r| r.log_path = "../x".into()), "config.log_path: ");
}

#[test]
fn every_signal_is_known_and_told_again() {
    let mut count = 0;
    for value in 0..200 {
        let Ok(signal) = api::Signal::try_from(value) else { continue };
        count += 1;
        let config = planned_container(|request| request.stop_signal = value).unwrap().config;
        let record = ContainerRecord {
            config,
            image: ImageSpec::default(),
            volumes: vec![],
            volume_images: Default::default(),
            identity: String::new(),
            image_names: None,
            adjustment: None,
            request: vec![],
        };
        use api::Signal::{Sigabrt, Sigchld, Sigcld, Sigio, Sigiot, Sigpoll, Sigterm};
        let expected = match signal {
            api::Signal::RuntimeDefault => Sigterm,
            // One number, two names.
            Sigcld => Sigchld,
            Sigiot => Sigabrt,
            Sigpoll => Sigio,
            other => other,
        };
        assert_eq!(stop_signal_told(&record), expected, "{}", signal.as_str_name());
    }
    assert_eq!(count, 66);
    assert_refused("unknown", planned_container(|r| r.stop_signal = 1000), "config.stop_signal: 1000 is not");
}

#[test]
fn confinement_as_a_kubelet_asks_for_it() {
    let own = planned_container(|request| {
        let own = security(request);
        own.run_as_user = Some(api::Int64Value { value: 1000 });
        own.run_as_group = Some(api::Int64Value { value: 2000 });
        own.supplemental_groups = vec![3, 4];
        own.supplemental_groups_policy = 1;
        (own.readonly_rootfs, own.no_new_privs) = (true, true);
        own.masked_paths = words(&["/proc/kcore", "/bin//ls"]);
        own.readonly_paths = words(&["/tmp/"]);
        own.seccomp = profile(0, "");
        own.apparmor = profile(2, "localhost/mine");
        own.selinux_options = Some(api::SeLinuxOption { level: "s0:c1,c2".into(), ..Default::default() });
        own.capabilities = Some(api::Capability {
            add_capabilities: words(&["NET_ADMIN", "CAP_sys_time", "KILL"]),
            drop_capabilities: words(&["ALL", "kill"]),
            ..Default::default()
        });
    })
    .unwrap()
    .config
    .security;
    assert_eq!((own.run_as_user, own.run_as_group, own.run_as_username), (Some(1000), Some(2000), None));
    assert_eq!((own.supplemental_groups, own.groups_policy), (vec![3, 4], GroupsPolicy::Strict));
    assert_eq!((own.rootfs, own.escalation), (Access::ReadOnly, Escalation::Forbidden));
    let paths = CoveredPaths { masked: words(&["/proc/kcore", "/bin/ls"]), readonly: words(&["/tmp"]) };
    assert_eq!(own.paths, Some(paths));
    assert_eq!(
        (own.seccomp, own.apparmor),
        (SeccompProfile::RuntimeDefault, Some(AppArmorProfile::Localhost("mine".into())))
    );
    assert_eq!(own.selinux, Some(SeLinuxOptions { level: "s0:c1,c2".into(), ..Default::default() }));
    assert_eq!(own.add_capabilities, words(&["NET_ADMIN", "SYS_TIME"]), "what is dropped too is dropped");
    assert_eq!(own.drop_capabilities, words(&["ALL", "KILL"]));
}

#[test]
#[allow(deprecated, reason = "older kubelets write no other field")]
fn profiles_by_both_fields() {
    use SeccompProfile::{File, Localhost, RuntimeDefault, Unconfined};
    let of = |new: Option<api::SecurityProfile>, old: &str| {
        planned_container(|request| {
            security(request).seccomp = new;
            security(request).seccomp_profile_path = old.to_owned();
        })
        .map(|converted| converted.config.security.seccomp)
    };
    let file = |path: &str| File(path.into());
    for (name, new, old, expected) in [
        ("nothing", None, "", Unconfined),
        ("default", profile(0, ""), "", RuntimeDefault),
        ("none", profile(1, ""), "runtime/default", Unconfined),
        ("a file", profile(2, "/tmp/x.json"), "", file("/tmp/x.json")),
        ("a file with the older prefix", profile(2, "localhost//tmp/x.json"), "", file("/tmp/x.json")),
        ("a relative one", profile(2, "x/y.json"), "", Localhost("x/y.json".into())),
        ("older default", None, "runtime/default", RuntimeDefault),
        ("docker's", None, "docker/default", RuntimeDefault),
        ("older none", None, "unconfined", Unconfined),
        ("older file", None, "localhost//tmp/x.json", file("/tmp/x.json")),
    ] {
        assert_eq!(of(new, old).unwrap(), expected, "{name}");
    }
    let at = "config.linux.security_context.seccomp";
    for (name, new, old, expected) in [
        ("a way up", profile(2, "/tmp/../x"), "", format!("{at}.localhost_ref: \"/tmp/../x\" must not hold")),
        ("a relative way up", profile(2, "../x"), "", format!("{at}.localhost_ref: \"../x\"")),
        ("no file", profile(2, ""), "", format!("{at}.localhost_ref: ")),
        ("a file for nothing", profile(1, "/x"), "", format!("{at}.localhost_ref: it is for")),
        ("unknown", profile(3, ""), "", format!("{at}.profile_type: 3 is not")),
        ("older unknown", None, "strict", format!("{at}_profile_path: \"strict\" is none")),
    ] {
        assert_refused(name, of(new, old), &expected);
    }
    let apparmor = |old: &str| {
        planned_container(|request| security(request).apparmor_profile = old.to_owned())
            .map(|converted| converted.config.security.apparmor)
    };
    assert_eq!(apparmor("").unwrap(), None);
    assert_eq!(apparmor("runtime/default").unwrap(), Some(AppArmorProfile::RuntimeDefault));
    assert_eq!(apparmor("localhost/a").unwrap(), Some(AppArmorProfile::Localhost("a".into())));
    assert_refused("no profile", apparmor("localhost/"), "config.linux.security_context.apparmor_profile: it names");
}

#[test]
fn privileged_only_in_a_sandbox_for_such() {
    let privileged = |request: &mut api::ContainerConfig| {
        let own = security(request);
        own.privileged = true;
        own.seccomp = profile(0, "");
        own.selinux_options = Some(api::SeLinuxOption { level: "s0".into(), ..Default::default() });
    };
    assert_refused("not there", planned_container(privileged), "config.linux.security_context.privileged: ");
    let mut sandbox = sandbox_request();
    sandbox_security(&mut sandbox).privileged = true;
    let own = planned_in(&sandbox, privileged).unwrap().config.security;
    assert_eq!((own.privileged, own.seccomp, own.selinux), (Privilege::Privileged, SeccompProfile::Unconfined, None));
}

#[test]
fn the_sandboxs_label_is_that_of_containers_without() {
    let label = |level: &str| Some(api::SeLinuxOption { level: level.into(), ..Default::default() });
    let mut sandbox = sandbox_request();
    sandbox_security(&mut sandbox).selinux_options = label("s0:c7");
    let of = |own| {
        let own = planned_in(&sandbox, |request| security(request).selinux_options = own).unwrap().config.security;
        own.selinux.unwrap().level
    };
    assert_eq!((of(None), of(label("")), of(label("s0:c8"))), ("s0:c7".into(), "s0:c7".into(), "s0:c8".into()));
}

#[test]
fn namespaces_are_the_sandboxs_but_for_processes() {
    const POD: i32 = 0;
    const CONTAINER: i32 = 1;
    const NODE: i32 = 2;
    const TARGET: i32 = 3;
    let of = |sandbox_pid: i32, own: Option<i32>| {
        let mut sandbox = sandbox_request();
        sandbox_namespaces(&mut sandbox).pid = sandbox_pid;
        planned_in(&sandbox, |request| {
            if let Some(pid) = own {
                namespaces(request).pid = pid;
                namespaces(request).target_id = if pid == TARGET { OTHER.into() } else { String::new() };
            }
        })
        .map(|converted| converted.config.target.is_some())
    };
    for (name, sandbox, container, expected) in [
        ("nothing said", CONTAINER, None, false),
        ("shared", POD, Some(POD), false),
        ("each its own", CONTAINER, Some(CONTAINER), false),
        ("the host's", NODE, Some(NODE), false),
        ("the pod's is the host's", NODE, Some(POD), false),
        ("a target's", CONTAINER, Some(TARGET), true),
        ("a target's, which is everybody's", POD, Some(TARGET), true),
    ] {
        assert_eq!(of(sandbox, container).unwrap(), expected, "{name}");
    }
    let at = "config.linux.security_context.namespace_options";
    for (name, sandbox, container, expected) in [
        ("nobody's", CONTAINER, POD, ".pid: POD: the sandbox was made without"),
        ("its own where others share", POD, CONTAINER, ".pid: CONTAINER: the containers of this sandbox share"),
        ("its own on the host", NODE, CONTAINER, ".pid: CONTAINER: the containers of this sandbox share"),
        ("the host's", POD, NODE, ".pid: NODE: the sandbox's is not"),
        ("unknown", POD, 4, ".pid: 4 is not"),
    ] {
        assert_refused(name, of(sandbox, Some(container)), &format!("{at}{expected}"));
    }
    type Row = (&'static str, &'static str, fn(&mut api::NamespaceOption));
    let rows: [Row; 7] = [
        ("network", ".network: NODE: it must be", |o| o.network = NODE),
        ("network", ".network: CONTAINER: it must be", |o| o.network = CONTAINER),
        ("ipc", ".ipc: NODE: it must be", |o| o.ipc = NODE),
        ("no target", ".target_id: \"\" is no container's id", |o| o.pid = TARGET),
        ("a target elsewhere", ".target_id: the sandbox has no container \"0123", |o| {
            (o.pid, o.target_id) = (TARGET, ID.into());
        }),
        ("a target for nothing", ".target_id: it is for", |o| o.target_id = ID.into()),
        ("users", ".userns_options: they must be", |o| o.userns_options = Some(Default::default())),
    ];
    for (name, expected, change) in rows {
        assert_refused(name, planned_container(|r| change(namespaces(r))), &format!("{at}{expected}"));
    }
}

#[test]
fn mounts() {
    let converted = planned_container(|request| {
        request.mounts = vec![
            api::Mount { readonly: true, recursive_read_only: true, ..mount("/srv//a/", "/a/") },
            api::Mount {
                propagation: 2,
                mount_options: words(&["noexec", "nosuid", "noexec"]),
                ..mount("/b", "/b/./c")
            },
            api::Mount {
                image: Some(api::ImageSpec { image: "sha256:1".into(), ..Default::default() }),
                image_sub_path: "x/y".into(),
                readonly: true,
                ..mount("", "/i")
            },
        ];
    })
    .unwrap();
    let names: Vec<String> = (0..3).map(|n| format!("{ID}/{n}")).collect();
    let volumes: Vec<_> = converted.volumes.iter().map(|volume| volume.name.clone()).collect();
    let [a, b, i] = &converted.config.mounts[..] else { panic!("three") };
    assert_eq!((volumes, [a, b, i].map(|m| m.volume.clone()).to_vec()), (names.clone(), names.clone()));
    assert_eq!([a, b, i].map(|m| m.container_path.as_str()), ["/a", "/b/c", "/i"]);
    assert_eq!((a.access, a.submounts, a.propagation), (Access::ReadOnly, Submounts::ReadOnly, MountPropagation::None));
    assert_eq!((b.access, b.propagation), (Access::ReadWrite, MountPropagation::Bidirectional));
    assert_eq!(b.options, [BindOption::NoExec, BindOption::NoSuid]);
    assert!(matches!(&converted.volumes[0].source, VolumeSource::HostPath { path, .. } if path == Path::new("/srv/a")));
    assert!(matches!(&converted.volumes[2].source, VolumeSource::Image { pull_policy: PullPolicy::Never, .. }));
    assert_eq!((i.sub_path.as_str(), converted.images), ("x/y", [(names[2].clone(), "sha256:1".to_owned())].into()));
}

#[test]
fn of_mounts_at_one_place_the_last_is_seen() {
    let image = Some(api::ImageSpec { image: "sha256:1".into(), ..Default::default() });
    let hidden = api::Mount { image, readonly: true, ..mount("", "/a") };
    let converted = planned_container(|r| r.mounts = vec![hidden, mount("/b", "/b"), mount("/c", "/a/")]).unwrap();
    let places: Vec<_> =
        converted.config.mounts.iter().map(|m| (m.container_path.as_str(), m.volume.as_str())).collect();
    assert_eq!(places, [("/b", &*format!("{ID}/1")), ("/a", &*format!("{ID}/2"))]);
    assert_eq!((converted.volumes.len(), converted.images.len()), (2, 0));
}

#[test]
fn mounts_of_a_sandbox_with_a_user_namespace_have_its_ids() {
    let mapping = |host_id| vec![api::IdMapping { host_id, container_id: 0, length: 65_536 }];
    let users = || Some(api::UserNamespace { mode: 0, uids: mapping(65_536), gids: mapping(65_536) });
    let mut sandbox = sandbox_request();
    sandbox_namespaces(&mut sandbox).userns_options = users();
    let of = |first| {
        planned_in(&sandbox, |request| {
            namespaces(request).userns_options = users();
            request.mounts =
                vec![api::Mount { uid_mappings: mapping(first), gid_mappings: mapping(first), ..mount("/a", "/a") }];
        })
    };
    of(65_536).unwrap();
    assert_refused("others", of(1 << 20), "config.mounts[0].uidMappings: every mount of a sandbox");
    let mapped = planned_container(|request| {
        request.mounts = vec![api::Mount { gid_mappings: mapping(65_536), ..mount("/a", "/a") }];
    });
    assert_refused("without", mapped, "config.mounts[0].gidMappings: the sandbox has no user namespace");
    let devices = planned_in(&sandbox, |request| {
        request.devices =
            vec![api::Device { host_path: "/dev/null".into(), permissions: "r".into(), ..Default::default() }];
    });
    assert_refused("devices", devices, "config.devices: a container in a user namespace");
}

type Row = (&'static str, &'static str, fn(&mut api::ContainerConfig));

#[track_caller]
fn assert_all(rows: &[Row]) {
    for (name, expected, change) in rows {
        assert_refused(name, planned_container(change), expected);
    }
}

#[test]
fn what_is_wrong_is_refused_by_its_field() {
    let rows: &[Row] = &[
        ("no metadata", "config.metadata: is missing", |r| r.metadata = None),
        ("no name", "config.metadata.name: is empty", |r| r.metadata = Some(Default::default())),
        ("no image", "config.image: is missing", |r| r.image = None),
        ("no image's name", "config.image.image: is empty", |r| r.image = Some(Default::default())),
        ("image", "config.image.image: must not", |r| r.image.as_mut().unwrap().image = "a b".into()),
        ("an image's handler", "config.image.runtime_handler: unknown runtime handler \"x\"", |r| {
            r.image.as_mut().unwrap().runtime_handler = "x".into();
        }),
        ("windows", "config.windows: this host", |r| r.windows = Some(Default::default())),
        ("cdi", "config.CDI_devices: podshim has no CDI devices (\"v/c=d\")", |r| {
            r.cdi_devices = vec![api::CdiDevice { name: "v/c=d".into() }];
        }),
        ("an argument", "config.args[0]: must not hold a NUL", |r| r.args = words(&["a\0b"])),
        ("a long argument", "config.command[0]: it has 131072 bytes", |r| r.command = vec!["x".repeat(131_072)]),
        ("a directory", "config.working_dir: \"tmp\" is no", |r| r.working_dir = "tmp".into()),
        ("a log above", "config.log_path: \"../x\"", |r| r.log_path = "../x".into()),
        ("an absolute log", "config.log_path: \"/etc/passwd\"", |r| r.log_path = "/etc/passwd".into()),
        ("a log here", "config.log_path: \"./x\"", |r| r.log_path = "./x".into()),
        ("a log's line", "config.log_path: ", |r| r.log_path = "a\nb".into()),
        ("a variable", "config.envs[0].key: \"A=B\" is no", |r| r.envs = vec![variable("A=B", b"")]),
        ("no variable", "config.envs[0].key: \"\" is no", |r| r.envs = vec![variable("", b"")]),
        ("a value's NUL", "config.envs[0].value: must not", |r| r.envs = vec![variable("A", b"\0")]),
        ("a value", "config.envs[0].value: that of \"A\" is not UTF-8", |r| r.envs = vec![variable("A", b"\xff")]),
        ("a long value", "config.envs[0].value: it has 131074 bytes", |r| {
            r.envs = vec![variable("A", &vec![b'x'; 131_072])];
        }),
        ("huge env", "config.envs: with command and args it has", |r| {
            r.envs = vec![variable("A", &vec![b'x'; 100_000]); 63];
        }),
        ("many variables", "config.envs: with command and args it has", |r| r.envs = vec![variable("A", b""); 600_000]),
    ];
    assert_all(rows);
}

#[test]
fn wrong_mounts_are_refused() {
    let rows: &[Row] = &[
        ("relative source", "config.mounts[0].host_path: \"a\"", |r| r.mounts = vec![mount("a", "/a")]),
        ("no source", "config.mounts[0].host_path: is empty", |r| r.mounts = vec![mount("", "/a")]),
        ("source above", "config.mounts[0].host_path: \"/a/../b\"", |r| r.mounts = vec![mount("/a/../b", "/a")]),
        ("target above", "config.mounts[0].container_path: \"/x/../..\"", |r| r.mounts = vec![mount("/a", "/x/../..")]),
        ("relative target", "config.mounts[0].container_path: \"a\"", |r| r.mounts = vec![mount("/a", "a")]),
        ("the root", "config.mounts[0].container_path: it is", |r| r.mounts = vec![mount("/a", "//")]),
        ("propagation", "config.mounts[0].propagation: 77 is not", |r| {
            r.mounts = vec![api::Mount { propagation: 77, ..mount("/a", "/a") }];
        }),
        ("recursive", "config.mounts[0].recursive_read_only: it needs readonly", |r| {
            r.mounts = vec![api::Mount { recursive_read_only: true, ..mount("/a", "/a") }];
        }),
        ("recursive and shared", "config.mounts[0].recursive_read_only: it needs the propagation", |r| {
            let both = api::Mount { recursive_read_only: true, readonly: true, ..mount("/a", "/a") };
            r.mounts = vec![api::Mount { propagation: 1, ..both }];
        }),
        ("an option", "config.mounts[0].mount_options[0]: \"suid\"", |r| {
            r.mounts = vec![api::Mount { mount_options: words(&["suid"]), ..mount("/a", "/a") }];
        }),
        ("image and path", "config.mounts[0].host_path: it goes with no image", |r| {
            r.mounts = vec![api::Mount { image: r.image.clone(), ..mount("/a", "/a") }];
        }),
        ("no image's path", "config.mounts[0].image_sub_path: it is for", |r| {
            r.mounts = vec![api::Mount { image_sub_path: "a".into(), ..mount("/a", "/a") }];
        }),
        ("an image's path above", "config.mounts[0].image_sub_path: \"../a\"", |r| {
            let whole = api::Mount { image: r.image.clone(), readonly: true, ..mount("", "/a") };
            r.mounts = vec![api::Mount { image_sub_path: "../a".into(), ..whole }];
        }),
        ("an image to be written", "config.mounts[0].readonly: an image is", |r| {
            r.mounts = vec![api::Mount { image: r.image.clone(), ..mount("", "/a") }];
        }),
        ("an image's handler", "config.mounts[0].image.runtime_handler: unknown runtime handler \"x\"", |r| {
            let image = api::ImageSpec { runtime_handler: "x".into(), ..r.image.clone().unwrap() };
            r.mounts = vec![api::Mount { image: Some(image), readonly: true, ..mount("", "/a") }];
        }),
        ("a nameless image", "config.mounts[0].image.image: is empty", |r| {
            r.mounts = vec![api::Mount { image: Some(Default::default()), readonly: true, ..mount("", "/a") }];
        }),
    ];
    assert_all(rows);
}

#[test]
fn wrong_devices_are_refused() {
    let rows: &[Row] = &[
        ("a device", "config.devices[0].host_path: \"null\"", |r| {
            r.devices = vec![api::Device { host_path: "null".into(), permissions: "r".into(), ..Default::default() }];
        }),
        ("permissions", "config.devices[0].permissions: \"rx\"", |r| {
            r.devices =
                vec![api::Device { host_path: "/dev/null".into(), permissions: "rx".into(), ..Default::default() }];
        }),
        ("no permissions", "config.devices[0].permissions: \"\"", |r| {
            r.devices = vec![api::Device { host_path: "/dev/null".into(), ..Default::default() }];
        }),
    ];
    assert_all(rows);
}

#[test]
fn wrong_confinement_is_refused() {
    let rows: &[Row] = &[
        ("user", "config.linux.security_context.run_as_user: -5 is no id", |r| {
            security(r).run_as_user = Some(api::Int64Value { value: -5 });
        }),
        ("large user", "config.linux.security_context.run_as_user: 4294967296 is", |r| {
            security(r).run_as_user = Some(api::Int64Value { value: 1 << 32 });
        }),
        ("group alone", "config.linux.security_context.run_as_group: it needs", |r| {
            security(r).run_as_group = Some(api::Int64Value { value: 5 });
        }),
        ("two users", "config.linux.security_context.run_as_username: it goes", |r| {
            security(r).run_as_user = Some(api::Int64Value { value: 5 });
            security(r).run_as_username = "web".into();
        }),
        ("a number", "config.linux.security_context.run_as_username: 1000 is a number", |r| {
            security(r).run_as_username = "1000".into();
        }),
        ("user and group", "config.linux.security_context.run_as_username: \"a:b\"", |r| {
            security(r).run_as_username = "a:b".into();
        }),
        ("groups", "config.linux.security_context.supplemental_groups[1]: -1 is", |r| {
            security(r).supplemental_groups = vec![1, -1];
        }),
        ("policy", "config.linux.security_context.supplemental_groups_policy: 5 is", |r| {
            security(r).supplemental_groups_policy = 5;
        }),
        ("capability", "config.linux.security_context.capabilities.add_capabilities[0]: unknown capability", |r| {
            security(r).capabilities =
                Some(api::Capability { add_capabilities: words(&["CAP_NO_SUCH"]), ..Default::default() });
        }),
        ("ambient", "config.linux.security_context.capabilities.add_ambient_capabilities: podshim gives", |r| {
            security(r).capabilities =
                Some(api::Capability { add_ambient_capabilities: words(&["ALL"]), ..Default::default() });
        }),
        ("masked", "config.linux.security_context.masked_paths[0]: \"proc\"", |r| {
            security(r).masked_paths = words(&["proc"]);
        }),
        ("read-only", "config.linux.security_context.readonly_paths[0]: it is", |r| {
            security(r).readonly_paths = words(&["/"]);
        }),
        ("label", "config.linux.security_context.selinux_options.type: must", |r| {
            security(r).selinux_options = Some(api::SeLinuxOption { r#type: "a:b".into(), ..Default::default() });
        }),
        ("resources", "config.linux.resources.cpu_shares: -1", |r| resources(r).cpu_shares = -1),
    ];
    assert_all(rows);
}

#[test]
fn files_get_no_other_labels() {
    let mut context = container_context();
    context.lsms.selinux = true;
    let mut request = container_request();
    request.mounts = vec![api::Mount { selinux_relabel: true, ..mount("/a", "/a") }];
    planned(&request, &sandbox_request(), &container_context()).unwrap();
    let refused = planned(&request, &sandbox_request(), &context);
    assert_refused("relabel", refused, "config.mounts[0].selinux_relabel: podshim gives");
}

/// What the usual container comes to on this very host.
fn looked_at(change: impl FnOnce(&mut api::ContainerConfig)) -> Result<Converted> {
    let mut request = container_request();
    change(&mut request);
    container(&request, &sandbox_request(), &container_context())
}

#[test]
fn what_the_host_does_not_have_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("file"), "").unwrap();
    std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
    std::os::unix::fs::symlink(at("nowhere"), at("dangling")).unwrap();
    let of = |name: &str| looked_at(|request| request.mounts = vec![mount(&at(name), "/x")]);
    assert!(of("file").unwrap().host_directories.is_empty() && of("link").unwrap().host_directories.is_empty());
    let missing = of("new/deep").unwrap().host_directories;
    assert_eq!(missing, [Path::new(&at("new/deep"))]);
    assert!(!Path::new(&at("new")).exists(), "nothing is made by looking");
    make_host_directory(&missing[0]).unwrap();
    assert!(Path::new(&at("new/deep")).is_dir());
    assert_refused("dangling", of("dangling"), "config.mounts[0].host_path: ");
    assert_refused("below a file", of("file/x"), "config.mounts[0].host_path: ");
}

#[test]
fn devices_are_what_the_host_has() {
    let device = |host_path: &str, container_path: &str| api::Device {
        host_path: host_path.into(),
        container_path: container_path.into(),
        permissions: "mr".into(),
    };
    let of = |device: api::Device| looked_at(|request| request.devices = vec![device]).map(|c| c.config.devices);
    let null = &of(device("/dev/null", "/dev/x")).unwrap()[0];
    assert_eq!(
        (null.path.as_path(), null.kind, null.major, null.minor),
        (Path::new("/dev/x"), DeviceKind::Character, 1, 3)
    );
    assert_eq!(null.access, "rm");
    assert_eq!(of(device("/dev/zero", "")).unwrap()[0].path, Path::new("/dev/zero"));
    let all = of(device("/dev", "/d")).unwrap();
    let has = |path: &str| all.iter().any(|device| device.path == Path::new(path));
    assert!(has("/d/null") && has("/d/zero") && !has("/d/console") && !has("/d/pts/ptmx"), "{all:?}");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    assert_eq!(of(device(dir.path().to_str().unwrap(), "/d")).unwrap(), [], "a directory without devices");
    let file = dir.path().join("file");
    assert_refused("a file", of(device(file.to_str().unwrap(), "/d")), "config.devices[0].host_path: ");
    assert_refused("missing", of(device("/dev/no-such", "/d")), "config.devices[0].host_path: /dev/no-such: ");
}
