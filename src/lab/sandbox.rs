//! The walls around a script that `lab grade` runs: a root of its own, namespaces of its own, a cgroup with limits.
//!
//! The script is root in a user namespace whose ids are nobody's on the host ([`Walls::User`]), or the host's root
//! ([`Walls::Root`]). The root directory is a tmpfs with the host's programs read only; none of the host's other files is in
//! it. The walls are for the host; a script that fights the checker in its own sandbox is not kept from it.

use super::bash::{Outcome, library, run};
use super::lesson::Walls;
use crate::cgroups::Cgroup;
use crate::embedded::{self, compressed};
use crate::sys::Called;
use anyhow::{Context, Result, bail};
use oci_spec::runtime::LinuxResources;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The first of the ids that scripts have, above all that systemd, podshim and useradd(8) give away; 262144 follow.
const FIRST_ID: u32 = 0x8000_0000;
/// How long it may take until the walls stand, or are gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// One sandbox. Dropped, it and all its processes are gone.
#[derive(Debug)]
pub(super) struct Sandbox {
    /// Which walls it has.
    walls: Walls,
    /// With the limits.
    outer: Cgroup,
    /// The script's own: `$LAB_CPU` and so on.
    pub(super) cgroup: Cgroup,
    /// Where its processes begin.
    home: Cgroup,
    place: PathBuf,
    launcher: Child,
    /// Its process 1, as the host numbers it.
    init: u32,
}

/// What a sandbox is made of.
pub(super) struct Wanted<'a> {
    pub(super) walls: Walls,
    pub(super) outer: Cgroup,
    pub(super) cgroup: Cgroup,
    pub(super) home: Cgroup,
    /// A directory that is made, and removed in the end.
    pub(super) place: &'a Path,
}

/// 512 MiB, 512 processes, and the devices that everybody may have.
fn limits() -> Result<LinuxResources> {
    let allow = |kind: &str, numbers: [Option<u32>; 2], access: &str| serde_json::json!({ "allow": true, "type": kind, "major": numbers[0], "minor": numbers[1], "access": access });
    let mut devices = vec![serde_json::json!({ "allow": false, "access": "rwm" })];
    devices.push(allow("c", [None, None], "m"));
    devices.push(allow("b", [None, None], "m"));
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        devices.push(allow("c", [Some(major), Some(minor)], "rwm"));
    }
    devices.push(allow("c", [Some(136), None], "rwm"));
    let all = serde_json::json!({ "memory": { "limit": 512 << 20 }, "pids": { "limit": 512 }, "devices": devices });
    serde_json::from_value(all).context("limits of a sandbox")
}

impl Sandbox {
    /// Builds it.
    pub(super) fn new(wanted: Wanted<'_>) -> Result<Sandbox> {
        let Wanted { walls, outer, cgroup, home, place } = wanted;
        std::fs::create_dir(place).called("mkdir", place.display())?;
        let built = Sandbox::launch(walls, (&outer, &cgroup, &home), place);
        let launcher = match built {
            Ok(launcher) => launcher,
            Err(error) => {
                // The first error tells what is wrong.
                let _ = (outer.remove(PATIENCE), std::fs::remove_dir(place));
                return Err(error);
            }
        };
        // From here on dropping it takes all away.
        let mut sandbox = Sandbox { walls, outer, cgroup, home, place: place.to_owned(), launcher, init: 0 };
        sandbox.init = sandbox.wait_for_init()?;
        Ok(sandbox)
    }

    fn launch(walls: Walls, (outer, cgroup, home): (&Cgroup, &Cgroup, &Cgroup), place: &Path) -> Result<Child> {
        outer.create(&limits()?)?;
        home.create(&LinuxResources::default())?;
        let id = if walls == Walls::User { FIRST_ID.to_string() } else { String::new() };
        if walls == Walls::User {
            for dir in cgroup.dirs().iter().chain(&home.dirs()) {
                for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks"] {
                    let path = dir.join(file);
                    if path.exists() {
                        chown(&path, Some(FIRST_ID), Some(FIRST_ID)).called("chown", path.display())?;
                    }
                }
            }
        }
        let program = std::env::current_exe().context("find podshim's own program")?;
        let mut command = entering(home, &["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c"]);
        command.arg(embedded::text(compressed!("wall.sh"))).env("T", place).env("ID", id);
        command.env("BIN", program.parent().unwrap_or(Path::new("/usr/bin")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        crate::sys::process::in_new_session(&mut command);
        Ok(command.spawn().called("execve", "bash")?)
    }

    /// The process that is number 1 of the innermost PID namespace, once it is ready.
    fn wait_for_init(&mut self) -> Result<u32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for pid in self.home.pids()? {
                let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                let numbers = text.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
                let numbers: Vec<&str> = numbers.split_whitespace().collect();
                let own = numbers.iter().rev().take_while(|number| **number == "1").count();
                let is_init =
                    numbers.len() >= 3 && own == 1 && Path::new(&format!("/proc/{pid}/root/run/ready")).exists();
                if is_init {
                    return Ok(pid.as_raw().cast_unsigned());
                }
            }
            let ended = self.launcher.try_wait().called("wait4", self.launcher.id())?;
            if ended.is_some() || Instant::now() >= deadline {
                self.outer.kill(PATIENCE)?;
                let mut said = String::new();
                if let Some(pipe) = self.launcher.stderr.take() {
                    use std::io::Read;
                    // What is said is of the walls, not yet of a script.
                    pipe.take(4096).read_to_string(&mut said).called("read", "pipe")?;
                }
                bail!("the walls around a script do not stand: {}", said.trim());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs a script inside, with lib.sh before it.
    pub(super) fn script(&self, text: &str, env: &[(String, String)], patience: Duration) -> Result<Outcome> {
        self.execute(&["bash", "-c", &format!("{}\n{text}", library()), "lab"], env, patience)
    }

    /// Runs a program inside.
    pub(super) fn execute(&self, words: &[&str], env: &[(String, String)], patience: Duration) -> Result<Outcome> {
        let target = format!("--target={}", self.init);
        // setns(2) of the mount namespace makes its root the working directory. --wd would be looked up before, on the host.
        let mut enter = vec!["nsenter", &target, "--mount", "--pid", "--net", "--ipc", "--uts"];
        if self.walls == Walls::User {
            enter.extend(["--user", "--setuid=0", "--setgid=0"]);
        }
        enter.push("--");
        let mut command = entering(&self.home, &enter);
        // Nothing of the caller's variables is a student's business.
        command.args(words).env_clear().envs(env.iter().map(|(name, value)| (name, value)));
        command.env("LC_ALL", "C").env("HOME", "/root");
        run(command, patience)
    }

    /// Ends everything in it and takes it away.
    fn remove(&mut self) -> Result<()> {
        let left = self.outer.kill(PATIENCE)?;
        anyhow::ensure!(left.is_empty(), "processes of a script do not end: {left:?}");
        self.launcher.wait().called("wait4", self.launcher.id())?;
        self.outer.remove(PATIENCE)?;
        // Its mounts were in a mount namespace of its own.
        Ok(std::fs::remove_dir(&self.place).called("rmdir", self.place.display())?)
    }

    /// Takes it away, and tells what did not go.
    pub(super) fn end(mut self) -> Result<()> {
        self.remove()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if self.place.exists() {
            // On the way of an error that is told already.
            let _ = self.remove();
        }
    }
}

/// A command that begins in a cgroup.
fn entering(home: &Cgroup, words: &[&str]) -> Command {
    let mut command = Command::new("bash");
    let script =
        "for file; do [ \"$file\" != -- ] || break; shift; echo $$ >\"$file\" || exit 125; done; shift; exec \"$@\"";
    command
        .args(["-c", script, "lab"])
        .args(home.dirs().iter().map(|dir| dir.join("cgroup.procs")))
        .arg("--")
        .args(words);
    command
}
