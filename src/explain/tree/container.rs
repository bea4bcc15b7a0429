//! One container.

use super::draw::Node;
use super::limits::limits;
use super::list;
use super::steps::steps;
use crate::explain::{Planned, PlannedContainer};
use crate::host::HostFacts;
use crate::plan::config::Access;
use crate::plan::config::{
    ContainerConfig, ContainerKind, ContainerRestart, ExitCodeOperator, Handler, Lifecycle, Privilege, Probe,
    RestartAction, RestartPolicy, RestartRule, SeccompProfile, Stdio,
};
use crate::plan::spec::Bind;
use oci_spec::runtime::{Capabilities, LinuxNamespaceType, Process, Spec};
use std::time::Duration;

/// The containers, in the order of their starting: init containers and sidecars one after the other, then all others.
pub(super) fn containers(planned: &Planned, facts: &HostFacts) -> Vec<Node> {
    let all = planned.plan.containers.iter().zip(&planned.containers);
    all.map(|(config, container)| {
        let first = planned.containers.first().filter(|first| first.name != container.name);
        node(config, container, facts).with([steps(container, first)])
    })
    .collect()
}

fn node(config: &ContainerConfig, container: &PlannedContainer, facts: &HostFacts) -> Node {
    let (head, when) = match config.kind {
        ContainerKind::Init => ("init container", "it must end well before the next one starts"),
        ContainerKind::Sidecar => ("sidecar", "it starts in its turn, and goes on beside all that follow"),
        ContainerKind::App => {
            ("container", "it starts together with the other containers when all before have done their part")
        }
        ContainerKind::Ephemeral => ("ephemeral container", "it joins the pod while that runs"),
    };
    let spec = &container.spec;
    let mut node = Node::new(format!("{head} {}", config.name), when)
        .with([image(container)])
        .with([namespaces(spec)])
        .with(spec.process().as_ref().map(process).into_iter().flatten())
        .with(stdio(config.stdio))
        .with([mounts(&container.binds)])
        .with([cgroup(spec, facts)]);
    node = node.with(confinement(config, spec)).with(life(config));
    node
}

fn image(container: &PlannedContainer) -> Node {
    let Some(image) = &container.image else {
        return Node::new("image", format!("{} (not looked at)", container.reference));
    };
    let id: String = image.id.chars().take("sha256:".len() + 12).collect();
    let text = format!("{} ({id}), {} layers", container.reference, image.layers.len());
    let why = "Its root file system: an overlay of the layers, which nobody writes to, under a directory of the container's own.";
    Node::new("image", text).why(why).with(
        image
            .layers
            .iter()
            .enumerate()
            .map(|(n, layer)| Node::new(format!("layer {}", n + 1), layer.display().to_string())),
    )
}

fn namespaces(spec: &Spec) -> Node {
    let word = |kind: LinuxNamespaceType| match kind {
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Time => "time",
    };
    let all: Vec<_> = spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten()).collect();
    let some = |joined: bool| list(all.iter().filter(|n| n.path().is_some() == joined).map(|n| word(n.typ())));
    Node::new("namespaces", format!("of its own: {}; the pod's: {}", some(false), some(true)))
}

fn process(process: &Process) -> Vec<Node> {
    let arguments = process.args().as_deref().unwrap_or_default();
    let environment = process.env().as_deref().unwrap_or_default();
    let names = environment.iter().map(|variable| variable.split('=').next().unwrap_or_default());
    let user = process.user();
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    vec![
        Node::new("command", format!("{arguments:?}")),
        Node::new("user", format!("uid {}, gid {}; other groups: {}", user.uid(), user.gid(), list(groups))),
        Node::new("working directory", process.cwd().display().to_string()),
        Node::new("environment", format!("{} variables: {}", environment.len(), list(names))),
    ]
}

fn stdio(stdio: Stdio) -> Option<Node> {
    match stdio {
        Stdio::Null => None,
        Stdio::Stdin => Some(Node::new("standard input", "what `podshim attach` sends")),
        Stdio::StdinOnce => Some(Node::new("standard input", "what the first `podshim attach` sends, then its end")),
        Stdio::Terminal => Some(Node::new("terminal", "a pseudo-terminal is its input and output")),
    }
}

fn mounts(binds: &[Bind]) -> Node {
    let node = |bind: &Bind| {
        let access = if bind.access == Access::ReadOnly { "ro" } else { "rw" };
        let words = std::iter::once(access).chain(bind.options.iter().map(|option| option.word()));
        let words: Vec<&str> = words.collect();
        Node::new(&bind.destination, format!("{} ({})", bind.source.display(), words.join(",")))
    };
    let why = "Files and directories of the host that appear at these paths (bind mounts).";
    Node::new("mounts", binds.len().to_string()).why(why).with(binds.iter().map(node))
}

fn cgroup(spec: &Spec, facts: &HostFacts) -> Node {
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_ref()).map(|path| path.display().to_string());
    let node = Node::new("cgroup", path.unwrap_or_default());
    let writes = linux.and_then(|linux| linux.resources().as_ref()).map(|resources| limits(resources, facts));
    match writes {
        Some(Ok(writes)) => node.with(writes),
        Some(Err(error)) => node.with([Node::new("this host cannot limit it so", format!("{error:#}"))]),
        None => node,
    }
}

fn confinement(config: &ContainerConfig, spec: &Spec) -> Vec<Node> {
    let security = &config.security;
    let mut nodes = Vec::new();
    if security.privileged == Privilege::Privileged {
        nodes.push(Node::new("privileged", "nothing of the host is kept from it but by its namespaces"));
    }
    let process = spec.process().as_ref();
    let sets = process.and_then(|process| process.capabilities().as_ref());
    nodes.push(match sets {
        Some(sets) => capabilities(sets.bounding(), sets.effective()),
        None => Node::new("capabilities", "none"),
    });
    let no_new = process.and_then(Process::no_new_privileges) == Some(true);
    if no_new {
        nodes.push(Node::new("no new privileges", "setuid programs give nobody more rights"));
    }
    nodes.push(seccomp(&security.seccomp, spec));
    if let Some(profile) = process.and_then(|process| process.apparmor_profile().as_ref()) {
        nodes.push(Node::new("AppArmor", format!("profile {profile}")));
    }
    if let Some(label) = process.and_then(|process| process.selinux_label().as_ref()) {
        nodes.push(Node::new("SELinux", format!("label {label}")));
    }
    if security.rootfs == Access::ReadOnly {
        nodes.push(Node::new("read-only root", "only its volumes can be written"));
    }
    nodes
}

fn capabilities(bounding: &Option<Capabilities>, effective: &Option<Capabilities>) -> Node {
    let names = |set: &Option<Capabilities>| {
        let mut names: Vec<String> =
            set.iter().flatten().map(|c| c.to_string().trim_start_matches("CAP_").to_owned()).collect();
        names.sort();
        names
    };
    let (most, now) = (names(bounding), names(effective));
    let text = match most == now {
        true => format!("{}: {}", now.len(), list(now)),
        false => {
            format!("{} at first: {}; a setuid program may have {}: {}", now.len(), list(&now), most.len(), list(&most))
        }
    };
    Node::new("capabilities", text)
}

fn seccomp(profile: &SeccompProfile, spec: &Spec) -> Node {
    let filter = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let rules = filter.and_then(|filter| filter.syscalls().as_ref()).map_or(0, Vec::len);
    let text = match profile {
        SeccompProfile::Unconfined => "no filter: every system call may be made".to_owned(),
        SeccompProfile::RuntimeDefault => format!("the default filter of system calls, {rules} rules"),
        SeccompProfile::Localhost(name) => format!("the filter of system calls in {name}, {rules} rules"),
        SeccompProfile::File(path) => format!("the filter of system calls in {}, {rules} rules", path.display()),
    };
    Node::new("seccomp", text)
}

/// Probes, hooks, restarts.
fn life(config: &ContainerConfig) -> Vec<Node> {
    let Lifecycle { startup, liveness, readiness, post_start, pre_stop, stop_signal } = &config.lifecycle;
    let probes = [
        (
            "startup probe",
            startup,
            "Until it succeeds, the other probes wait; if it does not, the container is killed.",
        ),
        ("liveness probe", liveness, "If it fails, the container is killed."),
        ("readiness probe", readiness, "If it fails, Services send the pod nothing."),
    ];
    let mut nodes: Vec<Node> = probes
        .iter()
        .filter_map(|(name, probe, why)| probe.as_ref().map(|probe| Node::new(name, of_probe(probe)).why(why)))
        .collect();
    let hooks = [
        ("after the start", post_start, "postStart: the container counts as started when it is done."),
        ("before the end", pre_stop, "preStop: only then it gets its stop signal."),
    ];
    nodes.extend(
        hooks.iter().filter_map(|(name, hook, why)| hook.as_ref().map(|h| Node::new(name, of_handler(h)).why(why))),
    );
    nodes.extend(stop_signal.as_ref().map(|signal| Node::new("stop signal", signal)));
    nodes.extend(restart(&config.restart));
    nodes
}

fn restart(restart: &ContainerRestart) -> Option<Node> {
    let policy = restart.policy.map(|policy| match policy {
        RestartPolicy::Always => "whenever it ends",
        RestartPolicy::OnFailure => "when it fails",
        RestartPolicy::Never => "never",
    });
    let rule = |rule: &RestartRule| {
        let (what, which) = (
            match rule.action {
                RestartAction::Restart => "it starts again",
                RestartAction::RestartAllContainers => "all containers start again",
            },
            match rule.operator {
                ExitCodeOperator::In => "of",
                ExitCodeOperator::NotIn => "other than",
            },
        );
        Node::new("", format!("{what} after an exit code {which} {}", list(&rule.codes)))
    };
    let is_own = policy.is_some() || !restart.rules.is_empty();
    is_own.then(|| Node::new("restart", policy.unwrap_or("as the pod says")).with(restart.rules.iter().map(rule)))
}

fn of_probe(Probe { handler, timing }: &Probe) -> String {
    format!(
        "{}; from {} on every {}, each at most {}; {} in a row for success, {} for failure",
        of_handler(handler),
        seconds(timing.initial_delay),
        seconds(timing.period),
        seconds(timing.timeout),
        timing.success_threshold,
        timing.failure_threshold
    )
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

fn of_handler(handler: &Handler) -> String {
    let host = |host: &Option<String>| host.clone().unwrap_or_else(|| "the pod".to_owned());
    match handler {
        Handler::Exec { command } => format!("{command:?} in the container"),
        Handler::HttpGet(get) => {
            let scheme = if get.tls { "https" } else { "http" };
            format!("GET {scheme}://{}:{}{}", host(&get.host), get.port, get.path)
        }
        Handler::TcpSocket { host: name, port } => format!("a connection to port {port} of {}", host(name)),
        Handler::Grpc { port, service, .. } => format!("gRPC health check of {service:?} at port {port} of the pod"),
        Handler::Sleep { seconds } => format!("{seconds} s pass"),
    }
}
