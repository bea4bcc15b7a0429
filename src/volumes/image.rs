//! `image`: an image's content, read-only, without set-user-ID and devices, and unless CRI asks for it without execution (KEP-4639).

use super::empty_dir;
use crate::plan::config::{ImageSpec, Programs};
use crate::snapshot;
use crate::sys::Called;
use crate::sys::{fs, mount};
use anyhow::Result;
use std::os::fd::AsFd;
use std::path::Path;

/// Mounts the image at `path`, once.
pub(super) fn materialize(path: &Path, image: &ImageSpec, programs: Programs) -> Result<()> {
    fs::make_directory(path, 0o755)?;
    if empty_dir::is_mounted(path)? {
        return Ok(());
    }
    let mounted = snapshot::read_only(&image.layers, programs)?;
    let target = std::fs::File::open(path).called("open", path.display())?;
    Ok(mount::attach(mounted.as_fd(), target.as_fd())?)
}
