//! Fields that must be set. The API types default them silently, so the tree is asked.

use super::super::diagnostics::{Diagnostic, Report};
use super::super::hints;
use super::super::kind::{Kind, noun};
use super::super::path::Path;
use super::super::support::{Class, Schema};
use super::super::tree::{Node, Value};

/// A path without indexes, a field that is required there, an example.
type Required = (&'static str, &'static str, &'static str);

/// What a Pod needs to be a document.
const DOCUMENT: &[Required] = &[
    ("", "apiVersion", "apiVersion: v1"),
    ("", "kind", "kind: Pod"),
    ("", "metadata", "metadata:\n  name: my-pod"),
    ("metadata", "name", "name: my-pod"),
];

/// What other documents need.
const NAMED: &[Required] = &[
    ("", "apiVersion", "apiVersion: v1"),
    ("", "kind", "kind: ConfigMap"),
    ("", "metadata", "metadata:\n  name: my-name"),
    ("metadata", "name", "name: my-name"),
];

const CLAIM: &[Required] = &[
    ("", "spec", "spec:\n  accessModes: [ReadWriteOnce]\n  resources:\n    requests:\n      storage: 1Gi"),
    ("spec", "accessModes", "accessModes: [ReadWriteOnce]"),
    ("spec", "resources", "resources:\n  requests:\n    storage: 1Gi"),
    ("spec.resources", "requests", "requests:\n  storage: 1Gi"),
];

const SERVICE: &[Required] = &[
    ("", "spec", "spec:\n  selector:\n    app: my-app\n  ports:\n  - port: 80"),
    ("spec.ports[]", "port", "port: 80"),
];

const NETWORK_POLICY: &[Required] = &[
    ("spec.podSelector.matchExpressions[]", "key", "key: app"),
    ("spec.podSelector.matchExpressions[]", "operator", "operator: In"),
    ("spec.ingress[].from[].ipBlock", "cidr", "cidr: 192.168.1.0/24"),
    ("spec.ingress[].from[].namespaceSelector.matchExpressions[]", "key", "key: app"),
    ("spec.ingress[].from[].namespaceSelector.matchExpressions[]", "operator", "operator: In"),
    ("spec.ingress[].from[].podSelector.matchExpressions[]", "key", "key: app"),
    ("spec.ingress[].from[].podSelector.matchExpressions[]", "operator", "operator: In"),
    ("spec.egress[].to[].ipBlock", "cidr", "cidr: 192.168.1.0/24"),
    ("spec.egress[].to[].namespaceSelector.matchExpressions[]", "key", "key: app"),
    ("spec.egress[].to[].namespaceSelector.matchExpressions[]", "operator", "operator: In"),
    ("spec.egress[].to[].podSelector.matchExpressions[]", "key", "key: app"),
    ("spec.egress[].to[].podSelector.matchExpressions[]", "operator", "operator: In"),
];

const TEMPLATE: &str = "template:\n  metadata:\n    labels:\n      app: my-app\n  spec:\n    containers:\n    - name: app\n      image: busybox";

const WITH_SELECTOR: &[Required] = &[
    (
        "",
        "spec",
        "spec:\n  selector:\n    matchLabels:\n      app: my-app\n  template:\n    metadata:\n      labels:\n        app: my-app",
    ),
    ("spec", "selector", "selector:\n  matchLabels:\n    app: my-app"),
    ("spec", "template", TEMPLATE),
    ("spec.volumeClaimTemplates[]", "metadata", "metadata:\n  name: data"),
    ("spec.volumeClaimTemplates[].metadata", "name", "name: data"),
    ("spec.selector.matchExpressions[]", "key", "key: app"),
    ("spec.selector.matchExpressions[]", "operator", "operator: In"),
];

const JOB: &[Required] = &[
    ("", "spec", "spec:\n  template:\n    spec:\n      restartPolicy: Never"),
    (
        "spec",
        "template",
        "template:\n  spec:\n    restartPolicy: Never\n    containers:\n    - name: app\n      image: busybox",
    ),
];

const CRON_JOB: &[Required] = &[
    ("", "spec", "spec:\n  schedule: \"0 3 * * *\"\n  jobTemplate:\n    spec:\n      template: ..."),
    ("spec", "schedule", "schedule: \"0 3 * * *\""),
    ("spec", "jobTemplate", "jobTemplate:\n  spec:\n    template: ..."),
    ("spec.jobTemplate", "spec", "spec:\n  template: ..."),
    ("spec.jobTemplate.spec", "template", "template:\n  spec:\n    restartPolicy: Never"),
];

fn of_kind(kind: Kind) -> [&'static [Required]; 2] {
    match kind {
        Kind::Pod => [DOCUMENT, &[]],
        Kind::PersistentVolumeClaim => [NAMED, CLAIM],
        Kind::Service => [NAMED, SERVICE],
        Kind::NetworkPolicy => [NAMED, NETWORK_POLICY],
        Kind::Deployment | Kind::ReplicaSet | Kind::StatefulSet | Kind::DaemonSet => [NAMED, WITH_SELECTOR],
        Kind::Job => [NAMED, JOB],
        Kind::CronJob => [NAMED, CRON_JOB],
        Kind::ConfigMap | Kind::Secret | Kind::Namespace | Kind::ServiceAccount => [NAMED, &[]],
        // It has neither a name nor metadata.
        Kind::List => [&[], &[]],
        // It is a part of one.
        Kind::EphemeralContainer => [&[], &[]],
    }
}

/// What a pod needs, in a document of its own or within another; `HANDLER` is any probe or hook.
const OF_POD: &[Required] = &[
    ("", "spec", "spec:\n  containers:\n  - name: app\n    image: busybox"),
    ("spec", "containers", "containers:\n- name: app\n  image: busybox"),
    ("spec.containers[]", "name", "name: app"),
    ("spec.containers[]", "image", "image: busybox"),
    ("spec.containers[].env[]", "name", "name: NAME"),
    ("spec.containers[].env[].valueFrom.configMapKeyRef", "name", "name: my-config"),
    ("spec.containers[].env[].valueFrom.configMapKeyRef", "key", "key: my-key"),
    ("spec.containers[].env[].valueFrom.secretKeyRef", "name", "name: my-secret"),
    ("spec.containers[].env[].valueFrom.secretKeyRef", "key", "key: my-key"),
    ("spec.containers[].env[].valueFrom.fieldRef", "fieldPath", "fieldPath: metadata.name"),
    ("spec.containers[].env[].valueFrom.resourceFieldRef", "resource", "resource: limits.memory"),
    ("spec.containers[].env[].valueFrom.fileKeyRef", "volumeName", "volumeName: my-volume"),
    ("spec.containers[].env[].valueFrom.fileKeyRef", "path", "path: my.env"),
    ("spec.containers[].env[].valueFrom.fileKeyRef", "key", "key: NAME"),
    ("spec.containers[].envFrom[].configMapRef", "name", "name: my-config"),
    ("spec.containers[].envFrom[].secretRef", "name", "name: my-secret"),
    ("spec.containers[].ports[]", "containerPort", "containerPort: 80"),
    ("spec.containers[].volumeMounts[]", "name", "name: data"),
    ("spec.containers[].volumeMounts[]", "mountPath", "mountPath: /data"),
    ("spec.containers[].securityContext.seccompProfile", "type", "type: RuntimeDefault"),
    ("spec.securityContext.seccompProfile", "type", "type: RuntimeDefault"),
    ("spec.volumes[]", "name", "name: data"),
    ("spec.volumes[].hostPath", "path", "path: /srv/data"),
    ("spec.volumes[].configMap", "name", "name: my-config"),
    ("spec.volumes[].secret", "secretName", "secretName: my-secret"),
    ("spec.volumes[].configMap.items[]", "key", "key: my-key"),
    ("spec.volumes[].configMap.items[]", "path", "path: my-file"),
    ("spec.volumes[].secret.items[]", "key", "key: my-key"),
    ("spec.volumes[].secret.items[]", "path", "path: my-file"),
    ("spec.volumes[].downwardAPI.items[]", "path", "path: my-file"),
    ("spec.volumes[].downwardAPI.items[].fieldRef", "fieldPath", "fieldPath: metadata.labels"),
    ("spec.volumes[].downwardAPI.items[].resourceFieldRef", "resource", "resource: limits.memory"),
    ("spec.volumes[].persistentVolumeClaim", "claimName", "claimName: my-claim"),
    ("spec.volumes[].image", "reference", "reference: busybox"),
    (
        "spec.volumes[].ephemeral",
        "volumeClaimTemplate",
        "volumeClaimTemplate:\n  spec:\n    accessModes: [ReadWriteOnce]",
    ),
    (
        "spec.volumes[].ephemeral.volumeClaimTemplate",
        "spec",
        "spec:\n  accessModes: [ReadWriteOnce]\n  resources:\n    requests:\n      storage: 1Gi",
    ),
    ("spec.volumes[].ephemeral.volumeClaimTemplate.spec", "accessModes", "accessModes: [ReadWriteOnce]"),
    ("spec.volumes[].ephemeral.volumeClaimTemplate.spec", "resources", "resources:\n  requests:\n    storage: 1Gi"),
    ("spec.volumes[].ephemeral.volumeClaimTemplate.spec.resources", "requests", "requests:\n  storage: 1Gi"),
    ("spec.imagePullSecrets[]", "name", "name: my-secret"),
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

/// A path without indexes of a pod, with what probes and hooks share under one name.
fn shared(pattern: &str) -> String {
    const HANDLERS: [&str; 5] =
        ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle.postStart", "lifecycle.preStop"];
    let handler = pattern.strip_prefix("spec.containers[].").and_then(|of_container| {
        let rest = HANDLERS.iter().find_map(|handler| of_container.strip_prefix(handler))?;
        rest.starts_with('.').then(|| format!("HANDLER{rest}"))
    });
    handler.unwrap_or_else(|| pattern.to_owned())
}

/// Reports the required fields that a document does not set.
pub(in super::super) fn required(document: &Node, schema: &'static Schema, report: &mut Report) {
    walk(document, &Path::root(), (schema, report));
}

fn walk(node: &Node, path: &Path, (schema, report): (&'static Schema, &mut Report)) {
    let pattern = path.pattern();
    if !pattern.is_empty() && schema.row(&pattern).is_some_and(|row| row.class != Class::Enforce) {
        return;
    }
    if let Value::Map(entries) = &node.value {
        let of_document = of_kind(schema.kind()).into_iter().flatten().filter(|(p, _, _)| *p == pattern);
        let in_pod = schema.in_pod(&schema.canonical(&pattern)).as_deref().map(shared);
        let of_pod = OF_POD.iter().filter(|(p, _, _)| in_pod.as_deref() == Some(*p));
        // A name that is to be made up is no name.
        let is_made_up = |field: &str| {
            let prefix = node.get("generateName").and_then(Node::as_str);
            pattern == "metadata" && field == "name" && prefix.is_some_and(|p| !p.is_empty())
        };
        for (_, field, example) in of_document.chain(of_pod).filter(|(_, field, _)| !is_made_up(field)) {
            check(node, path, (field, example, (schema, report)));
        }
        for (key, value) in entries {
            walk(value, &path.field(&key.name), (schema, report));
        }
    }
    for (i, item) in node.items().iter().enumerate() {
        walk(item, &path.index(i), (schema, report));
    }
}

type Wanted<'a> = (&'static str, &'static str, (&'static Schema, &'a mut Report));

fn check(node: &Node, path: &Path, (field, example, (schema, report)): Wanted<'_>) {
    let below = path.field(field);
    let misspelt = |name: &str| name != field && hints::nearest(name, [field]).is_some();
    if report.touches(&below) && node.get(field).is_none_or(|n| n.value != Value::Null) {
        return;
    }
    match node.entry(field) {
        None if node
            .entries()
            .iter()
            .any(|(k, _)| misspelt(&k.name) && schema.fields_of(&path.pattern()).all(|f| f != k.name)) => {}
        None => {
            let at = node.entries().first().map_or(node.at, |(key, _)| key.at);
            let whose = match (path.last_field(), path.ends_in_index()) {
                ("", _) => format!("the {} begins here", noun(schema.kind())),
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
