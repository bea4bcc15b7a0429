//! A sandbox that is lost (pod-api.md §1): what is in it is killed, and the pod begins anew in another one, with its init
//! containers.

use super::container::{Container, Stage};
use super::machine::{PodState, Sandbox, Step};
use super::status::Waiting;
use super::teardown::TeardownCause;
use super::{ContainerKind, EventType, RestartPolicy};

const REASON: &str = "SandboxChanged";

impl PodState {
    /// What it goes by is the pod's policy, as a kubelet does: under Never, a pod of which anything was created is not made
    /// again.
    pub(super) fn lose_sandbox(&mut self, step: &mut Step) {
        self.sandbox = Sandbox::Lost;
        if self.teardown.is_some() {
            return;
        }
        let is_begun = self.containers.iter().any(|c| c.instances > 0);
        if self.spec.restart_policy == RestartPolicy::Never && is_begun {
            let message = "Pod sandbox changed, it will be killed.".to_owned();
            step.emit(EventType::Normal, None, (REASON, message));
            return self.tear_down(self.spec.grace, TeardownCause::SandboxLost, step);
        }
        let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
        step.emit(EventType::Normal, None, (REASON, message));
        let reason = self.first_waiting_reason();
        for (container, spec) in self.containers.iter_mut().zip(&self.spec.containers) {
            if spec.kind.is_init_list() {
                container.passed = false;
                if !container.is_alive() {
                    container.begin_anew(reason, step.now);
                }
            }
        }
    }

    /// Kills what lives in a sandbox that is lost; hooks and signals would not reach it.
    pub(super) fn kill_lost(&mut self, index: usize, step: &mut Step) {
        match self.containers[index].stage {
            Stage::Running { .. } => self.kill(index, step),
            Stage::Starting => self.cancel(index, step.now.boot + super::ending::MINIMUM_GRACE, step),
            Stage::Idle { .. } | Stage::Done => {}
        }
    }

    /// An instance ended with its sandbox. Init containers and sidecars begin anew, without a back-off; app containers by their
    /// restart policy, not by their rules: it was no exit of their own.
    pub(super) fn ended_by_loss(&mut self, index: usize, meanwhile: Option<Waiting>, step: &mut Step) {
        let spec = &self.spec.containers[index];
        let again = match (spec.kind, spec.policy(&self.spec)) {
            (ContainerKind::Init | ContainerKind::Sidecar, _) => {
                let reason = self.first_waiting_reason();
                return self.containers[index].begin_anew(reason, step.now);
            }
            (_, RestartPolicy::Never) => false,
            (_, RestartPolicy::OnFailure) => !self.containers[index].exited_zero(),
            (_, RestartPolicy::Always) => true,
        };
        if again {
            self.restart(index, meanwhile, step);
        }
    }

    /// Whether nothing lives in the sandbox that was lost, so that another one can take its place.
    pub(super) fn is_replaceable(&self) -> bool {
        !self.containers.iter().any(Container::is_alive)
    }
}
