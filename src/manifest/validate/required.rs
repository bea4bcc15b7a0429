//! Fields that must be set. The API types default them silently, so the tree is asked.

use super::super::diagnostics::{Diagnostic, Report};
use super::super::hints;
use super::super::path::Path;
use super::super::support::{self, Class};
use super::super::tree::{Node, Value};

/// (path without indexes, required field, an example); `HANDLER` is any probe or hook
const REQUIRED: [(&str, &str, &str); 29] = [
    ("", "apiVersion", "apiVersion: v1"),
    ("", "kind", "kind: Pod"),
    ("", "metadata", "metadata:\n  name: my-pod"),
    ("", "spec", "spec:\n  containers:\n  - name: app\n    image: busybox"),
    ("metadata", "name", "name: my-pod"),
    ("spec", "containers", "containers:\n- name: app\n  image: busybox"),
    ("spec.containers[]", "name", "name: app"),
    ("spec.containers[]", "image", "image: busybox"),
    ("spec.containers[].env[]", "name", "name: NAME"),
    ("spec.containers[].ports[]", "containerPort", "containerPort: 80"),
    ("spec.containers[].volumeMounts[]", "name", "name: data"),
    ("spec.containers[].volumeMounts[]", "mountPath", "mountPath: /data"),
    ("spec.containers[].securityContext.seccompProfile", "type", "type: RuntimeDefault"),
    ("spec.securityContext.seccompProfile", "type", "type: RuntimeDefault"),
    ("spec.volumes[]", "name", "name: data"),
    ("spec.volumes[].hostPath", "path", "path: /srv/data"),
    ("spec.hostAliases[]", "ip", "ip: 192.0.2.1"),
    ("spec.os", "name", "name: linux"),
    ("spec.readinessGates[]", "conditionType", "conditionType: example.com/reachable"),
    ("spec.containers[].restartPolicyRules[]", "action", "action: Restart"),
    ("spec.containers[].restartPolicyRules[]", "exitCodes", "exitCodes:\n  operator: In\n  values: [42]"),
    ("spec.containers[].restartPolicyRules[].exitCodes", "operator", "operator: In"),
    ("spec.containers[].resizePolicy[]", "resourceName", "resourceName: memory"),
    ("spec.containers[].resizePolicy[]", "restartPolicy", "restartPolicy: NotRequired"),
    ("HANDLER.exec", "command", "command: [\"cat\", \"/tmp/healthy\"]"),
    ("HANDLER.httpGet", "port", "port: 8080"),
    ("HANDLER.httpGet.httpHeaders[]", "name", "name: X-Probe"),
    ("HANDLER.tcpSocket", "port", "port: 8080"),
    ("HANDLER.grpc", "port", "port: 50051"),
];

/// A path without indexes, with what probes and hooks share under one name.
fn shared(pattern: &str) -> String {
    const HANDLERS: [&str; 5] =
        ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle.postStart", "lifecycle.preStop"];
    let pattern = pattern.replacen("spec.initContainers", "spec.containers", 1);
    let handler = pattern.strip_prefix("spec.containers[].").and_then(|of_container| {
        let rest = HANDLERS.iter().find_map(|handler| of_container.strip_prefix(handler))?;
        rest.starts_with('.').then(|| format!("HANDLER{rest}"))
    });
    handler.unwrap_or(pattern)
}

/// Reports the required fields that a document does not set.
pub(in super::super) fn required(document: &Node, report: &mut Report) {
    walk(document, &Path::root(), report);
}

fn walk(node: &Node, path: &Path, report: &mut Report) {
    let pattern = path.pattern().replacen("spec.initContainers", "spec.containers", 1);
    if !pattern.is_empty() && support::row(&pattern).is_some_and(|row| row.class != Class::Enforce) {
        return;
    }
    if let Value::Map(entries) = &node.value {
        let pattern = shared(&pattern);
        for (_, field, example) in REQUIRED.iter().filter(|(p, _, _)| *p == pattern) {
            check(node, path, (field, example, report));
        }
        for (key, value) in entries {
            walk(value, &path.field(&key.name), report);
        }
    }
    for (i, item) in node.items().iter().enumerate() {
        walk(item, &path.index(i), report);
    }
}

fn check(node: &Node, path: &Path, (field, example, report): (&str, &str, &mut Report)) {
    let below = path.field(field);
    let misspelt = |name: &str| name != field && hints::nearest(name, [field]).is_some();
    if report.touches(&below) && node.get(field).is_none_or(|n| n.value != Value::Null) {
        return;
    }
    match node.entry(field) {
        None if node
            .entries()
            .iter()
            .any(|(k, _)| misspelt(&k.name) && !hints::fields_of(&path.pattern()).contains(&k.name.as_str())) => {}
        None => {
            let at = node.entries().first().map_or(node.at, |(key, _)| key.at);
            let whose = match (path.last_field(), path.ends_in_index()) {
                ("", _) => "the pod begins here".to_owned(),
                (list, true) => format!("this entry of `{list}` has no `{field}`"),
                (name, false) => format!("`{name}` has no `{field}`"),
            };
            report.add(
                Diagnostic::new(at, "required, but missing").path(&below).label(whose).help(format!("add\n{example}")),
            );
        }
        Some((key, value))
            if value.value == Value::Null || value.items().is_empty() && matches!(value.value, Value::Seq(_)) =>
        {
            let diagnostic = Diagnostic::new(key.at, "required, but has no value").path(&below);
            report.add(diagnostic.label("nothing follows it").help(format!(
                "write, for example\n{example}\nor, if its value follows below, indent that by two blanks"
            )));
        }
        Some((key, value)) if value.as_str() == Some("") => {
            report.add(
                Diagnostic::new(key.at, "required, but empty")
                    .path(&below)
                    .help(format!("write, for example\n{example}")),
            );
        }
        Some(_) => {}
    }
}
