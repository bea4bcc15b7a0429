//! A pod as a bash script that builds it by hand, with the tools that every Debian has, and takes it down again. Pure.
//!
//! In: a pod's plan, down to each container's steps, and what the host is like. Out: the text. It is the model answer of a
//! course, so it follows podshim's own steps, says why at each, and says where it cannot do as podshim does. What is of the
//! manifest and of images is hostile: no byte of it gets into the text but by [`quote`].
//!
//! | file | content |
//! |---|---|
//! | `quote` | words for bash |
//! | `writer` | lines and comments |
//! | `volumes` | volumes, and podshim's own files |
//! | `sandbox` | the pod's cgroup, namespaces and pid 1 |
//! | `network` | the pod's link to a bridge |
//! | `cgroups` | limits |
//! | `container`, `steps` | a container, and its steps one by one |
//! | `tools.sh`, `down.sh`, `pause.sh` | what is the same in every script |

mod cgroups;
mod container;
mod network;
mod quote;
mod sandbox;
mod steps;
mod volumes;
mod writer;

use super::planned::Planned;
use crate::embedded::{self, compressed};
use crate::error::{Kind, failure};
use crate::host::HostFacts;
use crate::host::cgroup::Hierarchy;
use crate::plan::config::{
    Bandwidth, ContainerConfig, ContainerKind, DnsBase, EnvValue, ImageSpec, NamespaceMode, NetworkMode, PodPlan, Stdio,
};
use crate::plan::spec;
use crate::runtime::NamespaceKind;
use anyhow::{Context, Result};
use quote::quote;
use std::collections::BTreeMap;
use std::path::Path;
use writer::Lines;

/// What a script depends on beside the plan.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// The host.
    pub facts: &'a HostFacts,
    /// What the numbers of cgroups depend on.
    pub cgroups: &'a spec::Cgroups,
    /// The pod's own files below /etc, by [`crate::network::files`].
    pub etc: &'a [(&'static str, String)],
    /// The images of volumes, by the volume's name.
    pub volume_images: &'a BTreeMap<String, ImageSpec>,
}

/// Something that podshim does and the script does not.
#[derive(Debug)]
struct NotMade {
    whose: String,
    what: String,
}

/// Why a pod with a user namespace is refused.
const HOST_USERS: &str = "spec.hostUsers: false cannot be built by hand with Debian 12's tools: volumes and layers take \
                          id-mapped mounts, and mount(8) can make them from util-linux 2.39 on (X-mount.idmap)";
/// Why a container with a terminal is refused.
const TERMINAL: &str = "tty: true cannot be built by hand: somebody must hold the other end of the terminal, as podshim's \
                        supervisor does";

/// The script of a pod.
///
/// # Errors
/// Of kind `Invalid`, with the field, where a pod cannot be built by hand; of kind `NotFound` where an image is not here.
pub fn script(planned: &Planned, ground: Ground<'_>) -> Result<String> {
    check(&planned.plan)?;
    check_images(planned, ground)?;
    let mut parts = Lines::default();
    parts.heading("volumes and files");
    volumes::volumes(&mut parts, planned, ground)?;
    volumes::own_files(&mut parts, ground)?;
    parts.heading("what the containers share");
    sandbox::sandbox(&mut parts, planned, ground)?;
    parts.heading("network");
    network::network(&mut parts, planned)?;
    sandbox::pause(&mut parts, planned);
    let mut not_made = of_pod(&planned.plan);
    if ground.facts.cgroups.with_controller("devices").is_none() {
        // With cgroup v2 that is a program in the kernel; see `container`.
        let what = "which devices may be opened, which takes a BPF program with cgroup v2";
        not_made.push(NotMade { whose: String::from("pod"), what: what.to_owned() });
    }
    for (index, one) in planned.containers.iter().enumerate() {
        let made = container::container(&mut parts, planned, index, ground);
        not_made.extend(made.with_context(|| format!("container {}", one.name))?);
    }
    let mut script = Lines::default();
    head(&mut script, planned, ground)?;
    script.verbatim(&embedded::text(compressed!("tools.sh")));
    script.append(parts);
    script.verbatim("\n");
    script.verbatim(&embedded::text(compressed!("down.sh")));
    up(&mut script, planned, &not_made)?;
    last(&mut script, planned);
    Ok(script.finish())
}

/// What cannot be built by hand at all.
fn check(plan: &PodPlan) -> Result<()> {
    let refuse = |message: String| Err(failure(Kind::Invalid, message));
    let namespaces = &plan.sandbox.namespaces;
    if namespaces.user == NamespaceMode::Pod {
        return refuse(HOST_USERS.to_owned());
    }
    if let NetworkMode::Cni(_) = namespaces.network {
        return refuse("--network cni cannot be built by hand: what its plugins do is theirs to know".to_owned());
    }
    for container in &plan.containers {
        let field = |field: &str| format!("container {}: {field}", container.name);
        // It becomes a part of functions' names, which cannot be quoted. Admitted names are such (DNS-1123).
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if container.name.is_empty() || !container.name.bytes().all(is_plain) {
            return refuse(field("name is no DNS label"));
        }
        if container.stdio == Stdio::Terminal {
            return refuse(field(TERMINAL));
        }
        if container.kind == ContainerKind::Ephemeral {
            return refuse(field("ephemeralContainers join a pod that runs"));
        }
        if let Some(variable) = container.envs.iter().find(|v| matches!(v.value, EnvValue::File(_))) {
            let message =
                format!("env {}: fileKeyRef is known only when another container has written the file", variable.name);
            return refuse(field(&message));
        }
    }
    Ok(())
}

fn check_images(planned: &Planned, ground: Ground<'_>) -> Result<()> {
    let of_containers = planned.containers.iter().zip(&planned.plan.containers);
    let mut missing: Vec<&str> =
        of_containers.filter(|(one, _)| one.image.is_none()).map(|(_, config)| config.image.as_str()).collect();
    for volume in &planned.plan.volumes {
        if let crate::plan::config::VolumeSource::Image { reference, .. } = &volume.source
            && !ground.volume_images.contains_key(&volume.name)
        {
            missing.push(reference);
        }
    }
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let pulls: Vec<String> = missing.iter().map(|image| format!("podshim image pull {image}")).collect();
    let message = format!("a script is made of unpacked images, and these are not here: first {}", pulls.join("; "));
    Err(failure(Kind::NotFound, message))
}

/// What podshim does for the pod as a whole and the script does not.
fn of_pod(plan: &PodPlan) -> Vec<NotMade> {
    let sandbox = &plan.sandbox;
    let mut list = Vec::new();
    let mut add = |what: &str| list.push(NotMade { whose: String::from("pod"), what: what.to_owned() });
    let any = |of: &dyn Fn(&ContainerConfig) -> bool| plan.containers.iter().any(of);
    add("starting containers again (restartPolicy), and reporting how they are, which podshim's supervisor does");
    if any(&|c| c.lifecycle.startup.is_some() || c.lifecycle.liveness.is_some() || c.lifecycle.readiness.is_some()) {
        add("probes");
    }
    if any(&|c| c.lifecycle.post_start.is_some() || c.lifecycle.pre_stop.is_some()) {
        add("lifecycle hooks");
    }
    if sandbox.ports.iter().any(|port| port.host_port.is_some()) && sandbox.namespaces.network == NetworkMode::Bridge {
        add("hostPort: ports of the host that lead to the pod");
    }
    if sandbox.bandwidth != Bandwidth::default() {
        add("limits of bandwidth");
    }
    if sandbox.network.is_some() && matches!(sandbox.dns.base, DnsBase::Cluster { .. }) {
        add("the network's name server, which resolv.conf names: give the pod `dnsPolicy: Default` to use the host's");
    }
    if !plan.storage_limits.is_empty() {
        add("limits of disk space");
    }
    list
}

/// A path that podshim would have, as a word of the script: what is the pod's own is below $POD.
fn on_host(path: &Path, planned: &Planned) -> Result<String> {
    let own = path.strip_prefix(&planned.data).or_else(|_| path.strip_prefix(&planned.state));
    match own {
        Ok(below) => Ok(format!("\"$POD\"/{}", quote(below.as_os_str().as_encoded_bytes())?)),
        Err(_) => quote(path.as_os_str().as_encoded_bytes()),
    }
}

/// The file that a namespace of the pod is mounted to.
fn pin(kind: NamespaceKind) -> String {
    format!("\"$POD/ns/{}\"", kind.file())
}

fn head(script: &mut Lines, planned: &Planned, ground: Ground<'_>) -> Result<()> {
    let sandbox = &planned.plan.sandbox;
    let (namespace, name) = (&sandbox.namespace, &sandbox.name);
    script.verbatim("#!/bin/bash\n");
    script.note(&format!(
        "The pod {namespace}/{name}, built by hand: what `podshim run` does, step by step and in its order, with the tools of \
         a Debian 12."
    ));
    script.verbatim("#\n#   sudo bash pod.sh up      # builds it, runs its init containers, starts the others\n");
    script.verbatim("#   sudo bash pod.sh down    # takes it down: the host is as before\n#\n");
    script.verbatim("# Begin to read at the end, at `up`: it is the recipe. Files with secrets of the manifest are in this text, too.\n");
    script.verbatim("# podshim is one process that makes system calls; here each line is a program that makes one or two of them.\n\n");
    script.verbatim(
        "# shellcheck disable=SC2016 # what is in single quotes is meant as it is written\nset -euo pipefail\n",
    );
    script.verbatim(
        "# Texts are bytes here, whatever language you speak; and only the system's own programs are used.\n",
    );
    script.verbatim("export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin\numask 0022\n\n");
    script.verbatim(
        "# Everything that is made is below this directory, and in cgroups of this name below each hierarchy.\n",
    );
    let own = format!("{namespace}_{name}");
    let parent = &sandbox.cgroup.parent;
    let group = if parent.is_empty() { String::new() } else { format!("{parent}/") };
    script.line(format!("POD=${{POD:-{}}}", quote(format!("/run/podshim-by-hand/{own}"))?));
    script.line(format!("CGROUP=${{CGROUP:-{}}}", quote(format!("{group}podshim-by-hand-{own}"))?));
    script.line("POD=$(realpath --canonicalize-missing -- \"$POD\")");
    script.line("SELF=$(realpath -- \"${BASH_SOURCE[0]}\")");
    script.line("export POD CGROUP");
    script.verbatim("\n# Where cgroups are, on the host that this was written for.\n");
    let group = crate::cgroups::Cgroup::at(&ground.facts.cgroups, parent, "pod")?;
    let mount = |hierarchy: &Hierarchy| {
        let word = quote(hierarchy.mount.as_os_str().as_encoded_bytes())?;
        // In a list, a comma that is not quoted looks like a mistake.
        Ok(if word.contains(',') && !word.contains('\'') { format!("'{word}'") } else { word })
    };
    let mounts: Vec<String> = group.hierarchies().iter().map(mount).collect::<Result<_>>()?;
    script.line(format!("HIERARCHIES=({})", mounts.join(" ")));
    script.verbatim("\n");
    Ok(())
}

fn up(script: &mut Lines, planned: &Planned, not_made: &[NotMade]) -> Result<()> {
    script.heading("the recipe");
    let mut body = Lines::of_function();
    body.line("local tool");
    body.line("[ \"$(id --user)\" = 0 ] || die \"namespaces, mounts and cgroups are made: this takes root\"");
    body.line("for tool in unshare nsenter setpriv setsid prlimit findmnt pivot_root ip bridge nft perl hostname; do");
    body.line("    command -v \"$tool\" >/dev/null || die \"$tool is not installed\"");
    body.line("done");
    for NotMade { whose, what } in not_made {
        body.line(format!("say {}", quote(format!("{whose}: not made: {what}"))?));
    }
    body.line("close_inherited");
    body.line("mkdir --parents -- \"$(dirname -- \"$POD\")\"");
    body.line("[ ! -e \"$POD\" ] || die \"$POD is there already: first bash $SELF down\"");
    body.line("mkdir -- \"$POD\"");
    body.line("trap 'say \"up failed: look around, and then: bash $SELF down\"' EXIT");
    body.line(": >\"$POD/by-hand\"");
    body.note("A mount of its own, and private: what is mounted below it stays a matter of this mount namespace.");
    body.line("mount --bind -- \"$POD\" \"$POD\"");
    body.line("mount --make-private \"$POD\"");
    body.line("mkdir -- \"$POD/log\" \"$POD/containers\"");
    body.end_note();
    for function in ["volumes", "own_files", "pod_cgroup", "sandbox"] {
        body.line(function);
    }
    if planned.plan.sandbox.namespaces.pid == NamespaceMode::Pod {
        body.line("pause");
    }
    body.line("network");
    body.note(
        "Init containers, one after the other; each must end well before the next one starts. Those that are to go on \
               (restartPolicy: Always) are only started. Then all the others.",
    );
    for container in &planned.plan.containers {
        body.line(format!("start_{}", container::function_name(&container.name)));
        if container.kind == ContainerKind::Init {
            body.line(format!("wait_for {}", container.name));
        }
    }
    body.line("trap - EXIT");
    body.line("say \"it runs; what it prints is in $POD/log; to end it: bash $SELF down\"");
    script.function("up", body);
    Ok(())
}

/// The functions that may be called from outside: this script calls itself in new namespaces.
fn last(script: &mut Lines, planned: &Planned) {
    let mut names = vec![String::from("inside_sandbox")];
    if planned.plan.sandbox.namespaces.network == NetworkMode::Bridge {
        names.push(String::from("inside_network"));
    }
    if planned.plan.sandbox.namespaces.pid == NamespaceMode::Pod {
        names.push(String::from("inside_pause"));
    }
    for container in &planned.plan.containers {
        let name = container::function_name(&container.name);
        names.extend([format!("in_{name}"), format!("root_of_{name}")]);
    }
    script
        .verbatim("\n# The first two are for you; the others are parts that run in new namespaces.\ncase ${1:-} in\n");
    script.verbatim("up | down) \"$1\" ;;\n");
    script.line(format!("{}) \"$1\" ;;", names.join(" | ")));
    script.verbatim("*)\n    printf 'usage: %s up|down\\n' \"$0\" >&2\n    exit 2\n    ;;\nesac\n");
}
