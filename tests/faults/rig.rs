//! How much is tried, and what is compared.

use sha2::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether everything is to be tried that there is, however long it takes (`PODSHIM_FAULTS=all`), or what fits into a minute or two.
pub(crate) fn is_long() -> bool {
    std::env::var_os("PODSHIM_FAULTS").is_some_and(|asked| asked == "all")
}

/// A call of the kernel that fails.
pub(crate) struct Case {
    pub(crate) call: &'static str,
    /// Or a signal.
    pub(crate) error: &'static str,
    /// Which of each process's calls of the kind.
    pub(crate) nth: u32,
}

impl Case {
    /// Options of strace(1), by which it comes to pass. Its trace begins with an execve(2), if it starts the program.
    pub(crate) fn options(&self) -> Vec<String> {
        let Case { call, error, nth } = self;
        let kind = if error.starts_with("SIG") { "signal" } else { "error" };
        vec![
            "-e".to_owned(),
            format!("trace=execve,{call}"),
            "-e".to_owned(),
            format!("inject={call}:{kind}={error}:when={nth}"),
        ]
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.call, self.error, self.nth)
    }
}

/// The process and the call of a line of strace's, if it begins one.
pub(crate) fn called(line: &str) -> Option<(&str, &str)> {
    let (process, call) = line.split_once(' ')?;
    let (call, _) = call.trim_start().split_once('(')?;
    call.starts_with(|first: char| first.is_ascii_lowercase()).then_some((process, call))
}

/// The calls that a trace tells of, each with which of its process's calls of the kind it is.
pub(crate) fn calls(trace: &str) -> Vec<(String, u32)> {
    let mut made: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    let mut all = BTreeSet::new();
    for (process, call) in trace.lines().filter_map(called) {
        let nth = made.entry((process, call)).or_default();
        *nth += 1;
        all.insert((call.to_owned(), *nth));
    }
    all.into_iter().collect()
}

/// Calls, and what each may plausibly fail with.
pub(crate) type Calls = [(&'static str, &'static [&'static str])];

/// All of them, or one error for each call and turn.
pub(crate) fn cases(calls: &Calls, turns: &[u32]) -> Vec<Case> {
    let mut all = Vec::new();
    for (call, errors) in calls {
        for (index, nth) in turns.iter().enumerate() {
            let errors = if is_long() { errors } else { &errors[index % errors.len()..][..1] };
            all.extend(errors.iter().map(|error| Case { call, error, nth: *nth }));
        }
    }
    all
}

/// The files of images below a root, by their digests and sizes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Content(BTreeMap<String, (u64, String)>);

impl Content {
    pub(crate) fn below(root: &Path) -> Content {
        let (mut found, mut read) = (BTreeMap::new(), BTreeMap::new());
        let mut todo = vec![root.join("images"), root.join("layers"), root.join("tmp")];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let (path, what) = (entry.path(), entry.metadata().unwrap());
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                if what.is_dir() {
                    todo.push(path);
                } else if what.is_file() && !name.ends_with("lock") {
                    // Hundreds of busybox's names are one file.
                    let digest = read.entry(what.ino()).or_insert_with(|| {
                        let bytes = std::fs::read(&path).unwrap();
                        sha2::Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect::<String>()
                    });
                    found.insert(name, (what.len(), digest.clone()));
                }
            }
        }
        Content(found)
    }

    pub(crate) fn files(&self) -> usize {
        self.0.len()
    }

    /// Whether all that the other has is here, as it is there.
    pub(crate) fn has_all_of(&self, other: &Content) -> bool {
        other.0.iter().all(|(name, what)| self.0.get(name) == Some(what))
    }
}
