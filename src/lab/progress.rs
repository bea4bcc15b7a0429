//! What a student has begun, predicted and passed. It is kept until somebody deletes the file.

use crate::paths::LabDirs;
use crate::store;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// All of one user's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// By the lesson's name.
    pub lessons: BTreeMap<String, Seen>,
}

/// One lesson's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// When it was first begun (RFC 3339).
    pub started: String,
    /// When it was first passed.
    #[serde(default)]
    pub passed: Option<String>,
    /// The prediction: the answer's letter, `a` being the first.
    #[serde(default)]
    pub prediction: Option<char>,
    /// How often it was checked.
    #[serde(default)]
    pub checks: u32,
    /// How many hints were asked for.
    #[serde(default)]
    pub hints: usize,
}

impl Progress {
    /// Reads it; nothing if there is none yet.
    pub(super) fn read(dirs: &LabDirs) -> Result<Progress> {
        Ok(store::read_json(&dirs.progress())?.unwrap_or_default())
    }

    /// Changes what is known of one lesson, and keeps it.
    pub(super) fn note(dirs: &LabDirs, lesson: &str, change: impl FnOnce(&mut Seen)) -> Result<Seen> {
        let mut progress = Progress::read(dirs)?;
        let seen = progress.lessons.entry(lesson.to_owned()).or_default();
        change(seen);
        let seen = seen.clone();
        store::write_json(&dirs.progress(), &progress)?;
        Ok(seen)
    }
}

/// Now, to the second.
pub(super) fn now() -> String {
    jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default().to_string()
}
