//! A whole class: one folder per student, one script per lesson, each run in a sandbox of its own and then checked.

use super::bash::HINT;
use super::lesson::{Lesson, Lessons, Walls};
use super::sandbox::{Sandbox, Wanted};
use super::session::{Place, run_checks, variables};
use crate::cgroups::{self, Cgroup};
use crate::error::{Kind, failure};
use crate::host::cgroup::{self, CgroupSetup};
use crate::paths::Dirs;
use crate::sys::{Called, fs, process};
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{OFlag, ResolveFlag, open};
use nix::sys::stat::Mode;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A script is at most so long: it is handed over as one argument, of which the kernel takes 128 KiB.
const MAX_BYTES: u64 = 64 << 10;
/// How long setup and each check may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// `$LAB` in a sandbox.
const WORK: &str = "/lab";

/// What is to be graded.
#[derive(Debug, Clone)]
pub struct Request {
    /// One folder per student in it.
    pub directory: PathBuf,
    /// Numbers of lessons; all if there are none.
    pub only: Vec<u32>,
    /// What a script may take.
    pub seconds: u64,
    /// Whether lessons with [`Walls::Root`] are run.
    pub as_root: bool,
    /// As of [`super::Lab::open`].
    pub cgroup_parent: Option<String>,
}

/// What became of a student's script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Graded {
    /// All checks pass.
    Passed,
    /// One fails.
    Failed {
        /// What the student is told.
        hint: String,
    },
    /// There is no script.
    NoScript,
    /// The script did not end in time.
    TimedOut,
    /// It is not run without `--as-root`.
    NotRun,
}

impl Graded {
    /// In a word or two.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Graded::Passed => "passed",
            Graded::Failed { .. } => "failed",
            Graded::NoScript => "no script",
            Graded::TimedOut => "timed out",
            Graded::NotRun => "not run",
        }
    }

    /// Why it failed; empty if it did not.
    #[must_use]
    pub fn hint(&self) -> &str {
        match self {
            Graded::Failed { hint } => hint,
            Graded::NotRun => "its scripts run as the host's root: --as-root",
            _ => "",
        }
    }
}

/// One student's one lesson.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The folder's name.
    pub student: String,
    /// The lesson's number.
    pub lesson: u32,
    /// The lesson's name.
    pub name: String,
    /// What became of the script.
    #[serde(flatten)]
    pub result: Graded,
}

impl Row {
    /// `2 uts`
    #[must_use]
    pub fn label(&self) -> String {
        format!("{} {}", self.lesson, self.name)
    }
}

/// All students and lessons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// By student, then by lesson.
    pub rows: Vec<Row>,
}

impl Class {
    /// Whether somebody has not passed something; what is not run is not counted.
    #[must_use]
    pub fn any_failed(&self) -> bool {
        self.rows.iter().any(|row| !matches!(row.result, Graded::Passed | Graded::NotRun))
    }

    /// As comma-separated values (RFC 4180), with a head.
    #[must_use]
    pub fn csv(&self) -> String {
        let quoted = |text: &str| {
            // A spreadsheet would take these for the beginning of a formula.
            let text = if text.starts_with(['=', '+', '-', '@', '\t']) { format!("'{text}") } else { text.to_owned() };
            format!("\"{}\"", text.replace('"', "\"\"").replace(['\n', '\r'], " "))
        };
        let lines = self.rows.iter().map(|row| {
            let cells = [&row.student, &row.lesson.to_string(), &row.name, row.result.word(), row.result.hint()];
            cells.map(quoted).join(",")
        });
        let head = "student,lesson,name,result,hint".to_owned();
        [head].into_iter().chain(lines).map(|line| line + "\n").collect()
    }
}

/// Grades.
///
/// # Errors
/// The directory cannot be read or has no student in it, or a sandbox cannot be made.
pub fn class(request: &Request, lessons: &Lessons, dirs: &Dirs) -> Result<Class> {
    // Whatever descriptors the caller has open are no student's business.
    process::close_on_exec_from(3)?;
    let students = students(&request.directory)?;
    let is_wanted = |lesson: &&Lesson| request.only.is_empty() || request.only.contains(&lesson.number);
    let lessons: Vec<&Lesson> = lessons.list.iter().filter(is_wanted).collect();
    let setup = cgroup::detect()?;
    let parent = cgroups::parent(&setup, request.cgroup_parent.as_deref())?;
    cgroups::make_room(&setup, &parent)?;
    let grader = Grader { request, setup, parent, dirs };
    let mut rows = Vec::new();
    for student in students {
        let scripts = scripts(&request.directory.join(&student))?;
        for lesson in &lessons {
            let result = match scripts.get(&lesson.number) {
                None => Graded::NoScript,
                Some(_) if lesson.body.grade == Walls::Root && !request.as_root => Graded::NotRun,
                Some(Err(fault)) => Graded::Failed { hint: fault.clone() },
                Some(Ok(text)) => {
                    let what = || format!("grade {} of {student}", lesson.label());
                    grader.grade(lesson, text, rows.len()).with_context(what)?
                }
            };
            rows.push(Row { student: student.clone(), lesson: lesson.number, name: lesson.name.clone(), result });
        }
    }
    Ok(Class { rows })
}

/// The names of the folders, sorted. What is no folder is not a student.
fn students(directory: &Path) -> Result<Vec<String>> {
    let mut students = Vec::new();
    for entry in std::fs::read_dir(directory).called("opendir", directory.display())? {
        let entry = entry.called("readdir", directory.display())?;
        let is_folder = entry.file_type().called("lstat", entry.path().display())?.is_dir();
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if is_folder && !name.starts_with('.') {
            students.push(name);
        }
    }
    students.sort();
    if students.is_empty() {
        let message = format!("{} has no folder in it: one per student is wanted", directory.display());
        return Err(failure(Kind::Invalid, message));
    }
    Ok(students)
}

/// Scripts by their lessons' numbers: their texts, or what is wrong with them. What a folder holds is a student's: links are
/// not followed, and nothing but regular files is opened.
fn scripts(folder: &Path) -> Result<BTreeMap<u32, Result<String, String>>> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = open(folder, flags, Mode::empty()).called("open", folder.display())?;
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).called("opendir", folder.display())? {
        let name = entry.called("readdir", folder.display())?.file_name();
        let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".sh")) else { continue };
        let digits = stem.split('-').next().unwrap_or_default();
        let Some(number) = digits.parse::<u32>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit())) else {
            continue;
        };
        let read = || -> Result<String> {
            let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH;
            let file = fs::open_regular(dir.as_fd(), Path::new(&name), resolve)?;
            let mut bytes = Vec::new();
            let Some(file) = file else { bail!("the script is no plain file") };
            file.take(MAX_BYTES + 1).read_to_end(&mut bytes).called("read", name.display())?;
            ensure!(bytes.len() as u64 <= MAX_BYTES, "the script has more than {MAX_BYTES} bytes");
            let text = String::from_utf8(bytes).context("the script is no UTF-8 text")?;
            ensure!(!text.contains('\0'), "the script holds a NUL character");
            Ok(text)
        };
        let script = read().map_err(|error| format!("{error:#}"));
        let script = if found.contains_key(&number) {
            Err(format!("there are several scripts of lesson {number}"))
        } else {
            script
        };
        found.insert(number, script);
    }
    Ok(found)
}

struct Grader<'a> {
    request: &'a Request,
    setup: CgroupSetup,
    parent: String,
    dirs: &'a Dirs,
}

impl Grader<'_> {
    /// Runs one script in a new sandbox, and the lesson's checks after it.
    fn grade(&self, lesson: &Lesson, script: &str, number: usize) -> Result<Graded> {
        let lab = self.dirs.state.join("lab");
        std::fs::create_dir_all(&lab).called("mkdir", lab.display())?;
        let name = format!("labgrade-{}-{number}", std::process::id());
        let at = |rest: &str| Cgroup::at(&self.setup, &self.parent, &format!("{name}{rest}"));
        let place = lab.join(&name);
        let sandbox = Sandbox::new(Wanted {
            walls: lesson.body.grade,
            outer: at("")?,
            cgroup: at("/in")?,
            home: at("/in/self")?,
            place: &place,
        })?;
        let graded = self.grade_in(&sandbox, lesson, script);
        let ended = sandbox.end();
        // Others' labs may be in it.
        let _ = std::fs::remove_dir(&lab);
        let graded = graded?;
        ended.context("take a sandbox away")?;
        Ok(graded)
    }

    fn grade_in(&self, sandbox: &Sandbox, lesson: &Lesson, script: &str) -> Result<Graded> {
        let env = self.env(sandbox)?;
        let setup = sandbox.script(&lesson.body.setup, &env, PATIENCE)?;
        match setup.code {
            Some(0) => {}
            Some(HINT) => bail!(failure(Kind::NotReady, setup.said.trim().to_owned())),
            code => bail!("setup of the lesson ended with {code:?}: {}", setup.said.trim()),
        }
        // What the script itself says of its success is not asked for: the checks look at what it left.
        let limit = Duration::from_secs(self.request.seconds);
        // Nobody reads what it prints; what it leaves in the background would meet a closed pipe.
        let silently = "exec bash -c \"$1\" script >/dev/null 2>&1";
        let ran = sandbox.execute(&["bash", "-c", silently, "lab", script], &env, limit)?;
        if ran.code.is_none() {
            return Ok(Graded::TimedOut);
        }
        let (_, hint) = run_checks(&lesson.body.checks, |text| sandbox.script(text, &env, PATIENCE))?;
        Ok(hint.map_or(Graded::Passed, |hint| Graded::Failed { hint }))
    }

    fn env(&self, sandbox: &Sandbox) -> Result<Vec<(String, String)>> {
        let parent = sandbox.cgroup.path();
        let place = Place {
            dirs: &Dirs::default(),
            setup: &self.setup,
            token: "lab",
            work: Path::new(WORK),
            cgroup: &sandbox.cgroup,
            parent: Some(&parent),
        };
        let mut env = variables(&place)?;
        env.push(("PODSHIM_NETWORK".to_owned(), "none".to_owned()));
        Ok(env)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_found_by_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        write("02.sh", b"two");
        write("3-mount.sh", b"three");
        write("notes.txt", b"");
        write("x-1.sh", b"");
        write("5-a.sh", b"");
        write("05-b.sh", b"");
        write("06.sh", b"\0");
        write("07.sh", &vec![b'x'; MAX_BYTES as usize + 1]);
        write("08.sh", b"\xff");
        std::os::unix::fs::symlink("/etc/shadow", dir.path().join("04.sh")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("09.sh"), Mode::S_IRWXU).unwrap();
        let found = scripts(dir.path()).unwrap();
        assert_eq!(found.keys().copied().collect::<Vec<u32>>(), [2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!((found[&2].as_deref(), found[&3].as_deref()), (Ok("two"), Ok("three")));
        for (number, words) in [
            (4, "symbolic links"),
            (5, "several scripts"),
            (6, "NUL"),
            (7, "more than"),
            (8, "UTF-8"),
            (9, "no plain file"),
        ] {
            let fault = found[&number].as_ref().unwrap_err();
            assert!(fault.contains(words), "{number}: {fault}");
        }
    }

    #[test]
    fn a_table_for_spreadsheets() {
        let row =
            |student: &str, result: Graded| Row { student: student.into(), lesson: 2, name: "uts".into(), result };
        let hint = "say \"hostname\",\nplease".to_owned();
        let class = Class { rows: vec![row("ann", Graded::Passed), row("=cmd()", Graded::Failed { hint })] };
        let expected = "student,lesson,name,result,hint\n\"ann\",\"2\",\"uts\",\"passed\",\"\"\n\
            \"'=cmd()\",\"2\",\"uts\",\"failed\",\"say \"\"hostname\"\", please\"\n";
        assert_eq!(class.csv(), expected);
        assert!(class.any_failed() && !Class { rows: vec![row("a", Graded::NotRun)] }.any_failed());
        let json = serde_json::to_value(&class.rows[1]).unwrap();
        assert_eq!((&json["result"], &json["student"]), (&"failed".into(), &"=cmd()".into()));
    }
}
