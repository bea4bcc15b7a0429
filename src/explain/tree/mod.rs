//! A plan as a tree: sandbox, volumes, and the containers in the order of their starting, each with its init's steps.

mod container;
mod draw;
mod limits;
mod sandbox;
mod steps;
mod volumes;

use super::Planned;
use crate::host::HostFacts;
use crate::plan::config::RestartPolicy;
use anyhow::Result;
use draw::Node;

/// The tree, with ANSI styles, for this host. What is of manifests and images is escaped.
///
/// # Errors
/// What the pod's own cgroup is to limit cannot be said for this host.
pub fn tree(planned: &Planned, facts: &HostFacts) -> Result<String> {
    let config = &planned.plan.sandbox;
    let (data, state) = (planned.data.display().to_string(), planned.state.display().to_string());
    let containers = container::containers(planned, facts);
    let below = std::iter::once(sandbox::sandbox(planned, facts)?).chain(volumes::volumes(planned)).chain(containers);
    let below = below.map(|node| node.with_short(&data, "$DATA").with_short(&state, "$STATE"));
    let directories = Node::new("directories", "").with([Node::new("$DATA", &data), Node::new("$STATE", &state)]);
    let root = Node::new(format!("pod {}/{}", config.namespace, config.name), summary(planned))
        .with([directories
            .why("The long number is the pod's uid, which is chosen when the pod is made; here it is zeros.")])
        .with(below);
    Ok(root.draw())
}

fn summary(planned: &Planned) -> String {
    let plan = &planned.plan;
    let restart = match plan.restart_policy {
        RestartPolicy::Always => "its containers start again whenever they end",
        RestartPolicy::OnFailure => "its containers start again when they fail",
        RestartPolicy::Never => "its containers do not start again",
    };
    let mut text = format!("quality of service {}; {restart}; {} s to end", plan.qos_class, plan.grace_seconds);
    if let Some(seconds) = plan.active_deadline_seconds {
        text.push_str(&format!("; failed after {seconds} s"));
    }
    if !plan.readiness_gates.is_empty() {
        text.push_str(&format!("; ready only with {}", plan.readiness_gates.join(", ")));
    }
    text
}

/// Words with commas between; `none` if there are none.
fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}
