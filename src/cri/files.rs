//! Files that are read again and again, and parsed only when they have changed: a kubelet lists everything every second.
//!
//! The kernel tells of changes (inotify(7)), and does so before whoever made one is back from his system call: that a file is as it was
//! costs one read(2) that finds nothing.

use crate::sys::Called;
use anyhow::Result;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What files of one kind said when they were read last.
pub(super) struct Files<T> {
    /// `None` before the first one is read: a static has no HashMap.
    known: Mutex<Option<Known<PathBuf, T>>>,
}

type Known<K, T> = HashMap<K, (Change, Arc<T>)>;

/// The number of a change: no two have the same.
type Change = u64;

/// How many files are remembered before it is looked whether they are there still.
const MANY: usize = 64;

impl<T> Files<T> {
    pub(super) const fn new() -> Self {
        Files { known: Mutex::new(None) }
    }

    /// What a file says; `None` if it is not there. `read` reads it.
    pub(super) fn read(&self, path: &Path, read: impl FnOnce() -> Result<Option<T>>) -> Result<Option<Arc<T>>> {
        // Before it is read: a change in between is one that comes after.
        self.of(path, last_change(path), read)
    }

    /// What is known since this change, which is the last one; else what `read` reads.
    fn of(
        &self,
        path: &Path,
        change: Option<Change>,
        read: impl FnOnce() -> Result<Option<T>>,
    ) -> Result<Option<Arc<T>>> {
        if let Some(change) = change
            && let Some(known) =
                self.with(|known| known.get(path).filter(|(of, _)| *of == change).map(|(_, what)| what.clone()))
        {
            return Ok(Some(known));
        }
        let what = read()?.map(Arc::new);
        self.with(|known| match (change, &what) {
            (Some(change), Some(what)) => drop(known.insert(path.to_owned(), (change, what.clone()))),
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

    fn with<R>(&self, act: impl FnOnce(&mut Known<PathBuf, T>) -> R) -> R {
        // What a panicking reader left is as good as before.
        act(self.known.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
    }
}

/// The names of what is in a directory, as the kernel has them; none of one that is not there. They are remembered for ever: this is
/// for a directory that stays.
pub(super) fn names(directory: &Path) -> Result<Arc<Vec<String>>> {
    static KNOWN: Files<Vec<String>> = Files::new();
    let change = with_watches(|watches| watches.of_entries(directory)).flatten();
    let names = KNOWN.of(directory, change, || read_names(directory).map(Some))?;
    Ok(names.unwrap_or_default())
}

/// [`names`], read at each call.
pub(super) fn read_names(directory: &Path) -> Result<Vec<String>> {
    match std::fs::read_dir(directory) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => {
            let entries = other.called("opendir", directory.display())?;
            Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        }
    }
}

/// What was made of files that are below directories, for each directory by its name.
pub(super) struct Trees<T> {
    /// `None` before the first one is made: a static has no HashMap.
    known: Mutex<Option<Known<String, T>>>,
}

impl<T> Trees<T> {
    pub(super) const fn new() -> Self {
        Trees { known: Mutex::new(None) }
    }

    /// What is made of each of the directories `names` in `above`, in their order: `make` again, if a file that it has read with
    /// [`Files`] has changed since.
    pub(super) fn of(&self, above: &Path, names: &[String], make: impl Fn(&str) -> Result<T>) -> Result<Vec<Arc<T>>> {
        // Whoever asks at the same time waits, and finds it made.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.take().unwrap_or_default();
        let changes = last_changes_below(above, names);
        let (mut all, mut after) = (Vec::with_capacity(names.len()), HashMap::with_capacity(names.len()));
        for (name, change) in names.iter().zip(changes) {
            let still = before.get(name).filter(|(of, _)| Some(*of) == change);
            let what = still.map_or_else(|| make(name).map(Arc::new), |(_, what)| Ok(what.clone()))?;
            if let Some(change) = change {
                after.insert(name.clone(), (change, what.clone()));
            }
            all.push(what);
        }
        *known = Some(after);
        Ok(all)
    }
}

/// What was made of all that there is in a directory, and of the files below it.
pub(super) struct Latest<T> {
    known: Mutex<Option<(Since, Arc<T>)>>,
}

/// The last change of what there is in a directory, and that of a file below it.
type Since = (Change, Change);

impl<T> Latest<T> {
    pub(super) const fn new() -> Self {
        Latest { known: Mutex::new(None) }
    }

    /// What `make` made of a directory; again, if [`names`] in it, or a file that was read with [`Files`], have changed since.
    pub(super) fn of(&self, directory: &Path, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        // Before it is made: a change in between is one that comes after.
        let since = with_watches(|watches| watches.of_all(directory)).flatten();
        if let Some(what) = since.and_then(|since| self.known(since)) {
            return Ok(what);
        }
        let what = Arc::new(make()?);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = since.map(|since| (since, what.clone()));
        Ok(what)
    }

    /// The same if it is there, and nobody has to be waited for.
    pub(super) fn at_once(&self, directory: &Path) -> Option<Arc<T>> {
        let since = told(&mut *WATCHES.try_lock().ok()?, |watches| watches.of_all(directory)).flatten()?;
        self.known(since)
    }

    fn known(&self, since: Since) -> Option<Arc<T>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|(of, _)| *of == since).map(|(_, what)| what.clone())
    }
}

/// The directories of all files that were read.
static WATCHES: Mutex<Option<Watches>> = Mutex::new(None);

/// The last change of a file that is known; `None` if the kernel tells of none: the directory is not there, or there are too many
/// watches (fs.inotify.max_user_watches).
fn last_change(path: &Path) -> Option<Change> {
    let (directory, name) = (path.parent()?, path.file_name()?);
    with_watches(|watches| watches.of(directory, name)).flatten()
}

/// The last change of a file below each of the directories.
fn last_changes_below(above: &Path, names: &[String]) -> Vec<Option<Change>> {
    let told = with_watches(|watches| names.iter().map(|name| Some(watches.below(&above.join(name)))).collect());
    told.unwrap_or_else(|| vec![None; names.len()])
}

/// `None` if the kernel tells of nothing.
fn with_watches<R>(act: impl FnOnce(&mut Watches) -> R) -> Option<R> {
    told(&mut WATCHES.lock().unwrap_or_else(PoisonError::into_inner), act)
}

/// After all changes until now were told.
fn told<R>(watches: &mut Option<Watches>, act: impl FnOnce(&mut Watches) -> R) -> Option<R> {
    if watches.is_none() {
        *watches = Watches::new(0).ok();
    }
    let known = watches.as_mut()?;
    if let Err(Lost) = known.hear() {
        *watches = Watches::new(known.changes + 1).ok();
    }
    watches.as_mut().map(act)
}

struct Watches {
    inotify: Inotify,
    directories: HashMap<PathBuf, WatchDescriptor>,
    watched: HashMap<WatchDescriptor, Watched>,
    changes: Change,
    /// Where they began.
    first: Change,
    /// The last change of a file below a directory.
    below: HashMap<OsString, Change>,
}

/// A directory.
struct Watched {
    path: PathBuf,
    /// The last change of what there is in it.
    entries: Change,
    /// Files in it that somebody asked for, and their last changes.
    files: HashMap<OsString, Change>,
}

/// Changes were not told.
struct Lost;

impl Watches {
    fn new(changes: Change) -> nix::Result<Watches> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let (directories, watched, below) = Default::default();
        Ok(Watches { inotify, directories, watched, changes, first: changes, below })
    }

    /// Takes note of what has changed.
    fn hear(&mut self) -> Result<(), Lost> {
        loop {
            match self.inotify.read_events() {
                Ok(events) => events.into_iter().try_for_each(|event| self.changed(event))?,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(_) => return Err(Lost),
            }
        }
    }

    fn changed(&mut self, event: InotifyEvent) -> Result<(), Lost> {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return Err(Lost);
        }
        let Some(watched) = self.watched.get_mut(&event.wd) else { return Ok(()) };
        self.changes += 1;
        if event.mask.intersects(AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF) {
            // It is another directory's path from now on, or nobody's.
            self.directories.remove(&watched.path);
            if let Some(watched) = self.watched.remove(&event.wd) {
                self.changed_below(&watched.path);
            }
            return Ok(());
        }
        if !event.mask.contains(AddWatchFlags::IN_MODIFY) {
            watched.entries = self.changes;
        }
        if let Some(file) = event.name.and_then(|name| watched.files.get_mut(&name)) {
            *file = self.changes;
            let directory = watched.path.clone();
            self.changed_below(&directory);
        }
        Ok(())
    }

    fn changed_below(&mut self, directory: &Path) {
        if self.below.len() > MANY + 4 * self.watched.len() {
            // Of those that are gone too.
            self.below.clear();
            self.first = self.changes;
        }
        let above = directory.ancestors().map(|above| (above.as_os_str().to_owned(), self.changes));
        self.below.extend(above);
    }

    fn below(&self, directory: &Path) -> Change {
        self.below.get(directory.as_os_str()).copied().unwrap_or(self.first)
    }

    fn of(&mut self, directory: &Path, name: &OsStr) -> Option<Change> {
        let Some(watched) = self.watched(directory) else {
            // What is read of it now may change at any time.
            self.changes += 1;
            self.changed_below(directory);
            return None;
        };
        if let Some(change) = watched.files.get(name) {
            return Some(*change);
        }
        // What was known of it before it was watched is not known any more.
        self.changes += 1;
        let change = self.changes;
        self.watched(directory)?.files.insert(name.to_owned(), change);
        Some(change)
    }

    /// The last change of what there is in a directory.
    fn of_entries(&mut self, directory: &Path) -> Option<Change> {
        Some(self.watched(directory)?.entries)
    }

    fn of_all(&mut self, directory: &Path) -> Option<Since> {
        Some((self.of_entries(directory)?, self.below(directory)))
    }

    fn watched(&mut self, directory: &Path) -> Option<&mut Watched> {
        let known = self.directories.get(directory).copied();
        let descriptor = known.or_else(|| self.watch(directory).ok())?;
        self.watched.get_mut(&descriptor)
    }

    /// Files are replaced as a whole (`store::write_json`); what is written into one that is there is told too.
    fn watch(&mut self, directory: &Path) -> nix::Result<WatchDescriptor> {
        let of_files = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MODIFY;
        let of_itself = AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_ONLYDIR;
        let descriptor = self.inotify.add_watch(directory, of_files | of_itself)?;
        self.directories.insert(directory.to_owned(), descriptor);
        self.changes += 1;
        let watched = Watched { path: directory.to_owned(), entries: self.changes, files: HashMap::new() };
        self.watched.insert(descriptor, watched);
        Ok(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_file_is_read_again_when_it_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, files, reads) = (dir.path().join("d"), Files::new(), Cell::new(0));
        let path = folder.join("f");
        let read = || {
            let text = files.read(&path, || {
                reads.set(reads.get() + 1);
                Ok(std::fs::read_to_string(&path).ok())
            });
            (text.unwrap().map(|text| text.to_string()), reads.get())
        };
        let replace = |text: &str| {
            let new = folder.join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        let said = |text: &str, reads: u32| (Some(text.to_owned()), reads);
        assert_eq!(read(), (None, 1), "no directory");
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(read(), (None, 2));
        replace("one");
        assert_eq!((read(), read()), (said("one", 3), said("one", 3)));
        // Of the same size, in the same tick of the file system's clock.
        replace("two");
        assert_eq!((read(), read()), (said("two", 4), said("two", 4)));
        std::fs::write(folder.join("another"), "x").unwrap();
        assert_eq!(read(), said("two", 4));
        std::fs::write(&path, "in place").unwrap();
        assert_eq!((read(), read()), (said("in place", 5), said("in place", 5)));
        // Other directories of the same path.
        std::fs::rename(&folder, dir.path().join("elsewhere")).unwrap();
        assert_eq!(read(), (None, 6));
        std::fs::create_dir(&folder).unwrap();
        replace("moved");
        assert_eq!((read(), read()), (said("moved", 7), said("moved", 7)));
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::create_dir(&folder).unwrap();
        replace("made");
        assert_eq!((read(), read()), (said("made", 8), said("made", 8)));
    }

    #[test]
    fn names_are_those_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("d");
        let sorted = || {
            let mut sorted = (*names(&folder).unwrap()).clone();
            sorted.sort();
            sorted.join(" ")
        };
        assert_eq!(sorted(), "");
        std::fs::create_dir(&folder).unwrap();
        assert_eq!((sorted(), sorted()), (String::new(), String::new()));
        std::fs::create_dir(folder.join("b")).unwrap();
        std::fs::write(folder.join("a"), "").unwrap();
        assert_eq!(sorted(), "a b");
        let before = names(&folder).unwrap();
        std::fs::write(folder.join("a"), "more").unwrap();
        assert!(Arc::ptr_eq(&before, &names(&folder).unwrap()), "nothing came or went");
        std::fs::rename(folder.join("a"), folder.join("c")).unwrap();
        assert_eq!(sorted(), "b c");
        std::fs::rename(folder.join("c"), dir.path().join("c")).unwrap();
        assert_eq!(sorted(), "b");
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(sorted(), "");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("new"), "").unwrap();
        assert_eq!(sorted(), "new");
    }

    #[test]
    fn what_was_made_of_a_tree_is_made_again_when_a_file_in_it_has_changed() {
        let (dir, files, trees, makes) = (tempfile::tempdir().unwrap(), Files::new(), Trees::new(), Cell::new(0));
        let path = |tree: &str, file: &str| dir.path().join(tree).join("deep").join(file);
        let put = |tree: &str, text: &str| {
            std::fs::create_dir_all(path(tree, "")).unwrap();
            std::fs::write(path(tree, "new"), text).unwrap();
            std::fs::rename(path(tree, "new"), path(tree, "f")).unwrap();
        };
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let make = |name: &str| {
                makes.set(makes.get() + 1);
                let path = path(name, "f");
                Ok(files.read(&path, || Ok(std::fs::read_to_string(&path).ok()))?.map(|text| text.to_string()))
            };
            let made: Vec<_> = trees.of(dir.path(), &names, make).unwrap();
            let texts: Vec<String> = made.iter().map(|text| text.as_deref().unwrap_or("none").to_owned()).collect();
            (texts.join(" "), makes.take())
        };
        let said = |text: &str, makes: u32| (text.to_owned(), makes);
        put("a", "a1");
        put("b", "b1");
        assert_eq!((of(&["a", "b"]), of(&["a", "b"])), (said("a1 b1", 2), said("a1 b1", 0)));
        put("b", "b2");
        std::fs::write(path("a", "another"), "x").unwrap();
        assert_eq!((of(&["b", "a"]), of(&["b", "a"])), (said("b2 a1", 1), said("b2 a1", 0)));
        // A file that is not there cannot be watched in a directory that is not there.
        assert_eq!((of(&["c"]), of(&["c"])), (said("none", 1), said("none", 1)));
        put("c", "c1");
        assert_eq!((of(&["c"]), of(&["c"])), (said("c1", 1), said("c1", 0)));
        std::fs::remove_dir_all(dir.path().join("c")).unwrap();
        assert_eq!(of(&["c"]), said("none", 1));
        put("c", "c2");
        assert_eq!((of(&["c"]), of(&["c"])), (said("c2", 1), said("c2", 0)));
    }

    #[test]
    fn what_was_made_of_a_directory_is_there_at_once_until_something_has_changed() {
        let (dir, files, latest) = (tempfile::tempdir().unwrap(), Files::new(), Latest::<String>::new());
        let put = |tree: &str, text: &str| {
            std::fs::create_dir_all(dir.path().join(tree)).unwrap();
            std::fs::write(dir.path().join(tree).join("f"), text).unwrap();
        };
        let all = || {
            let mut names = (*names(dir.path()).unwrap()).clone();
            names.sort();
            let texts = names.iter().map(|name| {
                let path = dir.path().join(name).join("f");
                files.read(&path, || Ok(std::fs::read_to_string(&path).ok())).unwrap().unwrap()
            });
            Ok(texts.map(|text| text.to_string()).collect::<Vec<_>>().join(" "))
        };
        // The kernel's last word can be about files of other tests: then somebody has to be waited for.
        let at_once = || (0..100).find_map(|_| latest.at_once(dir.path())).map(|text| text.to_string());
        let made = || latest.of(dir.path(), all).unwrap().to_string();
        put("a", "a1");
        assert_eq!(at_once(), None, "never made");
        assert_eq!((made(), made(), at_once()), ("a1".to_owned(), "a1".to_owned(), Some("a1".to_owned())));
        put("a", "a2");
        assert_eq!((at_once(), made(), at_once()), (None, "a2".to_owned(), Some("a2".to_owned())), "a file changed");
        put("b", "b1");
        assert_eq!((at_once(), made(), at_once()), (None, "a2 b1".to_owned(), Some("a2 b1".to_owned())), "one came");
        std::fs::remove_dir_all(dir.path().join("a")).unwrap();
        assert_eq!((at_once(), made(), at_once()), (None, "b1".to_owned(), Some("b1".to_owned())), "one went");
        // Something changes while it is made.
        put("b", "b2");
        let meanwhile = latest.of(dir.path(), || all().inspect(|_| put("b", "b3"))).unwrap();
        assert_eq!((meanwhile.as_str(), at_once(), made()), ("b2", None, "b3".to_owned()));
    }

    #[test]
    fn changes_of_what_is_gone_are_forgotten() {
        let mut watches = Watches::new(7).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for n in 1..=2 * MANY as u64 {
            let gone = dir.path().join(n.to_string());
            let before = watches.below(dir.path());
            assert_eq!(watches.of(&gone, OsStr::new("f")), None);
            assert!(watches.below(&gone) > before && watches.below(dir.path()) > before, "{n}");
        }
        assert!(watches.below.len() < MANY + 8, "{}", watches.below.len());
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let (dir, files) = (tempfile::tempdir().unwrap(), Files::new());
        for n in 0..=MANY {
            let path = dir.path().join(n.to_string());
            std::fs::write(&path, "x").unwrap();
            files.read(&path, || Ok(Some(String::new()))).unwrap();
            std::fs::remove_file(&path).unwrap();
        }
        files.forget_gone(0);
        assert!(files.with(|known| known.is_empty()));
    }
}
