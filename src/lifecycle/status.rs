//! `.status` of a Pod, as far as podshim fills it: plain structs whose JSON is the Kubernetes API's.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::time::Duration;

/// The reason of a container that the kernel killed for lack of memory.
pub const OOM_KILLED: &str = "OOMKilled";

/// A point in time with the resolution of a Kubernetes status, whole seconds; its text is RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(
    /// Seconds since the UNIX epoch.
    pub i64,
);

impl From<Duration> for Time {
    /// From the time since the UNIX epoch, cut (not rounded) to the second, as Kubernetes does.
    fn from(since_epoch: Duration) -> Self {
        Time(i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Timestamp::from_second(self.0).unwrap_or(Timestamp::MAX).fmt(f)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time: Timestamp = text.parse().map_err(|e| de::Error::custom(format!("{text:?} is not a time: {e}")))?;
        Ok(Time(time.as_second()))
    }
}

/// `PodStatus`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// Where the pod is in its life.
    pub phase: Phase,
    /// What holds of it.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Why the pod as a whole is where it is; empty mostly.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When the pod was admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// Its main address.
    #[serde(default, rename = "podIP", skip_serializing_if = "Option::is_none")]
    pub pod_ip: Option<String>,
    /// All its addresses, at most one per family.
    #[serde(default, rename = "podIPs", skip_serializing_if = "Vec::is_empty")]
    pub pod_ips: Vec<PodIp>,
    /// `Guaranteed`, `Burstable` or `BestEffort`; not known to the lifecycle, filled in by whoever knows the resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos_class: Option<String>,
    /// In the order of the manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init_container_statuses: Vec<ContainerStatus>,
    /// In the order of the manifest (a kubelet sorts them by name).
    #[serde(default)]
    pub container_statuses: Vec<ContainerStatus>,
    /// In the order of their coming.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ephemeral_container_statuses: Vec<ContainerStatus>,
}

impl PodStatus {
    /// Whether the condition Ready holds.
    pub fn is_ready(&self) -> bool {
        self.conditions.iter().any(|c| c.type_ == "Ready" && c.status == ConditionStatus::True)
    }

    /// Nobody saw the pod end, and at `now` nothing of it is left: containers that had not ended are of unknown status.
    pub fn lose(&mut self, now: Time) {
        if !self.phase.is_terminal() {
            self.phase = Phase::Failed;
        }
        for condition in &mut self.conditions {
            let is_of_life = ["Ready", "ContainersReady", "PodReadyToStartContainers"].contains(&&*condition.type_);
            if is_of_life && condition.status == ConditionStatus::True {
                (condition.status, condition.last_transition_time) = (ConditionStatus::False, now);
            }
        }
        let lists =
            [&mut self.init_container_statuses, &mut self.container_statuses, &mut self.ephemeral_container_statuses];
        for container in lists.into_iter().flatten().filter(|container| container.state.terminated.is_none()) {
            let terminated = Terminated {
                exit_code: 137,
                signal: None,
                reason: "ContainerStatusUnknown".to_owned(),
                message: "Nobody saw it end".to_owned(),
                started_at: container.state.running.as_ref().map(|running| running.started_at),
                finished_at: Some(now),
                container_id: container.container_id.clone(),
            };
            container.state = ContainerState { terminated: Some(terminated), ..ContainerState::default() };
            (container.ready, container.started) = (false, false);
        }
    }
}

/// `status.phase`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not every container has been started yet.
    Pending,
    /// Some container runs or is to be restarted.
    Running,
    /// All app containers ended with exit code 0. Final.
    Succeeded,
    /// All containers ended, at least one in failure. Final.
    Failed,
}

impl Phase {
    /// Whether it never changes any more.
    pub fn is_terminal(self) -> bool {
        matches!(self, Phase::Succeeded | Phase::Failed)
    }

    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }
}

/// `PodCondition`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// One of podshim's own ([`super::OWN_CONDITIONS`]), or what a readiness gate waits for.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why; empty mostly if it holds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: Time,
}

/// `status` of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
}

/// `PodIP`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodIp {
    /// The address.
    pub ip: String,
}

/// `ContainerStatus`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// The container's name.
    pub name: String,
    /// What it is doing.
    pub state: ContainerState,
    /// What its previous instance came to.
    #[serde(default)]
    pub last_state: ContainerState,
    /// Whether it can be used (app), or is done (init).
    pub ready: bool,
    /// How many of its instances ended and were followed by another.
    pub restart_count: u32,
    /// The image as the manifest names it.
    pub image: String,
    /// The image's id; empty before the first instance.
    #[serde(default, rename = "imageID")]
    pub image_id: String,
    /// The latest instance's id; empty before the first.
    #[serde(default, rename = "containerID", skip_serializing_if = "String::is_empty")]
    pub container_id: String,
    /// Whether it runs and, if it has a startup probe, that has succeeded.
    pub started: bool,
}

/// `ContainerState`: at most one of the three.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// No process yet, or no process again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// A process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Running>,
    /// No process any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminated: Option<Terminated>,
}

/// `ContainerStateWaiting`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// What for, in one word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// `ContainerStateRunning`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// Since when.
    pub started_at: Time,
}

/// `ContainerStateTerminated`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terminated {
    /// 128 + n if signal n ended it.
    pub exit_code: i32,
    /// Never filled by podshim, as CRI has no such field; understood in [`super::display`] because kubectl does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `RestartingAllContainers` or `ContainerStatusUnknown`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The termination message, or why it could not start.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Unknown if it never ran.
    #[serde(default)]
    pub started_at: Option<Time>,
    /// Unknown if it never ran.
    #[serde(default)]
    pub finished_at: Option<Time>,
    /// The id of the instance.
    #[serde(default, rename = "containerID", skip_serializing_if = "String::is_empty")]
    pub container_id: String,
}

/// The exit code of a command that ran a pod: 0 if the pod Succeeded, else the exit code of the first container that failed, init
/// containers first, each kind in the order of the manifest.
///
/// An init container that was OOM-killed although it exited 0 counts as 137. Codes over 255 become 255. A pod which failed
/// without a failed container (stopped while it was being initialised), or which has not ended, gives 1.
///
/// A status does not say which init containers are sidecars, whose codes do not count: a caller whose pod has some asks
/// [`exit_code_without`].
pub fn pod_exit_code(status: &PodStatus) -> u8 {
    if status.phase == Phase::Succeeded {
        return 0;
    }
    let ended = |c: &ContainerStatus| c.state.terminated.clone();
    let init = status.init_container_statuses.iter().filter_map(ended).map(|t| match t.exit_code {
        0 if t.reason == OOM_KILLED => 137,
        code => code,
    });
    let app = status.container_statuses.iter().filter_map(ended).map(|t| t.exit_code);
    match init.chain(app).find(|code| *code != 0) {
        Some(code) if status.phase == Phase::Failed => u8::try_from(code).unwrap_or(255),
        _ => 1,
    }
}

/// [`pod_exit_code`], where the init containers of these names are sidecars: whatever they end with does not count
/// (pod-api.md §3).
pub fn exit_code_without(sidecars: &[&str], status: &PodStatus) -> u8 {
    let mut status = status.clone();
    status.init_container_statuses.retain(|init| !sidecars.contains(&init.name.as_str()));
    pod_exit_code(&status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_a_sidecars_exit_code_is_not_the_pods() {
        let ended = |name: &str, exit_code, reason: &str| {
            let terminated = serde_json::json!({ "exitCode": exit_code, "reason": reason });
            serde_json::json!({ "name": name, "ready": false, "restartCount": 0, "image": "", "started": false,
                "state": { "terminated": terminated } })
        };
        let status = |phase: &str, inits: [serde_json::Value; 2], app: serde_json::Value| -> PodStatus {
            serde_json::from_value(serde_json::json!({ "phase": phase, "initContainerStatuses": inits,
                "containerStatuses": [app], "ephemeralContainerStatuses": [ended("debugger", 9, "Error")] }))
            .unwrap()
        };
        let side = || ended("side", 137, "OOMKilled");
        let rows = [
            (
                "an app container failed",
                status("Failed", [side(), ended("i", 0, "Completed")], ended("a", 3, "Error")),
                3,
            ),
            ("an init container failed", status("Failed", [side(), ended("i", 4, "Error")], ended("a", 0, "")), 4),
            (
                "only the sidecar failed",
                status("Succeeded", [side(), ended("i", 0, "Completed")], ended("a", 0, "")),
                0,
            ),
            ("nobody else failed", status("Failed", [side(), ended("i", 0, "Completed")], ended("a", 0, "")), 1),
        ];
        for (name, status, expected) in rows {
            assert_eq!(exit_code_without(&["side"], &status), expected, "{name}");
        }
    }
}
