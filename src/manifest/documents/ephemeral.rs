//! An ephemeral container for a pod that runs: what the command line says, and over it a file with a part of a container, as
//! `kubectl debug --custom` takes it (KEP-4292; pkg/cmd/debug/debug.go of kubectl).
//!
//! The file is read and checked as a manifest is, and its paths begin in the container: `volumeMounts[0].name`.

use super::super::diagnostics::{Diagnostic, Diagnostics, Report};
use super::super::kind::Kind;
use super::super::path::Path;
use super::super::tree::{Node, Span, Value};
use super::super::{AdmittedPod, Source, defaults, validate};
use super::CronJobs;
use super::read::{Reader, Subject, Text};
use k8s_openapi::api::core::v1::{Capabilities, Container, EnvVar, SecurityContext};

/// Fields that only the command line gives, as for kubectl, and how.
const BY_FLAG: [(&str, &str); 4] = [
    ("name", "`--container` gives it"),
    ("image", "`--image` gives it"),
    ("command", "the command line gives it, after `--`"),
    ("targetContainerName", "`--target` gives it"),
];

/// Reads and checks the file, and lays it over what the flags say.
pub(in super::super) fn join(
    mut pod: AdmittedPod,
    flags: Container,
    custom: Option<&Source>,
) -> Result<AdmittedPod, Diagnostics> {
    // Without a file it is still to be checked whether the pod allows what the flags ask for.
    let none = Source { name: "the command line".into(), text: String::new() };
    let source = custom.unwrap_or(&none);
    let mut text = Text::default();
    let mut notes = vec![];
    let part = match custom {
        Some(_) => part(&source.text, (&mut text, &mut notes)),
        None => Some((Node { value: Value::Map(vec![]), at: Span::default() }, Container::default())),
    };
    let Some((node, part)) = part else { return Err(faults(source, text)) };
    let mut merged = merged(flags, part.clone());
    // What is checked is what the file says, so that its places are those of the faults; of the flags only what these two say
    // together can be wrong.
    let mut checked = Container { security_context: merged.security_context.clone(), ..part };
    defaults::container(&mut checked);
    let (written, report) = (source.text.as_str(), &mut text.report);
    validate::check_ephemeral(&checked, &pod.pod, (&node, written, report));
    if report.list.is_empty() {
        validate::references_of_ephemeral(&checked, (&pod.objects, pod.namespace()), (&node, written, report));
    }
    if !report.list.is_empty() {
        return Err(faults(source, text));
    }
    if merged.image_pull_policy.is_some() {
        pod.written_policies.insert(merged.name.clone());
    }
    defaults::container(&mut merged);
    pod.ephemeral = Some(merged);
    pod.notes = notes;
    Ok(pod)
}

fn faults(source: &Source, text: Text) -> Diagnostics {
    let list = text.report.list.into_iter().map(|d| (0, d)).collect();
    Diagnostics::new(std::slice::from_ref(source), vec![text.secrecy], list)
}

/// The part of a container that a text holds.
fn part(text: &str, (out, notes): (&mut Text, &mut Vec<String>)) -> Option<(Node, Container)> {
    const EXAMPLE: &str = "fields of a container stand at the left margin, like\nworkingDir: /data";
    let documents = out.parse(text)?;
    let report = &mut out.report;
    let mut documents = documents.into_iter();
    let Some(mut node) = documents.next() else {
        let fault = Diagnostic::new(Span::default(), "there is no part of a container in this file");
        report.add(fault.help(EXAMPLE));
        return None;
    };
    if let Some((key, _)) = node.entries().iter().find(|(key, _)| ["apiVersion", "kind"].contains(&&*key.name)) {
        let fault = Diagnostic::new(key.at, "a whole document, where a part of a container is expected");
        report.add(fault.help(EXAMPLE));
        return None;
    }
    if let Some(second) = documents.next() {
        report.add(Diagnostic::new(second.at, "a second document, where a part of one container is expected"));
    }
    if !matches!(node.value, Value::Map(_)) {
        let message = format!("a part of a container must be a mapping of fields, found {}", node.kind());
        report.add(Diagnostic::new(node.at, message).help(EXAMPLE));
        return None;
    }
    let reader = Reader { text, cron_jobs: CronJobs::Refused };
    if reader.is_badly_pasted(&node, report) {
        return None;
    }
    reader.repair(&mut node, Kind::EphemeralContainer, report);
    refuse_by_flag(&mut node, report);
    let mut subject = Subject { reader: &reader, node: &node, kind: Kind::EphemeralContainer, report, notes };
    let container = subject.typed(vec![]);
    Some((node, container))
}

/// Refuses what only the command line gives, and leaves it out.
fn refuse_by_flag(node: &mut Node, report: &mut Report) {
    let Value::Map(entries) = &mut node.value else { return };
    entries.retain(|(key, _)| {
        let Some((field, how)) = BY_FLAG.iter().find(|(field, _)| *field == key.name) else { return true };
        let fault = Diagnostic::new(key.at, "not allowed in this file").path(&Path::of(field));
        report.add(fault.label(*how));
        false
    });
}

/// A container with a part over it, in kubectl's way, by a strategic merge patch: variables are one by their names, a security
/// context is merged field by field, of everything else the part's wins. What is empty or false says nothing.
fn merged(container: Container, part: Container) -> Container {
    let text = |part: Option<String>| part.filter(|text| !text.is_empty());
    let either = |a: Option<bool>, b: Option<bool>| [a, b].contains(&Some(true)).then_some(true);
    Container {
        args: list(part.args).or(container.args),
        env: variables(container.env, part.env),
        env_from: list(part.env_from),
        image_pull_policy: text(part.image_pull_policy).or(container.image_pull_policy),
        security_context: context(container.security_context, part.security_context),
        stdin: either(container.stdin, part.stdin),
        stdin_once: either(container.stdin_once, part.stdin_once),
        termination_message_path: text(part.termination_message_path),
        termination_message_policy: text(part.termination_message_policy),
        tty: either(container.tty, part.tty),
        volume_mounts: list(part.volume_mounts),
        working_dir: text(part.working_dir),
        ..container
    }
}

fn list<T>(list: Option<Vec<T>>) -> Option<Vec<T>> {
    list.filter(|list| !list.is_empty())
}

/// Those of the part after the others; one of the same name in the other's place.
fn variables(container: Option<Vec<EnvVar>>, part: Option<Vec<EnvVar>>) -> Option<Vec<EnvVar>> {
    let mut all = container.unwrap_or_default();
    let others = all.len();
    for variable in part.into_iter().flatten() {
        match all[..others].iter_mut().find(|other| other.name == variable.name) {
            Some(other) => *other = variable,
            None => all.push(variable),
        }
    }
    list(Some(all))
}

/// A security context with another over it.
fn context(below: Option<SecurityContext>, over: Option<SecurityContext>) -> Option<SecurityContext> {
    let (below, over) = match (below, over) {
        (Some(below), Some(over)) => (below, over),
        (below, over) => return over.or(below),
    };
    Some(SecurityContext {
        allow_privilege_escalation: over.allow_privilege_escalation.or(below.allow_privilege_escalation),
        app_armor_profile: over.app_armor_profile.or(below.app_armor_profile),
        capabilities: capabilities(below.capabilities, over.capabilities),
        privileged: over.privileged.or(below.privileged),
        proc_mount: over.proc_mount.or(below.proc_mount),
        read_only_root_filesystem: over.read_only_root_filesystem.or(below.read_only_root_filesystem),
        run_as_group: over.run_as_group.or(below.run_as_group),
        run_as_non_root: over.run_as_non_root.or(below.run_as_non_root),
        run_as_user: over.run_as_user.or(below.run_as_user),
        se_linux_options: over.se_linux_options.or(below.se_linux_options),
        seccomp_profile: over.seccomp_profile.or(below.seccomp_profile),
        windows_options: over.windows_options.or(below.windows_options),
    })
}

fn capabilities(below: Option<Capabilities>, over: Option<Capabilities>) -> Option<Capabilities> {
    let (below, over) = (below.unwrap_or_default(), over.unwrap_or_default());
    let merged = Capabilities { add: list(over.add).or(below.add), drop: list(over.drop).or(below.drop) };
    (merged != Capabilities::default()).then_some(merged)
}

#[cfg(test)]
mod tests {
    use super::super::super::admit;
    use super::*;
    use serde_json::{Value as Json, json};

    fn container(value: Json) -> Container {
        serde_json::from_value(value).unwrap()
    }

    const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  securityContext: {runAsUser: 0}
  nodeName: elsewhere
  containers: [{name: app, image: busybox}]
  volumes: [{name: data}]
";

    /// What joins the pod.
    fn joined(flags: Json, custom: Option<&str>) -> Result<AdmittedPod, Diagnostics> {
        let pod = admit(&[Source { name: "pod.yaml".into(), text: POD.into() }]).unwrap().remove(0);
        let mut flags = container(flags);
        (flags.name, flags.image) = ("debugger".into(), Some("busybox:1".into()));
        let custom = custom.map(|text| Source { name: "custom.yaml".into(), text: text.into() });
        join(pod, flags, custom.as_ref())
    }

    #[test]
    fn a_file_is_laid_over_the_flags_as_kubectl_does() {
        let one = |name: &str, value: &str| json!({ "name": name, "value": value });
        let rows = [
            ("nothing", json!({}), json!({}), json!({})),
            (
                "variables by their names, in the flags' places, those of a file after them",
                json!({ "env": [one("A", "1"), one("B", "2")] }),
                json!({ "env": [one("C", "3"), one("A", "4"), one("C", "5")] }),
                json!({ "env": [one("A", "4"), one("B", "2"), one("C", "3"), one("C", "5")] }),
            ),
            (
                "security contexts field by field",
                json!({ "securityContext": { "privileged": true, "runAsNonRoot": true } }),
                json!({ "securityContext": { "privileged": false, "runAsUser": 5 } }),
                json!({ "securityContext": { "privileged": false, "runAsNonRoot": true, "runAsUser": 5 } }),
            ),
            (
                "lists of capabilities as a whole",
                json!({ "securityContext": { "capabilities": { "add": ["SYS_PTRACE"], "drop": ["ALL"] } } }),
                json!({ "securityContext": { "capabilities": { "add": ["CHOWN"], "drop": [] } } }),
                json!({ "securityContext": { "capabilities": { "add": ["CHOWN"], "drop": ["ALL"] } } }),
            ),
            (
                "a context of one side only",
                json!({ "securityContext": { "privileged": true } }),
                json!({ "workingDir": "/w" }),
                json!({ "securityContext": { "privileged": true }, "workingDir": "/w" }),
            ),
            (
                "what is empty or false says nothing",
                json!({ "stdin": true, "imagePullPolicy": "Never", "command": ["sh"] }),
                json!({ "stdin": false, "tty": false, "imagePullPolicy": "", "args": [], "env": [], "workingDir": "" }),
                json!({ "stdin": true, "imagePullPolicy": "Never", "command": ["sh"] }),
            ),
            (
                "of everything else the file's",
                json!({ "imagePullPolicy": "Never", "tty": true }),
                json!({ "imagePullPolicy": "Always", "stdin": true, "stdinOnce": true, "args": ["a"],
                    "terminationMessagePath": "/m", "terminationMessagePolicy": "FallbackToLogsOnError",
                    "volumeMounts": [{ "name": "v", "mountPath": "/v" }],
                    "envFrom": [{ "prefix": "P", "configMapRef": { "name": "c" } }] }),
                json!({ "imagePullPolicy": "Always", "stdin": true, "stdinOnce": true, "tty": true, "args": ["a"],
                    "terminationMessagePath": "/m", "terminationMessagePolicy": "FallbackToLogsOnError",
                    "volumeMounts": [{ "name": "v", "mountPath": "/v" }],
                    "envFrom": [{ "prefix": "P", "configMapRef": { "name": "c" } }] }),
            ),
        ];
        for (name, flags, file, expected) in rows {
            assert_eq!(merged(container(flags), container(file)), container(expected), "{name}");
        }
    }

    #[test]
    fn an_ephemeral_container_has_the_defaults_of_containers() {
        let custom = "volumeMounts: [{name: data, mountPath: data}]\nports: []\nresources: {}\n";
        let pod = joined(json!({}), Some(custom)).unwrap();
        let container = pod.ephemeral().unwrap();
        let text = |field: &Option<String>| field.clone().unwrap();
        assert_eq!(text(&container.termination_message_path), "/dev/termination-log");
        assert_eq!((text(&container.termination_message_policy), container.resources.clone()), ("File".into(), None));
        assert_eq!(container.volume_mounts.as_ref().unwrap()[0].mount_path, "/data");
        let policies = ["", "imagePullPolicy: IfNotPresent", "{imagePullPolicy: Always}"].map(|custom| {
            let pod = joined(json!({}), Some(custom).filter(|custom| !custom.is_empty())).unwrap();
            (text(&pod.ephemeral().unwrap().image_pull_policy), pod.pull_policy_written("debugger"))
        });
        assert_eq!(
            policies.map(|(policy, is_written)| format!("{policy} {is_written}")),
            ["IfNotPresent false", "IfNotPresent true", "Always true"]
        );
    }

    #[test]
    fn what_the_flags_and_the_pod_say_together_is_checked() {
        let non_root = json!({ "securityContext": { "runAsNonRoot": true, "allowPrivilegeEscalation": false } });
        let error = joined(non_root.clone(), None).unwrap_err().to_string();
        assert!(error.contains("spec.securityContext.runAsUser: 0 is root"), "{error}");
        assert!(joined(non_root.clone(), Some("securityContext: {runAsUser: 5}")).is_ok());
        let error =
            joined(non_root, Some("securityContext: {runAsUser: 5, privileged: true}")).unwrap_err().to_string();
        assert!(error.contains("cannot be false for a privileged container"), "{error}");
        assert!(error.contains("custom.yaml:1:1"), "{error}");
    }

    #[test]
    fn what_was_said_of_the_pod_is_not_said_again() {
        let pod = joined(json!({}), Some("{workingDir: /w}")).unwrap();
        assert!(pod.notes().is_empty(), "{:?}", pod.notes());
    }
}
