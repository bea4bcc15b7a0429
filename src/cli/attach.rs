//! Pods in the foreground (`podshim run`), and `podshim attach`.

use super::bring_up::Started;
use super::follow::Watch;
use super::named::Scope;
use super::notify;
use super::output::Out;
use super::prefix::{Colour, End, Piece, Prefixer};
use super::pump::{self, Streams};
use super::recover;
use super::run::Ended;
use super::terminal::{self, Interrupts, Raw};
use super::until::Warnings;
use crate::control::{Connection, Input, Reply, Request};
use crate::error::{Kind, failure, kind_of, say};
use crate::logs::{self, Follow, Record, Timestamps};
use crate::paths::Dirs;
use crate::plan::config::Stdio;
use crate::store::Pod;
use crate::sys::Called;
use anyhow::{Context, Result};
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// One pod's side of the foreground.
struct Shown<'a> {
    pod: &'a Pod,
    watch: Option<Watch<'a>>,
    follow: Follow,
    /// The first index of its containers among all names.
    offset: usize,
    warnings: Warnings<'a>,
    /// It has been ready at least once, or has ended.
    was_ready: bool,
}

/// Shows the pods' output until all are over. The first interrupt stops them gracefully, a second one kills.
pub(super) fn foreground(started: &[Started], interrupts: &Interrupts, timestamps: Timestamps) -> Result<Ended> {
    let mut names = Vec::new();
    let mut shown = Vec::new();
    for Started { pod, .. } in started {
        let containers: Vec<String> = pod.record.plan.containers.iter().map(|c| c.name.clone()).collect();
        let follow = Follow::open(&pod.record.plan.sandbox.log_directory, &containers, logs::Start::Beginning)?;
        let offset = names.len();
        let full = |name: &String| match started {
            [_] => name.clone(),
            _ => format!("{}/{name}", pod.record.plan.sandbox.name),
        };
        names.extend(containers.iter().map(full));
        let watch = match Watch::open(pod) {
            Ok(watch) => Some(watch),
            // It is over already.
            Err(error) if kind_of(&error).is_some() => None,
            Err(error) => return Err(error),
        };
        shown.push(Shown { pod, watch, follow, offset, warnings: Warnings::of(pod), was_ready: false });
    }
    let mut screen = Screen { prefixer: Prefixer::new(&names, colour()), timestamps, gone: false };
    let mut interrupted = None;
    let mut told_ready = false;
    loop {
        let mut more = false;
        for one in &mut shown {
            more |= one.print(&mut screen)?;
        }
        if screen.gone && interrupted.is_none() {
            // Nobody reads any more, as after `podshim run … | head`.
            interrupted = Some(141);
            stop_all(&shown, None);
        }
        if shown.iter().all(|one| one.watch.is_none()) {
            break;
        }
        if !more {
            wait_for_news(&shown, interrupts)?;
        }
        while let Some(signal) = interrupts.next()? {
            let again = interrupted.replace(128 + signal as u8).is_some();
            if !again {
                notify::stopping()?;
            }
            stop_all(&shown, again.then_some(0));
        }
        for one in &mut shown {
            one.take_news()?;
        }
        if !told_ready && shown.iter().all(|one| one.was_ready) {
            told_ready = true;
            notify::ready(None)?;
        }
    }
    for one in &mut shown {
        while one.print(&mut screen)? {}
    }
    screen.finish()?;
    Ok(interrupted.map_or(Ended::Over, Ended::Interrupted))
}

fn colour() -> Colour {
    match anstream::AutoStream::choice(&std::io::stdout()) {
        anstream::ColorChoice::Never => Colour::Off,
        _ => Colour::Names,
    }
}

fn stop_all(shown: &[Shown<'_>], grace_seconds: Option<u64>) {
    for one in shown.iter().filter(|one| one.watch.is_some()) {
        // A supervisor that is gone is noticed by its watch.
        let _ = Connection::open(&one.pod.dirs.socket(), &Request::Stop { grace_seconds }, &[]);
    }
}

fn wait_for_news(shown: &[Shown<'_>], interrupts: &Interrupts) -> Result<()> {
    let mut fds = vec![PollFd::new(interrupts.as_fd(), PollFlags::POLLIN)];
    for one in shown {
        fds.push(PollFd::new(one.follow.as_fd(), PollFlags::POLLIN));
        fds.extend(one.watch.as_ref().map(|watch| PollFd::new(watch.as_fd(), PollFlags::POLLIN)));
    }
    match poll(&mut fds, PollTimeout::NONE) {
        Err(nix::errno::Errno::EINTR) => Ok(()),
        other => Ok(other.called("poll", "pods").map(drop)?),
    }
}

impl Shown<'_> {
    /// Takes in what the supervisor says, without waiting for it.
    fn take_news(&mut self) -> Result<()> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO).called("poll", "control socket")? == 0 {
            return Ok(());
        }
        if !watch.goes_on()? {
            self.watch = None;
        }
        let Some(report) = self.pod.report()? else { return Ok(()) };
        if report.deletion.is_some() {
            // What fails from here on fails because the pod is being ended.
            return Ok(());
        }
        self.was_ready |= report.status.is_ready() || report.status.phase.is_terminal();
        self.warnings.print()?;
        // A container that cannot even be started: the pod is given up (and `run` says why).
        if report.failure.is_some() && !report.over {
            let _ = Connection::open(&self.pod.dirs.socket(), &Request::Stop { grace_seconds: Some(0) }, &[]);
        }
        Ok(())
    }

    /// Prints one batch, no more: a container that never stops writing must not keep an interrupt from being seen.
    /// Whether there was anything.
    fn print(&mut self, screen: &mut Screen) -> Result<bool> {
        let records = self.follow.next(Some(Duration::ZERO))?;
        screen.show(&records, self.offset)?;
        Ok(!records.is_empty())
    }
}

/// Standard output, shared by all containers.
struct Screen {
    prefixer: Prefixer,
    timestamps: Timestamps,
    gone: bool,
}

impl Screen {
    fn show(&mut self, records: &[Record], offset: usize) -> Result<()> {
        let mut text = Vec::new();
        for record in records {
            let piece = Piece {
                container: record.container + offset,
                stream: record.stream as u8,
                stamp: if self.timestamps == Timestamps::Shown { &record.stamp } else { "" },
                bytes: &record.bytes,
                end: if record.complete { End::Newline } else { End::GoesOn },
            };
            self.prefixer.push(piece, &mut text);
        }
        self.write(&text)
    }

    fn write(&mut self, text: &[u8]) -> Result<()> {
        if self.gone {
            return Ok(());
        }
        match Out.write_all(text).and_then(|()| Out.flush()) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn finish(&mut self) -> Result<()> {
        let mut text = Vec::new();
        self.prefixer.finish(&mut text);
        self.write(&text)
    }
}

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    #[command(flatten)]
    scope: Scope,
    /// NAME, NAMESPACE/NAME or the beginning of a uid
    #[arg(value_name = "POD")]
    pod: String,
    /// The container [default: the first one]
    #[arg(short, long)]
    container: Option<String>,
    /// Pass standard input on, if the container has `stdin: true`
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Standard input is a terminal, as the container's is (`tty: true`)
    #[arg(short, long)]
    tty: bool,
}

pub(super) fn run(args: AttachArgs, dirs: &Dirs) -> Result<u8> {
    let pod = recover::find(dirs, &args.scope.full(&args.pod)?)?;
    require_not_over(&pod)?;
    let container = container_of(&pod, args.container)?;
    let config = pod.record.plan.containers.iter().find(|c| c.name == container);
    if args.stdin && config.is_some_and(|c| c.stdio == Stdio::Null) {
        anyhow::bail!("container {container} has no `stdin: true`: nothing can be passed on to it");
    }
    if args.tty && config.is_some_and(|c| c.stdio != Stdio::Terminal) {
        // As kubectl: the rest of what was asked for can be had.
        say!("podshim: note: container {container} has no `tty: true`: -t has no effect");
    } else if args.tty && args.stdin {
        terminal::require_stdin()?;
    }
    let streams = Streams::output()?;
    let connection = recover::ask(&pod, &Request::Attach { container, input: Input::Passed }, &streams.lent())?;
    started(connection, streams, Passed { stdin: args.stdin, tty: args.tty })
}

/// What of the user's own goes to the container.
#[derive(Clone, Copy)]
pub(super) struct Passed {
    /// Standard input is passed on.
    pub(super) stdin: bool,
    /// It is a terminal, as the container's is.
    pub(super) tty: bool,
}

/// Stays with a container that was just asked for, until it ends; its exit code.
pub(super) fn first(connection: Connection, streams: Streams, passed: Passed) -> Result<u8> {
    accepted(&connection)?;
    started(connection, streams, passed)
}

/// Waits for a container that was just asked for to start.
pub(super) fn until_started(connection: &Connection) -> Result<()> {
    accepted(connection)?;
    started_input(connection).map(drop)
}

fn accepted(connection: &Connection) -> Result<()> {
    match connection.reply()? {
        Some((Reply::Accepted, _)) => Ok(()),
        _ => Err(failure(Kind::NotReady, "the supervisor did not answer")),
    }
}

/// What the input of a container that starts can be written to, if it has one.
fn started_input(connection: &Connection) -> Result<Option<OwnedFd>> {
    match connection.reply()? {
        Some((Reply::Started, descriptors)) => Ok(descriptors.into_iter().next()),
        _ => Err(failure(Kind::NotReady, "the pod's supervisor is gone, or ends the pod")),
    }
}

/// Stays with a container from its start, or from now on, until it ends; its exit code.
fn started(connection: Connection, streams: Streams, passed: Passed) -> Result<u8> {
    let input = started_input(&connection)?.filter(|_| passed.stdin);
    let raw = match &input {
        // Raw only towards a terminal: to a pipe go lines, which this side's terminal makes and shows.
        Some(master) if passed.tty && master.is_terminal() => {
            let raw = Raw::stdin()?;
            pump::follow_size(master.as_fd())?;
            Some(raw)
        }
        _ => None,
    };
    let code = pump::attached(connection, streams, input)?;
    drop(raw);
    Ok(code)
}

/// Refuses a pod that is over in other words than one whose supervisor is gone.
pub(super) fn require_not_over(pod: &Pod) -> Result<()> {
    match pod.report()? {
        Some(report) if report.over => {
            let message = format!(
                "pod {} is not running any more: it has ended ({})",
                pod.full_name(),
                report.status.phase.as_str()
            );
            Err(failure(Kind::NotReady, message))
        }
        _ => Ok(()),
    }
}

/// The container that a user means, kubectl's default being the first one.
pub(super) fn container_of(pod: &Pod, wanted: Option<String>) -> Result<String> {
    let containers = &pod.record.plan.containers;
    match wanted {
        Some(name) => Ok(name),
        None => {
            let app = containers.iter().find(|c| c.kind == crate::plan::config::ContainerKind::App);
            let name = app.context("the pod has no containers")?.name.clone();
            if containers.len() > 1 {
                let all: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
                say!("Defaulted container {name:?} out of: {}", all.join(", "));
            }
            Ok(name)
        }
    }
}
