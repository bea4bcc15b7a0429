//! What a server or a process notes for a test to read, and what a test tells a server to answer.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{print, sys};

/// Lines of JSON with the time, on stdout and in a file that several processes may write to.
#[derive(Debug)]
pub(super) struct Journal {
    file: Option<File>,
    who: Option<String>,
}

impl Journal {
    pub(super) fn open(path: Option<&str>, who: Option<&str>) -> Result<Self> {
        let open = |path: &str| {
            let file = OpenOptions::new().append(true).create(true).open(path);
            file.with_context(|| format!("opening {path}"))
        };
        Ok(Self { file: path.map(open).transpose()?, who: who.map(str::to_owned) })
    }

    /// Adds one object. One write(2) with O_APPEND: lines of several writers do not mix.
    pub(super) fn write(&self, mut entry: Value) -> Result<()> {
        entry["uptime"] = sys::uptime().context("clock_gettime")?.into();
        if let Some(who) = &self.who {
            entry["who"] = who.as_str().into();
        }
        let line = format!("{entry}\n");
        if let Some(mut file) = self.file.as_ref() {
            file.write_all(line.as_bytes()).context("writing the journal")?;
        }
        print(&line)
    }
}

/// What a server shall answer, which a test may change by a file while the server runs.
#[derive(Debug)]
pub(super) struct Answers {
    path: Option<String>,
    refused_at_first: u64,
    count: AtomicU64,
}

impl Answers {
    pub(super) fn new(path: Option<&str>, refused_at_first: u64) -> Self {
        Self { path: path.map(str::to_owned), refused_at_first, count: AtomicU64::new(0) }
    }

    /// The words of the file, `refused` for the first requests, nothing if there is no file.
    pub(super) fn next(&self, refused: &str) -> String {
        if self.count.fetch_add(1, Ordering::Relaxed) < self.refused_at_first {
            return refused.to_owned();
        }
        let text = self.path.as_ref().and_then(|path| fs::read_to_string(path).ok());
        text.map(|text| text.trim().to_owned()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_requests_are_refused_and_then_the_file_decides() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answer");
        let answers = Answers::new(path.to_str(), 2);
        assert_eq!([answers.next("503"), answers.next("503"), answers.next("503")], ["503", "503", ""]);
        fs::write(&path, "302 /x\n").unwrap();
        assert_eq!(answers.next("503"), "302 /x");
    }

    #[test]
    fn entries_have_the_time_and_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let journal = Journal::open(path.to_str(), Some("me")).unwrap();
        journal.write(serde_json::json!({ "what": "one" })).unwrap();
        journal.write(serde_json::json!({ "what": "two" })).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let entries: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            (&entries[0]["what"], &entries[0]["who"], &entries[1]["what"]),
            (&"one".into(), &"me".into(), &"two".into())
        );
        assert!(
            entries[0]["uptime"].as_f64() > Some(0.0) && entries[0]["uptime"].as_f64() <= entries[1]["uptime"].as_f64()
        );
    }
}
