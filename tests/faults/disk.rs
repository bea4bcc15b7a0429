//! Small disks in a mount namespace of the test's own, which podshim's commands are run in.

use crate::harness::{Host, Live, Output};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Counts in its log until it is told to end, with 3.
pub(crate) const COUNT: &str = "trap 'exit 3' TERM; n=0; while :; do echo $n; n=$((n+1)); sleep 0.02; done";

/// A mount namespace with tmpfs of limited size at some of a host's directories, there as long as this is.
pub(crate) struct Disks<'a> {
    host: &'a Host,
    /// Keeps the namespace.
    keeper: Live,
}

impl<'a> Disks<'a> {
    /// None yet.
    pub(crate) fn new(host: &'a Host) -> Disks<'a> {
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", "echo made; exec sleep 3600"]);
        let keeper = Live::start(command);
        keeper.until_has("made");
        Disks { host, keeper }
    }

    /// The words before a program that is to run in here.
    pub(crate) fn entry(&self) -> [String; 4] {
        ["nsenter", "-m", "-t", &self.keeper.pid().to_string()].map(str::to_owned)
    }

    /// Runs a program in here, which must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, words: &[&str]) {
        let entry = self.entry();
        let done = Command::new(&entry[0]).args(&entry[1..]).args(words).output().unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// A disk at one of the host's directories, with these options of tmpfs(5).
    pub(crate) fn mount(&self, directory: &str, options: &str) {
        self.ok(&["mount", "-t", "tmpfs", "-o", options, "disk", &self.host.folder(directory)]);
    }

    /// The same disk with other options.
    pub(crate) fn change(&self, directory: &str, options: &str) {
        let options = format!("remount,{options}");
        self.ok(&["mount", "-o", &options, self.host.path(directory).to_str().unwrap()]);
    }

    /// Makes a directory read-only under whoever uses it, or ends that.
    pub(crate) fn set_read_only(&self, directory: &str, read_only: bool) {
        let path = self.host.folder(directory);
        if read_only {
            self.ok(&["mount", "--rbind", &path, &path]);
            self.ok(&["mount", "-o", "remount,bind,ro", &path]);
        } else {
            self.ok(&["umount", "-l", &path]);
        }
    }

    /// Fills a disk up to its last page, until [`Disks::clear`].
    pub(crate) fn fill(&self, directory: &str) {
        let file = self.at(directory).join("filler");
        let script = format!(
            "dd if=/dev/zero of={0} bs=64k 2>/dev/null; dd if=/dev/zero of={0} bs=512 oflag=append conv=notrunc 2>/dev/null; true",
            file.display()
        );
        self.ok(&["sh", "-c", &script]);
    }

    /// There is room again.
    pub(crate) fn clear(&self, directory: &str) {
        std::fs::remove_file(self.path(directory).join("filler")).unwrap();
    }

    /// podshim in here.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let binary = crate::harness::binary();
        let before: Vec<_> = self.entry().into_iter().map(Into::into).chain([binary.into_os_string()]).collect();
        self.host.command_by(&before, args)
    }

    /// Runs podshim in here to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.host.finish(self.command(args))
    }

    /// A path of the host's as it is in here.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let path = self.host.path(name);
        Path::new("/proc").join(self.keeper.pid().to_string()).join("root").join(path.strip_prefix("/").unwrap())
    }

    /// A path of the host's as programs in here have it.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.host.path(name)
    }

    /// What is left of pods in here.
    pub(crate) fn left(&self) -> Vec<String> {
        let folders =
            ["state/pods", "state/names", "state/network/members", "state/network/cni", "root/pods", "root/tmp", "log"];
        let mut left: Vec<PathBuf> = Vec::new();
        folders.iter().for_each(|folder| walk(&self.path(folder), &mut left));
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.keeper.pid())).unwrap();
        let below = [self.host.path("state/pods"), self.host.path("root/pods/")];
        let is_left = |line: &&str| {
            let point = line.split(' ').nth(4).unwrap();
            below.iter().any(|dir| Path::new(point).starts_with(dir) && Path::new(point) != dir)
        };
        let mounts = mounts.lines().filter(is_left).map(str::to_owned);
        left.iter().map(|path| path.display().to_string()).chain(mounts).collect()
    }

    /// Fails if a file of the state is not whole.
    #[track_caller]
    pub(crate) fn assert_whole(&self, when: &str) {
        let mut files = Vec::new();
        walk(&self.path("state"), &mut files);
        let is_json = |file: &&PathBuf| file.extension().is_some_and(|extension| extension == "json");
        for file in files.iter().filter(is_json) {
            let Ok(text) = std::fs::read(file) else { continue };
            let parsed: Result<Value, _> = serde_json::from_slice(&text);
            assert!(parsed.is_ok(), "{when}: {} is torn: {parsed:?}", file.display());
        }
    }
}

impl Drop for Disks<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The host, which removes pods, does not see those in here.
            self.run(&["rm", "-f", "--all"]);
        }
    }
}

/// Everything below a directory.
fn walk(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), into);
        }
        into.push(entry.path());
    }
}
