//! Where a cgroup is: names, and nothing but names.

use super::{SUBTREE, delegated};
use crate::host::cgroup::{CgroupSetup, Hierarchy, Mode, V1_CONTROLLERS, Version};
use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One cgroup, in all hierarchies: a pod's (`pod<uid>`) or a container's (`pod<uid>/<container>`).
///
/// It holds names only and owns nothing; dropping it does nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Cgroup {
    pub(super) setup: CgroupSetup,
    parent: String,
    name: String,
}

/// A [`Cgroup`] as read from a file, before its names are checked.
#[derive(Deserialize)]
struct Unchecked {
    setup: CgroupSetup,
    parent: String,
    name: String,
}

impl TryFrom<Unchecked> for Cgroup {
    type Error = anyhow::Error;

    fn try_from(read: Unchecked) -> anyhow::Result<Cgroup> {
        Cgroup::at(&read.setup, &read.parent, &read.name)
    }
}

impl Cgroup {
    /// The cgroup `<mount>/<parent>/podshim/<name>` of every hierarchy that matters. Touches nothing.
    ///
    /// `parent` comes from [`parent()`]; `name` is `pod<uid>` or `pod<uid>/<container>`.
    ///
    /// # Errors
    /// If a part of a name is empty, `.`, `..`, or holds a character that a cgroup's name cannot.
    pub fn at(setup: &CgroupSetup, parent: &str, name: &str) -> anyhow::Result<Cgroup> {
        let parent = parent.trim_matches('/');
        if !parent.is_empty() {
            check_path(parent).with_context(|| format!("cgroup parent {parent:?}"))?;
        }
        check_path(name).with_context(|| format!("cgroup name {name:?}"))?;
        let matters = |h: &&Hierarchy| match (setup.mode, h.version) {
            (_, Version::V2) => true,
            // A stray v1 hierarchy beside a full v2 (a VPN client's net_cls) is not ours.
            (Mode::V2, Version::V1) => false,
            (_, Version::V1) => h.controllers.iter().any(|c| V1_CONTROLLERS.contains(&c.as_str())),
        };
        let hierarchies = setup.hierarchies.iter().filter(matters).cloned().collect();
        let setup = CgroupSetup { mode: setup.mode, hierarchies };
        Ok(Cgroup { setup, parent: parent.to_owned(), name: name.to_owned() })
    }

    /// Its path below a hierarchy's mount, `/<parent>/podshim/<name>`: OCI's `linux.cgroupsPath`.
    pub fn path(&self) -> String {
        let parent = if self.parent.is_empty() { String::new() } else { format!("/{}", self.parent) };
        format!("{parent}/{SUBTREE}/{}", self.name)
    }

    /// The hierarchies that it is in.
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.setup.hierarchies
    }

    /// Its directory in each hierarchy, whether or not it exists.
    pub fn dirs(&self) -> Vec<PathBuf> {
        self.setup.hierarchies.iter().map(|h| self.dir(h)).collect()
    }

    /// Its directory in one hierarchy.
    pub(super) fn dir(&self, hierarchy: &Hierarchy) -> PathBuf {
        self.subtree(hierarchy).join(&self.name)
    }

    /// The directory which holds all that is podshim's in one hierarchy.
    pub(super) fn subtree(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.mount.join(&self.parent).join(SUBTREE)
    }

    /// Whether it is a pod's own cgroup and not one within.
    pub(super) fn is_top(&self) -> bool {
        !self.name.contains('/')
    }

    /// The directories above it, from the mount down to its parent.
    pub(super) fn ancestors(&self, hierarchy: &Hierarchy) -> Vec<PathBuf> {
        let mut dir = hierarchy.mount.clone();
        let mut ancestors = vec![dir.clone()];
        for part in self.path().split('/').filter(|p| !p.is_empty()) {
            dir.push(part);
            ancestors.push(dir.clone());
        }
        ancestors.pop();
        ancestors
    }

    /// The leaf that podshim's own processes were moved to, if any were, in the unified hierarchy.
    pub(super) fn leaf_of_supervisors(&self, unified: &Hierarchy) -> PathBuf {
        unified.mount.join(&self.parent).join(delegated::LEAF)
    }

    /// Its directory in the hierarchy that has a controller; `cgroup` is the core of v2, `devices` is only v1's.
    pub(super) fn home(&self, controller: &str) -> Option<(&Hierarchy, PathBuf)> {
        let hierarchy = match controller {
            "cgroup" => self.setup.unified(),
            _ => self.setup.with_controller(controller),
        };
        hierarchy.map(|h| (h, self.dir(h)))
    }

    /// Its directory in the unified hierarchy, if that is mounted.
    pub(super) fn unified(&self) -> Option<PathBuf> {
        self.setup.unified().map(|h| self.dir(h))
    }
}

/// Refuses names that would leave the subtree, or that the kernel would refuse or take for its own files.
fn check_path(path: &str) -> anyhow::Result<()> {
    for part in path.split('/') {
        ensure!(!part.is_empty(), "a part of it is empty");
        ensure!(part != "." && part != "..", "{part:?} leads elsewhere");
        ensure!(part.len() <= 255, "a part of it is longer than 255 bytes");
        // kernfs splits names at newlines in its listings (cgroup_mkdir refuses them too).
        ensure!(!part.contains(['\n', '\0', '\\']), "{part:?} holds a character that no cgroup's name may");
    }
    Ok(())
}

/// The parent of podshim's subtree, relative to each hierarchy's mount, without slashes around it; empty is the root.
///
/// It is `wanted` if given. Else the cgroup of the caller's unit where systemd delegated it (`Delegate=yes`) and nobody else is
/// in it, or, with `DelegateSubgroup=`, the one above the caller's. Else it is the root, as for a kubelet with the cgroupfs
/// driver: systemd leaves alone what it does not know there, and cannot switch off controllers that a child has passed on.
///
/// Call it once for a pod and keep the answer: another caller's may differ. Before the pod is made, [`super::make_room`].
///
/// # Errors
/// If `wanted` is no relative path below the mount.
pub fn parent(setup: &CgroupSetup, wanted: Option<&str>) -> anyhow::Result<String> {
    let Some(wanted) = wanted else { return Ok(delegated::of_caller(setup).unwrap_or_default()) };
    let trimmed = wanted.trim_matches('/');
    if !trimmed.is_empty() {
        check_path(trimmed).with_context(|| format!("cgroup parent {wanted:?}"))?;
    }
    Ok(trimmed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::cgroup::made_up;

    fn setup() -> CgroupSetup {
        let mounts = "30 1 0:1 / /c/memory rw - cgroup c rw,memory\n31 1 0:2 / /c/net_cls rw - cgroup c rw,net_cls\n\
            32 1 0:3 / /c/unified rw - cgroup2 c rw\n";
        made_up(mounts, "1:memory:/\n0::/\n", "")
    }

    #[test]
    fn names_are_derived() {
        let cgroup = Cgroup::at(&setup(), "/a/b/", "pod1/c").unwrap();
        assert_eq!(cgroup.path(), "/a/b/podshim/pod1/c");
        let dirs: Vec<_> = cgroup.dirs().iter().map(|d| d.display().to_string()).collect();
        assert_eq!(dirs, ["/c/memory/a/b/podshim/pod1/c", "/c/unified/a/b/podshim/pod1/c"]);
        let above = cgroup.ancestors(&cgroup.setup.hierarchies[0]);
        let above: Vec<_> = above.iter().map(|d| d.to_str().unwrap()).collect();
        let expect =
            ["/c/memory", "/c/memory/a", "/c/memory/a/b", "/c/memory/a/b/podshim", "/c/memory/a/b/podshim/pod1"];
        assert_eq!(above, expect);
        assert_eq!(Cgroup::at(&setup(), "", "pod1").unwrap().path(), "/podshim/pod1");
        let json = serde_json::to_string(&cgroup).unwrap();
        assert_eq!(serde_json::from_str::<Cgroup>(&json).unwrap(), cgroup);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let table = [
            ("no name", "", ""),
            ("up", "", ".."),
            ("up later", "", "pod1/../../x"),
            ("here", "", "pod1/."),
            ("absolute", "", "/pod1"),
            ("empty part", "", "pod1//c"),
            ("newline", "", "pod1\nx"),
            ("parent up", "../x", "pod1"),
            ("parent in between", "a/../b", "pod1"),
        ];
        for (name, parent, path) in table {
            assert!(Cgroup::at(&setup(), parent, path).is_err(), "{name}");
            let good = serde_json::to_value(Cgroup::at(&setup(), "", "pod1").unwrap()).unwrap();
            let mut record = good.clone();
            record["parent"] = parent.into();
            record["name"] = path.into();
            assert!(serde_json::from_value::<Cgroup>(record).is_err(), "{name}: from a record");
        }
        assert!(parent(&setup(), Some("../x")).is_err());
        assert_eq!(parent(&setup(), Some("/kube/")).unwrap(), "kube");
        assert_eq!(parent(&setup(), None).unwrap(), "");
    }
}
