//! One user's lab: begin a lesson, check it, take it away.

use super::bash::{HINT, Outcome, Script};
use super::lesson::{Cgroups, Check, Lesson, Lessons};
use super::progress::{Progress, Seen, now};
use super::sweep::{self, Marks};
use crate::cgroups::{self, Cgroup};
use crate::error::{Kind, failure};
use crate::host::cgroup::{self, CgroupSetup, Version};
use crate::paths::{Dirs, LabDirs};
use crate::store;
use crate::sys::Called;
use crate::sys::flock::Flock;
use anyhow::{Context, Result, bail};
use nix::mount::MsFlags;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a lesson's own scripts may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the workspace may hold.
const WORK_BYTES: &str = "mode=0755,size=256m";

/// The lab of one user.
#[derive(Debug)]
pub struct Lab {
    /// All lessons.
    pub lessons: Lessons,
    /// Where podshim keeps things.
    dirs: Dirs,
    /// Where this user's things are.
    own: LabDirs,
    token: String,
    setup: CgroupSetup,
    parent: String,
    /// As the caller gave it.
    wanted_parent: Option<String>,
}

/// Which lesson is begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The lesson's name.
    pub lesson: String,
    /// What `{{NAME}}` stands for.
    pub facts: BTreeMap<String, String>,
}

/// What a checker found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The checks that were made, each with what it printed; all but the last passed.
    pub made: Vec<(String, String)>,
    /// What to do about the last one; `None` if all passed.
    pub hint: Option<String>,
    /// Whether this is the first time that all passed.
    pub first: bool,
}

/// Who asks: the user behind sudo(8), else the user.
pub fn user() -> u32 {
    let behind = std::env::var("SUDO_UID").ok().and_then(|text| text.parse().ok());
    behind.unwrap_or_else(|| nix::unistd::getuid().as_raw())
}

/// What the lab of a user is known by. Not of the default directories, it has a part of its own, so that they may be side by side.
fn token(dirs: &Dirs, user: u32) -> String {
    if dirs.state == Dirs::default().state {
        return format!("lab{user}");
    }
    let bytes = dirs.state.as_os_str().as_encoded_bytes();
    // FNV-1a
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("lab{user}-{:06x}", hash & 0xff_ffff)
}

impl Lab {
    /// The lab of whoever asks.
    ///
    /// # Errors
    /// The cgroups of the host cannot be told, or the parent is no path.
    pub fn open(dirs: &Dirs, lessons: Lessons, cgroup_parent: Option<&str>) -> Result<Lab> {
        let setup = cgroup::detect()?;
        let parent = cgroups::parent(&setup, cgroup_parent)?;
        let user = user();
        Ok(Lab {
            lessons,
            own: dirs.lab(user),
            token: token(dirs, user),
            dirs: dirs.clone(),
            setup,
            parent,
            wanted_parent: cgroup_parent.map(str::to_owned),
        })
    }

    /// The lesson that is begun, and its facts.
    ///
    /// # Errors
    /// [`Kind::NotReady`] if none is.
    pub fn current(&self) -> Result<(&Lesson, Session)> {
        let none = || failure(Kind::NotReady, "no lesson is begun: `podshim lab start 1` begins the first one");
        let session = self.session()?.ok_or_else(none)?;
        Ok((self.lessons.find(&session.lesson)?, session))
    }

    fn session(&self) -> Result<Option<Session>> {
        store::read_json(&self.own.session())
    }

    /// What this user has begun and passed.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn progress(&self) -> Result<Progress> {
        Progress::read(&self.own)
    }

    /// Changes what is known of a lesson.
    ///
    /// # Errors
    /// It cannot be kept.
    pub fn note(&self, lesson: &str, change: impl FnOnce(&mut Seen)) -> Result<Seen> {
        let _lock = self.lock()?;
        Progress::note(&self.own, lesson, change)
    }

    fn lock(&self) -> Result<Flock> {
        make_dir(&self.own.data)?;
        sweep::lock(&self.own.lock())
    }

    /// Begins a lesson. One that was begun before is taken away first.
    ///
    /// # Errors
    /// A program that it takes is missing, or its setup fails, which is undone then.
    pub fn start(&self, lesson: &Lesson) -> Result<Session> {
        let missing = lesson.missing();
        if !missing.is_empty() {
            let list: Vec<String> =
                missing.iter().map(|(program, package)| format!("{program} (apt-get install {package})")).collect();
            bail!(failure(Kind::NotReady, format!("{} takes {}", lesson.label(), list.join(", "))));
        }
        let _lock = self.lock()?;
        self.take_away()?;
        let begun = self.begin(lesson);
        if begun.is_err() {
            // The first error tells what is wrong.
            let _ = self.take_away();
        }
        let session = begun.with_context(|| format!("begin {}", lesson.label()))?;
        Progress::note(&self.own, &lesson.name, |seen| {
            if seen.started.is_empty() {
                seen.started = now();
            }
        })?;
        Ok(session)
    }

    fn begin(&self, lesson: &Lesson) -> Result<Session> {
        make_dir(&self.own.state)?;
        // First of all: whoever takes the lesson away reads here what there is to take away.
        let mut session = Session { lesson: lesson.name.clone(), facts: BTreeMap::new() };
        store::write_json(&self.own.session(), &session)?;
        cgroups::make_room(&self.setup, &self.parent)?;
        // A cgroup within, for the lesson's own processes: with it the lesson's cgroup passes all controllers on.
        self.cgroup("/setup")?.create(&LinuxResources::default())?;
        let work = self.own.work();
        make_dir(&work)?;
        let flags = MsFlags::MS_NOSUID;
        nix::mount::mount(Some("podshim-lab"), &work, Some("tmpfs"), flags, Some(WORK_BYTES))
            .called("mount", work.display())?;
        nix::mount::mount(None::<&str>, &work, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)
            .called("mount MS_PRIVATE", work.display())?;
        let join: String = self
            .cgroup("/setup")?
            .dirs()
            .iter()
            .map(|dir| format!("echo $$ >'{}/cgroup.procs' || exit\n", dir.display()))
            .collect();
        let setup = format!("{join}{}", lesson.body.setup);
        self.perform("setup", &setup)?;
        session.facts = facts(&self.perform("facts", &lesson.body.facts)?);
        store::write_json(&self.own.session(), &session)?;
        Ok(session)
    }

    /// A script of the lesson, which must succeed: what it said.
    fn perform(&self, what: &str, text: &str) -> Result<String> {
        if text.trim().is_empty() {
            return Ok(String::new());
        }
        let outcome = self.script(text)?;
        match outcome.code {
            Some(0) => Ok(outcome.said),
            Some(HINT) => bail!(failure(Kind::NotReady, outcome.said.trim().to_owned())),
            Some(code) => bail!("{what} of the lesson ended with {code}: {}", outcome.said.trim()),
            None => bail!("{what} of the lesson took more than {PATIENCE:?}: {}", outcome.said.trim()),
        }
    }

    fn script(&self, text: &str) -> Result<Outcome> {
        Script { text, env: &self.env()?, patience: PATIENCE }.run()
    }

    /// The lesson's cgroup (`""`), or one within or beside it.
    fn cgroup(&self, rest: &str) -> Result<Cgroup> {
        Cgroup::at(&self.setup, &self.parent, &format!("{}{rest}", self.token))
    }

    /// The version of cgroups in which memory and CPU time are limited here.
    pub fn cgroups(&self) -> Cgroups {
        cgroups_version(&self.setup)
    }

    /// The variables of the lab.
    ///
    /// # Errors
    /// The program's own path cannot be read.
    pub fn env(&self) -> Result<Vec<(String, String)>> {
        let work = self.own.work();
        variables(&Place {
            dirs: &self.dirs,
            setup: &self.setup,
            token: &self.token,
            work: &work,
            cgroup: &self.cgroup("")?,
            parent: self.wanted_parent.as_deref(),
        })
    }

    /// Looks at the kernel.
    ///
    /// # Errors
    /// A check could not be made at all.
    pub fn check(&self, lesson: &Lesson) -> Result<Checked> {
        let (current, _) = self.current()?;
        if current.name != lesson.name {
            let message = format!("{} is not begun, but {}", lesson.label(), current.label());
            return Err(failure(Kind::NotReady, message));
        }
        let env = self.env()?;
        let (made, hint) =
            run_checks(&lesson.body.checks, |text| Script { text, env: &env, patience: PATIENCE }.run())?;
        let mut first = false;
        self.note(&lesson.name, |seen| {
            seen.checks += 1;
            if hint.is_none() && seen.passed.is_none() {
                seen.passed = Some(now());
                first = true;
            }
        })?;
        Ok(Checked { made, hint, first })
    }

    /// Takes everything of the lesson that is begun away: its name, if one was.
    ///
    /// # Errors
    /// Something stays. The other things are taken away all the same.
    pub fn reset(&self) -> Result<Option<String>> {
        let _lock = self.lock()?;
        let session = self.session()?;
        self.take_away()?;
        Ok(session.map(|session| session.lesson))
    }

    fn take_away(&self) -> Result<()> {
        let cgroups = [self.cgroup("")?, self.cgroup("-shell")?];
        let (work, shells) = (self.own.work(), self.own.shells());
        let marks = Marks { token: &self.token, cgroups: &cgroups, work: &work, shells: &shells };
        let cleanup = match self.session()?.map(|session| session.lesson) {
            // A lesson of an instructor may be gone; what the lab finds by itself is found all the same.
            Some(name) => self.lessons.find(&name).map(|lesson| lesson.body.cleanup.clone()).unwrap_or_default(),
            None => String::new(),
        };
        let mut errors = Vec::new();
        let mut tried = |result: Result<()>| errors.extend(result.err());
        // Pods first: their supervisors would be killed with the rest, and take nothing away then.
        tried(marks.remove_pods(&self.dirs));
        tried(self.perform("cleanup", &cleanup).map(drop));
        tried(marks.end_processes());
        tried(marks.remove_networks());
        tried(marks.unmount());
        tried(marks.remove_cgroups());
        if sweep::is_mount(&work) {
            tried(Err(anyhow::anyhow!("{} is still mounted", work.display())));
        } else {
            tried(remove_dir(&work));
            tried(remove_file(&self.own.session()));
        }
        if marks.open_shells().is_empty() {
            for dir in [&shells, &self.own.state] {
                tried(remove_dir(dir));
            }
            // Others' labs may be in it.
            let _ = self.own.state.parent().map(std::fs::remove_dir);
        }
        let first = if errors.is_empty() { None } else { Some(errors.remove(0)) };
        match first {
            None => Ok(()),
            Some(first) => Err(errors.iter().fold(first, |all, next| anyhow::anyhow!("{all:#}; {next:#}"))),
        }
    }

    /// Runs a command, by default a shell, with the lab's variables, in a cgroup of the lab's shells: its exit code.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn shell(&self, words: &[String]) -> Result<u8> {
        self.current()?;
        let cgroup = self.cgroup("-shell")?;
        {
            let _lock = self.lock()?;
            if cgroup.is_empty()? {
                cgroup.create(&LinuxResources::default())?;
            }
            make_dir(&self.own.shells())?;
        }
        let files: Vec<PathBuf> = cgroup.dirs().iter().map(|dir| dir.join("cgroup.procs")).collect();
        let mut command = std::process::Command::new("bash");
        // It goes into the cgroup itself, notes itself as a shell of the lab, and becomes the command.
        let script = "for file; do [ \"$file\" != -- ] || break; shift; echo $$ >\"$file\" || exit 125; done; shift
            stat=$(</proc/$$/stat); set -- \"${stat##*) }\" \"$@\"; fields=($1); shift
            echo \"${fields[19]}\" >\"$LAB_SHELLS/$$\" || exit 125; unset LAB_SHELLS; exec \"$@\"";
        command.args(["-c", script, "lab"]).args(&files).arg("--");
        if words.is_empty() {
            command.args(["bash", "--norc", "-i"]).env("PS1", "(lab) \\w\\$ ");
        } else {
            command.args(words);
        }
        command.envs(self.env()?).env("LAB_SHELLS", self.own.shells());
        let mut child = command.spawn().called("execve", "bash").context("begin a shell of the lab")?;
        let status = child.wait().called("wait4", child.id())?;
        self.after_shell(child.id(), &cgroup)?;
        use std::os::unix::process::ExitStatusExt;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Ok(u8::try_from(code).unwrap_or(u8::MAX))
    }

    /// Background processes of a shell go on, and are found in its cgroup.
    fn after_shell(&self, pid: u32, cgroup: &Cgroup) -> Result<()> {
        let _lock = self.lock()?;
        remove_file(&self.own.shells().join(pid.to_string()))?;
        if cgroup.is_empty()? {
            cgroup.remove(Duration::from_secs(2))?;
        }
        if self.session()?.is_none() {
            self.take_away()?;
        }
        Ok(())
    }
}

/// What the variables are made of.
pub(super) struct Place<'a> {
    pub(super) dirs: &'a Dirs,
    pub(super) setup: &'a CgroupSetup,
    pub(super) token: &'a str,
    pub(super) work: &'a Path,
    pub(super) cgroup: &'a Cgroup,
    pub(super) parent: Option<&'a str>,
}

/// The version in which memory is limited.
pub(super) fn cgroups_version(setup: &CgroupSetup) -> Cgroups {
    match setup.with_controller("memory").map(|hierarchy| hierarchy.version) {
        Some(Version::V1) => Cgroups::V1,
        _ => Cgroups::V2,
    }
}

/// The variables that scripts and shells of the lab have.
pub(super) fn variables(place: &Place<'_>) -> Result<Vec<(String, String)>> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let below = |controller: &str| {
        let mount = place.setup.with_controller(controller).map(|hierarchy| hierarchy.mount.clone());
        mount.map(|mount| text(&mount.join(place.cgroup.path().trim_start_matches('/')))).unwrap_or_default()
    };
    let version = if cgroups_version(place.setup) == Cgroups::V1 { "1" } else { "2" };
    let mut all: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: String| all.push((name.to_owned(), value));
    set("LAB", text(place.work));
    set("LAB_NAME", place.token.to_owned());
    set("LAB_CPU", below("cpu"));
    set("LAB_MEMORY", below("memory"));
    set("LAB_PIDS", below("pids"));
    set("LAB_CGROUP_VERSION", version.to_owned());
    set("PODSHIM_LAB", place.token.to_owned());
    set("PODSHIM_ROOT", text(&place.dirs.root));
    set("PODSHIM_STATE", text(&place.dirs.state));
    set("PODSHIM_LOG_DIR", text(&place.dirs.log_dir));
    if let Some(parent) = place.parent {
        set("PODSHIM_CGROUP_PARENT", parent.to_owned());
    }
    // `podshim` in a script is this very one.
    let program = std::env::current_exe().context("find podshim's own program")?;
    if let Some(directory) = program.parent() {
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        let directory = text(directory);
        let path = if path.split(':').next() == Some(&directory) { path } else { format!("{directory}:{path}") };
        set("PATH", path);
    }
    Ok(all)
}

/// The checks that were made, each with what it printed; and the hint of the last one, if that failed.
pub(super) type Made = (Vec<(String, String)>, Option<String>);

/// Makes the checks one after the other, up to the first that fails. `perform` runs a script.
pub(super) fn run_checks(checks: &[Check], perform: impl Fn(&str) -> Result<Outcome>) -> Result<Made> {
    let mut made = Vec::new();
    for check in checks {
        let outcome = perform(&format!("set -u\n{}", check.run))?;
        let said = outcome.said.trim().to_owned();
        if outcome.code == Some(0) {
            made.push((check.name.clone(), said));
            continue;
        }
        let (before, hint) = match outcome.code {
            // `hint`: its last line.
            Some(HINT) => said.rsplit_once('\n').unwrap_or(("", &said)),
            _ => (said.as_str(), check.hint.trim()),
        };
        made.push((check.name.clone(), before.to_owned()));
        return Ok((made, Some(hint.to_owned())));
    }
    Ok((made, None))
}

/// Lines `NAME=value`.
fn facts(said: &str) -> BTreeMap<String, String> {
    let pairs = said.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A directory with those above it, for root alone.
fn make_dir(path: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    Ok(made.called("mkdir", path.display())?)
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => Ok(other.called("unlink", path.display())?),
    }
}

/// An empty directory, gone already counting as done.
fn remove_dir(path: &Path) -> Result<()> {
    match std::fs::remove_dir(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => Ok(other.called("rmdir", path.display())?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labs_of_other_directories_have_other_names() {
        let dirs = |state: &str| Dirs { state: state.into(), ..Dirs::default() };
        assert_eq!(token(&dirs("/run/podshim"), 1000), "lab1000");
        let (a, b) = (token(&dirs("/tmp/a"), 0), token(&dirs("/tmp/b"), 0));
        assert!(a != b && a.starts_with("lab0-") && a.len() == 11, "{a} {b}");
    }

    #[test]
    fn the_last_line_of_a_check_that_says_so_is_the_hint() {
        let check = |run: &str| Check { name: "n".into(), run: run.into(), hint: "of the file".into() };
        let perform = |text: &str| Script { text, env: &[], patience: PATIENCE }.run();
        let made = |run: &str| run_checks(&[check(run)], perform).unwrap();
        assert_eq!(made("echo seen"), (vec![("n".into(), "seen".into())], None));
        assert_eq!(
            made("echo seen; hint it is wrong"),
            (vec![("n".into(), "seen".into())], Some("it is wrong".into()))
        );
        assert_eq!(made("echo seen; false"), (vec![("n".into(), "seen".into())], Some("of the file".into())));
        assert_eq!(made("echo $UNSET_ANYWHERE").1, Some("of the file".into()));
        let (all, hint) = run_checks(&[check("true"), check("false"), check("true")], perform).unwrap();
        assert_eq!((all.len(), hint.is_some()), (2, true), "those after the first that fails are not made");
    }
}
