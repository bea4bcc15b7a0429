//! `podshim logs`: kubectl's, and rotated files are read too.

use super::attach::container_of;
use super::named::Scope;
use super::output::Out;
use super::prefix::{Colour, End, Piece, Prefixer};
use super::recover;
use crate::error::{Kind, failure, kind_of};
use crate::logs::{Follow, Instance, Query, Reader, Record, Source, Start, Timestamps};
use crate::paths::Dirs;
use crate::store::Pod;
use crate::sys::Called;
use anyhow::{Context, Result};
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    #[command(flatten)]
    scope: Scope,
    /// NAME, NAMESPACE/NAME or the beginning of a uid
    #[arg(value_name = "POD")]
    pod: String,
    /// The container [default: the first one; see also --all-containers]
    #[arg(value_name = "CONTAINER")]
    container_argument: Option<String>,
    /// The container
    #[arg(short, long, conflicts_with = "container_argument")]
    container: Option<String>,
    /// All containers, each line with its container's name
    #[arg(long, conflicts_with_all = ["container", "container_argument"])]
    all_containers: bool,
    /// Go on with what is written, until the pod is over
    #[arg(short, long)]
    follow: bool,
    /// The instance before the last restart
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,
    /// Only lines newer than this: 10s, 5m, 2h
    #[arg(long, value_name = "TIME", conflicts_with = "since_time")]
    since: Option<String>,
    /// Only lines since this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    since_time: Option<String>,
    /// Only the last so many lines; -1 for all
    #[arg(long, value_name = "LINES", allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Print the time before each line
    #[arg(long)]
    timestamps: bool,
    /// At most so many bytes
    #[arg(long, value_name = "BYTES")]
    limit_bytes: Option<u64>,
    /// The container's name before each line
    #[arg(long)]
    prefix: bool,
}

pub(super) fn run(args: LogsArgs, dirs: &Dirs) -> Result<()> {
    let pod = recover::find(dirs, &args.scope.full(&args.pod)?)?;
    let all: Vec<String> = pod.record.plan.containers.iter().map(|c| c.name.clone()).collect();
    let wanted = args.container.clone().or_else(|| args.container_argument.clone());
    let containers = if args.all_containers { all.clone() } else { vec![container_of(&pod, wanted)?] };
    if let Some(unknown) = containers.iter().find(|c| !all.contains(c)) {
        let message = format!("pod {} has no container {unknown:?}: it has {}", pod.full_name(), all.join(", "));
        return Err(failure(Kind::NotFound, message));
    }
    let query = query(&args)?;
    let mut printer = Printer {
        prefixer: (args.prefix || args.all_containers).then(|| Prefixer::new(&containers, Colour::Off)),
        timestamps: query.timestamps,
        left: args.limit_bytes,
    };
    if args.follow {
        return follow(&pod, &containers, query, &mut printer);
    }
    let instance = if args.previous { Instance::Previous } else { Instance::Newest };
    let pod_logs = &pod.record.plan.sandbox.log_directory;
    let mut missing = None;
    let mut found = false;
    for (index, container) in containers.iter().enumerate() {
        match Reader::open(Source { pod_logs, container, instance }, query.clone()) {
            // Of several containers, some may not have run yet.
            Err(error) if kind_of(&error) == Some(Kind::NotFound) => missing = Some(error),
            other => {
                found = true;
                for record in other? {
                    printer.print(&[Record { container: index, ..record? }])?;
                }
            }
        }
    }
    match missing {
        Some(error) if found || args.previous => {
            printer.finish()?;
            if found { Ok(()) } else { Err(error) }
        }
        Some(error) => Err(not_started(&pod, error)),
        _ => printer.finish(),
    }
}

/// A container that waits has no log: what it waits for is what the user wants to know.
fn not_started(pod: &Pod, error: anyhow::Error) -> anyhow::Error {
    let hint = format!("`podshim ps` and `podshim events {}` tell what it waits for", pod.full_name());
    failure(Kind::NotFound, format!("{error:#}: {hint}"))
}

fn query(args: &LogsArgs) -> Result<Query> {
    let since = match (&args.since, &args.since_time) {
        (Some(ago), _) => {
            let span = super::wait::duration(ago).map_err(|message| failure(Kind::Invalid, message))?;
            Some(jiff::Timestamp::now().checked_sub(jiff::SignedDuration::try_from(span)?)?)
        }
        (None, Some(time)) => Some(time.parse().with_context(|| format!("--since-time {time:?}"))?),
        (None, None) => None,
    };
    Ok(Query {
        tail: args.tail.and_then(|lines| u64::try_from(lines).ok()),
        since,
        timestamps: if args.timestamps { Timestamps::Shown } else { Timestamps::Hidden },
        limit_bytes: args.limit_bytes,
    })
}

struct Printer {
    prefixer: Option<Prefixer>,
    timestamps: Timestamps,
    left: Option<u64>,
}

impl Printer {
    fn print(&mut self, records: &[Record]) -> Result<()> {
        let mut text = Vec::new();
        for record in records {
            match &mut self.prefixer {
                None => text.extend(record.text(self.timestamps)),
                Some(prefixer) => {
                    let piece = Piece {
                        container: record.container,
                        stream: record.stream as u8,
                        stamp: if self.timestamps == Timestamps::Shown { &record.stamp } else { "" },
                        bytes: &record.bytes,
                        end: if record.complete { End::Newline } else { End::GoesOn },
                    };
                    prefixer.push(piece, &mut text);
                }
            }
        }
        self.write(&text)
    }

    fn write(&mut self, text: &[u8]) -> Result<()> {
        let most = self.left.map_or(text.len(), |left| text.len().min(left as usize));
        Out.write_all(&text[..most])?;
        Out.flush()?;
        if let Some(left) = &mut self.left {
            *left -= most as u64;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let mut text = Vec::new();
        if let Some(prefixer) = &mut self.prefixer {
            prefixer.finish(&mut text);
        }
        self.write(&text)
    }
}

fn follow(pod: &Pod, containers: &[String], query: Query, printer: &mut Printer) -> Result<()> {
    // Watching begins first, so that the pod's end is seen whenever it comes.
    let mut watch = match recover::watch(pod) {
        Ok(watch) => Some(watch),
        Err(error) if kind_of(&error) == Some(Kind::NotReady) => None,
        Err(error) => return Err(error),
    };
    let mut follow = Follow::open(&pod.record.plan.sandbox.log_directory, containers, Start::Newest(query))?;
    loop {
        loop {
            let records = follow.next(Some(Duration::ZERO))?;
            if records.is_empty() {
                break;
            }
            printer.print(&records)?;
            if printer.left == Some(0) {
                return Ok(());
            }
        }
        let Some(watching) = &mut watch else { return printer.finish() };
        let mut fds =
            [PollFd::new(follow.as_fd(), PollFlags::POLLIN), PollFd::new(watching.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            other => drop(other.called("poll", "logs")?),
        }
        let news = fds[1].any() == Some(true);
        // Once more round after the end, for what was written last.
        if news && !watching.goes_on()? {
            watch = None;
        }
    }
}
