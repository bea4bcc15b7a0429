//! One container: where it is in its life, and what its status says meanwhile.

use super::backoff::BackOff;
use super::ending::{Cause, Ending};
use super::probe::ProbeStates;
use super::status::{OOM_KILLED, Terminated, Waiting};
use super::{Exit, ImageFailure, Now, Probes, Resize, StartFailure};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The kubelet looks at a pod again this long after something failed that has no back-off of its own (without its jitter).
pub(super) const RESYNC: Duration = Duration::from_secs(10);

/// Where a container is. All times are on the boot clock but `since`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// No process; to be started when it is its turn, but not before `due`.
    Idle { due: Duration },
    /// Its start was asked for and is not answered yet.
    Starting,
    /// It runs, since this time on the wall clock, and on the boot clock.
    Running { since: Duration, boot: Duration },
    /// No process, and there will be none.
    Done,
}

/// The post-start hook of the present instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum PostStart {
    /// It has not done its work yet; a sleeping one has when it is this time.
    UnderWay { until: Option<Duration> },
    /// It failed: the instance is being ended.
    Failed,
    /// It has done its work, or there is none: the start is complete.
    Passed,
}

/// What a running container was made from, and is not so any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stale {
    /// `image`
    Image,
    /// `resources`, of which the policy of a change is `RestartContainer`.
    Resources,
}

/// A failed pull, shown for one resync period as what it is and then as `ImagePullBackOff`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FailedPull {
    pub(super) shown_until: Duration,
    /// `ErrImagePull: <message>`.
    pub(super) cause: String,
}

/// The state of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Container {
    pub(super) stage: Stage,
    pub(super) ending: Ending,
    /// Why it is being ended, if it is.
    pub(super) cause: Option<Cause>,
    pub(super) post_start: PostStart,
    pub(super) probes: ProbeStates,
    /// Of the init list: the sequence may go on after it.
    pub(super) passed: bool,
    /// What runs is not what the pod says any more, in this.
    pub(super) stale: Option<Stale>,
    /// How many instances were created so far.
    pub(super) instances: u32,
    /// Whether the start under way has created its instance.
    created: bool,
    pub(super) container_id: String,
    pub(super) image_id: String,
    /// What the status says while no process runs; `None`: how the last instance ended.
    pub(super) waiting: Option<Waiting>,
    pub(super) failed_pull: Option<FailedPull>,
    /// How the last instance ended, and the one before it.
    pub(super) last: Option<Terminated>,
    pub(super) previous: Option<Terminated>,
    /// When the last instance ended, until its restart takes a step of the back-off.
    ended: Option<Duration>,
    crash: BackOff,
    pull: BackOff,
}

impl Container {
    /// A container that was never started.
    pub(super) fn new(waiting_reason: &str) -> Self {
        Container {
            stage: Stage::Idle { due: Duration::ZERO },
            ending: Ending::Unasked,
            cause: None,
            post_start: PostStart::Passed,
            probes: ProbeStates::default(),
            passed: false,
            stale: None,
            instances: 0,
            created: false,
            container_id: String::new(),
            image_id: String::new(),
            waiting: Some(Waiting { reason: waiting_reason.to_owned(), message: String::new() }),
            failed_pull: None,
            last: None,
            previous: None,
            ended: None,
            crash: BackOff::default(),
            pull: BackOff::default(),
        }
    }

    /// Whether a process of it runs or may be about to.
    pub(super) fn is_alive(&self) -> bool {
        matches!(self.stage, Stage::Starting | Stage::Running { .. })
    }

    /// Whether its process runs.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running { .. })
    }

    /// Whether its process runs and its post-start hook is done.
    pub(super) fn is_up(&self) -> bool {
        self.is_running() && self.post_start == PostStart::Passed
    }

    /// Whether its start was asked for and is not complete.
    pub(super) fn start_is_under_way(&self) -> bool {
        let hook = matches!(self.post_start, PostStart::UnderWay { .. });
        self.stage == Stage::Starting || (self.is_running() && hook)
    }

    /// When its sleeping post-start hook is done.
    pub(super) fn post_start_sleep(&self) -> Option<Duration> {
        match self.post_start {
            PostStart::UnderWay { until } if self.is_running() => until,
            _ => None,
        }
    }

    /// When it needs a look without anything having happened.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        [self.ending_deadline(), self.post_start_sleep()].into_iter().flatten().min()
    }

    /// Whether it waits for its first process.
    pub(super) fn never_ran(&self) -> bool {
        self.last.is_none() && !self.is_up()
    }

    /// Whether it has ended for good with exit code 0.
    pub(super) fn exited_zero(&self) -> bool {
        self.stage == Stage::Done && self.last.as_ref().is_some_and(|last| last.exit_code == 0)
    }

    /// Whether it has ended for good in a way that lets an init sequence go on: an OOM kill is a failure even with exit code 0
    /// (a child was killed, the work is not done).
    pub(super) fn succeeded(&self) -> bool {
        self.exited_zero() && !self.last_was_oom_killed()
    }

    /// Whether it has ended for good without doing its work.
    pub(super) fn has_failed(&self) -> bool {
        self.stage == Stage::Done && self.last.is_some() && !self.succeeded()
    }

    /// Whether the kernel killed something of its last instance for lack of memory.
    pub(super) fn last_was_oom_killed(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.reason == OOM_KILLED)
    }

    /// Its start is asked for.
    pub(super) fn start(&mut self, now: Now) {
        if let Some(ended) = self.ended.take() {
            self.crash.step(ended, now.boot);
        }
        self.stage = Stage::Starting;
        self.created = false;
        self.failed_pull = None;
        self.stale = None;
        (self.ending, self.cause) = (Ending::Unasked, None);
    }

    /// The start under way has created an instance.
    pub(super) fn created(&mut self, container_id: String, image_id: String) {
        self.count_instance();
        self.container_id = container_id;
        self.image_id = image_id;
    }

    /// Its process runs.
    pub(super) fn started(&mut self, now: Now) {
        self.count_instance();
        self.stage = Stage::Running { since: now.wall, boot: now.boot };
        // What was done to the start has not ended the process.
        self.ending = Ending::Unasked;
    }

    /// Its start is complete: from now on it is probed, and the status says that it runs.
    pub(super) fn settled(&mut self, probes: &Probes) {
        if let Stage::Running { boot, .. } = self.stage {
            self.post_start = PostStart::Passed;
            self.probes = ProbeStates::of_instance(probes, boot);
            self.waiting = None;
        }
    }

    /// The pod says another image than what it runs, or waits for, was made from.
    pub(super) fn redefined(&mut self, now: Now) {
        self.stale = self.has_instance().then_some(Stale::Image);
        self.pull = BackOff::default();
        self.failed_pull = None;
        self.forget_crashes(now);
    }

    /// Its resources are others now.
    pub(super) fn resized(&mut self, resize: Resize, now: Now) {
        if resize == Resize::RestartContainer && self.has_instance() {
            // Another image is the more to be told.
            self.stale.get_or_insert(Stale::Resources);
        }
        self.forget_crashes(now);
    }

    /// It is another container now, as far as back-offs are concerned: if it waits for one, it does not any more.
    pub(super) fn forget_crashes(&mut self, now: Now) {
        self.crash = BackOff::default();
        if let Stage::Idle { due } = &mut self.stage {
            *due = now.boot.min(*due);
        }
    }

    /// The next instance follows no crash.
    pub(super) fn forget_end(&mut self) {
        self.ended = None;
    }

    /// Whether the start under way has created its instance.
    pub(super) fn is_created(&self) -> bool {
        self.created
    }

    /// Whether there is an instance of it: one that runs, or that the start under way has created. What is not created yet is made
    /// from what the pod says by then.
    fn has_instance(&self) -> bool {
        self.is_alive() && self.created
    }

    /// The start under way is over, and nothing of it has ever executed: it was no instance. It is to be tried again.
    pub(super) fn not_started(&mut self, now: Now) {
        if std::mem::take(&mut self.created) {
            self.instances = self.instances.saturating_sub(1);
        }
        self.stage = Stage::Idle { due: now.boot };
        (self.ending, self.cause) = (Ending::Unasked, None);
    }

    fn count_instance(&mut self) {
        if !self.created {
            self.created = true;
            self.instances += 1;
        }
    }

    /// The start ended before there was an instance; it is to be tried again.
    pub(super) fn not_created(&mut self, waiting: Waiting, due: Duration) {
        self.stage = Stage::Idle { due };
        self.waiting = Some(waiting);
    }

    /// There is no image; it is to be tried again.
    pub(super) fn image_failed(&mut self, failure: ImageFailure, message: String, now: Now) {
        let mut due = now.boot + RESYNC;
        let reason = failure.reason();
        if failure.backs_off() {
            self.pull.step(now.boot, now.boot);
            due = now.boot + self.pull.pause_after(now.boot);
            self.failed_pull =
                Some(FailedPull { shown_until: now.boot + RESYNC, cause: format!("{reason}: {message}") });
        }
        self.not_created(Waiting { reason: reason.to_owned(), message }, due);
    }

    /// Its instance is over.
    pub(super) fn ended(&mut self, how: Ended, now: Now) {
        self.count_instance();
        let started_at = match self.stage {
            Stage::Running { since, .. } => Some(since.into()),
            _ => None,
        };
        let ended = Terminated {
            exit_code: how.exit_code,
            signal: None,
            reason: how.reason.to_owned(),
            message: how.message,
            started_at,
            finished_at: Some(now.wall.into()),
            container_id: self.container_id.clone(),
        };
        self.previous = self.last.replace(ended);
        self.ended = Some(now.boot);
        self.stage = Stage::Done;
        self.waiting = None;
        self.post_start = PostStart::Passed;
        self.probes = ProbeStates::default();
    }

    /// The pause before the next instance may start.
    pub(super) fn crash_pause(&self, now: Now) -> Duration {
        self.crash.pause_after(now.boot)
    }

    /// There will be no further instance. What it waited for does not matter any more, unless there was never anything else.
    pub(super) fn retire(&mut self) {
        self.stage = Stage::Done;
        self.failed_pull = None;
        if self.last.is_some() {
            self.waiting = None;
        }
    }
}

/// How an instance ended.
pub(super) struct Ended {
    pub(super) exit_code: i32,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Ended {
    /// Nobody saw it, in a kubelet's words.
    pub(super) fn unseen() -> Ended {
        let message = "The container ended while its supervisor was gone".to_owned();
        Ended { exit_code: 137, reason: "ContainerStatusUnknown", message }
    }
}

impl From<Exit> for Ended {
    fn from(exit: Exit) -> Self {
        let exit_code = exit.exit_code();
        let reason = match exit_code {
            _ if exit.oom_killed => OOM_KILLED,
            0 => "Completed",
            _ => "Error",
        };
        Ended { exit_code, reason, message: exit.message }
    }
}

impl ImageFailure {
    /// The waiting reason.
    pub fn reason(self) -> &'static str {
        match self {
            ImageFailure::Pull => "ErrImagePull",
            ImageFailure::RegistryUnavailable => "RegistryUnavailable",
            ImageFailure::SignatureValidationFailed => "SignatureValidationFailed",
            ImageFailure::NeverPull => "ErrImageNeverPull",
            ImageFailure::InvalidName => "InvalidImageName",
            ImageFailure::Inspect => "ImageInspectError",
        }
    }

    /// Whether a registry was asked, which must not be done too often. The others are local and cheap to try again.
    pub(super) fn backs_off(self) -> bool {
        matches!(self, ImageFailure::Pull | ImageFailure::RegistryUnavailable | ImageFailure::SignatureValidationFailed)
    }
}

impl StartFailure {
    /// The waiting reason.
    pub fn reason(self) -> &'static str {
        match self {
            StartFailure::Config => "CreateContainerConfigError",
            StartFailure::Create => "CreateContainerError",
            StartFailure::Start { .. } => "RunContainerError",
        }
    }
}
