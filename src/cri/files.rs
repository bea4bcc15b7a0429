//! Files that are read again and again, and parsed only when they have changed: a kubelet lists everything every second.

use crate::sys::Called;
use anyhow::Result;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// What files of one kind said when they were read last. They are replaced as a whole (`store::write_json`), so another content is
/// another file.
pub(super) struct Files<T> {
    /// `None` before the first one is read: a static has no HashMap.
    known: Mutex<Option<Known<T>>>,
}

type Known<T> = HashMap<PathBuf, (Identity, Arc<T>)>;

/// Inode, size, time of the last change.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64, SystemTime);

/// Younger files are not remembered: another one of the same number may have come in the same tick of the file system's clock.
const SETTLED: Duration = Duration::from_millis(50);

/// How many files are remembered before it is looked whether they are there still.
const MANY: usize = 64;

impl<T> Files<T> {
    pub(super) const fn new() -> Self {
        Files { known: Mutex::new(None) }
    }

    /// What a file says; `None` if it is not there. `read` reads it.
    pub(super) fn read(&self, path: &Path, read: impl FnOnce() -> Result<Option<T>>) -> Result<Option<Arc<T>>> {
        let identity = match std::fs::metadata(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            other => {
                let found = other.called("stat", path.display())?;
                Some(Identity(found.ino(), found.size(), found.modified().called("stat", path.display())?))
            }
        };
        if let Some(identity) = identity
            && let Some(known) =
                self.with(|known| known.get(path).filter(|(of, _)| *of == identity).map(|(_, what)| what.clone()))
        {
            return Ok(Some(known));
        }
        let what = read()?.map(Arc::new);
        let is_settled = |of: &Identity| of.2.elapsed().is_ok_and(|age| age > SETTLED);
        self.with(|known| match (identity.filter(is_settled), &what) {
            (Some(identity), Some(what)) => drop(known.insert(path.to_owned(), (identity, what.clone()))),
            _ => drop(known.remove(path)),
        });
        Ok(what)
    }

    /// Forgets files that are gone, if there are many more than the `used` ones.
    pub(super) fn forget_gone(&self, used: usize) {
        self.with(|known| {
            if known.len() > MANY + 2 * used {
                known.retain(|path, _| path.exists());
            }
        });
    }

    fn with<R>(&self, act: impl FnOnce(&mut Known<T>) -> R) -> R {
        // What a panicking reader left is as good as before.
        act(self.known.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_file_is_read_again_when_it_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let (path, files, reads) = (dir.path().join("f"), Files::new(), Cell::new(0));
        let read = || {
            let text = files.read(&path, || {
                reads.set(reads.get() + 1);
                Ok(std::fs::read_to_string(&path).ok())
            });
            text.unwrap().map(|text| text.to_string())
        };
        let write = |text: &str, age: Duration| {
            let new = dir.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::File::open(&new).unwrap().set_modified(SystemTime::now() - age).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        let old = Duration::from_secs(9);
        assert_eq!((read(), reads.get()), (None, 1));
        write("one", old);
        assert_eq!((read(), read(), reads.get()), (Some("one".into()), Some("one".into()), 2));
        write("two", old);
        assert_eq!((read(), read(), reads.get()), (Some("two".into()), Some("two".into()), 3));
        // One that was written just now may be replaced by one that looks the same.
        write("new", Duration::ZERO);
        assert_eq!((read(), read(), reads.get()), (Some("new".into()), Some("new".into()), 5));
        std::fs::remove_file(&path).unwrap();
        assert_eq!((read(), reads.get()), (None, 6));
        for n in 0..=MANY {
            let path = dir.path().join(n.to_string());
            std::fs::write(&path, "x").unwrap();
            std::fs::File::open(&path).unwrap().set_modified(SystemTime::now() - old).unwrap();
            files.read(&path, || Ok(Some(String::new()))).unwrap();
            std::fs::remove_file(&path).unwrap();
        }
        files.forget_gone(0);
        assert!(files.with(|known| known.is_empty()));
    }
}
