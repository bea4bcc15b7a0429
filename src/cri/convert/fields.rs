//! Where in a request an error is, and the rules of simple values.

use crate::error::{Kind, failure};
use crate::manifest::rules;
use anyhow::Result;
use std::collections::HashMap;
use std::fmt::Display;
use std::path::PathBuf;

/// The largest id that a user or a group may have (k8s.io/apimachinery's IsValidUserID).
const MAX_ID: i64 = i32::MAX as i64;

/// The most that labels, or annotations, may have together, in bytes: twice what Kubernetes lets a pod have
/// (TotalAnnotationSizeLimitB), as a kubelet adds its own.
const MAX_METADATA: usize = 512 << 10;

/// A field: `config.linux.security_context`.
#[derive(Debug, Clone)]
pub(super) struct At(String);

impl At {
    /// The request's `config`.
    pub(super) fn config() -> At {
        At("config".to_owned())
    }

    /// A field of this name, whatever it is in.
    pub(super) fn of(name: &str) -> At {
        At(name.to_owned())
    }

    /// A field of this one.
    pub(super) fn field(&self, name: &str) -> At {
        At(format!("{}.{name}", self.0))
    }

    /// An entry of this list.
    pub(super) fn index(&self, index: usize) -> At {
        At(format!("{}[{index}]", self.0))
    }

    /// An entry of this map.
    pub(super) fn key(&self, key: &str) -> At {
        At(format!("{}[{}]", self.0, short(key)))
    }

    /// What is wrong with it.
    pub(super) fn error(&self, what: impl Display) -> anyhow::Error {
        failure(Kind::Invalid, format!("{}: {what}", self.0))
    }

    /// What is wrong with it, as a result.
    pub(super) fn refuse<T>(&self, what: impl Display) -> Result<T> {
        Err(self.error(what))
    }

    /// What a rule says of it.
    pub(super) fn check<T>(&self, checked: Result<T, String>) -> Result<T> {
        checked.map_err(|rule| self.error(rule))
    }

    /// Whatever kind of error it is, this field is what is wrong.
    pub(super) fn wrap<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| self.error(format!("{error:#}")))
    }

    /// An absolute path without `..`; what comes back has neither `.` nor doubled slashes.
    pub(super) fn absolute_path(&self, path: &str) -> Result<String> {
        if path.is_empty() {
            return self.refuse("is empty");
        }
        match rules::absolute_path(path) {
            Ok(()) => Ok(rules::normal_path(path)),
            Err(rule) => self.refuse(format!("{} {rule}", short(path))),
        }
    }

    /// A relative path without `.`, `..` and empty parts.
    pub(super) fn relative_path(&self, path: &str) -> Result<PathBuf> {
        if let Err(rule) = rules::relative_path(path) {
            return self.refuse(format!("{} {rule}", short(path)));
        }
        if path.split('/').any(|part| part.is_empty() || part == ".") {
            return self.refuse(format!("{} has an empty part, or one that is `.`", short(path)));
        }
        Ok(PathBuf::from(path))
    }

    /// The id of a user or a group.
    pub(super) fn id(&self, id: i64) -> Result<u32> {
        match u32::try_from(id) {
            Ok(valid) if id <= MAX_ID => Ok(valid),
            _ => self.refuse(format!("{id} is no id: ids are from 0 to {MAX_ID}")),
        }
    }

    /// A value of an enumeration; it is known to none of the API's versions otherwise.
    pub(super) fn known<T: TryFrom<i32>>(&self, value: i32) -> Result<T> {
        T::try_from(value).or_else(|_| self.refuse(format!("{value} is not a value of it")))
    }

    /// Labels or annotations, whose size is bounded.
    pub(super) fn bounded(&self, map: &HashMap<String, String>) -> Result<()> {
        let size: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
        if size <= MAX_METADATA {
            return Ok(());
        }
        self.refuse(format!("they have {size} bytes together, at most {MAX_METADATA} are kept"))
    }

    /// Not more than that many.
    pub(super) fn at_most(&self, count: usize, most: usize) -> Result<()> {
        if count <= most {
            return Ok(());
        }
        self.refuse(format!("there are {count}, at most {most} are taken"))
    }
}

/// A value as errors show it: not all of a long one.
pub(super) fn short(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
