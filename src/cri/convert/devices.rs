//! `Device`.

use super::fields::{At, short};
use crate::cri::api;
use anyhow::Result;
use std::path::PathBuf;

/// Devices of one container.
const MAX_DEVICES: usize = 1024;

/// What is asked for of the host's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Where in the request.
    pub(super) index: usize,
    /// A device, or a directory of devices.
    pub(super) host_path: PathBuf,
    /// Where it is in the container.
    pub(super) path: PathBuf,
    /// Some of `r`, `w`, `m`.
    pub(super) access: String,
}

/// Checks a container's devices.
pub(super) fn of(list: &[api::Device], has_user_namespace: bool, at: &At) -> Result<Vec<Wanted>> {
    at.at_most(list.len(), MAX_DEVICES)?;
    if has_user_namespace && !list.is_empty() {
        return at.refuse("a container in a user namespace cannot be given devices of the host");
    }
    let one = |(index, given): (usize, &api::Device)| {
        let at = at.index(index);
        let host_path = at.field("host_path").absolute_path(&given.host_path)?;
        let path = match given.container_path.as_str() {
            "" => host_path.clone(),
            path => at.field("container_path").absolute_path(path)?,
        };
        if path == "/" {
            return at.field("container_path").refuse("it is the root itself");
        }
        Ok(Wanted { index, host_path: host_path.into(), path: path.into(), access: access(&given.permissions, &at)? })
    };
    list.iter().enumerate().map(one).collect()
}

fn access(text: &str, at: &At) -> Result<String> {
    let letters: String = "rwm".chars().filter(|letter| text.contains(*letter)).collect();
    // Each at most once.
    if !letters.is_empty() && letters.len() == text.len() {
        return Ok(letters);
    }
    at.field("permissions").refuse(format!("{} is not one or more of r, w and m", short(text)))
}
