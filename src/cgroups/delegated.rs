//! Cgroups that systemd has delegated to the caller's unit (`Delegate=yes`), and how the caller lives in one.
//!
//! systemd marks them by an extended attribute, `trusted.delegate` or `user.delegate`, that is `1` (systemd's "Control Group
//! APIs and Delegation"). What has no such mark is systemd's: podshim makes nothing there unless it is told to.

use super::{read, write};
use crate::host::HostFacts;
use crate::host::cgroup::{CgroupSetup, Hierarchy, Mode, Version};
use crate::plan::spec;
use crate::sys::Called;
use crate::sys::getxattr::short_xattr;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// The leaf, in a delegated cgroup, which podshim's own processes move to: on v2 a cgroup that holds processes cannot give
/// controllers to its children ("no internal process constraint", `cgroup-v2.rst`).
pub(super) const LEAF: &str = "podshim-supervisor";

/// What matters of a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    mark: Mark,
    others: Others,
}

/// Whether systemd delegated it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Delegated,
    Systemds,
}

/// Whether it holds processes beside the caller, which are not podshim's to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    Absent,
    Present,
}

/// What the caller's place comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    /// It lies in nothing that was delegated to it.
    Nothing,
    /// The cgroup to make the pods in.
    Parent(String),
    /// A delegated cgroup that cannot have children with controllers, as others are in it.
    Shared(String),
}

/// Which cgroup the pods of a caller in the cgroup `own` are made in. Pure; `look` says what a cgroup is.
fn choose(mode: Mode, own: &str, look: impl Fn(&str) -> Seen) -> Choice {
    let own = own.trim_matches('/');
    let usable = |path: &str, seen: Seen| match (mode, seen.others) {
        (Mode::V2, Others::Present) => Choice::Shared(path.to_owned()),
        // v1 lets a cgroup have processes and children.
        _ => Choice::Parent(path.to_owned()),
    };
    // With `DelegateSubgroup=`, or where podshim has moved already, the caller is in a child of what is delegated.
    let above = match mode {
        Mode::V2 => own.rsplit_once('/').map_or("", |(above, _)| above),
        Mode::V1 | Mode::Hybrid => "",
    };
    // user@<uid>.service is delegated to the user's own systemd, not to the programs that this runs.
    let is_candidate = |path: &&str| {
        let name = path.rsplit('/').next().unwrap_or("");
        !path.is_empty() && !name.starts_with("user@")
    };
    let mut candidates = [own, above].into_iter().filter(is_candidate).map(|path| (path, look(path)));
    let delegated = candidates.find(|(_, seen)| seen.mark == Mark::Delegated);
    delegated.map_or(Choice::Nothing, |(path, seen)| usable(path, seen))
}

/// The caller's choice in a hierarchy, as its directories are.
fn chosen(mode: Mode, hierarchy: &Hierarchy) -> Choice {
    choose(mode, &hierarchy.own, |path| {
        let dir = hierarchy.mount.join(path);
        let mark = if is_delegated(&dir) { Mark::Delegated } else { Mark::Systemds };
        Seen { mark, others: others(&dir) }
    })
}

fn others(dir: &Path) -> Others {
    let own = std::process::id().to_string();
    // What cannot be read (a threaded cgroup, or nothing there) is not to be used.
    let alone = fs::read_to_string(dir.join("cgroup.procs")).is_ok_and(|pids| pids.lines().all(|pid| pid == own));
    if alone { Others::Absent } else { Others::Present }
}

/// Whether a cgroup has systemd's mark. Without the right to read it there is no delegation to use.
pub(super) fn is_delegated(dir: &Path) -> bool {
    ["trusted.delegate", "user.delegate"]
        .iter()
        .any(|name| short_xattr(dir, name).is_ok_and(|value| value.as_deref() == Some(b"1")))
}

/// The nearest delegated cgroup at or above a directory.
pub(super) fn nearest(dir: &Path) -> Option<&Path> {
    dir.ancestors().find(|dir| is_delegated(dir))
}

/// What the numbers of a cgroup below `parent` depend on.
pub fn of_spec(facts: &HostFacts, parent: &str) -> Result<spec::Cgroups> {
    let cgroups = &facts.cgroups;
    let is_unified = |controller| cgroups.with_controller(controller).is_some_and(|h| h.version == Version::V2);
    let limits_pages = has_controller(cgroups, parent, "hugetlb")?;
    Ok(spec::Cgroups {
        cpu_is_unified: is_unified("cpu"),
        memory_is_unified: is_unified("memory"),
        page_sizes: facts.huge_pages.iter().filter(|_| limits_pages).map(|pages| pages.page_size).collect(),
    })
}

/// Whether pods below `parent` can have a controller: of a delegated cgroup on v2, only what systemd gave to it. (It knows
/// cpu, cpuset, io, memory and pids; hugetlb it gives to nobody.)
///
/// # Errors
/// If what a delegated cgroup has cannot be read.
fn has_controller(setup: &CgroupSetup, parent: &str, controller: &str) -> Result<bool> {
    let Some(hierarchy) = setup.with_controller(controller) else { return Ok(false) };
    let dir = hierarchy.mount.join(parent);
    match nearest(&dir).filter(|_| hierarchy.version == Version::V2) {
        Some(delegated) => {
            let has = read(&delegated.join("cgroup.controllers"))?;
            Ok(has.split_whitespace().any(|c| c == controller))
        }
        None => Ok(true),
    }
}

fn choices(setup: &CgroupSetup) -> impl Iterator<Item = Choice> {
    let kept_by_systemd = |h: &&Hierarchy| h.version == Version::V2 || h.has("name=systemd");
    setup.hierarchies.iter().filter(kept_by_systemd).map(|h| chosen(setup.mode, h))
}

/// The delegated cgroup of the caller's unit, below each hierarchy's mount; none if there is none that can be used.
pub(super) fn of_caller(setup: &CgroupSetup) -> Option<String> {
    choices(setup).find_map(|choice| if let Choice::Parent(path) = choice { Some(path) } else { None })
}

/// The delegated cgroup of the caller's unit that is passed over, as other processes are in it.
pub fn shared(setup: &CgroupSetup) -> Option<String> {
    choices(setup).find_map(|choice| if let Choice::Shared(path) = choice { Some(path) } else { None })
}

/// Moves the calling process into a leaf of `parent`, if that is its own delegated cgroup on v2: so that the pods' cgroups
/// below it can have controllers. What it starts later is in the leaf too. Elsewhere it does nothing.
///
/// # Errors
/// The leaf cannot be made or entered.
pub fn make_room(setup: &CgroupSetup, parent: &str) -> Result<()> {
    let Some(hierarchy) = setup.unified().filter(|_| setup.mode == Mode::V2) else { return Ok(()) };
    let dir = hierarchy.mount.join(parent);
    if parent.is_empty() || hierarchy.own.trim_matches('/') != parent || !is_delegated(&dir) {
        return Ok(());
    }
    let leaf = dir.join(LEAF);
    let enter = || {
        match fs::create_dir(&leaf) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.called("mkdir", leaf.display())?,
        }
        // 0 is the writer, with all its threads.
        write(&leaf.join("cgroup.procs"), "0")
    };
    enter().context("leave the delegated cgroup to the pods")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host's cgroups, as `path: what it is`; others are systemd's, and empty.
    type Host = &'static [(&'static str, Seen)];

    const ALONE: Seen = Seen { mark: Mark::Delegated, others: Others::Absent };
    const BUSY: Seen = Seen { mark: Mark::Delegated, others: Others::Present };
    const SYSTEMDS: Seen = Seen { mark: Mark::Systemds, others: Others::Absent };

    #[test]
    fn where_pods_go_below_systemd() {
        let unit = "system.slice/podshim.service";
        let parent = |path: &str| Choice::Parent(path.into());
        let rows: &[(&str, Mode, &str, Host, Choice)] = &[
            ("the root", Mode::V2, "/", &[], Choice::Nothing),
            ("outside of what is mounted", Mode::V2, "", &[], Choice::Nothing),
            ("a plain service", Mode::V2, "/system.slice/podshim.service", &[], Choice::Nothing),
            ("a session", Mode::V2, "/user.slice/user-0.slice/session-3.scope", &[], Choice::Nothing),
            (
                "Delegate=yes",
                Mode::V2,
                "/system.slice/podshim.service",
                &[("system.slice/podshim.service", ALONE)],
                parent(unit),
            ),
            (
                "Delegate=yes, with a shell that waits",
                Mode::V2,
                "/system.slice/podshim.service",
                &[("system.slice/podshim.service", BUSY)],
                Choice::Shared(unit.into()),
            ),
            (
                "DelegateSubgroup=supervisor, or a pod started before",
                Mode::V2,
                "/system.slice/podshim.service/supervisor",
                &[("system.slice/podshim.service", ALONE)],
                parent(unit),
            ),
            (
                "ExecReload= of a delegated unit",
                Mode::V2,
                "/system.slice/podshim.service/.control",
                &[("system.slice/podshim.service", BUSY)],
                Choice::Shared(unit.into()),
            ),
            (
                "two below what is delegated: that is somebody else's tree",
                Mode::V2,
                "/machine.slice/engine.service/engine/x",
                &[("machine.slice/engine.service", ALONE)],
                Choice::Nothing,
            ),
            (
                "the user's systemd has user@0.service, its programs do not",
                Mode::V2,
                "/user.slice/user-0.slice/user@0.service/init.scope",
                &[("user.slice/user-0.slice/user@0.service", ALONE)],
                Choice::Nothing,
            ),
            (
                "a delegated unit of the user's systemd",
                Mode::V2,
                "/user.slice/user-0.slice/user@0.service/app.slice/p.service",
                &[
                    ("user.slice/user-0.slice/user@0.service", ALONE),
                    ("user.slice/user-0.slice/user@0.service/app.slice", SYSTEMDS),
                    ("user.slice/user-0.slice/user@0.service/app.slice/p.service", ALONE),
                ],
                parent("user.slice/user-0.slice/user@0.service/app.slice/p.service"),
            ),
            ("a unit of the root slice", Mode::V2, "/p.service/.control", &[("p.service", ALONE)], parent("p.service")),
            (
                "v1 takes processes and children in one",
                Mode::Hybrid,
                "/system.slice/podshim.service",
                &[("system.slice/podshim.service", BUSY)],
                parent(unit),
            ),
            (
                "v1: a child of a delegated one is another's",
                Mode::V1,
                "/system.slice/podshim.service/x",
                &[("system.slice/podshim.service", ALONE)],
                Choice::Nothing,
            ),
        ];
        for (name, mode, own, host, expected) in rows {
            let look = |path: &str| host.iter().find(|(known, _)| *known == path).map_or(SYSTEMDS, |(_, seen)| *seen);
            assert_eq!(choose(*mode, own, look), *expected, "{name}");
        }
    }
}
