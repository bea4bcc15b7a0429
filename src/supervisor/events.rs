//! The pod's events: one JSON object a line, in the pod's state directory, bounded in size.

use crate::lifecycle::status::Time;
use crate::lifecycle::{EventType, PodEvent};
use crate::paths::PodDirs;
use crate::sys::{Called, SysResult};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
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
}

/// When the file is larger, the older half is dropped.
const MAX_BYTES: u64 = 256 << 10;

/// Adds an event.
pub(super) fn append(pod: &PodDirs, entry: &Entry) -> SysResult<()> {
    let path = pod.events();
    let mut file =
        std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path).called("open", path.display())?;
    let mut line = serde_json::to_string(entry).unwrap_or_default();
    line.push('\n');
    file.write_all(line.as_bytes()).called("write", path.display())?;
    if file.metadata().called("fstat", path.display())?.len() > MAX_BYTES {
        let text = std::fs::read_to_string(&path).called("read", path.display())?;
        let middle = text.floor_char_boundary(text.len() / 2);
        let half = text[middle..].find('\n').map_or(text.len(), |at| middle + at + 1);
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, &text[half..]).called("write", temporary.display())?;
        std::fs::rename(&temporary, &path).called("rename", path.display())?;
    }
    Ok(())
}

/// The entry of a machine's event.
pub(super) fn entry(event: PodEvent, object: String, time: Time) -> Entry {
    Entry { time, type_: event.type_, reason: event.reason, object, message: event.message }
}

/// Reads all events; a line that is being written is left out.
pub fn read(pod: &PodDirs) -> Result<Vec<Entry>> {
    let path = pod.events();
    let text = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.called("read", path.display())?,
    };
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}
