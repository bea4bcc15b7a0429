//! Limits of disk space: every ten seconds a process of podshim's own measures what the pod has written, and a pod that exceeds a
//! limit is evicted (pod-api.md §18, §20). A pod without such limits has none of this.

use super::pod::Supervisor;
use super::poll::{Source, Token};
use crate::control;
use crate::lifecycle::Event;
use crate::paths;
use crate::plan::config::{FilesMedium, StorageLimit, StorageOf, VolumePlan, VolumeSource};
use crate::sys::{Called, SysResult};
use crate::volumes::usage::{Extent, Request, Usage};
use anyhow::{Context, Result, ensure};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// From the end of one measurement to the beginning of the next (a kubelet's housekeeping interval).
const INTERVAL: Duration = Duration::from_secs(10);
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// After what time it is killed: the disk hangs.
const OVERDUE: Duration = Duration::from_secs(90);
/// More than the answer of a thousand containers and volumes has.
const MAX_ANSWER: usize = 1 << 20;

/// The watch over a pod's disk space.
pub(super) struct Storage {
    timer: TimerFd,
    /// What is to be measured, in the order of the answer.
    trees: Vec<Tree>,
    measuring: Option<Measuring>,
}

/// A process that measures.
struct Measuring {
    child: Child,
    token: Token,
    answer: Vec<u8>,
}

/// A directory that is measured, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tree {
    of: StorageOf,
    path: PathBuf,
}

impl Storage {
    /// `None` without limits.
    pub(super) fn of(pod: &crate::store::Pod) -> Result<Option<Storage>> {
        let trees = trees(pod);
        if trees.is_empty() {
            return Ok(None);
        }
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)
            .called("timerfd_create", "CLOCK_BOOTTIME")?;
        let storage = Storage { timer, trees, measuring: None };
        storage.arm(INTERVAL)?;
        Ok(Some(storage))
    }

    /// The timer, to be watched.
    pub(super) fn timer(&self) -> impl AsFd + '_ {
        self.timer.as_fd()
    }

    fn arm(&self, after: Duration) -> SysResult<()> {
        self.timer
            .set(Expiration::OneShot(after.into()), TimerSetTimeFlags::empty())
            .called("timerfd_settime", format_args!("{after:?}"))
    }
}

/// What has to be measured for the limits that there are: all that is the pod's for a limit of the pod.
fn trees(pod: &crate::store::Pod) -> Vec<Tree> {
    let plan = &pod.record.plan;
    let has = |of: &StorageOf| plan.storage_limits.iter().any(|limit| limit.of == *of);
    let of_pod = has(&StorageOf::Pod);
    let on_disk = |volume: &&VolumePlan| match &volume.source {
        VolumeSource::EmptyDir { .. } => true,
        VolumeSource::Files(files) => files.medium == FilesMedium::Disk,
        _ => false,
    };
    let mut trees = Vec::new();
    for volume in plan.volumes.iter().filter(on_disk) {
        trees.push(Tree { of: StorageOf::Volume(volume.name.clone()), path: pod.dirs.volume(&volume.name) });
    }
    for container in &plan.containers {
        let logs = paths::container_logs(&plan.sandbox.log_directory, &container.name);
        for path in [pod.dirs.container_layers(&container.name), logs] {
            trees.push(Tree { of: StorageOf::Container(container.name.clone()), path });
        }
    }
    trees.retain(|tree| of_pod || has(&tree.of));
    trees
}

/// The first limit that is exceeded, and why.
fn exceeded(limits: &[StorageLimit], measured: &[(&StorageOf, Usage)]) -> Option<String> {
    limits.iter().find_map(|limit| {
        let counts = |of: &StorageOf| limit.of == StorageOf::Pod || limit.of == *of;
        let counted = || measured.iter().filter(|(of, _)| counts(of)).map(|(_, usage)| usage);
        let bytes = counted().fold(0u64, |sum, usage| sum.saturating_add(usage.bytes));
        if counted().any(|usage| usage.extent == Extent::TooDeep) {
            let message = limit.message();
            return Some(format!("{message}(It cannot be measured: its directories are too deep.) "));
        }
        (bytes > limit.bytes).then(|| limit.message())
    })
}

impl Supervisor {
    /// It is time to measure, or a measurement takes too long.
    pub(super) fn storage_due(&mut self) -> Result<()> {
        let Some(storage) = &mut self.storage else { return Ok(()) };
        // Its count is of no interest; reading it makes it unready.
        let _ = storage.timer.wait();
        if let Some(measuring) = &mut storage.measuring {
            // Its end of file says so. If it hangs in the kernel, that takes until it does not.
            let _ = measuring.child.kill();
            return Ok(storage.arm(OVERDUE)?);
        }
        // What ends, ends: nothing is looked at any more.
        if !self.life.goes_on() {
            return Ok(());
        }
        if let Err(error) = self.begin_measuring() {
            self.warn("FailedToMeasure", format!("disk space: {error:#}"));
            self.rest()?;
        }
        Ok(())
    }

    fn begin_measuring(&mut self) -> Result<()> {
        // A container that joined is counted with the pod.
        let trees = trees(&self.pod);
        let Some(storage) = &mut self.storage else { return Ok(()) };
        storage.trees = trees;
        let request =
            Request { trees: storage.trees.iter().map(|tree| tree.path.clone()).collect(), patience: PATIENCE };
        let input = control::document("disk-usage", &request)?;
        let mut child = Command::new("/proc/self/exe")
            .arg0("podshim")
            .arg("disk-usage")
            .env_clear()
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .called("execve", "podshim disk-usage")?;
        let token = match child.stdout.as_ref().map(|stdout| self.poll.watch(stdout, Source::StorageAnswer)) {
            Some(Ok(token)) => token,
            other => {
                let _ = child.kill();
                child.wait().called("waitpid", "podshim disk-usage")?;
                return Err(other.and_then(Result::err).map_or_else(|| anyhow::anyhow!("no pipe"), Into::into));
            }
        };
        storage.measuring = Some(Measuring { child, token, answer: Vec::new() });
        Ok(storage.arm(OVERDUE)?)
    }

    /// The measuring process says something, or has ended.
    pub(super) fn storage_answer(&mut self) -> Result<()> {
        let Some(measuring) = self.storage.as_mut().and_then(|storage| storage.measuring.as_mut()) else {
            return Ok(());
        };
        let Some(stdout) = measuring.child.stdout.as_mut() else { return Ok(()) };
        let mut buffer = [0u8; 4096];
        let count = stdout.read(&mut buffer).called("read", "podshim disk-usage")?;
        if count > 0 && measuring.answer.len() < MAX_ANSWER {
            measuring.answer.extend_from_slice(&buffer[..count]);
            return Ok(());
        }
        self.poll.forget(measuring.token, stdout.as_fd());
        let Some(mut measuring) = self.storage.as_mut().and_then(|storage| storage.measuring.take()) else {
            return Ok(());
        };
        // Its standard output is closed: it is about to end, if it has not yet.
        measuring.child.wait().called("waitpid", "podshim disk-usage")?;
        if let Err(error) = self.measured(&measuring.answer) {
            self.warn("FailedToMeasure", format!("disk space: {error:#}"));
        }
        self.rest()
    }

    fn measured(&mut self, answer: &[u8]) -> Result<()> {
        ensure!(!answer.is_empty(), "podshim disk-usage ended without an answer");
        let usages: Vec<Usage> = serde_json::from_slice(answer).context("decoding what was measured")?;
        let Some(storage) = &self.storage else { return Ok(()) };
        ensure!(
            usages.len() == storage.trees.len(),
            "{} of {} directories were measured",
            usages.len(),
            storage.trees.len()
        );
        let measured: Vec<(&StorageOf, Usage)> = storage.trees.iter().map(|tree| &tree.of).zip(usages).collect();
        if let Some(message) = exceeded(&self.pod.record.plan.storage_limits, &measured) {
            self.queue.push_back(Event::Evicted { message });
            return Ok(());
        }
        let slow: BTreeSet<String> = measured
            .iter()
            .filter(|(_, usage)| usage.extent == Extent::OutOfTime)
            .map(|(of, _)| format!("{of:?}"))
            .collect();
        let names: Vec<String> = slow.into_iter().collect();
        ensure!(names.is_empty(), "{} could not be measured in {PATIENCE:?}", names.join(", "));
        Ok(())
    }

    fn rest(&self) -> Result<()> {
        match &self.storage {
            Some(storage) => Ok(storage.arm(INTERVAL)?),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s20_what_exceeds_which_limit() {
        let container = |name: &str| StorageOf::Container(name.into());
        let limit = |of, bytes| StorageLimit { of, bytes, text: bytes.to_string() };
        let volume = StorageOf::Volume("v".into());
        let limits = [limit(volume.clone(), 100), limit(StorageOf::Pod, 300), limit(container("a"), 200)];
        let (a, b) = (container("a"), container("b"));
        let whole = |bytes| Usage { bytes, inodes: 0, extent: Extent::Whole };
        let rows = [
            ("at the limits", [whole(100), whole(100), whole(100), whole(0)], None),
            ("the volume", [whole(101), whole(500), whole(0), whole(0)], Some("EmptyDir volume \"v\"")),
            ("layers and logs of a", [whole(0), whole(150), whole(51), whole(0)], Some("Container a exceeded")),
            ("all together", [whole(90), whole(100), whole(100), whole(11)], Some("total limit of containers 300")),
            ("one without a limit counts", [whole(0), whole(0), whole(0), whole(301)], Some("total limit")),
            (
                "partly, and already too much",
                [Usage { bytes: 101, inodes: 0, extent: Extent::OutOfTime }, whole(0), whole(0), whole(0)],
                Some("EmptyDir"),
            ),
            (
                "not known to be too much",
                [Usage { bytes: 99, inodes: 0, extent: Extent::OutOfTime }, whole(0), whole(0), whole(0)],
                None,
            ),
            (
                "hidden",
                [Usage { bytes: 1, inodes: 0, extent: Extent::TooDeep }, whole(0), whole(0), whole(0)],
                Some("too deep"),
            ),
        ];
        for (name, usages, expected) in rows {
            let measured: Vec<_> = [&volume, &a, &a, &b].into_iter().zip(usages).collect();
            match (exceeded(&limits, &measured), expected) {
                (Some(found), Some(words)) => assert!(found.contains(words), "{name}: {found}"),
                (found, expected) => assert_eq!(found.as_deref(), expected, "{name}"),
            }
        }
    }
}
