//! One container: from its image and its steps to three functions.
//!
//! | function | where it runs |
//! |---|---|
//! | `start_NAME` | in the shell that was called |
//! | `in_NAME` | in the container's first process: joins its cgroup, takes its limits |
//! | `root_of_NAME` | in that process, with a view of cgroups of its own: builds the root, gives up privileges |

use super::quote::quote;
use super::writer::Lines;
use super::{Ground, NotMade, cgroups, on_host, steps, volumes};
use crate::explain::planned::{Planned, PlannedContainer};
use crate::plan::config::{ContainerConfig, MountPropagation, NamespaceMode, Stdio};
use crate::plan::spec::Bind;
use anyhow::{Context, Result};
use std::collections::VecDeque;
use std::path::Path;

/// Where a bind mount comes from.
#[derive(Debug)]
pub(super) struct BindSource {
    /// What it is, for a comment.
    pub(super) about: String,
    /// Lines before it.
    pub(super) lines: Vec<String>,
    /// `bind` or `rbind`.
    pub(super) depth: &'static str,
    /// The source as a word.
    pub(super) word: String,
}

/// The sources of the container's bind mounts, in the order of its steps.
pub(super) fn sources(
    planned: &Planned,
    container: &PlannedContainer,
    config: &ContainerConfig,
) -> Result<VecDeque<BindSource>> {
    let wanted = container.spec.mounts().iter().flatten().filter(|m| m.typ().as_deref() == Some("bind"));
    let sources = wanted.map(|mount| {
        let is_wanted = |bind: &&Bind| Path::new(&bind.destination) == mount.destination();
        let bind = container.binds.iter().find(is_wanted).context("a bind mount of the spec was not asked for")?;
        source(planned, config, bind)
    });
    sources.collect()
}

fn source(planned: &Planned, config: &ContainerConfig, bind: &Bind) -> Result<BindSource> {
    let Some(mount) = config.mounts.iter().find(|m| m.container_path == bind.destination) else {
        let depth = if bind.propagation == MountPropagation::None { "bind" } else { "rbind" };
        let about = String::from("a file or directory that podshim makes for the pod.");
        return Ok(BindSource { about, lines: Vec::new(), depth, word: on_host(&bind.source, planned)? });
    };
    let about = format!("the volume {}.", mount.volume);
    // `binds` has put the path in the volume behind the volume's own, with its variables expanded.
    let root = volumes::path_of(planned, &mount.volume)?;
    let below = bind.source.strip_prefix(root).context("a path of a volume is in it")?;
    let word = on_host(root, planned)?;
    if below.as_os_str().is_empty() {
        return Ok(BindSource { about, lines: Vec::new(), depth: "rbind", word });
    }
    let about = format!("a path in the volume {}.", mount.volume);
    let lines = vec![format!("sub_path {word} {}", quote(below.as_os_str().as_encoded_bytes())?), "sub=$found".into()];
    Ok(BindSource { about, lines, depth: "rbind", word: String::from("\"$sub\"") })
}

/// A container's name as a part of a function's: no two names of containers come to the same.
pub(super) fn function_name(container: &str) -> String {
    container.replace('-', "_")
}

/// The functions of a container. What cannot be made comes back.
pub(super) fn container(
    script: &mut Lines,
    planned: &Planned,
    index: usize,
    ground: Ground<'_>,
) -> Result<Vec<NotMade>> {
    let (container, config) = (&planned.containers[index], &planned.plan.containers[index]);
    let placed = steps::place(planned, container, config, ground)?;
    let name = function_name(&container.name);
    script.heading(&format!("container {}", container.name));
    let started = start(planned, (container, config), &placed, ground)?;
    script.function(&format!("start_{name}"), started);
    let dir = format!("local c=$POD/containers/{}", container.name);
    let mut joins = Lines::of_function();
    joins.line(&dir);
    joins.line("remember_pid \"$c\"");
    joins.append(placed.joins);
    if placed.own_cgroups {
        joins.note("A cgroup namespace: the cgroup that was just joined becomes the root of all it sees of cgroups.");
        joins.line(format!("exec unshare --cgroup -- bash \"$SELF\" root_of_{name}"));
    } else {
        joins.line(format!("root_of_{name}"));
    }
    script.function(&format!("in_{name}"), joins);
    let mut root = Lines::of_function();
    let sub = if placed.has_sub_paths { " sub" } else { "" };
    root.line(format!("local root=$POD/containers/{}/rootfs{sub}", container.name));
    root.append(placed.root);
    root.append(placed.last);
    let (arguments, environment) = placed.program.context("the steps do not end in a program")?;
    root.note("env: the program's variables, and no others; signals that this shell ignores are not ignored any more.");
    root.line("exec setsid \\");
    root.line(format!("    setpriv {} -- \\", placed.privileges.join(" ")));
    root.line("    env --ignore-environment --default-signal \\");
    for variable in &environment {
        root.line(format!("    {} \\", quote(variable)?));
    }
    root.line("    /usr/bin/perl -e \"$GATE\" -- \\");
    let words: Vec<String> = arguments.iter().map(quote).collect::<Result<_>>()?;
    root.line(format!("    {}", words.join(" ")));
    script.function(&format!("root_of_{name}"), root);
    Ok(placed.not_made)
}

/// What the calling shell does: everything that takes a view of the host.
fn start(
    planned: &Planned,
    (container, config): (&PlannedContainer, &ContainerConfig),
    placed: &steps::Placed,
    ground: Ground<'_>,
) -> Result<Lines> {
    let name = &container.name;
    let mut body = Lines::of_function();
    body.line(format!("local c=$POD/containers/{name}"));
    body.line("mkdir --parents -- \"$c/layers\"");
    let missing = || format!("its image {} is not here: podshim image pull {}", config.image, config.image);
    let image = container.image.as_ref().with_context(missing)?;
    body.note(&format!(
        "The layers of its image, {}, as podshim has unpacked them: the lowest one is 0.",
        config.image
    ));
    volumes::layers(&mut body, image, "\"$c/layers\"")?;
    body.line("overlay \"$c\"");
    body.note("What it leaves as its last words: a file on a file system that cannot grow.");
    body.line(format!("mkdir --parents -- \"$POD/termination/{name}\""));
    body.line(format!(
        "mount --types tmpfs --options nosuid,nodev,mode=0755,size=1048576,nr_inodes=1024 none \"$POD/termination/{name}\""
    ));
    body.line(format!(": >\"$POD/termination/{name}/0\""));
    body.line(format!("chmod 0666 -- \"$POD/termination/{name}/0\""));
    body.note("Its cgroup, with its limits.");
    body.line(format!("make_cgroup {name}"));
    let linux = container.spec.linux().as_ref().context("the spec has no linux section")?;
    cgroups::limits(&mut body, name, &linux.resources().clone().unwrap_or_default(), ground.facts)?;
    if ground.facts.cgroups.with_controller("devices").is_none() {
        body.note("NOT MADE: with cgroup v2, which devices may be opened is decided by a program in the kernel (BPF).");
    }
    let user = container.spec.process().as_ref().context("the spec has no process")?.user();
    body.note("What it writes to its standard output; the container's user may open it again, as /dev/stdout.");
    body.line(format!(": >\"$POD/log/{name}.log\""));
    body.line(format!("chown {}:{} -- \"$POD/log/{name}.log\"", user.uid(), user.gid()));
    body.append_ref(&placed.namespaces);
    if planned.plan.sandbox.namespaces.pid == NamespaceMode::Container {
        body.note(
            "pid: the process that goes on is pid 1 of a new numbering, and sees no process of anybody else's. \
                   unshare(1) itself stays outside, and waits for its end.",
        );
    }
    body.end_note();
    body.line("mkfifo -- \"$c/ready\" \"$c/go\"");
    let input = match config.stdio {
        Stdio::Null => "</dev/null",
        Stdio::Stdin | Stdio::StdinOnce => {
            body.note("stdin: true. What you write to this file comes to the program.");
            body.line("mkfifo -- \"$c/stdin\"");
            "<>\"$c/stdin\""
        }
        Stdio::Terminal => anyhow::bail!("{}", super::TERMINAL),
    };
    let enter = if placed.joined.is_empty() {
        String::new()
    } else {
        format!("nsenter {} -- \\\n        ", placed.joined.join(" "))
    };
    let pid = if planned.plan.sandbox.namespaces.pid == NamespaceMode::Container { " --pid --fork" } else { "" };
    body.line(format!(
        "{enter}unshare --mount --propagation unchanged{pid} -- bash \"$SELF\" in_{} \\",
        function_name(name)
    ));
    body.line(format!("    {input} >>\"$POD/log/{name}.log\" 2>&1 3<>\"$c/go\" 4>\"$c/ready\" &"));
    body.line("printf '%s\\n' \"$!\" >\"$c/waiting\"");
    body.line("born \"$c\"");
    body.note("The container has its own copy of this mount; the host needs none.");
    body.line("umount -- \"$c/rootfs\"");
    body.line("pivot \"$c\" \"$c/rootfs\"");
    body.line("go \"$c\"");
    Ok(body)
}
