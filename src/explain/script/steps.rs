//! A container's steps as lines of bash: podshim's own list, one by one, in its order.
//!
//! Every kind of step is named here: a new one does not compile until it is known what to write for it.

use super::container::{BindSource, sources};
use super::quote::quote;
use super::writer::Lines;
use super::{Ground, NotMade, pin};
use crate::explain::planned::{Planned, PlannedContainer};
use crate::explain::steps::why;
use crate::host::cgroup::{Hierarchy, Version};
use crate::plan::capabilities;
use crate::plan::config::ContainerConfig;
use crate::runtime::{NamespaceKind, Step};
use crate::sys::mount::{Propagation, attr};
use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::path::Path;

/// The steps in the places that they have in a script.
#[derive(Debug)]
pub(super) struct Placed {
    /// Before there is a process: the namespaces.
    pub(super) namespaces: Lines,
    /// The options of nsenter(1).
    pub(super) joined: Vec<String>,
    /// In the container's first process.
    pub(super) joins: Lines,
    /// Whether it has a cgroup namespace of its own.
    pub(super) own_cgroups: bool,
    /// In the container's mount namespace.
    pub(super) root: Lines,
    /// Whether a path in a volume is looked for.
    pub(super) has_sub_paths: bool,
    /// What the last process does by itself, before the program.
    pub(super) last: Lines,
    /// The options of setpriv(1).
    pub(super) privileges: Vec<String>,
    /// The last command: the words of the program and its variables.
    pub(super) program: Option<(Vec<String>, Vec<String>)>,
    /// What the script cannot do.
    pub(super) not_made: Vec<NotMade>,
}

/// Places the steps of a container.
pub(super) fn place(
    planned: &Planned,
    container: &PlannedContainer,
    config: &ContainerConfig,
    ground: Ground<'_>,
) -> Result<Placed> {
    let mut placed = Placed {
        namespaces: Lines::of_function(),
        joined: Vec::new(),
        joins: Lines::of_function(),
        own_cgroups: false,
        root: Lines::of_function(),
        has_sub_paths: false,
        last: Lines::of_function(),
        privileges: Vec::new(),
        program: None,
        not_made: Vec::new(),
    };
    let mut sources = sources(planned, container, config)?;
    for step in &container.steps {
        placed.step(step, &mut sources, (container, ground)).with_context(|| step.name())?;
    }
    Ok(placed)
}

impl Placed {
    fn step(
        &mut self,
        step: &Step,
        sources: &mut VecDeque<BindSource>,
        (container, ground): (&PlannedContainer, Ground<'_>),
    ) -> Result<()> {
        match step {
            Step::DieWithSupervisor => {
                let note = "podshim's init first asks to be killed when its supervisor ends before it does. There is no \
                            supervisor here.";
                self.joins.note(note);
            }
            Step::JoinCgroup => {
                self.joins.note(why(step));
                self.joins.line(format!("join_cgroup {}", quote(&container.name)?));
            }
            Step::NewSessionKeyring => {
                let what = "a session keyring of its own (keyctl(1) of the package keyutils could make one)";
                self.not_made(container, Place::Joins, (what, why(step)));
            }
            Step::OomScoreAdj { value } => {
                self.joins.note(why(step));
                self.joins.line(format!(
                    "printf '%s' {value} >/proc/self/oom_score_adj || say \"oom_score_adj stays as it is: a lower one takes CAP_SYS_RESOURCE\""
                ));
            }
            Step::AppArmor { profile } => {
                self.not_made(container, Place::Joins, (&format!("the AppArmor profile {profile}"), why(step)));
            }
            Step::SeLinux { label } => {
                self.not_made(container, Place::Joins, (&format!("the SELinux label {label}"), why(step)));
            }
            Step::Rlimit { kind, soft, hard } => self.rlimit(step, kind, (*soft, *hard))?,
            Step::JoinNamespace { kind } => {
                self.namespaces.note(&format!("{}: {}", kind.file(), why(step)));
                self.joined.push(format!("--{}={}", kind.file(), pin(*kind)));
            }
            Step::NewCgroupNamespace => self.own_cgroups = true,
            Step::EnterPidNamespace => {
                self.namespaces.note(
                    "pid: the pod's processes, which see and can signal each other. podshim enters last, so that a container \
                     that may trace others never sees one of them with something of the host's; here it must come first.",
                );
                self.joined.push(format!("--pid={}", pin(NamespaceKind::Pid)));
            }
            Step::EmptyMountNamespace => self.namespaces.note(
                "mnt: podshim keeps a mount namespace without any mounts, of which those of containers begin as copies. Here it \
                 begins with a copy of the host's mounts, which are taken away later (see pivot): all that is mounted before is \
                 below $POD, which is private.",
            ),
            Step::Pivot => self.root.note(
                "podshim now changes to the new root (pivot_root), and mounts from inside. The programs that are needed here \
                 are in the host's root, so that comes last: see pivot.",
            ),
            Step::MountFileSystem { .. } | Step::MountCgroups { .. } | Step::Bind { .. } => {
                self.mount(step, sources, (container, ground))?;
            }
            Step::Device { path, major, minor } => {
                self.root.note(why(step));
                self.root.line(format!("device {} {major} {minor}", of_path(path)?));
            }
            Step::Symlink { target, path } => {
                self.root.note(why(step));
                self.root.line(format!("link {} {}", quote(target)?, of_path(path)?));
            }
            Step::HostDevices => {
                self.root.note(why(step));
                self.root.line("host_devices");
            }
            Step::DeviceNode(device) => bail!("{} is of a container that a kubelet asked for", device.path.display()),
            Step::NewMountNamespace
            | Step::StopPropagation
            | Step::NewPidNamespace
            | Step::OpenFileSystem { .. }
            | Step::BindDevice { .. } => bail!("it is of a pod with a user namespace: {}", super::HOST_USERS),
            Step::Terminal | Step::Console => bail!("it is of a container with a terminal: {}", super::TERMINAL),
            Step::Mask { path } => {
                self.root.note(why(step));
                self.root.line(format!("mask {}", of_path(path)?));
            }
            Step::ReadonlyPath { path } => {
                self.root.note(why(step));
                self.root.line(format!("read_only {}", of_path(path)?));
            }
            Step::ReadonlyRoot => {
                self.root.note(why(step));
                self.root.line("restrict \"$root\" ro");
            }
            Step::WorkingDirectory { path } => {
                self.root.note("The program begins here; the directory is made if it is missing.");
                self.root.line(format!("directory {}", of_path(path)?));
                self.root.line("cd -- \"$found\"");
            }
            Step::Stdio => self.last.note("setsid: a session of its own, so that no signal of your terminal reaches it."),
            Step::WaitForStart => self.last.note(
                "The gate: podshim's init waits here for the word to start. This one will wait when it has given up its \
                 privileges, too, as the programs that do so are in the host's root.",
            ),
            Step::BoundingSet { .. }
            | Step::NoNewPrivileges
            | Step::Seccomp { .. }
            | Step::User { .. }
            | Step::Capabilities { .. }
            | Step::Exec { .. } => self.privilege(step, container),
        }
        Ok(())
    }

    fn privilege(&mut self, step: &Step, container: &PlannedContainer) {
        match step {
            Step::BoundingSet { keep } => {
                self.last.note(&format!("--bounding-set: {}", why(step)));
                self.privileges.push(format!("--bounding-set={}", set(*keep)));
            }
            Step::NoNewPrivileges => {
                self.last.note(&format!("--no-new-privs: {}", why(step)));
                self.privileges.push(String::from("--no-new-privs"));
            }
            Step::Seccomp { profile } => {
                // A container's own process always has one.
                let Some(profile) = profile else { return };
                let rules = profile.syscalls().as_ref().map_or(0, Vec::len);
                let action = profile.default_action();
                let what = format!(
                    "a seccomp filter of {rules} rules (a system call that has none: {action}); see `podshim plan -o json`"
                );
                self.not_made(container, Place::Last, (&what, why(step)));
            }
            Step::User { uid, gid, groups, umask } => {
                self.last.note(&format!("--reuid, --regid: {}", why(step)));
                self.last.line(format!("umask {umask:04o}"));
                self.privileges.extend([format!("--reuid={uid}"), format!("--regid={gid}")]);
                let list: Vec<String> = groups.iter().map(u32::to_string).collect();
                self.privileges.push(match list.is_empty() {
                    true => String::from("--clear-groups"),
                    false => format!("--groups={}", list.join(",")),
                });
            }
            Step::Capabilities { masks } => {
                self.last.note(
                    "--inh-caps, --ambient-caps: with these empty, execve(2) gives root all of the bounding set, and nobody \
                     else anything. So it is under podshim, too, once the program is executed.",
                );
                self.privileges
                    .extend([format!("--inh-caps={}", set(masks.inheritable)), String::from("--ambient-caps=-all")]);
            }
            Step::Exec { arguments, environment } => self.program = Some((arguments.clone(), environment.clone())),
            // The others are no matter of privileges.
            _ => {}
        }
    }

    fn not_made(&mut self, container: &PlannedContainer, place: Place, (what, why): (&str, &str)) {
        let text = format!("NOT MADE: {what}. Debian's tools cannot do it. What it is for: {why}");
        match place {
            Place::Joins => self.joins.note(&text),
            Place::Last => self.last.note(&text),
        }
        self.not_made.push(NotMade { whose: container.name.clone(), what: what.to_owned() });
    }

    fn rlimit(&mut self, step: &Step, kind: &str, (soft, hard): (u64, u64)) -> Result<()> {
        let name = match kind {
            "RLIMIT_NOFILE" => "nofile",
            "RLIMIT_CORE" => "core",
            "RLIMIT_NPROC" => "nproc",
            "RLIMIT_MEMLOCK" => "memlock",
            "RLIMIT_STACK" => "stack",
            other => bail!("{other} is not supported"),
        };
        let word = |limit: u64| if limit == u64::MAX { String::from("unlimited") } else { limit.to_string() };
        self.joins.note(why(step));
        self.joins.line(format!("rlimit {name} {} {}", word(soft), word(hard)));
        Ok(())
    }

    fn mount(
        &mut self,
        step: &Step,
        sources: &mut VecDeque<BindSource>,
        (container, ground): (&PlannedContainer, Ground<'_>),
    ) -> Result<()> {
        self.root.end_note();
        match step {
            Step::MountFileSystem { kind, target, attributes, options } => {
                self.root.note(&format!("{}: {}", target.display(), why(step)));
                let mut all = words(attributes & !attr::RDONLY);
                all.extend(options.iter().cloned());
                let all = if all.is_empty() { String::from("rw") } else { all.join(",") };
                self.root.line(format!("file_system {} {} {}", quote(kind)?, of_path(target)?, quote(all)?));
                if attributes & attr::RDONLY != 0 {
                    self.root.line("restrict \"$found\" ro");
                }
            }
            Step::MountCgroups { target, attributes } => {
                self.root.note(&format!("{}: {}", target.display(), why(step)));
                self.cgroups((&container.name, target), *attributes, ground)?;
            }
            Step::Bind { source, target, attributes, recursive, propagation } => {
                let from = sources.pop_front().context("a bind mount of the steps was not planned")?;
                self.root.note(&format!("{}: {}", target.display(), from.about));
                self.has_sub_paths |= !from.lines.is_empty();
                from.lines.iter().for_each(|line| self.root.line(line));
                if let Some((_, kind)) =
                    [("/proc", "proc"), ("/sys", "sysfs")].iter().find(|(p, _)| target == Path::new(p))
                {
                    let found = format!("[ \"$(stat --file-system --format=%T -- {})\" = {kind} ]", from.word);
                    self.root.line(format!("{found} || die {}", quote(format!("{} is no {kind}", source.display()))?));
                }
                self.root.line(format!("attach {} {} {}", from.depth, from.word, of_path(target)?));
                let change = match propagation {
                    Propagation::Private => "--make-rprivate",
                    Propagation::Slave => "--make-rslave",
                    Propagation::Shared => "--make-rshared",
                    Propagation::Unbindable => "--make-runbindable",
                };
                self.root.line(format!("mount {change} \"$found\""));
                if *recursive != 0 {
                    self.root.line(format!("restrict_all \"$found\" {}", words(*recursive).join(",")));
                }
                if *attributes != 0 {
                    self.root.line(format!("restrict \"$found\" {}", words(*attributes).join(",")));
                }
            }
            other => bail!("{} is no mount", other.name()),
        }
        Ok(())
    }

    /// As `runtime::mounts::cgroups` does it.
    fn cgroups(&mut self, (container, target): (&str, &Path), attributes: u64, ground: Ground<'_>) -> Result<()> {
        let setup = &ground.facts.cgroups;
        let flags = words(attributes).join(",");
        let own = if self.own_cgroups { format!("/\"$CGROUP\"/{}", quote(container)?) } else { String::new() };
        let source = |hierarchy: &Hierarchy| Ok::<_, anyhow::Error>(of_path(&hierarchy.mount)? + &own);
        let body = &mut self.root;
        if let [only] = &setup.hierarchies[..]
            && only.version == Version::V2
        {
            body.line(format!("skeleton {}", of_path(target)?));
            body.line(format!("show_cgroup {} \"$found\" {flags}", source(only)?));
            return Ok(());
        }
        body.line(format!("file_system tmpfs {} nosuid,nodev,noexec,mode=755", of_path(target)?));
        for hierarchy in &setup.hierarchies {
            let Some(mount_name) = hierarchy.mount.file_name() else { continue };
            let name = quote(mount_name.as_encoded_bytes())?;
            body.line(format!("mkdir -- \"$found\"/{name}"));
            body.line(format!("show_cgroup {} \"$found\"/{name} {flags}", source(hierarchy)?));
            let other = |c: &&String| hierarchy.version == Version::V1 && c.as_str() != mount_name && !c.contains('=');
            for controller in hierarchy.controllers.iter().filter(other) {
                body.line(format!("ln --symbolic -- {name} \"$found\"/{}", quote(controller)?));
            }
        }
        if attributes & attr::RDONLY != 0 {
            body.line("restrict \"$found\" ro");
        }
        Ok(())
    }
}

/// Where a comment stands.
#[derive(Clone, Copy)]
enum Place {
    Joins,
    Last,
}

fn of_path(path: &Path) -> Result<String> {
    quote(path.as_os_str().as_encoded_bytes())
}

fn words(attributes: u64) -> Vec<String> {
    let table = [(attr::RDONLY, "ro"), (attr::NOSUID, "nosuid"), (attr::NODEV, "nodev"), (attr::NOEXEC, "noexec")];
    table.iter().filter(|(bit, _)| attributes & bit != 0).map(|(_, word)| (*word).to_owned()).collect()
}

/// Capabilities as setpriv(1) takes them: first none, then each one.
fn set(mask: u64) -> String {
    let named = (0..64).filter(|number| mask & (1 << number) != 0).map(|number| {
        let name = capabilities::name(number).to_lowercase();
        // One that nobody here knows by name has a number.
        if name.starts_with(|c: char| c.is_ascii_digit()) { format!(",+cap_{name}") } else { format!(",+{name}") }
    });
    format!("-all{}", named.collect::<String>())
}
