//! `podshim events`: what happened to pods, in the kubelet's words.

use super::named::Scope;
use super::output::{self, Structured};
use super::ps::now;
use super::recover;
use crate::error::kind_of;
use crate::lifecycle::display;
use crate::paths::Dirs;
use crate::store::{self, Pod};
use crate::supervisor::events::{self, Entry, Tail};
use crate::sys::{Called, SysResult};
use anyhow::Result;
use clap::Args;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::Serialize;
use std::collections::{BTreeMap, btree_map};
use std::os::fd::AsFd;
use std::path::Path;

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// NAME, NAMESPACE/NAME or the beginning of a uid [default: all pods]
    #[arg(value_name = "POD")]
    pod: Option<String>,
    #[command(flatten)]
    scope: Scope,
    /// Go on with what happens: until the pod is over, or without a pod for ever, with the pods to come
    #[arg(short, long)]
    watch: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Structured>,
}

pub(super) fn run(args: EventsArgs, dirs: &Dirs) -> Result<()> {
    let mut pods = recover::find_all(dirs, &args.scope.all(args.pod.as_slice())?)?;
    pods.retain(|pod| args.scope.has(&pod.record.plan.sandbox.namespace));
    if args.watch {
        return match (&args.pod, &pods[..]) {
            (Some(_), [pod]) => watch_pod(pod, args.output),
            _ => watch_all(dirs, &args),
        };
    }
    let mut all = Vec::new();
    for pod in &pods {
        all.extend(events::read(&pod.dirs)?.into_iter().map(|entry| Event { pod: pod.full_name(), entry }));
    }
    all.sort_by_key(|event| event.entry.time);
    match args.output {
        Some(how) => output::structured(&all, how),
        None => {
            let rows: Vec<Vec<String>> = all.into_iter().map(Event::row).collect();
            output::table(&["AGE", "TYPE", "REASON", "POD", "OBJECT", "MESSAGE"], &rows)
        }
    }
}

/// An event with the pod that it is of.
#[derive(Debug, Serialize)]
struct Event {
    pod: String,
    #[serde(flatten)]
    entry: Entry,
}

impl Event {
    fn row(self) -> Vec<String> {
        let Event { pod, entry } = self;
        vec![age(&entry), format!("{:?}", entry.type_), entry.reason, pod, entry.object, entry.message]
    }

    /// As something that has just happened: with its time rather than its age.
    fn line(&self) -> String {
        let Event { pod, entry } = self;
        let Entry { time, type_, reason, object, .. } = entry;
        let message = output::one_line(&entry.message);
        format!("{time}{}   {type_:?}   {reason}   {pod}   {object}   {message}", repeated(entry))
    }
}

/// kubectl's: `30s (x5 over 2m)`.
fn age(entry: &Entry) -> String {
    format!("{}{}", display::age(entry.time, now()), repeated(entry))
}

fn repeated(entry: &Entry) -> String {
    match entry.count {
        1 => String::new(),
        count => format!(" (x{count} over {})", display::age(entry.first, now())),
    }
}

/// Prints events as they come.
struct Printer {
    how: Option<Structured>,
}

impl Printer {
    fn print(&self, events: &[Event]) -> Result<()> {
        for event in events {
            match self.how {
                None => output::line(event.line())?,
                Some(Structured::Json) => output::line(serde_json::to_string(event)?)?,
                Some(Structured::Yaml) => {
                    output::line("---")?;
                    output::structured(event, Structured::Yaml)?;
                }
            }
        }
        Ok(())
    }
}

/// What there is already comes merged and in order, what follows by occurrence.
fn first(events: Vec<Event>) -> Vec<Event> {
    let mut by_pod: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    for Event { pod, entry } in events {
        by_pod.entry(pod).or_default().push(entry);
    }
    let merged = by_pod.into_iter().flat_map(|(pod, entries)| {
        events::merge(entries).into_iter().map(move |entry| Event { pod: pod.clone(), entry })
    });
    let mut all: Vec<Event> = merged.collect();
    all.sort_by_key(|event| event.entry.time);
    all
}

fn watch_pod(pod: &Pod, how: Option<Structured>) -> Result<()> {
    let printer = Printer { how };
    let watch = match recover::watch(pod) {
        Ok(watch) => Some(watch),
        Err(error) if kind_of(&error).is_some() => None,
        Err(error) => return Err(error),
    };
    let notes = Notes::new()?;
    notes.about(&pod.dirs.state)?;
    let mut tail = Tail::new(&pod.dirs);
    let mut next = || -> Result<Vec<Event>> {
        Ok(tail.read()?.into_iter().map(|entry| Event { pod: pod.full_name(), entry }).collect())
    };
    printer.print(&first(next()?))?;
    let Some(watch) = watch else { return Ok(()) };
    loop {
        let mut fds =
            [PollFd::new(notes.inotify.as_fd(), PollFlags::POLLIN), PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        wait(&mut fds)?;
        let news = fds[1].any() == Some(true);
        notes.drain()?;
        // Looked at before the events are read: what it did last is then among them.
        let gone = news && !watch.next()?;
        printer.print(&next()?)?;
        if gone {
            return Ok(());
        }
    }
}

/// For ever: all pods, and those to come.
fn watch_all(dirs: &Dirs, args: &EventsArgs) -> Result<()> {
    let printer = Printer { how: args.output };
    store::make_directories(dirs)?;
    let notes = Notes::new()?;
    notes.about(&dirs.pods())?;
    let mut followed = BTreeMap::new();
    let is_meant = |event: &Event| event.pod.split_once('/').is_some_and(|(namespace, _)| args.scope.has(namespace));
    let mut events = first(look(dirs, &notes, &mut followed)?);
    events.retain(is_meant);
    printer.print(&events)?;
    loop {
        wait(&mut [PollFd::new(notes.inotify.as_fd(), PollFlags::POLLIN)])?;
        notes.drain()?;
        let mut events = look(dirs, &notes, &mut followed)?;
        events.retain(is_meant);
        events.sort_by_key(|event| event.entry.time);
        printer.print(&events)?;
    }
}

/// A pod whose events are followed; without a name as long as its record is not written.
struct Followed {
    name: Option<String>,
    tail: Tail,
}

/// What is new of all pods. New pods are followed from now on, and those that are gone are not any more.
fn look(dirs: &Dirs, notes: &Notes, followed: &mut BTreeMap<String, Followed>) -> Result<Vec<Event>> {
    for entry in std::fs::read_dir(dirs.pods()).called("opendir", dirs.pods().display())?.flatten() {
        let uid = entry.file_name().to_string_lossy().into_owned();
        if let btree_map::Entry::Vacant(vacant) = followed.entry(uid) {
            let pod = dirs.pod(vacant.key());
            // Before anything is read: what comes later is told.
            notes.about(&pod.state)?;
            vacant.insert(Followed { name: None, tail: Tail::new(&pod) });
        }
    }
    let mut events = Vec::new();
    followed.retain(|uid, one| {
        let pod = dirs.pod(uid);
        if one.name.is_none()
            && let Ok(Some(record)) = store::load(&pod)
        {
            one.name = Some(Pod { dirs: pod.clone(), record }.full_name());
        }
        if let Some(name) = &one.name {
            // An unreadable file is of a pod that is being removed.
            let new = one.tail.read().unwrap_or_default();
            events.extend(new.into_iter().map(|entry| Event { pod: name.clone(), entry }));
        }
        pod.state.exists()
    });
    Ok(events)
}

fn wait(fds: &mut [PollFd<'_>]) -> SysResult<()> {
    match poll(fds, PollTimeout::NONE) {
        Err(Errno::EINTR) => Ok(()),
        other => other.called("poll", "events").map(drop),
    }
}

/// inotify(7), only to be woken: what happened is looked up.
struct Notes {
    inotify: Inotify,
}

impl Notes {
    fn new() -> SysResult<Notes> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).called("inotify_init1", "")?;
        Ok(Notes { inotify })
    }

    /// Wakes when something in a directory is made, written, replaced or removed; a directory that is gone never does.
    fn about(&self, directory: &Path) -> SysResult<()> {
        let what = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        match self.inotify.add_watch(directory, what) {
            Ok(_) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno).called("inotify_add_watch", directory.display()),
        }
    }

    fn drain(&self) -> SysResult<()> {
        loop {
            match self.inotify.read_events() {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno).called("read", "inotify"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::EventType;
    use crate::lifecycle::status::Time;

    fn event(pod: &str, message: &str, time: i64) -> Event {
        let (time, object) = (Time(time), "container/c".to_owned());
        let (reason, message) = ("BackOff".to_owned(), message.to_owned());
        let entry = Entry { time, type_: EventType::Warning, reason, object, message, count: 1, first: time };
        Event { pod: pod.to_owned(), entry }
    }

    #[test]
    fn repeats_are_shown_as_kubectl_does() {
        let now = now().0;
        let events = vec![event("ns/b", "m", now - 125), event("ns/a", "m", now - 30), event("ns/b", "m", now - 5)];
        let rows: Vec<Vec<String>> = first(events).into_iter().map(Event::row).collect();
        // The clock may go on by a second or two between the lines.
        assert!(rows[0][0].starts_with('3') && rows[0][0].ends_with('s'), "{rows:?}");
        assert_eq!(rows[0][1..], ["Warning", "BackOff", "ns/a", "container/c", "m"]);
        let counted = rows[1][0].split_once(" (x2 over 2m").map(|(age, _)| age.len());
        assert_eq!((rows.len(), counted), (2, Some(2)), "{rows:?}");
    }

    #[test]
    fn a_line_is_escaped_and_has_its_time() {
        let line = event("ns/a", "\x1b[31m", 0).line();
        assert_eq!(line, "1970-01-01T00:00:00Z   Warning   BackOff   ns/a   container/c   \\u{1b}[31m");
    }
}
