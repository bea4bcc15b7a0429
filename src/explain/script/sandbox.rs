//! What the containers of a pod share: the pod's cgroup, its namespaces, and with shareProcessNamespace its pid 1.

use super::quote::quote;
use super::writer::Lines;
use super::{Ground, cgroups, pin};
use crate::explain::planned::Planned;
use crate::manifest::sysctl;
use crate::plan::config::{NamespaceMode, NetworkMode};
use crate::plan::spec;
use crate::runtime::NamespaceKind;
use anyhow::Result;

/// The cgroup of the pod's pid 1, as podshim names it.
pub(super) const PAUSE: &str = "_pause";

/// The functions `pod_cgroup`, `sandbox`, `inside_sandbox`.
pub(super) fn sandbox(script: &mut Lines, planned: &Planned, ground: Ground<'_>) -> Result<()> {
    pod_cgroup(script, planned, ground)?;
    let config = &planned.plan.sandbox;
    let mut body = Lines::of_function();
    // A pid namespace is made with its first process.
    let kinds: Vec<NamespaceKind> = planned.namespaces.iter().copied().filter(|k| *k != NamespaceKind::Pid).collect();
    if kinds.is_empty() {
        body.note("The pod has the host's own network, host name and shared memory: there is nothing to be made.");
        script.function("sandbox", body);
        script.function("inside_sandbox", Lines::of_function());
        return Ok(());
    }
    body.note(
        "A namespace lives as long as a process is in it, or something is mounted that refers to it. So each is mounted \
         to a file: it needs no process, and can be entered by the file's name (nsenter --net=FILE).",
    );
    body.line("mkdir -- \"$POD/ns\"");
    for kind in &kinds {
        body.line(format!(": >{}", pin(*kind)));
    }
    let mut made = kinds.clone();
    let mut command = String::new();
    if let NetworkMode::Path(path) = &config.namespaces.network {
        body.note("The network namespace is there already: the pod joins it.");
        body.line(format!(
            "mount --bind -- {} {}",
            quote(path.as_os_str().as_encoded_bytes())?,
            pin(NamespaceKind::Network)
        ));
        made.retain(|kind| *kind != NamespaceKind::Network);
        command = format!("nsenter --net={} -- ", pin(NamespaceKind::Network));
    }
    let flags: Vec<String> = made.iter().map(|kind| format!("--{}={}", kind.file(), pin(*kind))).collect();
    body.note("unshare(1) makes new namespaces, mounts each to its file, and runs a program in them.");
    body.line(format!("{command}unshare {} -- bash \"$SELF\" inside_sandbox", flags.join(" ")));
    script.function("sandbox", body);
    in_sandbox(script, planned)
}

fn in_sandbox(script: &mut Lines, planned: &Planned) -> Result<()> {
    let config = &planned.plan.sandbox;
    let mut body = Lines::of_function();
    if config.namespaces.network != NetworkMode::Host {
        body.note("The pod's own host name, in its uts namespace.");
        body.line(format!("hostname -- {}", quote(&config.hostname)?));
        body.note(
            "A new network namespace has nothing but a loopback interface that is off. By it the pod's containers \
                   reach each other at 127.0.0.1; no other pod is there.",
        );
        body.line("ip link set lo up");
    }
    for pair in &config.sysctls {
        body.note("Kernel parameters of the pod's own namespaces: /proc/sys shows those of who opens a file.");
        body.line(format!("printf '%s' {} >/proc/sys/{}", quote(&pair.value)?, quote(sysctl::path(&pair.key))?));
    }
    script.function("inside_sandbox", body);
    Ok(())
}

fn pod_cgroup(script: &mut Lines, planned: &Planned, ground: Ground<'_>) -> Result<()> {
    let sandbox = &planned.plan.sandbox;
    let mut body = Lines::of_function();
    body.note(
        "The pod's cgroup. Those of its containers are in it, so its limits hold for all of them together, and whatever \
         its processes do, they can be found here.",
    );
    body.line("make_cgroup ''");
    let resources = spec::pod_resources(&sandbox.resources, ground.cgroups)?;
    cgroups::limits(&mut body, "", &resources, ground.facts)?;
    script.function("pod_cgroup", body);
    Ok(())
}

/// The functions `pause`, `inside_pause`.
pub(super) fn pause(script: &mut Lines, planned: &Planned) {
    if planned.plan.sandbox.namespaces.pid != NamespaceMode::Pod {
        return;
    }
    script.heading("shareProcessNamespace: the pod's pid 1");
    script.verbatim(include_str!("pause.sh"));
    let mut body = Lines::of_function();
    body.line("local c=$POD/containers/_pause");
    body.line("mkdir --parents -- \"$c/rootfs\"");
    body.line("mkfifo -- \"$c/ready\" \"$c/go\"");
    body.line(format!("make_cgroup {PAUSE}"));
    body.note(
        "The first process of a pid namespace is its pid 1. When it ends, the kernel kills all others in there: it must \
         outlive them.",
    );
    body.line(format!(": >{}", pin(NamespaceKind::Pid)));
    let joined: Vec<String> = planned
        .namespaces
        .iter()
        .filter(|kind| **kind != NamespaceKind::Pid)
        .map(|kind| format!("--{}={}", kind.file(), pin(*kind)))
        .collect();
    let enter = if joined.is_empty() { String::new() } else { format!("nsenter {} -- ", joined.join(" ")) };
    body.line(format!(
        "{enter}unshare --pid={} --fork --mount --propagation unchanged -- bash \"$SELF\" inside_pause \\",
        pin(NamespaceKind::Pid)
    ));
    body.line("    </dev/null >>\"$POD/log/_pause.log\" 2>&1 3<>\"$c/go\" 4>\"$c/ready\" &");
    body.line("printf '%s\\n' \"$!\" >\"$c/waiting\"");
    body.line("born \"$c\"");
    body.note("Other containers of the pod see this process: nothing of the host may be found through it.");
    body.line("pivot \"$c\" \"$c/rootfs\"");
    body.line("go \"$c\"");
    script.function("pause", body);
    let mut body = Lines::of_function();
    body.line("local c=$POD/containers/_pause");
    body.line(format!("join_cgroup {PAUSE}"));
    body.line("remember_pid \"$c\"");
    body.note("When memory is short, better a container is killed than this.");
    body.line("printf '%s' -998 >/proc/self/oom_score_adj || say \"pause: oom_score_adj stays as it is\"");
    body.note("Its root: an empty directory.");
    body.line("mount --types tmpfs --options nosuid,nodev,noexec,nr_inodes=1 none \"$c/rootfs\"");
    body.line("restrict \"$c/rootfs\" ro");
    body.line("cd -- \"$c/rootfs\"");
    body.note("It can do nothing: no capability is left to it.");
    body.line(
        "exec setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all --no-new-privs -- perl -e \"$PAUSE\"",
    );
    script.function("inside_pause", body);
}
