//! Rules for how containers live and end: restart policies, probes, hooks, the deadline, readiness gates.
//!
//! Source: pkg/apis/core/validation of Kubernetes (validateProbe, validateHandler, validateLifecycle,
//! validateContainerRestartPolicy, validateReadinessGates), KEP-4960 for `stopSignal`, KEP-5999 for `httpGet.protocol`. What a
//! kubelet would only find out when it runs a probe (an unknown port name, a header that breaks the request) is a fault here.

use super::super::path::Path;
use super::super::syntax;
use super::super::tree::Span;
use super::security::MAX_ID;
use super::{Checker, hints, locate, quote};
use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRule, ExecAction, HTTPGetAction, LifecycleHandler, PodSpec, Probe,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

const POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
const MOST_RULES: usize = 20;
const MOST_EXIT_CODES: usize = 255;

/// The fields of the pod itself.
pub(super) fn pod(c: &mut Checker<'_>, spec: &PodSpec, at: &Path) {
    if let Some(seconds) = spec.active_deadline_seconds {
        c.between(&at.field("activeDeadlineSeconds"), (seconds, 1, MAX_ID));
    }
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = at.field("readinessGates").index(i).field("conditionType");
        c.grammar(&path, (&gate.condition_type, syntax::qualified_key));
    }
    let Some(os) = &spec.os else { return };
    let path = at.field("os").field("name");
    if os.name == "windows" {
        c.fault(&path, "PodOSNotSupported: this is a pod for Windows, and the host runs Linux");
    } else {
        c.one_of(&path, (Some(&os.name), &["linux"]));
    }
}

/// The fields of a container.
pub(super) fn container(c: &mut Checker<'_>, container: &Container, (spec, at): (&PodSpec, &Path)) {
    restart(c, container, at);
    let is_init = at.pattern().starts_with("spec.initContainers");
    // A policy that is none may have been meant as Always.
    let is_plain = container.restart_policy.as_deref() != Some("Always");
    if is_init && is_plain && !c.touches(&at.field("restartPolicy")) {
        return nothing_beside(c, container, at);
    }
    for (field, probe) in probes(container) {
        if let Some(probe) = probe {
            self::probe(c, probe, (container, at, field));
        }
    }
    let Some(lifecycle) = &container.lifecycle else { return };
    let hooks_at = at.field("lifecycle");
    for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(hook) = hook {
            self::hook(c, hook, Place { spec, container, container_at: at, at: hooks_at.field(field) });
        }
    }
    if let Some(signal) = &lifecycle.stop_signal {
        stop_signal(c, (signal, spec), &hooks_at.field("stopSignal"));
    }
}

fn probes(container: &Container) -> [(&'static str, Option<&Probe>); 3] {
    [
        ("livenessProbe", container.liveness_probe.as_ref()),
        ("readinessProbe", container.readiness_probe.as_ref()),
        ("startupProbe", container.startup_probe.as_ref()),
    ]
}

/// An init container that is no sidecar: it only runs to its end.
fn nothing_beside(c: &mut Checker<'_>, container: &Container, at: &Path) {
    let lifecycle = ("lifecycle", container.lifecycle.is_some());
    let probes = probes(container).map(|(field, probe)| (field, probe.is_some()));
    for (field, _) in probes.into_iter().chain([lifecycle]).filter(|(_, is_set)| *is_set) {
        let message = "not allowed for an init container that runs to its end";
        c.fault_with(&at.field(field), message.to_owned(), |d| {
            d.help("a container that starts with the init containers and goes on beside the others may have it: that is one with `restartPolicy: Always`")
        });
    }
}

fn restart(c: &mut Checker<'_>, container: &Container, at: &Path) {
    let policy_at = at.field("restartPolicy");
    c.one_of(&policy_at, (container.restart_policy.as_deref(), &POLICIES));
    let rules = container.restart_policy_rules.as_deref().unwrap_or(&[]);
    let rules_at = at.field("restartPolicyRules");
    if !rules.is_empty() && container.restart_policy.is_none() {
        let place = (&policy_at, locate(c.document, &rules_at));
        let message = "required, because restartPolicyRules are set: it says what happens when no rule matches";
        c.fault_at(place, message.to_owned(), |d| d.help("add, for example\nrestartPolicy: Never"));
    }
    if rules.len() > MOST_RULES {
        c.fault(&rules_at, format!("{} rules are more than {MOST_RULES}", rules.len()));
    }
    for (i, rule) in rules.iter().enumerate() {
        self::rule(c, rule, &rules_at.index(i));
    }
}

fn rule(c: &mut Checker<'_>, rule: &ContainerRestartRule, at: &Path) {
    c.one_of(&at.field("action"), (Some(&rule.action), &["Restart", "RestartAllContainers"]));
    let Some(codes) = &rule.exit_codes else { return };
    let at = at.field("exitCodes");
    c.one_of(&at.field("operator"), (Some(&codes.operator), &["In", "NotIn"]));
    let values = codes.values.as_ref().map_or(0, Vec::len);
    if values > MOST_EXIT_CODES {
        c.fault(&at.field("values"), format!("{values} exit codes are more than {MOST_EXIT_CODES}"));
    }
}

fn probe(c: &mut Checker<'_>, probe: &Probe, (container, container_at, field): (&Container, &Path, &str)) {
    let at = container_at.field(field);
    let place = (container, container_at);
    one_of_these(
        c,
        &at,
        &[
            ("exec", probe.exec.is_some()),
            ("httpGet", probe.http_get.is_some()),
            ("tcpSocket", probe.tcp_socket.is_some()),
            ("grpc", probe.grpc.is_some()),
        ],
    );
    probe.exec.iter().for_each(|action| exec(c, action, &at.field("exec")));
    probe.http_get.iter().for_each(|action| http_get(c, action, (place, &at.field("httpGet"))));
    if let Some(tcp) = &probe.tcp_socket {
        let at = at.field("tcpSocket");
        port(c, &tcp.port, (place, &at.field("port")));
        host(c, tcp.host.as_deref(), &at.field("host"));
    }
    if let Some(grpc) = &probe.grpc {
        let at = at.field("grpc");
        c.between(&at.field("port"), (grpc.port.into(), 1, 65535));
        c.one_of(&at.field("mode"), (grpc.mode.as_deref(), &["TLS", "Plaintext"]));
        c.grammar(&at.field("service"), (grpc.service.as_deref().unwrap_or(""), syntax::no_nul));
    }
    for (name, number) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        if let Some(number) = number.filter(|n| *n < 0) {
            c.fault(&at.field(name), format!("{number} is negative"));
        }
    }
    if field != "readinessProbe" && probe.success_threshold.is_some_and(|n| n != 1) {
        c.fault(&at.field("successThreshold"), format!("must be 1 for a {field}"));
    }
    // The support table refuses a readiness probe's.
    if let Some(seconds) = probe.termination_grace_period_seconds {
        c.between(&at.field("terminationGracePeriodSeconds"), (seconds, 1, MAX_ID));
    }
}

/// Where a hook stands.
struct Place<'a> {
    spec: &'a PodSpec,
    container: &'a Container,
    container_at: &'a Path,
    at: Path,
}

fn hook(c: &mut Checker<'_>, hook: &LifecycleHandler, place: Place<'_>) {
    let at = &place.at;
    if hook.tcp_socket.is_some() {
        // An empty one; the support table refuses others.
        c.fault(&at.field("tcpSocket"), "not allowed: a tcpSocket hook always fails, in Kubernetes too");
    }
    one_of_these(
        c,
        at,
        &[
            ("exec", hook.exec.is_some()),
            ("httpGet", hook.http_get.is_some()),
            ("tcpSocket", hook.tcp_socket.is_some()),
            ("sleep", hook.sleep.is_some()),
        ],
    );
    hook.exec.iter().for_each(|action| exec(c, action, &at.field("exec")));
    let within = (place.container, place.container_at);
    hook.http_get.iter().for_each(|action| http_get(c, action, (within, &at.field("httpGet"))));
    let Some(sleep) = &hook.sleep else { return };
    let path = at.field("sleep").field("seconds");
    let grace_at = Path::of("spec.terminationGracePeriodSeconds");
    // A grace period that is at fault itself says nothing about how long a hook may take.
    let grace = place.spec.termination_grace_period_seconds.filter(|_| !c.touches(&grace_at));
    if sleep.seconds < 0 {
        c.fault(&path, format!("{} is negative", sleep.seconds));
    } else if let Some(grace) = grace.filter(|grace| sleep.seconds > *grace) {
        let message = format!("{} is more than the pod's terminationGracePeriodSeconds, {grace}", sleep.seconds);
        c.fault(&path, message);
    }
}

/// Exactly one of a few fields is set.
fn one_of_these(c: &mut Checker<'_>, at: &Path, fields: &[(&str, bool)]) {
    let mut set: Vec<(Span, &str)> = fields
        .iter()
        .filter(|(_, is_set)| *is_set)
        .map(|(field, _)| (locate(c.document, &at.field(field)), *field))
        .collect();
    set.sort_by_key(|(span, _)| span.start);
    let names: Vec<&str> = fields.iter().map(|(field, _)| *field).filter(|f| !is_dead(at, f)).collect();
    let Some(((first_at, first), rest)) = set.split_first().map(|(first, rest)| (*first, rest)) else {
        let message = format!("does nothing: one of {} is required", names.join(", "));
        return c.fault_with(at, message, |d| d.help("for example\nhttpGet:\n  path: /healthz\n  port: 8080"));
    };
    for (_, field) in rest {
        let message = format!("cannot be set together with {first}: only one of {} is possible", names.join(", "));
        c.fault_with(&at.field(field), message, |d| d.remark(first_at, "the other one"));
    }
}

/// A field that nobody should be told to set.
fn is_dead(at: &Path, field: &str) -> bool {
    field == "tcpSocket" && !at.last_field().ends_with("Probe")
}

fn exec(c: &mut Checker<'_>, action: &ExecAction, at: &Path) {
    for (i, word) in action.command.iter().flatten().enumerate() {
        c.grammar(&at.field("command").index(i), (word, syntax::no_nul));
    }
}

fn http_get(c: &mut Checker<'_>, action: &HTTPGetAction, (place, at): ((&Container, &Path), &Path)) {
    c.grammar(&at.field("path"), (action.path.as_deref().unwrap_or("/"), syntax::url_path));
    port(c, &action.port, (place, &at.field("port")));
    host(c, action.host.as_deref(), &at.field("host"));
    c.one_of(&at.field("scheme"), (action.scheme.as_deref(), &["HTTP", "HTTPS"]));
    for (i, header) in action.http_headers.iter().flatten().enumerate() {
        let at = at.field("httpHeaders").index(i);
        c.grammar(&at.field("name"), (&header.name, syntax::header_name));
        c.grammar(&at.field("value"), (&header.value, syntax::header_value));
    }
    let path = at.field("protocol");
    c.one_of(&path, (action.protocol.as_deref(), &["HTTP1", "HTTP2"]));
    let is_http2 = action.protocol.as_deref() == Some("HTTP2");
    if is_http2 && action.scheme.as_deref() == Some("HTTPS") {
        c.fault(&path, "HTTP2 means HTTP/2 without TLS, so it cannot be combined with scheme HTTPS");
    } else if is_http2 && action.host.as_deref().is_some_and(|h| !h.is_empty()) {
        c.fault(&path, "HTTP2 is for the pod's own address, so it cannot be combined with host");
    }
}

/// A port's number, or the name that the container gives one.
fn port(c: &mut Checker<'_>, port: &IntOrString, ((container, container_at), path): ((&Container, &Path), &Path)) {
    let name = match port {
        IntOrString::Int(number) => return c.between(path, ((*number).into(), 1, 65535)),
        IntOrString::String(name) => name,
    };
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) {
        let message = format!("{} in quotes is a name, and a name must hold a letter", quote(name));
        return c.fault_with(path, message, |d| d.label(format!("write {name} without quotes")));
    }
    if syntax::port_name(name).is_err() {
        return c.name(path, (name, syntax::port_name));
    }
    let known: Vec<&str> = container.ports.iter().flatten().filter_map(|p| p.name.as_deref()).collect();
    // Where the ports themselves could not be read, their names are not known.
    if known.contains(&name.as_str()) || c.touches(&container_at.field("ports")) {
        return;
    }
    let label = match (hints::nearest(name, known.iter().copied()), known.as_slice()) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, []) => "no port of this container has a name".to_owned(),
        (None, names) => format!("the container's ports are {}", names.join(", ")),
    };
    c.fault_with(path, format!("{} is not the name of a port of this container", quote(name)), |d| {
        d.label(label).help(format!(
            "write the port's number, or give it the name with\nports:\n- name: {name}\n  containerPort: 8080"
        ))
    });
}

fn host(c: &mut Checker<'_>, host: Option<&str>, path: &Path) {
    let Some(host) = host.filter(|h| !h.is_empty()) else { return };
    let Err(rule) = syntax::host(host) else { return };
    let label = if host.contains("://") {
        Some("write the name alone: `scheme` says whether it is HTTP or HTTPS")
    } else if host.starts_with('[') {
        Some("write the address without brackets")
    } else if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        Some("write the name alone: the port belongs into `port`")
    } else {
        None
    };
    c.fault_with(path, format!("{} {rule}", quote(host)), |d| label.into_iter().fold(d, |d, label| d.label(label)));
}

fn stop_signal(c: &mut Checker<'_>, (signal, spec): (&str, &PodSpec), path: &Path) {
    if let Err(rule) = syntax::signal(signal) {
        let upper = signal.to_uppercase();
        let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
        let near = if syntax::signal(&full).is_ok() {
            Some(full)
        } else {
            hints::nearest(&full, syntax::SIGNALS).map(str::to_owned)
        };
        return c.fault_with(path, format!("{} {rule}", quote(signal)), |d| {
            let d = near.into_iter().fold(d, |d, near| d.label(format!("did you mean `{near}`?")));
            d.help("signals are written as SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGRTMIN+3")
        });
    }
    if spec.os.as_ref().is_none_or(|os| os.name.is_empty()) {
        let message = "needs spec.os.name, because signals differ between operating systems".to_owned();
        c.fault_with(path, message, |d| d.help("add to spec\nos:\n  name: linux"));
    }
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
