//! The container whose turn comes next is made while the one before it is, on another processor: a start is half the supervisor's
//! work, and half that of an init. Its own init performs the steps and waits for the start, which the machine asks for as if
//! nothing had been made yet.
//!
//! Before that nobody sees it: nothing of it is watched, it has no log, and an error is told when it comes again in its turn. Who
//! takes the pod over undoes it, as any container that nobody has asked for ([`super::takeover`]).

use super::create::{Launched, When};
use super::hand_off::end_unwatched;
use super::life::Life;
use super::pod::Supervisor;
use crate::plan::config::{
    ContainerConfig, ContainerKind, EnvValue, MountPropagation, NamespaceMode, PodPlan, VolumeSource,
};
use crate::runtime::Step;
use crate::sys::fs::MAX_LINKS;
use crate::sys::{Called, process};
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::readlinkat;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long its processes may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// What an init that waits may take of the pod's memory, in bytes.
const MEMORY: i64 = 4 << 20;

/// What was made of a container before its turn.
#[derive(Default)]
pub(super) enum Early {
    /// Nothing so far.
    #[default]
    NotYet,
    /// An instance, its first.
    Made(Box<Launched>),
    /// Nothing, and nothing will be.
    Never,
}

impl Supervisor {
    /// Makes the container that comes after the one that is being started, if there is nothing to be waited for but its turn.
    pub(super) fn make_next(&mut self) {
        let Life::Own(state) = &self.life else { return };
        let next = state.comes_next().filter(|next| matches!(self.slots[*next].early, Early::NotYet));
        let Some(next) = next.filter(|_| !self.timeline.is_on()) else { return };
        self.slots[next].early = Early::Never;
        if !may_be_early(&self.pod.record.plan, next) {
            return;
        }
        match self.launch(next, 0, When::Early) {
            Ok(launched) => self.slots[next].early = Early::Made(Box::new(launched)),
            Err(_) => self.undo_creation(next, 0),
        }
    }

    /// It is a container's turn: what was made of this instance before.
    pub(super) fn take_early(&mut self, index: usize, restart_count: u32) -> Option<Launched> {
        let Early::Made(launched) = std::mem::replace(&mut self.slots[index].early, Early::Never) else { return None };
        // Whether it failed or was killed: if that happens again, it is in its turn.
        let waits = matches!(process::look(launched.child.pidfd.as_fd()), Ok(None));
        if waits && launched.restart_count == restart_count {
            return Some(*launched);
        }
        self.undo_early(index, *launched);
        None
    }

    /// What was made early goes: the pod ends, or is not what it was any more. Then it may be made again.
    pub(super) fn drop_early(&mut self) {
        for index in 0..self.slots.len() {
            match std::mem::take(&mut self.slots[index].early) {
                Early::Made(launched) => self.undo_early(index, *launched),
                other => self.slots[index].early = other,
            }
        }
    }

    fn undo_early(&mut self, index: usize, launched: Launched) {
        self.end_launched(index, &launched);
        self.undo_creation(index, launched.restart_count);
    }

    /// Nothing becomes of an init that waits, or is still at work.
    pub(super) fn end_launched(&mut self, index: usize, launched: &Launched) {
        if let Err(error) = end(launched) {
            let name = &self.pod.record.plan.containers[index].name;
            let message = format!("container {name}: {error:#}");
            self.warn("KillContainerError", message);
        }
    }
}

/// Kills its processes, and reaps them.
fn end(Launched { child, cgroup, sync, .. }: &Launched) -> Result<()> {
    process::send_signal(child.pidfd.as_fd(), libc::SIGKILL)?;
    cgroup.kill(PATIENCE)?;
    end_unwatched(child, sync.as_ref())
}

/// Whether a container is the same whenever it is made: nothing that a container before it does is part of it, and no container of
/// the pod can get hold of its init while that waits.
fn may_be_early(plan: &PodPlan, index: usize) -> bool {
    let config = &plan.containers[index];
    let is_late = |value: &EnvValue| matches!(value, EnvValue::File(_) | EnvValue::HostIp | EnvValue::HostIps);
    let is_of_pod = |source: &VolumeSource| match source {
        VolumeSource::EmptyDir { .. } | VolumeSource::Memory { .. } | VolumeSource::Files(_) => true,
        // Others may mount something there.
        _ => false,
    };
    let is_whole = |volume: &str, sub_path: &str| {
        sub_path.is_empty() && plan.volumes.iter().any(|known| known.name == volume && is_of_pod(&known.source))
    };
    let mounts = |index: usize| plan.containers[index].mounts.iter();
    has_room(plan)
        && plan.sandbox.namespaces.pid == NamespaceMode::Container
        && !config.envs.iter().any(|env| is_late(&env.value))
        && mounts(index).all(|mount| mount.sub_path_expr.is_none() && is_whole(&mount.volume, &mount.sub_path))
        && (0..plan.containers.len())
            .all(|any| mounts(any).all(|mount| mount.propagation != MountPropagation::Bidirectional))
}

/// Nothing that is mounted, or made for a mount, and no working directory is inside of what is mounted there: a container before it
/// would find it in its volume, or have something else there by then.
///
/// # Errors
/// If it is so, or is not known.
pub(super) fn require_apart(rootfs: BorrowedFd<'_>, steps: &[Step]) -> Result<()> {
    let of_step = |step: &Step| step.path().map(|path| way(rootfs, path)).transpose();
    let ways = steps.iter().map(of_step).collect::<Result<Vec<_>>>()?;
    let binds = steps.iter().zip(&ways).filter(|(step, _)| matches!(step, Step::Bind { .. }));
    for bind in binds.filter_map(|(_, way)| way.as_ref()?.last()) {
        let inside = ways.iter().flatten().find(|way| way[..way.len() - 1].contains(bind));
        ensure!(inside.is_none(), "{inside:?} leads through {}", bind.display());
    }
    Ok(())
}

/// The directories of the image through which a path leads, and in the end where it leads to. What is missing is as it is written.
fn way(rootfs: BorrowedFd<'_>, path: &Path) -> Result<Vec<PathBuf>> {
    let parts = |path: &Path| path.components().rev().map(|part| part.as_os_str().to_owned()).collect::<Vec<_>>();
    let (mut left, mut ways, mut links) = (parts(path), vec![PathBuf::from("/")], 0);
    while let Some(part) = left.pop() {
        let at = ways.last().context("it began at the root")?;
        let next = match part.as_bytes() {
            b"." => continue,
            b".." => at.parent().unwrap_or(at).to_owned(),
            _ => at.join(&part),
        };
        match readlinkat(rootfs, next.strip_prefix("/")?) {
            Ok(text) => {
                links += 1;
                ensure!(links <= MAX_LINKS, "{}: too many symbolic links", path.display());
                left.extend(parts(Path::new(&text)));
            }
            // No link, or nothing.
            Err(Errno::EINVAL | Errno::ENOENT) => ways.push(next),
            Err(errno) => Err(errno).called("readlinkat", next.display())?,
        }
    }
    Ok(ways)
}

/// Whether the pod's memory is enough for an init beside the largest init container and all sidecars: a pod with limits has no more than
/// its containers have at a time (pod-api.md §2).
fn has_room(plan: &PodPlan) -> bool {
    let Some(of_pod) = plan.sandbox.resources.memory_limit else { return true };
    let limit = |config: &ContainerConfig| config.resources.memory_limit.unwrap_or(of_pod);
    let of_kind = |kind| plan.containers.iter().filter(move |config| config.kind == kind).map(limit);
    let beside = of_kind(ContainerKind::Sidecar).fold(MEMORY, i64::saturating_add);
    of_kind(ContainerKind::Init).all(|own| own.saturating_add(beside) <= of_pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Source, admit};
    use crate::plan::pod::{pod_plan, tests::choices};
    use crate::sys::mount::Propagation;
    use std::os::unix::fs::symlink;

    /// Whether the app of a pod may be made before its init container has ended; with more in the pod's spec, in the init
    /// container, and in the app.
    fn app_may(spec: &str, init: &str, app: &str) -> bool {
        let text = format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: p}}
spec:
  volumes:
  - {{name: empty, emptyDir: {{}}}}
  - {{name: host, hostPath: {{path: /h}}}}
  {spec}
  initContainers:
  - {{name: init, image: i, {init}}}
  containers:
  - {{name: app, image: i, {app}}}
"
        );
        let pod = admit(&[Source { name: "pod.yaml".into(), text }]).unwrap().remove(0);
        may_be_early(&pod_plan(&pod, choices()).unwrap(), 1)
    }

    #[test]
    fn what_another_container_can_change_waits_for_it() {
        let mounts = |mount: &str| format!("volumeMounts: [{{name: {mount}}}]");
        let limited = |limit: &str| format!("resources: {{limits: {{memory: {limit}}}}}");
        let pid = "shareProcessNamespace: true";
        let from_file = "env: [{name: A, valueFrom: {fileKeyRef: {volumeName: empty, path: f, key: A}}}]";
        let of_host = "env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]";
        let of_pod = "env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]";
        let shared = "securityContext: {privileged: true}, volumeMounts: [{name: empty, mountPath: /e, mountPropagation: Bidirectional}]";
        let rows = [
            ("nothing", true, app_may("", "", "")),
            ("a volume of the pod's", true, app_may("", "", &mounts("empty, mountPath: /e"))),
            ("its address", true, app_may("", "", of_pod)),
            ("a path in a volume", false, app_may("", "", &mounts("empty, mountPath: /e, subPath: a"))),
            ("a path by a variable", false, app_may("", "", &mounts("empty, mountPath: /e, subPathExpr: a"))),
            ("a path of the host", false, app_may("", "", &mounts("host, mountPath: /h"))),
            ("a variable from a file", false, app_may("", "", from_file)),
            ("the host's address", false, app_may("", "", of_host)),
            ("mounts that spread", false, app_may("", shared, "")),
            ("processes that see each other", false, app_may(pid, "", "")),
            ("room in the pod's memory", true, app_may("", &limited("8Mi"), &limited("16Mi"))),
            ("an init container that may use it all", false, app_may("", &limited("16Mi"), &limited("16Mi"))),
            ("no limit of the pod's", true, app_may("", "", &limited("16Mi"))),
        ];
        for (what, expected, may) in rows {
            assert_eq!(may, expected, "{what}");
        }
    }

    fn bind(target: &str) -> Step {
        let propagation = Propagation::Private;
        Step::Bind { source: "/s".into(), target: target.into(), attributes: 0, recursive: 0, propagation }
    }

    #[test]
    fn what_is_inside_a_volume_waits_for_who_writes_there() {
        let image = tempfile::tempdir().unwrap();
        let at = |path: &str| image.path().join(path);
        std::fs::create_dir_all(at("run/deep")).unwrap();
        std::fs::create_dir(at("etc")).unwrap();
        std::fs::create_dir_all(at("var/v")).unwrap();
        symlink("../run", at("var/run")).unwrap();
        symlink("/run/of-systemd", at("etc/resolv.conf")).unwrap();
        symlink("/var/v/..", at("out")).unwrap();
        symlink("/etc", at("var/v/link")).unwrap();
        symlink("/var/v/link", at("etc/link")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let rootfs = std::fs::File::open(image.path()).unwrap();
        let mask = |path: &str| Step::Mask { path: path.into() };
        let work = |path: &str| Step::WorkingDirectory { path: path.into() };
        let rows = [
            ("nothing", true, vec![work("/")]),
            ("side by side", true, vec![bind("/run"), bind("/run-too"), bind("/etc/hosts"), work("/var")]),
            ("the volume itself", true, vec![bind("/run"), work("/run")]),
            ("below", false, vec![bind("/v"), bind("/v/sub")]),
            ("below, and first", false, vec![bind("/v/sub"), bind("/v")]),
            ("far below", false, vec![bind("/v"), mask("/v/a/b/c")]),
            ("a directory to work in", false, vec![bind("/v"), work("/v/src")]),
            ("by a link", false, vec![bind("/run"), bind("/var/run/secrets/x")]),
            ("the other way", false, vec![bind("/var/run"), work("/run/deep")]),
            ("a link that leads nowhere", false, vec![bind("/run"), bind("/etc/resolv.conf")]),
            ("up again", false, vec![bind("/var/v"), work("/none/../var/v/x")]),
            ("by way of a link's parent", false, vec![bind("/var"), bind("/out/x")]),
            ("through it and out", false, vec![bind("/var/v"), bind("/var/v/link/x")]),
            ("through it and out, by a link", false, vec![bind("/var/v"), work("/etc/link/x")]),
            ("a link to it", true, vec![bind("/var/v"), work("/var/./v")]),
            ("links without end", false, vec![work("/loop")]),
            ("podshim's own file systems", true, vec![mask("/proc/keys"), bind("/dev/termination-log")]),
        ];
        for (what, expected, steps) in rows {
            let is_apart = require_apart(rootfs.as_fd(), &steps);
            assert_eq!(is_apart.is_ok(), expected, "{what}: {is_apart:?}");
        }
    }
}
