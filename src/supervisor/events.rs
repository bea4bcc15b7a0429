//! The pod's events: one JSON object a line, in the pod's state directory, bounded in size.
//!
//! The supervisor only appends, a line per occurrence, and remembers nothing. What repeats is counted by whoever reads
//! ([`merge`]), as kubectl shows it (`x5 over 2m`), and by the supervisor when the file has grown too large: then it is replaced
//! by one with a line per different event, which has its `count`.

use crate::lifecycle::status::Time;
use crate::lifecycle::{EventType, PodEvent};
use crate::paths::PodDirs;
use crate::sys::{Called, SysResult};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// One event, or several that are the same but for their time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Line")]
pub struct Entry {
    /// When it happened last.
    pub time: Time,
    /// `Normal` or `Warning`.
    #[serde(rename = "type")]
    pub type_: EventType,
    /// The kubelet's reason.
    pub reason: String,
    /// What it is about: `pod/<name>` or `container/<name>`.
    pub object: String,
    /// What happened.
    pub message: String,
    /// How often.
    pub count: u64,
    /// When it happened first.
    pub first: Time,
}

/// An [`Entry`] as it is in the file: an occurrence has neither count nor first time.
#[derive(Serialize, Deserialize)]
struct Line {
    time: Time,
    #[serde(rename = "type")]
    type_: EventType,
    reason: String,
    object: String,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<Time>,
}

impl From<Line> for Entry {
    fn from(line: Line) -> Entry {
        let Line { time, type_, reason, object, message, count, first } = line;
        Entry { time, type_, reason, object, message, count: count.unwrap_or(1), first: first.unwrap_or(time) }
    }
}

/// When the file is larger, it is compacted to at most half of that.
const MAX_BYTES: usize = 256 << 10;

/// The longest message that is kept, in bytes: a container's output can be part of it.
const MAX_MESSAGE: usize = 4096;

/// Adds an occurrence of an event.
pub(super) fn append(pod: &PodDirs, event: PodEvent, object: String, time: Time) -> SysResult<()> {
    let mut message = event.message;
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        message.push('…');
    }
    let line = Line { time, type_: event.type_, reason: event.reason, object, message, count: None, first: None };
    let path = pod.events();
    let mut file =
        std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path).called("open", path.display())?;
    let before = file.metadata().called("fstat", path.display())?.len();
    if let Err(error) = file.write_all(&text_of(&line)).called("write", path.display()) {
        // Half a line on a full disk would take the next one with it.
        let _ = file.set_len(before);
        return Err(error);
    }
    if file.metadata().called("fstat", path.display())?.len() > MAX_BYTES as u64 {
        let text = std::fs::read(&path).called("read", path.display())?;
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, compact(&text)).called("write", temporary.display())?;
        std::fs::rename(&temporary, &path).called("rename", path.display())?;
    }
    Ok(())
}

/// One line of the file.
fn text_of(line: &Line) -> Vec<u8> {
    // Plain structs of texts and numbers: it cannot fail.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text
}

fn lines(text: &[u8]) -> impl Iterator<Item = Line> + '_ {
    // One that is being written, or was damaged, is left out.
    text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

/// The events of a file, each once with its count; the oldest are left out where the rest is half of what is allowed.
fn compact(text: &[u8]) -> Vec<u8> {
    let merged = merge(lines(text).map(Entry::from).collect()).into_iter().map(|entry| {
        let Entry { time, type_, reason, object, message, count, first } = entry;
        text_of(&Line { time, type_, reason, object, message, count: Some(count), first: Some(first) })
    });
    let mut room = MAX_BYTES / 2;
    let mut kept: Vec<Vec<u8>> = merged
        .rev()
        .take_while(|line| {
            let fits = line.len() <= room;
            room = room.saturating_sub(line.len());
            fits
        })
        .collect();
    kept.reverse();
    kept.concat()
}

/// Puts together what is the same but for its time, in the order of the last occurrences.
pub fn merge(entries: Vec<Entry>) -> Vec<Entry> {
    let mut seen: HashMap<(bool, String, String, String), usize> = HashMap::new();
    let mut merged: Vec<Option<Entry>> = Vec::new();
    for mut entry in entries {
        let warning = entry.type_ == EventType::Warning;
        let key = (warning, entry.reason.clone(), entry.object.clone(), entry.message.clone());
        let earlier = seen.insert(key, merged.len()).and_then(|at| merged[at].take());
        if let Some(earlier) = earlier {
            entry.count = entry.count.saturating_add(earlier.count);
            entry.first = entry.first.min(earlier.first);
            entry.time = entry.time.max(earlier.time);
        }
        merged.push(Some(entry));
    }
    merged.into_iter().flatten().collect()
}

/// All events so far, merged.
pub fn read(pod: &PodDirs) -> Result<Vec<Entry>> {
    Ok(merge(Tail::new(pod).read()?))
}

/// Reads a pod's events as they come, each line of the file once.
pub struct Tail {
    path: PathBuf,
    /// Kept open, so that its inode's number is not given to the file that replaces it.
    file: Option<File>,
    /// The beginning of a line that is being written.
    rest: Vec<u8>,
    /// The time of the newest event that was given out.
    newest: Option<Time>,
    content: Content,
}

/// What the file that is being read begins with.
#[derive(PartialEq)]
enum Content {
    New,
    /// A summary of what the one before it held.
    Compacted,
}

impl Tail {
    /// From the first event on.
    pub fn new(pod: &PodDirs) -> Tail {
        Tail { path: pod.events(), file: None, rest: Vec::new(), newest: None, content: Content::New }
    }

    /// What is new since the last call. What was compacted before it could be read comes with its count.
    pub fn read(&mut self) -> SysResult<Vec<Entry>> {
        let mut entries = Vec::new();
        loop {
            if self.file.is_none() {
                match File::open(&self.path) {
                    Err(e) if e.kind() == ErrorKind::NotFound => return Ok(entries),
                    other => self.file = Some(other.called("open", self.path.display())?),
                }
            }
            self.read_on(&mut entries)?;
            if !self.is_replaced()? {
                return Ok(entries);
            }
            // What was appended between the last read and its replacement; nothing is any more.
            self.read_on(&mut entries)?;
            self.file = None;
            self.rest.clear();
            self.content = Content::Compacted;
        }
    }

    fn read_on(&mut self, entries: &mut Vec<Entry>) -> SysResult<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.read_to_end(&mut self.rest).called("read", self.path.display())?;
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in lines(&self.rest[..whole]) {
            // A count is part of a summary: of what was given out already, unless it went on after that.
            let known = self.content == Content::Compacted && line.count.is_some() && Some(line.time) <= self.newest;
            self.newest = self.newest.max(Some(line.time));
            if !known {
                entries.push(line.into());
            }
        }
        self.rest.drain(..whole);
        Ok(())
    }

    fn is_replaced(&self) -> SysResult<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let own = file.metadata().called("fstat", self.path.display())?;
        Ok(id(&self.path)?.is_some_and(|id| id != (own.dev(), own.ino())))
    }
}

/// Device and inode of a file; `None` if there is none.
fn id(path: &Path) -> SysResult<Option<(u64, u64)>> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        other => other.called("stat", path.display()).map(|file| Some((file.dev(), file.ino()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> (tempfile::TempDir, PodDirs) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        (dir, PodDirs { state: path.clone(), data: path })
    }

    fn happens(pod: &PodDirs, message: &str, time: i64) {
        let event = PodEvent {
            type_: EventType::Warning,
            reason: "BackOff".into(),
            message: message.into(),
            container: Some(0),
        };
        append(pod, event, "container/c".into(), Time(time)).unwrap();
    }

    /// `message count first-last`
    fn shown(entries: &[Entry]) -> Vec<String> {
        entries.iter().map(|e| format!("{} {} {}-{}", e.message, e.count, e.first.0, e.time.0)).collect()
    }

    #[test]
    fn what_repeats_is_one_entry_with_a_count() {
        let (_dir, pod) = pod();
        assert_eq!(read(&pod).unwrap(), []);
        for (message, time) in [("a", 10), ("b", 20), ("a", 30), ("c", 40), ("a", 50)] {
            happens(&pod, message, time);
        }
        assert_eq!(shown(&read(&pod).unwrap()), ["b 1 20-20", "c 1 40-40", "a 3 10-50"]);
        // Another object, reason or type is another event.
        let one = |change: fn(&mut Entry)| {
            let mut entry = read(&pod).unwrap().remove(0);
            change(&mut entry);
            entry
        };
        let others = vec![
            one(|_| ()),
            one(|e| e.object = "pod/p".into()),
            one(|e| e.reason = "Failed".into()),
            one(|e| e.type_ = EventType::Normal),
        ];
        assert_eq!(merge(others.clone()), others);
        let file = std::fs::read_to_string(pod.events()).unwrap();
        assert_eq!(file.lines().count(), 5, "a line per occurrence");
        assert!(!file.contains("count"), "{file}");
    }

    #[test]
    fn the_file_is_bounded_and_counts_go_on() {
        let (_dir, pod) = pod();
        let long = "x".repeat(9 * MAX_MESSAGE);
        let mut largest = 0;
        for time in 0..2000 {
            happens(&pod, "again", time);
            // Control characters take six bytes each in JSON.
            happens(&pod, &format!("{time}\u{1}{}", &long[..500]), time);
            largest = largest.max(std::fs::metadata(pod.events()).unwrap().len());
        }
        assert!(largest < MAX_BYTES as u64 + 8192, "{largest}");
        let all = read(&pod).unwrap();
        let again = all.iter().find(|e| e.message == "again").unwrap();
        assert_eq!((again.count, again.first, again.time), (2000, Time(0), Time(1999)));
        assert!(all.len() > 100 && all.len() < 2000, "the oldest are gone: {}", all.len());
        assert!(all.iter().any(|e| e.message.starts_with("1999")));
        happens(&pod, &long, 3000);
        assert_eq!(read(&pod).unwrap().pop().unwrap().message.len(), MAX_MESSAGE + "…".len());
        // Lines that do not fit at all do not keep the others from being dropped.
        for time in 4000..4200 {
            happens(&pod, &format!("{time}{}", "\u{1}".repeat(MAX_MESSAGE)), time);
        }
        assert!(std::fs::metadata(pod.events()).unwrap().len() < MAX_BYTES as u64 + 32768);
    }

    #[test]
    fn a_tail_gives_each_occurrence_once_whatever_happens_to_the_file() {
        let (_dir, pod) = pod();
        let mut tail = Tail::new(&pod);
        assert_eq!(tail.read().unwrap(), []);
        happens(&pod, "a", 1);
        happens(&pod, "a", 2);
        assert_eq!(shown(&tail.read().unwrap()), ["a 1 1-1", "a 1 2-2"]);
        assert_eq!(tail.read().unwrap(), []);
        let mut seen = 0;
        for time in 3..3000 {
            happens(&pod, &format!("{}{}", time % 7, "y".repeat(200)), time);
            // Not after each: the file is replaced between two reads, and what came before and after is all there.
            if time % 5 == 0 || time == 2999 {
                let new = tail.read().unwrap();
                assert!(new.iter().all(|e| e.count == 1), "{:?}", shown(&new));
                seen += new.len();
            }
        }
        assert_eq!(seen, 2997);
        assert!(std::fs::read_to_string(pod.events()).unwrap().contains("count"), "it was compacted meanwhile");
    }

    #[test]
    fn a_tail_that_sleeps_too_long_gets_a_summary() {
        let (_dir, pod) = pod();
        let mut tail = Tail::new(&pod);
        happens(&pod, "early", 1);
        assert_eq!(tail.read().unwrap().len(), 1);
        for time in 2..5000 {
            happens(&pod, &"z".repeat(400), time);
        }
        let new = tail.read().unwrap();
        let total: u64 = new.iter().map(|e| e.count).sum();
        assert!(new.iter().all(|e| e.message != "early"), "what is known is not told again");
        assert!(total >= 4998, "{total}: nothing is lost");
        assert!(new.len() < 4998);
    }

    #[test]
    fn a_line_that_is_being_written_waits() {
        let (_dir, pod) = pod();
        happens(&pod, "whole", 1);
        let line = std::fs::read(pod.events()).unwrap();
        let mut file = std::fs::OpenOptions::new().append(true).open(pod.events()).unwrap();
        let mut tail = Tail::new(&pod);
        file.write_all(&line[..20]).unwrap();
        assert_eq!(tail.read().unwrap().len(), 1);
        file.write_all(&line[20..]).unwrap();
        assert_eq!(tail.read().unwrap().len(), 1);
        file.write_all(b"\xff not json\n").unwrap();
        assert_eq!(tail.read().unwrap().len(), 0);
        assert_eq!(read(&pod).unwrap().len(), 1);
    }
}
