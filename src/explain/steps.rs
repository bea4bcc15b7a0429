//! What each step of a container's init is, and why it is done: the sentences of `plan` and of `run --explain`.

use crate::plan::capabilities;
use crate::runtime::{NamespaceKind, Step};
use crate::sys::mount::{Propagation, attr};

/// Why a step is done, in one sentence for somebody who sees it for the first time.
pub fn why(step: &Step) -> &'static str {
    match step {
        Step::DieWithSupervisor => {
            "Until it is the container, this process dies with podshim's supervisor: nothing half-made stays."
        }
        Step::JoinCgroup => "Whatever it uses from here on is counted, and limited, as the container's.",
        Step::NewSessionKeyring => {
            "Keys that the kernel keeps for whoever called podshim are handed on with every fork; the container gets a ring of its own."
        }
        Step::OomScoreAdj { .. } => "When the host runs out of memory, this number decides who is killed first.",
        Step::AppArmor { .. } => "AppArmor confines the program that is executed later to the rules of this profile.",
        Step::SeLinux { .. } => "SELinux decides by this label what the program that is executed later may touch.",
        Step::JoinNamespace { kind } => joined(*kind),
        Step::EmptyMountNamespace => {
            "From here on mounts are seen by this container alone. It begins with none: a copy of the host's would have those of all other pods too."
        }
        Step::NewMountNamespace => {
            "From here on mounts are seen by this container alone; in a user namespace only its own root may make them."
        }
        Step::NewPidNamespace => {
            "The process that goes on is pid 1 of a new numbering, and sees no process of anybody else's."
        }
        Step::OpenFileSystem { .. } => {
            "In a user namespace the kernel gives this file system only to who still sees the host's whole one: it is opened now and mounted later."
        }
        Step::NewCgroupNamespace => "The container's own cgroup becomes the root of all it sees of cgroups.",
        Step::StopPropagation => {
            "Mounts made from here on do not spread to the host, whose mounts this namespace began with as copies."
        }
        Step::EnterPidNamespace => {
            "The process that goes on is born among the processes of that pid namespace, only now that nothing of the host is left in its reach."
        }
        Step::Pivot => {
            "The container's root file system becomes the root; what was there is detached, and no path leads to it any more."
        }
        Step::MountFileSystem { kind, .. } => file_system(kind),
        Step::MountCgroups { .. } => {
            "Programs read their own limits here. It is the container's part of the host's hierarchy: a file system of its own for each container would take the kernel longer the more of them there are."
        }
        Step::Bind { .. } => {
            "A file or directory that the supervisor opened on the host appears at this path; by a descriptor, so that no path of the host is walked."
        }
        Step::Device { .. } | Step::BindDevice { .. } => {
            "One of the few devices that every program may expect, and that are harmless."
        }
        Step::DeviceNode(_) => "A device of the host's that the container was given.",
        Step::Symlink { .. } => "Programs expect this name in /dev.",
        Step::HostDevices => "A privileged container sees every device of the host.",
        Step::Terminal => "A terminal of the container's own /dev/pts; its other end goes to the supervisor.",
        Step::Console => "Programs that write to the console reach this terminal.",
        Step::Mask { .. } => "It tells of the host, or lets one change it: something empty is put over it.",
        Step::ReadonlyPath { .. } => "The kernel's settings can be read here, not changed.",
        Step::ReadonlyRoot => {
            "readOnlyRootFilesystem: nothing of the image can be changed, not even by root; volumes keep their own access."
        }
        Step::Rlimit { .. } => "How much of this the process may use at most, and what it may raise that to by itself.",
        Step::WorkingDirectory { .. } => "The program begins here; that it is inside of the new root is checked.",
        Step::Stdio => "A session of its own, so that no signal of your terminal reaches it, and its input and output.",
        Step::WaitForStart => {
            "Everything that can fail is done (OCI calls this \"created\"): the supervisor says when to start."
        }
        Step::BoundingSet { .. } => {
            "Capabilities that are dropped from this set can never be had again, not even by executing a setuid program."
        }
        Step::NoNewPrivileges => {
            "allowPrivilegeEscalation: false. Executing a setuid program gives no more rights than its caller has."
        }
        Step::Seccomp { .. } => "From here on the kernel asks this filter about each system call.",
        Step::User { .. } => "It stops being the host's root, if it is to; the capabilities it keeps are chosen next.",
        Step::Capabilities { .. } => "Of root's powers, which the kernel counts as capabilities, it keeps these.",
        Step::Exec { .. } => {
            "The program of the image takes this process over: it is the container now (OCI calls this \"running\")."
        }
    }
}

fn joined(kind: NamespaceKind) -> &'static str {
    match kind {
        NamespaceKind::Network => {
            "The pod's network: its containers have the same addresses and ports, and meet on localhost."
        }
        NamespaceKind::Ipc => "The pod's shared memory, semaphores and message queues.",
        NamespaceKind::Uts => "The pod's host name.",
        NamespaceKind::Pid => "The pod's processes, which see and can signal each other.",
        NamespaceKind::Mount => "The container's files, as it sees them.",
        NamespaceKind::Cgroup => "The container's view of its cgroups.",
        NamespaceKind::User => {
            "The pod's users: root in there is nobody on the host, and owns nothing but the pod's own namespaces."
        }
    }
}

fn file_system(kind: &str) -> &'static str {
    match kind {
        "proc" => "A procfs shows the processes of the pid namespace of who mounts it: these, and no others.",
        "sysfs" => "A sysfs shows the network devices of the network namespace of who mounts it.",
        "devpts" => "Terminals of the container's own.",
        "mqueue" => "The message queues of the pod's ipc namespace.",
        "tmpfs" => "An empty directory in memory, in the place of what the image has here.",
        _ => "A new instance of this file system.",
    }
}

/// What a step is about, beside [`Step::name`]: its arguments, in a few words; empty where the name says all.
pub fn detail(step: &Step) -> String {
    match step {
        Step::OomScoreAdj { value } => value.to_string(),
        Step::AppArmor { profile } => profile.clone(),
        Step::SeLinux { label } => label.clone(),
        Step::OpenFileSystem { kind, attributes, options } => of_mount(kind, *attributes, options),
        Step::MountFileSystem { kind, attributes, options, .. } => of_mount(kind, *attributes, options),
        Step::MountCgroups { attributes, .. } => of_mount("cgroup", *attributes, &[]),
        Step::Bind { source, attributes, recursive, propagation, .. } => {
            let mut words = words(*attributes);
            words.extend((recursive & attr::RDONLY != 0).then_some("recursively ro"));
            words.push(match propagation {
                Propagation::Private => "private",
                Propagation::Slave => "slave",
                Propagation::Shared => "shared",
                Propagation::Unbindable => "unbindable",
            });
            format!("of {} ({})", source.display(), words.join(","))
        }
        Step::Device { major, minor, .. } => format!("character device {major}:{minor}"),
        Step::DeviceNode(device) => format!("{:?} device {}:{}", device.kind, device.major, device.minor),
        Step::Symlink { target, .. } => format!("to {target}"),
        Step::Rlimit { soft, hard, .. } => format!("{} of {}", limit(*soft), limit(*hard)),
        Step::BoundingSet { keep } => format!("keep {}", names(*keep)),
        Step::User { uid, gid, groups, umask } => format!("uid {uid}, gid {gid}, groups {groups:?}, umask {umask:04o}"),
        Step::Capabilities { masks } => match (masks.effective, masks.permitted) {
            (effective, permitted) if effective == permitted => names(permitted),
            (effective, permitted) => format!("{}; may take {}", names(effective), names(permitted)),
        },
        Step::Exec { arguments, environment } => format!("{arguments:?}, {} variables", environment.len()),
        _ => String::new(),
    }
}

fn of_mount(kind: &str, attributes: u64, options: &[String]) -> String {
    let mut all = words(attributes);
    all.extend(options.iter().map(String::as_str));
    if all.is_empty() { kind.to_owned() } else { format!("{kind} ({})", all.join(",")) }
}

fn words(attributes: u64) -> Vec<&'static str> {
    let table = [(attr::RDONLY, "ro"), (attr::NOSUID, "nosuid"), (attr::NODEV, "nodev"), (attr::NOEXEC, "noexec")];
    table.iter().filter(|(bit, _)| attributes & bit != 0).map(|(_, word)| *word).collect()
}

fn limit(value: u64) -> String {
    if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() }
}

/// Capabilities by their names without the `CAP_`.
fn names(mask: u64) -> String {
    let names: Vec<String> = (0..64).filter(|n| mask & (1 << n) != 0).map(capabilities::name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}
