//! How a container lives: restart policy, probes and hooks, from the admitted manifest. Pure.

use super::config::*;
use super::env;
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::time::Duration;

/// What a container of the list `initContainers` is.
pub(super) fn init_kind(container: &k8s::Container) -> ContainerKind {
    match container.restart_policy.as_deref() {
        Some("Always") => ContainerKind::Sidecar,
        _ => ContainerKind::Init,
    }
}

/// `restartPolicy` and `restartPolicyRules`.
pub(super) fn restart(container: &k8s::Container) -> ContainerRestart {
    let rule = |rule: &k8s::ContainerRestartRule| {
        let codes = rule.exit_codes.as_ref();
        RestartRule {
            action: match rule.action.as_str() {
                "RestartAllContainers" => RestartAction::RestartAllContainers,
                _ => RestartAction::Restart,
            },
            operator: match codes.map(|c| c.operator.as_str()) {
                Some("NotIn") => ExitCodeOperator::NotIn,
                _ => ExitCodeOperator::In,
            },
            codes: codes.and_then(|c| c.values.clone()).unwrap_or_default(),
        }
    };
    ContainerRestart {
        policy: container.restart_policy.as_deref().map(|policy| match policy {
            "Never" => RestartPolicy::Never,
            "OnFailure" => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        }),
        rules: container.restart_policy_rules.iter().flatten().map(rule).collect(),
    }
}

/// Probes, hooks and the stop signal.
pub(super) fn lifecycle(container: &k8s::Container) -> Result<Lifecycle> {
    let probe = |probe: &Option<k8s::Probe>, field: &str| {
        probe.as_ref().map(|probe| self::probe(probe, container)).transpose().with_context(|| field.to_owned())
    };
    let hooks = container.lifecycle.clone().unwrap_or_default();
    let hook = |hook: &Option<k8s::LifecycleHandler>, field: &str| {
        hook.as_ref().map(|hook| self::hook(hook, container)).transpose().with_context(|| format!("lifecycle.{field}"))
    };
    Ok(Lifecycle {
        startup: probe(&container.startup_probe, "startupProbe")?,
        liveness: probe(&container.liveness_probe, "livenessProbe")?,
        readiness: probe(&container.readiness_probe, "readinessProbe")?,
        post_start: hook(&hooks.post_start, "postStart")?,
        pre_stop: hook(&hooks.pre_stop, "preStop")?,
        stop_signal: hooks.stop_signal,
    })
}

fn probe(probe: &k8s::Probe, container: &k8s::Container) -> Result<Probe> {
    let handler = if let Some(exec) = &probe.exec {
        Handler::Exec { command: probe_command(exec, container)? }
    } else if let Some(http) = &probe.http_get {
        Handler::HttpGet(http_get(http, container)?)
    } else if let Some(tcp) = &probe.tcp_socket {
        Handler::TcpSocket { host: host(&tcp.host), port: port(&tcp.port, container)? }
    } else {
        let grpc = probe.grpc.as_ref().context("an admitted probe does something")?;
        Handler::Grpc {
            port: number(grpc.port)?,
            service: grpc.service.clone().unwrap_or_default(),
            tls: grpc.mode.as_deref() == Some("TLS"),
        }
    };
    let count = |number: Option<i32>, default: u32| {
        number.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default)
    };
    let seconds = |number, default| Duration::from_secs(count(number, default).into());
    let grace = probe.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let timing = ProbeTiming {
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds, 10),
        timeout: seconds(probe.timeout_seconds, 1),
        success_threshold: count(probe.success_threshold, 1),
        failure_threshold: count(probe.failure_threshold, 3),
        grace: grace.map(Duration::from_secs),
    };
    Ok(Probe { handler, timing })
}

/// A probe's command knows the variables as they are written, with no reference in them expanded (pkg/kubelet/container,
/// ExpandContainerCommandOnlyStatic).
fn probe_command(exec: &k8s::ExecAction, container: &k8s::Container) -> Result<Vec<String>> {
    let written = |v: &k8s::EnvVar| KeyValue { key: v.name.clone(), value: v.value.clone().unwrap_or_default() };
    let known: Vec<KeyValue> = container.env.iter().flatten().map(written).collect();
    exec.command.iter().flatten().map(|word| env::expand(word, &known)).collect()
}

fn hook(hook: &k8s::LifecycleHandler, container: &k8s::Container) -> Result<Handler> {
    Ok(if let Some(exec) = &hook.exec {
        Handler::Exec { command: exec.command.clone().unwrap_or_default() }
    } else if let Some(http) = &hook.http_get {
        Handler::HttpGet(http_get(http, container)?)
    } else {
        let sleep = hook.sleep.as_ref().context("an admitted hook does something")?;
        Handler::Sleep { seconds: u64::try_from(sleep.seconds).unwrap_or(0) }
    })
}

fn http_get(action: &k8s::HTTPGetAction, container: &k8s::Container) -> Result<HttpGet> {
    Ok(HttpGet {
        tls: action.scheme.as_deref() == Some("HTTPS"),
        http2: action.protocol.as_deref() == Some("HTTP2"),
        host: host(&action.host),
        port: port(&action.port, container)?,
        path: action.path.clone().unwrap_or_else(|| "/".to_owned()),
        headers: action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
    })
}

fn host(host: &Option<String>) -> Option<String> {
    host.clone().filter(|host| !host.is_empty())
}

/// The number of a port, or of the container's port of that name.
fn port(port: &IntOrString, container: &k8s::Container) -> Result<u16> {
    match port {
        IntOrString::Int(port) => number(*port),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_ref() == Some(name));
            number(named.with_context(|| format!("the container has no port named {name:?}"))?.container_port)
        }
    }
}

fn number(port: i32) -> Result<u16> {
    u16::try_from(port).with_context(|| format!("{port} is no port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> k8s::Container {
        let variable =
            |name: &str, value: &str| k8s::EnvVar { name: name.into(), value: Some(value.into()), value_from: None };
        k8s::Container {
            ports: Some(vec![k8s::ContainerPort {
                name: Some("web".into()),
                container_port: 8080,
                ..Default::default()
            }]),
            env: Some(vec![variable("A", "a"), variable("B", "$(A)")]),
            ..Default::default()
        }
    }

    #[test]
    fn s6_a_probes_command_knows_variables_as_they_are_written() {
        let exec = k8s::ExecAction { command: Some(["$(A)", "$(B)", "$(C)", "$$(A)"].map(String::from).into()) };
        assert_eq!(probe_command(&exec, &container()).unwrap(), ["a", "$(A)", "$(C)", "$(A)"]);
        let as_hook = k8s::LifecycleHandler { exec: Some(exec), ..Default::default() };
        let command = ["$(A)", "$(B)", "$(C)", "$$(A)"].map(String::from).into();
        assert_eq!(hook(&as_hook, &container()).unwrap(), Handler::Exec { command });
    }

    #[test]
    fn s6_port_names_are_those_of_the_container() {
        let rows = [
            ("a number", IntOrString::Int(1), Some(1)),
            ("a name", IntOrString::String("web".into()), Some(8080)),
            ("another name", IntOrString::String("db".into()), None),
            ("no port", IntOrString::Int(65536), None),
        ];
        for (name, value, expected) in rows {
            assert_eq!(port(&value, &container()).ok(), expected, "{name}");
        }
    }

    #[test]
    fn s6_zero_is_the_default() {
        let zero = k8s::Probe {
            period_seconds: Some(0),
            grpc: Some(k8s::GRPCAction { port: 1, mode: Some("TLS".into()), service: None }),
            ..Default::default()
        };
        let Probe { handler, timing } = probe(&zero, &container()).unwrap();
        assert_eq!(handler, Handler::Grpc { port: 1, service: String::new(), tls: true });
        let seconds = [timing.initial_delay, timing.period, timing.timeout].map(|time| time.as_secs());
        assert_eq!(seconds, [0, 10, 1]);
        assert_eq!((timing.success_threshold, timing.failure_threshold, timing.grace), (1, 3, None));
    }
}
