//! Making a cgroup: directories, controllers, limits, device filter; then proof that they hold.

use super::delegated::is_delegated;
use super::devices::DeviceList;
use super::writes::{describe, reads_back};
use super::{Cgroup, FileWrite, Need, Writable, device_program, read, write, writes};
use crate::error::{Kind, failure};
use crate::host::cgroup::{Hierarchy, Version};
use crate::sys::{Called, SysError, SysResult, bpf, record};
use anyhow::{Context, bail, ensure};
use nix::errno::Errno;
use oci_spec::runtime::LinuxResources;
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The v2 controllers which podshim passes down, where they are available.
const V2_CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

/// What making directories meets when another pod's removal takes an empty one away at the same moment.
const PASSING: [Errno; 3] = [Errno::ENOENT, Errno::ENODEV, Errno::EEXIST];

impl Cgroup {
    /// Makes it new and sets limits and the device filter. One left over by a crash, without processes, is replaced, so
    /// that nothing old (limits, counters, filters) stays. What was made is removed again if anything fails.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`] if it holds processes. If a hierarchy is read-only, a controller is missing (names
    /// controller and hierarchy), a value is refused, or reads back as something else.
    pub fn create(&self, resources: &LinuxResources) -> anyhow::Result<()> {
        let what = || format!("create cgroup {}", self.path());
        let writes = writes(&self.setup, resources).with_context(what)?;
        if let Some(h) = self.setup.hierarchies.iter().find(|h| h.read_only) {
            bail!("{}: the cgroup hierarchy {} is mounted read-only", what(), describe(h));
        }
        // The usual one is not there at all.
        if self.dirs().iter().any(|dir| dir.symlink_metadata().is_ok()) {
            if !self.is_empty().with_context(what)? {
                return Err(failure(Kind::AlreadyExists, format!("cgroup {} exists and holds processes", self.path())));
            }
            self.remove(Duration::from_millis(200)).with_context(what)?;
        }
        let made = self.make(&writes, resources);
        if made.is_err() {
            // The first error tells what is wrong; what cannot be removed now is found again by its name.
            let _ = self.remove(Duration::from_millis(200));
        }
        made.with_context(what)
    }

    /// Lets those within, which are made later, have its controllers from their beginning. A controller that is refused here is told
    /// of when one of them needs it.
    ///
    /// # Errors
    /// If its files cannot be read.
    pub fn pass_down(&self) -> SysResult<()> {
        match self.unified() {
            Some(dir) => pass_down(&dir).map(drop),
            None => Ok(()),
        }
    }

    /// Sets limits of one that holds processes; if the kernel takes one of them not, `before` is put back.
    ///
    /// # Errors
    /// A limit on memory below what is used is refused before anything is written: v2 would kill for it.
    pub fn update(&self, wanted: &LinuxResources, before: &LinuxResources) -> anyhow::Result<()> {
        let what = || format!("change the limits of cgroup {}", self.path());
        let limit = wanted.memory().as_ref().and_then(|memory| memory.limit());
        let used = self.stats().with_context(what)?.memory_working_set;
        if let (Some(limit), Some(used)) = (limit, used)
            && u64::try_from(limit).is_ok_and(|limit| limit < used)
        {
            let text = format!("{}: {used} bytes of memory are in use, {limit} are to be the limit", what());
            return Err(failure(Kind::NotReady, text));
        }
        let changed = self.apply_in_either_order(&writes(&self.setup, wanted).with_context(what)?);
        if changed.is_err() {
            // The first error tells what is wrong; values that were accepted once are accepted again.
            let _ = self.apply_in_either_order(&writes(&self.setup, before).with_context(what)?);
        }
        changed.with_context(what)
    }

    /// v1 wants memory and swap together never below memory alone: lowered it is the last, raised it is the first.
    fn apply_in_either_order(&self, writes: &[FileWrite]) -> anyhow::Result<()> {
        let reversed: Vec<FileWrite> = writes.iter().rev().cloned().collect();
        self.apply(writes, &[]).or_else(|first| self.apply(&reversed, &[]).map_err(|_| first))
    }

    fn make(&self, writes: &[FileWrite], resources: &LinuxResources) -> anyhow::Result<()> {
        let mut refused = Vec::new();
        for hierarchy in &self.setup.hierarchies {
            refused.extend(self.make_dirs(hierarchy)?);
        }
        self.apply(writes, &refused)?;
        if let Some(rules) = resources.devices().as_ref().filter(|r| !r.is_empty()) {
            match self.home("devices") {
                Some((_, dir)) => {
                    let shown = read(&dir.join("devices.list"))?;
                    let holds = DeviceList::read(rules)?.is_shown_by(&shown);
                    ensure!(holds, "{}/devices.list shows other rules than were written: {shown:?}", dir.display());
                }
                None => self.attach_filter(&device_program(rules)?).context("restrict devices")?,
            }
        }
        Ok(())
    }

    /// The directories of one hierarchy. Returns what the kernel said to v2 controllers that it did not pass down.
    fn make_dirs(&self, hierarchy: &Hierarchy) -> anyhow::Result<Vec<SysError>> {
        let chain = self.ancestors(hierarchy);
        let subtree = self.subtree(hierarchy);
        let leaf = self.dir(hierarchy);
        let mut made = BTreeSet::new();
        // What is above a container's is there, and in order, as a rule.
        if make_chain([&leaf].into_iter(), &mut made).is_ok() && is_in_order(hierarchy, &leaf)? {
            return Ok(Vec::new());
        }
        let mut attempts = 0;
        // Whoever removes the last pod takes the empty directory `podshim` with it, perhaps between two of these steps.
        while let Err(e) = make_chain(chain.iter().chain([&leaf]), &mut made) {
            attempts += 1;
            if attempts > 20 || !PASSING.contains(&e.errno()) || !hierarchy.mount.is_dir() {
                return Err(e.into());
            }
        }
        // Only now, when the leaf keeps the others from being removed: a directory made anew in between has nothing on.
        let mut refused = Vec::new();
        match hierarchy.version {
            Version::V2 => {
                // Above what systemd delegated, controllers are systemd's to switch.
                let own = chain.iter().rposition(|dir| is_delegated(dir)).unwrap_or(0);
                for dir in &chain[own..] {
                    refused.extend(pass_down(dir)?);
                }
                await_files(&leaf)?;
            }
            Version::V1 if hierarchy.has("cpuset") => {
                // A directory above podshim's own that somebody else made keeps its settings.
                for dir in chain.iter().filter(|d| d.starts_with(&subtree) || made.contains(*d)) {
                    inherit_cpuset(dir)?;
                    // What is made in it has its processors from the beginning: a write goes through all cpusets of the host.
                    write(&dir.join("cgroup.clone_children"), "1")?;
                }
                inherit_cpuset(&leaf)?;
            }
            Version::V1 => {}
        }
        Ok(refused)
    }

    /// Performs writes and reads the values back.
    fn apply(&self, writes: &[FileWrite], refused: &[SysError]) -> anyhow::Result<()> {
        let mut file = None;
        for wanted in writes {
            self.apply_one(wanted, refused, &mut file)?;
        }
        Ok(())
    }

    /// `file` is the one that was written last: a list of devices is written rule by rule.
    fn apply_one(&self, wanted: &FileWrite, refused: &[SysError], file: &mut Option<Writable>) -> anyhow::Result<()> {
        let (hierarchy, dir) = self
            .home(&wanted.controller)
            .with_context(|| format!("{}: no hierarchy has the controller {}", wanted.file, wanted.controller))?;
        let path = dir.join(&wanted.file);
        if file.as_ref().is_some_and(|last| last.path != path) {
            *file = None;
        }
        if file.is_none() && !path.exists() {
            return match &wanted.need {
                Need::IfPresent => Ok(()),
                Need::Else(other) => self.apply_one(other, refused, file),
                Need::Required => Err(missing(hierarchy, wanted, &dir, refused)),
            };
        }
        file.get_or_insert_with(|| Writable::at(&path))
            .write(&wanted.value)
            .map_err(refused_value)
            .with_context(|| format!("set {} to {}", wanted.file, wanted.value))?;
        if wanted.controller == "devices" {
            return Ok(());
        }
        match read(&path) {
            Ok(shown) => {
                let holds = reads_back(wanted, &shown);
                ensure!(holds, "{} holds {:?} after {:?} was written", path.display(), shown.trim(), wanted.value);
                Ok(())
            }
            // Some files only take (memory.reclaim).
            Err(e) if matches!(e.errno(), Errno::EINVAL | Errno::EACCES | Errno::EPERM) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn attach_filter(&self, program: &[bpf::BpfInsn]) -> anyhow::Result<()> {
        let dir = self.unified().context("the v2 hierarchy is not mounted")?;
        let cgroup = fs::File::open(&dir).called("open", dir.display())?;
        let program = bpf::load_device_program(program)?;
        bpf::attach_device_program(cgroup.as_fd(), program.as_fd())?;
        let id = bpf::program_id(program.as_fd())?;
        let attached = bpf::device_programs(cgroup.as_fd())?;
        // The cgroup is new, so there can be no other.
        ensure!(attached == [id], "{} has the device filters {attached:?}, not {id} alone", dir.display());
        Ok(())
    }
}

/// A value that the kernel does not take is the mistake of whoever asked for it. EACCES is what v1 says of CPUs that the cgroup
/// above does not have (cpuset(7)).
fn refused_value(error: SysError) -> anyhow::Error {
    match error.errno() {
        Errno::EINVAL | Errno::ERANGE | Errno::EACCES => failure(Kind::Invalid, error.to_string()),
        _ => error.into(),
    }
}

/// Makes directories from the top down; adds those that were not there to `made`.
fn make_chain<'a>(dirs: impl Iterator<Item = &'a PathBuf>, made: &mut BTreeSet<PathBuf>) -> SysResult<()> {
    for dir in dirs {
        let make = || fs::create_dir(dir).called("mkdir", dir.display());
        match record::call("mkdir", || format!("{dir:?}, 0777"), make) {
            Ok(()) => drop(made.insert(dir.clone())),
            Err(e) if e.errno() == Errno::EEXIST && dir.is_dir() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Switches on the controllers for a directory's children, one by one so that one refusal does not keep the others out.
/// Returns the refusals: they matter only if a limit needs the controller.
///
/// Below the root, not where processes are: the kernel refuses that with EBUSY for some controllers only (memory, io); for
/// the others it would quietly turn the directory into the root of a threaded subtree, in which nothing can be made.
fn pass_down(dir: &Path) -> SysResult<Vec<SysError>> {
    let file = dir.join("cgroup.subtree_control");
    let (available, on) = (read(&dir.join("cgroup.controllers"))?, read(&file)?);
    // Only the real root has no type, and may hold processes.
    let busy = dir.join("cgroup.type").exists() && !read(&dir.join("cgroup.procs"))?.is_empty();
    let mut refused = Vec::new();
    for controller in V2_CONTROLLERS {
        if has(&available, controller) && !has(&on, controller) {
            if busy {
                let target = format!("\"+{controller}\" to {}", file.display());
                refused.push(SysError::new("write", target, Errno::EBUSY));
                continue;
            }
            refused.extend(write(&file, &format!("+{controller}")).err());
        }
    }
    Ok(refused)
}

fn has(controllers: &str, controller: &str) -> bool {
    controllers.split_whitespace().any(|c| c == controller)
}

/// Whether a new leaf has what it may get from above: every controller that podshim passes down, and its parent's processors and
/// memory nodes.
fn is_in_order(hierarchy: &Hierarchy, leaf: &Path) -> SysResult<bool> {
    match hierarchy.version {
        Version::V2 => {
            let (available, here) =
                (read(&hierarchy.mount.join("cgroup.controllers"))?, read(&leaf.join("cgroup.controllers"))?);
            await_files(leaf)?;
            Ok(V2_CONTROLLERS.iter().all(|controller| has(&here, controller) || !has(&available, controller)))
        }
        Version::V1 if hierarchy.has("cpuset") => {
            inherit_cpuset(leaf)?;
            Ok(!read(&leaf.join("cpuset.cpus"))?.trim().is_empty()
                && !read(&leaf.join("cpuset.mems"))?.trim().is_empty())
        }
        Version::V1 => Ok(true),
    }
}

/// A controller that another process switches on above is named in `cgroup.controllers` before its files are there. A write that
/// changes nothing waits for that: both hold the kernel's cgroup_mutex (cgroup_subtree_control_write in kernel/cgroup/cgroup.c).
fn await_files(dir: &Path) -> SysResult<()> {
    write(&dir.join("cgroup.subtree_control"), "\n")
}

/// A new v1 cpuset is empty, and no process can enter it; it gets its parent's.
fn inherit_cpuset(dir: &Path) -> SysResult<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = dir.join(file);
        if read(&own)?.trim().is_empty() {
            let above = dir.parent().unwrap_or(dir).join(file);
            write(&own, read(&above)?.trim())?;
        }
    }
    Ok(())
}

/// Why a file is not there: the cgroup was removed, the controller was not passed down, or this kernel does not have it.
fn missing(hierarchy: &Hierarchy, wanted: &FileWrite, dir: &Path, refused: &[SysError]) -> anyhow::Error {
    let FileWrite { controller, file, .. } = wanted;
    let hierarchy_text = describe(hierarchy);
    if !dir.exists() {
        return anyhow::anyhow!("{file}: its directory {} is gone: it was removed meanwhile", dir.display());
    }
    let here = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let passed = hierarchy.version == Version::V1 || here.split_whitespace().any(|c| c == controller);
    if passed || controller == "cgroup" {
        return anyhow::anyhow!(
            "{file}: the controller {controller} of {hierarchy_text} has no such file on this kernel"
        );
    }
    let why = refused.iter().find(|e| e.target.contains(&format!("+{controller}\"")));
    let busy = why.is_some_and(|e| e.errno() == Errno::EBUSY);
    let hint = if busy {
        "; a v2 cgroup which holds processes itself cannot pass controllers down: move them to a child of it, or give \
         another cgroup parent"
    } else {
        ""
    };
    let given_by = super::delegated::nearest(dir)
        .map(|unit| format!("; {} is delegated: Delegate= of systemd says what it has", unit.display()));
    let why = why.map_or_else(String::new, |e| format!(": {e}{hint}"));
    let given_by = given_by.unwrap_or_default();
    anyhow::anyhow!(
        "{file}: the controller {controller} of {hierarchy_text} is not on in {}{why}{given_by}",
        dir.display()
    )
}
