//! A pod whose supervisor died, in the hands of another one: what was kept of the machine goes on with what is found.
//!
//! What was kept is as of the last step whose actions were performed; a later step may have been performed too, without being
//! kept. (That somebody wants its end, or that it is evicted, is kept before anything is done about it; what else ends it is seen
//! again.) So whatever is undone by its name is asked for again, and what cannot be undone is done at least once: a hook that was under
//! way runs again (Kubernetes promises no more), a probe too, and who is to end gets his stop signal again. A start of which nothing has
//! executed counts for nothing.

use super::container::{Container, PostStart, Stage};
use super::ending::Ending;
use super::machine::{PodState, Sandbox, Step};
use super::{Action, ContainerSpec, Now, PodSpec, Resize, Task};

/// What is found of a container whose process runs, or was about to, by what was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing that ever executed.
    Nothing,
    /// Its init waits to be told to execute (of an OCI runtime of the host; podshim's own ends with the supervisor).
    Held,
    /// The process of its instance: it runs.
    Running,
    /// That its instance has executed, and ended: the event of that follows.
    Ended,
}

impl PodState {
    /// Which instance of a container has a process, or may have: its restart count.
    pub fn present_instance(&self, container: usize) -> Option<u32> {
        let container = self.containers.get(container)?;
        match container.stage {
            Stage::Running { .. } => container.instances.checked_sub(1),
            Stage::Starting => Some(container.instances - u32::from(container.is_created())),
            Stage::Idle { .. } | Stage::Done => None,
        }
    }

    /// What was kept goes on: `spec` is the pod as it is by now, and `found` what there is of each container. The actions are to
    /// be performed; then [`Event::Created`](super::Event::Created) and [`Event::Started`](super::Event::Started) follow for those
    /// that are found although their start was not answered, the ends of those that have ended, and
    /// [`Event::Tick`](super::Event::Tick).
    pub fn resume(self, spec: PodSpec, found: &[Found], now: Now) -> (PodState, Vec<Action>) {
        let mut pod = self;
        for (index, container) in spec.containers.iter().enumerate() {
            match pod.spec.containers.get(index) {
                // It has joined, and was not told to the machine yet.
                None => pod.containers.push(Container::new("ContainerCreating")),
                Some(before) => pod.containers[index].changed((before, container), now),
            }
        }
        pod.spec = spec;
        let mut step = Step { now, actions: Vec::new() };
        for index in 0..pod.containers.len() {
            let found = found.get(index).copied().unwrap_or(Found::Nothing);
            match (pod.containers[index].stage, found) {
                (Stage::Starting, Found::Nothing | Found::Held) => pod.containers[index].not_started(now),
                (Stage::Running { .. }, Found::Running) => pod.ask_again(index, &mut step),
                _ => {}
            }
        }
        match pod.sandbox {
            Sandbox::Creating => step.actions.push(Action::CreateSandbox),
            Sandbox::Destroying => step.actions.push(Action::DestroySandbox),
            Sandbox::Gone => step.actions.push(Action::Finished),
            Sandbox::NotAsked | Sandbox::Failed { .. } | Sandbox::Ready | Sandbox::Lost => {}
        }
        pod.update_conditions(now);
        (pod, step.actions)
    }

    /// Whoever was performing something about a running container is gone.
    fn ask_again(&mut self, index: usize, step: &mut Step) {
        let container = &mut self.containers[index];
        container.probes.forget_runs(step.now.boot);
        if container.post_start == (PostStart::UnderWay { until: None }) {
            step.actions.push(Action::Perform { container: index, task: Task::PostStart });
        }
        match container.ending {
            Ending::PreStop { until: None, .. } => {
                step.actions.push(Action::Perform { container: index, task: Task::PreStop });
            }
            Ending::Signalled { .. } => step.actions.push(Action::Signal { container: index }),
            Ending::Killed => step.actions.push(Action::Kill { container: index }),
            Ending::Unasked | Ending::Cancelled { .. } | Ending::PreStop { .. } | Ending::InLine { .. } => {}
        }
    }
}

impl Container {
    /// What a change in place has written down of it, and the machine was not told.
    fn changed(&mut self, (before, after): (&ContainerSpec, &ContainerSpec), now: Now) {
        if before.image != after.image {
            self.redefined(now);
        }
        if before.fixed.is_some() && before.fixed != after.fixed {
            self.resized(Resize::RestartContainer, now);
        }
    }
}
