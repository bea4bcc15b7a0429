//! Whose turn it is, and how a start goes: image, instance, process, post-start hook.

use super::container::{Container, Ended, PostStart, Stage};
use super::ending::{Cause, Ending, Kill};
use super::machine::{PodState, Sandbox, Step};
use super::restart::RestartAll;
use super::status::Waiting;
use super::{Action, ContainerKind, ContainerSpec, Event, EventType, Hook, ImageFailure, Outcome, StartFailure, Task};
use std::time::Duration;

impl PodState {
    /// Records an answer to [`Action::Start`], of a container that is being started.
    pub(super) fn record_start(&mut self, event: Event, step: &mut Step) {
        match event {
            Event::ImageFailed { container, failure, message } => {
                if self.containers[container].ending != Ending::Unasked {
                    // That a pull fails which was given up is what was wanted; it is tried again when the pod goes on.
                    let reason = self.first_waiting_reason().to_owned();
                    let waiting = Waiting { reason, message: String::new() };
                    return self.containers[container].not_created(waiting, step.now.boot);
                }
                for (reason, message) in image_events(failure, &self.spec.containers[container].image, &message) {
                    step.warn(container, reason, message);
                }
                self.containers[container].image_failed(failure, message, step.now);
            }
            Event::Created { container, container_id, image_id } => {
                self.containers[container].created(container_id, image_id);
                step.tell(container, "Created", "Container created".to_owned());
            }
            Event::Started { container } => {
                step.tell(container, "Started", "Container started".to_owned());
                self.containers[container].started(step.now);
                self.begin_post_start(container, step);
            }
            Event::StartFailed { container, failure, message } => {
                // That a start fails which was given up is what was wanted.
                if self.containers[container].ending == Ending::Unasked {
                    step.warn(container, "Failed", format!("Error: {message}"));
                }
                let waiting = Waiting { reason: failure.reason().to_owned(), message: message.clone() };
                if let StartFailure::Start { exit_code } = failure {
                    let how = Ended { exit_code, reason: "StartError", message };
                    self.containers[container].ended(how, step.now);
                    self.restart_or_not(container, Some(waiting), step);
                } else {
                    // Without an instance there is nothing that a restart policy or a back-off could refer to: it is tried
                    // again at each sync, also under Never; one that was given up, when the pod goes on.
                    let is_own = self.containers[container].ending == Ending::Unasked;
                    let pause = if is_own { super::container::RESYNC } else { Duration::ZERO };
                    self.containers[container].not_created(waiting, step.now.boot + pause);
                }
            }
            _ => {}
        }
    }

    /// The hook is part of the start: until it is done, the status says what it said before, no probe runs, and no other
    /// container is started.
    fn begin_post_start(&mut self, index: usize, step: &mut Step) {
        let ends_anyway = self.teardown.is_some() || self.restart_all == RestartAll::UnderWay;
        match self.spec.containers[index].post_start {
            Some(hook) if !ends_anyway => {
                let until = match hook {
                    Hook::Sleep(time) => Some(step.now.boot + time),
                    Hook::Perform => {
                        step.actions.push(Action::Perform { container: index, task: Task::PostStart });
                        None
                    }
                };
                self.containers[index].post_start = PostStart::UnderWay { until };
            }
            _ => self.containers[index].settled(&self.spec.containers[index].probes),
        }
    }

    pub(super) fn post_start_done(&mut self, index: usize, outcome: Outcome, step: &mut Step) {
        let container = &mut self.containers[index];
        if !matches!(container.post_start, PostStart::UnderWay { until: None }) {
            return;
        }
        match outcome {
            Outcome::Success => container.settled(&self.spec.containers[index].probes),
            Outcome::Warning(message) => {
                container.settled(&self.spec.containers[index].probes);
                step.warn(index, "LifecycleHTTPFallback", message);
            }
            Outcome::Failure(message) | Outcome::Error(message) => {
                container.post_start = PostStart::Failed;
                container.waiting = Some(Waiting { reason: "PostStartHookError".to_owned(), message: message.clone() });
                step.warn(index, "FailedPostStartHook", format!("PostStartHook failed: {message}"));
                let name = &self.spec.containers[index].name;
                let message = format!("FailedPostStartHook: stopping container {name}");
                let grace = self.spec.grace;
                self.end_container(index, Kill { grace, cause: Cause::PostStart, message }, step);
            }
        }
    }

    /// Hooks that only sleep, and have slept.
    pub(super) fn end_sleeps(&mut self, step: &mut Step) {
        for (container, spec) in self.containers.iter_mut().zip(&self.spec.containers) {
            if container.post_start_sleep().is_some_and(|until| until <= step.now.boot) {
                container.settled(&spec.probes);
            }
        }
    }

    /// Starts the next container whose turn it is. One at a time and in order, app containers too, as a kubelet does: the
    /// start of one is complete, with its post-start hook, before the next one's begins.
    pub(super) fn start_next(&mut self, step: &mut Step) {
        if self.start_is_under_way() {
            return;
        }
        if let Some((index, _)) = self.in_turn().into_iter().find(|(_, due)| *due <= step.now.boot) {
            let container = &mut self.containers[index];
            container.start(step.now);
            step.actions.push(Action::Start { container: index, restart_count: container.instances });
        }
    }

    fn start_is_under_way(&self) -> bool {
        self.containers.iter().any(Container::start_is_under_way)
    }

    /// When something is to be started or shown to wait.
    pub(super) fn next_start(&self) -> Option<Duration> {
        if self.teardown.is_some() || self.sandbox != Sandbox::Ready || self.restart_all == RestartAll::UnderWay {
            return None;
        }
        let shows = self.containers.iter().filter_map(|c| c.failed_pull.as_ref()).map(|pull| pull.shown_until);
        // While a start is under way nothing else is started; its answer is a step of its own.
        let under_way = self.start_is_under_way();
        let dues = self.in_turn().into_iter().filter(|_| !under_way).map(|(_, due)| due);
        shows.chain(dues).min()
    }

    /// The container whose first start comes after what is under way, if that is all that it waits for.
    pub fn comes_next(&self) -> Option<usize> {
        let goes_on =
            self.teardown.is_none() && self.sandbox == Sandbox::Ready && self.restart_all == RestartAll::Never;
        let holds_up = |container: &Container| container.is_running() && !container.passed;
        let init = || self.each().filter(|(_, spec, _)| spec.kind.is_init_list());
        if !goes_on || !(self.start_is_under_way() || init().any(|(.., container)| holds_up(container))) {
            return None;
        }
        let is_idle =
            |(.., container): &(usize, &ContainerSpec, &Container)| matches!(container.stage, Stage::Idle { .. });
        let (index, _, container) = init().chain(self.of_kind(ContainerKind::App)).find(is_idle)?;
        // Another one waits for its back-off.
        (container.instances == 0 && container.failed_pull.is_none()).then_some(index)
    }

    /// The containers that may be started now or later, without waiting for any other one's end: index and boot time.
    fn in_turn(&self) -> Vec<(usize, Duration)> {
        let idle = |(index, _, container): (usize, &ContainerSpec, &Container)| match container.stage {
            Stage::Idle { due } => Some((index, due)),
            _ => None,
        };
        let mut turn: Vec<_> = self.of_kind(ContainerKind::Ephemeral).filter_map(idle).collect();
        for one in self.each().filter(|(_, spec, _)| spec.kind.is_init_list()) {
            turn.extend(idle(one));
            // A sidecar that was started lets the sequence go on, and is started again beside it.
            if !one.2.passed {
                return turn;
            }
        }
        turn.extend(self.of_kind(ContainerKind::App).filter_map(idle));
        turn
    }

    /// A failed pull is shown for as long as a kubelet takes to look again; from then on the status says that it is waiting.
    pub(super) fn show_pull_back_offs(&mut self, step: &mut Step) {
        for (index, container) in self.containers.iter_mut().enumerate() {
            let Some(pull) = container.failed_pull.take_if(|pull| pull.shown_until <= step.now.boot) else { continue };
            let back_off = format!("Back-off pulling image {:?}", self.spec.containers[index].image);
            let message = format!("{back_off}: {}", pull.cause);
            container.waiting = Some(Waiting { reason: "ImagePullBackOff".to_owned(), message });
            step.emit(EventType::Normal, Some(index), ("BackOff", back_off));
            step.warn(index, "Failed", "Error: ImagePullBackOff".to_owned());
        }
    }
}

/// The warnings for a missing image: reason and message.
fn image_events(failure: ImageFailure, image: &str, message: &str) -> [(&'static str, String); 2] {
    let (reason, text) = match failure {
        ImageFailure::NeverPull => ("ErrImageNeverPull", message.to_owned()),
        ImageFailure::InvalidName | ImageFailure::Inspect => ("InspectFailed", message.to_owned()),
        _ => ("Failed", format!("Failed to pull image {image:?}: {message}")),
    };
    [(reason, text), ("Failed", format!("Error: {}", failure.reason()))]
}
