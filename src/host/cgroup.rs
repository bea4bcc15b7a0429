//! Which cgroup hierarchies there are, what controls what in them, and where the caller is.
//!
//! Input: `/proc/self/mountinfo` (proc_pid_mountinfo(5)), `/proc/self/cgroup` (cgroups(7)), the mounts that are found at
//! mount points (statx(2)) and, for version 2, `cgroup.controllers` of the mount. Output: a [`CgroupSetup`]. Nothing is
//! created or changed here.

use crate::sys::mountinfo::{self, Mount};
use crate::sys::{Called, mount};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// The generation of a hierarchy's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// cgroup v1: one hierarchy per controller or group of controllers.
    V1,
    /// cgroup v2: the unified hierarchy.
    V2,
}

/// How the hierarchies that matter to podshim are divided between the two versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Only the unified hierarchy.
    V2,
    /// Only v1 hierarchies.
    V1,
    /// v1 hierarchies, and a unified one beside them (with or without controllers of its own).
    Hybrid,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// v1: the controllers mounted together, such as `cpu`, or `name=systemd`. v2: what `cgroup.controllers` of the mount
    /// lists (`cpu`, `io`, `memory`, …), which may be nothing.
    pub controllers: Vec<String>,
    /// v1 or v2.
    pub version: Version,
    /// The caller's cgroup in it, relative to the mount (`/` is the mount itself); empty if it lies outside of what is
    /// mounted, or is not told.
    pub own: String,
    /// Whether the mount, or the whole file system, is read-only, as it is in most containers.
    pub read_only: bool,
}

impl Hierarchy {
    /// A name for messages: the controllers of a v1 hierarchy, `unified` for v2.
    pub fn label(&self) -> String {
        match self.version {
            Version::V2 => "unified".to_owned(),
            Version::V1 => self.controllers.join(","),
        }
    }

    /// Whether this hierarchy has a controller.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// All mounted hierarchies and how they divide the work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupSetup {
    /// How they are divided between v1 and v2.
    pub mode: Mode,
    /// In the order of mountinfo; each hierarchy once.
    pub hierarchies: Vec<Hierarchy>,
}

/// The v1 controllers (and the named hierarchy) in which podshim places containers.
pub const V1_CONTROLLERS: [&str; 10] =
    ["memory", "cpu", "cpuacct", "cpuset", "devices", "freezer", "pids", "blkio", "hugetlb", "name=systemd"];

impl CgroupSetup {
    /// The unified hierarchy, if it is mounted.
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.version == Version::V2)
    }

    /// The hierarchy that has a controller: v1 first, since a controller that is in use there has nothing in v2.
    pub fn with_controller(&self, controller: &str) -> Option<&Hierarchy> {
        let has = |version| self.hierarchies.iter().find(|h| h.version == version && h.has(controller));
        has(Version::V1).or_else(|| has(Version::V2))
    }
}

/// The set-up of this host, as the calling process sees it.
///
/// # Errors
/// If `/proc` cannot be read, or no cgroup hierarchy is mounted.
pub fn detect() -> anyhow::Result<CgroupSetup> {
    let mounts = File::open(MOUNTS).called("open", MOUNTS)?;
    let lines = BufReader::new(mounts).split(b'\n').map(|line| Ok(line.called("read", MOUNTS)?));
    let read = |path: &Path| Ok(fs::read_to_string(path).called("read", path.display())?);
    parse(lines, &read(Path::new(MEMBERSHIPS))?, mount::id_at, |mount| read(&mount.join("cgroup.controllers")))
        .context("find the cgroup hierarchies of this host")
}

const MOUNTS: &str = mountinfo::OWN;
const MEMBERSHIPS: &str = "/proc/self/cgroup";

/// [`detect`] without the kernel: the lines of mountinfo, the text of `/proc/self/cgroup`, and functions that tell the id of the mount
/// that a path leads to and the text of `cgroup.controllers` of the unified hierarchy's mount.
fn parse(
    mounts: impl Iterator<Item = anyhow::Result<Vec<u8>>>,
    proc_cgroup: &str,
    mount_at: impl Fn(&Path) -> Option<u64>,
    v2_controllers: impl FnOnce(&Path) -> anyhow::Result<String>,
) -> anyhow::Result<CgroupSetup> {
    let mut hierarchies = hierarchies(mounts, proc_cgroup, mount_at)?;
    if let Some(unified) = hierarchies.iter_mut().find(|h| h.version == Version::V2) {
        unified.controllers = v2_controllers(&unified.mount)?.split_whitespace().map(str::to_owned).collect();
    }
    let unified = hierarchies.iter().any(|h| h.version == Version::V2);
    // A v1 hierarchy without any controller that we use (net_cls of some VPN clients, a lone name=systemd) changes nothing.
    let v1 = hierarchies
        .iter()
        .any(|h| h.version == Version::V1 && h.controllers.iter().any(|c| V1_CONTROLLERS[..9].contains(&c.as_str())));
    let mode = match (unified, v1) {
        (true, false) => Mode::V2,
        (false, true) => Mode::V1,
        (true, true) => Mode::Hybrid,
        (false, false) => bail!("{MOUNTS}: no cgroup hierarchy is mounted (mount -t cgroup2 …)"),
    };
    Ok(CgroupSetup { mode, hierarchies })
}

/// The hierarchies that are mounted where they can be reached, in the order of mountinfo; those of v2 without their controllers.
///
/// Lines are read until each hierarchy that the process is in was found writable: those of cgroups come early, and a host with many
/// pods has thousands, each of which costs the kernel a walk through a path.
fn hierarchies(
    mounts: impl Iterator<Item = anyhow::Result<Vec<u8>>>,
    proc_cgroup: &str,
    mount_at: impl Fn(&Path) -> Option<u64>,
) -> anyhow::Result<Vec<Hierarchy>> {
    let memberships = memberships(proc_cgroup)?;
    let mut hierarchies: Vec<Hierarchy> = Vec::new();
    for line in mounts {
        let line = line?;
        let malformed = || format!("{MOUNTS}: malformed line {:?}", String::from_utf8_lossy(&line));
        let mount = Mount::parse(&line).with_context(malformed)?;
        // Another mount may cover it.
        if !is_cgroup(&mount) || mount_at(&mount.point) != Some(mount.id) {
            continue;
        }
        let found = hierarchy(&mount, &memberships);
        match hierarchies.iter_mut().find(|h| h.version == found.version && h.controllers == found.controllers) {
            None => hierarchies.push(found),
            // One hierarchy mounted twice: the view that can be written serves better.
            Some(known) => {
                if known.read_only && !found.read_only {
                    *known = found;
                }
            }
        }
        let is_served = |m: &Membership<'_>| hierarchies.iter().any(|h| !h.read_only && m.is_in(h));
        if memberships.iter().all(is_served) {
            break;
        }
    }
    Ok(hierarchies)
}

/// The set-up of a made-up host, from lines of mountinfo (none of which covers another), the text of `/proc/self/cgroup` and that of
/// `cgroup.controllers`.
#[cfg(test)]
pub fn made_up(mounts: &str, proc_cgroup: &str, v2_controllers: &str) -> CgroupSetup {
    let lines = mounts.lines().map(|line| Ok(line.into()));
    let id_at = |point: &Path| mountinfo::mounts(mounts.as_bytes()).find(|m| m.point == point).map(|m| m.id);
    parse(lines, proc_cgroup, id_at, |_| Ok(v2_controllers.to_owned())).unwrap()
}

fn is_cgroup(mount: &Mount<'_>) -> bool {
    matches!(&*mount.fs_type, "cgroup" | "cgroup2")
}

fn hierarchy(mount: &Mount<'_>, memberships: &[Membership<'_>]) -> Hierarchy {
    let version = if mount.fs_type == "cgroup2" { Version::V2 } else { Version::V1 };
    let options: Vec<&str> = mount.super_options.split(',').collect();
    let membership = memberships.iter().find(|m| match version {
        Version::V2 => m.controllers.is_empty(),
        // The super options hold other words too (rw, noprefix, release_agent=…), the membership only controllers.
        Version::V1 => !m.controllers.is_empty() && m.controllers.iter().all(|c| options.contains(c)),
    });
    let controllers = match (version, membership) {
        (Version::V2, _) => Vec::new(),
        (Version::V1, Some(m)) => m.controllers.iter().map(|c| (*c).to_owned()).collect(),
        (Version::V1, None) => options
            .iter()
            .filter(|o| V1_CONTROLLERS.contains(o) || o.starts_with("name="))
            .map(|o| (*o).to_owned())
            .collect(),
    };
    Hierarchy {
        mount: mount.point.clone(),
        controllers,
        version,
        own: membership.map_or_else(String::new, |m| below(&mount.root.to_string_lossy(), m.path)),
        read_only: mount.is_read_only(),
    }
}

/// One line of `/proc/self/cgroup`: `hierarchy-ID:controller-list:cgroup-path`; no controllers means v2.
struct Membership<'a> {
    controllers: Vec<&'a str>,
    path: &'a str,
}

impl Membership<'_> {
    fn is_in(&self, hierarchy: &Hierarchy) -> bool {
        match self.controllers[..] {
            [] => hierarchy.version == Version::V2,
            _ => self.controllers == hierarchy.controllers,
        }
    }
}

fn memberships(proc_cgroup: &str) -> anyhow::Result<Vec<Membership<'_>>> {
    let parse = |line| {
        let mut fields = str::splitn(line, 3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            bail!("/proc/self/cgroup: malformed line {line:?}");
        };
        Ok(Membership { controllers: controllers.split(',').filter(|c| !c.is_empty()).collect(), path })
    };
    proc_cgroup.lines().filter(|l| !l.is_empty()).map(parse).collect()
}

/// `path` as seen from `root`: both are relative to the caller's cgroup namespace. Empty if it is not below.
fn below(root: &str, path: &str) -> String {
    // cgroup_namespaces(7): what lies outside of the namespace's root is shown with leading `/..`.
    if path.split('/').any(|c| c == "..") {
        return String::new();
    }
    let root = root.trim_end_matches('/');
    match path.strip_prefix(root) {
        Some("" | "/") => "/".to_owned(),
        Some(rest) if rest.starts_with('/') => rest.to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    const BASE: &str = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        23 27 0:22 / /sys rw,relatime - sysfs sysfs rw\n\
        27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n";

    struct Row {
        name: &'static str,
        mounts: &'static str,
        cgroup: &'static str,
        v2: &'static str,
        mode: Mode,
        /// `mount|controllers|own|rw or ro`
        expect: &'static [&'static str],
    }

    const ROWS: &[Row] = &[
        Row {
            name: "pure v2 in a systemd session scope (Debian 12 and later)",
            mounts: "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
            cgroup: "0::/user.slice/user-0.slice/session-3.scope\n",
            v2: "cpuset cpu io memory hugetlb pids rdma misc\n",
            mode: Mode::V2,
            expect: &[
                "/sys/fs/cgroup|cpuset,cpu,io,memory,hugetlb,pids,rdma,misc|/user.slice/user-0.slice/session-3.scope|rw",
            ],
        },
        Row {
            name: "v1 with co-mounted controllers, whose order differs between the two files",
            mounts: "30 23 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
                31 30 0:26 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/systemd/systemd-cgroups-agent,name=systemd\n\
                32 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:11 master:1 - cgroup cgroup rw,cpu,cpuacct\n\
                33 30 0:28 / /sys/fs/cgroup/net_cls,net_prio rw - cgroup cgroup rw,net_cls,net_prio\n\
                34 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
            cgroup: "4:memory:/user.slice\n3:net_cls,net_prio:/\n2:cpuacct,cpu:/user.slice\n1:name=systemd:/user.slice/session-1.scope\n",
            v2: "",
            mode: Mode::V1,
            expect: &[
                "/sys/fs/cgroup/systemd|name=systemd|/user.slice/session-1.scope|rw",
                "/sys/fs/cgroup/cpu,cpuacct|cpuacct,cpu|/user.slice|rw",
                "/sys/fs/cgroup/net_cls,net_prio|net_cls,net_prio|/|rw",
                "/sys/fs/cgroup/memory|memory|/user.slice|rw",
            ],
        },
        Row {
            name: "hybrid: a unified tree without controllers beside v1",
            mounts: "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
            cgroup: "4:memory:/a/b\n1:cpu:/\n0::/\n",
            v2: "\n",
            mode: Mode::Hybrid,
            expect: &[
                "/sys/fs/cgroup/cpu|cpu|/|rw",
                "/sys/fs/cgroup/memory|memory|/a/b|rw",
                "/sys/fs/cgroup/unified||/|rw",
            ],
        },
        Row {
            name: "v2 in a container with its own cgroup namespace, read-only",
            mounts: "99 23 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n",
            cgroup: "0::/\n",
            v2: "cpu memory pids\n",
            mode: Mode::V2,
            expect: &["/sys/fs/cgroup|cpu,memory,pids|/|ro"],
        },
        Row {
            name: "a container in the host's cgroup namespace sees its own part as the mount's root",
            mounts: "98 23 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                99 98 0:26 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                100 98 0:27 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n\
                101 98 0:28 /docker/abc /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n",
            cgroup: "3:pids:/docker/abcdef\n2:cpu:/docker/abc/init\n1:memory:/docker/abc\n",
            v2: "",
            mode: Mode::V1,
            expect: &[
                "/sys/fs/cgroup/memory|memory|/|ro",
                "/sys/fs/cgroup/cpu|cpu|/init|ro",
                "/sys/fs/cgroup/pids|pids||ro",
            ],
        },
        Row {
            name: "a process outside of its cgroup namespace's root has no place of its own",
            mounts: "30 23 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            cgroup: "0::/../other\n",
            v2: "memory\n",
            mode: Mode::V2,
            expect: &["/sys/fs/cgroup|memory||rw"],
        },
        Row {
            name: "v2 with a VPN client's net_cls hierarchy, and missing controllers",
            mounts: "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
                44 27 0:40 / /opt/vpn/net-cls rw - cgroup net_cls rw,net_cls\n",
            cgroup: "1:net_cls:/\n0::/x\n",
            v2: "pids\n",
            mode: Mode::V2,
            expect: &["/sys/fs/cgroup|pids|/x|rw", "/opt/vpn/net-cls|net_cls|/|rw"],
        },
        Row {
            name: "octal escapes, an empty source, and a mount without a membership line",
            mounts: "31 27 0:27 / /mnt/d\\011e rw - cgroup none rw,noprefix,cpuset\n\
                30 27 0:26 / /mnt/a\\040b\\134c rw - cgroup2  rw\n",
            cgroup: "0::/\n",
            v2: "cpu\n",
            mode: Mode::Hybrid,
            expect: &["/mnt/d\te|cpuset||rw", "/mnt/a b\\c|cpu|/|rw"],
        },
        Row {
            name: "a hierarchy mounted twice: the writable view counts; one that is covered does not",
            mounts: "30 23 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                31 30 0:26 / /sys/fs/cgroup/old rw - cgroup cgroup rw,memory\n\
                32 30 0:25 / /sys/fs/cgroup rw - tmpfs over rw\n\
                33 32 0:27 / /sys/fs/cgroup/pids ro - cgroup cgroup ro,pids\n\
                34 27 0:27 / /pids rw - cgroup cgroup rw,pids\n",
            cgroup: "2:pids:/p\n1:memory:/m\n",
            v2: "",
            mode: Mode::V1,
            expect: &["/pids|pids|/p|rw"],
        },
    ];

    fn show(h: &Hierarchy) -> String {
        let access = if h.read_only { "ro" } else { "rw" };
        format!("{}|{}|{}|{access}", h.mount.display(), h.controllers.join(","), h.own)
    }

    /// The mount that a path leads to: from the root's to what is mounted on it first on the way, and so on.
    fn mount_at(lines: &[&str], path: &Path) -> Option<u64> {
        let parent = |line: &str| line.split(' ').nth(1)?.parse::<u64>().ok();
        let mut at = 27;
        let on_it = |at| {
            let mounts =
                lines.iter().filter(|line| parent(line) == Some(at)).map(|line| Mount::parse(line.as_bytes()).unwrap());
            mounts.filter(|m| path.starts_with(&m.point)).min_by_key(|m| m.point.components().count())
        };
        while let Some(next) = on_it(at) {
            at = next.id;
        }
        Some(at)
    }

    fn found(
        mounts: &str,
        cgroup: &str,
        v2: impl FnOnce(&Path) -> anyhow::Result<String>,
    ) -> anyhow::Result<CgroupSetup> {
        let lines: Vec<&str> = BASE.lines().chain(mounts.lines()).collect();
        parse(lines.iter().map(|line| Ok((*line).into())), cgroup, |point| mount_at(&lines, point), v2)
    }

    #[test]
    fn set_ups_are_told_apart() {
        for row in ROWS {
            let setup = found(row.mounts, row.cgroup, |_| Ok(row.v2.to_owned()))
                .unwrap_or_else(|e| panic!("{}: {e:#}", row.name));
            assert_eq!(setup.mode, row.mode, "{}", row.name);
            let shown: Vec<String> = setup.hierarchies.iter().map(show).collect();
            assert_eq!(shown, row.expect, "{}", row.name);
            let json = serde_json::to_string(&setup).unwrap();
            assert_eq!(serde_json::from_str::<CgroupSetup>(&json).unwrap(), setup, "{}", row.name);
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for (name, mounts, cgroup, expect) in [
            ("nothing is mounted", "", "0::/\n", "no cgroup hierarchy is mounted"),
            ("a torn line", "23 27 0:22 / /sys", "0::/\n", "malformed line"),
            ("a torn membership", "", "0:/\n", "malformed line"),
            ("cgroup.controllers fails", "30 27 0:26 / /c rw - cgroup2 none rw\n", "0::/\n", "no controllers of /c"),
        ] {
            let error = found(mounts, cgroup, |m| bail!("no controllers of {}", m.display())).unwrap_err();
            assert!(format!("{error:#}").contains(expect), "{name}: {error:#}");
        }
    }

    #[test]
    fn no_line_is_read_after_the_last_hierarchy() {
        let cgroups = ["30 27 0:26 / /u rw - cgroup2 none rw", "31 27 0:27 / /m rw - cgroup none rw,memory"];
        let lines = cgroups.iter().map(|line| Ok((*line).into())).chain([Err(anyhow!("read on"))]);
        assert_eq!(hierarchies(lines, "1:memory:/\n0::/\n", |point| mount_at(&cgroups, point)).unwrap().len(), 2);
        // One that cannot be written may be there again.
        let read_only = ["30 27 0:26 / /u ro - cgroup2 none rw"];
        let lines = read_only.iter().map(|line| Ok((*line).into())).chain([Err(anyhow!("read on"))]);
        assert!(hierarchies(lines, "0::/\n", |point| mount_at(&read_only, point)).is_err());
    }

    #[test]
    fn this_host_is_understood() {
        let setup = detect().unwrap();
        assert!(!setup.hierarchies.is_empty());
        assert!(setup.hierarchies.iter().all(|h| h.mount.join("cgroup.procs").exists()), "{setup:?}");
    }

    #[test]
    fn a_controller_in_use_by_v1_is_found_there() {
        let text = "30 27 0:26 / /u rw - cgroup2 none rw\n31 27 0:27 / /m rw - cgroup none rw,memory\n";
        let setup = made_up(text, "1:memory:/\n0::/\n", "cpu pids");
        assert_eq!(setup.with_controller("memory").unwrap().mount, Path::new("/m"));
        assert_eq!(setup.with_controller("cpu").unwrap().mount, Path::new("/u"));
        assert_eq!(setup.with_controller("io"), None);
        assert_eq!(setup.unified().unwrap().label(), "unified");
    }
}
